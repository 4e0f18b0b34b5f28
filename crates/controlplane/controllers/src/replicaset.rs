//! ReplicaSets, and the ReplicationControllers that were before them: as many pods as asked for.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Client, Resource};
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::replicaset::{self as planner, Failure, Plan};
use sampan_planner::selector::Selector;

use crate::cache::{Caches, owned_by};
use crate::claim::{Rules, adopters, claim, controller_reference, owner_key, owners_of};
use crate::error::{Error, Result};
use crate::events::Recorder;
use crate::expectations::Expectations;
use crate::informer::{Change, Informer, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;
use crate::{apis, create};

/// A kind that keeps a number of pods: it plans as a ReplicaSet does.
pub(crate) trait Replicated:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + serde::de::DeserializeOwned
    + serde::Serialize
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// Who its events are from.
    const COMPONENT: &'static str;

    /// Its objects.
    fn cache(caches: &Caches) -> &Arc<Informer<Self>>;

    /// The object as a ReplicaSet.
    fn as_set(&self) -> ReplicaSet;

    /// Takes the status of that ReplicaSet.
    fn put(&mut self, status: ReplicaSetStatus);
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn cache(caches: &Caches) -> &Arc<Informer<Self>> {
        &caches.replica_sets
    }

    fn as_set(&self) -> ReplicaSet {
        self.clone()
    }

    fn put(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn cache(caches: &Caches) -> &Arc<Informer<Self>> {
        &caches.replication_controllers
    }

    fn as_set(&self) -> ReplicaSet {
        let spec = self.spec.clone().unwrap_or_default();
        let old = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: Some(c.status),
            type_: Some(c.type_),
        };
        ReplicaSet {
            metadata: self.metadata.clone(),
            spec: ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
                template: spec.template,
            },
            status: Some(ReplicaSetStatus {
                available_replicas: old.available_replicas,
                conditions: old.conditions.map(|all| all.into_iter().map(condition).collect()),
                fully_labeled_replicas: old.fully_labeled_replicas,
                observed_generation: old.observed_generation,
                ready_replicas: old.ready_replicas,
                replicas: old.replicas,
                terminating_replicas: None,
            }),
        }
    }

    fn put(&mut self, status: ReplicaSetStatus) {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status.unwrap_or_default(),
            type_: c.type_.unwrap_or_default(),
        };
        self.status = Some(ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        });
    }
}

/// The controller.
pub(crate) struct ReplicaSets<K> {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    expectations: Expectations,
    kind: PhantomData<fn() -> K>,
}

impl<K: Replicated> ReplicaSets<K> {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of(K::COMPONENT);
        let this = Arc::new(Self {
            client,
            caches,
            events,
            queue: Queue::new(),
            expectations: Expectations::default(),
            kind: PhantomData,
        });
        let own = this.clone();
        K::cache(&this.caches).on(move |change| own.queue.add(Key::of(change.object().meta())));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        if let Some(owner) = owner_key::<K>(&change.object().metadata) {
            self.expectations.observe(&owner, change);
        }
        owners_of::<_, K>(change).for_each(|owner| self.queue.add(owner));
        let selector = |object: &K| Selector::new(Some(&object.as_set().spec.selector));
        let adopters = adopters(change, K::cache(&self.caches), selector);
        adopters.into_iter().for_each(|key| self.queue.add(key));
    }

    /// The active pods of all ReplicaSets with the same owner.
    fn related(&self, set: &ReplicaSet, owned: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = pods::controller(&set.metadata) else { return owned.to_vec() };
        let siblings = self.caches.replica_sets.indexed(&owned_by(&owner.uid));
        siblings.iter().flat_map(|s| self.caches.pods.indexed(&owned_by(pods::uid(&s.metadata)))).collect()
    }

    async fn adjust(
        &self,
        key: &Key,
        object: &K,
        set: &ReplicaSet,
        owned: &[Arc<Pod>],
    ) -> Result<Option<jiff::Timestamp>, (Failure, Error)> {
        let related = self.related(set, owned);
        let (mine, theirs): (Vec<&Pod>, Vec<&Pod>) = (refs(owned), refs(&related));
        match planner::plan(set.spec.replicas.unwrap_or(1), &mine, &theirs, clock::now()) {
            Plan::Keep => {}
            Plan::Wait(until) => return Ok(Some(until)),
            Plan::Create(count) => self.create(key, object, set, count).await?,
            Plan::Delete(victims) => self.delete(key, object, victims).await?,
        }
        Ok(None)
    }

    async fn create(
        &self,
        key: &Key,
        object: &K,
        set: &ReplicaSet,
        count: usize,
    ) -> Result<(), (Failure, Error)> {
        let template = set.spec.template.clone().unwrap_or_default();
        let pod = create::pod(&template, &key.namespace, controller_reference(object));
        self.expectations.expect(key, count, []);
        let (names, result) = create::create_all(&self.client, &key.namespace, vec![pod; count]).await;
        for _ in names.len()..count {
            self.expectations.created(key);
        }
        for name in names {
            self.events.normal(object, "SuccessfulCreate", format!("Created pod: {name}"));
        }
        result.map_err(|error| {
            self.events.warning(object, "FailedCreate", format!("Error creating: {}", error.said()));
            (Failure { reason: "FailedCreate", message: error.said() }, error)
        })
    }

    async fn delete(&self, key: &Key, object: &K, victims: Vec<&Pod>) -> Result<(), (Failure, Error)> {
        let uids = victims.iter().map(|pod| pods::uid(&pod.metadata).to_owned());
        self.expectations.expect(key, 0, uids);
        let deletions = victims.iter().map(|pod| apis::delete(&self.client, *pod));
        let mut failure = None;
        for (pod, result) in victims.iter().zip(join_all(deletions).await) {
            let name = pods::name(&pod.metadata);
            match result {
                Ok(true) => self.events.normal(object, "SuccessfulDelete", format!("Deleted pod: {name}")),
                // Somebody else deleted it, and the event of that may have come before it was expected.
                Ok(false) => self.expectations.deleted(key, pods::uid(&pod.metadata)),
                Err(error) => {
                    self.expectations.deleted(key, pods::uid(&pod.metadata));
                    self.events.warning(object, "FailedDelete", format!("Error deleting: {}", error.said()));
                    failure = Some((Failure { reason: "FailedDelete", message: error.said() }, error));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The objects behind shared references.
pub(crate) fn refs<K>(objects: &[Arc<K>]) -> Vec<&K> {
    objects.iter().map(AsRef::as_ref).collect()
}

/// How long until a moment.
pub(crate) fn until(at: jiff::Timestamp) -> Duration {
    let left = at.duration_since(clock::now());
    // A moment later, lest the clock of the timer be ahead.
    Duration::try_from(left).unwrap_or_default() + Duration::from_millis(5)
}

impl<K: Replicated> Reconciler for ReplicaSets<K> {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(object) = K::cache(&self.caches).get(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let set = object.as_set();
        let selector = Selector::new(Some(&set.spec.selector));
        // Before the cache is read: what is settled then is in it.
        let settled = self.expectations.met(key);
        let owned = claim(&self.client, &*object, &selector, &self.caches.pods, Rules::PLAIN).await?;
        let mut outcome = Ok(None);
        if set.meta().deletion_timestamp.is_none() && settled {
            outcome = self.adjust(key, &object, &set, &owned).await;
        }
        let (held, failure, error) = match outcome {
            Ok(held) => (held, None, None),
            Err((failure, error)) => (None, Some(failure), Some(error)),
        };
        let now = clock::now();
        let status = planner::status(&set, &refs(&owned), failure, now);
        if set.status.as_ref().is_none_or(|old| !planner::same_status(old, &status)) {
            let mut updated = (*object).clone();
            updated.put(status);
            apis::replace_status(&self.client, K::cache(&self.caches), &updated).await?;
        }
        match error {
            Some(error) => Err(error),
            None => {
                let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
                let available = planner::next_available(&refs(&owned), min_ready, now);
                Ok([held, available].into_iter().flatten().min().map(until))
            }
        }
    }
}
