//! HorizontalPodAutoscalers, in the form of autoscaling/v2.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath};

use super::read::{Errors, get, has, int, invalid_each, list, not_negative, number, text};
use super::{ingress::required_segment, names, pod};

const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// The member that holds the source of each type of metric, in the order in which they are looked for.
const MEMBERS: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// An autoscaler.
pub(super) fn autoscaler(out: &mut Errors, object: &Value) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    let (min, max) = (int(spec, "minReplicas"), number(spec, "maxReplicas"));
    if let Some(min) = min.filter(|min| *min < 0) {
        out.push(FieldError::invalid(path.child("minReplicas"), min, "must be greater than or equal to 0"));
    }
    let at = path.child("maxReplicas");
    if max == 0 {
        out.push(FieldError::required(&at, "must be set and greater than 0"));
    } else if max < 0 {
        out.push(FieldError::invalid(&at, max, "must be greater than or equal to 1"));
    }
    if min.is_some_and(|min| max < min) {
        out.push(FieldError::invalid(&at, max, "must be greater than or equal to `minReplicas`"));
    }
    let target = get(spec, "scaleTargetRef");
    // The only kind of the core group that can be scaled.
    let core = text(target, "kind") == "ReplicationController";
    reference(out, &path.child("scaleTargetRef"), target, core);
    metrics(out, &path.child("metrics"), spec, min);
    for way in ["scaleUp", "scaleDown"] {
        let rules = get(get(spec, "behavior"), way);
        if !rules.is_null() {
            scaling_rules(out, &path.child("behavior").child(way), rules);
        }
    }
}

/// The status of an autoscaler.
pub(super) fn status(out: &mut Errors, object: &Value) {
    for key in ["currentReplicas", "desiredReplicas"] {
        not_negative(out, &FieldPath::new("status"), get(object, "status"), key);
    }
}

fn reference(out: &mut Errors, path: &FieldPath, target: &Value, core: bool) {
    required_segment(out, &path.child("kind"), text(target, "kind"));
    required_segment(out, &path.child("name"), text(target, "name"));
    let version = text(target, "apiVersion");
    let sentence = match version.split('/').count() {
        _ if version.is_empty() || version == "/" => (!core).then_some("apiVersion must specify API group"),
        1 => (!core).then_some("apiVersion must specify API group"),
        2 => None,
        _ => {
            let sentence = format!("unexpected GroupVersion string: {version}");
            out.push(FieldError::invalid(path.child("apiVersion"), version, sentence));
            None
        }
    };
    if let Some(sentence) = sentence {
        out.push(FieldError::invalid(path.child("apiVersion"), version, sentence));
    }
}

fn metrics(out: &mut Errors, path: &FieldPath, spec: &Value, min: Option<i64>) {
    let all = list(spec, "metrics");
    for (i, metric) in all.iter().enumerate() {
        self::metric(out, &path.index(i), metric);
    }
    let from_zero = |metric: &Value| matches!(text(metric, "type"), "Object" | "External");
    if min == Some(0) && !all.iter().any(from_zero) {
        let sentence =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        out.push(FieldError::forbidden(path, sentence));
    }
}

fn metric(out: &mut Errors, path: &FieldPath, metric: &Value) {
    let kind = text(metric, "type");
    let at = path.child("type");
    if kind.is_empty() {
        out.push(FieldError::required(&at, "must specify a metric source type"));
    }
    if !TYPES.contains(&kind) {
        out.push(FieldError::not_supported(&at, kind, &TYPES));
    }
    let present: Vec<&str> =
        MEMBERS.iter().map(|(_, member)| *member).filter(|member| has(metric, member)).collect();
    if let Some(member) = present.first() {
        source(out, &path.child(member), member, get(metric, member));
    }
    let expected = MEMBERS.iter().find(|(known, _)| *known == kind).map(|(_, member)| *member);
    match expected {
        Some(member) if !has(metric, member) => {
            let sentence = "must populate information for the given metric source";
            out.push(FieldError::required(path.child(member), sentence));
        }
        Some(_) => {}
        None => out.push(FieldError::not_supported(&at, kind, &TYPES)),
    }
    if present.len() != 1 {
        for member in present.into_iter().filter(|member| Some(*member) != expected) {
            let sentence = "must populate the given metric source only";
            out.push(FieldError::forbidden(path.child(member), sentence));
        }
    }
}

fn source(out: &mut Errors, path: &FieldPath, member: &str, source: &Value) {
    if member == "object" {
        reference(out, &path.child("describedObject"), get(source, "describedObject"), true);
    }
    if matches!(member, "object" | "external" | "pods") {
        let (at, name) = (path.child("metric.name"), text(get(source, "metric"), "name"));
        if name.is_empty() {
            out.push(FieldError::required(&at, "must specify a metric name"));
        } else {
            invalid_each(out, &at, name, names::path_segment(name));
        }
    } else {
        resource_names(out, path, member, source);
    }
    let (at, wanted) = (path.child("target"), get(source, "target"));
    target(out, &at, wanted);
    let (value, average) = (has(wanted, "value"), has(wanted, "averageValue"));
    let utilization = has(wanted, "averageUtilization");
    let mut need = |key: &str, sentence: &str| out.push(FieldError::required(at.child(key), sentence));
    match member {
        "object" if !value && !average => {
            need("averageValue", "must set either a target value or averageValue")
        }
        "external" if !value && !average => {
            need("averageValue", "must set either a target value for metric or a per-pod target");
        }
        "external" if value && average => {
            let sentence = "may not set both a target value for metric and a per-pod target";
            out.push(FieldError::forbidden(at.child("value"), sentence));
        }
        "pods" if !average => need("averageValue", "must specify a positive target averageValue"),
        "resource" | "containerResource" if !utilization && !average => {
            need("averageUtilization", "must set either a target raw value or a target utilization");
        }
        "resource" | "containerResource" if utilization && average => {
            let sentence = "may not set both a target raw value and a target utilization";
            out.push(FieldError::forbidden(at.child("averageValue"), sentence));
        }
        _ => {}
    }
}

fn resource_names(out: &mut Errors, path: &FieldPath, member: &str, source: &Value) {
    let name = text(source, "name");
    if name.is_empty() {
        out.push(FieldError::required(path.child("name"), "must specify a resource name"));
    } else if member == "containerResource" {
        pod::container_resource(out, &path.child("name"), name);
    }
    if member == "containerResource" {
        let container = text(source, "container");
        if container.is_empty() {
            out.push(FieldError::required(path.child("container"), "must specify a container"));
        } else {
            invalid_each(out, &path.child("container"), container, names::dns1123_label(container));
        }
    }
}

fn target(out: &mut Errors, path: &FieldPath, target: &Value) {
    let kind = text(target, "type");
    let at = path.child("type");
    if kind.is_empty() {
        out.push(FieldError::required(&at, "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        out.push(FieldError::invalid(&at, kind, "must be either Utilization, Value, or AverageValue"));
    }
    for key in ["value", "averageValue"] {
        if let Some(value) = Quantity::from_value(get(target, key)).filter(|value| value.sign() <= 0) {
            out.push(FieldError::invalid(path.child(key), value.canonical(), "must be positive"));
        }
    }
    if let Some(percent) = int(target, "averageUtilization").filter(|percent| *percent < 1) {
        let sentence = "must be greater than 0";
        out.push(FieldError::invalid(path.child("averageUtilization"), percent, sentence));
    }
}

fn scaling_rules(out: &mut Errors, path: &FieldPath, rules: &Value) {
    const LONGEST_WINDOW: i64 = 3600;
    const LONGEST_PERIOD: i64 = 1800;
    let at = path.child("stabilizationWindowSeconds");
    if let Some(window) = int(rules, "stabilizationWindowSeconds") {
        if window < 0 {
            out.push(FieldError::invalid(&at, window, "must be greater than or equal to zero"));
        }
        if window > LONGEST_WINDOW {
            let sentence = format!("must be less than or equal to {LONGEST_WINDOW}");
            out.push(FieldError::invalid(&at, window, sentence));
        }
    }
    let known = ["Disabled", "Max", "Min"];
    super::read::one_of_if_set(out, &path.child("selectPolicy"), get(rules, "selectPolicy"), &known);
    let policies = path.child("policies");
    if list(rules, "policies").is_empty() {
        out.push(FieldError::required(&policies, "must specify at least one Policy"));
    }
    for (i, policy) in list(rules, "policies").iter().enumerate() {
        let path = policies.index(i);
        let kind = text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            out.push(FieldError::not_supported(path.child("type"), kind, &["Percent", "Pods"]));
        }
        for key in ["value", "periodSeconds"] {
            let value = number(policy, key);
            if value <= 0 {
                out.push(FieldError::invalid(path.child(key), value, "must be greater than zero"));
            }
        }
        let period = number(policy, "periodSeconds");
        if period > LONGEST_PERIOD {
            let sentence = format!("must be less than or equal to {LONGEST_PERIOD}");
            out.push(FieldError::invalid(path.child("periodSeconds"), period, sentence));
        }
    }
    if let Some(tolerance) = Quantity::from_value(get(rules, "tolerance")).filter(|t| t.sign() < 0) {
        let sentence = "must be greater than or equal to 0";
        out.push(FieldError::invalid(path.child("tolerance"), tolerance.canonical(), sentence));
    }
}
