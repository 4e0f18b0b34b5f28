//! Zones of nodes over the real API server: what nodes say of them decides where pods go.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use sampan_planner::numa::NodeTopology;
use serde_json::{Value, json};

use crate::scheduling::{node_of, refused};
use crate::support::Cluster;

/// What a node of two zones of two CPUs each says: how many are available, and which pods that is without.
fn said(name: &str, cpus: [u32; 2], pods: &str) -> Value {
    let zone = |at: usize| {
        json!({"name": format!("node-{at}"), "type": "Node", "resources": [
            {"name": "cpu", "capacity": 2, "allocatable": "2", "available": cpus[at].to_string()},
            {"name": "memory", "capacity": "4Gi", "allocatable": "4Gi", "available": "4Gi"}]})
    };
    json!({
        "apiVersion": "topology.node.k8s.io/v1alpha2", "kind": "NodeResourceTopology",
        "metadata": {"name": name, "annotations": {"sampan.io/pods": pods}},
        "topologyPolicies": ["SingleNUMANodeContainerLevel"],
        "zones": [zone(0), zone(1)],
    })
}

fn guaranteed(name: &str, cpu: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": "64Mi"});
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"limits": amounts, "requests": amounts}}]}})
}

#[tokio::test]
async fn pods_go_where_a_zone_has_room_and_wait_where_none_has() {
    let cluster = Cluster::start().await;
    let api: Api<NodeTopology> = Api::all(cluster.client.clone());
    let tell = async |value: Value| {
        let topology: NodeTopology = serde_json::from_value(value.clone()).unwrap();
        let name = topology.metadata.name.clone().unwrap();
        // The kind may not be served yet.
        cluster
            .until("the zones are told", || async {
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(&value)).await {
                    Ok(_) => Some(()),
                    Err(_) => api.create(&PostParams::default(), &topology).await.ok().map(drop),
                }
            })
            .await;
    };
    tell(said("a", [1, 1], "")).await;
    tell(said("b", [0, 2], "")).await;
    cluster.node("a", "4").await;
    cluster.node("b", "4").await;
    // Both have two CPUs, but only one has them in one zone.
    let first = cluster.create::<Pod>("default", guaranteed("first", "2")).await.metadata.uid.unwrap();
    assert_eq!(node_of(&cluster, "first").await, "b");
    // The node has not said yet that they are gone, and all the same they are.
    cluster.create::<Pod>("default", guaranteed("second", "2")).await;
    refused(&cluster, "second", "0/2 nodes are available: 2 cannot align container.").await;
    cluster.create::<Pod>("default", guaranteed("small", "1")).await;
    assert_eq!(node_of(&cluster, "small").await, "a");
    tell(said("b", [0, 0], &first)).await;
    refused(&cluster, "second", "2 cannot align container").await;
    // Two CPUs of one zone became free: it wakes.
    tell(said("b", [2, 0], &first)).await;
    assert_eq!(node_of(&cluster, "second").await, "b");
}
