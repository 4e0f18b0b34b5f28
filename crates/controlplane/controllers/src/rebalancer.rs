//! Moves pods to where they run better, a few at a time, for as long as it is switched on.
//!
//! Each round plans over what the caches hold, with the bounds that are left of the minute, and carries the moves out one
//! by one through the Eviction API, which keeps to disruption budgets. The scheduler then places what is made anew.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint};
use kube::Client;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, Preconditions};
use sampan_daemon::{Backoff, Policy, Supervisor, clock};
use sampan_planner::pods;
use sampan_planner::rebalance::{Aim, Bounds, Move, Pace, Snapshot, may_move};
use sampan_planner::scheduler::Profile;
use serde_json::json;

use crate::apis;
use crate::cache::Caches;
use crate::error::{Context, Result, code};
use crate::events::Recorder;
use crate::informer::Key;
use crate::usage::{Look, Usage};

/// How long a pod may take to leave before the next one is asked to.
const LEAVE_BOUND: Duration = Duration::from_secs(120);
/// The taint of nodes that are being emptied: the scheduler takes them last.
pub(crate) const EMPTYING: &str = "sampan.io/emptying";
/// Pods that must stay are remembered up to so many.
const REMEMBERED: usize = 10_000;

/// How pods are moved.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebalance {
    /// What for; the first aim that finds anything has the round.
    pub aims: Vec<Aim>,
    /// How often it is looked at.
    pub every: Duration,
    /// Moves a minute at most.
    pub per_minute: usize,
    /// For so long a pod that has just started stays, and pods of an owner after one of them was moved.
    pub cool_down: Duration,
    /// Bounds of a plan.
    pub bounds: Bounds,
}

impl Rebalance {
    /// Once a minute, five moves, ten minutes of rest.
    pub fn new(aims: Vec<Aim>) -> Self {
        Self {
            aims,
            every: Duration::from_secs(60),
            per_minute: 5,
            cool_down: Duration::from_secs(600),
            bounds: Bounds { per_owner: 1, ..Bounds::default() },
        }
    }
}

/// The rebalancer.
pub(crate) struct Rebalancer {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    profiles: Vec<Profile>,
    settings: Rebalance,
    look: Mutex<Option<Arc<Look>>>,
    memory: tokio::sync::Mutex<Memory>,
}

struct Memory {
    pace: Pace,
    /// Pods that turned out not to be movable: what says so is not in the caches.
    stay: HashSet<String>,
}

impl Rebalancer {
    pub fn new(
        client: Client,
        caches: Arc<Caches>,
        events: &Recorder,
        (settings, profiles): (Rebalance, Vec<Profile>),
        usage: &Usage,
    ) -> Arc<Self> {
        let rest = i64::try_from(settings.cool_down.as_secs()).unwrap_or(i64::MAX);
        let memory = Memory { pace: Pace::new(settings.per_minute, rest), stay: HashSet::new() };
        let by_use = settings.aims.contains(&Aim::Cool) || profiles.iter().any(Profile::reads_usage);
        let this = Arc::new(Self {
            client,
            caches,
            events: events.of("sampan-rebalancer"),
            profiles,
            settings,
            look: Mutex::default(),
            memory: tokio::sync::Mutex::new(memory),
        });
        if by_use {
            let own = this.clone();
            usage.on(move |look| {
                *own.look.lock().unwrap_or_else(PoisonError::into_inner) = Some(look.clone());
            });
        }
        this
    }

    pub fn run(self: &Arc<Self>, supervisor: &Supervisor) {
        let own = self.clone();
        supervisor.supervise("rebalancer", Policy::Restart(Backoff::default()), move || {
            let own = own.clone();
            async move {
                let mut timer = tokio::time::interval(own.settings.every);
                timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                own.work(timer).await;
                Ok::<(), std::convert::Infallible>(())
            }
        });
    }

    async fn work(&self, mut timer: tokio::time::Interval) {
        loop {
            timer.tick().await;
            self.round().await;
        }
    }

    fn snapshot(&self) -> Snapshot {
        let namespaces = self.caches.namespaces.all();
        let (nodes, pods) = (self.caches.nodes.all(), self.caches.pods.all());
        let budgets = self.caches.budgets.all();
        let budgets: Vec<_> = budgets.iter().map(|budget| &**budget).collect();
        let mut snapshot = Snapshot::new(
            self.profiles.clone(),
            namespaces.iter().map(|namespace| &**namespace),
            nodes.iter().map(|node| &**node),
            pods.iter().map(|pod| &**pod),
            &budgets,
        );
        self.caches.pod_groups.all().iter().for_each(|group| snapshot.group(group));
        self.caches.reservations.all().iter().for_each(|held| snapshot.reserve(held));
        let look = self.look.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(look) = look {
            snapshot.observe(&look.nodes, look.pods.clone());
        }
        snapshot
    }

    async fn round(&self) {
        let mut memory = self.memory.lock().await;
        let now = clock::now().as_second();
        let allowance = memory.pace.allowance(now);
        if allowance == 0 {
            return;
        }
        let mut snapshot = self.snapshot();
        if !memory.stay.is_empty() {
            let known: HashSet<&str> = snapshot.movable().map(|pod| pod.uid.as_str()).collect();
            memory.stay.retain(|uid| known.contains(uid.as_str()));
        }
        let settled = i64::try_from(self.settings.cool_down.as_secs()).unwrap_or(i64::MAX);
        for aim in &self.settings.aims {
            // A node is emptied wholly or not at all, be it in several rounds: each pod of it leaves once.
            let wholly = *aim == Aim::Empty;
            snapshot.hold(|pod| {
                if memory.stay.contains(&pod.uid) {
                    return Some("something on its node would be lost");
                }
                let rests = !wholly && !memory.pace.is_rested(&pod.owner, now);
                rests.then_some("a pod of its owner was moved a short time ago")
            });
            let mut bounds = Bounds { settled, now, ..self.settings.bounds };
            if wholly {
                bounds.per_owner = usize::MAX;
            } else {
                bounds.moves = bounds.moves.min(allowance);
            }
            let plan = snapshot.plan(*aim, bounds);
            if wholly {
                self.mark(&plan.emptied).await;
            }
            if plan.moves.is_empty() {
                continue;
            }
            for step in plan.moves.iter().take(allowance) {
                let movable = snapshot.movable().find(|pod| pod.uid == step.uid);
                let owner = movable.map(|pod| pod.owner.clone()).unwrap_or_default();
                match self.carry_out(step, &mut memory.stay).await {
                    Ok(true) => memory.pace.made(&owner, clock::now().as_second()),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(pod = step.pod, "stays on {}: {error}", step.from);
                        // Whatever stands in its way stands there for a while.
                        memory.pace.made(&owner, clock::now().as_second());
                    }
                }
            }
            return;
        }
    }

    /// Has the pod leave; false when it is not to be moved, or not there any more.
    async fn carry_out(&self, step: &Move, stay: &mut HashSet<String>) -> Result<bool> {
        let key = Key::new(&step.namespace, &step.pod);
        let api = apis::namespaced::<Pod>(&self.client, &step.namespace);
        let pod = api.get_opt(&step.pod).await.during(|| format!("reading Pod {key}"))?;
        let Some(pod) = pod.filter(|pod| pods::uid(&pod.metadata) == step.uid) else { return Ok(false) };
        if !may_move(&pod) {
            if stay.len() < REMEMBERED {
                stay.insert(step.uid.clone());
            }
            return Ok(false);
        }
        let preconditions = Preconditions { uid: Some(step.uid.clone()), resource_version: None };
        let delete_options =
            Some(DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() });
        let params = EvictParams { delete_options, ..EvictParams::default() };
        api.evict(&step.pod, &params).await.during(|| format!("evicting Pod {key}"))?;
        let text = step.words();
        self.events.normal(&pod, "Rebalanced", text.clone());
        if let Some(owner) = pods::controller(&pod.metadata) {
            let about = ObjectReference {
                api_version: Some(owner.api_version.clone()),
                kind: Some(owner.kind.clone()),
                namespace: Some(step.namespace.clone()),
                name: Some(owner.name.clone()),
                uid: Some(owner.uid.clone()),
                ..ObjectReference::default()
            };
            self.events.tell(about, "Rebalanced", format!("Pod {}: {text}", step.pod));
        }
        let gone = kube::runtime::wait::conditions::is_deleted(&step.uid);
        let left = kube::runtime::wait::await_condition(api, &step.pod, gone);
        // One that takes longer goes on leaving; others may follow.
        let _ = tokio::time::timeout(LEAVE_BOUND, left).await;
        Ok(true)
    }

    /// Has the scheduler take nodes last that are being emptied or are empty, and as any other those that are in use.
    async fn mark(&self, emptied: &[String]) {
        for node in self.caches.nodes.all() {
            let name = pods::name(&node.metadata);
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            let marked = taints.clone().any(|taint| taint.key == EMPTYING);
            let wanted = emptied.iter().any(|emptied| emptied == name) || !self.is_in_use(name);
            if marked == wanted {
                continue;
            }
            let mut taints: Vec<Taint> = taints.filter(|taint| taint.key != EMPTYING).cloned().collect();
            if wanted {
                taints.push(Taint {
                    key: EMPTYING.to_owned(),
                    effect: "PreferNoSchedule".to_owned(),
                    ..Taint::default()
                });
            }
            // Against the version that was read: what others write meanwhile is not undone.
            let patch = Patch::Merge(json!({
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            }));
            let api = apis::cluster::<Node>(&self.client);
            if let Err(error) = api.patch(name, &PatchParams::default(), &patch).await
                && code(&error) != 409
            {
                tracing::warn!(node = name, "the taint {EMPTYING} cannot be changed: {error}");
            }
        }
    }

    /// Whether pods run there that could run elsewhere.
    fn is_in_use(&self, node: &str) -> bool {
        let here = self.caches.pods.indexed(&crate::cache::on_node(node));
        here.iter().any(|pod| {
            pods::active(pod) && pods::controller(&pod.metadata).is_none_or(|owner| owner.kind != "DaemonSet")
        })
    }
}
