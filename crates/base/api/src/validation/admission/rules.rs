//! Which requests a webhook or a policy is about.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::read::{Errors, get, invalid_each, list, text, texts};
use crate::validation::{labels, names};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What a mutating policy may be about.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];

/// `MatchResources`.
pub(super) fn match_resources(out: &mut Errors, path: &FieldPath, resources: &Value) {
    super::chosen(out, path.child("matchPolicy"), get(resources, "matchPolicy"), &MATCH_POLICIES);
    for key in ["namespaceSelector", "objectSelector"] {
        let selector = get(resources, key);
        if selector.is_null() {
            out.push(FieldError::required(path.child(key), ""));
        }
        labels::selector(out, &path.child(key), selector);
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in list(resources, key).iter().enumerate() {
            let path = path.child(key).index(i);
            let names = texts(rule, "resourceNames");
            for (j, name) in names.iter().enumerate() {
                let at = path.child("resourceNames").index(j);
                invalid_each(out, &at, name, names::path_segment(name));
                if names[..j].contains(name) {
                    out.push(FieldError::duplicate(at, *name));
                }
            }
            self::rule(out, &path, rule);
        }
    }
}

/// `matchPolicy` of a webhook, where there is one.
pub(super) fn match_policy(out: &mut Errors, path: FieldPath, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !MATCH_POLICIES.contains(text)) {
        out.push(FieldError::not_supported(path, text, &MATCH_POLICIES));
    }
}

/// A mutating policy is not asked about deletions.
pub(super) fn mutable(out: &mut Errors, path: &FieldPath, resources: &Value) {
    let path = path.child("resourceRules").child("operations");
    for operation in list(resources, "resourceRules").iter().flat_map(|rule| texts(rule, "operations")) {
        if !MUTABLE.contains(&operation) {
            out.push(FieldError::not_supported(&path, operation, &MUTABLE));
        }
    }
}

/// `RuleWithOperations`.
pub(super) fn rule(out: &mut Errors, path: &FieldPath, rule: &Value) {
    some_or_all(out, path, rule, "operations", "operations");
    for (i, operation) in texts(rule, "operations").iter().enumerate() {
        if !OPERATIONS.contains(operation) {
            let at = path.child("operations").index(i);
            out.push(FieldError::not_supported(at, *operation, &OPERATIONS));
        }
    }
    some_or_all(out, path, rule, "apiGroups", "API groups");
    some_or_all(out, path, rule, "apiVersions", "API versions");
    for (i, version) in texts(rule, "apiVersions").iter().enumerate() {
        if version.is_empty() {
            out.push(FieldError::required(path.child("apiVersions").index(i), ""));
        }
    }
    resources(out, &path.child("resources"), rule);
    if let Some(scope) = get(rule, "scope").as_str().filter(|scope| !SCOPES.contains(scope)) {
        out.push(FieldError::not_supported(path.child("scope"), scope, &SCOPES));
    }
}

/// Something has to be there, and `*` stands alone.
fn some_or_all(out: &mut Errors, path: &FieldPath, rule: &Value, key: &str, what: &str) {
    let given = texts(rule, key);
    if given.is_empty() {
        out.push(FieldError::required(path.child(key), ""));
    }
    if given.len() > 1 && given.contains(&"*") {
        let sentence = format!("if '*' is present, must not specify other {what}");
        out.push(FieldError::invalid(path.child(key), get(rule, key).clone(), sentence));
    }
}

fn resources(out: &mut Errors, path: &FieldPath, rule: &Value) {
    let resources = texts(rule, "resources");
    if resources.is_empty() {
        out.push(FieldError::required(path, ""));
    }
    let (mut all_subresources, mut of_all): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut whole = false;
    for (i, resource) in resources.iter().enumerate() {
        let at = path.index(i);
        if resource.is_empty() {
            out.push(FieldError::required(at, ""));
            continue;
        }
        let Some((name, sub)) = resource.split_once('/') else {
            whole = *resource != "*";
            continue;
        };
        if all_subresources.contains(&name) {
            let sentence = format!("if '{name}/*' is present, must not specify {resource}");
            out.push(FieldError::invalid(&at, *resource, sentence));
        }
        if of_all.contains(&sub) {
            let sentence = format!("if '*/{sub}' is present, must not specify {resource}");
            out.push(FieldError::invalid(&at, *resource, sentence));
        }
        if sub == "*" {
            all_subresources.push(name);
        }
        if name == "*" {
            of_all.push(sub);
        }
    }
    let shown = || get(rule, "resources").clone();
    if resources.len() > 1 && resources.contains(&"*/*") {
        let sentence = "if '*/*' is present, must not specify other resources";
        out.push(FieldError::invalid(path, shown(), sentence));
    }
    if resources.contains(&"*") && whole {
        let sentence = "if '*' is present, must not specify other resources without subresources";
        out.push(FieldError::invalid(path, shown(), sentence));
    }
}

/// A name with at least three parts.
pub(super) fn fully_qualified(out: &mut Errors, path: FieldPath, object: &Value) {
    let name = text(object, "name");
    let wrong = names::dns1123_subdomain(name);
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
    } else if !wrong.is_empty() {
        out.push(FieldError::invalid(path, name, wrong.join(",")));
    } else if name.split('.').count() < 3 {
        let sentence = "should be a domain with at least three segments separated by dots";
        out.push(FieldError::invalid(path, name, sentence));
    }
}
