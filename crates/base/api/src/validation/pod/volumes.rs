//! Volumes: exactly one source each, with the rules of the source.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath, go_quote};
use crate::validation::read::{
    Errors, get, has, int, invalid_each, list, one_of_if_set, positive, text, texts,
};
use crate::validation::volumes::{access_modes, data_sources};
use crate::validation::{labels, names};

use super::{containers, env, projected};

/// Every source with the name that Kubernetes uses for it in a path, in the order in which it looks.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Checks all volumes; returns those that are valid.
pub(super) fn volumes<'a>(
    out: &mut Errors,
    path: &FieldPath,
    spec: &'a Value,
    is_pod: bool,
    pod: &str,
) -> Vec<(&'a str, &'a Value)> {
    let all = list(spec, "volumes");
    let claims: Vec<String> = all
        .iter()
        .filter(|v| has(v, "ephemeral") && !pod.is_empty())
        .map(|v| format!("{pod}-{}", text(v, "name")))
        .collect();
    let mut valid: Vec<(&str, &Value)> = Vec::new();
    for (i, volume) in all.iter().enumerate() {
        let path = path.index(i);
        let name = text(volume, "name");
        let mut wrong = Errors::new();
        source(&mut wrong, &path, volume, is_pod, pod);
        if name.is_empty() {
            wrong.push(FieldError::required(path.child("name"), ""));
        } else {
            invalid_each(&mut wrong, &path.child("name"), name, names::dns1123_label(name));
        }
        if valid.iter().any(|(other, _)| *other == name) {
            wrong.push(FieldError::duplicate(path.child("name"), name));
        }
        if wrong.is_empty() {
            valid.push((name, volume));
        }
        out.append(&mut wrong);
        let claim = text(get(volume, "persistentVolumeClaim"), "claimName");
        if claims.iter().any(|created| created == claim) {
            let path = path.child("persistentVolumeClaim.claimName");
            let sentence = "must not reference a PVC that gets created for an ephemeral volume";
            out.push(FieldError::invalid(path, claim, sentence));
        }
    }
    valid
}

fn source(out: &mut Errors, path: &FieldPath, volume: &Value, is_pod: bool, pod: &str) {
    let mut found = false;
    for kind in SOURCES.iter().filter(|kind| has(volume, kind)) {
        let shown = if *kind == "cephfs" && found { "cephFS" } else { kind };
        let at = path.child(shown);
        if found {
            out.push(FieldError::forbidden(at, "may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        let source = get(volume, kind);
        match *kind {
            "emptyDir" => {
                let limit = Quantity::from_value(get(source, "sizeLimit"));
                if limit.is_some_and(|limit| limit.sign() < 0) {
                    let sentence = "SizeLimit field must be a valid resource quantity";
                    out.push(FieldError::forbidden(at.child("sizeLimit"), sentence));
                }
            }
            "hostPath" => host_path(out, &at, source),
            "secret" => keys(out, &at, source, "secretName"),
            "configMap" => keys(out, &at, source, "name"),
            "downwardAPI" => {
                mode(out, &at.child("defaultMode"), int(source, "defaultMode"));
                for item in list(source, "items") {
                    downward_file(out, &at, item);
                }
            }
            "projected" => projected::projected(out, &at, source),
            "image" => {
                if is_pod && text(source, "reference").is_empty() {
                    out.push(FieldError::required(at.child("reference"), ""));
                }
                containers::pull_policy(out, &at.child("pullPolicy"), text(source, "pullPolicy"));
            }
            "ephemeral" => ephemeral(out, path, &at, source, text(volume, "name"), pod),
            other => foreign(out, &at, other, source),
        }
    }
    if !found {
        out.push(FieldError::required(path, "must specify a volume type"));
    }
}

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(in crate::validation) fn host_path(out: &mut Errors, path: &FieldPath, source: &Value) {
    let target = text(source, "path");
    if target.is_empty() {
        out.push(FieldError::required(path.child("path"), ""));
        return;
    }
    no_backsteps(out, &path.child("path"), target);
    let kind = text(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        out.push(FieldError::not_supported(path.child("type"), kind, &HOST_PATH_TYPES));
    }
}

/// A Secret or ConfigMap, whole or by keys.
fn keys(out: &mut Errors, path: &FieldPath, source: &Value, name: &str) {
    if text(source, name).is_empty() {
        out.push(FieldError::required(path.child(name), ""));
    }
    mode(out, &path.child("defaultMode"), int(source, "defaultMode"));
    for (i, item) in list(source, "items").iter().enumerate() {
        key_to_path(out, &path.child("items").index(i), item);
    }
}

/// One key as a file.
pub(super) fn key_to_path(out: &mut Errors, path: &FieldPath, item: &Value) {
    for key in ["key", "path"] {
        if text(item, key).is_empty() {
            out.push(FieldError::required(path.child(key), ""));
        }
    }
    local_path(out, &path.child("path"), text(item, "path"));
    mode(out, &path.child("mode"), int(item, "mode"));
}

/// A field of the pod as a file.
pub(super) fn downward_file(out: &mut Errors, path: &FieldPath, item: &Value) {
    let file = text(item, "path");
    if file.is_empty() {
        out.push(FieldError::required(path.child("path"), ""));
    }
    local_path(out, &path.child("path"), file);
    let (field, resource) = (get(item, "fieldRef"), get(item, "resourceFieldRef"));
    if !field.is_null() {
        env::field_ref(out, &path.child("fieldRef"), field, &env::VOLUME_FIELDS);
        if !resource.is_null() {
            let sentence = "fieldRef and resourceFieldRef can not be specified simultaneously";
            out.push(FieldError::invalid(path, "resource", sentence));
        }
    } else if !resource.is_null() {
        env::resource_ref(out, &path.child("resourceFieldRef"), resource, true);
    } else {
        out.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
    }
    mode(out, &path.child("mode"), int(item, "mode"));
}

/// The mode of a file.
pub(super) fn mode(out: &mut Errors, path: &FieldPath, mode: Option<i64>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        let sentence = "must be a number between 0 and 0777 (octal), both inclusive";
        out.push(FieldError::invalid(path, mode, sentence));
    }
}

/// No part of the path may lead up.
pub(in crate::validation) fn no_backsteps(out: &mut Errors, path: &FieldPath, target: &str) {
    if target.split('/').any(|part| part == "..") {
        out.push(FieldError::invalid(path, target, "must not contain '..'"));
    }
}

/// A relative path that does not lead up.
pub(super) fn descending(out: &mut Errors, path: &FieldPath, target: &str) {
    if target.starts_with('/') {
        out.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(out, path, target);
}

/// A descending path whose first part does not begin with two dots, which the volume needs for itself.
pub(super) fn local_path(out: &mut Errors, path: &FieldPath, target: &str) {
    descending(out, path, target);
    if target.starts_with("..") && !target.starts_with("../") {
        out.push(FieldError::invalid(path, target, "must not start with '..'"));
    }
}

fn ephemeral(out: &mut Errors, path: &FieldPath, at: &FieldPath, source: &Value, volume: &str, pod: &str) {
    let template = get(source, "volumeClaimTemplate");
    if template.is_null() {
        out.push(FieldError::required(at.child("volumeClaimTemplate"), ""));
    } else {
        let at = at.child("volumeClaimTemplate");
        let metadata = get(template, "metadata");
        labels::annotations(out, &at.child("metadata"), metadata);
        labels::labels(out, &at.child("metadata"), metadata, "labels");
        claim_spec(out, &at.child("spec"), get(template, "spec"));
    }
    if !pod.is_empty() && !volume.is_empty() {
        let claim = format!("{pod}-{volume}");
        for wrong in names::dns1123_subdomain(&claim) {
            let sentence = format!("PVC name {}: {wrong}", go_quote(&claim));
            out.push(FieldError::invalid(path.child("name"), volume, sentence));
        }
    }
}

/// The spec of a PersistentVolumeClaim.
pub(in crate::validation) fn claim_spec(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let at = path.child("accessModes");
    if texts(spec, "accessModes").is_empty() {
        out.push(FieldError::required(&at, "at least 1 access mode is required"));
    }
    labels::selector(out, &path.child("selector"), get(spec, "selector"));
    access_modes(out, &at, spec);
    let at = path.child("resources").key("storage");
    match Quantity::from_value(get(get(get(spec, "resources"), "requests"), "storage")) {
        None => out.push(FieldError::required(&at, "")),
        Some(size) => positive(out, &at, &size),
    }
    for key in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(spec, key);
        if !class.is_empty() {
            invalid_each(out, &path.child(key), class, names::dns1123_subdomain(class));
        }
    }
    one_of_if_set(out, &path.child("volumeMode"), get(spec, "volumeMode"), &["Block", "Filesystem"]);
    data_sources(out, path, spec);
}

/// Sources that only other systems serve: their required fields.
pub(in crate::validation) fn foreign(out: &mut Errors, path: &FieldPath, kind: &str, source: &Value) {
    let required: &[&str] = match kind {
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => &["volumeID"],
        "nfs" => &["server", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "persistentVolumeClaim" => &["claimName"],
        "rbd" => &["image"],
        "quobyte" => &["registry", "volume"],
        "flexVolume" | "csi" => &["driver"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "azureDisk" => &["diskName", "diskURI"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        _ => &[],
    };
    for key in required {
        if text(source, key).is_empty() {
            out.push(FieldError::required(path.child(key), ""));
        }
    }
    for list_key in ["monitors"] {
        if matches!(kind, "rbd" | "cephfs") && list(source, list_key).is_empty() {
            out.push(FieldError::required(path.child(list_key), ""));
        }
    }
    if kind == "nfs" && !text(source, "path").starts_with('/') {
        let target = text(source, "path");
        out.push(FieldError::invalid(path.child("path"), target, "must be an absolute path"));
    }
    if kind == "gitRepo" {
        descending(out, &path.child("directory"), text(source, "directory"));
    }
    if kind == "csi" && has(source, "nodePublishSecretRef") {
        let name = text(get(source, "nodePublishSecretRef"), "name");
        if name.is_empty() {
            out.push(FieldError::required(path.child("nodePublishSecretRef.name"), ""));
        } else {
            invalid_each(out, &path.child("name"), name, names::dns1123_subdomain(name));
        }
    }
}
