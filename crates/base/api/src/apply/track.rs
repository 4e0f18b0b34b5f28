//! Who owns what after a create, an update or a patch that is no apply.

use serde_json::Value;

use super::compare::{Comparison, compare};
use super::managed::{Entry, Managed, Manager, is_reset, raw, sort};
use super::remove::reconcile;
use super::reset::Reset;
use super::set::{Set, covers, touches};
use super::types::Root;

/// More managers that update than this are gathered under one name, the oldest first.
pub const MAX_UPDATE_MANAGERS: usize = 10;

/// The name under which they are gathered.
const ANCIENT: &str = "ancient-changes";

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The query's `fieldManager`, or what the user agent begins with ([`manager_of`]).
    pub manager: &'a str,
    /// The version of the body, `apps/v1`.
    pub api_version: &'a str,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Now, RFC 3339 with whole seconds.
    pub now: &'a str,
}

/// Takes note of a write: sets `managedFields` of the new object. `live` is what is stored, none when the object is
/// created; `new` is what will be stored, with defaults, before admission changes it.
pub fn track(root: &Root, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>, reset: &Reset) {
    let given = take(new);
    let managed = attempt(root, live, given, new, writer, reset);
    put(new, managed);
}

/// None when nothing is known of anybody; upstream too drops what it cannot work with.
fn attempt(
    root: &Root,
    live: Option<&Value>,
    given: Option<Value>,
    new: &Value,
    writer: &Writer<'_>,
    reset: &Reset,
) -> Option<Value> {
    let entries = entries(live, given.filter(|_| writer.subresource.is_empty()));
    if live.is_some() && entries.as_ref().is_none_or(Vec::is_empty) {
        // Nobody was tracked so far: that begins with the first apply.
        return None;
    }
    let empty = Value::Object(serde_json::Map::new());
    let live = live.unwrap_or(&empty);
    let found = compare(&root.types, root.at, live, new, Some(reset.skip())).ok()?;
    let found = without_metadata(found.set_by(reset));
    let own = Manager::new(writer.manager, false, writer.api_version, writer.subresource);
    let Some(mut entries) = entries else {
        let (set, api_version) = (found.changed, writer.api_version.to_owned());
        let time = Some(writer.now.to_owned());
        let mut managed = Managed(vec![Entry { manager: own, api_version, time, set }]);
        managed.drop_empty();
        return managed.encode();
    };
    if found.is_same() || only_time_changes(&mut entries, &own, &found, writer.now) {
        return Some(Value::Array(entries));
    }
    let mut managed = Managed::decode(&entries).ok()?;
    update(root, &mut managed, own, &found, writer);
    managed.encode()
}

/// The entries to begin with: what the client sends where that can be read, else what is stored; none when the client
/// asks to forget them.
fn entries(live: Option<&Value>, given: Option<Value>) -> Option<Vec<Value>> {
    let stored = live.and_then(raw).and_then(Value::as_array);
    match given {
        Some(Value::Array(entries)) if is_reset(&entries) => None,
        // What came in is what is stored: the common case when a client changes what it has read.
        Some(Value::Array(entries))
            if Some(&entries) == stored || Managed::decode(&entries).is_ok_and(|m| !m.0.is_empty()) =>
        {
            Some(entries)
        }
        _ => stored.cloned(),
    }
}

/// Metadata itself belongs to nobody.
fn without_metadata(mut found: Comparison) -> Comparison {
    let metadata = Set::of([super::set::Path::fields(&["metadata"])]);
    for set in [&mut found.changed, &mut found.removed] {
        if set.field("metadata").is_some_and(|n| n.member) {
            *set = set.difference(&metadata);
        }
    }
    found
}

/// Whether only the time of the writer's entry changes, which is then done. A heartbeat ends here: nothing is decoded or
/// encoded.
fn only_time_changes(entries: &mut [Value], own: &Manager, found: &Comparison, now: &str) -> bool {
    let is_own = |entry: &Value| {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        text("manager") == own.name
            && text("operation") == "Update"
            && text("apiVersion") == own.api_version
            && text("subresource") == own.subresource
    };
    let fields = |entry: &Value, test: fn(&Value, &Set) -> bool| {
        entry.get("fieldsV1").is_some_and(|fields| test(fields, &found.changed))
    };
    let Some(at) = entries.iter().position(is_own) else { return false };
    let others = entries.iter().enumerate().filter(|(index, _)| *index != at);
    let taken = others.map(|(_, entry)| entry).any(|entry| fields(entry, touches));
    if !found.removed.is_empty() || taken || !fields(&entries[at], covers) {
        return false;
    }
    let Some(time) = entries[at].get_mut("time") else { return false };
    if time != now {
        *time = now.into();
        sort(entries);
    }
    true
}

/// The writer takes what changed from everybody else.
pub(super) fn update(
    root: &Root,
    managed: &mut Managed,
    own: Manager,
    found: &Comparison,
    writer: &Writer<'_>,
) {
    for entry in &mut managed.0 {
        if let Some(set) = reconcile(&root.types, root.at, &entry.set) {
            entry.set = set;
        }
        for lost in [&found.changed, &found.removed] {
            if entry.set.meets(lost) {
                entry.set = entry.set.difference(lost);
            }
        }
    }
    managed.drop_empty();
    if !found.changed.is_empty() {
        let before = managed.remove(&own).map(|e| e.set).unwrap_or_default();
        managed.put(Entry {
            manager: own,
            api_version: writer.api_version.to_owned(),
            time: Some(writer.now.to_owned()),
            set: found.changed.union(&before),
        });
    }
    cap(managed);
}

/// Gathers the oldest updates when there are too many.
fn cap(managed: &mut Managed) {
    let mut updates: Vec<_> = managed.0.iter().filter(|e| !e.manager.applies).collect();
    if updates.len() <= MAX_UPDATE_MANAGERS {
        return;
    }
    updates.sort_by_cached_key(|e| (e.time.clone(), e.manager.identifier()));
    let oldest: Vec<Manager> = updates.iter().map(|e| e.manager.clone()).collect();
    let mut count = oldest.len();
    let mut first: Vec<(String, Manager)> = Vec::new();
    for manager in oldest {
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        let Some(version) = managed.get(&manager).map(|e| e.api_version.clone()) else { continue };
        let bucket = Manager::new(ANCIENT, false, &version, "");
        let Some((_, begun)) = first.iter().find(|(v, _)| *v == version) else {
            first.push((version, manager));
            continue;
        };
        if managed.get(&bucket).is_none()
            && let Some(entry) = managed.remove(begun)
        {
            managed.put(Entry { manager: bucket.clone(), ..entry });
        }
        let (Some(entry), Some(gathered)) = (managed.remove(&manager), managed.remove(&bucket)) else {
            continue;
        };
        let set = entry.set.union(&gathered.set);
        managed.put(Entry { manager: bucket, api_version: version, time: entry.time, set });
        count -= 1;
    }
}

/// Takes `managedFields` out of an object.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.shift_remove("managedFields").filter(|v| !v.is_null())
}

/// Sets or removes `managedFields`.
pub(super) fn put(object: &mut Value, managed: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match managed {
        Some(managed) => {
            metadata.insert("managedFields".to_owned(), managed);
        }
        None => {
            metadata.shift_remove("managedFields");
        }
    }
}

/// The longest name of a manager, in bytes.
pub const MAX_MANAGER: usize = 128;

/// The manager that a request is of: what it says, or what its user agent begins with.
pub fn manager_of(said: &str, user_agent: &str) -> String {
    if !said.is_empty() {
        return said.to_owned();
    }
    let mut out = String::new();
    let printable = |c: &char| !c.is_control() && (*c == ' ' || !c.is_whitespace());
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(printable) {
        if out.len() + c.len_utf8() > MAX_MANAGER {
            break;
        }
        out.push(c);
    }
    out
}
