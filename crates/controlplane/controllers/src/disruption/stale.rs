//! Pods that were marked for disruption and not disrupted lose the mark after a while.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use sampan_daemon::clock;
use sampan_planner::disruption::stale_at;
use serde_json::json;

use crate::apis;
use crate::cache::Caches;
use crate::error::Result;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::replicaset::until;
use crate::worker::Reconciler;

/// The controller.
pub(crate) struct StaleMarks {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Key>,
}

impl StaleMarks {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new() });
        let own = this.clone();
        this.caches.pods.on(move |change| {
            let pod: &Pod = change.object();
            if !matches!(change, Change::Deleted(_)) && stale_at(pod).is_some() {
                own.queue.add(Key::of(&pod.metadata));
            }
        });
        this
    }
}

impl Reconciler for StaleMarks {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.caches.pods.get(key) else { return Ok(None) };
        let Some(at) = stale_at(&pod) else { return Ok(None) };
        let now = clock::now();
        if at > now {
            return Ok(Some(until(at)));
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
            {"type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
                "lastTransitionTime": clock::rfc3339(now)}]}});
        apis::patch_status::<Pod>(&self.client, key, &patch).await?;
        Ok(None)
    }
}
