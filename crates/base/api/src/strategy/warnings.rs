//! What the server accepts but tells the user about, in `Warning` headers.

mod cluster;

use serde_json::Value;

use crate::kinds::Resource;
use crate::quantity::Quantity;
use crate::status::FieldPath;
use crate::validation::{ip, names};

/// The warnings that a create (`old` absent) or an update of this object earns.
pub fn warnings(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let generation = |object: &Value| object.pointer("/metadata/generation").and_then(Value::as_i64);
    let changed = old.is_none_or(|old| generation(old) != generation(new));
    match (resource.group, resource.kind) {
        ("", "Pod") if old.is_none() => {
            name_warning(new, "this is used in the Pod's hostname", &mut out);
            pod_template(new, &FieldPath::default(), &mut out);
        }
        ("apiextensions.k8s.io", _) => out.extend(crate::custom::valid::warnings(new, old)),
        ("", "Service") => service(new, &mut out),
        ("", "PodTemplate") => template_at(new, changed, "/template", "template", &mut out),
        ("", "ReplicationController") => {
            if old.is_none() {
                name_warning(new, "this is used in Pod names and hostnames", &mut out);
            }
            template_at(new, changed, "/spec/template", "spec.template", &mut out);
        }
        ("", "PersistentVolume") => cluster::volume(new, &mut out),
        ("", "PersistentVolumeClaim") => cluster::claim(new, &mut out),
        ("", "ResourceQuota") if old.is_none() => cluster::quota(new, &mut out),
        ("networking.k8s.io", "NetworkPolicy") => cluster::network_policy(new, &mut out),
        ("networking.k8s.io", "Ingress") if old.is_none() => cluster::ingress(new, &mut out),
        ("node.k8s.io", "RuntimeClass") => cluster::runtime_class(new, &mut out),
        ("storage.k8s.io", "StorageClass") => cluster::storage_class(new, &mut out),
        ("storage.k8s.io", "CSIStorageCapacity") => cluster::capacity(new, &mut out),
        ("storage.k8s.io", "CSIDriver") => cluster::csi_driver(new, old, &mut out),
        ("", "Endpoints") => {
            out.push(
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned(),
            );
        }
        ("apps", "Deployment" | "ReplicaSet") => {
            if old.is_none() {
                name_warning(new, "this is used in Pod names and hostnames", &mut out);
            }
            template_at(new, changed, "/spec/template", "spec.template", &mut out);
        }
        ("apps", "DaemonSet") => template_at(new, changed, "/spec/template", "spec.template", &mut out),
        ("apps", "StatefulSet") => {
            template_at(new, changed, "/spec/template", "spec.template", &mut out);
            let limit = new.pointer("/spec/revisionHistoryLimit").and_then(Value::as_i64);
            if limit.is_some_and(|limit| limit < 0) {
                let text = "spec.revisionHistoryLimit: a negative value retains all historical revisions; \
                            a value >= 0 is recommended";
                out.push(text.to_owned());
            }
        }
        ("batch", "Job") => {
            if old.is_none() {
                name_warning(new, "this is used in Pod names and hostnames", &mut out);
            }
            template_at(new, changed, "/spec/template", "spec.template", &mut out);
        }
        ("batch", "CronJob") => {
            if old.is_none() {
                name_warning(new, "this is used in Pod names and hostnames", &mut out);
            }
            let path = "spec.jobTemplate.spec.template";
            template_at(new, changed, "/spec/jobTemplate/spec/template", path, &mut out);
        }
        _ => {}
    }
    out
}

fn name_warning(object: &Value, why: &str, out: &mut Vec<String>) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let wrong = names::dns1123_label(name);
    if !wrong.is_empty() {
        out.push(format!(
            "metadata.name: {why}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

fn template_at(object: &Value, changed: bool, pointer: &str, path: &str, out: &mut Vec<String>) {
    if changed && let Some(template) = object.pointer(pointer) {
        pod_template(template, &FieldPath::new(path), out);
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value.get(key).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn pod_template(template: &Value, path: &FieldPath, out: &mut Vec<String>) {
    let Some(spec) = template.get("spec") else { return };
    let path = path.child("spec");
    node_labels(spec, &path, out);
    selectors(spec, &path, out);
    old_volumes(spec, &path, out);
    duplicates(spec, &path, out);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in items(spec, list) {
            let path = path.child(list).index(i);
            fractions(container, &path, out);
            env(container, &path, out);
        }
    }
    ports(spec, &path, out);
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if grace.is_some_and(|grace| grace < 0) {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.child("terminationGracePeriodSeconds")
        ));
    }
}

/// Labels of nodes that have newer names.
const OLD_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// What is said about an old label of nodes.
fn old_label(key: &str) -> Option<String> {
    let (_, since, new) = OLD_LABELS.iter().find(|(old, ..)| *old == key)?;
    Some(format!("deprecated since {since}; use \"{new}\" instead"))
}

fn node_labels(spec: &Value, path: &FieldPath, out: &mut Vec<String>) {
    for (old, since, new) in OLD_LABELS {
        if spec.get("nodeSelector").is_some_and(|selector| selector.get(old).is_some()) {
            let path = path.child("nodeSelector").key(old);
            out.push(format!("{path}: deprecated since {since}; use \"{new}\" instead"));
        }
    }
}

/// Memory in parts of a byte: most likely `m` was written for `M`.
fn fractions(container: &Value, path: &FieldPath, out: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let value = container.get("resources").and_then(|r| r.get(list)).and_then(|l| l.get(name));
            let Some(quantity) = value.and_then(Quantity::from_value).filter(|q| !q.is_whole()) else {
                continue;
            };
            let path = path.child("resources").child(list).key(name);
            let quoted = crate::status::go_quote(&quantity.canonical());
            out.push(format!("{path}: fractional byte value {quoted} is invalid, must be an integer"));
        }
    }
}

/// Selectors that select nothing.
fn selectors(spec: &Value, path: &FieldPath, out: &mut Vec<String>) {
    let mut missing = |term: &Value, at: FieldPath| {
        if term.get("labelSelector").is_none_or(Value::is_null) {
            out.push(format!(
                "{}: a null labelSelector results in matching no pod",
                at.child("labelSelector")
            ));
        }
    };
    for (i, constraint) in items(spec, "topologySpreadConstraints") {
        missing(constraint, path.child("topologySpreadConstraints").index(i));
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get("affinity").and_then(|a| a.get(side)) else { continue };
        let path = path.child("affinity").child(side);
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(affinity, required) {
            missing(term, path.child(required).index(i));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in items(affinity, preferred) {
            let inner = term.get("podAffinityTerm").unwrap_or(&Value::Null);
            missing(inner, path.child(preferred).index(i).child("podAffinityTerm"));
        }
    }
}

fn old_volumes(spec: &Value, path: &FieldPath, out: &mut Vec<String>) {
    const OLD: [(&str, &str); 9] = [
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (i, volume) in items(spec, "volumes") {
        for (kind, text) in OLD {
            if volume.get(kind).is_some_and(|v| !v.is_null()) {
                let shown = if kind == "storageos" { "storageOS" } else { kind };
                out.push(format!("{}: {text}", path.child("volumes").index(i).child(shown)));
            }
        }
    }
}

/// Host aliases and pull secrets named twice.
fn duplicates(spec: &Value, path: &FieldPath, out: &mut Vec<String>) {
    for (list, key, word) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen: Vec<&str> = Vec::new();
        for (i, item) in items(spec, list) {
            let value = text(item, key);
            let at = path.child(list).index(i).child(key);
            if seen.contains(&value) {
                out.push(format!("{at}: duplicate {word} {}", crate::status::go_quote(value)));
            } else {
                seen.push(value);
            }
            if list == "imagePullSecrets" && value.is_empty() {
                out.push(format!("{at}: invalid empty name \"\""));
            }
        }
    }
}

/// A variable that hides an earlier one of its name.
fn env(container: &Value, path: &FieldPath, out: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, variable) in items(container, "env") {
        let name = text(variable, "name");
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        let reference = format!("$({name})");
        let value = text(variable, "value");
        let from = variable.get("valueFrom").is_some_and(|v| !v.is_null());
        if from || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.child("env").index(i),
                crate::status::go_quote(name)
            ));
        }
    }
}

/// Ports that are the same or overlap, and port names used twice.
fn ports(spec: &Value, path: &FieldPath, out: &mut Vec<String>) {
    let mut all: Vec<(FieldPath, &Value)> = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in items(spec, list) {
            for (j, port) in items(container, "ports") {
                all.push((path.child(list).index(i).child("ports").index(j), port));
            }
        }
    }
    let number = |port: &Value, key: &str| port.get(key).and_then(Value::as_i64).unwrap_or(0);
    for (n, (at, port)) in all.iter().enumerate() {
        for (other_at, other) in &all[..n] {
            let same_port = number(port, "containerPort") == number(other, "containerPort")
                && text(port, "protocol") == text(other, "protocol");
            if !same_port {
                continue;
            }
            let (a, b) = (number(port, "hostPort"), number(other, "hostPort"));
            let (ip, other_ip) = (text(port, "hostIP"), text(other, "hostIP"));
            if a == b && ip == other_ip {
                out.push(format!("{at}: duplicate port definition with {other_at}"));
            } else if a == 0 || b == 0 {
                out.push(format!("{at}: overlapping port definition with {other_at}"));
            } else if a == b && ip.is_empty() != other_ip.is_empty() {
                out.push(format!("{at}: dangerously ambiguous port definition with {other_at}"));
            }
        }
    }
    for (n, (at, port)) in all.iter().enumerate() {
        let name = text(port, "name");
        let first = all[..n].iter().find(|(_, other)| !name.is_empty() && text(other, "name") == name);
        if let Some((first, _)) = first {
            out.push(format!(
                "{at}: duplicate port name {} with {first}, services and probes that select ports by name will \
                 use {first}",
                crate::status::go_quote(name)
            ));
        }
    }
}

fn service(service: &Value, out: &mut Vec<String>) {
    let Some(spec) = service.get("spec") else { return };
    let filled = |key: &str| match spec.get(key) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        _ => false,
    };
    let headless = text(spec, "clusterIP") == "None";
    let external_name = text(spec, "type") == "ExternalName";
    if headless {
        if filled("loadBalancerIP") {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if filled("externalIPs") {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(spec, "sessionAffinity") != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    let annotations = service.get("metadata").and_then(|m| m.get("annotations"));
    if annotations.is_some_and(|a| a.get("service.kubernetes.io/topology-aware-hints").is_some()) {
        let text = "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
                    service.kubernetes.io/topology-mode instead";
        out.push(text.to_owned());
    }
    if !headless {
        for (i, address) in items(spec, "clusterIPs") {
            let path = FieldPath::new("spec.clusterIPs").index(i);
            out.extend(ip::address_warning(&path, address.as_str().unwrap_or_default()));
        }
    }
    for (i, address) in items(spec, "externalIPs") {
        let path = FieldPath::new("spec.externalIPs").index(i);
        out.extend(ip::address_warning(&path, address.as_str().unwrap_or_default()));
    }
    if filled("loadBalancerIP") {
        let path = FieldPath::new("spec.loadBalancerIP");
        out.extend(ip::address_warning(&path, text(spec, "loadBalancerIP")));
    }
    for (i, network) in items(spec, "loadBalancerSourceRanges") {
        let path = FieldPath::new("spec.loadBalancerSourceRanges").index(i);
        out.extend(ip::network_warnings(&path, network.as_str().unwrap_or_default()));
    }
    if filled("externalIPs") && !headless && !external_name {
        let text = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        out.push(text.to_owned());
    }
    if external_name && filled("externalIPs") {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && filled("externalName") {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        let text = "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        out.push(text.to_owned());
    }
}
