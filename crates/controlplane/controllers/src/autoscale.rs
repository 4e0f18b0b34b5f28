//! HorizontalPodAutoscalers: sizes that follow what is measured.
//!
//! Each autoscaler is looked at when its spec changes and once in a period. A look reads the scale of the target, any
//! kind that has one; then, if the size is within its limits, the metrics, from whoever serves their APIs; asks the
//! planner; and writes scale and status. What cannot be read or written is said in a condition and an Event, and tried
//! again in the next period: one that fails holds up nobody else.

mod metrics;
mod target;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use sampan_api::selector::LabelSelector;
use sampan_daemon::clock;
use sampan_planner::autoscaler::{self as planner, Course, History, Plan, Settings, Snapshot};
use sampan_planner::pods;

use crate::apis;
use crate::cache::Caches;
use crate::error::Result;
use crate::events::Recorder;
use crate::informer::{Change, Key, of_namespace};
use crate::queue::Queue;
use crate::replicaset::refs;
use crate::worker::Reconciler;
use metrics::Metrics;
use target::{Target, Targets};

/// The controller.
pub(crate) struct Autoscalers {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    settings: Settings,
    targets: Targets,
    metrics: Metrics,
    known: Mutex<HashMap<Key, Known>>,
}

/// What is remembered of an autoscaler.
#[derive(Default)]
struct Known {
    uid: String,
    history: History,
    /// Which pods its target had when it was last looked at.
    selector: Option<LabelSelector>,
}

impl Autoscalers {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder, settings: Settings) -> Arc<Self> {
        let this = Arc::new(Self {
            targets: Targets::new(client.clone()),
            metrics: Metrics::new(client.clone()),
            client,
            caches,
            events: events.of("horizontal-pod-autoscaler"),
            queue: Queue::new(),
            settings,
            known: Mutex::default(),
        });
        let own = this.clone();
        this.caches.autoscalers.on(move |change| own.changed(change));
        this
    }

    fn changed(&self, change: &Change<'_, HorizontalPodAutoscaler>) {
        let key = Key::of(&change.object().metadata);
        match change {
            Change::Added(_) => self.queue.add(key),
            // Of its own status nobody needs to be told.
            Change::Updated { old, new } if old.spec == new.spec => {}
            Change::Updated { .. } => self.queue.add(key),
            Change::Deleted(_) => drop(self.known().remove(&key)),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was remembered; of a namesake that went before, nothing.
    fn recall(&self, key: &Key, uid: &str) -> History {
        let mut known = self.known();
        known
            .get_mut(key)
            .filter(|known| known.uid == uid)
            .map(|known| std::mem::take(&mut known.history))
            .unwrap_or_default()
    }

    fn remember(&self, key: &Key, uid: &str, history: History, selector: Option<LabelSelector>) {
        // One that was deleted meanwhile is forgotten.
        if self.caches.autoscalers.get(key).is_some_and(|now| pods::uid(&now.metadata) == uid) {
            self.known().insert(key.clone(), Known { uid: uid.to_owned(), history, selector });
        }
    }

    /// The autoscalers of the namespace that any of the pods belongs to: this one, and those whose targets select one.
    fn owners(&self, key: &Key, pods: &[Arc<Pod>]) -> Vec<String> {
        let known = self.known();
        let others = known.iter().filter(|(other, known)| {
            *other != key
                && other.namespace == key.namespace
                && known.selector.as_ref().is_some_and(|selector| {
                    pods.iter().any(|pod| selects(selector, pod.metadata.labels.as_ref()))
                })
        });
        let mut all: Vec<String> = others.map(|(other, _)| other.to_string()).collect();
        all.push(key.to_string());
        all.sort_unstable();
        all
    }

    fn pods_of(&self, namespace: &str, target: &Target) -> Vec<Arc<Pod>> {
        let Some(selector) = &target.selector else { return Vec::new() };
        self.caches.pods.selected(&of_namespace(namespace), |labels| selects(selector, labels))
    }

    /// Looks at a target that was found, and sets its size.
    async fn decide(
        &self,
        key: &Key,
        autoscaler: &HorizontalPodAutoscaler,
        target: &Target,
        history: &mut History,
    ) -> Plan {
        let pods = self.pods_of(&key.namespace, target);
        let owners = self.owners(key, &pods);
        let readings = match planner::wants(autoscaler, &target.scale) {
            // Metrics of pods that are not this one's alone would mislead.
            Course::Metrics if owners.len() == 1 && target.selector.is_some() => {
                self.metrics.read(autoscaler, &target.query).await
            }
            _ => Vec::new(),
        };
        let pods = refs(&pods);
        let snapshot = Snapshot {
            autoscaler,
            scale: &target.scale,
            pods: &pods,
            owners: &owners,
            readings: &readings,
            settings: &self.settings,
            now: clock::now(),
        };
        let mut plan = planner::plan(&snapshot, history);
        if let Some(rescale) = &plan.rescale {
            let done = self.targets.set(target, rescale.to).await;
            let outcome = done.as_ref().copied().map_err(String::as_str);
            plan.rescaled(&snapshot, history, outcome);
        }
        plan
    }
}

fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    match labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&BTreeMap::new()),
    }
}

impl Reconciler for Autoscalers {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(autoscaler) = self.caches.autoscalers.get(key) else { return Ok(None) };
        let uid = pods::uid(&autoscaler.metadata).to_owned();
        let mut history = self.recall(key, &uid);
        let (plan, selector) =
            match self.targets.find(&key.namespace, &autoscaler.spec.scale_target_ref).await {
                Ok(target) => {
                    let plan = self.decide(key, &autoscaler, &target, &mut history).await;
                    (plan, target.selector)
                }
                Err(why) => (planner::scale_unknown(&autoscaler, &why, clock::now()), None),
            };
        self.remember(key, &uid, history, selector);
        for notice in plan.notices {
            self.events.notice(&*autoscaler, notice);
        }
        if autoscaler.status.as_ref() != Some(&plan.status) {
            let mut updated = (*autoscaler).clone();
            updated.status = Some(plan.status);
            apis::replace_status(&self.client, &self.caches.autoscalers, &updated).await?;
        }
        Ok(Some(Duration::try_from(self.settings.sync).unwrap_or(Duration::from_secs(15))))
    }
}
