//! Moving a whole state between the embedded store and an etcd.
//!
//! A move is made on a state that nobody writes to. What is copied is read back and compared, by count and by a checksum
//! over every key and value, before the new place counts. Revisions never go backwards: an embedded store takes over
//! every revision as it was; etcd counts for itself, so what is moved there is given an *offset* by which all its
//! revisions lie beyond those that were ever seen. Who watched before the move is told that its history is
//! compacted, and lists anew.
//!
//! Killed at any moment, nothing is lost: the old place stays whole until the new one is, and says meanwhile that it is
//! being moved; doing it again begins anew or, when only the last step was missing, ends it.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use ring::digest;

use crate::{
    Error, KeyValue, LeaseId, Op, Range, Result, Revision, Store, Txn, TxnResponse,
    embedded::{self, Embedded},
    etcd::{Etcd, Options, Origin, Phase},
    prefix_end,
};

/// Keys read at a time.
const PAGE: usize = 2_000;
/// Most of a transaction while copying.
const OPS: usize = 100;
const BYTES: usize = 1 << 20;
/// What belongs to servers that run, and goes with them.
const RUNNING: &[u8] = b"/masterleases/";
/// What servers have in common beside the state, and of which a store of one's own has no need: the caller keeps it.
const SHARED: &[u8] = b"/sampan/";

/// What was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Keys.
    pub keys: usize,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// SHA-256 over all of them, hexadecimal.
    pub checksum: String,
    /// The revision of the state at its new place.
    pub revision: Revision,
}

/// A state at one revision.
struct Whole {
    revision: Revision,
    kvs: Vec<KeyValue>,
    leases: BTreeMap<LeaseId, i64>,
    /// What is below [`SHARED`].
    shared: Vec<KeyValue>,
}

impl Whole {
    async fn read(store: &dyn Store) -> Result<Self> {
        let (mut start, mut revision, mut kvs) = (Bytes::from_static(b"/"), 0, Vec::new());
        loop {
            let range = Range {
                start: start.clone(),
                end: Bytes::from_static(&[0]),
                revision,
                limit: PAGE,
                count_only: false,
                uncounted: true,
            };
            let page = store.range(range).await?;
            if revision == 0 {
                revision = page.revision;
            }
            let Some(last) = page.kvs.last() else { break };
            start = [&last.key[..], &[0]].concat().into();
            kvs.extend(page.kvs.into_iter().filter(|kv| !kv.key.starts_with(RUNNING)));
        }
        let mut leases: BTreeMap<LeaseId, i64> = BTreeMap::new();
        for lease in kvs.iter().map(|kv| kv.lease).filter(|lease| *lease != 0) {
            if let std::collections::btree_map::Entry::Vacant(entry) = leases.entry(lease) {
                // One that ends at this very moment takes its keys with it at the new place, too.
                let left = match store.lease_left(lease).await {
                    Err(Error::LeaseNotFound(_)) => 1,
                    left => left?.max(1),
                };
                entry.insert(left);
            }
        }
        let (shared, kvs) = kvs.into_iter().partition(|kv| kv.key.starts_with(SHARED));
        Ok(Self { revision, kvs, leases, shared })
    }

    fn moved(&self, revision: Revision) -> Moved {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut bytes = 0;
        for kv in &self.kvs {
            for part in [&kv.key, &kv.value] {
                context.update(&(part.len() as u64).to_le_bytes());
                context.update(part);
                bytes += part.len() as u64;
            }
        }
        let sum = context.finish();
        let checksum = sum.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Moved { keys: self.kvs.len(), bytes, checksum, revision }
    }
}

/// Says that what was written differs from what was read.
fn differs(from: &Moved, to: &Moved) -> Error {
    Error::Corrupt(format!(
        "the copy differs: {} keys with checksum {} became {} with {} (hint: is somebody writing? nothing was switched, \
         run it again)",
        from.keys, from.checksum, to.keys, to.checksum
    ))
}

/// Moves the embedded store in `dir` to an etcd, but for what servers share, which is made anew there. `mover` names this instance; `progress` hears of keys copied.
/// Afterwards both hold the state; the caller has to remember which one counts.
///
/// # Errors
/// The store is in use or damaged; the etcd cannot be reached, or its prefix holds something else.
pub async fn to_etcd(dir: &Path, options: &Options, mover: &str, progress: impl Fn(usize)) -> Result<Moved> {
    let source = Embedded::open(embedded::Options::new(dir))?;
    let whole = Whole::read(&source).await?;
    let target = Etcd::connect_raw(options).await?;
    let mark = format!("{mover}@{}", whole.revision);
    let (origin, at) = target.origin().await?.unwrap_or_default();
    if at != 0 && origin.mover == mark && origin.phase == Phase::Here {
        // All but the last step was made before: the caller's.
        let arrived = Whole::read(&Etcd::connect(options).await?).await?;
        let (from, to) = (whole.moved(0), arrived.moved(0));
        return if from == to { Ok(arrived.moved(arrived.revision)) } else { Err(differs(&from, &to)) };
    }
    let ours = at != 0 && origin.phase == Phase::Arriving && origin.mover.starts_with(&format!("{mover}@"));
    let left = at != 0 && origin.phase == Phase::Gone;
    let everything = Range { start: "/".into(), end: Bytes::from_static(&[0]), ..Range::default() };
    let there = target.range(Range { count_only: true, ..everything.clone() }).await?;
    if there.count > 0 && !ours && !left {
        let what = format!(
            "the prefix {:?} of that etcd holds {} keys already (hint: choose another prefix, or delete them)",
            options.prefix, there.count
        );
        return Err(Error::Unavailable(what));
    }
    let arriving = Origin { phase: Phase::Arriving, offset: 0, mover: mark };
    if !target.set_origin(&arriving, at).await? {
        return Err(Error::Unavailable("somebody else moves a state there right now".into()));
    }
    let target = match target.origin().await? {
        // Another mover that takes over stops this one.
        Some((found, at)) if found == arriving => target.fenced(at),
        _ => return Err(Error::Unavailable("somebody else moves a state there right now".into())),
    };
    clear(&target).await?;
    // Every revision that the copy gets lies beyond all that the source ever had.
    let start = target.range(Range { count_only: true, ..everything }).await?.revision;
    let offset = (whole.revision - start).max(0);
    copy(&target, &whole, progress).await?;
    let arrived = Whole::read(&target).await?;
    let (from, to) = (whole.moved(0), arrived.moved(0));
    if from != to {
        return Err(differs(&from, &to));
    }
    // Who comes back with a revision of the source must list anew: between that and the copy, nothing can be told.
    target.compact(arrived.revision).await?;
    let here = Origin { phase: Phase::Here, offset, ..arriving };
    if !target.set_origin(&here, target.fence()).await? {
        return Err(Error::Unavailable("somebody else moves a state there right now".into()));
    }
    Ok(arrived.moved(arrived.revision + offset))
}

async fn clear(target: &Etcd) -> Result<()> {
    loop {
        let some = Range { start: "/".into(), end: Bytes::from_static(&[0]), limit: OPS, ..Range::default() };
        let found = target.range(some).await?.kvs;
        if found.is_empty() {
            return Ok(());
        }
        let ops = found.into_iter().map(|kv| Op::Delete { key: kv.key }).collect();
        target.txn(Txn { compare: Vec::new(), ops }).await?;
    }
}

async fn copy(target: &Etcd, whole: &Whole, progress: impl Fn(usize)) -> Result<()> {
    let mut leases = BTreeMap::from([(0, 0)]);
    for (old, left) in &whole.leases {
        leases.insert(*old, target.lease_grant(*left).await?);
    }
    let (mut ops, mut size) = (Vec::new(), 0);
    for (index, kv) in whole.kvs.iter().enumerate() {
        let weight = kv.key.len() + kv.value.len();
        if !ops.is_empty() && (ops.len() >= OPS || size + weight > BYTES) {
            write(target, std::mem::take(&mut ops)).await?;
            size = 0;
            progress(index);
        }
        size += weight;
        let lease = leases.get(&kv.lease).copied().unwrap_or_default();
        ops.push(Op::Put { key: kv.key.clone(), value: kv.value.clone(), lease });
    }
    if !ops.is_empty() {
        write(target, ops).await?;
    }
    progress(whole.kvs.len());
    Ok(())
}

async fn write(target: &Etcd, ops: Vec<Op>) -> Result<()> {
    match target.txn(Txn { compare: Vec::new(), ops }).await? {
        TxnResponse::Committed(_) => Ok(()),
        TxnResponse::Conflict(..) => Err(Error::Unavailable("etcd refuses to copy".into())),
    }
}

/// Moves the state on an etcd into a new embedded store in `fresh`, which must not hold one. Servers must have stopped;
/// those that still run are named. Revisions stay as they are. Afterwards the etcd still holds the state and says that
/// it is being moved, until [`left_etcd`]. What servers shared there is not moved but given back.
///
/// # Errors
/// The etcd cannot be reached, servers still run, or `fresh` cannot be written.
pub async fn to_embedded(options: &Options, fresh: &Path, mover: &str) -> Result<(Moved, Vec<KeyValue>)> {
    let raw = Etcd::connect_raw(options).await?;
    let (origin, at) = raw.origin().await?.unwrap_or_default();
    match origin.phase {
        Phase::Here | Phase::Leaving => {}
        Phase::Arriving | Phase::Gone => drop(Etcd::connect(options).await?),
    }
    let source = raw.shifted(options, origin.offset);
    nobody_runs(&source).await?;
    // From here on nobody writes: neither who comes now, nor who was asleep, for every write compares this.
    let leaving = Origin { phase: Phase::Leaving, mover: mover.to_owned(), ..origin.clone() };
    if !raw.set_origin(&leaving, at).await? {
        return Err(Error::Unavailable("somebody else moves that state right now".into()));
    }
    if let Err(error) = nobody_runs(&source).await {
        // One that came in between: it goes on as if nothing had been.
        set_phase(options, Phase::Here, mover).await?;
        return Err(error);
    }
    let whole = Whole::read(&source).await?;
    let from = whole.moved(whole.revision);
    embedded::create(fresh, whole.revision, &whole.leases, whole.kvs)?;
    let copied = Embedded::open(embedded::Options::new(fresh))?;
    let to = Whole::read(&copied).await?;
    let to = to.moved(to.revision);
    if from != to {
        return Err(differs(&from, &to));
    }
    Ok((to, whole.shared))
}

async fn nobody_runs(source: &Etcd) -> Result<()> {
    let running = Range { start: RUNNING.into(), end: prefix_end(RUNNING), ..Range::default() };
    let Some(server) = source.range(running).await?.kvs.into_iter().next() else { return Ok(()) };
    let name = String::from_utf8_lossy(&server.value).into_owned();
    Err(Error::Unavailable(format!(
        "server {name} still uses that etcd (hint: stop it; one that was killed is forgotten in 15 s)"
    )))
}

/// The state that was on the etcd counts elsewhere now: no server begins to use it there. Doing it again changes nothing.
///
/// # Errors
/// The etcd cannot be reached, or the state stayed there after all.
pub async fn left_etcd(options: &Options, mover: &str) -> Result<()> {
    let raw = Etcd::connect_raw(options).await?;
    let (origin, _) = raw.origin().await?.unwrap_or_default();
    match origin.phase {
        Phase::Leaving if origin.mover == mover => set_phase(options, Phase::Gone, mover).await,
        Phase::Gone if origin.mover == mover => Ok(()),
        _ => Err(Error::Unavailable(format!(
            "the state was to be moved away from that etcd, and is used there again; mover: {} (hint: which of both is \
             the right one? stop the other)",
            origin.mover
        ))),
    }
}

/// The state stays on the etcd after all.
///
/// # Errors
/// The etcd cannot be reached.
pub async fn stay(options: &Options, mover: &str) -> Result<()> {
    let raw = Etcd::connect_raw(options).await?;
    match raw.origin().await? {
        Some((Origin { phase: Phase::Leaving, .. }, _)) => set_phase(options, Phase::Here, mover).await,
        _ => Ok(()),
    }
}

async fn set_phase(options: &Options, phase: Phase, mover: &str) -> Result<()> {
    let raw = Etcd::connect_raw(options).await?;
    let (origin, at) = raw.origin().await?.unwrap_or_default();
    if raw.set_origin(&Origin { phase, mover: mover.to_owned(), ..origin }, at).await? {
        Ok(())
    } else {
        Err(Error::Unavailable("somebody else moves that state right now".into()))
    }
}
