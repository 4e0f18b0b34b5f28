//! Custom kinds: one version of a CustomResourceDefinition, compiled once when the definition changes, and what that
//! means for each object: decoding, pruning, defaults, validation, columns.

mod check;
mod columns;
mod definition;
pub mod formats;
mod jsonpath;
mod lists;
mod prune;
pub(crate) mod rules;
mod scale;
pub mod schema;
#[cfg(test)]
mod tests;
pub(crate) mod valid;

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::columns::Column;
use self::schema::Schema;
use crate::apply;
use crate::decode::{self, FieldValidation, Parsed};
use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath, Status};
use crate::strategy::meta;
use crate::validation;

pub use self::definition::{Conversion, Definition, DefinitionError, Version, Webhook};
pub use self::jsonpath::JsonPath;
pub use self::scale::ScalePaths;

/// One served or stored version of a custom kind.
#[derive(Debug)]
pub struct Kind {
    resource: &'static Resource,
    schema: Schema,
    /// The type for server-side apply.
    apply: apply::Root,
    columns: Vec<Column>,
    scale: Option<ScalePaths>,
    /// What clients of a deprecated version are told.
    warning: Option<String>,
    /// `openAPIV3Schema` as it is published.
    published: Value,
}

impl Kind {
    /// The names under which it is served.
    pub fn resource(&self) -> &'static Resource {
        self.resource
    }

    /// The type for server-side apply.
    pub fn apply_type(&self) -> &apply::Root {
        &self.apply
    }

    /// The paths of the scale subresource.
    pub fn scale(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    /// What clients of a deprecated version are told.
    pub fn deprecation(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// `openAPIV3Schema` as it stands in the definition.
    pub fn published(&self) -> &Value {
        &self.published
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
        let Parsed { mut value, duplicates } = parsed;
        self.check_version(&value)?;
        let framed = |why: &str| {
            decode::cannot_be_handled(self.resource.kind, self.resource.version, self.resource.kind, why)
        };
        let problems = self.shape(&mut value, duplicates).map_err(|why| framed(&why))?;
        match validation {
            FieldValidation::Strict if !problems.is_empty() => {
                Err(framed(&format!("strict decoding error: {}", problems.join(", "))))
            }
            FieldValidation::Warn => Ok((value, problems)),
            _ => Ok((value, Vec::new())),
        }
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
        const SHOWN: usize = 4096;
        let Parsed { mut value, duplicates } = parsed;
        let bad = |why: String| {
            let shown = String::from_utf8_lossy(&patch[..patch.len().min(SHOWN)]).into_owned();
            Status::invalid(("", ""), "", &[FieldError::invalid("patch", shown, why)])
        };
        if !value.is_object() {
            return Err(bad(format!("json: cannot unmarshal {value} into an object")));
        }
        let problems = self.shape(&mut value, duplicates).map_err(bad)?;
        match validation {
            FieldValidation::Strict if !problems.is_empty() => {
                Err(bad(format!("strict decoding error: {}", problems.join(", "))))
            }
            FieldValidation::Warn => Ok((value, problems)),
            _ => Ok((value, Vec::new())),
        }
    }

    fn check_version(&self, value: &Value) -> Result<(), Status> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let shown = || value.to_string().chars().take(1024).collect::<String>();
        let unrecognized = |why: String| {
            let kind = self.resource.kind;
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {why}"
            ))
        };
        if !value.is_object() {
            return Err(unrecognized(format!("json: cannot unmarshal {} into an object", shown())));
        }
        if text("kind").is_empty() {
            return Err(unrecognized(format!("Object 'Kind' is missing in '{}'", shown())));
        }
        let expected = self.resource.api_version();
        if text("apiVersion") != expected {
            return Err(Status::bad_request(format!(
                "the API version in the data ({}) does not match the expected API version ({expected})",
                text("apiVersion")
            )));
        }
        Ok(())
    }

    /// Metadata in shape, unknown members and nulls gone. `Ok` are the sentences about what is gone.
    fn shape(&self, value: &mut Value, duplicates: Vec<String>) -> Result<Vec<String>, String> {
        let mut problems: Vec<String> =
            duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")).collect();
        if let Some(metadata) = value.get_mut("metadata") {
            if metadata.is_null() {
                *metadata = Value::Object(Map::new());
            }
            problems.extend(decode::metadata_of(metadata, "metadata")?);
        }
        let mut dropped = prune::Dropped::default();
        prune::prune(value, Some(&self.schema), true, &mut dropped);
        dropped.paths.sort();
        problems.extend(dropped.paths.into_iter().map(|path| format!("unknown field \"{path}\"")));
        prune::drop_nulls(value, &self.schema);
        prune::embedded(value, &self.schema, "", &mut problems).map_err(|e| e.to_string())?;
        problems.truncate(decode::MAX_PROBLEMS);
        Ok(problems)
    }

    /// What a stored or converted object looks like under today's schema: pruned and with defaults.
    pub fn refresh(&self, value: &mut Value) {
        let mut dropped = prune::Dropped::silent();
        prune::prune(value, Some(&self.schema), true, &mut dropped);
        prune::drop_nulls(value, &self.schema);
        prune::defaults(value, &self.schema);
    }

    /// Fills in the defaults of the schema.
    pub fn defaults(&self, object: &mut Value) {
        prune::defaults(object, &self.schema);
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
        let mut out = self.type_errors(object);
        if !out.is_empty() {
            return out;
        }
        validation::meta::create(&mut out, self.resource, object);
        out.extend(check::check(&self.schema, object, None, ""));
        if let Some(scale) = &self.scale {
            scale.check_spec(object, &mut out);
            scale.check_status(object, &mut out);
        }
        lists::check(&self.schema, object, &FieldPath::default(), &mut out);
        out
    }

    /// Checks an update.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.type_errors(new);
        if !out.is_empty() {
            return out;
        }
        validation::meta::update(&mut out, new, old);
        out.extend(check::check(&self.schema, new, Some(old), ""));
        if let Some(scale) = &self.scale {
            scale.check_spec(new, &mut out);
            scale.check_status(new, &mut out);
        }
        self.check_lists(new, old, &mut out);
        out
    }

    /// Checks an update of the status.
    pub fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.type_errors(new);
        if !out.is_empty() {
            return out;
        }
        validation::meta::update(&mut out, new, old);
        if let (Some(schema), Some(status)) = (self.schema.properties.get("status"), new.get("status")) {
            out.extend(check::check(schema, status, old.get("status"), "status"));
        }
        if let Some(scale) = &self.scale {
            scale.check_status(new, &mut out);
        }
        self.check_lists(new, old, &mut out);
        out
    }

    /// Lists that repeated themselves before may go on doing so.
    fn check_lists(&self, new: &Value, old: &Value, out: &mut Vec<FieldError>) {
        let mut before = Vec::new();
        lists::check(&self.schema, old, &FieldPath::default(), &mut before);
        if before.is_empty() {
            lists::check(&self.schema, new, &FieldPath::default(), out);
        }
    }

    fn type_errors(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for (name, expected) in
            [("kind", self.resource.kind.to_owned()), ("apiVersion", self.resource.api_version())]
        {
            let said = object.get(name).and_then(Value::as_str).unwrap_or_default();
            if said != expected {
                out.push(FieldError::invalid(name, said, format!("must be {expected}")));
            }
        }
        out
    }

    /// What a client is told of finalizers that it should name otherwise.
    pub fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let list = |object: &Value| {
            let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
            list.cloned().unwrap_or_default()
        };
        let before = old.map(list).unwrap_or_default();
        let mut added = list(object);
        added.retain(|name| !before.contains(name));
        let mut out = Vec::new();
        for name in added.iter().filter_map(Value::as_str) {
            let known = ["orphan", "foregroundDeletion", "kubernetes"];
            if !name.contains('/') && !known.contains(&name) {
                let path = if name.contains('.') { " including a path (/)" } else { "" };
                out.push(format!(
                    "metadata.finalizers: \"{name}\": prefer a domain-qualified finalizer name{path} to avoid \
                     accidental conflicts with other finalizer writers"
                ));
            }
        }
        out
    }

    /// The columns of a table, as `TableColumnDefinition`s.
    pub fn columns(&self) -> Vec<Value> {
        columns::definitions(&self.columns)
    }

    /// The cells of one object, as many as there are columns.
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::row(&self.columns, object, now)
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
