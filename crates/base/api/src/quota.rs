//! What an object costs a namespace's quotas, and which quotas it concerns.
//!
//! A quota limits names: `pods`, `requests.cpu`, `count/deployments.apps`, `gold.storageclass.storage.k8s.io/
//! requests.storage`. [`usage`] gives all that an object uses under such names, [`tracks`] tells which of a quota's
//! names a kind of object can use at all, [`Scopes`] which objects a quota looks at.

mod pods;
mod scopes;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kinds::Resource;
use crate::quantity::Quantity;

pub use self::pods::{constraints, is_terminating, pod_resources};
pub use self::scopes::Scopes;

/// Amounts by name.
pub type Amounts = BTreeMap<String, Quantity>;

/// What a claim's storage class prefixes a name with.
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Reads amounts out of an object such as `status.hard`; what is no quantity is left out.
pub fn amounts(value: Option<&Value>) -> Amounts {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount)?))).collect()
}

/// Adds each of the amounts.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        sum.entry(name.clone()).and_modify(|at| *at += *amount).or_insert(*amount);
    }
}

/// Amounts as messages show them: `pods=1,requests.cpu=100m`.
pub fn print(amounts: &Amounts) -> String {
    let parts: Vec<String> =
        amounts.iter().map(|(name, amount)| format!("{name}={}", amount.canonical())).collect();
    parts.join(",")
}

/// `count/` and the resource, under which every kind is counted.
pub fn count_name(resource: &Resource) -> String {
    match resource.group {
        "" => format!("count/{}", resource.plural),
        group => format!("count/{}.{group}", resource.plural),
    }
}

/// Kinds that are never charged: questions that are not kept, and events.
pub fn is_ignored(resource: &Resource) -> bool {
    !resource.namespaced
        || resource.plural == "events"
        || matches!(resource.group, "authentication.k8s.io" | "authorization.k8s.io")
        || (resource.group.is_empty() && resource.plural == "bindings")
}

/// Whether objects of the kind can use what the name stands for.
pub fn tracks(resource: &Resource, name: &str) -> bool {
    if name.starts_with("count/") {
        return name == count_name(resource);
    }
    if !resource.group.is_empty() {
        return false;
    }
    match resource.plural {
        "pods" => pods::tracks(name),
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            let plain = name.split_once(BY_CLASS).map_or(name, |(_, plain)| plain);
            matches!(plain, "persistentvolumeclaims" | "requests.storage")
        }
        plural @ ("configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => name == plural,
        _ => false,
    }
}

/// All that the object uses. `now` (seconds since 1970) decides whether a pod that is being deleted still counts.
pub fn usage(resource: &Resource, object: &Value, now: i64) -> Amounts {
    let one = Quantity::from_units(1);
    let mut out = Amounts::from([(count_name(resource), one)]);
    if !resource.group.is_empty() {
        return out;
    }
    match resource.plural {
        "pods" => pods::usage(object, now, &mut out),
        "services" => service(object, &mut out),
        "persistentvolumeclaims" => claim(object, &mut out),
        plural @ ("configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
            out.insert(plural.to_owned(), one);
        }
        _ => {}
    }
    out
}

fn service(service: &Value, out: &mut Amounts) {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let ports = spec.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let asked = ports.iter().filter(|port| port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0);
    let no_ports = spec.get("allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    // Node ports are chosen later, so the intent is counted.
    let (balancers, node_ports) = match spec.get("type").and_then(Value::as_str) {
        Some("NodePort") => (0, ports.len()),
        Some("LoadBalancer") if no_ports => (1, asked.count()),
        Some("LoadBalancer") => (1, ports.len()),
        _ => (0, 0),
    };
    out.insert("services".to_owned(), Quantity::from_units(1));
    out.insert("services.loadbalancers".to_owned(), Quantity::from_units(balancers));
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    out.insert("services.nodeports".to_owned(), Quantity::from_units(node_ports));
}

fn claim(claim: &Value, out: &mut Amounts) {
    let one = Quantity::from_units(1);
    let annotated = claim.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    let class = annotated.or_else(|| claim.pointer("/spec/storageClassName")).and_then(Value::as_str);
    let class = class.filter(|class| !class.is_empty());
    let mut put = |name: &str, amount: Quantity| {
        out.insert(name.to_owned(), amount);
        if let Some(class) = class {
            out.insert(format!("{class}{BY_CLASS}{name}"), amount);
        }
    };
    put("persistentvolumeclaims", one);
    let at = |pointer: &str| claim.pointer(pointer).and_then(Quantity::from_value);
    if let Some(asked) = at("/spec/resources/requests/storage") {
        let allocated = at("/status/allocatedResources/storage").unwrap_or(Quantity::ZERO);
        let most = asked.max(allocated);
        let whole = if most.is_whole() { most } else { Quantity::from_units(most.to_units()) };
        put("requests.storage", whole);
    }
}

#[cfg(test)]
mod tests;
