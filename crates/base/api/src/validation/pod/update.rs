//! What an update of a Pod may change: images, the deadline, more tolerations, fewer gates.

use serde_json::{Map, Value};

use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::{identical, same, same_option};
use crate::validation::meta;
use crate::validation::read::{Errors, diff, get, int, list, text};

use super::{metadata_and_spec, scheduling};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to \
    be set to 1 if it was previously negative)";

/// An update of a Pod.
pub(in crate::validation) fn update(out: &mut Errors, new: &Value, old: &Value) {
    meta::update(out, new, old);
    metadata_and_spec(out, new);
    let path = FieldPath::new("spec");
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    for key in ["containers", "initContainers"] {
        let path = path.child(key);
        if list(spec, key).len() != list(before, key).len() {
            out.push(FieldError::forbidden(&path, "pod updates may not add or remove containers"));
            return;
        }
    }
    if !deadline(out, &path.child("activeDeadlineSeconds"), spec, before) {
        return;
    }
    scheduling::only_added_tolerations(out, &path.child("tolerations"), spec, before);
    scheduling::only_removed_gates(out, &path.child("schedulingGates"), spec, before);
    if identical(spec, before) {
        return;
    }
    let mut allowed = spec.clone();
    undo_allowed(&mut allowed, before);
    if !list(before, "schedulingGates").is_empty() {
        gated(out, &path, &mut allowed, before);
    }
    if !same(&allowed, before) {
        let lines = diff("spec", &allowed, before);
        let sentence = format!("pod updates may not change fields other than {UPDATABLE}\n{lines}");
        out.push(FieldError::forbidden(&path, sentence));
    }
}

/// The deadline may come or shrink; false when nothing else needs to be said.
fn deadline(out: &mut Errors, path: &FieldPath, new: &Value, old: &Value) -> bool {
    let key = "activeDeadlineSeconds";
    match (int(new, key), int(old, key)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            out.push(FieldError::invalid(path, new, "must be between 0 and 2147483647, inclusive"));
            false
        }
        (Some(new), Some(old)) if old < new => {
            out.push(FieldError::invalid(path, new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let sentence = "must not update from a positive integer to nil value";
            out.push(FieldError::invalid(path, Value::Null, sentence));
            true
        }
        _ => true,
    }
}

/// Takes back what may change, so that the rest can be compared.
fn undo_allowed(spec: &mut Value, before: &Value) {
    for key in ["containers", "initContainers"] {
        let Some(containers) = spec.get_mut(key).and_then(Value::as_array_mut) else { continue };
        for (container, old) in containers.iter_mut().zip(list(before, key)) {
            if let Some(container) = container.as_object_mut() {
                put(container, "image", old);
            }
        }
    }
    let Some(spec) = spec.as_object_mut() else { return };
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put(spec, key, before);
    }
    let grace = "terminationGracePeriodSeconds";
    let was_negative = int(before, grace).is_some_and(|grace| grace < 0);
    if was_negative && spec.get(grace).and_then(Value::as_i64) == Some(1) {
        put(spec, grace, before);
    }
}

fn put(object: &mut Map<String, Value>, key: &str, from: &Value) {
    match from.get(key) {
        Some(value) => object.insert(key.to_owned(), value.clone()),
        None => object.shift_remove(key),
    };
}

/// A pod that waits at a gate may get narrower rules about its node.
fn gated(out: &mut Errors, path: &FieldPath, spec: &mut Value, before: &Value) {
    let selector = get(spec, "nodeSelector");
    let kept = get(before, "nodeSelector").as_object().into_iter().flatten();
    if !same_option(Some(selector), before.get("nodeSelector")) {
        let lost = kept.into_iter().any(|(key, value)| selector.get(key) != Some(value));
        if lost {
            let sentence = "additions are only allowed (no deletions or updates)";
            let path = path.child("nodeSelector");
            out.push(FieldError::invalid(path, selector.clone(), sentence));
        }
    }
    let Some(spec) = spec.as_object_mut() else { return };
    put(spec, "nodeSelector", before);
    let old_affinity = get(get(before, "affinity"), "nodeAffinity");
    let new_affinity = spec.get("affinity").map_or(&Value::Null, |a| get(a, "nodeAffinity"));
    if same_option(Some(new_affinity), Some(old_affinity)) {
        return;
    }
    narrowed(out, &path.child("affinity.nodeAffinity"), new_affinity, old_affinity);
    if spec.get("affinity").is_none_or(Value::is_null) {
        put(spec, "affinity", before);
        return;
    }
    let others = ["podAffinity", "podAntiAffinity"];
    let alone = spec.get("affinity").is_some_and(|a| others.iter().all(|key| get(a, key).is_null()));
    if get(before, "affinity").is_null() && alone {
        spec.shift_remove("affinity");
    } else if let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) {
        put(affinity, "nodeAffinity", get(before, "affinity"));
    }
}

/// Required terms keep their number, and each may only grow.
fn narrowed(out: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let old_terms = list(get(old, required), "nodeSelectorTerms");
    if old_terms.is_empty() {
        return;
    }
    let new_terms = list(get(new, required), "nodeSelectorTerms");
    let path = path.child(required).child("nodeSelectorTerms");
    if new_terms.len() != old_terms.len() {
        let sentence = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let value = get(get(new, required), "nodeSelectorTerms").clone();
        out.push(FieldError::invalid(path, value, sentence));
        return;
    }
    for (i, (new, old)) in new_terms.iter().zip(old_terms).enumerate() {
        let grown = ["matchExpressions", "matchFields"].iter().all(|key| {
            let (new, old) = (list(new, key), list(old, key));
            new.len() >= old.len() && new.iter().zip(old).all(|(a, b)| same(a, b))
        });
        let was_empty = list(old, "matchExpressions").is_empty() && list(old, "matchFields").is_empty();
        if !grown || (was_empty && !same(new, old)) {
            let sentence = "only additions are allowed (no changes to or deletions of existing terms)";
            out.push(FieldError::invalid(path.index(i), new.clone(), sentence));
        }
    }
}

/// Whether the text of an annotation marks a pod that the API server only mirrors.
pub(super) fn is_mirror(pod: &Value) -> bool {
    !text(get(get(pod, "metadata"), "annotations"), "kubernetes.io/config.mirror").is_empty()
}
