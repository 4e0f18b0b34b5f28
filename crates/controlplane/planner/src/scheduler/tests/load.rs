//! What is really used: its filter and score against a slow reference, and what they do.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::differential::Random;
use super::{bound, node, pod, why};
use crate::scheduler::config::Config;
use crate::scheduler::{Cluster, Hints, PodInfo, Profile};
use crate::usage::{Amount, NodeUsage, PodUsage};

const GIB: i64 = 1 << 30;

/// Scores by use alone, so that nothing else decides.
fn profile(args: Value) -> Profile {
    let file = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{
            "plugins": {
                "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "LoadAware"}]},
                "filter": {"enabled": [{"name": "LoadAware"}]},
            },
            "pluginConfig": [{"name": "LoadAware", "args": args}],
        }],
    });
    Config::parse(file).unwrap().profiles.remove(0)
}

fn of(nodes: &[(&str, &str)], args: Value) -> Cluster {
    let mut cluster = Cluster::with_profiles(vec![profile(args)]);
    for (name, cpu) in nodes {
        cluster.upsert_node(&node(name, cpu, json!({})));
    }
    cluster
}

fn uses(nodes: &[(&str, i64, i64)]) -> BTreeMap<String, NodeUsage> {
    nodes
        .iter()
        .map(|(name, cpu, memory)| ((*name).to_owned(), NodeUsage::now(Amount::new(*cpu, *memory))))
        .collect()
}

fn settled(milli_cpu: i64, memory: i64) -> PodUsage {
    PodUsage { used: Amount::new(milli_cpu, memory), young: false }
}

#[test]
fn the_least_used_node_is_chosen_whatever_was_asked_for() {
    let mut cluster = of(&[("a", "4"), ("b", "4")], json!({}));
    // a is promised and idle, b is free and busy.
    cluster.upsert_pod(&bound(pod("idle", "3", json!({})), "idle", "a"));
    let of_idle = || HashMap::from([("idle".into(), settled(10, 1 << 20))]);
    cluster.observe(&uses(&[("a", 100, GIB), ("b", 2000, GIB)]), of_idle());
    let p = pod("p", "500m", json!({}));
    assert_eq!(why(&mut cluster, &p), "-> a");
    // A hot node takes none at all, and that is said; a threshold of one resource is enough.
    cluster.observe(&uses(&[("a", 2700, GIB), ("b", 100, 4 * GIB)]), of_idle());
    let refused = "0/2 nodes are available: 1 node(s) cpu usage exceeded the threshold, \
                   1 node(s) memory usage exceeded the threshold.";
    assert_eq!(why(&mut cluster, &p), refused);
    let hints = cluster.would_fit(&PodInfo::of(&p)).unwrap_err();
    assert!(hints.intersects(Hints::NODE_USAGE));
    assert!(cluster.preempt(&PodInfo::of(&super::with_priority(p.clone(), 1000)), 1, None).is_err());
    assert!(cluster.explain(&PodInfo::of(&p), None).refusals[0].remedy.contains("usageThresholds"));
    // A DaemonSet's pod is needed there all the same.
    let owner = json!({"metadata": {"ownerReferences":
        [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}]}});
    assert!(why(&mut cluster, &pod("d", "100m", owner)).starts_with("-> "));
    // It cools down, and whom that helps is woken.
    let hints = cluster.observe(&uses(&[("a", 2700, GIB), ("b", 100, GIB)]), of_idle());
    assert_eq!(hints, Hints::NODE_USAGE);
    assert_eq!(why(&mut cluster, &p), "-> b");
    assert_eq!(
        cluster.observe(&uses(&[("a", 2701, GIB), ("b", 101, GIB)]), of_idle()),
        Hints::none(),
        "a ripple"
    );
}

#[test]
fn pods_that_were_just_placed_count_before_they_are_measured() {
    let mut cluster = of(&[("a", "4"), ("b", "4")], json!({"usageThresholds": {"cpu": 60}}));
    cluster.observe(&uses(&[("a", 0, 0), ("b", 400, 0)]), HashMap::new());
    let mut placed = Vec::new();
    for at in 0..6 {
        let p = pod(&format!("p{at}"), "1", json!({}));
        match cluster.schedule(&PodInfo::of(&p), 1) {
            Ok(placement) => {
                cluster.assume_placed(PodInfo::of(&p), &placement);
                placed.push(placement.node);
            }
            Err(_) => placed.push("-".to_owned()),
        }
    }
    // 850m each are expected: the two take turns, until both are beyond 60 %.
    assert_eq!(placed, ["a", "b", "a", "b", "a", "b"]);
    assert!(cluster.schedule(&PodInfo::of(&pod("last", "1", json!({}))), 1).is_err());
    // They turn out to do little: there is room again.
    let pods: HashMap<Box<str>, PodUsage> =
        (0..6).map(|at| (format!("p{at}").into(), settled(50, 1 << 20))).collect();
    cluster.observe(&uses(&[("a", 150, 0), ("b", 550, 0)]), pods);
    assert_eq!(cluster.load_of("a"), Some(Amount::new(150, 0)));
    assert_eq!(why(&mut cluster, &pod("last", "1", json!({}))), "-> a");
    // One that is known takes its use along when it goes.
    cluster.remove_pod("p1");
    assert_eq!(cluster.load_of("b"), Some(Amount::new(500, 0)));
    // One that is young may yet come to use what it asked for.
    let young = PodUsage { used: Amount::new(200, 0), young: true };
    cluster.observe(&uses(&[("a", 300, 0), ("b", 500, 0)]), HashMap::from([("p0".into(), young)]));
    let pending = 85 * (800 + 1000 + 1000) / 100;
    assert_eq!(cluster.load_of("a").unwrap().milli_cpu, 300 + pending);
}

#[test]
fn peaks_forecasts_and_targets() {
    let usage = |last: i64, p95: i64, forecast: Option<i64>| NodeUsage {
        last: Amount::new(last, 0),
        sustained: None,
        peaks: [Amount::default(), Amount::default(), Amount::new(p95, 0), Amount::new(p95, 0)],
        forecast: forecast.map(|cpu| Amount::new(cpu, 0)),
    };
    let nodes = BTreeMap::from([
        ("a".to_owned(), usage(100, 2000, None)),
        ("b".to_owned(), usage(500, 500, None)),
        ("c".to_owned(), usage(0, 0, Some(3900))),
    ]);
    let sizes = [("a", "4"), ("b", "4"), ("c", "4")];
    let p = pod("p", "100m", json!({}));
    for (args, want) in [(json!({}), "-> a"), (json!({"usagePercentile": "p95"}), "-> b")] {
        let mut cluster = of(&sizes, args);
        cluster.observe(&nodes, HashMap::new());
        assert_eq!(why(&mut cluster, &p), want);
        assert!(!cluster.evaluate(&PodInfo::of(&p)).iter().any(|(name, _)| name == "c"), "it will be needed");
    }
    // Filled up to the target before others are begun.
    let mut cluster = of(&sizes, json!({"targetUtilization": 50, "resourceWeights": {"cpu": 1}}));
    cluster.observe(&uses(&[("a", 100, 0), ("b", 1500, 0), ("c", 2200, 0)]), HashMap::new());
    assert_eq!(why(&mut cluster, &p), "-> b");
}

#[test]
fn without_the_plugin_nothing_is_kept_and_without_a_measurement_requests_count() {
    let mut plain = super::cluster(&[node("a", "4", json!({}))]);
    assert!(!plain.reads_usage());
    assert_eq!(plain.observe(&uses(&[("a", 4000, 0)]), HashMap::new()), Hints::none());
    assert_eq!(why(&mut plain, &pod("p", "1", json!({}))), "-> a");
    let mut cluster = of(&[("a", "4"), ("b", "4")], json!({}));
    cluster.upsert_pod(&bound(pod("x", "1", json!({})), "x", "a"));
    assert_eq!(why(&mut cluster, &pod("p", "1", json!({}))), "-> b");
}

#[test]
fn mistakes_in_the_arguments_are_named() {
    let bad = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"pluginConfig": [{"name": "LoadAware", "args": {
            "usageThresholds": {"cpu": 101, "disk": 1}, "resourceWeights": {"memory": -1},
            "usagePercentile": "p42", "targetUtilization": 100}}]}],
    });
    let errors = Config::parse(bad).unwrap_err();
    for place in [
        "usageThresholds.cpu",
        "usageThresholds.disk",
        "resourceWeights.memory",
        "usagePercentile",
        "targetUtilization",
    ] {
        let path = format!("profiles[0].pluginConfig[0].args.{place}: ");
        assert!(errors.iter().any(|e| e.starts_with(&path)), "{path} is not among {errors:#?}");
    }
    assert_eq!(errors.len(), 5, "{errors:#?}");
}

/// The same straight from what is known: no columns, no deltas.
#[derive(Default)]
struct Slow {
    nodes: BTreeMap<String, i64>,
    pods: BTreeMap<String, (String, i64)>,
    /// What nodes used, with the pods that were there then and what they used.
    measured: BTreeMap<String, (i64, BTreeMap<String, i64>)>,
    uses: BTreeMap<String, i64>,
}

impl Slow {
    fn used(&self, node: &str) -> Option<i64> {
        let (mut used, then) = self.measured.get(node).cloned()?;
        let here = || self.pods.iter().filter(|(_, (on, _))| on == node);
        for (pod, of) in &then {
            if !here().any(|(name, _)| name == pod) {
                used -= of;
            }
        }
        let mut pending = 0;
        for (pod, (_, asked)) in here() {
            match self.uses.get(pod) {
                None => pending += asked,
                Some(of) if !then.contains_key(pod) => used += of,
                Some(_) => {}
            }
        }
        Some((used + pending * 85 / 100).max(0))
    }

    fn scores(&self, asked: i64) -> BTreeMap<String, i64> {
        let mut scores = BTreeMap::new();
        for (node, have) in &self.nodes {
            let promised: i64 = self.pods.values().filter(|(on, _)| on == node).map(|(_, asked)| asked).sum();
            let used = self.used(node);
            if used.is_some_and(|used| used * 100 > 65 * have) || promised + asked > *have {
                continue;
            }
            let used = used.unwrap_or(promised * 85 / 100) + asked * 85 / 100;
            scores.insert(node.clone(), if used > *have { 0 } else { (have - used) * 100 / have });
        }
        scores
    }
}

#[test]
fn random_steps_are_decided_as_the_reference_decides() {
    for seed in 1..=30_u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let args = json!({"usageThresholds": {"cpu": 65}, "resourceWeights": {"cpu": 1}});
        let (mut slow, mut cluster) = (Slow::default(), Cluster::with_profiles(vec![profile(args)]));
        for step in 0..150 {
            let name = format!("n{}", r.below(5));
            match r.below(10) {
                0 => {
                    // Another size each time would be a ripple for none of the amounts below.
                    slow.nodes.entry(name.clone()).or_insert(8000);
                    cluster.upsert_node(&node(&name, "8", json!({})));
                }
                1 if r.chance(20) => {
                    slow.nodes.remove(&name);
                    slow.measured.remove(&name);
                    cluster.remove_node(&name);
                }
                2..=4 => {
                    let uid = format!("p{}", r.below(15));
                    let asked = 100 * (1 + r.below(20)) as i64;
                    cluster.upsert_pod(&bound(pod(&uid, &format!("{asked}m"), json!({})), &uid, &name));
                    slow.pods.insert(uid, (name, asked));
                }
                5 => {
                    let uid = format!("p{}", r.below(15));
                    cluster.remove_pod(&uid);
                    slow.pods.remove(&uid);
                }
                6 => {
                    slow.uses = slow
                        .pods
                        .keys()
                        .filter(|_| r.chance(70))
                        .map(|pod| (pod.clone(), 100 * (pod.len() as i64 + i64::from(pod.as_bytes()[1]) % 5)))
                        .collect();
                    slow.measured.clear();
                    for node in slow.nodes.keys() {
                        if r.chance(20) {
                            continue;
                        }
                        let here = slow.pods.iter().filter(|(_, (on, _))| on == node);
                        let then: BTreeMap<String, i64> =
                            here.filter_map(|(pod, _)| Some((pod.clone(), *slow.uses.get(pod)?))).collect();
                        // Whatever else runs there uses something, too.
                        let all = then.values().sum::<i64>() + 100 * r.below(40) as i64;
                        slow.measured.insert(node.clone(), (all, then));
                    }
                    let nodes = slow
                        .measured
                        .iter()
                        .map(|(n, (used, _))| (n.clone(), NodeUsage::now(Amount::new(*used, 0))));
                    let pods = slow.uses.iter().map(|(p, used)| (p.as_str().into(), settled(*used, 0)));
                    cluster.observe(&nodes.collect(), pods.collect());
                }
                _ => {}
            }
            let asked = 100 * (1 + r.below(3)) as i64;
            let question = PodInfo::of(&pod("q", &format!("{asked}m"), json!({})));
            let got: BTreeMap<String, i64> = cluster.evaluate(&question).into_iter().collect();
            assert_eq!(got, slow.scores(asked), "seed {seed} step {step}");
            assert_eq!(cluster.would_fit(&question).is_ok(), !got.is_empty());
            if step % 20 == 0 {
                let uids: Vec<String> = slow.pods.keys().take(4).cloned().collect();
                cluster.attempt(|c| {
                    for uid in &uids {
                        c.remove_pod(uid);
                    }
                    c.assume(question.clone(), "n1");
                    ((), false)
                });
                let again: BTreeMap<String, i64> = cluster.evaluate(&question).into_iter().collect();
                assert_eq!(got, again, "tried out, seed {seed} step {step}");
            }
        }
    }
}
