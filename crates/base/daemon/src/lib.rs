//! What every long-running part of Sampan shares: supervised tasks, back-off, one clock, TLS identity, logs.
//!
//! Imports none of our crates. Nothing here reads the environment.

pub mod backoff;
pub mod clock;
pub mod task;
pub mod telemetry;
pub mod tls;

pub use backoff::Backoff;
pub use task::{Policy, Supervisor, TaskHandle};
