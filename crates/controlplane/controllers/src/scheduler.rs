//! The scheduler: gives each new pod a node, or says why it cannot.
//!
//! Handlers keep a [`Cluster`] up to date as events come in and wake those pods whom an event helps. One task decides,
//! pod by pod, in memory; several write what was decided while the next pods are decided. A pod counts on its node
//! from the decision on; if binding fails, it is taken off again and tried later.

mod asking;
mod claims;
mod extender;
mod gang;
mod reservations;
mod tenants;
mod write;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use sampan_daemon::{Backoff, Policy, Supervisor};
use sampan_planner::numa::NodeTopology;
use sampan_planner::pods;
use sampan_planner::reservation::{POLICY, RESERVATION};
use sampan_planner::scheduler::config::Config;
use sampan_planner::scheduler::{
    Budget, Candidate, Cluster, Hints, NodeFilter, Placement, PodInfo, Popped, Preemption, Queue,
    Unschedulable, keeps_room,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::cache::Caches;
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::podgroup::PodGroups;
use crate::usage::Usage;
use crate::volumes::Binder;
use claims::Volumes;
use extender::{Extender, Verdict};
use reservations::Book;
use tenants::Asked;

/// So many decisions may wait to be written; deciding pauses then.
const DECIDED: usize = 1024;
/// So many tasks write, each so many things at once.
const WRITERS: usize = 4;
const AT_ONCE: usize = 64;
/// Beside that, for so many pods each of them waits until their volumes are there. More pods back off and try again.
const SETTLING: usize = 1024;

/// The scheduler.
pub(crate) struct Scheduler {
    client: Client,
    /// The scheduler's user knows nothing of our own kinds: how they stand is written as the controllers' user.
    queues_client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    names: Vec<String>,
    state: Mutex<State>,
    changed: Notify,
    volumes: Arc<Binder>,
    extenders: Vec<Extender>,
    /// What writes how tenants' queues stand.
    standing: Asked,
    groups: Arc<PodGroups>,
    book: Book,
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
    Bind { placement: Placement, volumes: Option<Volumes> },
    /// It goes nowhere.
    Refuse { why: String, nomination: Nomination },
    /// Others must leave first.
    Preempt { why: String, plan: Box<Preemption> },
}

/// What comes of looking at the next pod.
enum Step {
    /// There is none.
    Nothing,
    /// It is decided, together with its gang.
    Decided(Vec<(Taken, Decision)>),
    /// Extenders are to be asked.
    Ask(Taken),
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
    hints: Option<Hints>,
    done: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.popped.pod.has_claims() {
            self.scheduler.volumes.release(self.popped.pod.uid());
        }
        if !self.done {
            self.scheduler.give_back(self);
        }
    }
}

impl Scheduler {
    pub fn new(
        config: Config,
        client: Client,
        queues_client: Client,
        caches: Arc<Caches>,
        events: &Recorder,
        usage: &Usage,
    ) -> Arc<Self> {
        let names = config.profiles.iter().map(|p| p.name.clone()).collect();
        let state =
            State { cluster: Cluster::with_profiles(config.profiles), queue: Queue::new(config.patience) };
        let volumes = Binder::new(client.clone(), caches.clone());
        let groups = PodGroups::new(queues_client.clone(), caches.clone());
        let this = Arc::new(Self {
            client,
            queues_client,
            caches,
            events: events.of("default-scheduler"),
            names,
            state: Mutex::new(state),
            changed: Notify::new(),
            volumes,
            extenders: config.extenders.into_iter().map(Extender::new).collect(),
            standing: Asked::default(),
            groups,
            book: Book::default(),
            start: Instant::now(),
        });
        let own = this.clone();
        this.volumes.on_change(move || own.change(|_, _| Hints::VOLUME));
        let own = this.clone();
        this.caches.nodes.on(move |change| own.node_changed(change));
        let own = this.clone();
        this.caches.namespaces.on(move |change| own.namespace_changed(change));
        let own = this.clone();
        this.caches.budgets.on(move |change| own.budget_changed(change));
        if this.lock().cluster.reads_usage() {
            let own = this.clone();
            usage.on(move |look| {
                own.change(|state, _| state.cluster.observe(&look.nodes, look.pods.clone()));
            });
        }
        let own = this.clone();
        this.caches.tenant_queues.on(move |change| own.queue_changed(change));
        let own = this.clone();
        this.caches.topologies.on(move |change| own.topology_changed(change));
        let own = this.clone();
        this.caches.pod_groups.on(move |change| own.group_changed(change));
        let own = this.clone();
        this.caches.reservations.on(move |change| own.reservation_changed(change));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    /// What writes how groups of pods fared.
    pub fn groups(&self) -> Arc<PodGroups> {
        self.groups.clone()
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
        self.follow_seats(&mut state);
        let tenants = state.cluster.tenants().is_some();
        drop(state);
        self.changed.notify_one();
        if tenants {
            self.standing.soon();
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        self.change(|state, _| match change {
            Change::Deleted(node) => {
                state.cluster.remove_node(pods::name(&node.metadata));
                // Domains may have gone with it, and pods of others that nobody wanted near.
                Hints::POD_GONE
            }
            Change::Added(node) | Change::Updated { new: node, .. } => {
                let hints = state.cluster.upsert_node(node);
                if hints.intersects(Hints::NODE_TAINTS) {
                    state.cluster.recall_seats(pods::name(&node.metadata));
                }
                hints
            }
        });
    }

    fn topology_changed(&self, change: &Change<'_, NodeTopology>) {
        let topology = change.object();
        let said = (!matches!(change, Change::Deleted(_))).then_some(&**topology);
        self.change(|state, _| state.cluster.set_topology(pods::name(&topology.metadata), said));
    }

    fn namespace_changed(&self, change: &Change<'_, Namespace>) {
        let namespace = change.object();
        let labels = match change {
            Change::Deleted(_) => None,
            _ => Some(namespace.metadata.labels.clone().unwrap_or_default()),
        };
        self.change(|state, _| state.cluster.set_namespace(pods::name(&namespace.metadata), labels));
    }

    fn budget_changed(&self, change: &Change<'_, PodDisruptionBudget>) {
        let key = Key::of(&change.object().metadata);
        let budget = match change {
            Change::Deleted(_) => None,
            _ => Some(Budget::of(change.object())),
        };
        self.lock().cluster.set_budget(&key.namespace, &key.name, budget);
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let uid = pods::uid(&pod.metadata);
        let gone = matches!(change, Change::Deleted(_));
        self.book.pod_changed(pod);
        self.change(|state, now| {
            if gone || !pods::node_name(pod).is_empty() || !pods::active(pod) {
                state.queue.remove(uid);
                // Room that was kept for it is free, unless it is there now.
                let node = if gone || pods::finished(pod) { "" } else { pods::node_name(pod) };
                let freed = state.cluster.nominated_node(uid).is_some_and(|kept| kept != node);
                state.cluster.withdraw(uid);
                let hints = if gone { state.cluster.remove_pod(uid) } else { state.cluster.upsert_pod(pod) };
                return if freed { hints.union(Hints::POD_GONE) } else { hints };
            }
            // A pod whose binding is under way is counted already and must not be decided again.
            if state.cluster.node_of(uid).is_some() {
                return Hints::none();
            }
            let spec_changed = change.old().is_none_or(|old| {
                let same =
                    |key: &str| pods::annotation(&old.metadata, key) == pods::annotation(&pod.metadata, key);
                old.spec != pod.spec
                    || old.metadata.labels != pod.metadata.labels
                    || !same(RESERVATION)
                    || !same(POLICY)
            });
            let known = state.queue.contains(uid);
            if !self.is_ours(pod) || (known && !spec_changed) {
                return Hints::none();
            }
            let mut info = PodInfo::of(pod);
            state.cluster.intern(&mut info);
            if let Some(node) = info.nominated().map(ToOwned::to_owned)
                && state.cluster.nominated_node(uid).is_none()
            {
                state.cluster.nominate(&info, &node);
            }
            state.queue.put(Arc::new(info), pods::is_gated(pod), now);
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
            match self.decide_one() {
                Step::Nothing => drop(room),
                Step::Ask(taken) => {
                    if let Some(decision) = self.ask(taken).await {
                        room.send(decision);
                    }
                    continue;
                }
                Step::Decided(decisions) => {
                    self.events.give_way();
                    let mut decisions = decisions.into_iter();
                    if let Some(decision) = decisions.next() {
                        room.send(decision);
                    }
                    // The other members of a gang.
                    for decision in decisions {
                        if decided.send(decision).await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
            }
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
    fn decide_one(self: &Arc<Self>) -> Step {
        let mut state = self.lock();
        let step = self.decide_next(&mut state, self.now());
        self.follow_seats(&mut state);
        step
    }

    fn decide_next(self: &Arc<Self>, state: &mut State, now: u64) -> Step {
        let Some(popped) = state.cluster.next(&mut state.queue, now) else { return Step::Nothing };
        if let Some(group) = state.cluster.gang_of(&popped.pod) {
            let members = state.queue.pop_gang(&group, popped);
            let decided = members.map(|members| self.decide_gang(state, &group, members, now));
            return Step::Decided(decided.unwrap_or_default());
        }
        let taken = self.taken(popped, None);
        if self.extenders_of(&taken.popped.pod).next().is_some() {
            return Step::Ask(taken);
        }
        Step::Decided(vec![self.decide_pod(state, taken, &Verdict::default(), now)])
    }

    /// Decides about a pod of which extenders think that.
    fn decide_pod(
        self: &Arc<Self>,
        state: &mut State,
        mut taken: Taken,
        verdict: &Verdict,
        now: u64,
    ) -> (Taken, Decision) {
        let pod = taken.popped.pod.clone();
        let pod = &*pod;
        let claims = match self.claims(&state.cluster, pod) {
            Ok(claims) => claims,
            Err(why) => {
                let why = format!("0/{} nodes are available: {why}.", state.cluster.len());
                taken.hints = Some(Hints::VOLUME.union(Hints::POD_GONE));
                return (taken, Decision::Refuse { why, nomination: Nomination::Keep });
            }
        };
        let extended = self.extenders_of(pod).next().is_some();
        let reached = |node: Candidate<'_>| claims.as_ref().map_or(Ok(()), |c| c.allow(node));
        let allow = |node: Candidate<'_>| reached(node).and_then(|()| verdict.allow(node.name));
        let others = claims.is_some() || extended;
        let filter: Option<NodeFilter<'_>> = if others { Some(&allow) } else { None };
        let bonus = |node: &str| verdict.bonus(node);
        match state.cluster.schedule_scored(pod, seed(pod.uid()), filter, extended.then_some(&bonus)) {
            Ok(placement) => {
                let volumes = claims.and_then(|claims| self.choose(claims, &placement.node));
                self.placed(state, taken, placement, volumes, now)
            }
            Err(unplaced) => {
                let allow = |node: Candidate<'_>| reached(node).and_then(|()| verdict.may_preempt(node.name));
                let filter: Option<NodeFilter<'_>> = if others { Some(&allow) } else { None };
                let decision = refuse(state, pod, &unplaced, filter, now);
                // Nobody knows what makes an extender change its mind, and whether it has.
                let hints = if extended { Hints::EXTENDER } else { Hints::none() };
                taken.hints = Some(unplaced.hints.union(hints));
                (taken, decision)
            }
        }
    }

    fn placed(
        self: &Arc<Self>,
        state: &mut State,
        taken: Taken,
        placement: Placement,
        volumes: Option<Volumes>,
        now: u64,
    ) -> (Taken, Decision) {
        let State { cluster, queue } = &mut *state;
        let pod = &taken.popped.pod;
        let uid = pod.uid();
        let elsewhere = cluster.nominated_node(uid).is_some_and(|kept| *kept != *placement.node);
        if cluster.node_of(uid).is_none() {
            cluster.assume_placed((**pod).clone(), &placement);
        }
        queue.placed(uid, now, |next| cluster.would_fit(next));
        // Others may wait for its company: what the watch says of it later is nothing new. And the room that was kept
        // for it elsewhere is others'.
        let freed = if elsewhere { Hints::POD_GONE } else { Hints::none() };
        let held = if pod.holds().is_some() { Hints::RESERVATION } else { Hints::none() };
        state.wake(Hints::POD_ADDED.union(freed).union(held), now);
        (taken, Decision::Bind { placement, volumes })
    }

    fn taken(self: &Arc<Self>, popped: Popped, hints: Option<Hints>) -> Taken {
        let key = Key::new(popped.pod.namespace(), popped.pod.name());
        Taken { scheduler: self.clone(), key, popped, hints, done: false }
    }

    /// Takes a pod back about which nothing could be written.
    fn give_back(&self, taken: &Taken) {
        let uid = taken.popped.pod.uid();
        let key = &taken.key;
        self.change(|state, now| {
            // Read while nothing else changes, or what the watch says in between would be undone.
            let current = self.caches.pods.get(key);
            let bound = current.as_ref().is_some_and(|pod| !pods::node_name(pod).is_empty());
            // Unless the watch says otherwise meanwhile, the pod is where it was: nowhere.
            let freed = if bound { Hints::none() } else { state.cluster.remove_pod(uid) };
            if let Some(seat) = taken.popped.pod.holds() {
                if state.cluster.seat_waits(seat) {
                    state.queue.put_back(&taken.popped, now)
                } else {
                    drop(state.queue.remove(uid))
                }
            } else if current.is_some_and(|pod| pods::uid(&pod.metadata) == uid && pods::active(&pod))
                && !bound
            {
                state.queue.put_back(&taken.popped, now);
            } else {
                state.queue.remove(uid);
            }
            freed
        });
    }
}

fn refuse(
    state: &mut State,
    pod: &PodInfo,
    unplaced: &Unschedulable,
    filter: Option<NodeFilter<'_>>,
    now: u64,
) -> Decision {
    let mut why = unplaced.to_string();
    if unplaced.nodes == 0 {
        return Decision::Refuse { why, nomination: Nomination::Keep };
    }
    match state.cluster.preempt(pod, seed(pod.uid()), filter) {
        Ok(plan) => {
            promise(state, pod, &plan, now);
            Decision::Preempt { why, plan: Box::new(plan) }
        }
        Err(refusal) => {
            let keep = keeps_room(&refusal);
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

/// Keeps room for the pod on the node that others are asked to leave.
fn promise(state: &mut State, pod: &PodInfo, plan: &Preemption, now: u64) {
    state.cluster.promise(pod, plan);
    state.queue.promised(pod.uid(), now);
    if plan.victims.iter().any(|victim| victim.holds().is_some()) {
        // Room that was merely held is free at once.
        state.queue.note(Hints::POD_GONE);
    }
    plan.displaced.iter().for_each(|displaced| state.queue.again(displaced.uid()));
}

fn seed(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}
