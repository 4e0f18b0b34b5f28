//! Nodes.

use serde_json::Value;

use crate::status::{FieldError, FieldPath};

use super::read::{Errors, entries, get, list, text, texts};
use super::{ip, labels, names, pod};

pub(super) fn node(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, status) = (get(object, "spec"), get(object, "status"));
    // Kubernetes says `metadata.taints` for `spec.taints`.
    taints(out, &FieldPath::new("metadata.taints"), spec);
    for key in ["capacity", "allocatable"] {
        for (name, value) in entries(status, key) {
            pod::quantity_value(out, &FieldPath::new("status").child(key).child(name), name, value);
        }
    }
    let cidrs = texts(spec, "podCIDRs");
    let path = FieldPath::new("spec.podCIDRs");
    let Some(old) = old else {
        for (i, cidr) in cidrs.iter().enumerate() {
            ip::valid_cidr(out, &path.index(i), cidr);
        }
        let six = cidrs.iter().filter(|cidr| cidr.contains(':')).count();
        if cidrs.len() > 1 && (cidrs.len() > 2 || six != 1) {
            let sentence = "may specify no more than one CIDR for each IP family";
            out.push(FieldError::invalid(&path, get(spec, "podCIDRs").clone(), sentence));
        }
        return;
    };
    let addresses = list(status, "addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            let path = FieldPath::new("status.addresses").index(i);
            out.push(FieldError::duplicate(path, address.clone()));
        }
    }
    let before = get(old, "spec");
    let were = texts(before, "podCIDRs");
    if !were.is_empty() && were != cidrs {
        let sentence = "node updates may not change podCIDR except from \"\" to valid";
        out.push(FieldError::forbidden(&path, sentence));
    }
    let provider = text(before, "providerID");
    if !provider.is_empty() && provider != text(spec, "providerID") {
        let sentence = "node updates may not change providerID except from \"\" to valid";
        out.push(FieldError::forbidden("spec.providerID", sentence));
    }
}

fn taints(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in list(spec, "taints").iter().enumerate() {
        let path = path.index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        labels::label_name(out, &path.child("key"), key);
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            out.push(FieldError::invalid(path.child("value"), value, wrong.join(";")));
        }
        pod::taint_effect(out, &path.child("effect"), effect);
        if seen.contains(&(key, effect)) {
            let mut error = FieldError::duplicate(&path, taint.clone());
            "taints must be unique by key and effect pair".clone_into(&mut error.detail);
            out.push(error);
        } else {
            seen.push((key, effect));
        }
    }
}
