//! Cells of roles' bindings and of flow control.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{age, list, name, number, or, text};

pub(super) fn role(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, "/metadata/creationTimestamp").into()]
}

pub(super) fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let joined = |kind: &str| {
        let subjects = list(object, "/subjects").iter().filter(|subject| text(subject, "/kind") == kind);
        let names: Vec<String> = subjects
            .map(|subject| match kind {
                "ServiceAccount" => format!("{}/{}", text(subject, "/namespace"), text(subject, "/name")),
                _ => text(subject, "/name").to_owned(),
            })
            .collect();
        Value::from(names.join(", "))
    };
    let age = age(object, now);
    vec![name(object), role.into(), age, joined("User"), joined("Group"), joined("ServiceAccount")]
}

pub(super) fn flow_schema(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = list(object, "/status/conditions");
    let dangling = conditions.iter().find(|condition| text(condition, "/type") == "Dangling");
    vec![
        name(object),
        text(object, "/spec/priorityLevelConfiguration/name").into(),
        number(object, "/spec/matchingPrecedence").into(),
        or(text(object, "/spec/distinguisherMethod/type"), "<none>").into(),
        age(object, now),
        dangling.map_or("?", |condition| text(condition, "/status")).into(),
    ]
}

pub(super) fn priority_level(object: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_else(|| json!("<none>"));
    vec![
        name(object),
        text(object, "/spec/type").into(),
        cell("/spec/limited/nominalConcurrencyShares"),
        cell("/spec/limited/limitResponse/queuing/queues"),
        cell("/spec/limited/limitResponse/queuing/handSize"),
        cell("/spec/limited/limitResponse/queuing/queueLengthLimit"),
        age(object, now),
    ]
}
