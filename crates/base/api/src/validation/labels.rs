//! Labels, annotations and label selectors.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};

use super::names;
use super::read::{Errors, entries, get, has, invalid_each, list, map, text};

/// The bytes that all annotations together may have.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Keys and values of the labels at `key`.
pub(super) fn labels(out: &mut Errors, path: &FieldPath, object: &Value, key: &str) {
    let path = path.child(key);
    for (name, value) in entries(object, key) {
        label_name(out, &path, name);
        let value = value.as_str().unwrap_or_default();
        invalid_each(out, &path, value, names::label_value(value));
    }
}

/// A label's key.
pub(super) fn label_name(out: &mut Errors, path: &FieldPath, name: &str) {
    invalid_each(out, path, name, names::qualified(name));
}

/// The annotations of the metadata.
pub(super) fn annotations(out: &mut Errors, path: &FieldPath, metadata: &Value) {
    let path = path.child("annotations");
    let mut size = 0;
    for (name, value) in entries(metadata, "annotations") {
        invalid_each(out, &path, name, names::qualified(&name.to_lowercase()));
        size += name.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_MAX {
        out.push(FieldError::too_long(&path, ANNOTATIONS_MAX));
    }
}

/// A label selector; `null` is fine.
pub(super) fn selector(out: &mut Errors, path: &FieldPath, selector: &Value) {
    if selector.is_null() {
        return;
    }
    labels(out, path, selector, "matchLabels");
    for (i, term) in list(selector, "matchExpressions").iter().enumerate() {
        requirement(out, &path.child("matchExpressions").index(i), term);
    }
}

fn requirement(out: &mut Errors, path: &FieldPath, term: &Value) {
    let values = list(term, "values");
    match text(term, "operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                out.push(FieldError::required(path.child("values"), detail));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                out.push(FieldError::forbidden(path.child("values"), detail));
            }
        }
        other => {
            out.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator"));
        }
    }
    label_name(out, &path.child("key"), text(term, "key"));
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        invalid_each(out, &path.child("values").index(i), value, names::label_value(value));
    }
}

/// Whether the selector selects nothing in particular: no label and no expression.
pub(super) fn is_empty(selector: &Value) -> bool {
    map(selector, "matchLabels").is_none_or(serde_json::Map::is_empty)
        && list(selector, "matchExpressions").is_empty()
}

/// Whether the selector can be read at all, and matches the labels. `None` for one that cannot be read.
pub(super) fn matches(selector: &Value, labels: &Value) -> Option<bool> {
    if selector.is_null() {
        return Some(false);
    }
    for (key, value) in entries(selector, "matchLabels") {
        if !names::qualified(key).is_empty()
            || !names::label_value(value.as_str().unwrap_or_default()).is_empty()
        {
            return None;
        }
    }
    let mut all = entries(selector, "matchLabels").all(|(key, value)| labels.get(key) == Some(value));
    for term in list(selector, "matchExpressions") {
        let (key, values) = (text(term, "key"), list(term, "values"));
        let found = get(labels, key);
        let listed = || values.contains(found);
        let fits = match text(term, "operator") {
            "In" if !values.is_empty() => has(labels, key) && listed(),
            "NotIn" if !values.is_empty() => !has(labels, key) || !listed(),
            "Exists" if values.is_empty() => has(labels, key),
            "DoesNotExist" if values.is_empty() => !has(labels, key),
            _ => return None,
        };
        if !names::qualified(key).is_empty() {
            return None;
        }
        all &= fits;
    }
    Some(all)
}
