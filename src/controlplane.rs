//! The control plane of one process: API server, controllers, scheduler, over a store of its own or one that is shared.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use sampan_apiserver::{ApiServer, AuditLog, AuditPolicy, AuditWebhook, Authentication, UserInfo};
use sampan_daemon::{Backoff, Policy, Supervisor, tls};
use serde_json::json;

use crate::{
    cluster::{self, Cluster},
    encryption::Keys,
    identity::{self, Identity},
    instance::Instance,
    local,
    manage::{self, Manager},
    platform::{Addresses, DOMAIN, NODE_CONFIG},
    store::Opened,
};

/// How long open requests may take to end when the service ends.
const DRAIN_BOUND: Duration = Duration::from_secs(3);

/// What requests are recorded, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Auditing {
    pub(crate) policy: AuditPolicy,
    pub(crate) log: Option<AuditLog>,
    pub(crate) webhook: Option<AuditWebhook>,
}

/// What is decided beside the instance.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Further listen addresses.
    pub(crate) bind: Vec<IpAddr>,
    /// Where others reach this server.
    pub(crate) advertise: Option<IpAddr>,
    /// Further names of this server.
    pub(crate) names: Vec<String>,
    /// What requests are recorded.
    pub(crate) audit: Option<Auditing>,
    /// An `EncryptionConfiguration` instead of our own keys.
    pub(crate) encryption: Option<std::path::PathBuf>,
    /// How pods are placed.
    pub(crate) scheduler: sampan_controllers::SchedulerConfig,
    /// Whether and how pods are moved to where they run better.
    pub(crate) rebalance: Option<sampan_controllers::Rebalance>,
    /// Whether and up to which bounds batch pods get what others do not use.
    pub(crate) overcommit: Option<sampan_controllers::Overcommit>,
    /// An `AuthenticationConfiguration`: who is believed besides ourselves.
    pub(crate) authentication: Option<serde_json::Value>,
    /// The secret that servers of one cluster have in common.
    pub(crate) secret: Option<String>,
}

/// Where this control plane stands.
pub(crate) struct Place {
    /// Where it listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// The endpoint of the `kubernetes` Service.
    pub(crate) advertise: SocketAddr,
    /// Address of the node beside it.
    pub(crate) node_ip: Ipv4Addr,
    /// Where machines that join reach it.
    pub(crate) joins_at: String,
}

/// A running control plane.
pub(crate) struct ControlPlane {
    /// URL of the API for this machine.
    pub(crate) url: String,
    /// Who is who.
    pub(crate) identity: Arc<Identity>,
    api: sampan_apiserver::Handle,
    elected: Option<sampan_controllers::Elected>,
}

/// Enters the cluster in a shared store, or founds it. Nothing for a store of our own.
pub(crate) async fn enter(
    instance: &mut Instance,
    settings: &Settings,
    opened: &Opened,
) -> Result<Option<Arc<Cluster>>> {
    if !opened.shared {
        return Ok(None);
    }
    let given = settings.encryption.is_some();
    let make = |instance: &Instance| {
        identity::roots(instance)?;
        front_proxy(instance)?;
        if !given {
            Keys::make(instance)?;
        }
        Ok(())
    };
    let entered = cluster::enter(instance, opened.store.clone(), settings.secret.clone(), make).await?;
    Ok(Some(Arc::new(entered)))
}

impl ControlPlane {
    /// Start it. Returns once the API serves.
    pub(crate) async fn start(
        instance: &Instance,
        settings: &Settings,
        (opened, cluster): (&Opened, Option<Arc<Cluster>>),
        place: &Place,
        supervisor: &Supervisor,
    ) -> Result<Self> {
        let addresses = Addresses::of(instance)?;
        let mut ips: Vec<IpAddr> =
            place.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        ips.extend([IpAddr::from(addresses.kubernetes), IpAddr::from([127, 0, 0, 1]), place.advertise.ip()]);
        ips.extend(sampan_network::host_address().ok().flatten().map(IpAddr::from));
        let (named, mut dns) =
            (settings.names.iter().map(|name| name.parse::<IpAddr>()), settings.names.clone());
        ips.extend(named.flatten());
        dns.retain(|name| name.parse::<IpAddr>().is_err());
        let identity = Arc::new(identity::prepare(instance, &ips, &dns, place.node_ip.into())?);
        let keys =
            Keys::open(instance, settings.encryption.as_deref(), opened.store.clone(), cluster.clone())?;
        let api = start_api(instance, &identity, place, settings, (keys.store(), opened.shared), supervisor);
        let api = api.await?;
        let port = api.addresses().first().map_or(instance.facts.api_port, SocketAddr::port);
        let url = format!("https://127.0.0.1:{port}");
        identity::write_kubeconfig(instance, &identity, &url)?;
        identity::keep(&identity, instance, &url, supervisor);
        if let Some(cluster) = cluster.filter(|_| settings.encryption.is_none()) {
            let keys = keys.clone();
            cluster.follow(place.advertise.to_string(), supervisor, move || keys.reload());
        }
        let manager = Manager {
            identity: identity.clone(),
            keys,
            instance: instance.clone(),
            server: url.clone(),
            store: opened.embedded.clone(),
        };
        let service = manage::Service::new(manager, api.client(UserInfo::admin("kubernetes-admin")));
        local::serve(&instance.socket(), service, supervisor)?;
        let client = |user| kube::Client::new(api.client(user), "default");
        let mut options = sampan_controllers::Options::new(
            client(UserInfo::new("system:kube-controller-manager", &[])),
            client(UserInfo::new("system:kube-scheduler", &[])),
            identity.ca.cert_pem(),
        );
        options.ca = Some(identity.ca.clone());
        options.server_names = tls::names(&identity.api.issued().cert_pem)?;
        options.scheduler = settings.scheduler.clone();
        options.rebalance.clone_from(&settings.rebalance);
        options.overcommit = settings.overcommit;
        options.cluster_info = Some(identity::cluster_info(&identity, &place.joins_at)?);
        options.pod_network = Some(addresses.pod_cidr.to_string().parse().map_err(anyhow::Error::msg)?);
        let elected = if opened.shared {
            let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
            // Never the same twice: a process before this one is somebody else.
            let name = format!("{host}_{}_{:016x}", place.advertise.ip(), rand::random::<u64>());
            Some(sampan_controllers::start_elected(
                options,
                &name,
                sampan_controllers::Terms::default(),
                supervisor,
            ))
        } else {
            sampan_controllers::start(options, supervisor);
            None
        };
        publish_node_config(client(UserInfo::admin("kubernetes-admin")), &addresses, supervisor);
        Ok(Self { url, identity, api, elected })
    }

    /// A client in this process.
    pub(crate) fn client(&self, user: UserInfo) -> kube::Client {
        kube::Client::new(self.api.client(user), "default")
    }

    /// Gives back what it leads, takes no more requests and ends those that are open, within a bound.
    pub(crate) async fn drain(&mut self) {
        if let Some(elected) = self.elected.take() {
            elected.leave().await;
        }
        if !self.api.drain(DRAIN_BOUND).await {
            tracing::warn!("requests were still open after {} s", DRAIN_BOUND.as_secs());
        }
    }
}

/// What nodes that join must know of the cluster's network.
fn publish_node_config(client: kube::Client, addresses: &Addresses, supervisor: &Supervisor) {
    let data = json!({
        "podNetwork": addresses.pod_cidr.to_string(),
        "serviceNetwork": addresses.service_cidr.to_string(),
        "clusterDNS": addresses.dns.to_string(),
        "clusterDomain": DOMAIN,
    });
    let policy = Policy::Restart(Backoff::default());
    supervisor.supervise("node-config", policy, move || {
        let (api, data) = (Api::<ConfigMap>::namespaced(client.clone(), "kube-system"), data.clone());
        async move {
            let object = json!({"metadata": {"name": NODE_CONFIG}, "data": data});
            let object: ConfigMap = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            match api.create(&PostParams::default(), &object).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                other => other.map(drop),
            }
        }
    });
}

async fn start_api(
    instance: &Instance,
    identity: &Identity,
    place: &Place,
    settings: &Settings,
    (store, shared): (Arc<dyn sampan_store::Store>, bool),
    supervisor: &Supervisor,
) -> Result<sampan_apiserver::Handle> {
    let issuer = format!("https://kubernetes.default.svc.{DOMAIN}");
    let config = settings.authentication.as_ref();
    let authentication = config.map(|config| Authentication::parse(config, &[&issuer])).transpose()?;
    let ca = identity.ca.cert_pem();
    let options = sampan_apiserver::Options {
        listen: place.listen.clone(),
        tls: tls::live_server_config(identity.api.clone(), Some(ca), false)?,
        node_tls: tls::live_client_config(ca, Some(identity.api_to_node.clone()))?,
        signing_key: identity.signing_key.clone(),
        audiences: vec![issuer.clone()],
        issuer,
        static_tokens: Vec::new(),
        service_cidr: instance.facts.service_cidr.parse().map_err(anyhow::Error::msg)?,
        node_ports: (30_000, 32_767),
        advertise: Some(place.advertise),
        store,
        front_proxy: Some(front_proxy(instance)?),
        limits: sampan_apiserver::Limits::default(),
    };
    let port = instance.facts.api_port;
    let mut server = ApiServer::bind(options).await.with_context(|| {
        format!("start the Kubernetes API on port {port} (hint: choose another with --api-port, 0 picks a free one)")
    })?;
    if shared {
        server.share();
    }
    if let Some(Auditing { policy, log, webhook }) = settings.audit.clone() {
        if let Some(webhook) = webhook {
            server.audit_webhook(policy.clone(), webhook);
        }
        if let Some(log) = log {
            server.audit(policy, log)?;
        }
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
