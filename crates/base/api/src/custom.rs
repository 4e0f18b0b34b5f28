//! Custom kinds: one version of a CustomResourceDefinition, compiled once when the definition changes, and what that
//! means for each object: decoding, pruning, defaults, validation, columns.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::decode::{FieldValidation, Parsed};
use crate::kinds::Resource;
use crate::status::{FieldError, Status};
use crate::strategy::meta;
use crate::validation;

/// One served or stored version of a custom kind.
#[derive(Debug)]
pub struct Kind {
    resource: &'static Resource,
}

impl Kind {
    /// A kind without a schema.
    pub fn new(resource: &'static Resource) -> Kind {
        Kind { resource }
    }

    /// The names under which it is served.
    pub fn resource(&self) -> &'static Resource {
        self.resource
    }

    /// Makes an object of this kind out of a body: checks apiVersion and kind, and drops what the schema does not
    /// have. The second part is the warnings that the client gets.
    ///
    /// # Errors
    /// 400 for another kind, for bad metadata, and for unknown or duplicate fields under strict validation.
    pub fn decode(
        &self,
        parsed: Parsed,
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        let _ = validation;
        Ok((parsed.value, Vec::new()))
    }

    /// Makes an object out of the result of a patch.
    ///
    /// # Errors
    /// As [`Kind::decode`], but 422 on the field `patch`.
    pub fn patched(
        &self,
        parsed: Parsed,
        validation: FieldValidation,
        patch: &[u8],
    ) -> Result<(Value, Vec<String>), Status> {
        let _ = patch;
        self.decode(parsed, validation)
    }

    /// Fills in the defaults of the schema.
    pub fn defaults(&self, object: &mut Value) {
        let _ = object;
    }

    /// Prepares an object for its creation: no status when that is a subresource, generation 1.
    pub fn prepare_create(&self, object: &mut Value) {
        let Some(object) = object.as_object_mut() else { return };
        meta::prepare_create(object);
        if self.has_status() {
            object.shift_remove("status");
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("generation".into(), 1.into());
        }
    }

    /// Prepares an update: keeps the old status when that is a subresource, and counts the generation when anything
    /// but metadata (and status) changed.
    pub fn prepare_update(&self, new: &mut Value, old: &Value) {
        let (Some(object), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
        meta::prepare_update(object, before);
        if self.has_status() {
            keep(object, before, "status");
        }
        let others = |o: &Map<String, Value>| o.keys().filter(|k| counts(k)).count();
        let same = others(object) == others(before)
            && object.iter().filter(|(k, _)| counts(k)).all(|(k, v)| before.get(k) == Some(v));
        if !same {
            meta::bump_generation(object, before);
        }
    }

    /// Prepares an update of the status: everything else stays as it was, but for the managed fields.
    pub fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        let (Some(object), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
        let status = object.shift_remove("status");
        let take = |name: &str| object.get("metadata").and_then(|m| m.get(name)).cloned();
        let (managed, version) = (take("managedFields"), take("resourceVersion"));
        let mut out = before.clone();
        match status {
            Some(status) => drop(out.insert("status".into(), status)),
            None => drop(out.shift_remove("status")),
        }
        if let Some(metadata) = out.get_mut("metadata").and_then(Value::as_object_mut) {
            for (name, value) in [("managedFields", managed), ("resourceVersion", version)] {
                match value {
                    Some(value) => drop(metadata.insert(name.into(), value)),
                    None => drop(metadata.shift_remove(name)),
                }
            }
        }
        *object = out;
    }

    /// Checks an object that is about to be created.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        validation::meta::create(&mut out, self.resource, object);
        out
    }

    /// Checks an update.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        validation::meta::update(&mut out, new, old);
        out
    }

    /// Checks an update of the status.
    pub fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        self.validate_update(new, old)
    }

    /// The columns of a table, as `TableColumnDefinition`s.
    pub fn columns(&self) -> Vec<Value> {
        Vec::new()
    }

    /// The cells of one object, as many as there are columns.
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let _ = (object, now);
        Vec::new()
    }

    fn has_status(&self) -> bool {
        self.resource.subresource("status").is_some()
    }
}

/// Whether a change of this member makes a new generation.
fn counts(key: &str) -> bool {
    !matches!(key, "metadata" | "apiVersion" | "kind")
}

/// The value of the key becomes what it was.
fn keep(object: &mut Map<String, Value>, before: &Map<String, Value>, key: &str) {
    match before.get(key) {
        Some(value) => drop(object.insert(key.to_owned(), value.clone())),
        None => drop(object.shift_remove(key)),
    }
}
