//! `pods/resize`: CPU and memory of containers and of the pod, and nothing else.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::same;
use crate::validation::meta;
use crate::validation::read::{Errors, get, has, list, map, text};

use super::metadata_and_spec;
use super::update::is_mirror;

const ONLY: &str = "only cpu and memory resources are mutable";

/// Only CPU and memory may change, and no request or limit may vanish.
pub(in crate::validation) fn resize(out: &mut Errors, new: &Value, old: &Value) {
    meta::update(out, new, old);
    metadata_and_spec(out, new);
    let path = FieldPath::new("spec");
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    for (never, what) in
        [(is_mirror(old), "static"), (text(get(before, "os"), "name") == "windows", "windows")]
    {
        if never {
            *out = vec![FieldError::forbidden("[]", format!("{what} pods cannot be resized"))];
            return;
        }
    }
    let class = match text(get(old, "status"), "qosClass") {
        "" => crate::strategy::qos_class(old),
        class => class,
    };
    if crate::strategy::qos_class(new) != class {
        let sentence = "Pod QOS Class may not change as a result of resizing";
        out.push(FieldError::invalid(&path, text(get(new, "status"), "qosClass"), sentence));
    }
    if !is_supported(get(old, "status")) {
        out.push(FieldError::forbidden(&path, "Pod running on node without support for resize"));
    }
    let mut undone = spec.clone();
    pod_level(out, &path, &mut undone, before);
    if !list(get(old, "status"), "nodeAllocatableResourceClaimStatuses").is_empty() {
        let sentence = "pods with node allocatable resource claims cannot be resized";
        out.push(FieldError::forbidden(&path, sentence));
    }
    if !in_order(out, &path, spec, before) {
        return;
    }
    for key in ["initContainers", "containers"] {
        for (i, (now, was)) in list(spec, key).iter().zip(list(before, key)).enumerate() {
            let path = path.child(key).index(i).child("resources");
            removed(out, &path, "", get(now, "resources"), get(was, "resources"));
        }
    }
    containers(out, &path, &mut undone, before);
    if out.is_empty() && !same(&undone, before) {
        out.push(FieldError::forbidden(&path, ONLY));
    }
}

/// A node that can resize says of running containers what they have.
fn is_supported(status: &Value) -> bool {
    let mut statuses = list(status, "containerStatuses").iter();
    let running = statuses.find(|container| has(get(container, "state"), "running"));
    running.is_none_or(|container| has(container, "resources"))
}

fn pod_level(out: &mut Errors, path: &FieldPath, spec: &mut Value, before: &Value) {
    let set = |spec: &Value| {
        let of = |list| map(get(spec, "resources"), list).is_some_and(|list| !list.is_empty());
        of("requests") || of("limits")
    };
    if !set(spec) && !set(before) {
        return;
    }
    if has(before, "resources") && !has(spec, "resources") {
        let sentence = "pod-level resources cannot be removed";
        out.push(FieldError::forbidden(path.child("resources"), sentence));
        return;
    }
    removed(out, &path.child("resources"), "pod-level ", get(spec, "resources"), get(before, "resources"));
    undo(spec, before);
    if !same(get(spec, "resources"), get(before, "resources")) {
        out.push(FieldError::forbidden(path, format!("{ONLY} at pod-level")));
    }
}

/// Containers come in the same order with the same names.
fn in_order(out: &mut Errors, path: &FieldPath, spec: &Value, before: &Value) -> bool {
    let count = out.len();
    for key in ["containers", "initContainers"] {
        let (path, now, was) = (path.child(key), list(spec, key), list(before, key));
        if now.len() != was.len() {
            let sentence = format!("{key} may not be added or removed on resize");
            out.push(FieldError::forbidden(path, sentence));
            continue;
        }
        for (i, _) in now.iter().zip(was).enumerate().filter(|(_, (a, b))| text(a, "name") != text(b, "name"))
        {
            let sentence = format!("{key} may not be renamed or reordered on resize");
            out.push(FieldError::forbidden(path.index(i).child("name"), sentence));
        }
    }
    out.len() == count
}

fn removed(out: &mut Errors, path: &FieldPath, level: &str, now: &Value, was: &Value) {
    for (list, what) in [("requests", "requests"), ("limits", "limits")] {
        let lost = map(was, list).is_some_and(|was| was.keys().any(|name| !has(get(now, list), name)));
        if lost {
            let sentence = format!("{level}resource {what} cannot be removed");
            out.push(FieldError::forbidden(path.child(list), sentence));
        }
    }
}

/// Takes back what may change of the containers; what then differs may not.
fn containers(out: &mut Errors, path: &FieldPath, spec: &mut Value, before: &Value) {
    for key in ["containers", "initContainers"] {
        let Some(now) = spec.get_mut(key).and_then(Value::as_array_mut) else { continue };
        for (i, (container, was)) in now.iter_mut().zip(list(before, key)).enumerate() {
            let changed = !same(container, was);
            undo(container, was);
            let same = same(container, was);
            if key == "containers" {
                if !same {
                    out.push(FieldError::forbidden(path, ONLY));
                }
                continue;
            }
            let path = path.child(key).index(i);
            if !same {
                let sentence = "only cpu and memory resources for init or sidecar containers are mutable";
                out.push(FieldError::forbidden(&path, sentence));
            }
            let sidecar = text(container, "restartPolicy") == "Always";
            for policy in list(container, "resizePolicy").iter().filter(|_| changed && !sidecar) {
                if text(policy, "restartPolicy") == "RestartContainer" {
                    let sentence = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                    out.push(FieldError::forbidden(&path, sentence));
                }
            }
        }
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
