//! The cluster as the scheduler sees it, kept up to date by small steps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::bound::BoundPods;
use super::choose::{self, Judge};
use super::class::Class;
use super::classes::{self, Classes, Purpose};
use super::gang::GroupPolicy;
use super::nodes::{self, Crowd};
use super::pack::Pack;
use super::pod::PodInfo;
use super::preempt::Budget;
use super::profile::Profile;
use super::reasons::{self, Hints, Unschedulable};
use super::seats::Reserved;
use super::view::{Candidate, NodeView};
use super::world::World;
use crate::fairness::Tenants;
use crate::hash::Map;
use crate::pods;
use crate::reservation::Seat;
use crate::selector::Labels;

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// Its score; 0 when it was the only one.
    pub score: i64,
    /// How many nodes could take the pod.
    pub feasible: usize,
    /// The GPUs it gets there.
    pub devices: Vec<u8>,
    /// The seat of a reservation that it takes there.
    pub seat: Option<Arc<Seat>>,
}

/// A step, to be taken back.
#[derive(Debug)]
pub(super) enum Undo {
    Remove(Box<str>),
    Place(Arc<PodInfo>),
    Withdraw(Box<str>),
    Nominate(Arc<PodInfo>, Arc<str>),
}

/// All nodes and all bound pods.
#[derive(Debug)]
pub struct Cluster {
    pub(super) world: World,
    /// The classes by which nodes are chosen.
    pub(super) classes: Classes,
    /// The classes by which is known where pods may go at all.
    pub(super) fits: Classes,
    pub(super) pods: BoundPods,
    /// uid -> the node it waits for.
    nominated: Map<Box<str>, u32>,
    pub(super) profiles: Vec<Arc<Profile>>,
    /// The same without what only makes some nodes better than others.
    needs: Vec<Arc<Profile>>,
    /// How many members of each gang are placed.
    pub(super) gangs: HashMap<(Box<str>, Box<str>), u32>,
    /// What PodGroup objects say, by namespace and name.
    pub(super) policies: HashMap<(Box<str>, Box<str>), GroupPolicy>,
    /// What packs, by the place of its profile.
    pub(super) packs: Vec<Option<Pack>>,
    /// By namespace and name.
    pub(super) budgets: BTreeMap<(Box<str>, Box<str>), Budget>,
    /// What queues have; nothing where there are none.
    pub(super) tenants: Option<Box<Tenants>>,
    /// What is held for pods to come; nothing where there is none.
    pub(super) reserved: Option<Box<Reserved>>,
    /// Whether the nodes have something else since they were added up.
    pub(super) capacity_changed: bool,
    pub(super) undo: Option<Vec<Undo>>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// An empty cluster, with the default profile.
    pub fn new() -> Self {
        Self::with_profiles(vec![Profile::new("default-scheduler")])
    }

    /// An empty cluster that decides by these profiles. A pod that names none of them is decided by the first.
    pub fn with_profiles(profiles: Vec<Profile>) -> Self {
        let profiles = if profiles.is_empty() { vec![Profile::new("default-scheduler")] } else { profiles };
        let mut cluster = Self {
            world: World::default(),
            classes: Classes::new(Purpose::Choose),
            fits: Classes::new(Purpose::Fit),
            pods: BoundPods::default(),
            nominated: Map::default(),
            packs: profiles.iter().map(|p| p.packing.map(Pack::new)).collect(),
            needs: profiles.iter().map(|p| Arc::new(p.of_needs())).collect(),
            profiles: profiles.into_iter().map(Arc::new).collect(),
            gangs: HashMap::new(),
            policies: HashMap::new(),
            budgets: BTreeMap::new(),
            tenants: None,
            reserved: None,
            capacity_changed: true,
            undo: None,
        };
        if cluster.profiles.iter().any(|profile| profile.reads_usage()) {
            cluster.follow_usage();
        }
        cluster
    }

    /// Adds or updates a node; returns what may fit now that did not before.
    pub fn upsert_node(&mut self, node: &Node) -> Hints {
        let slot = self.world.nodes.slot(nodes::name_of(node));
        let (hints, images) = self.world.nodes.update(slot, node);
        self.capacity_changed |= hints != Hints::none();
        if hints != Hints::none() || images {
            self.world.touch(slot);
        }
        hints
    }

    /// Removes a node; its pods are remembered until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.world.nodes.find(name) else { return };
        self.capacity_changed = true;
        self.vacate_node(name);
        self.world.nodes.kill(slot);
        self.world.load.iter_mut().for_each(|load| load.forget(slot));
        self.world.touch(slot);
        self.world.nodes.release(slot);
    }

    /// Adds or updates a bound pod. A finished or unbound one counts as gone. Returns what that may help.
    pub fn upsert_pod(&mut self, pod: &Pod) -> Hints {
        let uid = pods::uid(&pod.metadata);
        if pods::finished(pod) || pods::node_name(pod).is_empty() {
            return self.remove_pod(uid);
        }
        let mut info = PodInfo::of(pod);
        let mut hints = Hints::none();
        match self.pod(uid).cloned() {
            Some(old) => {
                if old.node == info.node && info.devices.is_empty() {
                    info.devices.clone_from(&old.devices);
                }
                if old.node == info.node && info.seat.is_none() {
                    info.seat.clone_from(&old.seat);
                }
                let same_node = old.node == info.node;
                if old.terminating != info.terminating {
                    hints = hints.union(Hints::POD_ADDED).union(Hints::POD_GONE);
                }
                if old.shape.labels != info.shape.labels || !same_node {
                    hints = hints.union(Hints::POD_ADDED);
                }
                if old.shape.requests != info.shape.requests || !same_node {
                    hints = hints.union(Hints::POD_GONE);
                }
                if same_node
                    && old.shape == info.shape
                    && old.terminating == info.terminating
                    && old.seat == info.seat
                {
                    self.refresh_pod(uid, &old, info);
                    return hints;
                }
            }
            None => {
                hints = hints.union(Hints::POD_ADDED);
                self.learn_of(&info);
            }
        }
        self.place(Arc::new(info));
        hints
    }

    /// Takes over what does not change where anything fits.
    fn refresh_pod(&mut self, uid: &str, old: &Arc<PodInfo>, mut new: PodInfo) {
        if old.started == new.started && old.preempted == new.preempted && old.devices == new.devices {
            return;
        }
        let Some(bound) = self.pods.get_mut(uid) else { return };
        let slot = bound.node as usize;
        if old.devices != new.devices {
            self.world.nodes[slot].gpus.charge(old.shape.gpu, &old.devices, -1);
            self.world.nodes[slot].gpus.charge(new.shape.gpu, &new.devices, 1);
        }
        new.shape = old.shape.clone();
        let new = Arc::new(new);
        bound.pod = new.clone();
        self.world.nodes[slot].crowd.join(&new);
        if let Some(at) = self.world.nodes[slot].pods.iter_mut().find(|p| Arc::ptr_eq(p, old)) {
            *at = new;
        }
        self.world.touch(slot);
    }

    /// Counts a pod on a node ahead of the API saying so.
    pub fn assume(&mut self, pod: PodInfo, node: &str) {
        self.learn_of(&pod);
        self.place(Arc::new(pod.on(node)));
    }

    /// Counts a pod where it was placed, with the devices it got there.
    pub fn assume_placed(&mut self, pod: PodInfo, placement: &Placement) {
        self.learn_of(&pod);
        let node = self.world.nodes.shared_name(&placement.node);
        let pod = PodInfo {
            node,
            devices: placement.devices.as_slice().into(),
            seat: placement.seat.clone(),
            ..pod
        };
        self.place(Arc::new(pod));
    }

    /// Forgets a bound pod; returns what that may help.
    pub fn remove_pod(&mut self, uid: &str) -> Hints {
        if let Some(seat) = self.seat_of(uid) {
            return self.vacate_seat(&seat);
        }
        if self.take(uid) { Hints::POD_GONE } else { Hints::none() }
    }

    /// Takes a pod off its node, or what stands for a seat there; whether it was on any.
    pub(super) fn take(&mut self, uid: &str) -> bool {
        let Some(bound) = self.pods.remove(uid) else { return false };
        let slot = bound.node as usize;
        let pod = bound.pod;
        let nodes = &mut self.world.nodes;
        nodes[slot].prefetch();
        if let Some(at) = nodes[slot].pods.iter().position(|p| Arc::ptr_eq(p, &pod)) {
            nodes[slot].pods.swap_remove(at);
        }
        if nodes[slot].pods.is_empty() {
            nodes[slot].crowd = Crowd::default();
        }
        nodes.charge(slot, &pod, -1);
        // What is merely held is not used.
        let load = self.world.load.iter_mut().filter(|_| pod.holds.is_none());
        load.for_each(|load| load.charge(slot, &pod, -1));
        let nodes = &mut self.world.nodes;
        nodes[slot].gpus.charge(pod.shape.gpu, &pod.devices, -1);
        for port in &pod.shape.ports {
            if let Some(at) = nodes[slot].ports.iter().position(|p| p == port) {
                nodes[slot].ports.swap_remove(at);
            }
        }
        self.world.count(slot, &pod, false);
        if let Some(renumbered) = self.world.terms.compact() {
            for row in self.world.nodes.rows_mut() {
                row.term_counts.iter_mut().for_each(|(id, _)| *id = renumbered[*id as usize]);
            }
            self.world.shapes.renumber();
        }
        if let Some(zones) = &mut self.world.zones {
            zones.recount(&self.world.nodes, slot, &pod);
        }
        self.count_gang(&pod, false);
        self.count_tenant(&pod, false);
        self.world.touch(slot);
        self.world.nodes.release(slot);
        self.count_seat(&pod, false);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Place(pod));
        }
        true
    }

    pub(super) fn place(&mut self, pod: Arc<PodInfo>) {
        if let Some(seat) = &pod.holds {
            return self.occupy_seat(&pod, seat);
        }
        self.remove_pod(&pod.uid);
        self.withdraw(&pod.uid);
        self.put(pod);
    }

    /// Puts a pod on its node, or what stands for a seat there.
    pub(super) fn put(&mut self, mut pod: Arc<PodInfo>) {
        let slot = self.world.nodes.slot(&pod.node);
        let inner = Arc::make_mut(&mut pod);
        self.world.shapes.share(&mut inner.shape);
        let name = &self.world.nodes[slot].name;
        if !Arc::ptr_eq(&inner.node, name) {
            inner.node.clone_from(name);
        }
        if inner.devices.is_empty() && !inner.shape.gpu.is_none() {
            inner.devices = self.world.nodes[slot].gpus.choose(inner.shape.gpu).into();
        }
        // First, since it is the farthest away: by the end of all this it is done.
        self.pods.insert(pod.clone(), u32::try_from(slot).unwrap_or(u32::MAX));
        let nodes = &mut self.world.nodes;
        nodes.charge(slot, &pod, 1);
        let load = self.world.load.iter_mut().filter(|_| pod.holds.is_none());
        load.for_each(|load| load.charge(slot, &pod, 1));
        let nodes = &mut self.world.nodes;
        nodes[slot].gpus.charge(pod.shape.gpu, &pod.devices, 1);
        if !pod.shape.ports.is_empty() {
            nodes[slot].ports.extend(pod.shape.ports.iter().cloned());
        }
        nodes[slot].crowd.join(&pod);
        self.world.count(slot, &pod, true);
        self.count_gang(&pod, true);
        self.count_tenant(&pod, true);
        self.world.touch(slot);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Remove(pod.uid.clone()));
        }
        let owner = pod.seat.is_some().then(|| pod.clone());
        let World { nodes, zones, .. } = &mut self.world;
        nodes[slot].pods.push(pod);
        if let (Some(zones), Some(pod)) = (zones, nodes[slot].pods.last()) {
            zones.recount(nodes, slot, pod);
        }
        if let Some(owner) = owner {
            self.count_seat(&owner, true);
        }
    }

    /// Tells profiles that pack which pods are usual. Otherwise they learn it from the pods that run.
    pub fn expect<'a>(&mut self, pods: impl Iterator<Item = &'a PodInfo> + Clone) {
        for pack in self.packs.iter_mut().flatten() {
            pack.expect(pods.clone(), &self.world);
        }
    }

    /// Learns from a pod that is new here. While something is tried out nothing is learned: see [`Cluster::attempt`].
    fn learn_of(&mut self, pod: &PodInfo) {
        if self.packs.iter().any(Option::is_some) && self.undo.is_none() && !self.pods.contains(&pod.uid) {
            self.learn(pod);
        }
    }

    pub(super) fn learn(&mut self, pod: &PodInfo) {
        let at = self.profile_at(pod);
        if let Some(pack) = self.packs.get_mut(at).and_then(Option::as_mut) {
            pack.learn(pod, &self.world);
        }
    }

    /// The node that a pod is counted on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.pods.get(uid).map(|bound| &*bound.pod.node)
    }

    /// A bound pod.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|bound| &bound.pod)
    }

    /// How many pods are bound.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<NodeView<'_>> {
        let slot = self.world.nodes.find_live(name)?;
        Some(NodeView { cluster: self, slot })
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.world.nodes.live_nodes().map(|slot| NodeView { cluster: self, slot })
    }

    /// Sets the labels of a namespace, which namespace selectors read. Returns what that may help.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> Hints {
        let known = &mut self.world.namespaces;
        let moved = self.tenants.as_mut().is_some_and(|t| t.set_namespace(name, labels.as_ref()));
        let changed = match labels {
            Some(labels) if known.get(name) == Some(&labels) => false,
            Some(labels) => {
                known.insert(name.into(), labels);
                true
            }
            None => known.remove(name).is_some(),
        };
        if !changed {
            return Hints::none();
        }
        if moved {
            self.recount();
        }
        self.world.epoch += 1;
        Hints::NAMESPACE
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.world.nodes.live_count()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps room on a node for a pod that others were asked to leave it for.
    pub fn nominate(&mut self, pod: &PodInfo, node: &str) {
        self.withdraw(&pod.uid);
        if self.pods.contains(&pod.uid) {
            return;
        }
        let slot = self.world.nodes.slot(node);
        let guest = self.guest(pod);
        self.promise_tenant(&guest, true);
        self.world.nodes[slot].nominated.push(Arc::new(guest));
        self.nominated.insert(pod.uid.clone(), u32::try_from(slot).unwrap_or(u32::MAX));
        self.world.touch(slot);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Withdraw(pod.uid.clone()));
        }
    }

    /// Keeps no room for a pod any more; whether there was any kept.
    pub fn withdraw(&mut self, uid: &str) -> bool {
        let Some(slot) = self.nominated.remove(uid).map(|slot| slot as usize) else { return false };
        let waiting = &mut self.world.nodes[slot].nominated;
        let Some(at) = waiting.iter().position(|p| *p.uid == *uid) else { return false };
        let pod = waiting.swap_remove(at);
        self.promise_tenant(&pod, false);
        self.world.touch(slot);
        let name = self.world.nodes[slot].name.clone();
        self.world.nodes.release(slot);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Nominate(pod, name));
        }
        true
    }

    /// The node that room is kept on for a pod.
    pub fn nominated_node(&self, uid: &str) -> Option<&str> {
        let slot = *self.nominated.get(uid)? as usize;
        Some(&self.world.nodes[slot].name)
    }

    /// The profile that decides about a pod.
    pub fn profile_of(&self, pod: &PodInfo) -> &Arc<Profile> {
        &self.profiles[self.profile_at(pod)]
    }

    fn profile_at(&self, pod: &PodInfo) -> usize {
        self.profiles.iter().position(|p| *p.name == *pod.shape.profile).unwrap_or(0)
    }

    /// What is known about nodes for choosing one for the pod.
    pub(super) fn class_of(&mut self, pod: &PodInfo) -> (&mut Class, &World) {
        self.tidy(self.classes.knows(&pod.shape));
        let profile = &self.profiles[self.profile_at(pod)];
        (self.classes.of_nodes(None, &pod.shape, profile, &mut self.world), &self.world)
    }

    /// What is known about where the pod may go at all.
    pub(super) fn needs_of(&mut self, pod: &PodInfo) -> (&mut Class, &World) {
        self.needs_on(None, pod)
    }

    /// The same about some nodes only, where these are given.
    pub(super) fn needs_on(&mut self, nodes: Option<&[usize]>, pod: &PodInfo) -> (&mut Class, &World) {
        self.tidy(self.fits.knows(&pod.shape));
        let profile = &self.needs[self.profile_at(pod)];
        (self.fits.of_nodes(nodes, &pod.shape, profile, &mut self.world), &self.world)
    }

    /// Whether any node can take the pod, or any of those that are given.
    fn fits_any(&mut self, pod: &PodInfo, pins: Option<&Pins>) -> bool {
        self.tidy(self.fits.knows(&pod.shape));
        let profile = &self.needs[self.profile_at(pod)];
        let class = self.fits.get(&pod.shape, profile, &mut self.world);
        if pins.is_none() && class.counters.is_empty() {
            return class.finds_any(&self.world);
        }
        class.know(&self.world, Pins::nodes(pins));
        Judge::new(class, &self.world.nodes).fits(pins)
    }

    /// Whether it takes no look at every node to say whether any can take the pod.
    fn is_quick_to_say(&self, pod: &PodInfo) -> bool {
        let needs = &self.needs[self.profile_at(pod)];
        !classes::minds_others(&pod.shape, needs, &self.world)
            || self.fits.knows_like(&pod.shape, needs, &self.world)
    }

    /// Forgets columns that nobody needs any more, before a class is made that might need more of them.
    fn tidy(&mut self, known: bool) {
        if !known && self.world.nodes.is_bloated() {
            self.classes.clear();
            self.fits.clear();
            self.world.nodes.compact();
        }
    }

    /// Chooses a node. Among equally good ones the seed decides. A node that is kept for the pod is taken when it
    /// has room by now.
    pub fn schedule(&mut self, pod: &PodInfo, seed: u64) -> Result<Placement, Unschedulable> {
        self.schedule_filtered(pod, seed, None)
    }

    /// The same where something else has a say about each node, too: volumes, for example. It gives the reason.
    pub fn schedule_filtered(
        &mut self,
        pod: &PodInfo,
        seed: u64,
        filter: Option<NodeFilter<'_>>,
    ) -> Result<Placement, Unschedulable> {
        self.schedule_scored(pod, seed, filter, None)
    }

    /// The same where something else adds to the scores of nodes, too.
    pub fn schedule_scored(
        &mut self,
        pod: &PodInfo,
        seed: u64,
        filter: Option<NodeFilter<'_>>,
        bonus: Option<Bonus<'_>>,
    ) -> Result<Placement, Unschedulable> {
        self.pods.expect(&pod.uid);
        let kept = self.nominated.get(&pod.uid).map(|slot| *slot as usize);
        let held = kept.and_then(|slot| {
            let waiting = &self.world.nodes[slot].nominated;
            waiting.iter().find(|p| p.uid == pod.uid).cloned()
        });
        if held.is_some() {
            self.withdraw(&pod.uid);
        }
        let result = match self.schedule_owner(pod, seed, (filter, bonus)) {
            Some(decided) => decided,
            None => self.decide(pod, kept, seed, (filter, bonus), None),
        };
        if let (Some(held), Some(slot)) = (held, kept) {
            let name = self.world.nodes[slot].name.clone();
            let name = if name.is_empty() { pod.nominated.as_deref().unwrap_or_default() } else { &*name };
            if !name.is_empty() {
                self.nominate(&held, name);
            }
        }
        result
    }

    /// The same among some nodes only, where these are given.
    pub(super) fn decide(
        &mut self,
        pod: &PodInfo,
        kept: Option<usize>,
        seed: u64,
        (filter, bonus): (Option<NodeFilter<'_>>, Option<Bonus<'_>>),
        among: Option<&[usize]>,
    ) -> Result<Placement, Unschedulable> {
        if let Err(wait) = self.admit(pod) {
            return Err(Unschedulable::queued(self.len(), wait));
        }
        let pins = self.pins_among(pod, among);
        // Whether it fits at all is likely known from pods like it, and then nobody has to look at every node.
        if !self.classes.knows(&pod.shape) && self.is_quick_to_say(pod) && !self.fits_any(pod, pins.as_ref())
        {
            let (class, world) = self.needs_on(Pins::nodes(pins.as_ref()), pod);
            let judge = Judge::new(class, &world.nodes);
            return Err(Unschedulable::of(class, &judge, world, pins.as_ref()));
        }
        self.tidy(self.classes.knows(&pod.shape));
        let at = self.profile_at(pod);
        let nodes = Pins::nodes(pins.as_ref()).filter(|_| kept.is_none());
        let class = self.classes.of_nodes(nodes, &pod.shape, &self.profiles[at], &mut self.world);
        let world = &self.world;
        let judge = Judge::new(class, &world.nodes);
        let mut vetoes: Vec<String> = Vec::new();
        let mut allows = |slot: usize| match filter {
            Some(filter) => match filter(world.nodes.candidate(slot)) {
                Ok(()) => true,
                Err(why) => {
                    vetoes.push(why);
                    false
                }
            },
            None => true,
        };
        let stays = |slot: &usize| world.nodes[*slot].live && !judge.among(&[*slot]).is_empty();
        let kept = kept.filter(stays).filter(|slot| filter.is_none() || allows(*slot));
        if let Some(pack) = self.packs.get_mut(at).and_then(Option::as_mut) {
            let able = match kept {
                Some(slot) => vec![(slot, 0)],
                None => {
                    let all = || world.nodes.live_nodes().collect();
                    let slots = pins.as_ref().map_or_else(all, |pins| pins.nodes.clone());
                    let mut able = judge.among(&slots);
                    able.retain(|(slot, _)| allows(*slot));
                    reward(&mut able, world, bonus);
                    able
                }
            };
            if let Some((slot, devices)) = pack.choose(&able, pod, world, seed) {
                let node = world.nodes[slot].name.as_ref().to_owned();
                let score = able.iter().find(|(able, _)| *able == slot).map_or(0, |(_, score)| *score);
                return Ok(Placement { node, score, feasible: able.len(), devices, seat: None });
            }
            let mut unplaced = Unschedulable::of(class, &judge, world, pins.as_ref());
            unplaced.veto(vetoes);
            return Err(unplaced);
        }
        let chosen = match (&pins, kept) {
            (_, Some(slot)) => Some((slot, 0, 1)),
            (None, None) if filter.is_none() && bonus.is_none() => judge.best(seed),
            (pins, None) => {
                let all = || world.nodes.live_nodes().collect();
                let slots = pins.as_ref().map_or_else(all, |pins| pins.nodes.clone());
                let mut fitting: Vec<usize> = judge.among(&slots).into_iter().map(|(slot, _)| slot).collect();
                fitting.retain(|slot| allows(*slot));
                let mut scored = judge.among(&fitting);
                reward(&mut scored, world, bonus);
                choose::pick(&scored, seed)
            }
        };
        let Some((slot, score, feasible)) = chosen else {
            let mut unplaced = Unschedulable::of(class, &judge, world, pins.as_ref());
            unplaced.veto(vetoes);
            if !self.fits.knows(&pod.shape) {
                // The next one like it, of whatever owner, is refused at once.
                self.needs_on(Pins::nodes(pins.as_ref()), pod);
            }
            return Err(unplaced);
        };
        class.expect(slot);
        let row = &world.nodes[slot];
        row.prefetch();
        let placement = Placement {
            node: row.name.as_ref().to_owned(),
            score: if feasible == 1 { 0 } else { score },
            feasible,
            devices: row.gpus.choose(pod.shape.gpu),
            seat: None,
        };
        self.world.nodes.expect(slot);
        Ok(placement)
    }

    /// All nodes that can take the pod, with their scores.
    pub fn evaluate(&mut self, pod: &PodInfo) -> Vec<(String, i64)> {
        let slots = match self.pins(pod) {
            Some(pins) => pins.nodes,
            None => self.world.nodes.live_nodes().collect(),
        };
        let (class, world) = self.class_of(pod);
        let scored = Judge::new(class, &world.nodes).among(&slots);
        scored.into_iter().map(|(slot, score)| (world.nodes[slot].name.as_ref().to_owned(), score)).collect()
    }

    /// The names of the nodes that can take the pod.
    pub fn able(&mut self, pod: &PodInfo, filter: Option<NodeFilter<'_>>) -> Vec<String> {
        let slots = match self.pins(pod) {
            Some(pins) => pins.nodes,
            None => self.world.nodes.live_nodes().collect(),
        };
        let (class, world) = self.needs_of(pod);
        let able = Judge::new(class, &world.nodes).among(&slots).into_iter().map(|(slot, _)| slot);
        let allows = |slot: &usize| filter.is_none_or(|filter| filter(world.nodes.candidate(*slot)).is_ok());
        able.filter(allows).map(|slot| world.nodes[slot].name.as_ref().to_owned()).collect()
    }

    /// Whether some node could take the pod as things are; otherwise what could help it.
    fn fits_somewhere(&mut self, pod: &PodInfo) -> Result<(), Hints> {
        if let Some(fits) = self.owner_fits(pod) {
            return fits;
        }
        self.admit(pod).map_err(|_| Hints::POD_GONE)?;
        let pins = self.pins(pod);
        if self.fits_any(pod, pins.as_ref()) {
            return Ok(());
        }
        let (class, world) = self.needs_on(Pins::nodes(pins.as_ref()), pod);
        Err(reasons::hints(class, &Judge::new(class, &world.nodes), pins.as_ref()))
    }

    /// Whether some node could take the pod as things are, or the one that is kept for it; otherwise what could help.
    pub fn would_fit(&mut self, pod: &PodInfo) -> Result<(), Hints> {
        let Some(node) = self.nominated_node(&pod.uid).map(ToOwned::to_owned) else {
            return self.fits_somewhere(pod);
        };
        self.withdraw(&pod.uid);
        let fits = self.fits_somewhere(pod);
        self.nominate(pod, &node);
        fits
    }

    /// Whether that node could take the pod as things are.
    pub fn fits_on(&mut self, pod: &PodInfo, node: &str) -> bool {
        let Some(slot) = self.world.nodes.find_live(node) else { return false };
        if self.pins(pod).is_some_and(|pins| !pins.nodes.contains(&slot)) {
            return false;
        }
        let (class, world) = self.needs_on(Some(&[slot]), pod);
        !Judge::new(class, &world.nodes).among(&[slot]).is_empty()
    }

    /// The same of some nodes.
    pub(super) fn pins_among(&self, pod: &PodInfo, among: Option<&[usize]>) -> Option<Pins> {
        let own = self.pins(pod);
        let Some(among) = among else { return own };
        let may = |slot: &&usize| own.as_ref().is_none_or(|own| own.nodes.contains(slot));
        let mut nodes: Vec<usize> = among.iter().filter(may).copied().collect();
        nodes.sort_unstable();
        Some(Pins { nodes, by_name: own.is_some_and(|own| own.by_name) })
    }

    /// The only nodes that can take the pod, when it names them.
    pub(super) fn pins(&self, pod: &PodInfo) -> Option<Pins> {
        let profile = self.profile_of(pod);
        let slots = |names: &[Box<str>]| {
            let mut nodes: Vec<usize> =
                names.iter().filter_map(|name| self.world.nodes.find_live(name)).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        let own = || self.world.nodes.find_live(&pod.node).into_iter().collect::<Vec<usize>>();
        let named = (!pod.node.is_empty() && profile.filters.node_name).then(own);
        let listed = pod.only.as_deref().filter(|_| profile.filters.node_affinity);
        match (named, listed) {
            (Some(nodes), None) => Some(Pins { nodes, by_name: true }),
            (None, Some(names)) => Some(Pins { nodes: slots(names), by_name: false }),
            (Some(mut nodes), Some(names)) => {
                let listed = slots(names);
                nodes.retain(|n| listed.contains(n));
                Some(Pins { nodes, by_name: true })
            }
            (None, None) => None,
        }
    }

    /// The same shape as pods before it, if there were any, and its tenant's queue.
    pub fn intern(&mut self, pod: &mut PodInfo) {
        self.world.shapes.share(&mut pod.shape);
        self.assign(pod);
    }
}

/// What else has a say about a node; the error is the reason as users read it.
pub type NodeFilter<'a> = &'a dyn Fn(Candidate<'_>) -> Result<(), String>;

/// What else adds to the score of a node, by its name.
pub type Bonus<'a> = &'a dyn Fn(&str) -> i64;

/// Adds to scores.
fn reward(scored: &mut [(usize, i64)], world: &World, bonus: Option<Bonus<'_>>) {
    if let Some(bonus) = bonus {
        scored.iter_mut().for_each(|(slot, score)| *score += bonus(&world.nodes[*slot].name));
    }
}

/// The only nodes that may be asked about a pod.
#[derive(Debug)]
pub(super) struct Pins {
    pub nodes: Vec<usize>,
    /// Whether `spec.nodeName` names it.
    pub by_name: bool,
}

impl Pins {
    /// The nodes, where there are such.
    pub fn nodes(pins: Option<&Self>) -> Option<&[usize]> {
        pins.map(|pins| &*pins.nodes)
    }
}
