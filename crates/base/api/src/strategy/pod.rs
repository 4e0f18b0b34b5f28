//! Pods: first status, tolerations of a failing node, selectors from the pod's own labels, service account.

use serde_json::{Value, json};

use crate::defaults::Object;
use crate::defaults::edit::{absent, child, each, ensure, set_text, text};
use crate::quantity::Quantity;

use super::{meta, names};

/// Where containers find the token of their service account.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long pods stay on a node that fails, unless they say.
const FAILING_NODE_SECONDS: i64 = 300;

pub(super) fn prepare_create(pod: &mut Object) {
    let labels = pod.get("metadata").and_then(|m| m.get("labels")).cloned().unwrap_or_default();
    let class = class_of(pod.get("spec").unwrap_or(&Value::Null));
    let mut status = json!({ "phase": "Pending", "qosClass": class });
    if let Some(spec) = child(pod, "spec") {
        if spec.get("schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "observedGeneration": 1,
                "lastProbeTime": null,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        set_text(spec, "serviceAccountName", "default");
        let account = text(spec, "serviceAccountName").to_owned();
        spec.insert("serviceAccount".into(), account.into());
        label_keys(spec, &labels);
    }
    pod.insert("status".into(), status);
}

/// Nothing of a pod's spec is decided anew by an update.
pub(super) fn prepare_update(_pod: &mut Object, _before: &Object) {}

/// The node may not touch owners, and the class stays what it was when a node forgets it.
pub(super) fn prepare_status_update(pod: &mut Object, before: &Object) {
    meta::keep(pod, before, "ownerReferences");
    let class = before.get("status").and_then(|s| s.get("qosClass")).and_then(Value::as_str);
    if let (Some(class), Some(status)) = (class, child(pod, "status")) {
        set_text(status, "qosClass", class);
    }
}

/// Prepares an update of `pods/NAME/ephemeralcontainers`: only that list may change.
pub fn prepare_ephemeral_containers(new: &mut Value, old: &Value) {
    let list = new.pointer("/spec/ephemeralContainers").cloned();
    only_spec_changes(new, old, |spec, before| {
        *spec = before.clone();
        match list {
            Some(list) => {
                spec.insert("ephemeralContainers".into(), list);
            }
            None => {
                spec.shift_remove("ephemeralContainers");
            }
        }
    });
}

/// Prepares an update of `pods/NAME/resize`: only resources and resize policies of containers may change.
pub fn prepare_resize(new: &mut Value, old: &Value) {
    only_spec_changes(new, old, |spec, before| {
        let asked = spec.clone();
        *spec = before.clone();
        for list in ["containers", "initContainers"] {
            let empty = Vec::new();
            let wanted = asked.get(list).and_then(Value::as_array).unwrap_or(&empty);
            let kept = before.get(list).and_then(Value::as_array).unwrap_or(&empty);
            let same_names = wanted.len() == kept.len()
                && wanted.iter().zip(kept).all(|(a, b)| a.get("name") == b.get("name"));
            if !same_names {
                // Validation says what is wrong with another list of containers.
                spec.insert(list.into(), Value::from(wanted.clone()));
                continue;
            }
            let mut wanted = wanted.iter();
            each(spec, list, |container| {
                let Some(asked) = wanted.next() else { return };
                for key in ["resources", "resizePolicy"] {
                    match asked.get(key) {
                        Some(value) => container.insert(key.into(), value.clone()),
                        None => container.shift_remove(key),
                    };
                }
            });
        }
        if let Some(resources) = asked.get("resources") {
            spec.insert("resources".into(), resources.clone());
        }
    });
}

/// Everything but the spec stays, and the generation counts what changed in it.
fn only_spec_changes(new: &mut Value, old: &Value, change: impl FnOnce(&mut Object, &Object)) {
    let (Some(pod), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    meta::prepare_update(pod, before);
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        meta::keep(pod, before, key);
    }
    super::keep(pod, before, "status");
    let Some(old_spec) = before.get("spec").and_then(Value::as_object) else { return };
    if let Some(spec) = ensure(pod, "spec") {
        change(spec, old_spec);
    }
    if !super::compare::same_option(pod.get("spec"), before.get("spec")) {
        meta::bump_generation(pod, before);
    }
}

/// Pods leave a node that is not ready or not reachable after five minutes, unless they say otherwise.
pub fn add_default_tolerations(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        default_tolerations(spec);
    }
}

fn default_tolerations(spec: &mut Object) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if absent(spec, "tolerations") {
            spec.insert("tolerations".into(), json!([]));
        }
        let Some(list) = spec.get_mut("tolerations").and_then(Value::as_array_mut) else { return };
        let tolerated = list.iter().filter_map(Value::as_object).any(|t| {
            matches!(text(t, "key"), k if k == key || k.is_empty())
                && matches!(text(t, "effect"), "NoExecute" | "")
        });
        if !tolerated {
            list.push(json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": FAILING_NODE_SECONDS,
            }));
        }
    }
}

/// `matchLabelKeys` become expressions over the pod's own labels.
fn label_keys(spec: &mut Object, labels: &Value) {
    each(spec, "topologySpreadConstraints", |constraint| {
        add_expressions(constraint, "matchLabelKeys", "In", labels);
    });
    let Some(affinity) = child(spec, "affinity") else { return };
    for side in ["podAffinity", "podAntiAffinity"] {
        let Some(side) = child(affinity, side) else { continue };
        let mut term = |term: &mut Object| {
            add_expressions(term, "matchLabelKeys", "In", labels);
            add_expressions(term, "mismatchLabelKeys", "NotIn", labels);
        };
        each(side, "requiredDuringSchedulingIgnoredDuringExecution", &mut term);
        each(side, "preferredDuringSchedulingIgnoredDuringExecution", |weighted| {
            if let Some(inner) = child(weighted, "podAffinityTerm") {
                term(inner);
            }
        });
    }
}

fn add_expressions(term: &mut Object, keys: &str, operator: &str, labels: &Value) {
    let Some(keys) = term.get(keys).and_then(Value::as_array).cloned() else { return };
    if absent(term, "labelSelector") {
        return;
    }
    let Some(selector) = child(term, "labelSelector") else { return };
    if absent(selector, "matchExpressions") {
        selector.insert("matchExpressions".into(), json!([]));
    }
    let Some(list) = selector.get_mut("matchExpressions").and_then(Value::as_array_mut) else { return };
    for key in keys.iter().filter_map(Value::as_str) {
        if let Some(value) = labels.get(key) {
            list.push(json!({ "key": key, "operator": operator, "values": [value] }));
        }
    }
    if list.is_empty() {
        selector.shift_remove("matchExpressions");
    }
}

/// What the service account admission does at a pod's creation: the account's image pull secrets where the pod has
/// none, and a volume with a token, the cluster's CA and the namespace in every container that has nothing mounted
/// there, unless pod or account say no.
pub fn apply_service_account(pod: &mut Value, account: &Value) {
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return;
    }
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let none = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if none && let Some(secrets) = account.get("imagePullSecrets").filter(|s| s.is_array()) {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    let says = |value: Option<&Value>| value.and_then(Value::as_bool);
    let mount = says(spec.get("automountServiceAccountToken"))
        .or(says(account.get("automountServiceAccountToken")))
        .unwrap_or(true);
    if mount {
        mount_token(spec);
    }
}

fn mount_token(spec: &mut Object) {
    let volume = format!("kube-api-access-{}", names::random_suffix());
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        each(spec, list, |container| {
            let there = container
                .get("volumeMounts")
                .and_then(Value::as_array)
                .is_some_and(|mounts| mounts.iter().any(|m| m.get("mountPath") == Some(&TOKEN_PATH.into())));
            if there {
                return;
            }
            if absent(container, "volumeMounts") {
                container.insert("volumeMounts".into(), json!([]));
            }
            if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                mounts.push(json!({ "name": volume, "readOnly": true, "mountPath": TOKEN_PATH }));
                mounted = true;
            }
        });
    }
    if !mounted {
        return;
    }
    if absent(spec, "volumes") {
        spec.insert("volumes".into(), json!([]));
    }
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.push(json!({
            "name": volume,
            "projected": {
                "sources": [
                    { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                    { "configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                    } },
                    { "downwardAPI": { "items": [{
                        "path": "namespace",
                        "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                    }] } },
                ],
                "defaultMode": 420,
            },
        }));
    }
}

/// The pod's quality of service class: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Value) -> &'static str {
    class_of(pod.get("spec").unwrap_or(&Value::Null))
}

fn class_of(spec: &Value) -> &'static str {
    let resources: Vec<&Value> = match spec.get("resources").filter(|r| r.is_object()) {
        Some(pod_level) => vec![pod_level],
        None => ["containers", "initContainers"]
            .iter()
            .filter_map(|list| spec.get(*list).and_then(Value::as_array))
            .flatten()
            .map(|container| container.get("resources").unwrap_or(&Value::Null))
            .collect(),
    };
    let mut asked = false;
    let mut guaranteed = !resources.is_empty();
    for resources in resources {
        for name in ["cpu", "memory"] {
            let request = amount(resources, "requests", name);
            let limit = amount(resources, "limits", name);
            asked |= request.is_some() || limit.is_some();
            // Requests follow limits where only these were given, so that equal ones are all it takes.
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (asked, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The amount as canonical text; none when it is absent or zero.
fn amount(resources: &Value, list: &str, name: &str) -> Option<String> {
    let text = match resources.get(list)?.get(name)? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let canonical = Quantity::parse(&text).ok()?.canonical();
    (canonical != "0" && !canonical.starts_with('-')).then_some(canonical)
}
