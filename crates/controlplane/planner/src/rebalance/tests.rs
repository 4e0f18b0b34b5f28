//! Plans on small clusters.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use super::*;

fn node(name: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "status": {"allocatable": {"cpu": "10", "memory": "100Gi", "pods": "110"}},
    }))
    .unwrap()
}

fn pod(name: &str, on: &str, cpu: u32) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "nodeName": on,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu.to_string(), "memory": "1Gi"}}}],
        },
    }))
    .unwrap()
}

/// A cluster of nodes with pods of so many CPUs; the pods are named after node and place.
fn cluster(nodes: &[(&str, &[u32])]) -> (Cluster, Vec<Movable>) {
    let mut cluster = Cluster::new();
    let mut movable = Vec::new();
    for (name, pods) in nodes {
        cluster.upsert_node(&node(name));
        for (at, cpu) in pods.iter().enumerate() {
            let uid = format!("{name}-{at}");
            cluster.upsert_pod(&pod(&uid, name, *cpu));
            movable.push(Movable { uid, budgets: Vec::new(), started: None });
        }
    }
    (cluster, movable)
}

fn used(cluster: &Cluster) -> Vec<(String, i64)> {
    cluster.nodes().map(|n| (n.name().to_owned(), n.used().milli_cpu)).collect()
}

/// Carries a plan out and checks that no node is asked for more than it has.
fn carry_out(cluster: &mut Cluster, plan: &Plan) {
    for step in &plan.moves {
        let there = cluster.node(&step.from).unwrap().pods().to_vec();
        let pod = there.iter().find(|pod| pod.uid() == step.uid).unwrap();
        cluster.remove_pod(&step.uid);
        cluster.assume(pod.unbound(), &step.to);
    }
    for (name, used) in used(cluster) {
        assert!(used <= 10_000, "{name} has {used}");
    }
    assert!(plan.emptied.iter().all(|name| cluster.node(name).unwrap().pod_count() == 0));
}

#[test]
fn the_least_used_node_is_emptied_onto_those_in_use() {
    let (mut cluster, movable) = cluster(&[("a", &[4, 2]), ("b", &[1, 1]), ("c", &[5])]);
    let before = used(&cluster);
    let plan = plan(&mut cluster, Aim::Empty, &movable, &[], Bounds::default());
    // Onto the fullest that can take them; after that c's pod fits nowhere.
    assert_eq!(plan.emptied, ["b"]);
    assert!(plan.moves.iter().all(|m| m.from == "b" && m.to == "a"), "{:?}", plan.moves);
    assert_eq!(used(&cluster), before, "planning changes nothing");
    carry_out(&mut cluster, &plan);
}

#[test]
fn a_node_is_emptied_wholly_or_not_at_all() {
    let (mut cluster, movable) = cluster(&[("a", &[6]), ("b", &[3, 3]), ("c", &[7])]);
    let plan = plan(&mut cluster, Aim::Empty, &movable, &[], Bounds::default());
    // Three fit on a and three on c, so b can go; nothing else can.
    assert_eq!(plan.emptied, ["b"]);
    assert_eq!(plan.moves.len(), 2);
    assert!(plan.kept.contains_key("no room for all of the node's pods elsewhere"));
}

#[test]
fn budgets_bound_what_is_moved() {
    let (mut cluster, mut movable) = cluster(&[("a", &[1]), ("b", &[1, 1]), ("c", &[5])]);
    movable.iter_mut().for_each(|m| m.budgets = vec![0]);
    let plan = plan(&mut cluster, Aim::Empty, &movable, &[1], Bounds::default());
    assert_eq!(plan.emptied, ["a"]);
    assert_eq!(plan.kept["a disruption budget allows no more"], 3, "two on b, one on c");
}

#[test]
fn what_nothing_makes_anew_stays() {
    let (mut cluster, mut movable) = cluster(&[("a", &[1]), ("b", &[5])]);
    movable.retain(|m| m.uid != "a-0");
    let plan = plan(&mut cluster, Aim::Empty, &movable, &[], Bounds::default());
    // b's pod fits on a, which cannot be emptied.
    assert_eq!(plan.emptied, ["b"]);
    assert_eq!(plan.kept["nothing would make it anew"], 1);
}

#[test]
fn a_plan_keeps_to_its_bounds() {
    let (mut cluster, movable) = cluster(&[("a", &[1, 1]), ("b", &[1, 1]), ("c", &[1])]);
    let bounds = Bounds { moves: 2, ..Bounds::default() };
    let few = plan(&mut cluster, Aim::Empty, &movable, &[], bounds);
    assert!(few.moves.len() <= 2 && !few.moves.is_empty());
    let bounds = Bounds { cost: 1.5, ..Bounds::default() };
    let cheap = plan(&mut cluster, Aim::Empty, &movable, &[], bounds);
    assert!(cheap.moves.iter().map(|m| m.cost).sum::<f64>() <= 1.5);
    let bounds = Bounds { least_gain: 1e9, ..Bounds::default() };
    assert!(plan(&mut cluster, Aim::Empty, &movable, &[], bounds).moves.is_empty());
}

#[test]
fn the_fullest_node_is_relieved_until_all_are_alike() {
    let (mut cluster, movable) = cluster(&[("a", &[2, 2, 2, 2]), ("b", &[1]), ("c", &[])]);
    let plan = plan(&mut cluster, Aim::Even, &movable, &[], Bounds::default());
    assert!(plan.moves.iter().all(|m| m.from == "a" && m.gain > 0.0 && m.cost > 0.0), "{:?}", plan.moves);
    assert_eq!(plan.fullest_pct.0, 80.0);
    assert!(plan.fullest_pct.1 <= 40.0, "{:?}", plan.fullest_pct);
}

#[test]
fn what_is_even_stays_as_it_is() {
    let (mut cluster, movable) = cluster(&[("a", &[2]), ("b", &[2]), ("c", &[3])]);
    assert!(plan(&mut cluster, Aim::Even, &movable, &[], Bounds::default()).moves.is_empty());
}

#[test]
fn a_pod_that_stays_is_counted_once() {
    // a is the fullest by far, its large pod fits nowhere else, and each round looks at it again.
    let (mut cluster, movable) = cluster(&[("a", &[6, 1, 1, 1]), ("b", &[5]), ("c", &[5])]);
    let plan = plan(&mut cluster, Aim::Even, &movable, &[], Bounds { tolerance: 1.0, ..Bounds::default() });
    assert!(plan.moves.len() > 1, "{:?}", plan.moves);
    assert_eq!(plan.kept.get("no room elsewhere"), Some(&1), "{:?}", plan.kept);
}
