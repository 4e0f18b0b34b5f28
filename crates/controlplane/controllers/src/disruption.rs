//! PodDisruptionBudgets: their status, by which evictions are allowed or refused.

mod scale;
mod stale;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use sampan_daemon::clock;
use sampan_planner::disruption::{self as planner, Basis};
use sampan_planner::pods;
use sampan_planner::selector::Selector;

use self::scale::{Scales, Unknown};
pub(crate) use self::stale::StaleMarks;
use crate::apis;
use crate::cache::Caches;
use crate::error::Result;
use crate::events::Recorder;
use crate::informer::{Change, Key, of_namespace};
use crate::queue::Queue;
use crate::replicaset::{refs, until};
use crate::worker::Reconciler;

/// The controller.
pub(crate) struct Budgets {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    scales: Scales,
}

/// The pods that there should be, and those that nobody controls.
struct Expected {
    count: i32,
    unmanaged: bool,
}

impl Budgets {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("controllermanager");
        let scales = Scales::new(client.clone());
        let this = Arc::new(Self { client, caches, events, queue: Queue::new(), scales });
        let own = this.clone();
        this.caches.budgets.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        let own = this.clone();
        this.caches.deployments.on(move |change| own.scaled(change.object().metadata.namespace.as_deref()));
        let own = this.clone();
        this.caches.replica_sets.on(move |change| own.scaled(change.object().metadata.namespace.as_deref()));
        let own = this.clone();
        this.caches.stateful_sets.on(move |change| own.scaled(change.object().metadata.namespace.as_deref()));
        let own = this.clone();
        let controllers = &this.caches.replication_controllers;
        controllers.on(move |change| own.scaled(change.object().metadata.namespace.as_deref()));
        this
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
        for budget in self.caches.budgets.in_namespace(namespace) {
            let selector = selector_of(&budget);
            let now = selector.matches(change.object().metadata.labels.as_ref());
            let before = change.old().is_some_and(|old| selector.matches(old.metadata.labels.as_ref()));
            if now || before {
                self.queue.add(Key::of(&budget.metadata));
            }
        }
    }

    /// What a controller wants has changed: budgets by percentage follow.
    fn scaled(&self, namespace: Option<&str>) {
        for budget in self.caches.budgets.in_namespace(namespace.unwrap_or_default()) {
            if planner::basis(&budget) == Basis::Scale {
                self.queue.add(Key::of(&budget.metadata));
            }
        }
    }

    async fn expected(
        &self,
        budget: &PodDisruptionBudget,
        selected: &[Arc<Pod>],
    ) -> Result<Expected, Unknown> {
        if planner::basis(budget) == Basis::Pods {
            let count = i32::try_from(selected.len()).unwrap_or(i32::MAX);
            return Ok(Expected { count, unmanaged: false });
        }
        // By the owner of the pods: what decides how many there are, and how many that are.
        let mut known: HashMap<&str, (String, i32)> = HashMap::new();
        let mut unmanaged = false;
        for pod in selected {
            let Some(owner) = pods::controller(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if known.contains_key(owner.uid.as_str()) {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let scale = match self.scale(namespace, owner) {
                Some(scale) => Some(scale),
                None => self.scales.of(namespace, owner).await?.map(|scale| (owner.uid.clone(), scale)),
            };
            let name = pods::name(&pod.metadata);
            let scale =
                scale.ok_or_else(|| Unknown::For(format!("found no controllers for pod \"{name}\"")))?;
            known.insert(&owner.uid, scale);
        }
        let scales: BTreeMap<&String, i32> = known.values().map(|(uid, scale)| (uid, *scale)).collect();
        Ok(Expected { count: scales.values().fold(0, |sum, scale| sum.saturating_add(*scale)), unmanaged })
    }

    /// Who decides how many pods the owner has, and how many it wants; only for kinds that are cached.
    fn scale(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let key = Key::new(namespace, &owner.name);
        let itself = |meta: &ObjectMeta, uid: &str| pods::uid(meta) == uid;
        match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let set =
                    self.caches.replica_sets.get(&key).filter(|set| itself(&set.metadata, &owner.uid))?;
                let deployment = pods::controller(&set.metadata).filter(|up| up.kind == "Deployment");
                if let Some(up) = deployment {
                    let deployment = self.caches.deployments.get(&Key::new(namespace, &up.name))?;
                    let replicas = deployment.spec.replicas.unwrap_or(1);
                    return itself(&deployment.metadata, &up.uid).then(|| (up.uid.clone(), replicas));
                }
                Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
            }
            ("apps", "StatefulSet") => {
                let set =
                    self.caches.stateful_sets.get(&key).filter(|set| itself(&set.metadata, &owner.uid))?;
                Some((owner.uid.clone(), set.spec.replicas.unwrap_or(1)))
            }
            ("", "ReplicationController") => {
                let controller = self.caches.replication_controllers.get(&key);
                let controller = controller.filter(|rc| itself(&rc.metadata, &owner.uid))?;
                Some((owner.uid.clone(), controller.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }
}

/// Which pods the budget is about: none without a selector.
fn selector_of(budget: &PodDisruptionBudget) -> Selector {
    match budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
        Some(selector) => Selector::new(Some(selector)),
        None => Selector::nothing(),
    }
}

impl Reconciler for Budgets {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(budget) = self.caches.budgets.get(key) else { return Ok(None) };
        let selector = selector_of(&budget);
        let selected =
            self.caches.pods.selected(&of_namespace(&key.namespace), |labels| selector.matches(labels));
        if selected.is_empty() {
            self.events.normal(&*budget, "NoPods", "No matching pods found".to_owned());
        }
        let now = clock::now();
        for pod in planner::not_deleted(&budget, &refs(&selected), now) {
            let text = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.events.warning(pod, "NotDeleted", text);
        }
        let mut outcome = Ok(());
        let (status, again) = match self.expected(&budget, &selected).await {
            Ok(expected) => {
                if expected.unmanaged {
                    self.warn_of_unmanaged(&budget);
                }
                planner::status(&budget, &refs(&selected), expected.count, now)
            }
            Err(unknown) => {
                let why = match unknown {
                    Unknown::For(why) => why,
                    Unknown::Now(error) => {
                        let why = error.said();
                        outcome = Err(error);
                        why
                    }
                };
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.events.warning(&*budget, "CalculateExpectedPodCountFailed", message);
                (planner::failed(&budget, &why, now), None)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let mut updated = (*budget).clone();
            updated.status = Some(status);
            apis::replace_status(&self.client, &self.caches.budgets, &updated).await?;
        }
        outcome.map(|()| again.map(until))
    }
}

impl Budgets {
    fn warn_of_unmanaged(&self, budget: &PodDisruptionBudget) {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let labels = selector.and_then(|s| s.match_labels.as_ref());
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {labels:?}) were found to be unmanaged. As a \
             result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. \
             To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
        );
        self.events.warning(budget, "UnmanagedPods", message);
    }
}
