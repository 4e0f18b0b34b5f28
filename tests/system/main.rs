//! The whole system: the real binary in a network namespace of its own, driven by the real kubectl and curl.
//! Needs root, busybox-static, kubectl, curl, iproute2.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bad_input;
mod binary;
mod claims;
mod clients;
mod faults;
mod histories;
mod keeping;
mod kubectl_changing;
mod kubectl_reading;
mod live;
mod placement;
mod pods;
mod registry;
mod security;
mod servers;
mod services;
mod state;
mod streams;
mod support;
mod usage;
mod volumes;
mod workload_edges;
mod workloads;
