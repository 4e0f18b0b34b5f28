//! Affinity to nodes and to pods.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};
use crate::validation::read::{Errors, entries, get, invalid_each, list, number, text, texts};
use crate::validation::{labels, names};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(out: &mut Errors, path: &FieldPath, affinity: &Value) {
    node(out, &path.child("nodeAffinity"), get(affinity, "nodeAffinity"));
    for side in ["podAffinity", "podAntiAffinity"] {
        let (path, side) = (path.child(side), get(affinity, side));
        for (i, term) in list(side, REQUIRED).iter().enumerate() {
            pod_term(out, &path.child(REQUIRED).index(i), term);
        }
        for (i, weighted) in list(side, PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(out, &path, weighted);
            pod_term(out, &path.child("podAffinityTerm"), get(weighted, "podAffinityTerm"));
        }
    }
}

fn weight(out: &mut Errors, path: &FieldPath, weighted: &Value) {
    let weight = number(weighted, "weight");
    if !(1..=100).contains(&weight) {
        out.push(FieldError::invalid(path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn node(out: &mut Errors, path: &FieldPath, affinity: &Value) {
    let required = get(affinity, REQUIRED);
    if !required.is_null() {
        node_selector(out, &path.child(REQUIRED), required);
    }
    for (i, preferred) in list(affinity, PREFERRED).iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        weight(out, &path, preferred);
        node_term(out, &path.child("preference"), get(preferred, "preference"), false);
    }
}

/// Which nodes: any of the terms.
pub(in crate::validation) fn node_selector(out: &mut Errors, path: &FieldPath, selector: &Value) {
    let path = path.child("nodeSelectorTerms");
    let terms = list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        out.push(FieldError::required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(out, &path.index(i), term, true);
    }
}

fn node_term(out: &mut Errors, path: &FieldPath, term: &Value, check_values: bool) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(out, &path.child("matchExpressions").index(i), requirement, check_values);
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(i);
        let values = texts(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    let sentence =
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    out.push(FieldError::required(path.child("values"), sentence));
                }
            }
            other => {
                let sentence = "not a valid selector operator";
                out.push(FieldError::invalid(path.child("operator"), other, sentence));
            }
        }
        let key = text(requirement, "key");
        if key == "metadata.name" {
            for (j, value) in values.iter().enumerate() {
                invalid_each(out, &path.child("values").index(j), value, names::dns1123_subdomain(value));
            }
        } else {
            let sentence = "not a valid field selector key";
            out.push(FieldError::invalid(path.child("key"), key, sentence));
        }
    }
}

fn node_requirement(out: &mut Errors, path: &FieldPath, requirement: &Value, check_values: bool) {
    let values = texts(requirement, "values");
    let at = path.child("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            out.push(FieldError::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let sentence = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            out.push(FieldError::forbidden(&at, sentence));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let sentence = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            out.push(FieldError::required(&at, sentence));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            out.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator"));
        }
    }
    labels::label_name(out, &path.child("key"), text(requirement, "key"));
    if check_values {
        for (i, value) in values.iter().enumerate() {
            invalid_each(out, &at.index(i), value, names::label_value(value));
        }
    }
}

fn pod_term(out: &mut Errors, path: &FieldPath, term: &Value) {
    for key in ["labelSelector", "namespaceSelector"] {
        labels::selector(out, &path.child(key), get(term, key));
    }
    for name in texts(term, "namespaces") {
        invalid_each(out, &path.child("namespace"), name, names::dns1123_label(name));
    }
    label_keys(out, path, term);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        out.push(FieldError::required(path.child("topologyKey"), "can not be empty"));
    }
    labels::label_name(out, &path.child("topologyKey"), key);
}

/// `matchLabelKeys` and `mismatchLabelKeys`.
pub(super) fn label_keys(out: &mut Errors, path: &FieldPath, term: &Value) {
    let selector = get(term, "labelSelector");
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let path = path.child(list);
        let keys = texts(term, list);
        if !keys.is_empty() && selector.is_null() {
            out.push(FieldError::forbidden(&path, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            labels::label_name(out, &path.index(i), key);
        }
    }
    let (matching, mismatching) = (texts(term, "matchLabelKeys"), texts(term, "mismatchLabelKeys"));
    let mut selected: Vec<&str> = entries(selector, "matchLabels").map(|(key, _)| key.as_str()).collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        // The server adds each key once by itself; a second one is the user's.
        if let Some(i) = matching.iter().position(|k| *k == key)
            && selected.contains(&key)
        {
            let sentence = "exists in both matchLabelKeys and labelSelector";
            out.push(FieldError::invalid(path.index(i), key, sentence));
        }
        selected.push(key);
    }
    for (i, key) in matching.iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
        let sentence = "exists in both matchLabelKeys and mismatchLabelKeys";
        out.push(FieldError::invalid(path.child("matchLabelKeys").index(i), *key, sentence));
    }
}
