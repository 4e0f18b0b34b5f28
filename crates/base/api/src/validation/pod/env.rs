//! Environment variables and where their values come from.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath};
use crate::validation::names;
use crate::validation::read::{Errors, get, has, invalid_each, list, text};

use super::{Context, all_containers, volumes};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a downward API volume may show.
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// What any reference to a field may name.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

pub(super) fn env(out: &mut Errors, path: &FieldPath, container: &Value) {
    for (i, variable) in list(container, "env").iter().enumerate() {
        let path = path.index(i);
        let name = text(variable, "name");
        if name.is_empty() {
            out.push(FieldError::required(path.child("name"), ""));
        } else {
            invalid_each(out, &path.child("name"), name, names::env_name(name));
        }
        value_from(out, &path.child("valueFrom"), variable);
    }
}

fn value_from(out: &mut Errors, path: &FieldPath, variable: &Value) {
    let from = get(variable, "valueFrom");
    if from.is_null() {
        return;
    }
    let sources = SOURCES.iter().filter(|source| has(from, source)).count();
    if has(from, "fieldRef") {
        field_ref(out, &path.child("fieldRef"), get(from, "fieldRef"), &ENV_FIELDS);
    }
    if has(from, "resourceFieldRef") {
        resource_ref(out, &path.child("resourceFieldRef"), get(from, "resourceFieldRef"), false);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if has(from, kind) {
            key_ref(out, &path.child(kind), get(from, kind));
        }
    }
    if has(from, "fileKeyRef") {
        file_ref(out, &path.child("fileKeyRef"), get(from, "fileKeyRef"));
    }
    let sentence = if sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !text(variable, "value").is_empty() {
        "may not be specified when `value` is not empty"
    } else if sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    out.push(FieldError::invalid(path, "", sentence));
}

/// `metadata.labels['key']` as path and key.
fn subscripted(field: &str) -> Option<(&str, &str)> {
    let (path, rest) = field.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, rest))
}

/// A reference to a field of the pod.
pub(super) fn field_ref(out: &mut Errors, path: &FieldPath, reference: &Value, allowed: &[&str]) {
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    if version.is_empty() {
        out.push(FieldError::required(path.child("apiVersion"), ""));
        return;
    }
    let at = path.child("fieldPath");
    if field.is_empty() {
        out.push(FieldError::required(at, ""));
        return;
    }
    let unknown = if version != "v1" {
        Some(format!("unsupported pod version: {version}"))
    } else if let Some((map, _)) = subscripted(field) {
        (!matches!(map, "metadata.annotations" | "metadata.labels"))
            .then(|| format!("field label does not support subscript: {field}"))
    } else {
        (!KNOWN_FIELDS.contains(&field) && field != "spec.host")
            .then(|| format!("field label not supported: {field}"))
    };
    if let Some(unknown) = unknown {
        out.push(FieldError::invalid(at, field, format!("error converting fieldPath: {unknown}")));
        return;
    }
    if let Some((map, key)) = subscripted(field) {
        let key = if map == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
        invalid_each(out, path, &key, names::qualified(&key));
        return;
    }
    let field = if field == "spec.host" { "spec.nodeName" } else { field };
    if !allowed.contains(&field) {
        out.push(FieldError::not_supported(at, field, allowed));
    }
}

/// A reference to a resource of a container.
pub(super) fn resource_ref(out: &mut Errors, path: &FieldPath, reference: &Value, in_volume: bool) {
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(reference, "containerName").is_empty() {
        out.push(FieldError::required(path.child("containerName"), ""));
    } else if resource.is_empty() {
        out.push(FieldError::required(path.child("resource"), ""));
    } else if !huge && !RESOURCES.contains(&resource) {
        out.push(FieldError::not_supported(path.child("resource"), resource, &RESOURCES));
    }
    let Some(divisor) = Quantity::from_value(get(reference, "divisor")).filter(|d| !d.is_zero()) else {
        return;
    };
    let divisor = divisor.canonical();
    let sizes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let words = match resource.split_once('.') {
        Some((_, "cpu")) if !matches!(divisor.as_str(), "1" | "1m") => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        Some((_, of)) if of != "cpu" && !sizes.contains(&divisor.as_str()) => {
            let what = match of {
                "memory" => "memory",
                "ephemeral-storage" => "local ephemeral storage",
                _ if huge => "hugepages",
                _ => return,
            };
            format!(
                "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with \
                 the {what} resource"
            )
        }
        _ => return,
    };
    out.push(FieldError::invalid(path.child("divisor"), resource, words));
}

/// A reference to a key of a ConfigMap or a Secret.
fn key_ref(out: &mut Errors, path: &FieldPath, reference: &Value) {
    let (name, key) = (text(reference, "name"), text(reference, "key"));
    invalid_each(out, &path.child("name"), name, names::dns1123_subdomain(name));
    if key.is_empty() {
        out.push(FieldError::required(path.child("key"), ""));
    } else {
        invalid_each(out, &path.child("key"), key, names::config_key(key));
    }
}

/// A reference to a variable in a file of a volume.
fn file_ref(out: &mut Errors, path: &FieldPath, reference: &Value) {
    let key = text(reference, "key");
    if key.is_empty() {
        out.push(FieldError::required(path.child("key"), ""));
    } else {
        invalid_each(out, &path.child("key"), key, names::env_name(key));
    }
    let volume = text(reference, "volumeName");
    if volume.is_empty() {
        out.push(FieldError::required(path.child("volumeName"), ""));
    } else {
        invalid_each(out, &path.child("volumeName"), volume, names::dns1123_label(volume));
    }
    let file = text(reference, "path");
    if file.is_empty() {
        out.push(FieldError::required(path.child("path"), ""));
    } else {
        volumes::no_backsteps(out, &path.child("path"), file);
    }
}

/// Files of variables lie in volumes that start empty.
pub(super) fn file_keys(out: &mut Errors, path: &FieldPath, context: &Context<'_>) {
    for (path, container) in all_containers(context.spec, path) {
        for (i, variable) in list(container, "env").iter().enumerate() {
            let reference = get(get(variable, "valueFrom"), "fileKeyRef");
            if reference.is_null() {
                continue;
            }
            let name = text(reference, "volumeName");
            let path = path.child("env").index(i).child("valueFrom.fileKeyRef.volumeName");
            let volume = list(context.spec, "volumes").iter().find(|v| text(v, "name") == name);
            match volume {
                None => out.push(FieldError::not_found(path, name)),
                Some(volume) if !has(volume, "emptyDir") => {
                    let sentence = "referenced volume must be of type emptyDir";
                    out.push(FieldError::invalid(path, name, sentence));
                }
                Some(_) => {}
            }
        }
    }
}

pub(super) fn env_from(out: &mut Errors, path: &FieldPath, container: &Value) {
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        let item = path.index(i);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            invalid_each(out, &item.child("prefix"), prefix, names::env_name(prefix));
        }
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            if !has(source, kind) {
                continue;
            }
            sources += 1;
            let name = text(get(source, kind), "name");
            let path = item.child(kind).child("name");
            if name.is_empty() {
                out.push(FieldError::required(path, ""));
            } else {
                invalid_each(out, &path, name, names::dns1123_subdomain(&names::mask_prefix(name)));
            }
        }
        match sources {
            0 => {
                let sentence = "must specify one of: `configMapRef` or `secretRef`";
                out.push(FieldError::invalid(path, "", sentence));
            }
            1 => {}
            _ => {
                let sentence = "may not have more than one field specified at a time";
                out.push(FieldError::invalid(path, "", sentence));
            }
        }
    }
}
