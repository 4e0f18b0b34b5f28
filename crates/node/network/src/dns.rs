//! Cluster DNS: the names of services by the Kubernetes DNS specification; everything else is forwarded.

mod forward;
mod name;
pub mod resolv;
mod server;
mod wire;
mod zone;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use sampan_daemon::{Backoff, Policy, Supervisor};

use crate::{Error, Protocol, Result};
use forward::Forwarder;
use server::{Service, Sockets};
use zone::Zone;

/// Cluster names may be remembered for at most this long.
const MAX_TTL_SECONDS: u64 = 3600;

/// How the DNS server behaves.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// Port on [`crate::Options::dns_address`]; 53 except in tests, 0 for any.
    pub port: u16,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// Resolvers for other names, in order of preference; see [`resolv::parse`].
    pub upstreams: Vec<SocketAddr>,
    /// Time to live of cluster names.
    pub ttl: Duration,
}

/// The names of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecords {
    /// The service's name: the first label.
    pub name: String,
    /// The service's namespace: the second label.
    pub namespace: String,
    /// What the name leads to.
    pub target: DnsTarget,
}

/// What a service's name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsTarget {
    /// Virtual addresses.
    Cluster {
        /// The addresses.
        ips: Vec<Ipv4Addr>,
        /// Named ports, for SRV.
        ports: Vec<DnsPort>,
    },
    /// The endpoints themselves.
    Headless {
        /// Each endpoint that is to be found.
        endpoints: Vec<DnsEndpoint>,
    },
    /// Another name (ExternalName).
    External {
        /// That name.
        name: String,
    },
}

/// One endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsEndpoint {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its own label below the service's name; without one it is `1-2-3-4`.
    pub hostname: Option<String>,
    /// Its named ports, for SRV.
    pub ports: Vec<DnsPort>,
}

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsPort {
    /// The port's name; unnamed ports have no SRV record and are left out.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// The running DNS server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dns {
    service: Arc<Service>,
    address: SocketAddr,
}

impl Dns {
    pub(crate) async fn start(
        options: DnsOptions,
        network: &crate::Options,
        supervisor: &Supervisor,
    ) -> Result<Self> {
        let listen = SocketAddr::from((network.dns_address, options.port));
        let ttl = u32::try_from(options.ttl.as_secs().clamp(1, MAX_TTL_SECONDS)).unwrap_or(u32::MAX);
        let zone =
            Zone::new(&options.domain, network.dns_address, network.pod_cidr, network.service_cidr, ttl)?;
        let unbound = |source| Error::DnsBind { address: listen, source };
        let sockets = Sockets::bind(network.dns_address, options.port).await.map_err(unbound)?;
        let address = sockets.address().map_err(unbound)?;
        // To ask ourselves would be to ask nobody.
        let upstreams = options.upstreams.into_iter().filter(|upstream| *upstream != address).collect();
        let service = Arc::new(Service { zone, forwarder: Forwarder::new(upstreams) });
        let (running, sockets) = (service.clone(), Arc::new(sockets));
        let _server = supervisor.supervise("dns", Policy::Restart(Backoff::default()), move || {
            let (service, sockets) = (running.clone(), sockets.clone());
            async move { service.run(sockets).await }
        });
        Ok(Self { service, address })
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replace all records.
    ///
    /// # Errors
    /// A name is not a DNS label; nothing is changed then.
    pub fn apply(&self, records: Vec<DnsRecords>) -> Result<()> {
        self.service.zone.apply(records)
    }

    /// Replace (or with `None` remove) the records of one service; costs what that service has.
    ///
    /// # Errors
    /// A name is not a DNS label; nothing is changed then.
    pub fn update(&self, namespace: &str, name: &str, records: Option<DnsRecords>) -> Result<()> {
        self.service.zone.update(namespace, name, records.as_ref())
    }
}
