//! The cells of each kind but the Pod.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{
    age, ago, condition, containers, count, labels, list, name, number, or, selector, text, three_of,
};
use super::{access, cluster, duration, pod};

pub(super) fn of(group: &str, kind: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    match (group, kind) {
        ("", "Pod") => pod::row(object, now),
        ("", "PodTemplate") => {
            let [names, images] = containers(object, "/template/spec/containers");
            vec![name(object), names, images, labels(object, "/template/metadata/labels")]
        }
        ("apps", "ReplicaSet") => replica_set(object, selector(object, "/spec/selector"), now),
        ("", "ReplicationController") => replica_set(object, labels(object, "/spec/selector"), now),
        ("apps", "Deployment") => deployment(object, now),
        ("apps", "DaemonSet") => daemon_set(object, now),
        ("apps", "StatefulSet") => stateful_set(object, now),
        ("apps", "ControllerRevision") => controller_revision(object, now),
        ("batch", "Job") => job(object, now),
        ("batch", "CronJob") => cron_job(object, now),
        ("", "Service") => service(object, now),
        ("", "Endpoints") => vec![name(object), endpoints(object).into(), age(object, now)],
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object, now),
        ("", "Node") => node(object, now),
        ("", "Namespace") => vec![name(object), text(object, "/status/phase").into(), age(object, now)],
        ("", "ConfigMap") => {
            let keys = count(object, "/data") + count(object, "/binaryData");
            vec![name(object), keys.into(), age(object, now)]
        }
        ("", "Secret") => {
            vec![name(object), text(object, "/type").into(), count(object, "/data").into(), age(object, now)]
        }
        ("", "PersistentVolume") => volume(object, now),
        ("", "PersistentVolumeClaim") => claim(object, now),
        ("" | "events.k8s.io", "Event") => event(object, now),
        ("coordination.k8s.io", "Lease") => {
            vec![name(object), text(object, "/spec/holderIdentity").into(), age(object, now)]
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => access::binding(object, now),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(object),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => access::flow_schema(object, now),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => access::priority_level(object, now),
        _ => cluster::of(group, kind, object, now).unwrap_or_else(|| vec![name(object), age(object, now)]),
    }
}

fn ready_of(object: &Value) -> Value {
    format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas")).into()
}

fn replica_set(object: &Value, selector: Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "/spec/template/spec/containers");
    vec![
        name(object),
        number(object, "/spec/replicas").into(),
        number(object, "/status/replicas").into(),
        number(object, "/status/readyReplicas").into(),
        age(object, now),
        names,
        images,
        selector,
    ]
}

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "/spec/template/spec/containers");
    let selector = object.pointer("/spec/selector").map(crate::strategy::selector_text);
    vec![
        name(object),
        ready_of(object),
        number(object, "/status/updatedReplicas").into(),
        number(object, "/status/availableReplicas").into(),
        age(object, now),
        names,
        images,
        selector.unwrap_or_default().into(),
    ]
}

fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "/spec/template/spec/containers");
    vec![
        name(object),
        number(object, "/status/desiredNumberScheduled").into(),
        number(object, "/status/currentNumberScheduled").into(),
        number(object, "/status/numberReady").into(),
        number(object, "/status/updatedNumberScheduled").into(),
        number(object, "/status/numberAvailable").into(),
        labels(object, "/spec/template/spec/nodeSelector"),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "/spec/template/spec/containers");
    vec![name(object), ready_of(object), age(object, now), names, images]
}

fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner = list(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    let owner = owner.map_or("<none>".to_owned(), |owner| {
        let group = text(owner, "/apiVersion").split_once('/').map(|(group, _)| group).unwrap_or_default();
        let dot = if group.is_empty() { "" } else { "." };
        let kind = text(owner, "/kind").to_lowercase();
        format!("{kind}{dot}{}/{}", group.to_lowercase(), text(owner, "/name"))
    });
    vec![name(object), owner.into(), number(object, "/revision").into(), age(object, now)]
}

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(object, "/status/succeeded");
    let completions = match object.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match number(object, "/spec/parallelism") {
            parallel if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let moment = |pointer: &str| text(object, pointer).parse::<Timestamp>().ok();
    let took = moment("/status/startTime")
        .and_then(|start| duration::between(start, moment("/status/completionTime").unwrap_or(now)))
        .unwrap_or_default();
    let [names, images] = containers(object, "/spec/template/spec/containers");
    vec![
        name(object),
        job_status(object).into(),
        completions.into(),
        took.into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/selector"),
    ]
}

fn job_status(object: &Value) -> &'static str {
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    if condition(object, "Complete") {
        "Complete"
    } else if condition(object, "Failed") {
        "Failed"
    } else if going {
        "Terminating"
    } else if condition(object, "Suspended") {
        "Suspended"
    } else if condition(object, "FailureTarget") {
        "FailureTarget"
    } else if condition(object, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let suspend = match object.pointer("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match text(object, "/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        _ => ago(object, "/status/lastScheduleTime", now),
    };
    let [names, images] = containers(object, "/spec/jobTemplate/spec/template/spec/containers");
    vec![
        name(object),
        text(object, "/spec/schedule").into(),
        or(text(object, "/spec/timeZone"), "<none>").into(),
        suspend.into(),
        list(object, "/status/active").len().into(),
        last.into(),
        age(object, now),
        names,
        images,
        selector(object, "/spec/jobTemplate/spec/selector"),
    ]
}

fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, "/spec/ports")
        .iter()
        .map(|port| {
            let (number_, protocol) = (number(port, "/port"), text(port, "/protocol"));
            match number(port, "/nodePort") {
                node if node > 0 => format!("{number_}:{node}/{protocol}"),
                _ => format!("{number_}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(object),
        text(object, "/spec/type").into(),
        or(text(object, "/spec/clusterIPs/0"), "<none>").into(),
        external_ip(object).into(),
        or(&ports.join(","), "<none>").into(),
        age(object, now),
        labels(object, "/spec/selector"),
    ]
}

fn external_ip(service: &Value) -> String {
    let external: Vec<&str> = list(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match text(service, "/spec/type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = list(service, "/status/loadBalancer/ingress")
                .iter()
                .map(|ingress| or(text(ingress, "/ip"), text(ingress, "/hostname")))
                .filter(|address| !address.is_empty())
                .collect();
            all.sort_unstable();
            all.dedup();
            all.extend(external);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let ports = list(subset, "/ports");
        let addresses = || list(subset, "/addresses").iter().map(|a| text(a, "/ip"));
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|ip| {
                let port = number(port, "/port");
                if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
            }));
        }
    }
    three_of(&all, "<none>")
}

fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, "/ports")
        .iter()
        .map(|port| match (port.get("port").and_then(Value::as_i64), port.get("name")) {
            (Some(number), _) => number.to_string(),
            (None, Some(Value::String(name))) => name.clone(),
            _ => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = list(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    vec![
        name(object),
        text(object, "/addressType").into(),
        three_of(&ports, "<unset>").into(),
        three_of(&addresses, "<unset>").into(),
        age(object, now),
    ]
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list(object, "/status/conditions").iter().rev().find(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = list(object, "/status/addresses").iter().find(|a| text(a, "/type") == kind);
        Value::from(found.map_or("<none>", |a| text(a, "/address")))
    };
    let info = |key: &str| text(object, &format!("/status/nodeInfo/{key}"));
    let mut kernel = or(info("kernelVersion"), "<unknown>").to_owned();
    if !info("architecture").is_empty() {
        kernel.push_str(&format!(" ({})", info("architecture")));
    }
    vec![
        name(object),
        status.into(),
        or(&roles(object).join(","), "<none>").into(),
        age(object, now),
        info("kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        or(info("osImage"), "<unknown>").into(),
        kernel.into(),
        or(info("containerRuntimeVersion"), "<unknown>").into(),
    ]
}

fn roles(node: &Value) -> Vec<&str> {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// Events come in the words of the core group or of events.k8s.io.
fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let either = |a: &'static str, b: &'static str| {
        if text(object, a).is_empty() { text(object, b) } else { text(object, a) }
    };
    let since = |time: &str| duration::since(time, now);
    let unknown = || "<unknown>".to_owned();
    let first = since(either("/firstTimestamp", "/deprecatedFirstTimestamp"))
        .or_else(|| since(text(object, "/eventTime")))
        .unwrap_or_else(unknown);
    let mut last =
        since(either("/lastTimestamp", "/deprecatedLastTimestamp")).unwrap_or_else(|| first.clone());
    let mut times = number(object, "/count").max(number(object, "/deprecatedCount")).max(1);
    if object.get("series").is_some_and(|s| !s.is_null()) {
        last = since(text(object, "/series/lastObservedTime")).unwrap_or_else(unknown);
        times = number(object, "/series/count");
    }
    let about = |key: &str| {
        let regarding = object.get("involvedObject").or(object.get("regarding"));
        regarding.and_then(|r| r.get(key)).and_then(Value::as_str).unwrap_or_default()
    };
    let mut target = about("kind").to_lowercase();
    if !about("name").is_empty() {
        target = format!("{target}/{}", about("name"));
    }
    let component =
        ["/source/component", "/deprecatedSource/component", "/reportingComponent", "/reportingController"]
            .iter()
            .map(|pointer| text(object, pointer))
            .find(|text| !text.is_empty())
            .unwrap_or_default();
    let instance = ["/source/host", "/deprecatedSource/host", "/reportingInstance"]
        .iter()
        .map(|pointer| text(object, pointer))
        .find(|text| !text.is_empty());
    let source = instance.map_or(component.to_owned(), |instance| format!("{component}, {instance}"));
    vec![
        last.into(),
        text(object, "/type").into(),
        text(object, "/reason").into(),
        target.into(),
        about("fieldPath").into(),
        source.into(),
        either("/message", "/note").trim().into(),
        first.into(),
        times.into(),
        name(object),
    ]
}

fn access_modes(object: &Value, pointer: &str) -> Value {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = list(object, pointer);
    let shown: Vec<&str> =
        SHORT.iter().filter(|(long, _)| modes.iter().any(|m| m == long)).map(|(_, short)| *short).collect();
    shown.join(",").into()
}

fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    let claim = match (text(object, "/spec/claimRef/namespace"), text(object, "/spec/claimRef/name")) {
        (_, "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        name(object),
        text(object, "/spec/capacity/storage").into(),
        access_modes(object, "/spec/accessModes"),
        text(object, "/spec/persistentVolumeReclaimPolicy").into(),
        if going { "Terminating" } else { text(object, "/status/phase") }.into(),
        claim.into(),
        text(object, "/spec/storageClassName").into(),
        or(text(object, "/spec/volumeAttributesClassName"), "<unset>").into(),
        text(object, "/status/reason").into(),
        age(object, now),
        or(text(object, "/spec/volumeMode"), "<unset>").into(),
    ]
}

fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    let bound = !text(object, "/spec/volumeName").is_empty();
    vec![
        name(object),
        if going { "Terminating" } else { text(object, "/status/phase") }.into(),
        text(object, "/spec/volumeName").into(),
        if bound { text(object, "/status/capacity/storage").into() } else { json!("") },
        if bound { access_modes(object, "/status/accessModes") } else { json!("") },
        text(object, "/spec/storageClassName").into(),
        or(text(object, "/spec/volumeAttributesClassName"), "<unset>").into(),
        age(object, now),
        or(text(object, "/spec/volumeMode"), "<unset>").into(),
    ]
}
