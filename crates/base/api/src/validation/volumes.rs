//! PersistentVolumes.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath};
use crate::strategy::compare::{same, same_option};

use super::read::{
    Errors, diff, entries, get, has, immutable, invalid_each, list, map, one_of_if_set, positive, text, texts,
};
use super::{meta, names, pod, storage};

/// The ways in which volumes can be mounted.
const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The sources, in the order in which they are looked for.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The spec of a volume; an inline one is part of an attachment.
pub(super) fn spec(out: &mut Errors, path: &FieldPath, spec: &Value, inline: bool) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    if inline {
        for key in ["claimRef", "capacity"] {
            if has(spec, key) {
                out.push(FieldError::forbidden(path.child(key), INLINE));
            }
        }
        if !has(spec, "csi") {
            let sentence = "has to be specified in the context of inline volumes";
            out.push(FieldError::required(path.child("csi"), sentence));
        }
    }
    if list(spec, "accessModes").is_empty() {
        out.push(FieldError::required(path.child("accessModes"), ""));
    }
    access_modes(out, &path.child("accessModes"), spec);
    if !inline {
        capacity(out, &path.child("capacity"), spec);
    }
    reclaim_policy(out, path, spec, inline);
    let affinity = get(spec, "nodeAffinity");
    if inline && !affinity.is_null() {
        out.push(FieldError::forbidden(path.child("nodeAffinity"), INLINE));
    } else if !affinity.is_null() {
        node_affinity(out, &path.child("nodeAffinity"), affinity);
    }
    sources(out, path, spec, !inline && !affinity.is_null());
    let class = text(spec, "storageClassName");
    if inline && !class.is_empty() {
        out.push(FieldError::forbidden(path.child("storageClassName"), INLINE));
    } else if !class.is_empty() {
        invalid_each(out, &path.child("storageClassName"), class, names::dns1123_subdomain(class));
    }
    let mode = get(spec, "volumeMode");
    if !inline {
        one_of_if_set(out, &path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    } else if mode.as_str().is_some_and(|mode| mode != "Filesystem") {
        let sentence = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        out.push(FieldError::forbidden(path.child("volumeMode"), sentence));
    }
    attributes_class(out, path, spec);
}

fn attributes_class(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let Some(class) = get(spec, "volumeAttributesClassName").as_str() else { return };
    let at = path.child("volumeAttributesClassName");
    if class.is_empty() {
        out.push(FieldError::required(&at, "an empty string is disallowed"));
    } else {
        invalid_each(out, &at, class, names::dns1123_subdomain(class));
    }
    if !has(spec, "csi") {
        let sentence = "has to be specified when using volumeAttributesClassName";
        out.push(FieldError::required(path.child("csi"), sentence));
    }
}

/// Known modes, and the one that stands alone alone.
pub(super) fn access_modes(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let modes = texts(spec, "accessModes");
    for mode in modes.iter().filter(|mode| !MODES.contains(mode)) {
        out.push(FieldError::not_supported(path, *mode, &MODES));
    }
    let single = modes.contains(&"ReadWriteOncePod");
    if single && modes.iter().any(|mode| *mode != "ReadWriteOncePod" && MODES.contains(mode)) {
        out.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn capacity(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = map(spec, "capacity");
    if all.is_none_or(serde_json::Map::is_empty) {
        out.push(FieldError::required(path, ""));
    }
    if all.is_none_or(|all| !all.contains_key("storage") || all.len() > 1) {
        let shown = all.map_or(Value::Null, |all| Value::Object(all.clone()));
        out.push(FieldError::not_supported(path, shown, &["storage"]));
    }
    for (name, size) in entries(spec, "capacity") {
        let at = path.key(name);
        let Some(size) = Quantity::from_value(size) else { continue };
        if size.sign() < 0 {
            out.push(FieldError::invalid(&at, size.to_units(), "must be a valid resource quantity"));
        }
        positive(out, &at, &size);
    }
}

fn reclaim_policy(out: &mut Errors, path: &FieldPath, spec: &Value, inline: bool) {
    let at = path.child("persistentVolumeReclaimPolicy");
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if inline && !matches!(policy, "" | "Retain") {
        out.push(FieldError::forbidden(&at, "may only be Retain in the context of inline volumes"));
    } else if !inline && !policy.is_empty() {
        one_of_if_set(out, &at, &policy.into(), &["Delete", "Recycle", "Retain"]);
    }
}

fn node_affinity(out: &mut Errors, path: &FieldPath, affinity: &Value) {
    let required = get(affinity, "required");
    if required.is_null() {
        out.push(FieldError::required(path.child("required"), "must specify required node constraints"));
    } else {
        pod::node_selector(out, &path.child("required"), required);
    }
}

fn sources(out: &mut Errors, path: &FieldPath, spec: &Value, has_affinity: bool) {
    let mut found = false;
    for kind in SOURCES.iter().filter(|kind| has(spec, kind)) {
        if found && *kind != "flexVolume" {
            let shown = if *kind == "cephfs" { "cephFS" } else { kind };
            out.push(FieldError::forbidden(path.child(shown), "may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        let (source, at) = (get(spec, kind), path.child(kind));
        match *kind {
            "hostPath" => pod::host_path(out, &at, source),
            "local" => local(out, path, source, has_affinity),
            "csi" => csi(out, &at, source),
            "gcePersistentDisk" => pod::foreign_source(out, &path.child("persistentDisk"), kind, source),
            other => pod::foreign_source(out, &at, other, source),
        }
    }
    if !found {
        out.push(FieldError::required(path, "must specify a volume type"));
    }
    let root = text(get(spec, "hostPath"), "path");
    let is_root = root.starts_with('/') && root.split('/').all(|part| part.is_empty() || part == ".");
    if is_root && text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        let sentence = "may not be 'recycle' for a hostPath mount of '/'";
        out.push(FieldError::forbidden(path.child("persistentVolumeReclaimPolicy"), sentence));
    }
}

fn local(out: &mut Errors, path: &FieldPath, source: &Value, has_affinity: bool) {
    let target = text(source, "path");
    let at = path.child("local.path");
    if target.is_empty() {
        out.push(FieldError::required(&at, ""));
    } else {
        pod::no_backsteps(out, &at, target);
    }
    if !has_affinity {
        out.push(FieldError::required(path.child("nodeAffinity"), "Local volume requires node affinity"));
    }
}

fn csi(out: &mut Errors, path: &FieldPath, source: &Value) {
    storage::driver_name(out, &path.child("driver"), text(source, "driver"));
    if text(source, "volumeHandle").is_empty() {
        out.push(FieldError::required(path.child("volumeHandle"), ""));
    }
    for key in ["controllerPublish", "controllerExpand", "nodePublish", "nodeExpand"] {
        let key = format!("{key}SecretRef");
        let secret = get(source, &key);
        if secret.is_null() {
            continue;
        }
        let at = path.child(&key);
        let (name, namespace) = (text(secret, "name"), text(secret, "namespace"));
        if name.is_empty() {
            out.push(FieldError::required(at.child("name"), ""));
        } else {
            invalid_each(out, &at.child("name"), name, names::dns1123_subdomain(name));
        }
        if namespace.is_empty() {
            out.push(FieldError::required(at.child("namespace"), ""));
        } else {
            invalid_each(out, &at.child("namespace"), namespace, names::dns1123_label(namespace));
        }
    }
}

/// A volume as a whole; at an update its source stays.
pub(super) fn volume(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let now = get(object, "spec");
    spec(out, &FieldPath::new("spec"), now, false);
    let Some(old) = old else { return };
    let before = get(old, "spec");
    let source = |spec: &Value, forget: bool| {
        let mut all: serde_json::Map<String, Value> = SOURCES
            .iter()
            .filter(|kind| has(spec, kind))
            .map(|kind| ((*kind).to_owned(), get(spec, kind).clone()))
            .collect();
        if forget && let Some(csi) = all.get_mut("csi").and_then(Value::as_object_mut) {
            csi.shift_remove("controllerExpandSecretRef");
        }
        Value::Object(all)
    };
    let grows = has(before, "csi") && !has(get(before, "csi"), "controllerExpandSecretRef");
    let (new_source, old_source) = (source(now, grows), source(before, false));
    if !same(&new_source, &old_source) {
        let lines = diff("", &new_source, &old_source);
        let sentence = format!("spec.persistentvolumesource is immutable after creation\n{lines}");
        out.push(FieldError::forbidden("spec.persistentvolumesource", sentence));
    }
    let path = FieldPath::new("volumeMode");
    immutable(out, &path, get(now, "volumeMode"), get(before, "volumeMode"));
    if has(before, "nodeAffinity") && !same_option(now.get("nodeAffinity"), before.get("nodeAffinity")) {
        let path = FieldPath::new("nodeAffinity");
        let sentence = "field is immutable, except for updating from beta label to GA";
        out.push(FieldError::invalid(path, get(now, "nodeAffinity").clone(), sentence));
    }
    if has(before, "volumeAttributesClassName") && !has(now, "volumeAttributesClassName") {
        let sentence = "update from non-nil value to nil is forbidden";
        out.push(FieldError::forbidden("spec.volumeAttributesClassName", sentence));
    }
}

/// A claim; at an update only its size and attributes may change, and only while it is bound.
pub(super) fn claim(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let now = get(object, "spec");
    pod::claim_spec(out, &FieldPath::new("spec"), now);
    if let Some(old) = old {
        claim_update(out, object, old);
    }
}

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn claim_update(out: &mut Errors, new: &Value, old: &Value) {
    let (now, before) = (get(new, "spec"), get(old, "spec"));
    let (mut a, mut b) = (now.clone(), before.clone());
    let copy = |to: &mut Value, key: &str, from: &Value| {
        let Some(members) = to.as_object_mut() else { return };
        match from.get(key) {
            Some(value) => members.insert(key.to_owned(), value.clone()),
            None => members.shift_remove(key),
        };
    };
    if text(before, "volumeName").is_empty() {
        copy(&mut b, "volumeName", now);
    }
    let (annotation, annotated) = (meta::annotation(new, BETA_CLASS), meta::annotation(old, BETA_CLASS));
    let class = text(now, "storageClassName");
    let unset = !has(before, "storageClassName") && has(now, "storageClassName");
    if unset
        && !annotated.is_empty()
        && class == annotated
        && (annotation.is_empty() || annotation == annotated)
    {
        copy(&mut a, "storageClassName", before);
    } else {
        if annotation != annotated {
            let path = FieldPath::new("metadata.annotations").child(BETA_CLASS);
            out.push(FieldError::invalid(path, annotation, "field is immutable"));
        }
        if unset && (annotated.is_empty() || class == annotated) {
            copy(&mut a, "storageClassName", before);
        }
    }
    let size = |spec: &Value| Quantity::from_value(get(get(get(spec, "resources"), "requests"), "storage"));
    if text(get(new, "status"), "phase") == "Bound" {
        if let Some(requests) = a.pointer_mut("/resources/requests") {
            copy(requests, "storage", get(get(before, "resources"), "requests"));
        }
        copy(&mut a, "volumeAttributesClassName", before);
    }
    if !same(&a, &b) {
        let sentence = "spec is immutable after creation except resources.requests and volumeAttributesClassName \
                        for bound claims";
        out.push(FieldError::forbidden("spec", format!("{sentence}\n{}", diff("spec", &a, &b))));
    }
    if let (Some(new_size), Some(old_size)) = (size(now), size(before))
        && new_size < old_size
    {
        let granted = Quantity::from_value(get(get(get(old, "status"), "capacity"), "storage"));
        if new_size <= granted.unwrap_or(Quantity::from_units(0)) {
            let sentence = "field can not be less than status.capacity";
            out.push(FieldError::forbidden("spec.resources.requests.storage", sentence));
        }
    }
    immutable(out, &FieldPath::new("volumeMode"), get(now, "volumeMode"), get(before, "volumeMode"));
    if has(get(old, "status"), "currentVolumeAttributesClassName") {
        let sentence = match get(now, "volumeAttributesClassName").as_str() {
            None => "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil",
            Some("") => {
                "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"
            }
            Some(_) => return,
        };
        out.push(FieldError::forbidden("spec.volumeAttributesClassName", sentence));
    }
}

/// The status of a claim.
pub(super) fn claim_status(out: &mut Errors, object: &Value) {
    const RESIZES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    if list(get(object, "spec"), "accessModes").is_empty() {
        out.push(FieldError::required("Spec.accessModes", ""));
    }
    let status = get(object, "status");
    let path = FieldPath::new("status.capacity");
    for (name, size) in entries(status, "capacity") {
        if let Some(size) = Quantity::from_value(size).filter(|size| size.sign() < 0) {
            let sentence = "must be a valid resource quantity";
            out.push(FieldError::invalid(path.key(name), size.to_units(), sentence));
        }
    }
    let path = FieldPath::new("status.allocatedResourceStatuses");
    for (name, state) in entries(status, "allocatedResourceStatuses") {
        claim_resource(out, &path, name);
        if !RESIZES.contains(&state.as_str().unwrap_or_default()) {
            out.push(FieldError::not_supported(&path, name.as_str(), &RESIZES));
        }
    }
    let path = FieldPath::new("status.allocatedResources");
    for (name, size) in entries(status, "allocatedResources") {
        if claim_resource(out, &path, name) {
            pod::quantity_value(out, &path.key(name), "storage", size);
        }
    }
}

fn claim_resource(out: &mut Errors, path: &FieldPath, name: &str) -> bool {
    let wrong = names::qualified(name);
    let fine = wrong.is_empty();
    invalid_each(out, path, name, wrong);
    if fine && (!name.contains('/') || name.contains("kubernetes.io/")) && name != "storage" {
        out.push(FieldError::not_supported(path, name, &["storage"]));
        return false;
    }
    fine
}

/// What a claim may be filled from.
pub(super) fn data_sources(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (source, reference) = (get(spec, "dataSource"), get(spec, "dataSourceRef"));
    for (key, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        if source.is_null() {
            continue;
        }
        let at = path.child(key);
        for key in ["name", "kind"] {
            if text(source, key).is_empty() {
                out.push(FieldError::required(at.child(key), ""));
            }
        }
        let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            let sentence = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            out.push(FieldError::invalid(&at, kind, sentence));
        }
        if !group.is_empty() {
            invalid_each(out, &at.child("apiGroup"), group, names::dns1123_subdomain(group));
        }
    }
    if source.is_null() || reference.is_null() {
        return;
    }
    let same = ["apiGroup", "kind", "name"].iter().all(|key| text(source, key) == text(reference, key));
    let sentence = if !text(reference, "namespace").is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if !same {
        "must match dataSourceRef"
    } else {
        return;
    };
    out.push(FieldError::invalid(path, path.child("dataSource").as_str(), sentence));
}
