//! StatefulSets: pods with stable names, one after the other. Volume claims are not made here yet.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::PostParams;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::statefulset::{self as planner, Plan, REVISION};
use sampan_planner::selector::Selector;

use crate::cache::Caches;
use crate::claim::{claim, controller_reference, owner_key};
use crate::error::{Context, Result};
use crate::events::Recorder;
use crate::expectations::Expectations;
use crate::informer::Key;
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::revisions::{self, Revisions};
use crate::worker::Reconciler;
use crate::{apis, create};

/// The controller.
pub(crate) struct StatefulSets {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    expectations: Expectations,
}

impl StatefulSets {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("statefulset-controller");
        let this = Arc::new(Self {
            client,
            caches,
            events,
            queue: Queue::new(),
            expectations: Expectations::default(),
        });
        let own = this.clone();
        this.caches.stateful_sets.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.pods.on(move |change| {
            let meta = &change.object().metadata;
            let Some(owner) = owner_key::<StatefulSet>(meta) else { return };
            own.expectations.observe(&owner, change);
            own.queue.add(owner);
        });
        this
    }

    fn pod(&self, key: &Key, set: &StatefulSet, revision: &ControllerRevision, ordinal: i32) -> Pod {
        let mut pod = create::pod(&revisions::template(revision), &key.namespace, controller_reference(set));
        let name = format!("{}-{ordinal}", key.name);
        pod.metadata.generate_name = None;
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone());
        labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
        labels.insert(REVISION.to_owned(), pods::name(&revision.metadata).to_owned());
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(name.clone());
            spec.subdomain = set.spec.service_name.clone().filter(|s| !s.is_empty());
        }
        pod.metadata.name = Some(name);
        pod
    }

    async fn carry_out(
        &self,
        key: &Key,
        set: &StatefulSet,
        revisions: &Revisions,
        plan: &Plan<'_>,
    ) -> Result<()> {
        let uids: Vec<String> = plan.delete.iter().map(|pod| pods::uid(&pod.metadata).to_owned()).collect();
        if !uids.is_empty() || !plan.create.is_empty() {
            self.expectations.expect(key, plan.create.len(), uids);
        }
        for pod in &plan.delete {
            let name = pods::name(&pod.metadata);
            match apis::delete(&self.client, *pod).await {
                Ok(true) => {
                    let text = format!("delete Pod {name} in StatefulSet {} successful", key.name);
                    self.events.normal(set, "SuccessfulDelete", text);
                }
                // Somebody else deleted it, and the event of that may have come before it was expected.
                Ok(false) => self.expectations.deleted(key, pods::uid(&pod.metadata)),
                Err(error) => {
                    self.expectations.forget(key);
                    return Err(error);
                }
            }
        }
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        for (ordinal, name) in &plan.create {
            let named = revisions.all.iter().find(|r| r.metadata.name.as_ref() == Some(name));
            let pod = self.pod(key, set, named.unwrap_or(&revisions.update), *ordinal);
            let name = pods::name(&pod.metadata);
            if let Err(error) = api.create(&PostParams::default(), &pod).await {
                self.expectations.forget(key);
                let text = format!("create Pod {name} in StatefulSet {} failed error: {error}", key.name);
                self.events.warning(set, "FailedCreate", text);
                return Err(error).during(|| format!("creating pod {}/{name}", key.namespace));
            }
            let text = format!("create Pod {name} in StatefulSet {} successful", key.name);
            self.events.normal(set, "SuccessfulCreate", text);
        }
        Ok(())
    }
}

impl Reconciler for StatefulSets {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(set) = self.caches.stateful_sets.get(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let selector = Selector::new(Some(&set.spec.selector));
        // Before the cache is read: what is settled then is in it.
        let settled = self.expectations.met(key);
        let mut owned = claim(&self.client, &*set, &selector, &self.caches.pods).await?;
        owned.retain(|pod| planner::ordinal(&set, pod).is_some());
        let revisions =
            revisions::sync(&self.client, &self.caches, &*set, &selector, &set.spec.template).await?;
        let update = pods::name(&revisions.update.metadata);
        let noted = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current =
            noted.filter(|name| revisions.all.iter().any(|r| r.metadata.name.as_deref() == Some(name)));
        let owned_refs = refs(&owned);
        let plan = planner::plan(&set, &owned_refs, current.unwrap_or(update), update, clock::now());
        if settled {
            self.carry_out(key, &set, &revisions, &plan).await?;
        }
        if set.status.as_ref() != Some(&plan.status) {
            let mut updated = (*set).clone();
            updated.status = Some(plan.status.clone());
            apis::replace_status(&self.client, &self.caches.stateful_sets, &updated).await?;
        }
        let label = |pod: &&Pod| pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).cloned();
        let used: Vec<String> =
            owned_refs.iter().filter_map(label).chain(current.map(str::to_owned)).collect();
        let used: Vec<&str> = used.iter().map(String::as_str).collect();
        revisions::truncate(&self.client, &revisions, &used, set.spec.revision_history_limit.unwrap_or(10))
            .await?;
        Ok(plan.again_at.map(until))
    }
}
