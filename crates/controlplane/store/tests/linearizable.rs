//! Concurrent clients, crashes in between, and the question whether what each was told fits one order of events:
//! for the embedded store, whose process is killed, and for a real etcd, which is.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/history.rs"]
mod history;
#[path = "support/server.rs"]
mod server;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use history::{Ask, Call, Told, linearizable};
use sampan_store::{
    Compare, KeyValue, Op, Range, Store, Txn, TxnResponse,
    embedded::{Embedded, Options},
};
use server::Server;

const DIR: &str = "STORE_HISTORY_TEST_DIR";
const CLIENTS: u64 = 6;
const KEYS: u64 = 3;

/// Nanoseconds of the clock that all processes share.
fn now() -> u64 {
    let recent = SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000);
    SystemTime::now().duration_since(recent).unwrap().as_nanos() as u64
}

fn key(key: u8) -> Bytes {
    format!("/h/{key}").into()
}

fn seen(kv: Option<&KeyValue>) -> Option<(u64, i64)> {
    kv.map(|kv| (std::str::from_utf8(&kv.value).unwrap().parse().unwrap(), kv.mod_revision))
}

async fn ask(store: &dyn Store, at: u8, ask: &Ask) -> Told {
    let put = |value: &u64| Op::Put { key: key(at), value: value.to_string().into(), lease: 0 };
    let guard = |revision: &i64| vec![Compare::ModRevision(key(at), *revision)];
    let txn = match ask {
        Ask::Read => {
            let read = store.range(Range { start: key(at), ..Range::default() }).await;
            return read.map_or(Told::Nothing, |found| Told::Value(seen(found.kvs.first())));
        }
        Ask::Put(value) => Txn { compare: Vec::new(), ops: vec![put(value)] },
        Ask::Swap(revision, value) => Txn { compare: guard(revision), ops: vec![put(value)] },
        Ask::Remove(revision) => Txn { compare: guard(revision), ops: vec![Op::Delete { key: key(at) }] },
    };
    match store.txn(txn).await {
        Ok(TxnResponse::Committed(revision)) => Told::Done(revision),
        Ok(TxnResponse::Conflict(_, found)) => Told::Other(seen(found[0].as_ref())),
        Err(_) => Told::Nothing,
    }
}

/// Chooses what a client does next from what it last saw of the key.
fn choose(random: &mut u64, last: Option<(u64, i64)>, value: u64) -> Ask {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    match (*random >> 33) % 8 {
        0..=2 => Ask::Read,
        3 => Ask::Put(value),
        4 if last.is_some() => Ask::Remove(last.map_or(0, |(_, at)| at)),
        _ => Ask::Swap(last.map_or(0, |(_, at)| at), value),
    }
}

/// One client: says each call before it makes it, and each answer.
async fn client(store: Arc<dyn Store>, id: u64, say: impl Fn(String), stop: impl Fn() -> bool) {
    let mut random = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ now();
    let mut last: HashMap<u8, Option<(u64, i64)>> = HashMap::new();
    for n in 0_u64.. {
        if stop() {
            break;
        }
        let at = ((random >> 40) % KEYS) as u8;
        // Nobody else writes this value, in this process or another.
        let value = now() * 16 + id;
        let what = choose(&mut random, last.get(&at).copied().flatten(), value);
        let words = match &what {
            Ask::Read => "read 0 0".to_owned(),
            Ask::Put(value) => format!("put 0 {value}"),
            Ask::Swap(revision, value) => format!("swap {revision} {value}"),
            Ask::Remove(revision) => format!("remove {revision} 0"),
        };
        say(format!("ask {} {id}.{n} {at} {words}", now()));
        let told = ask(&*store, at, &what).await;
        let state = |state: &Option<(u64, i64)>| state.map_or("- -".to_owned(), |(v, r)| format!("{v} {r}"));
        let words = match &told {
            Told::Value(found) => format!("value {}", state(found)),
            Told::Done(revision) => format!("done {revision} 0"),
            Told::Other(found) => format!("other {}", state(found)),
            Told::Nothing => continue,
            Told::Refused => unreachable!("the store tells what is there"),
        };
        if let Told::Value(found) | Told::Other(found) = &told {
            last.insert(at, *found);
        }
        say(format!("told {} {id}.{n} {words}", now()));
    }
}

/// Puts what was said back together.
fn parse(lines: &[String], round: usize, calls: &mut HashMap<(usize, String), Call>) {
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let state = |v: &str, r: &str| (v != "-").then(|| (v.parse().unwrap(), r.parse().unwrap()));
        match words[..] {
            ["ask", time, id, at, what, revision, value] => {
                let (revision, value) = (revision.parse().unwrap(), value.parse().unwrap());
                let ask = match what {
                    "read" => Ask::Read,
                    "put" => Ask::Put(value),
                    "swap" => Ask::Swap(revision, value),
                    _ => Ask::Remove(revision),
                };
                let from = time.parse().unwrap();
                let call = Call { key: at.parse().unwrap(), ask, told: Told::Nothing, from, to: u64::MAX };
                calls.insert((round, id.to_owned()), call);
            }
            ["told", time, id, what, a, b] => {
                let call = calls.get_mut(&(round, id.to_owned())).unwrap();
                call.to = time.parse().unwrap();
                call.told = match what {
                    "value" => Told::Value(state(a, b)),
                    "done" => Told::Done(a.parse().unwrap()),
                    _ => Told::Other(state(a, b)),
                };
            }
            _ => {}
        }
    }
}

/// Not a check of its own: the process that holds the embedded store, and is killed.
#[test]
fn process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let options = Options { snapshot_log_bytes: 1 << 16, ..Options::new(Path::new(&dir)) };
        let store: Arc<dyn Store> = Arc::new(Embedded::open(options).unwrap());
        let say = |line: String| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
        };
        let clients = (0..CLIENTS).map(|id| client(store.clone(), id, say, || false));
        futures::future::join_all(clients).await;
    });
}

#[test]
fn the_embedded_store_is_linearizable_through_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut calls = HashMap::new();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut said: Vec<String> = lines.by_ref().take(150 + 40 * round).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines);
        // Lines are short enough for a pipe to take each as a whole, and asked is said before it is done.
        parse(&said, round, &mut calls);
    }
    let calls: Vec<Call> = calls.into_values().collect();
    assert!(calls.len() > 300, "{}", calls.len());
    linearizable(&calls).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_etcd_is_linearizable_through_kill_9() {
    let mut server = Server::start(&[]);
    let store = server.connect("/sampan").await;
    let said = Arc::new(Mutex::new(Vec::new()));
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for id in 0..CLIENTS {
        let (said, stop, answers) = (said.clone(), stop.clone(), answers.clone());
        let store: Arc<dyn Store> = Arc::new(store.clone());
        clients.push(tokio::spawn(async move {
            let say = |line: String| {
                answers.fetch_add(u64::from(line.starts_with("told")), Ordering::Relaxed);
                said.lock().unwrap().push(line);
            };
            client(store, id, say, || stop.load(Ordering::Relaxed)).await;
        }));
    }
    for round in 1..5 {
        while answers.load(Ordering::Relaxed) < round * 120 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.kill();
        server.up();
    }
    while answers.load(Ordering::Relaxed) < 600 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let mut calls = HashMap::new();
    parse(&said.lock().unwrap(), 0, &mut calls);
    let calls: Vec<Call> = calls.into_values().collect();
    linearizable(&calls).unwrap();
}

#[test]
fn the_check_finds_what_is_wrong() {
    let call = |ask: Ask, told: Told, from: u64, to: u64| Call { key: 0, ask, told, from, to };
    let done =
        |value: u64, revision: i64, from: u64, to: u64| call(Ask::Put(value), Told::Done(revision), from, to);
    let read = |state: Option<(u64, i64)>, from: u64, to: u64| call(Ask::Read, Told::Value(state), from, to);
    let good = [done(1, 2, 0, 10), done(2, 3, 5, 15), read(Some((1, 2)), 6, 9), read(Some((2, 3)), 11, 20)];
    linearizable(&good).unwrap();
    let stale = [done(1, 2, 0, 1), done(2, 3, 2, 3), read(Some((1, 2)), 4, 5)];
    assert!(linearizable(&stale).is_err(), "an old value after the new one was acknowledged");
    let lost = [done(1, 2, 0, 1), read(None, 2, 3)];
    assert!(linearizable(&lost).is_err(), "an acknowledged write that is gone");
    let unsure = |to: u64| call(Ask::Put(7), Told::Nothing, 0, to);
    linearizable(&[unsure(u64::MAX), read(None, 1, 2), read(Some((7, 9)), 3, 4)]).unwrap();
    assert!(linearizable(&[unsure(u64::MAX), read(Some((7, 9)), 1, 2), read(None, 3, 4)]).is_err());
    let refused = call(Ask::Swap(9, 1), Told::Refused, 2, 3);
    linearizable(&[done(1, 2, 0, 1), refused.clone()]).unwrap();
    assert!(linearizable(&[done(1, 9, 0, 1), refused]).is_err(), "what was expected was there");
    let twice = [call(Ask::Swap(0, 1), Told::Done(2), 0, 5), call(Ask::Swap(0, 2), Told::Done(3), 0, 5)];
    assert!(linearizable(&twice).is_err(), "both were the first");
}
