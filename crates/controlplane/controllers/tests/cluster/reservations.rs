//! Reservations over the real API server: room is held, given to owners, given up, and found again.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use sampan_daemon::Supervisor;
use sampan_planner::reservation::{CONSUMED, POLICY, Reservation, ReservationStatus};
use serde_json::{Value, json};

use crate::plane::Plane;
use crate::scheduling::{class, node_of, pod, refused};
use crate::support::Cluster;

async fn reserve(cluster: &Cluster, name: &str, cpu: &str, more: Value) {
    let mut spec = json!({
        "template": {"spec": {"resources": {"requests": {"cpu": cpu}}}},
        "owners": [{"labelSelector": {"matchLabels": {"app": name}}}],
        "allocateOnce": false,
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    // The kind is there from the start, but not at once.
    let list = || async { cluster.api::<Reservation>("default").list(&ListParams::default()).await.ok() };
    cluster.until("the kind", list).await;
    cluster.create::<Reservation>("default", json!({"metadata": {"name": name}, "spec": spec})).await;
}

async fn stands(
    cluster: &Cluster,
    name: &str,
    what: &str,
    is: impl Fn(&ReservationStatus) -> bool,
) -> ReservationStatus {
    let api: Api<Reservation> = cluster.api("default");
    let what = format!("{name}: {what}");
    cluster.until(&what, || async { api.get(name).await.unwrap().status.filter(|s| is(s)) }).await
}

fn seat(status: &ReservationStatus, at: usize) -> (&str, &str, &str) {
    let seat = &status.seats[at];
    let left = seat.left.get("cpu").map_or("", |cpu| cpu.0.as_str());
    (&seat.phase, seat.node.as_deref().unwrap_or_default(), left)
}

fn owner(name: &str, app: &str, cpu: &str, more: Value) -> Value {
    let mut pod = pod(name, cpu, more);
    pod["metadata"]["labels"] = json!({"app": app});
    pod
}

async fn gone(cluster: &Cluster, name: &str) {
    let pods: Api<Pod> = cluster.api("default");
    pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster
        .until("it to be gone", || async { pods.get_opt(name).await.unwrap().is_none().then_some(()) })
        .await;
}

async fn told(cluster: &Cluster, reason: &str) -> String {
    let about = ListParams::default().fields(&format!("involvedObject.kind=Reservation,reason={reason}"));
    let events: Api<Event> = cluster.api("default");
    cluster.until(reason, || async { events.list(&about).await.unwrap().items.pop()?.message }).await
}

#[tokio::test]
async fn room_is_held_for_owners_and_comes_back_from_them() {
    let cluster = Cluster::start().await;
    class(&cluster, "high", 1000, "PreemptLowerPriority").await;
    cluster.node("a", "4").await;
    cluster.node("b", "2").await;
    let required = json!({"metadata": {"annotations": {POLICY: "Required"}}});
    cluster.create::<Pod>("default", owner("required", "web", "1", required)).await;
    refused(&cluster, "required", "node(s) where no reservation holds room for the pod").await;
    reserve(&cluster, "web", "3", json!({})).await;
    // Whoever waited for it has it.
    assert_eq!(node_of(&cluster, "required").await, "a");
    let status = stands(&cluster, "web", "one consumer", |s| s.consumers == 1).await;
    assert_eq!((status.phase.as_str(), status.held.as_str()), ("Available", "1/1"));
    assert_eq!(seat(&status, 0), ("Available", "a", "2"));
    assert_eq!(status.seats[0].owners[0].name, "required");
    let bound = cluster.api::<Pod>("default").get("required").await.unwrap();
    assert!(bound.metadata.annotations.unwrap()[CONSUMED].starts_with("default/web/0/"));
    // Others have what is left of the node: 1 core there, 2 on b.
    cluster.create::<Pod>("default", pod("other", "2500m", json!({}))).await;
    refused(&cluster, "other", "0/2 nodes are available: 2 Insufficient cpu.").await;
    cluster.create::<Pod>("default", owner("second", "web", "2500m", json!({}))).await;
    assert_eq!(node_of(&cluster, "second").await, "a", "with what is free beside what was left");
    let status = stands(&cluster, "web", "two consumers", |s| s.consumers == 2).await;
    assert_eq!(seat(&status, 0), ("Allocated", "a", ""));
    gone(&cluster, "second").await;
    let status = stands(&cluster, "web", "one consumer again", |s| s.consumers == 1).await;
    assert_eq!(seat(&status, 0), ("Available", "a", "2"));

    // The more important take it, and it finds its room again.
    gone(&cluster, "required").await;
    stands(&cluster, "web", "no consumers", |s| s.consumers == 0).await;
    let high = json!({"spec": {"priorityClassName": "high"}});
    cluster.create::<Pod>("default", pod("high", "4", high)).await;
    assert_eq!(node_of(&cluster, "high").await, "a");
    let status =
        stands(&cluster, "web", "pending", |s| s.phase == "Pending" && !s.conditions[0].message.is_empty())
            .await;
    assert!(status.conditions[0].message.starts_with("0/2 nodes are available: 2 Insufficient cpu."));
    assert!(told(&cluster, "Preempted").await.starts_with("seat 0 gives way to pod "));
    gone(&cluster, "high").await;
    // Two want the room: the other pod came first or the seat did. Both fit nowhere together but with another node.
    cluster.node("c", "4").await;
    stands(&cluster, "web", "held again", |s| s.phase == "Available").await;
    node_of(&cluster, "other").await;

    // A node that is lost, with nobody to be asked.
    let status = stands(&cluster, "web", "held", |s| s.phase == "Available").await;
    let node = status.seats[0].node.clone().unwrap();
    cluster.node("d", "4").await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.delete(&node, &DeleteParams::default()).await.unwrap();
    let elsewhere = |s: &ReservationStatus| s.seats[0].node.as_ref().is_some_and(|at| *at != node);
    stands(&cluster, "web", "held elsewhere", elsewhere).await;

    // Deleted, it holds nothing.
    let api: Api<Reservation> = cluster.api("default");
    api.delete("web", &DeleteParams::default()).await.unwrap();
    cluster.create::<Pod>("default", pod("large", "4", json!({}))).await;
    node_of(&cluster, "large").await;
}

#[tokio::test]
async fn reservations_end_and_bad_ones_are_told_about() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    // All together or none.
    reserve(&cluster, "gang", "2", json!({"count": 3, "allOrNothing": true})).await;
    let status =
        stands(&cluster, "gang", "refused", |s| s.conditions.iter().any(|c| !c.message.is_empty())).await;
    assert_eq!((status.phase.as_str(), status.held.as_str()), ("Pending", "0/3"));
    assert!(status.conditions[0].message.contains("does not fit as a whole"), "{:?}", status.conditions);
    // What is wanted changes while it waits: that is what is placed.
    let api: Api<Reservation> = cluster.api("default");
    let fewer = Patch::Merge(
        json!({"spec": {"count": 2, "template": {"spec": {"resources": {"requests": {"cpu": "1"}}}}}}),
    );
    api.patch("gang", &PatchParams::default(), &fewer).await.unwrap();
    let status = stands(&cluster, "gang", "held as it is now", |s| s.held == "2/2").await;
    assert_eq!((seat(&status, 0), seat(&status, 1)), (("Available", "a", "1"), ("Available", "a", "1")));
    let more = Patch::Merge(
        json!({"spec": {"count": 3, "template": {"spec": {"resources": {"requests": {"cpu": "2"}}}}}}),
    );
    api.patch("gang", &PatchParams::default(), &more).await.unwrap();
    stands(&cluster, "gang", "too large again", |s| s.held == "0/3").await;
    cluster.node("b", "2").await;
    stands(&cluster, "gang", "held", |s| s.held == "3/3" && s.phase == "Available").await;
    cluster.api::<Reservation>("default").delete("gang", &DeleteParams::default()).await.unwrap();
    // Each seat for one pod, and what that leaves of it is everybody's.
    let pinned = json!({"spec": {"nodeName": "", "nodeSelector": {"kubernetes.io/hostname": "a"}, "resources": {"requests": {"cpu": "4"}}}});
    reserve(&cluster, "once", "4", json!({"allocateOnce": true, "template": pinned})).await;
    stands(&cluster, "once", "held", |s| s.phase == "Available").await;
    cluster.create::<Pod>("default", owner("first", "once", "1", json!({}))).await;
    assert_eq!(node_of(&cluster, "first").await, "a");
    let status = stands(&cluster, "once", "used up", |s| s.phase == "Succeeded").await;
    assert_eq!(status.seats[0].owners[0].name, "first");
    cluster.create::<Pod>("default", pod("rest", "3", json!({}))).await;
    assert_eq!(node_of(&cluster, "rest").await, "a");
    // Its time is over.
    reserve(&cluster, "short", "2", json!({"ttl": "2s"})).await;
    stands(&cluster, "short", "over", |s| s.phase == "Expired").await;
    told(&cluster, "Expired").await;
    cluster.create::<Pod>("default", pod("after", "2", json!({}))).await;
    assert_eq!(node_of(&cluster, "after").await, "b");
    // What makes no sense holds nothing and keeps nobody else from being served.
    let table = [
        (
            "nothing",
            json!({"template": {"spec": {"containers": [{"name": "c"}]}}}),
            "spec.template asks for nothing",
        ),
        (
            "negative",
            json!({"template": {"spec": {"resources": {"requests": {"cpu": "1", "memory": "-1Gi"}}}}}),
            "spec.template asks for \"-1Gi\" of memory",
        ),
        ("odd", json!({"template": {"spec": {"containers": "many"}}}), "spec.template is no pod template"),
        (
            "classless",
            json!({"template": {"spec": {"priorityClassName": "none", "resources": {"requests": {"cpu": "1"}}}}}),
            "there is no PriorityClass \"none\"",
        ),
    ];
    for (name, more, want) in table {
        reserve(&cluster, name, "1", more).await;
        let status = stands(&cluster, name, "failed", |s| s.phase == "Failed").await;
        assert!(status.conditions[0].message.starts_with(want), "{:?}", status.conditions);
    }
    let wrong = json!({"metadata": {"name": "wrong"}, "spec": {"template": {}, "ttl": "soon"}});
    let wrong: Reservation = serde_json::from_value(wrong).unwrap();
    let api: Api<Reservation> = cluster.api("default");
    let error = api.create(&PostParams::default(), &wrong).await.unwrap_err().to_string();
    assert!(error.contains("spec.ttl"), "{error}");
}

/// What a new scheduler knows comes from the objects alone.
#[tokio::test]
async fn what_is_held_outlives_the_scheduler() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::open(dir.path(), None).await;
    let first = Supervisor::new();
    sampan_controllers::start(plane.options.clone(), &first).ready().await;
    let cluster = Cluster::of(&plane).await;
    cluster.node("a", "4").await;
    reserve(&cluster, "web", "3", json!({"count": 1})).await;
    stands(&cluster, "web", "held", |s| s.phase == "Available").await;
    cluster.create::<Pod>("default", owner("first", "web", "1", json!({}))).await;
    node_of(&cluster, "first").await;
    let before = stands(&cluster, "web", "one consumer", |s| s.consumers == 1).await;
    assert_eq!(first.shutdown(Duration::from_secs(20)).await, Vec::<String>::new());
    plane.control().await;
    cluster.create::<Pod>("default", pod("other", "2", json!({}))).await;
    refused(&cluster, "other", "0/1 nodes are available: 1 Insufficient cpu.").await;
    cluster.create::<Pod>("default", owner("second", "web", "2", json!({}))).await;
    assert_eq!(node_of(&cluster, "second").await, "a");
    let after = stands(&cluster, "web", "two consumers", |s| s.consumers == 2).await;
    assert_eq!((before.seats[0].node.as_deref(), after.seats[0].node.as_deref()), (Some("a"), Some("a")));
}
