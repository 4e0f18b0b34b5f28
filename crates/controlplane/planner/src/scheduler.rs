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

pub use cluster::{Cluster, NodeInfo, Placement};
pub use pod::PodInfo;
pub use reasons::{Hints, Unschedulable};
pub use resources::{Resources, pod_requests};
