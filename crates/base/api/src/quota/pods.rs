//! What pods use.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Amounts, add, amounts};
use crate::quantity::Quantity;

/// Names that a pod uses whatever its containers ask for. A quota for one of the first six demands that every container
/// says what it needs.
const NAMES: [&str; 10] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
    "ephemeral-storage",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
    "pods",
];
const DEMANDING: usize = 6;

pub(super) fn tracks(name: &str) -> bool {
    NAMES.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
        || name
            .strip_prefix("requests.")
            .is_some_and(|inner| !is_native(name) || inner.starts_with("deviceclass.resource.kubernetes.io/"))
}

/// Names without a domain, and those of Kubernetes' own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn own(container: &Value, kind: &str) -> Amounts {
    amounts(container.get("resources").and_then(|resources| resources.get(kind)))
}

/// Whether the pod has a deadline.
pub fn is_terminating(pod: &Value) -> bool {
    pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds >= 0)
}

/// The `requests` or `limits` (`kind`) of a whole pod: containers together, what init containers need besides those that
/// keep running, or what the pod itself says; and its overhead when that is asked for.
pub fn pod_resources(pod: &Value, kind: &str, overhead: bool) -> Amounts {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut sum = Amounts::new();
    for container in list(spec, "containers") {
        add(&mut sum, &own(container, kind));
    }
    let (mut staying, mut starting) = (Amounts::new(), Amounts::new());
    for container in list(spec, "initContainers") {
        let needs = own(container, kind);
        let here = if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut sum, &needs);
            add(&mut staying, &needs);
            staying.clone()
        } else {
            let mut both = needs;
            add(&mut both, &staying);
            both
        };
        most(&mut starting, here);
    }
    most(&mut sum, starting);
    for (name, amount) in own(spec, kind) {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            sum.insert(name, amount);
        }
    }
    if overhead {
        for (name, amount) in amounts(spec.get("overhead")) {
            match sum.get_mut(&name) {
                Some(at) if kind == "requests" || !at.is_zero() => *at += amount,
                None if kind == "requests" => drop(sum.insert(name, amount)),
                _ => {}
            }
        }
    }
    sum
}

fn most(sum: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        sum.entry(name).and_modify(|at| *at = (*at).max(amount)).or_insert(amount);
    }
}

/// Requests and limits under the names that quotas have for them.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::from([("pods".to_owned(), Quantity::from_units(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            out.insert(name.to_owned(), *request);
            out.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            out.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        if name.starts_with("hugepages-") {
            out.insert(name.clone(), *request);
            out.insert(format!("requests.{name}"), *request);
        } else if !is_native(name) {
            out.insert(format!("requests.{name}"), *request);
        }
    }
    out
}

/// A pod that has ended, or that should be gone by now, uses nothing but its place among the objects.
fn counts(pod: &Value, now: i64) -> bool {
    if matches!(pod.pointer("/status/phase").and_then(Value::as_str), Some("Failed" | "Succeeded")) {
        return false;
    }
    let deleted = pod.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    match (deleted.and_then(|at| at.parse::<jiff::Timestamp>().ok()), grace) {
        (Some(at), Some(grace)) => now <= at.as_second().saturating_add(grace),
        _ => true,
    }
}

pub(super) fn usage(pod: &Value, now: i64, out: &mut Amounts) {
    if counts(pod, now) {
        let (requests, limits) = (pod_resources(pod, "requests", true), pod_resources(pod, "limits", true));
        add(out, &named(&requests, &limits));
    }
}

/// Whether every container says what quotas on these names demand; the message names those that do not.
///
/// # Errors
/// `must specify cpu for: a,b; memory for: b`.
pub fn constraints<'a>(pod: &Value, names: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let pod_level = |kind: &str| {
        let supported =
            |name: &String| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
        own(spec, kind).keys().any(supported)
    };
    if pod_level("requests") || pod_level("limits") {
        return Ok(());
    }
    let mut missing = Vec::new();
    let wanted: BTreeSet<&str> = names.into_iter().filter(|name| NAMES[..DEMANDING].contains(name)).collect();
    for name in wanted {
        let lacking = list(spec, "containers").chain(list(spec, "initContainers")).filter(|container| {
            !named(&own(container, "requests"), &own(container, "limits")).contains_key(name)
        });
        let containers: BTreeSet<&str> =
            lacking.map(|c| c.get("name").and_then(Value::as_str).unwrap_or_default()).collect();
        if !containers.is_empty() {
            let containers: Vec<&str> = containers.into_iter().collect();
            missing.push(format!("{name} for: {}", containers.join(",")));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("must specify {}", missing.join("; "))) }
}

/// Whether the pod asks for pods of other namespaces to be near or far.
pub(super) fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        term.get("namespaces").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
            || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let Some(side) = pod.pointer("/spec/affinity").and_then(|a| a.get(side)) else { return false };
        list(side, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || list(side, "preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| weighted.get("podAffinityTerm").is_some_and(crosses))
    })
}
