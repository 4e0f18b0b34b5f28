//! What a pod may use: whether it fits here, what it was given, whether more of that fits, what has to restart. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::record::PodRecord;
use super::spec::{self, Role};

/// What containers were given, by name.
pub type Allocation = BTreeMap<String, ResourceRequirements>;

/// Why a pod does not run, or has not got what it asks for: reason and message.
pub type Refusal = (&'static str, String);

/// What every container asks for.
#[must_use]
pub fn wanted(spec: &PodSpec) -> Allocation {
    let all = spec::containers(spec);
    all.map(|(_, container)| (container.name.clone(), container.resources.clone().unwrap_or_default()))
        .collect()
}

/// Whether every container was given what it asks for.
#[must_use]
pub fn has_all(spec: &PodSpec, given: &Allocation) -> bool {
    let nothing = ResourceRequirements::default();
    spec::containers(spec).all(|(_, container)| {
        given.get(&container.name) == Some(container.resources.as_ref().unwrap_or(&nothing))
    })
}

/// The pod as it was admitted: with what its containers were given in place of what they ask for.
#[must_use]
pub fn allocated(pod: &Pod, given: &Allocation) -> Option<Pod> {
    let spec = pod.spec.as_ref()?;
    if given.is_empty() || has_all(spec, given) {
        return None;
    }
    let mut pod = pod.clone();
    let spec = pod.spec.as_mut()?;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(given) = given.get(&container.name) {
            container.resources = Some(given.clone());
        }
    }
    Some(pod)
}

/// What a pod takes of a resource, in thousandths: containers and sidecars together, or an init container with the
/// sidecars before it if that is more; its overhead on top.
#[must_use]
pub fn request(spec: &PodSpec, given: &Allocation, resource: &str) -> i64 {
    let of = |container: &Container| {
        let resources = given.get(&container.name).or(container.resources.as_ref());
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get(resource)).and_then(spec::milli).unwrap_or(0)
    };
    let (mut sidecars, mut most, mut mains) = (0_i64, 0_i64, 0_i64);
    for (role, container) in spec::containers(spec) {
        match role {
            Role::Sidecar => sidecars = sidecars.saturating_add(of(container)),
            Role::Init => most = most.max(sidecars.saturating_add(of(container))),
            Role::Main | Role::Ephemeral => mains = mains.saturating_add(of(container)),
        }
    }
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource)).and_then(spec::milli);
    most.max(mains.saturating_add(sidecars)).saturating_add(overhead.unwrap_or(0))
}

/// Whether a new pod can run beside `others`, whatever whoever bound it to this node thought.
///
/// # Errors
/// `OutOfcpu` and the like, or `NodePorts`.
pub fn admit(
    spec: &PodSpec,
    allocatable: &BTreeMap<String, Quantity>,
    others: &[(&PodSpec, &Allocation)],
) -> Result<(), Refusal> {
    for (resource, reason) in [("cpu", "OutOfcpu"), ("memory", "OutOfmemory")] {
        let Some(capacity) = allocatable.get(resource).and_then(spec::milli) else { continue };
        let new = request(spec, &Allocation::new(), resource);
        let used =
            others.iter().map(|(spec, given)| request(spec, given, resource)).fold(0, i64::saturating_add);
        if new > 0 && used.saturating_add(new) > capacity {
            let text = format!("Pod was rejected: {}", lacking(resource, new, used, capacity));
            return Err((reason, text));
        }
    }
    let taken: Vec<_> = others.iter().flat_map(|(spec, _)| host_ports(spec)).collect();
    let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
    let clash = host_ports(spec).any(|(protocol, ip, port)| {
        let same = |other: &(&str, &str, i32)| {
            other.0 == protocol && other.2 == port && (any(ip) || any(other.1) || other.1 == ip)
        };
        taken.iter().any(same)
    });
    if clash {
        let text = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                    pod ports";
        return Err(("NodePorts", text.to_owned()));
    }
    Ok(())
}

/// Protocol, address and number of every port of the node that a pod takes.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = (&str, &str, i32)> {
    let ports = spec::containers(spec).flat_map(|(_, container)| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some((port.protocol.as_deref().unwrap_or("TCP"), port.host_ip.as_deref().unwrap_or_default(), number))
    })
}

/// Kubernetes counts CPU in thousandths and memory in bytes.
fn shown(resource: &str, milli: i64) -> i64 {
    if resource == "cpu" { milli } else { milli / 1000 }
}

fn lacking(resource: &str, new: i64, used: i64, capacity: i64) -> String {
    let [new, used, capacity] = [new, used, capacity].map(|milli| shown(resource, milli));
    format!(
        "Node didn't have enough resource: {resource}, requested: {new}, used: {used}, capacity: {capacity}"
    )
}

/// Whether a pod may get what it asks for, where `others` have the rest: thousandths of a resource.
///
/// # Errors
/// `Infeasible` when the node could never give it, `Deferred` when others have it now.
pub fn fits(
    spec: &PodSpec,
    given: &Allocation,
    allocatable: &BTreeMap<String, Quantity>,
    others: impl Fn(&str) -> i64,
) -> Result<(), Refusal> {
    let asked = wanted(spec);
    let grows: Vec<(&str, i64, i64)> = ["cpu", "memory"]
        .into_iter()
        .filter_map(|resource| {
            let new = request(spec, &asked, resource);
            let capacity = allocatable.get(resource).and_then(spec::milli)?;
            (new > request(spec, given, resource)).then_some((resource, new, capacity))
        })
        .collect();
    for (resource, new, capacity) in &grows {
        if new > capacity {
            let (new, capacity) = (shown(resource, *new), shown(resource, *capacity));
            let text = format!(
                "Node didn't have enough capacity: {resource}, requested: {new}, capacity: {capacity}"
            );
            return Err(("Infeasible", text));
        }
    }
    for (resource, new, capacity) in grows {
        let used = others(resource);
        if used.saturating_add(new) > capacity {
            return Err(("Deferred", lacking(resource, new, used, capacity)));
        }
    }
    Ok(())
}

/// Whether the container has to start anew to get from one to the other.
#[must_use]
pub fn restarts(container: &Container, from: &ResourceRequirements, to: &ResourceRequirements) -> bool {
    let value = |resources: &ResourceRequirements, resource: &str| {
        let of = |map: &Option<BTreeMap<String, Quantity>>| {
            map.as_ref().and_then(|map| map.get(resource)).and_then(spec::milli)
        };
        (of(&resources.requests), of(&resources.limits))
    };
    container.resize_policy.iter().flatten().any(|policy| {
        policy.restart_policy == "RestartContainer"
            && value(from, &policy.resource_name) != value(to, &policy.resource_name)
    })
}

/// The names of containers that run with something else than they were given, or restart to get it.
pub fn unfinished(record: &PodRecord) -> impl Iterator<Item = &str> {
    let differs = |name: &str, applied: &Option<ResourceRequirements>| {
        applied.is_some() && record.allocated.get(name).is_some_and(|given| Some(given) != applied.as_ref())
    };
    let all = record.containers.iter();
    all.filter(move |(name, seen)| seen.resizing || (seen.is_running() && differs(name, &seen.applied)))
        .map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(cpu: &str, memory: &str) -> PodSpec {
        let spec = json!({
            "initContainers": [
                {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "init", "resources": {"requests": {"cpu": "150m"}}},
            ],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}}}],
        });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_request_counts_what_runs_at_once() {
        assert_eq!(request(&spec("100m", "1"), &Allocation::new(), "cpu"), 250, "sidecar and init container");
        assert_eq!(request(&spec("1", "1"), &Allocation::new(), "cpu"), 1100);
        assert_eq!(request(&spec("2", "1"), &wanted(&spec("1", "1")), "cpu"), 1100, "what was given counts");
    }

    #[test]
    fn what_grows_has_to_fit() {
        let allocatable: BTreeMap<String, Quantity> =
            serde_json::from_value(json!({"cpu": "2", "memory": "1000"})).unwrap();
        let given = wanted(&spec("1", "500"));
        let try_it = |cpu: &str, memory: &str, used: i64| {
            fits(&spec(cpu, memory), &given, &allocatable, |_| used).map_err(|(reason, _)| reason)
        };
        assert_eq!(try_it("1500m", "500", 0), Ok(()));
        assert_eq!(try_it("1500m", "500", 500), Err("Deferred"));
        assert_eq!(try_it("3", "500", 0), Err("Infeasible"));
        assert_eq!(try_it("1", "1001", 0), Err("Infeasible"));
        assert_eq!(try_it("500m", "400", i64::MAX), Ok(()), "less always fits");
        let refused = fits(&spec("1", "2000"), &given, &allocatable, |_| 0).unwrap_err();
        assert_eq!(refused.1, "Node didn't have enough capacity: memory, requested: 2000, capacity: 1000");
    }

    #[test]
    fn a_pod_that_does_not_fit_is_rejected() {
        let allocatable: BTreeMap<String, Quantity> = serde_json::from_value(json!({"cpu": "2"})).unwrap();
        let with = |cpu: &str, port: Value| -> PodSpec {
            serde_json::from_value(json!({"containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu}}, "ports": [port]}]}))
            .unwrap()
        };
        let port = |ip: &str| json!({"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": "TCP"});
        let none = Allocation::new();
        let reject = |new: &PodSpec, old: &PodSpec| {
            admit(new, &allocatable, &[(old, &none)]).map_err(|(reason, _)| reason)
        };
        let old = with("1", port("127.0.0.1"));
        assert_eq!(reject(&with("1", port("127.0.0.2")), &old), Ok(()));
        assert_eq!(reject(&with("1", port("")), &old), Err("NodePorts"));
        assert_eq!(reject(&with("1", port("127.0.0.1")), &old), Err("NodePorts"));
        let other = json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"});
        assert_eq!(reject(&with("1", other), &old), Ok(()));
        assert_eq!(reject(&with("1001m", port("127.0.0.2")), &old), Err("OutOfcpu"));
    }

    #[test]
    fn a_container_restarts_for_what_its_policy_names() {
        let container: Container = serde_json::from_value(json!({"name": "a", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}))
        .unwrap();
        let of = |value: Value| -> ResourceRequirements { serde_json::from_value(value).unwrap() };
        let from = of(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
        assert!(!restarts(&container, &from, &of(json!({"limits": {"cpu": "2", "memory": "1024Mi"}}))));
        assert!(restarts(&container, &from, &of(json!({"limits": {"cpu": "1", "memory": "2Gi"}}))));
    }

    #[test]
    fn the_admitted_pod_has_what_was_given() {
        let pod = Pod { spec: Some(spec("2", "1")), ..Pod::default() };
        let given = wanted(&spec("1", "1"));
        let admitted = allocated(&pod, &given).unwrap();
        assert_eq!(wanted(admitted.spec.as_ref().unwrap()), given);
        assert!(allocated(&admitted, &given).is_none());
    }
}
