//! Topology spread constraints.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::cluster::{Cluster, NodeInfo};
use super::filter::tolerates_hard_taints;
use super::pod::{PodInfo, Wishes};
use super::reasons::{Hints, Reason};
use crate::selector::{Labels, Requirement, Selector};

/// One constraint.
#[derive(Debug, Clone)]
pub(super) struct Constraint {
    key: Box<str>,
    max_skew: i64,
    min_domains: i64,
    hard: bool,
    selector: Selector,
    honor_affinity: bool,
    honor_taints: bool,
    /// Counts the pods of one owner in place of those that the selector names.
    owner: Option<Box<str>>,
}

impl Constraint {
    pub fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Self {
        let mut selector = Selector::new(constraint.label_selector.as_ref());
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.require(Requirement::equals(key, value));
            }
        }
        Self {
            key: constraint.topology_key.as_str().into(),
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.unwrap_or(1).into(),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            selector,
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            owner: None,
        }
    }

    /// Replicas of one owner are spread over nodes when the pod says nothing itself.
    fn by_default(owner: &str) -> Self {
        Self {
            key: "kubernetes.io/hostname".into(),
            max_skew: 3,
            min_domains: 1,
            hard: false,
            selector: Selector::nothing(),
            honor_affinity: true,
            honor_taints: false,
            owner: Some(owner.into()),
        }
    }

    fn counts(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        match &self.owner {
            Some(owner) => other.owner.as_ref() == Some(owner),
            None => other.namespace == pod.namespace && self.selector.matches(Some(&other.labels)),
        }
    }

    fn eligible(&self, wishes: &Wishes, node: &NodeInfo) -> bool {
        (!self.honor_affinity || wishes.node.matches(node.name(), node.labels()))
            && (!self.honor_taints || tolerates_hard_taints(wishes, node))
    }
}

/// One constraint with the number of pods in each of its domains.
#[derive(Debug)]
struct Counted {
    constraint: Constraint,
    domains: HashMap<Box<str>, i64>,
    smallest: i64,
    matches_itself: bool,
}

/// All constraints of one pod, counted once for all nodes.
#[derive(Debug, Default)]
pub(super) struct Spread {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
}

const SKEW: Reason = Reason::new(
    "node(s) didn't match pod topology spread constraints",
    Hints::NODE_LABELS.union(Hints::POD_GONE).union(Hints::POD_ADDED),
);
const MISSING: Reason = Reason::new(
    "node(s) didn't match pod topology spread constraints (missing required label)",
    Hints::NODE_LABELS,
);

impl Spread {
    pub fn new(cluster: &Cluster, pod: &PodInfo, wishes: &Wishes) -> Self {
        let mut spread = Self::default();
        let mut constraints = wishes.spread.clone();
        if constraints.is_empty() {
            constraints.extend(pod.owner.as_deref().map(Constraint::by_default));
        }
        if constraints.is_empty() {
            return spread;
        }
        let keys = |hard: bool| -> HashSet<Box<str>> {
            constraints.iter().filter(|c| c.hard == hard).map(|c| c.key.clone()).collect()
        };
        let (hard_keys, soft_keys) = (keys(true), keys(false));
        for constraint in constraints {
            let needed = if constraint.hard { &hard_keys } else { &soft_keys };
            let counted = count(cluster, pod, wishes, constraint, needed);
            let list = if counted.constraint.hard { &mut spread.hard } else { &mut spread.soft };
            list.push(counted);
        }
        spread
    }

    pub fn filter(&self, labels: &Labels) -> Option<Reason> {
        for counted in &self.hard {
            let Some(domain) = labels.get(&*counted.constraint.key) else { return Some(MISSING) };
            let here = counted.domains.get(domain.as_str()).copied().unwrap_or(0);
            let skew = here + i64::from(counted.matches_itself) - counted.smallest;
            if skew > counted.constraint.max_skew {
                return Some(SKEW);
            }
        }
        None
    }

    /// Whether spreading plays a part in scores.
    pub fn scores(&self) -> bool {
        !self.soft.is_empty()
    }

    /// How crowded the domains of a node are: less is better. `None` when the node has no such domain.
    pub fn crowd(&self, labels: &Labels) -> Option<i64> {
        let mut total = 0.0;
        for counted in &self.soft {
            let domain = labels.get(&*counted.constraint.key)?;
            let here = counted.domains.get(domain.as_str()).copied().unwrap_or(0);
            // With more domains a difference of one matters more.
            let weight = ((counted.domains.len() + 2) as f64).ln();
            total += here as f64 * weight + (counted.constraint.max_skew - 1) as f64;
        }
        Some(total.round() as i64)
    }
}

fn count(
    cluster: &Cluster,
    pod: &PodInfo,
    wishes: &Wishes,
    constraint: Constraint,
    needed: &HashSet<Box<str>>,
) -> Counted {
    let mut domains: HashMap<Box<str>, i64> = HashMap::new();
    for node in cluster.known_nodes() {
        let labels = node.labels();
        if !needed.iter().all(|key| labels.contains_key(&**key)) || !constraint.eligible(wishes, node) {
            continue;
        }
        let Some(domain) = labels.get(&*constraint.key) else { continue };
        let here = node.pods().filter(|p| !p.terminating && constraint.counts(pod, p)).count();
        *domains.entry(domain.as_str().into()).or_insert(0) += i64::try_from(here).unwrap_or(i64::MAX);
    }
    let enough = i64::try_from(domains.len()).unwrap_or(i64::MAX) >= constraint.min_domains;
    let smallest = if enough { domains.values().copied().min().unwrap_or(0) } else { 0 };
    let matches_itself = constraint.selector.matches(Some(&pod.labels));
    Counted { constraint, domains, smallest, matches_itself }
}
