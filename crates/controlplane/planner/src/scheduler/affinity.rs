//! nodeSelector and node affinity.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorTerm, PodSpec};

use super::nodes::{Column, Nodes};
use crate::selector::{Labels, Operator, Requirement};

/// One term: all of its requirements on labels and fields together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    pub fn new(term: &NodeSelectorTerm) -> Self {
        Self {
            labels: term.match_expressions.iter().flatten().map(Requirement::of_node).collect(),
            fields: term.match_fields.iter().flatten().map(Requirement::of_node).collect(),
        }
    }

    /// An empty term matches no node.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let field = |r: &Requirement| r.key() == "metadata.name" && r.matches_value(Some(name));
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.fields.iter().all(field)
            && self.labels.iter().all(|r| r.matches(labels))
    }

    /// All requirements, on labels and on fields.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.labels.iter().chain(&self.fields)
    }

    /// The only nodes this term can match, when it names them.
    fn names(&self) -> Option<Vec<&str>> {
        let mut lists = self.fields.iter().filter(|r| names_nodes(r)).filter_map(Requirement::in_values);
        let mut names: Vec<&str> = lists.next()?.iter().map(AsRef::as_ref).collect();
        lists.for_each(|list| names.retain(|name| list.iter().any(|other| **other == **name)));
        Some(names)
    }
}

/// Whether a requirement on fields lists the names of nodes.
fn names_nodes(requirement: &Requirement) -> bool {
    requirement.key() == "metadata.name" && requirement.in_values().is_some()
}

/// The terms of a node selector: any of them must match.
pub(crate) fn node_terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().map(NodeTerm::new).collect()
}

/// What a pod requires and prefers of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
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
            required: required.map(node_terms),
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

    /// Takes the names of nodes out, when a single term has some: pods of one DaemonSet differ in nothing else, and so can
    /// share what is known about each node.
    pub fn strip_names(&mut self) {
        if let Some([term]) = self.required.as_deref_mut()
            && term.names().is_some()
        {
            term.fields.retain(|r| !names_nodes(r));
            if term.labels.is_empty() && term.fields.is_empty() {
                self.required = None;
            }
        }
    }

    /// Forgets what is only preferred.
    pub fn forget_wishes(&mut self) {
        self.preferred = Vec::new();
    }

    /// Whether anything is preferred.
    #[cfg(test)]
    pub fn has_preferred(&self) -> bool {
        !self.preferred.is_empty()
    }

    /// The weights of the preferences that hold, together.
    #[cfg(test)]
    pub fn score(&self, name: &str, labels: &Labels) -> i64 {
        self.preferred.iter().filter(|(_, term)| term.matches(name, labels)).map(|(weight, _)| weight).sum()
    }
}

/// A requirement on a label, as numbers: the column of the key and the values it accepts.
#[derive(Debug, Clone)]
struct Compiled {
    column: u32,
    operator: Operator,
    values: Vec<u32>,
    source: Requirement,
}

#[derive(Debug, Clone)]
pub(super) struct CompiledTerm {
    labels: Vec<Compiled>,
    fields: Vec<Requirement>,
}

impl CompiledTerm {
    fn compile(term: &NodeTerm, nodes: &mut Nodes) -> Self {
        Self { labels: compile(&term.labels, nodes), fields: term.fields.clone() }
    }

    fn matches(&self, nodes: &Nodes, node: usize) -> bool {
        let name = &*nodes[node].name;
        let field = |r: &Requirement| r.key() == "metadata.name" && r.matches_value(Some(name));
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.labels.iter().all(|r| holds(r, nodes, node))
            && self.fields.iter().all(field)
    }
}

fn compile(requirements: &[Requirement], nodes: &mut Nodes) -> Vec<Compiled> {
    requirements
        .iter()
        .map(|r| {
            let column = nodes.column(r.key());
            let (operator, values) = r.parts();
            let values = values.iter().map(|v| nodes.columns[column as usize].intern(v)).collect();
            Compiled { column, operator, values, source: r.clone() }
        })
        .collect()
}

fn holds(r: &Compiled, nodes: &Nodes, node: usize) -> bool {
    let column: &Column = &nodes.columns[r.column as usize];
    let value = column.at(node);
    match r.operator {
        Operator::In => value.is_some_and(|v| r.values.contains(&v)),
        Operator::NotIn => value.is_none_or(|v| !r.values.contains(&v)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        _ => r.source.matches_value(value.map(|v| column.text(v))),
    }
}

/// Node terms against the columns of the node table: any of them must match.
pub(super) fn compile_terms(terms: &[NodeTerm], nodes: &mut Nodes) -> Vec<CompiledTerm> {
    terms.iter().map(|t| CompiledTerm::compile(t, nodes)).collect()
}

/// Whether any term matches.
pub(super) fn any_matches(terms: &[CompiledTerm], nodes: &Nodes, node: usize) -> bool {
    terms.iter().any(|t| t.matches(nodes, node))
}

/// Node affinity against the columns of the node table: comparing numbers in place of texts.
#[derive(Debug, Clone, Default)]
pub(super) struct CompiledAffinity {
    selector: Vec<Compiled>,
    required: Vec<Vec<CompiledTerm>>,
    preferred: Vec<(i64, CompiledTerm)>,
}

impl CompiledAffinity {
    /// Compiles what the pod wants together with what its profile adds for every pod.
    pub fn new(own: &NodeAffinity, added: &NodeAffinity, nodes: &mut Nodes) -> Self {
        let required = [&own.required, &added.required];
        let preferred = own.preferred.iter().chain(&added.preferred);
        Self {
            selector: compile(&own.selector, nodes),
            required: required.into_iter().flatten().map(|terms| compile_terms(terms, nodes)).collect(),
            preferred: preferred.map(|(w, t)| (*w, CompiledTerm::compile(t, nodes))).collect(),
        }
    }

    pub fn matches(&self, nodes: &Nodes, node: usize) -> bool {
        self.selector.iter().all(|r| holds(r, nodes, node))
            && self.required.iter().all(|terms| any_matches(terms, nodes, node))
    }

    pub fn score(&self, nodes: &Nodes, node: usize) -> i64 {
        self.preferred.iter().filter(|(_, t)| t.matches(nodes, node)).map(|(w, _)| w).sum()
    }
}
