//! The state of the cluster that classes read, and the log of what changed.

use std::collections::VecDeque;

use super::interpod::Namespaces;
use super::labelsets::{LabelSets, Terms};
use super::load::Load;
use super::nodes::Nodes;
use super::numa::Zones;

/// Which nodes changed, in order. Whoever lags too far behind looks at all of them instead.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    nodes: VecDeque<u32>,
    end: u64,
    bound: usize,
}

impl Log {
    pub fn push(&mut self, node: usize, slots: usize) {
        self.bound = self.bound.max(slots).max(1024);
        if self.nodes.len() >= self.bound {
            self.nodes.pop_front();
        }
        self.nodes.push_back(u32::try_from(node).unwrap_or(u32::MAX));
        self.end += 1;
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// The nodes that changed since then, each once, unless that is too long ago.
    pub fn since(&self, seen: u64) -> Option<Vec<u32>> {
        let missing = usize::try_from(self.end - seen).ok().filter(|n| *n <= self.nodes.len())?;
        let mut nodes: Vec<u32> = self.nodes.range(self.nodes.len() - missing..).copied().collect();
        if nodes.len() > 1 {
            nodes.sort_unstable();
            nodes.dedup();
        }
        Some(nodes)
    }
}

/// Everything but the classes.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub nodes: Nodes,
    pub label_sets: LabelSets,
    pub terms: Terms,
    pub namespaces: Namespaces,
    pub log: Log,
    /// What nodes really use, when a profile reads it.
    pub load: Option<Box<Load>>,
    /// What zones of nodes have left, when nodes say so.
    pub zones: Option<Box<Zones>>,
    /// The nodes with pods whose budget changed: where anything fits does not hang on that, only who may be made to go.
    pub spared: Log,
    /// Changes when every class must start over.
    pub epoch: u64,
}

impl World {
    /// Notes that a node changed.
    pub fn touch(&mut self, node: usize) {
        self.log.push(node, self.nodes.slots());
    }
}
