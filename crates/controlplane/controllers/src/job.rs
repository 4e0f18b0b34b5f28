//! Jobs: pods that run to their end, and the end of Jobs that have ended for long enough.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::api::{Patch, PatchParams};
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::job::{self as planner, INDEX, Plan, TRACKING};
use sampan_planner::selector::Selector;
use serde_json::json;

use crate::cache::Caches;
use crate::claim::{claim, controller_reference, owner_key};
use crate::error::{Context, Result, gone_is_fine};
use crate::events::Recorder;
use crate::expectations::Expectations;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::worker::Reconciler;
use crate::{apis, create};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// The controller.
pub(crate) struct Jobs {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    expectations: Expectations,
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
        });
        let own = this.clone();
        this.caches.jobs.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let meta = &change.object().metadata;
        let Some(owner) = owner_key::<Job>(meta) else { return };
        self.expectations.observe(&owner, change);
        self.queue.add(owner);
    }

    /// The Job is gone: nobody counts its pods any more, so nothing may hold them.
    async fn release_orphans(&self, key: &Key) -> Result<()> {
        let mut left = self.caches.pods.in_namespace(&key.namespace);
        left.retain(|pod| planner::is_tracked(pod) && owner_key::<Job>(&pod.metadata).as_ref() == Some(key));
        self.release(&refs(&left)).await
    }

    async fn release(&self, pods: &[&Pod]) -> Result<()> {
        try_join_all(pods.iter().map(|pod| self.release_one(pod))).await.map(drop)
    }

    async fn release_one(&self, pod: &Pod) -> Result<()> {
        let key = Key::of(&pod.metadata);
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]},
        });
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        let result = api.patch_metadata(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        gone_is_fine(result).during(|| format!("releasing pod {key}"))
    }

    async fn carry_out(&self, key: &Key, job: &Job, plan: Plan<'_>) -> Result<()> {
        if let Some(status) = plan.status {
            let mut updated = job.clone();
            updated.status = Some(status);
            apis::replace_status(&self.client, &self.caches.jobs, &updated).await?;
        }
        for notice in plan.notices {
            self.events.notice(job, notice);
        }
        self.release(&plan.release).await?;
        let uids: Vec<String> = plan.delete.iter().map(|pod| pods::uid(&pod.metadata).to_owned()).collect();
        if !uids.is_empty() || !plan.create.is_empty() {
            self.expectations.expect(key, plan.create.len(), uids);
        }
        self.delete(key, job, &plan.delete).await?;
        self.create(key, job, &plan.create).await
    }

    async fn delete(&self, key: &Key, job: &Job, victims: &[&Pod]) -> Result<()> {
        let results = join_all(victims.iter().map(|pod| apis::delete(&self.client, *pod))).await;
        let mut outcome = Ok(());
        for (pod, result) in victims.iter().zip(results) {
            match result {
                Ok(true) => {
                    let name = pods::name(&pod.metadata);
                    self.events.normal(job, "SuccessfulDelete", format!("Deleted pod: {name}"));
                }
                // Somebody else deleted it, and the event of that may have come before it was expected.
                Ok(false) => self.expectations.deleted(key, pods::uid(&pod.metadata)),
                Err(error) => {
                    self.expectations.deleted(key, pods::uid(&pod.metadata));
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    async fn create(&self, key: &Key, job: &Job, indexes: &[Option<i32>]) -> Result<()> {
        if indexes.is_empty() {
            return Ok(());
        }
        let pods: Vec<Pod> = indexes.iter().map(|index| pod(job, &key.namespace, *index)).collect();
        let (names, result) = create::create_all(&self.client, &key.namespace, pods).await;
        for _ in names.len()..indexes.len() {
            self.expectations.created(key);
        }
        for name in names {
            self.events.normal(job, "SuccessfulCreate", format!("Created pod: {name}"));
        }
        if let Err(error) = &result {
            self.events.warning(job, "FailedCreate", format!("Error creating: {error}"));
        }
        result
    }
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

fn pod(job: &Job, namespace: &str, index: Option<i32>) -> Pod {
    let mut template: PodTemplateSpec = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let name = pods::name(&job.metadata);
    let meta = template.metadata.get_or_insert_default();
    meta.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    let labels = meta.labels.get_or_insert_default();
    let uid = pods::uid(&job.metadata);
    for (key, value) in [(CONTROLLER_UID, uid), (JOB_NAME, name), ("controller-uid", uid), ("job-name", name)]
    {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    if let Some(index) = index {
        labels.insert(INDEX.to_owned(), index.to_string());
        meta.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        index_environment(&mut template, name, index);
    }
    let mut pod = create::pod(&template, namespace, controller_reference(job));
    if let Some(index) = index {
        pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    }
    pod
}

/// Tells containers their index, and gives the pod a host name that others can know.
fn index_environment(template: &mut PodTemplateSpec, name: &str, index: i32) {
    let Some(spec) = &mut template.spec else { return };
    spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
    let variable = EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let variables = container.env.get_or_insert_default();
        if variables.iter().all(|v| v.name != variable.name) {
            variables.push(variable.clone());
        }
    }
}

/// How long a Job that has ended is still kept, when it says so.
fn remaining(job: &Job) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = planner::finished_at(job)?.checked_add(jiff::SignedDuration::from_secs(seconds.into())).ok()?;
    Some(if end <= clock::now() { Duration::ZERO } else { until(end) })
}

impl Reconciler for Jobs {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(job) = self.caches.jobs.get(key) else {
            self.expectations.forget(key);
            self.release_orphans(key).await?;
            return Ok(None);
        };
        let managed_by = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if managed_by.is_some_and(|by| by != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        // Before the cache is read: what is settled then is in it.
        let settled = self.expectations.met(key);
        let owned = claim(&self.client, &*job, &selector(&job), &self.caches.pods).await?;
        let plan = planner::plan(&job, &refs(&owned), settled, clock::now());
        let again = plan.again_at.map(until);
        self.carry_out(key, &job, plan).await?;
        match remaining(&job) {
            Some(Duration::ZERO) if job.metadata.deletion_timestamp.is_none() => {
                apis::delete(&self.client, &*job).await?;
                Ok(None)
            }
            Some(left) => Ok(Some(left)),
            None => Ok(again),
        }
    }
}
