//! What is kept in order over the real API server: namespaces, owners, accounts, lost nodes.

use std::time::Duration;

use crate::support::Cluster;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

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
    // It goes with the account that it names, and stays while there is one.
    let accounts = cluster.api::<ServiceAccount>("default");
    let account = cluster.create::<ServiceAccount>("default", json!({"metadata": {"name": "robot"}})).await;
    let names = json!({"kubernetes.io/service-account.name": "robot",
        "kubernetes.io/service-account.uid": account.metadata.uid});
    let secret = json!({"metadata": {"name": "r", "annotations": names}, "type": "kubernetes.io/service-account-token"});
    cluster.create::<Secret>("default", secret).await;
    cluster
        .until("its token", || async {
            let data = api.get("r").await.unwrap().data.unwrap_or_default();
            data.contains_key("token").then_some(())
        })
        .await;
    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    cluster
        .until("the token to go", || async { api.get_opt("r").await.unwrap().is_none().then_some(()) })
        .await;
}

async fn heartbeats(client: kube::Client, node: &str) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let lease = json!({"metadata": {"name": node}, "spec": {"holderIdentity": node}});
    leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    loop {
        let now = sampan_daemon::clock::rfc3339_micro(sampan_daemon::clock::now());
        let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
        let _ = leases.patch(node, &PatchParams::default(), &patch).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn when_every_node_is_silent_no_pod_is_evicted() {
    let cluster = Cluster::with(|options| options.node_grace = Duration::from_secs(4)).await;
    for node in ["a", "b"] {
        cluster.node(node, "8").await;
    }
    let pod = json!({"metadata": {"name": "stays"}, "spec": {"containers": [{"name": "c", "image": "i"}], "tolerations": [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]}});
    cluster.create::<Pod>("default", pod).await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    for name in ["a", "b"] {
        cluster
            .until("the node to be lost, and tainted for new pods alone", || async {
                let node = api.get(name).await.unwrap();
                let conditions = node.status.unwrap_or_default().conditions.unwrap_or_default();
                let lost = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
                let taints = node.spec.and_then(|s| s.taints).unwrap_or_default();
                (lost && taints.len() == 1 && taints[0].effect == "NoSchedule").then_some(())
            })
            .await;
    }
    assert!(cluster.api::<Pod>("default").get("stays").await.unwrap().metadata.deletion_timestamp.is_none());
}

#[tokio::test]
async fn pods_of_a_node_that_is_out_of_service_go_at_once() {
    let cluster = Cluster::with(|options| options.node_grace = Duration::from_millis(1000)).await;
    cluster.node("a", "8").await;
    let pod = json!({"metadata": {"name": "stuck", "labels": {"behave": "stay"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.create::<Pod>("default", pod).await;
    let (pods, nodes) = (cluster.api::<Pod>("default"), Api::<Node>::all(cluster.client.clone()));
    cluster
        .until("the node to be lost with the pod on it", || async {
            let on = pods.get("stuck").await.unwrap().spec.unwrap().node_name.is_some();
            let node = nodes.get("a").await.unwrap();
            let conditions = node.status.unwrap().conditions.unwrap();
            let tainted = node.spec.unwrap_or_default().taints.is_some();
            (on && tainted && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown"))
                .then_some(())
        })
        .await;
    pods.delete("stuck", &DeleteParams::default()).await.unwrap();
    assert!(pods.get("stuck").await.unwrap().metadata.deletion_timestamp.is_some());
    let taint = json!([{"op": "add", "path": "/spec/taints/-", "value":
        {"key": "node.kubernetes.io/out-of-service", "value": "down", "effect": "NoExecute"}}]);
    let taint = Patch::Json::<()>(serde_json::from_value(taint).unwrap());
    nodes.patch("a", &PatchParams::default(), &taint).await.unwrap();
    cluster
        .until("it to go", || async { pods.get_opt("stuck").await.unwrap().is_none().then_some(()) })
        .await;
}

#[tokio::test]
async fn kinds_come_and_go_with_what_their_objects_own() {
    let cluster = Cluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let definition = json!({"metadata": {"name": "boats.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definition: CustomResourceDefinition = serde_json::from_value(definition).unwrap();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Boat"));
    let boats: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    let maps = cluster.api::<ConfigMap>("default");
    // Twice: a kind that is defined anew is watched anew.
    for round in ["first", "second"] {
        definitions.create(&PostParams::default(), &definition).await.unwrap();
        let boat = cluster
            .until("the kind to be served", || async {
                let boat = serde_json::from_value(
                    json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": round}}),
                )
                .unwrap();
                boats.create(&PostParams::default(), &boat).await.ok()
            })
            .await;
        let owned = |name: String, uid: &str| {
            json!({"metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "example.com/v1", "kind": "Boat", "name": round, "uid": uid, "blockOwnerDeletion": true}]}})
        };
        let uid = boat.metadata.uid.unwrap();
        cluster.create::<ConfigMap>("default", owned(format!("{round}-cargo"), &uid)).await;
        boats.delete(round, &DeleteParams::foreground()).await.unwrap();
        cluster
            .until("the boat and its cargo to go", || async {
                let boat = boats.get_opt(round).await.unwrap();
                (names(&maps).await.is_empty() && boat.is_none()).then_some(())
            })
            .await;
        // What is left when the definition goes, goes as well, and takes along what it owns.
        let boat = serde_json::from_value(
            json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": round}}),
        )
        .unwrap();
        let boat = boats.create(&PostParams::default(), &boat).await.unwrap();
        cluster
            .create::<ConfigMap>("default", owned(format!("{round}-left"), &boat.metadata.uid.unwrap()))
            .await;
        definitions.delete("boats.example.com", &DeleteParams::default()).await.unwrap();
        cluster
            .until("the definition to go", || async {
                definitions.get_opt("boats.example.com").await.unwrap().is_none().then_some(())
            })
            .await;
        cluster.until("the rest to go", || async { names(&maps).await.is_empty().then_some(()) }).await;
    }
}

#[tokio::test]
async fn owners_in_other_namespaces_are_no_owners_and_that_is_told() {
    let cluster = Cluster::start().await;
    let owner = cluster.create::<ConfigMap>("kube-public", config_map("far", None)).await;
    cluster.create::<ConfigMap>("default", config_map("near", Some(&owner))).await;
    let maps = cluster.api::<ConfigMap>("default");
    cluster.until("it to go", || async { names(&maps).await.is_empty().then_some(()) }).await;
    let events: Api<Event> = cluster.api("default");
    let params = kube::api::ListParams::default().fields("reason=OwnerRefInvalidNamespace");
    let event = cluster
        .until("the event", || async { events.list(&params).await.unwrap().items.into_iter().next() })
        .await;
    assert!(event.message.unwrap().contains("does not exist in namespace \"default\""));

    // What is in no namespace is not deleted for an owner that is in one, there or not.
    let classes: Api<PriorityClass> = Api::all(cluster.client.clone());
    for (name, uid) in
        [("there", owner.metadata.uid.as_deref().unwrap()), ("gone", "7d3c2a10-0000-4000-8000-000000000000")]
    {
        let class = json!({"metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "far", "uid": uid}]}, "value": 7});
        classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
        let about =
            params.clone().fields(&format!("reason=OwnerRefInvalidNamespace,involvedObject.name={name}"));
        cluster
            .until("the event", || async { events.list(&about).await.unwrap().items.into_iter().next() })
            .await;
    }
    // The collector has been past both by the time it takes this one.
    cluster.create::<ConfigMap>("default", config_map("near", Some(&owner))).await;
    cluster.until("it to go", || async { names(&maps).await.is_empty().then_some(()) }).await;
    for name in ["there", "gone"] {
        classes.get(name).await.unwrap();
    }
}

#[tokio::test]
async fn a_namespace_says_what_keeps_it_and_does_not_ask_for_ever() {
    let cluster = Cluster::start().await;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "held"}})).unwrap();
    api.create(&PostParams::default(), &namespace).await.unwrap();
    let mut held = config_map("held", None);
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    cluster.create::<ConfigMap>("held", held).await;
    api.delete("held", &DeleteParams::default()).await.unwrap();
    let message = |namespace: Namespace, kind: &str| {
        let conditions = namespace.status.unwrap_or_default().conditions.unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.type_ == kind && c.status == "True");
        found.and_then(|c| c.message)
    };
    let told = cluster
        .until("the condition", || async {
            let namespace = api.get("held").await.unwrap();
            let left = message(namespace.clone(), "NamespaceContentRemaining")?;
            (!left.contains("kube-root-ca")
                && left.contains("has 1 resource instances")
                && !left.contains(','))
            .then(|| (left, message(namespace, "NamespaceFinalizersRemaining")))
        })
        .await;
    assert_eq!(told.0, "Some resources are remaining: configmaps. has 1 resource instances");
    assert_eq!(
        told.1.unwrap(),
        "Some content in the namespace has finalizers remaining: example.com/held in 1 resource instances"
    );
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.api::<ConfigMap>("held").patch("held", &PatchParams::default(), &free).await.unwrap();
    cluster.until("it to go", || async { api.get_opt("held").await.unwrap().is_none().then_some(()) }).await;
}

#[tokio::test]
async fn a_silent_node_is_lost_and_its_pods_move_on() {
    let cluster = Cluster::with(|options| options.node_grace = Duration::from_millis(1500)).await;
    cluster.node("a", "8").await;
    // A cluster that is silent as a whole is not emptied: another node goes on to say that it lives.
    cluster.node("b", "0").await;
    cluster.supervisor.spawn("heartbeats", heartbeats(cluster.client.clone(), "b"));
    let pod = |name: &str, seconds: Value| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}], "tolerations": [
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
    api.patch_status("a", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    cluster
        .until("the taints to go", || async {
            let taints = api.get("a").await.unwrap().spec.and_then(|s| s.taints).unwrap_or_default();
            taints.is_empty().then_some(())
        })
        .await;
}
