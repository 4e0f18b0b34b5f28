//! The nodes, as columns: what a decision reads of many nodes lies side by side.
//!
//! A node is an index. It keeps its index while it, or a pod counted on it, is known.

use std::collections::HashMap;
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
use crate::selector::Labels;
use crate::{pods, quantity};

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

/// All nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    index: HashMap<Box<str>, u32>,
    free: Vec<u32>,
    live_count: usize,
    pub name: Vec<Box<str>>,
    /// Pods may be known before their node is; such a node takes part in nothing.
    pub live: Vec<bool>,
    pub labels: Vec<Arc<Labels>>,
    label_keys: HashMap<Box<str>, u32>,
    pub columns: Vec<Column>,
    pub taint_sets: Interner<TaintSet>,
    pub taints: Vec<u32>,
    /// Names of the extended resources; their columns follow those of cpu, memory and ephemeral storage.
    extended: Interner<str>,
    /// How many of them mattered when those that did not were forgotten last.
    kept_extended: usize,
    pub allocatable: Vec<Vec<i64>>,
    pub used: Vec<Vec<i64>>,
    pub nonzero_cpu: Vec<i64>,
    pub nonzero_memory: Vec<i64>,
    pub max_pods: Vec<i64>,
    pub images: Vec<HashMap<Box<str>, i64>>,
    /// How many live nodes hold an image.
    pub image_holders: HashMap<Box<str>, u32>,
    pub gpus: Vec<Gpus>,
    pub ports: Vec<Vec<HostPort>>,
    pub pods: Vec<Vec<Arc<PodInfo>>>,
    /// Pods that wait for others to leave this node.
    pub nominated: Vec<Vec<Arc<PodInfo>>>,
    /// The pods by what they are labelled: id, all of them, those of them that are terminating.
    pub label_counts: Vec<Vec<(LabelSetId, u32, u32)>>,
    /// The terms of the pods about other pods.
    pub term_counts: Vec<Vec<(TermId, u32)>>,
}

impl Nodes {
    /// Slots, also of nodes that are gone.
    pub fn slots(&self) -> usize {
        self.name.len()
    }

    /// Nodes that there are.
    pub fn live_count(&self) -> usize {
        self.live_count
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).map(|i| *i as usize)
    }

    pub fn find_live(&self, name: &str) -> Option<usize> {
        self.find(name).filter(|i| self.live[*i])
    }

    /// The node as others see it who have a say.
    pub fn candidate(&self, slot: usize) -> Candidate<'_> {
        Candidate { name: &self.name[slot], labels: &self.labels[slot], pods: &self.pods[slot] }
    }

    pub fn live_nodes(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots()).filter(|i| self.live[*i])
    }

    /// The slot of that name, made when there is none.
    pub fn slot(&mut self, name: &str) -> usize {
        if let Some(slot) = self.find(name) {
            return slot;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None => self.grow(),
        };
        self.name[slot] = name.into();
        self.index.insert(name.into(), u32::try_from(slot).unwrap_or(NONE));
        slot
    }

    fn grow(&mut self) -> usize {
        let slot = self.slots();
        self.name.push("".into());
        self.live.push(false);
        self.labels.push(Arc::default());
        self.columns.iter_mut().for_each(|c| c.of_node.push(NONE));
        self.taints.push(0);
        if self.allocatable.is_empty() {
            self.allocatable.resize(FIRST_EXTENDED, Vec::new());
            self.used.resize(FIRST_EXTENDED, Vec::new());
        }
        self.allocatable.iter_mut().chain(&mut self.used).for_each(|c| c.push(0));
        self.nonzero_cpu.push(0);
        self.nonzero_memory.push(0);
        self.max_pods.push(0);
        self.images.push(HashMap::new());
        self.gpus.push(Gpus::default());
        self.ports.push(Vec::new());
        self.pods.push(Vec::new());
        self.nominated.push(Vec::new());
        self.label_counts.push(Vec::new());
        self.term_counts.push(Vec::new());
        slot
    }

    /// Gives the slot back when neither the node nor a pod on it is known.
    pub fn release(&mut self, slot: usize) {
        if self.live[slot] || !self.pods[slot].is_empty() || !self.nominated[slot].is_empty() {
            return;
        }
        if let Some(index) = self.index.remove(&self.name[slot]) {
            self.name[slot] = "".into();
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
            if self.live[node] {
                column.set(node, self.labels[node].get(key).map(String::as_str));
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
        for (slot, set) in self.taints.iter_mut().enumerate() {
            let taints = if self.live[slot] { old.value(*set).clone() } else { Arc::default() };
            *set = self.taint_sets.insert(taints);
        }
        let old = std::mem::take(&mut self.extended);
        let mut kept = FIRST_EXTENDED;
        for column in FIRST_EXTENDED..self.allocatable.len() {
            let matters = |columns: &[Vec<i64>]| columns[column].iter().any(|amount| *amount != 0);
            if matters(&self.allocatable) || matters(&self.used) {
                let name = old.value(u32::try_from(column - FIRST_EXTENDED).unwrap_or(NONE));
                self.extended.insert(name.clone());
                self.allocatable.swap(kept, column);
                self.used.swap(kept, column);
                kept += 1;
            }
        }
        self.kept_extended = kept - FIRST_EXTENDED;
        self.allocatable.truncate(kept);
        self.used.truncate(kept);
    }

    /// The column of a resource by name, made when there is none.
    pub fn resource(&mut self, name: &str) -> usize {
        match name {
            "cpu" => CPU,
            "memory" => MEMORY,
            "ephemeral-storage" => EPHEMERAL,
            other => {
                let column = FIRST_EXTENDED + self.extended.intern(other) as usize;
                if self.allocatable.len() <= column {
                    let zeros = vec![0; self.slots()];
                    self.allocatable.resize(column + 1, zeros.clone());
                    self.used.resize(column + 1, zeros);
                }
                column
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

    /// What a node has to give of each resource that it names.
    pub fn resources_of(&self, columns: &[Vec<i64>], node: usize) -> Resources {
        let at = |column: usize| columns.get(column).map_or(0, |c| c[node]);
        let mut resources = Resources {
            milli_cpu: at(CPU),
            memory: at(MEMORY),
            ephemeral: at(EPHEMERAL),
            extended: Vec::new(),
        };
        for column in FIRST_EXTENDED..columns.len() {
            if at(column) != 0 {
                resources.extended.push((self.resource_name(column).into(), at(column)));
            }
        }
        resources.extended.sort();
        resources
    }

    /// Takes over what the API object says; returns what may now fit that did not before, and whether images changed.
    pub fn update(&mut self, slot: usize, node: &Node) -> (Hints, bool) {
        let (status, spec) = (node.status.as_ref(), node.spec.as_ref());
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let mut hints = Hints::none();
        if !std::mem::replace(&mut self.live[slot], true) {
            self.live_count += 1;
            hints = hints.union(Hints::NODE_ADDED);
        }
        let max_pods = list.and_then(|l| l.get("pods")).and_then(|q| quantity::value(&q.0)).unwrap_or(0);
        let more_pods = std::mem::replace(&mut self.max_pods[slot], max_pods) != max_pods;
        if self.set_allocatable(slot, &Resources::new(list)) || more_pods {
            hints = hints.union(Hints::NODE_ALLOCATABLE);
        }
        let labels = node.metadata.labels.as_ref();
        if labels.map_or(!self.labels[slot].is_empty(), |l| *l != *self.labels[slot])
            || hints.intersects(Hints::NODE_ADDED)
        {
            hints = hints.union(Hints::NODE_LABELS);
            self.set_labels(slot, labels.cloned().unwrap_or_default());
        }
        let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let set = TaintSet::new(spec.and_then(|s| s.unschedulable).unwrap_or(false), taints);
        let set = self.taint_sets.insert(Arc::new(set));
        if std::mem::replace(&mut self.taints[slot], set) != set {
            hints = hints.union(Hints::NODE_TAINTS);
        }
        let images = self.set_images(slot, images(node));
        (hints, images)
    }

    /// Takes the node out; its pods stay counted until they go themselves.
    pub fn kill(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.live[slot], false) {
            return;
        }
        self.live_count -= 1;
        self.set_images(slot, HashMap::new());
        self.columns.iter_mut().for_each(|c| c.set(slot, None));
        self.labels[slot] = Arc::default();
        self.allocatable.iter_mut().for_each(|c| c[slot] = 0);
        self.max_pods[slot] = 0;
        self.gpus[slot].resize(0);
    }

    fn set_allocatable(&mut self, slot: usize, have: &Resources) -> bool {
        let mut row = vec![0; self.allocatable.len()];
        let mut put = |column: usize, amount: i64| {
            if row.len() <= column {
                row.resize(column + 1, 0);
            }
            row[column] = amount;
        };
        put(CPU, have.milli_cpu);
        put(MEMORY, have.memory);
        put(EPHEMERAL, have.ephemeral);
        for (name, amount) in &have.extended {
            put(self.resource(name), *amount);
        }
        let mut changed = self.gpus[slot].resize(gpu::devices(have));
        if changed {
            for pod in &self.pods[slot] {
                self.gpus[slot].charge(pod.shape.gpu, &pod.devices, 1);
            }
        }
        for (column, amount) in row.into_iter().enumerate() {
            changed |= std::mem::replace(&mut self.allocatable[column][slot], amount) != amount;
        }
        changed
    }

    fn set_labels(&mut self, slot: usize, labels: Labels) {
        for (key, column) in &self.label_keys {
            self.columns[*column as usize].set(slot, labels.get(&**key).map(String::as_str));
        }
        self.labels[slot] = Arc::new(labels);
    }

    /// Whether that is a change.
    fn set_images(&mut self, slot: usize, images: HashMap<Box<str>, i64>) -> bool {
        if self.images[slot] == images {
            return false;
        }
        let old = std::mem::replace(&mut self.images[slot], images);
        for name in old.keys() {
            if let Some(holders) = self.image_holders.get_mut(name) {
                *holders -= 1;
                if *holders == 0 {
                    self.image_holders.remove(name);
                }
            }
        }
        for name in self.images[slot].keys() {
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
        self.used[CPU][slot] += sign * need.milli_cpu;
        self.used[MEMORY][slot] += sign * need.memory;
        self.used[EPHEMERAL][slot] += sign * need.ephemeral;
        for (name, amount) in &need.extended {
            let column = self.resource(name);
            self.used[column][slot] += sign * amount;
        }
        self.nonzero_cpu[slot] += sign * shape.nonzero.0;
        self.nonzero_memory[slot] += sign * shape.nonzero.1;
    }
}

fn images(node: &Node) -> HashMap<Box<str>, i64> {
    let mut images = HashMap::new();
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
