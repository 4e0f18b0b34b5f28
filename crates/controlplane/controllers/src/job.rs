//! Jobs: pods that run to their end, and the end of Jobs that have ended for long enough.

mod pod;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::job::{self as planner, Backoff, Plan, Replica, TRACKING};
use sampan_planner::selector::Selector;
use serde_json::json;

use crate::cache::{Caches, owned_by};
use crate::claim::{Rules, adopters, claim, owner_key, owners_of};
use crate::error::{Context, Error, Result, code, gone_is_fine};
use crate::events::Recorder;
use crate::expectations::Expectations;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::worker::Reconciler;
use crate::{apis, create};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
/// Pods that become ready one after the other are told of together.
const BATCH: Duration = Duration::from_millis(500);

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// To bring a Job forward.
    Job(Key),
    /// To let go of a pod that no Job counts any more.
    Orphan(Key),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(key) => write!(f, "{key}"),
            Self::Orphan(key) => write!(f, "pod {key}"),
        }
    }
}

/// The controller.
pub(crate) struct Jobs {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Work>,
    expectations: Expectations,
    /// Failures of late, by the uid of the Job.
    backoffs: Mutex<HashMap<String, Backoff>>,
}

impl Jobs {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("job-controller");
        let this = Arc::new(Self {
            client,
            caches,
            events,
            queue: Queue::new(),
            expectations: Expectations::default(),
            backoffs: Mutex::new(HashMap::new()),
        });
        let own = this.clone();
        this.caches.jobs.on(move |change| own.job_changed(change));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    fn backoffs(&self) -> MutexGuard<'_, HashMap<String, Backoff>> {
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job_changed(&self, change: &Change<'_, Job>) {
        let meta = &change.object().metadata;
        if matches!(change, Change::Deleted(_)) {
            let uid = pods::uid(meta);
            self.backoffs().remove(uid);
            // Nobody counts its pods any more, so nothing may hold them.
            self.caches.pods.indexed(&owned_by(uid)).iter().for_each(|pod| self.note_orphan(pod));
        }
        self.queue.add(Work::Job(Key::of(meta)));
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && self.is_orphan(pod) {
            self.note_orphan(pod);
        }
        if let Some(owner) = owner_key::<Job>(&pod.metadata) {
            self.expectations.observe(&owner, change);
            if only_became_ready(change) {
                return self.queue.add_after(Work::Job(owner), BATCH);
            }
        }
        owners_of::<_, Job>(change).for_each(|owner| self.queue.add(Work::Job(owner)));
        let adopters = adopters(change, &self.caches.jobs, selector);
        adopters.into_iter().for_each(|key| self.queue.add(Work::Job(key)));
    }

    fn note_orphan(&self, pod: &Pod) {
        if planner::is_tracked(pod) {
            self.queue.add(Work::Orphan(Key::of(&pod.metadata)));
        }
    }

    /// Whether no Job will ever count the pod.
    fn is_orphan(&self, pod: &Pod) -> bool {
        let Some(controller) = pods::controller(&pod.metadata) else { return true };
        let Some(owner) = owner_key::<Job>(&pod.metadata) else { return false };
        match self.caches.jobs.get(&owner) {
            Some(job) if pods::uid(&job.metadata) == controller.uid => {
                !is_foreign(&job) && planner::ended_as(&job).is_some()
            }
            _ => true,
        }
    }

    async fn release_one(&self, pod: &Pod) -> Result<()> {
        let key = Key::of(&pod.metadata);
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]},
        });
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        let result = match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(released) => {
                // The next step must not take it for one that is still to be counted.
                self.caches.pods.absorb(released);
                Ok(())
            }
            // It is gone, or a namesake took its place.
            Err(error) if code(&error) == 422 => Ok(()),
            Err(error) => gone_is_fine(Err::<(), _>(error)),
        };
        result.during(|| format!("releasing pod {key}"))
    }

    /// Carries out a step as far as it goes; what failed is corrected in the status.
    async fn carry_out(&self, key: &Key, job: &Job, plan: Plan<'_>) -> Result<()> {
        let uids: Vec<String> = plan.excess.iter().map(|pod| pods::uid(&pod.metadata).to_owned()).collect();
        if !uids.is_empty() || !plan.create.is_empty() {
            self.expectations.expect(key, plan.create.len(), uids);
        }
        let excess = self.delete(key, job, &plan.excess, true).await;
        let killed = self.delete(key, job, &plan.kill, false).await;
        let created = self.create(key, job, &plan.create).await;
        let left = excess.0 + killed.0;
        if let Some(mut status) = plan.status {
            let correct = |number: &mut Option<i32>, by: i32| *number = number.map(|n| (n + by).max(0));
            correct(&mut status.active, left - created.0);
            correct(&mut status.terminating, -left);
            let mut updated = job.clone();
            updated.status = Some(status);
            apis::replace_status(&self.client, &self.caches.jobs, &updated).await?;
        }
        for notice in plan.notices {
            self.events.notice(job, notice);
        }
        self.backoffs().insert(pods::uid(&job.metadata).to_owned(), plan.backoff);
        try_join_all(plan.release.iter().map(|pod| self.release_one(pod))).await?;
        excess.1.and(killed.1).and(created.1)
    }

    /// How many pods could not be deleted, and why.
    async fn delete(&self, key: &Key, job: &Job, victims: &[&Pod], release: bool) -> (i32, Result<()>) {
        let one = |pod| async move {
            if release && planner::is_tracked(pod) {
                self.release_one(pod).await?;
            }
            apis::delete(&self.client, pod).await
        };
        let results = join_all(victims.iter().map(|pod| one(*pod))).await;
        let mut outcome = (0, Ok(()));
        for (pod, result) in victims.iter().zip(results) {
            let name = pods::name(&pod.metadata);
            match result {
                Ok(true) => self.events.normal(job, "SuccessfulDelete", format!("Deleted pod: {name}")),
                // Somebody else deleted it, and the event of that may have come before it was expected.
                Ok(false) => self.expectations.deleted(key, pods::uid(&pod.metadata)),
                Err(error) => {
                    self.expectations.deleted(key, pods::uid(&pod.metadata));
                    self.events.warning(job, "FailedDelete", format!("Error deleting: {}", error.said()));
                    outcome = (outcome.0 + 1, Err(error));
                }
            }
        }
        outcome
    }

    /// How many pods could not be created, and why.
    async fn create(&self, key: &Key, job: &Job, replicas: &[Replica]) -> (i32, Result<()>) {
        let pods: Vec<Pod> = replicas.iter().map(|replica| pod::new(job, &key.namespace, *replica)).collect();
        let (names, result) = create::create_all(&self.client, &key.namespace, pods).await;
        let missing = replicas.len() - names.len();
        (0..missing).for_each(|_| self.expectations.created(key));
        for name in names {
            self.events.normal(job, "SuccessfulCreate", format!("Created pod: {name}"));
        }
        if let Err(error) = &result {
            self.events.warning(job, "FailedCreate", format!("Error creating: {}", error.said()));
        }
        (i32::try_from(missing).unwrap_or(i32::MAX), result)
    }

    /// Deletes a Job that has ended for as long as it wanted to be kept; how long it is still to be kept.
    async fn expire(&self, key: &Key, job: &Job) -> Result<Option<Duration>> {
        let Some(left) = remaining(job).filter(|_| job.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // Only as it was looked at: it may have been given more time.
        let preconditions = Preconditions {
            uid: job.metadata.uid.clone(),
            resource_version: job.metadata.resource_version.clone(),
        };
        let params = DeleteParams::foreground().preconditions(preconditions);
        let api = apis::namespaced::<Job>(&self.client, &key.namespace);
        let result = gone_is_fine(api.delete(&key.name, &params).await);
        result.during(|| format!("deleting Job {key}, whose time to live is over"))?;
        Ok(None)
    }

    async fn reconcile_job(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(job) = self.caches.jobs.get(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let kept = self.expire(key, &job).await?;
        if is_foreign(&job) {
            return Ok(kept);
        }
        // Before the cache is read: what is settled then is in it.
        let settled = self.expectations.met(key);
        let rules = Rules { finalizer: Some(TRACKING), ..Rules::PLAIN };
        let owned = claim(&self.client, &*job, &selector(&job), &self.caches.pods, rules).await?;
        let backoff = self.backoffs().get(pods::uid(&job.metadata)).copied();
        let plan = planner::plan(&job, &refs(&owned), settled, backoff, clock::now());
        let again = plan.again_at.map(until);
        self.carry_out(key, &job, plan).await?;
        Ok(kept.or(again))
    }

    async fn reconcile_orphan(&self, key: &Key) -> Result<()> {
        match self.caches.pods.get(key) {
            Some(pod) if planner::is_tracked(&pod) && self.is_orphan(&pod) => self.release_one(&pod).await,
            _ => Ok(()),
        }
    }
}

/// Whether somebody else runs the Job.
fn is_foreign(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
    manager.is_some_and(|by| by != "kubernetes.io/job-controller")
}

/// Whether nothing happened to the pod but that it came further.
fn only_became_ready(change: &Change<'_, Pod>) -> bool {
    let Change::Updated { old, new } = change else { return false };
    let facts = |pod: &Pod| {
        let meta = &pod.metadata;
        (meta.labels.clone(), meta.owner_references.clone(), meta.finalizers.clone())
    };
    pods::active(old) && pods::active(new) && facts(old) == facts(new) && !restarted(old, new)
}

fn restarted(old: &Pod, new: &Pod) -> bool {
    pods::most_restarts(old) != pods::most_restarts(new)
}

/// The selector of a Job; one that the API server did not fill in is made of its uid.
fn selector(job: &Job) -> Selector {
    let given = job.spec.as_ref().and_then(|s| s.selector.as_ref());
    let uid = pods::uid(&job.metadata).to_owned();
    let own = LabelSelector {
        match_labels: Some([(CONTROLLER_UID.to_owned(), uid)].into()),
        match_expressions: None,
    };
    Selector::new(Some(given.unwrap_or(&own)))
}

/// How long a Job that has ended is still kept, when it says so.
fn remaining(job: &Job) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = planner::finished_at(job)?.checked_add(jiff::SignedDuration::from_secs(seconds.into())).ok()?;
    Some(if end <= clock::now() { Duration::ZERO } else { until(end) })
}

impl Reconciler for Jobs {
    type Key = Work;

    fn queue(&self) -> &Queue<Work> {
        &self.queue
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, Error> {
        match work {
            Work::Job(key) => self.reconcile_job(key).await,
            Work::Orphan(key) => self.reconcile_orphan(key).await.map(|()| None),
        }
    }
}
