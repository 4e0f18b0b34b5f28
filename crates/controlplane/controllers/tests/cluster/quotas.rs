//! Quotas are counted when they come, and give back what ends.

use crate::support::Cluster;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

async fn until_used(cluster: &Cluster, name: &str, expected: Value) {
    let quotas = cluster.api::<ResourceQuota>("default");
    cluster
        .until(&format!("{name} to show {expected}"), || async {
            let status = quotas.get(name).await.unwrap().status?;
            (json!(status.used?) == expected).then_some(())
        })
        .await;
}

#[tokio::test]
async fn what_is_there_is_counted_and_what_ends_is_given_back() {
    let cluster = Cluster::start().await;
    let pod = |name: &str, behave: &str| {
        json!({"metadata": {"name": name, "labels": {"behave": behave}},
               "spec": {"containers": [{"name": "c", "image": "i"}]}})
    };
    cluster.create::<Pod>("default", pod("first", "run")).await;
    let hard = json!({"pods": "2", "count/pods": "5", "configmaps": "10"});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    cluster.create::<ResourceQuota>("default", quota).await;
    // The CA's ConfigMap is the one that every namespace has.
    until_used(&cluster, "q", json!({"pods": "1", "count/pods": "1", "configmaps": "1"})).await;
    cluster.create::<ConfigMap>("default", json!({"metadata": {"name": "m"}})).await;
    cluster.create::<Pod>("default", pod("second", "run")).await;
    until_used(&cluster, "q", json!({"pods": "2", "count/pods": "2", "configmaps": "2"})).await;
    let pods = cluster.api::<Pod>("default");
    let third: Pod = serde_json::from_value(pod("third", "run")).unwrap();
    let refused = pods.create(&PostParams::default(), &third).await.unwrap_err();
    assert!(
        refused.to_string().contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2")
    );
    pods.delete("first", &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster.api::<ConfigMap>("default").delete("m", &DeleteParams::default()).await.unwrap();
    until_used(&cluster, "q", json!({"pods": "1", "count/pods": "1", "configmaps": "1"})).await;
    pods.create(&PostParams::default(), &third).await.unwrap();
}
