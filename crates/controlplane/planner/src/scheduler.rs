//! Which node a pod goes to, or why none takes it.
//!
//! A [`Cluster`] is kept up to date by small steps (`upsert_node`, `add_pod`, ...) and asked with
//! [`Cluster::schedule`]. The answer is a [`Placement`] or an [`Unschedulable`] whose text is the message of a
//! FailedScheduling event.

mod affinity;
mod cluster;
mod filter;
mod interpod;
mod pod;
mod reasons;
mod resources;
mod score;
mod spread;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Node, PodSpec};

use crate::pods;

pub use cluster::{Cluster, NodeInfo, Placement};
pub use filter::tolerates as tolerates_taint;
pub use pod::PodInfo;
pub use reasons::{Hints, Unschedulable};
pub use resources::{Resources, pod_requests};

/// Whether node name, node selector and required node affinity of a pod allow the node.
pub fn matches_node(spec: &PodSpec, node: &Node) -> bool {
    let name = pods::name(&node.metadata);
    let wanted = spec.node_name.as_deref().unwrap_or_default();
    let empty = crate::selector::Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    (wanted.is_empty() || wanted == name) && affinity::NodeAffinity::new(spec).matches(name, labels)
}
