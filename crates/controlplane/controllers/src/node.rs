//! Nodes: one whose lease is not renewed is lost, its pods are not ready, and its taints say so.
//!
//! The taint that has pods evicted is given to one node of a zone at a time ([`sampan_planner::zones`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::zones::{self, Count, State};
use serde_json::json;
use tokio::time::Instant;

use crate::apis;
use crate::cache::{Caches, NODE_LEASES, on_node};
use crate::error::{Context, Result};
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions of a node that keep new pods away, with the status that does so and their taint.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The controller of nodes. Its keys are nodes.
pub(crate) struct Nodes {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    grace: Duration,
    queue: Queue<Key>,
    /// When a sign of life of each node was last seen, by our own clock, lest clocks differ.
    signs: Mutex<HashMap<String, Instant>>,
    /// When the next node of a zone may be emptied.
    turns: Mutex<HashMap<String, Instant>>,
    /// Since when nodes are known not to be ready.
    unready: Mutex<HashMap<String, Instant>>,
    /// No node of the cluster was ready at the last look.
    all_lost: AtomicBool,
    /// Grows with each change of how many nodes of a zone are ready.
    balance: AtomicU64,
    /// Those numbers, at such a point. Counted when somebody asks, and not for each of thousands of nodes that are lost together.
    zones: Mutex<(u64, Arc<HashMap<String, Count>>)>,
}

impl Nodes {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder, grace: Duration) -> Arc<Self> {
        let events = events.of("node-controller");
        let this = Arc::new(Self {
            client,
            caches,
            events,
            grace,
            queue: Queue::new(),
            signs: Mutex::new(HashMap::new()),
            turns: Mutex::new(HashMap::new()),
            unready: Mutex::new(HashMap::new()),
            all_lost: AtomicBool::new(false),
            balance: AtomicU64::new(1),
            zones: Mutex::default(),
        });
        let own = this.clone();
        this.caches.nodes.on(move |change| own.node_changed(change));
        let own = this.clone();
        this.caches.leases.on(move |change| own.lease_changed(change));
        this
    }

    fn signs(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        let name = pods::name(&node.metadata);
        if is_ready(node) || matches!(change, Change::Deleted(_)) {
            self.unready.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        let counted = |node: &Node| (is_ready(node), zone(node));
        let is_same = matches!(change, Change::Updated { old, new } if counted(old) == counted(new));
        if !is_same {
            self.balance.fetch_add(1, Ordering::SeqCst);
        }
        match change {
            Change::Deleted(_) => {
                self.signs().remove(name);
            }
            Change::Added(_) => {
                self.signs().insert(name.to_owned(), Instant::now());
                if is_ready(node) {
                    self.balance_changed(true);
                }
                self.queue.add(Key::of(&node.metadata));
            }
            Change::Updated { old, new } => {
                if heartbeat(old) != heartbeat(new) {
                    self.signs().insert(name.to_owned(), Instant::now());
                }
                if is_ready(old) != is_ready(new) {
                    self.balance_changed(is_ready(new));
                }
                // Of a mere heartbeat of a node that is well, nothing follows.
                if facts(old) != facts(new) || is_lost(new) {
                    self.queue.add(Key::of(&node.metadata));
                }
            }
        }
    }

    /// A node became ready, or ceased to be: what others may be emptied changes with that. Many such changes together
    /// are looked at once.
    fn balance_changed(&self, ready: bool) {
        if ready && self.all_lost.swap(false, Ordering::SeqCst) {
            // It was us who heard nothing: everybody gets as long as after a start.
            let now = Instant::now();
            self.signs().values_mut().for_each(|sign| *sign = now);
        }
        self.queue.add_after(all_unready(), self.grace / 8);
    }

    /// How many nodes of each zone are ready.
    fn zones(&self) -> Arc<HashMap<String, Count>> {
        // Before the cache is read: what changes from now on counts as not seen.
        let at = self.balance.load(Ordering::SeqCst);
        let mut known = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != at {
            let mut zones: HashMap<String, Count> = HashMap::new();
            for node in self.caches.nodes.all() {
                let count = zones.entry(zone(&node)).or_default();
                if is_ready(&node) { count.ready += 1 } else { count.silent += 1 }
            }
            *known = (at, Arc::new(zones));
        }
        known.1.clone()
    }

    fn unready_since(&self, name: &str) -> Instant {
        let mut unready = self.unready.lock().unwrap_or_else(PoisonError::into_inner);
        *unready.entry(name.to_owned()).or_insert_with(Instant::now)
    }

    /// Whether the node may be given the taint that empties it; how long to wait where it is a matter of time.
    fn may_empty(&self, node: &Node) -> Turn {
        let zones = self.zones();
        let zone = zone(node);
        let own = zones.get(&zone).copied().unwrap_or_default();
        // Those that fall silent together are heard of one after the other: only then it shows how many they are.
        let since = self.unready_since(pods::name(&node.metadata)).elapsed();
        let window = self.grace / 8;
        if since < window {
            return Turn::After(window - since);
        }
        let all_lost = zones.values().all(|count| count.state() == State::Full);
        self.all_lost.store(all_lost, Ordering::SeqCst);
        if all_lost {
            return Turn::Never;
        }
        let Some(rate) = zones::rate(own, zones.values().copied()) else { return Turn::NotNow };
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match turns.get(&zone).filter(|at| **at > now) {
            Some(at) => Turn::After(*at - now),
            None => {
                turns.insert(zone, now + Duration::from_secs_f64(1.0 / rate));
                Turn::Now
            }
        }
    }

    fn lease_changed(&self, change: &Change<'_, Lease>) {
        let lease = change.object();
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|s| s.renew_time.clone());
        let name = pods::name(&lease.metadata);
        let is_renewal = match change {
            Change::Added(_) => true,
            Change::Updated { old, new } => renewed(old) != renewed(new),
            Change::Deleted(_) => false,
        };
        if is_renewal && lease.metadata.namespace.as_deref() == Some(NODE_LEASES) {
            self.signs().insert(name.to_owned(), Instant::now());
            let key = Key::new("", name);
            if self.caches.nodes.get(&key).is_some_and(|node| is_lost(&node)) {
                self.queue.add(key);
            }
        }
    }

    /// How long the node has been silent.
    fn silence(&self, name: &str) -> Duration {
        self.signs().entry(name.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    /// Tells that nobody knows how the node is.
    async fn mark_lost(&self, node: &Node) -> Result<()> {
        let mut updated = node.clone();
        let status = updated.status.get_or_insert_default();
        let now = Time(clock::now());
        let conditions = status.conditions.get_or_insert_default();
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            let unknown = |c: &NodeCondition| c.type_ == kind && c.status == "Unknown";
            if conditions.iter().any(unknown) {
                continue;
            }
            let known = conditions.iter().any(|c| c.type_ == kind);
            conditions.retain(|c| c.type_ != kind);
            conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some(if known { "NodeStatusUnknown" } else { "NodeStatusNeverUpdated" }.into()),
                message: Some(
                    if known {
                        "Kubelet stopped posting node status."
                    } else {
                        "Kubelet never posted node status."
                    }
                    .into(),
                ),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: Some(now.clone()),
            });
        }
        let name = pods::name(&node.metadata);
        let api = apis::cluster::<Node>(&self.client);
        let result = api.replace_status(name, &PostParams::default(), &updated).await;
        result.map(drop).during(|| format!("writing the status of node {name}"))?;
        self.events.normal(node, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
        Ok(())
    }

    /// Brings the taints in line with the conditions.
    async fn taint(&self, node: &Node) -> Result<Option<Duration>> {
        let mut wanted = wanted_taints(node);
        let have = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let empties =
            |t: &Taint| t.effect == "NoExecute" && matches!(t.key.as_str(), NOT_READY | UNREACHABLE);
        let mut again = None;
        if wanted.iter().any(empties) {
            let is_emptied = have.iter().any(empties);
            let keep = match self.may_empty_unless(is_emptied, node) {
                Turn::Now => true,
                Turn::NotNow => is_emptied,
                Turn::Never => false,
                Turn::After(delay) => {
                    again = Some(delay);
                    false
                }
            };
            wanted.retain(|taint| keep || !empties(taint));
        }
        let is_ours = |taint: &Taint| {
            let noexec = matches!(taint.key.as_str(), NOT_READY | UNREACHABLE);
            noexec || taint.key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, key)| *key == taint.key)
        };
        let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
        let mut taints: Vec<Taint> =
            have.iter().filter(|t| !is_ours(t) || wanted.iter().any(|w| same(w, t))).cloned().collect();
        for taint in wanted {
            if !taints.iter().any(|t| same(t, &taint)) {
                taints.push(taint);
            }
        }
        if taints == have {
            return Ok(again);
        }
        let name = pods::name(&node.metadata);
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let api = apis::cluster::<Node>(&self.client);
        let result = api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        result.map(|_| again).during(|| format!("changing the taints of node {name}"))
    }

    /// A node that is being emptied has had its turn.
    fn may_empty_unless(&self, is_emptied: bool, node: &Node) -> Turn {
        self.unready_since(pods::name(&node.metadata));
        if !is_emptied {
            return self.may_empty(node);
        }
        let nobody = self.zones().values().all(|count| count.ready == 0);
        self.all_lost.store(nobody, Ordering::SeqCst);
        if nobody { Turn::Never } else { Turn::Now }
    }

    /// Pods of a node that is not ready do not serve, whatever they last said.
    async fn mark_pods_unready(&self, node: &Node) -> Result<()> {
        let pods = self.caches.pods.indexed(&on_node(pods::name(&node.metadata)));
        let ready = pods.iter().filter(|pod| pods::ready(pod) && !pods::finished(pod));
        try_join_all(ready.map(|pod| self.mark_pod_unready(pod))).await.map(drop)
    }

    async fn mark_pod_unready(&self, pod: &Pod) -> Result<()> {
        let key = Key::of(&pod.metadata);
        let condition = json!({
            "type": "Ready", "status": "False", "lastTransitionTime": clock::rfc3339(clock::now()),
        });
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        match apis::patch_status::<Pod>(&self.client, &key, &patch).await {
            Err(error) if error.is_gone() => Ok(()),
            other => other,
        }
    }
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")
}

fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|c| c.status == "True")
}

/// The key that stands for all nodes that are not ready: no node is called that.
fn all_unready() -> Key {
    Key::new("", "")
}

/// Region and zone of a node.
fn zone(node: &Node) -> String {
    let labels = node.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|l| l.get(name)).map(String::as_str).unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// Whether it is a node's turn to be emptied.
enum Turn {
    Now,
    After(Duration),
    /// Too many of its zone are silent; those that are being emptied still are.
    NotNow,
    /// Everybody is silent: nobody is emptied.
    Never,
}

fn heartbeat(node: &Node) -> Option<Time> {
    ready(node).filter(|c| c.status != "Unknown").and_then(|c| c.last_heartbeat_time.clone())
}

fn is_lost(node: &Node) -> bool {
    ready(node).is_none_or(|c| c.status == "Unknown")
}

/// What decides about a node's taints.
#[derive(PartialEq)]
struct Facts {
    conditions: Vec<(String, String)>,
    unschedulable: Option<bool>,
    taints: Option<Vec<Taint>>,
}

fn facts(node: &Node) -> Facts {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let spec = node.spec.as_ref();
    Facts {
        conditions: conditions.map(|c| (c.type_.clone(), c.status.clone())).collect(),
        unschedulable: spec.and_then(|s| s.unschedulable),
        taints: spec.and_then(|s| s.taints.clone()),
    }
}

/// The taints that follow from conditions and from being cordoned.
fn wanted_taints(node: &Node) -> Vec<Taint> {
    let now = || Some(Time(clock::now()));
    let taint = |key: &str, effect: &str| Taint {
        key: key.into(),
        effect: effect.into(),
        value: None,
        time_added: now(),
    };
    let mut wanted = Vec::new();
    let key = match ready(node).map(|c| c.status.as_str()) {
        Some("True") => None,
        Some("False") => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = key {
        wanted.push(taint(key, "NoSchedule"));
        wanted.push(taint(key, "NoExecute"));
    }
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    for condition in conditions.filter(|c| c.status == "True") {
        if let Some((_, key)) = PRESSURES.iter().find(|(kind, _)| *kind == condition.type_) {
            wanted.push(taint(key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

impl Reconciler for Nodes {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        if *key == all_unready() {
            for name in self.unready.lock().unwrap_or_else(PoisonError::into_inner).keys() {
                self.queue.add(Key::new("", name));
            }
            return Ok(None);
        }
        let Some(node) = self.caches.nodes.get(key) else { return Ok(None) };
        let silence = self.silence(&key.name);
        if silence >= self.grace && !is_lost(&node) {
            self.mark_lost(&node).await?;
            // The watch brings the node back here, lost.
            return Ok(None);
        }
        let again = self.taint(&node).await?;
        if ready(&node).is_some_and(|c| c.status != "True") {
            self.mark_pods_unready(&node).await?;
        }
        if is_lost(&node) {
            return Ok(again);
        }
        let next = self.grace.saturating_sub(silence) + Duration::from_millis(10);
        Ok(Some(again.map_or(next, |again| again.min(next))))
    }
}
