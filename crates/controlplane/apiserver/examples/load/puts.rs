//! Durable puts straight into a store, ours in this process or an etcd: what the disk and the engine alone can do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use sampan_store::{
    Compare, Op, Store, Txn, TxnResponse,
    embedded::{self, Embedded},
    etcd::{self, Etcd},
};
use tokio::task::JoinSet;

use crate::{Load, Outcome, cost::Meter};

/// Bytes of a value: a pod, about.
const VALUE: usize = 2048;

/// New keys, each in a transaction of its own that demands that it is absent, from as many tasks as connections.
pub async fn run(load: &Load, place: &str) -> Outcome<()> {
    let (name, store): (_, Arc<dyn Store>) = match place.strip_prefix("etcd://") {
        Some(address) => {
            let endpoints = vec![address.to_owned()];
            let options = etcd::Options { endpoints, prefix: "/puts".to_owned(), tls: None, user: None };
            ("etcd: durable puts", Arc::new(Etcd::connect(&options).await?))
        }
        None => ("own store: durable puts", Arc::new(Embedded::open(embedded::Options::new(place))?)),
    };
    let value = Bytes::from(vec![b'x'; VALUE]);
    let next = Arc::new(AtomicUsize::new(0));
    let meter = Meter::start(load)?;
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let (store, value, next, count) = (store.clone(), value.clone(), next.clone(), load.count);
        tasks.spawn(async move {
            let mut times = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(times);
                }
                let key = Bytes::from(format!("/registry/puts/{index:08}"));
                let started = Instant::now();
                let put = Op::Put { key: key.clone(), value: value.clone(), lease: 0 };
                let txn = Txn { compare: vec![Compare::ModRevision(key, 0)], ops: vec![put] };
                if !matches!(store.txn(txn).await?, TxnResponse::Committed(_)) {
                    return Err("a key was there before (hint: use an empty place)".into());
                }
                times.push(started.elapsed());
            }
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    meter.tell(load, name, times)
}
