//! Hollow nodes: agents that run nothing and say they do, thousands in one process.
//!
//! To the API server they are nodes: they register, renew their leases, hear of their pods, report each as the real
//! agent would report it, and remove it once it was deleted. [`start`] takes [`Options`] and returns a [`Handle`].
//! With [`Access::Own`] every node has its own certificate, connection and watch, as on real machines; with
//! [`Access::Shared`] a few connections act for all of them by impersonation, and one watch hears of all pods.
//!
//! What a pod does may be said with the annotation or label [`BEHAVIOUR`] (see [`Behaviour`]). What is left to chance
//! follows from [`Options::seed`] and the pod's name, and comes out the same again.
//!
//! Not there: a kubelet API (logs, exec, metrics), volumes, probes, and anything that runs.

mod chance;
mod fleet;
mod heart;
mod link;
mod lives;
mod pod;
mod stream;
mod texts;

use std::{sync::Arc, time::Duration};

use sampan_daemon::{Supervisor, tls};

pub use fleet::{Handle, Stats};
pub use pod::{BEHAVIOUR, Behaviour};

/// Why hollow nodes cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that makes no sense.
    #[error("{what} (hint: {hint})")]
    Options {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// Certificates could not be read or made.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// How the nodes reach the API.
#[derive(Clone)]
pub enum Access {
    /// Over a few connections of somebody who may impersonate nodes and read all pods.
    Shared {
        /// A certificate with its key.
        identity: Option<tls::Issued>,
        /// A bearer token.
        token: Option<String>,
        /// Connections, at least one.
        connections: usize,
    },
    /// Every node by itself: a certificate of this CA, one connection, one watch of its own pods.
    Own(Arc<tls::Ca>),
}

/// What nodes there are, and how they behave.
#[derive(Clone)]
pub struct Options {
    /// `host:port` of the API server.
    pub server: String,
    /// What its certificate is signed by.
    pub ca_pem: String,
    /// How the nodes reach it.
    pub access: Access,
    /// How many; at most [`MOST`].
    pub nodes: usize,
    /// Names are this and a number.
    pub prefix: String,
    /// Processors of each node, as a quantity.
    pub cpu: String,
    /// Memory of each node, as a quantity.
    pub memory: String,
    /// Most pods of each node.
    pub pods: u32,
    /// Nodes are spread over so many zones; none: they are in no zone.
    pub zones: usize,
    /// Decides what is left to chance.
    pub seed: u64,
    /// Between renewals of a lease.
    pub renewal: Duration,
    /// Between writes of a node's status that change nothing.
    pub heartbeat: Duration,
    /// A pod starts within this time.
    pub start: (Duration, Duration),
    /// So many of a hundred pods start late, by so much.
    pub late: (u8, Duration),
    /// So many of a hundred pods fail.
    pub failing: u8,
    /// Whether nodes tell of containers with Events, as real ones do: three a pod.
    pub events: bool,
    /// Writes about pods under way at once, for each watch.
    pub at_once: usize,
}

/// The most hollow nodes of a process: each has a /24 of 10.128.0.0/9 for its pods.
pub const MOST: usize = 32_768;

impl Options {
    /// Nodes like kubemark's, that start pods at once.
    pub fn new(server: impl Into<String>, ca_pem: impl Into<String>, access: Access, nodes: usize) -> Self {
        Self {
            server: server.into(),
            ca_pem: ca_pem.into(),
            access,
            nodes,
            prefix: "hollow-".to_owned(),
            cpu: "32".to_owned(),
            memory: "256Gi".to_owned(),
            pods: 110,
            zones: 3,
            seed: 1,
            renewal: Duration::from_secs(10),
            heartbeat: Duration::from_secs(300),
            start: (Duration::ZERO, Duration::ZERO),
            late: (0, Duration::ZERO),
            failing: 0,
            events: false,
            at_once: 64,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what: String, hint| Err(Error::Options { what, hint });
        if self.nodes == 0 || self.nodes > MOST {
            return wrong(
                format!("{} nodes cannot be made", self.nodes),
                "from 1 to 32768; start another process for more",
            );
        }
        if self.at_once == 0 {
            return wrong("no write may be under way".to_owned(), "at least one at once");
        }
        if self.start.0 > self.start.1 {
            return wrong("pods start after they started".to_owned(), "the first time is the shorter one");
        }
        if matches!(&self.access, Access::Shared { connections: 0, .. }) {
            return wrong("no connection may be made".to_owned(), "at least one");
        }
        if self.renewal.is_zero() || self.heartbeat.is_zero() {
            return wrong(
                "leases or heartbeats without pause".to_owned(),
                "leases are renewed every 10 s, status every 300 s",
            );
        }
        let name = self
            .prefix
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
        if !name || !self.prefix.starts_with(|c: char| c.is_ascii_alphanumeric()) || self.prefix.len() > 200 {
            return wrong(
                format!("{:?} is no beginning of a node's name", self.prefix),
                "lower case letters, digits, '-' and '.'",
            );
        }
        Ok(())
    }
}

/// Starts the nodes under the supervisor.
///
/// # Errors
/// Options that make no sense, or certificates that do not parse. That a server cannot be reached is no error: nodes try again.
pub fn start(options: Options, supervisor: &Supervisor) -> Result<Handle, Error> {
    options.check()?;
    fleet::start(options, &supervisor.child("hollow"))
}
