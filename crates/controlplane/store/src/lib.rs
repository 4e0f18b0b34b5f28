//! Revisioned key-value store with watch: the state of the whole control plane, as bytes.
//!
//! The semantics are etcd v3's (<https://etcd.io/docs/v3.5/learning/api/>): one revision counter for the whole
//! store, every mutating transaction is one new revision, reads at any revision that is not compacted.
//! [`Store`] is the seam; [`embedded`] is the engine inside the binary,
//! [`etcd`] the one beside it for several servers.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::Stream;

pub mod embedded;
pub mod etcd;
pub mod migrate;

/// A position in the store's history. Revision 1 is the empty store.
pub type Revision = i64;

/// Identifies a lease; 0 means "no lease".
pub type LeaseId = i64;

/// One key with its value and history counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; shared, never copied.
    pub value: Bytes,
    /// Revision of the put that created this key (since it was last absent).
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Number of puts since creation; 1 for a fresh key.
    pub version: i64,
    /// Lease that the key is attached to, or 0.
    pub lease: LeaseId,
}

/// A range read: keys in `[start, end)`.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// First key.
    pub start: Bytes,
    /// First key past the range; empty means the single key `start`.
    pub end: Bytes,
    /// Read at this revision; 0 means now.
    pub revision: Revision,
    /// Return at most this many keys; 0 means all.
    pub limit: usize,
    /// Only count; return no keys.
    pub count_only: bool,
    /// Look no further than the limit: `count` is then that of the keys that are returned, if the store can do so.
    pub uncounted: bool,
}

/// Answer to a [`Range`].
#[derive(Clone, Debug, Default)]
pub struct RangeResponse {
    /// The store's current revision when the read was served.
    pub revision: Revision,
    /// Keys in order.
    pub kvs: Vec<KeyValue>,
    /// Keys in the range at that revision, whatever the limit.
    pub count: usize,
}

/// A condition of a transaction.
#[derive(Clone, Debug)]
pub enum Compare {
    /// The key's `mod_revision` equals this; 0 means "the key is absent".
    ModRevision(Bytes, Revision),
}

/// A change of a transaction. One transaction changes a key at most once.
#[derive(Clone, Debug)]
pub enum Op {
    /// Set a key.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
        /// Attach to this lease (0: none).
        lease: LeaseId,
    },
    /// Remove a key; removing an absent key changes nothing.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// An atomic step: if every comparison holds, all `ops` happen at one new revision; otherwise nothing does.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Conditions, all of which must hold.
    pub compare: Vec<Compare>,
    /// Changes.
    pub ops: Vec<Op>,
}

/// What became of a [`Txn`].
#[derive(Clone, Debug)]
pub enum TxnResponse {
    /// Durable, at this revision.
    Committed(Revision),
    /// A comparison failed. Holds the store's revision and the current state of each compared key, in order.
    Conflict(Revision, Vec<Option<KeyValue>>),
}

/// One change, as a watcher sees it.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key and its value after a put; after a delete the value is empty and `mod_revision` is the deletion's.
    pub kv: KeyValue,
    /// The key before this change, when it existed (and is not compacted).
    pub prev: Option<KeyValue>,
    /// True for a delete.
    pub deleted: bool,
}

/// What a watch delivers: all events of one or more whole revisions, in order, or progress without events.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Everything up to and including this revision has been delivered.
    pub revision: Revision,
    /// Changes; empty for a progress notice.
    pub events: Arc<[Event]>,
}

/// A running watch. Ends with an error when compacted under a slow reader; dropping it stops the watch.
pub type Watch = Pin<Box<dyn Stream<Item = Result<WatchBatch>> + Send>>;

/// Why the store refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The asked revision is gone. Holds the compaction revision.
    #[error("revision was compacted; the oldest readable one is {0}")]
    Compacted(Revision),
    /// The asked revision lies in the future. Holds the current revision.
    #[error("revision has not happened yet; the store is at {0}")]
    Future(Revision),
    /// A key or value is over the engine's limit.
    #[error("request of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Size asked.
        size: usize,
        /// Size allowed.
        limit: usize,
    },
    /// The lease does not exist or has ended.
    #[error("lease {0} not found")]
    LeaseNotFound(LeaseId),
    /// The disk is full; reads go on, writes are refused until there is room.
    #[error("no space left for writes: {0} (hint: free disk space; writes resume by themselves)")]
    NoSpace(String),
    /// The stored data is damaged. Names file and offset.
    #[error("corrupt store: {0}")]
    Corrupt(String),
    /// The engine cannot be reached or failed; the outcome of a write is unknown.
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

/// Result of a store call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A revisioned key-value store. Implementations: [`embedded::Embedded`]; etcd fits the same shape.
pub trait Store: Send + Sync + 'static {
    /// Read a range of keys.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResponse>>;
    /// Commit a transaction; returns once it is durable.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResponse>>;
    /// Watch `[start, end)` for changes with revision >= `from` (0: after now). Bounded buffer per watcher.
    /// Sends a progress batch when `progress` is set: immediately when caught up, then about every minute.
    fn watch(&self, start: Bytes, end: Bytes, from: Revision, progress: bool)
    -> BoxFuture<'_, Result<Watch>>;
    /// Forget history before `revision` (which stays readable).
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>>;
    /// Grant a lease that ends after `ttl` seconds unless kept alive.
    fn lease_grant(&self, ttl: i64) -> BoxFuture<'_, Result<LeaseId>>;
    /// Restart the lease's clock. Returns its ttl in seconds.
    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>>;
    /// Seconds that are left of a lease.
    fn lease_left(&self, lease: LeaseId) -> BoxFuture<'_, Result<i64>>;
    /// End a lease and delete its keys.
    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>>;
    /// Most comparisons, and most changes, of one transaction.
    fn max_ops(&self) -> usize {
        usize::MAX
    }
}

/// The end of the range that holds exactly the keys starting with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return end.into();
        }
        end.pop();
    }
    Bytes::from_static(&[0])
}
