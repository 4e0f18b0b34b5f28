//! DaemonSets: one pod on each node that fits.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodTemplateSpec};
use kube::Client;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::daemonset::{self as planner, Input, Plan, REVISION};
use sampan_planner::rollout::failures::Failures;
use sampan_planner::selector::Selector;

use crate::cache::{Caches, on_node};
use crate::claim::{Rules, adopters, claim, controller_reference, owner_key, owners_of};
use crate::error::Result;
use crate::events::Recorder;
use crate::expectations::Expectations;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::revisions::{self, History};
use crate::worker::Reconciler;
use crate::{apis, create};

/// The controller.
pub(crate) struct DaemonSets {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    expectations: Expectations,
    /// Nodes on which pods fail.
    failures: Mutex<HashMap<Key, Failures>>,
}

impl DaemonSets {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("daemonset-controller");
        let this = Arc::new(Self {
            client,
            caches,
            events,
            queue: Queue::new(),
            expectations: Expectations::default(),
            failures: Mutex::new(HashMap::new()),
        });
        let own = this.clone();
        this.caches.daemon_sets.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        let own = this.clone();
        this.caches.nodes.on(move |change| own.node_changed(change));
        this
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Key, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        if let Some(owner) = owner_key::<DaemonSet>(&change.object().metadata) {
            self.expectations.observe(&owner, change);
        }
        owners_of::<_, DaemonSet>(change).for_each(|owner| self.queue.add(owner));
        let selector = |set: &DaemonSet| Selector::new(Some(&set.spec.selector));
        let adopters = adopters(change, &self.caches.daemon_sets, selector);
        adopters.into_iter().for_each(|key| self.queue.add(key));
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        let facts = |node: &Node| {
            let spec = node.spec.as_ref();
            (node.metadata.labels.clone(), spec.and_then(|s| s.taints.clone()))
        };
        if let Change::Updated { old, new } = change
            && facts(old) == facts(new)
        {
            return;
        }
        let node = change.object();
        let here = self.caches.pods.indexed(&on_node(pods::name(&node.metadata)));
        let owners: HashSet<Key> =
            here.iter().filter_map(|pod| owner_key::<DaemonSet>(&pod.metadata)).collect();
        let gone = matches!(change, Change::Deleted(_));
        for set in self.caches.daemon_sets.all() {
            let key = Key::of(&set.metadata);
            if gone || planner::concerns(&set, node, owners.contains(&key)) {
                self.queue.add(key);
            }
        }
    }

    async fn carry_out(&self, key: &Key, set: &DaemonSet, hash: &str, plan: &Plan<'_>) -> Result<()> {
        for notice in &plan.notices {
            self.events.notice(set, notice.clone());
        }
        let uids: Vec<String> = plan.delete.iter().map(|pod| pods::uid(&pod.metadata).to_owned()).collect();
        if uids.is_empty() && plan.create.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, plan.create.len(), uids);
        let results = join_all(plan.delete.iter().map(|pod| apis::delete(&self.client, *pod))).await;
        let mut deleted = Ok(());
        for (pod, result) in plan.delete.iter().zip(results) {
            let name = pods::name(&pod.metadata);
            match result {
                Ok(true) => self.events.normal(set, "SuccessfulDelete", format!("Deleted pod: {name}")),
                // Somebody else deleted it, and the event of that may have come before it was expected.
                Ok(false) => self.expectations.deleted(key, pods::uid(&pod.metadata)),
                Err(error) => {
                    self.expectations.deleted(key, pods::uid(&pod.metadata));
                    self.events.warning(set, "FailedDelete", format!("Error deleting: {}", error.said()));
                    deleted = Err(error);
                }
            }
        }
        let template = labelled(set, hash);
        let pods = plan.create.iter().map(|node| pod_for(&template, key, set, node)).collect();
        let (names, result) = create::create_all(&self.client, &key.namespace, pods).await;
        for _ in names.len()..plan.create.len() {
            self.expectations.created(key);
        }
        for name in names {
            self.events.normal(set, "SuccessfulCreate", format!("Created pod: {name}"));
        }
        if let Err(error) = &result {
            self.events.warning(set, "FailedCreate", format!("Error creating: {}", error.said()));
        }
        deleted.and(result)
    }
}

fn labelled(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = set.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(REVISION.to_owned(), hash.to_owned());
    if let Some(generation) = planner::generation(set) {
        labels.insert(planner::GENERATION_LABEL.to_owned(), generation.to_string());
    }
    template
}

/// A pod that only this node can take.
fn pod_for(template: &PodTemplateSpec, key: &Key, set: &DaemonSet, node: &str) -> Pod {
    let mut pod = create::pod(template, &key.namespace, controller_reference(set));
    let Some(spec) = &mut pod.spec else { return pod };
    let named = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    // The node was chosen by the terms of the template already.
    required.node_selector_terms =
        vec![NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![named]) }];
    planner::tolerate(spec);
    pod
}

impl Reconciler for DaemonSets {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(set) = self.caches.daemon_sets.get(key) else {
            self.expectations.forget(key);
            self.failures().remove(key);
            return Ok(None);
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let selector = Selector::new(Some(&set.spec.selector));
        if selector.is_everything() {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.events.warning(&*set, "SelectingAll", text.to_owned());
            return Ok(None);
        }
        // Before the cache is read: what is settled then is in it.
        let settled = self.expectations.met(key);
        let owned = claim(&self.client, &*set, &selector, &self.caches.pods, Rules::PLAIN).await?;
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let revisions =
            revisions::sync(&self.client, &self.caches, &*set, &selector, &set.spec.template, collisions)
                .await?;
        let hash = revisions::hash_of(&revisions.update).to_owned();
        let nodes = self.caches.nodes.all();
        let owned_refs = refs(&owned);
        let failures = self.failures().get(key).cloned().unwrap_or_default();
        let mut plan = planner::plan(Input {
            set: &set,
            nodes: &refs(&nodes),
            owned: &owned_refs,
            hash: &hash,
            settled,
            failures,
            now: clock::now(),
        });
        plan.status.collision_count = revisions.collisions;
        self.failures().insert(key.clone(), std::mem::take(&mut plan.failures));
        let outcome = self.carry_out(key, &set, &hash, &plan).await;
        if set.status.as_ref() != Some(&plan.status) {
            let mut updated = (*set).clone();
            updated.status = Some(plan.status.clone());
            apis::replace_status(&self.client, &self.caches.daemon_sets, &updated).await?;
        }
        outcome?;
        let label = |pod: &&Pod| pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).cloned();
        let used: Vec<String> = owned_refs.iter().filter_map(label).collect();
        let used: Vec<&str> = used.iter().map(String::as_str).collect();
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        revisions::truncate(&self.client, &revisions, &used, History::Past, limit).await?;
        Ok(plan.again_at.map(until))
    }
}
