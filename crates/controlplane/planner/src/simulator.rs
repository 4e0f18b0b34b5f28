//! The planner's own decisions under a virtual clock.
//!
//! A [`Scenario`] is nodes, pods that come (and go), and changes of the cluster. [`run`] plays it from a seed: the cluster
//! that decides, the queue in which pods wait and are woken, tenants' queues, gangs and preemption are those of the scheduler that ships;
//! only API, network and kubelets are left out: whoever is preempted leaves at once. The same scenario, profiles and seed give the same [`Outcome`], to the last digit.

mod agenda;
mod fairness;
mod play;
mod sample;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1beta1::PodGroup;

use crate::fairness::TenantQueue;
use crate::instances::{self, InstanceType};
use crate::numa::NodeTopology;
use crate::pods;
use crate::reservation::Reservation;
use crate::scheduler::{Patience, Profile};

pub use fairness::{TenantOutcome, TenantSample, jain};
pub use play::run;
pub use sample::{Sample, Waits};
pub use trace::{Trace, TraceError, TraceNode, TraceOutcome, TracePod};

/// A pod that comes.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When, in seconds from the start.
    pub at: f64,
    /// What.
    pub pod: Pod,
    /// How long it runs once it was placed, in seconds; `None` for ever.
    pub lasts: Option<f64>,
}

/// Something that happens to the cluster.
#[derive(Debug, Clone)]
pub enum Change {
    /// A node joins.
    Join(Box<Node>),
    /// A node is lost. Its pods come again, as their controllers would make them anew.
    Lose(String),
    /// All nodes with a label are lost: key and value.
    LoseLabelled(String, String),
}

/// What is played.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    /// Nodes at the start.
    pub nodes: Vec<Node>,
    /// Pods that run at the start; those without a node come at once.
    pub pods: Vec<Pod>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// What groups of pods say.
    pub groups: Vec<PodGroup>,
    /// Queues of tenants.
    pub queues: Vec<TenantQueue>,
    /// Shapes that pods ask for and nodes have; see [`Scenario::settle`].
    pub types: Vec<InstanceType>,
    /// Reservations, and when they come (seconds). Their time is counted from then on.
    pub reservations: Vec<(f64, Reservation)>,
    /// What nodes say of their zones.
    pub topologies: Vec<NodeTopology>,
    /// Pods that come.
    pub arrivals: Vec<Arrival>,
    /// What happens, and when (seconds).
    pub changes: Vec<(f64, Change)>,
}

impl Scenario {
    /// Gives nodes and pods what their InstanceTypes say, as it would be before anything is scheduled, and looks whether all
    /// makes sense.
    ///
    /// # Errors
    /// Which pod asks for what it cannot have, or which reservation is none.
    pub fn settle(&mut self) -> Result<(), String> {
        let joining = self.changes.iter_mut().filter_map(|(_, change)| match change {
            Change::Join(node) => Some(&mut **node),
            _ => None,
        });
        let pods = self.pods.iter_mut().chain(self.arrivals.iter_mut().map(|arrival| &mut arrival.pod));
        for (_, reservation) in &mut self.reservations {
            let name = pods::name(&reservation.metadata).to_owned();
            let namespace = reservation.metadata.namespace.get_or_insert_with(|| "default".to_owned());
            reservation.metadata.uid.get_or_insert_with(|| format!("{namespace}.{name}"));
            reservation.terms(None).map_err(|why| format!("Reservation {name}: {why}"))?;
        }
        instances::settle(&self.types, self.nodes.iter_mut().chain(joining), pods)
    }
}

/// How it is played.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scheduler's profiles. Those that pack are told what comes; otherwise they would learn it first.
    pub profiles: Vec<Profile>,
    /// When pods that wait are tried again.
    pub patience: Patience,
    /// Decides among equals, and nothing else.
    pub seed: u64,
    /// Seconds between samples; 0 takes one at each event.
    pub every: f64,
    /// Stop at this time (seconds), whatever is left.
    pub until: Option<f64>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The cluster over time.
    pub samples: Vec<Sample>,
    /// Pods that came, those made anew included.
    pub arrived: usize,
    /// Pods that were placed at some time.
    pub placed: usize,
    /// Pods that lost their node, or had to leave it for others.
    pub displaced: usize,
    /// Of those, pods that left because a tenant took back what it is guaranteed.
    pub reclaimed: usize,
    /// What each tenant had: each queue that pods may be in or, where there are none, each namespace.
    pub tenants: BTreeMap<String, TenantOutcome>,
    /// Pods still waiting at the end, by the reason the scheduler gives.
    pub waiting: BTreeMap<String, usize>,
    /// Seats of reservations that were given room, each time that they were.
    pub seats_placed: usize,
    /// Pods that took the room of a seat.
    pub seats_used: usize,
    /// How long those placed had waited.
    pub waits: Waits,
    /// When the last event was, in seconds.
    pub end: f64,
}
