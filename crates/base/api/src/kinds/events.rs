//! Events have two faces: core `Event` and events.k8s.io `Event`. They are kept in the core form; these functions
//! rename the fields on the way in and out.

use serde_json::{Map, Value};

/// Field names: core, events.k8s.io.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

const CORE_VERSION: &str = "v1";
const NEW_VERSION: &str = "events.k8s.io/v1";

/// The core form of an event of events.k8s.io.
pub(super) fn to_core(object: Value) -> Value {
    rename(object, CORE_VERSION, |(core, new)| (new, core))
}

/// The events.k8s.io form of a core event.
pub(super) fn from_core(object: Value) -> Value {
    rename(object, NEW_VERSION, |(core, new)| (core, new))
}

/// Renames members, keeps their order, sets the apiVersion. A member that already has a target name is dropped, so
/// that no name comes twice.
fn rename(
    object: Value,
    api_version: &str,
    pair: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Value {
    let Value::Object(members) = object else { return object };
    let mut out = Map::with_capacity(members.len());
    for (name, value) in members {
        let to = NAMES.iter().copied().map(pair).find(|(from, _)| *from == name);
        if let Some((_, to)) = to {
            out.insert(to.to_owned(), value);
        } else if name == "apiVersion" {
            out.insert(name, api_version.into());
        } else if !NAMES.iter().copied().map(pair).any(|(_, to)| to == name) {
            out.insert(name, value);
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::{
        by_path,
        convert::{from_stored, to_stored},
    };

    #[test]
    fn a_new_event_is_kept_as_a_core_event_and_comes_back() {
        let resource = by_path("events.k8s.io", "v1", "events").unwrap();
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod"}, "note": "hello", "reportingController": "c", "deprecatedCount": 2,
        });
        let kept = to_stored(resource, new.clone());
        assert_eq!(
            kept,
            json!({
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
                "involvedObject": {"kind": "Pod"}, "message": "hello", "reportingComponent": "c", "count": 2,
            })
        );
        assert_eq!(from_stored(resource, kept), new);
    }

    #[test]
    fn other_kinds_and_odd_values_stay() {
        let pods = by_path("", "v1", "pods").unwrap();
        assert_eq!(to_stored(pods, json!({"note": 1})), json!({"note": 1}));
        let events = by_path("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(to_stored(events, json!(7)), json!(7));
    }
}
