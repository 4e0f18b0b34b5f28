//! Real packets between network namespaces that each test makes and that end with it.
//!
//! Needs root, and `ip` (iproute2), `ping` (iputils-ping), `dig` (bind9-dnsutils), `nft` (nftables) and `iptables`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod dns;
mod ground;
mod pods;

mod services;
mod upkeep;
