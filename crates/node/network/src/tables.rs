//! The service tables: what is wanted, what the kernel has, and the smallest transaction between the two.

mod backend;
mod elements;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{
    ApplyReport, Error, HostPort, Protocol, Result, ServiceEntry,
    conntrack::{self, Stale},
    firewall,
    netlink::{self, Socket},
    nft::{
        self, Batch,
        rules::{self, Kind, Layout},
    },
};
use backend::{Backend, Slot};
use elements::{Edits, Target, kind};

/// A destination that leads to a backend; address 0.0.0.0 stands for every address of the machine.
pub type Frontend = (Ipv4Addr, Protocol, u16);

/// Classes that nothing uses are kept up to this many: services that go up and down come back to them.
const IDLE_CLASSES: usize = 64;

/// The longest affinity Kubernetes allows, a day.
const MAX_AFFINITY_SECONDS: u64 = 86_400;

/// What one port of a service, or one host port, asks for.
struct Wanted {
    name: (Protocol, u16),
    frontends: Vec<Frontend>,
    endpoints: Vec<SocketAddrV4>,
    affinity: u32,
}

/// A port as it was applied.
struct Applied {
    name: (Protocol, u16),
    frontends: Vec<Frontend>,
    backend: u32,
}

/// Changes that wait to be sent.
#[derive(Default)]
struct Change {
    /// Destinations that may lead elsewhere now.
    touched: BTreeSet<Frontend>,
    /// What backends had before.
    before: BTreeMap<u32, Before>,
    stale: Stale,
}

/// A backend before a change.
struct Before {
    slots: Vec<Slot>,
    /// It was not there.
    fresh: bool,
    /// It is no longer there: this is what it was.
    removed: Option<Backend>,
}

/// All services and host ports of the node.
pub struct Tables {
    table: String,
    layout: Layout,
    socket: Socket,
    owners: HashMap<String, Vec<Applied>>,
    backends: HashMap<u32, Backend>,
    /// Who wants a frontend; the first one has it.
    claims: HashMap<Frontend, Vec<u32>>,
    /// What the kernel has.
    installed: HashMap<Frontend, Target>,
    /// How many destinations are in a class.
    classes: BTreeMap<(Kind, u32), usize>,
    last_backend: u32,
    /// The kernel's table is of our making and equals `installed`.
    written: bool,
    /// The full list of services was given once.
    synced: bool,
    /// Taken down: whoever still waits to write it has to leave it.
    removed: bool,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").field("table", &self.table).field("owners", &self.owners.len()).finish()
    }
}

impl Tables {
    /// Tables under that name in the namespace of the calling thread. What is there stays until the first `apply`.
    pub fn open(table: String, layout: Layout) -> Result<Self> {
        let socket = Socket::netfilter().map_err(Error::kernel("open nftables"))?;
        Ok(Self {
            table,
            layout,
            socket,
            owners: HashMap::new(),
            backends: HashMap::new(),
            claims: HashMap::new(),
            installed: HashMap::new(),
            classes: BTreeMap::new(),
            last_backend: 0,
            written: false,
            synced: false,
            removed: false,
        })
    }

    /// The port that our own changes are announced under.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Whether the kernel has a table of this name.
    pub fn exists(&mut self) -> Result<bool> {
        let mut found = false;
        let result = self.socket.list(&nft::get_table(&self.table), |_| found = true);
        netlink::tolerate(result, &[nix::errno::Errno::ENOENT])
            .map_err(Error::kernel(format!("look for table {}", self.table)))?;
        Ok(found)
    }

    /// Make the services exactly these.
    pub fn apply(&mut self, services: &[ServiceEntry]) -> Result<ApplyReport> {
        let mut names = HashSet::new();
        for service in services {
            check(service)?;
            if !names.insert(service_owner(&service.id)) {
                return Err(refuse(&service.id, "listed twice"));
            }
        }
        let mut change = Change::default();
        let gone: Vec<String> = self
            .owners
            .keys()
            .filter(|owner| owner.starts_with(SERVICE) && !names.contains(*owner))
            .cloned()
            .collect();
        for owner in gone {
            self.replace(&owner, Vec::new(), &mut change);
        }
        for service in services {
            self.replace(&service_owner(&service.id), wanted(service), &mut change);
        }
        self.synced = true;
        self.commit(change)
    }

    /// Replace or remove one service.
    pub fn update(&mut self, id: &str, service: Option<&ServiceEntry>) -> Result<ApplyReport> {
        if !self.synced {
            return Err(Error::NotSynced);
        }
        if let Some(service) = service {
            check(service)?;
            if service.id != id {
                return Err(refuse(id, "updated with an entry of another id"));
            }
        }
        let mut change = Change::default();
        self.replace(&service_owner(id), service.map(wanted).unwrap_or_default(), &mut change);
        self.commit(change)
    }

    /// Lead these ports of the host to an attachment's address. Until the first `apply` after an adoption they are
    /// only noted: the table of the earlier process has them already.
    pub fn host_ports(&mut self, id: &str, ip: Ipv4Addr, ports: &[HostPort]) -> Result<ApplyReport> {
        let owner = host_owner(id);
        for port in ports {
            let frontend = host_frontend(port);
            let holder =
                self.claims.get(&frontend).and_then(|all| all.first()).and_then(|b| self.backends.get(b));
            if let Some(holder) = holder
                && holder.owner != owner
                && holder.owner.starts_with(HOST)
            {
                return Err(Error::HostPort {
                    address: frontend.0,
                    port: frontend.2,
                    protocol: frontend.1,
                    owner: holder.owner[HOST.len()..].to_owned(),
                });
            }
        }
        let wanted = ports.iter().map(|port| Wanted {
            name: (port.protocol, port.host_port),
            frontends: vec![host_frontend(port)],
            endpoints: vec![SocketAddrV4::new(ip, port.port)],
            affinity: 0,
        });
        let wanted: Vec<_> = wanted.collect();
        if wanted.is_empty() && !self.owners.contains_key(&owner) {
            return Ok(ApplyReport::default());
        }
        let mut change = Change::default();
        self.replace(&owner, wanted, &mut change);
        if !self.written && !self.synced {
            return Ok(ApplyReport::default());
        }
        self.commit(change)
    }

    /// The kernel's table was changed by somebody else: write it anew.
    pub fn rewrite(&mut self) -> Result<ApplyReport> {
        self.written = false;
        self.commit(Change::default())
    }

    /// Let pods through a host firewall that drops what is forwarded.
    pub fn allow_forwarding(&mut self) -> Result<()> {
        if self.removed {
            return Ok(());
        }
        firewall::allow(&mut self.socket, &self.layout.bridge)
            .map_err(Error::kernel("open the FORWARD chain"))
    }

    /// Remove the table, and what lets pods through the host's firewall.
    pub fn remove(&mut self) -> Result<()> {
        firewall::withdraw(&mut self.socket, &self.layout.bridge)
            .map_err(Error::kernel("tidy the FORWARD chain"))?;
        let mut batch = Batch::new(&self.table);
        batch.add_table();
        batch.delete_table();
        let (buf, last, ..) = batch.finish();
        self.written = false;
        self.removed = true;
        self.socket.transact(&buf, last).map_err(Error::kernel(format!("remove table {}", self.table)))
    }

    /// Bring one owner's ports to what is wanted, in memory, and note what the kernel has to be told.
    fn replace(&mut self, owner: &str, wanted: Vec<Wanted>, change: &mut Change) {
        let mut old = self.owners.remove(owner).unwrap_or_default();
        let mut applied = Vec::with_capacity(wanted.len());
        for port in wanted {
            let at = old.iter().position(|old| {
                old.name == port.name
                    && self.backends.get(&old.backend).is_some_and(|b| b.affinity == port.affinity)
            });
            let before = at.map(|at| old.swap_remove(at));
            applied.push(self.replace_port(owner, before, port, change));
        }
        for port in old {
            self.remove_port(&port, change);
        }
        if !applied.is_empty() {
            self.owners.insert(owner.to_owned(), applied);
        }
    }

    fn replace_port(
        &mut self,
        owner: &str,
        before: Option<Applied>,
        port: Wanted,
        change: &mut Change,
    ) -> Applied {
        let (id, old_frontends) = match before {
            Some(before) => (before.backend, before.frontends),
            None => {
                self.last_backend += 1;
                let id = self.last_backend;
                self.backends.insert(id, Backend::new(id, owner, port.affinity));
                change.before.insert(id, Before { slots: Vec::new(), fresh: true, removed: None });
                (id, Vec::new())
            }
        };
        if let Some(backend) = self.backends.get_mut(&id) {
            let before = backend.slots.clone();
            let gone = backend.replace(&port.endpoints);
            if port.name.0 == Protocol::Udp {
                for frontend in &old_frontends {
                    change.stale.lost.extend(gone.iter().map(|endpoint| (*frontend, *endpoint)));
                }
                if before.is_empty() && !backend.slots.is_empty() {
                    change.stale.fresh.extend(&port.frontends);
                }
            }
            if before != backend.slots {
                change.touched.extend(&port.frontends);
                change.before.entry(id).or_insert(Before { slots: before, fresh: false, removed: None });
            }
        }
        for frontend in &old_frontends {
            if !port.frontends.contains(frontend) {
                self.unclaim(*frontend, id, change);
            }
        }
        for frontend in &port.frontends {
            if !old_frontends.contains(frontend) {
                let claims = self.claims.entry(*frontend).or_default();
                claims.push(id);
                if let Some(holder) = claims.first().filter(|first| **first != id) {
                    let holder = self.backends.get(holder).map_or("", |backend| &backend.owner);
                    let (address, protocol, port) = frontend;
                    tracing::warn!(
                        "{address}:{port}/{protocol} of {owner} is held by {holder} and waits for it"
                    );
                }
                change.touched.insert(*frontend);
                if frontend.1 == Protocol::Udp {
                    change.stale.fresh.insert(*frontend);
                }
            }
        }
        Applied { name: port.name, frontends: port.frontends, backend: id }
    }

    fn remove_port(&mut self, port: &Applied, change: &mut Change) {
        for frontend in &port.frontends {
            self.unclaim(*frontend, port.backend, change);
        }
        if let Some(backend) = self.backends.remove(&port.backend) {
            if port.name.0 == Protocol::Udp {
                for frontend in &port.frontends {
                    change.stale.lost.extend(backend.slots.iter().map(|slot| (*frontend, slot.endpoint)));
                }
            }
            let slots = backend.slots.clone();
            change.before.insert(port.backend, Before { slots, fresh: false, removed: Some(backend) });
        }
    }

    fn unclaim(&mut self, frontend: Frontend, backend: u32, change: &mut Change) {
        change.touched.insert(frontend);
        if let Some(claims) = self.claims.get_mut(&frontend) {
            claims.retain(|claim| *claim != backend);
            if claims.is_empty() {
                self.claims.remove(&frontend);
            }
        }
    }

    /// Send what changed; when the kernel's table is not what it should be, write all of it.
    fn commit(&mut self, change: Change) -> Result<ApplyReport> {
        if self.removed {
            return Ok(ApplyReport::default());
        }
        let mut report = None;
        if self.written && self.idle_classes() <= IDLE_CLASSES {
            let mut batch = Batch::new(&self.table);
            self.encode(&change, &mut batch);
            if batch.is_empty() {
                report = Some(ApplyReport::default());
            } else {
                match send(&mut self.socket, batch, false) {
                    Ok(done) => report = Some(done),
                    Err(error) => {
                        tracing::warn!(table = self.table, "table differs, writing it anew: {error}");
                        self.written = false;
                    }
                }
            }
        }
        let report = match report {
            Some(report) => report,
            None => self.write()?,
        };
        conntrack::forget(&mut self.socket, &change.stale)?;
        Ok(report)
    }

    fn idle_classes(&self) -> usize {
        self.classes.values().filter(|uses| **uses == 0).count()
    }

    /// What a destination should lead to.
    fn target(&self, frontend: Frontend) -> Option<Target> {
        let id = *self.claims.get(&frontend)?.first()?;
        let backend = self.backends.get(&id)?;
        if backend.slots.is_empty() {
            // Nothing listens on a node port, and inside the service network everything that is not served is
            // refused: neither needs an entry.
            let by_rule = frontend.0.is_unspecified() || self.layout.service_cidr.contains(frontend.0);
            return (!by_rule).then_some(Target::Refuse);
        }
        Some(if backend.affinity > 0 { Target::Sticky(id) } else { Target::Spread(id) })
    }

    /// Append the smallest transaction for the change. Takes for granted that it will succeed.
    fn encode(&mut self, change: &Change, batch: &mut Batch) {
        let mut edits = Edits::default();
        let mut new_classes = Vec::new();
        for &frontend in &change.touched {
            let had = self.installed.remove(&frontend);
            let old = had.map(|target| {
                target.slots(|id| match change.before.get(&id) {
                    Some(before) => before.slots.as_slice(),
                    None => self.slots(id),
                })
            });
            let wants = self.target(frontend);
            let new = wants.map(|target| target.slots(|id| self.slots(id)));
            edits.change(frontend, had.zip(old), wants.zip(new));
            let class = |target: Option<Target>, slots: Option<&[Slot]>| match target {
                Some(Target::Spread(_)) => Some((kind(frontend), count(slots.unwrap_or_default()))),
                _ => None,
            };
            let (old, new) = (class(had, old), class(wants, new));
            if let Some(uses) = old.and_then(|class| self.classes.get_mut(&class)) {
                *uses -= 1;
            }
            if let Some(class) = new {
                *self.classes.entry(class).or_insert_with(|| {
                    new_classes.push(class);
                    0
                }) += 1;
            }
            self.installed.extend(wants.map(|target| (frontend, target)));
        }
        for (kind, endpoints) in new_classes {
            rules::class(batch, kind, endpoints);
        }
        for (id, before) in &change.before {
            if let Some(backend) = self.backends.get(id) {
                backend.put(batch, before.fresh, &before.slots);
            }
        }
        edits.put(batch);
        for before in change.before.values() {
            if let Some(backend) = &before.removed {
                backend.remove(batch, &before.slots);
            }
        }
    }

    fn slots(&self, id: u32) -> &[Slot] {
        self.backends.get(&id).map(|backend| backend.slots.as_slice()).unwrap_or_default()
    }

    /// Replace the kernel's table by one made from memory, in one transaction.
    fn write(&mut self) -> Result<ApplyReport> {
        self.installed.clear();
        self.classes.clear();
        let mut batch = Batch::new(&self.table);
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        rules::base(&mut batch, &self.layout);
        self.classes.extend(rules::first_classes().map(|class| (class, 0)));
        for backend in self.backends.values() {
            backend.put(&mut batch, true, &[]);
        }
        let everything = Change { touched: self.claims.keys().copied().collect(), ..Change::default() };
        self.encode(&everything, &mut batch);
        let report = send(&mut self.socket, batch, true)
            .map_err(Error::kernel(format!("write table {}", self.table)))?;
        self.written = true;
        Ok(report)
    }
}

/// Owners of ports: services and attachments, kept apart by the first letter.
const SERVICE: &str = "s:";
const HOST: &str = "h:";

fn service_owner(id: &str) -> String {
    format!("{SERVICE}{id}")
}

fn host_owner(id: &str) -> String {
    format!("{HOST}{id}")
}

fn host_frontend(port: &HostPort) -> Frontend {
    (port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.protocol, port.host_port)
}

fn refuse(id: &str, reason: impl Into<String>) -> Error {
    Error::Service { id: id.to_owned(), reason: reason.into() }
}

fn check(service: &ServiceEntry) -> Result<()> {
    let id = &service.id;
    if service.cluster_ips.iter().chain(&service.external_ips).any(Ipv4Addr::is_unspecified) {
        return Err(refuse(id, "0.0.0.0 is no service address"));
    }
    let mut names = HashSet::new();
    for port in &service.ports {
        if port.port == 0 || port.node_port == Some(0) || port.endpoints.iter().any(|e| e.port() == 0) {
            return Err(refuse(id, "port 0"));
        }
        if !names.insert((port.protocol, port.port)) {
            return Err(refuse(id, format!("port {}/{} is listed twice", port.port, port.protocol)));
        }
    }
    Ok(())
}

fn wanted(service: &ServiceEntry) -> Vec<Wanted> {
    let affinity = service.session_affinity.map_or(0, |time| time.as_secs().clamp(1, MAX_AFFINITY_SECONDS));
    let affinity = u32::try_from(affinity).unwrap_or(u32::MAX);
    let wanted = service.ports.iter().map(|port| {
        let addresses = service.cluster_ips.iter().chain(&service.external_ips);
        let mut frontends: Vec<Frontend> =
            addresses.map(|&address| (address, port.protocol, port.port)).collect();
        frontends.extend(port.node_port.map(|port_| (Ipv4Addr::UNSPECIFIED, port.protocol, port_)));
        frontends.sort_unstable();
        frontends.dedup();
        Wanted { name: (port.protocol, port.port), frontends, endpoints: port.endpoints.clone(), affinity }
    });
    wanted.collect()
}

fn count(slots: &[Slot]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}

fn send(socket: &mut Socket, batch: Batch, rebuilt: bool) -> std::io::Result<ApplyReport> {
    let (buf, last, messages, elements) = batch.finish();
    socket.transact(&buf, last)?;
    Ok(ApplyReport { messages, elements, bytes: buf.len(), rebuilt })
}
