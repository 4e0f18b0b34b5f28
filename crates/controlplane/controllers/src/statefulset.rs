//! StatefulSets: pods with stable names and volumes, one after the other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::PostParams;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::failures::Failures;
use sampan_planner::rollout::statefulset::{self as planner, Input, POD_INDEX, POD_NAME, Plan, REVISION};
use sampan_planner::selector::Selector;
use serde_json::json;

use crate::cache::Caches;
use crate::claim::{Rules, adopters, claim, controller_reference, owner_key, owners_of};
use crate::error::{Context, Error, Result, code, namespace_ends};
use crate::events::Recorder;
use crate::expectations::Expectations;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::revisions::{self, History, Revisions};
use crate::worker::Reconciler;
use crate::{apis, create};

/// The controller.
pub(crate) struct StatefulSets {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    expectations: Expectations,
    /// Pods that fail.
    failures: Mutex<HashMap<Key, Failures>>,
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
            failures: Mutex::new(HashMap::new()),
        });
        let own = this.clone();
        this.caches.stateful_sets.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        let own = this.clone();
        this.caches.claims.on(move |change| own.claim_changed(change));
        this
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Key, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        if let Some(owner) = owner_key::<StatefulSet>(&change.object().metadata) {
            self.expectations.observe(&owner, change);
        }
        owners_of::<_, StatefulSet>(change).for_each(|owner| self.queue.add(owner));
        let meta = &change.object().metadata;
        let selector = |set: &StatefulSet| match planner::ordinal(set, meta) {
            Some(_) => Selector::new(Some(&set.spec.selector)),
            None => Selector::nothing(),
        };
        let adopters = adopters(change, &self.caches.stateful_sets, selector);
        adopters.into_iter().for_each(|key| self.queue.add(key));
    }

    /// A claim that is gone may be one that a pod waits for, or one that has to be made anew.
    fn claim_changed(&self, change: &Change<'_, PersistentVolumeClaim>) {
        if !matches!(change, Change::Deleted(_)) {
            return;
        }
        let meta = &change.object().metadata;
        let name = pods::name(meta);
        let Some(ordinal) = name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok()) else {
            return;
        };
        for set in self.caches.stateful_sets.in_namespace(meta.namespace.as_deref().unwrap_or_default()) {
            if planner::claim_names(&set, ordinal).any(|claim| claim == name) {
                self.queue.add(Key::of(&set.metadata));
            }
        }
    }

    fn pod(&self, key: &Key, set: &StatefulSet, revision: &ControllerRevision, ordinal: i32) -> Pod {
        let mut pod = create::pod(&revisions::template(revision), &key.namespace, controller_reference(set));
        let name = format!("{}-{ordinal}", key.name);
        pod.metadata.generate_name = None;
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.to_owned(), name.clone());
        labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
        labels.insert(REVISION.to_owned(), pods::name(&revision.metadata).to_owned());
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(name.clone());
            spec.subdomain = set.spec.service_name.clone().filter(|s| !s.is_empty());
        }
        pod.metadata.name = Some(name);
        planner::mount(set, &mut pod, ordinal);
        pod
    }

    /// Tells how something went with a pod, in the words of upstream.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, result: Result<(), &Error>) {
        let name = pods::name(&set.metadata);
        match result {
            Ok(()) => {
                let text = format!("{verb} Pod {pod} in StatefulSet {name} successful");
                self.events.normal(set, &format!("Successful{verb}"), text);
            }
            Err(error) => {
                let text = format!("{verb} Pod {pod} in StatefulSet {name} failed error: {}", error.said());
                self.events.warning(set, &format!("Failed{verb}"), text);
            }
        }
    }

    /// Creates claims; the ordinals that have to wait because one could not be had.
    async fn create_claims(
        &self,
        key: &Key,
        set: &StatefulSet,
        plan: &Plan<'_>,
    ) -> (HashSet<i32>, Result<()>) {
        let api = apis::namespaced::<PersistentVolumeClaim>(&self.client, &key.namespace);
        let (mut waiting, mut outcome) = (HashSet::new(), Ok(()));
        for (ordinal, claim) in &plan.claims {
            let name = pods::name(&claim.metadata);
            let text = format!("Create Claim {name} Pod {0}-{ordinal} in StatefulSet {0}", key.name);
            match api.create(&PostParams::default(), claim).await {
                Ok(_) => self.events.normal(set, "SuccessfulCreate", format!("{text} success")),
                // The cache does not know it yet.
                Err(error) if code(&error) == 409 => {}
                Err(error) => {
                    waiting.insert(*ordinal);
                    let result: Result<()> = Err(error)
                        .during(|| format!("creating PersistentVolumeClaim {}/{name}", key.namespace));
                    if let Err(error) = &result {
                        let text = format!("{text} failed error: {}", error.said());
                        self.events.warning(set, "FailedCreate", text);
                    }
                    outcome = result;
                }
            }
        }
        (waiting, outcome)
    }

    /// Gives claims their owners and pods their labels.
    async fn repair(&self, key: &Key, set: &StatefulSet, plan: &Plan<'_>) -> Result<()> {
        for ownership in &plan.ownerships {
            let claim = &ownership.claim;
            let target = Key::of(&claim.metadata);
            let patch = json!({"metadata": {
                "uid": claim.metadata.uid,
                "resourceVersion": claim.metadata.resource_version,
                "ownerReferences": ownership.owners,
            }});
            apis::merge(&self.client, &self.caches.claims, &target, &patch).await?;
        }
        for pod in &plan.relabel {
            let name = pods::name(&pod.metadata);
            let index = planner::ordinal(set, &pod.metadata).unwrap_or(0).to_string();
            let patch =
                json!({"metadata": {"uid": pod.metadata.uid, "labels": {POD_NAME: name, POD_INDEX: index}}});
            let result =
                apis::merge(&self.client, &self.caches.pods, &Key::new(&key.namespace, name), &patch).await;
            self.tell(set, "Update", name, result.as_ref().map(|_| ()));
            result?;
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, set: &StatefulSet, victims: &[&Pod]) -> Result<()> {
        let mut outcome = Ok(());
        for pod in victims {
            let name = pods::name(&pod.metadata);
            match apis::delete(&self.client, *pod).await {
                Ok(true) => self.tell(set, "Delete", name, Ok(())),
                // Somebody else deleted it, and the event of that may have come before it was expected.
                Ok(false) => self.expectations.deleted(key, pods::uid(&pod.metadata)),
                Err(error) => {
                    self.expectations.deleted(key, pods::uid(&pod.metadata));
                    self.tell(set, "Delete", name, Err(&error));
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Creates pods in batches of 1, 2, 4, ... until one fails.
    async fn create(&self, key: &Key, set: &StatefulSet, pods: &[Pod]) -> Result<()> {
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        let (params, mut rest, mut batch) = (PostParams::default(), pods, 1);
        let mut outcome = Ok(());
        while !rest.is_empty() && outcome.is_ok() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            let results = join_all(now.iter().map(|pod| api.create(&params, pod))).await;
            for (pod, result) in now.iter().zip(results) {
                let name = pods::name(&pod.metadata);
                let Err(error) = result else {
                    self.tell(set, "Create", name, Ok(()));
                    continue;
                };
                self.expectations.created(key);
                if namespace_ends(&error) {
                    continue;
                }
                let result: Result<()> =
                    Err(error).during(|| format!("creating pod {}/{name}", key.namespace));
                if let Err(error) = &result {
                    self.tell(set, "Create", name, Err(error));
                }
                outcome = result;
            }
            (rest, batch) = (later, batch * 2);
        }
        rest.iter().for_each(|_| self.expectations.created(key));
        outcome
    }

    async fn carry_out(
        &self,
        key: &Key,
        set: &StatefulSet,
        revisions: &Revisions,
        plan: &Plan<'_>,
    ) -> Result<()> {
        let (waiting, claimed) = self.create_claims(key, set, plan).await;
        self.repair(key, set, plan).await?;
        let creations = plan.create.iter().filter(|(ordinal, _)| !waiting.contains(ordinal));
        let pods: Vec<Pod> = creations
            .map(|(ordinal, name)| {
                let named = revisions.all.iter().find(|r| r.metadata.name.as_ref() == Some(name));
                self.pod(key, set, named.unwrap_or(&revisions.update), *ordinal)
            })
            .collect();
        let uids: Vec<String> = plan.delete.iter().map(|pod| pods::uid(&pod.metadata).to_owned()).collect();
        if !uids.is_empty() || !pods.is_empty() {
            self.expectations.expect(key, pods.len(), uids);
        }
        let deleted = self.delete(key, set, &plan.delete).await;
        let created = self.create(key, set, &pods).await;
        claimed.and(deleted).and(created)
    }

    /// What could not be done and has to be tried again.
    fn problem(&self, key: &Key, set: &StatefulSet, plan: &Plan<'_>) -> Result<()> {
        let Some(problem) = plan.problems.first() else { return Ok(()) };
        for problem in &plan.problems {
            self.events.warning(set, "FailedCreate", problem.clone());
        }
        Err(Error::Object { object: format!("StatefulSet {key}"), problem: problem.clone() })
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
            self.failures().remove(key);
            return Ok(None);
        };
        let selector = Selector::new(Some(&set.spec.selector));
        // Before the cache is read: what is settled then is in it.
        let settled = self.expectations.met(key);
        let is_member = |meta: &_| planner::ordinal(&set, meta).is_some();
        let rules = Rules { admits: &is_member, ..Rules::PLAIN };
        let owned = claim(&self.client, &*set, &selector, &self.caches.pods, rules).await?;
        let status = set.status.as_ref();
        let collisions = status.and_then(|s| s.collision_count);
        let revisions =
            revisions::sync(&self.client, &self.caches, &*set, &selector, &set.spec.template, collisions)
                .await?;
        let update = pods::name(&revisions.update.metadata);
        let noted = status.and_then(|s| s.current_revision.as_deref());
        let current =
            noted.filter(|name| revisions.all.iter().any(|r| r.metadata.name.as_deref() == Some(name)));
        let owned_refs = refs(&owned);
        let find = |name: &str| self.caches.claims.get(&Key::new(&key.namespace, name));
        let failures = self.failures().get(key).cloned().unwrap_or_default();
        let mut plan = planner::plan(Input {
            set: &set,
            owned: &owned_refs,
            claim: &find,
            current: current.unwrap_or(update),
            update,
            collisions: revisions.collisions,
            failures,
            now: clock::now(),
        });
        let mut outcome = Ok(());
        if settled {
            self.failures().insert(key.clone(), std::mem::take(&mut plan.failures));
            for notice in &plan.notices {
                self.events.notice(&*set, notice.clone());
            }
            outcome = self.carry_out(key, &set, &revisions, &plan).await;
            outcome = outcome.and(self.problem(key, &set, &plan));
        }
        if set.status.as_ref() != Some(&plan.status) {
            let mut updated = (*set).clone();
            updated.status = Some(plan.status.clone());
            apis::replace_status(&self.client, &self.caches.stateful_sets, &updated).await?;
        }
        outcome?;
        let label = |pod: &&Pod| pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).cloned();
        let used: Vec<String> =
            owned_refs.iter().filter_map(label).chain(current.map(str::to_owned)).collect();
        let used: Vec<&str> = used.iter().map(String::as_str).collect();
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        revisions::truncate(&self.client, &revisions, &used, History::Idle, limit).await?;
        Ok(plan.again_at.map(until))
    }
}
