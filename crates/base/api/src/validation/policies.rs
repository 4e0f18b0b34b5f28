//! NetworkPolicies and PodDisruptionBudgets.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};

use super::read::{
    Errors, get, has, int, invalid_each, list, not_negative, number, one_of_if_set, text, texts,
};
use super::{apps, ip, labels, names};

/// A network policy.
pub(super) fn network(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    labels::selector(out, &path.child("podSelector"), get(spec, "podSelector"));
    let known = old.map(|old| blocks(get(old, "spec"))).unwrap_or_default();
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(spec, way).iter().enumerate() {
            let path = path.child(way).index(i);
            for (j, port) in list(rule, "ports").iter().enumerate() {
                policy_port(out, &path.child("ports").index(j), port);
            }
            for (j, peer) in list(rule, peers).iter().enumerate() {
                policy_peer(out, &path.child(peers).index(j), peer, &known);
            }
        }
    }
    let types = texts(spec, "policyTypes");
    let path = path.child("policyTypes");
    if types.len() > 2 {
        let sentence = "may not specify more than two policyTypes";
        out.push(FieldError::invalid(path, get(spec, "policyTypes").clone(), sentence));
        return;
    }
    for (i, kind) in types.iter().enumerate().filter(|(_, kind)| !["Ingress", "Egress"].contains(kind)) {
        out.push(FieldError::not_supported(path.index(i), *kind, &["Ingress", "Egress"]));
    }
}

/// The networks that a policy names: what is there may stay, however it is written.
fn blocks(spec: &Value) -> Vec<&str> {
    let rules = [("ingress", "from"), ("egress", "to")];
    let peers = rules.iter().flat_map(|(way, peers)| list(spec, way).iter().map(move |r| list(r, peers)));
    peers
        .flatten()
        .map(|peer| get(peer, "ipBlock"))
        .flat_map(|block| [vec![text(block, "cidr")], texts(block, "except")].concat())
        .collect()
}

fn policy_port(out: &mut Errors, path: &FieldPath, port: &Value) {
    one_of_if_set(out, &path.child("protocol"), get(port, "protocol"), &["TCP", "UDP", "SCTP"]);
    let (start, end) = (get(port, "port"), int(port, "endPort"));
    let at = path.child("endPort");
    match (start, end) {
        (Value::Null, Some(end)) => {
            out.push(FieldError::invalid(&at, end, "may not be specified when `port` is not specified"));
        }
        (Value::String(name), end) => {
            if let Some(end) = end {
                out.push(FieldError::invalid(&at, end, "may not be specified when `port` is non-numeric"));
            }
            invalid_each(out, &path.child("port"), name, names::port_name(name));
        }
        (Value::Number(_), end) => {
            let start = start.as_i64().unwrap_or(0);
            let wrong = names::port_number(start);
            out.extend(wrong.into_iter().map(|w| FieldError::invalid(path.child("port"), start, w)));
            if let Some(end) = end {
                if end < start {
                    out.push(FieldError::invalid(&at, start, "must be greater than or equal to `port`"));
                }
                out.extend(names::port_number(end).into_iter().map(|w| FieldError::invalid(&at, end, w)));
            }
        }
        _ => {}
    }
}

fn policy_peer(out: &mut Errors, path: &FieldPath, peer: &Value, known: &[&str]) {
    let mut peers = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if has(peer, key) {
            peers += 1;
            labels::selector(out, &path.child(key), get(peer, key));
        }
    }
    let block = get(peer, "ipBlock");
    if !block.is_null() {
        ip_block(out, &path.child("ipBlock"), block, known);
        if peers > 0 {
            out.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
        }
    } else if peers == 0 {
        out.push(FieldError::required(path, "must specify a peer"));
    }
}

fn ip_block(out: &mut Errors, path: &FieldPath, block: &Value, known: &[&str]) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        out.push(FieldError::required(path.child("cidr"), ""));
        return;
    }
    if !known.contains(&cidr) {
        ip::valid_cidr(out, &path.child("cidr"), cidr);
    }
    let Some(whole) = ip::network(cidr) else { return };
    for (i, except) in texts(block, "except").iter().enumerate() {
        let at = path.child("except").index(i);
        if !known.contains(except) {
            ip::valid_cidr(out, &at, except);
        }
        let Some(part) = ip::network(except) else { continue };
        if !ip::contains(whole, part.0) || whole.1 >= part.1 {
            out.push(FieldError::invalid(&at, *except, "must be a strict subset of `cidr`"));
        }
    }
}

/// A disruption budget.
pub(super) fn budget(out: &mut Errors, object: &Value) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        let sentence = "minAvailable and maxUnavailable cannot be both set";
        out.push(FieldError::invalid(&path, spec.clone(), sentence));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        apps::count_or_percent(out, &path.child(key), get(spec, key));
        apps::at_most_all(out, &path.child(key), get(spec, key));
    }
    labels::selector(out, &path.child("selector"), get(spec, "selector"));
    let policy = get(spec, "unhealthyPodEvictionPolicy");
    let at = path.child("unhealthyPodEvictionPolicy");
    one_of_if_set(out, &at, policy, &["AlwaysAllow", "IfHealthyBudget"]);
}

/// The status of a disruption budget.
pub(super) fn budget_status(out: &mut Errors, object: &Value) {
    let (path, status) = (FieldPath::new("status"), get(object, "status"));
    conditions(out, &path.child("conditions"), status);
    for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        not_negative(out, &path, status, key);
    }
}

/// Conditions as apimachinery has them.
pub(super) fn conditions(out: &mut Errors, path: &FieldPath, status: &Value) {
    const LONGEST_REASON: usize = 1024;
    const LONGEST_MESSAGE: usize = 32 * 1024;
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in list(status, "conditions").iter().enumerate() {
        let path = path.index(i);
        let kind = text(condition, "type");
        if seen.contains(&kind) {
            out.push(FieldError::duplicate(path.child("type"), kind));
        }
        seen.push(kind);
        labels::label_name(out, &path.child("type"), kind);
        let known = ["False", "True", "Unknown"];
        if !known.contains(&text(condition, "status")) {
            out.push(FieldError::not_supported(path.child("status"), text(condition, "status"), &known));
        }
        let generation = number(condition, "observedGeneration");
        if generation < 0 {
            let sentence = "must be greater than or equal to zero";
            out.push(FieldError::invalid(path.child("observedGeneration"), generation, sentence));
        }
        if text(condition, "lastTransitionTime").is_empty() {
            out.push(FieldError::required(path.child("lastTransitionTime"), ""));
        }
        let reason = text(condition, "reason");
        if reason.is_empty() {
            out.push(FieldError::required(path.child("reason"), ""));
        } else {
            invalid_each(out, &path.child("reason"), reason, names::condition_reason(reason));
            if reason.len() > LONGEST_REASON {
                out.push(FieldError::too_long(path.child("reason"), LONGEST_REASON));
            }
        }
        if text(condition, "message").len() > LONGEST_MESSAGE {
            out.push(FieldError::too_long(path.child("message"), LONGEST_MESSAGE));
        }
    }
}
