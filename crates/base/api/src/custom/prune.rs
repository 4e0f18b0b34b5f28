//! What a schema makes of an object before anything is checked: unknown members and nulls go, embedded metadata is put
//! in shape, defaults come.

use serde_json::{Map, Value};

use super::schema::Schema;
use crate::decode::{MAX_PROBLEMS, metadata_of};
use crate::status::FieldError;

/// Members that every whole object has.
fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// The paths of what was dropped.
#[derive(Default)]
pub(super) struct Dropped {
    at: String,
    pub(super) paths: Vec<String>,
    /// Nobody will ask for the paths.
    silent: bool,
}

impl Dropped {
    /// For who does not ask what went.
    pub(super) fn silent() -> Dropped {
        Dropped { silent: true, ..Dropped::default() }
    }

    fn record(&mut self, name: &str) {
        if !self.silent && self.paths.len() < MAX_PROBLEMS {
            let dot = if self.at.is_empty() { "" } else { "." };
            self.paths.push(format!("{}{dot}{name}", self.at));
        }
    }

    fn within<T>(&mut self, part: impl FnOnce(&mut String), run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.at.len();
        if !self.silent {
            part(&mut self.at);
        }
        let result = run(self);
        self.at.truncate(length);
        result
    }

    fn member<T>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let name = |at: &mut String| {
            if !at.is_empty() {
                at.push('.');
            }
            at.push_str(name);
        };
        self.within(name, run)
    }

    fn item<T>(&mut self, index: usize, run: impl FnOnce(&mut Self) -> T) -> T {
        self.within(|at| at.push_str(&format!("[{index}]")), run)
    }
}

/// Drops what the schema does not have; `root`: apiVersion, kind and metadata stay.
pub(super) fn prune(value: &mut Value, schema: Option<&Schema>, root: bool, dropped: &mut Dropped) {
    let preserve = schema.is_some_and(|s| s.preserve);
    match value {
        Value::Object(members) => prune_members(members, schema, root, preserve, dropped),
        Value::Array(items) => {
            let element = schema.and_then(|s| s.items.as_deref());
            if preserve && element.is_none() {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                dropped.item(index, |dropped| prune(item, element, false, dropped));
            }
        }
        _ => {}
    }
}

fn prune_members(
    members: &mut Map<String, Value>,
    schema: Option<&Schema>,
    root: bool,
    preserve: bool,
    dropped: &mut Dropped,
) {
    let whole = root || schema.is_some_and(|s| s.embedded);
    members.retain(|name, value| {
        if whole && is_meta(name) {
            return true;
        }
        if let Some(member) = schema.and_then(|s| s.member(name)) {
            dropped.member(name, |dropped| prune(value, Some(member), false, dropped));
            return true;
        }
        if preserve || schema.is_some_and(|s| matches!(s.additional, super::schema::Additional::Any)) {
            return true;
        }
        dropped.record(name);
        false
    });
}

/// Drops nulls where null is no value and there is no default in its place.
pub(super) fn drop_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(members) => members.retain(|name, value| match schema.member(name) {
            Some(member) if value.is_null() => !member.is_null_dropped(),
            Some(member) => {
                drop_nulls(value, member);
                true
            }
            None => true,
        }),
        Value::Array(items) => {
            if let Some(element) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(item, element));
            }
        }
        _ => {}
    }
}

/// Fills in defaults.
pub(super) fn defaults(value: &mut Value, schema: &Schema) {
    if !schema.has_defaults {
        return;
    }
    let replaced = |value: &Value, schema: &Schema| value.is_null() && !schema.nullable;
    match value {
        Value::Object(members) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if members.get(name).is_none_or(|value| replaced(value, property)) {
                    members.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in members {
                if let Some(member) = schema.member(name) {
                    if replaced(value, member) {
                        *value = member.default.clone().unwrap_or_default();
                    }
                    defaults(value, member);
                }
            }
        }
        Value::Array(items) => {
            let Some(element) = &schema.items else { return };
            for item in items {
                if replaced(item, element) {
                    *item = element.default.clone().unwrap_or_default();
                }
                defaults(item, element);
            }
        }
        _ => {}
    }
}

/// Puts the metadata of embedded resources in shape.
pub(super) fn embedded(
    value: &mut Value,
    schema: &Schema,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), Box<FieldError>> {
    if !schema.has_embedded {
        return Ok(());
    }
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(members) => {
            if schema.embedded {
                for name in ["apiVersion", "kind"] {
                    if let Some(value) = members.get(name).filter(|v| !v.is_string()) {
                        let why = "must be a string";
                        return Err(Box::new(FieldError::invalid(join(name), value.clone(), why)));
                    }
                }
                if let Some(metadata) = members.get_mut("metadata") {
                    let at = join("metadata");
                    let before = metadata.clone();
                    match metadata_of(metadata, &at) {
                        Ok(paths) => unknown.extend(paths),
                        Err(why) => return Err(Box::new(FieldError::invalid(at, before, why))),
                    }
                }
            }
            for (name, value) in members {
                if let Some(property) = schema.properties.get(name) {
                    embedded(value, property, &join(name), unknown)?;
                } else if let Some(other) = schema.member(name) {
                    embedded(value, other, &format!("{path}[{name}]"), unknown)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(element) = &schema.items else { return Ok(()) };
            for (index, item) in items.iter_mut().enumerate() {
                embedded(item, element, &format!("{path}[{index}]"), unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}
