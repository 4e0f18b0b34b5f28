//! The handle through which the node's network is driven.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;
use sampan_daemon::{Backoff, Policy, Supervisor};

use crate::{
    ApplyReport, Cidr, Dns, DnsOptions, Error, HostPort, Result, ServiceEntry, host,
    leases::{Lease, Leases},
    link, monitor,
    netlink::{self, Socket},
    netns,
    nft::rules::Layout,
    tables::Tables,
};

/// The largest node network: each of its addresses has an entry in the service table.
const SHORTEST_NODE_PREFIX: u8 = 20;

/// How the node's network is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
    /// This node's part of the pod network, /20 to /29; its first address is the gateway.
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
    inner: Arc<Inner>,
    dns: Option<Dns>,
}

/// What the handle's clones and the background task share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) supervisor: Supervisor,
    gateway: Ipv4Addr,
    bridge: u32,
    route: Mutex<Socket>,
    /// Removing a link waits until no processor uses it any more: attaching need not wait for that.
    removals: Mutex<Socket>,
    leases: Mutex<Leases>,
    tables: Mutex<Tables>,
}

impl Network {
    /// Set up the bridge, its routes and the service tables, or adopt what an earlier process left; start DNS.
    /// The network namespace of the calling thread is the one that is worked on. A service table that is there stays
    /// in force until the first [`Network::apply`] replaces it.
    ///
    /// # Errors
    /// The options contradict themselves or the kernel refuses.
    pub async fn start(options: Options, supervisor: &Supervisor) -> Result<Self> {
        let gateway = check(&options)?;
        let supervisor = supervisor.child("network");
        let dns_options = options.dns.clone();
        let for_setup = supervisor.clone();
        let inner = supervisor.blocking(move || Inner::open(options, for_setup, gateway)).await?;
        let inner = Arc::new(inner);
        let own_port = inner.tables().port();
        let watched = inner.clone();
        // Everything else of the node works without it, so it is only ever started again.
        let _monitor = supervisor.supervise("monitor", Policy::Restart(Backoff::default()), move || {
            monitor::run(watched.clone(), own_port)
        });
        let dns = match dns_options {
            Some(dns) => {
                let started = Dns::start(dns, &inner.options, &supervisor).await;
                Some(started.inspect_err(|_| supervisor.cancel())?)
            }
            None => None,
        };
        Ok(Self { inner, dns })
    }

    /// Connect a network namespace to the bridge as `eth0`. Doing it again with the same id gives the same address.
    ///
    /// # Errors
    /// No address is free, a host port is taken, or the kernel refuses; nothing is left behind then.
    pub async fn attach(&self, id: &str, netns: &Path, ports: &[HostPort]) -> Result<Attachment> {
        let (id, netns, ports) = (id.to_owned(), netns.to_owned(), ports.to_vec());
        self.work(move |inner| inner.attach(&id, &netns, &ports)).await
    }

    /// Take the namespace off the bridge and free its address and host ports. Unknown ids are fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn detach(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.work(move |inner| inner.detach(&id)).await
    }

    /// The attachment of that id, if it has one.
    #[must_use]
    pub fn attachment(&self, id: &str) -> Option<Attachment> {
        let leases = lock(&self.inner.leases);
        leases.get(id).map(|lease| self.inner.attachment(lease.ip))
    }

    /// All attachments by id.
    #[must_use]
    pub fn attachments(&self) -> HashMap<String, Attachment> {
        let leases = lock(&self.inner.leases);
        leases.iter().map(|(id, lease)| (id.clone(), self.inner.attachment(lease.ip))).collect()
    }

    /// Detach everything whose id is not in use; returns the ids that were freed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn reconcile(&self, in_use: &HashSet<String>) -> Result<Vec<String>> {
        let in_use = in_use.clone();
        self.work(move |inner| inner.reconcile(&in_use)).await
    }

    /// Make the service tables exactly these. Only the difference to what was applied before is sent; the first time
    /// the whole table is replaced in one transaction.
    ///
    /// # Errors
    /// A service cannot be expressed, or the kernel refuses even a fresh table.
    pub async fn apply(&self, services: Vec<ServiceEntry>) -> Result<ApplyReport> {
        self.work(move |inner| inner.tables().apply(&services)).await
    }

    /// Replace (or with `None` remove) one service; costs what changed.
    ///
    /// # Errors
    /// As [`Network::apply`]; also when `apply` was never called.
    pub async fn update(&self, id: &str, service: Option<ServiceEntry>) -> Result<ApplyReport> {
        let id = id.to_owned();
        self.work(move |inner| inner.tables().update(&id, service.as_ref())).await
    }

    /// The cluster's names, when DNS runs.
    #[must_use]
    pub fn dns(&self) -> Option<&Dns> {
        self.dns.as_ref()
    }

    /// The address of the bridge: every attachment's gateway, and the host as they see it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.gateway
    }

    /// Remove everything that was made: tasks, bridge, links, routes, tables, leases. `net.ipv4.ip_forward` stays on:
    /// others may have come to rely on it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn stop(&self) -> Result<()> {
        self.inner.supervisor.cancel();
        self.work(|inner| {
            inner.tables().remove()?;
            host::tear_down(&mut lock(&inner.route), &inner.options.bridge)?;
            let mut leases = lock(&inner.leases);
            let ids: Vec<String> = leases.iter().map(|(id, _)| id.clone()).collect();
            ids.iter().try_for_each(|id| leases.release(id).map(drop))
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        self.inner.supervisor.blocking(move || work(&inner)).await
    }
}

impl Inner {
    fn open(options: Options, supervisor: Supervisor, gateway: Ipv4Addr) -> Result<Self> {
        let mut route = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        let removals = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        let bridge = host::set_up(&mut route, &options, gateway)?;
        let leases = Leases::open(&options.state_dir, options.node_cidr)?;
        let layout = Layout {
            bridge: options.bridge.clone(),
            node_cidr: options.node_cidr,
            pod_cidr: options.pod_cidr,
            service_cidr: options.service_cidr,
            masquerade: options.masquerade,
        };
        let mut tables = Tables::open(options.table.clone(), layout)?;
        for (id, lease) in leases.iter() {
            tables.host_ports(id, lease.ip, &lease.ports)?;
        }
        if !tables.exists()? {
            tables.rewrite()?;
        }
        tables.allow_forwarding()?;
        Ok(Self {
            options,
            supervisor,
            gateway,
            bridge,
            route: Mutex::new(route),
            removals: Mutex::new(removals),
            leases: Mutex::new(leases),
            tables: Mutex::new(tables),
        })
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    fn attachment(&self, ip: Ipv4Addr) -> Attachment {
        Attachment { ip, prefix: self.options.node_cidr.prefix(), gateway: self.gateway, mac: host::mac(ip) }
    }

    fn attach(&self, id: &str, netns: &Path, ports: &[HostPort]) -> Result<Attachment> {
        let (lease, before) = {
            let mut leases = lock(&self.leases);
            let before = leases.get(id).cloned();
            (leases.acquire(id, ports)?, before)
        };
        let done =
            self.connect(netns, lease.ip).and_then(|()| self.tables().host_ports(id, lease.ip, &lease.ports));
        match done {
            Ok(_) => Ok(self.attachment(lease.ip)),
            Err(error) => {
                self.undo(id, before);
                Err(error)
            }
        }
    }

    /// After a failed attach. Its error is the one that matters; what cannot be undone is left to `reconcile`.
    fn undo(&self, id: &str, before: Option<Lease>) {
        let undone = match before {
            Some(lease) => lock(&self.leases)
                .acquire(id, &lease.ports)
                .and_then(|_| self.tables().host_ports(id, lease.ip, &lease.ports).map(drop)),
            None => self.detach(id),
        };
        if let Err(error) = undone {
            tracing::warn!(id, "could not undo a failed attach: {error}");
        }
    }

    fn connect(&self, path: &Path, ip: Ipv4Addr) -> Result<()> {
        let what = |what: &str| Error::kernel(format!("attach {}: {what}", path.display()));
        let netns = netns::open(path).map_err(Error::file(path))?;
        let mut inside = netns::socket_in(&netns).map_err(what("enter the network namespace"))?;
        let veth = link::Veth {
            host: &self.link_name(ip),
            bridge: self.bridge,
            netns: netns.as_fd(),
            mac: host::mac(ip),
            mtu: self.options.mtu,
        };
        let mut made = link::add_veth(&mut lock(&self.route), &veth);
        if made.as_ref().is_err_and(|error| netlink::errno(error) == Some(Errno::EEXIST)) {
            made = self.adopt(&mut inside, &veth);
        }
        made.map_err(what("link"))?;
        let eth0 = link::get(&mut inside, "eth0").map_err(what("eth0"))?;
        let eth0 = eth0.ok_or_else(|| Error::Protocol("eth0 of a new link".to_owned()))?;
        link::configure(&mut inside, eth0.index, ip, self.gateway, self.options.mtu).map_err(what("address"))
    }

    /// One of the two names is taken. By the link of an earlier process: keep it. By half of one, or by one to
    /// another namespace: make it anew.
    fn adopt(&self, inside: &mut Socket, veth: &link::Veth<'_>) -> std::io::Result<()> {
        let mut route = lock(&self.route);
        let near = link::get(&mut route, veth.host)?;
        let far = link::get(inside, "eth0")?;
        let ours = |mac: &[u8]| mac == veth.mac;
        match (near, far) {
            (Some(near), Some(far)) if near.master == veth.bridge && ours(&far.mac) => Ok(()),
            (Some(_), far) => {
                link::remove(&mut route, veth.host)?;
                if far.is_some_and(|far| ours(&far.mac)) {
                    link::remove(inside, "eth0")?;
                }
                link::add_veth(&mut route, veth)
            }
            (None, _) => Err(Errno::EEXIST.into()),
        }
    }

    fn detach(&self, id: &str) -> Result<()> {
        let Some(lease) = lock(&self.leases).get(id).cloned() else { return Ok(()) };
        self.tables().host_ports(id, lease.ip, &[])?;
        link::remove(&mut lock(&self.removals), &self.link_name(lease.ip))
            .map_err(Error::kernel(format!("detach {id}")))?;
        lock(&self.leases).release(id).map(drop)
    }

    fn reconcile(&self, in_use: &HashSet<String>) -> Result<Vec<String>> {
        let (gone, kept): (Vec<_>, Vec<_>) = {
            let leases = lock(&self.leases);
            leases.iter().map(|(id, lease)| (id.clone(), lease.ip)).partition(|(id, _)| !in_use.contains(id))
        };
        let gone: Vec<String> = gone.into_iter().map(|(id, _)| id).collect();
        gone.iter().try_for_each(|id| self.detach(id))?;
        // Links whose lease was lost: of a process killed between two steps.
        let kept: HashSet<String> = kept.iter().map(|(_, ip)| self.link_name(*ip)).collect();
        let mut route = lock(&self.route);
        let what = || Error::kernel(format!("tidy bridge {}", self.options.bridge));
        let prefix = self.link_prefix();
        for port in link::ports(&mut route, self.bridge).map_err(what())? {
            let attached_meanwhile = || {
                let leases = lock(&self.leases);
                leases.iter().any(|(_, lease)| self.link_name(lease.ip) == port.name)
            };
            if port.name.starts_with(&prefix) && !kept.contains(&port.name) && !attached_meanwhile() {
                link::remove(&mut route, &port.name).map_err(what())?;
            }
        }
        Ok(gone)
    }

    /// The near end's name: the same for the same address, and another one beside another bridge.
    fn link_name(&self, ip: Ipv4Addr) -> String {
        let host = ip.to_bits() - self.options.node_cidr.network().to_bits();
        format!("{}{host:x}", self.link_prefix())
    }

    fn link_prefix(&self) -> String {
        // FNV-1a: short, and the same in every build.
        let hash = self
            .options
            .bridge
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("vp{hash:08x}x")
    }
}

fn check(options: &Options) -> Result<Ipv4Addr> {
    let wrong = |what: String| Err(Error::Options(what));
    if options.bridge.is_empty() || options.bridge.len() > 15 {
        return wrong(format!("bridge name {:?} must have 1 to 15 bytes", options.bridge));
    }
    if options.table.is_empty() || options.table.len() > 31 {
        return wrong(format!("table name {:?} must have 1 to 31 bytes", options.table));
    }
    let node = options.node_cidr;
    if !(SHORTEST_NODE_PREFIX..=29).contains(&node.prefix()) {
        return wrong(format!("node network {node} must be /{SHORTEST_NODE_PREFIX} to /29"));
    }
    if !options.pod_cidr.contains(node.network()) || node.prefix() < options.pod_cidr.prefix() {
        return wrong(format!("node network {node} is not inside the pod network {}", options.pod_cidr));
    }
    if options.pod_cidr.overlaps(&options.service_cidr) {
        return wrong(format!("networks {} and {} overlap", options.pod_cidr, options.service_cidr));
    }
    if !options.service_cidr.contains(options.dns_address) {
        return wrong(format!("DNS address {} is not inside {}", options.dns_address, options.service_cidr));
    }
    if !(576..=65535).contains(&options.mtu) {
        return wrong(format!("MTU {} must be 576 to 65535", options.mtu));
    }
    node.nth(1).ok_or_else(|| Error::Options(format!("node network {node} has no address")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
