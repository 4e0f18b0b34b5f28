//! The scheduler: gives each new pod a node, or says why it cannot.
//!
//! Handlers keep a [`Cluster`] up to date as events come in. One pod is decided at a time, in memory; its binding
//! is written while the next is decided. A pod that fits nowhere waits until something happens that may help it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::PostParams;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::scheduler::{Cluster, Hints, PodInfo, Unschedulable};
use sampan_planner::volumes::placement::Choice;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::apis;
use crate::cache::Caches;
use crate::error::{Context, Result};
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::volumes::Binder;
use crate::worker::Reconciler;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod that waits is looked at again after this long, whatever happened.
const LEFTOVER: Duration = Duration::from_secs(300);

/// The scheduler.
pub(crate) struct Scheduler {
    name: String,
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    state: Mutex<State>,
    volumes: Arc<Binder>,
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    waiting: HashMap<Key, Waiting>,
}

/// A pod that fits nowhere.
struct Waiting {
    hints: Hints,
    attempts: u32,
    since: Instant,
    /// It has claims, so that volumes may be what it lacks.
    claims: bool,
}

impl Waiting {
    fn backoff(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let delay = FIRST_BACKOFF.saturating_mul(factor).min(LAST_BACKOFF);
        delay.saturating_sub(self.since.elapsed())
    }
}

impl Scheduler {
    pub fn new(name: String, client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let state = Mutex::new(State::default());
        let events = events.of("default-scheduler");
        let volumes = Binder::new(client.clone(), caches.clone());
        let this = Arc::new(Self { name, client, caches, events, queue: Queue::new(), state, volumes });
        let own = this.clone();
        this.volumes.on_change(move || own.wake_for_volumes());
        let own = this.clone();
        this.caches.nodes.on(move |change| own.node_changed(change));
        let own = this.clone();
        this.caches.namespaces.on(move |change| own.namespace_changed(change));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        let mut state = self.lock();
        let hints = match change {
            Change::Deleted(node) => {
                state.cluster.remove_node(pods::name(&node.metadata));
                Hints::none()
            }
            Change::Added(node) | Change::Updated { new: node, .. } => state.cluster.upsert_node(node),
        };
        self.wake(&state, hints);
    }

    fn namespace_changed(&self, change: &Change<'_, Namespace>) {
        let namespace = change.object();
        let labels = match change {
            Change::Deleted(_) => None,
            _ => Some(namespace.metadata.labels.clone().unwrap_or_default()),
        };
        let mut state = self.lock();
        state.cluster.set_namespace(pods::name(&namespace.metadata), labels);
        self.wake(&state, Hints::POD_ADDED);
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let (key, uid) = (Key::of(&pod.metadata), pods::uid(&pod.metadata));
        let mut state = self.lock();
        if matches!(change, Change::Deleted(_)) {
            state.waiting.remove(&key);
            let hints = state.cluster.remove_pod(uid);
            return self.wake(&state, hints);
        }
        if !pods::node_name(pod).is_empty() {
            state.waiting.remove(&key);
            let hints = state.cluster.upsert_pod(pod);
            return self.wake(&state, hints);
        }
        // A pod whose binding is under way is counted already and must not be decided again.
        let ours = self.is_ours(pod) && state.cluster.node_of(uid).is_none();
        let spec_changed = change.old().is_none_or(|old| {
            old.spec != pod.spec || old.metadata.labels != pod.metadata.labels || !self.is_ours(old)
        });
        if ours && spec_changed {
            state.waiting.remove(&key);
            self.queue.add(key);
        }
    }

    /// Whether the pod is for this scheduler to place, now.
    fn is_ours(&self, pod: &Pod) -> bool {
        let spec = pod.spec.as_ref();
        let name = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
        name == self.name && !gated && pods::active(pod)
    }

    /// Lets those waiting try again whom this may help.
    fn wake(&self, state: &State, hints: Hints) {
        if hints == Hints::none() {
            return;
        }
        for (key, waiting) in state.waiting.iter().filter(|(_, w)| w.hints.intersects(hints)) {
            self.queue.add_after(key.clone(), waiting.backoff());
        }
    }

    fn wake_for_volumes(&self) {
        let state = self.lock();
        for (key, waiting) in state.waiting.iter().filter(|(_, w)| w.claims) {
            self.queue.add_after(key.clone(), waiting.backoff());
        }
    }

    fn decide(&self, key: &Key, pod: &Pod) -> Result<(String, Choice), (Unschedulable, Duration)> {
        // Locked before anything is looked at: what changes from here on wakes the pod once it waits.
        let mut state = self.lock();
        let volumes = self.volumes.look(pod);
        let claims = !matches!(volumes, Ok(None));
        let placed = volumes.map_err(|unready| unready.0).and_then(|volumes| match volumes {
            None => Ok((PodInfo::pending(pod), None)),
            Some(volumes) => Ok((PodInfo::pending(&self.volumes.confined(pod, &volumes)?), Some(volumes))),
        });
        let placed = match placed {
            Ok((info, volumes)) => {
                let placed = state.cluster.schedule(&info, seed(pods::uid(&pod.metadata)));
                placed.map(|placement| (info, volumes, placement.node))
            }
            Err(reason) => {
                let nodes = state.cluster.len();
                let reasons = [(reason.into(), nodes)].into();
                Err(Unschedulable { nodes, reasons, hints: Hints::NODE_ADDED.union(Hints::NODE_LABELS) })
            }
        };
        match placed {
            Ok((info, volumes, node)) => {
                state.waiting.remove(key);
                state.cluster.assume(info, &node);
                let choice = volumes.map(|volumes| self.volumes.choose(pod, &volumes, &node));
                Ok((node, choice.unwrap_or_default()))
            }
            Err(unplaced) => {
                let attempts = state.waiting.get(key).map_or(0, |w| w.attempts) + 1;
                let waiting = Waiting { hints: unplaced.hints, attempts, since: Instant::now(), claims };
                state.waiting.insert(key.clone(), waiting);
                Err((unplaced, LEFTOVER))
            }
        }
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> Result<()> {
        let binding = Binding {
            metadata: ObjectMeta {
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        let bound = api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await;
        bound.map(|_: Value| ()).during(|| format!("binding pod {key} to node {node}"))?;
        let text = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
        self.events.normal(pod, "Scheduled", text);
        Ok(())
    }

    async fn refuse(&self, key: &Key, pod: &Pod, unplaced: &Unschedulable) -> Result<()> {
        let message = unplaced.to_string();
        self.events.warning(pod, "FailedScheduling", message.clone());
        let current = pods::condition(pod, "PodScheduled");
        let same = |c: &&k8s_openapi::api::core::v1::PodCondition| {
            c.status == "False"
                && c.reason.as_deref() == Some("Unschedulable")
                && c.message.as_ref() == Some(&message)
        };
        if current.as_ref().is_some_and(same) {
            return Ok(());
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        });
        if current.is_none_or(|c| c.status != "False") {
            condition["lastTransitionTime"] = clock::rfc3339(clock::now()).into();
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        apis::patch_status::<Pod>(&self.client, key, &patch).await
    }
}

fn seed(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

impl Reconciler for Scheduler {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.caches.pods.get(key) else { return Ok(None) };
        let uid = pods::uid(&pod.metadata);
        let assumed = self.lock().cluster.node_of(uid).is_some();
        if assumed || !pods::node_name(&pod).is_empty() || !self.is_ours(&pod) {
            return Ok(None);
        }
        match self.decide(key, &pod) {
            Ok((node, choice)) => {
                let mut bound = self.volumes.prebind(&pod, &node, &choice).await;
                self.volumes.release(&pod);
                if bound.is_ok() {
                    bound = self.bind(key, &pod, &node).await;
                }
                if bound.is_err() {
                    // Unless the watch says otherwise meanwhile, the pod is where it was: nowhere.
                    let now = self.caches.pods.get(key);
                    if now.is_none_or(|now| pods::node_name(&now).is_empty()) {
                        self.lock().cluster.remove_pod(uid);
                    }
                }
                bound.map(|()| None)
            }
            Err((unplaced, again)) => {
                self.refuse(key, &pod, &unplaced).await?;
                Ok(Some(again))
            }
        }
    }
}
