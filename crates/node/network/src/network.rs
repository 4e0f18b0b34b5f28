//! The handle through which the node's network is driven.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use sampan_daemon::Supervisor;

use crate::{ApplyReport, Cidr, Dns, DnsOptions, Error, HostPort, Result, ServiceEntry};

/// How the node's network is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
    /// This node's part of the pod network; its first address is the gateway.
    pub node_cidr: Cidr,
    /// The network of all pods.
    pub pod_cidr: Cidr,
    /// The network of virtual service addresses.
    pub service_cidr: Cidr,
    /// Address of the DNS server, inside `service_cidr`; assigned to the bridge.
    pub dns_address: Ipv4Addr,
    /// The DNS server; `None` to run none.
    pub dns: Option<DnsOptions>,
    /// Name of the nftables table, at most 31 bytes.
    pub table: String,
    /// Where address leases are kept.
    pub state_dir: PathBuf,
    /// Largest packet on the bridge and in pods.
    pub mtu: u32,
    /// Whether pods reach the outside under the node's address.
    pub masquerade: bool,
}

/// A network namespace on the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Prefix length of the node's network the address is from.
    pub prefix: u8,
    /// Its default gateway.
    pub gateway: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// The node's network. Cheap to clone; all clones drive the same network.
#[derive(Clone, Debug)]
pub struct Network {
    dns: Option<Dns>,
}

impl Network {
    /// Set up the bridge, its routes and the service tables, or adopt what an earlier process left; start DNS.
    /// The network namespace of the calling thread is the one that is worked on.
    ///
    /// # Errors
    /// The options contradict themselves or the kernel refuses.
    pub async fn start(_options: Options, _supervisor: &Supervisor) -> Result<Self> {
        Err(Error::NotSynced)
    }

    /// Connect a network namespace to the bridge as `eth0`. Doing it again with the same id gives the same address.
    ///
    /// # Errors
    /// No address is free, a host port is taken, or the kernel refuses; nothing is left behind then.
    pub async fn attach(&self, _id: &str, _netns: &Path, _ports: &[HostPort]) -> Result<Attachment> {
        Err(Error::NotSynced)
    }

    /// Take the namespace off the bridge and free its address and host ports. Unknown ids are fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn detach(&self, _id: &str) -> Result<()> {
        Err(Error::NotSynced)
    }

    /// The attachment of that id, if it has one.
    #[must_use]
    pub fn attachment(&self, _id: &str) -> Option<Attachment> {
        None
    }

    /// Detach everything whose id is not in use; returns the ids that were freed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn reconcile(&self, _in_use: &HashSet<String>) -> Result<Vec<String>> {
        Err(Error::NotSynced)
    }

    /// Make the service tables exactly these. Only the difference to what was applied before is sent.
    ///
    /// # Errors
    /// A service cannot be expressed, or the kernel refuses even a fresh table.
    pub async fn apply(&self, _services: Vec<ServiceEntry>) -> Result<ApplyReport> {
        Err(Error::NotSynced)
    }

    /// Replace (or with `None` remove) one service; costs what changed.
    ///
    /// # Errors
    /// As [`Network::apply`]; also when `apply` was never called.
    pub async fn update(&self, _id: &str, _service: Option<ServiceEntry>) -> Result<ApplyReport> {
        Err(Error::NotSynced)
    }

    /// The cluster's names, when DNS runs.
    #[must_use]
    pub fn dns(&self) -> Option<&Dns> {
        self.dns.as_ref()
    }

    /// Remove everything that was made: bridge, links, routes, tables.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn stop(&self) -> Result<()> {
        Err(Error::NotSynced)
    }
}

/// The first candidate that overlaps no route and no address of this machine.
///
/// # Errors
/// The kernel does not tell its routes.
pub fn free_cidr(_candidates: &[Cidr]) -> Result<Option<Cidr>> {
    Err(Error::NotSynced)
}

/// The address under which others reach this machine: the source address of its default route, else the first
/// global address of any link.
///
/// # Errors
/// The kernel does not tell its routes.
pub fn host_address() -> Result<Option<Ipv4Addr>> {
    Err(Error::NotSynced)
}
