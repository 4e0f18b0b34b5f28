//! Evictions, and the budgets that may refuse them.

use crate::support::{Answer, Server};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn running(server: &Server, name: &str, ready: bool) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
    });
    let made = server.post(PODS, &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    let told = server.merge(&format!("{PODS}/{name}/status"), &status).await;
    assert_eq!(told.code, 200, "{}", told.body);
}

async fn budget(server: &Server, name: &str, spec: Value, status: Value) {
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec});
    let made = server.post(BUDGETS, &budget).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let told = server.merge(&format!("{BUDGETS}/{name}/status"), &json!({"status": status})).await;
    assert_eq!(told.code, 200, "{}", told.body);
}

async fn evict(server: &Server, name: &str, options: Value) -> Answer {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"},
        "deleteOptions": options,
    });
    server.post(&format!("{PODS}/{name}/eviction"), &eviction).await
}

fn status(current: i64, desired: i64, allowed: i64) -> Value {
    json!({"observedGeneration": 1, "currentHealthy": current, "desiredHealthy": desired,
        "disruptionsAllowed": allowed, "expectedPods": 2})
}

#[tokio::test]
async fn a_budget_gives_what_it_has_and_then_refuses() {
    let server = Server::start().await;
    server.account("default").await;
    running(&server, "a", true).await;
    running(&server, "b", true).await;
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}});
    budget(&server, "b", spec, status(2, 1, 1)).await;

    let dry = evict(&server, "a", json!({"dryRun": ["All"]})).await;
    assert_eq!(dry.code, 201, "{}", dry.body);
    assert_eq!(server.get(&format!("{BUDGETS}/b")).await.body["status"]["disruptionsAllowed"], 1);

    let first = evict(&server, "a", Value::Null).await;
    assert_eq!((first.code, &first.body["status"]), (201, &json!("Success")), "{}", first.body);
    let counted = server.get(&format!("{BUDGETS}/b")).await.body;
    assert_eq!(counted["status"]["disruptionsAllowed"], 0);
    assert!(counted["status"]["disruptedPods"]["a"].is_string(), "{counted}");
    assert_eq!(counted["status"]["conditions"][0]["reason"], "InsufficientPods");
    let going = server.get(&format!("{PODS}/a")).await.body;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let conditions = going["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI")
    );

    let second = evict(&server, "b", Value::Null).await;
    assert_eq!((second.code, &second.body["reason"]), (429, &json!("TooManyRequests")), "{}", second.body);
    assert_eq!(second.body["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = &second.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(cause["message"], "The disruption budget b does not allow evicting pods currently");
    let told = server.merge(&format!("{BUDGETS}/b/status"), &json!({"status": status(1, 1, 0)})).await;
    assert_eq!(told.code, 200, "{}", told.body);
    let third = evict(&server, "b", Value::Null).await;
    let cause = &third.body["details"]["causes"][0];
    assert_eq!(cause["message"], "The disruption budget b needs 1 healthy pods and has 1 currently");
}

#[tokio::test]
async fn what_is_unhealthy_or_has_not_begun_may_go() {
    let server = Server::start().await;
    server.account("default").await;
    running(&server, "sick", false).await;
    let pending = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(server.post(PODS, &pending).await.code, 201);
    let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}});
    budget(&server, "b", spec, status(1, 2, 0)).await;
    assert_eq!(evict(&server, "new", Value::Null).await.code, 201);
    assert_eq!(server.get(&format!("{PODS}/new")).await.code, 404);
    assert_eq!(evict(&server, "sick", Value::Null).await.code, 429);
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    assert_eq!(server.merge(&format!("{BUDGETS}/b"), &always).await.code, 200);
    assert_eq!(evict(&server, "sick", Value::Null).await.code, 201);
}

#[tokio::test]
async fn a_budget_that_is_not_counted_yet_and_two_budgets_refuse() {
    let server = Server::start().await;
    server.account("default").await;
    running(&server, "a", true).await;
    let spec = json!({"minAvailable": 0, "selector": {"matchLabels": {"app": "a"}}});
    let fresh = json!({"observedGeneration": 0, "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0,
        "expectedPods": 0});
    budget(&server, "one", spec.clone(), fresh).await;
    let refused = evict(&server, "a", Value::Null).await;
    assert_eq!((refused.code, &refused.body["details"]["retryAfterSeconds"]), (429, &json!(10)));
    let cause = &refused.body["details"]["causes"][0]["message"];
    assert_eq!(cause, "The disruption budget one is still being processed by the server.");
    budget(&server, "two", spec, status(1, 0, 1)).await;
    let refused = evict(&server, "a", Value::Null).await;
    assert_eq!(refused.code, 500);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.starts_with("This pod has more than one PodDisruptionBudget"), "{message}");
    let wrong = evict(&server, "a", json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(wrong.code, 500);
}
