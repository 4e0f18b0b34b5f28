//! Why a pod was placed nowhere, in the words that users of Kubernetes know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::choose::{Judge, Neighbours};
use super::class::Class;
use super::cluster::Pins;
use super::status::Status;
use super::world::World;
use crate::fairness::Wait;

/// What could make an unschedulable pod schedulable; a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints(u16);

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
    /// A claim, a volume or a storage class changed.
    pub const VOLUME: Self = Self(1 << 6);
    /// The labels of a namespace changed, which selectors of namespaces read.
    pub const NAMESPACE: Self = Self(1 << 7);
    /// Another member of a gang came.
    pub const MEMBER: Self = Self(1 << 8);
    /// An extender might think otherwise by now: whether the pod would fit is not sure.
    pub const EXTENDER: Self = Self(1 << 9);
    /// What a node uses changed.
    pub const NODE_USAGE: Self = Self(1 << 10);
    /// A reservation holds more, or other pods may use it.
    pub const RESERVATION: Self = Self(1 << 11);
    /// What zones of a node have left changed.
    pub const NODE_TOPOLOGY: Self = Self(1 << 12);
    /// How many kinds there are.
    pub(super) const KINDS: usize = 13;

    /// Nothing helps.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both sets have.
    pub(super) const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The numbers of its members, each below [`Hints::KINDS`].
    pub(super) fn kinds(self) -> impl Iterator<Item = usize> {
        (0..Self::KINDS).filter(move |kind| self.0 & (1 << kind) != 0)
    }

    /// The set of one of them.
    pub(super) const fn of_kind(kind: usize) -> Self {
        Self(1 << kind)
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
    /// Its queue holds it back: no node was looked at.
    pub queue: Option<Box<Wait>>,
}

const FIT: Hints = Hints::NODE_ALLOCATABLE.union(Hints::POD_GONE);
const HOT: Hints = Hints::NODE_USAGE.union(FIT);
const ZONES: Hints = Hints::NODE_TOPOLOGY.union(FIT);

/// Why nodes of that status do not take pods of the class.
pub(super) fn of_status(class: &Class, world: &World, status: Status) -> Vec<Reason> {
    match status {
        Status::CORDONED => vec![Reason::new("node(s) were unschedulable", Hints::NODE_TAINTS)],
        Status::UNTOLERATED => vec![Reason::new("node(s) had untolerated taint(s)", Hints::NODE_TAINTS)],
        Status::AFFINITY => {
            vec![Reason::new("node(s) didn't match Pod's node affinity/selector", Hints::NODE_LABELS)]
        }
        Status::PORTS => {
            let text = "node(s) didn't have free ports for the requested pod ports";
            vec![Reason::new(text, Hints::POD_GONE)]
        }
        Status::HOT_CPU => {
            vec![Reason::new("node(s) cpu usage exceeded the threshold", HOT)]
        }
        Status::HOT_MEMORY => {
            vec![Reason::new("node(s) memory usage exceeded the threshold", HOT)]
        }
        Status::UNALIGNED_CONTAINER => vec![Reason::new("cannot align container", ZONES)],
        Status::UNALIGNED_POD => vec![Reason::new("cannot align pod", ZONES)],
        fit if fit.is_fit() => {
            let pods = fit.has_too_many_pods().then_some(Reason::new("Too many pods", FIT));
            let lacking = class.lacking(&world.nodes, fit);
            let lacking = lacking.map(|name| Reason { text: insufficient(name), hints: FIT });
            pods.into_iter().chain(lacking).collect()
        }
        _ => Vec::new(),
    }
}

/// What could change a status.
fn hints_of(status: Status) -> Hints {
    match status {
        Status::CORDONED | Status::UNTOLERATED => Hints::NODE_TAINTS,
        Status::AFFINITY => Hints::NODE_LABELS,
        Status::PORTS => Hints::POD_GONE,
        Status::HOT_CPU | Status::HOT_MEMORY => HOT,
        Status::UNALIGNED_CONTAINER | Status::UNALIGNED_POD => ZONES,
        _ => FIT,
    }
}

/// What could help a pod of the class, which fits on none of these nodes.
pub(super) fn hints(class: &Class, judge: &Judge<'_>, pins: Option<&Pins>) -> Hints {
    let mut hints = Hints::NODE_ADDED;
    let mut add = |more: Hints| hints = hints.union(more);
    match pins {
        None => {
            class.statuses.keys().for_each(|status| add(hints_of(*status)));
            let crowded = class.buckets.iter().filter(|b| b.count > 0);
            crowded.filter_map(|b| judge.against(&b.key)).for_each(|n| add(of_neighbours(n).hints));
        }
        Some(pins) => {
            for node in &pins.nodes {
                match class.place(*node) {
                    None => add(hints_of(class.status(*node))),
                    Some((bucket, _)) => {
                        judge
                            .against(&class.buckets[bucket].key)
                            .into_iter()
                            .for_each(|n| add(of_neighbours(n).hints));
                    }
                }
            }
        }
    }
    hints
}

fn insufficient(resource: &str) -> Cow<'static, str> {
    match resource {
        "cpu" => Cow::Borrowed("Insufficient cpu"),
        "memory" => Cow::Borrowed("Insufficient memory"),
        "ephemeral-storage" => Cow::Borrowed("Insufficient ephemeral-storage"),
        other => Cow::Owned(format!("Insufficient {other}")),
    }
}

/// Why nodes of a bucket do not take a pod.
pub(super) fn of_neighbours(reason: Neighbours) -> Reason {
    let pods = Hints::POD_ADDED.union(Hints::POD_GONE);
    let others = Hints::NODE_LABELS.union(Hints::NAMESPACE);
    match reason {
        Neighbours::NoDomain => Reason::new(
            "node(s) didn't match pod topology spread constraints (missing required label)",
            Hints::NODE_LABELS,
        ),
        Neighbours::Skew => Reason::new(
            "node(s) didn't match pod topology spread constraints",
            pods.union(Hints::NODE_LABELS).union(Hints::NODE_TAINTS),
        ),
        Neighbours::Affinity => {
            Reason::new("node(s) didn't match pod affinity rules", others.union(Hints::POD_ADDED))
        }
        Neighbours::AntiAffinity => {
            Reason::new("node(s) didn't match pod anti-affinity rules", others.union(Hints::POD_GONE))
        }
        Neighbours::Unwelcome => {
            let text = "node(s) didn't satisfy existing pods anti-affinity rules";
            Reason::new(text, others.union(Hints::POD_GONE))
        }
    }
}

impl Unschedulable {
    /// The same reason on all of so many nodes.
    pub fn everywhere(nodes: usize, why: String, hints: Hints) -> Self {
        Self { nodes, reasons: BTreeMap::from([(Cow::Owned(why), nodes)]), hints, queue: None }
    }

    /// The pod's queue holds it back.
    pub(super) fn queued(nodes: usize, wait: Box<Wait>) -> Self {
        Self { nodes, reasons: BTreeMap::new(), hints: Hints::POD_GONE, queue: Some(wait) }
    }

    fn new(nodes: usize) -> Self {
        Self { nodes, reasons: BTreeMap::new(), hints: Hints::NODE_ADDED, queue: None }
    }

    /// Counts the reasons of all nodes for a pod that none of them takes.
    pub(super) fn of(class: &Class, judge: &Judge<'_>, world: &World, pins: Option<&Pins>) -> Self {
        let mut this = Self::new(world.nodes.live_count());
        let Some(pins) = pins else {
            for (status, count) in &class.statuses {
                this.add_status(class, world, *status, *count as usize);
            }
            for bucket in class.buckets.iter().filter(|b| b.count > 0) {
                if let Some(reason) = judge.against(&bucket.key) {
                    this.add_neighbours(reason, bucket.count as usize);
                }
            }
            return this;
        };
        let text = if pins.by_name {
            "node(s) didn't match the requested node name"
        } else {
            "node(s) didn't satisfy plugin(s) [NodeAffinity]"
        };
        this.count(Reason::new(text, Hints::none()), this.nodes - pins.nodes.len());
        for node in &pins.nodes {
            match class.place(*node) {
                None => this.add_status(class, world, class.status(*node), 1),
                Some((bucket, _)) => {
                    if let Some(reason) = judge.against(&class.buckets[bucket].key) {
                        this.add_neighbours(reason, 1);
                    }
                }
            }
        }
        this
    }

    /// Counts what something else said against nodes that would do otherwise.
    pub(super) fn veto(&mut self, reasons: Vec<String>) {
        for reason in reasons {
            self.count(
                Reason { text: Cow::Owned(reason), hints: Hints::VOLUME.union(Hints::NODE_LABELS) },
                1,
            );
        }
    }

    fn add_status(&mut self, class: &Class, world: &World, status: Status, nodes: usize) {
        for reason in of_status(class, world, status) {
            self.count(reason, nodes);
        }
    }

    fn add_neighbours(&mut self, reason: Neighbours, nodes: usize) {
        self.count(of_neighbours(reason), nodes);
    }

    fn count(&mut self, reason: Reason, nodes: usize) {
        if nodes > 0 {
            self.hints = self.hints.union(reason.hints);
            *self.reasons.entry(reason.text).or_insert(0) += nodes;
        }
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(wait) = &self.queue {
            return write!(f, "{wait}.");
        }
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
