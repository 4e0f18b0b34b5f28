//! Reading a JSON object as the rules do: what is absent or of another type reads as Go's zero value.

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::{same, same_option};

static NULL: Value = Value::Null;

/// The value at the key; `null` when there is none.
pub(super) fn get<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&NULL)
}

/// Whether something is at the key.
pub(super) fn has(value: &Value, key: &str) -> bool {
    !get(value, key).is_null()
}

/// The text at the key.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    get(value, key).as_str().unwrap_or_default()
}

/// The whole number at the key, when there is one.
pub(super) fn int(value: &Value, key: &str) -> Option<i64> {
    get(value, key).as_i64()
}

/// The whole number at the key; 0 when there is none.
pub(super) fn number(value: &Value, key: &str) -> i64 {
    int(value, key).unwrap_or(0)
}

/// The flag at the key, when there is one.
pub(super) fn maybe(value: &Value, key: &str) -> Option<bool> {
    get(value, key).as_bool()
}

/// The flag at the key; false when there is none.
pub(super) fn flag(value: &Value, key: &str) -> bool {
    maybe(value, key).unwrap_or(false)
}

/// The items of the list at the key.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    get(value, key).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The texts of the list at the key.
pub(super) fn texts<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    list(value, key).iter().map(|v| v.as_str().unwrap_or_default()).collect()
}

/// The entries of the map at the key.
pub(super) fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map(value, key).into_iter().flatten()
}

/// The map at the key.
pub(super) fn map<'a>(value: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    get(value, key).as_object()
}

/// The value at a path of keys joined by dots; `null` when there is none.
pub(super) fn deep<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |at, key| get(at, key))
}

/// The errors of one object.
pub(super) type Errors = Vec<FieldError>;

/// Adds an `Invalid` for each sentence.
pub(super) fn invalid_each(out: &mut Errors, path: &FieldPath, value: &str, sentences: Vec<String>) {
    out.extend(sentences.into_iter().map(|sentence| FieldError::invalid(path, value, sentence)));
}

/// The text has to be one of these; the empty one is missing.
pub(super) fn one_of(out: &mut Errors, path: &FieldPath, value: &str, supported: &[&str]) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        out.push(FieldError::not_supported(path, value, supported));
    }
}

/// The text, where there is one, has to be one of these.
pub(super) fn one_of_if_set(out: &mut Errors, path: &FieldPath, value: &Value, supported: &[&str]) {
    if let Some(text) = value.as_str()
        && !supported.contains(&text)
    {
        out.push(FieldError::not_supported(path, text, supported));
    }
}

/// The number at the key may not be below zero.
pub(super) fn not_negative(out: &mut Errors, path: &FieldPath, value: &Value, key: &str) {
    let number = number(value, key);
    if number < 0 {
        let path = path.child(key);
        out.push(FieldError::invalid(path, number, "must be greater than or equal to 0"));
    }
}

/// The value may not change: `field is immutable`.
pub(super) fn immutable(out: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    if !same_option(Some(new), Some(old)) {
        out.push(FieldError::invalid(path, new.clone(), "field is immutable"));
    }
}

/// The amount has to be more than nothing.
pub(super) fn positive(out: &mut Errors, path: &FieldPath, amount: &Quantity) {
    if amount.sign() <= 0 {
        out.push(FieldError::invalid(path, amount.canonical(), "must be greater than zero"));
    }
}

/// At most so many lines say what differs.
const DIFF_LINES: usize = 40;

/// What differs, a line for each value that was and that is.
pub(super) fn diff(path: &str, new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    differences(&mut lines, path, new, old);
    lines.join("\n")
}

/// Lines that say what differs, at most [`DIFF_LINES`].
fn differences(lines: &mut Vec<String>, path: &str, new: &Value, old: &Value) {
    if lines.len() >= DIFF_LINES || same(new, old) {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let at = format!("{path}.{key}");
                if !same_option(a.get(key), b.get(key)) {
                    differences(lines, &at, get(new, key), get(old, key));
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(lines, &format!("{path}[{i}]"), a, b);
            }
        }
        _ => {
            lines.push(format!("- {path}: {old}"));
            lines.push(format!("+ {path}: {new}"));
        }
    }
}
