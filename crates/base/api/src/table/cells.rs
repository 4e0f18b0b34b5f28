//! Cells that several kinds share.

use jiff::Timestamp;
use serde_json::Value;

use super::duration;

/// The text at the pointer; empty when there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at the pointer; 0 when there is none.
pub(super) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The items of the list at the pointer.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// How many entries the map at the pointer has.
pub(super) fn count(value: &Value, pointer: &str) -> usize {
    value.pointer(pointer).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

/// The text, or another one where it is empty.
pub(super) fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// How long ago the time at the pointer was.
pub(super) fn ago(value: &Value, pointer: &str, now: Timestamp) -> String {
    duration::since(text(value, pointer), now).unwrap_or_else(|| "<unknown>".to_owned())
}

/// The object's age.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    ago(object, "/metadata/creationTimestamp", now).into()
}

/// The object's name.
pub(super) fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

/// The names of the containers below the pointer, and their images.
pub(super) fn containers(object: &Value, pointer: &str) -> [Value; 2] {
    let all = list(object, pointer);
    let joined = |key: &str| {
        let texts: Vec<&str> =
            all.iter().map(|c| c.get(key).and_then(Value::as_str).unwrap_or_default()).collect();
        Value::from(texts.join(","))
    };
    [joined("name"), joined("image")]
}

/// A label selector as a query.
pub(super) fn selector(object: &Value, pointer: &str) -> Value {
    let text = object.pointer(pointer).map(crate::strategy::selector_text).unwrap_or_default();
    or(&text, "<none>").into()
}

/// A map of labels, `a=1,b=2`, sorted.
pub(super) fn labels(object: &Value, pointer: &str) -> Value {
    let Some(map) = object.pointer(pointer).and_then(Value::as_object) else { return "<none>".into() };
    let mut pairs: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort_unstable();
    or(&pairs.join(","), "<none>").into()
}

/// At most three of the texts, and how many more there are.
pub(super) fn three_of(texts: &[String], otherwise: &str) -> String {
    const SHOWN: usize = 3;
    if texts.len() > SHOWN {
        return format!("{} + {} more...", texts[..SHOWN].join(","), texts.len() - SHOWN);
    }
    or(&texts.join(","), otherwise).to_owned()
}

/// Whether the condition of that type is `True`.
pub(super) fn condition(object: &Value, kind: &str) -> bool {
    list(object, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}
