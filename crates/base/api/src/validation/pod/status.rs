//! `pods/status`: conditions, addresses, and that no container comes back from its end unless it may.

use std::net::IpAddr;

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::read::{Errors, deep, get, has, immutable, invalid_each, list, number, text};
use crate::validation::{ip, meta, names};

/// An update of a pod's status.
pub(in crate::validation) fn update_status(out: &mut Errors, new: &Value, old: &Value) {
    meta::update(out, new, old);
    let path = FieldPath::new("status");
    let (status, before) = (get(new, "status"), get(old, "status"));
    conditions(out, &path.child("conditions"), status);
    let nominated = text(status, "nominatedNodeName");
    if nominated != text(before, "nominatedNodeName") && !nominated.is_empty() {
        let wrong = names::dns1123_subdomain(nominated);
        invalid_each(out, &path.child("nominatedNodeName"), nominated, wrong);
    }
    if number(status, "observedGeneration") < 0 {
        let generation = number(status, "observedGeneration");
        let at = path.child("observedGeneration");
        out.push(FieldError::invalid(at, generation, "must be a non-negative integer"));
    }
    immutable(out, &path.child("qosClass"), get(status, "qosClass"), get(before, "qosClass"));
    let spec = get(old, "spec");
    transitions(out, &path, status, before, spec, "containerStatuses", "containers");
    transitions(out, &path, status, before, spec, "initContainerStatuses", "initContainers");
    addresses(out, &path.child("podIPs"), status, "podIPs");
    addresses(out, &path.child("hostIPs"), status, "hostIPs");
}

fn conditions(out: &mut Errors, path: &FieldPath, status: &Value) {
    for (i, condition) in list(status, "conditions").iter().enumerate() {
        let path = path.index(i);
        let generation = number(condition, "observedGeneration");
        if generation < 0 {
            let at = path.child("observedGeneration");
            out.push(FieldError::invalid(at, generation, "must be a non-negative integer"));
        }
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            invalid_each(out, &path.child("Type"), kind, names::qualified(kind));
        }
    }
}

fn addresses(out: &mut Errors, path: &FieldPath, status: &Value, key: &str) {
    let all = list(status, key);
    let mut families = [0; 2];
    let mut seen: Vec<&str> = Vec::new();
    for (i, address) in all.iter().enumerate() {
        let address = text(address, "ip");
        if ip::valid(out, &path.index(i), address) {
            match ip::parse(address) {
                Some(IpAddr::V6(_)) => families[1] += 1,
                _ => families[0] += 1,
            }
        }
        if seen.contains(&address) {
            out.push(FieldError::duplicate(path.index(i), address));
        }
        seen.push(address);
    }
    if families.iter().any(|count| *count > 1) {
        let sentence = "may specify no more than one IP for each IP family";
        out.push(FieldError::invalid(path, get(status, key).clone(), sentence));
    }
}

/// A container that ended may only come back where its restart policy says so.
fn transitions(
    out: &mut Errors,
    path: &FieldPath,
    new: &Value,
    old: &Value,
    spec: &Value,
    key: &str,
    containers: &str,
) {
    for (i, was) in list(old, key).iter().enumerate() {
        let ended = deep(was, "state.terminated");
        if ended.is_null() {
            continue;
        }
        let name = text(was, "name");
        let Some(now) = list(new, key).iter().find(|status| text(status, "name") == name) else { continue };
        if !deep(now, "state.terminated").is_null() {
            continue;
        }
        let container = list(spec, containers).iter().find(|c| text(c, "name") == name);
        let may = container.is_some_and(|c| may_restart(c, spec, number(ended, "exitCode"), containers));
        if !may {
            let sentence = "may not be transitioned to non-terminated state";
            out.push(FieldError::forbidden(path.child(key).index(i).child("state"), sentence));
        }
    }
}

fn may_restart(container: &Value, spec: &Value, exit_code: i64, list_key: &str) -> bool {
    for rule in list(container, "restartPolicyRules") {
        let codes = get(rule, "exitCodes");
        let listed = list(codes, "values").iter().any(|code| code.as_i64() == Some(exit_code));
        if listed == (text(codes, "operator") == "In") && has(rule, "exitCodes") {
            return true;
        }
    }
    let own = text(container, "restartPolicy");
    let policy = if own.is_empty() { text(spec, "restartPolicy") } else { own };
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // An init container that has done its part runs again when the sandbox does.
        _ => list_key == "initContainers" || policy == "Always",
    }
}
