//! nodeSelector and node affinity.

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PodSpec};

use crate::selector::{Labels, Requirement};

/// One term: all of its requirements on labels and fields together.
#[derive(Debug, Clone, Default)]
struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    fn new(term: &NodeSelectorTerm) -> Self {
        Self {
            labels: term.match_expressions.iter().flatten().map(Requirement::of_node).collect(),
            fields: term.match_fields.iter().flatten().map(Requirement::of_node).collect(),
        }
    }

    /// An empty term matches no node.
    fn matches(&self, name: &str, labels: &Labels) -> bool {
        let field = |r: &Requirement| r.key() == "metadata.name" && r.matches_value(Some(name));
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.fields.iter().all(field)
            && self.labels.iter().all(|r| r.matches(labels))
    }

    /// The only nodes this term can match, when it names them.
    fn names(&self) -> Option<Vec<&str>> {
        let listed = self.fields.iter().find_map(|r| r.in_values().filter(|_| r.key() == "metadata.name"))?;
        Some(listed.iter().map(AsRef::as_ref).collect())
    }
}

/// What a pod requires and prefers of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeAffinity {
    selector: Vec<Requirement>,
    required: Option<Vec<NodeTerm>>,
    preferred: Vec<(i64, NodeTerm)>,
}

impl NodeAffinity {
    pub fn new(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred =
            affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        Self {
            selector: spec.node_selector.iter().flatten().map(|(k, v)| Requirement::equals(k, v)).collect(),
            required: required.map(|s| s.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred: preferred
                .into_iter()
                .flatten()
                .map(|p| (i64::from(p.weight), NodeTerm::new(&p.preference)))
                .collect(),
        }
    }

    /// Whether the node satisfies selector and required terms.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.selector.iter().all(|r| r.matches(labels))
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }

    /// The names of the only nodes that can match, when every term says so (pods of a DaemonSet do).
    pub fn only_nodes(&self) -> Option<Vec<&str>> {
        let terms = self.required.as_ref().filter(|terms| !terms.is_empty())?;
        let mut names = Vec::new();
        for term in terms {
            names.extend(term.names()?);
        }
        Some(names)
    }

    /// Whether anything is preferred.
    pub fn has_preferred(&self) -> bool {
        !self.preferred.is_empty()
    }

    /// The weights of the preferences that hold, together.
    pub fn score(&self, name: &str, labels: &Labels) -> i64 {
        self.preferred.iter().filter(|(_, term)| term.matches(name, labels)).map(|(weight, _)| weight).sum()
    }
}
