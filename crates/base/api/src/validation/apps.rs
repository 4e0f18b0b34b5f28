//! Deployments, ReplicaSets, DaemonSets, StatefulSets, ControllerRevisions, and the old ReplicationController.

use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::same;

use super::read::{
    Errors, deep, get, has, immutable, int, invalid_each, list, map, not_negative, number, text,
};
use super::{labels, names, pod};

fn path() -> FieldPath {
    FieldPath::new("spec")
}

/// The spec of a kind of the group `apps`.
pub(super) fn spec(out: &mut Errors, resource: &Resource, object: &Value) {
    let spec = get(object, "spec");
    match resource.kind {
        "Deployment" => deployment(out, spec),
        "ReplicaSet" => replica_set(out, spec),
        "DaemonSet" => daemon_set(out, spec),
        "StatefulSet" => stateful_set(out, spec, true),
        "ControllerRevision" => revision(out, object),
        _ => {}
    }
}

/// An update: the spec again, and what may not change.
pub(super) fn update(out: &mut Errors, resource: &Resource, new: &Value, old: &Value) {
    let (now, before) = (get(new, "spec"), get(old, "spec"));
    match resource.kind {
        "StatefulSet" => {
            stateful_set(out, now, false);
            stateful_set_changes(out, now, before);
            return;
        }
        "ControllerRevision" => {
            not_negative(out, &FieldPath::default(), new, "revision");
            immutable(out, &FieldPath::new("data"), get(new, "data"), get(old, "data"));
            return;
        }
        _ => spec(out, resource, new),
    }
    immutable(out, &path().child("selector"), get(now, "selector"), get(before, "selector"));
}

/// The selector has to be there, to select something, and to match the template's labels.
fn selector(out: &mut Errors, spec: &Value, kind: &str) {
    let at = path().child("selector");
    let selector = get(spec, "selector");
    if selector.is_null() {
        out.push(FieldError::required(&at, ""));
    } else {
        labels::selector(out, &at, selector);
        if labels::is_empty(selector) {
            let sentence = format!("empty selector is invalid for {kind}");
            out.push(FieldError::invalid(&at, selector.clone(), sentence));
        }
    }
    match labels::matches(selector, deep(spec, "template.metadata.labels")) {
        Some(true) => {}
        Some(false) => no_match(out, spec),
        None => out.push(FieldError::invalid(&at, selector.clone(), "invalid label selector")),
    }
}

fn no_match(out: &mut Errors, spec: &Value) {
    let labels = deep(spec, "template.metadata.labels").clone();
    let at = path().child("template.metadata.labels");
    out.push(FieldError::invalid(at, labels, "`selector` does not match template `labels`"));
}

/// The template, whose pods run for ever.
fn template(out: &mut Errors, spec: &Value, kind: &str) {
    pod::template(out, &path().child("template"), get(spec, "template"));
    runs_for_ever(out, spec, kind);
}

fn runs_for_ever(out: &mut Errors, spec: &Value, kind: &str) {
    let pod = deep(spec, "template.spec");
    let at = path().child("template.spec");
    let policy = text(pod, "restartPolicy");
    if policy != "Always" {
        out.push(FieldError::not_supported(at.child("restartPolicy"), policy, &["Always"]));
    }
    if has(pod, "activeDeadlineSeconds") {
        let sentence = format!("activeDeadlineSeconds in {kind} is not Supported");
        out.push(FieldError::forbidden(at.child("activeDeadlineSeconds"), sentence));
    }
}

fn deployment(out: &mut Errors, spec: &Value) {
    not_negative(out, &path(), spec, "replicas");
    selector(out, spec, "deployment");
    template(out, spec, "ReplicaSet");
    strategy(out, &path().child("strategy"), get(spec, "strategy"));
    for key in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(out, &path(), spec, key);
    }
    if let Some(deadline) = int(spec, "progressDeadlineSeconds")
        && deadline <= number(spec, "minReadySeconds")
    {
        let at = path().child("progressDeadlineSeconds");
        out.push(FieldError::invalid(at, deadline, "must be greater than minReadySeconds"));
    }
}

fn strategy(out: &mut Errors, path: &FieldPath, strategy: &Value) {
    let rolling = get(strategy, "rollingUpdate");
    let at = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" => {
            if !rolling.is_null() {
                let sentence = "may not be specified when strategy `type` is 'Recreate'";
                out.push(FieldError::forbidden(at, sentence));
            }
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (get(rolling, "maxUnavailable"), get(rolling, "maxSurge"));
            let unavailable_at = at.child("maxUnavailable");
            count_or_percent(out, &unavailable_at, unavailable);
            count_or_percent(out, &at.child("maxSurge"), surge);
            if amount(unavailable) == 0 && amount(surge) == 0 {
                let sentence = "may not be 0 when `maxSurge` is 0";
                out.push(FieldError::invalid(&unavailable_at, unavailable.clone(), sentence));
            }
            at_most_all(out, &unavailable_at, unavailable);
        }
        _ => {
            let supported = ["Recreate", "RollingUpdate"];
            out.push(FieldError::not_supported(path, strategy.clone(), &supported));
        }
    }
}

/// A count that is not negative, or `25%`.
pub(super) fn count_or_percent(out: &mut Errors, path: &FieldPath, value: &Value) {
    match value {
        Value::String(text) => invalid_each(out, path, text, names::percent(text)),
        Value::Null => {}
        Value::Number(number) => {
            if number.as_i64().is_some_and(|number| number < 0) {
                let sentence = "must be greater than or equal to 0";
                out.push(FieldError::invalid(path, value.clone(), sentence));
            }
        }
        _ => {
            let sentence = "must be an integer or percentage (e.g '5%%')";
            out.push(FieldError::invalid(path, value.clone(), sentence));
        }
    }
}

/// The number of a count or of a percentage.
fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => names::percent_value(text).unwrap_or(0),
        other => other.as_i64().unwrap_or(0),
    }
}

pub(super) fn at_most_all(out: &mut Errors, path: &FieldPath, value: &Value) {
    if value.as_str().and_then(names::percent_value).is_some_and(|percent| percent > 100) {
        out.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

fn replica_set(out: &mut Errors, spec: &Value) {
    not_negative(out, &path(), spec, "replicas");
    not_negative(out, &path(), spec, "minReadySeconds");
    // Kubernetes says `deployment` here as well.
    selector(out, spec, "deployment");
    template(out, spec, "ReplicaSet");
}

fn daemon_set(out: &mut Errors, spec: &Value) {
    let at = path().child("selector");
    let selector = get(spec, "selector");
    labels::selector(out, &at, selector);
    if labels::matches(selector, deep(spec, "template.metadata.labels")) == Some(false) {
        no_match(out, spec);
    }
    if !selector.is_null() && labels::is_empty(selector) {
        let sentence = "empty selector is invalid for daemonset";
        out.push(FieldError::invalid(&at, selector.clone(), sentence));
    }
    template(out, spec, "DaemonSet");
    not_negative(out, &path(), spec, "minReadySeconds");
    let strategy = get(spec, "updateStrategy");
    let at = path().child("updateStrategy");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => daemon_rolling(out, &at.child("rollingUpdate"), get(strategy, "rollingUpdate")),
        _ => {
            let supported = ["RollingUpdate", "OnDelete"];
            out.push(FieldError::not_supported(&at, strategy.clone(), &supported));
        }
    }
    not_negative(out, &path(), spec, "revisionHistoryLimit");
}

fn daemon_rolling(out: &mut Errors, path: &FieldPath, rolling: &Value) {
    if rolling.is_null() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let (unavailable, surge) = (get(rolling, "maxUnavailable"), get(rolling, "maxSurge"));
    let (unavailable_at, surge_at) = (path.child("maxUnavailable"), path.child("maxSurge"));
    count_or_percent(out, &unavailable_at, unavailable);
    count_or_percent(out, &surge_at, surge);
    at_most_all(out, &unavailable_at, unavailable);
    at_most_all(out, &surge_at, surge);
    match (amount(unavailable) != 0, amount(surge) != 0) {
        (true, true) => {
            let sentence = "may not be set when maxUnavailable is non-zero";
            out.push(FieldError::invalid(&surge_at, surge.clone(), sentence));
        }
        (false, false) => {
            out.push(FieldError::required(&unavailable_at, "cannot be 0 when maxSurge is 0"));
        }
        _ => {}
    }
}

fn stateful_set(out: &mut Errors, spec: &Value, creating: bool) {
    let at = path().child("podManagementPolicy");
    match text(spec, "podManagementPolicy") {
        "" => out.push(FieldError::required(at, "")),
        "OrderedReady" | "Parallel" => {}
        other => out.push(FieldError::invalid(at, other, "must be 'OrderedReady' or 'Parallel'")),
    }
    stateful_strategy(out, get(spec, "updateStrategy"));
    let retention = get(spec, "persistentVolumeClaimRetentionPolicy");
    for key in ["whenDeleted", "whenScaled"] {
        let (policy, policies) = (text(retention, key), ["Retain", "Delete"]);
        if !policies.contains(&policy) {
            let at = path().child("persistentVolumeClaimRetentionPolicy").child(key);
            out.push(FieldError::not_supported(at, policy, &policies));
        }
    }
    if creating {
        for (i, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
            let at = path().child("volumeClaimTemplates").index(i).child("spec");
            pod::claim_spec(out, &at, get(claim, "spec"));
        }
    }
    not_negative(out, &path(), spec, "replicas");
    not_negative(out, &path(), spec, "minReadySeconds");
    not_negative(out, &path().child("ordinals"), get(spec, "ordinals"), "start");
    let service = text(spec, "serviceName");
    if creating && !service.is_empty() {
        invalid_each(out, &path().child("serviceName"), service, names::dns1123_label(service));
    }
    selector(out, spec, "statefulset");
    pod::template(out, &path().child("template"), &with_claims(spec));
    runs_for_ever(out, spec, "StatefulSet");
}

fn stateful_strategy(out: &mut Errors, strategy: &Value) {
    let at = path().child("updateStrategy");
    let rolling = get(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "" => out.push(FieldError::required(at, "")),
        "OnDelete" => {
            if !rolling.is_null() {
                let sentence = "only allowed for updateStrategy 'RollingUpdate'";
                out.push(FieldError::invalid(at.child("rollingUpdate"), rolling.clone(), sentence));
            }
        }
        "RollingUpdate" => {
            let at = at.child("rollingUpdate");
            not_negative(out, &at, rolling, "partition");
            let unavailable = get(rolling, "maxUnavailable");
            if !unavailable.is_null() {
                let at = at.child("maxUnavailable");
                count_or_percent(out, &at, unavailable);
                if amount(unavailable) == 0 {
                    out.push(FieldError::invalid(&at, unavailable.clone(), "cannot be 0"));
                }
                at_most_all(out, &at, unavailable);
            }
        }
        _ => {
            let sentence = "must be 'RollingUpdate' or 'OnDelete'";
            out.push(FieldError::invalid(at, strategy.clone(), sentence));
        }
    }
}

/// The template as its pods will be: with a volume for each claim, and a host name of their own.
fn with_claims(spec: &Value) -> Value {
    let mut template = get(spec, "template").clone();
    let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) else { return template };
    pod.shift_remove("hostname");
    pod.shift_remove("subdomain");
    let claims = list(spec, "volumeClaimTemplates");
    if claims.is_empty() {
        return template;
    }
    let claim_names: Vec<&str> = claims.iter().map(|claim| text(get(claim, "metadata"), "name")).collect();
    let own = pod.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut volumes: Vec<Value> = claim_names
        .iter()
        .map(|name| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }))
        .collect();
    volumes.extend(own.into_iter().filter(|volume| !claim_names.contains(&text(volume, "name"))));
    pod.insert("volumes".into(), Value::Array(volumes));
    template
}

fn stateful_set_changes(out: &mut Errors, new: &Value, old: &Value) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let without = |spec: &Value| {
        let mut spec = map(&json!({ "spec": spec }), "spec").cloned().unwrap_or_default();
        spec.retain(|key, _| !MUTABLE.contains(&key.as_str()));
        Value::Object(spec)
    };
    if !same(&without(new), &without(old)) {
        let sentence = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                        'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                        'minReadySeconds' are forbidden";
        out.push(FieldError::forbidden(path(), sentence));
    }
}

fn revision(out: &mut Errors, object: &Value) {
    not_negative(out, &FieldPath::default(), object, "revision");
    match get(object, "data") {
        Value::Object(_) => {}
        Value::Null => out.push(FieldError::required("data", "data is mandatory")),
        _ => out.push(FieldError::required("data", "data must be a valid JSON object")),
    }
}

/// The old controller, whose selector is a plain map.
pub(super) fn replication_controller(out: &mut Errors, object: &Value) {
    let spec = get(object, "spec");
    not_negative(out, &path(), spec, "minReadySeconds");
    let selector = get(spec, "selector");
    if map(spec, "selector").is_none_or(serde_json::Map::is_empty) {
        out.push(FieldError::required(path().child("selector"), ""));
    }
    if !has(spec, "replicas") {
        out.push(FieldError::required(path().child("replicas"), ""));
    }
    not_negative(out, &path(), spec, "replicas");
    if !has(spec, "template") {
        out.push(FieldError::required(path().child("template"), ""));
        return;
    }
    let labels = deep(spec, "template.metadata.labels");
    if labels::matches(&json!({ "matchLabels": selector }), labels) == Some(false) {
        no_match(out, spec);
    }
    template(out, spec, "ReplicationController");
}

/// The numbers of a status: none negative, and no part above the whole.
pub(super) fn status(out: &mut Errors, resource: &Resource, new: &Value, old: &Value) {
    let at = FieldPath::new("status");
    let status = get(new, "status");
    let (numbers, parts): (&[&str], &[&str]) = match resource.kind {
        "Deployment" => (
            &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"],
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
        ),
        "ReplicaSet" | "ReplicationController" => (
            &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        ),
        "StatefulSet" => (
            &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        ),
        "DaemonSet" => (
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
            ],
            &[],
        ),
        _ => return,
    };
    for key in numbers.iter().chain(&["observedGeneration", "collisionCount", "terminatingReplicas"]) {
        not_negative(out, &at, status, key);
    }
    for key in parts {
        let part = number(status, key);
        if part > number(status, "replicas") {
            out.push(FieldError::invalid(at.child(key), part, "cannot be greater than status.replicas"));
        }
    }
    let available = number(status, "availableReplicas");
    if !parts.is_empty() && available > number(status, "readyReplicas") {
        let sentence = if resource.kind == "StatefulSet" {
            "cannot be greater than status.readyReplicas"
        } else {
            "cannot be greater than readyReplicas"
        };
        out.push(FieldError::invalid(at.child("availableReplicas"), available, sentence));
    }
    let collisions = number(status, "collisionCount");
    if collisions < number(get(old, "status"), "collisionCount") {
        out.push(FieldError::invalid(at.child("collisionCount"), collisions, "cannot be decremented"));
    }
}
