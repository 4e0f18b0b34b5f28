//! Defaults of the kinds that hold no pod template.

use serde_json::{Value, json};

use super::edit::{
    Object, absent, canonical_quantities, child, each, ensure, ensure_path, set, set_text, text,
};

pub(super) fn service(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set_text(spec, "type", "ClusterIP");
    set_text(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.shift_remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            if let Some(client) = ensure_path(spec, &["sessionAffinityConfig", "clientIP"]) {
                set(client, "timeoutSeconds", 10800);
            }
        }
        _ => {}
    }
    each(spec, "ports", service_port);
    let kind = text(spec, "type").to_owned();
    let has_external_ips =
        spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    let external = match kind.as_str() {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => has_external_ips,
        _ => false,
    };
    if external {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set(spec, "internalTrafficPolicy", "Cluster");
        set(spec, "ipFamilyPolicy", "SingleStack");
        if spec.get("ipFamilies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("ipFamilies".into(), json!([family_of(spec)]));
        }
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(balancer) = child(object, "status").and_then(|s| child(s, "loadBalancer")) {
            each(balancer, "ingress", |ingress| {
                if !text(ingress, "ip").is_empty() {
                    set(ingress, "ipMode", "VIP");
                }
            });
        }
    }
}

/// The family of the address that was asked for, else IPv4.
fn family_of(spec: &Object) -> &'static str {
    if text(spec, "clusterIP").contains(':') { "IPv6" } else { "IPv4" }
}

fn service_port(port: &mut Object) {
    set_text(port, "protocol", "TCP");
    let unset = match port.get("targetPort") {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(_) => false,
    };
    if unset && let Some(number) = port.get("port").cloned() {
        port.insert("targetPort".into(), number);
    }
}

pub(super) fn endpoints(object: &mut Object) {
    each(object, "subsets", |subset| each(subset, "ports", |port| set_text(port, "protocol", "TCP")));
}

pub(super) fn endpoint_slice(object: &mut Object) {
    each(object, "ports", |port| {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    });
}

/// The name as a label, without which no selector finds a namespace by name.
pub(super) fn namespace(object: &mut Object) {
    let Some(metadata) = child(object, "metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if !name.is_empty()
        && let Some(labels) = ensure(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

pub(super) fn node(object: &mut Object) {
    let Some(status) = child(object, "status") else { return };
    canonical_quantities(status, "capacity");
    canonical_quantities(status, "allocatable");
    if absent(status, "allocatable")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        status.insert("allocatable".into(), capacity);
    }
}

pub(super) fn persistent_volume(object: &mut Object) {
    if let Some(spec) = ensure(object, "spec") {
        set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set(spec, "volumeMode", "Filesystem");
        canonical_quantities(spec, "capacity");
    }
    if let Some(status) = ensure(object, "status") {
        set_text(status, "phase", "Pending");
    }
}

pub(super) fn persistent_volume_claim(object: &mut Object) {
    if let Some(spec) = ensure(object, "spec") {
        set(spec, "volumeMode", "Filesystem");
        if let Some(resources) = ensure(spec, "resources") {
            canonical_quantities(resources, "limits");
            canonical_quantities(resources, "requests");
        }
    }
    if let Some(status) = ensure(object, "status") {
        set_text(status, "phase", "Pending");
    }
}

pub(super) fn resource_quota(object: &mut Object) {
    if let Some(spec) = child(object, "spec") {
        canonical_quantities(spec, "hard");
    }
}

pub(super) fn limit_range(object: &mut Object) {
    let Some(spec) = child(object, "spec") else { return };
    each(spec, "limits", |item| {
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            canonical_quantities(item, list);
        }
        if text(item, "type") != "Container" {
            return;
        }
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let Some(values) = child(item, from).cloned() else { continue };
            let Some(list) = ensure(item, to) else { continue };
            for (name, value) in values {
                set(list, &name, value);
            }
        }
    });
}
