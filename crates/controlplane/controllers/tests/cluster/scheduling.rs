//! The scheduler over the real API server.

use crate::support::Cluster;
use k8s_openapi::api::core::v1::{Event, Pod, PodCondition};
use kube::api::{DeleteParams, ListParams};
use sampan_controllers::SchedulerConfig;
use serde_json::{Value, json};

pub fn pod(name: &str, cpu: &str, extra: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
    });
    merge(&mut pod, extra);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

async fn get(cluster: &Cluster, name: &str) -> Option<Pod> {
    cluster.api::<Pod>("default").get_opt(name).await.unwrap()
}

pub async fn node_of(cluster: &Cluster, name: &str) -> String {
    let what = format!("{name} on a node");
    cluster.until(&what, || async { get(cluster, name).await?.spec?.node_name }).await
}

async fn condition(cluster: &Cluster, name: &str, kind: &str) -> Option<PodCondition> {
    let conditions = get(cluster, name).await?.status?.conditions?;
    conditions.into_iter().find(|c| c.type_ == kind)
}

pub async fn refused(cluster: &Cluster, name: &str, text: &str) {
    let what = format!("{name}: {text}");
    cluster
        .until(&what, || async {
            let condition = condition(cluster, name, "PodScheduled").await?;
            (condition.status == "False" && condition.message?.contains(text)).then_some(())
        })
        .await;
}

async fn event(cluster: &Cluster, name: &str, reason: &str) -> String {
    let about = ListParams::default().fields(&format!("involvedObject.name={name},reason={reason}"));
    let events = cluster.api::<Event>("default");
    let what = format!("{reason} of {name}");
    cluster
        .until(&what, || async { events.list(&about).await.unwrap().items.into_iter().next()?.message })
        .await
}

async fn delete(cluster: &Cluster, name: &str) {
    cluster.api::<Pod>("default").delete(name, &DeleteParams::default()).await.unwrap();
}

pub async fn class(cluster: &Cluster, name: &str, value: i32, policy: &str) {
    let class = json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": policy});
    let class: k8s_openapi::api::scheduling::v1::PriorityClass = serde_json::from_value(class).unwrap();
    kube::Api::all(cluster.client.clone()).create(&Default::default(), &class).await.unwrap();
}

/// Two nodes are full of unimportant pods; an important one makes exactly one of them leave, in time for its grace.
#[tokio::test]
async fn the_important_make_room_for_themselves() {
    let cluster = Cluster::start().await;
    class(&cluster, "high", 1000, "PreemptLowerPriority").await;
    class(&cluster, "polite", 900, "Never").await;
    cluster.node("a", "2").await;
    cluster.node("b", "2").await;
    let guarded = json!({"metadata": {"labels": {"behave": "stay"}}});
    cluster.create::<Pod>("default", pod("guarded", "2", guarded)).await;
    node_of(&cluster, "guarded").await;
    cluster.create::<Pod>("default", pod("low-1", "1", json!({}))).await;
    cluster
        .create::<Pod>("default", pod("low-2", "1", json!({"metadata": {"labels": {"behave": "stay"}}})))
        .await;
    let full = node_of(&cluster, "low-1").await;
    assert_eq!(node_of(&cluster, "low-2").await, full);
    let budget = json!({"metadata": {"name": "guard"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}});
    cluster.create::<k8s_openapi::api::policy::v1::PodDisruptionBudget>("default", budget).await;

    // Who may not preempt waits, and says so.
    cluster
        .create::<Pod>("default", pod("polite", "2", json!({"spec": {"priorityClassName": "polite"}})))
        .await;
    refused(&cluster, "polite", "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.").await;

    cluster.create::<Pod>("default", pod("high", "2", json!({"spec": {"priorityClassName": "high"}}))).await;
    let nominated = cluster
        .until("the nomination", || async { get(&cluster, "high").await?.status?.nominated_node_name })
        .await;
    assert_eq!(nominated, full, "not where the budget guards");
    assert_eq!(event(&cluster, "low-1", "Preempted").await.split(" on node ").nth(1), Some(full.as_str()));
    // One of the victims takes its time to end, marked, and the node is kept.
    let mark = cluster.until("the mark", || condition(&cluster, "low-2", "DisruptionTarget")).await;
    assert_eq!(mark.reason.as_deref(), Some("PreemptionByScheduler"));
    assert_eq!(
        mark.message.as_deref(),
        Some("default-scheduler: preempting to accommodate a higher priority pod")
    );
    cluster.until("low-1 to end", || async { get(&cluster, "low-1").await.is_none().then_some(()) }).await;
    cluster.create::<Pod>("default", pod("greedy", "1", json!({}))).await;
    refused(&cluster, "greedy", "Insufficient cpu").await;
    assert!(get(&cluster, "high").await.unwrap().spec.unwrap().node_name.is_none());
    cluster.api::<Pod>("default").delete("low-2", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(node_of(&cluster, "high").await, full);
    assert!(get(&cluster, "guarded").await.unwrap().metadata.deletion_timestamp.is_none());

    // When it has gone, room goes to the next one that fits: the polite one first.
    cluster.api::<Pod>("default").delete("high", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(node_of(&cluster, "polite").await, full);
    refused(&cluster, "greedy", "Insufficient cpu").await;
}

#[tokio::test]
async fn gates_gangs_and_backlogs() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    // A gate keeps a pod back until it is opened.
    let gated = json!({"spec": {"schedulingGates": [{"name": "example.com/wait"}]}});
    cluster.create::<Pod>("default", pod("gated", "1", gated)).await;
    cluster.create::<Pod>("default", pod("free", "1", json!({}))).await;
    assert_eq!(node_of(&cluster, "free").await, "a");
    assert!(get(&cluster, "gated").await.unwrap().spec.unwrap().node_name.is_none());
    cluster.merge::<Pod>("default", "gated", json!({"spec": {"schedulingGates": []}})).await;
    assert_eq!(node_of(&cluster, "gated").await, "a");
    delete(&cluster, "gated").await;
    delete(&cluster, "free").await;

    // A gang of three does not fit into two places: none of them takes any.
    let member = json!({"metadata": {"labels": {"sampan.io/pod-group": "g"}, "annotations": {"sampan.io/pod-group-min": "3"}}});
    for name in ["g-1", "g-2"] {
        cluster.create::<Pod>("default", pod(name, "1", member.clone())).await;
    }
    refused(&cluster, "g-1", "pod group \"g\" has").await;
    cluster.create::<Pod>("default", pod("g-3", "1", member.clone())).await;
    for name in ["g-1", "g-2", "g-3"] {
        refused(&cluster, name, "pod group \"g\" does not fit as a whole").await;
        assert!(get(&cluster, name).await.unwrap().spec.unwrap().node_name.is_none());
    }
    cluster.node("b", "1").await;
    let mut nodes = Vec::new();
    for name in ["g-1", "g-2", "g-3"] {
        nodes.push(node_of(&cluster, name).await);
    }
    nodes.sort();
    assert_eq!(nodes, ["a", "a", "b"]);

    // A backlog of pods that are alike drains as room appears, one by one.
    for at in 0..20 {
        cluster.create::<Pod>("default", pod(&format!("wait-{at}"), "1", json!({}))).await;
    }
    refused(&cluster, "wait-19", "0/2 nodes are available: 2 Insufficient cpu.").await;
    cluster.node("c", "20").await;
    for at in 0..20 {
        assert_eq!(node_of(&cluster, &format!("wait-{at}")).await, "c");
    }
    let text = event(&cluster, "wait-19", "FailedScheduling").await;
    assert_eq!(
        text,
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
}

#[tokio::test]
async fn profiles_place_by_their_own_rules() {
    let config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"schedulerName": "default-scheduler"}, {"schedulerName": "packer", "pluginConfig": [
            {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated",
                "resources": [{"name": "cpu", "weight": 1}]}}}],
            "plugins": {"score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}}}],
    });
    let config = SchedulerConfig::parse(config).unwrap();
    let cluster = Cluster::with(|options| options.scheduler = config).await;
    cluster.node("a", "8").await;
    cluster.node("b", "8").await;
    cluster.create::<Pod>("default", pod("first", "2", json!({"spec": {"nodeName": "a"}}))).await;
    cluster.until("the first", || async { get(&cluster, "first").await?.status?.pod_ip }).await;
    let packed = json!({"spec": {"schedulerName": "packer"}});
    cluster.create::<Pod>("default", pod("packed", "1", packed)).await;
    assert_eq!(node_of(&cluster, "packed").await, "a");
    cluster.create::<Pod>("default", pod("spread", "1", json!({}))).await;
    assert_eq!(node_of(&cluster, "spread").await, "b");
    cluster.create::<Pod>("default", pod("foreign", "1", json!({"spec": {"schedulerName": "other"}}))).await;
    cluster.create::<Pod>("default", pod("last", "1", json!({}))).await;
    node_of(&cluster, "last").await;
    let foreign = get(&cluster, "foreign").await.unwrap();
    assert!(foreign.spec.unwrap().node_name.is_none(), "somebody else places it");
}

/// Room that is kept for a pod is others' as soon as the pod goes elsewhere, or ends without ever having had a node.
#[tokio::test]
async fn room_that_was_kept_in_vain_goes_to_others() {
    let cluster = Cluster::start().await;
    class(&cluster, "high", 1000, "PreemptLowerPriority").await;
    cluster.node("a", "2").await;
    let stays = json!({"metadata": {"labels": {"behave": "stay"}}});
    cluster.create::<Pod>("default", pod("stays", "1", stays)).await;
    cluster.create::<Pod>("default", pod("goes", "1", json!({}))).await;
    node_of(&cluster, "stays").await;
    node_of(&cluster, "goes").await;
    let high = json!({"spec": {"priorityClassName": "high"}});
    cluster.create::<Pod>("default", pod("first", "2", high)).await;
    cluster.until("room", || async { get(&cluster, "goes").await.is_none().then_some(()) }).await;
    let on_a = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "a"}}});
    cluster.create::<Pod>("default", pod("low", "1", on_a.clone())).await;
    refused(&cluster, "low", "Insufficient cpu").await;
    // Where it was to go somebody still lingers; so it goes elsewhere.
    cluster.node("b", "2").await;
    assert_eq!(node_of(&cluster, "first").await, "b");
    assert_eq!(node_of(&cluster, "low").await, "a");

    let high =
        json!({"spec": {"priorityClassName": "high", "nodeSelector": {"kubernetes.io/hostname": "a"}}});
    cluster.create::<Pod>("default", pod("second", "2", high)).await;
    cluster.until("room again", || async { get(&cluster, "low").await.is_none().then_some(()) }).await;
    cluster.create::<Pod>("default", pod("last", "1", on_a)).await;
    refused(&cluster, "last", "Insufficient cpu").await;
    let failed = kube::api::Patch::Merge(json!({"status": {"phase": "Failed"}}));
    cluster.api::<Pod>("default").patch_status("second", &Default::default(), &failed).await.unwrap();
    assert_eq!(node_of(&cluster, "last").await, "a");
}

#[tokio::test]
async fn who_waits_for_company_hears_of_it() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    let near = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "leader"}}}]}}}});
    cluster.create::<Pod>("default", pod("follower", "1", near)).await;
    refused(&cluster, "follower", "didn't match pod affinity rules").await;
    cluster.create::<Pod>("default", pod("leader", "1", json!({}))).await;
    assert_eq!(node_of(&cluster, "leader").await, "a");
    assert_eq!(node_of(&cluster, "follower").await, "a");
}
