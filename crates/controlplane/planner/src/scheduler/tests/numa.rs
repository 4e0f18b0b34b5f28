//! Zones of nodes: who is left out, who is preferred, and what is known between two reports.

use serde_json::{Value, json};

use super::{bound, node, pod, why};
use crate::numa::NodeTopology;
use crate::random::Random;
use crate::scheduler::config::Config;
use crate::scheduler::{Cluster, Hints, PodInfo, Profile};

/// A node of two zones of four CPUs and 4 GiB each; of these so much is available.
fn zones(name: &str, policy: &str, scope: &str, cpus: [i64; 2], pods: Option<&str>) -> NodeTopology {
    let zone = |at: usize| {
        json!({"name": format!("node-{at}"), "type": "Node",
        "costs": [{"name": "node-0", "value": if at == 0 { 10 } else { 20 }}, {"name": "node-1", "value": if at == 1 { 10 } else { 20 }}],
        "resources": [
            {"name": "cpu", "capacity": "4", "allocatable": "4", "available": cpus[at].to_string()},
            {"name": "memory", "capacity": "4Gi", "allocatable": "4Gi", "available": "4Gi"},
            {"name": "example.com/nic", "capacity": "1", "allocatable": "1", "available": at.to_string()},
        ]})
    };
    let mut object = json!({
        "metadata": {"name": name},
        "zones": [zone(1), zone(0)],
        "attributes": [{"name": "topologyManagerPolicy", "value": policy}, {"name": "topologyManagerScope", "value": scope}],
    });
    if let Some(pods) = pods {
        object["metadata"]["annotations"] = json!({"sampan.io/pods": pods});
    }
    serde_json::from_value(object).unwrap()
}

fn large(name: &str) -> k8s_openapi::api::core::v1::Node {
    let more = json!({"status": {"allocatable": {"cpu": "8", "memory": "8Gi", "example.com/nic": "1"}}});
    node(name, "8", more)
}

/// Containers that ask for so many CPUs each, and get no more.
fn guaranteed(name: &str, cpus: &[&str]) -> k8s_openapi::api::core::v1::Pod {
    let container = |(at, cpu): (usize, &&str)| {
        let amounts = json!({"cpu": cpu, "memory": "100Mi"});
        json!({"name": format!("c{at}"), "image": "busybox", "resources": {"limits": amounts, "requests": amounts}})
    };
    let containers: Vec<Value> = cpus.iter().enumerate().map(container).collect();
    pod(name, "1", json!({"spec": {"containers": containers}}))
}

fn one(policy: &str, scope: &str, cpus: [i64; 2]) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.set_topology("a", Some(&zones("a", policy, scope, cpus, Some(""))));
    cluster.upsert_node(&large("a"));
    cluster
}

#[test]
fn a_node_that_would_refuse_the_pod_is_left_out() {
    let container = "0/1 nodes are available: 1 cannot align container.";
    let whole = "0/1 nodes are available: 1 cannot align pod.";
    for (policy, scope, left, cpus, want) in [
        ("single-numa-node", "container", [4, 4], &["5"][..], container),
        ("single-numa-node", "container", [4, 4], &["4", "4"], "-> a"),
        ("single-numa-node", "container", [3, 3], &["2", "2", "2"], container),
        ("single-numa-node", "pod", [4, 4], &["2", "3"], whole),
        ("single-numa-node", "pod", [4, 4], &["2", "2"], "-> a"),
        ("restricted", "container", [3, 3], &["4"], container),
        // Memory would fit into one zone, so that CPUs of two are not what is best for both.
        ("restricted", "container", [4, 4], &["5"], container),
        ("best-effort", "container", [3, 3], &["4"], "-> a"),
        ("none", "container", [0, 0], &["4"], "-> a"),
        ("single-numa-node", "container", [0, 4], &["1500m"], "-> a"),
        ("single-numa-node", "container", [1, 1], &["1500m"], container),
    ] {
        let mut cluster = one(policy, scope, left);
        assert_eq!(why(&mut cluster, &guaranteed("p", cpus)), want, "{policy} {scope} {left:?} {cpus:?}");
        assert_eq!(why(&mut cluster, &pod("q", "5", json!({}))), "-> a", "it is not Guaranteed");
    }
    // A device of a zone counts for everybody, and has to be near the CPUs of who has these alone.
    let mut cluster = one("single-numa-node", "container", [4, 4]);
    let nic = |name: &str, cpus: &str| {
        let mut pod = guaranteed(name, &[cpus]);
        let resources = pod.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap();
        let one = k8s_openapi::apimachinery::pkg::api::resource::Quantity("1".to_owned());
        for list in [&mut resources.limits, &mut resources.requests] {
            list.as_mut().unwrap().insert("example.com/nic".to_owned(), one.clone());
        }
        pod
    };
    assert_eq!(why(&mut cluster, &nic("p", "4")), "-> a");
    cluster.set_topology("a", Some(&zones("a", "single-numa-node", "container", [4, 3], Some(""))));
    assert_eq!(why(&mut cluster, &nic("p", "4")), container);
}

#[test]
fn nobody_is_preempted_where_the_pod_would_be_refused_and_a_report_wakes_it() {
    let mut cluster = one("single-numa-node", "pod", [2, 2]);
    cluster.upsert_pod(&bound(pod("small", "1", json!({})), "small", "a"));
    let waits = super::with_priority(guaranteed("p", &["3"]), 1000);
    let info = PodInfo::of(&waits);
    assert!(cluster.preempt(&info, 1, None).unwrap_err().contains("not helpful"));
    assert!(cluster.would_fit(&info).unwrap_err().intersects(Hints::NODE_TOPOLOGY));
    // Nor where there is too little room as well, when nobody who could leave has any part of a zone.
    cluster.upsert_pod(&bound(pod("large", "6", json!({})), "large", "a"));
    assert!(cluster.preempt(&info, 1, None).unwrap_err().contains("cannot align pod"));
    cluster.remove_pod("large");
    let told = cluster.explain(&info, None);
    assert_eq!(told.refusals[0].reason, "cannot align pod");
    assert!(told.refusals[0].remedy.contains("TopologyAffinityError"), "{told:?}");
    let hints = cluster.set_topology("a", Some(&zones("a", "single-numa-node", "pod", [3, 0], Some(""))));
    assert!(hints.intersects(Hints::NODE_TOPOLOGY));
    assert_eq!(cluster.would_fit(&info), Ok(()));
    let same = cluster.set_topology("a", Some(&zones("a", "single-numa-node", "pod", [3, 0], Some(""))));
    assert_eq!(same, Hints::none(), "nothing changed");
    cluster.set_topology("a", None);
    assert!(cluster.world.zones.is_none(), "nothing is kept for nobody");
}

#[test]
fn what_was_placed_counts_until_the_node_says_so() {
    let mut cluster = one("single-numa-node", "container", [4, 4]);
    let place = |cluster: &mut Cluster, name: &str| {
        let info = PodInfo::of(&guaranteed(name, &["3"]));
        let placed = cluster.schedule(&info, 1).map(|placement| placement.node);
        if let Ok(node) = &placed {
            cluster.assume(info, node);
        }
        placed.is_ok()
    };
    assert!(place(&mut cluster, "x") && place(&mut cluster, "y"));
    assert_eq!(cluster.left_in_zones("a")["cpu"], [1000, 1000]);
    assert!(!place(&mut cluster, "z"), "two CPUs are left, but not together");
    // One is reported, the other one not yet.
    cluster.set_topology("a", Some(&zones("a", "single-numa-node", "container", [4, 1], Some("x"))));
    assert_eq!(cluster.left_in_zones("a")["cpu"], [1000, 1000]);
    cluster.remove_pod("y");
    assert_eq!(cluster.left_in_zones("a")["cpu"], [4000, 1000]);
    // A node that does not name them has counted those that were there.
    cluster.set_topology("a", Some(&zones("a", "single-numa-node", "container", [4, 1], None)));
    assert!(place(&mut cluster, "y"));
    assert_eq!(cluster.left_in_zones("a")["cpu"], [1000, 1000]);
}

/// Scores by zones alone.
fn scoring(strategy: &str) -> Profile {
    let file = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{
            "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourceTopologyMatch"}]}},
            "pluginConfig": [{"name": "NodeResourceTopologyMatch", "args": {
                "scoringStrategy": {"type": strategy, "resources": [{"name": "cpu", "weight": 1}]}}}],
        }],
    });
    Config::parse(file).unwrap().profiles.remove(0)
}

#[test]
fn nodes_are_scored_by_the_zones_that_would_do() {
    let scores = |strategy: &str, cpus: &[&str], of: [(&str, [i64; 2]); 2]| {
        let mut cluster = Cluster::with_profiles(vec![scoring(strategy)]);
        for (name, (policy, left)) in ["a", "b"].into_iter().zip(of) {
            cluster.upsert_node(&large(name));
            cluster.set_topology(name, Some(&zones(name, policy, "container", left, Some(""))));
        }
        cluster.upsert_node(&large("c"));
        let mut found = cluster.evaluate(&PodInfo::of(&guaranteed("p", cpus)));
        found.sort();
        found.into_iter().map(|(name, score)| format!("{name} {score}")).collect::<Vec<_>>().join(", ")
    };
    let single = [("single-numa-node", [4, 4]), ("single-numa-node", [0, 2])];
    // Of CPUs half of 4 or all of 2 are left, of memory 97 of 100: 4 GiB less 100 MiB.
    assert_eq!(scores("LeastAllocated", &["2"], single), "a 73, b 48, c 0");
    assert_eq!(scores("MostAllocated", &["2"], single), "a 26, b 51, c 0");
    assert_eq!(scores("LeastAllocated", &["2"], [("restricted", [4, 4]), single[1]]), "a 0, b 48, c 0");
    let fewest = [("best-effort", [1, 1]), ("best-effort", [0, 2])];
    assert_eq!(scores("LeastNUMANodes", &["2"], fewest), "a 82, b 94, c 0");
    assert_eq!(scores("LeastNUMANodes", &["1", "1"], fewest), "a 94, b 94, c 0");
}

#[test]
fn bad_arguments_are_named() {
    let file = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"pluginConfig": [{"name": "NodeResourceTopologyMatch", "args": {
            "scoringStrategy": {"type": "Best"}}}]}],
    });
    let errors = Config::parse(file).unwrap_err();
    assert!(
        errors[0].starts_with("profiles[0].pluginConfig[0].args.scoringStrategy.type: unknown strategy"),
        "{errors:?}"
    );
}

/// After any events, what is known equals what one would know who learned it all now, and each node that is said to fit lets
/// the pod in by its own rules.
#[test]
fn what_is_known_is_what_a_fresh_look_gives() {
    let mut random = Random::new(3);
    let names = ["a", "b", "c"];
    let policies = ["single-numa-node", "restricted", "best-effort", "none"];
    let sizes: [&[&str]; 6] = [&["1"], &["2"], &["3", "1"], &["2", "2", "1"], &["500m"], &["5"]];
    let mut cluster = Cluster::new();
    let mut said: std::collections::BTreeMap<&str, NodeTopology> = std::collections::BTreeMap::new();
    let mut pods: Vec<k8s_openapi::api::core::v1::Pod> = Vec::new();
    for name in names {
        cluster.upsert_node(&large(name));
    }
    for step in 0..600 {
        let name = names[random.below(3)];
        match random.below(5) {
            0 => {
                let on = pods.iter().filter(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some(name));
                let counted: Vec<&str> =
                    on.filter(|_| step % 3 > 0).map(|p| p.metadata.uid.as_deref().unwrap()).collect();
                let policy = policies[random.below(4)];
                let scope = ["container", "pod"][random.below(2)];
                let left = [random.below(5) as i64, random.below(5) as i64];
                let topology = zones(name, policy, scope, left, Some(&counted.join(",")));
                cluster.set_topology(name, Some(&topology));
                said.insert(name, topology);
            }
            1 if !pods.is_empty() => {
                let gone = pods.swap_remove(random.below(pods.len()));
                cluster.remove_pod(gone.metadata.uid.as_deref().unwrap());
            }
            2 => {
                cluster.set_topology(name, None);
                said.remove(name);
            }
            _ => {
                let new = guaranteed(&format!("p{step}"), sizes[random.below(6)]);
                if let Ok(placement) = cluster.schedule(&PodInfo::of(&new), step) {
                    let new = bound(new, &format!("p{step}"), &placement.node);
                    cluster.upsert_pod(&new);
                    pods.push(new);
                }
            }
        }
        let mut fresh = Cluster::new();
        for (name, topology) in &said {
            fresh.set_topology(name, Some(topology));
        }
        for pod in pods.iter().rev() {
            fresh.upsert_pod(pod);
        }
        for name in names {
            fresh.upsert_node(&large(name));
            assert_eq!(cluster.left_in_zones(name), fresh.left_in_zones(name), "step {step}");
        }
        let asked = PodInfo::of(&guaranteed("asks", sizes[random.below(6)]));
        let sorted = |mut scored: Vec<(String, i64)>| {
            scored.sort();
            scored
        };
        assert_eq!(sorted(cluster.evaluate(&asked)), sorted(fresh.evaluate(&asked)), "step {step}");
        assert_eq!(cluster.would_fit(&asked), fresh.would_fit(&asked), "step {step}");
    }
}
