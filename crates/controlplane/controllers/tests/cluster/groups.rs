//! PodGroup objects over the real API server.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::scheduling::{class, node_of, pod, refused};
use crate::support::Cluster;

async fn group(cluster: &Cluster, name: &str, policy: Value) {
    let group = json!({"metadata": {"name": name}, "spec": {"schedulingPolicy": policy}});
    cluster.create::<PodGroup>("default", group).await;
}

async fn scheduled(cluster: &Cluster, name: &str, status: &str) -> Condition {
    let what = format!("{name} scheduled: {status}");
    cluster
        .until(&what, || async {
            let group = cluster.api::<PodGroup>("default").get(name).await.unwrap();
            let conditions = group.status?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "PodGroupInitiallyScheduled" && c.status == status)
        })
        .await
}

fn member(group: &str, more: Value) -> Value {
    let mut spec = json!({"schedulingGroup": {"podGroupName": group}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"spec": spec})
}

#[tokio::test]
async fn a_group_says_how_many_go_together_and_is_told_how_it_went() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    // Without the object nobody knows: they wait for it.
    for name in ["g-1", "g-2"] {
        cluster.create::<Pod>("default", pod(name, "1", member("g", json!({})))).await;
    }
    refused(&cluster, "g-1", "waiting for PodGroup \"g\"").await;
    group(&cluster, "g", json!({"gang": {"minCount": 3}})).await;
    refused(&cluster, "g-1", "pod group \"g\" has 2 of 3 members that it needs").await;
    let told = scheduled(&cluster, "g", "False").await;
    assert_eq!(told.reason, "Unschedulable");
    // Fewer will do.
    cluster
        .merge::<PodGroup>("default", "g", json!({"spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}}))
        .await;
    assert_eq!((node_of(&cluster, "g-1").await, node_of(&cluster, "g-2").await), ("a".into(), "a".into()));
    scheduled(&cluster, "g", "True").await;

    // A more important gang makes room for all of it, or leaves everybody where they are.
    class(&cluster, "high", 1000, "PreemptLowerPriority").await;
    group(&cluster, "big", json!({"gang": {"minCount": 3}})).await;
    let high = member("big", json!({"priorityClassName": "high"}));
    for name in ["big-1", "big-2", "big-3"] {
        cluster.create::<Pod>("default", pod(name, "1", high.clone())).await;
    }
    refused(&cluster, "big-1", "pod group \"big\" does not fit as a whole").await;
    assert_eq!(cluster.pods("default").await.len(), 5, "nobody left in vain");
    cluster.node("b", "1").await;
    for name in ["big-1", "big-2", "big-3"] {
        node_of(&cluster, name).await;
    }
    let gone = || async { (cluster.pods("default").await.len() == 3).then_some(()) };
    cluster.until("the others to leave", gone).await;

    // Pods of a basic group are placed one by one.
    cluster.node("c", "1").await;
    group(&cluster, "loose", json!({"basic": {}})).await;
    cluster.create::<Pod>("default", pod("loose-1", "1", member("loose", json!({})))).await;
    assert_eq!(node_of(&cluster, "loose-1").await, "c");

    // What makes no sense is refused, and a gang stays one.
    let wrong = json!({"metadata": {"name": "w"}, "spec": {"schedulingPolicy": {"gang": {"minCount": 0}}}});
    let wrong: PodGroup = serde_json::from_value(wrong).unwrap();
    let groups = cluster.api::<PodGroup>("default");
    let error = groups.create(&PostParams::default(), &wrong).await.unwrap_err().to_string();
    assert!(error.contains("must be greater than or equal to 1"), "{error}");
    let loose = kube::api::Patch::Merge(json!({"spec": {"schedulingPolicy": {"gang": null, "basic": {}}}}));
    let error = groups.patch("g", &Default::default(), &loose).await.unwrap_err().to_string();
    assert!(error.contains("field is immutable"), "{error}");
}
