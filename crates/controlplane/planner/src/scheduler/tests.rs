//! Tables of upstream's behaviour, and properties over random clusters.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::*;

mod differential;
mod liveness;
mod load;
mod numa;
mod preemption;
mod reference;
mod seats;
mod tenancy;
mod upkeep;

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

fn why(cluster: &mut Cluster, pod: &Pod) -> String {
    match cluster.schedule(&PodInfo::of(pod), 1) {
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
        why(&mut cluster(&nodes), &pod("p", "2", json!({}))),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s)."
    );
    assert_eq!(why(&mut Cluster::new(), &pod("p", "2", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn each_filter_in_its_words() {
    let zone = json!({"metadata": {"labels": {"zone": "z1"}}});
    let mut base = cluster(&[node("a", "2", zone)]);
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
        assert_eq!(why(&mut base, &pod("p", "1", spec.clone())), want, "{spec}");
    }
}

#[test]
fn cordon_and_full_nodes() {
    let cordoned = node("a", "2", json!({"spec": {"unschedulable": true}}));
    let full = node("b", "2", json!({"status": {"allocatable": {"pods": "0"}}}));
    let mut cluster = cluster(&[cordoned, full]);
    assert_eq!(
        why(&mut cluster, &pod("p", "1", json!({}))),
        "0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable."
    );
    let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    assert_eq!(why(&mut cluster, &pod("p", "1", tolerant)), "-> a");
}

#[test]
fn host_ports_clash_on_wildcards() {
    let port = |ip: &str| json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}});
    let mut cluster = cluster(&[node("a", "2", json!({}))]);
    cluster.upsert_pod(&bound(pod("x", "0", port("127.0.0.1")), "x", "a"));
    assert_eq!(why(&mut cluster, &pod("p", "0", port("127.0.0.2"))), "-> a");
    let text = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(why(&mut cluster, &pod("p", "0", port(""))), text);
    cluster.remove_pod("x");
    assert_eq!(why(&mut cluster, &pod("p", "0", port(""))), "-> a");
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
    assert!(
        why(&mut cluster, &near).starts_with("->"),
        "the first of a group that wants itself may go anywhere"
    );
    cluster.upsert_pod(&bound(pod("x", "0", json!({})), "x", "b"));
    assert_eq!(why(&mut cluster, &near), "-> b");

    let apart = pod("p", "0", pod_affinity("podAntiAffinity"));
    assert_eq!(why(&mut cluster, &apart), "-> a");
    cluster.upsert_pod(&bound(apart.clone(), "y", "a"));
    assert_eq!(
        why(&mut cluster, &apart),
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    );
    cluster.upsert_node(&node("b", "2", json!({"spec": {"unschedulable": true}})));
    assert_eq!(
        why(&mut cluster, &pod("q", "0", json!({}))),
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
    assert_eq!(why(&mut cluster, &spread), "-> b");
    cluster.upsert_node(&node(
        "b",
        "9",
        json!({"metadata": {"labels": {"zone": "2"}}, "spec": {"unschedulable": true}}),
    ));
    assert_eq!(
        why(&mut cluster, &spread),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match \
         pod topology spread constraints (missing required label), 1 node(s) were unschedulable."
    );
}

#[test]
fn scores_prefer_free_nodes_and_say_so_with_any_seed() {
    let mut cluster = cluster(&[node("a", "2", json!({})), node("b", "2", json!({}))]);
    cluster.upsert_pod(&bound(pod("x", "1", json!({})), "x", "a"));
    for seed in 0..20 {
        let placement = cluster.schedule(&PodInfo::of(&pod("p", "100m", json!({}))), seed).unwrap();
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
    assert_eq!(why(&mut cluster(&nodes), &pod("p", "1", prefers)), "-> c");
    for seed in 0..20 {
        let placement = cluster(&nodes[..2]).schedule(&PodInfo::of(&pod("p", "1", json!({}))), seed).unwrap();
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
        let placement = cluster.schedule(&PodInfo::of(&replica), i.into()).unwrap();
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
    let unplaced = cluster.schedule(&PodInfo::of(&pod("p", "1", json!({}))), 0).unwrap_err();
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
            let info = PodInfo::of(&replica);
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
    assert!(names.iter().all(|n| cluster.node(n).unwrap().used() == Resources::default()));
}

#[test]
fn an_explanation_names_the_closest_node_and_what_it_lacks() {
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let mut cluster = cluster(&[node("a", "2", json!({})), node("b", "4", json!({})), node("c", "9", taint)]);
    cluster.upsert_pod(&bound(pod("x", "1500m", json!({})), "x", "b"));
    let explanation = cluster.explain(&PodInfo::of(&pod("p", "3", json!({}))), None);
    assert_eq!((explanation.nodes, explanation.feasible), (3, 0));
    let reasons: Vec<(&str, usize)> =
        explanation.refusals.iter().map(|r| (r.reason.as_str(), r.count)).collect();
    assert_eq!(reasons, [("Insufficient cpu", 2), ("node(s) had untolerated taint(s)", 1)]);
    let closest = explanation.closest.unwrap();
    assert_eq!(closest.node, "b");
    assert_eq!(closest.lacks[0].words(), "cpu: asks 3000m, 2500m free of 4000m");
    let fitting = cluster.explain(&PodInfo::of(&pod("p", "1", json!({}))), None);
    assert_eq!(fitting.feasible, 2);
    assert_eq!(fitting.fitting[0].node, "a");
}

fn with_priority(mut pod: Pod, priority: i32) -> Pod {
    pod.spec.as_mut().unwrap().priority = Some(priority);
    pod
}

fn preempts(cluster: &mut Cluster, pod: &Pod) -> Result<(String, Vec<String>), String> {
    let plan = cluster.preempt(&PodInfo::of(pod), 1, None)?;
    Ok((plan.node, plan.victims.iter().map(|v| v.uid().to_owned()).collect()))
}

#[test]
fn preemption_takes_the_fewest_and_least_important() {
    let nodes: Vec<Node> = ["a", "b", "c", "d"].iter().map(|n| node(n, "2", json!({}))).collect();
    let mut cluster = cluster(&nodes);
    let mut put = |name: &str, cpu: &str, priority: i32, node: &str, started: &str| {
        let status = json!({"status": {"startTime": started}});
        cluster.upsert_pod(&with_priority(bound(pod(name, cpu, status), name, node), priority));
    };
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    put("a1", "2", 5, "a", early);
    put("b1", "1", 1, "b", early);
    put("b2", "1", 1, "b", early);
    put("c1", "1", 1, "c", early);
    put("c2", "1", 0, "c", early);
    put("d1", "1", 1, "d", late);
    put("d2", "1", 0, "d", early);
    // One CPU: c and d lose a pod of priority 0 each; both have run equally long, so the first node it is.
    let one = with_priority(pod("p", "1", json!({})), 9);
    assert_eq!(preempts(&mut cluster, &one), Ok(("c".into(), vec!["c2".into()])));
    // Two: the sums are the same on c and d, but d's most important victim started later.
    let two = with_priority(pod("p", "2", json!({})), 9);
    assert_eq!(preempts(&mut cluster, &two), Ok(("d".into(), vec!["d1".into(), "d2".into()])));
    let equal = with_priority(pod("p", "2", json!({})), 0);
    let none = "0/4 nodes are available: 4 No preemption victims found for incoming pod.";
    assert_eq!(preempts(&mut cluster, &equal), Err(none.into()));
    let huge = with_priority(pod("p", "3", json!({})), 9);
    let hopeless = "0/4 nodes are available: 4 Preemption is not helpful for scheduling.";
    assert_eq!(preempts(&mut cluster, &huge), Err(hopeless.into()));
    let never = with_priority(pod("p", "2", json!({"spec": {"preemptionPolicy": "Never"}})), 9);
    assert_eq!(preempts(&mut cluster, &never), Err("not eligible due to preemptionPolicy=Never.".into()));
}

#[test]
fn preemption_spares_what_budgets_protect_when_it_can() {
    let mut cluster = cluster(&[node("a", "2", json!({})), node("b", "2", json!({}))]);
    let guarded = json!({"metadata": {"labels": {"app": "guarded"}}});
    for (name, node, extra) in [("a1", "a", guarded.clone()), ("b1", "b", json!({}))] {
        let priority = if node == "a" { 0 } else { 3 };
        cluster.upsert_pod(&with_priority(bound(pod(name, "2", extra), name, node), priority));
    }
    let labels = crate::selector::Labels::from([("app".to_owned(), "guarded".to_owned())]);
    let budget = |allowed| Budget {
        namespace: "default".into(),
        selector: crate::selector::Selector::from_map(Some(&labels)),
        allowed,
        disrupted: Default::default(),
    };
    let wants = with_priority(pod("p", "1", json!({})), 9);
    cluster.set_budget("default", "b", Some(budget(1)));
    assert_eq!(preempts(&mut cluster, &wants), Ok(("a".into(), vec!["a1".into()])), "the budget allows one");
    cluster.set_budget("default", "b", Some(budget(0)));
    assert_eq!(
        preempts(&mut cluster, &wants),
        Ok(("b".into(), vec!["b1".into()])),
        "even though b1 matters more"
    );
    cluster.remove_pod("b1");
    cluster.upsert_node(&node("b", "2", json!({"spec": {"unschedulable": true}})));
    let plan = cluster.preempt(&PodInfo::of(&wants), 1, None).unwrap();
    assert_eq!((plan.node.as_str(), plan.violations), ("a", 1), "a budget is no wall");
}

#[test]
fn room_is_kept_for_who_made_others_leave() {
    let mut cluster = cluster(&[node("a", "2", json!({}))]);
    let high = PodInfo::of(&with_priority(pod("high", "2", json!({})), 9));
    cluster.nominate(&high, "a");
    let text = "0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(why(&mut cluster, &with_priority(pod("low", "1", json!({})), 0)), text);
    assert_eq!(why(&mut cluster, &with_priority(pod("higher", "1", json!({})), 10)), "-> a");
    let placement = cluster.schedule(&high, 1).unwrap();
    assert_eq!(placement.node, "a");
    assert_eq!(cluster.nominated_node("high"), Some("a"), "kept until it is placed");
    cluster.assume_placed(high, &placement);
    assert_eq!(cluster.nominated_node("high"), None);
    cluster.remove_pod("high");
    assert_eq!(why(&mut cluster, &with_priority(pod("low", "1", json!({})), 0)), "-> a");
}

#[test]
fn preemption_where_neighbours_matter_removes_those_in_the_way() {
    let mut cluster = cluster(&[node("a", "4", json!({})), node("b", "4", json!({}))]);
    let apart = pod("x", "1", pod_affinity("podAntiAffinity"));
    cluster.upsert_pod(&with_priority(bound(apart.clone(), "x", "a"), 1));
    cluster.upsert_pod(&with_priority(bound(apart.clone(), "y", "b"), 0));
    cluster.upsert_pod(&with_priority(
        bound(pod("z", "1", json!({"metadata": {"labels": {"app": "z"}}})), "z", "b"),
        0,
    ));
    let wants = with_priority(apart, 9);
    assert_eq!(preempts(&mut cluster, &wants), Ok(("b".into(), vec!["y".into()])), "z may stay");
    assert_eq!(cluster.pod_count(), 3, "nothing was really removed");
}

#[test]
fn a_gang_is_placed_whole_or_not_at_all() {
    let member = |name: &str| {
        let extra = json!({"metadata": {"labels": {"sampan.io/pod-group": "g"}, "annotations": {"sampan.io/pod-group-min": "3"}}});
        std::sync::Arc::new(PodInfo::of(&pod(name, "1", extra)))
    };
    let mut cluster = cluster(&[node("a", "1", json!({})), node("b", "1", json!({}))]);
    let members = [member("1"), member("2"), member("3")];
    let group = members[0].group().unwrap().clone();
    assert!(cluster.schedule_gang(&group, &members, 1).is_err());
    assert_eq!((cluster.pod_count(), cluster.placed_of(&group)), (0, 0), "nothing is held meanwhile");
    cluster.upsert_node(&node("c", "1", json!({})));
    let placed = cluster.schedule_gang(&group, &members, 1).unwrap();
    assert_eq!((placed.iter().flatten().count(), cluster.placed_of(&group)), (3, 3));
    // One dies: its successor alone makes the gang whole again.
    cluster.remove_pod("2");
    assert!(cluster.schedule_gang(&group, &[member("4")], 1).is_ok());
    // Members beyond those that are needed may wait.
    assert_eq!(cluster.schedule_gang(&group, &[member("5")], 1), Ok(vec![None]));
}

#[test]
fn gpus_are_shared_by_thousandths_and_whole_ones_kept_together() {
    let gpus = json!({"status": {"allocatable": {"sampan.io/gpu": "2"}}});
    let mut cluster = cluster(&[node("a", "8", gpus)]);
    let wants = |name: &str, resource: &str, amount: &str| {
        let spec =
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {resource: amount}}}]}});
        PodInfo::of(&pod(name, "0", spec))
    };
    let mut place = |pod: PodInfo| {
        let placement = cluster.schedule(&pod, 1).map_err(|e| e.to_string())?;
        cluster.assume_placed(pod, &placement);
        Ok::<_, String>(placement.devices)
    };
    assert_eq!(place(wants("p1", "sampan.io/gpu-milli", "300")), Ok(vec![0]));
    assert_eq!(place(wants("p2", "sampan.io/gpu-milli", "700")), Ok(vec![0]), "the fuller one that fits");
    assert_eq!(place(wants("p3", "sampan.io/gpu", "1")), Ok(vec![1]));
    let text = "0/1 nodes are available: 1 Insufficient sampan.io/gpu-milli.";
    assert_eq!(place(wants("p4", "sampan.io/gpu-milli", "1")), Err(text.into()));
    cluster.remove_pod("p2");
    let placement = cluster.schedule(&wants("p5", "sampan.io/gpu-milli", "600"), 1).unwrap();
    assert_eq!(placement.devices, [0]);
    let text = cluster.schedule(&wants("p6", "sampan.io/gpu", "1"), 1).unwrap_err().to_string();
    assert_eq!(text, "0/1 nodes are available: 1 Insufficient sampan.io/gpu.");
}
