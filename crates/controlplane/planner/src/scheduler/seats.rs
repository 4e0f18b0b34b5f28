//! Seats of reservations on nodes. Without reservations none of it costs anything.
//!
//! A seat that has a node is there as a pod of its own that holds what its owners have not taken. What it holds follows from
//! two things alone: the template, and the pods that are counted on the same node and say that they took it. So whatever
//! comes in whatever order, nothing is counted twice, and a cluster that is built anew is the same.
//!
//! An owner is tried on the nodes of seats that it may take, each as it would be with that pod: the seat holding so much
//! less. Only where that fits is its place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::choose::Judge;
use super::cluster::{Bonus, Cluster, NodeFilter, Pins, Placement, Undo};
use super::gpu::{GpuRequest, WHOLE};
use super::pod::{GroupName, PodInfo, Shape};
use super::queue::Queue;
use super::reasons::{Hints, Unschedulable};
use super::resources::Resources;
use crate::reservation::{PREFIX, Policy, Seat, Terms};

/// So many seats are looked at together for an owner; the next ones only when none of them will do.
const TOGETHER: usize = 16;

/// All reservations.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    all: BTreeMap<Box<str>, Held>,
    /// The uids of reservations that pods of a namespace may use.
    of_namespace: HashMap<Box<str>, BTreeSet<Box<str>>>,
    /// Pods that say that they took a seat, whether the reservation is known or not: by its uid and the number of the seat.
    consumers: HashMap<Box<str>, BTreeMap<u32, Vec<Arc<PodInfo>>>>,
    /// Reservations of which seats changed.
    changed: BTreeSet<Box<str>>,
    /// What leaves is merely tried out: seats do not grow into its room meanwhile.
    frozen: bool,
    /// Seats that may have to grow once that is over.
    stale: BTreeSet<Seat>,
}

#[derive(Debug)]
struct Held {
    terms: Arc<Terms>,
    seats: Vec<Replica>,
}

#[derive(Debug, Clone, Default)]
struct Replica {
    node: Option<Arc<str>>,
    devices: Box<[u8]>,
    done: bool,
    /// What stands for it on its node: nothing when all of it was taken.
    left: Option<Arc<PodInfo>>,
}

impl Replica {
    fn waits(&self) -> bool {
        self.node.is_none() && !self.done
    }
}

/// A seat, to look at.
#[derive(Debug, Clone, Default)]
pub struct SeatView {
    /// Which.
    pub index: u32,
    /// Where it is, if anywhere.
    pub node: Option<Arc<str>>,
    /// It is held no more.
    pub done: bool,
    /// The devices that it was given.
    pub devices: Box<[u8]>,
    /// What it holds.
    pub left: Option<Resources>,
    /// Who took something of it.
    pub consumers: Vec<Arc<PodInfo>>,
}

/// What a seat of that template holds when these have taken something; nothing when nothing is left.
fn left_of(template: &Shape, consumers: &[&PodInfo]) -> Option<Shape> {
    // A seat that was placed is no member of a gang any more: who follows is counted among those that still wait.
    let mut left = Shape { group: None, ..template.clone() };
    if consumers.is_empty() {
        return Some(left);
    }
    let mut devices = template.gpu.total();
    for pod in consumers {
        left.requests.sub(&pod.shape.requests);
        left.nonzero.0 -= pod.shape.nonzero.0;
        left.nonzero.1 -= pod.shape.nonzero.1;
        devices = devices.saturating_sub(pod.shape.gpu.total());
    }
    let requests = &mut left.requests;
    requests.milli_cpu = requests.milli_cpu.max(0);
    requests.memory = requests.memory.max(0);
    requests.ephemeral = requests.ephemeral.max(0);
    requests.extended.retain(|(name, amount)| {
        *amount > 0 && **name != *super::gpu::GPU && **name != *super::gpu::GPU_MILLI
    });
    left.nonzero = (left.nonzero.0.max(requests.milli_cpu), left.nonzero.1.max(requests.memory));
    left.gpu = rest(template.gpu, devices);
    if !left.gpu.is_none() {
        let whole = left.gpu.milli == WHOLE;
        let (name, amount) =
            if whole { (super::gpu::GPU, left.gpu.count) } else { (super::gpu::GPU_MILLI, left.gpu.milli) };
        left.requests.extended.push((name.into(), amount.into()));
        left.requests.extended.sort();
    }
    if left.requests == Resources::default() {
        return None;
    }
    // Its owners are there themselves now: it is nobody's neighbour any more.
    left.labels = Arc::default();
    left.terms = Default::default();
    left.spread = Box::default();
    left.ports = Box::default();
    Some(left)
}

/// Of so many thousandths of devices what can be held: whole ones, or else a part of one.
fn rest(asked: GpuRequest, devices: u32) -> GpuRequest {
    let whole = u32::from(WHOLE);
    match devices {
        0 => GpuRequest::default(),
        part if part < whole => GpuRequest { count: 1, milli: u16::try_from(part).unwrap_or(WHOLE) },
        many => GpuRequest { count: u16::try_from(many / whole).unwrap_or(asked.count), milli: WHOLE },
    }
}

/// Whether all of it is in there.
fn covers(left: &Resources, asked: &Resources) -> bool {
    asked.milli_cpu <= left.milli_cpu
        && asked.memory <= left.memory
        && asked.ephemeral <= left.ephemeral
        && asked.extended.iter().all(|(name, amount)| *amount <= left.get(name))
}

/// Whether any of it is in there.
fn helps(left: &Resources, asked: &Resources) -> bool {
    let both = |a: i64, b: i64| a > 0 && b > 0;
    both(left.milli_cpu, asked.milli_cpu)
        || both(left.memory, asked.memory)
        || both(left.ephemeral, asked.ephemeral)
        || asked.extended.iter().any(|(name, amount)| both(*amount, left.get(name)))
}

impl Reserved {
    fn replica(&self, seat: &Seat) -> Option<(&Held, &Replica)> {
        let held = self.all.get(&seat.uid)?;
        Some((held, held.seats.get(seat.index as usize)?))
    }

    fn replica_mut(&mut self, seat: &Seat) -> Option<&mut Replica> {
        self.changed.insert(seat.uid.clone());
        self.all.get_mut(&seat.uid)?.seats.get_mut(seat.index as usize)
    }

    fn consumers<'a>(
        &'a self,
        uid: &str,
        index: u32,
        node: &'a str,
    ) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let held = self.all.get(uid);
        let all = self.consumers.get(uid).and_then(|seats| seats.get(&index)).into_iter().flatten();
        // Whoever says that it took a seat must be one that may take it.
        all.filter(move |pod| *pod.node == *node && held.is_some_and(|held| held.terms.is_for(pod)))
    }

    /// The priority of the seat that a pod took: it is as important as that, at least, since its room would be held for others
    /// of its kind all the same.
    pub(super) fn shield(&self, pod: &PodInfo) -> Option<i32> {
        let (held, replica) = self.replica(pod.seat.as_ref()?)?;
        let there = replica.node.as_deref() == Some(&*pod.node);
        (there && held.terms.is_for(pod)).then(|| held.terms.template.priority())
    }

    /// What stands for a seat on its node, as things are, and with a further owner.
    fn stand_in(&self, seat: &Seat, more: Option<&PodInfo>) -> Option<PodInfo> {
        let (held, replica) = self.replica(seat)?;
        let node = replica.node.as_deref().filter(|_| !replica.done)?;
        let mut consumers: Vec<&PodInfo> =
            self.consumers(&seat.uid, seat.index, node).map(|pod| &**pod).collect();
        consumers.extend(more);
        let shape = left_of(&held.terms.template.shape, &consumers)?;
        let devices = if consumers.is_empty() { replica.devices.clone() } else { Box::default() };
        let seat = Arc::new(seat.clone());
        Some(PodInfo { shape: Arc::new(shape), devices, ..waiting(&held.terms, seat) }.on(node))
    }
}

/// A seat as it waits for a node.
fn waiting(terms: &Terms, seat: Arc<Seat>) -> PodInfo {
    PodInfo {
        uid: seat.key(),
        name: format!("{} (seat {})", terms.name, seat.index).into(),
        holds: Some(seat),
        ..terms.template.clone()
    }
}

impl Cluster {
    /// Takes over what a reservation says. Of one that was not known yet, the seats are where they are known to be. Returns what that may help.
    pub fn set_reservation(&mut self, terms: Terms, known: &[SeatView]) -> Hints {
        let reserved = self.reserved.get_or_insert_default();
        let uid = terms.uid.clone();
        let count = terms.count as usize;
        let before = reserved.all.remove(&uid);
        let moved =
            before.as_ref().map(|held| (held.seats.len(), !held.terms.template.is_like(&terms.template)));
        reserved.forget(&uid);
        for namespace in terms.namespaces() {
            reserved.of_namespace.entry(namespace.into()).or_default().insert(uid.clone());
        }
        reserved.changed.insert(uid.clone());
        let mut seats = match before {
            // Room for something else is no room for this.
            Some(held) if held.terms.template.is_like(&terms.template) => held.seats,
            Some(held) => {
                let lefts: Vec<_> = held.seats.into_iter().filter_map(|seat| seat.left).collect();
                lefts.iter().for_each(|left| self.lift(&left.uid));
                Vec::new()
            }
            None => {
                let mut seats = vec![Replica::default(); count];
                for seat in known {
                    let Some(replica) = seats.get_mut(seat.index as usize) else { continue };
                    replica.done = seat.done;
                    replica.node = seat.node.clone();
                    replica.devices = seat.devices.clone();
                }
                seats
            }
        };
        let beyond = seats.split_off(count.min(seats.len()));
        beyond.into_iter().filter_map(|seat| seat.left).for_each(|left| self.lift(&left.uid));
        seats.resize(count, Replica::default());
        // Nor is room kept any more for seats that are not what they were.
        let (had, anew) = moved.unwrap_or_default();
        for index in if anew { 0 } else { count }..had {
            let seat = terms.seat(u32::try_from(index).unwrap_or(u32::MAX));
            self.withdraw(&seat.key());
        }
        if let Some(reserved) = &mut self.reserved {
            reserved.all.insert(uid.clone(), Held { terms: Arc::new(terms), seats });
        }
        for index in 0..u32::try_from(count).unwrap_or(0) {
            self.refresh_seat_of(&uid, index);
        }
        self.respare(&uid);
        Hints::RESERVATION.union(Hints::POD_GONE)
    }

    /// A reservation holds nothing any more. Returns what that may help.
    pub fn remove_reservation(&mut self, uid: &str) -> Hints {
        let Some(reserved) = &mut self.reserved else { return Hints::none() };
        let Some(held) = reserved.all.remove(uid) else { return Hints::none() };
        reserved.forget(uid);
        self.respare(uid);
        for index in 0..held.seats.len() {
            let seat = held.terms.seat(u32::try_from(index).unwrap_or(u32::MAX));
            self.withdraw(&seat.key());
        }
        held.seats.into_iter().filter_map(|seat| seat.left).for_each(|left| self.lift(&left.uid));
        self.drop_reserved_if_empty();
        Hints::POD_GONE.union(Hints::RESERVATION)
    }

    /// What a reservation asks for, as far as it is known here.
    pub fn reservation(&self, uid: &str) -> Option<&Arc<Terms>> {
        Some(&self.reserved.as_ref()?.all.get(uid)?.terms)
    }

    /// The reservations of which seats changed since this was asked last.
    pub fn changed_reservations(&mut self) -> Vec<Arc<Terms>> {
        let Some(reserved) = &mut self.reserved else { return Vec::new() };
        let changed = std::mem::take(&mut reserved.changed);
        changed.iter().filter_map(|uid| Some(reserved.all.get(uid)?.terms.clone())).collect()
    }

    /// The seats of a reservation.
    pub fn seats(&self, uid: &str) -> Vec<SeatView> {
        let Some(reserved) = &self.reserved else { return Vec::new() };
        let Some(held) = reserved.all.get(uid) else { return Vec::new() };
        let view = |(index, replica): (u32, &Replica)| SeatView {
            index,
            node: replica.node.clone(),
            done: replica.done,
            devices: replica.left.as_ref().map(|left| left.devices.clone()).unwrap_or_default(),
            left: replica.left.as_ref().map(|left| left.shape.requests.clone()),
            consumers: match &replica.node {
                Some(node) => reserved.consumers(uid, index, node).cloned().collect(),
                None => Vec::new(),
            },
        };
        (0..).zip(&held.seats).map(view).collect()
    }

    /// The seats of a reservation that have no node: pods to be placed.
    pub fn waiting_seats(&self, uid: &str) -> Vec<PodInfo> {
        let Some(held) = self.reserved.as_ref().and_then(|reserved| reserved.all.get(uid)) else {
            return Vec::new();
        };
        let open = (0..).zip(&held.seats).filter(|(_, seat)| seat.waits());
        let mut all: Vec<PodInfo> =
            open.map(|(index, _)| waiting(&held.terms, Arc::new(held.terms.seat(index)))).collect();
        if held.terms.gang && all.len() > 1 {
            let group = GroupName {
                namespace: held.terms.namespace.clone(),
                // No PodGroup can be called that.
                name: format!("reservation {}", held.terms.name).into(),
                min: u32::try_from(all.len()).unwrap_or(u32::MAX),
            };
            let shape = Shape { group: Some(group), ..(*held.terms.template.shape).clone() };
            let shape = Arc::new(shape);
            all.iter_mut().for_each(|seat| seat.shape = shape.clone());
        }
        all
    }

    /// Seats of a reservation that have no node are put into the queue, unless all of them are there.
    pub fn queue_seats(&mut self, queue: &mut Queue, uid: &str, now: u64) {
        let seats = self.waiting_seats(uid);
        if seats.iter().all(|seat| queue.contains(seat.uid())) {
            return;
        }
        for mut seat in seats {
            self.intern(&mut seat);
            queue.put(Arc::new(seat), false, now);
        }
    }

    /// Seats of a reservation that wait for a node do so no more.
    pub fn unqueue_seats(&self, queue: &mut Queue, uid: &str) {
        for seat in self.waiting_seats(uid) {
            queue.remove(seat.uid());
        }
    }

    /// Whether a seat has no node, and is to have one.
    pub fn seat_waits(&self, seat: &Seat) -> bool {
        let replica = self.reserved.as_ref().and_then(|reserved| reserved.replica(seat));
        replica.is_some_and(|(_, replica)| replica.waits())
    }

    /// A seat was used up: what is left of it is everybody's. Returns what that may help.
    pub fn spend_seat(&mut self, seat: &Seat) -> Hints {
        let Some(replica) = self.reserved.as_mut().and_then(|reserved| reserved.replica_mut(seat)) else {
            return Hints::none();
        };
        if std::mem::replace(&mut replica.done, true) {
            return Hints::none();
        }
        self.refresh_seat(seat);
        Hints::POD_GONE
    }

    /// A seat has its node no more, and is to be placed anew. Returns what that may help.
    pub fn vacate_seat(&mut self, seat: &Seat) -> Hints {
        let Some(replica) = self.reserved.as_mut().and_then(|reserved| reserved.replica_mut(seat)) else {
            return Hints::none();
        };
        if replica.done {
            return Hints::none();
        }
        let Some(node) = replica.node.take() else { return Hints::none() };
        let devices = std::mem::take(&mut replica.devices);
        let held = self.reserved.as_ref().and_then(|reserved| reserved.all.get(&seat.uid));
        let before = held.map(|held| waiting(&held.terms, Arc::new(seat.clone())).on(&node));
        if let (Some(undo), Some(before)) = (&mut self.undo, before) {
            undo.push(Undo::Place(Arc::new(before.with_devices(&devices))));
        }
        self.refresh_seat(seat);
        self.respare_node(&node);
        Hints::POD_GONE
    }

    /// A seat has a node.
    pub(super) fn occupy_seat(&mut self, pod: &PodInfo, seat: &Seat) {
        self.withdraw(&pod.uid);
        let Some(replica) = self.reserved.as_mut().and_then(|reserved| reserved.replica_mut(seat)) else {
            return;
        };
        replica.node = Some(pod.node.clone());
        replica.devices = pod.devices.clone();
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Remove(pod.uid.clone()));
        }
        self.refresh_seat(seat);
        self.respare_node(&pod.node);
    }

    /// The node of a seat.
    pub(super) fn seat_node(&self, seat: &Seat) -> Option<&str> {
        self.reserved.as_ref()?.replica(seat)?.1.node.as_deref()
    }

    /// Whoever took seats of a reservation may have to leave for others than before.
    fn respare(&mut self, uid: &str) {
        let Some(reserved) = &self.reserved else { return };
        let pods = reserved.consumers.get(uid).into_iter().flat_map(BTreeMap::values).flatten();
        let nodes: BTreeSet<Arc<str>> = pods.map(|pod| pod.node.clone()).collect();
        nodes.iter().for_each(|node| self.respare_node(node));
    }

    fn respare_node(&mut self, node: &str) {
        if let Some(slot) = self.world.nodes.find_live(node) {
            self.world.spared.push(slot, self.world.nodes.slots());
        }
    }

    /// The seat that is counted under that uid.
    pub(super) fn seat_of(&self, uid: &str) -> Option<Seat> {
        let (reservation, index) = uid.strip_prefix(PREFIX)?.rsplit_once('/')?;
        let held = self.reserved.as_ref()?.all.get(reservation)?;
        Some(held.terms.seat(index.parse().ok()?))
    }

    /// Something changed about a node that may concern the seats there.
    pub fn recall_seats(&mut self, node: &str) {
        let Some(reserved) = &mut self.reserved else { return };
        let there = |held: &&Held| held.seats.iter().any(|seat| seat.node.as_deref() == Some(node));
        let concerned = reserved.all.values().filter(there).map(|held| held.terms.uid.clone());
        reserved.changed.extend(concerned.collect::<Vec<_>>());
    }

    /// No seat has its node any more that was there.
    pub(super) fn vacate_node(&mut self, name: &str) {
        let Some(reserved) = &self.reserved else { return };
        let mut lost = Vec::new();
        for held in reserved.all.values() {
            let there = (0..).zip(&held.seats).filter(|(_, seat)| seat.node.as_deref() == Some(name));
            lost.extend(there.map(|(index, _)| held.terms.seat(index)));
        }
        for seat in lost {
            self.vacate_seat(&seat);
        }
    }

    /// A pod that took a seat came or went.
    pub(super) fn count_seat(&mut self, pod: &Arc<PodInfo>, add: bool) {
        let Some(seat) = &pod.seat else { return };
        let reserved = self.reserved.get_or_insert_default();
        let seats = reserved.consumers.entry(seat.uid.clone()).or_default();
        let consumers = seats.entry(seat.index).or_default();
        consumers.retain(|other| other.uid != pod.uid);
        if add {
            consumers.push(pod.clone());
        } else if consumers.is_empty() {
            seats.remove(&seat.index);
        }
        if seats.is_empty() {
            reserved.consumers.remove(&seat.uid);
        }
        reserved.changed.insert(seat.uid.clone());
        // Room that is taken is taken off the seat at once, or it would be counted twice.
        if add || !reserved.frozen {
            self.refresh_seat(seat);
        } else {
            reserved.stale.insert((**seat).clone());
        }
        self.drop_reserved_if_empty();
    }

    /// Where nothing is held any more, and nobody says so, nothing of it is looked at.
    fn drop_reserved_if_empty(&mut self) {
        if self.reserved.as_ref().is_some_and(|r| r.all.is_empty() && r.consumers.is_empty()) {
            self.reserved = None;
        }
    }

    fn refresh_seat_of(&mut self, uid: &str, index: u32) {
        if let Some(terms) = self.reservation(uid) {
            let seat = terms.seat(index);
            self.refresh_seat(&seat);
        }
    }

    /// What stands for a seat follows what was taken of it.
    fn refresh_seat(&mut self, seat: &Seat) {
        let stand_in = self.reserved.as_ref().and_then(|reserved| reserved.stand_in(seat, None));
        self.stand(seat, stand_in.map(Arc::new));
    }

    /// Puts that in a seat's place. Taking back steps does not need to know: it is worked out anew then.
    fn stand(&mut self, seat: &Seat, stand_in: Option<Arc<PodInfo>>) {
        let undo = self.undo.take();
        let key = seat.key();
        let same = match (&stand_in, self.pods.get(&key)) {
            (None, None) => true,
            (Some(new), Some(old)) => new.node == old.pod.node && new.shape == old.pod.shape,
            _ => false,
        };
        if !same {
            self.take(&key);
            if let Some(stand_in) = stand_in {
                self.put(stand_in);
            }
        }
        let left = self.pods.get(&key).map(|bound| bound.pod.clone());
        if let Some(held) = self.reserved.as_mut().and_then(|reserved| reserved.all.get_mut(&seat.uid))
            && let Some(replica) = held.seats.get_mut(seat.index as usize)
        {
            replica.left = left;
        }
        self.undo = undo;
    }

    fn lift(&mut self, key: &str) {
        let undo = self.undo.take();
        self.take(key);
        self.undo = undo;
    }

    /// While that is tried out, seats do not grow into the room of who leaves.
    pub(super) fn frozen<T>(&mut self, what: impl FnOnce(&mut Self) -> T) -> T {
        let freeze = |cluster: &mut Self, frozen: bool| {
            cluster.reserved.as_mut().is_some_and(|reserved| std::mem::replace(&mut reserved.frozen, frozen))
        };
        let before = freeze(self, true);
        let result = what(self);
        freeze(self, before);
        if !before && let Some(reserved) = &mut self.reserved {
            std::mem::take(&mut reserved.stale).iter().for_each(|seat| self.refresh_seat(seat));
        }
        result
    }

    /// Whether a pod may take seats, and wants nothing else.
    fn wishes(&self, pod: &PodInfo) -> Option<Policy> {
        let reserved = self.reserved.as_ref().filter(|reserved| !reserved.frozen);
        let wanted = pod.wish().map_or(Policy::Preferred, |wish| wish.policy);
        if wanted == Policy::Required {
            return Some(wanted);
        }
        let some = reserved?.of_namespace.contains_key(pod.namespace());
        let named = pod.wish().is_some_and(|wish| wish.only.is_some());
        (wanted == Policy::Preferred && pod.holds.is_none() && (some || named)).then_some(wanted)
    }

    /// The seats that a pod may take, those that cover it first, and of these the smallest.
    fn seats_for(&self, pod: &PodInfo) -> Vec<(Seat, usize)> {
        let Some(reserved) = &self.reserved else { return Vec::new() };
        let named = pod.wish().and_then(|wish| wish.only.as_ref());
        let namespace = named.map_or(pod.namespace(), |(namespace, _)| namespace);
        let mut found = Vec::new();
        for uid in reserved.of_namespace.get(namespace).into_iter().flatten() {
            let Some(held) = reserved.all.get(uid).filter(|held| held.terms.is_for(pod)) else { continue };
            for (index, replica) in (0..).zip(&held.seats) {
                let (Some(node), Some(left)) = (&replica.node, &replica.left) else { continue };
                let (left, asked) = (&left.shape.requests, &pod.shape.requests);
                if replica.done || !helps(left, asked) {
                    continue;
                }
                if held.terms.once && reserved.consumers(uid, index, node).next().is_some() {
                    continue;
                }
                let Some(slot) = self.world.nodes.find_live(node) else { continue };
                let order = (!covers(left, asked), left.milli_cpu, left.memory);
                found.push((order, held.terms.seat(index), slot));
            }
        }
        found.sort_by(|(a, one, _), (b, other, _)| (a, one.index, one).cmp(&(b, other.index, other)));
        found.into_iter().map(|(_, seat, slot)| (seat, slot)).collect()
    }

    /// The same in parts that are looked at together: of each node one seat.
    fn parts_for(&self, pod: &PodInfo) -> Vec<Vec<(Seat, usize)>> {
        let mut parts = Vec::new();
        let mut rest = self.seats_for(pod);
        while !rest.is_empty() {
            let mut nodes = HashSet::new();
            let (mut part, mut later) = (Vec::new(), Vec::new());
            for (seat, slot) in rest {
                if part.len() < TOGETHER && nodes.insert(slot) {
                    part.push((seat, slot));
                } else {
                    later.push((seat, slot));
                }
            }
            parts.push(part);
            rest = later;
        }
        parts
    }

    /// Does something while seats hold what they would hold with that pod.
    fn as_taken<T>(
        &mut self,
        pod: &PodInfo,
        seats: &[(Seat, usize)],
        what: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut before = Vec::with_capacity(seats.len());
        for (seat, _) in seats {
            let stand_in = self.reserved.as_ref().and_then(|r| r.stand_in(seat, Some(pod)));
            before.push((seat, self.pods.get(&seat.key()).map(|bound| bound.pod.clone())));
            self.stand(seat, stand_in.map(Arc::new));
        }
        let result = what(self);
        before.into_iter().for_each(|(seat, before)| self.stand(seat, before));
        result
    }

    /// A place for an owner among the seats that it may take. Nothing when it may go elsewhere, too.
    pub(super) fn schedule_owner(
        &mut self,
        pod: &PodInfo,
        seed: u64,
        (filter, bonus): (Option<NodeFilter<'_>>, Option<Bonus<'_>>),
    ) -> Option<Result<Placement, Unschedulable>> {
        let wanted = self.wishes(pod)?;
        let mut refusal = None;
        for part in self.parts_for(pod) {
            let slots: Vec<usize> = part.iter().map(|(_, slot)| *slot).collect();
            let found = self.as_taken(pod, &part, |cluster| {
                cluster.decide(pod, None, seed, (filter, bonus), Some(&slots))
            });
            match found {
                Ok(mut placement) => {
                    let slot = self.world.nodes.find(&placement.node);
                    let seat = part.into_iter().find(|(_, at)| Some(*at) == slot);
                    placement.seat = seat.map(|(seat, _)| Arc::new(seat));
                    return Some(Ok(placement));
                }
                Err(unplaced) => refusal = Some(unplaced),
            }
        }
        if wanted != Policy::Required {
            return None;
        }
        let none = || {
            let why = "node(s) where no reservation holds room for the pod".to_owned();
            Unschedulable::everywhere(self.len(), why, Hints::none())
        };
        let mut refusal = refusal.unwrap_or_else(none);
        refusal.hints = refusal.hints.union(Hints::RESERVATION).union(Hints::POD_GONE);
        Some(Err(refusal))
    }

    /// Whether an owner has a place among the seats that it may take. Nothing when it may go elsewhere, too.
    pub(super) fn owner_fits(&mut self, pod: &PodInfo) -> Option<Result<(), Hints>> {
        let wanted = self.wishes(pod)?;
        for part in self.parts_for(pod) {
            let slots: Vec<usize> = part.iter().map(|(_, slot)| *slot).collect();
            let fits = self.as_taken(pod, &part, |cluster| {
                if cluster.admit(pod).is_err() {
                    return false;
                }
                let pins = cluster.pins_among(pod, Some(&slots));
                let (class, world) = cluster.needs_on(Pins::nodes(pins.as_ref()), pod);
                Judge::new(class, &world.nodes).fits(pins.as_ref())
            });
            if fits {
                return Some(Ok(()));
            }
        }
        (wanted == Policy::Required).then(|| Err(Hints::RESERVATION.union(Hints::POD_GONE)))
    }

    /// The reservations that a pod may use, with how many of their seats hold something for it.
    pub fn reservations_for(&self, pod: &PodInfo) -> Vec<(Arc<Terms>, usize)> {
        let Some(reserved) = &self.reserved else { return Vec::new() };
        let able = self.seats_for(pod);
        let own = reserved.all.values().filter(|held| held.terms.is_for(pod));
        let count = |uid: &str| able.iter().filter(|(seat, _)| *seat.uid == *uid).count();
        own.map(|held| (held.terms.clone(), count(&held.terms.uid))).collect()
    }
}

impl Reserved {
    fn forget(&mut self, uid: &str) {
        self.of_namespace.retain(|_, uids| {
            uids.remove(uid);
            !uids.is_empty()
        });
    }
}
