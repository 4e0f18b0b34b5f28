//! Requests and limits of resources.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::status::{FieldError, FieldPath};
use crate::validation::names;
use crate::validation::read::{Errors, entries, get, has, invalid_each, list, text};

/// Resources of a container without a domain.
const CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Resources without a domain that quotas and the like may name.
const STANDARD: &str = "cpu memory ephemeral-storage requests.cpu requests.memory requests.ephemeral-storage \
    limits.cpu limits.memory limits.ephemeral-storage pods resourcequotas services replicationcontrollers secrets \
    configmaps persistentvolumeclaims storage requests.storage services.nodeports services.loadbalancers";

/// Resources of which there are only whole ones.
const WHOLE: &str = "pods resourcequotas services replicationcontrollers secrets configmaps \
    persistentvolumeclaims services.nodeports services.loadbalancers";

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of Kubernetes' own domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty()
}

/// Whether limits may be above requests.
pub(in crate::validation) fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

/// The name of a resource.
pub(in crate::validation) fn resource_name(out: &mut Errors, path: &FieldPath, name: &str) -> bool {
    let wrong = names::qualified(name);
    if !wrong.is_empty() {
        invalid_each(out, path, name, wrong);
        return false;
    }
    let standard = STANDARD.split_whitespace().any(|s| s == name)
        || is_huge(name)
        || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !standard {
        let sentence = "must be a standard resource type or fully qualified";
        out.push(FieldError::invalid(path, name, sentence));
        return false;
    }
    true
}

pub(in crate::validation) fn container_resource(out: &mut Errors, path: &FieldPath, name: &str) {
    resource_name(out, path, name);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge(name) {
            let sentence = "must be a standard resource for containers";
            out.push(FieldError::invalid(path, name, sentence));
        }
    } else if !is_native(name) && !is_extended(name) {
        let sentence = "doesn't follow extended resource name standard";
        out.push(FieldError::invalid(path, name, sentence));
    }
}

/// The amount of a resource: not negative, and whole where there are only whole ones.
pub(in crate::validation) fn quantity_value(out: &mut Errors, path: &FieldPath, name: &str, value: &Value) {
    let Some(quantity) = Quantity::from_value(value) else {
        let sentence = "quantities must match the regular expression \
                        '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        out.push(FieldError::invalid(path, value.clone(), sentence));
        return;
    };
    if quantity.sign() < 0 {
        let sentence = "must be greater than or equal to 0";
        out.push(FieldError::invalid(path, quantity.canonical(), sentence));
    }
    let whole = WHOLE.split_whitespace().any(|s| s == name) || is_extended(name);
    if whole && !quantity.is_whole() {
        out.push(FieldError::invalid(path, quantity.canonical(), "must be an integer"));
    }
}

/// The resources of a container.
pub(super) fn container(out: &mut Errors, path: &FieldPath, requirements: &Value, claims: &[&str]) {
    check(out, path, requirements, container_resource);
    claim_names(out, &path.child("claims"), requirements, claims);
}

/// What a pod itself takes besides its containers.
pub(in crate::validation) fn overhead(out: &mut Errors, path: &FieldPath, overhead: &Value) {
    let limits = serde_json::json!({ "limits": overhead });
    check(out, path, &limits, container_resource);
}

fn check(
    out: &mut Errors,
    path: &FieldPath,
    requirements: &Value,
    name_rule: impl Fn(&mut Errors, &FieldPath, &str),
) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (name, value) in entries(requirements, "limits") {
        let at = limits.key(name);
        name_rule(out, &at, name);
        quantity_value(out, &at, name, value);
    }
    for (name, value) in entries(requirements, "requests") {
        let at = requests.key(name);
        name_rule(out, &at, name);
        quantity_value(out, &at, name, value);
        let limit = get(get(requirements, "limits"), name);
        match (Quantity::from_value(value), Quantity::from_value(limit)) {
            (Some(asked), Some(limit)) => {
                let (shown, limit_shown) = (asked.canonical(), limit.canonical());
                if asked != limit && !overcommits(name) {
                    let sentence = format!("must be equal to {name} limit of {limit_shown}");
                    out.push(FieldError::invalid(&requests, shown, sentence));
                } else if asked > limit {
                    let sentence = format!("must be less than or equal to {name} limit of {limit_shown}");
                    out.push(FieldError::invalid(&requests, shown, sentence));
                }
            }
            (Some(_), None) if limit.is_null() && !overcommits(name) => {
                out.push(FieldError::required(&limits, "Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
    let named = |test: &dyn Fn(&str) -> bool| {
        ["limits", "requests"].iter().any(|list| entries(requirements, list).any(|(name, _)| test(name)))
    };
    if named(&is_huge) && !named(&|name| matches!(name, "cpu" | "memory")) {
        out.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

/// The resources of a whole pod.
pub(super) fn pod_level(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let requirements = get(spec, "resources");
    if requirements.is_null() {
        return;
    }
    let path = path.child("resources");
    if text(get(spec, "os"), "name") == "windows" {
        out.push(FieldError::forbidden(&path, "may not be set for a windows pod"));
        return;
    }
    if has(requirements, "claims") {
        let sentence = "claims may not be set for Resources at pod-level";
        out.push(FieldError::forbidden(path.child("claims"), sentence));
    }
    check(out, &path, requirements, |out, at, name| {
        if resource_name(out, at, name) && !matches!(name, "cpu" | "memory") && !is_huge(name) {
            out.push(FieldError::not_supported(at, name, &["cpu", "hugepages-", "memory"]));
        }
    });
    within_pod_limits(out, &path, spec);
}

/// Containers fit into what the pod asks for.
fn within_pod_limits(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let requirements = get(spec, "resources");
    let containers = list(spec, "containers");
    for (name, value) in entries(requirements, "requests") {
        let Some(asked) = Quantity::from_value(value) else { continue };
        let sum = containers
            .iter()
            .filter_map(|c| Quantity::from_value(get(get(get(c, "resources"), "requests"), name)))
            .fold(Quantity::ZERO, |sum, quantity| sum + quantity);
        if sum > asked {
            let shown = sum.canonical();
            let sentence =
                format!("must be greater than or equal to aggregate container requests of {shown}");
            out.push(FieldError::invalid(path.child("requests").key(name), asked.canonical(), sentence));
        }
    }
    for (i, container) in containers.iter().enumerate() {
        for (name, value) in entries(get(container, "resources"), "limits") {
            let limit = Quantity::from_value(get(get(requirements, "limits"), name));
            if let (Some(own), Some(limit)) = (Quantity::from_value(value), limit)
                && own > limit
            {
                let path = path.child("containers").index(i).key(name).child("limits");
                let sentence = format!("must be less than or equal to pod limits of {}", limit.canonical());
                out.push(FieldError::invalid(path, own.canonical(), sentence));
            }
        }
    }
}

/// The claims of devices that the pod has; returns their names.
pub(super) fn pod_claims<'a>(out: &mut Errors, path: &FieldPath, spec: &'a Value) -> Vec<&'a str> {
    let mut seen: Vec<&str> = Vec::new();
    for (i, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = path.index(i);
        let name = text(claim, "name");
        if name.is_empty() {
            out.push(FieldError::required(path.child("name"), ""));
        } else if seen.contains(&name) {
            out.push(FieldError::duplicate(path.child("name"), name));
        } else {
            invalid_each(out, &path.child("name"), name, names::dns1123_label(name));
            seen.push(name);
        }
        let keys = ["resourceClaimName", "resourceClaimTemplateName"];
        match keys.iter().filter(|key| has(claim, key)).count() {
            0 => {
                let sentence = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                out.push(FieldError::invalid(&path, claim.clone(), sentence));
            }
            1 => {}
            _ => {
                let sentence =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                out.push(FieldError::invalid(&path, claim.clone(), sentence));
            }
        }
        for key in keys {
            if has(claim, key) {
                let name = text(claim, key);
                invalid_each(out, &path.child(key), name, names::dns1123_subdomain(name));
            }
        }
    }
    seen
}

fn claim_names(out: &mut Errors, path: &FieldPath, requirements: &Value, known: &[&str]) {
    let mut seen: Vec<String> = Vec::new();
    for (i, claim) in list(requirements, "claims").iter().enumerate() {
        let path = path.index(i);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            out.push(FieldError::required(&path, ""));
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        if seen.contains(&key) || seen.iter().any(|s| s == name) {
            out.push(FieldError::duplicate(&path, key));
        } else {
            seen.push(key);
        }
        if !known.contains(&name) {
            let mut error = FieldError::not_found(&path, name);
            let mut sorted = known.to_vec();
            sorted.sort_unstable();
            error.detail = if sorted.is_empty() {
                "must be one of the names in pod.spec.resourceClaims which is empty".to_owned()
            } else {
                format!("must be one of the names in pod.spec.resourceClaims: {}", sorted.join(", "))
            };
            out.push(error);
        }
    }
}
