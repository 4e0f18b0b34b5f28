//! Reservations: what they say is taken over at once, how they stand is written.
//!
//! Where seats are is known to the scheduler first; objects tell it after a restart. A seat that was placed and not yet
//! written is placed anew then: nobody has taken it, since who takes one is told where it is by the same scheduler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use sampan_daemon::clock;
use sampan_planner::pods;
use sampan_planner::reservation::{CONSUMED, Facts, Reservation, Seat, Terms, leaves_at};
use sampan_planner::scheduler::Hints;
use serde_json::json;

use super::{Scheduler, State};
use crate::apis;
use crate::error::{Context, Result};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// What changes together is written together.
const MOMENT: Duration = Duration::from_millis(50);
/// How long a large one rests that changes all the time, at most.
const REST: Duration = Duration::from_secs(1);

/// What is known of reservations beside their objects.
#[derive(Default)]
pub(super) struct Book {
    queue: Arc<Queue<Key>>,
    notes: Mutex<HashMap<Box<str>, Note>>,
}

/// What is known of one, by its uid.
#[derive(Debug, Clone, Default)]
struct Note {
    /// Why its seats have no room.
    waiting: Option<String>,
    /// The number that its priority class stands for.
    priority: Option<i32>,
    /// Of which spec the scheduler knows.
    generation: Option<i64>,
}

impl Book {
    fn notes(&self) -> MutexGuard<'_, HashMap<Box<str>, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn soon(&self, namespace: &str, name: &str) {
        self.queue.add_after(Key::new(namespace, name), MOMENT);
    }

    /// Why a seat has no room, or that it has some.
    pub fn waits(&self, seat: &Seat, why: Option<&str>) {
        if let Some(note) = self.notes().get_mut(&seat.uid) {
            note.waiting = why.map(ToOwned::to_owned);
        }
        self.soon(&seat.namespace, &seat.name);
    }

    /// A pod that took a seat is there.
    pub fn pod_changed(&self, pod: &Pod) {
        let seat = pods::annotation(&pod.metadata, CONSUMED).and_then(Seat::parse);
        if let Some(seat) = seat.filter(|_| !pods::node_name(pod).is_empty()) {
            self.soon(&seat.namespace, &seat.name);
        }
    }
}

/// Writes how reservations stand.
pub(crate) struct Reservations {
    scheduler: Arc<Scheduler>,
    queue: Arc<Queue<Key>>,
}

/// The priority that is known of a reservation without asking; an error when it has to be asked for.
fn known_priority(reservation: &Reservation) -> std::result::Result<Option<i32>, &str> {
    let Some(class) = reservation.priority_class() else { return Ok(None) };
    let status = reservation.status.as_ref();
    let status = status.filter(|status| status.template.as_deref() == Some(&*reservation.template_mark()));
    status.and_then(|status| status.priority).map(Some).ok_or(class)
}

impl Scheduler {
    /// What writes how reservations stand.
    pub fn reservations(self: &Arc<Self>) -> Arc<Reservations> {
        Arc::new(Reservations { scheduler: self.clone(), queue: self.book.queue.clone() })
    }

    pub(super) fn reservation_changed(&self, change: &Change<'_, Reservation>) {
        let reservation = change.object();
        let key = Key::of(&reservation.metadata);
        if matches!(change, Change::Deleted(_)) {
            self.change(|state, _| release(state, pods::uid(&reservation.metadata)));
            self.book.notes().remove(pods::uid(&reservation.metadata));
            return;
        }
        if change.old().is_some_and(|old| old.spec == reservation.spec) {
            return;
        }
        // What was held is held before anything else is decided.
        if let Ok(priority) = known_priority(reservation) {
            self.take_over(reservation, priority, clock::now());
        }
        self.book.queue.add(key);
    }

    /// Takes over what a reservation says, if it holds anything; the problem when it makes no sense.
    fn take_over(&self, reservation: &Reservation, priority: Option<i32>, now: Timestamp) -> Option<String> {
        let uid = pods::uid(&reservation.metadata);
        let generation = reservation.metadata.generation;
        let read = {
            // Whoever comes meanwhile finds it known.
            let mut notes = self.book.notes();
            let known = notes.get(uid).and_then(|note| note.generation);
            let known = known.is_some() && known == generation;
            let read = if known { Ok(None) } else { reservation.terms(priority).map(Some) };
            if read.is_ok() {
                let note = notes.entry(uid.into()).or_default();
                (note.priority, note.generation) = (priority, generation);
            }
            read
        };
        let new = match read {
            Ok(new) => new,
            Err(problem) => {
                self.while_current(reservation, |state| release(state, uid));
                return Some(problem);
            }
        };
        if is_over(reservation, now) {
            self.while_current(reservation, |state| release(state, uid));
        } else if let Some(terms) = new {
            self.while_current(reservation, |state| {
                // Seats that wait do so as what they are from now on.
                state.cluster.unqueue_seats(&mut state.queue, uid);
                state.cluster.set_reservation(terms, &reservation.known_seats())
            });
        }
        None
    }

    /// Does something for a reservation unless it changed or went since it was read: its handler was here then, or comes.
    fn while_current(&self, reservation: &Reservation, what: impl FnOnce(&mut State) -> Hints) {
        let metadata = &reservation.metadata;
        let mut stale = false;
        self.change(|state, _| {
            let current = self.caches.reservations.get(&Key::of(metadata));
            stale = current.is_none_or(|current| {
                current.metadata.uid != metadata.uid || current.metadata.generation != metadata.generation
            });
            if stale { Hints::none() } else { what(state) }
        });
        if stale {
            self.book.notes().remove(pods::uid(metadata));
        }
    }

    /// Whatever changed about seats is looked at soon.
    pub(super) fn follow_seats(&self, state: &mut State) {
        for terms in state.cluster.changed_reservations() {
            self.book.soon(&terms.namespace, &terms.name);
        }
    }

    /// Tells that a seat lost its room.
    pub(super) fn seat_lost(&self, seat: &Seat, reason: &str, text: String) {
        if let Some(reservation) = self.caches.reservations.get(&Key::new(&seat.namespace, &seat.name)) {
            self.events.warning(&*reservation, reason, text);
        }
    }

    /// Brings seats in line with what is so: those of lost nodes and those that are used up are given up, and those that wait are put
    /// into the queue. Returns when to look again.
    fn tend_seats(&self, reservation: &Reservation, terms: &Terms, now: Timestamp) -> Option<Timestamp> {
        let uid = &*terms.uid;
        let seats = { self.lock().cluster.seats(uid) };
        let tolerations = reservation.tolerations();
        let (mut spent, mut lost, mut next) = (Vec::new(), Vec::new(), None::<Timestamp>);
        for view in seats.iter().filter(|view| !view.done) {
            let Some(name) = &view.node else { continue };
            let seat = terms.seat(view.index);
            let is_there = |pod: &sampan_planner::scheduler::PodInfo| {
                let current = self.caches.pods.get(&Key::new(pod.namespace(), pod.name()));
                current.is_some_and(|c| pods::uid(&c.metadata) == pod.uid() && pods::node_name(&c) == &**name)
            };
            if terms.once && view.consumers.iter().any(|pod| is_there(pod)) {
                spent.push(seat);
                continue;
            }
            match self.caches.nodes.get(&Key::new("", name)) {
                None => lost.push((seat, format!("node {name} is gone"))),
                Some(node) => match leaves_at(&tolerations, &node, now) {
                    Some(at) if at <= now => lost.push((seat, format!("node {name} is lost or tainted"))),
                    Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                    None => {}
                },
            }
        }
        for (seat, why) in &lost {
            self.seat_lost(seat, "SeatLost", format!("seat {} is to be placed anew: {why}", seat.index));
        }
        self.change(|state, now| {
            let mut hints = Hints::none();
            for seat in &spent {
                hints = hints.union(state.cluster.spend_seat(seat));
            }
            for (seat, _) in &lost {
                hints = hints.union(state.cluster.vacate_seat(seat));
            }
            state.cluster.queue_seats(&mut state.queue, uid, now);
            hints
        });
        next
    }

    /// The number that the class of a reservation stands for; the problem when there is none.
    async fn priority(&self, reservation: &Reservation) -> Result<std::result::Result<Option<i32>, String>> {
        let uid = pods::uid(&reservation.metadata);
        let generation = reservation.metadata.generation;
        let class = match known_priority(reservation) {
            Ok(priority) => return Ok(Ok(priority)),
            Err(class) => class,
        };
        let noted =
            self.book.notes().get(uid).filter(|note| note.generation == generation).and_then(|n| n.priority);
        if noted.is_some() {
            return Ok(Ok(noted));
        }
        let api = apis::cluster::<PriorityClass>(&self.queues_client);
        let found = api.get_opt(class).await.during(|| format!("reading PriorityClass {class}"))?;
        let hint = "hint: kubectl get priorityclasses; then make the reservation anew";
        Ok(match found {
            Some(class) => Ok(Some(class.value.unwrap_or(0))),
            None => Err(format!("there is no PriorityClass {class:?} ({hint})")),
        })
    }
}

/// Nothing is held any more.
fn release(state: &mut State, uid: &str) -> Hints {
    state.cluster.unqueue_seats(&mut state.queue, uid);
    state.cluster.remove_reservation(uid)
}

fn is_over(reservation: &Reservation, now: Timestamp) -> bool {
    reservation.expiry().ok().flatten().is_some_and(|end| end <= now)
}

impl Reconciler for Reservations {
    type Key = Key;

    const LONGEST_REST: Duration = REST;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let scheduler = &self.scheduler;
        let Some(reservation) = scheduler.caches.reservations.get(key) else { return Ok(None) };
        let uid = pods::uid(&reservation.metadata);
        let now = clock::now();
        let (priority, mut problem) = match scheduler.priority(&reservation).await? {
            Ok(priority) => (priority, None),
            Err(problem) => (None, Some(problem)),
        };
        if problem.is_none() {
            problem = scheduler.take_over(&reservation, priority, now);
        }
        let terms = scheduler.lock().cluster.reservation(uid).cloned();
        let mut next = None;
        if let Some(terms) = &terms {
            next = scheduler.tend_seats(&reservation, terms, now);
        }
        let expired = is_over(&reservation, now);
        let facts = Facts {
            seats: scheduler.lock().cluster.seats(uid),
            priority,
            waiting: scheduler.book.notes().get(uid).and_then(|note| note.waiting.clone()),
            problem,
            expired,
        };
        self.tell(&reservation, &facts, now).await?;
        let ends = reservation.expiry().ok().flatten().filter(|_| !expired);
        let next = [next, ends].into_iter().flatten().min();
        let until = next.map(|at| at.duration_since(now).unsigned_abs());
        Ok(until.map(|until| until.max(Duration::from_millis(1))))
    }
}

impl Reservations {
    /// Writes the status when it changed, and says what that means.
    async fn tell(&self, reservation: &Reservation, facts: &Facts, now: Timestamp) -> Result<()> {
        let Some(status) = reservation.status_for(facts, now) else { return Ok(()) };
        let events = &self.scheduler.events;
        let before = reservation.status.clone().unwrap_or_default();
        let message = |status: &sampan_planner::reservation::ReservationStatus| {
            status.conditions.first().map(|c| (c.reason.clone(), c.message.clone())).unwrap_or_default()
        };
        let (reason, text) = message(&status);
        match status.phase.as_str() {
            "Available" if before.phase != "Available" => {
                events.normal(reservation, "Available", format!("{} seats are held", status.held));
            }
            "Succeeded" if before.phase != "Succeeded" => {
                events.normal(reservation, "Succeeded", "all of it was taken".to_owned());
            }
            "Expired" if before.phase != "Expired" => {
                events.normal(reservation, "Expired", "nothing is held any more".to_owned());
            }
            "Failed" if message(&before).1 != text => events.warning(reservation, &reason, text),
            "Pending" if !text.is_empty() && message(&before).1 != text => {
                events.warning(reservation, "FailedScheduling", text);
            }
            _ => {}
        }
        let mut status = json!(status);
        // What is not said any more is to go.
        for gone in ["expiresAt", "priority", "observedGeneration"] {
            if status.get(gone).is_none() {
                status[gone] = serde_json::Value::Null;
            }
        }
        let metadata = &reservation.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let api = apis::namespaced(&self.scheduler.queues_client, namespace);
        match apis::merge_status(&api, &self.scheduler.caches.reservations, metadata, &status).await {
            // It is gone, or another one by now: the watch will tell.
            Err(error) if error.is_race() => Ok(()),
            other => other,
        }
    }
}
