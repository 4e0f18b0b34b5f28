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
            movable.push(Movable { uid, owner: (*name).to_owned(), ..Movable::default() });
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

#[test]
fn gangs_are_not_torn_and_owners_are_not_emptied() {
    let (mut cluster, mut movable) = cluster(&[("a", &[]), ("b", &[])]);
    for at in 0..4 {
        let mut member = pod(&format!("g-{at}"), "a", 2);
        member.metadata.labels = Some([("sampan.io/pod-group".to_owned(), "g".to_owned())].into());
        member.metadata.annotations = Some([("sampan.io/pod-group-min".to_owned(), "3".to_owned())].into());
        cluster.upsert_pod(&member);
        movable.push(Movable { uid: format!("g-{at}"), owner: "job".to_owned(), ..Movable::default() });
    }
    let moved = |cluster: &mut Cluster, movable: &[Movable], bounds: Bounds| {
        let plan = plan(cluster, Aim::Even, movable, &[], bounds);
        (plan.moves.len(), plan.kept)
    };
    let (moves, kept) = moved(&mut cluster, &movable, Bounds::default());
    assert_eq!((moves, kept["its gang would be torn"]), (1, 3), "one more than the gang needs");
    let few = Bounds { per_owner: 1, ..Bounds::default() };
    let (mut loose, movable) = self::cluster(&[("a", &[2, 2, 2, 2]), ("b", &[])]);
    assert_eq!(moved(&mut loose, &movable, Bounds::default()).0, 2);
    let (moves, kept) = moved(&mut loose, &movable, few);
    assert_eq!((moves, kept["another pod of its owner moves"]), (1, 3));
    let fresh: Vec<Movable> = movable.iter().map(|m| Movable { started: Some(950), ..m.clone() }).collect();
    let bounds = Bounds { settled: 60, now: 1000, ..Bounds::default() };
    assert_eq!(moved(&mut loose, &fresh, bounds), (0, [("it has just started".to_owned(), 4)].into()));
}

#[test]
fn what_stays_in_use_is_named() {
    let (mut cluster, movable) = cluster(&[("a", &[6]), ("b", &[3, 3]), ("c", &[7])]);
    let plan = plan(&mut cluster, Aim::Empty, &movable, &[], Bounds::default());
    let stays: Vec<(&str, usize, &str)> =
        plan.stays.iter().map(|s| (s.node.as_str(), s.pods, s.why.as_str())).collect();
    let why = "no room for all of the node's pods elsewhere";
    assert_eq!(stays, [("a", 1, why), ("c", 2, "it takes pods of nodes that are emptied")]);
}

#[test]
fn load_moves_off_hot_nodes_and_not_onto_others() {
    use crate::scheduler::{Profile, Weights};
    use crate::usage::{Amount, NodeUsage, PodUsage};
    let mut by_use = Profile::new("default-scheduler");
    by_use.weights = Weights { load_aware: 10, ..Weights::default() };
    let mut cluster = Cluster::with_profiles(vec![by_use]);
    let mut movable = Vec::new();
    for (name, pods) in [("a", 4), ("b", 1), ("c", 0)] {
        cluster.upsert_node(&node(name));
        for at in 0..pods {
            let uid = format!("{name}-{at}");
            cluster.upsert_pod(&pod(&uid, name, 1));
            movable.push(Movable { uid, owner: name.to_owned(), ..Movable::default() });
        }
    }
    let of = |uses: &[(&str, i64)]| -> BTreeMap<String, NodeUsage> {
        uses.iter()
            .map(|(n, milli)| ((*n).to_owned(), NodeUsage::now(Amount::new(*milli, 1 << 30))))
            .collect()
    };
    let pods = || {
        let used = |milli| PodUsage { used: Amount::new(milli, 1 << 20), young: false };
        [("a-0", 4000), ("a-1", 2000), ("a-2", 1500), ("a-3", 1400), ("b-0", 100)]
            .map(|(uid, milli)| (Box::from(uid), used(milli)))
            .into()
    };
    cluster.observe(&of(&[("a", 9000), ("b", 4000), ("c", 500)]), pods());
    let cooled = plan(&mut cluster, Aim::Cool, &movable, &[], Bounds::default());
    let moves: Vec<(&str, &str)> = cooled.moves.iter().map(|m| (m.pod.as_str(), m.to.as_str())).collect();
    // Ten hundredths too much are worth one pod; what is most worth its price goes, to where least is used.
    assert_eq!(moves, [("a-0", "c")]);
    assert_eq!(cooled.moves[0].why, "a uses 90 % of its cpu");
    assert_eq!(cluster.load_of("a").map(|load| load.milli_cpu), Some(9000), "planning changes nothing");

    // Elsewhere it is no better: all stay.
    cluster.observe(&of(&[("a", 9000), ("b", 7000), ("c", 7400)]), pods());
    let stuck = plan(&mut cluster, Aim::Cool, &movable, &[], Bounds::default());
    assert!(stuck.moves.is_empty(), "{:?}", stuck.moves);
    assert_eq!(stuck.kept["the scheduler would put it where much is used, too"], 4);
    // A moment is no reason.
    let mut moment = of(&[("a", 9000), ("b", 100), ("c", 100)]);
    moment.values_mut().for_each(|usage| usage.sustained = None);
    cluster.observe(&moment, pods());
    assert!(plan(&mut cluster, Aim::Cool, &movable, &[], Bounds::default()).moves.is_empty());
}
