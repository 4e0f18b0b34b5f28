//! `sampan agent`: this machine as a node of a cluster that runs elsewhere.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use sampan_daemon::Supervisor;

use super::service::{self, Service};
use crate::{
    cli::Agent,
    instance::{self, Instance},
    join::{self, Joined, Settings},
    node::NodeSettings,
};

struct Node {
    settings: Settings,
}

pub(crate) fn run(data_dir: &Path, options: Agent) -> Result<ExitCode> {
    instance::require_root()?;
    let servers = join::parse_servers(&options.join)?;
    let mut pins = options.ca_hash;
    let token = match &options.token_file {
        Some(file) => Some(std::fs::read_to_string(file).with_context(|| file.display().to_string())?),
        None => options.token,
    };
    let token = token.map(|text| {
        let (token, pin) = join::parse_token(&text);
        pins.extend(pin);
        token
    });
    let instance = join::open_instance(data_dir, options.node_name)?;
    let settings = Settings {
        servers,
        token,
        pins,
        unpinned: options.unsafe_skip_ca_verification,
        ip: options.node_ip,
        port: options.kubelet_port,
        labels: options.node_label.into_iter().collect(),
        node: NodeSettings::new(options.images, options.zones),
    };
    service::launch(instance, options.launch, &Node { settings })
}

impl Service for Node {
    type Running = Joined;
    const ROLE: &'static str = "agent";

    async fn start(&self, instance: &mut Instance, supervisor: Supervisor) -> Result<Joined> {
        Joined::start(instance, &self.settings, supervisor).await
    }

    fn api(running: &Joined) -> String {
        format!("https://{}", running.server)
    }

    async fn ready(&self, instance: &Instance, running: &Joined) -> Result<()> {
        service::node_ready(&running.client, &instance.facts.node_name).await
    }

    fn screen(&self, instance: &Instance, api: &str) -> String {
        let node_cidr = instance.facts.node_cidr.as_deref().unwrap_or("?");
        format!(
            "Sampan {version}, node {node}\n\n  \
               server      {api}\n  \
               pods        {node_cidr} of {pods}\n  \
               data        {data}\n",
            version = env!("CARGO_PKG_VERSION"),
            node = instance.facts.node_name,
            pods = instance.facts.pod_cidr,
            data = instance.dir.display(),
        )
    }

    async fn stop(running: Joined) {
        running.stop().await;
    }
}
