//! How a machine becomes a node of a cluster that runs elsewhere, and stays one.
//!
//! It is told addresses, a bootstrap token and the hash of the CA's key. It reads `kube-public/cluster-info` from a server
//! that it does not trust yet, believes the CA in it only when the hash fits and the token's signature is right, and
//! asks with the token for a certificate of its own. From then on it speaks as `system:node:<name>`, renews that
//! certificate in time, and follows where servers are.

mod certificate;
mod discovery;
mod manage;
mod servers;

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::{core::v1::ConfigMap, discovery::v1::EndpointSlice};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use sampan_agent::Agent;
use sampan_daemon::{Backoff, Policy, Supervisor, clock, tls};
use serde::{Deserialize, Serialize};

use crate::{
    instance::{Choices, Instance},
    local,
    node::{self, NodeSettings},
    platform::{self, DOMAIN, NODE_CONFIG},
};
pub(crate) use servers::Servers;

/// Port of the kubelet API, as everywhere.
pub(crate) const KUBELET_PORT: u16 = 10_250;
/// How long a first answer of the cluster may take.
const FIRST_BOUND: Duration = Duration::from_secs(90);

/// What `sampan agent` decides.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `host:port` of servers.
    pub(crate) servers: Vec<String>,
    /// The bootstrap token.
    pub(crate) token: Option<String>,
    /// `sha256:…` of the CA's key.
    pub(crate) pins: Vec<String>,
    /// Believe whoever has the token.
    pub(crate) unpinned: bool,
    /// This node's address.
    pub(crate) ip: Option<Ipv4Addr>,
    /// Port of the kubelet API.
    pub(crate) port: u16,
    /// Labels beside the usual ones.
    pub(crate) labels: BTreeMap<String, String>,
    /// How it runs pods.
    pub(crate) node: NodeSettings,
}

/// What is remembered of the cluster, beside certificates: `cluster.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    /// Those that `--join` named.
    #[serde(default)]
    joined: Vec<String>,
    /// All that are known.
    servers: Vec<String>,
    pod_network: String,
    service_network: String,
}

/// A machine that is a node.
pub(crate) struct Joined {
    /// The node's client.
    pub(crate) client: kube::Client,
    /// A server.
    pub(crate) server: String,
    supervisor: Supervisor,
    _agent: sampan_agent::Handle,
}

impl Joined {
    /// Joins, or goes on as a node. Returns once the agent runs.
    pub(crate) async fn start(
        instance: &mut Instance,
        settings: &Settings,
        supervisor: Supervisor,
    ) -> Result<Self> {
        clock::follow(&supervisor);
        let (servers, identity, ca) = enter(instance, settings, &supervisor).await?;
        let client = servers.client();
        follow_servers(instance, &servers, client.clone(), &supervisor);
        let ip = settings.ip.map_or_else(
            || {
                let found = sampan_network::host_address()?;
                found.context("this machine has no address (hint: --node-ip says how others reach it)")
            },
            Ok,
        )?;
        let runtime = platform::runtime(instance, &supervisor)?;
        let images = node::images(instance, &settings.node)?;
        node::claim_network(instance, &client, ip).await?;
        let network = node::network(instance, &supervisor).await?;
        // Until it has a certificate for serving, nobody can be sure whom they talk to, and nobody does.
        let serving = certificate::serving(instance, &identity)?;
        let place = node::Place {
            ip,
            port: settings.port,
            identity: serving.clone(),
            ca: ca.clone(),
            labels: settings.labels.clone(),
            zones: settings.node.zones.clone(),
        };
        let options = node::agent_options(instance, place, client.clone(), runtime, images, network)?;
        let agent = Agent::start(options, &supervisor).await?;
        let keeper = Arc::new(certificate::Keeper {
            dir: instance.dir.join("tls"),
            name: instance.facts.node_name.clone(),
            ip,
            client: client.clone(),
            identity,
            serving,
            servers: servers.clone(),
            renewing: tokio::sync::Mutex::default(),
        });
        keeper.start(&supervisor);
        local::serve(&instance.socket(), manage::Service::new(keeper), &supervisor)?;
        Ok(Self { client, server: servers.current(), supervisor, _agent: agent })
    }

    /// Ends everything but the pods, within a bound.
    pub(crate) async fn stop(self) {
        crate::commands::end(&self.supervisor).await;
    }
}

/// The instance of an agent: its networks are the cluster's, so nothing is chosen here.
pub(crate) fn open_instance(dir: &std::path::Path, node_name: Option<String>) -> Result<Instance> {
    Instance::refuse_server(dir)?;
    let known: Known = match fs::read(dir.join("cluster.json")) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => Known::default(),
    };
    let parse = |text: &str| text.parse().ok();
    let choices = Choices {
        node_name,
        pod_cidr: parse(&known.pod_network),
        service_cidr: parse(&known.service_network),
        ..Choices::default()
    };
    Instance::open_or_make(dir, &choices)
}

fn known_file(instance: &Instance) -> PathBuf {
    instance.dir.join("cluster.json")
}

fn known(instance: &Instance) -> Result<Known> {
    let file = known_file(instance);
    match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| file.display().to_string()),
        Err(_) => Ok(Known::default()),
    }
}

fn remember(instance: &Instance, known: &Known) -> Result<()> {
    let text = serde_json::to_string_pretty(known)? + "\n";
    Ok(tls::write_file(&known_file(instance), text.as_bytes(), 0o600)?)
}

/// Gives the way to the servers, the node's identity, and the CA.
async fn enter(
    instance: &mut Instance,
    settings: &Settings,
    supervisor: &Supervisor,
) -> Result<(Arc<Servers>, Arc<tls::Identity>, String)> {
    let dir = instance.dir.join("tls");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let known = known(instance)?;
    let ca_file = dir.join("ca.crt");
    let joined = if settings.servers.is_empty() { known.joined.clone() } else { settings.servers.clone() };
    let list = if joined.is_empty() { known.servers.clone() } else { joined.clone() };
    if list.is_empty() {
        bail!(
            "which cluster? (hint: --join https://server:6443, see `sampan token create --print-join-command`)"
        );
    }
    let have = certificate::load(&dir, &instance.facts.node_name)?;
    let (ca, identity) = match have {
        Some(identity) => {
            (fs::read_to_string(&ca_file).with_context(|| ca_file.display().to_string())?, identity)
        }
        None => {
            let token = settings.token.as_ref().context(
                "this machine is no node yet: it needs a token (hint: `sampan token create --print-join-command` on a server)",
            )?;
            let ca = discovery::ca(&list, token, &settings.pins, settings.unpinned, FIRST_BOUND).await?;
            tls::write_file(&ca_file, ca.as_bytes(), 0o644)?;
            let plain = tls::live_client_config(&ca, None)?;
            let way = Servers::new(list.clone(), plain, Some(token.clone()), supervisor);
            let name = &instance.facts.node_name;
            let first = certificate::first(&dir, name, &way.client(), FIRST_BOUND).await?;
            (ca, first)
        }
    };
    let way =
        Servers::new(list.clone(), tls::live_client_config(&ca, Some(identity.clone()))?, None, supervisor);
    // The cluster's networks never change: once known, a node starts without asking.
    if !known.servers.is_empty() {
        way.learn(&known.servers);
    }
    let known = if known.pod_network.is_empty() { ask_networks(&way).await? } else { known };
    let known = Known { joined, ..known };
    let facts = &mut instance.facts;
    facts.pod_cidr.clone_from(&known.pod_network);
    facts.service_cidr.clone_from(&known.service_network);
    // In this order: a network that is known, and is not the instance's, would be taken for another cluster's.
    instance.save()?;
    remember(instance, &known)?;
    Ok((way, identity, ca))
}

async fn ask_networks(way: &Arc<Servers>) -> Result<Known> {
    let maps: Api<ConfigMap> = Api::namespaced(way.client(), "kube-system");
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let begun = tokio::time::Instant::now();
    let map = loop {
        match maps.get(NODE_CONFIG).await {
            Ok(map) => break map,
            // Right after a cluster is made it is not there yet, nor may be read.
            Err(error) if begun.elapsed() > FIRST_BOUND || discovery::is(&error, 401) => {
                return Err(error).with_context(|| format!("read ConfigMap kube-system/{NODE_CONFIG}"));
            }
            Err(_) => tokio::time::sleep(backoff.next_delay()).await,
        }
    };
    let data = map.data.unwrap_or_default();
    let field =
        |name: &str| data.get(name).cloned().with_context(|| format!("{NODE_CONFIG} says nothing of {name}"));
    let domain = field("clusterDomain")?;
    if domain != DOMAIN {
        bail!("the cluster's domain is {domain}, this build serves {DOMAIN}");
    }
    Ok(Known {
        pod_network: field("podNetwork")?,
        service_network: field("serviceNetwork")?,
        ..Known::default()
    })
}

/// Keeps the list of servers as the endpoints of the `kubernetes` Service say, here and in the file.
fn follow_servers(
    instance: &Instance,
    servers: &Arc<Servers>,
    client: kube::Client,
    supervisor: &Supervisor,
) {
    let (instance, servers) = (instance.clone(), servers.clone());
    supervisor.supervise("servers", Policy::Restart(Backoff::default()), move || {
        let (instance, servers, client) = (instance.clone(), servers.clone(), client.clone());
        async move {
            let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
            let config = watcher::Config::default().labels("kubernetes.io/service-name=kubernetes");
            let events = watcher(slices, config).default_backoff();
            let mut events = std::pin::pin!(events);
            let mut slices: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut listing = false;
            // What the file says: what could not be written is written the next time.
            let mut written = known(&instance)?.servers;
            while let Some(event) = events.next().await {
                // One that failed is made again by the watcher.
                let Ok(event) = event else { continue };
                match event {
                    watcher::Event::Init => {
                        listing = true;
                        slices.clear();
                    }
                    watcher::Event::InitApply(slice) | watcher::Event::Apply(slice) => {
                        slices.insert(slice.metadata.name.clone().unwrap_or_default(), addresses(&slice));
                    }
                    watcher::Event::Delete(slice) => {
                        slices.remove(slice.metadata.name.as_deref().unwrap_or_default());
                    }
                    watcher::Event::InitDone => listing = false,
                }
                let list: Vec<String> = slices.values().flatten().cloned().collect();
                if listing || list.is_empty() {
                    continue;
                }
                servers.learn(&list);
                if list != written {
                    let facts = &instance.facts;
                    let known = Known {
                        joined: servers.given(),
                        servers: list,
                        pod_network: facts.pod_cidr.clone(),
                        service_network: facts.service_cidr.clone(),
                    };
                    remember(&instance, &known)?;
                    written = known.servers;
                }
            }
            bail!("the watch ended")
        }
    });
}

/// `host:port` of each server, as the endpoints of the `kubernetes` Service have them.
pub(crate) fn addresses(slice: &EndpointSlice) -> Vec<String> {
    let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(6443);
    let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter());
    addresses
        .map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
        .collect()
}

/// `https://host:port`, several by commas or by repetition, as `host:port`.
pub(crate) fn parse_servers(urls: &[String]) -> Result<Vec<String>> {
    let mut list: Vec<String> = Vec::new();
    for url in urls.iter().flat_map(|urls| urls.split(',')).filter(|url| !url.is_empty()) {
        let bad = || format!("--join {url}: not a server (hint: https://host:6443)");
        let rest = match url.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => bail!(bad()),
            None => url,
        };
        let host = rest.trim_end_matches('/');
        if host.is_empty() || host.contains('/') {
            bail!(bad());
        }
        let server = match host.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => {
                port.parse::<u16>().with_context(bad)?;
                host.to_owned()
            }
            _ => format!("{host}:6443"),
        };
        if !list.contains(&server) {
            list.push(server);
        }
    }
    Ok(list)
}

/// The token as it was typed, which may carry the hash of the CA's key behind an `@`.
pub(crate) fn parse_token(text: &str) -> (String, Option<String>) {
    match text.trim().split_once('@') {
        Some((token, pin)) => (token.to_owned(), Some(pin.to_owned())),
        None => (text.trim().to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_every_spelling() {
        let read =
            |urls: &[&str]| parse_servers(&urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>());
        let both = read(&["https://a:6443,https://b", "c:1", "a:6443"]).unwrap();
        assert_eq!(both, ["a:6443", "b:6443", "c:1"]);
        assert_eq!(read(&["https://[::1]/"]).unwrap(), ["[::1]:6443"]);
        for bad in ["http://a", "https://", "a:b", "https://a/x"] {
            assert!(read(&[bad]).unwrap_err().to_string().contains("hint"), "{bad}");
        }
    }

    #[test]
    fn a_token_may_carry_the_pin() {
        assert_eq!(parse_token("a.b@sha256:1\n"), ("a.b".into(), Some("sha256:1".into())));
        assert_eq!(parse_token("a.b"), ("a.b".into(), None));
    }
}
