//! The whole boat: store, API server, controllers and node put together in one process.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use sampan_agent::Agent;
use sampan_apiserver::{ApiServer, AuditLog, AuditPolicy, Authentication, UserInfo};
use sampan_container::Runtime;
use sampan_daemon::{Supervisor, tls};
use sampan_image::Images;
use sampan_network::{Cidr, DnsOptions, Network, dns::resolv};
use sampan_store::embedded::Embedded;

use crate::{
    encryption::Keys,
    identity::{self, Identity},
    instance::Instance,
    local,
    manage::{self, Manager},
};

pub(crate) mod build_steps;

/// The domain of all cluster names.
const DOMAIN: &str = "cluster.local";
/// Time to live of cluster names; Kubernetes' DNS uses the same.
const DNS_TTL: Duration = Duration::from_secs(5);
/// How long open requests may take to end when the service ends.
const DRAIN_BOUND: Duration = Duration::from_secs(3);
/// Largest frame on the pods' bridge.
const MTU: u32 = 1500;

/// What `sampan up` decides beside the instance.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Further listen addresses.
    pub(crate) bind: Vec<IpAddr>,
    /// Registries reached over plain HTTP.
    pub(crate) insecure: Vec<String>,
    /// What requests are recorded, and where.
    pub(crate) audit: Option<(AuditPolicy, AuditLog)>,
    /// Registry to mirror.
    pub(crate) mirrors: Vec<(String, String)>,
    /// An `EncryptionConfiguration` instead of our own keys.
    pub(crate) encryption: Option<std::path::PathBuf>,
    /// Port of the registry, when it was chosen.
    pub(crate) registry_port: Option<u16>,
    /// An `AuthenticationConfiguration`: who is believed besides ourselves.
    pub(crate) authentication: Option<serde_json::Value>,
}

/// A running platform.
pub(crate) struct Platform {
    /// URL of the API.
    pub(crate) api: String,
    /// The administrator's client, in process.
    pub(crate) client: kube::Client,
    /// First address of the services: DNS and the API live near it.
    pub(crate) dns: Ipv4Addr,
    supervisor: Supervisor,
    server: sampan_apiserver::Handle,
    // Ends last: everything else writes to it.
    store: Arc<Embedded>,
    _controllers: sampan_controllers::Handle,
    _agent: sampan_agent::Handle,
}

/// Addresses of one node's network.
pub(crate) struct Addresses {
    pod_cidr: Cidr,
    node_cidr: Cidr,
    service_cidr: Cidr,
    gateway: Ipv4Addr,
    kubernetes: Ipv4Addr,
    dns: Ipv4Addr,
}

impl Addresses {
    fn of(instance: &Instance) -> Result<Self> {
        let (pod_cidr, service_cidr) = (instance.pod_cidr()?, instance.service_cidr()?);
        let node_cidr = pod_cidr.subnet(24, 0).context("the pods' network is smaller than a /24")?;
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

fn host_resolv_conf() -> String {
    // A machine without the file has no upstream resolvers, and that is fine.
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

impl Platform {
    /// Start everything. Returns once the API serves; the node becomes ready on its own.
    pub(crate) async fn start(
        instance: &Instance,
        settings: &Settings,
        supervisor: Supervisor,
    ) -> Result<Self> {
        let addresses = Addresses::of(instance)?;
        let runtime = runtime(instance, &supervisor)?;
        let registry_port = crate::commands::registry_port(&instance.dir, settings.registry_port)?;
        let images = images(instance, settings, registry_port)?;
        let store = open_store(&instance.dir, &supervisor).await?;
        // The bridge first: the API listens on its address.
        let network = Network::start(network_options(instance, true)?, &supervisor.child("network")).await?;
        let listen = listen_addresses(instance, settings, addresses.gateway);
        let mut names: Vec<IpAddr> =
            listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        names.extend([IpAddr::from(addresses.kubernetes), IpAddr::from([127, 0, 0, 1])]);
        names.extend(sampan_network::host_address().ok().flatten().map(IpAddr::from));
        let identity = Arc::new(identity::prepare(instance, &names, addresses.gateway.into())?);
        start_registry(instance, &identity, (&listen, registry_port), &supervisor).await?;
        let keys = Keys::open(instance, settings.encryption.as_deref(), store.clone())?;
        let api = start_api(instance, &identity, &addresses, (&listen, settings), keys.store(), &supervisor)
            .await?;
        let port = api.addresses().first().map_or(instance.facts.api_port, SocketAddr::port);
        let url = format!("https://127.0.0.1:{port}");
        identity::write_kubeconfig(instance, &identity, &url)?;

        let admin = UserInfo::admin("kubernetes-admin");
        identity::keep(&identity, instance, &url, &supervisor);
        let manager =
            Manager { identity: identity.clone(), keys, instance: instance.clone(), server: url.clone() };
        let service = manage::Service::new(manager, api.client(admin.clone()));
        local::serve(&instance.socket(), service, &supervisor)?;
        let client = |user| kube::Client::new(api.client(user), "default");
        let mut options = sampan_controllers::Options::new(
            client(UserInfo::new("system:kube-controller-manager", &[])),
            client(UserInfo::new("system:kube-scheduler", &[])),
            identity.ca.cert_pem(),
        );
        options.ca = Some(identity.ca.clone());
        options.cluster_info = Some(identity::cluster_info(&identity, &joins_at(&addresses, port))?);
        let controllers = sampan_controllers::start(options, &supervisor);
        let node = format!("system:node:{}", instance.facts.node_name);
        let node_client = client(UserInfo::new(node, &["system:nodes"]));
        let options = agent_options(instance, &identity, &addresses, node_client, runtime, images, network);
        let agent = Agent::start(options, &supervisor).await?;
        Ok(Self {
            api: url,
            client: client(admin),
            dns: addresses.dns,
            supervisor,
            server: api,
            store,
            _controllers: controllers,
            _agent: agent,
        })
    }

    /// End everything but the pods, within a bound.
    pub(crate) async fn stop(self) {
        let Self { supervisor, server, store, client, _controllers, _agent, .. } = self;
        if !server.drain(DRAIN_BOUND).await {
            tracing::warn!("requests were still open after {} s", DRAIN_BOUND.as_secs());
        }
        drop((server, client, _controllers, _agent));
        let late = supervisor.shutdown(Duration::from_secs(5)).await;
        if !late.is_empty() {
            tracing::warn!("did not end in time: {}", late.join(", "));
        }
        // Closing the store waits for the disk.
        supervisor.blocking(move || drop(store)).await;
    }
}

/// Where machines that join reach the API.
fn joins_at(addresses: &Addresses, port: u16) -> String {
    let host = sampan_network::host_address().ok().flatten().unwrap_or(addresses.gateway);
    format!("https://{host}:{port}")
}

async fn open_store(dir: &Path, supervisor: &Supervisor) -> Result<Arc<Embedded>> {
    let options = sampan_store::embedded::Options::new(dir.join("store"));
    Ok(Arc::new(supervisor.blocking(move || Embedded::open(options)).await?))
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

fn images(instance: &Instance, settings: &Settings, registry_port: u16) -> Result<Images> {
    let mut options = crate::commands::image_options(&instance.dir, &settings.insecure);
    // Our own registry shows a certificate of our own authority.
    let own = options.registries.hosts.entry(format!("localhost:{registry_port}")).or_default();
    own.ca_file = Some(instance.dir.join("tls/ca.crt"));
    for (registry, mirror) in &settings.mirrors {
        let hosts = &mut options.registries.hosts;
        hosts.entry(registry.clone()).or_default().mirrors.push(mirror.clone());
    }
    Ok(Images::open(options)?)
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

async fn start_api(
    instance: &Instance,
    identity: &Identity,
    addresses: &Addresses,
    (listen, settings): (&[SocketAddr], &Settings),
    store: Arc<dyn sampan_store::Store>,
    supervisor: &Supervisor,
) -> Result<sampan_apiserver::Handle> {
    let issuer = format!("https://kubernetes.default.svc.{DOMAIN}");
    let config = settings.authentication.as_ref();
    let authentication = config.map(|config| Authentication::parse(config, &[&issuer])).transpose()?;
    let ca = identity.ca.cert_pem();
    let options = sampan_apiserver::Options {
        listen: listen.to_vec(),
        tls: tls::live_server_config(identity.api.clone(), Some(ca), false)?,
        node_tls: tls::live_client_config(ca, Some(identity.api_to_node.clone()))?,
        signing_key: identity.signing_key.clone(),
        audiences: vec![issuer.clone()],
        issuer,
        static_tokens: Vec::new(),
        service_cidr: addresses.service_cidr.to_string().parse().map_err(anyhow::Error::msg)?,
        node_ports: (30_000, 32_767),
        advertise: Some(SocketAddr::new(addresses.gateway.into(), instance.facts.api_port)),
        store,
        front_proxy: Some(front_proxy(instance)?),
        limits: sampan_apiserver::Limits::default(),
    };
    let port = instance.facts.api_port;
    let mut server = ApiServer::bind(options).await.with_context(|| {
        format!("start the Kubernetes API on port {port} (hint: choose another with --api-port, 0 picks a free one)")
    })?;
    if let Some((policy, log)) = settings.audit.clone() {
        server.audit(policy, log)?;
    }
    if let Some(authentication) = authentication {
        server.believe(authentication);
    }
    Ok(server.start(supervisor).await?)
}

/// The identity with which requests are passed on to extension servers: signed by an authority of its own, so that
/// nobody who is known to the cluster can pretend to be the API server.
fn front_proxy(instance: &Instance) -> Result<sampan_apiserver::FrontProxy> {
    let dir = instance.dir.join("tls/front-proxy");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| dir.display().to_string())?;
    let ca = tls::Ca::load_or_create(&dir, "sampan-front-proxy-ca")?;
    let identity = ca.issue(&tls::Profile {
        common_name: "front-proxy-client".to_owned(),
        organizations: Vec::new(),
        dns: Vec::new(),
        ips: Vec::new(),
        usage: tls::Usage::Client,
        days: 365,
    })?;
    Ok(sampan_apiserver::FrontProxy { ca_pem: ca.cert_pem().to_owned(), identity })
}

fn agent_options(
    instance: &Instance,
    identity: &Identity,
    addresses: &Addresses,
    client: kube::Client,
    runtime: Runtime,
    images: Images,
    network: Network,
) -> sampan_agent::Options {
    sampan_agent::Options {
        client,
        node_name: instance.facts.node_name.clone(),
        node_ip: addresses.gateway,
        labels: BTreeMap::new(),
        capacity: sampan_agent::Capacity::default(),
        pod_cidr: Some(addresses.node_cidr.to_string()),
        cluster_dns: Some(addresses.dns),
        cluster_domain: DOMAIN.to_owned(),
        host_resolv_conf: host_resolv_conf(),
        service_env: Vec::new(),
        pods_dir: instance.dir.join("pods"),
        run_dir: instance.runtime_dir(),
        runtime,
        images,
        network,
        api: sampan_agent::ApiOptions {
            port: 0,
            identity: identity.node.clone(),
            client_ca: identity.ca.cert_pem().to_owned(),
        },
        version: sampan_apiserver::GIT_VERSION.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
