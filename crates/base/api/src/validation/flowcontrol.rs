//! `flowcontrol.apiserver.k8s.io`: which requests belong together, and how many of them go at once.

use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath};

use super::names;
use super::read::{Errors, flag, get, has, int, invalid_each, list, number, text, texts};

/// The most queues that a level may have.
const MAX_QUEUES: i64 = 10_000_000;

/// The bits that the hash of a flow has for choosing queues.
const HASH_BITS: u32 = 60;

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// The rules of the group's kinds.
pub(super) fn object(out: &mut Errors, resource: &Resource, object: &Value) {
    match resource.kind {
        "FlowSchema" => schema(out, object),
        "PriorityLevelConfiguration" => level(out, object),
        _ => {}
    }
    status(out, object);
}

/// The conditions, which each have a type and are each there once.
pub(super) fn status(out: &mut Errors, object: &Value) {
    let path = FieldPath::new("status").child("conditions");
    let conditions = list(get(object, "status"), "conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let kind = text(condition, "type");
        let path = path.index(i).child("type");
        if conditions[..i].iter().any(|other| text(other, "type") == kind) {
            out.push(FieldError::duplicate(&path, kind));
        }
        if kind.is_empty() {
            out.push(FieldError::required(&path, ""));
        }
    }
}

fn everything(kind: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> =
        groups.iter().map(|name| json!({"kind": kind, "group": {"name": name}})).collect();
    json!([{
        "subjects": subjects,
        "resourceRules": [{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
        }],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}

/// The two schemas that nobody may change.
fn fixed_schema(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"},
            "matchingPrecedence": 1,
            "rules": everything("Group", &["system:masters"]),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": 10000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": everything("Group", &["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

fn schema(out: &mut Errors, object: &Value) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    let name = text(get(object, "metadata"), "name");
    let precedence = number(spec, "matchingPrecedence");
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        out.push(FieldError::invalid(&at, precedence, "must be a positive value"));
    }
    if precedence > 10_000 {
        out.push(FieldError::invalid(&at, precedence, "must not be greater than 10000"));
    }
    if precedence == 1 && name != "exempt" {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        out.push(FieldError::invalid(&at, precedence, why));
    }
    let method = get(spec, "distinguisherMethod");
    if !method.is_null() && !["ByNamespace", "ByUser"].contains(&text(method, "type")) {
        let at = path.child("distinguisherMethod").child("type");
        out.push(FieldError::not_supported(at, method.clone(), &["ByNamespace", "ByUser"]));
    }
    let level = text(get(spec, "priorityLevelConfiguration"), "name");
    let at = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        out.push(FieldError::required(at, "must reference a priority level"));
    } else {
        invalid_each(out, &at, level, names::dns1123_subdomain(level));
    }
    for (i, rule) in list(spec, "rules").iter().enumerate() {
        schema_rule(out, &path.child("rules").index(i), rule);
    }
    if let Some(fixed) = fixed_schema(name)
        && *spec != fixed
    {
        let why = format!("spec of '{name}' must equal the fixed value");
        out.push(FieldError::invalid(&path, spec.clone(), why));
    }
}

fn schema_rule(out: &mut Errors, path: &FieldPath, rule: &Value) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        out.push(FieldError::required(path.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, subject) in subjects.iter().enumerate() {
        self::subject(out, &path.child("subjects").index(i), subject);
    }
    let (resources, paths) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        out.push(FieldError::required(path, why));
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(out, &path.child("resourceRules").index(i), rule);
    }
    for (i, rule) in paths.iter().enumerate() {
        let path = path.child("nonResourceRules").index(i);
        verbs(out, &path, rule);
        urls(out, &path.child("nonResourceURLs"), &texts(rule, "nonResourceURLs"));
    }
}

fn subject(out: &mut Errors, path: &FieldPath, subject: &Value) {
    const FIELDS: [(&str, &str); 3] =
        [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let kind = text(subject, "kind");
    let Some((_, own)) = FIELDS.iter().find(|(name, _)| *name == kind) else {
        let kinds = ["Group", "ServiceAccount", "User"];
        out.push(FieldError::not_supported(path.child("kind"), kind, &kinds));
        return;
    };
    let (at, value) = (path.child(own), get(subject, own));
    if value.is_null() {
        out.push(FieldError::required(&at, format!("{own} is required when subject kind is '{kind}'")));
    } else {
        let name = text(value, "name");
        if name.is_empty() {
            out.push(FieldError::required(at.child("name"), ""));
        } else if kind == "ServiceAccount" && name != "*" {
            invalid_each(out, &at.child("name"), name, names::dns1123_subdomain(name));
        }
        if kind == "ServiceAccount" {
            let namespace = text(value, "namespace");
            if namespace.is_empty() {
                let why = "must specify namespace for service account";
                out.push(FieldError::required(at.child("namespace"), why));
            } else {
                invalid_each(out, &at.child("namespace"), namespace, names::dns1123_label(namespace));
            }
        }
    }
    for (other, field) in FIELDS.iter().filter(|(other, field)| *other != kind && has(subject, field)) {
        let why = format!("{field} is forbidden when subject kind is not '{other}'");
        out.push(FieldError::forbidden(path.child(field), why));
    }
}

fn verbs(out: &mut Errors, path: &FieldPath, rule: &Value) {
    let (path, named) = (path.child("verbs"), texts(rule, "verbs"));
    let shown = get(rule, "verbs").clone();
    if named.is_empty() {
        out.push(FieldError::required(&path, "verbs must contain at least one value"));
    } else if named.contains(&"*") {
        if named.len() > 1 {
            let why = "if '*' is present, must not specify other verbs";
            out.push(FieldError::invalid(&path, shown, why));
        }
    } else if named.iter().any(|verb| !VERBS.contains(verb)) {
        out.push(FieldError::not_supported(&path, shown, &VERBS));
    }
}

fn urls(out: &mut Errors, path: &FieldPath, urls: &[&str]) {
    if urls.is_empty() {
        out.push(FieldError::required(path, "nonResourceURLs must contain at least one value"));
        return;
    }
    if urls.contains(&"*") {
        if urls.len() > 1 {
            let why = "if '*' is present, must not specify other non-resource URLs";
            out.push(FieldError::invalid(path, json!(urls), why));
        }
        return;
    }
    for (i, url) in urls.iter().enumerate() {
        let stars = url.matches('*').count();
        let why = match *url {
            "" => "must not be empty",
            "/" => continue,
            _ if !url.starts_with('/') => "must start with slash",
            _ if url.contains(' ') => "must not contain white-space",
            _ if url.contains("//") => "must not contain double slash",
            _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => "wildcard can only do suffix matching",
            _ => continue,
        };
        out.push(FieldError::invalid(path.index(i), *url, why));
    }
}

fn resource_rule(out: &mut Errors, path: &FieldPath, rule: &Value) {
    verbs(out, path, rule);
    for (key, none, many) in [
        ("apiGroups", "at least one api group", "other api groups"),
        ("resources", "at least one resource", "other resources"),
    ] {
        let named = texts(rule, key);
        if named.is_empty() {
            out.push(FieldError::required(path.child(key), format!("resource rules must supply {none}")));
        } else if named.len() > 1 && named.contains(&"*") {
            let why = format!("if '*' is present, must not specify {many}");
            out.push(FieldError::invalid(path.child(key), get(rule, key).clone(), why));
        }
    }
    let (path, namespaces) = (path.child("namespaces"), texts(rule, "namespaces"));
    if namespaces.is_empty() && !flag(rule, "clusterScope") {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        out.push(FieldError::required(&path, why));
    } else if namespaces.contains(&"*") {
        if namespaces.len() > 1 {
            let why = "if '*' is present, must not specify other namespaces";
            out.push(FieldError::invalid(&path, get(rule, "namespaces").clone(), why));
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            let why = names::dns1123_label(namespace)
                .into_iter()
                .map(|why| format!("each member of this list must be '*' or a DNS-1123 label; {why}"));
            invalid_each(out, &path.index(i), namespace, why.collect());
        }
    }
}

fn level(out: &mut Errors, object: &Value) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    let (name, kind) = (text(get(object, "metadata"), "name"), text(spec, "type"));
    if (name == "exempt") != (kind == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        out.push(FieldError::invalid(path.child("type"), kind, why));
    }
    match kind {
        "Exempt" => {
            if has(spec, "limited") {
                let why = "must be nil if the type is not Limited";
                out.push(FieldError::forbidden(path.child("limited"), why));
            }
            shares(out, &path.child("exempt"), get(spec, "exempt"));
        }
        "Limited" => {
            if has(spec, "exempt") {
                let why = "must be nil if the type is Limited";
                out.push(FieldError::forbidden(path.child("exempt"), why));
            }
            if has(spec, "limited") {
                limited(out, &path.child("limited"), get(spec, "limited"));
            } else {
                let why = "must not be empty when type is Limited";
                out.push(FieldError::required(path.child("limited"), why));
            }
        }
        _ => out.push(FieldError::not_supported(path.child("type"), kind, &["Exempt", "Limited"])),
    }
    let fixed = json!({
        "type": "Limited",
        "limited": {
            "nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}, "lendablePercent": 0,
        },
    });
    if name == "catch-all" && *spec != fixed {
        let why = "spec of 'catch-all' must equal the fixed value";
        out.push(FieldError::invalid(&path, spec.clone(), why));
    }
}

fn shares(out: &mut Errors, path: &FieldPath, value: &Value) {
    if let Some(shares) = int(value, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        let at = path.child("nominalConcurrencyShares");
        out.push(FieldError::invalid(at, shares, "must be a non-negative integer"));
    }
    if let Some(percent) = int(value, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        let at = path.child("lendablePercent");
        out.push(FieldError::invalid(at, percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(out: &mut Errors, path: &FieldPath, limited: &Value) {
    shares(out, path, limited);
    if let Some(percent) = int(limited, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        let at = path.child("borrowingLimitPercent");
        out.push(FieldError::invalid(at, percent, "if specified, must be a non-negative integer"));
    }
    let (path, response) = (path.child("limitResponse"), get(limited, "limitResponse"));
    match text(response, "type") {
        "Reject" => {
            if has(response, "queuing") {
                let why = "must be nil if limited.limitResponse.type is not Limited";
                out.push(FieldError::forbidden(path.child("queuing"), why));
            }
        }
        "Queue" if has(response, "queuing") => queuing(out, &path.child("queuing"), get(response, "queuing")),
        "Queue" => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            out.push(FieldError::required(path.child("queuing"), why));
        }
        other => out.push(FieldError::not_supported(path.child("type"), other, &["Queue", "Reject"])),
    }
}

fn queuing(out: &mut Errors, path: &FieldPath, queuing: &Value) {
    let (queues, hand) = (number(queuing, "queues"), number(queuing, "handSize"));
    let length = number(queuing, "queueLengthLimit");
    if length <= 0 {
        out.push(FieldError::invalid(path.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        out.push(FieldError::invalid(path.child("queues"), queues, "must be positive"));
    } else if queues > MAX_QUEUES {
        let why = format!("must not be greater than {MAX_QUEUES}");
        out.push(FieldError::invalid(path.child("queues"), queues, why));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        out.push(FieldError::invalid(&at, hand, "must be positive"));
    } else if hand > queues {
        out.push(FieldError::invalid(&at, hand, format!("should not be greater than queues ({queues})")));
    } else if entropy(queues, hand) > f64::from(HASH_BITS) {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        out.push(FieldError::invalid(&at, hand, why));
    }
}

/// The bits that dealing so many cards takes.
fn entropy(deck: i64, hand: i64) -> f64 {
    // Both are positive; more than so many cards take too many bits anyhow.
    let left = |dealt: i64| u32::try_from(deck - dealt).map_or(f64::INFINITY, f64::from);
    (0..hand.min(64)).map(|dealt| left(dealt).log2()).sum::<f64>().ceil()
}
