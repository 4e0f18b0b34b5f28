//! What the server decides about an object on its way in: first status, generation, generated labels and
//! selectors, what an update may not touch, and what a delete does by default.
//!
//! The order for a create: name and namespace, uid and creationTimestamp are set by the caller, then
//! [`crate::defaults::apply`], [`prepare_create`], [`crate::validation::create`]. For an update:
//! [`crate::defaults::apply`], [`prepare_update`], [`crate::validation::update`].

mod claim;
pub(crate) mod compare;
mod job;
pub(crate) mod meta;
mod names;
mod pod;
mod scale;
mod service;
mod warnings;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::defaults::Object;
use crate::defaults::edit::{absent, child, ensure, ensure_path, text};
use crate::kinds::Resource;

pub use self::names::generate_name;
pub use self::pod::{
    add_default_tolerations, apply_service_account, prepare_ephemeral_containers, prepare_resize, qos_class,
};
pub use self::scale::{apply_scale, scale_of, selector_text};
pub use self::warnings::warnings;

/// What becomes of an object's status at its creation.
fn first_status(resource: &Resource) -> Option<Value> {
    Some(match (resource.group, resource.kind) {
        ("", "Namespace") => json!({ "phase": "Active" }),
        ("", "Service") => json!({ "loadBalancer": {} }),
        ("", "PersistentVolume") => json!({ "phase": "Pending", "lastPhaseTransitionTime": now() }),
        ("", "PersistentVolumeClaim") => json!({ "phase": "Pending" }),
        ("apps", "Deployment") | ("batch", _) => json!({}),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => json!({ "replicas": 0 }),
        ("apps", "StatefulSet") => json!({ "replicas": 0, "availableReplicas": 0 }),
        ("apps", "DaemonSet") => json!({
            "currentNumberScheduled": 0,
            "numberMisscheduled": 0,
            "desiredNumberScheduled": 0,
            "numberReady": 0,
        }),
        // The kubelet says at once what its node is.
        ("", "Node") => return None,
        _ if resource.subresource("status").is_some() => json!({}),
        _ => return None,
    })
}

/// Whether the kind counts the generations of its spec.
fn counts_generations(resource: &Resource) -> bool {
    match (resource.group, resource.kind) {
        ("", kind) => matches!(kind, "Pod" | "PodTemplate" | "ReplicationController"),
        ("apps", kind) => kind != "ControllerRevision",
        ("networking.k8s.io", kind) => matches!(kind, "NetworkPolicy" | "Ingress" | "IngressClass"),
        ("batch" | "policy" | "admissionregistration.k8s.io" | "flowcontrol.apiserver.k8s.io", _) => true,
        ("resource.k8s.io", kind) => matches!(kind, "DeviceClass" | "DeviceTaintRule" | "ResourceSlice"),
        ("discovery.k8s.io", "EndpointSlice") | ("apiextensions.k8s.io", _) | ("scheduling.k8s.io", _) => {
            true
        }
        _ => false,
    }
}

/// Prepares an object for its creation: drops the status and sets the first one, the generation, and what is
/// generated from name and UID. Call it after defaults.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    meta::prepare_create(object);
    match first_status(resource) {
        Some(status) => {
            object.insert("status".into(), status);
        }
        None if resource.subresource("status").is_some() && resource.kind != "Node" => {
            object.shift_remove("status");
        }
        None => {}
    }
    if counts_generations(resource)
        && let Some(metadata) = ensure(object, "metadata")
    {
        metadata.insert("generation".into(), 1.into());
    }
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::prepare_create(object),
        ("", "Namespace") => namespace(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crate::custom::rules::prepare_create(object),
        ("", "Secret") => merge_string_data(object),
        ("", "Service") => service::prepare_create(object),
        ("", "ServiceAccount") => service_account(object),
        ("", "PersistentVolumeClaim") => claim::prepare(object, None),
        ("batch", "Job") => job::generate_selector(object),
        _ => {}
    }
}

/// Prepares an update of the main resource: keeps the old status and what only the server sets, and bumps the
/// generation iff the spec changed.
pub fn prepare_update(resource: &Resource, new: &mut Value, old: &Value) {
    let (Some(object), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    meta::prepare_update(object, before);
    if resource.subresource("status").is_some() {
        keep(object, before, "status");
    }
    match (resource.group, resource.kind) {
        ("", "Namespace") => {
            keep(object, before, "spec");
            namespace_label(object);
        }
        ("", "Secret") => {
            if text(object, "type").is_empty() {
                keep(object, before, "type");
            }
            merge_string_data(object);
        }
        ("", "Service") => service::prepare_update(object, before),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crate::custom::rules::prepare_update(object),
        ("", "ServiceAccount") => service_account(object),
        ("", "Pod") => pod::prepare_update(object, before),
        ("", "PersistentVolumeClaim") => claim::prepare(object, Some(before)),
        _ => {}
    }
    // A driver has no generation until it changes.
    let driver = (resource.group, resource.kind) == ("storage.k8s.io", "CSIDriver");
    if (driver || counts_generations(resource)) && spec_changed(resource, object, before) {
        meta::bump_generation(object, before);
    }
}

/// Whether the update deserves a new generation.
fn spec_changed(resource: &Resource, new: &Object, old: &Object) -> bool {
    let differs = |pointer: &str| {
        let (a, b) = (at(new, pointer), at(old, pointer));
        !compare::same_option(a, b)
    };
    match (resource.group, resource.kind) {
        ("discovery.k8s.io", "EndpointSlice") => {
            differs("metadata.labels") || ["addressType", "endpoints", "ports"].into_iter().any(differs)
        }
        // Annotations are copied to the ReplicaSets, so that they count too.
        ("apps", "Deployment") => differs("spec") || differs("metadata.annotations"),
        ("", "PodTemplate") => differs("template"),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => differs("webhooks"),
        // Its generation stays 1, as nothing that matters may change.
        ("scheduling.k8s.io", "PriorityClass") => false,
        _ => differs("spec"),
    }
}

/// The value at a path of keys joined by dots.
fn at<'a>(object: &'a Object, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.');
    let mut value = object.get(keys.next()?)?;
    for key in keys {
        value = value.get(key)?;
    }
    Some(value)
}

/// Prepares an update of the status subresource: everything but the status stays as it was, except what of the
/// metadata a status update may change.
pub fn prepare_status_update(resource: &Resource, new: &mut Value, old: &Value) {
    let (Some(object), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    meta::prepare_update(object, before);
    let status_only: Vec<String> = object
        .keys()
        .chain(before.keys())
        .filter(|key| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
        .cloned()
        .collect();
    for key in status_only {
        keep(object, before, &key);
    }
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::prepare_status_update(object, before),
        ("apps", "Deployment") => meta::keep(object, before, "labels"),
        ("", "PersistentVolume") => claim::volume_phase(object, before),
        ("networking.k8s.io", "ServiceCIDR") | ("storage.k8s.io", "VolumeAttachment") => {
            meta::keep_for_status(object, before);
        }
        ("", "Service") => {
            if let Some(status) = ensure(object, "status") {
                let _ = ensure(status, "loadBalancer");
            }
        }
        _ => {}
    }
}

/// Prepares an update of `namespaces/NAME/finalize`: only the spec's finalizers may change.
pub fn prepare_finalize(new: &mut Value, old: &Value) {
    let (Some(object), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    meta::prepare_update(object, before);
    keep(object, before, "status");
}

/// The seconds of grace when a delete does not say; none for kinds that are deleted at once.
///
/// A pod that no node has, or that has ended, goes at once whatever was asked: see [`grace_for`].
pub fn default_grace(resource: &Resource, object: &Value) -> Option<i64> {
    if (resource.group, resource.kind) != ("", "Pod") {
        return None;
    }
    Some(object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0))
}

/// The seconds of grace that a delete gets: what was asked or else the default, 0 for a pod that no node runs.
pub fn grace_for(resource: &Resource, object: &Value, asked: Option<i64>) -> Option<i64> {
    let grace = asked.or(default_grace(resource, object))?;
    if (resource.group, resource.kind) != ("", "Pod") {
        return None;
    }
    let node = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() || matches!(phase, "Failed" | "Succeeded") {
        return Some(0);
    }
    Some(if grace < 0 { 1 } else { grace })
}

/// What a delete does with the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes at once and its dependents afterwards.
    Background,
    /// The dependents stay, without an owner.
    Orphan,
    /// The dependents go first.
    Foreground,
}

/// What a delete does when neither its options nor a finalizer say. Jobs and ReplicationControllers leave their
/// pods, as their first clients expected.
pub fn default_propagation(resource: &Resource) -> Propagation {
    match (resource.group, resource.kind) {
        ("batch", "Job") | ("", "ReplicationController") => Propagation::Orphan,
        _ => Propagation::Background,
    }
}

/// Whether a PUT to a name that does not exist creates the object.
pub fn creates_on_update(resource: &Resource) -> bool {
    matches!(
        (resource.group, resource.kind),
        ("", "Service" | "Endpoints" | "Event" | "LimitRange")
            | ("events.k8s.io", "Event")
            | ("coordination.k8s.io", "Lease")
            | ("node.k8s.io", "RuntimeClass")
            | ("rbac.authorization.k8s.io", _)
    )
}

/// Whether an update has to say the resourceVersion it is based on.
pub fn needs_resource_version(resource: &Resource) -> bool {
    matches!(
        (resource.group, resource.kind),
        ("coordination.k8s.io", "Lease")
            | ("node.k8s.io", "RuntimeClass")
            | ("policy", "PodDisruptionBudget")
            | ("storage.k8s.io", "CSIDriver" | "CSINode" | "CSIStorageCapacity" | "VolumeAttachment")
            | ("certificates.k8s.io", "ClusterTrustBundle" | "PodCertificateRequest")
            | ("admissionregistration.k8s.io" | "storagemigration.k8s.io", _)
    )
}

/// The time, as objects say it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The value of the key becomes what it was.
fn keep(object: &mut Object, before: &Object, key: &str) {
    match before.get(key) {
        Some(value) => {
            object.insert(key.to_owned(), value.clone());
        }
        None => {
            object.shift_remove(key);
        }
    }
}

/// A new namespace waits for its content to be deleted before it goes.
fn namespace(object: &mut Object) {
    namespace_label(object);
    let Some(spec) = ensure(object, "spec") else { return };
    if absent(spec, "finalizers") {
        spec.insert("finalizers".into(), json!([]));
    }
    if let Some(finalizers) = spec.get_mut("finalizers").and_then(Value::as_array_mut)
        && !finalizers.iter().any(|f| f == "kubernetes")
    {
        finalizers.push("kubernetes".into());
    }
}

/// A generated name is known only now.
fn namespace_label(object: &mut Object) {
    let name = child(object, "metadata").map(|m| text(m, "name").to_owned()).unwrap_or_default();
    if !name.is_empty()
        && let Some(labels) = ensure_path(object, &["metadata", "labels"])
    {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

/// `stringData` is only a way to write `data`.
fn merge_string_data(secret: &mut Object) {
    let Some(Value::Object(texts)) = secret.shift_remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    let Some(data) = ensure(secret, "data") else { return };
    for (key, value) in texts {
        if let Some(text) = value.as_str() {
            data.insert(key, STANDARD.encode(text).into());
        }
    }
}

/// Of the secrets that a service account may use only the name counts.
fn service_account(account: &mut Object) {
    crate::defaults::edit::each(account, "secrets", |secret| {
        secret.retain(|key, _| key == "name");
    });
}

#[cfg(test)]
mod tests;
