//! The whole registry over real sockets: the specification, hostile clients, kills, real clients, real S3.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod accounts;
mod bucket;
mod clients;
mod collection;
mod conformance;
mod copies;
mod faults;
mod kills;
mod others;
mod packing;
mod support;
