//! Defaults of the kinds that say how a cluster is set up.

use serde_json::{Value, json};

use super::edit::{
    Object, absent, canonical_quantities, canonical_quantity, child, each, ensure, set, set_text, text,
};

fn no_items(object: &Object, key: &str) -> bool {
    object.get(key).and_then(Value::as_array).is_none_or(Vec::is_empty)
}

/// An autoscaler of v1, whose one metric may be left out, or of v2.
pub(super) fn autoscaler(version: &str, object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set(spec, "minReplicas", 1);
    if version != "v2" {
        return;
    }
    if no_items(spec, "metrics") {
        let target = json!({ "type": "Utilization", "averageUtilization": 80 });
        let metric = json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } });
        spec.insert("metrics".into(), json!([metric]));
    }
    each(spec, "metrics", |metric| {
        for source in ["object", "pods", "resource", "containerResource", "external"] {
            let Some(target) = child(metric, source).and_then(|s| child(s, "target")) else { continue };
            ["value", "averageValue"]
                .iter()
                .filter_map(|key| target.get_mut(*key).map(canonical_quantity))
                .count();
        }
    });
    let Some(behavior) = child(spec, "behavior") else { return };
    let policy = |kind: &str, value: i64| json!({ "type": kind, "value": value, "periodSeconds": 15 });
    if let Some(up) = ensure(behavior, "scaleUp") {
        set(up, "stabilizationWindowSeconds", 0);
        set(up, "selectPolicy", "Max");
        set(up, "policies", json!([policy("Pods", 4), policy("Percent", 100)]));
    }
    if let Some(down) = ensure(behavior, "scaleDown") {
        set(down, "selectPolicy", "Max");
        set(down, "policies", json!([policy("Percent", 100)]));
    }
}

pub(super) fn network_policy(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    for way in ["ingress", "egress"] {
        each(spec, way, |rule| each(rule, "ports", |port| set(port, "protocol", "TCP")));
    }
    if no_items(spec, "policyTypes") {
        let types: &[&str] = if no_items(spec, "egress") { &["Ingress"] } else { &["Ingress", "Egress"] };
        spec.insert("policyTypes".into(), json!(types));
    }
}

pub(super) fn ingress_class(object: &mut Object) {
    if let Some(parameters) = child(object, "spec").and_then(|spec| child(spec, "parameters")) {
        set(parameters, "scope", "Cluster");
    }
}

pub(super) fn runtime_class(object: &mut Object) {
    if let Some(overhead) = child(object, "overhead") {
        canonical_quantities(overhead, "podFixed");
    }
}

pub(super) fn csi_driver(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    set(spec, "attachRequired", true);
    for key in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set(spec, key, false);
    }
    set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if no_items(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
    }
}

pub(super) fn capacity(object: &mut Object) {
    for key in ["capacity", "maximumVolumeSize"] {
        if !absent(object, key)
            && let Some(size) = object.get_mut(key)
        {
            canonical_quantity(size);
        }
    }
}

/// Claims of devices and their templates.
pub(super) fn devices(kind: &str, object: &mut Object) {
    let spec = match kind {
        "ResourceClaim" => child(object, "spec"),
        "ResourceClaimTemplate" => child(object, "spec").and_then(|spec| child(spec, "spec")),
        _ => None,
    };
    let Some(devices) = spec.and_then(|spec| child(spec, "devices")) else { return };
    each(devices, "requests", |request| {
        if let Some(exactly) = child(request, "exactly") {
            device_request(exactly);
        }
        each(request, "firstAvailable", device_request);
    });
}

fn device_request(request: &mut Object) {
    set_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        super::edit::set_number(request, "count", 1);
    }
}
