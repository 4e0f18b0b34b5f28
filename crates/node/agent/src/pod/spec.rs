//! Small readings of a Pod that many parts need.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sampan_api::quantity;

/// Which kind of container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next.
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    /// An ordinary container.
    Main,
    /// One that somebody added to look into the pod; it never starts again.
    Ephemeral,
}

/// The role of an init container.
#[must_use]
pub fn init_role(container: &Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// All containers in start order with their roles.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| (init_role(container), container));
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// A container by name.
#[must_use]
pub fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<(Role, &'a Container)> {
    containers(spec).find(|(_, container)| container.name == name)
}

/// An ephemeral container as what it is beside that.
#[must_use]
pub fn ephemeral(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        name: container.name,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        command: container.command,
        args: container.args,
        working_dir: container.working_dir,
        env: container.env,
        env_from: container.env_from,
        volume_mounts: container.volume_mounts,
        volume_devices: container.volume_devices,
        security_context: container.security_context,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        ..Container::default()
    }
}

/// The ephemeral containers, in the order in which they were added.
pub fn ephemerals(spec: &PodSpec) -> impl Iterator<Item = Container> {
    spec.ephemeral_containers.iter().flatten().map(ephemeral)
}

/// A container by name, ephemeral ones too.
#[must_use]
pub fn any_container<'a>(spec: &'a PodSpec, name: &str) -> Option<(Role, Cow<'a, Container>)> {
    let declared = container(spec, name).map(|(role, found)| (role, Cow::Borrowed(found)));
    declared.or_else(|| {
        let found = ephemerals(spec).find(|container| container.name == name)?;
        Some((Role::Ephemeral, Cow::Owned(found)))
    })
}

/// `Always`, `OnFailure` or `Never`.
#[must_use]
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// The pod's uid, or nothing.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's namespace.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The pod's name.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)` as messages write it.
#[must_use]
pub fn display(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Whether a pod's phase is one that ends it.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The quality of service class, as the API server and kubelet compute it.
#[must_use]
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    // What the pod says as a whole stands for what its containers say.
    let level = spec.resources.as_ref().map(|level| vec![Some(level)]);
    let each = level.unwrap_or_else(|| containers(spec).map(|(_, c)| c.resources.as_ref()).collect());
    for resources in each {
        let empty = BTreeMap::new();
        let requests = resources.and_then(|r| r.requests.as_ref()).unwrap_or(&empty);
        let limits = resources.and_then(|r| r.limits.as_ref()).unwrap_or(&empty);
        for key in ["cpu", "memory"] {
            let value = |map: &BTreeMap<String, Quantity>| map.get(key).and_then(milli).filter(|v| *v > 0);
            let (request, limit) = (value(requests), value(limits));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Whether a request or limit of that resource is there.
#[must_use]
pub fn names(resources: Option<&ResourceRequirements>, name: &str) -> bool {
    let lists = resources.into_iter().flat_map(|r| [r.requests.as_ref(), r.limits.as_ref()]);
    lists.flatten().any(|list| list.contains_key(name))
}

/// A quantity in thousandths, rounded up. `None` when it cannot be read (the API server lets none through).
#[must_use]
pub fn milli(quantity: &Quantity) -> Option<i64> {
    Some(quantity::Quantity::parse(quantity.0.trim()).ok()?.to_milli())
}

/// A quantity in whole units, rounded up.
#[must_use]
pub fn units(quantity: &Quantity) -> Option<i64> {
    Some(quantity::Quantity::parse(quantity.0.trim()).ok()?.to_units())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            ("1Ki", 1_024_000),
            ("2e3", 2_000_000),
            ("0.5Gi", 512 << 20),
        ];
        for (text, want) in table {
            let want = if text == "0.5Gi" { want * 1000 } else { want };
            assert_eq!(milli(&Quantity(text.into())), Some(want), "{text}");
        }
        assert_eq!(milli(&Quantity("x".into())), None);
        assert_eq!(units(&Quantity("100n".into())), Some(1));
    }

    #[test]
    fn qos() {
        let spec = |resources: serde_json::Value| -> PodSpec {
            serde_json::from_value(serde_json::json!({"containers": [{"name": "a", "resources": resources}]}))
                .unwrap()
        };
        assert_eq!(qos_class(&spec(serde_json::json!({}))), "BestEffort");
        assert_eq!(qos_class(&spec(serde_json::json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}});
        assert_eq!(qos_class(&spec(both)), "Guaranteed");
    }
}
