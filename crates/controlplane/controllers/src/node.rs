//! Nodes: one whose lease is not renewed is lost, its pods are not ready, and in the end they are evicted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::scheduler::tolerates_taint;
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
        match change {
            Change::Deleted(_) => {
                self.signs().remove(name);
            }
            Change::Added(_) => {
                self.signs().insert(name.to_owned(), Instant::now());
                self.queue.add(Key::of(&node.metadata));
            }
            Change::Updated { old, new } => {
                if heartbeat(old) != heartbeat(new) {
                    self.signs().insert(name.to_owned(), Instant::now());
                }
                // Of a mere heartbeat of a node that is well, nothing follows.
                if facts(old) != facts(new) || is_lost(new) {
                    self.queue.add(Key::of(&node.metadata));
                }
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
    async fn taint(&self, node: &Node) -> Result<()> {
        let wanted = wanted_taints(node);
        let have = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
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
            return Ok(());
        }
        let name = pods::name(&node.metadata);
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let api = apis::cluster::<Node>(&self.client);
        let result = api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        result.map(drop).during(|| format!("changing the taints of node {name}"))
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
        let Some(node) = self.caches.nodes.get(key) else { return Ok(None) };
        let silence = self.silence(&key.name);
        if silence >= self.grace && !is_lost(&node) {
            self.mark_lost(&node).await?;
            // The watch brings the node back here, lost.
            return Ok(None);
        }
        self.taint(&node).await?;
        if ready(&node).is_some_and(|c| c.status != "True") {
            self.mark_pods_unready(&node).await?;
        }
        if is_lost(&node) {
            return Ok(None);
        }
        Ok(Some(self.grace.saturating_sub(silence) + Duration::from_millis(10)))
    }
}

/// The controller that evicts pods from nodes with NoExecute taints. Its keys are pods.
pub(crate) struct Evictions {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
}

impl Evictions {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("taint-eviction-controller");
        let this = Arc::new(Self { client, caches, events, queue: Queue::new() });
        let own = this.clone();
        this.caches.nodes.on(move |change| {
            let now = no_execute(change.object());
            let before = change.old().map(|old| no_execute(old)).unwrap_or_default();
            if now != before && !matches!(change, Change::Deleted(_)) {
                for pod in own.caches.pods.indexed(&on_node(pods::name(&change.object().metadata))) {
                    own.queue.add(Key::of(&pod.metadata));
                }
            }
        });
        let own = this.clone();
        this.caches.pods.on(move |change| {
            let pod = change.object();
            let node = pods::node_name(pod);
            let moved = change.old().is_none_or(|old| pods::node_name(old) != node);
            if !matches!(change, Change::Deleted(_)) && moved && !node.is_empty() {
                own.queue.add(Key::of(&pod.metadata));
            }
        });
        this
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").cloned().collect()
}

/// How long a pod may stay with one taint: `None` for ever, zero not at all.
fn patience(tolerations: &[Toleration], taint: &Taint) -> Option<Duration> {
    let tolerating: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates_taint(t, taint)).collect();
    if tolerating.is_empty() {
        return Some(Duration::ZERO);
    }
    let seconds = tolerating.iter().filter_map(|t| t.toleration_seconds).min()?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

impl Reconciler for Evictions {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.caches.pods.get(key) else { return Ok(None) };
        let node = self.caches.nodes.get(&Key::new("", pods::node_name(&pod)));
        let Some(node) = node.filter(|_| !pods::terminating(&pod)) else { return Ok(None) };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
        let now = clock::now();
        let mut soonest: Option<Duration> = None;
        for taint in no_execute(&node) {
            let Some(patience) = patience(&tolerations, &taint) else { continue };
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let spent = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            let left = patience.saturating_sub(spent);
            soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
        }
        if soonest != Some(Duration::ZERO) {
            return Ok(soonest);
        }
        let text = format!("Marking for deletion Pod {key}");
        self.events.normal(&*pod, "TaintManagerEviction", text);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": clock::rfc3339(now),
        });
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        match apis::patch_status::<Pod>(&self.client, key, &patch).await {
            Err(error) if error.is_gone() => return Ok(None),
            other => other?,
        }
        apis::delete(&self.client, &*pod).await?;
        Ok(None)
    }
}
