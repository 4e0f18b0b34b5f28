//! Which node a pod goes to, or why none takes it.
//!
//! A [`Cluster`] is kept up to date by small steps (`upsert_node`, `upsert_pod`, ...) and asked with
//! [`Cluster::schedule`]. The answer is a [`Placement`] or an [`Unschedulable`] whose text is the message of a
//! FailedScheduling event.
//!
//! Inside, nodes are rows ([`nodes`]), pods of one template share a [`pod::Shape`], and pods that differ in nothing
//! that matters share a [`class::Class`]: what is known about every node for them. A class looks again only at
//! nodes that changed since it was last asked. What a decision costs then are waits for memory, since nodes and pods are
//! many and each decision is about others: so what is read together lies together, and is asked for ahead.

mod affinity;
mod attempt;
mod bound;
mod cells;
mod choose;
mod class;
mod classes;
mod cluster;
pub mod config;
mod counter;
mod explain;
mod gang;
pub mod gpu;
mod intake;
mod intern;
mod interpod;
mod labelsets;
mod load;
mod nodes;
mod numa;
mod pack;
mod pod;
mod preempt;
mod profile;
mod queue;
mod reasons;
mod reclaim;
mod resources;
mod score;
mod seats;
mod shapes;
mod spread;
mod status;
mod taints;
mod tenancy;
#[cfg(test)]
mod tests;
mod view;
mod world;

use k8s_openapi::api::core::v1::{Node, PodSpec};

use crate::pods;

pub use cluster::{Bonus, Cluster, NodeFilter, Placement};
pub use explain::{Closest, Explanation, Fitting, Refusal, Shortage};
pub use gang::{GangDecision, GroupPolicy};
pub use gpu::{GPU, GPU_MILLI, GPU_MODEL};
pub use load::LoadAware;
pub use numa::{ZoneScoring, ZoneStrategy};
pub use pack::Packing;
pub use pod::{GroupName, POD_GROUP, POD_GROUP_MIN, PodInfo};
pub use preempt::{Budget, Preemption, keeps_room};
pub use profile::{FilterSet, Profile, Strategy, Weighted, Weights};
pub use queue::{Patience, Popped, Queue};
pub use reasons::{Hints, Unschedulable};
pub use resources::{Resources, pod_requests};
pub use seats::SeatView;
pub use taints::{patience, tolerates_taint};
pub use view::{Candidate, NodeView};

pub(crate) use affinity::{NodeTerm, node_terms};

/// Whether node name, node selector and required node affinity of a pod allow the node.
pub fn matches_node(spec: &PodSpec, node: &Node) -> bool {
    let name = pods::name(&node.metadata);
    let wanted = spec.node_name.as_deref().unwrap_or_default();
    let empty = crate::selector::Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    (wanted.is_empty() || wanted == name) && affinity::NodeAffinity::new(spec).matches(name, labels)
}
