//! Queues of tenants over the real API server: their kind is there from the start, guarantees are taken back, what is wrong
//! is told.

use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use sampan_planner::fairness::{QUEUE, TenantQueue};
use sampan_planner::object::Condition;
use serde_json::{Value, json};

use crate::scheduling::pod;
use crate::support::Cluster;

fn queues(cluster: &Cluster) -> Api<TenantQueue> {
    Api::all(cluster.client.clone())
}

async fn queue(cluster: &Cluster, name: &str, spec: Value) {
    let queue: TenantQueue =
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    queues(cluster).create(&PostParams::default(), &queue).await.unwrap();
}

/// A namespace that belongs to the queue of its name.
async fn tenant(cluster: &Cluster, name: &str) {
    let namespace = json!({"metadata": {"name": name, "labels": {QUEUE: name}}});
    let namespace: Namespace = serde_json::from_value(namespace).unwrap();
    Api::all(cluster.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = cluster.api(name);
    cluster.until("its ServiceAccount", || async { accounts.get_opt("default").await.unwrap() }).await;
}

async fn condition(cluster: &Cluster, name: &str, kind: &str, reason: &str) -> Condition {
    let what = format!("{kind} of {name}: {reason}");
    cluster
        .until(&what, || async {
            let status = queues(cluster).get(name).await.unwrap().status?;
            status.conditions.into_iter().find(|c| c.kind == kind && c.reason == reason)
        })
        .await
}

async fn placed(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let pods = cluster.pods(namespace).await.into_iter();
    let on = pods.filter(|p| {
        p.metadata.deletion_timestamp.is_none() && p.spec.as_ref().is_some_and(|s| s.node_name.is_some())
    });
    on.filter_map(|p| p.metadata.name).collect()
}

async fn count(cluster: &Cluster, namespace: &str, wanted: usize) {
    let what = format!("{wanted} pods of {namespace} on nodes");
    cluster.until(&what, || async { (placed(cluster, namespace).await.len() == wanted).then_some(()) }).await;
}

async fn refused(cluster: &Cluster, namespace: &str, name: &str, text: &str) {
    let pods: Api<Pod> = cluster.api(namespace);
    let what = format!("{name}: {text}");
    cluster
        .until(&what, || async {
            let conditions = pods.get(name).await.unwrap().status?.conditions?;
            let condition = conditions.into_iter().find(|c| c.type_ == "PodScheduled")?;
            condition.message?.contains(text).then_some(())
        })
        .await;
}

#[tokio::test]
async fn what_was_borrowed_is_taken_back_and_limits_hold() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "2").await;
    cluster.node("n2", "2").await;
    for name in ["red", "blue"] {
        tenant(&cluster, name).await;
    }
    queue(&cluster, "top", json!({"limit": {"cpu": "4"}})).await;
    queue(&cluster, "red", json!({"parent": "top", "guaranteed": {"cpu": "1"}})).await;
    queue(&cluster, "blue", json!({"parent": "top", "guaranteed": {"cpu": 2}, "limit": {"cpu": "2"}})).await;
    condition(&cluster, "blue", "Ready", "Ready").await;
    for at in 0..4 {
        cluster.create::<Pod>("red", pod(&format!("red-{at}"), "1", json!({}))).await;
    }
    count(&cluster, "red", 4).await;
    // What is idle was borrowed; it goes back, and no more than is guaranteed, to pods that are no more important.
    for at in 0..3 {
        cluster.create::<Pod>("blue", pod(&format!("blue-{at}"), "1", json!({}))).await;
    }
    count(&cluster, "blue", 2).await;
    count(&cluster, "red", 2).await;
    let about = ListParams::default().fields("reason=Reclaimed");
    let events: Api<Event> = cluster.api("red");
    let told = cluster
        .until("two events", || async {
            let told = events.list(&about).await.unwrap().items;
            (told.len() >= 2).then_some(told)
        })
        .await;
    assert!(told[0].message.as_ref().unwrap().starts_with("Its room is taken back by pod "));
    let waiting =
        cluster.pods("blue").await.into_iter().find(|p| p.spec.as_ref().unwrap().node_name.is_none());
    let waiting = waiting.unwrap().metadata.name.unwrap();
    let full = "tenant queue \"blue\" is at its limit: cpu 2 of 2 used, the pod asks 1";
    refused(&cluster, "blue", &waiting, full).await;
    // Its status tells how it stands.
    let status = cluster
        .until("the status of blue", || async {
            let status = queues(&cluster).get("blue").await.unwrap().status?;
            (status.dominant_share == "50.0%" && status.pending == 1).then_some(status)
        })
        .await;
    assert_eq!((status.dominant_resource.as_str(), status.used["cpu"].0.as_str()), ("cpu", "2"));

    // A limit that is raised lets it in, with what red has beyond its guarantee.
    let raised = json!({"spec": {"limit": {"cpu": "3"}, "guaranteed": {"cpu": "3"}}});
    queues(&cluster).patch("blue", &PatchParams::default(), &Patch::Merge(&raised)).await.unwrap();
    count(&cluster, "blue", 3).await;
    count(&cluster, "red", 1).await;

    // Without queues everything is as it was before there were any.
    for name in ["red", "blue", "top"] {
        queues(&cluster).delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster.node("n3", "2").await;
    cluster.create::<Pod>("blue", pod("free", "2", json!({}))).await;
    let pods: Api<Pod> = cluster.api("blue");
    let node = || async { pods.get("free").await.unwrap().spec?.node_name };
    assert_eq!(cluster.until("a node for it", node).await, "n3");
}

#[tokio::test]
async fn bad_queues_are_told_about_and_others_go_on() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "2").await;
    tenant(&cluster, "red").await;
    queue(&cluster, "lost", json!({"parent": "nobody"})).await;
    queue(&cluster, "round", json!({"parent": "round"})).await;
    queue(&cluster, "greedy", json!({"guaranteed": {"cpu": "64"}})).await;
    queue(&cluster, "odd", json!({"guaranteed": {"cpu": "lots"}})).await;
    queue(&cluster, "red", json!({"weight": 2})).await;
    let lost = condition(&cluster, "lost", "Ready", "UnknownParent").await;
    assert_eq!(lost.message, "there is no TenantQueue \"nobody\", which spec.parent names");
    condition(&cluster, "round", "Ready", "Cycle").await;
    condition(&cluster, "greedy", "GuaranteeBacked", "GuaranteeAboveCluster").await;
    condition(&cluster, "odd", "Ready", "Invalid").await;
    let events: Api<Event> = cluster.api("default");
    let about = ListParams::default().fields("involvedObject.kind=TenantQueue,reason=UnknownParent");
    cluster.until("the event", || async { events.list(&about).await.unwrap().items.pop() }).await;
    cluster.create::<Pod>("red", pod("works", "1", json!({}))).await;
    count(&cluster, "red", 1).await;
    let stray = json!({"metadata": {"labels": {QUEUE: "lost"}}});
    cluster.create::<Pod>("red", pod("stray", "1", stray)).await;
    refused(&cluster, "red", "stray", "tenant queue \"lost\" takes no pods of namespace \"red\"").await;
    // Words that make no sense are refused before they are stored.
    let wrong: TenantQueue =
        serde_json::from_value(json!({"metadata": {"name": "wrong"}, "spec": {"reclaim": "Some"}})).unwrap();
    let error = queues(&cluster).create(&PostParams::default(), &wrong).await.unwrap_err().to_string();
    assert!(error.contains("Unsupported value: \"Some\""), "{error}");
    // kubectl shows what matters.
    let table = http::Request::get("/apis/sampan.io/v1alpha1/tenantqueues/red")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new());
    let table = cluster.client.request_text(table.unwrap()).await.unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    let names: Vec<&str> =
        columns.filter(|c| c["priority"] == 0).filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["Name", "Parent", "Weight", "Share", "Of", "Fair", "Pending", "Ready", "Age"]);
}
