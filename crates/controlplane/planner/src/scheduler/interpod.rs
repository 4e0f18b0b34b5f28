//! Affinity and anti-affinity between pods.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, WeightedPodAffinityTerm};

use super::labelsets::LabelSet;
use crate::selector::{Labels, Requirement, Selector};

/// The labels of namespaces.
pub(super) type Namespaces = HashMap<Box<str>, Labels>;

/// Where the pods that a term speaks of live.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Within {
    Listed(Box<[Box<str>]>),
    Selected(Box<[Box<str>]>, Selector),
}

/// One term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Term {
    within: Within,
    pub selector: Selector,
    pub topology_key: Box<str>,
}

/// A preferred term; the weight of an anti-affinity is negative.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WeightedTerm {
    pub term: Term,
    pub weight: i64,
}

impl Term {
    fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut listed: Box<[Box<str>]> =
            term.namespaces.iter().flatten().map(|n| n.as_str().into()).collect();
        listed.sort();
        let within = match (&term.namespace_selector, listed.is_empty()) {
            (Some(selector), _) => Within::Selected(listed, Selector::new(Some(selector))),
            (None, false) => Within::Listed(listed),
            (None, true) => Within::Listed(Box::new([namespace.into()])),
        };
        let mut selector = Selector::new(term.label_selector.as_ref());
        // The API server merges these into the selector when the pod is made; a pod from elsewhere may not have that.
        if term.label_selector.is_some() {
            for (key, value) in term.match_label_keys.iter().flatten().filter_map(|k| labels.get_key_value(k))
            {
                selector.require_once(Requirement::equals(key, value));
            }
            for (key, value) in
                term.mismatch_label_keys.iter().flatten().filter_map(|k| labels.get_key_value(k))
            {
                selector.require_once(Requirement::differs(key, value));
            }
        }
        Self { within, selector, topology_key: term.topology_key.as_str().into() }
    }

    /// Whether it depends on the labels of namespaces.
    pub fn reads_namespaces(&self) -> bool {
        matches!(&self.within, Within::Selected(_, selector) if !selector.is_everything())
    }

    /// Whether it speaks of pods with these labels.
    pub fn matches(&self, pod: &LabelSet, namespaces: &Namespaces) -> bool {
        let within = match &self.within {
            Within::Listed(names) => names.contains(&pod.namespace),
            Within::Selected(names, selector) => {
                names.contains(&pod.namespace) || selector.matches(namespaces.get(&pod.namespace))
            }
        };
        within && self.selector.matches(Some(&pod.labels))
    }
}

/// What a pod says about other pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct PodTerms {
    pub affinity: Vec<Term>,
    pub anti_affinity: Vec<Term>,
    pub preferred: Vec<WeightedTerm>,
}

impl PodTerms {
    pub fn new(affinity: Option<&Affinity>, namespace: &str, labels: &Labels) -> Self {
        let Some(affinity) = affinity else { return Self::default() };
        let (with, against) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|t| Term::new(t, namespace, labels)).collect()
        };
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<WeightedTerm> {
            let read = |t: &WeightedPodAffinityTerm| WeightedTerm {
                term: Term::new(&t.pod_affinity_term, namespace, labels),
                weight: sign * i64::from(t.weight),
            };
            terms.into_iter().flatten().map(read).collect()
        };
        let mut preferred =
            weighted(with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
        preferred.extend(weighted(
            against.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            -1,
        ));
        Self {
            affinity: required(
                with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            anti_affinity: required(
                against.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred,
        }
    }

    /// Every term with the labels that it reads.
    pub fn all(&self) -> impl Iterator<Item = &Term> {
        self.affinity.iter().chain(&self.anti_affinity).chain(self.preferred.iter().map(|w| &w.term))
    }
}
