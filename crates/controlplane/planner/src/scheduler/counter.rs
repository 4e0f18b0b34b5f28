//! Counts of pods (or sums of weights) per topology domain, for one class of pods.
//!
//! A counter remembers what each node contributes, so that a changed node costs one subtraction and one addition.
//! Where many nodes share a domain, a node's place is its domain and the count is looked up there; where each node is
//! a domain of its own, its place is the count itself, so that nodes with equal counts still share a bucket.

use std::collections::BTreeMap;

use super::labelsets::{BoundTerm, LabelSet, Memo, TermKind};
use super::nodes::Nodes;
use super::pod::Shape;
use super::profile::Profile;
use super::spread::{Constraint, HOSTNAME};
use super::world::World;

/// The place of a node without the label.
pub(super) const ABSENT: i64 = i64::MIN;

/// What a counter is for.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// The pods that all required affinity terms speak of, in the domains of one term.
    Affinity,
    /// The pods that one anti-affinity term of the pod speaks of.
    AntiAffinity,
    /// The bound pods that do not want such a pod near them.
    Unwelcome,
    /// The sum of all preferences: the pod's own and those of bound pods.
    Preference,
    /// A hard spread constraint.
    HardSpread(Constraint),
    /// A soft spread constraint.
    SoftSpread(Constraint),
}

/// Which pods a counter looks at.
#[derive(Debug, Clone)]
enum What {
    /// Those that all the required terms of the pod match.
    Required,
    /// Those that one anti-affinity term matches.
    Against(usize),
    /// The pod's own preferences of this topology, by number, each with its memory.
    Wishes(Vec<(usize, Memo)>),
    /// What a spread constraint counts.
    Spread,
    /// Only what is fed from terms of bound pods.
    Fed,
}

/// What one node contributes to a counter. The class keeps these.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    pub value: i64,
    pub domain: u32,
    pub counted: bool,
}

/// A counter.
#[derive(Debug, Clone)]
pub(super) struct Counter {
    pub role: Role,
    pub column: u32,
    pub per_node: bool,
    what: What,
    memo: Memo,
    /// The keys that a node must have to be counted: those of all constraints of the pod of the same hardness.
    keys: Vec<u32>,
    sums: Vec<i64>,
    members: Vec<u32>,
    /// How many counted nodes have which value, where each node is a domain.
    values: BTreeMap<i64, u32>,
    pub domains: usize,
    pub total: i64,
    pending: i64,
}

impl Counter {
    fn new(role: Role, what: What, key: &str, nodes: &mut Nodes) -> Self {
        let column = nodes.column(key);
        Self {
            role,
            column,
            per_node: nodes.columns[column as usize].per_node(),
            what,
            memo: Memo::default(),
            keys: Vec::new(),
            sums: Vec::new(),
            members: Vec::new(),
            values: BTreeMap::new(),
            domains: 0,
            total: 0,
            pending: 0,
        }
    }

    /// The counters that a pod needs for what it says itself.
    pub fn of_pod(shape: &Shape, profile: &Profile, nodes: &mut Nodes) -> Vec<Self> {
        let mut counters = Vec::new();
        let (filters, weights) = (&profile.filters, &profile.weights);
        if filters.inter_pod_affinity {
            for term in &shape.terms.affinity {
                counters.push(Self::new(Role::Affinity, What::Required, &term.topology_key, nodes));
            }
            for (at, term) in shape.terms.anti_affinity.iter().enumerate() {
                counters.push(Self::new(Role::AntiAffinity, What::Against(at), &term.topology_key, nodes));
            }
        }
        if weights.inter_pod_affinity > 0 {
            for (at, wish) in shape.terms.preferred.iter().enumerate() {
                let column = nodes.column(&wish.term.topology_key);
                let same = |c: &&mut Self| matches!(c.role, Role::Preference) && c.column == column;
                match counters.iter_mut().find(same).map(|c| &mut c.what) {
                    Some(What::Wishes(wishes)) => wishes.push((at, Memo::default())),
                    _ => counters.push(Self::new(
                        Role::Preference,
                        What::Wishes(vec![(at, Memo::default())]),
                        &wish.term.topology_key,
                        nodes,
                    )),
                }
            }
        }
        Self::of_spread(&mut counters, shape, profile, nodes);
        counters
    }

    fn of_spread(counters: &mut Vec<Self>, shape: &Shape, profile: &Profile, nodes: &mut Nodes) {
        let own = !shape.spread.is_empty();
        let defaults: &[Constraint] = if shape.owner.is_some() { &profile.default_spread } else { &[] };
        let constraints = if own { &*shape.spread } else { defaults };
        for hard in [true, false] {
            let wanted =
                if hard { profile.filters.topology_spread } else { profile.weights.topology_spread > 0 };
            let of_kind: Vec<&Constraint> = constraints.iter().filter(|c| c.hard == hard && wanted).collect();
            // Nodes without a zone still take part in the spreading that nobody asked for.
            let all_keys = own || hard || !profile.system_spread;
            let keys: Vec<u32> = of_kind.iter().filter(|_| all_keys).map(|c| nodes.column(&c.key)).collect();
            for constraint in of_kind {
                let constraint = constraint.clone();
                let key = constraint.key.clone();
                let role = if hard { Role::HardSpread(constraint) } else { Role::SoftSpread(constraint) };
                let mut counter = Self::new(role, What::Spread, &key, nodes);
                counter.keys.clone_from(&keys);
                counters.push(counter);
            }
        }
    }

    /// The counter that a term of bound pods feeds, its weight, and whether it had to be added.
    pub fn for_existing(
        counters: &mut Vec<Self>,
        term: &BoundTerm,
        shape: &Shape,
        profile: &Profile,
        nodes: &mut Nodes,
    ) -> Option<(u16, i64, bool)> {
        let scored = profile.weights.inter_pod_affinity > 0
            && !(profile.ignore_preferred_of_existing && shape.terms.preferred.is_empty());
        let (weight, unwelcome) = match term.kind {
            TermKind::AntiAffinity => (i64::from(profile.filters.inter_pod_affinity), true),
            TermKind::Affinity if scored => (profile.hard_pod_affinity_weight, false),
            TermKind::Preferred(weight) if scored => (weight, false),
            _ => return None,
        };
        if weight == 0 {
            return None;
        }
        let column = nodes.column(&term.term.topology_key);
        let same = |c: &Self| {
            c.column == column
                && if unwelcome {
                    matches!(c.role, Role::Unwelcome)
                } else {
                    matches!(c.role, Role::Preference)
                }
        };
        if let Some(at) = counters.iter().position(same) {
            return Some((u16::try_from(at).ok()?, weight, false));
        }
        let role = if unwelcome { Role::Unwelcome } else { Role::Preference };
        counters.push(Self::new(role, What::Fed, &term.term.topology_key, nodes));
        Some((u16::try_from(counters.len() - 1).ok()?, weight, true))
    }

    /// Whether nodes that lack the label of any constraint are left out.
    pub fn needs_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether its topology has become another kind of topology.
    pub fn is_stale(&self, nodes: &Nodes) -> bool {
        nodes.columns[self.column as usize].per_node() != self.per_node
    }

    /// Begins to count a node.
    pub fn begin(&mut self, world: &World, node: usize, own: &LabelSet, shape: &Shape) {
        self.pending = 0;
        if matches!(self.what, What::Fed) {
            return;
        }
        for (id, pods, terminating) in &world.nodes[node].label_counts {
            let sets = &world.label_sets;
            let pods = i64::from(*pods);
            match &mut self.what {
                What::Fed => {}
                What::Required => {
                    let all = |set: &LabelSet| {
                        shape.terms.affinity.iter().all(|t| t.matches(set, &world.namespaces))
                    };
                    self.pending += if self.memo.check(sets, *id, all) { pods } else { 0 };
                }
                What::Against(at) => {
                    let term = &shape.terms.anti_affinity[*at];
                    let one = |set: &LabelSet| term.matches(set, &world.namespaces);
                    self.pending += if self.memo.check(sets, *id, one) { pods } else { 0 };
                }
                What::Wishes(wishes) => {
                    for (at, memo) in wishes {
                        let wish = &shape.terms.preferred[*at];
                        let one = |set: &LabelSet| wish.term.matches(set, &world.namespaces);
                        self.pending += if memo.check(sets, *id, one) { wish.weight * pods } else { 0 };
                    }
                }
                What::Spread => {
                    let (Role::HardSpread(c) | Role::SoftSpread(c)) = &self.role else { continue };
                    let staying = pods - i64::from(*terminating);
                    self.pending +=
                        if self.memo.check(sets, *id, |set| c.matches(own, set)) { staying } else { 0 };
                }
            }
        }
    }

    /// Adds what terms of pods on the node contribute.
    pub fn feed(&mut self, amount: i64) {
        self.pending += amount;
    }

    /// Ends the count of a node that contributes nothing now: its place in the key of its bucket, and what it contributes.
    pub fn finish(&mut self, (nodes, node): (&Nodes, usize), suits: bool, tolerated: bool) -> (i64, Part) {
        let mut part = Part::default();
        let domain = nodes.columns[self.column as usize].at(node);
        let has_keys = self.keys.iter().all(|k| nodes.columns[*k as usize].at(node).is_some());
        let included = match &self.role {
            Role::HardSpread(c) | Role::SoftSpread(c) => {
                has_keys && (suits || !c.honor_affinity) && (tolerated || !c.honor_taints)
            }
            _ => true,
        };
        let Some(domain) = domain else { return (ABSENT, part) };
        if included {
            part = Part { value: self.pending, domain, counted: true };
            self.enter(nodes, domain);
        }
        // Upstream looks at the node itself where each node is a domain, whatever policies say of other nodes.
        let by_name = matches!(&self.role, Role::SoftSpread(c) if *c.key == *HOSTNAME);
        let place = match self.per_node {
            true if included || by_name => self.pending,
            true => 0,
            false => domain.into(),
        };
        (place, part)
    }

    fn enter(&mut self, nodes: &Nodes, domain: u32) {
        self.total += self.pending;
        if self.per_node {
            *self.values.entry(self.pending).or_insert(0) += 1;
            self.domains += 1;
            return;
        }
        let domain = domain as usize;
        if self.sums.len() <= domain {
            let domains = nodes.columns[self.column as usize].len();
            self.sums.resize(domains, 0);
            self.members.resize(domains, 0);
        }
        self.sums[domain] += self.pending;
        self.members[domain] += 1;
        self.domains += usize::from(self.members[domain] == 1);
    }

    /// Takes what a node contributed out of the counts.
    pub fn leave(&mut self, Part { value, domain, counted }: Part) {
        if !counted {
            return;
        }
        self.total -= value;
        if self.per_node {
            if let Some(count) = self.values.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    self.values.remove(&value);
                }
            }
            self.domains -= 1;
            return;
        }
        let domain = domain as usize;
        self.sums[domain] -= value;
        self.members[domain] -= 1;
        self.domains -= usize::from(self.members[domain] == 0);
    }

    /// The count in the domain of a place.
    pub fn at(&self, place: i64) -> i64 {
        if place == ABSENT || self.per_node {
            return if place == ABSENT { 0 } else { place };
        }
        usize::try_from(place).ok().and_then(|at| self.sums.get(at)).copied().unwrap_or(0)
    }

    /// The smallest count of any domain.
    pub fn smallest(&self) -> i64 {
        if self.per_node {
            return self.values.keys().next().copied().unwrap_or(0);
        }
        let there = self.sums.iter().zip(&self.members).filter(|(_, members)| **members > 0);
        there.map(|(sum, _)| *sum).min().unwrap_or(0)
    }
}
