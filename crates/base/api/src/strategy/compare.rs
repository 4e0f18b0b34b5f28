//! Whether two values mean the same: how Kubernetes compares specs before and after an update.
//!
//! Typed clients leave out what is empty, untyped ones write it; neither makes a difference.

use serde_json::{Map, Value};

/// Texts that mean something else when they are empty than when they are absent.
const OPTIONAL_TEXTS: [&str; 6] = [
    "storageClassName",
    "loadBalancerClass",
    "appProtocol",
    "runtimeClassName",
    "preemptionPolicy",
    "service",
];

/// Flags of which Kubernetes stores no `false`.
const PLAIN_FLAGS: [&str; 12] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
    "paused",
    "publishNotReadyAddresses",
    "unschedulable",
    "manualSelector",
    "setHostnameAsFQDN",
];

/// Numbers of which Kubernetes stores no 0.
const PLAIN_NUMBERS: [&str; 5] =
    ["initialDelaySeconds", "minReadySeconds", "hostPort", "nodePort", "healthCheckNodePort"];

/// Maps of which Kubernetes stores no empty one.
const MAPS: [&str; 12] = [
    "labels",
    "annotations",
    "matchLabels",
    "nodeSelector",
    "limits",
    "requests",
    "overhead",
    "data",
    "binaryData",
    "selector",
    "capacity",
    "stringData",
];

/// Whether both are the same, members in the same order: what most updates leave alone is, and looking that up member by
/// member would cost ten times as much.
pub(crate) fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, v), (l, w))| k == l && identical(v, w))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| identical(a, b))
        }
        _ => a == b,
    }
}

/// Whether both mean the same.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    identical(a, b) || alike(a, b)
}

fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => same_objects(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// Whether both mean the same; an absent one means what an empty one does.
pub(crate) fn same_option(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b) || (nothing("", a, true) && nothing("", b, true)),
        (Some(one), None) | (None, Some(one)) => nothing("", one, true),
        (None, None) => true,
    }
}

fn same_objects(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let one_way = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.iter().all(|(key, value)| match b.get(key) {
            Some(other) => alike(value, other) || (nothing(key, value, false) && nothing(key, other, false)),
            None => nothing(key, value, false),
        })
    };
    one_way(a, b) && one_way(b, a)
}

/// Whether the value under this key says no more than its absence.
fn nothing(key: &str, value: &Value, top: bool) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && (top || MAPS.contains(&key)),
        Value::String(text) => text.is_empty() && !OPTIONAL_TEXTS.contains(&key),
        Value::Bool(flag) => !flag && PLAIN_FLAGS.contains(&key),
        Value::Number(number) => number.as_i64() == Some(0) && PLAIN_NUMBERS.contains(&key),
    }
}
