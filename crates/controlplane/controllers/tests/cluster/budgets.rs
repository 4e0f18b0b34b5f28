//! Disruption budgets and replication controllers over the real API server.

use crate::support::Cluster;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use serde_json::json;

#[tokio::test]
async fn a_replication_controller_keeps_its_pods_and_a_budget_guards_them() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let controller = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let controllers = cluster.api::<ReplicationController>("default");
    controllers.create(&Default::default(), &serde_json::from_value(controller).unwrap()).await.unwrap();
    let budget = json!({
        "metadata": {"name": "web"},
        "spec": {"maxUnavailable": "34%", "selector": {"matchLabels": {"app": "web"}}},
    });
    let budgets = cluster.api::<PodDisruptionBudget>("default");
    budgets.create(&Default::default(), &serde_json::from_value(budget).unwrap()).await.unwrap();
    cluster
        .until("three ready pods", || async {
            let status = controllers.get("web").await.unwrap().status.unwrap_or_default();
            (status.ready_replicas == Some(3)).then_some(())
        })
        .await;
    // A third of three, rounded up.
    let counted = cluster
        .until("the budget", || async {
            let status = budgets.get("web").await.unwrap().status.unwrap_or_default();
            (status.current_healthy == Some(3)).then_some(status)
        })
        .await;
    let numbers = (counted.expected_pods, counted.desired_healthy, counted.disruptions_allowed);
    assert_eq!(numbers, (Some(3), Some(1), Some(2)));

    let pods = cluster.api::<Pod>("default");
    let list = pods.list(&ListParams::default().labels("app=web")).await.unwrap();
    let victim = list.items[0].metadata.name.clone().unwrap();
    pods.evict(&victim, &EvictParams::default()).await.unwrap();
    let scale = json!({"spec": {"replicas": 1}});
    controllers.patch_scale("web", &PatchParams::default(), &Patch::Merge(&scale)).await.unwrap();
    cluster
        .until("one pod", || async {
            let status = controllers.get("web").await.unwrap().status.unwrap_or_default();
            (status.replicas == 1 && status.ready_replicas == Some(1)).then_some(())
        })
        .await;
    let left = cluster
        .until("the budget of one", || async {
            let status = budgets.get("web").await.unwrap().status.unwrap_or_default();
            (status.expected_pods == Some(1) && status.current_healthy == Some(1)).then_some(status)
        })
        .await;
    assert_eq!(left.desired_healthy, Some(0));
}
