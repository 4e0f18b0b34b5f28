//! What makes nodes alive: registration, leases, and now and then a status.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    ops::Range,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    fleet::Fleet,
    link::{Ask, Failure, JSON, MERGE, STRATEGIC},
    texts,
};

/// Requests of one heart at once.
const AT_ONCE: usize = 64;
/// After a failure a node tries again.
const AGAIN: Duration = Duration::from_secs(1);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Beat {
    Lease,
    Status,
    /// The status once more, after missed renewals.
    Back,
    Register,
}

type Due = Reverse<(Instant, Beat, usize)>;
type Done = (Beat, usize, Instant, Result<(), Failure>);

/// The heart of some nodes.
pub(crate) struct Heart {
    fleet: Arc<Fleet>,
    due: BinaryHeap<Due>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Nodes that missed a renewal: the control plane may have declared them lost, so they say that they are well after
    /// the next one.
    missed: HashSet<usize>,
    began: Instant,
}

impl Heart {
    pub(crate) fn new(fleet: Arc<Fleet>, nodes: Range<usize>) -> Self {
        let began = Instant::now();
        let due = nodes.map(|node| Reverse((began, Beat::Register, node))).collect();
        Self { fleet, due, running: FuturesUnordered::new(), missed: HashSet::new(), began }
    }

    /// Beats for ever.
    pub(crate) async fn beat(mut self) {
        loop {
            let next = self.due.peek().map(|Reverse((at, ..))| *at).filter(|_| self.running.len() < AT_ONCE);
            tokio::select! {
                Some(done) = self.running.next(), if !self.running.is_empty() => self.done(done),
                () = until(next) => self.begin(),
            }
        }
    }

    fn begin(&mut self) {
        let now = Instant::now();
        while self.running.len() < AT_ONCE
            && let Some(Reverse((at, beat, node))) =
                self.due.peek().copied().filter(|Reverse((at, ..))| *at <= now)
        {
            self.due.pop();
            if self.fleet.nodes[node].is_silent() {
                self.missed.insert(node);
                self.due.push(Reverse((now + AGAIN, beat, node)));
                continue;
            }
            let fleet = self.fleet.clone();
            self.running.push(Box::pin(async move {
                let result = match beat {
                    Beat::Register => register(&fleet, node).await,
                    Beat::Lease => renew(&fleet, node).await,
                    Beat::Status | Beat::Back => status(&fleet, node).await,
                };
                (beat, node, at, result)
            }));
        }
    }

    fn done(&mut self, (beat, node, at, result): Done) {
        let (counts, now) = (&self.fleet.counts, Instant::now());
        if let Err(failure) = result {
            counts.failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(node = self.fleet.nodes[node].name, ?beat, "will try again: {failure}");
            self.due.push(Reverse((now + AGAIN, beat, node)));
            return;
        }
        match beat {
            Beat::Register => {
                counts.registered.fetch_add(1, Ordering::Relaxed);
                self.fleet.registered.send_modify(|count| *count += 1);
                self.due.push(Reverse((self.phase(node, now), Beat::Lease, node)));
                self.due.push(Reverse((now + self.fleet.options.heartbeat, Beat::Status, node)));
            }
            Beat::Lease => {
                counts.renewals.fetch_add(1, Ordering::Relaxed);
                let late = u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX);
                counts.latest.fetch_max(late, Ordering::Relaxed);
                let next = at + self.fleet.options.renewal;
                self.due.push(Reverse((next.max(now), Beat::Lease, node)));
                if self.missed.remove(&node) {
                    self.due.push(Reverse((now, Beat::Back, node)));
                }
            }
            Beat::Back => {}
            Beat::Status => self.due.push(Reverse((now + self.fleet.options.heartbeat, Beat::Status, node))),
        }
    }

    /// The next renewal of a node: those of all are spread evenly over the time between two.
    fn phase(&self, node: usize, now: Instant) -> Instant {
        let every = self.fleet.options.renewal;
        let offset = every.mul_f64(node as f64 / self.fleet.nodes.len() as f64);
        let passed = (now - self.began).as_nanos() / every.as_nanos().max(1);
        let rounds = u32::try_from(passed).unwrap_or(u32::MAX);
        let at = self.began + every.saturating_mul(rounds) + offset;
        if at < now { at + every } else { at }
    }
}

/// Waits until a moment; for ever when there is none.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn register(fleet: &Fleet, index: usize) -> Result<(), Failure> {
    let node = &fleet.nodes[index];
    // Thousands at once would only be in each other's way.
    let _turn = fleet.turns.acquire().await;
    let (link, name) = (fleet.link(index), node.name.as_str());
    let whole = texts::node(&fleet.options, node, index);
    let body = whole.to_string().into_bytes();
    let made =
        link.send(Ask { method: Method::POST, path: "/api/v1/nodes", kind: JSON, body, node: name }).await;
    let answer = match made {
        Err(failure) if failure.code() == 409 => {
            let path = format!("/api/v1/nodes/{name}/status");
            let body = serde_json::json!({"status": whole["status"]}).to_string().into_bytes();
            link.send(Ask { method: Method::PATCH, path: &path, kind: STRATEGIC, body, node: name }).await?
        }
        other => other?,
    };
    let object: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let body = texts::lease(name, &uid);
    *node.uid.lock().unwrap_or_else(PoisonError::into_inner) = uid;
    let made = link.send(Ask { method: Method::POST, path: LEASES, kind: JSON, body, node: name }).await;
    match made {
        Err(failure) if failure.code() == 409 => renew(fleet, index).await,
        other => other.map(drop),
    }
}

async fn renew(fleet: &Fleet, index: usize) -> Result<(), Failure> {
    let node = &fleet.nodes[index];
    let (link, name) = (fleet.link(index), node.name.as_str());
    let path = format!("{LEASES}/{name}");
    let body = texts::renewal(name);
    let renewed = link.send(Ask { method: Method::PATCH, path: &path, kind: MERGE, body, node: name }).await;
    match renewed {
        Err(failure) if failure.code() == 404 => {
            let uid = node.uid.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let body = texts::lease(name, &uid);
            link.send(Ask { method: Method::POST, path: LEASES, kind: JSON, body, node: name })
                .await
                .map(drop)
        }
        other => other.map(drop),
    }
}

async fn status(fleet: &Fleet, index: usize) -> Result<(), Failure> {
    let node = &fleet.nodes[index];
    let path = format!("/api/v1/nodes/{}/status", node.name);
    let body = texts::heartbeat(&fleet.options, node);
    let ask = Ask { method: Method::PATCH, path: &path, kind: STRATEGIC, body, node: &node.name };
    match fleet.link(index).send(ask).await {
        // Somebody deleted the node: real ones register again only when they are started anew.
        Err(failure) if failure.code() == 404 => Ok(()),
        other => other.map(drop),
    }
}
