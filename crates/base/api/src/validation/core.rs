//! ConfigMaps, Secrets, namespaces and leases.

use base64::Engine as _;
use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::same_option;

use super::read::{Errors, entries, flag, get, has, immutable, int, invalid_each, map, text, texts};
use super::{meta, names};

/// The bytes that all values of a ConfigMap or Secret together may have.
const MAX_DATA: usize = 1024 * 1024;

/// The bytes that base64 text stands for.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|c| *c == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// Data marked immutable stays as it is.
fn keep_immutable(out: &mut Errors, new: &Value, old: &Value, fields: &[&str]) {
    if !flag(old, "immutable") {
        return;
    }
    let sentence = "field is immutable when `immutable` is set";
    if !flag(new, "immutable") {
        out.push(FieldError::forbidden("immutable", sentence));
    }
    for field in fields {
        if !same_option(new.get(*field), old.get(*field)) {
            out.push(FieldError::forbidden(*field, sentence));
        }
    }
}

pub(super) fn config_map(out: &mut Errors, object: &Value, old: Option<&Value>) {
    if let Some(old) = old {
        keep_immutable(out, object, old, &["data", "binaryData"]);
    }
    let mut size = 0;
    let binary = map(object, "binaryData");
    for (key, value) in entries(object, "data") {
        let path = FieldPath::new("data").key(key);
        invalid_each(out, &path, key, names::config_key(key));
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            let sentence = "duplicate of key present in binaryData";
            out.push(FieldError::invalid(&path, key.as_str(), sentence));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(object, "binaryData") {
        invalid_each(out, &FieldPath::new("binaryData").key(key), key, names::config_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_DATA {
        out.push(FieldError::too_long("[]", MAX_DATA));
    }
}

pub(super) fn secret(out: &mut Errors, object: &Value, old: Option<&Value>) {
    if let Some(old) = old {
        immutable(out, &FieldPath::new("type"), get(object, "type"), get(old, "type"));
        keep_immutable(out, object, old, &["data"]);
    }
    let path = FieldPath::new("data");
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        invalid_each(out, &path.key(key), key, names::config_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_DATA {
        out.push(FieldError::too_long(&path, MAX_DATA));
    }
    let data = get(object, "data");
    let mut need = |key: &str| {
        // A key that holds nothing is a key all the same.
        let there = data.get(key).is_some();
        if !there {
            out.push(FieldError::required(path.key(key), ""));
        }
        there
    };
    match text(object, "type") {
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => {
            out.push(FieldError::required(path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/basic-auth" if data.get("username").or(data.get("password")).is_none() => {
            need("username");
            need("password");
        }
        kind @ ("kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") => {
            let key = if kind.ends_with("json") { ".dockerconfigjson" } else { ".dockercfg" };
            let there = need(key);
            if there {
                json_object(out, &path.key(key), text(data, key));
            }
        }
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if meta::annotation(object, key).is_empty() {
                out.push(FieldError::required(FieldPath::new("metadata.annotations").key(key), ""));
            }
        }
        _ => {}
    }
}

/// The base64 text has to hold a JSON object; its content is never shown.
fn json_object(out: &mut Errors, path: &FieldPath, encoded: &str) {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    let sentence = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
        Err(_) if bytes.is_empty() => "unexpected end of JSON input".to_owned(),
        Err(error) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        Err(error) => error.to_string(),
    };
    out.push(FieldError::invalid(path, "<secret contents redacted>", sentence));
}

/// A namespace is `Terminating` exactly while it is being deleted.
pub(super) fn namespace_status(out: &mut Errors, object: &Value) {
    let phase = text(get(object, "status"), "phase");
    let going = has(get(object, "metadata"), "deletionTimestamp");
    let (wanted, sentence) = if going {
        ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
    } else {
        ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
    };
    if phase != wanted {
        out.push(FieldError::invalid("status.Phase", phase, sentence));
    }
}

/// The finalizers of a namespace's spec.
pub(super) fn finalizers(out: &mut Errors, object: &Value) {
    for (i, finalizer) in texts(get(object, "spec"), "finalizers").iter().enumerate() {
        let path = FieldPath::new("spec.finalizers").index(i);
        let wrong = names::qualified(finalizer);
        let fine = wrong.is_empty();
        invalid_each(out, &path, finalizer, wrong);
        let standard = ["kubernetes", "orphan", "foregroundDeletion"].contains(finalizer);
        if fine && !finalizer.contains('/') && !standard {
            let sentence = "name is neither a standard finalizer name nor is it fully qualified";
            out.push(FieldError::invalid(&path, *finalizer, sentence));
        }
    }
}

pub(super) fn lease(out: &mut Errors, object: &Value) {
    let path = FieldPath::new("spec");
    let spec = get(object, "spec");
    if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        out.push(FieldError::invalid(path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    if let Some(times) = int(spec, "leaseTransitions").filter(|times| *times < 0) {
        let sentence = "must be greater than or equal to 0";
        out.push(FieldError::invalid(path.child("leaseTransitions"), times, sentence));
    }
    let strategy = text(spec, "strategy");
    if strategy.is_empty() && !text(spec, "preferredHolder").is_empty() {
        let sentence = "may only be specified if `strategy` is defined";
        out.push(FieldError::forbidden(path.child("preferredHolder"), sentence));
    }
}
