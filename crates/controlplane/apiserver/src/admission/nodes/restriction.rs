//! NodeRestriction: a node changes itself and what runs on it, and nothing else.

use std::collections::BTreeSet;

use sampan_api::status::{Status, go_quote};
use serde_json::Value;

use super::super::{Operation, Review};
use crate::{authz::Attributes, call::text, core::Core, request::Target};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

/// Labels of Kubernetes' own that a node says of itself.
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];

/// Refuses what a node may not do with an object that it may otherwise write.
pub(crate) async fn restrict(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    let user = &review.call.user;
    if !user.in_group("system:nodes") {
        return Ok(());
    }
    let Some(node) = user.name.strip_prefix("system:node:").filter(|node| !node.is_empty()) else {
        let why = format!("could not determine node from user {}", go_quote(&user.name));
        return Err(review.forbidden(why));
    };
    let refusal = match (review.resource.group, review.resource.plural, review.subresource) {
        ("", "pods", "") => pod(core, review, node).await?,
        ("", "pods", "status") => pod_status(review, node),
        ("", "pods", "eviction") => evicted(core, review, node).await?,
        ("", "pods", other) => {
            let other = go_quote(other);
            Some(format!("unexpected pod subresource {other}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(review, node),
        ("", "persistentvolumeclaims", "status") => claim_status(review, node),
        ("", "persistentvolumeclaims", _) => Some("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") => token(core, review, node).await?,
        ("coordination.k8s.io", "leases", _) => lease(review, node),
        ("storage.k8s.io", "csinodes", _) if review.name() != node => {
            Some("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("topology.node.k8s.io", "noderesourcetopologies", _) if review.name() != node => {
            Some("can only access NodeResourceTopology with the same name as the requesting node".to_owned())
        }
        _ => None,
    };
    refusal.map_or(Ok(()), |why| Err(review.forbidden(why)))
}

type Refusal = Option<String>;

async fn pod(core: &Core, review: &Review<'_>, node: &str) -> Result<Refusal, Status> {
    let name = go_quote(node);
    match review.operation {
        Operation::Create => mirror_pod(core, review, node).await,
        Operation::Delete => {
            let own = review.old.is_some_and(|old| text(old, "/spec/nodeName") == node);
            Ok((!own).then(|| format!("node {name} can only delete pods with spec.nodeName set to itself")))
        }
        other => Ok(Some(format!(
            "unexpected operation {}, node {name} can only create and delete mirror pods",
            go_quote(other.name())
        ))),
    }
}

async fn mirror_pod(core: &Core, review: &Review<'_>, node: &str) -> Result<Refusal, Status> {
    let (pod, name) = (&review.object, go_quote(node));
    let said = |why: &str| Ok(Some(format!("node {name} {why}")));
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        let why = format!(
            "pod does not have {} annotation, node {name} can only create mirror pods",
            go_quote(MIRROR)
        );
        return Ok(Some(why));
    }
    if text(pod, "/spec/nodeName") != node {
        return said("can only create pods with spec.nodeName set to itself");
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owner = match owners {
        [] => return said("can only create pods with an owner reference set to itself"),
        [one] => one,
        _ => return said("can only create pods with a single owner reference set to itself"),
    };
    if (text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name")) != ("v1", "Node", node) {
        return said("can only create pods with an owner reference set to itself");
    }
    if owner["controller"] != true {
        return said("can only create pods with a controller owner reference set to itself");
    }
    if owner["blockOwnerDeletion"] == true {
        return said("must not set blockOwnerDeletion on an owner reference");
    }
    let Some(found) = core.look_up("", "v1", "nodes", None, node).await? else {
        return Err(Status::not_found(("", "nodes"), node));
    };
    let (given, uid) = (text(owner, "/uid"), text(&found, "/metadata/uid"));
    if given != uid {
        return Ok(Some(format!("node {node} UID mismatch: expected {given} got {uid}")));
    }
    match referenced(pod) {
        Some(kind) => said(&format!("can not create pods that reference {kind}")),
        None => Ok(None),
    }
}

/// The first kind of API object that a pod refers to.
fn referenced(pod: &Value) -> Option<&'static str> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    let filled = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    if filled(&pod["spec"]["imagePullSecrets"]) {
        return Some("secrets");
    }
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            let env = container["env"].as_array().into_iter().flatten().map(|env| &env["valueFrom"]);
            let from = container["envFrom"].as_array().into_iter().flatten();
            for source in env.chain(from) {
                for (key, kind) in [
                    ("secretKeyRef", "secrets"),
                    ("secretRef", "secrets"),
                    ("configMapKeyRef", "configmaps"),
                    ("configMapRef", "configmaps"),
                ] {
                    if source.get(key).is_some_and(|v| !v.is_null()) {
                        return Some(kind);
                    }
                }
            }
        }
    }
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        for (key, kind) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("projected", "projected volumes"),
            ("ephemeral", "persistentvolumeclaims"),
        ] {
            if volume.get(key).is_some_and(|v| !v.is_null()) {
                return Some(kind);
            }
        }
    }
    filled(&pod["spec"]["resourceClaims"]).then_some("resourceclaims")
}

fn pod_status(review: &Review<'_>, node: &str) -> Refusal {
    let (Operation::Update, Some(old)) = (review.operation, review.old) else {
        return Some(format!("unexpected operation {}", go_quote(review.operation.name())));
    };
    let (new, name) = (&review.object, go_quote(node));
    let same = |pointer: &str| {
        let filled = |value: Option<&Value>| match value {
            Some(Value::Object(map)) if map.is_empty() => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(Value::Null) | None => None,
            Some(other) => Some(other.clone()),
        };
        filled(new.pointer(pointer)) == filled(old.pointer(pointer))
    };
    if text(old, "/spec/nodeName") != node {
        return Some(format!(
            "node {name} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if !same("/metadata/labels") {
        return Some(format!("node {name} cannot update labels through pod status"));
    }
    if !same("/status/resourceClaimStatuses") {
        return Some(format!("node {name} cannot update resource claim statues"));
    }
    (!same("/status/extendedResourceClaimStatus"))
        .then(|| format!("node {name} cannot update extended resource claim status"))
}

async fn evicted(core: &Core, review: &Review<'_>, node: &str) -> Result<Refusal, Status> {
    let found = core.look_up("", "v1", "pods", review.call.namespace(), review.name()).await?;
    let Some(pod) = found else { return Err(Status::not_found(("", "pods"), review.name())) };
    let own = text(&pod, "/spec/nodeName") == node;
    Ok((!own).then(|| format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

fn own_node(review: &Review<'_>, node: &str) -> Refusal {
    let (new, name, asked) = (&review.object, go_quote(node), review.name());
    if asked != node {
        return Some(format!("node {name} is not allowed to modify node {}", go_quote(asked)));
    }
    let config = &new["spec"]["configSource"];
    match (review.operation, review.old) {
        (Operation::Create, _) => {
            if !config.is_null() {
                return Some(format!(
                    "node {name} is not allowed to create pods with a non-nil configSource"
                ));
            }
            let bad = forbidden_labels(new, &Value::Null);
            (!bad.is_empty()).then(|| {
                format!("node {name} is not allowed to set the following labels: {}", bad.join(", "))
            })
        }
        (Operation::Update, Some(old)) => {
            if !config.is_null() && *config != old["spec"]["configSource"] {
                let why = "is not allowed to update configSource to a new non-nil configSource";
                return Some(format!("node {name} {why}"));
            }
            let list = |object: &Value, pointer: &str| {
                object.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
            };
            if list(new, "/spec/taints") != list(old, "/spec/taints") {
                return Some(format!("node {name} is not allowed to modify taints"));
            }
            if list(new, "/metadata/ownerReferences") != list(old, "/metadata/ownerReferences") {
                return Some(format!("node {name} is not allowed to modify ownerReferences"));
            }
            let bad = forbidden_labels(new, old);
            (!bad.is_empty()).then(|| format!("is not allowed to modify labels: {}", bad.join(", ")))
        }
        _ => None,
    }
}

/// Labels that differ and are not the node's to say.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let labels = |object: &Value| {
        object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let within = |domain: &str, of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    let bad = |key: &&String| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let own = OWN_LABELS.contains(&key.as_str())
            || within(domain, "kubelet.kubernetes.io")
            || within(domain, "node.kubernetes.io");
        let reserved = within(domain, "node-restriction.kubernetes.io");
        reserved || ((within(domain, "kubernetes.io") || within(domain, "k8s.io")) && !own)
    };
    keys.into_iter().filter(|key| new.get(*key) != old.get(*key)).filter(bad).cloned().collect()
}

fn claim_status(review: &Review<'_>, node: &str) -> Refusal {
    let (Operation::Update, Some(old)) = (review.operation, review.old) else {
        return Some(format!("unexpected operation {}", go_quote(review.operation.name())));
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, keys) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"][..]),
        ] {
            if let Some(object) = claim.get_mut(part).and_then(Value::as_object_mut) {
                object.retain(|key, _| !keys.contains(&key.as_str()));
            }
        }
        claim
    };
    (rest(&review.object) != rest(old)).then(|| {
        let name = go_quote(node);
        format!(
            "node {name} is not allowed to update fields other than status.quantity and status.conditions"
        )
    })
}

fn lease(review: &Review<'_>, node: &str) -> Refusal {
    if review.call.namespace() != Some(LEASES) {
        return Some(format!("can only access leases in the {} system namespace", go_quote(LEASES)));
    }
    (review.name() != node)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

async fn token(core: &Core, review: &Review<'_>, node: &str) -> Result<Refusal, Status> {
    let said = |why: &str| Ok(Some(why.to_owned()));
    let reference = &review.object["spec"]["boundObjectRef"];
    let name = text(reference, "/name");
    if (text(reference, "/apiVersion"), text(reference, "/kind")) != ("v1", "Pod") || name.is_empty() {
        return said("node requested token not bound to a pod");
    }
    let uid = text(reference, "/uid");
    if uid.is_empty() {
        return said("node requested token with a pod binding without a uid");
    }
    let Some(pod) = core.look_up("", "v1", "pods", review.call.namespace(), name).await? else {
        return Err(Status::not_found(("", "pods"), name));
    };
    if uid != text(&pod, "/metadata/uid") {
        return Ok(Some(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        )));
    }
    if text(&pod, "/spec/nodeName") != node {
        return said("node requested token bound to a pod scheduled on a different node");
    }
    Ok(audience(core, review, &pod))
}

/// A node asks for tokens for the audiences that the pod's volumes name, or that it was granted.
fn audience(core: &Core, review: &Review<'_>, pod: &Value) -> Refusal {
    let audiences = review.object["spec"]["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let asked = match audiences {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Some("node may only request 0 or 1 audiences".to_owned()),
    };
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources =
        volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let named = sources.any(|source| {
        source.get("serviceAccountToken").is_some_and(|token| text(token, "/audience") == asked)
    });
    // A CSI driver may ask for tokens of its own audiences.
    if named || core.options.audiences.iter().any(|own| own == asked) {
        return None;
    }
    let target = Target {
        version: "v1".to_owned(),
        resource: asked.to_owned(),
        namespace: review.call.namespace().map(str::to_owned),
        name: Some(review.name().to_owned()),
        ..Target::default()
    };
    let verb = "request-serviceaccounts-token-audience";
    let user = &review.call.user;
    if core.decide(user, &Attributes::resource(verb, &target)).allowed {
        return None;
    }
    Some(format!(
        "audience {} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        go_quote(asked),
        user.name
    ))
}
