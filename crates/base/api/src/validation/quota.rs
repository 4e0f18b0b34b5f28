//! ResourceQuotas and LimitRanges.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath};

use super::read::{Errors, entries, get, has, invalid_each, list, map, text, texts};
use super::{names, pod};

/// Resources without a domain that a quota may name.
const STANDARD: &str = "cpu memory ephemeral-storage requests.cpu requests.memory requests.storage \
    requests.ephemeral-storage limits.cpu limits.memory limits.ephemeral-storage pods resourcequotas services \
    replicationcontrollers secrets persistentvolumeclaims configmaps services.nodeports services.loadbalancers";

const COMPUTE: &str = "cpu memory limits.cpu limits.memory requests.cpu requests.memory";

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];

fn is_standard(name: &str) -> bool {
    STANDARD.split_whitespace().any(|s| s == name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

fn fits(scope: &str, resource: &str) -> bool {
    let compute = || COMPUTE.split_whitespace().any(|s| s == resource);
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => resource == "pods" || compute(),
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn amounts(out: &mut Errors, path: &FieldPath, owner: &Value, key: &str) {
    for (name, value) in entries(owner, key) {
        let at = path.child(key).key(name);
        pod::resource_name(out, &at, name);
        if !name.contains('/') && !is_standard(name) {
            out.push(FieldError::invalid(&at, name.as_str(), "must be a standard resource for quota"));
        }
        pod::quantity_value(out, &at, name, value);
    }
}

/// A quota; its scopes stay.
pub(super) fn quota(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let (path, spec) = (FieldPath::new("spec"), get(object, "spec"));
    amounts(out, &path, spec, "hard");
    scopes(out, &path.child("scopes"), spec);
    selector(out, &path.child("scopeSelector.matchExpressions"), spec);
    let Some(old) = old else { return };
    let set = |spec: &Value| texts(spec, "scopes").iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    if set(spec) != set(get(old, "spec")) {
        let shown = get(spec, "scopes").clone();
        out.push(FieldError::invalid(path.child("scopes"), shown, "field is immutable"));
    }
}

/// The status of a quota.
pub(super) fn quota_status(out: &mut Errors, object: &Value) {
    let (path, status) = (FieldPath::new("status"), get(object, "status"));
    amounts(out, &path, status, "hard");
    amounts(out, &path, status, "used");
}

/// The resources that a quota limits, sorted.
fn hard(spec: &Value) -> BTreeSet<&str> {
    map(spec, "hard").into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

fn scopes(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = texts(spec, "scopes");
    let shown = || get(spec, "scopes").clone();
    for scope in &all {
        if !SCOPES.contains(scope) {
            out.push(FieldError::invalid(path, shown(), "unsupported scope"));
        }
        for _ in hard(spec).iter().filter(|name| is_standard(name) && !fits(scope, name)) {
            out.push(FieldError::invalid(path, shown(), "unsupported scope applied to resource"));
        }
    }
    conflicts(out, path, spec, &all);
}

fn conflicts(out: &mut Errors, path: &FieldPath, spec: &Value, all: &[&str]) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if all.contains(&one) && all.contains(&other) {
            out.push(FieldError::invalid(path, get(spec, "scopes").clone(), "conflicting scopes"));
        }
    }
}

fn selector(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let selector = get(spec, "scopeSelector");
    let mut all = Vec::new();
    for term in list(selector, "matchExpressions") {
        let (scope, operator) = (text(term, "scopeName"), text(term, "operator"));
        if !SCOPES.contains(&scope) {
            out.push(FieldError::invalid(path.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in hard(spec).iter().filter(|name| is_standard(name) && !fits(scope, name)) {
            let sentence = "unsupported scope applied to resource";
            out.push(FieldError::invalid(path, selector.clone(), sentence));
        }
        let only_exists =
            !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope);
        if only_exists && operator != "Exists" {
            let sentence = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                            ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                            ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            out.push(FieldError::invalid(path.child("operator"), operator, sentence));
        }
        let empty = list(term, "values").is_empty();
        match operator {
            "In" | "NotIn" if empty => {
                let sentence =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                out.push(FieldError::required(path.child("values"), sentence));
            }
            "Exists" | "DoesNotExist" if !empty => {
                let sentence =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                out.push(FieldError::invalid(path.child("values"), get(term, "values").clone(), sentence));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                out.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator"));
            }
        }
        all.push(scope);
    }
    conflicts(out, path, spec, &all);
}

/// A limit range.
pub(super) fn limits(out: &mut Errors, object: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, limit) in list(get(object, "spec"), "limits").iter().enumerate() {
        let path = FieldPath::new("spec.limits").index(i);
        let kind = text(limit, "type");
        limit_type(out, &path.child("type"), kind);
        if seen.contains(&kind) {
            out.push(FieldError::duplicate(path.child("type"), kind));
        }
        seen.push(kind);
        let lists: &[&str] = if kind == "Pod" {
            for key in ["default", "defaultRequest"] {
                if map(limit, key).is_some_and(|all| !all.is_empty()) {
                    let sentence = "may not be specified when `type` is 'Pod'";
                    out.push(FieldError::forbidden(path.child(key), sentence));
                }
            }
            &["max", "min", "maxLimitRequestRatio"]
        } else {
            &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"]
        };
        let mut resources = BTreeSet::new();
        for key in lists {
            for (name, _) in entries(limit, key) {
                let at = path.child(key).key(name);
                if matches!(kind, "Pod" | "Container") {
                    pod::container_resource(out, &at, name);
                } else {
                    pod::resource_name(out, &at, name);
                }
                resources.insert(name.as_str());
            }
        }
        let storage = |key: &str| has(get(limit, key), "storage");
        if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
            let sentence = "either minimum or maximum storage value is required, but neither was provided";
            out.push(FieldError::required(path.child("limits"), sentence));
        }
        for name in resources {
            bounds(out, &path, limit, name, kind == "Pod");
        }
    }
}

fn limit_type(out: &mut Errors, path: &FieldPath, kind: &str) {
    let wrong = names::qualified(kind);
    if !wrong.is_empty() {
        invalid_each(out, path, kind, wrong);
    } else if !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        out.push(FieldError::invalid(path, kind, "must be a standard limit type or fully qualified"));
    }
}

/// How the numbers of one resource fit together.
fn bounds(out: &mut Errors, path: &FieldPath, limit: &Value, name: &str, pod: bool) {
    let at = |key: &str| Quantity::from_value(get(get(limit, key), name));
    let (min, max, ratio) = (at("min"), at("max"), at("maxLimitRequestRatio"));
    let (default, request) = if pod { (None, None) } else { (at("default"), at("defaultRequest")) };
    let mut above =
        |low: &Option<Quantity>, high: &Option<Quantity>, key: &str, low_bad: bool, words: [&str; 2]| {
            let (Some(low), Some(high)) = (low, high) else { return };
            if low > high {
                let (low, high) = (low.canonical(), high.canonical());
                let sentence = format!("{} value {low} is greater than {} value {high}", words[0], words[1]);
                let bad = if low_bad { low } else { high };
                out.push(FieldError::invalid(path.child(key).key(name), bad, sentence));
            }
        };
    above(&min, &max, "min", true, ["min", "max"]);
    above(&min, &request, "defaultRequest", false, ["min", "default request"]);
    above(&request, &max, "defaultRequest", true, ["default request", "max"]);
    above(&request, &default, "defaultRequest", true, ["default request", "default limit"]);
    above(&min, &default, "default", true, ["min", "default"]);
    above(&default, &max, "default", false, ["default", "max"]);
    if let Some(ratio) = &ratio {
        ratio_fits(out, &path.child("maxLimitRequestRatio").key(name), ratio, &min, &max);
    }
    if let (Some(default), Some(request)) = (&default, &request)
        && !pod::overcommits(name)
        && default != request
    {
        let (default, request) = (default.canonical(), request.canonical());
        let sentence =
            format!("default value {default} must equal to defaultRequest value {request} in {name}");
        out.push(FieldError::invalid(path.child("defaultRequest").key(name), request, sentence));
    }
}

fn ratio_fits(
    out: &mut Errors,
    path: &FieldPath,
    ratio: &Quantity,
    min: &Option<Quantity>,
    max: &Option<Quantity>,
) {
    let shown = ratio.canonical();
    if *ratio < Quantity::from_units(1) {
        let sentence = format!("ratio {shown} is less than 1");
        out.push(FieldError::invalid(path, shown.as_str(), sentence));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let most = max.to_f64() / min.to_f64();
        if ratio.to_f64() > most {
            let sentence = format!("ratio {shown} is greater than max/min = {most:.6}");
            out.push(FieldError::invalid(path, shown, sentence));
        }
    }
}
