//! kill -9 in the middle of writes, again and again: whatever was acknowledged is there, whole and in order.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sampan_store::{
    Op, Range, Store, Txn, TxnResponse,
    embedded::{Embedded, Options},
    prefix_end,
};

const DIR: &str = "STORE_CRASH_TEST_DIR";
const WRITERS: u64 = 16;

fn options(dir: &Path) -> Options {
    Options { snapshot_log_bytes: 1 << 18, ..Options::new(dir) }
}

fn value(writer: u64, n: u64) -> Bytes {
    format!("{writer}:{n}:{}", "x".repeat((n % 700) as usize)).into()
}

/// Not a check of its own: the process that `acknowledged_writes_survive` starts and kills.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(Embedded::open(options(Path::new(&dir))).unwrap());
        let tasks = (0..WRITERS).map(|writer| write_forever(store.clone(), writer));
        futures::future::join_all(tasks).await;
    });
}

/// Each writer sets two keys a transaction, and says a number once the store has acknowledged it.
async fn write_forever(store: Arc<Embedded>, writer: u64) {
    let key = |half: &str| Bytes::from(format!("/w/{writer}/{half}"));
    let found = store.range(Range { start: key("a"), ..Range::default() }).await.unwrap();
    let mut n = found.kvs.first().map_or(0, |kv| number(&kv.value));
    loop {
        n += 1;
        let put = |half| Op::Put { key: key(half), value: value(writer, n), lease: 0 };
        let txn = Txn { compare: vec![], ops: vec![put("a"), put("b")] };
        assert!(matches!(store.txn(txn).await.unwrap(), TxnResponse::Committed(_)));
        let mut out = std::io::stdout().lock();
        writeln!(out, "acked {writer} {n}").unwrap();
        out.flush().unwrap();
    }
}

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).unwrap().split(':').nth(1).unwrap().parse().unwrap()
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn acknowledged_writes_survive() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = vec![0_u64; WRITERS as usize];
    let mut total = 0;
    for round in 0..12_u64 {
        let mut child = start(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Kill after a number of acknowledgements that differs each round, then drain what was said before.
        let enough = 50 + round * 97;
        let mut said = 0;
        let mut killed = false;
        while let Some(Ok(line)) = lines.next() {
            let Some(rest) = line.strip_prefix("acked ") else { continue };
            let (writer, n) = rest.split_once(' ').unwrap();
            let Ok(n) = n.parse::<u64>() else { continue };
            let slot: &mut u64 = &mut acked[writer.parse::<usize>().unwrap()];
            *slot = n.max(*slot);
            said += 1;
            if said >= enough && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the writer ended by itself");
        total += said;
        verify(dir.path(), &acked).await;
    }
    assert!(total > 1000);
}

async fn verify(dir: &Path, acked: &[u64]) {
    let store = tokio::time::timeout(Duration::from_secs(30), async { Embedded::open(options(dir)) });
    let store = store.await.unwrap().unwrap();
    let all = Range { start: "/w/".into(), end: prefix_end(b"/w/"), ..Range::default() };
    let found = store.range(all).await.unwrap();
    for (writer, wanted) in acked.iter().enumerate() {
        let get = |half: &str| {
            let key = format!("/w/{writer}/{half}");
            found.kvs.iter().find(|kv| kv.key == key).map(|kv| kv.value.clone())
        };
        let (a, b) = (get("a"), get("b"));
        assert_eq!(a, b, "a transaction is all or nothing");
        let n = a.as_ref().map_or(0, number);
        assert!(n >= *wanted, "writer {writer} had {wanted} acknowledged, found {n}");
        if let Some(a) = a {
            assert_eq!(a, value(writer as u64, n));
        }
    }
}
