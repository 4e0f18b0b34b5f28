//! JSON patch (RFC 6902), with the bounds that keep a small patch from making a huge or bottomless object.

use json_patch::{PatchError, PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::status::{Details, Status};

/// A patch with more operations is refused.
pub const MAX_OPERATIONS: usize = 10_000;
/// What all copies of one patch may add up to, in bytes; upstream bounds it by the size of a request.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// How deep an object may become: the same as a body that is read.
const MAX_DEPTH: usize = 127;

pub(super) fn apply(object: &Value, patch: &[u8]) -> Result<Value, Status> {
    let parsed: Value = serde_json::from_slice(patch)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let Value::Array(items) = parsed else {
        return Err(Status::bad_request("error decoding patch: a JSON patch must be an array of operations"));
    };
    if items.len() > MAX_OPERATIONS {
        let why = format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            items.len()
        );
        return Err(Status::request_entity_too_large(why));
    }
    let mut out = object.clone();
    let mut copied = 0;
    for (index, item) in items.into_iter().enumerate() {
        let operation: PatchOperation = serde_json::from_value(item)
            .map_err(|e| Status::bad_request(format!("error decoding patch: operation {index}: {e}")))?;
        check_bounds(&out, &operation, &mut copied)?;
        json_patch::patch_unsafe(&mut out, std::slice::from_ref(&operation))
            .map_err(|e| failed(index, &operation, &e))?;
    }
    Ok(out)
}

/// Refuses what would grow the object beyond the bounds.
fn check_bounds(object: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), Status> {
    let (added, from) = match operation {
        PatchOperation::Add(op) => (Some(&op.value), None),
        PatchOperation::Replace(op) => (Some(&op.value), None),
        PatchOperation::Move(op) => (object.pointer(op.from.as_str()), None),
        PatchOperation::Copy(op) => (object.pointer(op.from.as_str()), Some(())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, None),
    };
    let Some(added) = added else { return Ok(()) };
    if operation.path().count() + depth(added) > MAX_DEPTH {
        return Err(Status::request_entity_too_large(format!(
            "the patched object is nested deeper than {MAX_DEPTH}"
        )));
    }
    if from.is_some() {
        *copied += size(added);
        if *copied > MAX_COPIED {
            let why = format!(
                "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit \
                 {MAX_COPIED}"
            );
            return Err(Status::request_entity_too_large(why));
        }
    }
    Ok(())
}

/// How many levels a value has. Its own depth is bounded, so the recursion is.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// About how many bytes a value has as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|v| size(v) + 1).sum::<usize>(),
        Value::Object(members) => 2 + members.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>(),
        _ => 4,
    }
}

/// 422: the patch is well formed and does not fit the object.
fn failed(index: usize, operation: &PatchOperation, error: &PatchError) -> Status {
    let (name, from) = match operation {
        PatchOperation::Add(_) => ("add", None),
        PatchOperation::Remove(_) => ("remove", None),
        PatchOperation::Replace(_) => ("replace", None),
        PatchOperation::Move(op) => ("move", Some(op.from.as_str())),
        PatchOperation::Copy(op) => ("copy", Some(op.from.as_str())),
        PatchOperation::Test(_) => ("test", None),
    };
    let path = operation.path().as_str();
    let why = match error.kind {
        PatchErrorKind::TestFailed => format!("testing value {path} failed: test failed"),
        PatchErrorKind::InvalidFromPointer => {
            format!("{name} operation does not apply: doc is missing from path: {}", from.unwrap_or_default())
        }
        PatchErrorKind::CannotMoveInsideItself => format!("{name} operation does not apply: {}", error.kind),
        _ => format!("{name} operation does not apply: doc is missing path: {path}: missing value"),
    };
    // Upstream's sentence first: kubectl users know it; it hides the reason, which we add.
    let message =
        format!("the server rejected our request due to an error in our request: operation {index}: {why}");
    Status::new(422, "Invalid", message).with_details(Details::default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apply_value(object: &Value, patch: &Value) -> Result<Value, Status> {
        apply(object, patch.to_string().as_bytes())
    }

    #[test]
    fn operations_apply_in_turn() {
        let object = json!({"spec": {"replicas": 1, "list": ["a", "c"]}});
        let patch = json!([
            {"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 3},
            {"op": "add", "path": "/spec/list/1", "value": "b"},
            {"op": "add", "path": "/spec/list/-", "value": "d"},
            {"op": "add", "path": "/metadata", "value": {"labels": {"a/b": "x"}}},
            {"op": "copy", "from": "/metadata/labels/a~1b", "path": "/metadata/copy"},
            {"op": "move", "from": "/metadata/copy", "path": "/metadata/moved"},
            {"op": "remove", "path": "/spec/list/0"},
        ]);
        let expected = json!({
            "spec": {"replicas": 3, "list": ["b", "c", "d"]},
            "metadata": {"labels": {"a/b": "x"}, "moved": "x"},
        });
        assert_eq!(apply_value(&object, &patch).unwrap(), expected);
    }

    #[test]
    fn what_does_not_fit_is_422() {
        let object = json!({"a": [1], "b": 1});
        for patch in [
            json!([{"op": "remove", "path": "/c"}]),
            json!([{"op": "remove", "path": ""}]),
            json!([{"op": "remove", "path": "/a/-"}]),
            json!([{"op": "remove", "path": "/a/7"}]),
            json!([{"op": "replace", "path": "/c", "value": 1}]),
            json!([{"op": "add", "path": "/c/d", "value": 1}]),
            json!([{"op": "add", "path": "/a/18446744073709551616", "value": 1}]),
            json!([{"op": "test", "path": "/b", "value": 2}]),
            json!([{"op": "copy", "from": "/x", "path": "/y"}]),
            json!([{"op": "move", "from": "/a", "path": "/a/0"}]),
        ] {
            let status = apply_value(&object, &patch).unwrap_err();
            assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{patch}");
        }
    }

    #[test]
    fn what_is_no_patch_is_400() {
        for patch in [
            "",
            "{}",
            "[1]",
            r#"[{"op":"jump","path":"/a"}]"#,
            r#"[{"op":"add","path":"a","value":1}]"#,
            "[{]",
        ] {
            assert_eq!(apply(&json!({}), patch.as_bytes()).unwrap_err().code, 400, "{patch}");
        }
    }

    #[test]
    fn growth_is_bounded() {
        let many: Vec<Value> =
            (0..=MAX_OPERATIONS).map(|_| json!({"op": "test", "path": "/a", "value": 1})).collect();
        assert_eq!(apply_value(&json!({"a": 1}), &json!(many)).unwrap_err().code, 413);
        let doubling: Vec<Value> =
            (0..64).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/x{i}")})).collect();
        assert_eq!(
            apply_value(&json!({"a": {"text": "x".repeat(1000)}}), &json!(doubling)).unwrap_err().code,
            413
        );
        let mut path = String::new();
        let deeper: Vec<Value> = (0..1000)
            .map(|_| {
                path.push_str("/a");
                json!({"op": "add", "path": path, "value": {}})
            })
            .collect();
        assert_eq!(apply_value(&json!({}), &json!(deeper)).unwrap_err().code, 413);
    }
}
