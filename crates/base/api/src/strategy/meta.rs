//! The parts of `metadata` that only the server sets.

use serde_json::Value;

use crate::defaults::Object;
use crate::defaults::edit::{absent, child, ensure, text};

/// A new object is not being deleted, and has no resourceVersion yet.
pub(crate) fn prepare_create(object: &mut Object) {
    let Some(metadata) = ensure(object, "metadata") else { return };
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.shift_remove(key);
    }
    metadata.shift_remove("generation");
}

/// An update keeps uid, creation, deletion and generation; whoever sent another uid is told by validation.
pub(crate) fn prepare_update(object: &mut Object, before: &Object) {
    let Some(old) = before.get("metadata").and_then(Value::as_object) else { return };
    let Some(metadata) = ensure(object, "metadata") else { return };
    if text(metadata, "uid").is_empty() {
        keep_in(metadata, old, "uid");
    }
    for key in ["creationTimestamp", "generation"] {
        keep_in(metadata, old, key);
    }
    if !absent(old, "deletionTimestamp") {
        keep_in(metadata, old, "deletionTimestamp");
    }
    if absent(metadata, "deletionGracePeriodSeconds") {
        keep_in(metadata, old, "deletionGracePeriodSeconds");
    }
    metadata.shift_remove("selfLink");
}

/// Sets the generation to one more than before.
pub(crate) fn bump_generation(object: &mut Object, before: &Object) {
    let generation = before.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64);
    if let Some(metadata) = child(object, "metadata") {
        metadata.insert("generation".into(), generation.unwrap_or(0).saturating_add(1).into());
    }
}

/// The field of the metadata becomes what it was.
pub(super) fn keep(object: &mut Object, before: &Object, key: &str) {
    let none = Object::new();
    let old = before.get("metadata").and_then(Value::as_object).unwrap_or(&none);
    if let Some(metadata) = child(object, "metadata") {
        keep_in(metadata, old, key);
    }
}

/// A status update that changes nothing of the metadata but what the server itself writes.
pub(super) fn keep_for_status(object: &mut Object, before: &Object) {
    for key in ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp", "generation"] {
        keep(object, before, key);
    }
}

fn keep_in(metadata: &mut Object, old: &Object, key: &str) {
    match old.get(key) {
        Some(value) => {
            metadata.insert(key.to_owned(), value.clone());
        }
        None => {
            metadata.shift_remove(key);
        }
    }
}
