//! A registry for container images and other OCI artifacts.
//!
//! It speaks the OCI Distribution specification 1.1 and Docker's registry API V2 with schema 2 manifests. Contents lie
//! in a directory or in an S3-compatible bucket, metadata in the embedded store. [`Registry`] is the service,
//! [`Handle`] what others hold.
//!
//! On disk (below [`Options::dir`]):
//! ```text
//! meta/                 metadata (sampan-store)
//! blobs/<alg>/<ab>/<hex>  contents as they came
//! recipes/…             how contents that were packed are put together again
//! packs/<n>, <n>.idx    chunks that packed contents share
//! uploads/<id>/         uploads in progress: `data`, and `note` with whose they are
//! hot/                  whole copies of packed contents that are read; each may be removed
//! tmp/                  unfinished work; what is old in there is removed
//! audit.log[.n]         who did what
//! admin.sock            whoever may open it is the administrator
//! admin-password        of the first administrator; may be removed
//! token.key             signs tokens
//! ```
//! With a bucket the first three are objects there. Floors: `daemon` and `store`, nothing else of ours.
// A refusal carries all that the client is told, and is rare; boxing it would help nobody.
#![allow(clippy::result_large_err)]

mod audit;
mod auth;
mod connect;
mod content;
mod core;
mod counts;
mod digest;
mod error;
mod events;
#[cfg(test)]
mod fuzz;
mod gc;
mod growing;
mod http;
mod manifest;
mod meta;
mod metrics;
mod name;
mod objects;
mod options;
mod outbox;
mod proxy;
mod replicate;
mod retention;
mod service;
mod upload;
mod upstream;
mod webhook;

pub use digest::{Algorithm, Digest};
pub use error::Error;
pub use options::{Bucket, Limits, Options, Upkeep};
pub use service::{Handle, Registry};
