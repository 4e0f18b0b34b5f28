//! One priority level: its seats, the requests that wait for one, and what it lends to and borrows from others.
//!
//! A request that finds a seat takes it, which costs one short lock. One that finds none waits in a queue: each flow may
//! use a few of the level's queues (shuffle sharding), so that one noisy flow fills only its own. Of the queues the one
//! that has had the least time is served next (start-time fair queuing, by seconds of service and not by requests).

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// How long a request takes that nobody has seen yet, in seconds.
const FIRST_ESTIMATE: f64 = 0.003;

/// How the requests of a level wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queuing {
    pub(crate) queues: u32,
    pub(crate) hand: u32,
    /// Requests in one queue; more are refused.
    pub(crate) length: usize,
}

/// What a level may use at once, in seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Nothing is counted against anything.
    pub(crate) exempt: bool,
    pub(crate) nominal: i64,
    /// How many of them others may use while they are not needed.
    pub(crate) lendable: i64,
    /// How many more the level may use of others'.
    pub(crate) borrowing: i64,
    /// Without, a request that finds no seat is refused.
    pub(crate) queuing: Option<Queuing>,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
}

/// All levels, for lending among them.
#[derive(Default)]
pub(crate) struct Pool {
    levels: RwLock<Vec<Weak<Level>>>,
    /// Requests that wait, in all levels.
    waiting: AtomicI64,
}

impl Pool {
    /// From now on these lend to each other.
    pub(crate) fn set(&self, levels: &[Arc<Level>]) {
        let weak = levels.iter().map(Arc::downgrade).collect();
        *self.levels.write().unwrap_or_else(PoisonError::into_inner) = weak;
    }

    fn each(&self, mut f: impl FnMut(Arc<Level>)) {
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner);
        levels.iter().filter_map(Weak::upgrade).for_each(&mut f);
    }

    /// Seats that could be lent now. Read without locks: it may be off by what other levels do at this moment, never
    /// by more than the requests that are just beginning.
    fn spare(&self) -> i64 {
        let mut spare = 0;
        self.each(|level| {
            let (used, nominal) =
                (level.in_use.load(Ordering::Relaxed), level.nominal.load(Ordering::Relaxed));
            let lendable = level.lendable.load(Ordering::Relaxed);
            spare += lendable.min((nominal - used).max(0)) - (used - nominal).max(0);
        });
        spare
    }
}

/// A priority level.
pub(crate) struct Level {
    pub(crate) name: Box<str>,
    pool: Arc<Pool>,
    in_use: AtomicI64,
    nominal: AtomicI64,
    lendable: AtomicI64,
    waiting: AtomicI64,
    pub(crate) dispatched: AtomicU64,
    pub(crate) refused: AtomicU64,
    state: Mutex<State>,
}

struct State {
    share: Share,
    queues: HashMap<u32, Queue>,
    /// Service that a queue which begins to wait now counts as having had.
    clock: f64,
    /// How long requests take, in seconds, smoothed.
    estimate: f64,
    next: u64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    /// Service that the queue has had.
    served: f64,
}

struct Waiter {
    ticket: u64,
    width: i64,
    start: oneshot::Sender<Seat>,
}

/// A place among the requests that are carried out; free again when dropped.
pub(crate) struct Seat {
    level: Arc<Level>,
    width: i64,
    started: Instant,
    /// The queue it came from, and what that was charged.
    charged: Option<(u32, f64)>,
    /// Whether it counts.
    counted: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.counted {
            Level::release(&self.level, self.width, self.started.elapsed().as_secs_f64(), self.charged);
        }
    }
}

/// A request that waits; leaves its queue when dropped.
struct Waiting<'a> {
    level: &'a Level,
    queue: u32,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.level.lock();
        if let Some(queue) = state.queues.get_mut(&self.queue)
            && let Some(at) = queue.waiting.iter().position(|waiter| waiter.ticket == self.ticket)
        {
            queue.waiting.remove(at);
            self.level.count_waiting(-1);
        }
    }
}

/// Deals a hand of cards by a hash: the queues that a flow may use.
pub(crate) fn deal(mut hash: u64, deck: u32, hand: u32) -> Vec<u32> {
    let mut cards: Vec<u32> = Vec::with_capacity(hand as usize);
    for dealt in 0..hand.min(deck) {
        let left = u64::from(deck - dealt);
        // Below a number of 32 bits.
        let mut card = u32::try_from(hash % left).unwrap_or_default();
        hash /= left;
        let mut before = cards.clone();
        before.sort_unstable();
        for other in before {
            if card >= other {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

impl Level {
    pub(crate) fn new(name: &str, pool: &Arc<Pool>, share: Share) -> Arc<Self> {
        let level = Self {
            name: name.into(),
            pool: pool.clone(),
            in_use: AtomicI64::new(0),
            nominal: AtomicI64::new(0),
            lendable: AtomicI64::new(0),
            waiting: AtomicI64::new(0),
            dispatched: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            state: Mutex::new(State {
                share,
                queues: HashMap::new(),
                clock: 0.0,
                estimate: FIRST_ESTIMATE,
                next: 0,
            }),
        };
        let level = Arc::new(level);
        Self::configure(&level, share);
        level
    }

    /// Changes what the level may use; who waits may go on at once.
    pub(crate) fn configure(this: &Arc<Self>, share: Share) {
        this.nominal.store(share.nominal, Ordering::Relaxed);
        this.lendable.store(share.lendable, Ordering::Relaxed);
        let mut state = this.lock();
        state.share = share;
        let ready = Self::dispatch(this, &mut state);
        drop(state);
        hand_over(ready);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats in use.
    pub(crate) fn executing(&self) -> i64 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    pub(crate) fn queued(&self) -> i64 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn count_waiting(&self, by: i64) {
        self.waiting.fetch_add(by, Ordering::Relaxed);
        self.pool.waiting.fetch_add(by, Ordering::Relaxed);
    }

    /// Takes a seat, or waits for one at most `bound`. `flow` tells which queues to use; it is asked for only then.
    pub(crate) async fn enter(
        this: &Arc<Self>,
        width: i64,
        bound: Duration,
        flow: impl FnOnce() -> u64,
    ) -> Result<Seat, Refusal> {
        let (waiting, start) = {
            let mut state = this.lock();
            let share = state.share;
            if share.exempt {
                drop(state);
                return Ok(this.seat(width, None, false));
            }
            let width = width.clamp(1, share.nominal.max(1));
            if this.waiting.load(Ordering::Relaxed) == 0 && this.fits(&share, width) {
                this.in_use.fetch_add(width, Ordering::Relaxed);
                drop(state);
                return Ok(this.seat(width, None, true));
            }
            let Some(queuing) = share.queuing else {
                drop(state);
                return Err(this.refuse(Refusal::ConcurrencyLimit));
            };
            let waiting_in = |queue: &u32| state.queues.get(queue).map_or(0, |queue| queue.waiting.len());
            let hand = deal(flow(), queuing.queues, queuing.hand);
            let queue = hand.into_iter().min_by_key(waiting_in).unwrap_or_default();
            if waiting_in(&queue) >= queuing.length {
                drop(state);
                return Err(this.refuse(Refusal::QueueFull));
            }
            let (sender, start) = oneshot::channel();
            state.next += 1;
            let (ticket, clock) = (state.next, state.clock);
            let entry = state.queues.entry(queue).or_default();
            if entry.waiting.is_empty() {
                entry.served = entry.served.max(clock);
            }
            entry.waiting.push_back(Waiter { ticket, width, start: sender });
            this.count_waiting(1);
            let ready = Self::dispatch(this, &mut state);
            drop(state);
            hand_over(ready);
            (Waiting { level: this, queue, ticket }, start)
        };
        let outcome = tokio::time::timeout(bound, start).await;
        drop(waiting);
        match outcome {
            Ok(Ok(seat)) => Ok(seat),
            _ => Err(this.refuse(Refusal::TimeOut)),
        }
    }

    fn refuse(&self, why: Refusal) -> Refusal {
        self.refused.fetch_add(1, Ordering::Relaxed);
        why
    }

    fn seat(self: &Arc<Self>, width: i64, charged: Option<(u32, f64)>, counted: bool) -> Seat {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        Seat { level: self.clone(), width, started: Instant::now(), charged, counted }
    }

    /// Whether so many seats more can be taken. Called with the state locked, so that the level itself stands still.
    fn fits(&self, share: &Share, width: i64) -> bool {
        let used = self.in_use.load(Ordering::Relaxed);
        if used + width <= share.nominal {
            return true;
        }
        let borrowed = (used + width - share.nominal).max(0);
        let more = borrowed - (used - share.nominal).max(0);
        // What this level lends does not count for itself.
        let own = share.lendable.min((share.nominal - used).max(0));
        borrowed <= share.borrowing && self.pool.spare() - own >= more
    }

    /// Takes from the queues whoever can go on.
    fn dispatch(this: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Seat>, Seat)> {
        let mut ready = Vec::new();
        while this.waiting.load(Ordering::Relaxed) > 0 {
            let due = state
                .queues
                .iter()
                .filter(|(_, queue)| !queue.waiting.is_empty())
                .min_by(|(_, a), (_, b)| a.served.total_cmp(&b.served))
                .map(|(at, _)| *at);
            let (share, estimate) = (state.share, state.estimate);
            let Some((at, queue)) = due.and_then(|at| Some((at, state.queues.get_mut(&at)?))) else { break };
            let Some(width) = queue.waiting.front().map(|waiter| waiter.width) else { break };
            if !share.exempt && !this.fits(&share, width) {
                break;
            }
            let Some(waiter) = queue.waiting.pop_front() else { break };
            // Widths are small.
            let charge = estimate * f64::from(i32::try_from(width).unwrap_or(i32::MAX));
            state.clock = queue.served;
            queue.served += charge;
            this.count_waiting(-1);
            this.in_use.fetch_add(width, Ordering::Relaxed);
            ready.push((waiter.start, this.seat(width, Some((at, charge)), true)));
        }
        if this.waiting.load(Ordering::Relaxed) == 0 {
            // When nobody waits there is nothing to be fair about.
            state.queues.clear();
            state.clock = 0.0;
        }
        ready
    }

    fn release(this: &Arc<Self>, width: i64, seconds: f64, charged: Option<(u32, f64)>) {
        let mut state = this.lock();
        this.in_use.fetch_sub(width, Ordering::Relaxed);
        state.estimate = state.estimate * 0.9 + seconds * 0.1;
        if let Some((at, charge)) = charged
            && let Some(queue) = state.queues.get_mut(&at)
        {
            queue.served += seconds * f64::from(i32::try_from(width).unwrap_or(i32::MAX)) - charge;
        }
        let ready = Self::dispatch(this, &mut state);
        drop(state);
        hand_over(ready);
        if this.pool.waiting.load(Ordering::Relaxed) > 0 {
            // The seat may be of use to a level that borrows.
            this.pool.each(|level| {
                if !Arc::ptr_eq(&level, this) && level.queued() > 0 {
                    let mut state = level.lock();
                    let ready = Self::dispatch(&level, &mut state);
                    drop(state);
                    hand_over(ready);
                }
            });
        }
    }
}

/// Gives the seats to who waited. One who left meanwhile drops it, and it is free again.
fn hand_over(ready: Vec<(oneshot::Sender<Seat>, Seat)>) {
    for (start, seat) in ready {
        drop(start.send(seat));
    }
}

#[cfg(test)]
mod tests;
