//! Which pods would better run elsewhere, and what moving them costs.
//!
//! A [`Plan`] is a list of moves, each with its gain and its cost, within bounds that whoever asks sets. It never breaks
//! a disruption budget, moves only pods that something makes anew, and only to nodes that pass the scheduler's filters as
//! things are after the moves before it. Three aims:
//!
//! - [`Aim::Empty`]: as many nodes without pods as possible, so that they can be taken away. The nodes to be emptied are
//!   to be cordoned first: a scheduler that spreads would fill them again.
//! - [`Aim::Even`]: no node much fuller than the others; a move's target is the node that the scheduler would choose.
//! - [`Aim::Cool`]: no node of which more is used, by measurement and for some time, than is good for it.
//!
//! Pods of a gang stay where their gang would be torn.

mod cool;
mod pace;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

pub use pace::Pace;
pub use snapshot::{Snapshot, may_move};

use crate::scheduler::{Cluster, GroupName, PodInfo, Resources};

/// Why a pod that is in the plan is not moved again.
const MOVES: &str = "it moves already";

/// What a plan is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aim {
    /// Empty nodes.
    Empty,
    /// Evenly used nodes.
    Even,
    /// No hot nodes.
    Cool,
}

/// Bounds of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Moves at most.
    pub moves: usize,
    /// Cost at most, all moves together. A move costs 1, more for a pod of higher priority or just started.
    pub cost: f64,
    /// Gain a unit of cost must bring: parts of a node emptied, or points of unevenness, both in hundredths.
    pub least_gain: f64,
    /// [`Aim::Even`]: how much fuller than the mean a node may be, in hundredths.
    pub tolerance: f64,
    /// [`Aim::Cool`]: of how much CPU and memory may be used, in hundredths.
    pub hot: (f64, f64),
    /// Pods of one owner that are moved at most.
    pub per_owner: usize,
    /// Pods that started so many seconds ago, or less, stay.
    pub settled: i64,
    /// Now, in seconds since 1970: how long a pod has been running makes it dearer or cheaper to move.
    pub now: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            moves: 100,
            cost: 200.0,
            least_gain: 1.0,
            tolerance: 10.0,
            hot: (80.0, 90.0),
            per_owner: usize::MAX,
            settled: 0,
            now: 0,
        }
    }
}

/// A pod that may be moved.
#[derive(Debug, Clone, Default)]
pub struct Movable {
    /// Its uid.
    pub uid: String,
    /// The budgets that cover it, as indices into the list of what they allow.
    pub budgets: Vec<usize>,
    /// When it started, in seconds since 1970.
    pub started: Option<i64>,
    /// The uid of what makes it anew.
    pub owner: String,
    /// Why it must stay for now, if it must.
    pub held: Option<&'static str>,
}

/// A node that was not emptied, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stays {
    /// The node.
    pub node: String,
    /// How many pods would have to be moved.
    pub pods: usize,
    /// The first reason that was found.
    pub why: String,
}

/// One move.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Where it runs.
    pub from: String,
    /// Where it would run.
    pub to: String,
    /// What is gained: hundredths of a node, or of unevenness.
    pub gain: f64,
    /// What it costs.
    pub cost: f64,
    /// Why.
    pub why: String,
}

impl Move {
    /// In words, for an Event about the pod.
    pub fn words(&self) -> String {
        let Self { from, why, to, .. } = self;
        format!("Moved off node {from}: {why}; as things are, {to} suits it better")
    }
}

/// What to do, in this order.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Plan {
    /// The moves.
    pub moves: Vec<Move>,
    /// Nodes that are empty afterwards and were not before.
    pub emptied: Vec<String>,
    /// With [`Aim::Empty`], the nodes that stay in use.
    pub stays: Vec<Stays>,
    /// The fullest node's use before and after, in percent of its scarcest resource.
    pub fullest_pct: (f64, f64),
    /// Why pods stay that would have been moved, and how many.
    pub kept: BTreeMap<String, usize>,
}

struct Planning<'a> {
    cluster: &'a mut Cluster,
    movable: BTreeMap<&'a str, &'a Movable>,
    allowed: Vec<i64>,
    bounds: Bounds,
    plan: Plan,
    spent: f64,
    moved: BTreeSet<Box<str>>,
    /// How many of each owner, and of each gang, move.
    of_owner: BTreeMap<String, usize>,
    of_gang: BTreeMap<GroupName, u32>,
    /// Why a pod stays that was looked at, by its uid: the last reason that was found.
    kept: BTreeMap<Box<str>, &'static str>,
}

/// Plans. `allowed` is how many more disruptions each budget allows. The cluster is left as it was.
pub fn plan(cluster: &mut Cluster, aim: Aim, movable: &[Movable], allowed: &[i64], bounds: Bounds) -> Plan {
    cluster.attempt(|cluster| {
        let mut planning = Planning {
            cluster,
            movable: movable.iter().map(|m| (m.uid.as_str(), m)).collect(),
            allowed: allowed.to_vec(),
            bounds,
            plan: Plan::default(),
            spent: 0.0,
            moved: BTreeSet::new(),
            of_owner: BTreeMap::new(),
            of_gang: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        planning.plan.fullest_pct.0 = planning.fullest();
        match aim {
            Aim::Empty => planning.empty(),
            Aim::Even => planning.even(),
            Aim::Cool => planning.cool(),
        }
        planning.plan.fullest_pct.1 = planning.fullest();
        for (_, why) in planning.kept.iter().filter(|(uid, _)| !planning.moved.contains(*uid)) {
            *planning.plan.kept.entry((*why).to_owned()).or_default() += 1;
        }
        (planning.plan, false)
    })
}

/// How full a node is: the part of its scarcest resource that is promised, in hundredths.
fn fullness(used: &Resources, have: &Resources) -> f64 {
    let part = |used: i64, have: i64| if have > 0 { 100.0 * used as f64 / have as f64 } else { 0.0 };
    let extended = have.extended.iter().map(|(name, have)| part(used.get(name), *have));
    extended.fold(part(used.milli_cpu, have.milli_cpu).max(part(used.memory, have.memory)), f64::max)
}

impl Planning<'_> {
    fn fullness_of(&self, name: &str) -> f64 {
        self.cluster.node(name).map_or(0.0, |node| fullness(&node.used(), &node.allocatable()))
    }

    fn all(&self) -> BTreeMap<String, f64> {
        self.cluster.nodes().map(|n| (n.name().to_owned(), fullness(&n.used(), &n.allocatable()))).collect()
    }

    fn fullest(&self) -> f64 {
        self.all().values().copied().fold(0.0, f64::max)
    }

    fn keep(&mut self, pod: &PodInfo, why: &'static str) {
        self.kept.insert(pod.uid().into(), why);
    }

    /// What moving a pod costs, or why it must stay.
    fn price(&self, pod: &PodInfo, allowed: &[i64]) -> Result<f64, &'static str> {
        let Some(movable) = self.movable.get(pod.uid()) else { return Err("nothing would make it anew") };
        if self.moved.contains(pod.uid()) {
            return Err(MOVES);
        }
        if let Some(why) = movable.held {
            return Err(why);
        }
        if self.of_owner.get(&movable.owner).is_some_and(|moved| *moved >= self.bounds.per_owner) {
            return Err("another pod of its owner moves");
        }
        if movable.started.is_some_and(|started| {
            self.bounds.settled > 0 && self.bounds.now - started <= self.bounds.settled
        }) {
            return Err("it has just started");
        }
        if let Some(gang) = &self.cluster.gang_of(pod) {
            let moves = self.of_gang.get(gang).copied().unwrap_or(0);
            let min = self.cluster.min_of(gang).unwrap_or(0);
            if self.cluster.placed_of(gang) <= min.saturating_add(moves) {
                return Err("its gang would be torn");
            }
        }
        if movable.budgets.iter().any(|budget| allowed.get(*budget).is_some_and(|left| *left < 1)) {
            return Err("a disruption budget allows no more");
        }
        // Ten minutes make a pod settled; higher priorities are dearer by the order of magnitude.
        let age = movable.started.map_or(600, |started| (self.bounds.now - started).clamp(0, 600));
        let fresh = 1.0 - age as f64 / 600.0;
        let priority = f64::from(pod.priority().max(0));
        Ok(1.0 + fresh + (1.0 + priority).log10() / 3.0)
    }

    fn charge(allowed: &mut [i64], movable: &Movable) {
        for budget in &movable.budgets {
            if let Some(left) = allowed.get_mut(*budget) {
                *left -= 1;
            }
        }
    }

    /// Takes a move into the plan.
    fn made(&mut self, pod: &PodInfo, step: Move) {
        if let Some(movable) = self.movable.get(pod.uid()) {
            Self::charge(&mut self.allowed, movable);
        }
        self.spent += step.cost;
        self.count(pod);
        self.plan.moves.push(step);
    }

    fn count(&mut self, pod: &PodInfo) {
        self.moved.insert(pod.uid().into());
        if let Some(movable) = self.movable.get(pod.uid()) {
            *self.of_owner.entry(movable.owner.clone()).or_default() += 1;
        }
        if let Some(gang) = pod.group() {
            *self.of_gang.entry(gang.clone()).or_default() += 1;
        }
    }

    /// The node that the scheduler would give the pod, among those that may be taken.
    fn target(cluster: &mut Cluster, pod: &PodInfo, may: impl Fn(&str) -> bool) -> Option<String> {
        let scored = cluster.evaluate(pod).into_iter().filter(|(name, _)| may(name));
        scored.max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0))).map(|(name, _)| name)
    }

    /// The fullest node that can take the pod, among those that may be taken.
    fn tightest(cluster: &mut Cluster, pod: &PodInfo, may: impl Fn(&str) -> bool) -> Option<String> {
        let able: Vec<String> =
            cluster.evaluate(pod).into_iter().map(|(name, _)| name).filter(|n| may(n)).collect();
        let full = |name: &String| cluster.node(name).map_or(0.0, |n| fullness(&n.used(), &n.allocatable()));
        able.iter().max_by(|a, b| full(a).total_cmp(&full(b)).then_with(|| b.cmp(a))).cloned()
    }

    /// Empties nodes, the least used first, each wholly or not at all.
    fn empty(&mut self) {
        let mut order: Vec<(String, f64)> = self.all().into_iter().collect();
        order.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        let mut closed: BTreeSet<String> = BTreeSet::new();
        for (name, _) in order {
            let there = self.cluster.node(&name).map(|node| node.pods().to_vec()).unwrap_or_default();
            // What runs on each node anyway (a DaemonSet's pods) does not make a node used.
            let there: Vec<Arc<PodInfo>> =
                there.into_iter().filter(|pod| !pod.is_bound_to_its_node()).collect();
            if there.is_empty() {
                closed.insert(name);
                continue;
            }
            let before = (self.of_owner.clone(), self.of_gang.clone(), self.moved.clone());
            match self.evacuate(&name, &there, &closed) {
                Ok((moves, allowed, cost)) => {
                    self.spent += cost;
                    self.allowed = allowed;
                    self.plan.moves.extend(moves);
                    self.plan.emptied.push(name.clone());
                    closed.insert(name);
                }
                Err(why) => {
                    (self.of_owner, self.of_gang, self.moved) = before;
                    let said = if why == MOVES { "it takes pods of nodes that are emptied" } else { why };
                    self.plan.stays.push(Stays { node: name, pods: there.len(), why: said.to_owned() });
                    there.iter().for_each(|pod| self.keep(pod, why));
                }
            }
        }
    }

    /// Moves all pods of a node to nodes in use, or none.
    fn evacuate(
        &mut self,
        name: &str,
        there: &[Arc<PodInfo>],
        closed: &BTreeSet<String>,
    ) -> Result<(Vec<Move>, Vec<i64>, f64), &'static str> {
        if self.plan.moves.len() + there.len() > self.bounds.moves {
            return Err("the plan's bound of moves");
        }
        let mut allowed = self.allowed.clone();
        let mut prices = Vec::new();
        for pod in there {
            prices.push(self.price(pod, &allowed)?);
            self.count(pod);
            if let Some(movable) = self.movable.get(pod.uid()) {
                Self::charge(&mut allowed, movable);
            }
        }
        let cost: f64 = prices.iter().sum();
        if self.spent + cost > self.bounds.cost {
            return Err("the plan's bound of cost");
        }
        // A whole node is worth a hundred.
        let gain = 100.0 / there.len() as f64;
        if 100.0 / cost < self.bounds.least_gain {
            return Err("too dear for what it brings");
        }
        let used: BTreeSet<String> =
            self.cluster.nodes().filter(|n| n.pod_count() > 0).map(|n| n.name().to_owned()).collect();
        let may = |node: &str| node != name && used.contains(node) && !closed.contains(node);
        let moves = self.cluster.attempt(|cluster| {
            let mut moves = Vec::new();
            for (pod, cost) in there.iter().zip(&prices) {
                cluster.remove_pod(pod.uid());
                let free = pod.unbound();
                let Some(to) = Self::tightest(cluster, &free, may) else { return (None, false) };
                cluster.assume(free, &to);
                let why = format!("empties {name}");
                moves.push(Self::step(pod, name, to, gain, *cost, why));
            }
            (Some(moves), true)
        });
        moves.map(|moves| (moves, allowed, cost)).ok_or("no room for all of the node's pods elsewhere")
    }

    fn step(pod: &PodInfo, from: &str, to: String, gain: f64, cost: f64, why: String) -> Move {
        let (namespace, pod_name, uid) =
            (pod.namespace().to_owned(), pod.name().to_owned(), pod.uid().to_owned());
        let round = |value: f64| (value * 100.0).round() / 100.0;
        Move {
            namespace,
            pod: pod_name,
            uid,
            from: from.to_owned(),
            to,
            gain: round(gain),
            cost: round(cost),
            why,
        }
    }

    /// Takes pods off the fullest nodes as long as that evens things out.
    fn even(&mut self) {
        let mut stuck: BTreeSet<String> = BTreeSet::new();
        while self.plan.moves.len() < self.bounds.moves {
            let all = self.all();
            let mean = all.values().sum::<f64>() / all.len().max(1) as f64;
            let fullest = all.iter().filter(|(name, _)| !stuck.contains(*name));
            let Some((from, full)) = fullest.max_by(|a, b| a.1.total_cmp(b.1).then_with(|| b.0.cmp(a.0)))
            else {
                return;
            };
            if *full <= mean + self.bounds.tolerance {
                return;
            }
            if !self.relieve(from, *full) {
                stuck.insert(from.clone());
            }
        }
    }

    /// What moving a pod costs, if it may be moved and the plan can still pay for it; otherwise why it stays is kept.
    fn affordable(&mut self, pod: &PodInfo) -> Option<f64> {
        match self.price(pod, &self.allowed) {
            Ok(price) if self.spent + price <= self.bounds.cost => return Some(price),
            Ok(_) => self.keep(pod, "the plan's bound of cost"),
            Err(why) => self.keep(pod, why),
        }
        None
    }

    /// Moves the pod off a node that brings most for its price; whether there was one.
    fn relieve(&mut self, from: &str, full: f64) -> bool {
        let there = self.cluster.node(from).map(|node| node.pods().to_vec()).unwrap_or_default();
        let mut best: Option<(f64, Move)> = None;
        for pod in there.iter().filter(|pod| !pod.is_bound_to_its_node()) {
            let Some(price) = self.affordable(pod) else { continue };
            let found = self.cluster.attempt(|cluster| {
                cluster.remove_pod(pod.uid());
                let free = pod.unbound();
                let Some(to) = Self::target(cluster, &free, |node| node != from) else {
                    return (None, false);
                };
                cluster.assume(free, &to);
                let of =
                    |name: &str| cluster.node(name).map_or(0.0, |n| fullness(&n.used(), &n.allocatable()));
                // Both ends must end up below what the fuller one was.
                let after = of(from).max(of(&to));
                (Some((to, full - after)), false)
            });
            let Some((to, gain)) = found else {
                self.keep(pod, "no room elsewhere");
                continue;
            };
            let worth = gain / price;
            if gain > 0.0
                && worth >= self.bounds.least_gain
                && best.as_ref().is_none_or(|(most, _)| worth > *most)
            {
                let why = format!("{from} is the fullest node, at {full:.0} %");
                best = Some((worth, Self::step(pod, from, to, gain, price, why)));
            }
        }
        let Some((_, step)) = best else { return false };
        let Some(pod) = there.iter().find(|pod| pod.uid() == step.uid) else { return false };
        self.cluster.remove_pod(pod.uid());
        self.cluster.assume(pod.unbound(), &step.to);
        let pod = pod.clone();
        self.made(&pod, step);
        debug_assert!(self.fullness_of(from) <= full);
        true
    }
}
