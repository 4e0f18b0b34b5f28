//! The store in memory: every key with the versions that are not compacted, the recent history in order, leases.
//!
//! Values are shared [`Bytes`]: a list, a watch event and the history all point at the same allocation.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::codec::Record;
use crate::{Error, Event, KeyValue, LeaseId, Range, RangeResponse, Result, Revision, WatchBatch};

/// One version of a key; `value` is `None` for a deletion.
#[derive(Clone, Debug)]
struct Version {
    create: Revision,
    revision: Revision,
    version: i64,
    lease: LeaseId,
    value: Option<Bytes>,
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    ends: Instant,
    keys: BTreeSet<Bytes>,
}

/// Everything the store knows.
#[derive(Debug)]
pub(super) struct State {
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<Bytes, Vec<Version>>,
    history: VecDeque<WatchBatch>,
    history_bytes: usize,
    leases: BTreeMap<LeaseId, Lease>,
    /// A snapshot of this revision is being taken: what it needs stays.
    pinned: Option<Revision>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            leases: BTreeMap::new(),
            pinned: None,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Bytes of keys and values held by the history that watches read.
    pub(super) fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// The current state of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        let (key, versions) = self.keys.get_key_value(key)?;
        versions.last()?.key_value(key)
    }

    /// See [`crate::Store::range`].
    pub(super) fn range(&self, range: &Range) -> Result<RangeResponse> {
        let at = match range.revision {
            0 => self.revision,
            old if old < self.compacted => return Err(Error::Compacted(self.compacted)),
            new if new > self.revision => return Err(Error::Future(self.revision)),
            at => at,
        };
        let mut response = RangeResponse { revision: self.revision, ..RangeResponse::default() };
        let mut take = |key: &Bytes, versions: &[Version]| {
            let Some(kv) = version_at(versions, at).and_then(|v| v.key_value(key)) else { return true };
            response.count += 1;
            if !range.count_only && (range.limit == 0 || response.kvs.len() < range.limit) {
                response.kvs.push(kv);
            }
            !range.uncounted || range.limit == 0 || response.count < range.limit
        };
        if range.end.is_empty() {
            if let Some((key, versions)) = self.keys.get_key_value(&range.start) {
                take(key, versions);
            }
        } else if range.start < range.end || range.end.as_ref() == [0] {
            for (key, versions) in self.keys.range::<[u8], _>(bounds(&range.start, &range.end)) {
                if !take(key, versions) {
                    break;
                }
            }
        }
        Ok(response)
    }

    /// Apply what a log frame says. Returns the new batches for watchers.
    pub(super) fn apply(&mut self, records: Vec<Record>, now: Instant) -> Vec<WatchBatch> {
        let mut batches: Vec<WatchBatch> = Vec::new();
        let mut events: Vec<Event> = Vec::new();
        for record in records {
            let revision = match &record {
                Record::Put { revision, .. } | Record::Delete { revision, .. } => *revision,
                _ => {
                    self.apply_bookkeeping(record, now);
                    continue;
                }
            };
            if revision != self.revision {
                self.close_batch(&mut events, &mut batches);
                self.revision = revision;
            }
            events.extend(self.apply_change(record));
        }
        self.close_batch(&mut events, &mut batches);
        batches
    }

    fn close_batch(&mut self, events: &mut Vec<Event>, batches: &mut Vec<WatchBatch>) {
        if events.is_empty() {
            return;
        }
        let batch = WatchBatch { revision: self.revision, events: std::mem::take(events).into() };
        self.history_bytes += weight(&batch);
        self.history.push_back(batch.clone());
        batches.push(batch);
    }

    fn apply_change(&mut self, record: Record) -> Option<Event> {
        let (key, revision, lease, value) = match record {
            Record::Put { key, revision, lease, value } => (key, revision, lease, Some(value)),
            Record::Delete { key, revision } => (key, revision, 0, None),
            _ => return None,
        };
        // Most keys never have a second version: room for one, not for the usual four.
        let versions = self.keys.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
        let prev = versions.last().and_then(|v| v.key_value(&key));
        let old = prev.as_ref();
        let next = Version {
            create: old.map_or(revision, |kv| kv.create_revision),
            revision,
            version: old.map_or(1, |kv| kv.version + 1),
            lease,
            value: value.clone(),
        };
        if let Some(held) = old.filter(|kv| kv.lease != lease).and_then(|kv| self.leases.get_mut(&kv.lease)) {
            held.keys.remove(&key);
        }
        if let Some(held) = self.leases.get_mut(&lease) {
            held.keys.insert(key.clone());
        }
        let kv = KeyValue {
            key,
            create_revision: next.create,
            mod_revision: revision,
            version: next.version,
            lease,
            value: value.clone().unwrap_or_default(),
        };
        versions.push(next);
        Some(Event { kv, prev, deleted: value.is_none() })
    }

    fn apply_bookkeeping(&mut self, record: Record, now: Instant) {
        match record {
            Record::Grant { lease, ttl } => {
                self.leases.insert(lease, Lease { ttl, ends: now + seconds(ttl), keys: BTreeSet::new() });
            }
            Record::Revoke { lease } => {
                self.leases.remove(&lease);
            }
            Record::Compact { revision } => self.compact(revision),
            Record::Key { create, revision, version, lease, key, value } => {
                if let Some(held) = self.leases.get_mut(&lease) {
                    held.keys.insert(key.clone());
                }
                self.keys.insert(key, vec![Version { create, revision, version, lease, value: Some(value) }]);
            }
            Record::Bounds { revision, .. } => {
                self.revision = revision;
                self.compacted = revision;
            }
            Record::Put { .. } | Record::Delete { .. } => {}
        }
    }

    fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
        // Readers are refused from now on; what the snapshot needs goes with a later compaction.
        let revision = self.pinned.map_or(revision, |pinned| pinned.min(revision));
        while let Some(batch) = self.history.pop_front_if(|batch| batch.revision <= revision) {
            self.history_bytes -= weight(&batch);
            for event in batch.events.iter() {
                self.forget_versions(&event.kv.key, revision);
            }
        }
    }

    /// Keep of a key the version that is current at `revision`, and later ones.
    fn forget_versions(&mut self, key: &Bytes, revision: Revision) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let current = versions.partition_point(|v| v.revision <= revision).saturating_sub(1);
        versions.drain(..current);
        if versions.first().is_some_and(|v| v.value.is_none() && v.revision <= revision) {
            versions.remove(0);
        }
        if versions.is_empty() {
            self.keys.remove(key);
        } else {
            versions.shrink_to_fit();
        }
    }

    /// Batches after `seen` that touch `[start, end)`, at most about `limit` events, and the revision that is
    /// then covered.
    pub(super) fn events_after(
        &self,
        seen: Revision,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<(Vec<WatchBatch>, Revision)> {
        // Watching from N means having seen N-1; the history holds everything after `compacted`.
        if seen < self.compacted {
            return Err(Error::Compacted(self.compacted));
        }
        let from = self.history.partition_point(|batch| batch.revision <= seen);
        let (mut found, mut count) = (Vec::new(), 0);
        for batch in self.history.iter().skip(from) {
            let Some(batch) = select(batch, start, end) else { continue };
            count += batch.events.len();
            let covered = batch.revision;
            found.push(batch);
            if count >= limit {
                return Ok((found, covered));
            }
        }
        Ok((found, self.revision.max(seen)))
    }

    pub(super) fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    pub(super) fn lease_keys(&self, lease: LeaseId) -> Option<Vec<Bytes>> {
        Some(self.leases.get(&lease)?.keys.iter().cloned().collect())
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Option<i64> {
        let held = self.leases.get_mut(&lease)?;
        held.ends = now + seconds(held.ttl);
        Some(held.ttl)
    }

    /// Seconds that are left of a lease.
    pub(super) fn lease_left(&self, lease: LeaseId, now: Instant) -> Option<i64> {
        let left = self.leases.get(&lease)?.ends.saturating_duration_since(now);
        i64::try_from(left.as_secs()).ok()
    }

    /// How many keys there are now.
    pub(super) fn key_count(&self) -> usize {
        self.keys.values().filter(|versions| versions.last().is_some_and(|v| v.value.is_some())).count()
    }

    /// When a lease ends.
    pub(super) fn lease_ends(&self, lease: LeaseId) -> Option<Instant> {
        Some(self.leases.get(&lease)?.ends)
    }

    /// All leases and when they end.
    pub(super) fn leases(&self) -> Vec<(LeaseId, Instant)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ends)).collect()
    }

    /// The revision half-way through the history that is kept.
    pub(super) fn middle_of_history(&self) -> Revision {
        self.history.get(self.history.len() / 2).map_or(self.compacted, |batch| batch.revision)
    }

    /// Begin a snapshot of the state as it is now, however long it takes to go through its keys. Gives the revision,
    /// and what it begins with.
    pub(super) fn pin(&mut self) -> (Revision, Vec<Record>) {
        self.pinned = Some(self.revision);
        let mut records = vec![Record::Bounds { revision: self.revision, keys: 0 }];
        // Leases before the keys that hang on them.
        records.extend(self.leases.iter().map(|(id, held)| Record::Grant { lease: *id, ttl: held.ttl }));
        (self.revision, records)
    }

    /// The snapshot has been taken, or never will be.
    pub(super) fn unpin(&mut self) {
        self.pinned = None;
    }

    /// A snapshot is being taken.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    /// The next keys after `last` as they were at a pinned revision, at most `most` of those that are looked at. Gives the
    /// last that was looked at; nothing at the end.
    pub(super) fn snapshot_page(
        &self,
        revision: Revision,
        last: Option<&Bytes>,
        most: usize,
        records: &mut Vec<Record>,
    ) -> Option<Bytes> {
        let start = last.map_or(Bound::Unbounded, |last| Bound::Excluded(&last[..]));
        let mut seen = None;
        for (key, versions) in self.keys.range::<[u8], _>((start, Bound::Unbounded)).take(most) {
            seen = Some(key);
            let Some(version) = version_at(versions, revision) else { continue };
            let Some(value) = &version.value else { continue };
            records.push(Record::Key {
                create: version.create,
                revision: version.revision,
                version: version.version,
                lease: version.lease,
                key: key.clone(),
                value: value.clone(),
            });
        }
        seen.cloned()
    }

    /// Everything that a snapshot must hold, at once.
    pub(super) fn snapshot(mut self) -> Vec<Record> {
        let (revision, mut records) = self.pin();
        let before = records.len();
        self.snapshot_page(revision, None, usize::MAX, &mut records);
        let keys = (records.len() - before) as i64;
        records.push(Record::Bounds { revision, keys });
        records
    }
}

impl Version {
    fn key_value(&self, key: &Bytes) -> Option<KeyValue> {
        Some(KeyValue {
            key: key.clone(),
            value: self.value.clone()?,
            create_revision: self.create,
            mod_revision: self.revision,
            version: self.version,
            lease: self.lease,
        })
    }
}

fn version_at(versions: &[Version], at: Revision) -> Option<&Version> {
    match versions.last() {
        Some(last) if last.revision <= at => Some(last),
        _ => versions[..versions.partition_point(|v| v.revision <= at)].last(),
    }
}

/// `[start, end)` as map bounds; the end `\0` means "to the last key", as in etcd.
fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let upper = if end == [0] { Bound::Unbounded } else { Bound::Excluded(end) };
    (Bound::Included(start), upper)
}

/// True when `key` lies in `[start, end)` (an empty end: is `start`).
pub(super) fn covers(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    if end.is_empty() {
        return key == start;
    }
    key >= start && (end == [0] || key < end)
}

fn select(batch: &WatchBatch, start: &[u8], end: &[u8]) -> Option<WatchBatch> {
    let inside = |event: &&Event| covers(start, end, &event.kv.key);
    let count = batch.events.iter().filter(inside).count();
    if count == 0 {
        return None;
    }
    if count == batch.events.len() {
        return Some(batch.clone());
    }
    let events: Arc<[Event]> = batch.events.iter().filter(inside).cloned().collect();
    Some(WatchBatch { revision: batch.revision, events })
}

fn weight(batch: &WatchBatch) -> usize {
    batch.events.iter().map(|e| e.kv.key.len() + e.kv.value.len() + size_of::<Event>()).sum()
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(1).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: Revision, key: &'static str, value: &'static str) -> Record {
        Record::Put { revision, key: key.into(), value: value.into(), lease: 0 }
    }

    fn delete(revision: Revision, key: &'static str) -> Record {
        Record::Delete { revision, key: key.into() }
    }

    #[test]
    fn a_snapshot_is_of_the_moment_it_began_whatever_happens_meanwhile() {
        let now = Instant::now();
        let mut state = State::new();
        let keys = ["a", "b", "c", "d", "e"];
        state.apply(keys.iter().zip(2..).map(|(key, revision)| put(revision, key, "old")).collect(), now);
        state.apply(vec![put(7, "b", "newer"), delete(8, "e")], now);
        let (revision, _) = state.pin();
        let mut expected = Vec::new();
        state.snapshot_page(revision, None, usize::MAX, &mut expected);
        // All kinds of changes, between pages of two, and compactions that would drop what is needed.
        let (mut pages, mut last) = (Vec::new(), None);
        let changes = [
            vec![put(9, "a", "later"), delete(10, "c"), put(11, "bb", "new")],
            vec![put(12, "c", "again"), delete(13, "d"), Record::Compact { revision: 12 }],
            vec![put(14, "d", "again"), put(15, "e", "again"), Record::Compact { revision: 15 }],
        ];
        for change in changes.into_iter().map(Some).chain(std::iter::repeat_n(None, 9)) {
            last = state.snapshot_page(revision, last.as_ref(), 2, &mut pages);
            if let Some(change) = change {
                state.apply(change, now);
            } else if last.is_none() {
                break;
            }
        }
        let text = |records: &[Record]| format!("{records:?}");
        assert_eq!(text(&pages), text(&expected));
        assert_eq!(pages.len(), 4);
        state.unpin();
        state.apply(vec![put(16, "z", "1"), Record::Compact { revision: 16 }], now);
        assert!(state.keys.values().all(|versions| versions.len() == 1), "{:?}", state.keys);
        assert_eq!(state.key_count(), 7);
    }

    #[test]
    fn whoever_does_not_ask_for_the_count_is_given_the_first_keys_only() {
        let mut state = State::new();
        state.apply(
            (2..12).map(|n| put(n, ["a", "b", "c", "d", "e"][n as usize % 5], "x")).collect(),
            Instant::now(),
        );
        let all = Range { start: "a".into(), end: "z".into(), limit: 2, ..Range::default() };
        assert_eq!(state.range(&all).unwrap().count, 5);
        let some = state.range(&Range { uncounted: true, ..all }).unwrap();
        assert_eq!((some.count, some.kvs.len()), (2, 2));
    }
}
