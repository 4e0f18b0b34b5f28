//! Which pods must leave so that a more important one fits: the fewest, the least important, on the best node.
//!
//! Where only the node itself keeps the pod away, all nodes compete, not a sample of them: each class remembers what every
//! node would cost it, or could at least, and works out only what it is for those that might be the best. Where other nodes matter too (hard
//! spreading, affinity), candidates are tried out one after the other, at most a tenth of the nodes or 100.

mod index;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::choose::{Judge, Neighbours};
use super::class::Class;
use super::cluster::{Cluster, NodeFilter, Pins};
use super::counter::Role;
use super::gpu::Gpus;
use super::labelsets::LabelSetId;
use super::pod::{HostPort, PodInfo};
use super::seats::Reserved;
use super::status::Status;
use super::world::World;
use crate::reservation::Policy;
use crate::selector::{Labels, Selector};

pub(super) use index::Index;

/// What a refusal begins with when a pod may make nobody leave now.
const NOT_ELIGIBLE: &str = "not eligible";

/// Whether room that is kept for a pod stays so when nobody leaves for it, for that reason.
pub fn keeps_room(refusal: &str) -> bool {
    refusal.starts_with(NOT_ELIGIBLE)
}

/// What a PodDisruptionBudget allows right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Where it holds.
    pub namespace: String,
    /// For which pods.
    pub selector: Selector,
    /// How many more of them may go.
    pub allowed: i32,
    /// The names of pods that are going already, and counted.
    pub disrupted: HashSet<String>,
}

impl Budget {
    /// What a PodDisruptionBudget says.
    pub fn of(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref());
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: Selector::new(budget.spec.as_ref().and_then(|s| s.selector.as_ref())),
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.map(|pods| pods.keys().cloned().collect()).unwrap_or_default(),
        }
    }

    /// Whether preemption spares such pods for it. An empty selector spares none, as upstream has it.
    fn spares(&self, namespace: &str, labels: &Labels) -> bool {
        *self.namespace == *namespace
            && !labels.is_empty()
            && !self.selector.is_everything()
            && self.selector.matches(Some(labels))
    }
}

/// All budgets, by namespace and name.
pub(super) type Budgets = BTreeMap<(Box<str>, Box<str>), Budget>;

/// Pods to make go, so that another one fits.
#[derive(Debug, Clone)]
pub struct Preemption {
    /// Where.
    pub node: String,
    /// Who must go, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a budget would keep.
    pub violations: usize,
    /// Less important pods that room was kept for there: they must look for another node.
    pub displaced: Vec<Arc<PodInfo>>,
}

impl Preemption {
    /// Nobody has to go.
    pub(super) fn at(node: String) -> Self {
        Self { node, victims: Vec::new(), violations: 0, displaced: Vec::new() }
    }
}

/// How bad it is to preempt on a node: the less the better, compared from the first to the last.
pub(super) type Rank = (usize, i32, i64, usize, Reverse<i64>);

/// The node, the victims there, and how many of them a budget would keep.
pub(super) type Choice = (usize, Vec<Arc<PodInfo>>, usize);

/// Why nobody's leaving a node helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vain {
    /// It is not that pods are in the way.
    NotHelpful,
    /// Nobody less important is there.
    NoVictims,
    /// It does not fit even when all of them are gone.
    StillUnfit(Status),
}

/// A node as it would be without some of its pods.
pub(super) struct Room<'a> {
    class: &'a Class,
    free: Vec<i64>,
    pods: i64,
    gpus: Option<Gpus>,
    ports: Vec<&'a HostPort>,
}

impl<'a> Room<'a> {
    pub fn new(class: &'a Class, world: &'a World, node: usize) -> Self {
        let nodes = &world.nodes;
        let free = class
            .needs()
            .iter()
            .map(|(column, _)| nodes.allocatable(*column, node).saturating_sub(nodes.used(*column, node)));
        let pods = i64::try_from(nodes[node].pods.len()).unwrap_or(i64::MAX);
        let mut room = Self {
            class,
            free: free.collect(),
            pods: nodes[node].max_pods.saturating_sub(pods),
            gpus: (!class.shape.gpu.is_none()).then(|| nodes[node].gpus.clone()),
            ports: if class.shape.ports.is_empty() { Vec::new() } else { nodes[node].ports.iter().collect() },
        };
        let priority = class.shape.priority;
        for guest in nodes[node].nominated.iter().filter(|p| p.shape.priority >= priority) {
            room.take(world, guest);
        }
        room
    }

    fn charge(&mut self, world: &World, pod: &PodInfo, sign: i64) {
        for (free, (column, _)) in self.free.iter_mut().zip(self.class.needs()) {
            *free += sign * world.nodes.request_of(&pod.shape.requests, *column);
        }
        self.pods += sign;
        if let Some(gpus) = &mut self.gpus {
            gpus.charge(pod.shape.gpu, &pod.devices, if sign > 0 { -1 } else { 1 });
        }
    }

    pub fn give(&mut self, world: &World, pod: &PodInfo) {
        self.charge(world, pod, 1);
        for port in &pod.shape.ports {
            if let Some(at) = self.ports.iter().position(|p| *p == port) {
                self.ports.swap_remove(at);
            }
        }
    }

    pub fn take(&mut self, world: &World, pod: &'a PodInfo) {
        self.charge(world, pod, -1);
        if !self.class.shape.ports.is_empty() {
            self.ports.extend(&pod.shape.ports);
        }
    }

    pub fn status(&self) -> Status {
        let shape = &self.class.shape;
        if self.ports.iter().any(|taken| shape.ports.iter().any(|p| p.conflicts(taken))) {
            return Status::PORTS;
        }
        let mut status = Status::OK;
        if self.class.profile.filters.resources_fit {
            if self.pods < 1 {
                status.lacks_pods();
            }
            for (at, (free, (_, need))) in self.free.iter().zip(self.class.needs()).enumerate() {
                if need > free {
                    status.lacks(at, false);
                }
            }
            if self.gpus.as_ref().is_some_and(|gpus| !gpus.fits(shape.gpu)) {
                status.lacks_gpu(false);
            }
        }
        status
    }
}

/// Descending importance: priority, then how long it has been running.
pub(super) fn by_importance(a: &Arc<PodInfo>, b: &Arc<PodInfo>) -> std::cmp::Ordering {
    let key = |p: &PodInfo| (Reverse(p.shape.priority), p.started);
    key(a).cmp(&key(b)).then_with(|| a.uid.cmp(&b.uid))
}

pub(super) fn rank(victims: &[Arc<PodInfo>], violations: usize) -> Rank {
    let highest = victims.first().map_or(i32::MIN, |p| p.shape.priority);
    let sum = victims.iter().map(|p| i64::from(p.shape.priority) + (1 << 31)).sum();
    let earliest = victims.iter().filter(|p| p.shape.priority == highest).map(|p| p.started).min();
    (violations, highest, sum, victims.len(), Reverse(earliest.unwrap_or(i64::MAX)))
}

/// What it costs at least to preempt on the node, by what its row says alone: no pod is looked at.
fn at_least(class: &Class, world: &World, node: usize) -> Rank {
    let row = &world.nodes[node];
    if !class.shape.gpu.is_none() {
        // Whether devices are free is not known without looking.
        return (0, i32::MIN, 0, 0, Reverse(i64::MAX));
    }
    let mut count = 1;
    for (column, need) in class.needs() {
        let missing =
            need - world.nodes.allocatable(*column, node).saturating_sub(world.nodes.used(*column, node));
        if let Some(largest) = row.crowd.largest.get(*column).filter(|largest| **largest > 0 && missing > 0) {
            count = count.max(missing.div_euclid(*largest) + i64::from(missing % largest > 0));
        }
    }
    let priority = row.crowd.lowest;
    let sum = (i64::from(priority) + (1 << 31)).saturating_mul(count);
    (0, priority, sum, usize::try_from(count).unwrap_or(1), Reverse(row.crowd.latest))
}

/// Splits pods, the most important first, into those whose leaving violates a budget, and the others.
pub(super) fn split<P: AsRef<PodInfo>>(budgets: &Budgets, pods: Vec<P>) -> (Vec<P>, Vec<P>) {
    let mut allowed: Vec<i32> = budgets.values().map(|b| b.allowed).collect();
    let (mut violating, mut others) = (Vec::new(), Vec::new());
    for one in pods {
        let pod = one.as_ref();
        let mut violates = false;
        for (budget, allowed) in budgets.values().zip(&mut allowed) {
            if pod.holds.is_none()
                && budget.spares(&pod.shape.namespace, &pod.shape.labels)
                && !budget.disrupted.contains(&*pod.name)
            {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        if violates { violating.push(one) } else { others.push(one) }
    }
    (violating, others)
}

fn less_important<'a>(
    world: &'a World,
    reserved: Option<&Reserved>,
    node: usize,
    priority: i32,
) -> Vec<&'a Arc<PodInfo>> {
    let spared =
        |pod: &PodInfo| reserved.and_then(|r| r.shield(pod)).is_some_and(|shield| shield >= priority);
    let all = &world.nodes[node].pods;
    all.iter().for_each(|pod| pod.expect());
    let pods = all.iter().filter(|p| p.shape.priority < priority && !spared(p));
    let mut pods: Vec<&Arc<PodInfo>> = pods.collect();
    pods.sort_by(|a, b| by_importance(a, b));
    pods
}

/// How the node's zones stand to the class when none of these pods has any part of them: their leaving changes nothing then.
pub(super) fn zones_without<'a>(
    class: &Class,
    world: &World,
    node: usize,
    mut pods: impl Iterator<Item = &'a Arc<PodInfo>>,
) -> Status {
    match (&world.zones, &class.shape.zones) {
        (Some(zones), Some(need))
            if class.profile.filters.zones && pods.all(|pod| pod.shape.zones.is_none()) =>
        {
            zones.judge(&world.nodes[node].name, need)
        }
        _ => Status::OK,
    }
}

/// The victims on a node for a pod that only the node itself keeps away.
fn victims_on(
    class: &Class,
    world: &World,
    (budgets, reserved): (&Budgets, Option<&Reserved>),
    node: usize,
) -> Result<(Vec<Arc<PodInfo>>, usize), Vain> {
    if !class.status(node).is_resolvable() {
        return Err(Vain::NotHelpful);
    }
    let potential = less_important(world, reserved, node, class.shape.priority);
    if potential.is_empty() {
        return Err(Vain::NoVictims);
    }
    let zones = zones_without(class, world, node, potential.iter().copied());
    if !zones.is_ok() {
        return Err(Vain::StillUnfit(zones));
    }
    let (violating, others) =
        if budgets.is_empty() { (Vec::new(), potential) } else { split(budgets, potential) };
    let mut room = Room::new(class, world, node);
    violating.iter().chain(&others).for_each(|pod| room.give(world, pod));
    let status = room.status();
    if !status.is_ok() {
        return Err(Vain::StillUnfit(status));
    }
    let mut gone: Vec<&Arc<PodInfo>> = Vec::new();
    let mut violations = 0;
    for (pods, counts) in [(&violating, true), (&others, false)] {
        for pod in pods {
            room.take(world, pod);
            if !room.status().is_ok() {
                room.give(world, pod);
                violations += usize::from(counts);
                gone.push(pod);
            }
        }
    }
    gone.sort_by(|a, b| by_importance(a, b));
    Ok((gone.into_iter().cloned().collect(), violations))
}

/// Why preemption does not help, as upstream says it.
pub(super) fn refusal(
    world: &World,
    no_victims: usize,
    unfit: usize,
    mut reasons: BTreeMap<String, usize>,
) -> String {
    let all = world.nodes.live_count();
    if no_victims > 0 {
        reasons.insert("No preemption victims found for incoming pod".to_owned(), no_victims);
    }
    let rest = all.saturating_sub(no_victims + unfit);
    if rest > 0 {
        reasons.insert("Preemption is not helpful for scheduling".to_owned(), rest);
    }
    let mut lines: Vec<String> = reasons.into_iter().map(|(text, count)| format!("{count} {text}")).collect();
    lines.sort();
    let mut text = format!("0/{all} nodes are available:");
    let _ = write!(text, " {}.", lines.join(", "));
    text
}

/// Whether other nodes have a say in where pods of the class fit.
pub(super) fn depends_on_others(class: &Class) -> bool {
    class.counters.iter().any(|c| {
        matches!(c.role, Role::Affinity | Role::AntiAffinity | Role::Unwelcome | Role::HardSpread(_))
    })
}

impl Cluster {
    /// What a disruption budget allows; `None` when it is gone. Only nodes with pods that it covers are looked at again.
    pub fn set_budget(&mut self, namespace: &str, name: &str, budget: Option<Budget>) {
        let key = (namespace.into(), name.into());
        if self.budgets.get(&key) == budget.as_ref() {
            return;
        }
        let old = match budget.clone() {
            Some(new) => self.budgets.insert(key, new),
            None => self.budgets.remove(&key),
        };
        let both = || old.iter().chain(&budget);
        let sets = self.world.label_sets.iter();
        let covered = sets.filter(|(_, set)| both().any(|b| b.spares(&set.namespace, &set.labels)));
        let covered: HashSet<LabelSetId> = covered.map(|(id, _)| id).collect();
        let nodes = self.world.nodes.rows().enumerate();
        let with = nodes.filter(|(_, row)| row.label_counts.iter().any(|(id, ..)| covered.contains(id)));
        let slots = self.world.nodes.slots();
        for node in with.map(|(node, _)| node).collect::<Vec<_>>() {
            self.world.spared.push(node, slots);
        }
    }

    /// Whether the pod may make others go, or why not.
    fn may_preempt(&mut self, pod: &PodInfo) -> Result<(), String> {
        if !pod.preempts {
            return Err(format!("{NOT_ELIGIBLE} due to preemptionPolicy=Never."));
        }
        if pod.wish().is_some_and(|wish| wish.policy == Policy::Required) {
            return Err(format!("{NOT_ELIGIBLE}: the pod goes only where a reservation holds room for it."));
        }
        let nominated = pod.nominated.as_deref().or(self.nominated_node(&pod.uid));
        let Some(slot) = nominated.and_then(|name| self.world.nodes.find_live(name)) else { return Ok(()) };
        // Where tenants have queues, those that leave need not be less important, and are known as soon as they are told.
        let tenants = self.tenants.as_ref();
        let leaves = |p: &PodInfo| match tenants {
            Some(tenants) => (p.terminating && p.preempted) || tenants.is_doomed(&p.uid),
            None => p.terminating && p.preempted && p.shape.priority < pod.shape.priority,
        };
        let waiting = self.world.nodes[slot].pods.iter().any(|p| leaves(p));
        if !waiting {
            return Ok(());
        }
        let (class, _) = self.needs_on(Some(&[slot]), pod);
        if class.status(slot).is_ok() || class.status(slot).is_resolvable() {
            return Err(format!("{NOT_ELIGIBLE} due to a terminating pod on the nominated node."));
        }
        Ok(())
    }

    /// Which pods should go so that this one fits, or why that does not help. Where the filter says no, nobody's leaving
    /// would help.
    pub fn preempt(
        &mut self,
        pod: &PodInfo,
        seed: u64,
        filter: Option<NodeFilter<'_>>,
    ) -> Result<Preemption, String> {
        if !self.profile_of(pod).preemption {
            return Err("preemption is switched off in this profile".to_owned());
        }
        self.may_preempt(pod)?;
        // Room that is kept for the pod itself must not stand in its way.
        let kept = self.nominated_node(&pod.uid).map(ToOwned::to_owned);
        if kept.is_some() {
            self.withdraw(&pod.uid);
        }
        let found = self.frozen(|cluster| match cluster.tenants.is_some() {
            true => cluster.reclaim(pod, seed, filter),
            false => cluster.best_preemption(pod, seed, filter),
        });
        if let Some(kept) = kept {
            self.nominate(pod, &kept);
        }
        let (slot, victims, violations) = found?;
        victims.iter().for_each(|victim| self.pods.expect(victim.uid()));
        let less = |p: &&Arc<PodInfo>| p.shape.priority < pod.shape.priority;
        Ok(Preemption {
            node: self.world.nodes[slot].name.as_ref().to_owned(),
            victims,
            violations,
            displaced: self.world.nodes[slot].nominated.iter().filter(less).cloned().collect(),
        })
    }

    fn best_preemption(
        &mut self,
        pod: &PodInfo,
        seed: u64,
        filter: Option<NodeFilter<'_>>,
    ) -> Result<Choice, String> {
        let pins = self.pins(pod);
        let budgets = std::mem::take(&mut self.budgets);
        let (class, _) = self.needs_on(Pins::nodes(pins.as_ref()), pod);
        if depends_on_others(class) {
            let found = self.try_candidates(pod, pins.map(|p| p.nodes), &budgets, (seed, filter));
            self.budgets = budgets;
            return found;
        }
        let reserved = self.reserved.take();
        let spares = (&budgets, reserved.as_deref());
        let (class, world) = self.needs_on(Pins::nodes(pins.as_ref()), pod);
        let allows = |node: usize| filter.is_none_or(|f| f(world.nodes.candidate(node)).is_ok());
        let found = match pins {
            Some(pins) => {
                let costs = pins.nodes.iter().filter(|node| allows(**node)).filter_map(|node| {
                    let (victims, violations) = victims_on(class, world, spares, *node).ok()?;
                    Some((rank(&victims, violations), *node, victims, violations))
                });
                costs
                    .min_by_key(|(rank, node, ..)| (*rank, *node))
                    .map(|(_, n, v, c)| (n, v, c))
                    .ok_or_else(|| refusal(world, 0, 0, BTreeMap::new()))
            }
            None => {
                let mut index = class.preemption.take().unwrap_or_default();
                index.sync(class, world);
                let best = index.best(class, world, spares, allows);
                let found = best.ok_or_else(|| index.refusal(class, world));
                class.preemption = Some(index);
                found
            }
        };
        self.reserved = reserved;
        self.budgets = budgets;
        found
    }

    /// Tries candidates for real, where other nodes have a say.
    fn try_candidates(
        &mut self,
        pod: &PodInfo,
        pins: Option<Vec<usize>>,
        budgets: &Budgets,
        (seed, filter): (u64, Option<NodeFilter<'_>>),
    ) -> Result<Choice, String> {
        let slots = pins.unwrap_or_else(|| self.world.nodes.live_nodes().collect());
        let (class, world) = self.needs_of(pod);
        let judge = Judge::new(class, &world.nodes);
        let allows = |node: &usize| filter.is_none_or(|f| f(world.nodes.candidate(*node)).is_ok());
        let helpful = |node: &usize| match class.place(*node) {
            None => class.status(*node).is_resolvable(),
            Some((bucket, _)) => {
                judge.against(&class.buckets[bucket].key).is_some_and(Neighbours::is_resolvable)
            }
        };
        let candidates: Vec<usize> = slots.into_iter().filter(helpful).filter(allows).collect();
        let enough = (candidates.len() / 10).max(100);
        let offset = usize::try_from(seed % candidates.len().max(1) as u64).unwrap_or(0);
        let mut best: Option<(Rank, Choice)> = None;
        let (mut found, mut no_victims) = (0, 0);
        for at in 0..candidates.len() {
            let node = candidates[(offset + at) % candidates.len()];
            let potential = less_important(&self.world, self.reserved.as_deref(), node, pod.shape.priority);
            if potential.is_empty() {
                no_victims += 1;
                continue;
            }
            let name = self.world.nodes[node].name.clone();
            let potential: Vec<Arc<PodInfo>> = potential.into_iter().cloned().collect();
            let (violating, others) = split(budgets, potential);
            let tried = self.attempt(|c| (c.reprieve(pod, &name, &violating, &others), false));
            let Some((victims, violations)) = tried else { continue };
            let cost = rank(&victims, violations);
            if best.as_ref().is_none_or(|(least, (other, ..))| (cost, node) < (*least, *other)) {
                best = Some((cost, (node, victims, violations)));
            }
            found += 1;
            if found >= enough {
                break;
            }
        }
        match best {
            Some((_, choice)) => Ok(choice),
            None => {
                let unfit = candidates.len() - no_victims;
                let text = "node(s) would not fit the pod without their less important pods";
                let reasons =
                    if unfit > 0 { BTreeMap::from([(text.to_owned(), unfit)]) } else { BTreeMap::new() };
                Err(refusal(&self.world, no_victims, unfit, reasons))
            }
        }
    }

    /// Takes all away, then gives back as many as fit beside the pod.
    fn reprieve(
        &mut self,
        pod: &PodInfo,
        node: &str,
        violating: &[Arc<PodInfo>],
        others: &[Arc<PodInfo>],
    ) -> Option<(Vec<Arc<PodInfo>>, usize)> {
        for victim in violating.iter().chain(others) {
            self.remove_pod(&victim.uid);
        }
        if !self.fits_on(pod, node) {
            return None;
        }
        let (mut gone, mut violations) = (Vec::new(), 0);
        for (pods, counts) in [(violating, true), (others, false)] {
            for victim in pods {
                self.assume((**victim).clone(), node);
                if !self.fits_on(pod, node) {
                    self.remove_pod(&victim.uid);
                    violations += usize::from(counts);
                    gone.push(victim.clone());
                }
            }
        }
        gone.sort_by(by_importance);
        Some((gone, violations))
    }
}
