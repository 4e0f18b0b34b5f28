//! Durable creates: how many a second, how long one takes, and what they cost. `benches/store` runs it.
//!
//! `durable embedded DIR | etcd HOST:PORT | put HOST:PORT  CLIENTS COUNT BYTES`: our embedded store, our store on an etcd, or
//! etcd's own put without anything of ours but the connection. Prints one line of JSON.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, join_all};
use sampan_store::{
    Compare, Op, Store, Txn, TxnResponse,
    embedded::{Embedded, Options},
    etcd::{self, Etcd},
};

type Create = Arc<dyn Fn(String, Vec<u8>) -> BoxFuture<'static, ()> + Send + Sync>;

fn through(store: Arc<dyn Store>) -> Create {
    Arc::new(move |key, value| {
        let store = store.clone();
        Box::pin(async move {
            let key = bytes::Bytes::from(key);
            let ops = vec![Op::Put { key: key.clone(), value: value.into(), lease: 0 }];
            let created = store.txn(Txn { compare: vec![Compare::ModRevision(key, 0)], ops }).await.unwrap();
            assert!(matches!(created, TxnResponse::Committed(_)));
        })
    })
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mode, place, clients, count, size] = &words[..] else { panic!("see the head of this file") };
    let (clients, count): (usize, usize) = (clients.parse().unwrap(), count.parse().unwrap());
    let size: usize = size.parse().unwrap();
    let create: Create = match mode.as_str() {
        "embedded" => through(Arc::new(Embedded::open(Options::new(place)).unwrap())),
        "etcd" => {
            let options = etcd::Options {
                endpoints: vec![place.clone()],
                prefix: "sampan".into(),
                tls: None,
                user: None,
            };
            through(Arc::new(Etcd::connect(&options).await.unwrap()))
        }
        "put" => {
            let client = etcd_client::Client::connect([format!("http://{place}")], None).await.unwrap();
            Arc::new(move |key, value| {
                let mut kv = client.kv_client();
                Box::pin(async move { drop(kv.put(key, value, None).await.unwrap()) })
            })
        }
        _ => panic!("{mode}: embedded, etcd or put"),
    };
    let begun = (Instant::now(), cpu());
    let run = std::process::id();
    let next = Arc::new(AtomicUsize::new(0));
    let each = (0..clients).map(|_| {
        let (create, next) = (create.clone(), next.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return times;
                }
                let sent = Instant::now();
                create(format!("/registry/bench/{run}/{n:08}"), vec![b'x'; size]).await;
                times.push(sent.elapsed());
            }
        })
    });
    let mut times: Vec<Duration> = join_all(each).await.into_iter().flat_map(Result::unwrap).collect();
    let (wall, used) = (begun.0.elapsed(), cpu() - begun.1);
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{{\"rate\":{:.0},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"cpu_us\":{:.0}}}",
        count as f64 / wall.as_secs_f64(),
        at(0.5),
        at(0.99),
        used.as_secs_f64() * 1e6 / count as f64
    );
}
