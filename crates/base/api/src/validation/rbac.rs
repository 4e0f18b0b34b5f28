//! `rbac.authorization.k8s.io`: roles and bindings.

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath};

use super::labels;
use super::names;
use super::read::{Errors, get, invalid_each, list, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of the group's kinds; `old` for an update.
pub(super) fn object(out: &mut Errors, resource: &Resource, object: &Value, old: Option<&Value>) {
    match resource.kind {
        "Role" => rules(out, object, true),
        "ClusterRole" => {
            rules(out, object, false);
            aggregation(out, get(object, "aggregationRule"));
        }
        "RoleBinding" => binding(out, object, true),
        "ClusterRoleBinding" => binding(out, object, false),
        _ => {}
    }
    if let Some(old) = old
        && ["apiGroup", "kind", "name"]
            .iter()
            .any(|key| text(get(object, "roleRef"), key) != text(get(old, "roleRef"), key))
    {
        let reference = get(object, "roleRef").clone();
        out.push(FieldError::invalid("roleRef", reference, "cannot change roleRef"));
    }
}

fn rules(out: &mut Errors, role: &Value, namespaced: bool) {
    for (i, rule) in list(role, "rules").iter().enumerate() {
        policy_rule(out, &FieldPath::new("rules").index(i), rule, namespaced);
    }
}

fn policy_rule(out: &mut Errors, path: &FieldPath, rule: &Value, namespaced: bool) {
    let none = |key: &str| list(rule, key).is_empty();
    if none("verbs") {
        out.push(FieldError::required(path.child("verbs"), "verbs must contain at least one value"));
    }
    if !none("nonResourceURLs") {
        let (urls, path) = (get(rule, "nonResourceURLs"), path.child("nonResourceURLs"));
        if namespaced {
            let why = "namespaced rules cannot apply to non-resource URLs";
            out.push(FieldError::invalid(&path, urls.clone(), why));
        }
        if !none("apiGroups") || !none("resources") || !none("resourceNames") {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            out.push(FieldError::invalid(&path, urls.clone(), why));
        }
        return;
    }
    if none("apiGroups") {
        let why = "resource rules must supply at least one api group";
        out.push(FieldError::required(path.child("apiGroups"), why));
    }
    if none("resources") {
        let why = "resource rules must supply at least one resource";
        out.push(FieldError::required(path.child("resources"), why));
    }
}

fn aggregation(out: &mut Errors, rule: &Value) {
    if rule.is_null() {
        return;
    }
    let path = FieldPath::new("aggregationRule").child("clusterRoleSelectors");
    let selectors = list(rule, "clusterRoleSelectors");
    if selectors.is_empty() {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        out.push(FieldError::required(&path, why));
    }
    for (i, selector) in selectors.iter().enumerate() {
        labels::selector(out, &path.index(i), selector);
    }
}

fn binding(out: &mut Errors, object: &Value, namespaced: bool) {
    let (path, reference) = (FieldPath::new("roleRef"), get(object, "roleRef"));
    let (group, kind, name) = (text(reference, "apiGroup"), text(reference, "kind"), text(reference, "name"));
    if group != GROUP {
        out.push(FieldError::not_supported(path.child("apiGroup"), group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind) {
        let mut sorted = kinds.to_vec();
        sorted.sort_unstable();
        out.push(FieldError::not_supported(path.child("kind"), kind, &sorted));
    }
    if name.is_empty() {
        out.push(FieldError::required(path.child("name"), ""));
    } else {
        invalid_each(out, &path.child("name"), name, names::path_segment(name));
    }
    for (i, subject) in list(object, "subjects").iter().enumerate() {
        self::subject(out, &FieldPath::new("subjects").index(i), subject, namespaced);
    }
}

fn subject(out: &mut Errors, path: &FieldPath, subject: &Value, namespaced: bool) {
    let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        out.push(FieldError::required(path.child("name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                invalid_each(out, &path.child("name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                out.push(FieldError::not_supported(path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                out.push(FieldError::required(path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                out.push(FieldError::not_supported(path.child("apiGroup"), group, &[GROUP]));
            }
        }
        _ => {
            let kinds = ["Group", "ServiceAccount", "User"];
            out.push(FieldError::not_supported(path.child("kind"), kind, &kinds));
        }
    }
}
