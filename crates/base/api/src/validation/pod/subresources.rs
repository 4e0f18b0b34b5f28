//! `pods/binding`, `pods/ephemeralcontainers`, `pods/resize`.

use serde_json::Value;

use crate::status::{FieldError, FieldPath, go_quote};
use crate::strategy::compare::same;
use crate::validation::meta;
use crate::validation::read::{Errors, get, list, map, text};

use super::metadata_and_spec;
use super::update::is_mirror;

/// The body of `pods/NAME/binding`.
pub(in crate::validation) fn binding(out: &mut Errors, binding: &Value) {
    let target = get(binding, "target");
    let (kind, name) = (text(target, "kind"), text(target, "name"));
    if !matches!(kind, "" | "Node") {
        out.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if name.is_empty() {
        out.push(FieldError::required("target.name", ""));
    }
}

/// Ephemeral containers may be added, never changed nor removed.
pub(in crate::validation) fn ephemeral_containers(out: &mut Errors, new: &Value, old: &Value) {
    meta::update(out, new, old);
    metadata_and_spec(out, new);
    if is_mirror(old) {
        *out = vec![FieldError::forbidden("[]", "static pods do not support ephemeral containers")];
        return;
    }
    let path = FieldPath::new("spec.ephemeralContainers");
    let now = list(get(new, "spec"), "ephemeralContainers");
    for before in list(get(old, "spec"), "ephemeralContainers") {
        let name = text(before, "name");
        let what = match now.iter().find(|c| text(c, "name") == name) {
            None => "removed\n",
            Some(now) if !same(now, before) => "changed\n",
            Some(_) => continue,
        };
        let sentence = format!("existing ephemeral containers {} may not be {what}", go_quote(name));
        out.push(FieldError::forbidden(&path, sentence));
    }
}

/// Only CPU and memory of containers may change, and no request or limit may vanish.
pub(in crate::validation) fn resize(out: &mut Errors, new: &Value, old: &Value) {
    meta::update(out, new, old);
    metadata_and_spec(out, new);
    if is_mirror(old) {
        *out = vec![FieldError::forbidden("[]", "static pods cannot be resized")];
        return;
    }
    let path = FieldPath::new("spec");
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    let class = text(get(old, "status"), "qosClass");
    if crate::strategy::qos_class(new) != class {
        let sentence = "Pod QOS Class may not change as a result of resizing";
        out.push(FieldError::invalid(&path, class, sentence));
    }
    for key in ["containers", "initContainers"] {
        let (now, was) = (list(spec, key), list(before, key));
        let same_names =
            now.len() == was.len() && now.iter().zip(was).all(|(a, b)| text(a, "name") == text(b, "name"));
        if !same_names {
            let sentence = "containers may not be added, removed, reordered or renamed on resize";
            out.push(FieldError::forbidden(path.child(key), sentence));
            return;
        }
        for (i, (now, was)) in now.iter().zip(was).enumerate() {
            let path = path.child(key).index(i).child("resources");
            let (now, was) = (get(now, "resources"), get(was, "resources"));
            for (list, sentence) in [
                ("requests", "resource requests cannot be removed"),
                ("limits", "resource limits cannot be removed"),
            ] {
                let lost = map(was, list)
                    .is_some_and(|was| was.keys().any(|name| get(now, list).get(name).is_none()));
                if lost {
                    out.push(FieldError::forbidden(path.child(list), sentence));
                }
            }
        }
    }
    let mut undone = spec.clone();
    for key in ["containers", "initContainers"] {
        let Some(containers) = undone.get_mut(key).and_then(Value::as_array_mut) else { continue };
        for (container, was) in containers.iter_mut().zip(list(before, key)) {
            undo(container, was);
        }
    }
    undo(&mut undone, before);
    if out.is_empty() && !same(&undone, before) {
        out.push(FieldError::forbidden(&path, "only cpu and memory resources are mutable"));
    }
}

/// CPU and memory become what they were.
fn undo(holder: &mut Value, was: &Value) {
    for list in ["requests", "limits"] {
        let Some(now) =
            holder.get_mut("resources").and_then(|r| r.get_mut(list)).and_then(Value::as_object_mut)
        else {
            continue;
        };
        for name in ["cpu", "memory"] {
            match get(get(was, "resources"), list).get(name) {
                Some(value) => now.insert(name.to_owned(), value.clone()),
                None => now.shift_remove(name),
            };
        }
    }
    let empty = get(was, "resources").is_null();
    if let (true, Some(holder)) = (empty, holder.as_object_mut()) {
        let gone = holder.get("resources").and_then(Value::as_object).is_some_and(|resources| {
            resources.values().all(|list| list.as_object().is_some_and(serde_json::Map::is_empty))
        });
        if gone {
            holder.shift_remove("resources");
        }
    }
}
