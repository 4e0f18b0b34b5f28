//! Cluster DNS: the names of services by the Kubernetes DNS specification; everything else is forwarded.

pub mod resolv;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{Protocol, Result};

/// How the DNS server behaves.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// Port on [`crate::Options::dns_address`]; 53 except in tests.
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

/// The running DNS server's zone. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dns {}

impl Dns {
    pub(crate) async fn start(
        _options: DnsOptions,
        _network: &crate::Options,
        _supervisor: &sampan_daemon::Supervisor,
    ) -> Result<Self> {
        Ok(Self {})
    }

    /// Replace all records.
    ///
    /// # Errors
    /// A name is not a DNS label.
    pub fn apply(&self, _records: Vec<DnsRecords>) -> Result<()> {
        Err(crate::Error::NotSynced)
    }

    /// Replace (or with `None` remove) the records of one service; costs what that service has.
    ///
    /// # Errors
    /// A name is not a DNS label.
    pub fn update(&self, _namespace: &str, _name: &str, _records: Option<DnsRecords>) -> Result<()> {
        Err(crate::Error::NotSynced)
    }
}
