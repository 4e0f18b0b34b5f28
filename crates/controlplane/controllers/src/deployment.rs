//! Deployments: rollouts of ReplicaSets.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::PostParams;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::rollout::deployment::{self as planner, Change as SetChange, Plan};
use sampan_planner::rollout::hash;
use sampan_planner::selector::Selector;
use serde_json::{Value, json};

use crate::apis;
use crate::cache::{Caches, owned_by};
use crate::claim::{Rules, adopters, claim, owner_key, owners_of};
use crate::error::{Context, Result, code, namespace_ends};
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::worker::Reconciler;

/// The controller.
pub(crate) struct Deployments {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
}

impl Deployments {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let this = Arc::new(Self {
            client,
            caches,
            events: events.of("deployment-controller"),
            queue: Queue::new(),
        });
        let own = this.clone();
        this.caches.deployments.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.replica_sets.on(move |change| own.set_changed(change));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    fn set_changed(&self, change: &Change<'_, ReplicaSet>) {
        owners_of::<_, Deployment>(change).for_each(|owner| self.queue.add(owner));
        let selector = |deployment: &Deployment| Selector::new(Some(&deployment.spec.selector));
        let adopters = adopters(change, &self.caches.deployments, selector);
        adopters.into_iter().for_each(|key| self.queue.add(key));
    }

    /// The last pod of the old generation lets a Recreate go on.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && !pods::finished(pod) {
            return;
        }
        let set = owner_key::<ReplicaSet>(&pod.metadata).and_then(|key| self.caches.replica_sets.get(&key));
        let Some(owner) = set.and_then(|set| owner_key::<Deployment>(&set.metadata)) else { return };
        let deployment = self.caches.deployments.get(&owner);
        if deployment.is_some_and(|d| recreates(&d)) {
            self.queue.add(owner);
        }
    }

    fn pods_of(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<Arc<Pod>> {
        if !recreates(deployment) {
            return Vec::new();
        }
        sets.iter().flat_map(|s| self.caches.pods.indexed(&owned_by(pods::uid(&s.metadata)))).collect()
    }

    async fn carry_out(&self, key: &Key, deployment: &Deployment, plan: Plan) -> Result<()> {
        if let Some(set) = &plan.create
            && !self.create(key, deployment, set).await?
        {
            // A namesake with another template: the next hash will differ.
            return Ok(());
        }
        for change in &plan.changes {
            self.change(key, change).await?;
        }
        for name in &plan.delete {
            let old = self.caches.replica_sets.get(&Key::new(&key.namespace, name));
            if let Some(old) = old {
                apis::delete(&self.client, &*old).await?;
            }
        }
        for notice in plan.notices {
            self.events.notice(deployment, notice);
        }
        let mut current = deployment.clone();
        if let Some(revision) = plan.revision {
            let patch = json!({"metadata": {
                "resourceVersion": current.metadata.resource_version,
                "annotations": {planner::REVISION: revision},
            }});
            // Annotations are written with the status: an old set of them would undo the new one.
            current = apis::merge(&self.client, &self.caches.deployments, key, &patch).await?;
        }
        if let Some(mut status) = plan.status {
            // The annotation alone has raised the generation.
            if status.observed_generation == deployment.metadata.generation && current.spec == deployment.spec
            {
                status.observed_generation = current.metadata.generation;
            }
            current.status = Some(status);
            apis::replace_status(&self.client, &self.caches.deployments, &current).await?;
        }
        Ok(())
    }

    /// Creates a ReplicaSet; false when its name is taken by one with another template.
    async fn create(&self, key: &Key, deployment: &Deployment, set: &ReplicaSet) -> Result<bool> {
        let api = apis::namespaced::<ReplicaSet>(&self.client, &key.namespace);
        let name = pods::name(&set.metadata);
        match api.create(&PostParams::default(), set).await {
            Ok(_) => Ok(true),
            Err(error) if code(&error) == 409 => {
                let existing = api.get_opt(name).await.during(|| format!("reading ReplicaSet {name}"))?;
                let ours = existing.is_some_and(|existing| {
                    let owner = pods::controller(&existing.metadata).map(|o| o.uid.as_str());
                    let templates = existing.spec.template.as_ref().zip(set.spec.template.as_ref());
                    owner == deployment.metadata.uid.as_deref()
                        && templates.is_some_and(|(a, b)| hash::equal_ignoring_hash(a, b))
                });
                if !ours {
                    let mut status = deployment.status.clone().unwrap_or_default();
                    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                    let mut current = deployment.clone();
                    current.status = Some(status);
                    apis::replace_status(&self.client, &self.caches.deployments, &current).await?;
                }
                Ok(ours)
            }
            // Nothing comes of trying again.
            Err(error) if namespace_ends(&error) => Ok(false),
            Err(error) => {
                let error =
                    Err::<(), _>(error).during(|| format!("creating ReplicaSet {}/{name}", key.namespace));
                if let Err(error) = &error {
                    self.create_failed(deployment, name, &error.said()).await?;
                }
                error.map(|()| false)
            }
        }
    }

    /// Tells that the new ReplicaSet cannot be had.
    async fn create_failed(&self, deployment: &Deployment, name: &str, why: &str) -> Result<()> {
        let text = format!("Failed to create new replica set \"{name}\": {why}");
        if let Some(status) = planner::create_failed(deployment, &text, clock::now()) {
            let mut current = deployment.clone();
            current.status = Some(status);
            apis::replace_status(&self.client, &self.caches.deployments, &current).await?;
        }
        self.events.warning(deployment, planner::CREATE_FAILED, text);
        Ok(())
    }

    /// Goes back to an earlier revision: a change of the Deployment, which is then rolled out as any other.
    async fn roll_back(&self, deployment: &Deployment, rollback: planner::Rollback) -> Result<()> {
        let mut changed = deployment.clone();
        match rollback.to {
            Some((template, annotations)) => {
                changed.spec.template = template;
                changed.metadata.annotations = Some(annotations);
            }
            None => {
                changed.metadata.annotations.get_or_insert_default().remove(planner::ROLLBACK_TO);
            }
        }
        let key = Key::of(&deployment.metadata);
        let api = apis::namespaced::<Deployment>(&self.client, &key.namespace);
        let result = api.replace(&key.name, &PostParams::default(), &changed).await;
        self.caches.deployments.absorb(result.during(|| format!("rolling back Deployment {key}"))?);
        self.events.notice(deployment, rollback.notice);
        Ok(())
    }

    async fn change(&self, key: &Key, change: &SetChange) -> Result<()> {
        let mut patch = json!({"metadata": {"resourceVersion": change.resource_version}});
        if !change.annotations.is_empty() {
            patch["metadata"]["annotations"] = json!(change.annotations);
        }
        if let Some(replicas) = change.replicas {
            patch["spec"]["replicas"] = Value::from(replicas);
        }
        if let Some(seconds) = change.min_ready_seconds {
            patch["spec"]["minReadySeconds"] = Value::from(seconds);
        }
        let target = Key::new(&key.namespace, &change.name);
        apis::merge(&self.client, &self.caches.replica_sets, &target, &patch).await.map(drop)
    }
}

fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

impl Reconciler for Deployments {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(deployment) = self.caches.deployments.get(key) else { return Ok(None) };
        let selector = Selector::new(Some(&deployment.spec.selector));
        if selector.is_everything() {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.warning(&*deployment, "SelectingAll", text.to_owned());
            let mut seen = (*deployment).clone();
            let status = seen.status.get_or_insert_default();
            if status.observed_generation < deployment.metadata.generation {
                status.observed_generation = deployment.metadata.generation;
                apis::replace_status(&self.client, &self.caches.deployments, &seen).await?;
            }
            return Ok(None);
        }
        let sets =
            claim(&self.client, &*deployment, &selector, &self.caches.replica_sets, Rules::PLAIN).await?;
        let going = deployment.metadata.deletion_timestamp.is_some() || deployment.spec.paused == Some(true);
        if let Some(rollback) = planner::rollback(&deployment, &refs(&sets)).filter(|_| !going) {
            self.roll_back(&deployment, rollback).await?;
            return Ok(None);
        }
        let pods = self.pods_of(&deployment, &sets);
        let plan = planner::plan(&deployment, &refs(&sets), &refs(&pods), clock::now());
        let again = plan.again_at.map(until);
        self.carry_out(key, &deployment, plan).await?;
        Ok(again)
    }
}
