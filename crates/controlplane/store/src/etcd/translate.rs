//! Between our words and etcd's: keys below the prefix, transactions, failures.

use bytes::Bytes;
use etcd_client::{Compare as Condition, CompareOp, Error as Failure, PutOptions, TxnOp, TxnOpResponse};

use crate::{Compare, Error, KeyValue, Op, Revision, Txn, prefix_end};

/// What is written about the state: beside our keys, not among them, for they begin with a slash.
pub(super) const ORIGIN: &[u8] = b"!origin";

/// Our keys lie below a prefix of etcd's, and our revisions are etcd's and an offset: a state that was moved here goes on
/// counting where it was.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: Vec<u8>,
    offset: Revision,
}

impl Keys {
    pub(super) fn new(prefix: &str, offset: Revision) -> Self {
        Self { prefix: format!("/{}", prefix.trim_matches('/')).into_bytes(), offset }
    }

    pub(super) fn below(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// Our revision for one of etcd's; 0 and below say something else and stay.
    pub(super) fn ours(&self, theirs: Revision) -> Revision {
        if theirs > 0 { theirs + self.offset } else { theirs }
    }

    /// etcd's revision for one of ours. From before the state was here, there is none.
    pub(super) fn theirs(&self, ours: Revision) -> Option<Revision> {
        match ours {
            0 => Some(0),
            ours => Some(ours - self.offset).filter(|theirs| *theirs > 0),
        }
    }

    pub(super) fn offset(&self) -> Revision {
        self.offset
    }

    /// A range of ours; an empty end is a single key, `\0` is everything from the start on.
    pub(super) fn range(&self, start: &[u8], end: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let end = match end {
            [] => Vec::new(),
            // As far as our own keys go.
            // Not every key: `/` and what follows it are ours, a namesake with a longer name is not.
            [0] => prefix_end(&self.below(b"/")).to_vec(),
            end => self.below(end),
        };
        (self.below(start), end)
    }

    pub(super) fn key_value(&self, kv: etcd_client::KeyValue) -> KeyValue {
        let (create_revision, mod_revision) = (self.ours(kv.create_revision()), self.ours(kv.mod_revision()));
        let (version, lease) = (kv.version(), kv.lease());
        let (key, value) = kv.into_key_value();
        let key = Bytes::from(key).split_off(self.prefix.len());
        KeyValue { key, value: value.into(), create_revision, mod_revision, version, lease }
    }

    /// The transaction; when its conditions do not hold, it reads what they are about. `fence` is where what is written
    /// about the state must be; it is compared and read first.
    pub(super) fn txn(&self, txn: &Txn, fence: Option<Revision>) -> etcd_client::Txn {
        let about = self.below(ORIGIN);
        let fenced = fence.map(|at| Condition::mod_revision(about.clone(), CompareOp::Equal, at)).into_iter();
        let conditions = txn.compare.iter().map(|Compare::ModRevision(key, revision)| {
            // What was seen before the state was here is seen by nobody now.
            let revision = self.theirs(*revision).unwrap_or(-1);
            Condition::mod_revision(self.below(key), CompareOp::Equal, revision)
        });
        let reads = txn.compare.iter().map(|Compare::ModRevision(key, _)| TxnOp::get(self.below(key), None));
        let reads: Vec<TxnOp> = fence.map(|_| TxnOp::get(about, None)).into_iter().chain(reads).collect();
        let ops: Vec<TxnOp> = txn
            .ops
            .iter()
            .map(|op| match op {
                Op::Put { key, value, lease } => {
                    let options = (*lease != 0).then(|| PutOptions::new().with_lease(*lease));
                    TxnOp::put(self.below(key), value.to_vec(), options)
                }
                Op::Delete { key } => TxnOp::delete(self.below(key), None),
            })
            .collect();
        let conditions: Vec<Condition> = fenced.chain(conditions).collect();
        etcd_client::Txn::new().when(conditions).and_then(ops).or_else(reads)
    }

    /// Where what is written about the state is (0: nowhere), and the state of each compared key, in order.
    pub(super) fn found(
        &self,
        response: &etcd_client::TxnResponse,
        fenced: bool,
    ) -> (Revision, Vec<Option<KeyValue>>) {
        let mut found = response.op_responses().into_iter().map(|answer| match answer {
            TxnOpResponse::Get(mut get) => get.take_kvs().pop(),
            _ => None,
        });
        let about = if fenced { found.next().flatten() } else { None };
        let keys = found.map(|kv| kv.map(|kv| self.key_value(kv))).collect();
        (about.map_or(0, |kv| kv.mod_revision()), keys)
    }
}

/// What etcd's failure means. Known by its text, as etcd's own client does: the codes are too coarse.
pub(super) fn failure(error: &Failure) -> Error {
    let Failure::GRpcStatus(status) = error else { return Error::Unavailable(error.to_string()) };
    let text = status.message();
    if text.contains("required revision has been compacted") {
        Error::Compacted(0)
    } else if text.contains("required revision is a future revision") {
        Error::Future(0)
    } else if text.contains("database space exceeded") {
        let why = format!("etcd: {text}; compact, defragment and disarm its alarm, or raise its quota");
        Error::NoSpace(why)
    } else if text.contains("requested lease not found") {
        Error::LeaseNotFound(0)
    } else if text.contains("request is too large") || text.contains("too many operations") {
        Error::TooLarge { size: 0, limit: super::MAX_TXN_BYTES }
    } else {
        Error::Unavailable(format!("etcd: {text}"))
    }
}
