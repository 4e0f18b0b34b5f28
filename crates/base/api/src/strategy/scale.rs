//! The scale subresource: an object seen as `autoscaling/v1` Scale, and a Scale written back.

use serde_json::{Map, Value, json};

use crate::defaults::edit::ensure;
use crate::kinds::Resource;

/// The Scale of a Deployment, ReplicaSet, StatefulSet or ReplicationController; none for other kinds.
pub fn scale_of(resource: &Resource, object: &Value) -> Option<Value> {
    let scalable = matches!(
        (resource.group, resource.kind),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet") | ("", "ReplicationController")
    );
    if !scalable {
        return None;
    }
    let mut metadata = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer("/metadata").and_then(|m| m.get(key)) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let selector = match object.pointer("/spec/selector") {
        // The old controller's selector is a plain map of labels.
        Some(Value::Object(labels)) if resource.group.is_empty() => {
            selector_text(&json!({ "matchLabels": labels }))
        }
        Some(selector) => selector_text(selector),
        None => String::new(),
    };
    let mut status = json!({ "replicas": number("/status/replicas") });
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Some(json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": { "replicas": number("/spec/replicas") },
        "status": status,
    }))
}

/// Puts a Scale's replicas into the object, and its resourceVersion when it says one.
pub fn apply_scale(_resource: &Resource, object: &mut Value, scale: &Value) {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    let Some(object) = object.as_object_mut() else { return };
    if let Some(spec) = ensure(object, "spec") {
        spec.insert("replicas".into(), replicas.into());
    }
    let version = scale.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    if !version.is_empty()
        && let Some(metadata) = ensure(object, "metadata")
    {
        metadata.insert("resourceVersion".into(), version.into());
    }
}

/// A label selector object in the form of a query, `app=web,tier in (a,b),!old`, sorted by key.
pub fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = term.get("key").and_then(Value::as_str).unwrap_or_default();
        let mut values: Vec<&str> = term
            .get("values")
            .and_then(Value::as_array)
            .map(|values| values.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        values.sort_unstable();
        let text = match term.get("operator").and_then(Value::as_str).unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => continue,
        };
        terms.push((key.to_owned(), text));
    }
    terms.sort();
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}
