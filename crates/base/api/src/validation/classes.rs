//! Addresses and networks of services, priority classes, runtime classes.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};

use super::ingress::required_segment;
use super::read::{Errors, flag, get, has, immutable, invalid_each, list, number, text, texts};
use super::{ip, labels, names, pod};

/// Who an address belongs to; that stays.
pub(super) fn address(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let path = FieldPath::new("spec.parentRef");
    let parent = get(get(object, "spec"), "parentRef");
    if parent.is_null() {
        out.push(FieldError::required(&path, ""));
    } else {
        let group = text(parent, "group");
        if !group.is_empty() {
            invalid_each(out, &path.child("group"), group, names::dns1123_subdomain(group));
        }
        required_segment(out, &path.child("resource"), text(parent, "resource"));
        required_segment(out, &path.child("name"), text(parent, "name"));
        let namespace = text(parent, "namespace");
        invalid_each(out, &path.child("namespace"), namespace, names::path_segment(namespace));
    }
    if let Some(old) = old {
        immutable(out, &path, parent, get(get(old, "spec"), "parentRef"));
    }
}

/// Networks of services; one of the other family may come, none goes.
pub(super) fn service_cidr(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let path = FieldPath::new("spec.cidrs");
    let cidrs = texts(get(object, "spec"), "cidrs");
    let Some(old) = old else {
        cidr_list(out, &path, object, &cidrs);
        return;
    };
    let before = texts(get(old, "spec"), "cidrs");
    let sentence = "field is immutable";
    if before.len() != cidrs.len() && (before.len(), cidrs.len()) != (1, 2) {
        let shown = get(get(object, "spec"), "cidrs").clone();
        out.push(FieldError::invalid(&path, shown, sentence));
        return;
    }
    for (i, (new, _)) in cidrs.iter().zip(&before).enumerate().filter(|(_, (new, old))| new != old) {
        out.push(FieldError::invalid(path.index(i), *new, sentence));
    }
    if before.len() != cidrs.len() {
        cidr_list(out, &path, object, &cidrs);
    }
}

fn cidr_list(out: &mut Errors, path: &FieldPath, object: &Value, cidrs: &[&str]) {
    let spec = get(object, "spec");
    match cidrs.len() {
        0 => return out.push(FieldError::required(path, "at least one CIDR required")),
        1 | 2 => {}
        _ => return out.push(FieldError::invalid(path, spec.clone(), "may only hold up to 2 values")),
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        ip::canonical_cidr(out, &path.index(i), cidr);
    }
    let families: Vec<bool> = cidrs.iter().filter_map(|c| Some(ip::network(c)?.0.is_ipv6())).collect();
    if let [one, other] = families[..]
        && one == other
    {
        let sentence =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        out.push(FieldError::invalid(path, get(spec, "cidrs").clone(), sentence));
    }
}

/// How a group of pods is scheduled; that it is a gang stays.
pub(super) fn pod_group(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let spec = get(object, "spec");
    let path = FieldPath::new("spec.schedulingPolicy");
    let policy = get(spec, "schedulingPolicy");
    match (has(policy, "basic"), has(policy, "gang")) {
        (false, false) => out.push(FieldError::required(&path, "exactly one of `basic`, `gang` is required")),
        (true, true) => {
            let sentence = "exactly one of `basic`, `gang` is required, but multiple fields are set";
            out.push(FieldError::invalid(&path, policy.clone(), sentence));
        }
        (false, true) => {
            let least = number(get(policy, "gang"), "minCount");
            if least < 1 {
                let sentence = "must be greater than or equal to 1";
                out.push(FieldError::invalid(path.child("gang").child("minCount"), least, sentence));
            }
        }
        (true, false) => {}
    }
    let Some(old) = old.map(|old| get(old, "spec")) else { return };
    // How many it needs may change, that it is a gang may not.
    let before = get(old, "schedulingPolicy");
    if has(policy, "gang") != has(before, "gang") {
        out.push(FieldError::invalid(&path, policy.clone(), "field is immutable"));
    }
    for field in [
        "workloadRef",
        "priority",
        "priorityClassName",
        "disruptionMode",
        "schedulingConstraints",
        "resourceClaims",
    ] {
        immutable(out, &FieldPath::new("spec").child(field), get(spec, field), get(old, field));
    }
}

/// A priority class; its value stays.
pub(super) fn priority_class(out: &mut Errors, object: &Value, old: Option<&Value>) {
    const HIGHEST: i64 = 1_000_000_000;
    let value = number(object, "value");
    let policy = get(object, "preemptionPolicy");
    if let Some(old) = old {
        if value != number(old, "value") {
            out.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        immutable(out, &FieldPath::new("preemptionPolicy"), policy, get(old, "preemptionPolicy"));
        return;
    }
    let name = text(get(object, "metadata"), "name");
    if name.starts_with("system-") {
        if let Err(why) = system_class(object, name, value) {
            let sentence = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            );
            out.push(FieldError::forbidden("metadata.name", sentence));
        }
    } else if value > HIGHEST {
        let sentence = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        out.push(FieldError::forbidden("value", sentence));
    }
    match policy.as_str() {
        None | Some("PreemptLowerPriority" | "Never") => {}
        Some("") => out.push(FieldError::required("preemptionPolicy", "")),
        Some(other) => {
            let known = ["PreemptLowerPriority", "Never"];
            out.push(FieldError::not_supported("preemptionPolicy", other, &known));
        }
    }
}

fn system_class(object: &Value, name: &str, value: i64) -> Result<(), String> {
    let wanted = match name {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => return Err(format!("{name} is not a known system priority class")),
    };
    if value != wanted {
        return Err(format!("value of {name} PriorityClass must be {wanted}"));
    }
    if flag(object, "globalDefault") {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

/// A runtime class; its handler stays.
pub(super) fn runtime_class(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let handler = text(object, "handler");
    if handler.is_empty() {
        out.push(FieldError::required("handler", ""));
    } else {
        invalid_each(out, &FieldPath::new("handler"), handler, names::dns1123_label(handler));
    }
    let overhead = get(get(object, "overhead"), "podFixed");
    if !overhead.is_null() {
        pod::overhead(out, &FieldPath::new("overhead"), overhead);
    }
    let (path, scheduling) = (FieldPath::new("scheduling"), get(object, "scheduling"));
    labels::labels(out, &path, scheduling, "nodeSelector");
    pod::tolerations(out, &path.child("tolerations"), scheduling);
    let key = |t: &Value| ["key", "operator", "value", "effect"].map(|key| text(t, key).to_owned());
    let mut seen = Vec::new();
    for (i, toleration) in list(scheduling, "tolerations").iter().enumerate() {
        if seen.contains(&key(toleration)) {
            let at = path.child("tolerations").index(i);
            out.push(FieldError::duplicate(at, toleration.clone()));
        }
        seen.push(key(toleration));
    }
    if let Some(old) = old {
        let path = FieldPath::new("handler");
        immutable(out, &path, get(object, "handler"), get(old, "handler"));
    }
}
