//! The one thread that changes the store: evaluates, writes, syncs, publishes, answers. In that order.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Options, Shared, codec,
    codec::Record,
    log::{self, Log},
    state::State,
};
use crate::{Compare, Error, KeyValue, LeaseId, Op, Result, Revision, Txn, TxnResponse};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// Work with its seat in the queue.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) work: Work,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// What can be asked of the committer.
#[derive(Debug)]
pub(super) enum Work {
    Txn(Txn, Reply<TxnResponse>),
    Compact(Revision, Reply<()>),
    Grant(i64, Reply<LeaseId>),
    Revoke(LeaseId, Reply<()>),
    /// Replace the log by a snapshot.
    Snapshot(Reply<()>),
}

/// Most bytes that one group writes before it syncs.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes of room that are kept from one group to the next.
const FRAME_KEPT: usize = 256 << 10;
/// Longest sleep of an idle committer that has leases to watch.
const IDLE: Duration = Duration::from_secs(3600);

/// Owns the log. See the module.
pub(super) struct Committer {
    shared: Arc<Shared>,
    log: Log,
    options: Options,
    queue: Receiver<Request>,
    expiries: BinaryHeap<Reverse<(Instant, LeaseId)>>,
    next_lease: LeaseId,
    snapshot: Option<JoinHandle<Result<u64>>>,
    snapshot_at: u64,
    /// Who waits for the next snapshot to be written.
    snapshot_for: Vec<Reply<()>>,
    broken: Option<Error>,
    /// Room for what is written next.
    frame: Vec<u8>,
}

/// Transactions that will become durable together, and the state as it will be then.
#[derive(Default)]
struct Group {
    revision: Revision,
    pending: HashMap<Bytes, Option<KeyValue>>,
    revoked: Vec<LeaseId>,
    granted: Vec<LeaseId>,
    records: Vec<Record>,
    bytes: usize,
    answers: Vec<Box<dyn FnOnce(Result<()>)>>,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, log: Log, options: Options, queue: Receiver<Request>) -> Self {
        let mut expiries = BinaryHeap::new();
        let mut next_lease = 1;
        for (lease, ends) in shared.read().leases() {
            expiries.push(Reverse((ends, lease)));
            next_lease = next_lease.max(lease + 1);
        }
        let snapshot_at = options.snapshot_log_bytes;
        Self {
            shared,
            log,
            options,
            queue,
            expiries,
            next_lease,
            snapshot: None,
            snapshot_at,
            snapshot_for: Vec::new(),
            broken: None,
            frame: Vec::new(),
        }
    }

    /// Serve until every sender is gone and the queue is empty.
    pub(super) fn run(mut self) {
        loop {
            let wait = self
                .expiries
                .peek()
                .map_or(IDLE, |Reverse((at, _))| at.saturating_duration_since(Instant::now()).min(IDLE));
            let first = match self.queue.recv_timeout(wait) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let group = self.gather(first);
            self.commit(group);
            self.maybe_snapshot();
        }
        self.finish_snapshot();
    }

    /// Evaluate everything that waits, up to the group's bound.
    fn gather(&mut self, first: Option<Request>) -> Group {
        let shared = self.shared.clone();
        let state = shared.read();
        let mut group = Group { revision: state.revision(), ..Group::default() };
        self.expire(&state, &mut group);
        let mut next = first;
        while let Some(request) = next {
            group.permits.push(request._permit);
            match request.work {
                Work::Txn(txn, reply) => group.evaluate(&state, txn, reply),
                Work::Compact(revision, reply) => group.compact(&state, revision, reply),
                Work::Snapshot(reply) => self.snapshot_for.push(reply),
                Work::Revoke(lease, reply) => {
                    let known = group.revoke(&state, lease);
                    let answer = if known { Ok(()) } else { Err(Error::LeaseNotFound(lease)) };
                    group.answer(reply, answer);
                }
                Work::Grant(ttl, reply) => {
                    let lease = self.next_lease;
                    self.next_lease += 1;
                    let ends = Instant::now() + Duration::from_secs(ttl.max(1).unsigned_abs());
                    self.expiries.push(Reverse((ends, lease)));
                    group.records.push(Record::Grant { lease, ttl });
                    group.granted.push(lease);
                    group.answer(reply, Ok(lease));
                }
            }
            next = if group.bytes < GROUP_BYTES { self.queue.try_recv().ok() } else { None };
        }
        if state.history_bytes() > self.options.max_history_bytes && !state.is_pinned() {
            group.records.push(Record::Compact { revision: state.middle_of_history() });
        }
        group
    }

    /// Revoke the leases whose time has come; those kept alive meanwhile go back into the heap.
    fn expire(&mut self, state: &State, group: &mut Group) {
        let now = Instant::now();
        while self.expiries.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, lease))) = self.expiries.pop() else { break };
            match state.lease_ends(lease) {
                Some(ends) if ends > now => self.expiries.push(Reverse((ends, lease))),
                Some(_) => {
                    group.revoke(state, lease);
                    // Should the write fail, try again a second later.
                    self.expiries.push(Reverse((now + Duration::from_secs(1), lease)));
                }
                None => {}
            }
        }
    }

    fn commit(&mut self, group: Group) {
        let outcome = self.write(&group.records);
        if outcome.is_ok() && !group.records.is_empty() {
            let batches = self.shared.write().apply(group.records, Instant::now());
            self.shared.publish(&batches);
        }
        for answer in group.answers {
            answer(outcome.clone());
        }
    }

    fn write(&mut self, records: &[Record]) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if records.is_empty() {
            return Ok(());
        }
        let frame = &mut self.frame;
        frame.clear();
        frame.shrink_to(FRAME_KEPT);
        let start = codec::begin_frame(frame);
        for record in records {
            record.encode(frame);
        }
        codec::finish_frame(frame, start);
        let outcome = self.log.append(frame);
        if let Err(error @ Error::Unavailable(_)) = &outcome {
            tracing::error!(
                "writes are refused from now on (hint: restart after the disk is repaired): {error}"
            );
            self.broken = Some(error.clone());
        }
        outcome
    }

    /// Start a snapshot in the background once the log is long enough, so that it can be cut.
    fn maybe_snapshot(&mut self) {
        // Somebody may have asked for one of the state as it is now.
        if self.snapshot.as_ref().is_some_and(JoinHandle::is_finished) || !self.snapshot_for.is_empty() {
            self.finish_snapshot();
        }
        if let Some(error) = &self.broken {
            // There will be none any more.
            for reply in self.snapshot_for.drain(..) {
                let _ = reply.send(Err(error.clone()));
            }
            return;
        }
        let is_due = !self.snapshot_for.is_empty() || self.log.length() >= self.snapshot_at;
        if self.snapshot.is_some() || !is_due {
            return;
        }
        let waiting = mem::take(&mut self.snapshot_for);
        let number = match self.log.rotate() {
            Ok(number) => number,
            Err(error) => {
                for reply in waiting {
                    let _ = reply.send(Err(error.clone()));
                }
                tracing::warn!("the log could not be rotated, it grows on: {error}");
                self.snapshot_at = self.log.length() + self.options.snapshot_log_bytes;
                return;
            }
        };
        let (revision, begin) = self.shared.write().pin();
        let (dir, shared) = (self.options.dir.clone(), self.shared.clone());
        match sampan_daemon::task::thread("store-snapshot", move || {
            let pages = Pages { shared, revision, begin: Some(begin), last: None, keys: 0, bytes: 0 };
            let written = pages.write(&dir, number);
            for reply in waiting {
                let _ = reply.send(written.clone().map(|_| ()));
            }
            written
        }) {
            Ok(running) => self.snapshot = Some(running),
            Err(error) => {
                self.shared.write().unpin();
                tracing::warn!("no snapshot, the log stays: {error}");
            }
        }
    }

    /// Wait for the snapshot that is being written, if there is one.
    fn finish_snapshot(&mut self) {
        let Some(running) = self.snapshot.take() else { return };
        match running.join() {
            Ok(Ok(bytes)) => self.snapshot_at = self.options.snapshot_log_bytes.max(2 * bytes),
            Ok(Err(error)) => tracing::warn!("snapshot failed, the log stays: {error}"),
            Err(_) => tracing::error!("snapshot panicked, the log stays"),
        }
    }
}

/// Keys that a snapshot takes at once: nobody waits for more than that.
const PAGE: usize = 2048;

/// A snapshot that goes through the keys as they were when it began, while others go on changing them.
struct Pages {
    shared: Arc<Shared>,
    revision: Revision,
    /// What comes before the keys.
    begin: Option<Vec<Record>>,
    last: Option<Bytes>,
    keys: usize,
    /// Of keys and values, about.
    bytes: u64,
}

impl Pages {
    fn write(mut self, dir: &std::path::Path, number: u64) -> Result<u64> {
        let mut ended = false;
        log::write_snapshot(dir, number, || {
            if ended {
                return None;
            }
            let records = self.begin.take().unwrap_or_else(|| self.page(&mut ended));
            self.bytes += records.iter().map(Record::weight).sum::<usize>() as u64;
            Some(records)
        })?;
        Ok(self.bytes)
    }

    fn page(&mut self, ended: &mut bool) -> Vec<Record> {
        let mut records = Vec::with_capacity(PAGE);
        let state = self.shared.read();
        self.last = state.snapshot_page(self.revision, self.last.as_ref(), PAGE, &mut records);
        drop(state);
        self.keys += records.len();
        if self.last.is_none() {
            *ended = true;
            records.push(Record::Bounds { revision: self.revision, keys: self.keys as i64 });
        }
        records
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.shared.write().unpin();
    }
}

impl Group {
    fn current(&self, state: &State, key: &Bytes) -> Option<KeyValue> {
        self.pending.get(key).cloned().unwrap_or_else(|| state.get(key))
    }

    /// Queue an answer for the moment when this group is durable.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, value: Result<T>) {
        self.answers.push(Box::new(move |durable| {
            // A caller that went away does not need its answer.
            let _ = reply.send(durable.and(value));
        }));
    }

    fn evaluate(&mut self, state: &State, txn: Txn, reply: Reply<TxnResponse>) {
        let keys: Vec<_> =
            txn.compare.iter().map(|Compare::ModRevision(key, _)| self.current(state, key)).collect();
        let holds = txn.compare.iter().zip(&keys).all(|(Compare::ModRevision(_, wanted), kv)| {
            kv.as_ref().map_or(0, |kv| kv.mod_revision) == *wanted
        });
        if !holds {
            let response = TxnResponse::Conflict(self.revision, keys);
            return self.answer(reply, Ok(response));
        }
        for op in &txn.ops {
            if let Op::Put { lease, .. } = op
                && *lease != 0
                && (self.revoked.contains(lease)
                    || !(self.granted.contains(lease) || state.has_lease(*lease)))
            {
                return self.answer(reply, Err(Error::LeaseNotFound(*lease)));
            }
        }
        self.apply(state, txn.ops);
        let response = TxnResponse::Committed(self.revision);
        self.answer(reply, Ok(response));
    }

    fn apply(&mut self, state: &State, ops: Vec<Op>) {
        let revision = self.revision + 1;
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let old = self.current(state, &key);
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: old.as_ref().map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: old.map_or(1, |kv| kv.version + 1),
                        lease,
                    };
                    self.bytes += key.len() + value.len();
                    self.pending.insert(key.clone(), Some(kv));
                    self.records.push(Record::Put { revision, key, value, lease });
                }
                Op::Delete { key } => {
                    if self.current(state, &key).is_none() {
                        continue;
                    }
                    self.bytes += key.len();
                    self.pending.insert(key.clone(), None);
                    self.records.push(Record::Delete { revision, key });
                }
            }
            self.revision = revision;
        }
    }

    fn compact(&mut self, state: &State, revision: Revision, reply: Reply<()>) {
        let answer = if revision > self.revision {
            Err(Error::Future(self.revision))
        } else if revision < state.compacted() {
            Err(Error::Compacted(state.compacted()))
        } else {
            self.records.push(Record::Compact { revision });
            Ok(())
        };
        self.answer(reply, answer);
    }

    /// End a lease and delete what hangs on it, keys put in this very group included.
    fn revoke(&mut self, state: &State, lease: LeaseId) -> bool {
        let fresh = self.granted.contains(&lease);
        let Some(mut keys) = state.lease_keys(lease).or_else(|| fresh.then(Vec::new)) else { return false };
        if self.revoked.contains(&lease) {
            return false;
        }
        keys.extend(self.pending.keys().cloned());
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| self.current(state, key).is_some_and(|kv| kv.lease == lease));
        self.apply(state, keys.into_iter().map(|key| Op::Delete { key }).collect());
        self.records.push(Record::Revoke { lease });
        self.revoked.push(lease);
        self.granted = mem::take(&mut self.granted).into_iter().filter(|id| *id != lease).collect();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_a_broken_store_for_a_snapshot_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Log::open(dir.path()).unwrap();
        let state = std::sync::RwLock::new(State::new());
        let shared = Arc::new(Shared { state, watchers: std::sync::Mutex::default() });
        let (requests, queue) = std::sync::mpsc::channel();
        let mut committer = Committer::new(shared, opened.log, Options::new(dir.path()), queue);
        committer.broken = Some(Error::Unavailable("the disk is gone".into()));
        let thread = sampan_daemon::task::thread("store-commit", move || committer.run()).unwrap();
        let seats = Arc::new(tokio::sync::Semaphore::new(1));
        let (reply, answer) = oneshot::channel();
        let permit = seats.acquire_owned().await.unwrap();
        requests.send(Request { work: Work::Snapshot(reply), _permit: permit }).unwrap();
        let error = answer.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("the disk is gone"), "{error}");
        drop(requests);
        thread.join().unwrap();
    }
}
