//! `apply`: a configuration is laid over an object, and who owns what is kept.

use serde_json::{Map, Value};

use super::check::check;
use super::compare::compare;
use super::conflict::{self, Conflict};
use super::fields::fields;
use super::last_applied;
use super::managed::{Entry, Managed, Manager, raw};
use super::merge::merge;
use super::problem::Problems;
use super::remove::{reconcile, remove};
use super::reset::{Reset, stripped};
use super::set::Set;
use super::track::{self, Writer, put, take};
use super::types::{Ref, Root, Types};
use super::walk::with_named_fields;
use crate::kinds::{Gvk, split_api_version};
use crate::status::Status;

/// The manager of what was there before the first apply.
const BEFORE: &str = "before-first-apply";

/// Why an apply fails.
enum Failure {
    Conflicts(Vec<Conflict>),
    Status(Box<Status>),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(Box::new(status))
    }
}

/// Applies a configuration. `live` is what is stored, none when the apply creates the object. The result has
/// `managedFields`, and needs defaults like any body; where nothing changes it is `live` but for `managedFields`.
/// Conflicts are 409 with a cause for each field; a configuration that does not fit its type is 500, as upstream.
pub fn apply(
    root: &Root,
    kind: &Gvk,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
    reset: &Reset,
) -> Result<Value, Status> {
    check_kind(kind, config)?;
    let stored = live.and_then(raw).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let managed = Managed::decode(stored)
        .map_err(|why| Status::new(500, "", format!("failed to decode managed fields: {why}")))?;
    let mut base = live.cloned().unwrap_or_else(|| empty(kind));
    take(&mut base);
    let apply = Apply { root, config, writer, reset, name: described(config) };
    let mut outcome = apply.tracked(live.is_some(), &base, managed.clone(), force);
    if let Err(Failure::Conflicts(conflicts)) = &mut outcome
        && writer.manager == last_applied::KUBECTL
        && let Some(allowed) = last_applied::allowed(root, kind, &base)
    {
        conflicts.retain(|c| !allowed.has(&c.path.0));
        if conflicts.is_empty() {
            outcome = apply.tracked(live.is_some(), &base, managed, true);
        }
    }
    let (mut object, managed) = outcome.map_err(|failure| match failure {
        Failure::Conflicts(conflicts) => conflict::status(&conflicts),
        Failure::Status(status) => *status,
    })?;
    if writer.manager == last_applied::KUBECTL {
        last_applied::renew(&mut object, config);
    }
    put(&mut object, managed.encode());
    Ok(object)
}

/// The apiVersion and kind of the configuration must be the path's.
fn check_kind(kind: &Gvk, config: &Value) -> Result<(), Status> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = split_api_version(text("apiVersion"));
    if (group, version, text("kind")) != (kind.group, kind.version, kind.kind) {
        return Err(Status::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={}",
            text("kind")
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(Value::is_array) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

fn empty(kind: &Gvk) -> Value {
    let mut out = Map::new();
    out.insert("apiVersion".to_owned(), kind.api_version().into());
    out.insert("kind".to_owned(), kind.kind.into());
    out.insert("metadata".to_owned(), Value::Object(Map::new()));
    Value::Object(out)
}

/// An object as errors name it.
fn described(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = split_api_version(text("/apiVersion"));
    let (namespace, name, kind) = (text("/metadata/namespace"), text("/metadata/name"), text("/kind"));
    format!("{namespace}/{name}; {group}/{version}, Kind={kind}")
}

struct Apply<'a> {
    root: &'a Root,
    config: &'a Value,
    writer: &'a Writer<'a>,
    reset: &'a Reset,
    name: String,
}

impl Apply<'_> {
    fn types(&self) -> (&Types, Ref) {
        (&self.root.types, self.root.at)
    }

    /// Applies, after making what is there somebody's.
    fn tracked(
        &self,
        exists: bool,
        live: &Value,
        mut managed: Managed,
        force: bool,
    ) -> Result<(Value, Managed), Failure> {
        let (types, at) = self.types();
        if managed.0.is_empty() && exists {
            let nothing = Value::Object(Map::new());
            let found =
                compare(types, at, &nothing, live, Some(self.reset.skip())).map_err(failed("update"))?;
            let before = Manager::new(BEFORE, false, self.writer.api_version, self.writer.subresource);
            let set = found.changed.difference(&metadata());
            let found = super::compare::Comparison { changed: set, ..found };
            track::update(self.root, &mut managed, before, &found, self.writer);
        }
        let problems = check(types, at, self.config, false);
        if !problems.is_empty() {
            let why = format!("failed to create typed patch object ({}): {problems}", self.name);
            return Err(Status::new(500, "", why).into());
        }
        self.merged(live, managed, force)
    }

    fn merged(&self, live: &Value, mut managed: Managed, force: bool) -> Result<(Value, Managed), Failure> {
        let (types, at) = self.types();
        for entry in &mut managed.0 {
            if let Some(set) = reconcile(types, at, &entry.set) {
                entry.set = set;
            }
        }
        let merged = merge(types, at, live, self.config).map_err(failed("merge config"))?;
        let merged = merged.unwrap_or(Value::Null);
        let (_, set) = fields(types, at, self.config).map_err(failed("get field set"))?;
        let own = Manager::new(self.writer.manager, true, self.writer.api_version, self.writer.subresource);
        let last = managed.remove(&own);
        managed.put(Entry {
            manager: own.clone(),
            api_version: self.writer.api_version.to_owned(),
            time: last.as_ref().and_then(|e| e.time.clone()),
            set: self.reset.set_by(set.recursive_difference(self.reset.fields())),
        });
        let object = match &last {
            Some(last) if !last.set.is_empty() => self.prune(merged, &managed, &last.set)?,
            _ => merged,
        };
        self.take_over(live, &object, &mut managed, &own, force)?;
        let changed = !super::set::same(live, &object);
        if let Some(mut entry) = managed.remove(&own) {
            entry.set = entry.set.difference(stripped()).difference(&metadata());
            if changed {
                entry.time = Some(self.writer.now.to_owned());
            }
            managed.put(entry);
        }
        managed.drop_empty();
        Ok((if changed { object } else { live.clone() }, managed))
    }

    /// Others lose what this apply changes, or refuse it.
    fn take_over(
        &self,
        live: &Value,
        object: &Value,
        managed: &mut Managed,
        own: &Manager,
        force: bool,
    ) -> Result<(), Failure> {
        let (types, at) = self.types();
        let found =
            compare(types, at, live, object, Some(self.reset.skip())).map_err(failed("compare objects"))?;
        let found = found.set_by(self.reset);
        let others = managed.0.iter().filter(|e| e.manager != *own);
        let conflicts = others.map(|e| (e.manager.clone(), e.set.intersection(&found.changed)));
        let conflicts: Vec<_> = conflicts.filter(|(_, set)| !set.is_empty()).collect();
        if !force && !conflicts.is_empty() {
            return Err(Failure::Conflicts(conflict::of(conflicts)));
        }
        for entry in managed.0.iter_mut().filter(|e| e.manager != *own) {
            entry.set = entry.set.difference(&found.changed).difference(&found.removed);
        }
        managed.drop_empty();
        Ok(())
    }

    /// Takes out what this manager applied last time and no longer does, unless somebody else owns it.
    fn prune(&self, merged: Value, managed: &Managed, last: &Set) -> Result<Value, Failure> {
        let (types, at) = self.types();
        let named = |set: &Set| with_named_fields(types, Some(at), set);
        let set_of = |value: &Value| {
            fields(types, at, value).map(|(_, set)| named(&set)).map_err(failed("create field set"))
        };
        let last = named(last);
        let pruned = remove(types, at, merged.clone(), &last);
        let owned = managed.0.iter().fold(Set::default(), |all, e| all.union(&e.set));
        let merged_set = set_of(&merged)?;
        // What others own, or this manager still does, comes back.
        let kept = set_of(&pruned)?.union(&named(&owned));
        let pruned = remove(types, at, merged.clone(), &merged_set.difference(&kept));
        // What nobody owned comes back too: only what was this manager's goes.
        let gone = merged_set.difference(&set_of(&pruned)?).intersection(&last);
        Ok(remove(types, at, merged, &gone))
    }
}

fn metadata() -> Set {
    Set::of([super::set::Path::fields(&["metadata"])])
}

fn failed(what: &'static str) -> impl Fn(Problems) -> Failure {
    move |problems| Status::new(500, "", format!("failed to {what}: {problems}")).into()
}
