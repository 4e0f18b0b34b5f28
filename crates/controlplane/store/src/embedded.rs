//! The engine inside the binary: state in memory, made durable by a checksummed log with group commit.
//!
//! One committer thread owns the log. It takes all transactions that wait, evaluates them in order, writes them as
//! one frame, syncs once, and only then shows them to readers and answers. Reads and watches never wait for the
//! disk. See `docs/decisions/0001-store-engine.md` for what was measured.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{Semaphore, oneshot};

use crate::{
    Error, LeaseId, Op, Range, RangeResponse, Result, Revision, Store, Txn, TxnResponse, Watch, WatchBatch,
};

mod codec;
mod committer;
#[cfg(test)]
mod fuzz;
mod log;
mod state;
mod watch;

use committer::{Committer, Reply, Request};
use state::State;

/// Limits and place of an embedded store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory that holds the files; created when absent. One process at a time.
    pub dir: PathBuf,
    /// Largest transaction, in bytes of keys and values.
    pub max_txn_bytes: usize,
    /// Requests that may wait for the disk; more callers wait in line.
    pub max_pending: usize,
    /// Bytes of history kept for watches; beyond it the older half is compacted.
    pub max_history_bytes: usize,
    /// Size of the log at which a snapshot replaces it (at least; twice the last snapshot when that is more).
    pub snapshot_log_bytes: u64,
}

impl Options {
    /// The usual limits: 4 MiB a transaction, 8,192 waiting, 128 MiB of history, a snapshot each 64 MiB of log.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_txn_bytes: 4 << 20,
            max_pending: 8192,
            max_history_bytes: 128 << 20,
            snapshot_log_bytes: 64 << 20,
        }
    }
}

/// How often [`verify`] begins anew because files were replaced under it.
const VERIFY_TRIES: usize = 10;

/// What the files of a store hold; see [`verify`].
#[derive(Clone, Debug)]
pub struct Report {
    /// The revision of the last write.
    pub revision: Revision,
    /// Keys that there are.
    pub keys: usize,
    /// Bytes of the files.
    pub bytes: u64,
    /// A last write that was cut off and never acknowledged, as file and offset; opening the store removes it.
    pub torn: Option<(PathBuf, u64)>,
}

/// Reads every file of the store in `dir` and checks every checksum. Changes nothing, and needs no lock; while the store
/// is in use, its last write may look torn.
///
/// # Errors
/// [`Error::Corrupt`] naming file and offset.
pub fn verify(dir: &Path) -> Result<Report> {
    let mut tries = 0;
    let contents = loop {
        let before = log::numbered_files(dir)?;
        match log::read(dir) {
            // While it is in use, a snapshot may have replaced what was about to be read.
            Err(_) if tries < VERIFY_TRIES && log::numbered_files(dir)? != before => tries += 1,
            other => break other?,
        }
    };
    let state = replay(contents.records);
    Ok(Report {
        revision: state.revision(),
        keys: state.key_count(),
        bytes: contents.bytes,
        torn: contents.torn,
    })
}

/// Makes in `fresh` a store of what can be read of the one in `dir`: what was written before the first damage of its
/// log, without damaged parts of its snapshot. The rest is lost: for when there is no backup. Tells what was damaged,
/// and what is in the new store.
///
/// # Errors
/// The files cannot be read or have a newer format, or `fresh` cannot be written or holds a store already.
pub fn salvage(dir: &Path, fresh: &Path) -> Result<(Option<Error>, Report)> {
    let _lock = lock_dir(dir)?;
    let (contents, damage) = log::read_undamaged(dir)?;
    let state = replay(contents.records);
    log::create(fresh, &state.snapshot())?;
    Ok((damage, verify(fresh)?))
}

fn replay(groups: Vec<Vec<codec::Record>>) -> State {
    let (mut state, now) = (State::new(), Instant::now());
    for group in groups {
        state.apply(group, now);
    }
    state
}

/// Makes in `dir` a store that holds exactly these keys, with their revisions, at `revision`. `leases` are the seconds
/// left of each lease that a key hangs on.
///
/// # Errors
/// `dir` cannot be written, or holds a store already.
pub(crate) fn create(
    dir: &Path,
    revision: Revision,
    leases: &std::collections::BTreeMap<LeaseId, i64>,
    kvs: Vec<crate::KeyValue>,
) -> Result<()> {
    use codec::Record;
    let mut records = vec![Record::Bounds { revision, keys: 0 }];
    records.extend(leases.iter().map(|(lease, ttl)| Record::Grant { lease: *lease, ttl: *ttl }));
    let keys = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
    records.extend(kvs.into_iter().map(|kv| Record::Key {
        create: kv.create_revision,
        revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
        key: kv.key,
        value: kv.value,
    }));
    records.push(Record::Bounds { revision, keys });
    log::create(dir, &records)
}

/// The embedded store. Dropping it finishes what is queued and closes the files.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    requests: Option<Sender<Request>>,
    permits: Arc<Semaphore>,
    max_txn_bytes: usize,
    committer: Option<JoinHandle<()>>,
    _lock: Flock<std::fs::File>,
}

/// What readers, watchers and the committer share.
#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    watchers: Mutex<watch::Registry>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, batches: &[WatchBatch]) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).notify(batches);
    }
}

impl Embedded {
    /// Open or create the store in `options.dir`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming file and offset when acknowledged data is damaged; [`Error::Unavailable`] when
    /// another process has the store open or the directory cannot be used.
    pub fn open(options: Options) -> Result<Self> {
        let lock = lock_dir(&options.dir)?;
        let opened = log::Log::open(&options.dir)?;
        let state = replay(opened.records);
        let shared = Arc::new(Shared { state: RwLock::new(state), watchers: Mutex::default() });
        let (requests, queue) = channel();
        let permits = Arc::new(Semaphore::new(options.max_pending));
        let max_txn_bytes = options.max_txn_bytes;
        let worker = Committer::new(shared.clone(), opened.log, options, queue);
        let committer = sampan_daemon::task::thread("store-commit", move || worker.run())
            .map_err(|e| Error::Unavailable(format!("start the committer: {e}")))?;
        Ok(Self {
            shared,
            requests: Some(requests),
            permits,
            max_txn_bytes,
            committer: Some(committer),
            _lock: lock,
        })
    }

    /// Forgets history up to now, and replaces the log by a snapshot, so that the files hold nothing that is forgotten.
    /// Gives the revision.
    ///
    /// # Errors
    /// The disk refuses; the log stays.
    pub async fn tidy(&self) -> Result<Revision> {
        let now = self.shared.read().revision();
        self.compact(now).await?;
        self.request(committer::Work::Snapshot).await?;
        Ok(now)
    }

    async fn request<T>(&self, make: impl FnOnce(Reply<T>) -> committer::Work) -> Result<T> {
        let stopped = || Error::Unavailable("the store is closed".into());
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| stopped())?;
        let (reply, answer) = oneshot::channel();
        let request = Request { work: make(reply), _permit: permit };
        self.requests.as_ref().ok_or_else(stopped)?.send(request).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    fn check_size(&self, txn: &Txn) -> Result<()> {
        let weigh = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        };
        let size = txn.ops.iter().map(weigh).sum();
        if size > self.max_txn_bytes {
            return Err(Error::TooLarge { size, limit: self.max_txn_bytes });
        }
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the store's committer panicked");
        }
        self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner).close();
    }
}

impl Store for Embedded {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResponse>> {
        std::future::ready(self.shared.read().range(&range)).boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResponse>> {
        async move {
            self.check_size(&txn)?;
            self.request(|reply| committer::Work::Txn(txn, reply)).await
        }
        .boxed()
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
        progress: bool,
    ) -> BoxFuture<'_, Result<Watch>> {
        std::future::ready(watch::open(self.shared.clone(), start, end, from, progress)).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        self.request(move |reply| committer::Work::Compact(revision, reply)).boxed()
    }

    fn lease_grant(&self, ttl: i64) -> BoxFuture<'_, Result<LeaseId>> {
        self.request(move |reply| committer::Work::Grant(ttl, reply)).boxed()
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>> {
        let ttl = self.shared.write().keep_alive(lease, Instant::now());
        std::future::ready(ttl.ok_or(Error::LeaseNotFound(lease))).boxed()
    }

    fn lease_left(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>> {
        let left = self.shared.read().lease_left(lease, Instant::now());
        std::future::ready(left.ok_or(Error::LeaseNotFound(lease))).boxed()
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.request(move |reply| committer::Work::Revoke(lease, reply)).boxed()
    }
}

fn lock_dir(dir: &Path) -> Result<Flock<std::fs::File>> {
    let failed = |e: &dyn std::fmt::Display| Error::Unavailable(format!("{}: {e}", dir.display()));
    std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    let file = std::fs::File::create(dir.join("lock")).map_err(|e| failed(&e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| failed(&"another process has this store open (hint: is `sampan up` running on it?)"))
}
