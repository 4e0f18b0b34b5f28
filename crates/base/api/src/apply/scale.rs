//! Managers across the scale subresource: there the replicas have another path and version.

use serde_json::Value;

use super::managed::{Entry, Managed, Manager};
use super::set::{Path, Set};
use super::track::put;

/// The version of a Scale.
const SCALE: &str = "autoscaling/v1";

fn replicas() -> Set {
    Set::of([Path::fields(&["spec", "replicas"])])
}

/// The same manager, whatever version it writes.
fn same(a: &Manager, b: &Manager) -> bool {
    (&a.name, a.applies, &a.subresource) == (&b.name, b.applies, &b.subresource)
}

/// The `managedFields` of an object's Scale: who owns the replicas, which lie at `path` in the object.
pub fn scale_managers(object: &Value, path: &Path) -> Option<Value> {
    let owns = |e: &Entry| e.set.has(&path.0);
    let entry = |e: Entry| Entry {
        manager: Manager::new(&e.manager.name, e.manager.applies, SCALE, &e.manager.subresource),
        api_version: SCALE.to_owned(),
        set: replicas(),
        ..e
    };
    Managed(Managed::of(object).0.into_iter().filter(owns).map(entry).collect()).encode()
}

/// Sets the `managedFields` of an object after its Scale was written: who owns the Scale's replicas owns the object's,
/// and whoever lost them there loses them here.
pub fn set_scale_managers(object: &mut Value, scale: &Value, path: &Path, api_version: &str) {
    let own = Set::of([path.clone()]);
    let mut scaled: Vec<Entry> = Managed::of(scale).0;
    scaled.retain(|e| !e.set.intersection(&replicas()).is_empty());
    let mut managed = Managed::of(object);
    for entry in managed.0.iter_mut().filter(|e| e.set.has(&path.0)) {
        match scaled.iter().position(|s| same(&s.manager, &entry.manager)) {
            Some(at) => {
                let kept = scaled.remove(at);
                entry.time = kept.time.or(entry.time.take());
            }
            None => entry.set = entry.set.difference(&own),
        }
    }
    managed.drop_empty();
    for entry in scaled {
        let Manager { name, applies, subresource, .. } = entry.manager;
        let manager = Manager { name, ..Manager::new("", applies, api_version, &subresource) };
        let before = managed.get(&manager).map(|e| e.set.clone()).unwrap_or_default();
        let set = before.union(&own);
        managed.put(Entry { manager, api_version: api_version.to_owned(), time: entry.time, set });
    }
    put(object, managed.encode());
}
