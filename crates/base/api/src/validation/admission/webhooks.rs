//! Webhooks: who is asked, about what, and how.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::read::{Errors, get, has, list, number, one_of_if_set, text, texts};
use crate::validation::{labels, names};

use super::{FAILURE_POLICIES, REINVOCATION, rules};

/// Versions of `AdmissionReview` that are spoken.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

/// What was stored may break newer rules, so that an update of it still may.
struct Leave {
    side_effects: bool,
    versions: bool,
    twins: bool,
}

impl Leave {
    fn of(old: Option<&Value>) -> Leave {
        let hooks = old.map(|old| list(old, "webhooks")).unwrap_or_default();
        let known = |hook: &Value| {
            let versions = texts(hook, "admissionReviewVersions");
            versions.is_empty() || versions.iter().any(|version| VERSIONS.contains(version))
        };
        let names: Vec<&str> = hooks.iter().map(|hook| text(hook, "name")).collect();
        Leave {
            side_effects: !hooks.iter().all(|hook| NO_SIDE_EFFECTS.contains(&text(hook, "sideEffects"))),
            versions: !hooks.iter().all(known),
            twins: names.iter().enumerate().any(|(i, name)| names[..i].contains(name)),
        }
    }
}

/// A configuration of webhooks.
pub(super) fn configuration(out: &mut Errors, object: &Value, old: Option<&Value>, mutating: bool) {
    let leave = Leave::of(old);
    let mut seen: Vec<&str> = Vec::new();
    for (i, hook) in list(object, "webhooks").iter().enumerate() {
        let path = FieldPath::new("webhooks").index(i);
        webhook(out, &path, hook, mutating, &leave);
        versions(out, &path.child("admissionReviewVersions"), hook, &leave);
        let name = text(hook, "name");
        if !leave.twins && seen.contains(&name) {
            out.push(FieldError::duplicate(path.child("name"), name));
        }
        if !name.is_empty() {
            seen.push(name);
        }
    }
}

fn webhook(out: &mut Errors, path: &FieldPath, hook: &Value, mutating: bool, leave: &Leave) {
    rules::fully_qualified(out, path.child("name"), hook);
    for (i, rule) in list(hook, "rules").iter().enumerate() {
        rules::rule(out, &path.child("rules").index(i), rule);
    }
    one_of_if_set(out, &path.child("failurePolicy"), get(hook, "failurePolicy"), &FAILURE_POLICIES);
    rules::match_policy(out, path.child("matchPolicy"), get(hook, "matchPolicy"));
    let allowed: &[&str] = if leave.side_effects { &SIDE_EFFECTS } else { &NO_SIDE_EFFECTS };
    match get(hook, "sideEffects").as_str() {
        None => {
            let detail = format!("must specify one of {}", allowed.join(", "));
            out.push(FieldError::required(path.child("sideEffects"), detail));
        }
        Some(effects) if !allowed.contains(&effects) => {
            out.push(FieldError::not_supported(path.child("sideEffects"), effects, allowed));
        }
        Some(_) => {}
    }
    let timeout = number(hook, "timeoutSeconds");
    if has(hook, "timeoutSeconds") && !(1..=30).contains(&timeout) {
        let sentence = "the timeout value must be between 1 and 30 seconds";
        out.push(FieldError::invalid(path.child("timeoutSeconds"), timeout, sentence));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        labels::selector(out, &path.child(key), get(hook, key));
    }
    if mutating {
        let at = path.child("reinvocationPolicy");
        one_of_if_set(out, &at, get(hook, "reinvocationPolicy"), &REINVOCATION);
    }
    client(out, &path.child("clientConfig"), get(hook, "clientConfig"));
    super::conditions(out, &path.child("matchConditions"), hook);
}

fn versions(out: &mut Errors, path: &FieldPath, hook: &Value, leave: &Leave) {
    let versions = texts(hook, "admissionReviewVersions");
    let spoken = VERSIONS.join(", ");
    if versions.is_empty() {
        out.push(FieldError::required(path, format!("must specify one of {spoken}")));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            out.push(FieldError::invalid(path.index(i), *version, "duplicate version"));
            continue;
        }
        for sentence in names::dns1035_label(version) {
            out.push(FieldError::invalid(path.index(i), *version, sentence));
        }
    }
    if !leave.versions && !versions.iter().any(|version| VERSIONS.contains(version)) {
        let given = get(hook, "admissionReviewVersions").clone();
        out.push(FieldError::invalid(path, given, format!("must include at least one of {spoken}")));
    }
}

fn client(out: &mut Errors, path: &FieldPath, client: &Value) {
    match (get(client, "url"), get(client, "service")) {
        (Value::String(address), Value::Null) => url(out, &path.child("url"), address),
        (Value::Null, service @ Value::Object(_)) => self::service(out, &path.child("service"), service),
        _ => out.push(FieldError::required(path, "exactly one of url or service is required")),
    }
}

/// The address of a webhook: `https`, a host and at most a path.
fn url(out: &mut Errors, path: &FieldPath, address: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = address.split_once('#').unwrap_or((address, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let scheme = rest.split_once(':').filter(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let (scheme, rest) = scheme.unwrap_or(("", rest));
    let authority = rest.strip_prefix("//").map(|rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = match authority.unwrap_or_default().rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority.unwrap_or_default()),
    };
    if rest.starts_with(':') || address.starts_with(':') {
        let why = format!("parse {}: missing protocol scheme", crate::status::go_quote(address));
        out.push(FieldError::required(path, format!("url must be a valid URL: {why}{FORM}")));
        return;
    }
    let mut wrong = |bad: &str, sentence: String| out.push(FieldError::invalid(path, bad, sentence));
    if !scheme.eq_ignore_ascii_case("https") {
        wrong(&scheme.to_lowercase(), format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        wrong("", format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        wrong(user, "user information is not permitted in the URL".to_owned());
    }
    if !fragment.is_empty() {
        wrong(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if !query.is_empty() {
        wrong(query, "query parameters are not permitted in the URL".to_owned());
    }
}

fn service(out: &mut Errors, path: &FieldPath, service: &Value) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            out.push(FieldError::required(path.child(key), ""));
        }
    }
    let port = number(service, "port");
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let sentence = format!("port is not valid: {}", wrong.join(", "));
        out.push(FieldError::invalid(path.child("port"), port, sentence));
    }
    let (given, at) = (text(service, "path"), path.child("path"));
    if given.is_empty() || given == "/" {
        return;
    }
    let mut wrong = |sentence: String| out.push(FieldError::invalid(&at, given, sentence));
    if given == "//" {
        wrong("segment[0] may not be empty".to_owned());
        return;
    }
    if !given.starts_with('/') {
        wrong("must start with a '/'".to_owned());
    }
    let rest = given.get(1..).unwrap_or_default();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (i, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            wrong(format!("segment[{i}] may not be empty"));
            continue;
        }
        for sentence in names::dns1123_subdomain(step) {
            wrong(format!("segment[{i}]: {sentence}"));
        }
    }
}
