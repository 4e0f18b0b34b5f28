//! InstanceTypes over the real API server: pods get their size when they are made, nodes what their type says.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use sampan_planner::instances::{InstanceType, TypeStatus};
use serde_json::{Value, json};

use crate::scheduling::{node_of, refused};
use crate::support::Cluster;

const LABEL: &str = "node.kubernetes.io/instance-type";
const ASK: &str = "sampan.io/instance-type";

fn types(cluster: &Cluster) -> Api<InstanceType> {
    Api::all(cluster.client.clone())
}

async fn kind(cluster: &Cluster, name: &str, spec: Value) {
    let kind = InstanceType::new(name, spec);
    types(cluster).create(&PostParams::default(), &kind).await.unwrap();
}

fn asking(name: &str, annotations: Value) -> Value {
    json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn labels(cluster: &Cluster, node: &str, wanted: &[(&str, Option<&str>)]) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let what = format!("{wanted:?} on {node}");
    cluster
        .until(&what, || async {
            let labels = nodes.get(node).await.unwrap().metadata.labels.unwrap_or_default();
            wanted.iter().all(|(key, value)| labels.get(*key).map(String::as_str) == *value).then_some(())
        })
        .await;
}

async fn status(cluster: &Cluster, name: &str, is: impl Fn(&TypeStatus) -> bool) -> TypeStatus {
    let what = format!("the status of {name}");
    let kind = || async { types(cluster).get(name).await.unwrap().status.filter(|s| is(s)) };
    cluster.until(&what, kind).await
}

async fn refusal(cluster: &Cluster, pod: Value) -> String {
    let pod: Pod = serde_json::from_value(pod).unwrap();
    cluster.api::<Pod>("default").create(&PostParams::default(), &pod).await.unwrap_err().to_string()
}

#[tokio::test]
async fn pods_get_the_size_that_they_ask_for_and_nodes_what_their_type_says() {
    let cluster = Cluster::start().await;
    cluster.node("plain", "2").await;
    // The kind is there from the start.
    let list = || async { types(&cluster).list(&ListParams::default()).await.ok() };
    cluster.until("the kind", list).await;
    let taint = json!([{"key": "big", "effect": "NoSchedule"}]);
    kind(&cluster, "general.small", json!({"cpu": 1, "memory": "2Gi"})).await;
    kind(&cluster, "general.two", json!({"cpu": 2, "memory": "8Gi", "labels": {"tier": "a"}})).await;
    kind(&cluster, "memory.large", json!({"class": "memory", "cpu": 1, "memory": "16Gi", "taints": taint}))
        .await;
    // A node without a label is of the type that it comes closest to.
    labels(
        &cluster,
        "plain",
        &[(LABEL, Some("general.two")), ("sampan.io/instance-class", Some("general")), ("tier", Some("a"))],
    )
    .await;
    cluster.node("large", "4").await;
    let label = json!({"metadata": {"labels": {LABEL: "memory.large"}}});
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.patch("large", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    labels(&cluster, "large", &[("sampan.io/instance-class", Some("memory"))]).await;
    let tainted = || async {
        let taints = nodes.get("large").await.unwrap().spec?.taints?;
        taints.iter().any(|taint| taint.key == "big").then_some(())
    };
    cluster.until("the taint", tainted).await;

    // By name: the size of the pod as a whole, for everybody to see.
    let pod: Pod = cluster.create("default", asking("named", json!({ASK: "general.small"}))).await;
    let spec = pod.spec.unwrap();
    let resources = serde_json::to_value(spec.resources.unwrap()).unwrap();
    assert_eq!(resources["requests"], json!({"cpu": "1", "memory": "2Gi"}));
    assert_eq!(resources["limits"], resources["requests"]);
    assert_eq!(pod.metadata.labels.unwrap()[ASK], "general.small");
    assert_eq!(pod.status.unwrap().qos_class.as_deref(), Some("Guaranteed"));
    assert_eq!(node_of(&cluster, "named").await, "plain", "the node whose class fits");
    // Chosen: the smallest in which what it asks for has room.
    let mut chosen = asking("chosen", json!({ASK: "auto"}));
    chosen["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "3Gi"}});
    let pod: Pod = cluster.create("default", chosen).await;
    assert_eq!(pod.metadata.labels.unwrap()[ASK], "general.two");
    refused(&cluster, "chosen", "1 Insufficient cpu").await;
    // Nodes of a type, and nothing else; it tolerates what they are tainted with and keeps its size.
    let only = json!({ASK: "memory.large", "sampan.io/instance-nodes": "Require"});
    let pod: Pod = cluster.create("default", asking("only", only)).await;
    assert!(pod.spec.unwrap().resources.is_none());
    assert_eq!(node_of(&cluster, "only").await, "large");
    let two = status(&cluster, "general.two", |s| s.nodes == 1 && s.pods == 1).await;
    assert_eq!(two.conditions[0].status, "True");

    // What cannot be is refused, and a Deployment's Events say so.
    let unknown = refusal(&cluster, asking("odd", json!({ASK: "none.such"}))).await;
    assert!(
        unknown.contains("pods \"odd\" is forbidden: there is no InstanceType \"none.such\""),
        "{unknown}"
    );
    let mut contradiction = asking("odd", json!({ASK: "general.small"}));
    contradiction["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2"}});
    let text = refusal(&cluster, contradiction).await;
    assert!(text.contains("its containers ask for 2 of cpu, InstanceType \"general.small\" has 1"), "{text}");
    kind(&cluster, "broken", json!({"cpu": "lots", "memory": "1Gi"})).await;
    let broken = status(&cluster, "broken", |s| s.conditions.iter().any(|c| c.reason == "Invalid")).await;
    assert!(broken.conditions[0].message.starts_with("spec.cpu is \"lots\""));
    assert!(
        refusal(&cluster, asking("odd", json!({ASK: "broken"}))).await.contains("there is no InstanceType")
    );
    let template = asking("web", json!({ASK: "broken"}));
    let mut template = json!({"metadata": template["metadata"], "spec": template["spec"]});
    template["metadata"]["labels"] = json!({"app": "web"});
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
    cluster.create::<Deployment>("default", json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let events: Api<Event> = cluster.api("default");
    let failed = ListParams::default().fields("involvedObject.kind=ReplicaSet,reason=FailedCreate");
    let told = || async { events.list(&failed).await.unwrap().items.pop()?.message };
    assert!(cluster.until("its event", told).await.contains("there is no InstanceType \"broken\""));

    // A type that goes takes along what it gave, and no pod's size.
    types(&cluster).delete("general.two", &DeleteParams::default()).await.unwrap();
    labels(&cluster, "plain", &[(LABEL, None), ("sampan.io/instance-class", None), ("tier", None)]).await;
    let deleted = ListParams::default().fields("involvedObject.kind=InstanceType,reason=DeletedWhileUsed");
    let told = || async { events.list(&deleted).await.unwrap().items.pop()?.message };
    assert!(cluster.until("its event", told).await.starts_with("1 pods have its size and keep it"));
    types(&cluster).delete("memory.large", &DeleteParams::default()).await.unwrap();
    labels(&cluster, "large", &[(LABEL, Some("memory.large")), ("sampan.io/instance-class", None)]).await;
}
