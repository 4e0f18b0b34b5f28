//! All nodes together: who they are, how they are connected, what they have done.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sampan_daemon::{Backoff, Policy, Supervisor, tls};
use tokio::sync::{Semaphore, watch};

use crate::{
    Access, Error, Options,
    heart::Heart,
    link::{Link, Place},
    lives::Lives,
};

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// Does nothing, as if its machine were lost.
    pub(crate) silent: AtomicBool,
    /// Of the object, for its lease.
    pub(crate) uid: Mutex<String>,
    addresses: Mutex<[u64; 4]>,
    network: u32,
    link: usize,
}

impl Node {
    fn new(options: &Options, index: usize, link: usize) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Self {
            name: format!("{}{index}", options.prefix),
            address: Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)) + index),
            silent: AtomicBool::new(false),
            uid: Mutex::default(),
            // Neither the network itself, nor its gateway, nor its broadcast address.
            addresses: Mutex::new([0b11, 0, 0, 1 << 63]),
            network: u32::from(Ipv4Addr::new(10, 128, 0, 0)) + (index << 8),
            link,
        }
    }

    /// The addresses of its pods.
    pub(crate) fn network(&self) -> String {
        format!("{}/24", Ipv4Addr::from(self.network))
    }

    /// A free address; the last one when there are more pods than addresses.
    pub(crate) fn take(&self) -> Ipv4Addr {
        let mut words = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        for (word, at) in words.iter_mut().zip([0, 64, 128, 192]) {
            let free = word.trailing_ones();
            if free < 64 {
                *word |= 1 << free;
                return Ipv4Addr::from(self.network + at + free);
            }
        }
        Ipv4Addr::from(self.network + 254)
    }

    /// Takes a certain address: whether it is one of the node's.
    pub(crate) fn claim(&self, address: Ipv4Addr) -> bool {
        let bits = u32::from(address);
        if bits & !0xff != self.network {
            return false;
        }
        let at = (bits & 0xff) as usize;
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)[at / 64] |= 1 << (at % 64);
        true
    }

    /// Gives an address back.
    pub(crate) fn give(&self, address: Ipv4Addr) {
        let at = (u32::from(address) & 0xff) as usize;
        let mut words = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        words[at / 64] &= !(1 << (at % 64));
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }
}

/// What happened, counted.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) registered: AtomicUsize,
    pub(crate) renewals: AtomicU64,
    pub(crate) known: AtomicUsize,
    pub(crate) started: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) latest: AtomicU64,
}

/// What hollow nodes have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Nodes that are registered.
    pub registered: usize,
    /// Renewals of leases.
    pub renewals: u64,
    /// The longest that a renewal came after its time, in ms.
    pub latest_ms: u64,
    /// Pods on these nodes.
    pub pods: usize,
    /// Pods that were reported as running.
    pub started: u64,
    /// Pods that were deleted and removed.
    pub removed: u64,
    /// Requests that failed and were, or will be, made again.
    pub failures: u64,
    /// Events of watches.
    pub events: u64,
}

/// What all nodes share.
pub(crate) struct Fleet {
    pub(crate) options: Options,
    pub(crate) nodes: Vec<Node>,
    pub(crate) counts: Counts,
    pub(crate) registered: watch::Sender<usize>,
    /// Those that register at the same time.
    pub(crate) turns: Semaphore,
    links: Vec<Link>,
}

/// Nodes that register at the same time.
const TURNS: usize = 64;

impl Fleet {
    /// The connection of a node.
    pub(crate) fn link(&self, node: usize) -> &Link {
        &self.links[self.nodes[node].link]
    }

    /// The number in the name of one of these nodes.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        let digits = name.strip_prefix(self.options.prefix.as_str())?;
        let index: usize = digits.parse().ok()?;
        // Not 007.
        self.nodes.get(index).filter(|node| node.name == name).map(|_| index)
    }
}

/// Running nodes. Dropping it leaves them running: they end with their supervisor.
#[derive(Clone)]
pub struct Handle(Arc<Fleet>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handle").field(&self.stats()).finish()
    }
}

impl Handle {
    /// Returns once every node is registered.
    pub async fn registered(&self) {
        let all = self.0.nodes.len();
        // The sender lives in the fleet.
        let _ = self.0.registered.subscribe().wait_for(|count| *count >= all).await;
    }

    /// What they have done so far.
    pub fn stats(&self) -> Stats {
        let counts = &self.0.counts;
        Stats {
            registered: counts.registered.load(Ordering::Relaxed),
            renewals: counts.renewals.load(Ordering::Relaxed),
            latest_ms: counts.latest.load(Ordering::Relaxed),
            pods: counts.known.load(Ordering::Relaxed),
            started: counts.started.load(Ordering::Relaxed),
            removed: counts.removed.load(Ordering::Relaxed),
            failures: counts.failures.load(Ordering::Relaxed),
            events: counts.events.load(Ordering::Relaxed),
        }
    }

    /// The name of a node.
    pub fn name(&self, index: usize) -> Option<&str> {
        self.0.nodes.get(index).map(|node| node.name.as_str())
    }

    /// Lets so many nodes, the first ones, fall silent: they renew nothing and report nothing, like lost machines. The
    /// others, if they were silent, go on.
    pub fn silence(&self, nodes: usize) {
        for (index, node) in self.0.nodes.iter().enumerate() {
            node.silent.store(index < nodes, Ordering::Relaxed);
        }
    }
}

/// Lets a part of the fleet live under the supervisor.
fn live(fleet: &Arc<Fleet>, supervisor: &Supervisor, nodes: std::ops::Range<usize>) {
    let policy = || Policy::Restart(Backoff::new(Duration::from_millis(100), Duration::from_secs(10)));
    let (whose, whom) = (fleet.clone(), nodes.clone());
    supervisor.supervise("heart", policy(), move || {
        let heart = Heart::new(whose.clone(), whom.clone());
        async move {
            heart.beat().await;
            Ok::<(), std::convert::Infallible>(())
        }
    });
    let fleet = fleet.clone();
    supervisor.supervise("pods", policy(), move || {
        let lives = Lives::new(fleet.clone(), nodes.clone());
        async move {
            lives.live().await;
            Ok::<(), std::convert::Infallible>(())
        }
    });
}

pub(crate) fn start(options: Options, supervisor: &Supervisor) -> Result<Handle, Error> {
    let place = Arc::new(Place::new(&options.server, supervisor.clone())?);
    let ca = &options.ca_pem;
    let mut links = Vec::new();
    let own = match &options.access {
        Access::Shared { identity, token, connections } => {
            for _ in 0..*connections {
                links.push(Link::new(place.clone(), ca, identity.as_ref(), token.as_deref(), true)?);
            }
            false
        }
        Access::Own(authority) => {
            for index in 0..options.nodes {
                let identity = authority.issue(&certificate(&format!("{}{index}", options.prefix)))?;
                links.push(Link::new(place.clone(), ca, Some(&identity), None, false)?);
            }
            true
        }
    };
    let all = options.nodes;
    let nodes = (0..all).map(|index| Node::new(&options, index, index % links.len())).collect();
    let fleet = Arc::new(Fleet {
        options,
        nodes,
        counts: Counts::default(),
        registered: watch::Sender::new(0),
        turns: Semaphore::new(TURNS),
        links,
    });
    if own {
        (0..all).for_each(|index| live(&fleet, supervisor, index..index + 1));
    } else {
        live(&fleet, supervisor, 0..all);
    }
    Ok(Handle(fleet))
}

fn certificate(node: &str) -> tls::Profile {
    tls::Profile {
        common_name: format!("system:node:{node}"),
        organizations: vec!["system:nodes".to_owned()],
        dns: Vec::new(),
        ips: Vec::new(),
        usage: tls::Usage::Client,
        days: 365,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_once_and_given_back() {
        let options = Options::new(
            "127.0.0.1:1",
            "",
            Access::Shared { identity: None, token: None, connections: 1 },
            3,
        );
        let node = Node::new(&options, 2, 0);
        assert_eq!((node.network().as_str(), node.name.as_str()), ("10.128.2.0/24", "hollow-2"));
        let mut taken: Vec<Ipv4Addr> = (0..253).map(|_| node.take()).collect();
        assert_eq!((taken[0], taken[252]), (Ipv4Addr::new(10, 128, 2, 2), Ipv4Addr::new(10, 128, 2, 254)));
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 253);
        node.give(Ipv4Addr::new(10, 128, 2, 100));
        assert_eq!(node.take(), Ipv4Addr::new(10, 128, 2, 100));
    }
}
