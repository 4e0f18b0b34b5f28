//! Topology spread constraints.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::labelsets::LabelSet;
use crate::selector::{Labels, Requirement, Selector};

/// The label of a node's own name.
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of a node's zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// Which pods a constraint counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Counts {
    /// Those that the selector matches, in the pod's namespace.
    Selected(Selector),
    /// Those of the pod's own owner.
    Siblings,
}

/// One constraint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Constraint {
    pub key: Box<str>,
    pub max_skew: i64,
    pub min_domains: i64,
    pub hard: bool,
    pub counts: Counts,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

impl Constraint {
    pub fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Self {
        let mut selector = Selector::new(constraint.label_selector.as_ref());
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.require_once(Requirement::equals(key, value));
            }
        }
        Self {
            key: constraint.topology_key.as_str().into(),
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.unwrap_or(1).into(),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            counts: Counts::Selected(selector),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// The two soft constraints of a pod that has none: over nodes, then over zones.
    pub fn system_defaults() -> Vec<Self> {
        let soft = |key: &str, max_skew| Self {
            key: key.into(),
            max_skew,
            min_domains: 1,
            hard: false,
            counts: Counts::Siblings,
            honor_affinity: true,
            honor_taints: false,
        };
        vec![soft(HOSTNAME, 3), soft(ZONE, 5)]
    }

    /// The same, counting the pods of the pod's own owner.
    pub fn of_siblings(self) -> Self {
        Self { counts: Counts::Siblings, ..self }
    }

    /// Whether another pod counts. An empty selector counts nothing, as upstream has it.
    pub fn matches(&self, pod: &LabelSet, other: &LabelSet) -> bool {
        match &self.counts {
            Counts::Selected(selector) => {
                !selector.is_everything()
                    && other.namespace == pod.namespace
                    && selector.matches(Some(&other.labels))
            }
            Counts::Siblings => pod.owner.is_some() && other.owner == pod.owner,
        }
    }

    /// Whether the pod counts itself. Here an empty selector matches everything.
    pub fn matches_itself(&self, pod: &LabelSet) -> bool {
        match &self.counts {
            Counts::Selected(selector) => selector.matches(Some(&pod.labels)),
            Counts::Siblings => true,
        }
    }

    /// The labels that it reads.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        match &self.counts {
            Counts::Selected(selector) => Some(selector.keys()),
            Counts::Siblings => None,
        }
        .into_iter()
        .flatten()
    }
}
