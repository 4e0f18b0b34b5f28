//! Real packets between network namespaces that each test makes and that end with it.
//!
//! Needs root, and the programs `ip` (iproute2), `ping` (iputils-ping) and `dig` (bind9-dnsutils).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod dns;
mod ground;
mod pods;

mod services;
mod upkeep;
