//! Damaged files, a full disk, a second process, newer formats, leases and slow watchers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use sampan_store::{
    Compare, Error, Op, Range, Result, Store, Txn, TxnResponse,
    embedded::{self, Embedded, Options},
};

fn put(key: &str, value: impl Into<Bytes>) -> Txn {
    put_with(key, value, 0)
}

fn put_with(key: &str, value: impl Into<Bytes>, lease: i64) -> Txn {
    let op = Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), lease };
    Txn { compare: vec![], ops: vec![op] }
}

async fn get(store: &Embedded, key: &'static str) -> Option<Bytes> {
    let found = store.range(Range { start: key.into(), ..Range::default() }).await.unwrap();
    found.kvs.into_iter().next().map(|kv| kv.value)
}

async fn filled(dir: &Path, keys: usize) {
    let store = Embedded::open(Options::new(dir)).unwrap();
    for n in 0..keys {
        store.txn(put(&format!("/k/{n}"), vec![7; 300])).await.unwrap();
    }
}

fn only_log(dir: &Path) -> std::path::PathBuf {
    dir.join("log-000000000001")
}

fn open_error(dir: &Path) -> String {
    Embedded::open(Options::new(dir)).unwrap_err().to_string()
}

#[tokio::test]
async fn a_torn_last_write_is_cut_and_writing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 10).await;
    let log = fs::read(only_log(dir.path())).unwrap();
    fs::write(only_log(dir.path()), &log[..log.len() - 5]).unwrap();
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    assert!(get(&store, "/k/8").await.is_some() && get(&store, "/k/9").await.is_none());
    store.txn(put("/k/9", "again")).await.unwrap();
    drop(store);
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    assert_eq!(get(&store, "/k/9").await.unwrap(), "again");
}

#[tokio::test]
async fn a_flipped_bit_is_detected_named_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 10).await;
    let mut log = fs::read(only_log(dir.path())).unwrap();
    let middle = log.len() / 2;
    log[middle] ^= 4;
    fs::write(only_log(dir.path()), &log).unwrap();
    let error = open_error(dir.path());
    assert!(error.contains("log-000000000001 at byte") && error.contains("checksum"), "{error}");
    assert_eq!(fs::read(only_log(dir.path())).unwrap(), log, "the evidence is left alone");
}

#[tokio::test]
async fn a_damaged_or_cut_snapshot_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { snapshot_log_bytes: 4096, ..Options::new(dir.path()) };
    let store = Embedded::open(small).unwrap();
    for n in 0..60 {
        store.txn(put(&format!("/k/{n}"), vec![7; 300])).await.unwrap();
    }
    drop(store);
    let snapshot = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snapshot-"))
        .expect("a snapshot was taken");
    let good = fs::read(&snapshot).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    for content in [&bad[..], &good[..16], &good[..good.len() - 1]] {
        fs::write(&snapshot, content).unwrap();
        assert!(open_error(dir.path()).contains("snapshot-"), "{}", open_error(dir.path()));
    }
    fs::write(&snapshot, &good).unwrap();
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    assert!(get(&store, "/k/0").await.is_some() && get(&store, "/k/59").await.is_some());
}

#[tokio::test]
async fn of_a_damaged_snapshot_everything_else_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options::new(dir.path().join("store"))).unwrap();
    // Several parts of a mebibyte each.
    for n in 0..50 {
        store.txn(put(&format!("/k/{n:02}"), vec![7; 100 << 10])).await.unwrap();
    }
    store.tidy().await.unwrap();
    let last = store.txn(put("/k/00", "newer")).await.unwrap();
    let TxnResponse::Committed(last) = last else { panic!("{last:?}") };
    drop(store);
    let snapshot = dir.path().join("store/snapshot-000000000002");
    let good = fs::read(&snapshot).unwrap();
    for (at, lost) in [(2 << 20, 12), (5, 0)] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&snapshot, bad).unwrap();
        let fresh = dir.path().join(format!("fresh-{at}"));
        let (damage, report) = embedded::salvage(&dir.path().join("store"), &fresh).unwrap();
        assert!(damage.unwrap().to_string().contains("snapshot-000000000002"));
        assert!(report.keys >= 50 - lost && (lost == 0 || report.keys < 50), "{}", report.keys);
        assert_eq!(report.revision, last, "time does not go backwards");
        let store = Embedded::open(Options::new(&fresh)).unwrap();
        assert_eq!(get(&store, "/k/00").await.unwrap(), "newer");
        assert!(get(&store, "/k/49").await.is_some());
    }
    // A newer version's files are whole, for that version.
    let mut newer = good.clone();
    newer[15] = b'9';
    fs::write(&snapshot, &newer).unwrap();
    let fresh = dir.path().join("fresh-newer");
    let refused = embedded::salvage(&dir.path().join("store"), &fresh).unwrap_err().to_string();
    assert!(refused.contains("newer version") && !fresh.exists(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_while_logs_come_and_go_raises_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { snapshot_log_bytes: 4096, ..Options::new(dir.path()) };
    let store = std::sync::Arc::new(Embedded::open(small).unwrap());
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for n in 0..3000 {
            writer.txn(put(&format!("/k/{}", n % 7), vec![7; 900])).await.unwrap();
        }
    });
    while !writing.is_finished() {
        embedded::verify(dir.path()).unwrap();
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn a_newer_format_and_a_second_process_are_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1).await;
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    assert!(open_error(dir.path()).contains("another process"));
    drop(store);
    let mut log = fs::read(only_log(dir.path())).unwrap();
    log[15] = b'9';
    fs::write(only_log(dir.path()), log).unwrap();
    assert!(open_error(dir.path()).contains("newer version"));
}

/// In a mount namespace of its own thread, so that the tiny file system ends with the thread.
#[test]
fn a_full_disk_refuses_writes_and_heals_by_itself() {
    let thread = std::thread::spawn(|| {
        let dir = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fill_and_heal(dir.path()));
    });
    thread.join().unwrap();
}

async fn fill_and_heal(dir: &Path) {
    let store = Embedded::open(Options::new(dir.join("store"))).unwrap();
    fs::write(dir.join("ballast"), vec![0; 600 << 10]).unwrap();
    let mut written = 0;
    let error = loop {
        match store.txn(put(&format!("/k/{written}"), vec![1; 50 << 10])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoSpace(_)), "{error}");
    assert!(written > 2);
    assert!(get(&store, "/k/0").await.is_some(), "reads go on");
    fs::remove_file(dir.join("ballast")).unwrap();
    store.txn(put("/after", "room again")).await.unwrap();
    drop(store);
    let store = Embedded::open(Options::new(dir.join("store"))).unwrap();
    assert_eq!(get(&store, "/after").await.unwrap(), "room again");
    let all = Range { start: "/k/".into(), end: "/k0".into(), ..Range::default() };
    assert_eq!(store.range(all).await.unwrap().count, written);
}

#[tokio::test]
async fn a_lease_takes_its_keys_along_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    let (short, long) = (store.lease_grant(1).await.unwrap(), store.lease_grant(3600).await.unwrap());
    store.txn(put_with("/short", "x", short)).await.unwrap();
    store.txn(put_with("/long", "x", long)).await.unwrap();
    store.txn(put_with("/moved", "x", short)).await.unwrap();
    store.txn(put_with("/moved", "x", long)).await.unwrap();
    let mut watch = store.watch("/short".into(), Bytes::new(), 0, false).await.unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
    assert!(batch.events[0].deleted);
    assert!(matches!(store.lease_keep_alive(short).await, Err(Error::LeaseNotFound(_))));
    assert!(matches!(store.txn(put_with("/x", "x", short)).await, Err(Error::LeaseNotFound(_))));
    drop(watch);
    drop(store);
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    assert_eq!(store.lease_keep_alive(long).await.unwrap(), 3600);
    store.lease_revoke(long).await.unwrap();
    assert!(get(&store, "/long").await.is_none() && get(&store, "/moved").await.is_none());
    assert!(store.lease_grant(10).await.unwrap() > long);
}

#[tokio::test]
async fn of_many_that_compare_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    let attempts = (0..64).map(|n| {
        let op = Op::Put { key: "/one".into(), value: format!("{n}").into(), lease: 0 };
        store.txn(Txn { compare: vec![Compare::ModRevision("/one".into(), 0)], ops: vec![op] })
    });
    let outcomes: Vec<Result<TxnResponse>> = futures::future::join_all(attempts).await;
    let won = outcomes.iter().filter(|o| matches!(o, Ok(TxnResponse::Committed(_)))).count();
    assert_eq!(won, 1);
    for outcome in outcomes {
        if let TxnResponse::Conflict(_, kvs) = outcome.unwrap() {
            assert!(kvs[0].is_some(), "the loser learns what is there");
        }
    }
}

#[tokio::test]
async fn a_watcher_that_sleeps_through_compaction_is_told_and_history_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_history_bytes: 64 << 10, ..Options::new(dir.path()) };
    let store = Embedded::open(options).unwrap();
    let mut watch = store.watch("/k".into(), Bytes::new(), 1, false).await.unwrap();
    for _ in 0..300 {
        store.txn(put("/k", vec![1; 1024])).await.unwrap();
    }
    assert!(matches!(watch.next().await, Some(Err(Error::Compacted(_)))));
    assert!(watch.next().await.is_none());
    assert!(matches!(store.watch("/k".into(), Bytes::new(), 2, false).await, Err(Error::Compacted(_))));
    let ahead = Range { start: "/k".into(), revision: 10_000, ..Range::default() };
    assert!(matches!(store.range(ahead).await, Err(Error::Future(301))));
}

#[tokio::test]
async fn a_transaction_over_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    let error = store.txn(put("/k", vec![0; 5 << 20])).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_are_asked_for_while_one_is_written_are_all_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { snapshot_log_bytes: 4096, ..Options::new(dir.path()) };
    let store = Embedded::open(options).unwrap();
    for round in 0..20 {
        for n in 0..8 {
            store.txn(put(&format!("/k/{round}/{n}"), vec![7; 1024])).await.unwrap();
        }
        let both = async { tokio::join!(store.tidy(), store.tidy()) };
        let (first, second) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        first.unwrap();
        second.unwrap();
    }
}

#[tokio::test]
async fn what_a_crash_left_of_a_snapshot_goes_with_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 10).await;
    let rest = dir.path().join("snapshot-000000000002.tmp");
    fs::write(&rest, [7; 100]).unwrap();
    let store = Embedded::open(Options::new(dir.path())).unwrap();
    assert!(get(&store, "/k/9").await.is_some());
    assert!(!rest.exists());
}
