//! Schemas at work, with upstream's sentences.

use serde_json::{Value, json};

use super::*;

fn kind(schema: Value) -> std::sync::Arc<Kind> {
    let definition = json!({
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                }},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": schema, "status": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }}}},
                "additionalPrinterColumns": [
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                ],
            }],
        },
    });
    Definition::compile(&definition).unwrap().versions[0].kind.clone()
}

fn thing(spec: &Value) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Thing",
        "metadata": {"name": "a", "namespace": "default"}, "spec": spec,
    })
}

fn errors(schema: Value, spec: &Value) -> Vec<String> {
    kind(schema).validate_create(&thing(spec)).iter().map(ToString::to_string).collect()
}

#[test]
fn values_are_checked_in_upstreams_words() {
    let one = |schema: Value, value: Value, expected: &[&str]| {
        let schema = json!({"type": "object", "properties": {"x": schema}});
        assert_eq!(errors(schema, &json!({"x": value})), expected, "{value}");
    };
    one(
        json!({"type": "integer"}),
        json!("a"),
        &[r#"spec.x: Invalid value: "string": spec.x in body must be of type integer: "string""#],
    );
    one(json!({"type": "integer"}), json!(1.0), &[]);
    one(json!({"type": "number"}), json!(1), &[]);
    one(
        json!({"type": "string", "format": "date-time"}),
        json!("x"),
        &[r#"spec.x: Invalid value: "x": spec.x in body must be of type date-time: "x""#],
    );
    one(
        json!({"type": "integer", "minimum": 3}),
        json!(2),
        &["spec.x: Invalid value: 2: spec.x in body should be greater than or equal to 3"],
    );
    one(
        json!({"type": "string", "pattern": "^a+$"}),
        json!("b"),
        &["spec.x: Invalid value: \"b\": spec.x in body should match '^a+$'"],
    );
    one(
        json!({"type": "string", "enum": ["a", "b"]}),
        json!("c"),
        &[r#"spec.x: Unsupported value: "c": supported values: "a", "b""#],
    );
    one(
        json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
        json!(["a", "b"]),
        &["spec.x: Too many: 2: must have at most 1 item"],
    );
    one(json!({"x-kubernetes-int-or-string": true}), json!("5%"), &[]);
    one(
        json!({"x-kubernetes-int-or-string": true}),
        json!(true),
        &[r#"spec.x: Invalid value: "boolean": spec.x in body must be of type integer,string: "boolean""#],
    );
    one(json!({"type": "object", "required": ["y"]}), json!({}), &["spec.x.y: Required value"]);
    one(json!({"type": "string", "nullable": true}), json!(null), &[]);
    one(
        json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
        json!(["a", "b", "a"]),
        &[r#"spec.x[2]: Duplicate value: "a""#],
    );
    one(
        json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        json!({"a": 1, "b": 2}),
        &[
            r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
        ],
    );
}

#[test]
fn keys_of_list_maps_come_once() {
    let schema = json!({"type": "object", "properties": {"l": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
        "items": {"type": "object", "properties": {"n": {"type": "string"}}},
    }}});
    let spec = json!({"l": [{"n": "a"}, {"n": "b"}, {"n": "a"}]});
    assert_eq!(errors(schema, &spec), [r#"spec.l[2]: Duplicate value: {"n":"a"}"#]);
}

#[test]
fn what_was_wrong_before_may_stay() {
    let kind = kind(json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string"},
    }}));
    let mut old = thing(&json!({"a": "long", "b": "x"}));
    old["metadata"]["resourceVersion"] = "1".into();
    let mut new = old.clone();
    new["spec"]["b"] = "y".into();
    assert_eq!(kind.validate_update(&new, &old), []);
    new["spec"]["a"] = "longer".into();
    assert_eq!(
        kind.validate_update(&new, &old)[0].to_string(),
        "spec.a: Too long: may not be more than 1 byte"
    );
}

#[test]
fn unknown_members_go_and_defaults_come() {
    let kind = kind(json!({"type": "object", "properties": {
        "size": {"type": "integer", "default": 3},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "inner": {"type": "object", "default": {}, "properties": {"n": {"type": "string", "default": "x"}}},
        "gone": {"type": "string"},
    }}));
    let body = thing(&json!({"free": {"a": 1}, "other": 1, "gone": null}));
    let (mut object, warnings) = kind.decode(body.clone().into(), FieldValidation::Warn).unwrap();
    assert_eq!(warnings, [r#"unknown field "spec.other""#]);
    kind.defaults(&mut object);
    assert_eq!(object["spec"], json!({"free": {"a": 1}, "size": 3, "inner": {"n": "x"}}));
    let strict = kind.decode(body.into(), FieldValidation::Strict).unwrap_err();
    assert_eq!(
        strict.message,
        r#"Thing in version "v1" cannot be handled as a Thing: strict decoding error: unknown field "spec.other""#
    );
}

#[test]
fn generations_count_what_is_not_status() {
    let kind = kind(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let mut object = thing(&json!({"a": 1}));
    kind.prepare_create(&mut object);
    assert_eq!(object["metadata"]["generation"], 1);
    let mut new = object.clone();
    new["status"] = json!({"x": 1});
    new["metadata"]["labels"] = json!({"a": "b"});
    kind.prepare_update(&mut new, &object);
    assert_eq!((&new["metadata"]["generation"], new.get("status")), (&json!(1), None));
    new["spec"]["a"] = 2.into();
    kind.prepare_update(&mut new, &object);
    assert_eq!(new["metadata"]["generation"], 2);
    let mut status = new.clone();
    status["spec"]["a"] = 9.into();
    status["status"] = json!({"y": 1});
    kind.prepare_status_update(&mut status, &new);
    assert_eq!((&status["spec"]["a"], &status["status"]["y"]), (&json!(2), &json!(1)));
}

#[test]
fn columns_and_scale_follow_their_paths() {
    let kind = kind(json!({"type": "object", "properties": {"replicas": {"type": "integer"}}}));
    let mut object = thing(&json!({"replicas": 3}));
    object["status"] = json!({
        "replicas": 2, "selector": "a=b", "conditions": [{"type": "Ready", "status": "True"}],
    });
    assert_eq!(kind.row(&object, Timestamp::UNIX_EPOCH), [json!("a"), json!(3), json!("True")]);
    let scale = kind.scale().unwrap();
    let mut seen = scale.of(&object).unwrap();
    assert_eq!((&seen["spec"]["replicas"], &seen["status"]["selector"]), (&json!(3), &json!("a=b")));
    seen["spec"]["replicas"] = 5.into();
    scale.apply(&mut object, &seen).unwrap();
    assert_eq!(object["spec"]["replicas"], 5);
    object["spec"]["replicas"] = (-1).into();
    assert_eq!(
        kind.validate_create(&object)[0].to_string(),
        ".spec.replicas: Invalid value: -1: should be a non-negative integer"
    );
}
