//! Every decision, pure: a snapshot in, a plan and its reasons out.
//!
//! There is no clock, no I/O and no async here. Times come in as arguments, randomness as a seed, so that each
//! decision can be tested in a table, replayed from a recording and simulated at thousands of nodes.
//!
//! - [`scheduler`]: which node a pod goes to, or, counted per reason, why none takes it.
//! - [`fairness`]: which tenant is next, how much it may have, and what it may take back.
//! - [`instances`]: which node is of which InstanceType.
//! - [`reservation`]: what a Reservation holds, for whom, and how it stands.
//! - [`rollout`]: what Deployments, ReplicaSets, Jobs, StatefulSets, DaemonSets and CronJobs do next.
//! - [`autoscaler`]: how many replicas a workload needs, by what is measured of it.
//! - [`volumes`]: which claim gets which volume.
//! - [`overcommit`]: what may be promised twice, and who leaves when it was too much.
//! - [`numa`]: which CPUs and which memory of a machine with several zones a pod gets.
//! - [`usage`]: what is really used, its peaks, and what is foreseen.
//! - [`zones`]: how fast silent nodes are emptied.
//! - [`election`]: who leads when several want to. [`ipam`]: which part of the pods' network a node gets.
//! - [`object`]: what the kinds that are defined here have in common.
//! - [`selector`] and [`quantity`]: the two small languages that all of them read.

pub mod autoscaler;
pub mod disruption;
pub mod election;
pub mod fairness;
mod hash;
pub mod instances;
pub mod ipam;
pub mod numa;
pub mod object;
pub mod overcommit;
pub mod packing;
pub mod pods;
mod prefetch;
pub mod quantity;
pub mod random;
pub mod rebalance;
pub mod reservation;
pub mod rollout;
pub mod scheduler;
pub mod selector;
pub mod simulator;
pub mod usage;
pub mod volumes;
pub mod zones;
