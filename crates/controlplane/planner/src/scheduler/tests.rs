//! Tables of upstream's behaviour, and properties over random clusters.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::*;

fn node(name: &str, cpu: &str, extra: Value) -> Node {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}},
    });
    merge(&mut value, extra);
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, cpu: &str, spec: Value) -> Pod {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "busybox", "resources": {"requests": {"cpu": cpu}}}]},
    });
    merge(&mut value, spec);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) if !from.is_null() => *into = from,
        _ => {}
    }
}

fn cluster(nodes: &[Node]) -> Cluster {
    let mut cluster = Cluster::new();
    for node in nodes {
        cluster.upsert_node(node);
    }
    cluster
}

fn why(cluster: &Cluster, pod: &Pod) -> String {
    match cluster.schedule(&PodInfo::pending(pod), 1) {
        Ok(placement) => format!("-> {}", placement.node),
        Err(error) => error.to_string(),
    }
}

fn bound(mut pod: Pod, name: &str, node: &str) -> Pod {
    pod.metadata.name = Some(name.into());
    pod.metadata.uid = Some(name.into());
    pod.spec.as_mut().unwrap().node_name = Some(node.into());
    pod
}

#[test]
fn the_message_of_a_pending_pod() {
    let taint = json!({"spec": {"taints": [{"key": "key", "value": "value", "effect": "NoSchedule"}]}});
    let nodes = [node("a", "1", json!({})), node("b", "4", taint.clone()), node("c", "4", taint)];
    assert_eq!(
        why(&cluster(&nodes), &pod("p", "2", json!({}))),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {key: value}."
    );
    assert_eq!(why(&Cluster::new(), &pod("p", "2", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn each_filter_in_its_words() {
    let zone = json!({"metadata": {"labels": {"zone": "z1"}}});
    let base = cluster(&[node("a", "2", zone)]);
    let required = |expression: Value| {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [expression]}}}}})
    };
    let label = |operator: &str, values: Value| {
        required(json!({"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}))
    };
    let field = |name: &str| {
        required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}))
    };
    let gpu = json!({"spec": {"overhead": {"example.com/gpu": "1"}}});
    let affinity_text = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    for (spec, want) in [
        (json!({"spec": {"nodeSelector": {"zone": "z1"}}}), "-> a"),
        (json!({"spec": {"nodeSelector": {"zone": "z2"}}}), affinity_text),
        (label("In", json!(["z1", "z3"])), "-> a"),
        (label("NotIn", json!(["z1"])), affinity_text),
        (label("DoesNotExist", json!([])), affinity_text),
        (required(json!({})), affinity_text),
        (field("a"), "-> a"),
        (field("b"), "0/1 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."),
        (gpu, "0/1 nodes are available: 1 Insufficient example.com/gpu."),
        (
            json!({"spec": {"nodeName": "b"}}),
            "0/1 nodes are available: 1 node(s) didn't match the requested node name.",
        ),
    ] {
        assert_eq!(why(&base, &pod("p", "1", spec.clone())), want, "{spec}");
    }
}

#[test]
fn cordon_and_full_nodes() {
    let cordoned = node("a", "2", json!({"spec": {"unschedulable": true}}));
    let full = node("b", "2", json!({"status": {"allocatable": {"pods": "0"}}}));
    let cluster = cluster(&[cordoned, full]);
    assert_eq!(
        why(&cluster, &pod("p", "1", json!({}))),
        "0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable."
    );
    let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    assert_eq!(why(&cluster, &pod("p", "1", tolerant)), "-> a");
}

#[test]
fn host_ports_clash_on_wildcards() {
    let port = |ip: &str| json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}});
    let mut cluster = cluster(&[node("a", "2", json!({}))]);
    cluster.upsert_pod(&bound(pod("x", "0", port("127.0.0.1")), "x", "a"));
    assert_eq!(why(&cluster, &pod("p", "0", port("127.0.0.2"))), "-> a");
    let text = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(why(&cluster, &pod("p", "0", port(""))), text);
    cluster.remove_pod("x");
    assert_eq!(why(&cluster, &pod("p", "0", port(""))), "-> a");
}

#[test]
fn init_containers_and_sidecars_count_as_upstream_counts_them() {
    let need = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let spec = json!({
        "containers": [{"name": "a", "resources": need("1")}, {"name": "b", "resources": need("1")}],
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "resources": need("500m")},
            {"name": "init", "resources": need("3")},
        ],
        "overhead": {"cpu": "10m"},
    });
    let spec = serde_json::from_value(spec).unwrap();
    // init beside its sidecar: 3.5; afterwards 2 + 0.5.
    assert_eq!(pod_requests(&spec).milli_cpu, 3510);
}

fn pod_affinity(kind: &str) -> Value {
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}}]}}}})
}

#[test]
fn required_affinity_between_pods() {
    let mut cluster = cluster(&[node("a", "2", json!({})), node("b", "2", json!({}))]);
    let near = pod("p", "0", pod_affinity("podAffinity"));
    assert!(why(&cluster, &near).starts_with("->"), "the first of a group that wants itself may go anywhere");
    cluster.upsert_pod(&bound(pod("x", "0", json!({})), "x", "b"));
    assert_eq!(why(&cluster, &near), "-> b");

    let apart = pod("p", "0", pod_affinity("podAntiAffinity"));
    assert_eq!(why(&cluster, &apart), "-> a");
    cluster.upsert_pod(&bound(apart.clone(), "y", "a"));
    assert_eq!(
        why(&cluster, &apart),
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    );
    cluster.upsert_node(&node("b", "2", json!({"spec": {"unschedulable": true}})));
    assert_eq!(
        why(&cluster, &pod("q", "0", json!({}))),
        "0/2 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, \
         1 node(s) were unschedulable."
    );
}

#[test]
fn hard_topology_spread() {
    let zone = |z: &str| json!({"metadata": {"labels": {"zone": z}}});
    let mut cluster =
        cluster(&[node("a", "9", zone("1")), node("b", "9", zone("2")), node("c", "9", json!({}))]);
    let spec = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]}});
    let spread = pod("p", "0", spec);
    cluster.upsert_pod(&bound(spread.clone(), "x", "a"));
    assert_eq!(why(&cluster, &spread), "-> b");
    cluster.upsert_node(&node(
        "b",
        "9",
        json!({"metadata": {"labels": {"zone": "2"}}, "spec": {"unschedulable": true}}),
    ));
    assert_eq!(
        why(&cluster, &spread),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match \
         pod topology spread constraints (missing required label), 1 node(s) were unschedulable."
    );
}

#[test]
fn scores_prefer_free_nodes_and_say_so_with_any_seed() {
    let mut cluster = cluster(&[node("a", "2", json!({})), node("b", "2", json!({}))]);
    cluster.upsert_pod(&bound(pod("x", "1", json!({})), "x", "a"));
    for seed in 0..20 {
        let placement = cluster.schedule(&PodInfo::pending(&pod("p", "100m", json!({}))), seed).unwrap();
        assert_eq!(placement.node, "b");
        assert_eq!(placement.feasible, 2);
    }
}

#[test]
fn soft_taints_and_preferences_decide_between_equals() {
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let nodes = [
        node("a", "2", taint),
        node("b", "2", json!({})),
        node("c", "2", json!({"metadata": {"labels": {"ssd": "1"}}})),
    ];
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 5, "preference": {"matchExpressions": [{"key": "ssd", "operator": "Exists"}]}}]}}}});
    assert_eq!(why(&cluster(&nodes), &pod("p", "1", prefers)), "-> c");
    for seed in 0..20 {
        let placement =
            cluster(&nodes[..2]).schedule(&PodInfo::pending(&pod("p", "1", json!({}))), seed).unwrap();
        assert_eq!(placement.node, "b");
    }
}

#[test]
fn replicas_of_one_owner_spread_by_default() {
    let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r",
        "uid": "r", "controller": true}]}});
    let mut cluster =
        cluster(&[node("a", "4", json!({})), node("b", "4", json!({})), node("c", "4", json!({}))]);
    for i in 0..9_u32 {
        let replica = pod("p", "1m", owned.clone());
        let name = format!("p{i}");
        let placement = cluster.schedule(&PodInfo::pending(&replica), i.into()).unwrap();
        cluster.upsert_pod(&bound(replica, &name, &placement.node));
    }
    for name in ["a", "b", "c"] {
        assert_eq!(cluster.node(name).unwrap().pod_count(), 3);
    }
}

#[test]
fn hints_name_what_could_help() {
    let mut cluster = cluster(&[node("a", "1", json!({}))]);
    cluster.upsert_pod(&bound(pod("x", "1", json!({})), "x", "a"));
    let unplaced = cluster.schedule(&PodInfo::pending(&pod("p", "1", json!({}))), 0).unwrap_err();
    assert!(unplaced.hints.intersects(Hints::POD_GONE));
    assert!(unplaced.hints.intersects(Hints::NODE_ADDED));
    assert!(!unplaced.hints.intersects(Hints::NODE_LABELS));
    assert_eq!(cluster.remove_pod("x"), Hints::POD_GONE);
    assert_eq!(cluster.upsert_node(&node("a", "1", json!({}))), Hints::none());
    assert_eq!(cluster.upsert_node(&node("a", "2", json!({}))), Hints::NODE_ALLOCATABLE);
}

/// Whatever is placed and removed in whatever order, no node is promised beyond what it has, and what is left
/// behind is nothing.
#[test]
fn never_over_capacity() {
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let names: Vec<String> = (0..8).map(|i| format!("n{i}")).collect();
    let mut cluster = cluster(&names.iter().map(|n| node(n, "2", json!({}))).collect::<Vec<_>>());
    let mut placed: Vec<String> = Vec::new();
    for step in 0..2000 {
        if random(3) > 0 || placed.is_empty() {
            let replica = pod(&format!("p{step}"), &format!("{}m", 50 + random(900)), json!({}));
            let info = PodInfo::pending(&replica);
            if let Ok(placement) = cluster.schedule(&info, step) {
                placed.push(info.uid().to_owned());
                cluster.assume(info, &placement.node);
            }
        } else {
            let gone = placed.swap_remove(usize::try_from(random(placed.len() as u64)).unwrap());
            cluster.remove_pod(&gone);
        }
        for name in &names {
            let node = cluster.node(name).unwrap();
            assert!(node.used().milli_cpu <= node.allocatable().milli_cpu, "{name} at step {step}");
        }
    }
    placed.iter().for_each(|uid| {
        cluster.remove_pod(uid);
    });
    assert!(names.iter().all(|n| *cluster.node(n).unwrap().used() == Resources::default()));
}
