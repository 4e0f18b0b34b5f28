//! `metadata`: names by kind, labels, owners, finalizers, and what an update may not change.

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath, go_quote};

use super::read::{Errors, deep, get, has, immutable, int, invalid_each, list, number, text, texts};
use super::{labels, names};

/// How names of a kind look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameRule {
    Address,
    Subdomain,
    Label,
    PathSegment,
}

fn rule_of(resource: &Resource) -> NameRule {
    match (resource.group, resource.kind) {
        ("", "Namespace" | "Service") | ("apps", "StatefulSet") => NameRule::Label,
        ("rbac.authorization.k8s.io" | "apiregistration.k8s.io", _) => NameRule::PathSegment,
        ("networking.k8s.io", "IPAddress") => NameRule::Address,
        _ => NameRule::Subdomain,
    }
}

fn name_errors(rule: NameRule, name: &str) -> Vec<String> {
    match rule {
        NameRule::Address => super::ip::canonical_errors(name),
        NameRule::Subdomain => names::dns1123_subdomain(name),
        NameRule::Label => names::dns1123_label(name),
        NameRule::PathSegment => names::path_segment(name),
    }
}

/// The metadata of an object that is created, or of a whole object that is updated.
pub(crate) fn create(out: &mut Errors, resource: &Resource, object: &Value) {
    let path = FieldPath::new("metadata");
    let metadata = get(object, "metadata");
    let rule = rule_of(resource);
    let base = text(metadata, "generateName");
    if !base.is_empty() {
        let errors = name_errors(rule, &names::mask_prefix(base));
        invalid_each(out, &path.child("generateName"), base, errors);
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        out.push(FieldError::required(path.child("name"), "name or generateName is required"));
    } else {
        invalid_each(out, &path.child("name"), name, name_errors(rule, name));
    }
    let namespace = text(metadata, "namespace");
    let namespace_path = path.child("namespace");
    match (resource.namespaced, namespace.is_empty()) {
        (true, true) => out.push(FieldError::required(namespace_path, "")),
        (true, false) => invalid_each(out, &namespace_path, namespace, names::dns1123_label(namespace)),
        (false, false) => out.push(FieldError::forbidden(namespace_path, "not allowed on this type")),
        (false, true) => {}
    }
    common(out, &path, metadata);
}

fn common(out: &mut Errors, path: &FieldPath, metadata: &Value) {
    if number(metadata, "generation") < 0 {
        let generation = number(metadata, "generation");
        let sentence = "must be greater than or equal to 0";
        out.push(FieldError::invalid(path.child("generation"), generation, sentence));
    }
    labels::labels(out, path, metadata, "labels");
    labels::annotations(out, path, metadata);
    owners(out, &path.child("ownerReferences"), metadata);
    finalizers(out, &path.child("finalizers"), metadata);
    managed_fields(out, &path.child("managedFields"), metadata);
}

fn owners(out: &mut Errors, path: &FieldPath, metadata: &Value) {
    let mut controller: Option<String> = None;
    let all = get(metadata, "ownerReferences");
    for owner in list(metadata, "ownerReferences") {
        let (api_version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if version.is_empty() {
            let sentence = "version must not be empty";
            out.push(FieldError::invalid(path.child("apiVersion"), api_version, sentence));
        }
        for key in ["kind", "name", "uid"] {
            if text(owner, key).is_empty() {
                out.push(FieldError::invalid(path.child(key), "", "must not be empty"));
            }
        }
        if (group, version, kind) == ("", "v1", "Event") {
            let sentence = "/v1, Kind=Event is disallowed from being an owner";
            out.push(FieldError::invalid(path, owner.clone(), sentence));
        }
        if get(owner, "controller").as_bool() == Some(true) {
            let this = format!("{kind}/{}", text(owner, "name"));
            if let Some(first) = &controller {
                let sentence = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                     and {this}"
                );
                out.push(FieldError::invalid(path, all.clone(), sentence));
            } else {
                controller = Some(this);
            }
        }
    }
}

fn finalizers(out: &mut Errors, path: &FieldPath, metadata: &Value) {
    let all = texts(metadata, "finalizers");
    for finalizer in &all {
        invalid_each(out, path, finalizer, names::qualified(finalizer));
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let sentence = "finalizer orphan and foregroundDeletion cannot be both set";
        out.push(FieldError::invalid(path, get(metadata, "finalizers").clone(), sentence));
    }
}

fn managed_fields(out: &mut Errors, path: &FieldPath, metadata: &Value) {
    for (i, entry) in list(metadata, "managedFields").iter().enumerate() {
        let path = path.index(i);
        let operation = text(entry, "operation");
        if !matches!(operation, "Apply" | "Update") {
            let sentence = "must be `Apply` or `Update`";
            out.push(FieldError::invalid(path.child("operation"), operation, sentence));
        }
        let fields_type = text(entry, "fieldsType");
        if !matches!(fields_type, "" | "FieldsV1") {
            out.push(FieldError::invalid(path.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
    }
}

/// What an update may not change in the metadata, then the labels and the like that it brings.
pub(crate) fn update(out: &mut Errors, new: &Value, old: &Value) {
    let path = FieldPath::new("metadata");
    let (now, before) = (get(new, "metadata"), get(old, "metadata"));
    if has(before, "deletionTimestamp") {
        no_new_finalizers(out, &path.child("finalizers"), now, before);
    }
    if text(now, "resourceVersion").is_empty() {
        let sentence = "must be specified for an update";
        out.push(FieldError::invalid(path.child("resourceVersion"), "", sentence));
    }
    if number(now, "generation") < number(before, "generation") {
        let generation = number(now, "generation");
        out.push(FieldError::invalid(path.child("generation"), generation, "must not be decremented"));
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"] {
        immutable(out, &path.child(key), get(now, key), get(before, key));
    }
    let grace = "deletionGracePeriodSeconds";
    if int(now, grace) != int(before, grace) {
        out.push(FieldError::invalid(path.child(grace), get(now, grace).clone(), "field is immutable"));
    }
    labels::labels(out, &path, now, "labels");
    labels::annotations(out, &path, now);
    owners(out, &path.child("ownerReferences"), now);
    managed_fields(out, &path.child("managedFields"), now);
    // Names are checked at the creation; finalizers may come any time.
    finalizers(out, &path.child("finalizers"), now);
}

fn no_new_finalizers(out: &mut Errors, path: &FieldPath, now: &Value, before: &Value) {
    let old = texts(before, "finalizers");
    let mut extra: Vec<&str> = texts(now, "finalizers").into_iter().filter(|f| !old.contains(f)).collect();
    if extra.is_empty() {
        return;
    }
    extra.sort_unstable();
    extra.dedup();
    let quoted: Vec<String> = extra.iter().map(|f| go_quote(f)).collect();
    out.push(FieldError::forbidden(
        path,
        format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            quoted.join(", ")
        ),
    ));
}

/// The annotation's text; empty when there is none.
pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    deep(object, "metadata.annotations").get(key).and_then(Value::as_str).unwrap_or_default()
}

/// What is wrong with a name of this kind.
pub(super) fn name_errors_for(resource: &Resource, name: &str) -> Vec<String> {
    name_errors(rule_of(resource), name)
}
