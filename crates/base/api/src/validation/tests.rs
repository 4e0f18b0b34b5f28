//! Bad manifests and the exact causes that each earns.

use serde_json::{Map, Value, json};

use crate::kinds::{self, Resource};
use crate::{defaults, strategy};

use super::*;

mod cluster;
mod pods;
mod workloads;

fn resource(group: &str, kind: &str) -> &'static Resource {
    kinds::by_kind(group, "v1", kind).unwrap()
}

/// Puts `patch` over the value: objects are merged, `null` removes, everything else replaces.
pub(super) fn merge(value: &mut Value, patch: Value) {
    match (value, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, patch) in patch {
                if patch.is_null() {
                    object.shift_remove(&key);
                } else {
                    merge(object.entry(key).or_insert(Value::Object(Map::new())), patch);
                }
            }
        }
        (value, patch) => *value = patch,
    }
}

fn with_metadata(resource: &Resource, object: &mut Value) {
    let mut metadata = json!({
        "name": "x", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    if resource.namespaced {
        metadata["namespace"] = json!("default");
    }
    merge(&mut metadata, object.get("metadata").cloned().unwrap_or(json!({})));
    object["metadata"] = metadata;
}

/// The object as it is stored after its creation.
fn created(group: &str, kind: &str, mut object: Value) -> Value {
    let resource = resource(group, kind);
    with_metadata(resource, &mut object);
    defaults::apply(resource, &mut object);
    strategy::prepare_create(resource, &mut object);
    object["metadata"]["resourceVersion"] = json!("1");
    object
}

/// The errors that the creation earns, each as text.
fn create_errors(group: &str, kind: &str, mut object: Value) -> Vec<String> {
    let resource = resource(group, kind);
    with_metadata(resource, &mut object);
    defaults::apply(resource, &mut object);
    strategy::prepare_create(resource, &mut object);
    create(resource, &object).iter().map(ToString::to_string).collect()
}

/// The errors that changing a stored object so earns.
fn update_errors(group: &str, kind: &str, old: &Value, patch: Value) -> Vec<String> {
    let resource = resource(group, kind);
    let mut new = old.clone();
    merge(&mut new, patch);
    defaults::apply(resource, &mut new);
    strategy::prepare_update(resource, &mut new, old);
    update(resource, &new, old).iter().map(ToString::to_string).collect()
}

/// Checks a table of patches over a base object.
fn check_creates(group: &str, kind: &str, base: &Value, cases: &[(Value, &[&str])]) {
    assert_eq!(create_errors(group, kind, base.clone()), Vec::<String>::new(), "the base has to be fine");
    for (patch, expected) in cases {
        let mut object = base.clone();
        merge(&mut object, patch.clone());
        assert_eq!(create_errors(group, kind, object), *expected, "{kind}: {patch}");
    }
}

/// Whatever a client sends, the rules answer.
#[test]
fn no_value_makes_the_rules_panic() {
    let odd = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1.5),
        json!("x"),
        json!([]),
        json!([null, 1, "x", {}]),
        json!({}),
        json!({ "a": [1] }),
    ];
    for resource in kinds::resources() {
        for value in &odd {
            exercise(resource, value.clone());
            for key in ["metadata", "spec", "status", "data", "subsets", "endpoints", "ports", "template"] {
                exercise(resource, json!({ key: value }));
            }
            let spec_keys = [
                "containers",
                "initContainers",
                "volumes",
                "ports",
                "template",
                "selector",
                "strategy",
                "updateStrategy",
                "securityContext",
                "affinity",
                "tolerations",
                "clusterIPs",
                "jobTemplate",
                "topologySpreadConstraints",
            ];
            for key in spec_keys {
                exercise(resource, json!({ "spec": { key: value } }));
                exercise(resource, json!({ "spec": { key: [value] } }));
                exercise(resource, json!({ "spec": { "template": { "spec": { key: [value] } } } }));
            }
        }
    }
}

fn exercise(resource: &Resource, object: Value) {
    let mut new = object.clone();
    defaults::apply(resource, &mut new);
    strategy::prepare_create(resource, &mut new);
    let _ = create(resource, &new);
    let _ = strategy::warnings(resource, &new, None);
    let _ = crate::table::row(resource, &new, jiff::Timestamp::UNIX_EPOCH);
    for old in [&object, &json!({}), &json!({ "spec": {}, "metadata": {}, "status": {} })] {
        let mut updated = object.clone();
        strategy::prepare_update(resource, &mut updated, old);
        let _ = update(resource, &updated, old);
        strategy::prepare_status_update(resource, &mut updated, old);
        let _ = update_status(resource, &updated, old);
    }
    let _ = binding(&object);
    let _ = scale(&object);
    let _ = delete_options(&object);
    let _ = ephemeral_containers(&new, &object);
    let _ = resize(&new, &object);
    let _ = finalize(&new, &object);
}

#[test]
fn options_of_a_delete_and_of_a_write() {
    let both = delete_options(&json!({ "orphanDependents": true, "propagationPolicy": "Later" }));
    let texts: Vec<String> = both.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "propagationPolicy: Invalid value: \"Later\": orphanDependents and deletionPropagation cannot be \
             both set",
            "propagationPolicy: Unsupported value: \"Later\": supported values: \"Foreground\", \"Background\", \
             \"Orphan\", \"nil\"",
        ]
    );
    assert_eq!(
        dry_run(&json!(["Some"]))[0].to_string(),
        "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
    );
    assert_eq!(
        write_options("", "Maybe", true).iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "fieldManager: Required value: is required for apply patch",
            "fieldValidation: Unsupported value: \"Maybe\": supported values: \"\", \"Ignore\", \"Strict\", \
             \"Warn\"",
        ]
    );
}
