//! Affinity and anti-affinity between pods.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};

use super::cluster::{Cluster, NodeInfo};
use super::pod::{PodInfo, PodTerms};
use super::reasons::{Hints, Reason};
use crate::selector::{Labels, Selector};

/// Where the pods that a term speaks of live.
#[derive(Debug, Clone)]
enum Namespaces {
    Listed(Box<[Box<str>]>),
    Selected(Box<[Box<str>]>, Selector),
}

/// One term.
#[derive(Debug, Clone)]
pub(super) struct Term {
    namespaces: Namespaces,
    selector: Selector,
    topology_key: Box<str>,
}

/// A preferred term; the weight of an anti-affinity is negative.
#[derive(Debug, Clone)]
pub(super) struct WeightedTerm {
    pub term: Term,
    pub weight: i64,
}

impl Term {
    fn new(term: &PodAffinityTerm, namespace: &str) -> Self {
        let listed: Box<[Box<str>]> = term.namespaces.iter().flatten().map(|n| n.as_str().into()).collect();
        let namespaces = match (&term.namespace_selector, listed.is_empty()) {
            (Some(selector), _) => Namespaces::Selected(listed, Selector::new(Some(selector))),
            (None, false) => Namespaces::Listed(listed),
            (None, true) => Namespaces::Listed(Box::new([namespace.into()])),
        };
        Self {
            namespaces,
            selector: Selector::new(term.label_selector.as_ref()),
            topology_key: term.topology_key.as_str().into(),
        }
    }

    fn matches(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        let within = match &self.namespaces {
            Namespaces::Listed(names) => names.contains(&pod.namespace),
            Namespaces::Selected(names, selector) => {
                names.contains(&pod.namespace) || selector.matches(cluster.namespace_labels(&pod.namespace))
            }
        };
        within && self.selector.matches(Some(&pod.labels))
    }
}

pub(super) fn required_terms(terms: Option<&[PodAffinityTerm]>, namespace: &str) -> Vec<Term> {
    terms.unwrap_or_default().iter().map(|t| Term::new(t, namespace)).collect()
}

pub(super) fn weighted_terms(
    terms: Option<&[WeightedPodAffinityTerm]>,
    namespace: &str,
    sign: i64,
) -> Vec<WeightedTerm> {
    let read = |t: &WeightedPodAffinityTerm| WeightedTerm {
        term: Term::new(&t.pod_affinity_term, namespace),
        weight: sign * i64::from(t.weight),
    };
    terms.unwrap_or_default().iter().map(read).collect()
}

/// How many pods (or how much weight) a topology domain holds: key -> value -> amount.
#[derive(Debug, Default)]
struct Domains(HashMap<Box<str>, HashMap<Box<str>, i64>>);

impl Domains {
    fn add(&mut self, key: &str, node: &NodeInfo, amount: i64) {
        if let Some(value) = node.labels().get(key) {
            let values = self.0.entry(key.into()).or_default();
            *values.entry(value.as_str().into()).or_insert(0) += amount;
        }
    }

    fn at(&self, key: &str, labels: &Labels) -> i64 {
        let Some(value) = labels.get(key) else { return 0 };
        self.0.get(key).and_then(|values| values.get(value.as_str())).copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The amounts of every domain that the node is in, together.
    fn total(&self, labels: &Labels) -> i64 {
        self.0
            .iter()
            .filter_map(|(key, values)| labels.get(&**key).and_then(|v| values.get(v.as_str())))
            .sum()
    }
}

/// What the cluster says about one pod, computed once for all nodes.
#[derive(Debug, Default)]
pub(super) struct InterPod {
    affinity: Domains,
    anti_affinity: Domains,
    existing: Domains,
    preferred: Domains,
    alone_is_fine: bool,
    active: bool,
}

const AFFINITY: Reason =
    Reason::new("node(s) didn't match pod affinity rules", Hints::NODE_LABELS.union(Hints::POD_ADDED));
const ANTI_AFFINITY: Reason =
    Reason::new("node(s) didn't match pod anti-affinity rules", Hints::NODE_LABELS.union(Hints::POD_GONE));
const EXISTING: Reason = Reason::new(
    "node(s) didn't satisfy existing pods anti-affinity rules",
    Hints::NODE_LABELS.union(Hints::POD_GONE),
);

impl InterPod {
    pub fn new(cluster: &Cluster, pod: &PodInfo) -> Self {
        let mut state = Self::default();
        if pod.terms.is_none() && cluster.pods_with_terms() == 0 {
            return state;
        }
        state.active = true;
        let none = PodTerms::default();
        let terms = pod.terms.as_deref().unwrap_or(&none);
        for node in cluster.known_nodes() {
            let all = pod.terms.is_some();
            for existing in node.pods().filter(|p| all || p.terms.is_some()) {
                state.read(cluster, node, pod, terms, existing);
            }
        }
        state.alone_is_fine =
            state.affinity.is_empty() && terms.affinity.iter().all(|t| t.matches(pod, cluster));
        state
    }

    fn read(
        &mut self,
        cluster: &Cluster,
        node: &NodeInfo,
        pod: &PodInfo,
        terms: &PodTerms,
        existing: &PodInfo,
    ) {
        if !terms.affinity.is_empty() && terms.affinity.iter().all(|t| t.matches(existing, cluster)) {
            for term in &terms.affinity {
                self.affinity.add(&term.topology_key, node, 1);
            }
        }
        for term in terms.anti_affinity.iter().filter(|t| t.matches(existing, cluster)) {
            self.anti_affinity.add(&term.topology_key, node, 1);
        }
        for wish in terms.preferred.iter().filter(|w| w.term.matches(existing, cluster)) {
            self.preferred.add(&wish.term.topology_key, node, wish.weight);
        }
        let Some(theirs) = existing.terms.as_deref() else { return };
        for term in theirs.anti_affinity.iter().filter(|t| t.matches(pod, cluster)) {
            self.existing.add(&term.topology_key, node, 1);
        }
        // A pod that must be near others would like them to come near it, too.
        for term in theirs.affinity.iter().filter(|t| t.matches(pod, cluster)) {
            self.preferred.add(&term.topology_key, node, 1);
        }
        for wish in theirs.preferred.iter().filter(|w| w.term.matches(pod, cluster)) {
            self.preferred.add(&wish.term.topology_key, node, wish.weight);
        }
    }

    pub fn filter(&self, pod: &PodInfo, labels: &Labels) -> Option<Reason> {
        if !self.active {
            return None;
        }
        if let Some(terms) = pod.terms.as_deref() {
            let present = terms.affinity.iter().all(|t| labels.contains_key(&*t.topology_key));
            let near = terms.affinity.iter().all(|t| self.affinity.at(&t.topology_key, labels) > 0);
            if !(present && (near || self.alone_is_fine)) {
                return Some(AFFINITY);
            }
            if terms.anti_affinity.iter().any(|t| self.anti_affinity.at(&t.topology_key, labels) > 0) {
                return Some(ANTI_AFFINITY);
            }
        }
        (!self.existing.is_empty() && self.existing.total(labels) > 0).then_some(EXISTING)
    }

    /// Whether any preference is in play.
    pub fn has_preferred(&self) -> bool {
        !self.preferred.is_empty()
    }

    pub fn score(&self, labels: &Labels) -> i64 {
        self.preferred.total(labels)
    }
}
