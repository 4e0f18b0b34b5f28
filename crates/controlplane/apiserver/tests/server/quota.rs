//! Quotas are exact, whoever creates at once.

use crate::support::{Server, pod};
use futures::future::join_all;
use serde_json::{Value, json};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A quota with its status, as its controller would write it.
async fn quota(server: &Server, name: &str, spec: Value) {
    let body = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    let made = server.post(QUOTAS, &body).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let zero = |(key, _): (&String, &Value)| (key.clone(), json!("0"));
    let used: Value =
        spec["hard"].as_object().unwrap().iter().map(zero).collect::<serde_json::Map<_, _>>().into();
    let mut whole = made.body;
    whole["status"] = json!({"hard": spec["hard"], "used": used});
    let put = server.put(&format!("{QUOTAS}/{name}/status"), &whole).await;
    assert_eq!(put.code, 200, "{}", put.body);
}

async fn used(server: &Server, name: &str) -> Value {
    server.get(&format!("{QUOTAS}/{name}")).await.body["status"]["used"].clone()
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_creators_never_exceed() {
    let server = Server::start().await;
    quota(&server, "maps", json!({"hard": {"count/configmaps": "20", "configmaps": "30"}})).await;
    let names: Vec<String> = (0..64).map(|n| format!("m-{n}")).collect();
    let answers = join_all(names.iter().map(|name| {
        let body = map(name);
        let server = &server;
        async move { server.post(MAPS, &body).await }
    }))
    .await;
    let made = answers.iter().filter(|answer| answer.code == 201).count();
    let refused = answers.iter().filter(|answer| answer.code == 403).count();
    assert_eq!((made, refused), (20, 44), "{:?}", answers.iter().map(|a| a.code).collect::<Vec<_>>());
    assert_eq!(used(&server, "maps").await, json!({"configmaps": "20", "count/configmaps": "20"}));
    let over = server.post(MAPS, &map("one-more")).await;
    assert_eq!(
        over.body["message"],
        "configmaps \"one-more\" is forbidden: exceeded quota: maps, requested: count/configmaps=1, used: \
         count/configmaps=20, limited: count/configmaps=20"
    );
    // What is refused otherwise costs nothing.
    let again = server.post(MAPS, &map(&names[0])).await;
    assert!(matches!(again.code, 403 | 409), "{}", again.body);
    assert_eq!(used(&server, "maps").await["count/configmaps"], "20");
}

#[tokio::test]
async fn what_is_not_stored_is_not_charged() {
    let server = Server::start().await;
    quota(&server, "maps", json!({"hard": {"configmaps": "2"}})).await;
    assert_eq!(server.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.code, 201);
    assert_eq!(used(&server, "maps").await["configmaps"], "0");
    assert_eq!(server.post(MAPS, &map("a")).await.code, 201);
    assert_eq!(server.post(MAPS, &map("a")).await.code, 409);
    assert_eq!(used(&server, "maps").await["configmaps"], "1");
    let mut wrong = map("b");
    wrong["data"] = json!({"../x": "y"});
    assert_eq!(server.post(MAPS, &wrong).await.code, 422);
    assert_eq!(used(&server, "maps").await["configmaps"], "1");
}

#[tokio::test]
async fn pods_say_what_they_need_and_scopes_choose_them() {
    let server = Server::start().await;
    server.account("default").await;
    quota(&server, "cpu", json!({"hard": {"requests.cpu": "1", "pods": "5"}})).await;
    let best = json!({"hard": {"pods": "1"}, "scopes": ["Terminating"]});
    quota(&server, "short", best).await;
    let path = "/api/v1/namespaces/default/pods";
    let silent = server.post(path, &pod("a", &json!({}))).await;
    assert_eq!(
        (silent.code, silent.body["message"].as_str()),
        (403, Some("pods \"a\" is forbidden: failed quota: cpu: must specify requests.cpu for: c"))
    );
    let asking = |cpu: &str, deadline: Option<i64>| {
        let containers = json!([{"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}]);
        let mut spec = json!({"containers": containers});
        if let Some(deadline) = deadline {
            spec["activeDeadlineSeconds"] = deadline.into();
        }
        spec
    };
    let made = server.post(path, &pod("a", &asking("600m", None))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let over = server.post(path, &pod("b", &asking("500m", None))).await;
    assert_eq!(
        over.body["message"],
        "pods \"b\" is forbidden: exceeded quota: cpu, requested: requests.cpu=500m, used: requests.cpu=600m, \
         limited: requests.cpu=1"
    );
    assert_eq!(server.post(path, &pod("c", &asking("100m", Some(60)))).await.code, 201);
    let over = server.post(path, &pod("d", &asking("100m", Some(60)))).await;
    assert_eq!(
        over.body["message"],
        "pods \"d\" is forbidden: exceeded quota: short, requested: pods=1, used: pods=1, limited: pods=1"
    );
    assert_eq!(used(&server, "cpu").await, json!({"pods": "2", "requests.cpu": "700m"}));
    assert_eq!(used(&server, "short").await, json!({"pods": "1"}));
}

#[tokio::test]
async fn an_update_pays_for_what_it_needs_more() {
    let server = Server::start().await;
    quota(&server, "ports", json!({"hard": {"services.nodeports": "1", "services": "5"}})).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
                         "spec": {"ports": [{"port": 80}]}});
    assert_eq!(server.post(services, &service).await.code, 201);
    let wide = server.merge(&format!("{services}/s"), &json!({"spec": {"type": "NodePort"}})).await;
    assert_eq!(wide.code, 200, "{}", wide.body);
    assert_eq!(used(&server, "ports").await, json!({"services": "1", "services.nodeports": "1"}));
    let more = json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
    let over = server.merge(&format!("{services}/s"), &more).await;
    assert_eq!(
        over.body["message"],
        "services \"s\" is forbidden: exceeded quota: ports, requested: services.nodeports=1, used: \
         services.nodeports=1, limited: services.nodeports=1"
    );
}
