//! Priority and fairness: where requests belong, and that a noisy client does not starve a quiet one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/kubectl.rs"]
mod kubectl;
#[path = "support/server.rs"]
mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use kubectl::Kubectl;
use sampan_apiserver::{Limits, LocalService, UserInfo};
use serde_json::{Value, json};
use support::{Server, call};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

async fn may_write(server: &Server, user: &str) -> LocalService {
    let bound = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": user}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(server.post(path, &bound).await.code, 201);
    server.handle.client(UserInfo::new(user, &[]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_turned_away_and_the_quiet_client_notices_nothing() {
    let server = Server::with(Limits { in_flight: 40, ..Limits::default() }).await;
    let (noisy, quiet) = (may_write(&server, "noisy").await, may_write(&server, "quiet").await);
    server.config_map("noise").await;
    server.config_map("silence").await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (over, good, refused) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for task in 0..600 {
        let (client, over, good, refused) = (noisy.clone(), over.clone(), good.clone(), refused.clone());
        server.supervisor.spawn(format!("flood/{task}"), async move {
            let mut n = 0;
            while !over.load(Ordering::Acquire) {
                n += 1;
                let body = json!({"data": {(format!("k{task}")): n.to_string()}});
                let answer = call(&client, "PATCH", &format!("{path}/noise"), &body).await;
                match answer.code {
                    429 => {
                        assert_eq!(answer.headers["retry-after"], "1");
                        assert_eq!(answer.body["message"], "Too many requests, please try again later.");
                        refused.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                    }
                    _ => drop(good.fetch_add(1, Ordering::Relaxed)),
                }
            }
        });
    }
    while refused.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    for n in 0..30 {
        let body = json!({"data": {"n": n.to_string()}});
        let answer = call(&quiet, "PATCH", &format!("{path}/silence"), &body).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        let answer = call(&quiet, "GET", &format!("{path}/silence"), &Value::Null).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
    }
    over.store(true, Ordering::Release);
    assert!(good.load(Ordering::Relaxed) > 0 && refused.load(Ordering::Relaxed) >= 100);
    // The administrator and the components have levels of their own.
    assert_eq!(server.get("/api/v1/nodes").await.code, 200);
    let metrics = server.get("/metrics").await.body;
    let text = metrics.as_str().unwrap();
    let line = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"global-default\"} ";
    let rejected = text.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    assert!(rejected.parse::<u64>().unwrap() >= 100, "{rejected}");
}

#[tokio::test]
async fn answers_say_where_the_request_belonged() {
    let server = Server::start().await;
    let uid = async |path: &str, name: &str| {
        server.get(&format!("{path}/{name}")).await.body["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let jane = server.handle.client(UserInfo::new("jane", &[]));
    for (answer, schema, level) in [
        (server.get("/api/v1/pods").await, "exempt", "exempt"),
        (call(&jane, "GET", "/api/v1/pods", &Value::Null).await, "global-default", "global-default"),
        (call(&jane, "GET", "/version", &Value::Null).await, "global-default", "global-default"),
    ] {
        assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], uid(SCHEMAS, schema).await.as_str());
        assert_eq!(answer.headers["x-kubernetes-pf-prioritylevel-uid"], uid(LEVELS, level).await.as_str());
    }
    let schema = |level: &str| {
        json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "jane"},
            "spec": {
                "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 50,
                "rules": [{
                    "subjects": [{"kind": "User", "user": {"name": "jane"}}],
                    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
                }],
            },
        })
    };
    assert_eq!(server.post(SCHEMAS, &schema("workload-low")).await.code, 201);
    let (mine, low) = (uid(SCHEMAS, "jane").await, uid(LEVELS, "workload-low").await);
    loop {
        let answer = call(&jane, "GET", "/api/v1/pods", &Value::Null).await;
        if answer.headers["x-kubernetes-pf-flowschema-uid"] == mine.as_str() {
            assert_eq!(answer.headers["x-kubernetes-pf-prioritylevel-uid"], low.as_str());
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_every_cluster_has_stays() {
    let server = Server::start().await;
    let changed =
        server.merge(&format!("{SCHEMAS}/catch-all"), &json!({"spec": {"matchingPrecedence": 9999}})).await;
    assert_eq!(changed.code, 422);
    assert!(
        changed.body["message"].as_str().unwrap().contains("spec of 'catch-all' must equal the fixed value"),
        "{}",
        changed.body
    );
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "mine"},
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"handSize": 65}}}},
    });
    let refused = server.post(LEVELS, &level).await;
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("handSize: Invalid value: 65: should not be greater than queues (64)"),
        "{}",
        refused.body
    );
    let mut watch = server
        .watch(&format!("{SCHEMAS}?watch=1&fieldSelector=metadata.name%3Dexempt&resourceVersion=0"))
        .await;
    assert_eq!(watch.brief().await.0, "ADDED");
    assert_eq!(server.delete(&format!("{SCHEMAS}/exempt"), &Value::Null).await.code, 200);
    assert_eq!(watch.brief().await.0, "DELETED");
    assert_eq!(watch.brief().await.0, "ADDED", "it comes back");
    let admin = Kubectl::new(&server, "root", &["system:masters"]);
    let table = admin.ok(&["get", "flowschemas,prioritylevelconfigurations"], "").await;
    for wanted in ["MISSINGPL", "global-default", "QUEUELENGTHLIMIT", "leader-election"] {
        assert!(table.contains(wanted), "{table}");
    }
    let line = table.lines().find(|line| line.contains("/service-accounts")).unwrap();
    assert!(line.contains("workload-low") && line.contains("9000") && line.ends_with("False"), "{line}");
    let lost = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "lost"},
        "spec": {"priorityLevelConfiguration": {"name": "nowhere"}, "rules": [{
            "subjects": [{"kind": "Group", "group": {"name": "g"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/x/*"]}],
        }]},
    });
    let made = server.post(SCHEMAS, &lost).await;
    assert_eq!((made.code, &made.body["spec"]["matchingPrecedence"]), (201, &json!(1000)), "{}", made.body);
    let mut watch = server
        .watch(&format!("{SCHEMAS}?watch=1&fieldSelector=metadata.name%3Dlost&resourceVersion=0"))
        .await;
    loop {
        let event = watch.next().await.unwrap();
        if event["object"]["status"]["conditions"][0]["status"] == "True" {
            assert_eq!(event["object"]["status"]["conditions"][0]["type"], "Dangling");
            break;
        }
    }
}
