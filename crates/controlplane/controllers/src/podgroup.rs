//! PodGroups: whether as many of their pods have found a place as they need.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::scheduler::GroupPolicy;
use serde_json::json;

use crate::apis;
use crate::cache::{Caches, in_group};
use crate::error::Result;
use crate::informer::Key;
use crate::queue::Queue;
use crate::worker::Reconciler;

/// The condition; once true it stays so.
const SCHEDULED: &str = "PodGroupInitiallyScheduled";

/// The controller. Its keys are PodGroups.
pub(crate) struct PodGroups {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Key>,
}

impl PodGroups {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new() });
        let own = this.clone();
        this.caches.pod_groups.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.pods.on(move |change| {
            let pod = change.object();
            if let Some(group) = pods::group(pod) {
                own.queue.add(Key::new(pod.metadata.namespace.as_deref().unwrap_or_default(), group));
            }
        });
        this
    }
}

/// The condition as the group has it.
fn told(group: &PodGroup) -> Option<&Condition> {
    group.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == SCHEDULED)
}

/// The condition that a group with these pods should have; nothing when there is nothing to tell yet.
fn condition(group: &PodGroup, members: &[Arc<Pod>]) -> Option<Condition> {
    let known = told(group);
    let placed =
        members.iter().filter(|pod| !pods::node_name(pod).is_empty() && !pods::finished(pod)).count();
    let needed = match GroupPolicy::of(group) {
        GroupPolicy::Basic => 1,
        GroupPolicy::Gang(min) => usize::try_from(min).unwrap_or(usize::MAX),
    };
    let (status, reason, message) = if placed >= needed {
        ("True", "Scheduled", format!("{placed} pods have found a place, {needed} are needed"))
    } else {
        let refused = members.iter().filter_map(|pod| pods::condition(pod, "PodScheduled"));
        let refused = refused.filter(|c| c.reason.as_deref() == Some("Unschedulable"));
        ("False", "Unschedulable", refused.filter_map(|c| c.message.clone()).next()?)
    };
    if known.is_some_and(|c| c.status == status && c.message == message) {
        return None;
    }
    let since = known.filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    Some(Condition {
        type_: SCHEDULED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: group.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| Time(clock::now())),
    })
}

impl Reconciler for PodGroups {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(group) = self.caches.pod_groups.get(key) else { return Ok(None) };
        if told(&group).is_some_and(|c| c.status == "True") {
            return Ok(None);
        }
        let members = self.caches.pods.indexed(&in_group(&key.namespace, &key.name));
        if let Some(condition) = condition(&group, &members) {
            let patch =
                json!({"metadata": {"uid": group.metadata.uid}, "status": {"conditions": [condition]}});
            apis::patch_status::<PodGroup>(&self.client, key, &patch).await?;
        }
        Ok(None)
    }
}
