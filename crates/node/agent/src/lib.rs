//! Pods onto container, image and network: lifecycle, probes, volumes, streams.
//!
//! [`Options`] -> [`Agent::start`] -> [`Handle`]. The agent speaks to the API server only through the client it is
//! given, and carries out every Pod bound to its node: one worker a pod ([`worker`]), which owns that pod's state
//! and is the only one to change it. What a pod's status is to be is computed without I/O ([`pod::status`]); so are
//! its environment, its volumes' contents and its security settings.
//!
//! What is absent here: the mechanisms. Namespaces, layers and packet rules are made by the crates container, image
//! and network, which do not know what a Pod is.

use std::sync::Arc;
use std::time::Duration;

use sampan_daemon::Supervisor;
use tokio::sync::watch;

mod context;
mod events;
mod feed;
mod handler;
mod logs;
mod node;
mod objects;
mod options;
mod pod;
mod pods;
mod server;
mod streams;
mod usage;
mod volumes;
mod worker;
mod zones;

pub use options::{ApiOptions, Capacity, Error, Options};
pub use zones::ZoneOptions;

use context::Context;

/// The node agent.
pub struct Agent;

/// A running agent. Dropping it changes nothing; cancel the supervisor to stop. Pods run on either way.
#[derive(Clone)]
pub struct Handle {
    ctx: Arc<Context>,
    port: u16,
    ready: watch::Receiver<bool>,
}

impl Agent {
    /// Take over running pods, register the node, serve the kubelet API, and begin to carry out pods.
    ///
    /// # Errors
    /// A directory or the port cannot be had, certificates do not parse, or running pods cannot be adopted.
    pub async fn start(options: Options, supervisor: &Supervisor) -> Result<Handle, Error> {
        let dirs = [options.pods_dir.join("logs"), options.run_dir.join("records")];
        for path in dirs {
            std::fs::create_dir_all(&path).map_err(|source| Error::Directory { path, source })?;
        }
        let server = server::Server::bind(options.node_ip, &options.api).await?;
        let port = server.port();
        let zones = zones::Zones::new(&options.zones)?;
        let machine = node::Machine::detect(&options, &zones);
        let supervisor = supervisor.child("agent");
        let ctx = Arc::new(Context::new(options, supervisor, machine.memory, machine.allocatable(), zones));
        feed::start(&ctx);
        pods::start(&ctx).await?;
        zones::start(&ctx);
        server.serve(&ctx);
        let ready = node::NodeKeeper::start(&ctx, machine, port);
        Ok(Handle { ctx, port, ready })
    }
}

impl Handle {
    /// Port of the kubelet API.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Wait until the API server has seen the node Ready. False when that took longer than `bound`.
    pub async fn wait_ready(&self, bound: Duration) -> bool {
        let mut ready = self.ready.clone();
        tokio::time::timeout(bound, ready.wait_for(|ready| *ready)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Pods that this node holds now.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.ctx.pods.all().len()
    }
}
