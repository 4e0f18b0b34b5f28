//! A pod as the scheduler keeps it: only what decisions read.

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};

use super::affinity::NodeAffinity;
use super::interpod::{Term, WeightedTerm, required_terms, weighted_terms};
use super::resources::{Resources, nonzero_requests, pod_requests};
use super::spread::Constraint;
use crate::pods;
use crate::selector::Labels;

/// A port taken on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub ip: Box<str>,
    pub protocol: Box<str>,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be open at once: a wildcard address takes the port everywhere.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A pod, compact. Kept for bound pods; made from the full object for the pod to place.
#[derive(Debug, Clone)]
pub struct PodInfo {
    pub(super) uid: Box<str>,
    pub(super) namespace: Box<str>,
    pub(super) labels: Labels,
    pub(super) node: Box<str>,
    pub(super) requests: Resources,
    pub(super) nonzero: (i64, i64),
    pub(super) ports: Box<[HostPort]>,
    pub(super) owner: Option<Box<str>>,
    pub(super) terminating: bool,
    pub(super) terms: Option<Box<PodTerms>>,
    pub(super) wishes: Option<Box<Wishes>>,
}

/// Terms about other pods.
#[derive(Debug, Clone, Default)]
pub(super) struct PodTerms {
    pub affinity: Vec<Term>,
    pub anti_affinity: Vec<Term>,
    pub preferred: Vec<WeightedTerm>,
}

/// What only the pod to place needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub node_name: Option<Box<str>>,
    pub node: NodeAffinity,
    pub tolerations: Vec<Toleration>,
    pub spread: Vec<Constraint>,
    pub images: Vec<String>,
}

impl PodInfo {
    /// A bound pod.
    pub fn bound(pod: &Pod) -> Self {
        Self::read(pod, false)
    }

    /// A pod to place.
    pub fn pending(pod: &Pod) -> Self {
        Self::read(pod, true)
    }

    /// The uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// What it asks of its node.
    pub fn requests(&self) -> &Resources {
        &self.requests
    }

    /// The same pod, as bound to a node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = node.into();
        self.wishes = None;
        self
    }

    fn read(pod: &Pod, pending: bool) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        Self {
            uid: pods::uid(&pod.metadata).into(),
            namespace: namespace.into(),
            node: spec.node_name.as_deref().unwrap_or_default().into(),
            requests: pod_requests(spec),
            nonzero: nonzero_requests(spec),
            ports: host_ports(spec),
            owner: pods::controller(&pod.metadata).map(|o| o.uid.as_str().into()),
            terminating: pods::terminating(pod),
            terms: terms(spec, namespace),
            wishes: pending.then(|| Box::new(wishes(spec, &labels))),
            labels,
        }
    }
}

fn wishes(spec: &PodSpec, labels: &Labels) -> Wishes {
    let constraints = spec.topology_spread_constraints.iter().flatten();
    Wishes {
        node_name: spec.node_name.as_deref().filter(|n| !n.is_empty()).map(Into::into),
        node: NodeAffinity::new(spec),
        tolerations: spec.tolerations.clone().unwrap_or_default(),
        spread: constraints.map(|c| Constraint::new(c, labels)).collect(),
        images: spec.containers.iter().filter_map(|c| c.image.clone()).collect(),
    }
}

fn terms(spec: &PodSpec, namespace: &str) -> Option<Box<PodTerms>> {
    let affinity = spec.affinity.as_ref()?;
    let (with, against) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let mut terms = PodTerms {
        affinity: required_terms(
            with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()),
            namespace,
        ),
        anti_affinity: required_terms(
            against.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()),
            namespace,
        ),
        preferred: weighted_terms(
            with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()),
            namespace,
            1,
        ),
    };
    terms.preferred.extend(weighted_terms(
        against.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()),
        namespace,
        -1,
    ));
    let none = terms.affinity.is_empty() && terms.anti_affinity.is_empty() && terms.preferred.is_empty();
    (!none).then(|| Box::new(terms))
}

fn host_ports(spec: &PodSpec) -> Box<[HostPort]> {
    let init =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let host_network = spec.host_network == Some(true);
    spec.containers
        .iter()
        .chain(init)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.or(host_network.then_some(p.container_port)).filter(|port| *port > 0)?;
            let ip = p.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            Some(HostPort { ip: ip.into(), protocol: p.protocol.as_deref().unwrap_or("TCP").into(), port })
        })
        .collect()
}
