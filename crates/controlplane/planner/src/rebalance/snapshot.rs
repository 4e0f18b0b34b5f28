//! A cluster's objects as a plan needs them.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;

use super::{Aim, Bounds, Movable, Plan, plan};
use crate::pods;
use crate::reservation::Reservation;
use crate::scheduler::{Budget, Cluster, GroupPolicy, Profile};
use crate::usage::{NodeUsage, PodUsage};

/// With `false`, the pod is never moved.
const MAY_MOVE: &str = "sampan.io/may-move";

/// Nodes, pods and budgets.
#[derive(Debug)]
pub struct Snapshot {
    cluster: Cluster,
    movable: Vec<Movable>,
    allowed: Vec<i64>,
}

impl Snapshot {
    /// Takes in the objects. Nodes that take no pods are no targets, by the scheduler's own filters.
    pub fn new<'a>(
        profiles: Vec<Profile>,
        namespaces: impl IntoIterator<Item = &'a Namespace>,
        nodes: impl IntoIterator<Item = &'a Node>,
        all: impl IntoIterator<Item = &'a Pod>,
        budgets: &[&PodDisruptionBudget],
    ) -> Self {
        let mut cluster = Cluster::with_profiles(profiles);
        for namespace in namespaces {
            let labels = namespace.metadata.labels.clone().unwrap_or_default();
            cluster.set_namespace(pods::name(&namespace.metadata), Some(labels));
        }
        for node in nodes {
            cluster.upsert_node(node);
        }
        let budgets: Vec<Budget> = budgets.iter().map(|b| Budget::of(b)).collect();
        let mut movable = Vec::new();
        for pod in all {
            cluster.upsert_pod(pod);
            if !may_move(pod) {
                continue;
            }
            // As evictions have it: here an empty selector covers every pod.
            let covers = |(at, budget): (usize, &Budget)| {
                let same = pod.metadata.namespace.as_ref() == Some(&budget.namespace);
                (same && budget.selector.matches(pod.metadata.labels.as_ref())).then_some(at)
            };
            movable.push(Movable {
                uid: pods::uid(&pod.metadata).to_owned(),
                budgets: budgets.iter().enumerate().filter_map(covers).collect(),
                started: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second()),
                owner: pods::controller(&pod.metadata).map(|owner| owner.uid.clone()).unwrap_or_default(),
                held: None,
            });
        }
        let allowed = budgets.iter().map(|b| b.allowed.into()).collect();
        Self { cluster, movable, allowed }
    }

    /// Takes in how many of a group's pods are placed together, or none.
    pub fn group(&mut self, group: &PodGroup) {
        let meta = &group.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        self.cluster.set_pod_group(namespace, pods::name(meta), Some(GroupPolicy::of(group)));
    }

    /// Takes in what a reservation holds: no pod is moved into its room.
    pub fn reserve(&mut self, reservation: &Reservation) {
        let status = reservation.status.as_ref();
        let Some(status) = status.filter(|status| status.holds()) else { return };
        if let Ok(terms) = reservation.terms(status.priority) {
            self.cluster.set_reservation(terms, &reservation.known_seats());
        }
    }

    /// Takes in what is measured, without which no node is hot.
    pub fn observe(&mut self, nodes: &BTreeMap<String, NodeUsage>, pods: HashMap<Box<str>, PodUsage>) {
        self.cluster.follow_usage();
        self.cluster.observe(nodes, pods);
    }

    /// Has pods stay for a reason.
    pub fn hold(&mut self, why: impl Fn(&Movable) -> Option<&'static str>) {
        self.movable.iter_mut().for_each(|movable| movable.held = why(movable));
    }

    /// The pods that may be moved.
    pub fn movable(&self) -> impl Iterator<Item = &Movable> {
        self.movable.iter()
    }

    /// Plans.
    pub fn plan(&mut self, aim: Aim, bounds: Bounds) -> Plan {
        plan(&mut self.cluster, aim, &self.movable, &self.allowed, bounds)
    }
}

/// Whether something makes the pod anew elsewhere, and it loses nothing by that which was on its node.
pub fn may_move(pod: &Pod) -> bool {
    let meta = &pod.metadata;
    let made_anew =
        pods::controller(meta).is_some_and(|owner| !matches!(owner.kind.as_str(), "DaemonSet" | "Node"));
    let refused = |key: &str| pods::annotation(meta, key) == Some("false");
    let safe = !refused(MAY_MOVE) && !refused("cluster-autoscaler.kubernetes.io/safe-to-evict");
    let is_static = pods::annotation(meta, "kubernetes.io/config.mirror").is_some();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let keeps = |volume: &k8s_openapi::api::core::v1::Volume| volume.host_path.is_some();
    made_anew
        && safe
        && !is_static
        && pods::active(pod)
        && pods::ready(pod)
        && !volumes.into_iter().any(keeps)
}
