//! The scheduler: gives each new pod a node, or says why it cannot.
//!
//! Handlers keep a [`Cluster`] up to date as events come in and wake those pods whom an event helps. One task decides,
//! pod by pod, in memory; several write what was decided while the next pods are decided. A pod counts on its node
//! from the decision on; if binding fails, it is taken off again and tried later.

mod claims;
mod write;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use sampan_daemon::{Backoff, Policy, Supervisor};
use sampan_planner::pods;
use sampan_planner::scheduler::config::Config;
use sampan_planner::scheduler::{
    Budget, Cluster, GroupName, Hints, NodeFilter, Placement, PodInfo, Popped, Preemption, Queue,
    Unschedulable,
};
use sampan_planner::selector::{Labels, Selector};
use sampan_planner::volumes::placement::Choice;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::cache::Caches;
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::volumes::Binder;

/// So many decisions may wait to be written; deciding pauses then.
const DECIDED: usize = 1024;
/// So many tasks write, each so many things at once.
const WRITERS: usize = 4;
const AT_ONCE: usize = 64;

/// The scheduler.
pub(crate) struct Scheduler {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    names: Vec<String>,
    state: Mutex<State>,
    changed: Notify,
    volumes: Arc<Binder>,
    start: Instant,
}

struct State {
    cluster: Cluster,
    queue: Queue,
}

impl State {
    fn wake(&mut self, hints: Hints, now: u64) {
        if hints != Hints::none() {
            let Self { cluster, queue } = self;
            queue.wake(hints, now, |pod| cluster.would_fit(pod));
        }
    }
}

/// What was decided about a pod.
enum Decision {
    /// It goes to this node.
    Bind { node: String, devices: Vec<u8>, volumes: Option<Box<(Arc<Pod>, Choice)>> },
    /// It goes nowhere.
    Refuse { why: String, nomination: Nomination },
    /// Others must leave first.
    Preempt { why: String, plan: Box<Preemption> },
}

/// What becomes of the node that others were asked to leave for the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nomination {
    Keep,
    Clear,
}

/// A decided pod, until what was decided is written. Dropped before that, it is tried again later.
struct Taken {
    scheduler: Arc<Scheduler>,
    key: Key,
    popped: Popped,
    /// What may help it, when it fits nowhere.
    hints: Hints,
    done: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.done {
            self.scheduler.give_back(self);
        }
    }
}

impl Scheduler {
    pub fn new(config: Config, client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let names = config.profiles.iter().map(|p| p.name.clone()).collect();
        let state =
            State { cluster: Cluster::with_profiles(config.profiles), queue: Queue::new(config.patience) };
        let volumes = Binder::new(client.clone(), caches.clone());
        let this = Arc::new(Self {
            client,
            caches,
            events: events.of("default-scheduler"),
            names,
            state: Mutex::new(state),
            changed: Notify::new(),
            volumes,
            start: Instant::now(),
        });
        let own = this.clone();
        this.volumes.on_change(move || own.change(|_, _| Hints::VOLUME));
        let own = this.clone();
        this.caches.nodes.on(move |change| own.node_changed(change));
        let own = this.clone();
        this.caches.namespaces.on(move |change| own.namespace_changed(change));
        let own = this.clone();
        this.caches.budgets.on(move |_| own.budgets_changed());
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    /// Starts to decide and to write.
    pub fn run(self: &Arc<Self>, supervisor: &Supervisor) {
        let (decided, decisions) = mpsc::channel(DECIDED);
        let decisions = Arc::new(tokio::sync::Mutex::new(decisions));
        let policy = || Policy::Restart(Backoff::default());
        let own = self.clone();
        supervisor.supervise("scheduler", policy(), move || {
            let (own, decided) = (own.clone(), decided.clone());
            async move {
                own.decide_all(decided).await;
                Ok::<(), std::convert::Infallible>(())
            }
        });
        for writer in 0..WRITERS {
            let own = self.clone();
            let decisions = decisions.clone();
            supervisor.supervise(format!("scheduler-writer-{writer}"), policy(), move || {
                let (own, decisions) = (own.clone(), decisions.clone());
                async move {
                    own.write_all(&decisions).await;
                    Ok::<(), std::convert::Infallible>(())
                }
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Changes the state, wakes whom the change helps, and tells the task that decides.
    fn change(&self, change: impl FnOnce(&mut State, u64) -> Hints) {
        let now = self.now();
        let mut state = self.lock();
        let hints = change(&mut state, now);
        state.wake(hints, now);
        drop(state);
        self.changed.notify_one();
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        self.change(|state, _| match change {
            Change::Deleted(node) => {
                state.cluster.remove_node(pods::name(&node.metadata));
                // Domains may have gone with it, and pods of others that nobody wanted near.
                Hints::POD_GONE
            }
            Change::Added(node) | Change::Updated { new: node, .. } => state.cluster.upsert_node(node),
        });
    }

    fn namespace_changed(&self, change: &Change<'_, Namespace>) {
        let namespace = change.object();
        let labels = match change {
            Change::Deleted(_) => None,
            _ => Some(namespace.metadata.labels.clone().unwrap_or_default()),
        };
        if change.old().is_some_and(|old| {
            !matches!(change, Change::Deleted(_)) && old.metadata.labels == namespace.metadata.labels
        }) {
            return;
        }
        self.change(|state, _| {
            state.cluster.set_namespace(pods::name(&namespace.metadata), labels);
            Hints::POD_ADDED.union(Hints::POD_GONE)
        });
    }

    fn budgets_changed(&self) {
        let budgets = self.caches.budgets.all().iter().map(|b| budget(b)).collect();
        self.lock().cluster.set_budgets(budgets);
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let uid = pods::uid(&pod.metadata);
        let gone = matches!(change, Change::Deleted(_));
        self.change(|state, now| {
            if gone || !pods::node_name(pod).is_empty() || !pods::active(pod) {
                state.queue.remove(uid);
                let freed = state.cluster.withdraw(uid);
                let hints = if gone { state.cluster.remove_pod(uid) } else { state.cluster.upsert_pod(pod) };
                return if freed && gone { hints.union(Hints::POD_GONE) } else { hints };
            }
            // A pod whose binding is under way is counted already and must not be decided again.
            if state.cluster.node_of(uid).is_some() {
                return Hints::none();
            }
            let spec_changed = change
                .old()
                .is_none_or(|old| old.spec != pod.spec || old.metadata.labels != pod.metadata.labels);
            let known = state.queue.contains(uid);
            if !self.is_ours(pod) || (known && !spec_changed) {
                return Hints::none();
            }
            let mut info = PodInfo::pending(pod);
            state.cluster.intern(&mut info);
            if let Some(node) = info.nominated().map(ToOwned::to_owned)
                && state.cluster.nominated_node(uid).is_none()
            {
                state.cluster.nominate(&info, &node);
            }
            let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
            state.queue.put(Arc::new(info), gates.is_some_and(|g| !g.is_empty()), now);
            Hints::none()
        });
    }

    /// Whether one of our profiles is to place the pod.
    fn is_ours(&self, pod: &Pod) -> bool {
        let name = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        self.names.iter().any(|own| own == name)
    }

    async fn decide_all(self: &Arc<Self>, decided: mpsc::Sender<(Taken, Decision)>) {
        loop {
            let changed = self.changed.notified();
            // Without room for another decision none is made.
            let Ok(room) = decided.reserve().await else { return };
            let mut decisions = self.decide_one().into_iter();
            if let Some(decision) = decisions.next() {
                room.send(decision);
                // The other members of a gang.
                for decision in decisions {
                    if decided.send(decision).await.is_err() {
                        return;
                    }
                }
                continue;
            }
            drop(room);
            let next = {
                let state = self.lock();
                state.queue.next_time()
            };
            match next {
                None => changed.await,
                Some(at) => {
                    let at = self.start + Duration::from_millis(at);
                    // Which of both it was does not matter: the queue is looked at again.
                    let _ = tokio::time::timeout_at(at, changed).await;
                }
            }
        }
    }

    /// Decides about the next pod, or about the whole gang that it belongs to.
    fn decide_one(self: &Arc<Self>) -> Vec<(Taken, Decision)> {
        let now = self.now();
        let mut state = self.lock();
        let state = &mut *state;
        let Some(popped) = state.queue.pop(now) else { return Vec::new() };
        let pod = &popped.pod;
        if let Some(group) = pod.group().cloned() {
            let mut members = vec![popped];
            members.extend(state.queue.pop_gang(&group));
            return self.decide_gang(state, &group, members, now);
        }
        let claims = match self.claims(&state.cluster, pod) {
            Ok(claims) => claims,
            Err(why) => {
                let why = format!("0/{} nodes are available: {why}.", state.cluster.len());
                let hints = Hints::VOLUME.union(Hints::POD_GONE);
                let decision = Decision::Refuse { why, nomination: Nomination::Keep };
                return vec![(self.taken(popped, hints), decision)];
            }
        };
        let allow = |node: &str, labels: &Labels| claims.as_ref().map_or(Ok(()), |c| c.allow(node, labels));
        let filter: Option<NodeFilter<'_>> = if claims.is_some() { Some(&allow) } else { None };
        let decided = match state.cluster.schedule_filtered(pod, seed(pod.uid()), filter) {
            Ok(placement) => {
                let mut decided = self.placed(state, popped, placement, now);
                if let (Some(claims), Decision::Bind { node, volumes, .. }) = (claims, &mut decided.1) {
                    let choice = self.volumes.choose(&claims.pod, &claims.volumes, node);
                    *volumes = Some(Box::new((claims.pod, choice)));
                }
                decided
            }
            Err(unplaced) => {
                let decision = refuse(state, pod, &unplaced, now);
                (self.taken(popped, unplaced.hints), decision)
            }
        };
        vec![decided]
    }

    fn placed(
        self: &Arc<Self>,
        state: &mut State,
        popped: Popped,
        placement: Placement,
        now: u64,
    ) -> (Taken, Decision) {
        let State { cluster, queue } = state;
        let uid = popped.pod.uid();
        if cluster.node_of(uid).is_none() {
            cluster.assume_placed((*popped.pod).clone(), &placement);
        }
        queue.placed(uid, now, |next| cluster.would_fit(next));
        let decision = Decision::Bind { node: placement.node, devices: placement.devices, volumes: None };
        (self.taken(popped, Hints::none()), decision)
    }

    /// All members that there are, or none.
    fn decide_gang(
        self: &Arc<Self>,
        state: &mut State,
        group: &GroupName,
        members: Vec<Popped>,
        now: u64,
    ) -> Vec<(Taken, Decision)> {
        let pods: Vec<Arc<PodInfo>> = members.iter().map(|m| m.pod.clone()).collect();
        let there =
            u32::try_from(pods.len()).unwrap_or(u32::MAX).saturating_add(state.cluster.placed_of(group));
        let refused = |why: &str| {
            let decision = Decision::Refuse { why: why.to_owned(), nomination: Nomination::Keep };
            move |hints: Hints, member: Popped| (self.taken(member, hints), decision)
        };
        if there < group.min {
            let why =
                format!("pod group {:?} has {there} of {} members that it needs", &*group.name, group.min);
            // A new member takes all of them along.
            return members.into_iter().map(|member| refused(&why)(Hints::NODE_ADDED, member)).collect();
        }
        match state.cluster.schedule_gang(group, &pods, seed(pods[0].uid())) {
            Ok(placements) => members
                .into_iter()
                .zip(placements)
                .map(|(member, placement)| match placement {
                    Some(placement) => self.placed(state, member, placement, now),
                    None => {
                        let why = format!("pod group {:?} is complete without this member", &*group.name);
                        refused(&why)(Hints::POD_GONE.union(Hints::NODE_ADDED), member)
                    }
                })
                .collect(),
            Err(unplaced) => {
                let why = format!("pod group {:?} does not fit as a whole: {unplaced}", &*group.name);
                members.into_iter().map(|member| refused(&why)(unplaced.hints, member)).collect()
            }
        }
    }

    fn taken(self: &Arc<Self>, popped: Popped, hints: Hints) -> Taken {
        let key = Key::new(popped.pod.namespace(), popped.pod.name());
        Taken { scheduler: self.clone(), key, popped, hints, done: false }
    }

    /// Takes a pod back about which nothing could be written.
    fn give_back(&self, taken: &Taken) {
        let uid = taken.popped.pod.uid();
        let key = &taken.key;
        let current = self.caches.pods.get(key);
        let bound = current.as_ref().is_some_and(|pod| !pods::node_name(pod).is_empty());
        self.change(|state, now| {
            // Unless the watch says otherwise meanwhile, the pod is where it was: nowhere.
            let freed = if bound { Hints::none() } else { state.cluster.remove_pod(uid) };
            if current.is_some_and(|pod| pods::uid(&pod.metadata) == uid && pods::active(&pod)) && !bound {
                state.queue.put_back(&taken.popped, now);
            } else {
                state.queue.remove(uid);
            }
            freed
        });
    }
}

fn refuse(state: &mut State, pod: &PodInfo, unplaced: &Unschedulable, now: u64) -> Decision {
    let mut why = unplaced.to_string();
    if unplaced.nodes == 0 {
        return Decision::Refuse { why, nomination: Nomination::Keep };
    }
    match state.cluster.preempt(pod, seed(pod.uid())) {
        Ok(plan) => {
            state.cluster.nominate(pod, &plan.node);
            for displaced in &plan.displaced {
                state.cluster.withdraw(displaced.uid());
                state.queue.again(displaced.uid());
            }
            Decision::Preempt { why, plan: Box::new(plan) }
        }
        Err(refusal) => {
            let keep = refusal.starts_with("not eligible");
            why.push_str(" preemption: ");
            why.push_str(&refusal);
            let nominated = !keep && state.cluster.withdraw(pod.uid());
            if nominated {
                state.wake(Hints::POD_GONE, now);
            }
            let clear = nominated || (!keep && pod.nominated().is_some());
            Decision::Refuse { why, nomination: if clear { Nomination::Clear } else { Nomination::Keep } }
        }
    }
}

fn budget(budget: &PodDisruptionBudget) -> Budget {
    let status = budget.status.as_ref();
    Budget {
        namespace: budget.metadata.namespace.clone().unwrap_or_default(),
        selector: Selector::new(budget.spec.as_ref().and_then(|s| s.selector.as_ref())),
        allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
        disrupted: status
            .and_then(|s| s.disrupted_pods.as_ref())
            .map(|pods| pods.keys().cloned().collect())
            .unwrap_or_default(),
    }
}

fn seed(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}
