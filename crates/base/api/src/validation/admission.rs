//! Webhook configurations, admission policies and their bindings: all but whether expressions compile, which their
//! compiler says.

mod rules;
mod webhooks;

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath};

use super::read::{Errors, get, has, invalid_each, list, text, texts};
use super::{labels, names, policies};

use self::rules::match_resources;

/// Conditions that one webhook or policy has at most.
const MAX_CONDITIONS: usize = 64;
/// Audit annotations that one policy has at most.
const MAX_ANNOTATIONS: usize = 20;
/// Bytes that the expression of an audit annotation has at most.
const MAX_ANNOTATION_EXPRESSION: usize = 5 * 1024;

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const REINVOCATION: [&str; 2] = ["IfNeeded", "Never"];

/// Checks an object of the group, with what was there before it.
pub(super) fn object(out: &mut Errors, resource: &Resource, object: &Value, old: Option<&Value>) {
    let (spec, path) = (get(object, "spec"), FieldPath::new("spec"));
    match resource.kind {
        "ValidatingWebhookConfiguration" => webhooks::configuration(out, object, old, false),
        "MutatingWebhookConfiguration" => webhooks::configuration(out, object, old, true),
        "ValidatingAdmissionPolicy" => {
            policy(out, spec, &path, false);
            validating(out, object, spec, &path);
        }
        "MutatingAdmissionPolicy" => {
            policy(out, spec, &path, true);
            mutating(out, spec, &path);
        }
        "ValidatingAdmissionPolicyBinding" => {
            binding(out, spec, &path, false);
            actions(out, &path.child("validationActions"), spec);
        }
        "MutatingAdmissionPolicyBinding" => binding(out, spec, &path, true),
        _ => {}
    }
}

/// Text that has to be there and one of these; the empty one is none of them.
fn chosen(out: &mut Errors, path: FieldPath, value: &Value, supported: &[&str]) {
    match value.as_str() {
        None => out.push(FieldError::required(path, "")),
        Some(text) if !supported.contains(&text) => {
            out.push(FieldError::not_supported(path, text, supported));
        }
        Some(_) => {}
    }
}

/// What policies of both kinds have.
fn policy(out: &mut Errors, spec: &Value, path: &FieldPath, mutating: bool) {
    chosen(out, path.child("failurePolicy"), get(spec, "failurePolicy"), &FAILURE_POLICIES);
    if has(spec, "paramKind") {
        param_kind(out, &path.child("paramKind"), get(spec, "paramKind"));
    }
    let constraints = get(spec, "matchConstraints");
    let at = path.child("matchConstraints");
    if constraints.is_null() {
        out.push(FieldError::required(at, ""));
    } else {
        match_resources(out, &at, constraints);
        if list(constraints, "resourceRules").is_empty() {
            out.push(FieldError::required(at.child("resourceRules"), ""));
        }
        if mutating {
            rules::mutable(out, &at, constraints);
        }
    }
    conditions(out, &path.child("matchConditions"), spec);
    variables(out, &path.child("variables"), spec);
}

fn param_kind(out: &mut Errors, path: &FieldPath, params: &Value) {
    let (version, kind) = (text(params, "apiVersion"), text(params, "kind"));
    let at = path.child("apiVersion");
    match version.split('/').collect::<Vec<_>>().as_slice() {
        [""] => out.push(FieldError::required(&at, "")),
        ["", ""] => out.push(FieldError::invalid(&at, version, "version must be specified")),
        [_, _, _, ..] => {
            let sentence = format!("unexpected GroupVersion string: {version}");
            out.push(FieldError::invalid(&at, version, sentence));
        }
        parts => {
            let (group, version_part) = match parts {
                [group, version] => (*group, *version),
                [version] => ("", *version),
                _ => ("", ""),
            };
            let wrong = names::dns1123_subdomain(group);
            if !group.is_empty() && !wrong.is_empty() {
                out.push(FieldError::invalid(&at, group, wrong.join(",")));
            }
            let wrong = names::dns1035_label(version_part);
            if version_part.is_empty() {
                out.push(FieldError::invalid(&at, version, "version must be specified"));
            } else if !wrong.is_empty() {
                out.push(FieldError::invalid(&at, version_part, wrong.join(",")));
            }
        }
    }
    let wrong = names::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        out.push(FieldError::required(path.child("kind"), ""));
    } else if !wrong.is_empty() {
        let sentence = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        out.push(FieldError::invalid(path.child("kind"), kind, sentence));
    }
}

/// `matchConditions`: names and that there is an expression.
fn conditions(out: &mut Errors, path: &FieldPath, of: &Value) {
    let conditions = list(of, "matchConditions");
    if conditions.len() > MAX_CONDITIONS {
        out.push(FieldError::too_many(path, conditions.len(), MAX_CONDITIONS));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if text(condition, "expression").trim().is_empty() {
            out.push(FieldError::required(path.child("expression"), ""));
        }
        let name = text(condition, "name");
        if name.is_empty() {
            out.push(FieldError::required(path.child("name"), ""));
            continue;
        }
        invalid_each(out, &path.child("name"), name, names::qualified(name));
        if seen.contains(&name) {
            out.push(FieldError::duplicate(path.child("name"), name));
        }
        seen.push(name);
    }
}

fn variables(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, variable) in list(spec, "variables").iter().enumerate() {
        let path = path.index(i);
        let name = text(variable, "name");
        if name.trim().is_empty() {
            out.push(FieldError::required(path.child("name"), "name is not specified"));
        } else if !is_identifier(name) {
            out.push(FieldError::invalid(path.child("name"), name, "must be a valid CEL identifier"));
        }
        if text(variable, "expression").trim().is_empty() {
            out.push(FieldError::required(path.child("expression"), "expression is not specified"));
        }
    }
}

/// Whether expressions can name a variable so.
fn is_identifier(name: &str) -> bool {
    const RESERVED: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit()) && !RESERVED.contains(&name)
}

fn validating(out: &mut Errors, object: &Value, spec: &Value, path: &FieldPath) {
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for key in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            out.push(FieldError::required(path.child(key), detail));
        }
        return;
    }
    for (i, item) in validations.iter().enumerate() {
        validation(out, &path.child("validations").index(i), item);
    }
    let path = path.child("auditAnnotations");
    if annotations.len() > MAX_ANNOTATIONS {
        let sentence = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        out.push(FieldError::invalid(&path, get(spec, "auditAnnotations").clone(), sentence));
    }
    let policy = text(get(object, "metadata"), "name");
    let mut seen: Vec<&str> = Vec::new();
    for (i, item) in annotations.iter().enumerate() {
        let path = path.index(i);
        let key = text(item, "key");
        let whole = format!("{policy}/{key}");
        invalid_each(out, &path.child("key"), &whole, names::qualified(&whole));
        let expression = text(item, "valueExpression").trim();
        if expression.is_empty() {
            let detail = "valueExpression is not specified";
            out.push(FieldError::required(path.child("valueExpression"), detail));
        } else if expression.len() > MAX_ANNOTATION_EXPRESSION {
            let detail = format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length");
            out.push(FieldError::required(path.child("valueExpression"), detail));
        }
        if seen.contains(&key) {
            out.push(FieldError::duplicate(path.child("key"), key));
        }
        seen.push(key);
    }
}

fn validation(out: &mut Errors, path: &FieldPath, item: &Value) {
    if text(item, "expression").trim().is_empty() {
        out.push(FieldError::required(path.child("expression"), "expression is not specified"));
    }
    for key in ["messageExpression", "message"] {
        let given = text(item, key);
        if !given.is_empty() && given.trim().is_empty() {
            out.push(FieldError::invalid(path.child(key), given, "must be non-empty if specified"));
        }
    }
    let message = text(item, "message");
    if message.trim().contains(['\n', '\r']) {
        out.push(FieldError::invalid(path.child("message"), message, "must not contain line breaks"));
    }
    if let Some(reason) = get(item, "reason").as_str() {
        let known = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
        if !known.contains(&reason) {
            out.push(FieldError::not_supported(path.child("reason"), reason, &known));
        }
    }
}

fn mutating(out: &mut Errors, spec: &Value, path: &FieldPath) {
    const WAYS: [(&str, &str); 2] =
        [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
    let mutations = list(spec, "mutations");
    let all = path.child("mutations");
    if mutations.is_empty() {
        out.push(FieldError::required(&all, "mutations must contain at least one item"));
    }
    for (i, mutation) in mutations.iter().enumerate() {
        let path = all.index(i);
        let kind = text(mutation, "patchType");
        if kind.is_empty() {
            out.push(FieldError::required(path.child("patchType"), ""));
        } else if !WAYS.iter().any(|(name, _)| *name == kind) {
            out.push(FieldError::not_supported(path.child("patchType"), kind, &WAYS.map(|(name, _)| name)));
        } else {
            for (name, field) in WAYS {
                let at = path.child(field);
                match (name == kind, has(mutation, field)) {
                    (true, false) => {
                        let detail = format!("must be specified when patchType is {kind}");
                        out.push(FieldError::required(at, detail));
                    }
                    (true, true) if text(get(mutation, field), "expression").trim().is_empty() => {
                        out.push(FieldError::required(at.child("expression"), ""));
                    }
                    (false, true) => {
                        let detail = format!("must not be specified when patchType is {kind}");
                        out.push(FieldError::invalid(at, format!("{{{field}}}"), detail));
                    }
                    _ => {}
                }
            }
        }
    }
    let policy = text(spec, "reinvocationPolicy");
    let at = path.child("reinvocationPolicy");
    if policy.is_empty() {
        out.push(FieldError::required(at, ""));
    } else if !REINVOCATION.contains(&policy) {
        out.push(FieldError::not_supported(at, policy, &REINVOCATION));
    }
}

fn binding(out: &mut Errors, spec: &Value, path: &FieldPath, mutating: bool) {
    let policy = text(spec, "policyName");
    if policy.is_empty() {
        out.push(FieldError::required(path.child("policyName"), ""));
    } else {
        invalid_each(out, &path.child("policyName"), policy, names::dns1123_subdomain(policy));
    }
    if has(spec, "paramRef") {
        param_ref(out, &path.child("paramRef"), get(spec, "paramRef"));
    }
    let resources = get(spec, "matchResources");
    if !resources.is_null() {
        match_resources(out, &path.child("matchResources"), resources);
        if mutating {
            rules::mutable(out, &path.child("matchResources"), resources);
        }
    }
}

fn param_ref(out: &mut Errors, path: &FieldPath, reference: &Value) {
    let (name, selects) = (text(reference, "name"), has(reference, "selector"));
    if !name.is_empty() {
        invalid_each(out, &path.child("name"), name, names::path_segment(name));
    }
    let both = "name and selector are mutually exclusive";
    if selects && !name.is_empty() {
        out.push(FieldError::forbidden(path.child("name"), both));
    }
    if selects {
        labels::selector(out, &path.child("selector"), get(reference, "selector"));
        if !name.is_empty() {
            out.push(FieldError::forbidden(path.child("selector"), both));
        }
    }
    if name.is_empty() && !selects {
        out.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    let action = text(reference, "parameterNotFoundAction");
    let at = path.child("parameterNotFoundAction");
    if action.is_empty() {
        out.push(FieldError::required(at, ""));
    } else if !["Deny", "Allow"].contains(&action) {
        out.push(FieldError::not_supported(at, action, &["Deny", "Allow"]));
    }
}

fn actions(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let known = ["Audit", "Deny", "Warn"];
    let actions = texts(spec, "validationActions");
    for (i, action) in actions.iter().enumerate() {
        if !known.contains(action) {
            out.push(FieldError::not_supported(path.index(i), *action, &known));
        }
        if actions[..i].contains(action) {
            out.push(FieldError::duplicate(path.index(i), *action));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let sentence = "must not contain both Deny and Warn (repeating the same validation failure information in \
                        the API response and headers serves no purpose)";
        out.push(FieldError::invalid(path, get(spec, "validationActions").clone(), sentence));
    }
    if actions.is_empty() {
        out.push(FieldError::required(path, "at least one validation action is required"));
    }
}

/// The status of a validating policy.
pub(super) fn policy_status(out: &mut Errors, object: &Value) {
    let (status, path) = (get(object, "status"), FieldPath::new("status"));
    let at = path.child("typeChecking").child("expressionWarnings");
    for (i, warning) in list(get(status, "typeChecking"), "expressionWarnings").iter().enumerate() {
        for key in ["warning", "fieldRef"] {
            if text(warning, key).trim().is_empty() {
                out.push(FieldError::required(at.index(i).child(key), ""));
            }
        }
    }
    policies::conditions(out, &path.child("conditions"), status);
}
