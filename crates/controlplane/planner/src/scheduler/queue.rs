//! Which pod is decided next: the most important first, then the one that waits longest.
//!
//! A pod is *active* (to be decided now), *backing off* after failures, *waiting* for something that may help it,
//! or *gated*. A member of a gang is *parked* while others of it are being written about: they are decided together
//! or not at all. Pods of the same shape wait together, if they name no nodes or the same: whatever happens, at most the
//! first of them is looked at, and it is woken when it would fit; when it was placed, the next one is looked at. So a
//! backlog of any length costs next to nothing. When it would not fit, but nodes became others since it was refused, it is
//! decided again after its back-off: the reasons are others now, and perhaps there is somebody who can be made to leave.
//!
//! Pods of tenants with queues of their own are in lanes: who asks for the next pod says which lane has its turn. Pods
//! outside all lanes come first.
//!
//! What happens while a pod is decided, or while the decision is written, is remembered: a pod that was refused is
//! looked at again at once when something happened meanwhile that may help it.
//!
//! Times are milliseconds of a clock that the caller has and that never goes back.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::pod::{GroupName, PodInfo, Shape};
use super::reasons::Hints;
use super::resources::Resources;
use crate::fairness::Lane;

/// When a pod is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After its first failure.
    pub first_backoff: u64,
    /// After many of them.
    pub last_backoff: u64,
    /// A pod that waits is tried again after this long, whatever happened.
    pub leftover: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first_backoff: 1_000, last_backoff: 10_000, leftover: 300_000 }
    }
}

/// No way in which pods were ever sorted.
const OUTDATED: u64 = u64::MAX;

/// After these a pod that still fits nowhere is refused for other reasons, or may make others leave where that helped
/// nothing before. What pods do is not among them: they come and go all the time.
const OTHER_REASONS: Hints = Hints::NODE_ADDED
    .union(Hints::NODE_ALLOCATABLE)
    .union(Hints::NODE_LABELS)
    .union(Hints::NODE_TAINTS)
    .union(Hints::VOLUME)
    .union(Hints::NAMESPACE);

/// The order of pods that wait for the same.
type Order = (Reverse<i32>, u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    /// Until then.
    BackingOff {
        until: u64,
    },
    Waiting {
        since: u64,
    },
    Gated,
    /// To be decided when all members of its gang are back.
    Parked,
    /// Taken out to be decided or bound.
    Taken,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    state: State,
    order: Order,
    attempts: u32,
    hints: Hints,
    /// The last thing that had happened when it was taken out.
    seen: u64,
    /// How pods were sorted into lanes then.
    generation: u64,
}

/// Pods of one kind that wait.
#[derive(Debug)]
struct Group {
    shape: Arc<Shape>,
    hints: Hints,
    pods: BTreeMap<Order, Box<str>>,
}

/// The members of a gang that are not placed.
#[derive(Debug, Default)]
struct Gang {
    members: Ordered,
    /// How many of them are.
    parked: usize,
}

/// A pod to decide.
#[derive(Debug, Clone)]
pub struct Popped {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried, this time included.
    pub attempts: u32,
}

/// Uids in their order.
type Ordered = BTreeMap<Order, Box<str>>;

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    patience: Patience,
    entries: HashMap<Box<str>, Entry>,
    /// To be decided, outside all lanes.
    active: Ordered,
    /// To be decided, by lane; none is empty.
    lanes: BTreeMap<Lane, Ordered>,
    /// How many pods of each lane are not placed, those that are gated left out, and what they ask for.
    tallies: HashMap<Lane, (usize, Resources)>,
    /// By which order the lanes are.
    generation: u64,
    backoff: BTreeSet<(u64, Order, Box<str>)>,
    /// Each keeps its shape alive.
    groups: HashMap<Kind, Group>,
    leftovers: BTreeSet<(u64, Box<str>)>,
    gangs: HashMap<(Box<str>, Box<str>), Gang>,
    serial: u64,
    happened: Happened,
}

/// When something of each kind happened last. Times are numbers that grow with each event.
#[derive(Debug, Default)]
struct Happened {
    now: u64,
    last: [u64; Hints::KINDS],
}

impl Happened {
    fn note(&mut self, hints: Hints) {
        self.now += 1;
        hints.kinds().for_each(|kind| self.last[kind] = self.now);
    }

    /// What happened after that.
    fn since(&self, seen: u64) -> Hints {
        let later = (0..Hints::KINDS).filter(|kind| self.last[*kind] > seen);
        later.fold(Hints::none(), |all, kind| all.union(Hints::of_kind(kind)))
    }
}

/// Pods of one kind wait together: the address of their shape, and the only nodes that they may go to.
type Kind = (usize, Option<Box<[Box<str>]>>);

fn kind(pod: &PodInfo) -> Kind {
    (Arc::as_ptr(&pod.shape) as usize, pod.only.clone())
}

impl Queue {
    /// An empty queue.
    pub fn new(patience: Patience) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Adds a pod, or takes over what changed about one; then it is tried at once. Its shape should be interned.
    pub fn put(&mut self, pod: Arc<PodInfo>, gated: bool, now: u64) {
        let uid = pod.uid.clone();
        let (order, attempts) = match self.entries.get(&uid) {
            Some(known) => ((Reverse(pod.shape.priority), known.order.1, known.order.2), known.attempts),
            None => {
                self.serial += 1;
                ((Reverse(pod.shape.priority), now, self.serial), 0)
            }
        };
        self.tally(&uid, false);
        self.leave(&uid);
        self.quit_gang(&uid);
        if let Some(group) = &pod.shape.group {
            self.happened.note(Hints::MEMBER);
            let gang = self.gangs.entry((group.namespace.clone(), group.name.clone())).or_default();
            gang.members.insert(order, uid.clone());
        }
        let state = if gated { State::Gated } else { State::Active };
        let entry =
            Entry { pod, state: State::Taken, order, attempts, hints: Hints::none(), seen: 0, generation: 0 };
        self.entries.insert(uid.clone(), entry);
        self.enter(&uid, state);
        self.tally(&uid, true);
    }

    /// Whether the pod is known here.
    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// Forgets a pod: it is gone, or bound.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.tally(uid, false);
        self.leave(uid);
        self.quit_gang(uid);
        self.entries.remove(uid).map(|e| e.pod)
    }

    fn quit_gang(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        let Some(group) = entry.pod.shape.group.clone() else { return };
        let key = (group.namespace, group.name);
        if let Some(gang) = self.gangs.get_mut(&key) {
            gang.members.remove(&entry.order);
            if gang.members.is_empty() {
                self.gangs.remove(&key);
            }
        }
        self.meet(&key);
    }

    /// Takes out every member of a gang that is not gated, the one that was taken already and then the most important
    /// first; or none, when about some of them it is still being written what was decided: all are decided when those
    /// are back.
    pub fn pop_gang(&mut self, group: &GroupName, first: Popped) -> Option<Vec<Popped>> {
        let gang = self.gangs.get(&(group.namespace.clone(), group.name.clone()));
        let members = gang.into_iter().flat_map(|gang| gang.members.values());
        let others = members.filter(|uid| **uid != first.pod.uid);
        let others: Vec<(Box<str>, State)> =
            others.filter_map(|uid| Some((uid.clone(), self.entries.get(uid)?.state))).collect();
        if others.iter().any(|(_, state)| *state == State::Taken) {
            if let Some(entry) = self.entries.get_mut(&first.pod.uid) {
                entry.attempts = entry.attempts.saturating_sub(1);
            }
            self.enter(&first.pod.uid, State::Parked);
            return None;
        }
        let mut popped = vec![first];
        for (uid, state) in others {
            if state != State::Gated {
                popped.extend(self.take(&uid));
            }
        }
        Some(popped)
    }

    /// When nothing is being written about members of a gang any more, those that are parked are decided.
    fn meet(&mut self, gang: &(Box<str>, Box<str>)) {
        let Some(gang) = self.gangs.get(gang).filter(|gang| gang.parked > 0) else { return };
        let states = gang.members.values().filter_map(|uid| Some((uid, self.entries.get(uid)?.state)));
        let mut parked = Vec::with_capacity(gang.parked);
        for (uid, state) in states {
            match state {
                State::Taken => return,
                State::Parked => parked.push(uid.clone()),
                _ => {}
            }
        }
        for uid in parked {
            self.leave(&uid);
            self.enter(&uid, State::Active);
        }
    }

    /// Room is being made for a pod: it need not wait long to see whether it is there, and the next one of its shape may
    /// have as much luck.
    pub fn promised(&mut self, uid: &str, now: u64) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.attempts = 1;
        let order = entry.order;
        let Some(group) = self.groups.get(&kind(&entry.pod)) else { return };
        if let Some((_, next)) = group.pods.range(order..).next() {
            self.reconsider(&next.clone(), now);
        }
    }

    /// Something changed about a gang: all its members are tried again.
    pub fn again_gang(&mut self, namespace: &str, name: &str) {
        let members = self.gangs.get(&(namespace.into(), name.into()));
        let members: Vec<Box<str>> =
            members.into_iter().flat_map(|gang| gang.members.values().cloned()).collect();
        for uid in members {
            let Some(entry) = self.entries.get_mut(&uid) else { continue };
            match entry.state {
                // What is being written about it is out of date already.
                State::Taken => entry.generation = OUTDATED,
                State::Waiting { .. } => {
                    self.leave(&uid);
                    self.enter(&uid, State::Active);
                }
                _ => {}
            }
        }
    }

    /// Takes a pod out to be decided.
    fn take(&mut self, uid: &str) -> Option<Popped> {
        self.leave(uid);
        let entry = self.entries.get_mut(uid)?;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.seen = self.happened.now;
        entry.generation = self.generation;
        Some(Popped { pod: entry.pod.clone(), attempts: entry.attempts })
    }

    /// How many pods are to be decided, backing off, waiting, and gated.
    pub fn counts(&self) -> (usize, usize, usize, usize) {
        let waiting = self.groups.values().map(|g| g.pods.len()).sum();
        let gated = self.entries.values().filter(|e| e.state == State::Gated).count();
        let active = self.active.len() + self.lanes.values().map(BTreeMap::len).sum::<usize>();
        (active, self.backoff.len(), waiting, gated)
    }

    /// The pod to decide next.
    pub fn pop(&mut self, now: u64) -> Option<Popped> {
        self.pop_by(now, |a, b| a.cmp(&b))
    }

    /// The pod to decide next, of the lane that comes first in that order.
    pub fn pop_by(&mut self, now: u64, order: impl Fn(Lane, Lane) -> Ordering) -> Option<Popped> {
        self.ripen(now);
        let first = match self.active.first_key_value() {
            Some((_, uid)) => uid,
            None => {
                let lane = self.lanes.keys().copied().min_by(|a, b| order(*a, *b))?;
                self.lanes.get(&lane)?.first_key_value()?.1
            }
        };
        let uid = first.clone();
        self.take(&uid)
    }

    /// By which order of lanes pods were sorted last.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Sorts all pods into lanes anew. Those that waited are tried again.
    pub fn sort(&mut self, generation: u64, lane_of: impl Fn(&PodInfo) -> Lane) {
        self.generation = generation;
        for uid in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.tally(&uid, false);
            let state = self.entries.get(&uid).map_or(State::Taken, |e| e.state);
            self.leave(&uid);
            if let Some(entry) = self.entries.get_mut(&uid) {
                let lane = lane_of(&entry.pod);
                if entry.pod.lane != lane {
                    Arc::make_mut(&mut entry.pod).lane = lane;
                }
            }
            self.enter(&uid, if matches!(state, State::Waiting { .. }) { State::Active } else { state });
            self.tally(&uid, true);
        }
    }

    /// How many pods of a lane are not placed, and what they ask for.
    pub fn waiting_in(&self, lane: Lane) -> (usize, Resources) {
        self.tallies.get(&lane).cloned().unwrap_or_default()
    }

    fn tally(&mut self, uid: &str, add: bool) {
        let Some(entry) = self.entries.get(uid).filter(|e| e.pod.lane != 0 && e.state != State::Gated) else {
            return;
        };
        let (count, wanted) = self.tallies.entry(entry.pod.lane).or_default();
        if add {
            *count += 1;
            wanted.add(&entry.pod.shape.requests);
        } else {
            *count = count.saturating_sub(1);
            wanted.sub(&entry.pod.shape.requests);
            if *count == 0 {
                self.tallies.remove(&entry.pod.lane);
            }
        }
    }

    /// When something is to be done without anything happening.
    pub fn next_time(&self) -> Option<u64> {
        let backoff = self.backoff.first().map(|(until, ..)| *until);
        let leftover = self.leftovers.first().map(|(since, _)| since + self.patience.leftover);
        backoff.into_iter().chain(leftover).min()
    }

    /// Whether a pod can be decided now.
    pub fn is_ready(&mut self, now: u64) -> bool {
        self.ripen(now);
        !self.active.is_empty() || !self.lanes.is_empty()
    }

    /// The pod that was taken fits nowhere; such events may help it. When one of them happened since it was taken, the
    /// first pod of its shape is woken if it would fit now.
    pub fn waits_for(
        &mut self,
        uid: &str,
        hints: Hints,
        now: u64,
        mut fits: impl FnMut(&PodInfo) -> Result<(), Hints>,
    ) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let missed = self.happened.since(entry.seen).intersects(hints);
        let group = kind(&entry.pod);
        // Queues say something else by now.
        let outdated = entry.generation != self.generation;
        match entry.state {
            State::Taken => entry.hints = hints,
            // Decided twice meanwhile, and refused twice.
            State::Waiting { .. } => entry.hints = entry.hints.union(hints),
            _ => return,
        }
        self.leave(uid);
        if outdated {
            return self.enter(uid, State::Active);
        }
        self.enter(uid, State::Waiting { since: now });
        if missed {
            self.wake_first(&group, now, &mut fits);
        }
    }

    /// Something went wrong with the pod that was taken: it is tried again later.
    pub fn failed(&mut self, uid: &str, now: u64) {
        let Some(entry) = self.entries.get(uid).filter(|e| e.state == State::Taken) else { return };
        let until = now + self.delay(entry.attempts);
        self.enter(uid, State::BackingOff { until });
    }

    /// The pod that was taken is to be tried again at once, as after a change of plans.
    pub fn again(&mut self, uid: &str) {
        if self.entries.get(uid).is_some_and(|e| matches!(e.state, State::Taken | State::Waiting { .. })) {
            self.leave(uid);
            self.enter(uid, State::Active);
        }
    }

    /// Something happened: of each shape that it may help, the first pod is woken if it would fit now.
    pub fn wake(&mut self, hints: Hints, now: u64, mut fits: impl FnMut(&PodInfo) -> Result<(), Hints>) {
        self.happened.note(hints);
        let helped = self.groups.iter().filter(|(_, g)| g.hints.intersects(hints));
        let helped: Vec<Kind> = helped.map(|(kind, _)| kind.clone()).collect();
        for group in &helped {
            self.wake_first(group, now, &mut fits);
        }
    }

    /// Something happened that may help pods that are being decided now.
    pub fn note(&mut self, hints: Hints) {
        self.happened.note(hints);
    }

    /// A pod that was placed and forgotten could not be bound: it is tried again later.
    pub fn put_back(&mut self, popped: &Popped, now: u64) {
        let uid = popped.pod.uid.clone();
        if !self.contains(&uid) {
            self.put(popped.pod.clone(), false, now);
            self.leave(&uid);
        }
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.attempts = popped.attempts;
        }
        self.failed(&uid, now);
    }

    /// A pod was placed and is forgotten here: the next one of its shape may have its chance.
    pub fn placed(&mut self, uid: &str, now: u64, mut fits: impl FnMut(&PodInfo) -> Result<(), Hints>) {
        if let Some(pod) = self.remove(uid) {
            self.wake_first(&kind(&pod), now, &mut fits);
        }
    }

    fn wake_first(&mut self, group: &Kind, now: u64, fits: &mut impl FnMut(&PodInfo) -> Result<(), Hints>) {
        let Some(uid) = self.groups.get(group).and_then(|g| g.pods.values().next()).cloned() else { return };
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        if let Err(hints) = fits(&entry.pod) {
            // What stood in its way may be gone, and something else be in its way now.
            entry.hints = entry.hints.union(hints);
            if let Some(group) = self.groups.get_mut(group) {
                group.hints = group.hints.union(hints);
            }
            return self.reconsider(&uid, now);
        }
        let State::Waiting { since } = entry.state else { return };
        // Where more than its own node decides, it may be woken in vain, and again and again.
        let shape = &entry.pod.shape;
        let asked = entry.hints.intersects(Hints::EXTENDER);
        let sure = shape.group.is_none() && shape.claims.is_empty() && !asked;
        let attempts = entry.attempts;
        let until = since + self.delay(attempts);
        self.leave(&uid);
        let state = if sure || until <= now { State::Active } else { State::BackingOff { until } };
        self.enter(&uid, state);
    }

    /// Decides a pod again that would not fit, when its time has come, if that may come out otherwise than the last time.
    fn reconsider(&mut self, uid: &str, now: u64) {
        let Some(entry) = self.entries.get(uid) else { return };
        let State::Waiting { since } = entry.state else { return };
        // Who may make others leave finds somebody in the place of who went.
        let outranks = entry.pod.preempts && entry.pod.shape.priority > 0;
        let news = if outranks { OTHER_REASONS.union(Hints::POD_GONE) } else { OTHER_REASONS };
        if !self.happened.since(entry.seen).common(news).intersects(entry.hints) {
            return;
        }
        let until = since + self.delay(entry.attempts);
        self.leave(uid);
        self.enter(uid, if until <= now { State::Active } else { State::BackingOff { until } });
    }

    fn delay(&self, attempts: u32) -> u64 {
        let factor = 1_u64.checked_shl(attempts.saturating_sub(1)).unwrap_or(u64::MAX);
        self.patience.first_backoff.saturating_mul(factor).min(self.patience.last_backoff)
    }

    /// Lets those out whose time has come.
    fn ripen(&mut self, now: u64) {
        while let Some((until, _, uid)) = self.backoff.first().cloned() {
            if until > now {
                break;
            }
            self.leave(&uid);
            self.enter(&uid, State::Active);
        }
        while let Some((since, uid)) = self.leftovers.first().cloned() {
            if since + self.patience.leftover > now {
                break;
            }
            self.leave(&uid);
            self.enter(&uid, State::Active);
        }
    }

    fn deactivate(&mut self, uid: &str, order: Order) {
        let lane = self.entries.get(uid).map_or(0, |e| e.pod.lane);
        if lane == 0 {
            self.active.remove(&order);
        } else if let Some(ordered) = self.lanes.get_mut(&lane) {
            ordered.remove(&order);
            if ordered.is_empty() {
                self.lanes.remove(&lane);
            }
        }
    }

    fn leave(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let (state, order) = (std::mem::replace(&mut entry.state, State::Taken), entry.order);
        match state {
            State::Active => self.deactivate(uid, order),
            State::BackingOff { until } => drop(self.backoff.remove(&(until, order, uid.into()))),
            State::Waiting { since } => {
                self.leftovers.remove(&(since, uid.into()));
                let at = kind(&entry.pod);
                if let Some(group) = self.groups.get_mut(&at) {
                    group.pods.remove(&order);
                    if group.pods.is_empty() {
                        self.groups.remove(&at);
                    }
                }
            }
            State::Parked => {
                if let Some(gang) = self.gang_mut(uid) {
                    gang.parked = gang.parked.saturating_sub(1);
                }
            }
            State::Gated | State::Taken => {}
        }
    }

    fn gang_mut(&mut self, uid: &str) -> Option<&mut Gang> {
        let group = self.entries.get(uid)?.pod.shape.group.clone()?;
        self.gangs.get_mut(&(group.namespace, group.name))
    }

    fn enter(&mut self, uid: &str, state: State) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.state = state;
        match state {
            State::Active => {
                let lane = match entry.pod.lane {
                    0 => &mut self.active,
                    lane => self.lanes.entry(lane).or_default(),
                };
                lane.insert(entry.order, uid.into());
            }
            State::BackingOff { until } => drop(self.backoff.insert((until, entry.order, uid.into()))),
            State::Waiting { since } => {
                self.leftovers.insert((since, uid.into()));
                let shape = &entry.pod.shape;
                let fresh = || Group { shape: shape.clone(), hints: Hints::none(), pods: BTreeMap::new() };
                let group = self.groups.entry(kind(&entry.pod)).or_insert_with(fresh);
                debug_assert!(Arc::ptr_eq(&group.shape, shape));
                group.hints = group.hints.union(entry.hints);
                group.pods.insert(entry.order, uid.into());
            }
            State::Parked => {
                if let Some(gang) = self.gang_mut(uid) {
                    gang.parked += 1;
                }
            }
            State::Gated | State::Taken => {}
        }
        if let Some(group) = self.entries.get(uid).and_then(|e| e.pod.shape.group.clone()) {
            self.meet(&(group.namespace, group.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, shape: &Arc<Shape>) -> Arc<PodInfo> {
        Arc::new(PodInfo { uid: uid.into(), shape: shape.clone(), ..PodInfo::default() })
    }

    fn shape(priority: i32) -> Arc<Shape> {
        Arc::new(Shape { priority, ..Shape::default() })
    }

    fn pop(queue: &mut Queue, now: u64) -> Option<String> {
        queue.pop(now).map(|p| p.pod.uid().to_owned())
    }

    #[test]
    fn the_most_important_comes_first_then_the_oldest() {
        let mut queue = Queue::default();
        let (low, high) = (shape(0), shape(5));
        queue.put(pod("a", &low), false, 1);
        queue.put(pod("b", &low), false, 2);
        queue.put(pod("c", &high), false, 3);
        queue.put(pod("gated", &high), true, 0);
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, 9)).collect();
        assert_eq!(order, ["c", "a", "b"]);
        queue.put(pod("gated", &high), false, 10);
        assert_eq!(pop(&mut queue, 10).as_deref(), Some("gated"));
    }

    #[test]
    fn lanes_count_each_pod_once_and_know_it_again() {
        let mut queue = Queue::default();
        let in_lane = |uid: &str| Arc::new(PodInfo { lane: 7, ..(*pod(uid, &shape(0))).clone() });
        queue.put(in_lane("a"), false, 0);
        for _ in 0..3 {
            queue.put(in_lane("gated"), true, 0);
            assert_eq!(queue.waiting_in(7).0, 1);
        }
        queue.sort(2, |_| 9);
        let first = queue.pop(0).unwrap();
        assert_eq!((queue.waiting_in(7).0, queue.waiting_in(9).0), (0, 1));
        queue.remove("a");
        // Binding it failed.
        queue.put_back(&first, 0);
        assert_eq!((queue.waiting_in(7).0, queue.waiting_in(9).0), (0, 1));
    }

    #[test]
    fn only_what_would_fit_is_woken_one_of_a_kind_at_a_time() {
        let mut queue = Queue::default();
        let one = shape(0);
        for uid in ["a", "b", "c"] {
            queue.put(pod(uid, &one), false, 0);
        }
        while let Some(uid) = pop(&mut queue, 0) {
            queue.waits_for(&uid, Hints::POD_GONE, 0, |_| Ok(()));
        }
        queue.wake(Hints::NODE_LABELS, 5_000, |_| Ok(()));
        assert_eq!(pop(&mut queue, 5_000), None, "labels help nobody here");
        queue.wake(Hints::POD_GONE, 5_000, |_| Err(Hints::POD_GONE));
        assert_eq!(pop(&mut queue, 5_000), None, "it would not fit");
        queue.wake(Hints::POD_GONE, 5_000, |_| Ok(()));
        assert_eq!(pop(&mut queue, 5_000).as_deref(), Some("a"));
        assert_eq!(pop(&mut queue, 5_000), None);
        queue.placed("a", 5_000, |_| Ok(()));
        assert_eq!(pop(&mut queue, 5_000).as_deref(), Some("b"));
        queue.placed("b", 5_000, |_| Err(Hints::POD_GONE));
        assert_eq!(pop(&mut queue, 5_000), None);
        assert_eq!(queue.counts(), (0, 0, 1, 0));
        assert_eq!(pop(&mut queue, 300_000).as_deref(), Some("c"), "tried again at last");
    }

    #[test]
    fn errors_back_off_ever_longer_and_changes_end_the_wait() {
        let mut queue = Queue::default();
        let one = shape(0);
        queue.put(pod("a", &one), false, 0);
        let mut now = 0;
        for delay in [1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            assert!(pop(&mut queue, now).is_some());
            queue.failed("a", now);
            assert_eq!(queue.next_time(), Some(now + delay));
            assert_eq!(pop(&mut queue, now + delay - 1), None);
            now += delay;
        }
        assert!(pop(&mut queue, now).is_some());
        queue.waits_for("a", Hints::NODE_ADDED, now, |_| Ok(()));
        // It is sure to fit: it need not sit out its time.
        queue.wake(Hints::NODE_ADDED, now + 1, |_| Ok(()));
        assert!(queue.is_ready(now + 1));
        assert!(pop(&mut queue, now + 1).is_some());
        queue.waits_for("a", Hints::NODE_ADDED, now, |_| Ok(()));
        queue.put(pod("a", &shape(1)), false, now);
        assert_eq!(pop(&mut queue, now).as_deref(), Some("a"));
        assert_eq!(queue.remove("a").map(|p| p.priority()), Some(1));
        assert_eq!(queue.counts(), (0, 0, 0, 0));
        assert_eq!(queue.next_time(), None);
    }

    #[test]
    fn what_happens_while_a_pod_is_decided_is_not_missed_and_nothing_else_wakes_it() {
        let mut queue = Queue::default();
        queue.put(pod("a", &shape(0)), false, 0);
        assert!(pop(&mut queue, 0).is_some());
        queue.wake(Hints::NODE_ADDED, 0, |_| Ok(()));
        queue.wake(Hints::POD_ADDED, 0, |_| Ok(()));
        queue.waits_for("a", Hints::POD_GONE, 0, |_| Ok(()));
        assert_eq!(pop(&mut queue, 100_000), None, "it would fit, but nothing happened that it waits for");
        queue.wake(Hints::POD_GONE, 100_000, |_| Ok(()));
        assert!(pop(&mut queue, 100_000).is_some());
        queue.wake(Hints::POD_GONE, 100_001, |_| Ok(()));
        queue.waits_for("a", Hints::POD_GONE, 100_002, |_| Ok(()));
        assert!(pop(&mut queue, 100_002).is_some(), "it happened meanwhile");
        queue.waits_for("a", Hints::POD_GONE, 100_003, |_| Ok(()));
        assert_eq!(pop(&mut queue, 100_003), None, "once");
    }

    fn members(queue: &mut Queue, group: &GroupName) -> usize {
        let first = queue.pop(0).unwrap();
        queue.pop_gang(group, first).map_or(0, |members| members.len())
    }

    fn refuse(queue: &mut Queue, uid: &str) {
        queue.waits_for(uid, Hints::MEMBER, 0, |_| Err(Hints::POD_GONE));
    }

    #[test]
    fn members_that_come_while_the_others_are_refused_wait_for_them() {
        let mut queue = Queue::default();
        let group = GroupName { namespace: "n".into(), name: "g".into(), min: 4 };
        let gang = Arc::new(Shape { group: Some(group.clone()), ..Shape::default() });
        queue.put(pod("a", &gang), false, 0);
        queue.put(pod("b", &gang), false, 0);
        assert_eq!(members(&mut queue, &group), 2);
        for uid in ["c", "d"] {
            queue.put(pod(uid, &gang), false, 0);
            assert_eq!(members(&mut queue, &group), 0, "a and b are being written about");
        }
        refuse(&mut queue, "b");
        assert_eq!(pop(&mut queue, 0), None, "a is still being written about");
        refuse(&mut queue, "a");
        assert_eq!(members(&mut queue, &group), 4, "all are tried together");
        for uid in ["c", "b", "d", "a"] {
            refuse(&mut queue, uid);
        }
        assert_eq!(pop(&mut queue, 0), None, "once");
    }

    #[test]
    fn whoever_is_waited_for_may_leave_or_change() {
        let group = GroupName { namespace: "n".into(), name: "g".into(), min: 2 };
        let gang = Arc::new(Shape { group: Some(group.clone()), ..Shape::default() });
        let leave: [fn(&mut Queue, &Arc<Shape>); 5] = [
            |queue, _| drop(queue.remove("a")),
            |queue, _| queue.placed("a", 0, |_| Ok(())),
            |queue, _| queue.failed("a", 0),
            |queue, gang| queue.put(pod("a", gang), true, 0),
            |queue, _| queue.put(pod("a", &shape(0)), true, 0),
        ];
        for leave in leave {
            let mut queue = Queue::default();
            queue.put(pod("a", &gang), false, 0);
            assert_eq!(members(&mut queue, &group), 1);
            queue.put(pod("b", &gang), false, 0);
            assert_eq!(members(&mut queue, &group), 0);
            queue.sort(1, |_| 0);
            assert_eq!(pop(&mut queue, 0), None);
            leave(&mut queue, &gang);
            assert!(members(&mut queue, &group) > 0);
        }
    }

    #[test]
    fn what_a_group_says_while_its_members_are_written_about_is_not_missed() {
        let mut queue = Queue::default();
        let group = GroupName { namespace: "n".into(), name: "g".into(), min: 0 };
        let gang = Arc::new(Shape { group: Some(group.clone()), ..Shape::default() });
        queue.put(pod("a", &gang), false, 0);
        queue.put(pod("b", &gang), false, 0);
        assert_eq!(members(&mut queue, &group), 2);
        queue.again_gang("n", "g");
        refuse(&mut queue, "a");
        assert_eq!(members(&mut queue, &group), 0, "b is still being written about");
        refuse(&mut queue, "b");
        assert_eq!(members(&mut queue, &group), 2);
    }
}
