//! PersistentVolumes and their claims.

use serde_json::{Map, Value};

use crate::defaults::Object;
use crate::defaults::edit::{absent, child, text};

use super::now;

/// What a claim is filled from has an old name and a new one: each says what the other does. Old clients may only
/// name claims and snapshots, anything else is dropped as it always was.
pub(super) fn prepare(object: &mut Object, before: Option<&Object>) {
    let Some(spec) = child(object, "spec") else { return };
    let old = before.and_then(|before| before.get("spec")).and_then(Value::as_object);
    let had = |key: &str| old.is_some_and(|old| !absent(old, key));
    // References into other namespaces are behind a gate that is closed.
    let foreign = child(spec, "dataSourceRef").is_some_and(|r| !text(r, "namespace").is_empty());
    if foreign && !had("dataSourceRef") {
        spec.shift_remove("dataSourceRef");
    }
    if !had("dataSource") && absent(spec, "dataSourceRef") && !absent(spec, "dataSource") {
        let plain = child(spec, "dataSource").is_some_and(|source| {
            matches!(
                (text(source, "apiGroup"), text(source, "kind")),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            )
        });
        if !plain {
            spec.shift_remove("dataSource");
        }
    }
    let copy = |source: &Value| {
        let names = ["apiGroup", "kind", "name"];
        let there = names.iter().filter_map(|n| Some(((*n).to_owned(), source.get(*n)?.clone())));
        Value::Object(there.collect::<Map<_, _>>())
    };
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source @ Value::Object(_)), None | Some(Value::Null)) => {
            spec.insert("dataSourceRef".to_owned(), copy(&source));
        }
        (None | Some(Value::Null), Some(reference @ Value::Object(_)))
            if reference.get("namespace").and_then(Value::as_str).unwrap_or_default().is_empty() =>
        {
            spec.insert("dataSource".to_owned(), copy(&reference));
        }
        _ => {}
    }
}

/// A volume remembers when its phase changed last.
pub(super) fn volume_phase(object: &mut Object, before: &Object) {
    const KEY: &str = "lastPhaseTransitionTime";
    let old = before.get("status").and_then(Value::as_object);
    let (old_phase, old_time) =
        (old.map_or("", |old| text(old, "phase")), old.map_or("", |old| text(old, KEY)));
    let Some(status) = child(object, "status") else { return };
    let same = text(status, "phase") == old_phase;
    let time = text(status, KEY).to_owned();
    if same && time.is_empty() && !old_time.is_empty() {
        status.insert(KEY.to_owned(), old_time.into());
    } else if !same && (time.is_empty() || time == old_time) {
        status.insert(KEY.to_owned(), now().into());
    }
}
