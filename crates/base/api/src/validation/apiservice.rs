//! APIServices: which server has a group and version.

use serde_json::Value;

use super::names;
use super::read::{Errors, get, number, text};
use crate::status::{FieldError, FieldPath};

/// Checks an APIService.
pub(super) fn object(out: &mut Errors, object: &Value) {
    let (spec, path) = (get(object, "spec"), FieldPath::new("spec"));
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let name = text(get(object, "metadata"), "name");
    if name != format!("{version}.{group}") {
        let sentence = format!("must be `spec.version+\".\"+spec.group`: \"{version}.{group}\"");
        out.push(FieldError::invalid("metadata.name", name, sentence));
    }
    if group.is_empty() {
        if version != "v1" {
            let sentence = "only v1 may have an empty group and it better be legacy kube";
            out.push(FieldError::required(path.child("group"), sentence));
        }
    } else {
        for sentence in names::dns1123_subdomain(group) {
            out.push(FieldError::invalid(path.child("group"), group, sentence));
        }
    }
    for sentence in names::dns1035_label(version) {
        out.push(FieldError::invalid(path.child("version"), version, sentence));
    }
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let value = number(spec, field);
        if !(1..=most).contains(&value) {
            let sentence = format!("must be positive and less than {most}");
            out.push(FieldError::invalid(path.child(field), value, sentence));
        }
    }
    remote(out, spec, &path);
}

fn remote(out: &mut Errors, spec: &Value, path: &FieldPath) {
    let service = get(spec, "service");
    let bundle = text(spec, "caBundle");
    let unverified = get(spec, "insecureSkipTLSVerify").as_bool().unwrap_or(false);
    if service.is_null() {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", bundle.len() / 4 * 3);
            out.push(FieldError::invalid(
                path.child("caBundle"),
                shown,
                "local APIServices may not have a caBundle",
            ));
        }
        if unverified {
            let sentence = "local APIServices may not have insecureSkipTLSVerify";
            out.push(FieldError::invalid(path.child("insecureSkipTLSVerify"), true, sentence));
        }
        return;
    }
    let at = path.child("service");
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            out.push(FieldError::required(at.child(field), ""));
        }
    }
    let port = get(service, "port").as_i64().unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let sentence = "port is not valid: must be between 1 and 65535, inclusive";
        out.push(FieldError::invalid(at.child("port"), port, sentence));
    }
    if unverified && !bundle.is_empty() {
        let sentence = "may not be true if caBundle is present";
        out.push(FieldError::invalid(path.child("insecureSkipTLSVerify"), true, sentence));
    }
}
