//! Where a pod may run: tolerations, topology spread, gates.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::read::{Errors, get, has, int, invalid_each, list, number, one_of_if_set, text};
use crate::validation::{labels, names};

use super::affinity;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// What a taint does.
pub(in crate::validation) fn taint_effect(out: &mut Errors, path: &FieldPath, effect: &str) {
    if effect.is_empty() {
        out.push(FieldError::required(path, ""));
    } else if !EFFECTS.contains(&effect) {
        out.push(FieldError::not_supported(path, effect, &EFFECTS));
    }
}

pub(in crate::validation) fn tolerations(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        let path = path.index(i);
        let key = text(toleration, "key");
        let (operator, value, effect) =
            (text(toleration, "operator"), text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            labels::label_name(out, &path.child("key"), key);
        }
        let at = path.child("operator");
        if key.is_empty() && operator != "Exists" {
            let sentence = "operator must be Exists when `key` is empty, which means \"match all values and all \
                            keys\"";
            out.push(FieldError::invalid(&at, operator, sentence));
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            let sentence = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            out.push(FieldError::invalid(path.child("effect"), effect, sentence));
        }
        match operator {
            "" | "Equal" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    out.push(FieldError::invalid(&at, value, wrong.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let sentence = "value must be empty when `operator` is 'Exists'";
                    out.push(FieldError::invalid(&at, value, sentence));
                }
            }
            "Lt" | "Gt" => {
                let known = ["Equal", "Exists", "Lt", "Gt"];
                out.push(FieldError::not_supported(&at, operator, &known));
            }
            _ => out.push(FieldError::not_supported(&at, operator, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            taint_effect(out, &path.child("effect"), effect);
        }
    }
}

/// Readiness gates and scheduling gates.
pub(super) fn gates(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        let path = path.child("readinessGates").index(i).child("conditionType");
        invalid_each(out, &path, kind, names::qualified(kind));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        let path = path.child("schedulingGates").index(i);
        invalid_each(out, &path, name, names::qualified(name));
        if seen.contains(&name) {
            out.push(FieldError::duplicate(&path, name));
        }
        seen.push(name);
    }
}

pub(super) fn spread(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = list(spec, "topologySpreadConstraints");
    for (i, constraint) in all.iter().enumerate() {
        let path = path.index(i);
        let skew = number(constraint, "maxSkew");
        if skew <= 0 {
            out.push(FieldError::invalid(path.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            out.push(FieldError::required(path.child("topologyKey"), "can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            out.push(FieldError::not_supported(path.child("whenUnsatisfiable"), action, &actions));
        }
        let again = all[i + 1..]
            .iter()
            .any(|other| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action);
        if again {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            out.push(FieldError::duplicate(path, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = int(constraint, "minDomains") {
            let path = path.child("minDomains");
            if domains <= 0 {
                out.push(FieldError::invalid(&path, domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let sentence =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                out.push(FieldError::invalid(&path, domains, sentence));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of_if_set(out, &path.child(policy), get(constraint, policy), &["Honor", "Ignore"]);
        }
        affinity::label_keys(out, &path, constraint);
        labels::selector(out, &path.child("labelSelector"), get(constraint, "labelSelector"));
    }
}

/// Tolerations may be added; of those there only the seconds may change.
pub(super) fn only_added_tolerations(out: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let same = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|key| text(a, key) == text(b, key))
    };
    let kept = |old: &Value| list(new, "tolerations").iter().any(|new| same(new, old));
    if !list(old, "tolerations").iter().all(kept) {
        let sentence = "existing toleration can not be modified except its tolerationSeconds";
        out.push(FieldError::forbidden(path, sentence));
    }
}

/// Scheduling gates may only be taken away.
pub(super) fn only_removed_gates(out: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let names = |spec: &Value| -> Vec<String> {
        list(spec, "schedulingGates").iter().map(|gate| text(gate, "name").to_owned()).collect()
    };
    let old = names(old);
    for (i, gate) in names(new).into_iter().enumerate().filter(|(_, gate)| !old.contains(gate)) {
        let sentence = format!("only deletion is allowed, but found new scheduling gate '{gate}'");
        out.push(FieldError::forbidden(path.index(i).child("name"), sentence));
    }
}
