//! Watches that begin with what is there, in every form, and many at once.

use crate::support::Server;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use sampan_apiserver::Limits;
use serde_json::{Value, json};
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LIST: &str =
    "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

fn revision(object: &Value) -> i64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_watch_list_is_the_list_and_then_the_changes() {
    let server = Server::start().await;
    server.config_map("a").await;
    let b = server.config_map("b").await;
    let mut watch = server.watch(&format!("{MAPS}?{LIST}&resourceVersion={}", revision(&b))).await;
    assert_eq!(watch.brief().await, ("ADDED".to_owned(), "a".to_owned()));
    assert_eq!(watch.brief().await, ("ADDED".to_owned(), "b".to_owned()));
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(revision(&mark["object"]) >= revision(&b));
    server.config_map("c").await;
    assert_eq!(watch.brief().await, ("ADDED".to_owned(), "c".to_owned()));
    // Without the wish for initial events, only changes come.
    let mut later = server
        .watch(&format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"))
        .await;
    server.config_map("d").await;
    assert_eq!(later.brief().await, ("ADDED".to_owned(), "d".to_owned()));
    let future = server.get(&format!("{MAPS}?{LIST}&resourceVersion=99999")).await;
    assert_eq!(future.code, 504, "{}", future.body);
}

#[tokio::test]
async fn a_name_in_the_path_is_watched_alone() {
    let server = Server::start().await;
    server.config_map("a").await;
    let mut one = server.watch(&format!("{MAPS}/b?watch=1")).await;
    let mut same = server.watch(&format!("{MAPS}/b?watch=1&fieldSelector=metadata.name%3Db")).await;
    server.config_map("b").await;
    assert_eq!(one.brief().await, ("ADDED".to_owned(), "b".to_owned()));
    assert_eq!(same.brief().await, ("ADDED".to_owned(), "b".to_owned()));
    let refused = server.get(&format!("{MAPS}/b?watch=1&fieldSelector=metadata.name%3Dc")).await;
    assert_eq!(refused.code, 400);
    assert_eq!(refused.body["message"], "fieldSelector metadata.name doesn't match requested name");
}

async fn frames(server: &Server, accept: &str) -> Vec<Value> {
    let request = http::Request::get(format!("{MAPS}?{LIST}&timeoutSeconds=1"))
        .header("accept", accept)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let body = server.client().oneshot(request).await.unwrap().into_body();
    let reading = tokio::spawn(body.collect());
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"x": accept}})).await;
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"x": "y"}})).await;
    let bytes = reading.await.unwrap().unwrap().to_bytes();
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[tokio::test]
async fn tables_and_metadata_are_watched_too() {
    let server = Server::start().await;
    server.config_map("a").await;
    let tables = frames(&server, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let kinds: Vec<_> = tables.iter().map(|frame| frame["type"].as_str().unwrap()).take(4).collect();
    assert_eq!(kinds, ["ADDED", "BOOKMARK", "MODIFIED", "MODIFIED"]);
    // Columns are named once.
    assert!(tables[0]["object"]["columnDefinitions"].is_array());
    assert!(tables[2]["object"]["columnDefinitions"].is_null());
    assert_eq!(tables[2]["object"]["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = frames(&server, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    assert!(partial.iter().all(|frame| frame["object"]["kind"] == "PartialObjectMetadata"));
    assert!(partial.iter().all(|frame| frame["object"].get("data").is_none()));
}

#[tokio::test]
async fn a_thousand_watchers_hear_of_everything() {
    const WATCHERS: usize = 1000;
    let server = Server::with(Limits::default()).await;
    let now = revision(&server.get(MAPS).await.body);
    let mut watches = Vec::new();
    for index in 0..WATCHERS {
        // Every tenth has a selector of its own.
        let selector = if index % 10 == 0 { "&labelSelector=none%3Dsuch" } else { "" };
        watches.push(server.watch(&format!("{MAPS}?watch=1&resourceVersion={now}{selector}")).await);
    }
    for index in 0..20 {
        server.config_map(&format!("m{index}")).await;
    }
    for (index, watch) in watches.iter_mut().enumerate().filter(|(index, _)| index % 10 != 0) {
        for expected in 0..20 {
            let heard = watch.brief().await;
            assert_eq!(heard, ("ADDED".to_owned(), format!("m{expected}")), "watcher {index}");
        }
    }
}
