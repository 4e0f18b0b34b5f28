//! The service tables: what is wanted, what the kernel has, and the smallest transaction between the two.

mod backend;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{
    ApplyReport, Error, HostPort, Protocol, Result, ServiceEntry,
    conntrack::{self, Stale},
    netlink::{self, Socket},
    nft::{
        self, Batch, Data,
        rules::{self, Class, DISPATCH, ENDPOINTS, FRONTENDS, Layout, SLOTS, machine},
    },
};
use backend::{Backend, Edit};

/// A destination that leads to a backend; address 0.0.0.0 stands for every address of the machine.
pub type Frontend = (Ipv4Addr, Protocol, u16);

/// Chains of classes that nothing uses are kept up to this many: services that go up and down come back to them.
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

#[derive(Default)]
struct ClassUse {
    number: u32,
    frontends: usize,
}

/// Changes that wait to be sent.
#[derive(Default)]
struct Change {
    touched: BTreeSet<Frontend>,
    endpoints: Edit<8>,
    slots: Edit<4>,
    stale: Stale,
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
    /// What the kernel has: backend and class number.
    installed: HashMap<Frontend, (u32, Option<Class>)>,
    classes: BTreeMap<Class, ClassUse>,
    last_backend: u32,
    last_class: u32,
    /// The kernel's table is of our making and equals `installed`.
    written: bool,
    /// The full list of services was given once.
    pub synced: bool,
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
            last_class: 0,
            written: false,
            synced: false,
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

    /// Remove the table.
    pub fn remove(&mut self) -> Result<()> {
        let mut batch = Batch::new(&self.table);
        batch.add_table();
        batch.delete_table();
        let (buf, last, ..) = batch.finish();
        self.written = false;
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
                (id, Vec::new())
            }
        };
        if let Some(backend) = self.backends.get_mut(&id) {
            let count = backend.count();
            let gone = backend.replace(&port.endpoints, &mut change.endpoints, &mut change.slots);
            if port.name.0 == Protocol::Udp {
                for frontend in &old_frontends {
                    change.stale.lost.extend(gone.iter().map(|endpoint| (*frontend, *endpoint)));
                }
                if count == 0 && backend.count() > 0 {
                    change.stale.fresh.extend(&port.frontends);
                }
            }
            if count != backend.count() {
                change.touched.extend(&port.frontends);
            }
        }
        for frontend in &old_frontends {
            if !port.frontends.contains(frontend) {
                self.unclaim(*frontend, id, change);
            }
        }
        for frontend in &port.frontends {
            if !old_frontends.contains(frontend) {
                self.claims.entry(*frontend).or_default().push(id);
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
        if let Some(mut backend) = self.backends.remove(&port.backend) {
            let gone = backend.replace(&[], &mut change.endpoints, &mut change.slots);
            if port.name.0 == Protocol::Udp {
                for frontend in &port.frontends {
                    change.stale.lost.extend(gone.iter().map(|endpoint| (*frontend, *endpoint)));
                }
            }
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
        let mut report = None;
        if self.written {
            let batch = self.encode(&change);
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

    /// What a frontend should lead to.
    fn target(&self, frontend: Frontend) -> Option<(u32, Option<Class>)> {
        let id = *self.claims.get(&frontend)?.first()?;
        let backend = self.backends.get(&id)?;
        let any_address = frontend.0.is_unspecified();
        let class = (backend.count() > 0).then_some(Class {
            endpoints: backend.count(),
            affinity: backend.affinity,
            any_address,
        });
        // A node port without endpoints needs no entry: nothing listens there, and the kernel says so by itself.
        if any_address && class.is_none() { None } else { Some((id, class)) }
    }

    /// The smallest transaction for the change. Takes for granted that it will succeed.
    fn encode(&mut self, change: &Change) -> Batch {
        let mut batch = Batch::new(&self.table);
        let mut remove = Vec::new();
        let mut add = Vec::new();
        for &frontend in &change.touched {
            let target = self.target(frontend);
            let had = self.installed.get(&frontend).copied();
            if target == had {
                continue;
            }
            if let Some((_, class)) = had {
                remove.push(frontend_key(frontend));
                self.installed.remove(&frontend);
                if let Some(entry) = class.and_then(|class| self.classes.get_mut(&class)) {
                    entry.frontends -= 1;
                }
            }
            if let Some((id, class)) = target {
                let number = class.map_or(0, |class| self.class_number(class, Some(&mut batch)));
                add.push((frontend_key(frontend), pair(machine(id), machine(number))));
                self.installed.insert(frontend, (id, class));
            }
        }
        batch.delete_elements(FRONTENDS, remove.iter().map(|key| key.as_slice()));
        change.endpoints.put(&mut batch, ENDPOINTS);
        change.slots.put(&mut batch, SLOTS);
        batch.add_elements(FRONTENDS, add.iter().map(|(key, data)| (key.as_slice(), Data::Value(data))));
        self.retire(&mut batch);
        batch
    }

    /// The number of a class, used once more; a new class gets its chain, when there is a batch for it.
    fn class_number(&mut self, class: Class, batch: Option<&mut Batch>) -> u32 {
        let entry = self.classes.entry(class).or_default();
        if entry.number == 0 {
            self.last_class += 1;
            entry.number = self.last_class;
            if let Some(batch) = batch {
                put_class(batch, class, entry.number);
            }
        }
        entry.frontends += 1;
        entry.number
    }

    fn retire(&mut self, batch: &mut Batch) {
        let idle = self.classes.iter().filter(|(_, entry)| entry.frontends == 0);
        let idle: Vec<_> = idle.map(|(class, entry)| (*class, entry.number)).collect();
        if idle.len() <= IDLE_CLASSES {
            return;
        }
        for (class, number) in idle {
            batch.delete_elements(DISPATCH, [machine(number).as_slice()]);
            batch.delete_chain(&class.chain());
            self.classes.remove(&class);
        }
    }

    /// Replace the kernel's table by one made from memory, in one transaction.
    fn write(&mut self) -> Result<ApplyReport> {
        self.installed.clear();
        self.classes.clear();
        self.last_class = 0;
        let frontends: Vec<Frontend> = self.claims.keys().copied().collect();
        let mut elements = Vec::with_capacity(frontends.len());
        for frontend in frontends {
            if let Some((id, class)) = self.target(frontend) {
                let number = class.map_or(0, |class| self.class_number(class, None));
                elements.push((frontend_key(frontend), pair(machine(id), machine(number))));
                self.installed.insert(frontend, (id, class));
            }
        }
        let mut batch = Batch::new(&self.table);
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        rules::base(&mut batch, &self.layout);
        for (class, entry) in &self.classes {
            put_class(&mut batch, *class, entry.number);
        }
        let mut endpoints = Edit::default();
        let mut slots = Edit::default();
        for backend in self.backends.values() {
            backend.all(&mut endpoints, &mut slots);
        }
        endpoints.put(&mut batch, ENDPOINTS);
        slots.put(&mut batch, SLOTS);
        batch.add_elements(FRONTENDS, elements.iter().map(|(key, data)| (key.as_slice(), Data::Value(data))));
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

fn frontend_key((address, protocol, port): Frontend) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&address.octets());
    key[4] = protocol.number();
    key[8..10].copy_from_slice(&port.to_be_bytes());
    key
}

fn pair(a: [u8; 4], b: [u8; 4]) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&a);
    both[4..].copy_from_slice(&b);
    both
}

fn put_class(batch: &mut Batch, class: Class, number: u32) {
    rules::class(batch, class);
    batch.add_elements(DISPATCH, [(machine(number).as_slice(), Data::Goto(&class.chain()))]);
}

fn send(socket: &mut Socket, batch: Batch, rebuilt: bool) -> std::io::Result<ApplyReport> {
    let (buf, last, messages, elements) = batch.finish();
    socket.transact(&buf, last)?;
    Ok(ApplyReport { messages, elements, bytes: buf.len(), rebuilt })
}
