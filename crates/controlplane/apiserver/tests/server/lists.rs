//! Lists: revisions, pages, selectors, what is refused.

use crate::support::Server;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[tokio::test]
async fn a_list_is_of_one_moment() {
    let server = Server::start().await;
    let first = server.config_map("a").await;
    let second = server.config_map("b").await;
    server.merge(&format!("{MAPS}/a"), &json!({"data": {"a": "changed"}})).await;
    let at = |query: String| {
        let server = &server;
        async move { server.get(&format!("{MAPS}?{query}")).await.body }
    };
    let exact = at(format!("resourceVersion={}&resourceVersionMatch=Exact", revision(&first))).await;
    assert_eq!((names(&exact), revision(&exact)), (vec!["a"], revision(&first)));
    let old = at(format!("resourceVersion={}&resourceVersionMatch=Exact", revision(&second))).await;
    assert_eq!(old["items"][0]["data"]["a"], "b");
    let fresh = at(format!("resourceVersion={}&resourceVersionMatch=NotOlderThan", revision(&first))).await;
    assert_eq!(fresh["items"][0]["data"]["a"], "changed");
    // Without a match, a limit makes it exact.
    let legacy = at(format!("resourceVersion={}&limit=5", revision(&first))).await;
    assert_eq!(names(&legacy), ["a"]);
    // Who takes any state gets all of it.
    assert_eq!(names(&at("resourceVersion=0&limit=1".to_owned()).await), ["a", "b"]);
    let future = server.get(&format!("{MAPS}?resourceVersion=99999&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!((future.code, future.body["reason"].as_str()), (504, Some("Timeout")));
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(server.get(&format!("{MAPS}/a?resourceVersion=99999")).await.code, 504);
    assert_eq!(server.get(&format!("{MAPS}/a?resourceVersion=0")).await.code, 200);
}

#[tokio::test]
async fn pages_are_of_the_moment_of_the_first() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d"] {
        server.config_map(name).await;
    }
    let first = server.get(&format!("{MAPS}?limit=3")).await.body;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b", "c"], &json!(1)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.config_map("e").await;
    let rest = server.get(&format!("{MAPS}?limit=3&continue={token}")).await.body;
    assert_eq!((names(&rest), revision(&rest)), (vec!["d"], revision(&first)));
    assert!(
        rest["metadata"].get("continue").is_none() && rest["metadata"].get("remainingItemCount").is_none()
    );
    // With a selector nobody counts what remains.
    let chosen = server.get(&format!("{MAPS}?limit=1&fieldSelector=metadata.name!%3Da")).await.body;
    assert_eq!(names(&chosen), ["b"]);
    assert!(
        chosen["metadata"]["continue"].is_string() && chosen["metadata"].get("remainingItemCount").is_none()
    );
}

#[tokio::test]
async fn a_list_of_many_is_whole_however_it_is_sent() {
    let server = Server::start().await;
    let filler = "x".repeat(3000);
    for index in 0..60 {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"filler": filler},
            "metadata": {"name": format!("m{index:02}"), "labels": {"odd": (index % 2).to_string()}}});
        assert_eq!(server.post(MAPS, &body).await.code, 201);
    }
    let all = server.get(MAPS).await.body;
    assert_eq!(names(&all), (0..60).map(|index| format!("m{index:02}")).collect::<Vec<_>>());
    assert!(all["items"].as_array().unwrap().iter().all(|item| item["data"]["filler"] == filler.as_str()));
    assert_eq!(names(&server.get(&format!("{MAPS}?labelSelector=odd%3D1")).await.body).len(), 30);
    let indented = server.get(&format!("{MAPS}?pretty=true")).await.body;
    assert_eq!(indented["items"], all["items"]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_kubernetes_words() {
    let server = Server::start().await;
    let cases = [
        (
            "resourceVersionMatch=Exact",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersionMatch=Near&resourceVersion=3",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Near\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "sendInitialEvents=true",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            "resourceVersion=x",
            400,
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            "watch=1&sendInitialEvents=true",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=1&resourceVersion=2&resourceVersionMatch=NotOlderThan",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        ("limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
    ];
    for (query, code, message) in cases {
        let refused = server.get(&format!("{MAPS}?{query}")).await;
        assert_eq!((refused.code, refused.body["message"].as_str()), (code, Some(message)), "{query}");
    }
    let token = server.get(&format!("{MAPS}?continue=e30")).await;
    assert_eq!(token.code, 400);
    assert!(
        token.body["message"]
            .as_str()
            .unwrap()
            .starts_with("invalid continue token: continue key is not valid")
    );
}

#[tokio::test]
async fn a_collection_is_deleted_as_it_is_listed() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d"] {
        server.config_map(name).await;
    }
    let gone = server.send("DELETE", &format!("{MAPS}?limit=2"), "", "").await;
    assert_eq!((gone.code, names(&gone.body)), (200, vec!["a", "b"]), "{}", gone.body);
    let dry =
        server.send("DELETE", &format!("{MAPS}?dryRun=All&fieldSelector=metadata.name%3Dc"), "", "").await;
    assert_eq!((dry.code, names(&dry.body)), (200, vec!["c"]));
    assert_eq!(names(&server.get(MAPS).await.body), ["c", "d"]);
    let refused = server.send("DELETE", &format!("{MAPS}?resourceVersionMatch=Exact"), "", "").await;
    assert_eq!(refused.code, 422);
    assert_eq!(server.send("DELETE", "/api/v1/configmaps", "", "").await.code, 405);
    assert_eq!(names(&server.get(MAPS).await.body), ["c", "d"]);
}
