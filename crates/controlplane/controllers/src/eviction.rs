//! Pods are evicted from nodes whose NoExecute taints they do not tolerate, or no longer.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::Client;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::scheduler::patience;

use crate::apis;
use crate::cache::{Caches, on_node};
use crate::error::Result;
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

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
            let Some(seconds) = patience(&tolerations, &taint, 0) else { continue };
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let spent = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            let left = Duration::from_secs(seconds).saturating_sub(spent);
            soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
        }
        if soonest != Some(Duration::ZERO) {
            return Ok(soonest);
        }
        let text = format!("Marking for deletion Pod {key}");
        self.events.normal(&*pod, "TaintManagerEviction", text);
        let message = "Taint manager: deleting due to NoExecute taint";
        apis::disrupt(&self.client, &pod, "DeletionByTaintManager", message).await?;
        Ok(None)
    }
}
