//! The whole boat: control plane and node put together in one process.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    time::Duration,
};

use anyhow::{Context, Result};
use sampan_agent::Agent;
use sampan_apiserver::UserInfo;
use sampan_container::Runtime;
use sampan_daemon::Supervisor;
use sampan_network::{Cidr, DnsOptions, dns::resolv};

use crate::{
    controlplane::{self, ControlPlane, Place, Settings},
    identity::Identity,
    instance::Instance,
    node::{self, NodeSettings},
    store::{self, Opened},
};

pub(crate) mod build_steps;
mod fanotify;
mod throw_away;
pub(crate) mod trial;

/// The domain of all cluster names.
pub(crate) const DOMAIN: &str = "cluster.local";
/// The ConfigMap in `kube-system` that tells nodes of the cluster's network.
pub(crate) const NODE_CONFIG: &str = "sampan-node-config";
/// Time to live of cluster names; Kubernetes' DNS uses the same.
const DNS_TTL: Duration = Duration::from_secs(5);
/// Largest frame on the pods' bridge.
const MTU: u32 = 1500;

/// A running platform.
pub(crate) struct Platform {
    /// URL of the API.
    pub(crate) api: String,
    /// The administrator's client, in process.
    pub(crate) client: kube::Client,
    supervisor: Supervisor,
    plane: ControlPlane,
    // Ends last: everything else writes to it.
    store: Opened,
    _agent: sampan_agent::Handle,
}

/// Addresses of one node's network.
pub(crate) struct Addresses {
    pub(crate) pod_cidr: Cidr,
    pub(crate) node_cidr: Cidr,
    pub(crate) service_cidr: Cidr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) kubernetes: Ipv4Addr,
    pub(crate) dns: Ipv4Addr,
}

impl Addresses {
    pub(crate) fn of(instance: &Instance) -> Result<Self> {
        let (pod_cidr, service_cidr) = (instance.pod_cidr()?, instance.service_cidr()?);
        let node_cidr = match &instance.facts.node_cidr {
            Some(given) => given.parse().map_err(|e| anyhow::anyhow!("{given}: {e}"))?,
            None => pod_cidr.subnet(24, 0).context("the pods' network is smaller than a /24")?,
        };
        let nth = |cidr: &Cidr, n| cidr.nth(n).with_context(|| format!("{cidr} is too small"));
        Ok(Self {
            gateway: nth(&node_cidr, 1)?,
            kubernetes: nth(&service_cidr, 1)?,
            dns: nth(&service_cidr, 10)?,
            pod_cidr,
            node_cidr,
            service_cidr,
        })
    }
}

/// The node's network as this instance lays it out.
pub(crate) fn network_options(instance: &Instance, dns: bool) -> Result<sampan_network::Options> {
    let addresses = Addresses::of(instance)?;
    let resolv_conf = host_resolv_conf();
    // Asking ourselves would be a loop.
    let upstreams = resolv::parse(&resolv_conf).nameservers.into_iter().filter(|ip| *ip != addresses.dns);
    let upstreams = upstreams.map(|ip| SocketAddr::new(ip, 53)).collect();
    let id = &instance.facts.id;
    Ok(sampan_network::Options {
        bridge: format!("smp-{}", &id[..6]),
        node_cidr: addresses.node_cidr,
        pod_cidr: addresses.pod_cidr,
        service_cidr: addresses.service_cidr,
        dns_address: addresses.dns,
        dns: dns.then(|| DnsOptions { port: 53, domain: DOMAIN.to_owned(), upstreams, ttl: DNS_TTL }),
        table: format!("sampan-{id}"),
        state_dir: instance.dir.join("network"),
        mtu: MTU,
        masquerade: true,
    })
}

/// The container runtime of this instance.
pub(crate) fn runtime(instance: &Instance, supervisor: &Supervisor) -> Result<Runtime> {
    make_runtime_dir(instance)?;
    let dir = instance.runtime_dir().join("shim");
    let parent = format!("/sampan-{}", instance.facts.id);
    Ok(Runtime::new(sampan_container::Options::new(dir, parent), supervisor.child("runtime"))?)
}

/// The runtime directory: only root may look into it.
pub(crate) fn make_runtime_dir(instance: &Instance) -> Result<()> {
    let dir = instance.runtime_dir();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)))
        .with_context(|| dir.display().to_string())
}

pub(crate) fn host_resolv_conf() -> String {
    // A machine without the file has no upstream resolvers, and that is fine.
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

impl Platform {
    /// Start everything. Returns once the API serves; the node becomes ready on its own.
    pub(crate) async fn start(
        instance: &mut Instance,
        settings: &Settings,
        (node, registry_port): (&NodeSettings, Option<u16>),
        supervisor: Supervisor,
    ) -> Result<Self> {
        let runtime = runtime(instance, &supervisor)?;
        let registry_port = crate::commands::registry_port(&instance.dir, registry_port)?;
        let content = node::images(instance, node)?;
        let opened = store::open(instance, &supervisor).await?;
        let cluster = controlplane::enter(instance, settings, &opened).await?;
        let addresses = Addresses::of(instance)?;
        // Alone, the bridge comes first: the API listens on its address. With others, it listens where they reach it,
        // and the cluster says which network the bridge gets.
        let network = match opened.shared {
            false => Some(node::network(instance, &supervisor).await?),
            true => None,
        };
        let place = if opened.shared {
            shared_place(instance, settings)?
        } else {
            own_place(instance, settings, &addresses)
        };
        let plane = ControlPlane::start(instance, settings, (&opened, cluster), &place, &supervisor).await?;
        start_registry(instance, &plane.identity, (&place.listen, registry_port), &supervisor).await?;
        let user = UserInfo::new(format!("system:node:{}", instance.facts.node_name), &["system:nodes"]);
        let client = plane.client(user);
        let network = match network {
            Some(network) => network,
            None => {
                node::claim_network(instance, &client, place.node_ip).await?;
                node::network(instance, &supervisor).await?
            }
        };
        let agent = Agent::start(
            node::agent_options(
                instance,
                node::Place {
                    ip: place.node_ip,
                    port: 0,
                    identity: plane.identity.node.clone(),
                    ca: plane.identity.ca.cert_pem().to_owned(),
                    labels: BTreeMap::new(),
                    zones: node.zones.clone(),
                },
                client,
                runtime,
                content,
                network,
            )?,
            &supervisor,
        )
        .await?;
        Ok(Self {
            api: plane.url.clone(),
            client: plane.client(UserInfo::admin("kubernetes-admin")),
            supervisor,
            plane,
            store: opened,
            _agent: agent,
        })
    }

    /// End everything but the pods, within a bound.
    pub(crate) async fn stop(self) {
        let Self { supervisor, mut plane, store, client, _agent, .. } = self;
        plane.drain().await;
        drop((plane, client, _agent));
        crate::commands::end(&supervisor).await;
        // Closing the store waits for the disk.
        supervisor.blocking(move || drop(store)).await;
    }
}

/// The registry inside, on the addresses of the API, with its certificate.
async fn start_registry(
    instance: &Instance,
    identity: &Identity,
    (listen, port): (&[SocketAddr], u16),
    supervisor: &Supervisor,
) -> Result<()> {
    let listen: Vec<SocketAddr> = listen.iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
    let mut options = sampan_registry::Options::new(crate::commands::registry_dir(&instance.dir), listen);
    options.identity = Some(identity.api.clone());
    options.extra_ca = Some(identity.ca.cert_pem().to_owned());
    sampan_registry::Registry::start(options, supervisor).await.with_context(|| {
        format!("start the registry on port {port} (hint: choose another with --registry-port, 0 picks a free one)")
    })?;
    Ok(())
}

/// Where a server among several stands: reachable for all, unless it is told where to listen.
pub(crate) fn shared_place(instance: &Instance, settings: &Settings) -> Result<Place> {
    let port = instance.facts.api_port;
    let given = settings.bind.iter().copied().find(|ip| !ip.is_unspecified() && !ip.is_loopback());
    let advertise = match settings.advertise.or(given) {
        Some(ip) => ip,
        None => sampan_network::host_address()?
            .map(IpAddr::from)
            .context("this machine has no address (hint: --advertise-address says how others reach it)")?,
    };
    let mut listen = settings.bind.clone();
    if listen.is_empty() || listen.iter().any(IpAddr::is_unspecified) {
        listen = vec![Ipv4Addr::UNSPECIFIED.into()];
    } else if !listen.contains(&IpAddr::from([127, 0, 0, 1])) {
        listen.insert(0, [127, 0, 0, 1].into());
    }
    let IpAddr::V4(node_ip) = advertise else {
        anyhow::bail!("--advertise-address {advertise}: only IPv4 so far");
    };
    Ok(Place {
        listen: listen.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
        advertise: SocketAddr::new(advertise, port),
        node_ip,
        joins_at: format!("https://{advertise}:{port}"),
    })
}

/// Where a server with a store of its own stands: on loopback and the pods' gateway, and where it is told to.
fn own_place(instance: &Instance, settings: &Settings, addresses: &Addresses) -> Place {
    let (port, gateway) = (instance.facts.api_port, IpAddr::from(addresses.gateway));
    let host = sampan_network::host_address().ok().flatten().map(IpAddr::from);
    let given = settings.bind.iter().copied().find(|ip| !ip.is_unspecified() && !ip.is_loopback());
    let everywhere = settings.bind.iter().any(IpAddr::is_unspecified);
    // Who listens for other machines is reached by them, and their pods, there.
    let reached = settings.advertise.or(given).or(host.filter(|_| everywhere));
    let mut listen = listen_addresses(instance, settings, addresses.gateway);
    if let Some(ip) = settings.advertise.filter(|ip| !everywhere && !listen.iter().any(|at| at.ip() == *ip)) {
        listen.push(SocketAddr::new(ip, port));
    }
    Place {
        listen,
        advertise: SocketAddr::new(reached.unwrap_or(gateway), port),
        node_ip: addresses.gateway,
        joins_at: format!("https://{}", SocketAddr::new(reached.or(host).unwrap_or(gateway), port)),
    }
}

fn listen_addresses(instance: &Instance, settings: &Settings, gateway: Ipv4Addr) -> Vec<SocketAddr> {
    let mut addresses: Vec<IpAddr> = vec![[127, 0, 0, 1].into()];
    if settings.bind.iter().any(IpAddr::is_unspecified) {
        addresses = vec![Ipv4Addr::UNSPECIFIED.into()];
    } else {
        addresses.push(gateway.into());
        addresses.extend(&settings.bind);
    }
    addresses.into_iter().map(|ip| SocketAddr::new(ip, instance.facts.api_port)).collect()
}
