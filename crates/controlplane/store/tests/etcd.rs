//! The store on a real etcd: the model, restarts with kill -9, watches that go on, a full disk quota, TLS, leases.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/model.rs"]
mod model;
#[path = "support/server.rs"]
mod server;

use std::{fs, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use model::{Subject, step};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use sampan_daemon::tls::{Ca, Profile, Usage};
use sampan_store::{
    Compare, Error, Op, Range, Store, Txn, TxnResponse,
    embedded::{self, Embedded},
    etcd::{Etcd, Tls},
    migrate, prefix_end,
};
use server::Server;

/// How long anything that should happen soon may take.
const BOUND: Duration = Duration::from_secs(30);

struct Connected {
    server: Server,
    store: Etcd,
}

impl Subject for Connected {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.up();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agrees_with_the_model() {
    let server = Server::start(&[]);
    let store = server.connect("/sampan").await;
    let mut subject = Connected { server, store };
    let mut runner = TestRunner::deterministic();
    for case in 0..5 {
        let steps = proptest::collection::vec(step(), 20..30).new_tree(&mut runner).unwrap().current();
        subject.store = subject.server.connect(&format!("/case/{case}")).await;
        model::run(&mut subject, steps).await;
    }
}

fn put(key: &'static str, value: impl Into<Bytes>) -> Txn {
    Txn { compare: Vec::new(), ops: vec![Op::Put { key: key.into(), value: value.into(), lease: 0 }] }
}

async fn committed(store: &Etcd, txn: Txn) -> i64 {
    match store.txn(txn).await.unwrap() {
        TxnResponse::Committed(revision) => revision,
        TxnResponse::Conflict(_, found) => panic!("conflict with {found:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_through_kill_9() {
    let mut server = Server::start(&[]);
    let store = server.connect("/sampan").await;
    let mut watch = store.watch("/a/".into(), prefix_end(b"/a/"), 0, true).await.unwrap();
    assert!(watch.next().await.unwrap().unwrap().events.is_empty(), "caught up at once");
    committed(&store, put("/a/x", "1")).await;
    committed(&store, put("/b/x", "elsewhere")).await;
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((&batch.events[0].kv.key[..], &batch.events[0].kv.value[..]), (&b"/a/x"[..], &b"1"[..]));
    server.kill();
    let writer = store.clone();
    // Made while nothing runs: tried until it does.
    let guarded = Txn { compare: vec![Compare::ModRevision("/a/y".into(), 0)], ..put("/a/y", "2") };
    let write = tokio::spawn(async move {
        loop {
            match writer.txn(guarded.clone()).await {
                // A machine that is busy may take longer to start it than one call is tried.
                Err(Error::Unavailable(_)) => {}
                other => return other,
            }
        }
    });
    server.up();
    let batch = tokio::time::timeout(BOUND, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(&batch.events[0].kv.key[..], b"/a/y");
    assert!(matches!(write.await.unwrap().unwrap(), TxnResponse::Committed(at) if at == batch.revision));
    let delete = Txn { compare: Vec::new(), ops: vec![Op::Delete { key: "/a/x".into() }] };
    let at = committed(&store, delete).await;
    let batch = tokio::time::timeout(BOUND, watch.next()).await.unwrap().unwrap().unwrap();
    let event = &batch.events[0];
    assert!(event.deleted && event.kv.mod_revision == at);
    assert_eq!(event.prev.as_ref().map(|kv| &kv.value[..]), Some(&b"1"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_watch_and_read_say_so() {
    let server = Server::start(&[]);
    let store = server.connect("/sampan").await;
    let first = committed(&store, put("/a/x", "1")).await;
    let last = committed(&store, put("/a/x", "2")).await;
    store.compact(last).await.unwrap();
    store.compact(last).await.expect("who comes second has nothing to do");
    let old = Range { start: "/a/x".into(), revision: first, ..Range::default() };
    assert!(matches!(store.range(old).await, Err(Error::Compacted(_))));
    let mut watch = store.watch("/a/".into(), prefix_end(b"/a/"), first, false).await.unwrap();
    match watch.next().await.unwrap() {
        Err(Error::Compacted(at)) => assert_eq!(at, last),
        other => panic!("{other:?}"),
    }
    let ahead = Range { start: "/a/x".into(), revision: last + 100, ..Range::default() };
    assert!(matches!(store.range(ahead).await, Err(Error::Future(now)) if now == last));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_ranges_are_read_at_one_moment_and_limits_hold() {
    let server = Server::start(&[]);
    let store = server.connect("/sampan").await;
    for block in 0..110 {
        let op = |i: u32| Op::Put {
            key: format!("/a/{:05}", block * 100 + i).into(),
            value: "v".into(),
            lease: 0,
        };
        committed(&store, Txn { compare: Vec::new(), ops: (0..100).map(op).collect() }).await;
    }
    let all = Range { start: "/a/".into(), end: prefix_end(b"/a/"), ..Range::default() };
    let found = store.range(all.clone()).await.unwrap();
    assert_eq!((found.kvs.len(), found.count), (11_000, 11_000));
    assert!(found.kvs.windows(2).all(|pair| pair[0].key < pair[1].key));
    let some = store.range(Range { limit: 5_500, ..all.clone() }).await.unwrap();
    assert_eq!((some.kvs.len(), some.count), (5_500, 11_000));
    let count = store.range(Range { count_only: true, ..all }).await.unwrap();
    assert_eq!((count.kvs.len(), count.count), (0, 11_000));
    let everything = Range { start: "/".into(), end: Bytes::from_static(&[0]), ..Range::default() };
    assert_eq!(store.range(everything).await.unwrap().count, 11_000);
    let huge = store.txn(put("/a/huge", vec![b'x'; 2 << 20])).await;
    assert!(matches!(huge, Err(Error::TooLarge { .. })), "{huge:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_refuses_writes_and_serves_reads() {
    let server = Server::start(&["--quota-backend-bytes=2097152"]);
    let store = server.connect("/sampan").await;
    let mut refused = None;
    // The quota is looked at between batches: some more fit in.
    for round in 0..400 {
        match store.txn(put("/a/x", vec![b'x'; 200 << 10])).await {
            Ok(_) => assert!(round < 399, "never full"),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(Error::NoSpace(_))), "{refused:?}");
    let found = store.range(Range { start: "/a/x".into(), ..Range::default() }).await.unwrap();
    assert_eq!(found.kvs[0].value.len(), 200 << 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_and_are_kept() {
    let server = Server::start(&[]);
    let store = server.connect("/sampan").await;
    let lease = store.lease_grant(2).await.unwrap();
    let op = Op::Put { key: "/l".into(), value: "v".into(), lease };
    committed(&store, Txn { compare: Vec::new(), ops: vec![op.clone()] }).await;
    assert_eq!(store.lease_keep_alive(lease).await.unwrap(), 2);
    let mut watch = store.watch("/l".into(), Bytes::new(), 0, false).await.unwrap();
    let batch = tokio::time::timeout(BOUND, watch.next()).await.unwrap().unwrap().unwrap();
    assert!(batch.events[0].deleted, "the key went with its lease");
    assert!(matches!(store.lease_keep_alive(lease).await, Err(Error::LeaseNotFound(_))));
    let late = store.txn(Txn { compare: Vec::new(), ops: vec![op] }).await;
    assert!(matches!(late, Err(Error::LeaseNotFound(_))), "{late:?}");
    assert!(matches!(store.lease_revoke(lease).await, Err(Error::LeaseNotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(dir.path(), "etcd-ca").unwrap();
    let profile = |name: &str| Profile {
        common_name: name.to_owned(),
        organizations: Vec::new(),
        dns: vec!["localhost".to_owned()],
        ips: vec!["127.0.0.1".parse().unwrap()],
        usage: Usage::Both,
        days: 1,
    };
    let (member, us) = (ca.issue(&profile("member")).unwrap(), ca.issue(&profile("us")).unwrap());
    let tls = Tls { ca: ca.cert_pem().to_owned(), identity: Some((us.cert_pem, us.key_pem)) };
    let flags = ["--cert-file=m.pem", "--key-file=m.key", "--client-cert-auth", "--trusted-ca-file=ca.pem"];
    let server = Server::start_with(&flags, Some(tls.clone()), |dir| {
        fs::write(dir.join("m.pem"), &member.cert_pem).unwrap();
        fs::write(dir.join("m.key"), &member.key_pem).unwrap();
        fs::write(dir.join("ca.pem"), ca.cert_pem()).unwrap();
    });
    let store = server.connect("/sampan").await;
    committed(&store, put("/a", "1")).await;
    let mut nobody = server.options("/sampan");
    nobody.tls = Some(Tls { identity: None, ..tls.clone() });
    assert!(matches!(Etcd::connect(&nobody).await, Err(Error::Unavailable(_))));
    let other = tempfile::tempdir().unwrap();
    let other = Ca::load_or_create(other.path(), "another").unwrap();
    let mut fooled = server.options("/sampan");
    fooled.tls = Some(Tls { ca: other.cert_pem().to_owned(), ..tls });
    let refused = Etcd::connect(&fooled).await.unwrap_err().to_string();
    assert!(refused.contains("hint"), "{refused}");
}

fn one(key: &'static str) -> Range {
    Range { start: key.into(), ..Range::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_while_a_state_moves_away_does_not_write_afterwards() {
    let server = Server::start(&[]);
    let sleeper = server.connect("/sampan").await;
    committed(&sleeper, put("/a", "1")).await;
    committed(&sleeper, put("/sampan/cluster", "sealed")).await;
    let options = server.options("/sampan");
    let dir = tempfile::tempdir().unwrap();
    // A server that lives is left in peace, and goes on writing.
    committed(&sleeper, put("/masterleases/x", "10.0.0.1")).await;
    let refused = migrate::to_embedded(&options, &dir.path().join("a"), "me").await.unwrap_err().to_string();
    assert!(refused.contains("10.0.0.1") && refused.contains("hint"), "{refused}");
    let delete = Txn { compare: Vec::new(), ops: vec![Op::Delete { key: "/masterleases/x".into() }] };
    committed(&sleeper, delete).await;

    let fresh = dir.path().join("b");
    let (moved, shared) = migrate::to_embedded(&options, &fresh, "me").await.unwrap();
    assert_eq!((moved.keys, shared.len()), (1, 1), "what servers share is given back");
    assert_eq!(&shared[0].value[..], b"sealed");
    let late = sleeper.txn(put("/a", "late")).await.unwrap_err().to_string();
    assert!(late.contains("being moved away"), "{late}");
    let guarded = Txn { compare: vec![Compare::ModRevision("/b".into(), 0)], ..put("/b", "late") };
    assert!(sleeper.txn(guarded.clone()).await.is_err());
    assert_eq!(&sleeper.range(one("/a")).await.unwrap().kvs[0].value[..], b"1");
    // It stays after all: the same connection goes on.
    migrate::stay(&options, "me").await.unwrap();
    committed(&sleeper, guarded).await;
    assert!(migrate::left_etcd(&options, "me").await.unwrap_err().to_string().contains("used there again"));

    // Away, and back from a store that has been written to meanwhile.
    let fresh = dir.path().join("c");
    migrate::to_embedded(&options, &fresh, "me").await.unwrap();
    migrate::left_etcd(&options, "me").await.unwrap();
    migrate::left_etcd(&options, "me").await.expect("doing it again changes nothing");
    assert!(sleeper.txn(put("/a", "late")).await.unwrap_err().to_string().contains("moved away"));
    let embedded = Embedded::open(embedded::Options::new(&fresh)).unwrap();
    embedded.txn(put("/a", "2")).await.unwrap();
    // As an earlier version left it behind: of no use to who comes back.
    embedded.txn(put("/sampan/cluster", "old")).await.unwrap();
    drop(embedded);
    migrate::to_etcd(&fresh, &options, "me", |_| {}).await.unwrap();
    let back = server.connect("/sampan").await;
    assert_eq!(&back.range(one("/a")).await.unwrap().kvs[0].value[..], b"2");
    assert!(back.range(one("/sampan/cluster")).await.unwrap().kvs.is_empty());
    committed(&back, put("/a", "3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_transaction_fits_beside_the_fence() {
    let server = Server::start(&[]);
    let store = server.connect("/sampan").await;
    let keys = (0..store.max_ops()).map(|n| Bytes::from(format!("/k/{n}")));
    let txn = Txn {
        compare: keys.clone().map(|key| Compare::ModRevision(key, 0)).collect(),
        ops: keys.map(|key| Op::Put { key, value: "v".into(), lease: 0 }).collect(),
    };
    committed(&store, txn.clone()).await;
    match store.txn(txn).await.unwrap() {
        TxnResponse::Conflict(_, found) => assert!(found.len() == 127 && found.iter().all(Option::is_some)),
        other @ TxnResponse::Committed(_) => panic!("{other:?}"),
    }
}
