//! Nodes to look at from outside.

use std::sync::Arc;

use super::cluster::Cluster;
use super::pod::PodInfo;
use super::resources::Resources;
use crate::selector::Labels;

/// A node that might take a pod, as those see it who have a say beside the scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
    /// What runs there.
    pub pods: &'a [Arc<PodInfo>],
}

/// A node with what runs on it, to look at.
#[derive(Debug, Clone, Copy)]
pub struct NodeView<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) slot: usize,
}

impl<'a> NodeView<'a> {
    /// The name.
    pub fn name(&self) -> &'a str {
        &self.cluster.world.nodes[self.slot].name
    }

    /// The labels.
    pub fn labels(&self) -> &'a Labels {
        &self.cluster.world.nodes[self.slot].labels
    }

    /// What the pods on it asked for.
    pub fn used(&self) -> Resources {
        let nodes = &self.cluster.world.nodes;
        nodes.resources(|column| nodes.used(column, self.slot))
    }

    /// What it can give.
    pub fn allocatable(&self) -> Resources {
        let nodes = &self.cluster.world.nodes;
        nodes.resources(|column| nodes.allocatable(column, self.slot))
    }

    /// What is free of each of its GPUs, in thousandths.
    pub fn gpus(&self) -> &'a [i32] {
        self.cluster.world.nodes[self.slot].gpus.free()
    }

    /// The pods on it.
    pub fn pods(&self) -> &'a [Arc<PodInfo>] {
        &self.cluster.world.nodes[self.slot].pods
    }

    /// How many pods run on it.
    pub fn pod_count(&self) -> usize {
        self.pods().len()
    }
}
