//! Which attachment has which address and host ports, on disk.
//!
//! A journal: one line per change, written with one `write`, so that a process killed at any moment leaves at most
//! a torn last line, which is dropped. Not synced: when the machine itself goes down, the namespaces go with it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Cidr, Error, HostPort, Result};

/// The longest id; a Kubernetes UID has 36.
const MAX_ID: usize = 128;

/// The journal is written anew after this many changes, or after as many as there are addresses.
const COMPACT: usize = 1024;

/// What one attachment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its ports of the host.
    pub ports: Vec<HostPort>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    /// Absent: released.
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<HostPort>,
}

/// All leases of a node.
#[derive(Debug)]
pub struct Leases {
    net: Cidr,
    path: PathBuf,
    journal: File,
    changes: usize,
    live: HashMap<String, Lease>,
    /// Free addresses; the one that was released longest ago first.
    free: VecDeque<Ipv4Addr>,
}

impl Leases {
    /// Read the journal in `dir`, or begin one. Leases outside `net` are dropped: the node's network was changed.
    pub fn open(dir: &Path, net: Cidr) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::file(dir))?;
        let path = dir.join("leases");
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::file(&path)(error)),
        };
        let mut live: HashMap<String, Lease> = HashMap::new();
        // Every address in the order of its last use.
        let mut order: HashMap<Ipv4Addr, usize> = HashMap::new();
        let mut at = 0;
        for line in text.split(|&b| b == b'\n') {
            let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
            at += 1;
            match line.ip {
                Some(ip) if usable(net, ip) => {
                    order.insert(ip, at);
                    live.insert(line.id, Lease { ip, ports: line.ports });
                }
                Some(_) => {}
                None => {
                    if let Some(lease) = live.remove(&line.id) {
                        order.insert(lease.ip, at);
                    }
                }
            }
        }
        let taken: HashSet<Ipv4Addr> = live.values().map(|lease| lease.ip).collect();
        let mut free: Vec<_> = (0..net.size().min(1 << 16))
            .filter_map(|n| net.nth(u32::try_from(n).ok()?))
            .filter(|&ip| usable(net, ip) && !taken.contains(&ip))
            .collect();
        free.sort_by_key(|ip| order.get(ip).copied().unwrap_or(0));
        let journal = write_all(&path, &live, free.iter().filter(|ip| order.contains_key(ip)))?;
        Ok(Self { net, path, journal, changes: 0, live, free: free.into() })
    }

    /// The lease of an id.
    pub fn get(&self, id: &str) -> Option<&Lease> {
        self.live.get(id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Lease)> {
        self.live.iter()
    }

    /// The lease of `id` with these ports; a new address when it has none.
    pub fn acquire(&mut self, id: &str, ports: &[HostPort]) -> Result<Lease> {
        if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
            return Err(Error::Id(id.to_owned()));
        }
        let (ip, fresh) = match self.live.get(id) {
            Some(lease) if lease.ports == ports => return Ok(lease.clone()),
            Some(lease) => (lease.ip, false),
            None => (self.free.pop_front().ok_or(Error::Exhausted(self.net))?, true),
        };
        let lease = Lease { ip, ports: ports.to_vec() };
        let line = Line { id: id.to_owned(), ip: Some(ip), ports: lease.ports.clone() };
        if let Err(error) = self.append(&line) {
            if fresh {
                self.free.push_front(ip);
            }
            return Err(error);
        }
        self.live.insert(id.to_owned(), lease.clone());
        Ok(lease)
    }

    /// Free the address of `id`, to be used again after all others.
    pub fn release(&mut self, id: &str) -> Result<Option<Lease>> {
        if !self.live.contains_key(id) {
            return Ok(None);
        }
        self.append(&Line { id: id.to_owned(), ip: None, ports: Vec::new() })?;
        let lease = self.live.remove(id);
        self.free.extend(lease.as_ref().map(|lease| lease.ip));
        if self.changes > COMPACT.max(self.live.len() + self.free.len()) {
            self.journal = write_all(&self.path, &self.live, self.free.iter())?;
            self.changes = 0;
        }
        Ok(lease)
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| Error::file(&self.path)(e.into()))?;
        // In front too, so that a line torn by a full disk does not swallow this one.
        bytes.insert(0, b'\n');
        bytes.push(b'\n');
        self.journal.write_all(&bytes).map_err(Error::file(&self.path))?;
        self.changes += 1;
        Ok(())
    }
}

/// Neither network, gateway nor broadcast address.
fn usable(net: Cidr, ip: Ipv4Addr) -> bool {
    net.contains(ip) && ip != net.network() && Some(ip) != net.nth(1) && ip != net.broadcast()
}

/// Write a journal that says only this, and replace the old one by it. `used` keeps the order of the free ones.
fn write_all<'a>(
    path: &Path,
    live: &HashMap<String, Lease>,
    used: impl Iterator<Item = &'a Ipv4Addr>,
) -> Result<File> {
    let mut text = Vec::new();
    let mut line = |line: &Line| -> Result<()> {
        serde_json::to_writer(&mut text, line).map_err(|e| Error::file(path)(e.into()))?;
        text.push(b'\n');
        Ok(())
    };
    for &ip in used {
        // Taken and released under one id: all that remains is the order.
        line(&Line { id: "-".to_owned(), ip: Some(ip), ports: Vec::new() })?;
        line(&Line { id: "-".to_owned(), ip: None, ports: Vec::new() })?;
    }
    for (id, lease) in live {
        line(&Line { id: id.clone(), ip: Some(lease.ip), ports: lease.ports.clone() })?;
    }
    let next = path.with_extension("new");
    fs::write(&next, &text).map_err(Error::file(&next))?;
    fs::rename(&next, path).map_err(Error::file(path))?;
    OpenOptions::new().append(true).open(path).map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Cidr {
        "10.1.2.0/29".parse().unwrap()
    }

    #[test]
    fn addresses_survive_and_are_not_reused_early() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(dir.path(), net()).unwrap();
        let a = leases.acquire("a", &[]).unwrap().ip;
        assert_eq!(a, Ipv4Addr::new(10, 1, 2, 2), "network and gateway are skipped");
        let b = leases.acquire("b", &[]).unwrap().ip;
        assert_eq!(leases.acquire("a", &[]).unwrap().ip, a);
        leases.release("a").unwrap();
        drop(leases);

        let mut leases = Leases::open(dir.path(), net()).unwrap();
        assert_eq!(leases.get("b").unwrap().ip, b);
        let next: Vec<_> = ["c", "d", "e"].map(|id| leases.acquire(id, &[]).unwrap().ip).into();
        assert!(!next.contains(&a), "{next:?}");
        assert_eq!(leases.acquire("f", &[]).unwrap().ip, a, "reused when nothing else is left");
        assert!(matches!(leases.acquire("g", &[]), Err(Error::Exhausted(_))));
        assert!(matches!(leases.acquire("", &[]), Err(Error::Id(_))));
    }

    #[test]
    fn a_journal_cut_anywhere_opens() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(dir.path(), net()).unwrap();
        let port = HostPort { protocol: crate::Protocol::Tcp, host_ip: None, host_port: 80, port: 8080 };
        leases.acquire("a", &[port]).unwrap();
        leases.acquire("b", &[]).unwrap();
        let whole = fs::read(dir.path().join("leases")).unwrap();
        for cut in 0..=whole.len() {
            fs::write(dir.path().join("leases"), &whole[..cut]).unwrap();
            let mut leases = Leases::open(dir.path(), net()).unwrap();
            let c = leases.acquire("c", &[]).unwrap().ip;
            drop(leases);
            assert_eq!(Leases::open(dir.path(), net()).unwrap().get("c").unwrap().ip, c);
        }
    }

    #[test]
    fn the_journal_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(dir.path(), net()).unwrap();
        for n in 0..5000 {
            leases.acquire(&format!("pod-{n}"), &[]).unwrap();
            leases.release(&format!("pod-{n}")).unwrap();
        }
        let size = fs::metadata(dir.path().join("leases")).unwrap().len();
        assert!(size < 128 * 1024, "{size}");
    }
}
