//! A store against a slow, obvious model: every read at every revision, every watch, across compaction and restarts.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use sampan_store::{Compare, Error, Op, Range, Revision, Store, Txn, TxnResponse, prefix_end};

/// Key to (create, mod, version, value): the whole store at one revision.
type Snapshot = BTreeMap<u8, (i64, i64, i64, u8)>;

#[derive(Clone, Debug)]
pub enum Step {
    Txn { ops: Vec<(u8, Option<u8>)>, guard: Option<(u8, bool)> },
    Compact(u8),
    Restart,
}

pub fn step() -> impl Strategy<Value = Step> {
    let op = (0..6_u8, proptest::option::weighted(0.7, any::<u8>()));
    let guard = proptest::option::of((0..6_u8, any::<bool>()));
    prop_oneof![
        12 => (proptest::collection::vec(op, 1..4), guard).prop_map(|(ops, guard)| Step::Txn { ops, guard }),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Restart),
    ]
}

fn key(k: u8) -> Bytes {
    Bytes::from(format!("/k/{k}"))
}

/// What is tested.
pub trait Subject {
    /// The store as it runs now.
    fn store(&self) -> &dyn Store;
    /// Ends it without warning and starts it again.
    fn restart(&mut self);
}

struct Model {
    /// The store's revision before the first step: others may have written before.
    base: Revision,
    /// The states since then.
    revisions: Vec<Snapshot>,
    compacted: Revision,
}

impl Model {
    fn now(&self) -> &Snapshot {
        self.revisions.last().unwrap()
    }

    fn revision(&self) -> Revision {
        self.base + self.revisions.len() as i64 - 1
    }

    fn at(&self, revision: Revision) -> &Snapshot {
        &self.revisions[(revision - self.base) as usize]
    }

    /// The same transaction on the model. Returns whether the guard held.
    fn apply(&mut self, ops: &[(u8, Option<u8>)], guard: Option<(u8, bool)>) -> bool {
        if let Some((k, wrong)) = guard
            && wrong
            && self.now().contains_key(&k)
        {
            return false;
        }
        let next = self.revision() + 1;
        let mut after = self.now().clone();
        let mut changed = false;
        for (k, value) in ops {
            match value {
                Some(v) => {
                    let (create, version) = after.get(k).map_or((next, 1), |old| (old.0, old.2 + 1));
                    after.insert(*k, (create, next, version, *v));
                    changed = true;
                }
                None => changed |= after.remove(k).is_some(),
            }
        }
        if changed {
            self.revisions.push(after);
        }
        true
    }
}

/// Goes through the steps; nothing lies below `/k/` yet.
pub async fn run(subject: &mut dyn Subject, steps: Vec<Step>) {
    let count = Range { start: "/k/".into(), count_only: true, ..Range::default() };
    let base = subject.store().range(count).await.unwrap().revision;
    let mut model = Model { base, revisions: vec![Snapshot::new()], compacted: base };
    for step in steps {
        match step {
            Step::Txn { mut ops, guard } => {
                ops.sort_by_key(|(k, _)| *k);
                ops.dedup_by_key(|(k, _)| *k);
                let compare = guard.map(|(k, wrong)| {
                    let actual = model.now().get(&k).map_or(0, |v| v.1);
                    Compare::ModRevision(key(k), if wrong { 0 } else { actual })
                });
                let txn = Txn {
                    compare: compare.into_iter().collect(),
                    ops: ops
                        .iter()
                        .map(|(k, v)| match v {
                            Some(v) => Op::Put { key: key(*k), value: vec![*v].into(), lease: 0 },
                            None => Op::Delete { key: key(*k) },
                        })
                        .collect(),
                };
                let held = model.apply(&ops, guard);
                match subject.store().txn(txn).await.unwrap() {
                    TxnResponse::Committed(revision) => assert!(held && revision == model.revision()),
                    TxnResponse::Conflict(revision, kvs) => {
                        assert!(!held && revision == model.revision());
                        assert!(kvs[0].is_some());
                    }
                }
            }
            Step::Compact(part) => {
                let span = model.revision() - model.compacted;
                model.compacted += span * i64::from(part) / 255;
                subject.store().compact(model.compacted).await.unwrap();
            }
            Step::Restart => subject.restart(),
        }
        check_reads(subject.store(), &mut model).await;
    }
    check_watch(subject.store(), &model).await;
}

/// Every revision reads as the model says. A snapshot may have compacted more than was asked; learn how much.
async fn check_reads(store: &dyn Store, model: &mut Model) {
    for revision in model.base..=model.revision() {
        let range = Range { start: "/k/".into(), end: prefix_end(b"/k/"), revision, ..Range::default() };
        match store.range(range).await {
            Err(Error::Compacted(at)) => {
                assert!(at <= model.revision());
                // Not every store says how far.
                model.compacted = model.compacted.max(at).max(revision + 1);
            }
            Err(other) => panic!("{other}"),
            Ok(found) => {
                assert!(revision >= model.compacted);
                let want = model.at(revision);
                let got: Snapshot = found
                    .kvs
                    .iter()
                    .map(|kv| {
                        let k = kv.key[3] - b'0';
                        (k, (kv.create_revision, kv.mod_revision, kv.version, kv.value[0]))
                    })
                    .collect();
                assert_eq!((&got, found.count), (want, want.len()), "at revision {revision}");
                assert_eq!(found.revision, model.revision());
            }
        }
    }
}

/// Replaying a watch from the compaction on top of that state gives the state now.
async fn check_watch(store: &dyn Store, model: &Model) {
    let from = model.compacted.max(model.base);
    let mut state = model.at(from).clone();
    let mut watch = store.watch("/k/".into(), prefix_end(b"/k/"), from + 1, true).await.unwrap();
    let mut last = from;
    while &state != model.now() || last < model.revision() {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), watch.next()).await;
        let batch = next.expect("everything that happened is told").unwrap().unwrap();
        if batch.events.is_empty() {
            assert_eq!(batch.revision, model.revision());
            break;
        }
        assert!(batch.revision > last, "revisions come in order, each whole");
        last = batch.revision;
        for event in batch.events.iter() {
            let k = event.kv.key[3] - b'0';
            let before = state.get(&k).map(|v| v.3);
            assert_eq!(event.prev.as_ref().map(|kv| kv.value[0]), before);
            if event.deleted {
                state.remove(&k);
            } else {
                let kv = &event.kv;
                state.insert(k, (kv.create_revision, kv.mod_revision, kv.version, kv.value[0]));
            }
        }
        assert_eq!(&state, model.at(last));
    }
    assert_eq!(&state, model.now());
}
