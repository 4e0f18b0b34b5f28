//! The cluster as the scheduler sees it, kept up to date by small steps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::filter::Filters;
use super::pod::{PodInfo, Wishes};
use super::reasons::{Hints, Unschedulable};
use super::resources::Resources;
use super::score;
use crate::selector::Labels;
use crate::{pods, quantity};

/// A node with what runs on it.
#[derive(Debug, Default)]
pub struct NodeInfo {
    name: Box<str>,
    /// Pods may be known before their node is; such a node takes part in nothing.
    known: bool,
    labels: Labels,
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) allocatable: Resources,
    pub(super) max_pods: i64,
    pub(super) images: HashMap<Box<str>, i64>,
    pub(super) used: Resources,
    pub(super) used_nonzero: (i64, i64),
    pods: BTreeMap<Box<str>, Arc<PodInfo>>,
}

impl NodeInfo {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// What the pods on it asked for.
    pub fn used(&self) -> &Resources {
        &self.used
    }

    /// What it can give.
    pub fn allocatable(&self) -> &Resources {
        &self.allocatable
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &PodInfo> {
        self.pods.values().map(AsRef::as_ref)
    }

    pub(super) fn pod_count(&self) -> i64 {
        i64::try_from(self.pods.len()).unwrap_or(i64::MAX)
    }

    /// Takes over what the API object says; returns what may now fit that did not before.
    fn update(&mut self, node: &Node) -> Hints {
        let status = node.status.as_ref();
        let spec = node.spec.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let allocatable = Resources::new(list);
        let max_pods = list.and_then(|l| l.get("pods")).and_then(|q| quantity::value(&q.0)).unwrap_or(0);
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        let unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);

        let mut hints = Hints::none();
        if !self.known {
            hints = hints.union(Hints::NODE_ADDED);
        }
        if allocatable != self.allocatable || max_pods != self.max_pods {
            hints = hints.union(Hints::NODE_ALLOCATABLE);
        }
        if labels != self.labels {
            hints = hints.union(Hints::NODE_LABELS);
        }
        if taints != self.taints || unschedulable != self.unschedulable {
            hints = hints.union(Hints::NODE_TAINTS);
        }
        (self.known, self.allocatable, self.max_pods) = (true, allocatable, max_pods);
        (self.labels, self.taints, self.unschedulable) = (labels, taints, unschedulable);
        self.images = images(node);
        hints
    }

    fn add(&mut self, pod: Arc<PodInfo>) {
        self.used.add(&pod.requests);
        self.used_nonzero.0 += pod.nonzero.0;
        self.used_nonzero.1 += pod.nonzero.1;
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.used.sub(&pod.requests);
        self.used_nonzero.0 -= pod.nonzero.0;
        self.used_nonzero.1 -= pod.nonzero.1;
        Some(pod)
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

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// Its score; 0 when it was the only one.
    pub score: i64,
    /// How many nodes could take the pod.
    pub feasible: usize,
}

/// All nodes and all bound pods.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<Box<str>, NodeInfo>,
    /// uid of a bound pod -> its node.
    bound: HashMap<Box<str>, Box<str>>,
    namespaces: HashMap<Box<str>, Labels>,
    with_terms: usize,
    known: usize,
}

impl Cluster {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or updates a node; returns what may fit now that did not before.
    pub fn upsert_node(&mut self, node: &Node) -> Hints {
        let name = pods::name(&node.metadata);
        let info = self.nodes.entry(name.into()).or_default();
        if !info.known {
            info.name = name.into();
            self.known += 1;
        }
        info.update(node)
    }

    /// Removes a node; its pods are remembered until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else { return };
        if std::mem::take(&mut info.known) {
            self.known -= 1;
        }
        if info.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    /// Adds or updates a bound pod. A finished or unbound one counts as gone. Returns what that may help.
    pub fn upsert_pod(&mut self, pod: &Pod) -> Hints {
        let uid = pods::uid(&pod.metadata);
        if pods::finished(pod) || pods::node_name(pod).is_empty() {
            return self.remove_pod(uid);
        }
        let info = PodInfo::bound(pod);
        let mut hints = Hints::none();
        match self.pod(uid) {
            Some(old) if old.labels == info.labels && old.terminating == info.terminating => {}
            Some(old) if old.terminating != info.terminating => {
                hints = hints.union(Hints::POD_ADDED).union(Hints::POD_GONE);
            }
            _ => hints = hints.union(Hints::POD_ADDED),
        }
        if self.pod(uid).is_some_and(|old| old.requests != info.requests) {
            hints = hints.union(Hints::POD_GONE);
        }
        self.place(info);
        hints
    }

    /// Counts a pod on a node ahead of the API saying so.
    pub fn assume(&mut self, pod: PodInfo, node: &str) {
        self.place(pod.on(node));
    }

    /// Forgets a bound pod; returns what that may help.
    pub fn remove_pod(&mut self, uid: &str) -> Hints {
        let Some(name) = self.bound.remove(uid) else { return Hints::none() };
        if let Some(info) = self.nodes.get_mut(&name) {
            if info.remove(uid).is_some_and(|pod| pod.terms.is_some()) {
                self.with_terms -= 1;
            }
            if !info.known && info.pods.is_empty() {
                self.nodes.remove(&name);
            }
        }
        Hints::POD_GONE
    }

    /// The node that a pod is counted on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.bound.get(uid).map(AsRef::as_ref)
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|n| n.known)
    }

    /// Sets the labels of a namespace, which namespace selectors read.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.into(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.known
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.known == 0
    }

    /// Chooses a node. Among equally good ones the seed decides.
    pub fn schedule(&self, pod: &PodInfo, seed: u64) -> Result<Placement, Unschedulable> {
        let empty = Wishes::default();
        let wishes = pod.wishes.as_deref().unwrap_or(&empty);
        let filters = Filters::new(self, pod, wishes);
        let mut unplaced = Unschedulable::new(self.known);
        let mut feasible: Vec<&NodeInfo> = Vec::new();
        for node in self.known_nodes() {
            if filters.check(node, &mut unplaced) {
                feasible.push(node);
            }
        }
        match feasible.as_slice() {
            [] => Err(unplaced),
            [only] => Ok(Placement { node: only.name.to_string(), score: 0, feasible: 1 }),
            several => {
                let (best, score) = score::choose(self, pod, wishes, &filters, several, seed);
                Ok(Placement { node: best.name.to_string(), score, feasible: several.len() })
            }
        }
    }

    pub(super) fn known_nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|n| n.known)
    }

    pub(super) fn pods_with_terms(&self) -> usize {
        self.with_terms
    }

    pub(super) fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    fn pod(&self, uid: &str) -> Option<&PodInfo> {
        self.nodes.get(self.bound.get(uid)?)?.pods.get(uid).map(AsRef::as_ref)
    }

    fn place(&mut self, pod: PodInfo) {
        self.remove_pod(&pod.uid.clone());
        self.with_terms += usize::from(pod.terms.is_some());
        self.bound.insert(pod.uid.clone(), pod.node.clone());
        self.nodes.entry(pod.node.clone()).or_default().add(Arc::new(pod));
    }
}
