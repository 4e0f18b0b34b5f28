//! Server-side apply: which manager owns which fields, and what an applied configuration makes of an object
//! (structured merge, as `sigs.k8s.io/structured-merge-diff` defines it). Pure: objects in, objects out.
//!
//! [`track`] takes note of every write that is no apply, [`apply`] is one. Both work on a kind's [`Root`], which knows
//! which lists and maps are one value and how the elements of the others are told apart, and on the [`Reset`] of the
//! path: what a write there does not set.

mod atomics;
mod check;
mod compare;
mod configure;
mod conflict;
mod fields;
mod last_applied;
mod managed;
mod merge;
mod problem;
mod remove;
mod reset;
mod scale;
mod set;
mod track;
mod types;
mod walk;

use serde_json::Value;

pub use configure::apply;
pub use managed::{ManagedError, check_managed_fields};
pub use reset::Reset;
pub use scale::{scale_managers, set_scale_managers};
pub use set::{Path, PathElement, Set, SetError};
pub use track::{MAX_MANAGER, MAX_UPDATE_MANAGERS, Writer, manager_of, track};
pub use types::{Root, Types};

/// Lays a part of an object over the object, as a MutatingAdmissionPolicy's ApplyConfiguration does. The part may hold
/// no map or list that is one value; `Err` says what does not fit, as upstream says it. Managers do not change.
pub fn merge_configuration(root: &Root, object: &Value, part: &Value) -> Result<Value, String> {
    let (types, at) = (&*root.types, root.at);
    let checked = |what: &str, value: &Value, duplicates: bool| {
        let problems = check::check(types, at, value, duplicates);
        problems.into_result().map_err(|p| format!("failed to convert {what} object to typed object: {p}"))
    };
    checked("patch", part, false)?;
    let atomics = atomics::atomics(types, at, part);
    if !atomics.is_empty() {
        let paths = atomics.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {paths}"
        ));
    }
    checked("original", object, true)?;
    let merged = merge::merge(types, at, object, part).map_err(|p| format!("failed to merge patch: {p}"))?;
    Ok(merged.unwrap_or(Value::Null))
}

/// The fields of an object: every leaf and every list element.
pub fn field_set(root: &Root, object: &Value) -> Result<Set, String> {
    fields::fields(&root.types, root.at, object).map(|(_, set)| set).map_err(|p| p.to_string())
}

/// What a manager has applied, out of the object: a configuration that it can change and apply again. None when the
/// manager owns nothing by an apply.
pub fn extract(root: &Root, object: &Value, manager: &str, subresource: &str) -> Option<Value> {
    let managed = managed::Managed::of(object);
    let entry = managed.get(&managed::Manager::new(manager, true, "", subresource))?;
    let set = remove::with_keys(&entry.set.leaves());
    let mut out = match remove::extract(&root.types, root.at, object, &set) {
        Value::Object(out) => out,
        _ => serde_json::Map::new(),
    };
    for name in ["apiVersion", "kind"] {
        if let Some(value) = object.get(name) {
            out.insert(name.to_owned(), value.clone());
        }
    }
    Some(Value::Object(out))
}

/// Takes the times of `managedFields` from what is stored when nothing but times would change: a write that changes
/// nothing is none.
pub fn keep_times(live: &Value, new: &mut Value) {
    let (Some(old), Some(entries)) = (managed::raw(live), managed::raw(new)) else { return };
    if old != entries && same_but_managers(live, new) && without_times(old) == without_times(entries) {
        let old = old.clone();
        track::put(new, Some(old));
    }
}

fn without_times(entries: &Value) -> Vec<Value> {
    let mut entries = entries.as_array().cloned().unwrap_or_default();
    for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
        entry.shift_remove("time");
    }
    entries.sort_by_cached_key(Value::to_string);
    entries
}

fn same_but_managers(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
    let empty = serde_json::Map::new();
    let ours = a.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let theirs = b.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let within = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>| {
        a.iter().all(|(name, value)| name == "managedFields" || b.get(name) == Some(value))
    };
    // Most writes differ in their metadata: that is looked at first.
    within(ours, theirs)
        && within(theirs, ours)
        && a.len() == b.len()
        && a.iter().all(|(name, value)| name == "metadata" || b.get(name) == Some(value))
}

#[cfg(test)]
mod tests;
