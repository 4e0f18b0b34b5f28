//! The nodes: what is known of one lies side by side in its row; what pods name (labels, extended resources) is in columns.
//!
//! A node is an index. It keeps its index while it, or a pod counted on it, is known.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::gpu::{self, Gpus};
use super::intern::Interner;
use super::labelsets::{LabelSetId, TermId};
use super::pod::{HostPort, PodInfo};
use super::reasons::Hints;
use super::resources::Resources;
use super::taints::TaintSet;
use super::view::Candidate;
use crate::hash::Map;
use crate::selector::Labels;
use crate::{pods, prefetch, quantity};

/// Absence of a label.
pub(super) const NONE: u32 = u32::MAX;

/// The columns of resources that every node has.
pub(super) const CPU: usize = 0;
pub(super) const MEMORY: usize = 1;
pub(super) const EPHEMERAL: usize = 2;
const FIRST_EXTENDED: usize = 3;

/// Beyond so many columns, and so many values that no node has, all are made anew from what is asked for since.
const MOST_COLUMNS: usize = 256;
const MOST_UNUSED: usize = 1 << 14;

/// The values of one label over all nodes. A column exists once something asks for its key.
#[derive(Debug, Clone, Default)]
pub(super) struct Column {
    values: Interner<str>,
    of_node: Vec<u32>,
    /// How many live nodes have each value.
    holders: Vec<u32>,
    distinct: usize,
    shared: usize,
}

impl Column {
    pub fn at(&self, node: usize) -> Option<u32> {
        let value = self.of_node[node];
        (value != NONE).then_some(value)
    }

    pub fn text(&self, value: u32) -> &str {
        self.values.value(value)
    }

    /// How many numbers of values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn intern(&mut self, text: &str) -> u32 {
        let value = self.values.intern(text);
        if self.holders.len() <= value as usize {
            self.holders.resize(value as usize + 1, 0);
        }
        value
    }

    /// Whether no two nodes have the same value, as with host names, and there are too many to look at one by one.
    pub fn per_node(&self) -> bool {
        self.shared == 0 && self.distinct > 16
    }

    fn set(&mut self, node: usize, text: Option<&str>) {
        let new = text.map_or(NONE, |text| self.intern(text));
        let old = std::mem::replace(&mut self.of_node[node], new);
        if old == new {
            return;
        }
        if old != NONE {
            let holders = &mut self.holders[old as usize];
            *holders -= 1;
            self.distinct -= usize::from(*holders == 0);
            self.shared -= usize::from(*holders == 1);
        }
        if new != NONE {
            let holders = &mut self.holders[new as usize];
            *holders += 1;
            self.distinct += usize::from(*holders == 1);
            self.shared += usize::from(*holders == 2);
        }
    }
}

/// An extended resource over all nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Amounts {
    allocatable: Vec<i64>,
    used: Vec<i64>,
}

/// What is known of one node. It lies side by side: first what tells whether a pod fits (128 bytes), then what decisions read
/// and write besides (as much again). Where there are many nodes, looking at one costs as many waits for memory as there are places to look at.
#[derive(Debug, Clone, Default)]
#[repr(C, align(64))]
pub(super) struct Row {
    /// Pods may be known before their node is; such a node takes part in nothing.
    pub live: bool,
    pub taints: u32,
    pub max_pods: i64,
    allocatable: [i64; FIRST_EXTENDED],
    used: [i64; FIRST_EXTENDED],
    /// CPU and memory that pods are taken to use at least.
    pub nonzero: (i64, i64),
    pub pods: Vec<Arc<PodInfo>>,
    /// Pods that wait for others to leave this node.
    pub nominated: Vec<Arc<PodInfo>>,
    /// The pods by what they are labelled: id, all of them, those of them that are terminating.
    pub label_counts: Vec<(LabelSetId, u32, u32)>,
    /// The terms of the pods about other pods.
    pub term_counts: Vec<(TermId, u32)>,
    pub name: Arc<str>,
    pub crowd: Crowd,
    pub gpus: Gpus,
    pub ports: Vec<HostPort>,
    pub labels: Arc<Labels>,
    pub images: Map<Box<str>, i64>,
}

impl Row {
    /// A pod comes soon, or goes: what it is counted in.
    pub fn prefetch(&self) {
        prefetch::soon(&self.live);
        prefetch::soon(&self.nominated);
        prefetch::soon(&self.term_counts);
        prefetch::soon(&self.crowd);
        self.label_counts.first().into_iter().for_each(prefetch::soon);
        self.pods.first().into_iter().chain(self.pods.last()).for_each(prefetch::soon);
    }
}

/// Bounds for the pods of a node: none goes beyond, but perhaps none reaches them any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    /// No pod is less important.
    pub lowest: i32,
    /// None started later.
    pub latest: i64,
    /// None asks for more CPU or memory.
    pub largest: [i64; 2],
}

impl Default for Crowd {
    fn default() -> Self {
        Self { lowest: i32::MAX, latest: i64::MIN, largest: [0; 2] }
    }
}

impl Crowd {
    /// A pod joins.
    pub fn join(&mut self, pod: &PodInfo) {
        let need = &pod.shape.requests;
        self.lowest = self.lowest.min(pod.shape.priority);
        self.latest = self.latest.max(pod.started);
        let [cpu, memory] = self.largest;
        self.largest = [cpu.max(need.milli_cpu), memory.max(need.memory)];
    }
}

/// All nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    index: Map<Arc<str>, u32>,
    free: Vec<u32>,
    live_count: usize,
    /// The node that was chosen last: likely the one that is named next.
    recent: usize,
    rows: Vec<Row>,
    label_keys: Map<Box<str>, u32>,
    pub columns: Vec<Column>,
    pub taint_sets: Interner<TaintSet>,
    /// Names of the extended resources; their columns follow those of cpu, memory and ephemeral storage.
    extended: Interner<str>,
    /// How many of them mattered when those that did not were forgotten last.
    kept_extended: usize,
    pub further: Vec<Amounts>,
    /// How many live nodes hold an image.
    pub image_holders: Map<Box<str>, u32>,
}

impl Index<usize> for Nodes {
    type Output = Row;

    fn index(&self, slot: usize) -> &Row {
        &self.rows[slot]
    }
}

impl IndexMut<usize> for Nodes {
    fn index_mut(&mut self, slot: usize) -> &mut Row {
        &mut self.rows[slot]
    }
}

impl Nodes {
    /// Slots, also of nodes that are gone.
    pub fn slots(&self) -> usize {
        self.rows.len()
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.iter_mut()
    }

    /// Nodes that there are.
    pub fn live_count(&self) -> usize {
        self.live_count
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).map(|i| *i as usize)
    }

    pub fn find_live(&self, name: &str) -> Option<usize> {
        self.find(name).filter(|i| self.rows[*i].live)
    }

    /// The node as others see it who have a say.
    pub fn candidate(&self, slot: usize) -> Candidate<'_> {
        let row = &self.rows[slot];
        Candidate { name: &row.name, labels: &row.labels, pods: &row.pods }
    }

    pub fn live_nodes(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots()).filter(|i| self.rows[*i].live)
    }

    /// The slot of that name, made when there is none.
    pub fn slot(&mut self, name: &str) -> usize {
        if self.rows.get(self.recent).is_some_and(|row| !name.is_empty() && *row.name == *name) {
            return self.recent;
        }
        if let Some(slot) = self.find(name) {
            return slot;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None => self.grow(),
        };
        let name: Arc<str> = name.into();
        self.rows[slot].name = name.clone();
        self.index.insert(name, u32::try_from(slot).unwrap_or(NONE));
        slot
    }

    /// The name as the node keeps it, where that is at hand.
    pub fn shared_name(&self, name: &str) -> Arc<str> {
        match self.rows.get(self.recent) {
            Some(row) if *row.name == *name => row.name.clone(),
            _ => name.into(),
        }
    }

    /// Notes that a node was chosen: it need not be looked up when its name comes back.
    pub fn expect(&mut self, slot: usize) {
        self.recent = slot;
    }

    /// Whether a pod fits on a node is asked soon.
    pub fn expect_reading(&self, slot: usize) {
        if let Some(row) = self.rows.get(slot) {
            prefetch::soon(&row.live);
            prefetch::soon(&row.nominated);
        }
    }

    /// What its pods are labelled, and say about others, is read soon.
    pub fn expect_counting(&self, slot: usize) {
        if let Some(row) = self.rows.get(slot) {
            row.label_counts.first().into_iter().for_each(prefetch::soon);
            row.term_counts.first().into_iter().for_each(prefetch::soon);
        }
    }

    fn grow(&mut self) -> usize {
        let slot = self.slots();
        self.rows.push(Row::default());
        self.columns.iter_mut().for_each(|c| c.of_node.push(NONE));
        for amounts in &mut self.further {
            amounts.allocatable.push(0);
            amounts.used.push(0);
        }
        slot
    }

    /// Gives the slot back when neither the node nor a pod on it is known.
    pub fn release(&mut self, slot: usize) {
        let row = &mut self.rows[slot];
        if row.live || !row.pods.is_empty() || !row.nominated.is_empty() {
            return;
        }
        if let Some(index) = self.index.remove(&std::mem::take(&mut row.name)) {
            self.free.push(index);
        }
    }

    /// The column of a label; it is filled at the first question.
    pub fn column(&mut self, key: &str) -> u32 {
        if let Some(column) = self.label_keys.get(key) {
            return *column;
        }
        let mut column = Column { of_node: vec![NONE; self.slots()], ..Column::default() };
        for node in 0..self.slots() {
            if self.rows[node].live {
                column.set(node, self.rows[node].labels.get(key).map(String::as_str));
            }
        }
        let id = u32::try_from(self.columns.len()).unwrap_or(NONE);
        self.columns.push(column);
        self.label_keys.insert(key.into(), id);
        id
    }

    /// Whether columns and values are kept beyond their bounds: pods name labels, values and resources that no node has.
    pub fn is_bloated(&self) -> bool {
        let unused = |c: &Column| c.values.len() - c.distinct;
        self.columns.len() > MOST_COLUMNS
            || self.extended.len() > MOST_COLUMNS + 2 * self.kept_extended
            || self.columns.iter().map(unused).sum::<usize>() > MOST_UNUSED
            || self.taint_sets.len() > MOST_UNUSED + self.slots()
    }

    /// Forgets every column, and of resources and taints what no node has. Whoever holds numbers must forget them.
    pub fn compact(&mut self) {
        self.columns.clear();
        self.label_keys.clear();
        let old = std::mem::take(&mut self.taint_sets);
        for row in &mut self.rows {
            let taints = if row.live { old.value(row.taints).clone() } else { Arc::default() };
            row.taints = self.taint_sets.insert(taints);
        }
        let old = std::mem::take(&mut self.extended);
        let further = std::mem::take(&mut self.further);
        for (number, amounts) in (0..).zip(further) {
            if amounts.allocatable.iter().chain(&amounts.used).any(|amount| *amount != 0) {
                self.extended.insert(old.value(number).clone());
                self.further.push(amounts);
            }
        }
        self.kept_extended = self.further.len();
    }

    /// The column of a resource by name, made when there is none.
    pub fn resource(&mut self, name: &str) -> usize {
        match name {
            "cpu" => CPU,
            "memory" => MEMORY,
            "ephemeral-storage" => EPHEMERAL,
            other => {
                let number = self.extended.intern(other) as usize;
                if self.further.len() <= number {
                    let zeros = || vec![0; self.rows.len()];
                    self.further.push(Amounts { allocatable: zeros(), used: zeros() });
                }
                FIRST_EXTENDED + number
            }
        }
    }

    pub fn resource_name(&self, column: usize) -> &str {
        match column {
            CPU => "cpu",
            MEMORY => "memory",
            EPHEMERAL => "ephemeral-storage",
            other => self.extended.value(u32::try_from(other - FIRST_EXTENDED).unwrap_or(0)),
        }
    }

    /// How much of a resource is in a request.
    pub fn request_of(&self, requests: &Resources, column: usize) -> i64 {
        match column {
            CPU => requests.milli_cpu,
            MEMORY => requests.memory,
            EPHEMERAL => requests.ephemeral,
            other => requests.get(self.resource_name(other)),
        }
    }

    /// What a node has to give of a resource.
    pub fn allocatable(&self, column: usize, slot: usize) -> i64 {
        match self.rows[slot].allocatable.get(column) {
            Some(amount) => *amount,
            None => self.further[column - FIRST_EXTENDED].allocatable[slot],
        }
    }

    /// What its pods asked for of a resource.
    pub fn used(&self, column: usize, slot: usize) -> i64 {
        match self.rows[slot].used.get(column) {
            Some(amount) => *amount,
            None => self.further[column - FIRST_EXTENDED].used[slot],
        }
    }

    /// Amounts by the names of resources.
    pub fn resources(&self, amount: impl Fn(usize) -> i64) -> Resources {
        let further = FIRST_EXTENDED..FIRST_EXTENDED + self.further.len();
        let named = further.map(|column| (self.resource_name(column), amount(column)));
        let mut extended: Vec<(Box<str>, i64)> =
            named.filter(|(_, amount)| *amount != 0).map(|(name, amount)| (name.into(), amount)).collect();
        extended.sort();
        Resources { milli_cpu: amount(CPU), memory: amount(MEMORY), ephemeral: amount(EPHEMERAL), extended }
    }

    /// Takes over what the API object says; returns what may now fit that did not before, and whether images changed.
    pub fn update(&mut self, slot: usize, node: &Node) -> (Hints, bool) {
        let (status, spec) = (node.status.as_ref(), node.spec.as_ref());
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let mut hints = Hints::none();
        if !std::mem::replace(&mut self.rows[slot].live, true) {
            self.live_count += 1;
            hints = hints.union(Hints::NODE_ADDED);
        }
        let max_pods = list.and_then(|l| l.get("pods")).and_then(|q| quantity::value(&q.0)).unwrap_or(0);
        let more_pods = std::mem::replace(&mut self.rows[slot].max_pods, max_pods) != max_pods;
        if self.set_allocatable(slot, &Resources::new(list)) || more_pods {
            hints = hints.union(Hints::NODE_ALLOCATABLE);
        }
        let labels = node.metadata.labels.as_ref();
        if labels.map_or(!self.rows[slot].labels.is_empty(), |l| *l != *self.rows[slot].labels)
            || hints.intersects(Hints::NODE_ADDED)
        {
            hints = hints.union(Hints::NODE_LABELS);
            self.set_labels(slot, labels.cloned().unwrap_or_default());
        }
        let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let set = TaintSet::new(spec.and_then(|s| s.unschedulable).unwrap_or(false), taints);
        let set = self.taint_sets.insert(Arc::new(set));
        if std::mem::replace(&mut self.rows[slot].taints, set) != set {
            hints = hints.union(Hints::NODE_TAINTS);
        }
        let images = self.set_images(slot, images(node));
        (hints, images)
    }

    /// Takes the node out; its pods stay counted until they go themselves.
    pub fn kill(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.rows[slot].live, false) {
            return;
        }
        self.live_count -= 1;
        self.set_images(slot, Map::default());
        self.columns.iter_mut().for_each(|c| c.set(slot, None));
        self.rows[slot].labels = Arc::default();
        self.further.iter_mut().for_each(|amounts| amounts.allocatable[slot] = 0);
        let row = &mut self.rows[slot];
        row.allocatable = Default::default();
        row.max_pods = 0;
        row.gpus.resize(0);
    }

    fn set_allocatable(&mut self, slot: usize, have: &Resources) -> bool {
        let mut further = vec![0; self.further.len()];
        for (name, amount) in &have.extended {
            let number = self.resource(name) - FIRST_EXTENDED;
            further.resize(self.further.len(), 0);
            further[number] = *amount;
        }
        let row = &mut self.rows[slot];
        let mut changed = row.gpus.resize(gpu::devices(have));
        if changed {
            for pod in &row.pods {
                row.gpus.charge(pod.shape.gpu, &pod.devices, 1);
            }
        }
        let first = [have.milli_cpu, have.memory, have.ephemeral];
        changed |= std::mem::replace(&mut row.allocatable, first) != first;
        for (amounts, amount) in self.further.iter_mut().zip(further) {
            changed |= std::mem::replace(&mut amounts.allocatable[slot], amount) != amount;
        }
        changed
    }

    fn set_labels(&mut self, slot: usize, labels: Labels) {
        for (key, column) in &self.label_keys {
            self.columns[*column as usize].set(slot, labels.get(&**key).map(String::as_str));
        }
        self.rows[slot].labels = Arc::new(labels);
    }

    /// Whether that is a change.
    fn set_images(&mut self, slot: usize, images: Map<Box<str>, i64>) -> bool {
        if self.rows[slot].images == images {
            return false;
        }
        let old = std::mem::replace(&mut self.rows[slot].images, images);
        for name in old.keys() {
            if let Some(holders) = self.image_holders.get_mut(name) {
                *holders -= 1;
                if *holders == 0 {
                    self.image_holders.remove(name);
                }
            }
        }
        for name in self.rows[slot].images.keys() {
            match self.image_holders.get_mut(name) {
                Some(holders) => *holders += 1,
                None => {
                    self.image_holders.insert(name.clone(), 1);
                }
            }
        }
        true
    }

    /// Adds what a pod asks for (`sign` 1), or takes it away (-1).
    pub fn charge(&mut self, slot: usize, pod: &PodInfo, sign: i64) {
        let shape = &pod.shape;
        let need = &shape.requests;
        let row = &mut self.rows[slot];
        row.used[CPU] += sign * need.milli_cpu;
        row.used[MEMORY] += sign * need.memory;
        row.used[EPHEMERAL] += sign * need.ephemeral;
        row.nonzero.0 += sign * shape.nonzero.0;
        row.nonzero.1 += sign * shape.nonzero.1;
        for (name, amount) in &need.extended {
            let number = self.resource(name) - FIRST_EXTENDED;
            self.further[number].used[slot] += sign * amount;
        }
    }
}

fn images(node: &Node) -> Map<Box<str>, i64> {
    let mut images = Map::default();
    for image in node.status.iter().flat_map(|s| s.images.iter().flatten()) {
        for name in image.names.iter().flatten() {
            images.insert(name.as_str().into(), image.size_bytes.unwrap_or(0));
        }
    }
    images
}

/// The name of a node object.
pub(super) fn name_of(node: &Node) -> &str {
    pods::name(&node.metadata)
}
