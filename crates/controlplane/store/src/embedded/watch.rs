//! Watches read the shared history at their own pace: nothing is queued for a watcher, so a slow one costs nothing
//! and is told `Compacted` once the history has moved on without it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use tokio::sync::Notify;

use super::{Shared, state};
use crate::{Error, Result, Revision, Watch, WatchBatch};

/// How often a quiet watch hears of progress, when it asked for it.
const PROGRESS: Duration = Duration::from_secs(60);
/// Events taken from the history in one go.
const CHUNK: usize = 1000;

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Registry {
    next: u64,
    entries: BTreeMap<u64, Entry>,
    closed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Entry {
    start: Bytes,
    end: Bytes,
    wake: Arc<Notify>,
}

impl Registry {
    /// Wake those whose range was touched.
    pub(super) fn notify(&self, batches: &[WatchBatch]) {
        for entry in self.entries.values() {
            let touched = |batch: &WatchBatch| {
                batch.events.iter().any(|e| state::covers(&entry.start, &entry.end, &e.kv.key))
            };
            if batches.iter().any(touched) {
                entry.wake.notify_one();
            }
        }
    }

    /// End all watches.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for entry in self.entries.values() {
            entry.wake.notify_one();
        }
    }
}

struct Watcher {
    shared: Arc<Shared>,
    id: u64,
    start: Bytes,
    end: Bytes,
    wake: Arc<Notify>,
    closed: Arc<AtomicBool>,
    seen: Revision,
    ready: VecDeque<WatchBatch>,
    progress: bool,
    told: bool,
    ended: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(&self.id);
    }
}

/// See [`crate::Store::watch`].
pub(super) fn open(
    shared: Arc<Shared>,
    start: Bytes,
    end: Bytes,
    from: Revision,
    progress: bool,
) -> Result<Watch> {
    let (revision, compacted) = {
        let state = shared.read();
        (state.revision(), state.compacted())
    };
    let seen = if from == 0 { revision } else { from - 1 };
    if seen < compacted {
        return Err(Error::Compacted(compacted));
    }
    let wake = Arc::new(Notify::new());
    let (id, closed) = {
        let mut registry = shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        registry.next += 1;
        let id = registry.next;
        registry.entries.insert(id, Entry { start: start.clone(), end: end.clone(), wake: wake.clone() });
        (id, registry.closed.clone())
    };
    let ready = VecDeque::new();
    let watcher = Watcher {
        shared,
        id,
        start,
        end,
        wake,
        closed,
        seen,
        ready,
        progress,
        told: !progress,
        ended: false,
    };
    Ok(Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        watcher.ended = item.is_err();
        Some((item, watcher))
    })))
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<WatchBatch>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(batch));
            }
            if self.closed.load(Ordering::Acquire) {
                return Some(Err(Error::Unavailable("the store is closed".into())));
            }
            match self.shared.read().events_after(self.seen, &self.start, &self.end, CHUNK) {
                Err(error) => return Some(Err(error)),
                Ok((batches, covered)) => {
                    self.seen = covered;
                    self.ready.extend(batches);
                }
            }
            if !self.ready.is_empty() {
                continue;
            }
            if !self.told {
                self.told = true;
                return Some(Ok(WatchBatch { revision: self.seen, events: Arc::new([]) }));
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(PROGRESS), if self.progress => self.told = false,
            }
        }
    }
}
