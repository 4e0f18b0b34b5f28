//! What nodes write, as JSON in the shapes of the real agent.

use std::fmt::Write;
use std::net::Ipv4Addr;

use sampan_daemon::clock;
use serde_json::{Value, json};

use crate::{
    Options,
    fleet::Node,
    pod::{Container, Role, Shape},
};

/// How long others believe a lease, in seconds.
const LEASE_SECONDS: u32 = 40;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The Node object.
pub(crate) fn node(options: &Options, node: &Node, index: usize) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": "hollow",
    });
    if options.zones > 0 {
        labels["topology.kubernetes.io/zone"] = format!("zone-{}", index % options.zones).into();
        labels["topology.kubernetes.io/region"] = "hollow".into();
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDR": node.network(), "podCIDRs": [node.network()], "providerID": format!("hollow://{}", node.name)},
        "status": status(options, node),
    })
}

/// The status of a node that is well.
pub(crate) fn status(options: &Options, node: &Node) -> Value {
    let now = clock::rfc3339(clock::now());
    let resources = json!({"cpu": options.cpu, "memory": options.memory, "pods": options.pods.to_string(),
        "ephemeral-storage": "1Ti", "hugepages-1Gi": "0", "hugepages-2Mi": "0"});
    let condition = |kind: &str, on: bool, reason: &str, message: &str| {
        json!({"type": kind, "status": if on { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!({
        "addresses": [{"type": "InternalIP", "address": node.address}, {"type": "Hostname", "address": node.name}],
        "allocatable": resources, "capacity": resources,
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "osImage": "hollow", "kernelVersion": "0.0.0-hollow",
            "containerRuntimeVersion": format!("hollow://{VERSION}"), "kubeletVersion": format!("v0.0.0-hollow+{VERSION}"),
            "kubeProxyVersion": "", "machineID": node.name, "systemUUID": node.name, "bootID": node.name,
        },
    })
}

/// What a heartbeat of the status says, as a strategic merge patch.
pub(crate) fn heartbeat(options: &Options, node: &Node) -> Vec<u8> {
    let mut whole = status(options, node);
    // Transitions are known to who made them.
    for condition in whole["conditions"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut)
    {
        condition.remove("lastTransitionTime");
    }
    json!({"status": whole}).to_string().into_bytes()
}

/// A merge patch that renews a lease.
pub(crate) fn renewal(node: &str) -> Vec<u8> {
    let now = clock::rfc3339_micro(clock::now());
    format!(r#"{{"spec":{{"renewTime":"{now}","holderIdentity":"{node}","leaseDurationSeconds":{LEASE_SECONDS}}}}}"#).into_bytes()
}

/// The lease of a node.
pub(crate) fn lease(node: &str, uid: &str) -> Vec<u8> {
    let now = clock::rfc3339_micro(clock::now());
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": "kube-node-lease",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]},
        "spec": {"renewTime": now, "holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS},
    });
    lease.to_string().into_bytes()
}

/// How a pod is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// Runs, ready or not.
    Running { ready: bool },
    /// Its containers end with code 1 and are started again and again.
    Crashing,
    /// Its containers ended, with this code.
    Ended { code: u8 },
}

/// What a status is about.
pub(crate) struct About<'a> {
    pub(crate) uid: &'a str,
    pub(crate) generation: i64,
    pub(crate) host: Ipv4Addr,
    pub(crate) address: Ipv4Addr,
    pub(crate) shape: &'a Shape,
    pub(crate) look: Look,
    /// When its containers were started.
    pub(crate) started: &'a str,
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A strategic merge patch of a pod's status.
pub(crate) fn pod_status(about: &About<'_>) -> Vec<u8> {
    let now = clock::rfc3339(clock::now());
    let (phase, ready, why) = match about.look {
        Look::Running { ready: true } => ("Running", true, None),
        Look::Running { ready: false } | Look::Crashing => ("Running", false, Some("ContainersNotReady")),
        Look::Ended { code: 0 } => ("Succeeded", false, Some("PodCompleted")),
        Look::Ended { .. } => ("Failed", false, Some("PodFailed")),
    };
    let (uid, host, address, started) = (about.uid, about.host, about.address, about.started);
    let mut out = String::with_capacity(1400);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        r#"{{"metadata":{{"uid":"{uid}"}},"status":{{"phase":"{phase}","hostIP":"{host}","hostIPs":[{{"ip":"{host}"}}],"podIP":"{address}","podIPs":[{{"ip":"{address}"}}],"startTime":"{started}","observedGeneration":{},"conditions":["#,
        about.generation
    );
    let completed = (phase == "Succeeded").then_some("PodCompleted");
    let conditions = [
        ("PodReadyToStartContainers", !matches!(about.look, Look::Ended { .. }), None),
        ("Initialized", true, completed),
        ("Ready", ready, why),
        ("ContainersReady", ready, why),
    ];
    for (index, (kind, on, reason)) in conditions.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let status = if on { "True" } else { "False" };
        let reason = reason.map_or("null".to_owned(), quoted);
        let _ = write!(
            out,
            r#"{comma}{{"type":"{kind}","status":"{status}","reason":{reason},"lastTransitionTime":"{now}","observedGeneration":{}}}"#,
            about.generation
        );
    }
    out.push(']');
    containers(&mut out, "initContainerStatuses", about, &now, |role| role != Role::Main);
    containers(&mut out, "containerStatuses", about, &now, |role| role == Role::Main);
    out.push_str("}}");
    out.into_bytes()
}

fn containers(out: &mut String, field: &str, about: &About<'_>, now: &str, which: impl Fn(Role) -> bool) {
    let chosen = || about.shape.containers.iter().filter(|c| which(c.role));
    if chosen().next().is_none() {
        return;
    }
    let _ = write!(out, r#","{field}":["#);
    for (index, container) in chosen().enumerate() {
        if index > 0 {
            out.push(',');
        }
        one(out, about, container, now);
    }
    out.push(']');
}

fn one(out: &mut String, about: &About<'_>, container: &Container, now: &str) {
    let id = format!("hollow://{}/{}", about.uid, container.name);
    let started = about.started;
    let ended = |code: u8| {
        let reason = if code == 0 { "Completed" } else { "Error" };
        format!(
            r#"{{"terminated":{{"exitCode":{code},"reason":"{reason}","startedAt":"{started}","finishedAt":"{now}","containerID":"{id}"}}}}"#
        )
    };
    let running = format!(r#"{{"running":{{"startedAt":"{started}"}}}}"#);
    let none = "{}".to_owned();
    let (state, last, ready, restarts) = match (container.role, about.look) {
        (Role::Init, _) => (ended(0), none, true, 0),
        (_, Look::Running { ready }) => (running, none, ready || container.role == Role::Sidecar, 0),
        (Role::Sidecar, Look::Crashing) => (running, none, true, 0),
        (Role::Main, Look::Crashing) => {
            let why = r#"{"waiting":{"reason":"CrashLoopBackOff","message":"back-off 5m0s restarting failed container"}}"#;
            (why.to_owned(), ended(1), false, 5)
        }
        (_, Look::Ended { code }) => (ended(code), none, false, 0),
    };
    let is_running = state.starts_with(r#"{"running"#);
    let (name, image) = (quoted(&container.name), quoted(&container.image));
    let _ = write!(
        out,
        r#"{{"name":{name},"state":{state},"lastState":{last},"ready":{ready},"restartCount":{restarts},"image":{image},"imageID":"","containerID":"{id}","started":{is_running}"#
    );
    if let Some(resources) = &container.resources {
        let _ = write!(out, r#","resources":{resources}"#);
    }
    out.push('}');
}

/// What an event is about.
pub(crate) struct Told<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) node: &'a str,
    /// Makes the event's name unique.
    pub(crate) serial: u64,
}

/// An Event about a pod.
pub(crate) fn event(told: &Told<'_>, reason: &str, message: &str) -> Vec<u8> {
    let now = clock::rfc3339(clock::now());
    let Told { namespace, name, uid, node, serial } = told;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{name}.{serial:x}"), "namespace": namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid},
        "reason": reason, "message": message, "type": "Normal", "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "kubelet", "host": node}, "reportingComponent": "kubelet", "reportingInstance": node,
    });
    event.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_json_whatever_the_names() {
        let container = |name: &str, role| Container {
            name: name.into(),
            image: "a \"strange\" image".into(),
            resources: Some(r#"{"requests":{"cpu":"1"}}"#.into()),
            role,
        };
        let shape = Shape {
            containers: vec![
                container("i", Role::Init),
                container("s", Role::Sidecar),
                container("m", Role::Main),
            ],
            host_network: false,
            ends: false,
            never_again: false,
        };
        let read = |look| {
            let (host, address) = (Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(10, 128, 0, 2));
            let started = "2026-01-01T00:00:00Z";
            let about = About { uid: "u", generation: 3, host, address, shape: &shape, look, started };
            serde_json::from_slice::<Value>(&pod_status(&about)).unwrap()["status"].clone()
        };
        let running = read(Look::Running { ready: true });
        assert_eq!(
            (&running["phase"], &running["podIPs"][0]["ip"]),
            (&json!("Running"), &json!("10.128.0.2"))
        );
        assert_eq!(running["conditions"][2]["status"], "True");
        assert_eq!(running["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
        assert_eq!(running["initContainerStatuses"][1]["started"], true);
        assert_eq!(running["containerStatuses"][0]["image"], "a \"strange\" image");
        let crashing = read(Look::Crashing);
        assert_eq!(crashing["containerStatuses"][0]["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(
            (&crashing["phase"], &crashing["conditions"][2]["status"]),
            (&json!("Running"), &json!("False"))
        );
        assert_eq!(read(Look::Ended { code: 1 })["phase"], "Failed");
        assert_eq!(read(Look::Ended { code: 0 })["conditions"][1]["reason"], "PodCompleted");
    }
}
