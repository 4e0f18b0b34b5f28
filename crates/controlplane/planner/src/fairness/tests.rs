//! What queues say, and what comes of it.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::*;
use crate::scheduler::Cluster;

fn spec(value: Value) -> QueueSpec {
    serde_json::from_value(value).unwrap()
}

fn cluster(queues: &[(&str, Value)]) -> Cluster {
    let mut cluster = Cluster::new();
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}},
        "status": {"allocatable": {"cpu": "10", "memory": "10Gi", "pods": "110"}},
    }))
    .unwrap();
    cluster.upsert_node(&node);
    for name in ["a", "b", "c"] {
        cluster.set_namespace(name, Some([("team".to_owned(), name.to_owned())].into()));
    }
    for (name, value) in queues {
        cluster.set_queue(name, Some((spec(value.clone()), 0.0)));
    }
    cluster.tend(1_000);
    cluster
}

fn pod(name: &str, namespace: &str, cpu: &str, labels: Value) -> PodInfo {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    }))
    .unwrap();
    PodInfo::of(&pod)
}

fn of_team(team: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {"team": team}}})
}

fn with(mut value: Value, more: Value) -> Value {
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}

fn queue_of(cluster: &Cluster, pod: &PodInfo) -> String {
    let tenants = cluster.tenants().unwrap();
    match tenants.of(pod) {
        Membership::None => "none".to_owned(),
        Membership::Stray => tenants.admit(pod).unwrap_err().to_string(),
        Membership::Leaf(lane) => tenants.name(lane).unwrap().to_owned(),
    }
}

fn problem(cluster: &Cluster, name: &str) -> Option<&'static str> {
    let standings = cluster.standings(&crate::scheduler::Queue::default());
    standings.into_iter().find(|s| s.name == name)?.problem.map(|(reason, _)| reason)
}

#[test]
fn a_pods_label_wins_over_its_namespaces_which_wins_over_selectors() {
    let mut cluster = cluster(&[
        ("a", of_team("a")),
        ("a-batch", json!({"parent": "a"})),
        ("a-web", json!({"parent": "a"})),
        ("b", of_team("b")),
    ]);
    let plain = json!({});
    assert_eq!(queue_of(&cluster, &pod("p", "b", "1", plain.clone())), "b");
    assert_eq!(queue_of(&cluster, &pod("p", "c", "1", plain.clone())), "none");
    // What lies below the queue of its namespace a pod may choose, and nothing else.
    let names = |name: &str| json!({QUEUE: name});
    assert_eq!(queue_of(&cluster, &pod("p", "a", "1", names("a-web"))), "a-web");
    assert_eq!(
        queue_of(&cluster, &pod("p", "a", "1", names("b"))),
        "tenant queue \"b\" takes no pods of namespace \"a\""
    );
    assert_eq!(queue_of(&cluster, &pod("p", "b", "1", names("x"))), "tenant queue \"x\" does not exist");
    // An inner queue selects for those below it.
    assert_eq!(queue_of(&cluster, &pod("p", "a", "1", plain.clone())), "none");
    let home = |queue: &str| {
        Some([("team".to_owned(), "b".to_owned()), (QUEUE.to_owned(), queue.to_owned())].into())
    };
    cluster.set_namespace("b", home("a-batch"));
    assert_eq!(queue_of(&cluster, &pod("p", "b", "1", plain.clone())), "a-batch");
    cluster.set_namespace("b", home("a"));
    let inner = cluster.tenants().unwrap().admit(&pod("p", "b", "1", plain)).unwrap_err();
    assert_eq!(inner.because, Because::Inner);
    assert!(inner.remedy().contains(QUEUE));
}

#[test]
fn what_is_wrong_is_told_and_others_go_on() {
    let cluster = cluster(&[
        ("lost", json!({"parent": "nobody"})),
        ("below-lost", json!({"parent": "lost"})),
        ("round-1", json!({"parent": "round-2"})),
        ("round-2", json!({"parent": "round-1"})),
        ("at-round", json!({"parent": "round-1"})),
        ("self", json!({"parent": "self"})),
        ("odd", json!({"guaranteed": {"cpu": "many"}})),
        ("odder", json!({"usageHalfLife": "soon"})),
        ("good", of_team("a")),
    ]);
    let reasons = [
        ("lost", Some("UnknownParent")),
        ("below-lost", Some("ParentNotReady")),
        ("round-1", Some("Cycle")),
        ("round-2", Some("Cycle")),
        ("at-round", Some("ParentNotReady")),
        ("self", Some("Cycle")),
        ("odd", Some("Invalid")),
        ("odder", Some("Invalid")),
        ("good", None),
    ];
    for (name, reason) in reasons {
        assert_eq!(problem(&cluster, name), reason, "{name}");
    }
    assert!(cluster.admit(&pod("p", "a", "1", json!({}))).is_ok());
}

#[test]
fn limits_hold_on_the_whole_path_and_borrowing_ends_at_the_guarantee() {
    let mut cluster = cluster(&[
        ("root", json!({"limit": {"cpu": "3"}})),
        ("a", with(of_team("a"), json!({"parent": "root", "limit": {"cpu": "2"}}))),
        ("b", with(of_team("b"), json!({"parent": "root"}))),
        ("c", with(of_team("c"), json!({"guaranteed": {"cpu": "1"}, "borrowing": "Never"}))),
    ]);
    cluster.assume(pod("a1", "a", "1500m", json!({})), "n");
    let why = |cluster: &Cluster, pod: &PodInfo| {
        cluster.admit(pod).map_or_else(|w| w.to_string(), |()| "ok".into())
    };
    assert_eq!(
        why(&cluster, &pod("a2", "a", "1", json!({}))),
        "tenant queue \"a\" is at its limit: cpu 1500m of 2 used, the pod asks 1"
    );
    assert_eq!(why(&cluster, &pod("b1", "b", "1500m", json!({}))), "ok");
    cluster.assume(pod("b1", "b", "1500m", json!({})), "n");
    assert_eq!(
        why(&cluster, &pod("b2", "b", "1", json!({}))),
        "tenant queue \"root\" is at its limit: cpu 3 of 3 used, the pod asks 1"
    );
    assert_eq!(
        why(&cluster, &pod("c1", "c", "2", json!({}))),
        "tenant queue \"c\" may not borrow beyond its guarantee: cpu 0 of 1 used, the pod asks 2"
    );
    assert_eq!(why(&cluster, &pod("c1", "c", "1", json!({}))), "ok");
    cluster.remove_pod("b1");
    assert_eq!(why(&cluster, &pod("b2", "b", "1", json!({}))), "ok");
}

/// The order in which queues of these names come.
fn turns(cluster: &Cluster, names: &[&str]) -> Vec<String> {
    let tenants = cluster.tenants().unwrap();
    let mut lanes: Vec<Lane> = names.iter().map(|name| tenants.lane(name).unwrap()).collect();
    lanes.sort_by(|a, b| tenants.compare(*a, *b));
    lanes.into_iter().map(|lane| tenants.name(lane).unwrap().to_owned()).collect()
}

#[test]
fn first_who_has_not_its_guarantee_then_the_smallest_weighted_share_and_past() {
    let mut cluster = cluster(&[
        ("a", of_team("a")),
        ("b", with(of_team("b"), json!({"weight": 4}))),
        ("c", with(of_team("c"), json!({"guaranteed": {"cpu": "5"}}))),
    ]);
    let all = ["a", "b", "c"];
    cluster.assume(pod("a1", "a", "1", json!({})), "n");
    cluster.assume(pod("b1", "b", "3", json!({})), "n");
    cluster.assume(pod("c1", "c", "4", json!({})), "n");
    assert_eq!(turns(&cluster, &all), ["c", "b", "a"], "three quarters of 0.1 are less than it");
    cluster.assume(pod("c2", "c", "1", json!({})), "n");
    assert_eq!(turns(&cluster, &all), ["b", "a", "c"]);
    // An hour with that, and then nothing: what was is remembered, and forgotten.
    cluster.tend(3_601_000);
    cluster.remove_pod("a1");
    cluster.remove_pod("b1");
    cluster.remove_pod("c1");
    cluster.remove_pod("c2");
    cluster.assume(pod("c3", "c", "5", json!({})), "n");
    assert_eq!(turns(&cluster, &["a", "b"]), ["b", "a"], "by a half of the past: 0.3/4 against 0.1");
    cluster.tend(3_601_000 * 100);
    cluster.assume(pod("b2", "b", "100m", json!({})), "n");
    assert_eq!(turns(&cluster, &["a", "b"]), ["a", "b"], "after a hundred hours nobody remembers");
}

#[test]
fn more_guarantees_than_there_is_are_cut_and_told() {
    let cluster = cluster(&[
        ("root", json!({"guaranteed": {"cpu": "4"}})),
        ("a", with(of_team("a"), json!({"parent": "root", "guaranteed": {"cpu": "6"}}))),
        ("b", with(of_team("b"), json!({"parent": "root", "guaranteed": {"cpu": "2"}}))),
        ("c", with(of_team("c"), json!({"guaranteed": {"cpu": "5"}, "limit": {"cpu": "2"}}))),
    ]);
    let standings = cluster.standings(&crate::scheduler::Queue::default());
    let of = |name: &str| standings.iter().find(|s| s.name == name).unwrap();
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-9, "{got} {want}");
    close(of("a").guaranteed_share, 0.3);
    close(of("b").guaranteed_share, 0.1);
    assert_eq!(of("a").unbacked.as_ref().unwrap().0, "GuaranteeAboveParent");
    assert_eq!(of("c").unbacked.as_ref().unwrap().0, "GuaranteeAboveLimit");
    assert!(of("root").unbacked.is_none());
}

#[test]
fn only_what_is_beyond_a_guarantee_is_taken_back_and_only_up_to_ones_own() {
    let mut cluster = cluster(&[
        ("a", with(of_team("a"), json!({"guaranteed": {"cpu": "4"}}))),
        ("b", with(of_team("b"), json!({"guaranteed": {"cpu": "4"}}))),
        ("c", with(of_team("c"), json!({"reclaim": "Never", "guaranteed": {"cpu": "2"}}))),
    ]);
    for at in 0..7 {
        cluster.assume(pod(&format!("a{at}"), "a", "1", json!({})), "n");
    }
    let victim = cluster.pod("a0").unwrap().clone();
    let ask = |cluster: &Cluster, pod: &PodInfo| {
        let tenants = cluster.tenants().unwrap();
        tenants.yields(&tenants.claim(pod), &victim)
    };
    assert_eq!(ask(&cluster, &pod("b", "b", "1", json!({}))), Some(Yield::Reclaimed));
    assert_eq!(ask(&cluster, &pod("b", "b", "5", json!({}))), None, "more than b is guaranteed");
    assert_eq!(ask(&cluster, &pod("c", "c", "1", json!({}))), None, "c waits");
    for at in 0..3 {
        cluster.remove_pod(&format!("a{}", at + 1));
    }
    assert_eq!(ask(&cluster, &pod("b", "b", "1", json!({}))), None, "a has only what it is guaranteed");
}
