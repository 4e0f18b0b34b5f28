//! A patch's whole way: read, applied, decoded.

use serde_json::json;

use super::*;
use crate::kinds::by_kind;

fn patched(patch: &str, validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
    let deployments = by_kind("apps", "v1", "Deployment").unwrap();
    let object = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "a"}, "spec": {"replicas": 1}});
    let Parsed { value, duplicates } = parse(patch.as_bytes())?;
    let out = strategic(deployments, &object, &value)?;
    checked(deployments.gvk(), out, duplicates, patch.as_bytes(), validation)
}

#[test]
fn a_good_patch_is_decoded() {
    let (out, warnings) = patched(r#"{"spec":{"replicas":3}}"#, FieldValidation::Strict).unwrap();
    assert_eq!((&out["spec"], warnings), (&json!({"replicas": 3}), Vec::new()));
}

#[test]
fn unknown_and_duplicate_fields_are_invalid() {
    let text = r#"{"spec":{"replicas":3,"foo":1,"replicas":4}}"#;
    let refused = patched(text, FieldValidation::Strict).unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    let why = "strict decoding error: duplicate field \"spec.replicas\", unknown field \"spec.foo\"";
    assert!(refused.message.ends_with(why), "{}", refused.message);
    assert_eq!(refused.details.unwrap().causes[0].field, "patch");
    assert_eq!(patched(text, FieldValidation::Warn).unwrap().1.len(), 2);
}

#[test]
fn wrong_types_and_kinds_are_invalid() {
    for text in [r#"{"spec":{"replicas":"x"}}"#, r#"{"spec":[]}"#, r#"{"kind":"Pod"}"#, r#"{"apiVersion":7}"#]
    {
        assert_eq!(patched(text, FieldValidation::Ignore).unwrap_err().code, 422, "{text}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    assert_eq!(patched("[]", FieldValidation::Ignore).unwrap_err().message, "invalid JSON document");
    assert_eq!(
        patched("{", FieldValidation::Ignore).unwrap_err().message,
        "error decoding patch: unexpected end of JSON input"
    );
}

#[test]
fn a_strategic_patch_of_the_wrong_type_cannot_be_restored() {
    let deployments = by_kind("apps", "v1", "Deployment").unwrap();
    for (text, wanted) in [
        (r#"{"metadata":{"labels":"invalid"}}"#, "cannot restore map from string"),
        (r#"{"spec":{"template":{"spec":{"containers":{"a":1}}}}}"#, "cannot restore slice from map"),
        (r#"{"spec":{"strategy":[1]}}"#, "cannot restore struct from: slice"),
        (r#"{"metadata":{"labels":{"a":1}}}"#, "cannot convert int64 to string"),
        (r#"{"spec":{"replicas":"3"}}"#, "unrecognized type: int32"),
    ] {
        let object = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "a"}});
        let patch = patch_of(text);
        let kind = deployments.gvk();
        let told = strategic(deployments, &object, &patch).and_then(|out| {
            checked_strategic(kind, out, Vec::new(), text.as_bytes(), FieldValidation::Ignore)
        });
        let told = told.unwrap_err();
        assert!(told.message.ends_with(wanted), "{text}: {}", told.message);
    }
}

fn patch_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
