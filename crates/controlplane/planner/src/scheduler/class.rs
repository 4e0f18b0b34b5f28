//! What is known about every node for one kind of pod, kept up to date by looking only at nodes that changed.
//!
//! Pods that differ in nothing that matters form a class. For each node a class remembers why it cannot take such a
//! pod, or else which *bucket* it is in. A bucket holds nodes that agree in everything that depends on other nodes:
//! soft taints, preferred affinity, images, and the place of the node in each topology that counts. What depends
//! on other nodes is then worked out once per bucket, not once per node; within a bucket, only the score of the
//! node's own resources orders them. So a decision costs as much as there are changed nodes and buckets, and is
//! exactly what scoring every node would give.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::affinity::CompiledAffinity;
use super::cells::{At, Cells};
use super::counter::{Counter, Part};
use super::gpu::{GPU, GPU_MILLI};
use super::intake::Intake;
use super::interpod::Term;
use super::labelsets::LabelSet;
use super::nodes::{CPU, EPHEMERAL, MEMORY, Nodes};
use super::pod::{PodInfo, Shape};
use super::preempt::Index;
use super::profile::Profile;
use super::score::{self, Use};
use super::status::Status;
use super::taints::Welcome;
use super::world::World;
use crate::hash::Map;
use crate::usage::Amount;

/// Nodes that agree in all that depends on other nodes, by the score of their own resources.
#[derive(Debug, Clone, Default)]
pub(super) struct Bucket {
    /// Soft taints, preferred affinity, images, then one place per counter.
    pub key: Box<[i64]>,
    pub levels: BTreeMap<i64, Vec<u32>>,
    pub count: u32,
}

/// Where the places of counters begin in the key of a bucket.
pub(super) const FIRST_COUNTER: usize = 3;

/// So many nodes ahead the next one is asked for where all are looked at.
const AHEAD: usize = 4;

/// What a node by itself says to such a pod.
enum Verdict {
    Gone,
    Refused(Status),
    /// With the score of its own resources.
    Fits(i64),
}

/// A resource that is scored.
#[derive(Debug, Clone)]
struct Scored {
    column: usize,
    weight: i64,
    /// What the pod asks for, and what it is taken to use at least.
    request: i64,
    nonzero: i64,
}

/// All that one kind of pod knows about the nodes.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub shape: Arc<Shape>,
    pub labels: LabelSet,
    /// Whether all its required affinity terms speak of itself.
    pub is_its_own_affinity: bool,
    /// Whether what it says itself depends on the labels of namespaces.
    reads_namespaces: bool,
    pub profile: Arc<Profile>,
    pub affinity: CompiledAffinity,
    pub counters: Vec<Counter>,
    /// By the number of a bound pod's term: the counter it feeds, with what weight.
    feeds: Vec<Option<(u16, i64)>>,
    welcome: Vec<Option<(Welcome, bool)>>,
    fit: Vec<(usize, i64)>,
    scored: Vec<Scored>,
    balanced: Vec<Scored>,
    nodes: Cells,
    /// How many nodes there are to look at.
    slots: usize,
    /// Nodes from that one on were not looked at yet, but for single ones.
    looked: usize,
    pub buckets: Vec<Bucket>,
    free_buckets: Vec<u32>,
    bucket_ids: Map<Box<[i64]>, u32>,
    pub statuses: BTreeMap<Status, u32>,
    /// Which images nodes hold of those that the pod needs, numbered.
    pub held: Vec<Box<[(u16, i64)]>>,
    pub preemption: Option<Box<Index>>,
    seen_log: u64,
    seen_epoch: u64,
    /// When it was last used, for forgetting the stalest.
    pub used: u64,
    scratch: Vec<i64>,
    changed: Vec<u32>,
}

impl Class {
    pub fn new(shape: &Arc<Shape>, profile: &Arc<Profile>, world: &mut World) -> Self {
        let labels = LabelSet::of(shape);
        let affinity = CompiledAffinity::new(&shape.node, &profile.added_affinity, &mut world.nodes);
        let mut class = Self {
            shape: shape.clone(),
            is_its_own_affinity: false,
            reads_namespaces: shape.terms.all().any(Term::reads_namespaces),
            labels,
            profile: profile.clone(),
            affinity,
            counters: Vec::new(),
            feeds: Vec::new(),
            welcome: Vec::new(),
            fit: fit_columns(shape, profile, &mut world.nodes),
            scored: scored(
                shape,
                profile.resources.iter().map(|r| (r.name.as_str(), r.weight)),
                &mut world.nodes,
            ),
            balanced: scored(shape, profile.balanced.iter().map(|name| (name.as_str(), 1)), &mut world.nodes),
            nodes: Cells::default(),
            slots: 0,
            looked: 0,
            buckets: Vec::new(),
            free_buckets: Vec::new(),
            bucket_ids: Map::default(),
            statuses: BTreeMap::new(),
            held: Vec::new(),
            preemption: None,
            seen_log: 0,
            seen_epoch: 0,
            used: 0,
            scratch: vec![0; FIRST_COUNTER],
            changed: Vec::new(),
        };
        if class.balanced.iter().all(|s| s.request == 0) {
            class.balanced.clear();
        }
        class.rebuild(world);
        class
    }

    /// How many numbers it keeps once it knows all nodes, roughly.
    pub fn weight(&self) -> usize {
        self.slots * (1 + self.counters.len())
    }

    /// Brings it up to date, as far as it has looked at nodes: see [`Class::complete`].
    pub fn sync(&mut self, world: &mut World) {
        let renamed = self.seen_epoch != world.epoch;
        let stale = (renamed && (self.reads_namespaces || world.terms.reads_namespaces()))
            || self.counters.iter().any(|c| c.is_stale(&world.nodes))
            || !self.read_new_terms(world);
        let mut changed = std::mem::take(&mut self.changed);
        changed.clear();
        self.slots = world.nodes.slots();
        if stale || !world.log.since(self.seen_log, &mut changed) {
            self.rebuild(world);
        } else {
            if changed.len() > 1 {
                self.expect_all(world, &changed);
            }
            let looked = self.looked;
            for node in changed.iter().map(|node| *node as usize) {
                if node < looked || !self.nodes.at(node).is_unknown() {
                    self.refresh(world, node);
                }
            }
            self.seen_epoch = world.epoch;
            self.seen_log = world.log.end();
        }
        self.changed = changed;
        // Where nodes have a say about each other, nothing is known before all of them are.
        if !self.counters.is_empty() {
            self.complete(world);
        }
    }

    /// Looks at all nodes that it has not looked at yet.
    pub fn complete(&mut self, world: &World) {
        self.look(world, world.nodes.slots());
    }

    /// These nodes are looked at again now.
    fn expect_all(&self, world: &World, nodes: &[u32]) {
        for node in nodes {
            self.nodes.expect(*node as usize);
            world.nodes.expect_reading(*node as usize);
        }
        if !self.counters.is_empty() {
            nodes.iter().for_each(|node| world.nodes.expect_counting(*node as usize));
        }
    }

    /// A pod goes there likely, and then the node is looked at again.
    pub fn expect(&self, node: usize) {
        self.nodes.expect(node);
    }

    /// Knows these nodes, or all of them where nothing is said.
    pub fn know(&mut self, world: &World, nodes: Option<&[usize]>) {
        match nodes {
            Some(nodes) if self.counters.is_empty() => {
                self.nodes.grow(nodes.iter().max().map_or(0, |last| last + 1));
                for node in nodes.iter().copied() {
                    if node >= self.looked && self.nodes.at(node).is_unknown() {
                        self.refresh(world, node);
                    }
                }
            }
            _ => self.complete(world),
        }
    }

    /// Looks at nodes for the first time, up to that one: they enter what they enter together.
    fn look(&mut self, world: &World, until: usize) {
        let mut intake = Intake::default();
        let mut refused = (Status::GONE, 0);
        self.nodes.grow(until);
        for node in self.looked..until {
            world.nodes.expect_reading(node + 2 * AHEAD);
            if !self.counters.is_empty() {
                world.nodes.expect_counting(node + AHEAD);
            }
            if !self.nodes.at(node).is_unknown() {
                // Somebody asked for it by name already.
                continue;
            }
            match self.assess(world, node) {
                Verdict::Gone => {}
                Verdict::Refused(status) => {
                    self.nodes.set(node, At::refused(status));
                    if refused.0 != status {
                        self.refuse(std::mem::replace(&mut refused, (status, 0)));
                    }
                    refused.1 += 1;
                }
                Verdict::Fits(score) => {
                    let key = std::mem::take(&mut self.scratch);
                    let bucket = match intake.bucket() {
                        Some(last) if *self.buckets[last as usize].key == *key => last,
                        _ => self.bucket(&key),
                    };
                    self.scratch = key;
                    let position = intake.add(&self.buckets, node, bucket, score);
                    self.nodes.set(node, At::placed(score, bucket, position));
                }
            }
        }
        self.refuse(refused);
        intake.end(&mut self.buckets);
        self.looked = until;
    }

    /// Counts that so many more nodes are refused for a reason.
    fn refuse(&mut self, (status, nodes): (Status, u32)) {
        if nodes > 0 {
            *self.statuses.entry(status).or_insert(0) += nodes;
        }
    }

    /// Whether a node by itself can take the pod. No more are looked at than it takes to find one.
    pub fn finds_any(&mut self, world: &World) -> bool {
        let slots = world.nodes.slots();
        while self.bucket_ids.is_empty() && self.looked < slots {
            self.look(world, slots.min(self.looked + 64));
        }
        !self.bucket_ids.is_empty()
    }

    fn rebuild(&mut self, world: &mut World) {
        self.seen_epoch = world.epoch;
        let mut own = self.shape.terms.affinity.iter();
        self.is_its_own_affinity = own.all(|t| t.matches(&self.labels, &world.namespaces));
        self.counters = Counter::of_pod(&self.shape, &self.profile, &mut world.nodes);
        self.feeds.clear();
        while !self.read_new_terms(world) {}
        self.nodes.reset(self.counters.len());
        self.slots = world.nodes.slots();
        self.buckets.clear();
        self.free_buckets.clear();
        self.bucket_ids.clear();
        self.statuses.clear();
        self.held.clear();
        self.looked = 0;
        self.seen_log = world.log.end();
    }

    /// Looks at terms of bound pods that were not there before. False when a counter had to be added for one,
    /// which nodes do not have yet.
    fn read_new_terms(&mut self, world: &mut World) -> bool {
        let from = self.feeds.len();
        let mut complete = true;
        for (_, term) in world.terms.since(from) {
            let feed = term.term.matches(&self.labels, &world.namespaces).then(|| {
                Counter::for_existing(&mut self.counters, term, &self.shape, &self.profile, &mut world.nodes)
            });
            if let Some((_, _, true)) = feed.flatten() {
                complete = false;
            }
            self.feeds.push(feed.flatten().map(|(counter, weight, _)| (counter, weight)));
        }
        complete
    }

    /// The status of a node for such pods, apart from what depends on other nodes.
    pub fn status(&self, node: usize) -> Status {
        self.nodes.at(node).status()
    }

    /// The bucket of a node and its own score, when nothing on the node itself speaks against it.
    pub fn place(&self, node: usize) -> Option<(usize, i64)> {
        let at = self.nodes.at(node);
        (!at.is_refused()).then(|| (at.bucket as usize, at.score()))
    }

    /// Looks again at a node.
    fn refresh(&mut self, world: &World, node: usize) {
        match self.assess(world, node) {
            Verdict::Gone => self.leave(node),
            Verdict::Refused(status) => {
                if self.nodes.at(node).status() != status {
                    self.leave(node);
                    self.nodes.set(node, At::refused(status));
                    self.refuse((status, 1));
                }
            }
            Verdict::Fits(score) => {
                let key = std::mem::take(&mut self.scratch);
                self.enter(node, &key, score);
                self.scratch = key;
            }
        }
    }

    /// Counts a node, and judges it. What agrees in it with others is left in `scratch`.
    fn assess(&mut self, world: &World, node: usize) -> Verdict {
        if !world.nodes[node].live {
            for (at, counter) in self.counters.iter_mut().enumerate() {
                counter.leave(self.nodes.part(node, at));
                self.nodes.set_part(node, at, Part::default());
            }
            return Verdict::Gone;
        }
        let (welcome, tolerated) = self.welcome(&world.nodes, node);
        let suits = self.affinity.matches(&world.nodes, node);
        let mut key = std::mem::take(&mut self.scratch);
        key.resize(FIRST_COUNTER, 0);
        if !self.counters.is_empty() {
            for counter in &mut self.counters {
                counter.begin(world, node, &self.labels, &self.shape);
            }
            for (term, pods) in &world.nodes[node].term_counts {
                if let Some(Some((counter, weight))) = self.feeds.get(*term as usize) {
                    self.counters[usize::from(*counter)].feed(weight * i64::from(*pods));
                }
            }
            for (at, counter) in self.counters.iter_mut().enumerate() {
                counter.leave(self.nodes.part(node, at));
                let (place, part) = counter.finish((&world.nodes, node), suits, tolerated);
                self.nodes.set_part(node, at, part);
                key.push(place);
            }
        }
        let status = self.judge(world, node, welcome, suits);
        let verdict = if status.is_ok() {
            key[0] = if let Welcome::Yes(soft) = welcome { soft.into() } else { 0 };
            key[1] = self.affinity.score(&world.nodes, node);
            key[2] = self.held_images(&world.nodes, node);
            Verdict::Fits(self.own_score(world, node))
        } else {
            Verdict::Refused(status)
        };
        self.scratch = key;
        verdict
    }

    /// Why the node itself cannot take such a pod.
    pub fn judge(&self, world: &World, node: usize, welcome: Welcome, suits: bool) -> Status {
        let (filters, nodes) = (&self.profile.filters, &world.nodes);
        match welcome {
            Welcome::Cordoned if filters.unschedulable => return Status::CORDONED,
            Welcome::Untolerated if filters.taint_toleration => return Status::UNTOLERATED,
            _ => {}
        }
        if filters.node_affinity && !suits {
            return Status::AFFINITY;
        }
        if filters.node_ports && !self.shape.ports.is_empty() {
            let guests = self.guests(nodes, node).flat_map(|p| p.shape.ports.iter());
            let taken = nodes[node].ports.iter().chain(guests);
            let clash = |taken: &super::pod::HostPort| self.shape.ports.iter().any(|p| p.conflicts(taken));
            if taken.into_iter().any(clash) {
                return Status::PORTS;
            }
        }
        // Before room is looked at: nobody is to make others leave a node that takes no pods all the same.
        if filters.load_aware
            && !self.shape.of_daemon
            && let Some(load) = &world.load
        {
            let status = load.judge(node, &self.profile.load, nodes);
            if !status.is_ok() {
                return status;
            }
        }
        let status = if filters.resources_fit { self.judge_room(nodes, node) } else { Status::OK };
        if status.is_ok()
            && filters.zones
            && let (Some(zones), Some(need)) = (&world.zones, &self.shape.zones)
        {
            return zones.judge(&nodes[node].name, need);
        }
        status
    }

    /// What the node has too little of.
    fn judge_room(&self, nodes: &Nodes, node: usize) -> Status {
        let guests = || self.guests(nodes, node);
        let mut status = Status::OK;
        let pods = nodes[node].pods.len() + guests().count();
        if i64::try_from(pods).unwrap_or(i64::MAX) + 1 > nodes[node].max_pods {
            status.lacks_pods();
        }
        for (at, (column, need)) in self.fit.iter().enumerate() {
            let have = nodes.allocatable(*column, node);
            let guests: i64 = guests().map(|p| nodes.request_of(&p.shape.requests, *column)).sum();
            if *need > have.saturating_sub(nodes.used(*column, node) + guests) {
                status.lacks(at, *need > have);
            }
        }
        let request = self.shape.gpu;
        if !request.is_none() && !self.profile.ignores(GPU) {
            let mut gpus = std::borrow::Cow::Borrowed(&nodes[node].gpus);
            for guest in guests().filter(|p| !p.shape.gpu.is_none()) {
                let devices = gpus.choose(guest.shape.gpu);
                gpus.to_mut().charge(guest.shape.gpu, &devices, 1);
            }
            if !gpus.fits(request) {
                status.lacks_gpu(!gpus.could_fit(request));
            }
        }
        status
    }

    /// Pods for which room is kept on the node also against such a pod.
    fn guests<'a>(&'a self, nodes: &'a Nodes, node: usize) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        nodes[node].nominated.iter().filter(|p| p.shape.priority >= self.shape.priority)
    }

    /// The names of what a node with that status lacks.
    pub fn lacking<'a>(&'a self, nodes: &'a Nodes, status: Status) -> impl Iterator<Item = &'a str> {
        let gpu = if self.shape.requests.get(GPU) > 0 { GPU } else { GPU_MILLI };
        let columns = self.fit.iter().enumerate().filter(move |(at, _)| status.is_lacking(*at));
        let columns = columns.map(|(_, (column, _))| nodes.resource_name(*column));
        columns.chain(status.is_lacking_gpu().then_some(gpu))
    }

    /// What of each resource is asked for.
    pub fn needs(&self) -> &[(usize, i64)] {
        &self.fit
    }

    /// How taints of the node are met, and whether all hard ones are tolerated.
    pub fn welcome(&mut self, nodes: &Nodes, node: usize) -> (Welcome, bool) {
        let set = nodes[node].taints as usize;
        if self.welcome.len() <= set {
            self.welcome.resize(set + 1, None);
        }
        *self.welcome[set].get_or_insert_with(|| {
            let taints = nodes.taint_sets.value(nodes[node].taints);
            let mut welcome = taints.welcome(&self.shape.tolerations);
            if welcome == Welcome::Cordoned && !self.profile.filters.unschedulable {
                welcome = taints.without_cordon().welcome(&self.shape.tolerations);
            }
            if welcome == Welcome::Untolerated && !self.profile.filters.taint_toleration {
                welcome = taints.soft_only().welcome(&self.shape.tolerations);
            }
            (welcome, taints.hard_tolerated(&self.shape.tolerations))
        })
    }

    fn held_images(&mut self, nodes: &Nodes, node: usize) -> i64 {
        if nodes.image_holders.is_empty() || self.profile.weights.image_locality == 0 {
            return -1;
        }
        let there = &nodes[node].images;
        if there.is_empty() {
            return -1;
        }
        let held: Box<[(u16, i64)]> = (0_u16..)
            .zip(&self.shape.images)
            .filter_map(|(at, image)| there.get(image).map(|size| (at, *size)))
            .collect();
        if held.is_empty() {
            return -1;
        }
        let known = self.held.iter().position(|h| *h == held);
        let at = known.unwrap_or_else(|| {
            self.held.push(held);
            self.held.len() - 1
        });
        i64::try_from(at).unwrap_or(-1)
    }

    fn own_score(&self, world: &World, node: usize) -> i64 {
        let (weights, nodes) = (&self.profile.weights, &world.nodes);
        let mut total = 0;
        if weights.resources_fit > 0 {
            let uses = self.scored.iter().filter_map(|s| usage(s, nodes, node, true));
            total += weights.resources_fit * score::fit(&self.profile.strategy, uses);
        }
        if weights.balanced_allocation > 0 && !self.balanced.is_empty() {
            total += weights.balanced_allocation * self.balance(nodes, node);
        }
        if weights.load_aware > 0
            && let Some(load) = &world.load
        {
            let asked = Amount::new(self.shape.nonzero.0, self.shape.nonzero.1);
            total += weights.load_aware * load.score(node, &self.profile.load, asked, nodes);
        }
        if weights.zones > 0
            && let (Some(zones), Some(need)) = (&world.zones, &self.shape.zones)
        {
            total += weights.zones * zones.score(&nodes[node].name, need, &self.profile.zones);
        }
        total
    }

    fn balance(&self, nodes: &Nodes, node: usize) -> i64 {
        match self.balanced.as_slice() {
            [a, b] => {
                let both = [usage(a, nodes, node, false), usage(b, nodes, node, false)];
                match both {
                    [Some(a), Some(b)] => score::balanced(&[a, b]),
                    [Some(one), None] | [None, Some(one)] => score::balanced(&[one]),
                    [None, None] => score::balanced(&[]),
                }
            }
            several => {
                let uses: Vec<Use> = several.iter().filter_map(|s| usage(s, nodes, node, false)).collect();
                score::balanced(&uses)
            }
        }
    }

    fn leave(&mut self, node: usize) {
        let at = self.nodes.at(node);
        self.nodes.set(node, At::NOWHERE);
        if at.is_refused() {
            // Of nodes that are gone none is counted.
            if let Some(count) = self.statuses.get_mut(&at.status()) {
                *count -= 1;
                if *count == 0 {
                    self.statuses.remove(&at.status());
                }
            }
            return;
        }
        self.leave_level(at);
        let bucket = &mut self.buckets[at.bucket as usize];
        bucket.count -= 1;
        if bucket.count == 0 {
            self.bucket_ids.remove(&bucket.key);
            self.free_buckets.push(at.bucket);
        }
    }

    fn leave_level(&mut self, at: At) {
        let bucket = &mut self.buckets[at.bucket as usize];
        let Some(level) = bucket.levels.get_mut(&at.score()) else { return };
        level.swap_remove(at.position as usize);
        if let Some(moved) = level.get(at.position as usize) {
            self.nodes.reposition(*moved as usize, at.position);
        }
        if level.is_empty() {
            bucket.levels.remove(&at.score());
        }
    }

    fn enter(&mut self, node: usize, key: &[i64], score: i64) {
        let at = self.nodes.at(node);
        let bucket = if !at.is_refused() && *self.buckets[at.bucket as usize].key == *key {
            self.leave_level(at);
            at.bucket
        } else {
            self.leave(node);
            let id = self.bucket(key);
            self.buckets[id as usize].count += 1;
            id
        };
        let level = self.buckets[bucket as usize].levels.entry(score).or_default();
        let position = u32::try_from(level.len()).unwrap_or(u32::MAX);
        level.push(u32::try_from(node).unwrap_or(u32::MAX));
        self.nodes.set(node, At::placed(score, bucket, position));
    }

    /// The bucket of a key.
    fn bucket(&mut self, key: &[i64]) -> u32 {
        if let Some(id) = self.bucket_ids.get(key) {
            return *id;
        }
        let bucket = Bucket { key: key.into(), ..Bucket::default() };
        let id = match self.free_buckets.pop() {
            Some(id) => {
                self.buckets[id as usize] = bucket;
                id
            }
            None => {
                self.buckets.push(bucket);
                u32::try_from(self.buckets.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.bucket_ids.insert(key.into(), id);
        id
    }
}

/// What of each resource the pod needs, without those that are not checked as amounts.
fn fit_columns(shape: &Shape, profile: &Profile, nodes: &mut Nodes) -> Vec<(usize, i64)> {
    let need = &shape.requests;
    let mut columns = vec![(CPU, need.milli_cpu), (MEMORY, need.memory), (EPHEMERAL, need.ephemeral)];
    for (name, amount) in &need.extended {
        if !profile.ignores(name) && **name != *GPU && **name != *GPU_MILLI {
            columns.push((nodes.resource(name), *amount));
        }
    }
    // A pod that asks for nothing fits even where too much was promised already.
    columns.retain(|(_, amount)| *amount > 0);
    columns
}

fn scored<'a>(
    shape: &Shape,
    resources: impl Iterator<Item = (&'a str, i64)>,
    nodes: &mut Nodes,
) -> Vec<Scored> {
    let need = &shape.requests;
    let read = |(name, weight): (&str, i64)| {
        let (request, nonzero) = match name {
            "cpu" => (need.milli_cpu, shape.nonzero.0),
            "memory" => (need.memory, shape.nonzero.1),
            "ephemeral-storage" => (need.ephemeral, need.ephemeral),
            // An extended resource that the pod does not ask for says nothing about where it should go.
            other => match need.get(other) {
                0 => return None,
                amount => (amount, amount),
            },
        };
        Some(Scored { column: nodes.resource(name), weight, request, nonzero })
    };
    resources.filter_map(read).collect()
}

fn usage(scored: &Scored, nodes: &Nodes, node: usize, nonzero: bool) -> Option<Use> {
    let have = nodes.allocatable(scored.column, node);
    if have == 0 {
        return None;
    }
    let without = match scored.column {
        CPU if nonzero => nodes[node].nonzero.0,
        MEMORY if nonzero => nodes[node].nonzero.1,
        column => nodes.used(column, node),
    };
    let pod = if nonzero { scored.nonzero } else { scored.request };
    Some(Use { with: without + pod, without, have, weight: scored.weight })
}
