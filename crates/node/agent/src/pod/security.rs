//! Security contexts and resources of a Pod as the runtime's configuration.

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, ResourceRequirements};
use sampan_container::{Capabilities, ContainerConfig, Resources, Seccomp, User};

use super::env::ConfigError;
use super::spec;

/// Smallest and largest cgroup v1 CPU shares.
const SHARES: (i64, i64) = (2, 262_144);
/// Thousandths of a CPU, and bytes, that a node lends to batch pods: what others asked for and do not use.
const BATCH_CPU: &str = "sampan.io/batch-cpu";
const BATCH_MEMORY: &str = "sampan.io/batch-memory";
/// CPU accounting period, microseconds.
const PERIOD: i64 = 100_000;

/// cgroup limits for what a container asks.
#[must_use]
pub fn resources(wanted: Option<&ResourceRequirements>) -> Resources {
    let find = |limits: bool, name: &str| {
        let wanted = wanted?;
        let map = if limits { wanted.limits.as_ref() } else { wanted.requests.as_ref() };
        map?.get(name).cloned()
    };
    let batch = |name: &str| find(true, name).as_ref().and_then(spec::units).filter(|amount| *amount > 0);
    let cpu_limit = find(true, "cpu").as_ref().and_then(spec::milli).filter(|milli| *milli > 0);
    let cpu_request = find(false, "cpu").as_ref().and_then(spec::milli).or(cpu_limit).unwrap_or(0);
    // A batch pod is held to what it was lent, and has the least weight all the same: it gets what others leave.
    let cpu_limit = cpu_limit.or_else(|| batch(BATCH_CPU));
    let shares = (cpu_request * 1024 / 1000).clamp(SHARES.0, SHARES.1);
    Resources {
        cpu_shares: u64::try_from(shares).ok(),
        cpu_quota: cpu_limit.map(|milli| (milli * PERIOD / 1000).max(1000)),
        cpu_period: cpu_limit.and(u64::try_from(PERIOD).ok()),
        memory_limit: find(true, "memory")
            .as_ref()
            .and_then(spec::units)
            .filter(|bytes| *bytes > 0)
            .or_else(|| batch(BATCH_MEMORY)),
        ..Resources::default()
    }
}

/// cgroup limits for the pod as a whole: what it says itself, or else the sum of its containers, a limit only where every
/// container has one.
#[must_use]
pub fn pod_resources(spec: &PodSpec) -> Resources {
    let mut total = Resources { cpu_shares: Some(0), ..Resources::default() };
    let (mut quota, mut memory) = (Some(0), Some(0));
    for (_, container) in spec::containers(spec) {
        let one = resources(container.resources.as_ref());
        total.cpu_shares = Some(total.cpu_shares.unwrap_or(0) + one.cpu_shares.unwrap_or(0));
        quota = quota.zip(one.cpu_quota).map(|(sum, one)| sum + one);
        memory = memory.zip(one.memory_limit).map(|(sum, one)| sum + one);
    }
    total.cpu_shares = total.cpu_shares.map(|shares| shares.clamp(2, 262_144));
    total.cpu_quota = quota.filter(|quota| *quota > 0);
    total.cpu_period = total.cpu_quota.and(u64::try_from(PERIOD).ok());
    total.memory_limit = memory.filter(|bytes| *bytes > 0);
    let own = resources(spec.resources.as_ref());
    if spec::names(spec.resources.as_ref(), "cpu") {
        total.cpu_shares = own.cpu_shares;
    }
    if own.cpu_quota.is_some() {
        (total.cpu_quota, total.cpu_period) = (own.cpu_quota, own.cpu_period);
    }
    total.memory_limit = own.memory_limit.or(total.memory_limit);
    total
}

/// `oom_score_adj` by quality of service, as kubelet computes it.
#[must_use]
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory: u64) -> i32 {
    match spec::qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref())
                .and_then(|requests| requests.get("memory"))
                .and_then(spec::units)
                .unwrap_or(0);
            let total = i64::try_from(node_memory.max(1)).unwrap_or(i64::MAX);
            let score = 1000 - (1000 * i128::from(request) / i128::from(total));
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// Fill in who a container runs as and what it may do.
pub fn apply(
    spec: &PodSpec,
    container: &Container,
    image_user: &str,
    pod_display: &str,
    config: &mut ContainerConfig,
) -> Result<(), ConfigError> {
    let default = PodSecurityContext::default();
    let pod = spec.security_context.as_ref().unwrap_or(&default);
    let own = container.security_context.clone().unwrap_or_default();
    let uid = own.run_as_user.or(pod.run_as_user);
    let gid = own.run_as_group.or(pod.run_as_group);
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        check_non_root(uid, image_user, &container.name, pod_display)?;
    }
    let mut groups: Vec<u32> = Vec::new();
    for group in pod.fs_group.iter().chain(pod.supplemental_groups.iter().flatten()) {
        groups.extend(u32::try_from(*group).ok());
    }
    config.user = User {
        name: image_user.to_owned(),
        uid: uid.and_then(|uid| u32::try_from(uid).ok()),
        gid: gid.and_then(|gid| u32::try_from(gid).ok()),
        groups,
        strict_groups: pod.supplemental_groups_policy.as_deref() == Some("Strict"),
    };
    config.privileged = own.privileged == Some(true);
    config.read_only_rootfs = own.read_only_root_filesystem == Some(true);
    config.no_new_privs = own.allow_privilege_escalation == Some(false) && !config.privileged;
    if let Some(capabilities) = own.capabilities {
        config.capabilities = Capabilities {
            add: capabilities.add.unwrap_or_default(),
            drop: capabilities.drop.unwrap_or_default(),
        };
    }
    let profile = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    config.seccomp = match profile.map(|profile| profile.type_.as_str()) {
        Some("Unconfined") => Seccomp::Unconfined,
        Some("Localhost") => {
            let name = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
            return Err(ConfigError(format!(
                "seccomp profile {name:?} of type Localhost is not supported (hint: use RuntimeDefault or Unconfined)"
            )));
        }
        _ => Seccomp::Default,
    };
    if own.proc_mount.as_deref() == Some("Unmasked") {
        config.masked_paths = Some(Vec::new());
        config.readonly_paths = Some(Vec::new());
    }
    Ok(())
}

fn check_non_root(uid: Option<i64>, image_user: &str, container: &str, pod: &str) -> Result<(), ConfigError> {
    let user = image_user.split(':').next().unwrap_or_default();
    let place = format!("(pod: \"{pod}\", container: {container})");
    match (uid, user.parse::<u32>()) {
        (Some(0), _) => Err(ConfigError(format!("container's runAsUser breaks non-root policy {place}"))),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => {
            Err(ConfigError(format!("container has runAsNonRoot and image will run as root {place}")))
        }
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if user.is_empty() => {
            Err(ConfigError(format!("container has runAsNonRoot and image will run as root {place}")))
        }
        (None, Err(_)) => Err(ConfigError(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(spec: serde_json::Value, image_user: &str) -> Result<ContainerConfig, ConfigError> {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut config = ContainerConfig::default();
        apply(&spec, &spec.containers[0], image_user, "p_n(u)", &mut config)?;
        Ok(config)
    }

    #[test]
    fn non_root() {
        let spec = |user: Option<i64>| json!({"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true, "runAsUser": user}}]});
        assert!(run(spec(Some(7)), "").is_ok());
        assert!(run(spec(None), "1000:1000").is_ok());
        let message = |user, image| run(spec(user), image).unwrap_err().0;
        assert_eq!(
            message(None, ""),
            "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
        );
        assert!(message(None, "www").contains("non-numeric user (www), cannot verify"));
        assert!(message(Some(0), "").starts_with("container's runAsUser breaks non-root policy"));
    }

    #[test]
    fn limits_become_cgroup_numbers() {
        let wanted = serde_json::from_value(
            json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}),
        )
        .unwrap();
        let got = resources(Some(&wanted));
        assert_eq!(
            (got.cpu_shares, got.cpu_quota, got.memory_limit),
            (Some(256), Some(50_000), Some(64 << 20))
        );
        assert_eq!(resources(None).cpu_shares, Some(2));
        let lent = json!({"sampan.io/batch-cpu": "500", "sampan.io/batch-memory": "67108864"});
        let lent = serde_json::from_value(json!({"requests": lent, "limits": lent})).unwrap();
        let got = resources(Some(&lent));
        assert_eq!(
            (got.cpu_shares, got.cpu_quota, got.memory_limit),
            (Some(2), Some(50_000), Some(64 << 20))
        );
    }

    #[test]
    fn what_a_pod_says_as_a_whole_holds_for_all_of_it() {
        let pod = |level: serde_json::Value| -> (PodSpec, Resources) {
            let containers = json!([
                {"name": "a", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m"}}},
                {"name": "b"},
            ]);
            let spec = json!({"containers": containers, "resources": level});
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let got = pod_resources(&spec);
            (spec, got)
        };
        let numbers = |got: &Resources| (got.cpu_shares, got.cpu_quota, got.memory_limit);
        let (spec, got) = pod(json!(null));
        assert_eq!((numbers(&got), spec::qos_class(&spec)), ((Some(258), None, None), "Burstable"));
        let whole = json!({"cpu": "2", "memory": "1Gi"});
        let (spec, got) = pod(json!({"requests": whole, "limits": whole}));
        assert_eq!(numbers(&got), (Some(2048), Some(200_000), Some(1 << 30)));
        assert_eq!(spec::qos_class(&spec), "Guaranteed");
        let (spec, got) = pod(json!({"limits": {"memory": "1Gi"}}));
        assert_eq!((numbers(&got), spec::qos_class(&spec)), ((Some(258), None, Some(1 << 30)), "Burstable"));
    }
}
