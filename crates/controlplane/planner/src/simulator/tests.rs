//! Scenarios and traces whose outcome is known.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use super::*;

mod tenants;

fn node(name: &str, zone: &str, cpu: u32) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": zone}},
        "status": {"allocatable": {"cpu": cpu.to_string(), "memory": "64Gi", "pods": "110"}},
    }))
    .unwrap()
}

fn pod(name: &str, namespace: &str, cpu: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}")},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]},
    }))
    .unwrap()
}

fn arrival(at: f64, pod: Pod, lasts: Option<f64>) -> Arrival {
    Arrival { at, pod, lasts }
}

fn options(seed: u64) -> Options {
    Options {
        profiles: vec![Profile::new("default-scheduler")],
        patience: Patience::default(),
        seed,
        every: 0.0,
        until: None,
    }
}

#[test]
fn a_pod_waits_until_another_ends() {
    let scenario = Scenario {
        nodes: vec![node("a", "x", 4)],
        arrivals: vec![
            arrival(0.0, pod("first", "one", "3"), Some(100.0)),
            arrival(10.0, pod("second", "one", "3"), Some(50.0)),
        ],
        ..Scenario::default()
    };
    let outcome = run(&scenario, &options(1));
    assert_eq!((outcome.arrived, outcome.placed), (2, 2));
    // It came at 10, the first ended at 100, and a pod that is sure to fit need not sit out a pause.
    assert_eq!(outcome.waits.quantile(1.0), 90.0);
    assert_eq!(outcome.end, 150.0);
    assert!(outcome.waiting.is_empty());
    let busiest = outcome.samples.iter().map(|s| s.cpu_pct).fold(0.0, f64::max);
    assert_eq!(busiest, 75.0);
}

#[test]
fn what_never_fits_is_told_with_its_reason() {
    let scenario = Scenario {
        nodes: vec![node("a", "x", 4)],
        arrivals: vec![arrival(0.0, pod("huge", "one", "8"), None)],
        ..Scenario::default()
    };
    let outcome = run(&scenario, &options(1));
    assert_eq!(outcome.placed, 0);
    let (why, count) = outcome.waiting.into_iter().next().unwrap();
    assert_eq!(count, 1);
    assert!(why.contains("Insufficient cpu"), "{why}");
}

#[test]
fn a_lost_zone_displaces_its_pods_and_new_nodes_take_them() {
    let scenario = Scenario {
        nodes: vec![node("a", "x", 2), node("b", "y", 2)],
        arrivals: (0..4).map(|n| arrival(0.0, pod(&format!("p{n}"), "one", "1"), None)).collect(),
        changes: vec![
            (60.0, Change::LoseLabelled("zone".into(), "x".into())),
            (120.0, Change::Join(Box::new(node("c", "z", 2)))),
        ],
        ..Scenario::default()
    };
    let outcome = run(&scenario, &options(3));
    assert_eq!((outcome.displaced, outcome.arrived, outcome.placed), (2, 6, 6));
    let last = outcome.samples.last().unwrap();
    assert_eq!((last.nodes, last.running, last.waiting), (2, 4, 0));
    assert!(outcome.samples.iter().any(|s| s.waiting == 2));
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    let arrivals = (0..200).map(|n| {
        let lasts = Some(30.0 + f64::from(n % 17));
        arrival(f64::from(n / 4), pod(&format!("p{n}"), if n % 3 == 0 { "a" } else { "b" }, "500m"), lasts)
    });
    let nodes = (0..10).map(|n| node(&format!("n{n}"), "x", 4)).collect();
    let scenario = Scenario { nodes, arrivals: arrivals.collect(), ..Scenario::default() };
    let text = |seed| serde_json::to_string(&run(&scenario, &options(seed)).samples).unwrap();
    assert_eq!(text(5), text(5));
}

#[test]
fn jains_index_has_its_bounds() {
    assert_eq!(jain(&[1.0, 1.0, 1.0, 1.0]), 1.0);
    assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
    assert_eq!(jain(&[]), 1.0);
}

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\nn1,96000,393216,8,G2\n";
const PODS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np0,4000,1000,1,500,\np1,4000,1000,1,500,P100|G2\np2,8000,1000,2,1000,G2\np3,1000,1000,0,,\n";

#[test]
fn traces_are_read_and_what_is_wrong_is_located() {
    let nodes = Trace::read_nodes(NODES).unwrap();
    assert_eq!((nodes[1].name.as_str(), nodes[1].gpus, nodes[1].model.as_str()), ("n1", 8, "G2"));
    let pods = Trace::read_pods(PODS).unwrap();
    assert_eq!(pods[1].models, ["P100", "G2"]);
    assert_eq!((pods[3].gpus, pods[2].milli), (0, 1000));
    let wrong = |text: &str| Trace::read_pods(text).unwrap_err().to_string();
    assert!(wrong("a,b\n").contains("line 1: there is no column name"));
    let header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n";
    assert!(wrong(&format!("{header}p,1,1,1,1001\n")).contains("line 2: gpu_milli is 1001"));
    assert!(wrong(&format!("{header}\np,x,1,1,10\n")).contains("line 3: cpu_milli is \"x\""));
}

#[test]
fn filling_a_trace_keeps_to_its_nodes_and_counts_what_fails() {
    let trace = Trace { nodes: Trace::read_nodes(NODES).unwrap(), pods: Trace::read_pods(PODS).unwrap() };
    for name in Profile::SHIPPED {
        let profile = Profile::shipped(name).unwrap();
        let outcome = trace.fill(&profile, 11);
        let (half, full) = (outcome.gpu_alloc_pct[&50], outcome.gpu_alloc_pct[&130]);
        assert!((50.0..=100.0).contains(&full) && half <= full, "{name}: {half} {full}");
        assert!(outcome.failed[&130] > 0);
        assert_eq!(outcome, trace.fill(&profile, 11), "{name}");
    }
}

#[test]
fn the_important_make_others_leave_who_come_again() {
    let mut high = pod("high", "one", "3");
    high.spec.as_mut().unwrap().priority = Some(10);
    let scenario = Scenario {
        nodes: vec![node("a", "x", 4)],
        arrivals: vec![
            arrival(0.0, pod("low", "one", "2"), Some(100.0)),
            arrival(10.0, high, Some(50.0)),
            arrival(20.0, pod("late", "one", "1"), Some(10.0)),
        ],
        ..Scenario::default()
    };
    let outcome = run(&scenario, &options(1));
    // low leaves at 10, comes again, and starts over when high ends at 60.
    assert_eq!((outcome.displaced, outcome.arrived, outcome.placed), (1, 4, 4));
    assert_eq!(outcome.end, 160.0);
    assert_eq!(outcome.waits.quantile(1.0), 50.0);
}

#[test]
fn gangs_wait_for_all_their_members_and_for_room_for_all() {
    let member = |name: &str, at: f64| {
        let mut member = pod(name, "one", "2");
        let meta = &mut member.metadata;
        meta.labels = Some([("sampan.io/pod-group".to_owned(), "g".to_owned())].into());
        meta.annotations = Some([("sampan.io/pod-group-min".to_owned(), "2".to_owned())].into());
        arrival(at, member, Some(10.0))
    };
    let scenario = Scenario {
        nodes: vec![node("a", "x", 4)],
        arrivals: vec![
            arrival(0.0, pod("first", "one", "1"), Some(100.0)),
            member("g1", 5.0),
            member("g2", 50.0),
        ],
        ..Scenario::default()
    };
    let outcome = run(&scenario, &options(1));
    assert_eq!(outcome.placed, 3);
    assert!(outcome.waits.quantile(1.0) >= 95.0, "not before the first ended");
    assert!((110.0..=112.0).contains(&outcome.end), "{}", outcome.end);
}

#[test]
fn room_is_held_for_owners_until_its_time_is_over() {
    let spec = json!({
        "ttl": "50s", "allocateOnce": false, "owners": [{"labelSelector": {"matchLabels": {"app": "x"}}}],
        "template": {"spec": {"resources": {"requests": {"cpu": "3"}}}},
    });
    let reservation = json!({"metadata": {"name": "r", "namespace": "one"}, "spec": spec});
    let mut owner = pod("owner", "one", "1");
    owner.metadata.labels = Some([("app".to_owned(), "x".to_owned())].into());
    let mut scenario = Scenario {
        nodes: vec![node("a", "x", 4)],
        reservations: vec![(0.0, serde_json::from_value(reservation).unwrap())],
        arrivals: vec![arrival(1.0, pod("other", "one", "2"), None), arrival(10.0, owner, Some(20.0))],
        ..Scenario::default()
    };
    scenario.settle().unwrap();
    let outcome = run(&scenario, &options(1));
    assert_eq!((outcome.placed, outcome.seats_placed, outcome.seats_used), (2, 1, 1));
    assert_eq!((outcome.waits.quantile(0.0), outcome.waits.quantile(1.0)), (0.0, 49.0));
    // Held room counts as given away: 3 of 4 cores until then, whoever has them.
    let before = outcome.samples.iter().filter(|s| s.time > 0.0 && s.time < 50.0);
    assert!(before.clone().count() > 2 && before.clone().all(|s| s.cpu_pct == 75.0));
    // A node that is lost takes seats along: they are placed anew, and gangs of seats as well.
    scenario.nodes.push(node("b", "x", 4));
    scenario.changes =
        vec![(5.0, Change::Lose("a".to_owned())), (5.0, Change::Join(Box::new(node("c", "x", 4))))];
    let outcome = run(&scenario, &options(1));
    assert!(outcome.seats_used == 1 && outcome.placed >= 2 && outcome.waiting.is_empty());
    scenario.reservations[0].1.spec.count = Some(0);
    assert!(scenario.settle().unwrap_err().starts_with("Reservation r: spec.count is 0"));
}
