//! The watch cache: one store watch per resource, a bounded ring of its last events, and bounded queues to watchers.

mod watchers;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use futures::StreamExt;
use sampan_daemon::{Backoff, Policy, Supervisor};
use sampan_store::{Event, Range, Revision, Store, Watch, prefix_end};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    encode::{self, Encoding},
    endpoint::Endpoint,
    options::Limits,
    select::{self, Selection},
};

pub(crate) use self::watchers::Pin;
use self::watchers::{Watcher, Watchers};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    /// The word in a watch line.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One event, shared by all who watch: parsed at most once, encoded at most once.
pub(crate) struct CachedEvent {
    pub(crate) key: Bytes,
    pub(crate) revision: Revision,
    pub(crate) change: Change,
    /// The object; of a deleted one, its last state.
    pub(crate) value: Bytes,
    /// The object before.
    pub(crate) previous: Option<Bytes>,
    now: OnceLock<Option<Value>>,
    before: OnceLock<Option<Value>>,
    frames: [OnceLock<Option<Bytes>>; encode::SHARED],
}

impl CachedEvent {
    pub(crate) fn new(event: &Event, endpoint: &Endpoint) -> Self {
        let previous = event.prev.as_ref().map(|kv| kv.value.clone());
        let change = match (event.deleted, &previous) {
            (true, _) => Change::Deleted,
            (false, _) if event.kv.version > 1 => Change::Modified,
            (false, _) => Change::Added,
        };
        let value = match (change, &previous) {
            (Change::Deleted, Some(previous)) => previous.clone(),
            (Change::Deleted, None) => Self::nameplate(endpoint, &event.kv.key),
            _ => event.kv.value.clone(),
        };
        Self {
            key: event.kv.key.clone(),
            revision: event.kv.mod_revision,
            change,
            value,
            previous,
            now: OnceLock::new(),
            before: OnceLock::new(),
            frames: Default::default(),
        }
    }

    /// What is left to say of a deleted object whose last state was compacted.
    fn nameplate(endpoint: &Endpoint, key: &[u8]) -> Bytes {
        let (namespace, name) = endpoint.names(key);
        let name = Value::from(name);
        let namespace = namespace.map(|n| format!(",\"namespace\":{}", Value::from(n))).unwrap_or_default();
        format!("{}\"name\":{name}{namespace}}}}}", endpoint.head).into()
    }

    /// What selectors can see of the object now.
    pub(crate) fn now(&self, endpoint: &Endpoint) -> Option<&Value> {
        self.now.get_or_init(|| select::visible(endpoint, &self.value)).as_ref()
    }

    /// What selectors could see of it before.
    pub(crate) fn before(&self, endpoint: &Endpoint) -> Option<&Value> {
        self.before.get_or_init(|| select::visible(endpoint, self.previous.as_ref()?)).as_ref()
    }

    /// The frame that all watchers with this encoding share; none when it is not shared.
    pub(crate) fn frame(&self, encoding: Encoding, endpoint: &Endpoint) -> Option<&Bytes> {
        let frame = self.frames.get(encoding.slot()?)?.get_or_init(|| {
            let mut out = Vec::with_capacity(self.value.len() + 80);
            let stored = (&*self.value, self.revision);
            let word = self.change.word();
            encode::push_frame(&mut out, encoding, word, endpoint, stored, false).ok()?;
            Some(out.into())
        });
        frame.as_ref()
    }

    /// What it costs to remember, about.
    fn size(&self) -> usize {
        self.value.len() * 2 + self.previous.as_ref().map_or(0, Bytes::len) + 256
    }
}

/// The events of one resource.
pub(crate) struct Cache {
    state: Mutex<State>,
    limits: Limits,
}

#[derive(Default)]
struct State {
    ring: VecDeque<Arc<CachedEvent>>,
    bytes: usize,
    /// All events after this revision are in the ring or still to come.
    since: Revision,
    /// All events up to this revision have passed.
    latest: Revision,
    watchers: Watchers,
}

/// A watcher's end: what it missed, then what comes. Leaves the cache when dropped.
pub(crate) struct Subscription {
    pub(crate) missed: VecDeque<Arc<CachedEvent>>,
    pub(crate) queue: mpsc::Receiver<Arc<CachedEvent>>,
    cache: Arc<Cache>,
    pin: Option<Pin>,
    id: u64,
}

impl Subscription {
    /// All events up to this revision are in the queue or were taken from it.
    pub(crate) fn latest(&self) -> Revision {
        self.cache.lock().latest
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.cache.lock().watchers.remove(self.id, self.pin.as_ref());
    }
}

impl Cache {
    /// Opens the store watch and starts the task that reads it.
    pub(crate) async fn open(
        endpoint: Arc<Endpoint>,
        store: Arc<dyn Store>,
        supervisor: &Supervisor,
        limits: Limits,
    ) -> sampan_store::Result<Arc<Self>> {
        let (start, watch) = Self::attach(&endpoint, &*store).await?;
        let cache = Arc::new(Self { state: Mutex::default(), limits });
        cache.reset(start);
        let name = format!("watch-cache/{}", endpoint.prefix);
        let policy = Policy::Restart(Backoff::new(
            std::time::Duration::from_millis(100),
            std::time::Duration::from_secs(10),
        ));
        let mut first = Some(watch);
        let task = cache.clone();
        supervisor.supervise(name, policy, move || {
            let (cache, endpoint, store, first) =
                (task.clone(), endpoint.clone(), store.clone(), first.take());
            async move {
                let watch = match first {
                    Some(watch) => watch,
                    None => {
                        let (start, watch) = Self::attach(&endpoint, &*store).await?;
                        cache.reset(start);
                        watch
                    }
                };
                cache.pump(&endpoint, watch).await
            }
        });
        Ok(cache)
    }

    async fn attach(endpoint: &Arc<Endpoint>, store: &dyn Store) -> sampan_store::Result<(Revision, Watch)> {
        let start = Bytes::from(endpoint.prefix.clone());
        let end = prefix_end(&start);
        let count = Range { start: start.clone(), end: end.clone(), count_only: true, ..Range::default() };
        let revision = store.range(count).await?.revision;
        let watch = store.watch(start, end, revision + 1, true).await?;
        Ok((revision, endpoint.present_watch(watch)))
    }

    /// Begins anew at a revision: watchers are ended, for they may have missed something.
    fn reset(&self, revision: Revision) {
        let mut state = self.lock();
        // The watchers' numbers go on: the old ones still take themselves out.
        let mut watchers = std::mem::take(&mut state.watchers);
        watchers.clear();
        *state = State { since: revision, latest: revision, watchers, ..State::default() };
    }

    async fn pump(&self, endpoint: &Endpoint, mut watch: Watch) -> sampan_store::Result<()> {
        while let Some(batch) = watch.next().await {
            let batch = batch?;
            let events: Vec<_> =
                batch.events.iter().map(|event| Arc::new(CachedEvent::new(event, endpoint))).collect();
            self.deliver(endpoint, events, batch.revision);
        }
        Err(sampan_store::Error::Unavailable("the store ended the watch".to_owned()))
    }

    fn deliver(&self, endpoint: &Endpoint, events: Vec<Arc<CachedEvent>>, revision: Revision) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for event in events {
            state.watchers.tell(endpoint, &event);
            state.bytes += event.size();
            state.ring.push_back(event);
        }
        while state.ring.len() > self.limits.history_events || state.bytes > self.limits.history_bytes {
            let Some(oldest) = state.ring.pop_front() else { break };
            state.bytes -= oldest.size();
            state.since = state.since.max(oldest.revision);
        }
        state.latest = state.latest.max(revision);
    }

    /// Joins the watchers of `scope` after a revision; none when the ring does not reach back that far.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        scope: Bytes,
        selection: Arc<Selection>,
        after: Revision,
    ) -> Option<Subscription> {
        let pin = selection.pin(endpoint);
        let mut state = self.lock();
        if after < state.since {
            return None;
        }
        let missed = state
            .ring
            .iter()
            .rev()
            .take_while(|event| event.revision > after)
            .filter(|event| event.key.starts_with(&scope))
            .cloned()
            .collect::<Vec<_>>();
        let (sender, queue) = mpsc::channel(self.limits.watch_queue.max(1));
        let id = state.watchers.insert(Watcher { scope, selection, queue: sender }, pin.as_ref());
        drop(state);
        let missed = missed.into_iter().rev().collect();
        Some(Subscription { missed, queue, cache: self.clone(), pin, id })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
