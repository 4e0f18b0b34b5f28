//! `metrics.k8s.io`, with nodes that are HTTPS servers and say what they use.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::support::Server;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use sampan_apiserver::UserInfo;
use serde_json::{Value, json};

const ROOT: &str = "/apis/metrics.k8s.io/v1beta1";

/// Registers a node that is reached at a port of this machine.
async fn register(server: &Server, name: &str, port: u16) {
    let body =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": name}}});
    assert_eq!(server.post("/api/v1/nodes", &body).await.code, 201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    assert_eq!(server.merge(&format!("/api/v1/nodes/{name}/status"), &status).await.code, 200);
}

/// A pod that runs.
async fn pod(server: &Server, name: &str, node: &str) {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "x"}]},
    });
    let made = server.post("/api/v1/namespaces/default/pods", &body).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let running = json!({"status": {"phase": "Running"}});
    let path = format!("/api/v1/namespaces/default/pods/{name}/status");
    assert_eq!(server.merge(&path, &running).await.code, 200);
}

fn used(name: &str, nanocores: u64) -> Value {
    json!({
        "name": name,
        "cpu": {"time": "2026-01-01T00:00:10Z", "usageNanoCores": nanocores, "windowSeconds": 10.0, "usageCoreNanoSeconds": 1},
        "memory": {"time": "2026-01-01T00:00:10Z", "workingSetBytes": 8192},
    })
}

fn summary() -> Value {
    let pod = |name: &str, containers: Value| json!({"podRef": {"name": name, "namespace": "default", "uid": "u"}, "containers": containers});
    let mut fresh = used("main", 0);
    fresh["cpu"].as_object_mut().unwrap().remove("usageNanoCores");
    json!({"node": used("", 1_500_000_000), "pods": [
        pod("a", json!([used("main", 250_000_000), used("side", 1)])),
        pod("b", json!([used("main", 1_000_000)])),
        pod("fresh", json!([fresh])),
    ]})
}

/// A server with one node that answers and one that does not. Returns how often the first was asked.
async fn cluster() -> (Server, Arc<AtomicUsize>) {
    let server = Server::start().await;
    server.account("default").await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let handle = move |request: Request<()>, _: Bytes| {
        assert_eq!(request.uri().path(), "/stats/summary");
        count.fetch_add(1, Ordering::Relaxed);
        Response::new(Full::new(Bytes::from(summary().to_string())))
    };
    let ca = server.ca.cert_pem().to_owned();
    let address = crate::https::serve(&server.supervisor, &server.ca, &[], Some(&ca), handle).await;
    register(&server, "good", address.port()).await;
    // Bound and dropped: nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    register(&server, "dead", gone.port()).await;
    for (name, node) in [("a", "good"), ("b", "good"), ("fresh", "good"), ("lost", "dead")] {
        pod(&server, name, node).await;
    }
    (server, asked)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn usage_is_what_nodes_say_and_a_dead_node_is_left_out() {
    let (server, asked) = cluster().await;
    let nodes = format!("{ROOT}/nodes");
    let many = futures::future::join_all((0..10).map(|_| server.get(&nodes))).await;
    for answer in &many {
        assert_eq!((answer.code, names(&answer.body)), (200, vec!["good"]), "{}", answer.body);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1, "they share one question");
    let node = &many[0].body["items"][0];
    assert_eq!(node["usage"], json!({"cpu": "1500m", "memory": "8Ki"}));
    assert_eq!((&node["window"], &node["timestamp"]), (&json!("10s"), &json!("2026-01-01T00:00:10Z")));
    assert_eq!(node["metadata"]["labels"]["zone"], "good");

    let pods = format!("{ROOT}/namespaces/default/pods");
    let list = server.get(&pods).await.body;
    assert_eq!((&list["kind"], names(&list)), (&json!("PodMetricsList"), vec!["a", "b"]));
    let containers = list["items"][0]["containers"].as_array().unwrap();
    assert_eq!(containers[0], json!({"name": "main", "usage": {"cpu": "250m", "memory": "8Ki"}}));
    assert_eq!(containers[1]["usage"]["cpu"], "1n");
    for (query, want) in [
        ("?labelSelector=app%20in%20(b,lost)", vec!["b"]),
        ("?fieldSelector=spec.nodeName%3Ddead", vec![]),
        ("?labelSelector=app!%3Da", vec!["b"]),
    ] {
        assert_eq!(names(&server.get(&format!("{pods}{query}")).await.body), want, "{query}");
    }
    assert_eq!(names(&server.get("/apis/metrics.k8s.io/v1/pods").await.body), ["a", "b"]);
    let one = server.get(&format!("{pods}/a")).await.body;
    assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("PodMetrics"), &json!("metrics.k8s.io/v1beta1")));
    for name in ["fresh", "lost", "none"] {
        let answer = server.get(&format!("{pods}/{name}")).await;
        assert_eq!((answer.code, &answer.body["reason"]), (404, &json!("NotFound")), "{}", answer.body);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn it_is_found_refused_and_shown_as_a_table() {
    let (server, _) = cluster().await;
    let groups = server.get("/apis").await.body;
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "metrics.k8s.io").unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let resources = server.get(ROOT).await.body;
    assert_eq!(resources["resources"][1]["kind"], "PodMetrics", "{resources}");
    for (method, path, code) in [
        ("GET", "/nodes?watch=1", 405),
        ("DELETE", "/namespaces/default/pods/a", 405),
        ("POST", "/namespaces/default/pods", 405),
        ("GET", "/namespaces/default/nodes", 404),
        ("GET", "/services", 404),
        ("GET", "/nodes/good/status", 404),
        ("GET", "/nodes?labelSelector=%3D%3D", 400),
    ] {
        let answer = server.send(method, &format!("{ROOT}{path}"), "application/json", "{}").await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.body);
    }
    let table = |path: &str| {
        let request = http::Request::get(format!("{ROOT}{path}"));
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let request = request.header("accept", accept).body(Full::default()).unwrap();
        crate::support::answer(server.client(), request)
    };
    let rows = table("/pods").await.body;
    assert_eq!(rows["kind"], "Table", "{rows}");
    assert_eq!(rows["rows"][0]["cells"], json!(["a", "250000001n", "16Ki", "10s"]));
    assert_eq!(rows["rows"][0]["object"]["metadata"]["name"], "a");
    assert_eq!(table("/nodes/good").await.body["rows"][0]["cells"][1], "1500m");

    // Who may view a namespace may see what it uses.
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "view"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(server.post(path, &binding).await.code, 201);
    let bob = server.handle.client(UserInfo::new("bob", &[]));
    for (path, code) in [("/namespaces/default/pods", 200), ("/pods", 403), ("/nodes", 403)] {
        let request = http::Request::get(format!("{ROOT}{path}")).body(Full::default()).unwrap();
        assert_eq!(crate::support::answer(bob.clone(), request).await.code, code, "{path}");
    }
}

#[tokio::test]
async fn a_registered_server_replaces_it() {
    let (server, _) = cluster().await;
    const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
    let service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"namespace": "kube-system", "name": "metrics-server"},
        },
    });
    assert_eq!(server.get(&format!("{ROOT}/nodes")).await.code, 200);
    assert_eq!(server.post(SERVICES, &service).await.code, 201);
    let mut changed =
        server.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name=v1beta1.metrics.k8s.io")).await;
    while !changed.next().await.unwrap()["object"]["status"]["conditions"].is_array() {}
    assert_eq!(server.get(&format!("{ROOT}/nodes")).await.code, 503);
    // The other version would be of another source: it goes as well.
    let other = || server.get("/apis/metrics.k8s.io/v1/nodes");
    while other().await.code != 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.delete(&format!("{SERVICES}/v1beta1.metrics.k8s.io"), &json!({})).await.code, 200);
    while other().await.code != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get(&format!("{ROOT}/nodes")).await.code, 200);
}
