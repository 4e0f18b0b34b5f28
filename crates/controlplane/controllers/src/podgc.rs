//! Pods that nobody looks after: those of nodes that are gone, and finished ones beyond a bound.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{DeleteParams, Preconditions};
use sampan_daemon::clock;
use sampan_planner::pods;
use serde_json::json;

use crate::apis;
use crate::cache::{Caches, on_node};
use crate::error::{Context, Result, gone_is_fine};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// A node that has just gone may come back under its name: its pods get this long.
const QUARANTINE: Duration = Duration::from_secs(40);

/// What an administrator puts on a node that is down and will not come back by itself.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// The pods of a node that may be gone.
    Node(String),
    /// A pod that ends before it was ever bound.
    Unbound(Key),
    /// Finished pods, beyond the bound.
    Finished,
    /// The ending pods of a node that an administrator declared dead.
    OutOfService(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Unbound(key) => write!(f, "pod {key}"),
            Self::Finished => f.write_str("finished pods"),
            Self::OutOfService(name) => write!(f, "ending pods of node {name}"),
        }
    }
}

/// The controller.
pub(crate) struct PodGc {
    client: Client,
    caches: Arc<Caches>,
    bound: usize,
    queue: Queue<Work>,
    /// Finished pods by age.
    finished: Mutex<BTreeMap<(jiff::Timestamp, String), Key>>,
}

impl PodGc {
    pub fn new(client: Client, caches: Arc<Caches>, bound: usize) -> Arc<Self> {
        let finished = Mutex::new(BTreeMap::new());
        let this = Arc::new(Self { client, caches, bound, queue: Queue::new(), finished });
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        let own = this.clone();
        this.caches.nodes.on(move |change: &Change<'_, Node>| {
            let name = pods::name(&change.object().metadata).to_owned();
            if matches!(change, Change::Deleted(_)) {
                own.queue.add_after(Work::Node(name), QUARANTINE);
            } else if is_out_of_service(change.object())
                && !change.old().is_some_and(|n| is_out_of_service(n))
            {
                own.queue.add(Work::OutOfService(name));
            }
        });
        this
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let meta = &pod.metadata;
        let id = (pods::created(meta), pods::uid(meta).to_owned());
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(change, Change::Deleted(_)) {
            finished.remove(&id);
            return;
        }
        if pods::finished(pod) {
            finished.insert(id, Key::of(meta));
            if finished.len() > self.bound {
                self.queue.add(Work::Finished);
            }
        }
        let node = pods::node_name(pod);
        if node.is_empty() && pods::terminating(pod) {
            self.queue.add(Work::Unbound(Key::of(meta)));
        }
        if node.is_empty() {
            return;
        }
        let known = self.caches.nodes.get(&Key::new("", node));
        if matches!(change, Change::Added(_)) && known.is_none() {
            self.queue.add_after(Work::Node(node.to_owned()), QUARANTINE);
        }
        if pods::terminating(pod) && known.is_some_and(|node| is_out_of_service(&node)) {
            self.queue.add(Work::OutOfService(node.to_owned()));
        }
    }

    /// Removes a pod at once: nobody is there to stop it in an orderly way.
    async fn remove(&self, pod: &Pod, why: Option<(&str, &str)>) -> Result<()> {
        let key = Key::of(&pod.metadata);
        if !pods::finished(pod) {
            let mut status = json!({"phase": "Failed"});
            if let Some((reason, message)) = why {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
                    "lastTransitionTime": clock::rfc3339(clock::now()),
                }]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            match apis::patch_status::<Pod>(&self.client, &key, &patch).await {
                Err(error) if error.is_gone() => return Ok(()),
                other => other?,
            }
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        gone_is_fine(api.delete(&key.name, &params).await).during(|| format!("removing pod {key}"))
    }

    async fn clear_node(&self, name: &str) -> Result<()> {
        let api = apis::cluster::<Node>(&self.client);
        let node = api.get_opt(name).await.during(|| format!("reading node {name}"))?;
        if node.is_some() {
            return Ok(());
        }
        for pod in self.caches.pods.indexed(&on_node(name)) {
            self.remove(&pod, Some(("DeletionByPodGC", "PodGC: node no longer exists"))).await?;
        }
        Ok(())
    }

    /// Pods that are to end on a node of which an administrator says that it is down for good.
    async fn clear_out_of_service(&self, name: &str) -> Result<()> {
        let node = self.caches.nodes.get(&Key::new("", name));
        if !node.is_some_and(|node| is_out_of_service(&node)) {
            return Ok(());
        }
        for pod in self.caches.pods.indexed(&on_node(name)) {
            if pods::terminating(&pod) {
                self.remove(&pod, None).await?;
            }
        }
        Ok(())
    }

    fn oldest_finished(&self) -> Vec<Key> {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = finished.len().saturating_sub(self.bound);
        finished.values().take(excess).cloned().collect()
    }
}

/// Whether the node is not ready and tainted as out of service.
fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    taints.into_iter().any(|t| t.key == OUT_OF_SERVICE)
        && !conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

impl Reconciler for PodGc {
    type Key = Work;

    fn queue(&self) -> &Queue<Work> {
        &self.queue
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>> {
        match work {
            Work::Node(name) => self.clear_node(name).await?,
            Work::OutOfService(name) => self.clear_out_of_service(name).await?,
            Work::Unbound(key) => {
                let pod = self.caches.pods.get(key);
                if let Some(pod) = pod.filter(|p| pods::terminating(p) && pods::node_name(p).is_empty()) {
                    self.remove(&pod, None).await?;
                }
            }
            Work::Finished => {
                for key in self.oldest_finished() {
                    if let Some(pod) = self.caches.pods.get(&key) {
                        self.remove(&pod, None).await?;
                    }
                }
            }
        }
        Ok(None)
    }
}
