//! Tenants with queues under random loads: nobody is lost, nothing is promised twice, guarantees are kept in time.

use super::*;
use crate::fairness::{QueueSpec, TenantQueue};
use crate::random::Random;

/// Victims leave at once here, and a pod that is woken in vain backs off this long at most.
const BOUND: f64 = 10.0;

fn queue(name: &str, spec: serde_json::Value) -> TenantQueue {
    let spec: QueueSpec = serde_json::from_value(spec).unwrap();
    TenantQueue::new(name, spec)
}

fn home(namespace: &str, queue: &str) -> (String, BTreeMap<String, String>) {
    (namespace.to_owned(), [(crate::fairness::QUEUE.to_owned(), queue.to_owned())].into())
}

/// Pods of a namespace that come at one time.
fn many(namespace: &str, at: f64, count: usize, lasts: Option<f64>) -> Vec<Arrival> {
    (0..count).map(|n| arrival(at, pod(&format!("{at}-{n}"), namespace, "1"), lasts)).collect()
}

#[test]
fn who_comes_late_gets_what_is_guaranteed_at_once_and_the_rest_in_turn() {
    let scenario = Scenario {
        nodes: vec![node("n0", "x", 5), node("n1", "x", 5)],
        namespaces: [home("a", "a"), home("b", "b")].into(),
        queues: vec![
            queue("a", json!({"guaranteed": {"cpu": "2"}})),
            queue("b", json!({"guaranteed": {"cpu": "4"}})),
        ],
        arrivals: [many("a", 0.0, 20, None), many("b", 100.0, 8, None)].concat(),
        ..Scenario::default()
    };
    let outcome = run(&scenario, &options(1));
    let last = outcome.samples.last().unwrap();
    let share = |name: &str| (last.tenants[name].share * 10.0).round();
    assert_eq!((share("a"), share("b")), (6.0, 4.0));
    assert_eq!((outcome.reclaimed, outcome.displaced), (4, 4), "no more than needed");
    assert!(outcome.tenants["b"].longest_starving <= BOUND);
    assert!(last.tenants["b"].waiting == 4 && !last.tenants["b"].starving);
    assert!((last.tenants["b"].fair_share - 0.5).abs() < 1e-9, "by weight they would be even");
}

#[test]
fn weights_divide_what_is_free_and_the_past_counts() {
    // Short pods all the time from both: whoever has the smaller weighted share is next.
    let steady = |namespace: &str| {
        let come = (0..600).map(|n| arrival(f64::from(n), pod(&format!("p{n}"), namespace, "1"), Some(40.0)));
        come.collect::<Vec<_>>()
    };
    let play = |weight: u32| {
        let scenario = Scenario {
            nodes: vec![node("n0", "x", 12)],
            namespaces: [home("a", "a"), home("b", "b")].into(),
            queues: vec![queue("a", json!({"weight": weight})), queue("b", json!({}))],
            arrivals: [steady("a"), steady("b")].concat(),
            ..Scenario::default()
        };
        let outcome = run(&scenario, &Options { until: Some(600.0), ..options(3) });
        outcome.tenants["a"].mean_share / outcome.tenants["b"].mean_share
    };
    let (even, triple) = (play(1), play(3));
    assert!((0.9..=1.1).contains(&even), "{even}");
    assert!((2.3..=3.7).contains(&triple), "{triple}");
}

#[test]
fn a_gang_of_a_starving_tenant_gets_room_for_all_or_makes_nobody_leave() {
    let member = |name: &str, cpu: &str, min: &str| {
        let mut member = pod(name, "b", cpu);
        member.metadata.labels = Some([("sampan.io/pod-group".to_owned(), "g".to_owned())].into());
        member.metadata.annotations = Some([("sampan.io/pod-group-min".to_owned(), min.to_owned())].into());
        member
    };
    let play = |count: usize, cpu: &str, min: &str| {
        let gang = (0..count).map(|n| arrival(50.0, member(&format!("g{n}"), cpu, min), None));
        let scenario = Scenario {
            nodes: vec![node("n0", "x", 4), node("n1", "x", 4)],
            namespaces: [home("a", "a"), home("b", "b")].into(),
            queues: vec![queue("a", json!({})), queue("b", json!({"guaranteed": {"cpu": "6"}}))],
            arrivals: many("a", 0.0, 8, None).into_iter().chain(gang).collect(),
            ..Scenario::default()
        };
        run(&scenario, &options(1))
    };
    let fits = play(3, "2", "3");
    assert_eq!(fits.reclaimed, 6);
    assert_eq!(fits.tenants["b"].placed, 3);
    // Of three that need a node's whole room two would fit: nobody leaves for them.
    let not = play(3, "3", "3");
    assert_eq!((not.reclaimed, not.tenants.get("b").map_or(0, |t| t.placed)), (0, 0));
}

#[test]
fn under_any_load_nobody_is_lost_and_guarantees_are_kept_in_time() {
    let mut reclaimed = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let nodes: Vec<Node> = (0..2 + random.below(4))
            .map(|n| node(&format!("n{n}"), "x", 2 + random.below(9) as u32))
            .collect();
        let cores: i64 = nodes
            .iter()
            .map(|n| {
                let cpu = &n.status.as_ref().unwrap().allocatable.as_ref().unwrap()["cpu"].0;
                cpu.parse::<i64>().unwrap()
            })
            .sum();
        // Together they are guaranteed no more than there is.
        let third = cores / 3;
        let (limit, weight) = (third.max(1) + random.below(8) as i64, 1 + random.below(5));
        let queues = vec![
            queue("top", json!({})),
            queue("a", json!({"parent": "top", "guaranteed": {"cpu": third.to_string()}})),
            queue("b", json!({"parent": "top", "guaranteed": {"cpu": third.to_string()}, "weight": weight})),
            queue(
                "c",
                json!({"guaranteed": {"cpu": third.to_string()}, "limit": {"cpu": limit.to_string()}}),
            ),
        ];
        let names = ["a", "b", "c", "free"];
        let mut arrivals = Vec::new();
        for n in 0..100 {
            let namespace = names[random.below(if seed % 3 == 0 { 4 } else { 3 })];
            let mut pod = pod(&format!("p{n}"), namespace, "1");
            let spec = pod.spec.as_mut().unwrap();
            spec.priority = Some([0, 0, 0, 5][random.below(4)]);
            if seed % 3 == 1 && n % 9 == 0 {
                spec.preemption_policy = Some("Never".to_owned());
            }
            let lasts = (random.below(3) > 0).then(|| 10.0 + random.below(200) as f64);
            arrivals.push(arrival(random.below(300) as f64, pod, lasts));
        }
        let namespaces = ["a", "b", "c"].map(|name| home(name, name)).into();
        let scenario = Scenario { nodes, namespaces, queues, arrivals, ..Scenario::default() };
        let outcome = run(&scenario, &options(seed));
        reclaimed += outcome.reclaimed;
        let waiting: usize = outcome.waiting.values().sum();
        assert_eq!(outcome.arrived, outcome.placed + waiting, "seed {seed}: somebody is lost");
        assert!(outcome.displaced < 400, "seed {seed}: {} times somebody had to leave", outcome.displaced);
        for sample in &outcome.samples {
            assert!(sample.cpu_pct <= 100.0 + 1e-9, "seed {seed}: promised twice");
            let c = sample.tenants["c"].share * cores as f64;
            assert!(c <= limit as f64 + 1e-9, "seed {seed}: beyond its limit");
        }
        // Pods without a queue leave for no queue, and who does not preempt waits.
        if seed % 3 == 2 {
            for (name, tenant) in &outcome.tenants {
                let starved = tenant.longest_starving;
                assert!(starved <= BOUND, "seed {seed}: {name} starved for {starved} s");
            }
        }
    }
    assert!(reclaimed > 100, "{reclaimed}: this shows nothing");
}
