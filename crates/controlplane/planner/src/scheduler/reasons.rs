//! Why a pod was placed nowhere, in the words that users of Kubernetes know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What could make an unschedulable pod schedulable; a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints(u8);

impl Hints {
    /// A node was added.
    pub const NODE_ADDED: Self = Self(1);
    /// A node offers more.
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    /// The labels of a node changed.
    pub const NODE_LABELS: Self = Self(1 << 2);
    /// The taints of a node changed, or it became schedulable.
    pub const NODE_TAINTS: Self = Self(1 << 3);
    /// A bound pod ended or went away.
    pub const POD_GONE: Self = Self(1 << 4);
    /// A bound pod appeared, or labels of a pod or namespace changed.
    pub const POD_ADDED: Self = Self(1 << 5);

    /// Nothing helps.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they have something in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A reason of one node, and what could change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub text: Cow<'static, str>,
    pub hints: Hints,
}

impl Reason {
    pub const fn new(text: &'static str, hints: Hints) -> Self {
        Self { text: Cow::Borrowed(text), hints }
    }
}

/// No node takes the pod. Its `Display` is the message of the PodScheduled condition and of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes gave which reason.
    pub reasons: BTreeMap<Cow<'static, str>, usize>,
    /// What could help.
    pub hints: Hints,
}

impl Unschedulable {
    pub(super) fn new(nodes: usize) -> Self {
        Self { nodes, reasons: BTreeMap::new(), hints: Hints::NODE_ADDED }
    }

    pub(super) fn count(&mut self, reason: Reason) {
        self.hints = self.hints.union(reason.hints);
        *self.reasons.entry(reason.text).or_insert(0) += 1;
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        let mut lines: Vec<String> =
            self.reasons.iter().map(|(text, count)| format!("{count} {text}")).collect();
        lines.sort();
        if !lines.is_empty() {
            write!(f, " {}.", lines.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Unschedulable {}
