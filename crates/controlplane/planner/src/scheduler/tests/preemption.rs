//! Preemption looks closely at few nodes, and pods that name nodes are decided by looking at these alone: what comes of it is
//! the same as if all of them had been looked at.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::differential::{self, Random};
use crate::scheduler::preempt::{Preemption, rank};
use crate::scheduler::{Budget, Candidate, Cluster, PodInfo};
use crate::selector::Selector;

/// A pod that has no say about its neighbours.
fn pod(r: &mut Random, name: &str) -> Pod {
    let mut pod = differential::pod(r, name);
    let spec = pod.spec.as_mut().unwrap();
    spec.affinity = None;
    spec.topology_spread_constraints = None;
    spec.priority = Some(i32::try_from(r.below(4)).unwrap());
    let started = format!("2026-01-01T00:00:{:02}Z", r.below(5));
    pod.status = Some(serde_json::from_value(json!({"startTime": started})).unwrap());
    pod
}

fn pinned(pod: &Pod, nodes: &[&str]) -> PodInfo {
    let mut pod = pod.clone();
    let names = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": nodes}]}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": names}}});
    pod.spec.as_mut().unwrap().affinity = Some(serde_json::from_value(affinity).unwrap());
    PodInfo::of(&pod)
}

fn step(r: &mut Random, clusters: &mut [&mut Cluster], names: &[String]) {
    let name = &names[r.below(names.len() as u64) as usize];
    match r.below(12) {
        0 => {
            let node = differential::node(r, name);
            for cluster in clusters {
                cluster.upsert_node(&node);
            }
        }
        1 => clusters.iter_mut().for_each(|c| c.remove_node(name)),
        2 => {
            let app = ["x", "y", "z"][r.below(3) as usize];
            let selector = Selector::from_map(Some(&[("app".to_owned(), app.to_owned())].into()));
            let allowed = i32::try_from(r.below(3)).unwrap();
            let budget =
                Budget { namespace: "one".to_owned(), selector, allowed, disrupted: Default::default() };
            let budget = r.chance(70).then_some(budget);
            clusters.iter_mut().for_each(|c| c.set_budget("one", app, budget.clone()));
        }
        3..=5 => {
            let uid = format!("p{}", r.below(60));
            for cluster in clusters {
                cluster.remove_pod(&uid);
            }
        }
        _ => {
            let uid = format!("p{}", r.below(60));
            let mut pod = pod(r, &uid);
            pod.spec.as_mut().unwrap().node_name = Some(name.clone());
            for cluster in clusters {
                cluster.upsert_pod(&pod);
            }
        }
    }
}

fn seed_of(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn told(plan: &Preemption) -> (String, Vec<String>, usize) {
    (plan.node.clone(), plan.victims.iter().map(|v| v.uid().to_owned()).collect(), plan.violations)
}

#[test]
fn the_cheapest_node_is_found_without_looking_closely_at_all() {
    let names: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
    let (mut found, mut refused) = (0, 0);
    for seed in 1..=30 {
        let mut r = Random(seed_of(seed));
        let mut cluster = Cluster::new();
        for name in &names {
            cluster.upsert_node(&differential::node(&mut r, name));
        }
        let questions: Vec<Pod> = (0..4).map(|n| pod(&mut r, &format!("q{n}"))).collect();
        for at in 0..120 {
            step(&mut r, &mut [&mut cluster], &names);
            let question = &questions[r.below(4) as usize];
            let barred = r.chance(30).then(|| names[r.below(12) as usize].clone());
            let may = |node: &str| barred.as_deref() != Some(node);
            let filter =
                |node: Candidate<'_>| if may(node.name) { Ok(()) } else { Err("elsewhere".to_owned()) };
            let single = names.iter().filter(|name| may(name)).filter_map(|name| {
                let plan = cluster.preempt(&pinned(question, &[name]), 1, None).ok()?;
                Some((rank(&plan.victims, plan.violations), plan))
            });
            let plans: Vec<_> = single.collect();
            match cluster.preempt(&PodInfo::of(question), 1, Some(&filter)) {
                Ok(plan) => {
                    found += 1;
                    let best = plans.iter().map(|(rank, _)| *rank).min();
                    assert_eq!(Some(rank(&plan.victims, plan.violations)), best, "seed {seed} step {at}");
                    let there = plans.iter().find(|(_, other)| other.node == plan.node).unwrap();
                    assert_eq!(told(&plan), told(&there.1), "seed {seed} step {at}");
                }
                Err(why) => {
                    refused += 1;
                    assert!(plans.is_empty(), "seed {seed} step {at}: {why}, but {plans:?}");
                }
            }
        }
    }
    assert!(found > 500 && refused > 500, "{found} {refused}");
}

#[test]
fn what_is_known_of_single_nodes_is_not_in_the_way_of_knowing_all() {
    let names: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
    for seed in 1..=30 {
        let mut r = Random(seed_of(seed));
        let (mut asked, mut other) = (Cluster::new(), Cluster::new());
        for name in &names {
            let node = differential::node(&mut r, name);
            asked.upsert_node(&node);
            other.upsert_node(&node);
        }
        let question = pod(&mut r, "q");
        for _ in 0..60 {
            step(&mut r, &mut [&mut asked, &mut other], &names);
            let some = [0; 3].map(|_| names[r.below(40) as usize].as_str());
            let pinned = pinned(&question, &some);
            let placed = asked.schedule(&pinned, 1);
            let able = asked.able(&pinned, None);
            assert_eq!(placed.as_ref().map_or(0, |p| p.feasible), able.len());
            assert!(able.iter().all(|name| some.contains(&name.as_str())));
        }
        let info = PodInfo::of(&question);
        let mut scores = [asked.evaluate(&info), other.evaluate(&info)];
        scores.iter_mut().for_each(|scores| scores.sort());
        assert_eq!(scores[0], scores[1], "seed {seed}");
        let reasons = |c: &mut Cluster| c.schedule(&info, 1).map(|p| p.feasible).map_err(|u| u.reasons);
        assert_eq!(reasons(&mut asked), reasons(&mut other), "seed {seed}");
    }
}
