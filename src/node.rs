//! The node of one process: network, containers, images, and the agent that carries pods out.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::PostParams};
use sampan_agent::ZoneOptions;
use sampan_container::Runtime;
use sampan_daemon::{Supervisor, tls};
use sampan_image::Images;
use sampan_network::Network;
use serde_json::json;

use crate::{
    cli::{ImageArgs, ZoneArgs},
    instance::Instance,
    platform::{self, Addresses, DOMAIN},
    wait,
};

/// How long a node may wait for its network before it says so and goes on waiting.
const NETWORK_BOUND: Duration = Duration::from_secs(60);

/// What the arguments say of the node.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    /// Registries reached over plain HTTP.
    pub(crate) insecure: Vec<String>,
    /// Registry to mirror.
    pub(crate) mirrors: Vec<(String, String)>,
    /// How CPUs and memory are given to pods.
    pub(crate) zones: ZoneOptions,
}

impl NodeSettings {
    pub(crate) fn new(images: ImageArgs, zones: ZoneArgs) -> Self {
        Self { insecure: images.insecure_registry, mirrors: images.registry_mirror, zones: zones.options() }
    }
}

/// Where this node stands.
pub(crate) struct Place {
    /// Its InternalIP.
    pub(crate) ip: Ipv4Addr,
    /// Port of the kubelet API; 0 for any.
    pub(crate) port: u16,
    /// How the kubelet API shows itself.
    pub(crate) identity: Arc<tls::Identity>,
    /// The cluster's CA.
    pub(crate) ca: String,
    /// Labels beside the usual ones.
    pub(crate) labels: BTreeMap<String, String>,
    /// How CPUs and memory are given to pods.
    pub(crate) zones: ZoneOptions,
}

/// The images of this machine.
pub(crate) fn images(instance: &Instance, settings: &NodeSettings) -> Result<Images> {
    let mut options = crate::commands::image_options(&instance.dir, &settings.insecure);
    for (registry, mirror) in &settings.mirrors {
        let hosts = &mut options.registries.hosts;
        hosts.entry(registry.clone()).or_default().mirrors.push(mirror.clone());
    }
    Ok(Images::open(options)?)
}

/// The network of this node.
pub(crate) async fn network(instance: &Instance, supervisor: &Supervisor) -> Result<Network> {
    let options = platform::network_options(instance, true)?;
    Ok(Network::start(options, &supervisor.child("network")).await?)
}

/// Registers the node, and waits until the cluster has given it its part of the pods' network, which is remembered.
pub(crate) async fn claim_network(
    instance: &mut Instance,
    client: &kube::Client,
    ip: Ipv4Addr,
) -> Result<()> {
    let name = instance.facts.node_name.clone();
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {"providerID": format!("sampan://{name}")},
        "status": {"addresses": [
            {"type": "InternalIP", "address": ip.to_string()},
            {"type": "Hostname", "address": name},
        ]},
    }))?;
    match nodes.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other.with_context(|| format!("register the node {name}"))?),
    }
    let wait = wait::until(&nodes, &name, |node| Ok(node.spec.and_then(|spec| spec.pod_cidr)));
    tokio::pin!(wait);
    let cidr = match tokio::time::timeout(NETWORK_BOUND, &mut wait).await {
        Ok(cidr) => cidr?,
        Err(_) => {
            tracing::warn!(
                "no part of the pods' network for node {name} yet (hint: are controllers running, and is there one left? \
                 see the node's events)"
            );
            wait.await?
        }
    };
    if let Some(before) = instance.facts.node_cidr.as_ref().filter(|before| **before != cidr) {
        bail!(
            "node {name} has the network {cidr} now, and pods in {before} (hint: `sampan down`, then start it again)"
        );
    }
    instance.facts.node_cidr = Some(cidr);
    instance.save()
}

/// What the agent is told.
pub(crate) fn agent_options(
    instance: &Instance,
    place: Place,
    client: kube::Client,
    runtime: Runtime,
    images: Images,
    network: Network,
) -> Result<sampan_agent::Options> {
    let addresses = Addresses::of(instance)?;
    Ok(sampan_agent::Options {
        client,
        node_name: instance.facts.node_name.clone(),
        node_ip: place.ip,
        labels: place.labels,
        zones: place.zones,
        capacity: sampan_agent::Capacity::default(),
        pod_cidr: Some(addresses.node_cidr.to_string()),
        cluster_dns: Some(addresses.dns),
        cluster_domain: DOMAIN.to_owned(),
        host_resolv_conf: platform::host_resolv_conf(),
        service_env: Vec::new(),
        pods_dir: instance.dir.join("pods"),
        run_dir: instance.runtime_dir(),
        runtime,
        images,
        network,
        api: sampan_agent::ApiOptions { port: place.port, identity: place.identity, client_ca: place.ca },
        version: sampan_apiserver::GIT_VERSION.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
