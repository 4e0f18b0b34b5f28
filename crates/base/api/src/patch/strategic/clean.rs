//! What a patch adds where the object has nothing: its value without nulls and directives.

use serde_json::{Map, Value};

use super::{DELETE_FROM, DIRECTIVE, RETAIN_KEYS, SET_ORDER};

/// The value without nulls and directives; nothing when it only says that something goes.
pub(super) fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Array(list) => Some(Value::Array(items(list))),
        Value::Object(object) if object.get(DIRECTIVE).is_some_and(|d| d == "delete") => None,
        Value::Object(object) => Some(Value::Object(members(object))),
        other => Some(other),
    }
}

/// The members without nulls and directives.
pub(super) fn members(object: Map<String, Value>) -> Map<String, Value> {
    let kept = object.into_iter().filter(|(name, _)| !is_directive(name));
    kept.filter_map(|(name, value)| clean(value).map(|value| (name, value))).collect()
}

/// The elements without those that are directives only.
pub(super) fn items(list: Vec<Value>) -> Vec<Value> {
    let ours =
        list.into_iter().filter(|item| !item.get(DIRECTIVE).is_some_and(|d| d == "delete" || d == "replace"));
    // A null in a list stays: what it means is for the decoder to say.
    ours.map(|item| if item.is_null() { item } else { clean(item).unwrap_or_default() }).collect()
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(SET_ORDER) || name.starts_with(DELETE_FROM)
}
