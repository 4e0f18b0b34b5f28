//! Reconcilers that carry plans out, through the API only.
//!
//! [`start`] takes [`Options`] with two clients and returns a [`Handle`]. Inside, one informer per kind keeps a
//! cache that all controllers share; an event puts the key of an object into the queues of those whom it
//! concerns; a controller reads the cache, asks `sampan_planner`, and writes. Nothing polls: with nothing to do,
//! nothing runs.

mod apis;
mod autoscale;
mod bootstrap;
mod cache;
mod certificates;
mod claim;
mod clusterrole;
mod create;
mod cronjob;
mod daemonset;
mod definitions;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod error;
mod events;
mod eviction;
mod expectations;
mod gc;
mod informer;
mod instances;
mod ipam;
mod job;
mod leader;
mod namespace;
mod node;
mod overcommit;
mod podgc;
mod podgroup;
mod protection;
mod queue;
mod quota;
mod rebalancer;
mod replicaset;
mod revisions;
mod scheduler;
mod service;
mod serviceaccount;
mod statefulset;
mod usage;
mod volumes;
mod whole;
mod worker;

pub use error::{Error, Result};
pub use leader::Leadership;
pub use rebalancer::Rebalance;
pub use sampan_planner::election::Terms;
pub use sampan_planner::overcommit::Bounds as Overcommit;
pub use sampan_planner::scheduler::config::Config as SchedulerConfig;
pub use service::{Elected, Handle, Options, Parts, start, start_elected};
