//! Nodes that come, change and go under a DaemonSet.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

struct World {
    set: DaemonSet,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    hash: String,
    failures: Failures,
    now: Timestamp,
    made: u32,
    notices: Vec<String>,
    again_at: Option<Timestamp>,
}

fn node(name: &str, spec: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": spec}))
        .unwrap()
}

impl World {
    fn new(nodes: &[&str], strategy: Value) -> Self {
        let set = json!({"metadata": {"name": "d", "generation": 2}, "spec": {"selector": {}, "updateStrategy": strategy,
            "template": {"spec": {"containers": [], "nodeSelector": {"disk": "ssd"}}}}});
        Self {
            set: serde_json::from_value(set).unwrap(),
            nodes: nodes.iter().map(|name| node(name, json!({}))).collect(),
            pods: Vec::new(),
            hash: "v1".into(),
            failures: Failures::default(),
            now: NOW.parse().unwrap(),
            made: 0,
            notices: Vec::new(),
            again_at: None,
        }
    }

    fn rolling(nodes: &[&str], rolling: Value) -> Self {
        Self::new(nodes, json!({"type": "RollingUpdate", "rollingUpdate": rolling}))
    }

    fn make(&mut self, node: &str, hash: &str) -> &mut Pod {
        self.made += 1;
        let name = format!("{node}{}", self.made);
        let created = self.now.checked_add(SignedDuration::from_secs(self.made.into())).unwrap();
        let pod = json!({"metadata": {"name": name, "uid": name, "namespace": "ns", "labels": {REVISION: hash},
                "creationTimestamp": created.to_string()},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}});
        self.pods.push(serde_json::from_value(pod).unwrap());
        self.pods.last_mut().unwrap()
    }

    /// One step; what it did, in words.
    fn step(&mut self) -> String {
        let pods = self.pods.clone();
        let nodes = self.nodes.clone();
        let plan = plan(Input {
            set: &self.set,
            nodes: &nodes.iter().collect::<Vec<_>>(),
            owned: &pods.iter().collect::<Vec<_>>(),
            hash: &self.hash,
            settled: true,
            failures: std::mem::take(&mut self.failures),
            now: self.now,
        });
        let mut words = Vec::new();
        for pod in plan.delete {
            words.push(format!("-{}", pods::name(&pod.metadata)));
            self.pods.retain(|p| p.metadata.uid != pod.metadata.uid);
        }
        let hash = self.hash.clone();
        for node in plan.create {
            words.push(format!("+{node}"));
            self.make(&node, &hash);
        }
        self.failures = plan.failures;
        self.again_at = plan.again_at;
        self.notices.extend(plan.notices.into_iter().map(|n| n.reason.to_owned()));
        self.set.status = Some(plan.status);
        words.join(" ")
    }

    fn state(&mut self, pod: &str, phase: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        let pod = self.pods.iter_mut().find(|p| p.metadata.name.as_deref() == Some(pod)).unwrap();
        pod.status = serde_json::from_value(json!({"phase": phase,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": NOW}]}))
        .unwrap();
    }

    fn ready(&mut self) {
        let names: Vec<String> = self.pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        names.iter().for_each(|name| self.state(name, "Running", true));
    }

    fn history(&mut self, steps: usize) -> Vec<String> {
        let mut history = Vec::new();
        for _ in 0..steps {
            let words = self.step();
            self.ready();
            if !words.is_empty() {
                history.push(words);
            }
        }
        history
    }

    /// Desired, current, misscheduled, ready, updated, available, unavailable.
    fn status(&self) -> [i32; 7] {
        let s = self.set.status.as_ref().unwrap();
        let n = |n: Option<i32>| n.unwrap();
        [
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_misscheduled,
            s.number_ready,
            n(s.updated_number_scheduled),
            n(s.number_available),
            n(s.number_unavailable),
        ]
    }

    fn taint(&mut self, node: &str, taints: Value) {
        let node = self.nodes.iter_mut().find(|n| n.metadata.name.as_deref() == Some(node)).unwrap();
        node.spec = serde_json::from_value(json!({ "taints": taints })).unwrap();
    }
}

#[test]
fn one_on_each_node_that_fits() {
    let mut world = World::new(&["p", "t", "c", "w"], json!({}));
    world.taint("t", json!([{"key": "k", "effect": "NoExecute"}]));
    world.taint("c", json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]));
    world.make("t", "v1");
    world.make("w", "v1");
    world.make("w", "v1");
    world.ready();
    assert_eq!(world.step(), "-t1 -w3 +c +p");
    assert_eq!(world.status(), [3, 1, 1, 1, 1, 1, 2]);
    world.ready();
    assert_eq!(world.step(), "");
    assert_eq!(world.status(), [3, 3, 0, 3, 3, 3, 0]);
}

#[test]
fn what_may_stay_and_what_may_come() {
    let key = "node.kubernetes.io";
    let cases = [
        (json!([{"key": "k", "effect": "NoSchedule"}]), "", 1),
        (json!([{"key": "k", "effect": "PreferNoSchedule"}]), "", 0),
        (json!([{"key": "k", "effect": "NoExecute"}]), "-a1", 1),
        (json!([{"key": format!("{key}/not-ready"), "effect": "NoExecute"}]), "", 0),
        (json!([{"key": format!("{key}/unreachable"), "effect": "NoExecute"}]), "", 0),
        (json!([{"key": format!("{key}/unreachable"), "effect": "NoSchedule"}]), "", 1),
        (json!([{"key": format!("{key}/memory-pressure"), "effect": "NoSchedule"}]), "", 0),
        (json!([{"key": format!("{key}/network-unavailable"), "effect": "NoSchedule"}]), "", 1),
    ];
    for (taints, words, misscheduled) in cases {
        let mut world = World::new(&["a"], json!({}));
        world.history(2);
        world.taint("a", taints.clone());
        assert_eq!(world.step(), words, "{taints}");
        assert_eq!(world.status()[2], misscheduled, "{taints}");
    }
    // With the network of the host it does not wait for another one.
    let mut world = World::new(&["a"], json!({}));
    world.set.spec.template.spec.as_mut().unwrap().host_network = Some(true);
    world.taint("a", json!([{"key": format!("{key}/network-unavailable"), "effect": "NoSchedule"}]));
    assert_eq!(world.step(), "+a");
    // A node whose labels do not fit any more loses its pod.
    world.nodes[0].metadata.labels = None;
    assert_eq!(world.step(), "-a1");
    // A template may name its node.
    let mut world = World::new(&["a", "b"], json!({}));
    world.set.spec.template.spec.as_mut().unwrap().node_name = Some("b".into());
    assert_eq!(world.step(), "+b");
}

#[test]
fn nodes_come_and_go() {
    let mut world = World::new(&["a", "b"], json!({}));
    assert_eq!(world.step(), "+a +b");
    world.nodes.push(node("c", json!({})));
    assert_eq!(world.step(), "+c");
    // A bound pod of a node that is gone is the garbage collector's; one that was never bound is ours.
    world.nodes.remove(0);
    assert_eq!(world.step(), "");
    let spec = json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]}}}});
    world.make("gone", "v1").spec = serde_json::from_value(spec).unwrap();
    assert_eq!(world.step(), "-gone4");
    assert!(concerns(&world.set, &world.nodes[0], false) && !concerns(&world.set, &world.nodes[0], true));
}

#[test]
fn failed_pods_are_replaced_ever_more_slowly() {
    let mut world = World::new(&["a", "b"], json!({}));
    world.history(2);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let name = world.pods.iter().find(|p| target(p) == Some("a")).unwrap().metadata.name.clone().unwrap();
        world.state(&name, "Failed", false);
        let words = world.step();
        if words.is_empty() {
            let until = world.again_at.unwrap();
            waits.push(until.duration_since(world.now).as_secs());
            world.now = until;
            assert_eq!(world.step(), format!("-{name}"));
        }
        assert_eq!(world.step(), "+a");
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]);
    assert!(world.notices.iter().all(|reason| reason == "FailedDaemonPod"));
    // Another node has its own, a new template starts anew, and one that succeeded does not wait.
    world.state("b2", "Failed", false);
    assert_eq!(world.step(), "-b2");
    world.step();
    world.set.metadata.generation = Some(3);
    let name = world.pods.iter().find(|p| target(p) == Some("a")).unwrap().metadata.name.clone().unwrap();
    world.state(&name, "Failed", false);
    assert_eq!(world.step(), format!("-{name}"));
    world.step();
    let name = world.pods.last().unwrap().metadata.name.clone().unwrap();
    world.state(&name, "Succeeded", false);
    assert_eq!(world.step(), format!("-{name}"));
    assert_eq!(world.notices.last().unwrap(), "SucceededDaemonPod");
}

#[test]
fn rolls_within_max_unavailable() {
    let mut world = World::rolling(&["a", "b", "c"], json!({"maxUnavailable": 1}));
    world.history(3);
    world.hash = "v2".into();
    assert_eq!(world.history(8), ["-a1", "+a", "-b2", "+b", "-c3", "+c"]);
    // Those that are not available go at once, and leave no room for others.
    let mut world = World::rolling(&["a", "b", "c"], json!({"maxUnavailable": 1}));
    world.history(3);
    world.state("b2", "Running", false);
    world.state("c3", "Running", false);
    world.hash = "v2".into();
    assert_eq!(world.step(), "-b2 -c3");
    let mut world = World::rolling(&["a", "b", "c"], json!({"maxUnavailable": "50%"}));
    world.history(3);
    world.hash = "v2".into();
    assert_eq!(world.history(8), ["-a1 -b2", "+a +b", "-c3", "+c"]);
}

#[test]
fn a_node_that_is_down_does_not_stop_the_rollout_of_the_others() {
    let mut world = World::rolling(&["a", "b"], json!({"maxUnavailable": 1}));
    world.history(3);
    world.state("a1", "Running", false);
    world.hash = "v2".into();
    // Its kubelet never confirms the deletion.
    let now = world.now;
    world.pods[0].metadata.deletion_timestamp = Some(Time(now));
    assert_eq!(world.step(), "", "it is the one that may be missing");
    world.set.spec.update_strategy =
        serde_json::from_value(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}))
            .unwrap();
    assert_eq!(world.step(), "-b2");
}

#[test]
fn on_delete_leaves_updates_to_the_user() {
    let mut world = World::new(&["a", "b"], json!({"type": "OnDelete"}));
    world.history(3);
    world.hash = "v2".into();
    assert_eq!(world.step(), "");
    assert_eq!(world.status()[4], 0);
    world.pods.remove(0);
    assert_eq!(world.step(), "+a");
    assert_eq!(world.pods.last().unwrap().metadata.labels.as_ref().unwrap()[REVISION], "v2");
}

#[test]
fn surges_new_before_old() {
    let mut world = World::rolling(&["a", "b", "c"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    world.history(3);
    world.hash = "v2".into();
    assert_eq!(world.step(), "+a");
    assert_eq!(world.step(), "", "the new one is not available yet, the old one stays");
    assert_eq!(world.status()[3], 3);
    world.ready();
    assert_eq!(world.history(6), ["-a1", "+b", "-b2", "+c", "-c3"]);
    assert_eq!(world.status(), [3, 3, 0, 3, 3, 3, 0]);
}

#[test]
fn while_surging_an_old_pod_that_is_ill_is_replaced_at_once() {
    let mut world = World::rolling(&["a", "b", "c"], json!({"maxSurge": "34%", "maxUnavailable": 0}));
    world.history(3);
    world.hash = "v2".into();
    world.state("b2", "Running", false);
    assert_eq!(world.step(), "+b +a +c", "34% of 3 is 2, and one that is ill");
    world.state("a1", "Running", false);
    assert_eq!(world.step(), "-a1 -b2", "what is not ready is not worth keeping");
}

#[test]
fn while_surging_a_node_to_be_left_waits_for_the_others() {
    let mut world = World::rolling(&["a", "b"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    world.history(3);
    // The template changes so that a is not fit any more, and c is.
    world.nodes.push(node("c", json!({})));
    world.taint("a", json!([{"key": "k", "effect": "NoSchedule"}]));
    world.hash = "v2".into();
    assert_eq!(world.step(), "+c");
    assert_eq!(world.step(), "+b", "a's pod is still needed");
    world.state("c3", "Running", true);
    assert!(world.step().contains("-a1"));
}

#[test]
fn tolerations_are_not_doubled() {
    let mut spec: PodSpec = serde_json::from_value(json!({"containers": [], "tolerations": [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
        {"key": "mine", "value": "x"}]}))
    .unwrap();
    tolerate(&mut spec);
    let list = spec.tolerations.unwrap();
    assert_eq!(list.len(), 7);
    assert!(list.iter().all(|t| t.toleration_seconds.is_none()));
}
