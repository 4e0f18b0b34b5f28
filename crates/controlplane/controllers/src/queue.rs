//! A work queue of keys: each at most once in it, never worked on twice at a time, retried ever more slowly.
//!
//! A key whose work takes long is not worked on all the time: see [`Queue::rest`].

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Work this short never makes its key rest.
const SHORT: Duration = Duration::from_millis(2);
/// A key rests this many times as long as its work took.
const RESTS: u32 = 3;
/// What is to be looked at later is looked at now and then all the same: users write delays beyond what clocks count.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The queue. Its size is bounded by the number of distinct keys.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    /// Waiting in `ready`, or asked for again while being worked on.
    dirty: HashSet<K>,
    working: HashSet<K>,
    timers: BTreeMap<(Instant, u64), K>,
    timer_of: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    /// Keys that rest, by the end of it.
    resting: BTreeMap<(Instant, u64), K>,
    rests: HashSet<K>,
    serial: u64,
}

impl<K: Hash + Eq + Clone> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Clone> Queue<K> {
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            timers: BTreeMap::new(),
            timer_of: HashMap::new(),
            failures: HashMap::new(),
            resting: BTreeMap::new(),
            rests: HashSet::new(),
            serial: 0,
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for work on a key, now.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.wake.notify_one();
    }

    /// Asks for work on a key after a delay; of several timers of a key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.lock();
        let at = Instant::now() + delay.min(LONGEST);
        if let Some(old) = state.timer_of.get(&key).copied() {
            if old.0 <= at {
                return;
            }
            state.timers.remove(&old);
        }
        state.serial += 1;
        let id = (at, state.serial);
        state.timers.insert(id, key.clone());
        state.timer_of.insert(key, id);
        drop(state);
        self.wake.notify_one();
    }

    /// Asks for work on a key that failed, later with each failure.
    pub fn retry(&self, key: K) {
        let delay = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = FIRST_RETRY.saturating_mul(1_u32.checked_shl(*failures).unwrap_or(u32::MAX));
            *failures = (*failures + 1).min(20);
            delay.min(LAST_RETRY)
        };
        self.add_after(key, delay);
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// Ends the work on a key; if it was asked for meanwhile, it is ready again, after the rest that it is due.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.working.remove(key);
        if !state.dirty.contains(key) {
            return;
        }
        if !state.rests.contains(key) {
            state.ready.push_back(key.clone());
        }
        // The end of its rest may be what is due next.
        drop(state);
        self.wake.notify_one();
    }

    /// Lets a key that is being worked on rest afterwards, in proportion to the processor time that its work took, but no
    /// longer than that. What happens meanwhile is looked at together: a Service whose ten thousand pods get ready one by one is not computed
    /// ten thousand times, and keeps nobody else from the processor. Short work is repeated at once.
    pub fn rest(&self, key: &K, took: Duration, longest: Duration) {
        if took < SHORT {
            return;
        }
        let mut state = self.lock();
        let until = Instant::now() + took.saturating_mul(RESTS).min(longest);
        state.serial += 1;
        let id = (until, state.serial);
        state.resting.insert(id, key.clone());
        state.rests.insert(key.clone());
    }

    /// The next key to work on. Whoever takes it must call [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            let timer = {
                let mut state = self.lock();
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                let next = |timers: &BTreeMap<(Instant, u64), K>| timers.keys().next().map(|(at, _)| *at);
                [next(&state.timers), next(&state.resting)].into_iter().flatten().min()
            };
            match timer {
                None => woken.await,
                Some(at) => {
                    // Which of both it was does not matter: the state is looked at again.
                    let _ = tokio::time::timeout_at(at, woken).await;
                }
            }
        }
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn add(&mut self, key: K) {
        if let Some(id) = self.timer_of.remove(&key) {
            self.timers.remove(&id);
        }
        let is_held = self.working.contains(&key) || self.rests.contains(&key);
        if self.dirty.insert(key.clone()) && !is_held {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let now = Instant::now();
        while let Some(entry) = self.resting.first_entry().filter(|e| e.key().0 <= now) {
            let key = entry.remove();
            self.rests.remove(&key);
            if self.dirty.contains(&key) && !self.working.contains(&key) {
                self.ready.push_back(key);
            }
        }
        while let Some(entry) = self.timers.first_entry().filter(|e| e.key().0 <= now) {
            let key = entry.remove();
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deduplicates_and_never_works_twice_at_a_time() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        let waiting = tokio::time::timeout(Duration::from_millis(20), queue.next()).await;
        assert!(waiting.is_err(), "a is being worked on");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test]
    async fn long_work_makes_its_key_rest_and_no_other() {
        let queue = Queue::new();
        queue.add("long");
        assert_eq!(queue.next().await, "long");
        queue.rest(&"long", Duration::from_millis(20), Duration::from_millis(50));
        queue.add("long");
        queue.done(&"long");
        queue.add("other");
        let start = Instant::now();
        assert_eq!(queue.next().await, "other");
        queue.done(&"other");
        // Asked for while it was worked on, and again while it rests: once.
        queue.add("long");
        assert_eq!(queue.next().await, "long");
        assert!(start.elapsed() >= Duration::from_millis(50));
        queue.rest(&"long", Duration::from_millis(1), Duration::from_millis(50));
        queue.add("long");
        queue.done(&"long");
        assert_eq!(queue.next().await, "long");
        queue.done(&"long");
        let state = queue.lock();
        assert!(state.rests.is_empty() && state.resting.is_empty() && state.ready.is_empty());
    }

    #[tokio::test]
    async fn the_earliest_timer_counts_and_retries_slow_down() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_millis(20));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(queue.next().await, "a");
        assert!((20..2000).contains(&start.elapsed().as_millis()));
        queue.done(&"a");
        let mut delays = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            queue.retry("a");
            queue.next().await;
            queue.done(&"a");
            delays.push(before.elapsed());
        }
        assert!(delays[0] >= FIRST_RETRY && delays[3] >= FIRST_RETRY * 8);
        queue.forget(&"a");
        assert!(queue.lock().failures.is_empty());
        queue.add_after("late", Duration::MAX);
        queue.add("a");
        assert_eq!(queue.next().await, "a", "what is never due is in nobody's way");
    }
}
