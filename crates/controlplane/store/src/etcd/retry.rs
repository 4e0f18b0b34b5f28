//! When a call may be tried again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_client::Error as Failure;
use sampan_daemon::Backoff;

use crate::{Compare, Revision, Txn};

/// How long a call is tried in all.
const BOUND: Duration = Duration::from_secs(10);

/// Tries of one call, further and further apart.
pub(super) struct Attempts {
    since: Instant,
    backoff: Backoff,
}

impl Attempts {
    pub(super) fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        Self { since: Instant::now(), backoff }
    }

    /// Waits for the next try; false when there is to be none.
    pub(super) async fn again(&mut self) -> bool {
        let delay = self.backoff.next_delay();
        if self.since.elapsed() + delay > BOUND {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}

/// Whether the failure may pass by itself: a member is gone, there is no leader, an answer was lost.
pub(super) fn passing(error: &Failure) -> bool {
    match error {
        Failure::GRpcStatus(status) => matches!(
            status.code() as i32,
            // Cancelled, Unknown, DeadlineExceeded, Unavailable (google.rpc.Code).
            1 | 2 | 4 | 14
        ),
        Failure::TransportError(_) | Failure::IoError(_) | Failure::WatchError(_) => true,
        _ => false,
    }
}

/// Whether the server itself said no before it did anything.
pub(super) fn refused(error: &Failure) -> bool {
    let Failure::GRpcStatus(status) = error else { return false };
    ["etcdserver: no leader", "etcdserver: too many requests", "tcp connect error", "error trying to connect"]
        .iter()
        .any(|known| status.message().contains(known))
}

/// The revision that the transaction expects a key to have.
pub(super) fn since(txn: &Txn, key: &Bytes) -> Option<Revision> {
    let known = |Compare::ModRevision(compared, before): &Compare| (compared == key).then_some(*before);
    txn.compare.iter().find_map(known)
}

/// Whether the transaction says something of the key's state before.
pub(super) fn compares(txn: &Txn, key: &Bytes) -> bool {
    since(txn, key).is_some()
}
