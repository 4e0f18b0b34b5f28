//! Watches: starts, selectors, bookmarks, compaction, slow readers, shutdown.

use std::time::{Duration, Instant};

use crate::support::Server;
use sampan_apiserver::Limits;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

fn revision(object: &Value) -> i64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_watch_follows_what_happens() {
    let server = Server::start().await;
    let first = server.config_map("first").await;
    // From nowhere: what is there, then what comes.
    let mut all = server.watch(&format!("{MAPS}?watch=true")).await;
    // From a revision: what came after it, even before the watch began.
    server.config_map("second").await;
    let mut later = server.watch(&format!("{MAPS}?watch=1&resourceVersion={}", revision(&first))).await;
    assert_eq!(all.brief().await, pair("ADDED", "first"));
    assert_eq!(all.brief().await, pair("ADDED", "second"));
    assert_eq!(later.brief().await, pair("ADDED", "second"));
    server.merge(&format!("{MAPS}/first"), &json!({"data": {"x": "y"}})).await;
    let event = all.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), event["object"]["data"]["x"].as_str()),
        (Some("MODIFIED"), Some("y"))
    );
    assert_eq!(event, later.next().await.unwrap());
    server.delete(&format!("{MAPS}/first"), &Value::Null).await;
    let deleted = all.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["data"]["x"], "y");
    assert!(revision(&deleted["object"]) > revision(&event["object"]));
}

#[tokio::test]
async fn a_node_hears_of_its_own_pods_and_of_no_others() {
    let server = Server::start().await;
    server.account("default").await;
    let pods = "/api/v1/namespaces/default/pods";
    let now = revision(&server.get(pods).await.body);
    let watch = |fields: &str| format!("{pods}?watch=1&resourceVersion={now}&fieldSelector={fields}");
    let mut own = server.watch(&watch("spec.nodeName%3Dn1")).await;
    let mut other = server.watch(&watch("spec.nodeName%3Dn2")).await;
    let mut free = server.watch(&watch("spec.nodeName%3D")).await;
    let mut bound = server.watch(&watch("spec.nodeName%21%3D")).await;
    let mut named = server.watch(&watch("metadata.name%3Db")).await;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(server.post(pods, &pod).await.code, 201);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        assert_eq!(server.post(&format!("{pods}/{name}/binding"), &binding).await.code, 201);
        let done = server.delete(&format!("{pods}/{name}"), &json!({"gracePeriodSeconds": 0})).await;
        assert_eq!(done.code, 200, "{}", done.body);
    }
    for (watch, name) in [(&mut own, "a"), (&mut other, "b")] {
        assert_eq!(watch.brief().await, pair("ADDED", name));
        assert_eq!(watch.brief().await, pair("DELETED", name));
    }
    for watch in [&mut free, &mut bound] {
        for name in ["a", "b"] {
            assert_eq!(watch.brief().await, pair("ADDED", name));
            assert_eq!(watch.brief().await, pair("DELETED", name));
        }
    }
    assert_eq!(named.brief().await, pair("ADDED", "b"));
    // Who went is not told of any more, and is no harm to those who came.
    drop((own, named));
    let mut again = server.watch(&watch("spec.nodeName%3Dn1")).await;
    assert_eq!(again.brief().await, pair("ADDED", "a"));
}

#[tokio::test]
async fn selectors_turn_changes_into_coming_and_going() {
    let server = Server::start().await;
    let now = revision(&server.get(MAPS).await.body);
    let mut chosen =
        server.watch(&format!("{MAPS}?watch=1&labelSelector=on%3Dyes&resourceVersion={now}")).await;
    let mut named =
        server.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion={now}")).await;
    server.config_map("a").await;
    server.config_map("b").await;
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    let path = format!("{MAPS}/a");
    server.merge(&path, &label("yes".into())).await;
    server.merge(&path, &json!({"data": {"more": "1"}})).await;
    let left = server.merge(&path, &label("no".into())).await.body;
    assert_eq!(chosen.brief().await, pair("ADDED", "a"));
    assert_eq!(chosen.brief().await, pair("MODIFIED", "a"));
    let gone = chosen.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["labels"]["on"], "yes");
    assert_eq!(revision(&gone["object"]), revision(&left));
    assert_eq!(named.brief().await, pair("ADDED", "b"));
}

#[tokio::test]
async fn events_that_are_ready_together_come_together_and_whole() {
    let server = Server::start().await;
    let now = revision(&server.get(MAPS).await.body);
    let mut chosen =
        server.watch(&format!("{MAPS}?watch=1&labelSelector=on%3Dyes&resourceVersion={now}")).await;
    let expected = ["ADDED", "MODIFIED", "DELETED", "ADDED", "MODIFIED", "DELETED"];
    server.config_map("a").await;
    let label = |value: &str| json!({"metadata": {"labels": {"on": value}}});
    for _ in 0..2 {
        server.merge(&format!("{MAPS}/a"), &label("yes")).await;
        server.merge(&format!("{MAPS}/a"), &json!({"data": {"now": format!("{:?}", Instant::now())}})).await;
        server.merge(&format!("{MAPS}/a"), &label("no")).await;
    }
    // A watch that starts late finds them all in the history, and frames them together.
    let mut late =
        server.watch(&format!("{MAPS}?watch=1&labelSelector=on%3Dyes&resourceVersion={now}")).await;
    for kind in expected {
        assert_eq!(chosen.brief().await, pair(kind, "a"));
        assert_eq!(late.brief().await, pair(kind, "a"));
    }
}

#[tokio::test]
async fn a_compacted_start_is_gone() {
    let server = Server::start().await;
    for n in 0..5 {
        server.config_map(&format!("m{n}")).await;
    }
    let now = revision(&server.get(MAPS).await.body);
    sampan_store::Store::compact(&*server.store, now).await.unwrap();
    let mut old = server.watch(&format!("{MAPS}?watch=1&resourceVersion=2")).await;
    let event = old.next().await.unwrap();
    assert_eq!(event["type"], "ERROR", "{event}");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(event["object"]["message"], format!("too old resource version: 2 ({now})"));
    assert_eq!(old.next().await, None);
}

#[tokio::test]
async fn a_start_before_the_cache_is_served_by_the_store() {
    let server = Server::with(Limits { history_events: 2, ..Limits::default() }).await;
    let now = revision(&server.get(MAPS).await.body);
    // Opens the cache.
    drop(server.watch(&format!("{MAPS}?watch=1&resourceVersion={now}")).await);
    for n in 0..6 {
        server.config_map(&format!("m{n}")).await;
    }
    let mut all = server.watch(&format!("{MAPS}?watch=1&resourceVersion={now}")).await;
    for n in 0..6 {
        assert_eq!(all.brief().await, pair("ADDED", &format!("m{n}")));
    }
    server.config_map("m6").await;
    assert_eq!(all.brief().await, pair("ADDED", "m6"));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = Server::start().await;
    server.config_map("a").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.brief().await, pair("ADDED", "a"));
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let refused = server.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let server = Server::start().await;
    let now = revision(&server.get(MAPS).await.body);
    let query = format!("watch=1&resourceVersion={now}&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
    server
        .post(
            "/api/v1/namespaces",
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}),
        )
        .await;
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert!(revision(&mark["object"]) >= now);
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_watcher_that_never_reads_is_ended_and_others_notice_nothing() {
    let server = Server::with(Limits { watch_queue: 4, ..Limits::default() }).await;
    let now = revision(&server.get(MAPS).await.body);
    let path = format!("{MAPS}?watch=1&resourceVersion={now}");
    let mut lazy = server.watch(&path).await;
    let mut keen = server.watch(&path).await;
    for n in 0..20 {
        server.config_map(&format!("m{n}")).await;
        assert_eq!(keen.brief().await, pair("ADDED", &format!("m{n}")));
    }
    let mut heard = 0;
    while lazy.next().await.is_some() {
        heard += 1;
    }
    assert_eq!(heard, 4);
}

#[tokio::test]
async fn watches_are_bounded_and_end_at_shutdown() {
    let server = Server::with(Limits { long_running: 1, ..Limits::default() }).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    let refused = server.get(&format!("{MAPS}?watch=1")).await;
    assert_eq!(refused.code, 429, "{}", refused.body);
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(server.handle.drain(Duration::from_secs(5)).await);
    assert!(
        tokio::time::timeout(Duration::from_secs(5), async { while watch.next().await.is_some() {} })
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn tables_are_watched_too() {
    let server = Server::start().await;
    server.config_map("t").await;
    let request = http::Request::get(format!("{MAPS}?watch=1&timeoutSeconds=1"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(http_body_util::Full::default())
        .unwrap();
    let answer = crate::support::answer(server.client(), request).await;
    assert_eq!(answer.body["type"], "ADDED", "{}", answer.body);
    assert_eq!(answer.body["object"]["kind"], "Table");
    assert_eq!(answer.body["object"]["rows"][0]["cells"][0], "t");
}

#[tokio::test]
async fn events_of_both_groups_are_one() {
    let server = Server::start().await;
    let now = revision(&server.get(MAPS).await.body);
    let core = "/api/v1/namespaces/default/events";
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let mut watch = server.watch(&format!("{new}?watch=1&resourceVersion={now}")).await;
    let body = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Tested", "message": "hello",
        "type": "Normal", "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "source": {"component": "test"},
    });
    let made = server.post(core, &body).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["note"], "hello", "{event}");
    assert_eq!(event["object"]["apiVersion"], "events.k8s.io/v1");
    assert_eq!(server.get(&format!("{new}/e")).await.body["regarding"]["name"], "p");
    let listed = server.get(&format!("{core}?fieldSelector=involvedObject.name%3Dp")).await.body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_event_is_heard_soon() {
    let server = Server::start().await;
    let now = revision(&server.get(MAPS).await.body);
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={now}")).await;
    let mut times = Vec::new();
    for n in 0..50 {
        server.config_map(&format!("m{n}")).await;
        let started = Instant::now();
        watch.next().await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    println!("event after the answer: p50 {:?}, worst {:?}", times[25], times[49]);
    assert!(times[25] < Duration::from_millis(20), "{times:?}");
}
