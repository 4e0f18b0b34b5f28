//! Which names a definition gets, and the conditions that say so.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::is_true;
use crate::call::text;

/// The names that other definitions of the group have.
#[derive(Default)]
pub(super) struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

/// What the other definitions of the group have.
pub(super) fn taken<'a>(all: impl Iterator<Item = &'a Value>, own: &Value) -> Taken {
    let mut taken = Taken::default();
    for other in all {
        if text(other, "/spec/group") != text(own, "/spec/group")
            || text(other, "/metadata/name") == text(own, "/metadata/name")
        {
            continue;
        }
        let Some(names) = other.pointer("/status/acceptedNames") else { continue };
        let one = |name: &str| names.get(name).and_then(Value::as_str).map(str::to_owned);
        let short = names.get("shortNames").and_then(Value::as_array).into_iter().flatten();
        taken.resources.extend(short.filter_map(Value::as_str).map(str::to_owned));
        taken.resources.extend([one("plural"), one("singular")].into_iter().flatten());
        taken.kinds.extend([one("kind"), one("listKind")].into_iter().flatten());
    }
    taken
}

/// The definition with the names it gets and the conditions that follow.
pub(super) fn conditions(object: &Value, taken: &Taken, problem: Option<&str>) -> Value {
    let mut out = object.clone();
    let asked = object.pointer("/spec/names").cloned().unwrap_or_default();
    let mut accepted = object.pointer("/status/acceptedNames").cloned().unwrap_or_else(|| json!({}));
    let mut refused: Option<(&str, String)> = None;
    let used = |name: &str| format!("\"{name}\" is already in use");
    let wishes = [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ];
    for (field, taken, reason) in wishes {
        let wish = asked.get(field).cloned().unwrap_or_default();
        if accepted.get(field) == Some(&wish) {
            continue;
        }
        let each: Vec<&str> = match &wish {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        let mine = |name: &&str| {
            accepted.get(field).and_then(Value::as_array).is_some_and(|list| list.iter().any(|n| n == name))
        };
        let clashes: Vec<String> =
            each.iter().filter(|name| !mine(name) && taken.contains(**name)).map(|name| used(name)).collect();
        if clashes.is_empty() {
            set(&mut accepted, field, wish);
        } else {
            refused = Some((reason, sampan_api::status::aggregate(clashes)));
        }
    }
    set(&mut accepted, "categories", asked.get("categories").cloned().unwrap_or_default());
    out["status"]["acceptedNames"] = accepted;
    let good = refused.is_none();
    let (reason, message) = refused.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    condition(&mut out, "NamesAccepted", good, reason, &message);
    // Who is established stays so, whatever it asks for later.
    if let Some(problem) = problem {
        condition(&mut out, "Established", false, "NotServed", problem);
    } else if !is_true(object, "Established") {
        // It is served once the names are known to be accepted: that is seen in the next round.
        if good && is_true(object, "NamesAccepted") {
            condition(
                &mut out,
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            );
        } else if good {
            condition(&mut out, "Established", false, "Installing", "the initial names have been accepted");
        } else {
            condition(&mut out, "Established", false, "NotAccepted", "not all names are accepted");
        }
    }
    approval(&mut out);
    out
}

/// Groups of Kubernetes itself say who approved them.
fn approval(object: &mut Value) {
    let group = text(object, "/spec/group");
    if !(group == "k8s.io"
        || group == "kubernetes.io"
        || group.ends_with(".k8s.io")
        || group.ends_with(".kubernetes.io"))
    {
        return;
    }
    const NAME: &str = "api-approved.kubernetes.io";
    let value = object.pointer("/metadata/annotations").and_then(|a| a.get(NAME)).and_then(Value::as_str);
    let value = value.unwrap_or_default().to_owned();
    let kind = "KubernetesAPIApprovalPolicyConformant";
    if value.starts_with("unapproved") {
        let message = format!("not approved: \"{value}\"");
        condition(object, kind, false, "UnapprovedAnnotation", &message);
    } else if value.starts_with("https://") {
        let message = format!("approved in {value}");
        condition(object, kind, true, "ApprovedAnnotation", &message);
    } else if value.is_empty() {
        let message = format!(
            "protected groups must have approval annotation \"{NAME}\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        condition(object, kind, false, "MissingAnnotation", &message);
    } else {
        let message = format!(
            "protected groups must have approval annotation \"{NAME}\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        condition(object, kind, false, "InvalidAnnotation", &message);
    }
}

fn set(names: &mut Value, field: &str, value: Value) {
    let Some(names) = names.as_object_mut() else { return };
    if value.is_null() {
        names.shift_remove(field);
    } else {
        names.insert(field.to_owned(), value);
    }
}

/// Sets a condition; the time counts from when its status changed.
pub(super) fn condition(object: &mut Value, kind: &str, status: bool, reason: &str, message: &str) {
    let status = if status { "True" } else { "False" };
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(list) = object["status"]["conditions"].as_array_mut() else { return };
    let old = list.iter_mut().find(|c| c["type"] == kind);
    let since = match &old {
        Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    let new = json!({
        "type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
    });
    match old {
        Some(old) => *old = new,
        None => list.push(new),
    }
}
