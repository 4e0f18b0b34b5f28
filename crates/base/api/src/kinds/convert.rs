//! Kinds that share their storage with another one: the form in which an object is kept, and the form it is shown in.

use serde_json::Value;

use super::{Resource, autoscalers, events};

/// Turns an object of the resource into the form in which it is kept. Most stay as they are.
pub fn to_stored(resource: &Resource, object: Value) -> Value {
    match (resource.group, resource.version, resource.plural) {
        ("events.k8s.io", ..) => events::to_core(object),
        ("autoscaling", "v1", _) => autoscalers::to_v2(object),
        _ => object,
    }
}

/// Turns a kept object into the form that the resource shows. Most stay as they are.
pub fn from_stored(resource: &Resource, object: Value) -> Value {
    match (resource.group, resource.version, resource.plural) {
        ("events.k8s.io", ..) => events::from_core(object),
        ("autoscaling", "v1", _) => autoscalers::to_v1(object),
        _ => object,
    }
}
