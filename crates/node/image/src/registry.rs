//! A client for registries (OCI distribution): thin, on hyper, with what pulls and pushes need and no more.
//!
//! Not `oci-client`: that brings reqwest, olpc-cjson and a second set of types, and offers neither mirrors, resume
//! nor its own bounds.

mod challenge;
mod client;
mod connect;
mod token;

pub(crate) use client::{Body, Call, Client, Refused, Registry, Retry, whole};
