//! The state of the cluster that classes read, and the log of what changed.

use std::collections::VecDeque;

use super::interpod::Namespaces;
use super::labelsets::{LabelSets, Terms};
use super::load::Load;
use super::nodes::Nodes;
use super::numa::Zones;
use super::pod::PodInfo;
use super::shapes::Shapes;

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

    /// Adds the nodes that changed since then, each once, unless that is too long ago.
    #[must_use]
    pub fn since(&self, seen: u64, nodes: &mut Vec<u32>) -> bool {
        let Some(missing) = usize::try_from(self.end - seen).ok().filter(|n| *n <= self.nodes.len()) else {
            return false;
        };
        nodes.extend(self.nodes.range(self.nodes.len() - missing..));
        if nodes.len() > 1 {
            nodes.sort_unstable();
            nodes.dedup();
        }
        true
    }
}

/// Everything but the classes.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub nodes: Nodes,
    pub shapes: Shapes,
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
    /// Counts a bound pod by what it is labelled and what it says about others, or no more.
    pub fn count(&mut self, slot: usize, pod: &PodInfo, add: bool) {
        let Self { nodes, shapes, label_sets, terms, .. } = self;
        let (labels, marks) = shapes.marks(&pod.shape, label_sets, terms);
        let row = &mut nodes[slot];
        let at = row.label_counts.iter().position(|(known, ..)| *known == labels);
        if add {
            label_sets.add(labels);
            let at = at.unwrap_or_else(|| {
                row.label_counts.push((labels, 0, 0));
                row.label_counts.len() - 1
            });
            row.label_counts[at].1 += 1;
            row.label_counts[at].2 += u32::from(pod.terminating);
        } else {
            label_sets.remove(labels);
            if let Some(at) = at {
                row.label_counts[at].1 -= 1;
                row.label_counts[at].2 -= u32::from(pod.terminating);
                if row.label_counts[at].1 == 0 {
                    row.label_counts.swap_remove(at);
                }
            }
        }
        for term in marks {
            let at = row.term_counts.iter().position(|(id, _)| id == term);
            if add {
                terms.add(*term);
                match at {
                    Some(at) => row.term_counts[at].1 += 1,
                    None => row.term_counts.push((*term, 1)),
                }
                continue;
            }
            terms.remove(*term);
            if let Some(at) = at {
                row.term_counts[at].1 -= 1;
                if row.term_counts[at].1 == 0 {
                    row.term_counts.swap_remove(at);
                }
            }
        }
    }

    /// Notes that a node changed.
    pub fn touch(&mut self, node: usize) {
        self.log.push(node, self.nodes.slots());
    }
}
