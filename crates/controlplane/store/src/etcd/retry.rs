//! When a call may be tried again, and how one knows afterwards what became of it.

use std::time::{Duration, Instant};

use etcd_client::Error as Failure;
use sampan_daemon::Backoff;

use crate::{Compare, KeyValue, Op, Revision, Txn};

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
    ["etcdserver: no leader", "etcdserver: too many requests", "tcp connect error"]
        .iter()
        .any(|known| status.message().contains(known))
}

/// Whether a second try can tell that the first one came through: it changes a key that it compares.
pub(super) fn recognizable(txn: &Txn) -> bool {
    txn.compare.iter().any(|Compare::ModRevision(key, _)| txn.ops.iter().any(|op| key == changed(op)))
}

/// The revision of an earlier try of this transaction (0: unknown, it only removed), judged by the state of the keys
/// that it compares: objects carry identities and times, so nobody else writes the same bytes.
pub(super) fn ours(txn: &Txn, found: &[Option<KeyValue>]) -> Option<Revision> {
    let mut revision = None;
    for (Compare::ModRevision(key, before), now) in txn.compare.iter().zip(found) {
        match txn.ops.iter().find(|op| changed(op) == key) {
            Some(Op::Put { value, .. }) => {
                let now = now.as_ref().filter(|kv| kv.value == value && kv.mod_revision > *before)?;
                revision = Some(now.mod_revision);
            }
            Some(Op::Delete { .. }) if now.is_none() => revision = revision.or(Some(0)),
            Some(Op::Delete { .. }) => return None,
            None => {}
        }
    }
    revision
}

fn changed(op: &Op) -> &bytes::Bytes {
    match op {
        Op::Put { key, .. } | Op::Delete { key } => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(value: &'static str, mod_revision: Revision) -> Option<KeyValue> {
        let key = bytes::Bytes::from_static(b"k");
        Some(KeyValue { key, value: value.into(), create_revision: 1, mod_revision, version: 1, lease: 0 })
    }

    #[test]
    fn an_earlier_try_is_known_by_what_it_left() {
        let put = Op::Put { key: "k".into(), value: "mine".into(), lease: 0 };
        let txn = Txn { compare: vec![Compare::ModRevision("k".into(), 4)], ops: vec![put] };
        assert!(recognizable(&txn));
        assert_eq!(ours(&txn, &[kv("mine", 7)]), Some(7));
        assert_eq!(ours(&txn, &[kv("theirs", 7)]), None);
        assert_eq!(ours(&txn, &[kv("mine", 4)]), None, "the same bytes, but from before");
        assert_eq!(ours(&txn, &[None]), None);
        let delete = Txn { ops: vec![Op::Delete { key: "k".into() }], ..txn };
        assert_eq!(ours(&delete, &[None]), Some(0));
        assert_eq!(ours(&delete, &[kv("new", 9)]), None);
        assert!(!recognizable(&Txn { compare: Vec::new(), ..delete }));
    }
}
