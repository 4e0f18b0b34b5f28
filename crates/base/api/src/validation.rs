//! Kubernetes' rules about objects, each broken one worded as Kubernetes words it.
//!
//! The rules read an object that has its defaults ([`crate::defaults`]) and went through [`crate::strategy`]. What is
//! absent or of another JSON type reads as Go's zero value, so that no object makes them fail otherwise than by a
//! [`FieldError`].

mod admission;
mod apiservice;
mod apps;
mod autoscaling;
mod batch;
mod classes;
mod core;
mod cron;
mod discovery;
mod events;
mod flowcontrol;
mod ingress;
pub(crate) mod ip;
mod labels;
pub(crate) mod meta;
pub mod names;
mod node;
mod pod;
mod policies;
mod quota;
mod rbac;
mod read;
mod service;
mod storage;
mod volumes;

use serde_json::Value;

use crate::kinds::Resource;
use crate::status::{FieldError, FieldPath};

pub use self::cron::{CronError, check_schedule};

/// Checks an object that is about to be created (defaults applied, prepared by [`crate::strategy::prepare_create`]).
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    if resource.is_virtual() {
        return out;
    }
    let is_event = resource.kind == "Event";
    if !is_event {
        meta::create(&mut out, resource, object);
    }
    match (resource.group, resource.kind) {
        ("", "Pod") => pod::create(&mut out, object),
        ("", "PodTemplate") => {
            pod::template(&mut out, &FieldPath::new("template"), read::get(object, "template"));
        }
        ("" | "events.k8s.io", "Event") => events::create(&mut out, resource, object),
        ("", _) => core_kind(&mut out, resource, object, None),
        ("apps", _) => apps::spec(&mut out, resource, object),
        ("batch", "Job") => batch::create_job(&mut out, object),
        ("batch", "CronJob") => batch::create_cron_job(&mut out, object),
        ("discovery.k8s.io", "EndpointSlice") => discovery::slice(&mut out, object, None),
        ("apiextensions.k8s.io", _) => crate::custom::valid::create(&mut out, object),
        ("apiregistration.k8s.io", _) => apiservice::object(&mut out, object),
        ("admissionregistration.k8s.io", _) => admission::object(&mut out, resource, object, None),
        ("coordination.k8s.io", "Lease") => core::lease(&mut out, object),
        ("rbac.authorization.k8s.io", _) => rbac::object(&mut out, resource, object, None),
        ("flowcontrol.apiserver.k8s.io", _) => flowcontrol::object(&mut out, resource, object),
        _ => cluster_kind(&mut out, resource, object, None),
    }
    out
}

/// Checks an update of the main resource (prepared by [`crate::strategy::prepare_update`]).
///
/// The new object needs a resourceVersion: where a client sent none and may do so, the caller puts the current one.
pub fn update(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            pod::update(&mut out, new, old);
            return out;
        }
        ("" | "events.k8s.io", "Event") => {
            events::update(&mut out, resource, new, old);
            return out;
        }
        _ => meta::update(&mut out, new, old),
    }
    match (resource.group, resource.kind) {
        ("", "PodTemplate") => {
            pod::template(&mut out, &FieldPath::new("template"), read::get(new, "template"));
        }
        ("", _) => core_kind(&mut out, resource, new, Some(old)),
        ("apps", _) => apps::update(&mut out, resource, new, old),
        ("batch", "Job") => batch::update_job(&mut out, new, old),
        ("batch", "CronJob") => batch::update_cron_job(&mut out, new, old),
        ("discovery.k8s.io", "EndpointSlice") => discovery::slice(&mut out, new, Some(old)),
        ("apiextensions.k8s.io", _) => crate::custom::valid::update(&mut out, new, old),
        ("apiregistration.k8s.io", _) => apiservice::object(&mut out, new),
        ("admissionregistration.k8s.io", _) => admission::object(&mut out, resource, new, Some(old)),
        ("coordination.k8s.io", "Lease") => core::lease(&mut out, new),
        ("rbac.authorization.k8s.io", _) => rbac::object(&mut out, resource, new, Some(old)),
        ("flowcontrol.apiserver.k8s.io", _) => flowcontrol::object(&mut out, resource, new),
        _ => cluster_kind(&mut out, resource, new, Some(old)),
    }
    out
}

/// Kinds of the core group whose rules are nearly the same at creation and update.
fn core_kind(out: &mut Vec<FieldError>, resource: &Resource, object: &Value, old: Option<&Value>) {
    match resource.kind {
        "Service" => service::service(out, object, old),
        "ConfigMap" => core::config_map(out, object, old),
        "Secret" => core::secret(out, object, old),
        "Namespace" => {}
        "Node" => node::node(out, object, old),
        "Endpoints" => discovery::endpoints(out, object, old),
        "PersistentVolume" => volumes::volume(out, object, old),
        "PersistentVolumeClaim" => volumes::claim(out, object, old),
        "ResourceQuota" => quota::quota(out, object, old),
        "LimitRange" => quota::limits(out, object),
        "ReplicationController" => apps::replication_controller(out, object),
        _ => {}
    }
}

/// Kinds of the groups that say how a cluster is set up.
fn cluster_kind(out: &mut Vec<FieldError>, resource: &Resource, object: &Value, old: Option<&Value>) {
    match (resource.group, resource.kind) {
        ("autoscaling", "HorizontalPodAutoscaler") => {
            let form = |object: &Value| crate::kinds::convert::to_stored(resource, object.clone());
            autoscaling::autoscaler(out, &form(object));
        }
        ("networking.k8s.io", "NetworkPolicy") => policies::network(out, object, old),
        ("networking.k8s.io", "Ingress") => ingress::ingress(out, object, old),
        ("networking.k8s.io", "IngressClass") => ingress::class(out, object, old),
        ("networking.k8s.io", "IPAddress") => classes::address(out, object, old),
        ("networking.k8s.io", "ServiceCIDR") => classes::service_cidr(out, object, old),
        ("policy", "PodDisruptionBudget") => policies::budget(out, object),
        ("scheduling.k8s.io", "PriorityClass") => classes::priority_class(out, object, old),
        ("scheduling.k8s.io", "PodGroup") => classes::pod_group(out, object, old),
        ("node.k8s.io", "RuntimeClass") => classes::runtime_class(out, object, old),
        ("storage.k8s.io", "StorageClass") => storage::class(out, object, old),
        ("storage.k8s.io", "VolumeAttributesClass") => storage::attributes_class(out, object, old),
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment(out, object, old),
        ("storage.k8s.io", "CSIDriver") => storage::driver(out, object, old),
        ("storage.k8s.io", "CSINode") => storage::node(out, object, old),
        ("storage.k8s.io", "CSIStorageCapacity") => storage::capacity(out, object, old),
        _ => {}
    }
}

/// Checks an update of the status subresource (prepared by [`crate::strategy::prepare_status_update`]).
pub fn update_status(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            pod::update_status(&mut out, new, old);
            return out;
        }
        _ => meta::update(&mut out, new, old),
    }
    match (resource.group, resource.kind) {
        ("", "Node") => node::node(&mut out, new, Some(old)),
        ("", "Namespace") => core::namespace_status(&mut out, new),
        ("", "Service") => service::load_balancer_status(&mut out, new),
        ("", "PersistentVolumeClaim") => volumes::claim_status(&mut out, new),
        ("", "ResourceQuota") => quota::quota_status(&mut out, new),
        ("", "ReplicationController") => apps::status(&mut out, resource, new, old),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::status(&mut out, new),
        ("networking.k8s.io", "Ingress") => ingress::ingress_status(&mut out, new, old),
        ("policy", "PodDisruptionBudget") => policies::budget_status(&mut out, new),
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment_status(&mut out, new),
        ("apps", _) => apps::status(&mut out, resource, new, old),
        ("admissionregistration.k8s.io", _) => admission::policy_status(&mut out, new),
        ("apiextensions.k8s.io", _) => crate::custom::valid::update_status(&mut out, new),
        ("batch", "Job") => batch::job_status(&mut out, new, old),
        ("flowcontrol.apiserver.k8s.io", _) => flowcontrol::status(&mut out, new),
        _ => {}
    }
    out
}

/// Checks the body of `pods/NAME/binding` (or of a Binding).
pub fn binding(binding: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    pod::binding(&mut out, binding);
    out
}

/// Checks an update of `pods/NAME/ephemeralcontainers`.
pub fn ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    pod::ephemeral_containers(&mut out, new, old);
    out
}

/// Checks an update of `pods/NAME/resize`.
pub fn resize(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    pod::resize(&mut out, new, old);
    out
}

/// Checks an update of `namespaces/NAME/finalize`.
pub fn finalize(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    meta::update(&mut out, new, old);
    core::finalizers(&mut out, new);
    out
}

/// Checks the body of a scale subresource.
pub fn scale(scale: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let spec = read::get(scale, "spec");
    read::not_negative(&mut out, &FieldPath::new("spec"), spec, "replicas");
    out
}

/// Checks `DeleteOptions`.
pub fn delete_options(options: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let policy = read::get(options, "propagationPolicy");
    if !policy.is_null() && read::has(options, "orphanDependents") {
        let sentence = "orphanDependents and deletionPropagation cannot be both set";
        out.push(FieldError::invalid("propagationPolicy", policy.clone(), sentence));
    }
    let supported = ["Foreground", "Background", "Orphan", "nil"];
    if let Some(text) = policy.as_str()
        && !supported[..3].contains(&text)
    {
        out.push(FieldError::not_supported("propagationPolicy", text, &supported));
    }
    out.extend(dry_run(read::get(options, "dryRun")));
    out
}

/// Checks the values of `dryRun`: only `All` is one.
pub fn dry_run(values: &Value) -> Vec<FieldError> {
    let all = values.as_array().map(Vec::as_slice).unwrap_or_default();
    if all.iter().all(|value| value == "All") {
        return Vec::new();
    }
    vec![FieldError::not_supported("dryRun", values.clone(), &["All"])]
}

/// Checks the query parameters `fieldManager` and `fieldValidation` of a write; `fieldManager` has to be there for
/// server-side apply.
pub fn write_options(field_manager: &str, field_validation: &str, apply: bool) -> Vec<FieldError> {
    const LONGEST: usize = 128;
    let mut out = Vec::new();
    if apply && field_manager.is_empty() {
        out.push(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if field_manager.len() > LONGEST {
        out.push(FieldError::too_long("fieldManager", LONGEST));
    }
    if let Some((i, c)) = field_manager.char_indices().find(|(_, c)| c.is_control()) {
        let sentence = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
        out.push(FieldError::invalid("fieldManager", field_manager, sentence));
    }
    let supported = ["", "Ignore", "Strict", "Warn"];
    if !supported.contains(&field_validation) {
        out.push(FieldError::not_supported("fieldValidation", field_validation, &supported));
    }
    out
}

/// Whether the text can be an object's name for this kind, for messages before an object is at hand.
pub fn name_errors(resource: &Resource, name: &str) -> Vec<String> {
    meta::name_errors_for(resource, name)
}

#[cfg(test)]
mod tests;
