//! The controllers over a real API server in one process. What measures its own process stands beside this folder.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/counted.rs"]
mod counted;
#[path = "../../../apiserver/tests/support/https.rs"]
mod https;
#[path = "../support/plane.rs"]
mod plane;
#[path = "../support/cluster.rs"]
mod support;

mod autoscale;
mod budgets;
mod certificates;
mod edges;
mod election;
mod endpoints;
mod extenders;
mod extension;
mod groups;
mod instances;
mod joining;
mod keeping;
mod protection;
mod quotas;
mod reservations;
mod roles;
mod scale;
mod scheduling;
mod tenants;
mod usage;
mod volumes;
mod workloads;
mod zones;
