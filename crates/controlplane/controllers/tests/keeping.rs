//! What is kept in order over the real API server: namespaces, owners, accounts, lost nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/cluster.rs"]
mod support;

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use support::Cluster;

fn config_map(name: &str, owner: Option<&ConfigMap>) -> Value {
    let references: Vec<Value> = owner
        .map(|o| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": o.metadata.name, "uid": o.metadata.uid,
                "blockOwnerDeletion": true})
        })
        .into_iter()
        .collect();
    json!({"metadata": {"name": name, "ownerReferences": references}})
}

async fn family(cluster: &Cluster) -> Api<ConfigMap> {
    let parent = cluster.create::<ConfigMap>("default", config_map("parent", None)).await;
    let child = cluster.create::<ConfigMap>("default", config_map("child", Some(&parent))).await;
    cluster.create::<ConfigMap>("default", config_map("grandchild", Some(&child))).await;
    cluster.api("default")
}

async fn names(api: &Api<ConfigMap>) -> Vec<String> {
    let all = api.list(&Default::default()).await.unwrap().items;
    all.into_iter().map(|o| o.metadata.name.unwrap()).filter(|n| n != "kube-root-ca.crt").collect()
}

#[tokio::test]
async fn owned_objects_go_in_background_and_in_foreground() {
    let cluster = Cluster::start().await;
    for params in [DeleteParams::background(), DeleteParams::foreground()] {
        let api = family(&cluster).await;
        api.delete("parent", &params).await.unwrap();
        cluster.until("all three to go", || async { names(&api).await.is_empty().then_some(()) }).await;
    }
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "x"});
    let deployment = json!({"metadata": {"name": "parent"}, "spec": {"replicas": 0, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.create::<Deployment>("default", deployment).await;
    let sets = cluster.api::<ReplicaSet>("default");
    let owners = |count: usize| {
        let sets = sets.clone();
        async move {
            let set = sets.list(&Default::default()).await.unwrap().items.pop()?;
            (set.metadata.owner_references.unwrap_or_default().len() == count).then_some(())
        }
    };
    cluster.until("the child", || owners(1)).await;
    let api = cluster.api::<Deployment>("default");
    api.delete("parent", &DeleteParams::orphan()).await.unwrap();
    cluster
        .until("the parent to go", || async { api.get_opt("parent").await.unwrap().is_none().then_some(()) })
        .await;
    cluster.until("the child to be nobody's", || owners(0)).await;
}

#[tokio::test]
async fn an_owner_that_never_was_is_found_out() {
    let cluster = Cluster::start().await;
    let mut ghost: ConfigMap = serde_json::from_value(config_map("ghost", None)).unwrap();
    ghost.metadata.uid = Some("00000000-0000-4000-8000-000000000000".into());
    cluster.create::<ConfigMap>("default", config_map("lost", Some(&ghost))).await;
    let api = cluster.api::<ConfigMap>("default");
    cluster.until("it to go", || async { names(&api).await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    api.create(&PostParams::default(), &namespace).await.unwrap();
    let root_ca = cluster
        .until("what every namespace has", || async {
            let account = cluster.api::<ServiceAccount>("team").get_opt("default").await.unwrap();
            let map = cluster.api::<ConfigMap>("team").get_opt("kube-root-ca.crt").await.unwrap();
            account.and(map)
        })
        .await;
    assert_eq!(root_ca.data.unwrap()["ca.crt"], cluster.ca_pem);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.create::<Pod>("team", pod).await;
    api.delete("team", &DeleteParams::default()).await.unwrap();
    cluster
        .until("the namespace to go", || async { api.get_opt("team").await.unwrap().is_none().then_some(()) })
        .await;
    assert!(cluster.pods("team").await.is_empty());
}

#[tokio::test]
async fn a_token_secret_is_filled() {
    let cluster = Cluster::start().await;
    let secret = json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    cluster.create::<Secret>("default", secret).await;
    let api = cluster.api::<Secret>("default");
    let data = cluster
        .until("the token", || async {
            let data = api.get("t").await.unwrap().data.unwrap_or_default();
            data.contains_key("token").then_some(data)
        })
        .await;
    assert_eq!(data["ca.crt"].0, cluster.ca_pem.as_bytes());
    assert_eq!(data["namespace"].0, b"default");
}

#[tokio::test]
async fn a_silent_node_is_lost_and_its_pods_move_on() {
    let cluster = Cluster::with(|options| options.node_grace = Duration::from_millis(1500)).await;
    cluster.node("a", "8").await;
    let pod = |name: &str, seconds: Value| {
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], "tolerations": [
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]}})
    };
    cluster.create::<Pod>("default", pod("leaves", json!(0))).await;
    cluster.create::<Pod>("default", pod("waits", Value::Null)).await;
    let pods = cluster.api::<Pod>("default");
    let ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let api: Api<Node> = Api::all(cluster.client.clone());
    let node = cluster
        .until("the node to be lost", || async {
            let node = api.get("a").await.unwrap();
            let conditions = node.status.clone().unwrap_or_default().conditions.unwrap_or_default();
            let unknown = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
            let tainted = node.spec.as_ref().and_then(|s| s.taints.as_ref()).is_some_and(|t| t.len() == 2);
            (unknown && tainted).then_some(node)
        })
        .await;
    assert!(node.spec.unwrap().taints.unwrap().iter().all(|t| t.key == "node.kubernetes.io/unreachable"));
    cluster
        .until("one to leave and the other to be unready", || async {
            let gone = pods.get_opt("leaves").await.unwrap().is_none();
            let waits = pods.get("waits").await.unwrap();
            (gone && !ready(&waits)).then_some(())
        })
        .await;

    // A gone node takes its pods along at last; until then it can come back.
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let strategic = kube::api::Patch::Strategic(patch);
    api.patch_status("a", &Default::default(), &strategic).await.unwrap();
    cluster
        .until("the taints to go", || async {
            let taints = api.get("a").await.unwrap().spec.and_then(|s| s.taints).unwrap_or_default();
            taints.is_empty().then_some(())
        })
        .await;
}
