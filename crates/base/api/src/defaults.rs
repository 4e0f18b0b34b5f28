//! The values that Kubernetes fills in where a manifest says nothing.
//!
//! Applying them twice changes nothing. What the server decides (status, generation, generated labels) is in
//! [`crate::strategy`].

mod access;
mod admission;
mod cluster;
pub(crate) mod edit;
mod objects;
mod pod;
mod workloads;

use serde_json::Value;

use crate::kinds::Resource;

pub(crate) use self::edit::Object;
pub use self::pod::default_pull_policy;

/// Fills in the defaults of the resource's kind; an object of an unknown kind stays as it is.
pub fn apply(resource: &Resource, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    let group: &str = resource.group;
    let kind: &str = resource.kind;
    match (group, kind) {
        ("apiregistration.k8s.io", "APIService") => {
            let service = edit::child(object, "spec").and_then(|spec| edit::child(spec, "service"));
            if let Some(service) = service.filter(|service| edit::absent(service, "port")) {
                service.insert("port".into(), 443.into());
            }
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crate::custom::rules::defaults(object),
        ("", "Pod") => pod::pod(object),
        ("", "PodTemplate") => pod::template(object),
        ("", "Service") => objects::service(object),
        ("", "Endpoints") => objects::endpoints(object),
        ("", "Secret") => edit::set_text(object, "type", "Opaque"),
        ("", "Namespace") => objects::namespace(object),
        ("", "Node") => objects::node(object),
        ("", "PersistentVolume") => objects::persistent_volume(object),
        ("", "PersistentVolumeClaim") => objects::persistent_volume_claim(object),
        ("", "LimitRange") => objects::limit_range(object),
        ("", "ResourceQuota") => objects::resource_quota(object),
        ("", "ReplicationController") => workloads::replication_controller(object),
        ("apps", "Deployment") => workloads::deployment(object),
        ("apps", "ReplicaSet") => workloads::replica_set(object),
        ("apps", "DaemonSet") => workloads::daemon_set(object),
        ("apps", "StatefulSet") => workloads::stateful_set(object),
        ("batch", "Job") => workloads::job(object),
        ("batch", "CronJob") => workloads::cron_job(object),
        ("discovery.k8s.io", "EndpointSlice") => objects::endpoint_slice(object),
        ("admissionregistration.k8s.io", kind) => admission::registration(kind, object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => access::binding(object),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => access::flow_schema(object),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => access::priority_level(object),
        ("autoscaling", "HorizontalPodAutoscaler") => cluster::autoscaler(resource.version, object),
        ("networking.k8s.io", "NetworkPolicy") => cluster::network_policy(object),
        ("networking.k8s.io", "IngressClass") => cluster::ingress_class(object),
        ("node.k8s.io", "RuntimeClass") => cluster::runtime_class(object),
        ("resource.k8s.io", kind) => cluster::devices(kind, object),
        ("scheduling.k8s.io", "PriorityClass") => {
            edit::set(object, "preemptionPolicy", "PreemptLowerPriority");
        }
        ("storage.k8s.io", "StorageClass") => {
            edit::set(object, "reclaimPolicy", "Delete");
            edit::set(object, "volumeBindingMode", "Immediate");
        }
        ("storage.k8s.io", "CSIDriver") => cluster::csi_driver(object),
        ("storage.k8s.io", "CSIStorageCapacity") => cluster::capacity(object),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
