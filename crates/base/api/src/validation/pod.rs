//! Pods and pod templates.

mod affinity;
mod containers;
mod env;
mod mounts;
mod network;
mod probes;
mod projected;
mod resize;
mod resources;
mod scheduling;
mod security;
mod status;
mod subresources;
mod update;
mod volumes;

use serde_json::Value;

use crate::status::{FieldError, FieldPath};

use super::read::{
    Errors, deep, entries, flag, get, has, int, invalid_each, list, maybe, one_of, one_of_if_set, text,
};
use super::{labels, names};

pub(super) use self::affinity::node_selector;
pub(super) use self::resize::resize;
pub(super) use self::resources::{container_resource, overcommits, overhead, quantity_value, resource_name};
pub(super) use self::scheduling::{taint_effect, tolerations};
pub(super) use self::status::update_status;
pub(super) use self::subresources::{binding, ephemeral_containers};
pub(super) use self::update::update;
pub(super) use self::volumes::{claim_spec, foreign as foreign_source, host_path, no_backsteps};

/// What the rules about one part of a pod's spec need to know of the others.
struct Context<'a> {
    /// A Pod; false for a template.
    is_pod: bool,
    spec: &'a Value,
    /// The volumes that are valid by themselves.
    volumes: Vec<(&'a str, &'a Value)>,
    /// `spec.terminationGracePeriodSeconds`.
    grace: Option<i64>,
    /// Whether the pod runs in the user namespace of the host.
    host_users: bool,
}

impl<'a> Context<'a> {
    fn volume(&self, name: &str) -> Option<&'a Value> {
        self.volumes.iter().find(|(n, _)| *n == name).map(|(_, volume)| *volume)
    }

    fn restart_policy(&self) -> &'a str {
        text(self.spec, "restartPolicy")
    }

    fn os(&self) -> Option<&'a str> {
        get(self.spec, "os").as_object().map(|_| text(get(self.spec, "os"), "name"))
    }
}

/// Every container of the spec with its path.
fn all_containers<'a>(spec: &'a Value, path: &FieldPath) -> Vec<(FieldPath, &'a Value)> {
    let mut out = Vec::new();
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            out.push((path.child(key).index(i), container));
        }
    }
    out
}

/// A Pod that is created.
pub(super) fn create(out: &mut Errors, pod: &Value) {
    metadata_and_spec(out, pod);
    let spec = get(pod, "spec");
    let path = FieldPath::new("spec");
    if !list(spec, "ephemeralContainers").is_empty() {
        out.push(FieldError::forbidden(path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        let sentence = "cannot be set until all schedulingGates have been cleared";
        out.push(FieldError::forbidden(path.child("nodeName"), sentence));
    }
}

/// What holds for a Pod at its creation and after each update.
fn metadata_and_spec(out: &mut Errors, pod: &Value) {
    let spec = get(pod, "spec");
    let path = FieldPath::new("spec");
    let metadata = get(pod, "metadata");
    pod_annotations(out, &FieldPath::new("metadata.annotations"), metadata, spec);
    pod_spec(out, &path, spec, true, text(metadata, "name"));
    if text(spec, "serviceAccountName").is_empty() {
        for (i, volume) in list(spec, "volumes").iter().enumerate() {
            for (j, source) in list(get(volume, "projected"), "sources").iter().enumerate() {
                if has(source, "serviceAccountToken") {
                    let path = path.child("volumes").index(i).child("projected.sources").index(j);
                    let sentence = "must not be specified when serviceAccountName is not set";
                    out.push(FieldError::forbidden(path.child("serviceAccountToken"), sentence));
                }
            }
        }
    }
    for key in ["containers", "initContainers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            containers::image_without_spaces(out, &path.child(key).index(i), container);
        }
    }
}

/// A pod template: labels, annotations and the spec.
pub(super) fn template(out: &mut Errors, path: &FieldPath, template: &Value) {
    let metadata = get(template, "metadata");
    // The path lacks `metadata`, as in Kubernetes' own messages.
    labels::labels(out, path, metadata, "labels");
    labels::annotations(out, path, metadata);
    let spec = get(template, "spec");
    pod_annotations(out, &path.child("annotations"), metadata, spec);
    pod_spec(out, &path.child("spec"), spec, false, "");
    if !list(spec, "ephemeralContainers").is_empty() {
        let sentence = "ephemeral containers not allowed in pod template";
        out.push(FieldError::forbidden(path.child("spec.ephemeralContainers"), sentence));
    }
}

fn pod_annotations(out: &mut Errors, path: &FieldPath, metadata: &Value, spec: &Value) {
    for (key, value) in entries(metadata, "annotations") {
        let value = value.as_str().unwrap_or_default();
        let path = path.key(key);
        if key == "kubernetes.io/config.mirror" && text(spec, "nodeName").is_empty() {
            let sentence = "must set spec.nodeName if mirror pod annotation is set";
            out.push(FieldError::invalid(&path, value, sentence));
        }
        let cost = key == "controller.kubernetes.io/pod-deletion-cost";
        let padded = value.starts_with('+') || (value.len() > 1 && value.starts_with('0'));
        if cost && (padded || value.parse::<i32>().is_err()) {
            out.push(FieldError::invalid(&path, value, "must be a 32bit integer"));
        }
    }
}

fn pod_spec(out: &mut Errors, path: &FieldPath, spec: &Value, is_pod: bool, name: &str) {
    if !has(spec, "terminationGracePeriodSeconds") {
        out.push(FieldError::required(path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::volumes(out, &path.child("volumes"), spec, is_pod, name);
    let context = Context {
        is_pod,
        spec,
        volumes,
        grace: int(spec, "terminationGracePeriodSeconds"),
        host_users: maybe(spec, "hostUsers") != Some(false),
    };
    let claims = resources::pod_claims(out, &path.child("resourceClaims"), spec);
    containers::containers(out, &path.child("containers"), &context, &claims);
    containers::init_containers(out, &path.child("initContainers"), &context, &claims);
    containers::ephemeral_containers(out, &path.child("ephemeralContainers"), &context, &claims);
    resources::pod_level(out, path, spec);
    network::host_ports(out, &path.child("containers"), &context);
    let policies = ["Always", "OnFailure", "Never"];
    one_of(out, &path.child("restartPolicy"), context.restart_policy(), &policies);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(out, &path.child("dnsPolicy"), text(spec, "dnsPolicy"), &policies);
    labels::labels(out, path, spec, "nodeSelector");
    security::pod(out, &path.child("securityContext"), spec);
    affinity::affinity(out, &path.child("affinity"), get(spec, "affinity"));
    network::dns(out, &path.child("dnsConfig"), spec);
    scheduling::gates(out, path, spec);
    scheduling::spread(out, &path.child("topologySpreadConstraints"), spec);
    security::host_users(out, path, &context);
    network::hostname_override(out, path, spec);
    named_fields(out, path, spec);
    let deadline = int(spec, "activeDeadlineSeconds");
    if let Some(seconds) = deadline.filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let sentence = "must be between 1 and 2147483647, inclusive";
        out.push(FieldError::invalid(path.child("activeDeadlineSeconds"), seconds, sentence));
    }
    scheduling::tolerations(out, &path.child("tolerations"), spec);
    network::host_aliases(out, &path.child("hostAliases"), spec);
    let preemption = ["PreemptLowerPriority", "Never"];
    one_of_if_set(out, &path.child("preemptionPolicy"), get(spec, "preemptionPolicy"), &preemption);
    if has(spec, "overhead") {
        resources::overhead(out, &path.child("overhead"), get(spec, "overhead"));
    }
    security::os(out, path, &context);
    env::file_keys(out, path, &context);
}

/// Fields that hold a name.
fn named_fields(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let subdomains = ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"];
    for key in subdomains {
        let value = text(spec, key);
        if !value.is_empty() {
            invalid_each(out, &path.child(key), value, names::dns1123_subdomain(value));
        }
    }
    for key in ["hostname", "subdomain"] {
        let value = text(spec, key);
        if !value.is_empty() {
            invalid_each(out, &path.child(key), value, names::dns1123_label(value));
        }
    }
}

/// Whether the pod uses the network of its node.
fn host_network(spec: &Value) -> bool {
    flag(spec, "hostNetwork")
}

/// The flags of a container's security context.
fn privileged(container: &Value) -> bool {
    deep(container, "securityContext.privileged").as_bool() == Some(true)
}
