//! Random clusters, random steps: the incremental answer is that of the slow reference, and that of a cluster
//! built anew.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::reference::Reference;
use crate::scheduler::{Cluster, PodInfo};

/// A small deterministic source of chance (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }
}

pub fn node(r: &mut Random, name: &str) -> Node {
    let mut labels = serde_json::Map::new();
    labels.insert("kubernetes.io/hostname".into(), name.into());
    if r.chance(85) {
        labels.insert("zone".into(), r.of(&["z1", "z2", "z3"]).into());
    }
    if r.chance(40) {
        labels.insert("rack".into(), format!("r{}", r.below(30)).into());
    }
    if r.chance(50) {
        labels.insert("disk".into(), r.of(&["ssd", "hdd"]).into());
    }
    let mut taints = Vec::new();
    if r.chance(20) {
        taints.push(
            json!({"key": "team", "value": r.of(&["a", "b"]), "effect": r.of(&["NoSchedule", "NoExecute"])}),
        );
    }
    for key in ["slow", "old"] {
        if r.chance(15) {
            taints.push(json!({"key": key, "effect": "PreferNoSchedule"}));
        }
    }
    let mut images = Vec::new();
    for (image, size) in [("a", 300_u64 << 20), ("b", 900 << 20), ("c", 10 << 20)] {
        if r.chance(40) {
            images.push(json!({"names": [format!("{image}:latest")], "sizeBytes": size}));
        }
    }
    let mut allocatable = json!({
        "cpu": format!("{}m", 500 + 500 * r.below(8)),
        "memory": format!("{}Mi", 256 * (1 + r.below(16))),
        "pods": (2 + r.below(12)).to_string(),
    });
    if r.chance(30) {
        allocatable["example.com/gpu"] = r.below(4).to_string().into();
    }
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"unschedulable": r.chance(7), "taints": taints},
        "status": {"allocatable": allocatable, "images": images},
    }))
    .unwrap()
}

fn selector(r: &mut Random) -> Value {
    match r.below(5) {
        0 => json!({"matchLabels": {"app": r.of(&["x", "y", "z"])}}),
        1 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]}),
        2 => json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
        3 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["z"]}]}),
        _ => json!({"matchLabels": {"app": "x", "tier": r.of(&["1", "2"])}}),
    }
}

fn term(r: &mut Random) -> Value {
    let mut term = json!({
        "topologyKey": r.of(&["kubernetes.io/hostname", "zone", "rack"]),
        "labelSelector": selector(r),
    });
    match r.below(5) {
        0 => term["namespaces"] = json!(["one", "two"]),
        1 => term["namespaceSelector"] = json!({"matchLabels": {"env": "prod"}}),
        2 => term["namespaceSelector"] = json!({}),
        _ => {}
    }
    term
}

fn list(r: &mut Random, percent: u64, make: impl Fn(&mut Random) -> Value) -> Value {
    let mut items = Vec::new();
    while items.len() < 2 && r.chance(percent) {
        items.push(make(r));
    }
    Value::Array(items)
}

fn weighted(r: &mut Random) -> Value {
    json!({"weight": 1 + r.below(100), "podAffinityTerm": term(r)})
}

fn spread(r: &mut Random) -> Value {
    let mut constraint = json!({
        "maxSkew": 1 + r.below(3),
        "topologyKey": r.of(&["kubernetes.io/hostname", "zone", "rack"]),
        "whenUnsatisfiable": r.of(&["DoNotSchedule", "ScheduleAnyway"]),
        "labelSelector": selector(r),
    });
    if constraint["whenUnsatisfiable"] == "DoNotSchedule" && r.chance(30) {
        constraint["minDomains"] = (1 + r.below(4)).into();
    }
    if r.chance(30) {
        constraint["nodeAffinityPolicy"] = r.of(&["Honor", "Ignore"]).into();
    }
    if r.chance(30) {
        constraint["nodeTaintsPolicy"] = r.of(&["Honor", "Ignore"]).into();
    }
    if r.chance(20) {
        constraint["matchLabelKeys"] = json!(["tier"]);
    }
    constraint
}

fn node_requirement(r: &mut Random) -> Value {
    match r.below(4) {
        0 => json!({"key": "disk", "operator": "In", "values": [r.of(&["ssd", "hdd", "tape"])]}),
        1 => json!({"key": "zone", "operator": "NotIn", "values": [r.of(&["z1", "z2"])]}),
        2 => json!({"key": "rack", "operator": r.of(&["Exists", "DoesNotExist"])}),
        _ => json!({"key": "zone", "operator": "Exists"}),
    }
}

fn affinity(r: &mut Random) -> Value {
    let mut affinity = json!({});
    if r.chance(25) {
        affinity["nodeAffinity"] = json!({
            "preferredDuringSchedulingIgnoredDuringExecution":
                list(r, 60, |r| json!({"weight": 1 + r.below(100), "preference": {"matchExpressions": [node_requirement(r)]}})),
        });
        if r.chance(50) {
            let terms = json!([{"matchExpressions": [node_requirement(r)]}, {"matchExpressions": [node_requirement(r)]}]);
            affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": terms});
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        if r.chance(25) {
            affinity[kind] = json!({
                "requiredDuringSchedulingIgnoredDuringExecution": list(r, 35, term),
                "preferredDuringSchedulingIgnoredDuringExecution": list(r, 50, weighted),
            });
        }
    }
    affinity
}

pub fn pod(r: &mut Random, name: &str) -> Pod {
    let mut labels = serde_json::Map::new();
    if r.chance(80) {
        labels.insert("app".into(), r.of(&["x", "y", "z"]).into());
    }
    if r.chance(40) {
        labels.insert("tier".into(), r.of(&["1", "2"]).into());
    }
    labels.insert("nobody-reads".into(), name.into());
    let mut requests = json!({});
    if r.chance(80) {
        requests["cpu"] = format!("{}m", 50 * r.below(12)).into();
    }
    if r.chance(80) {
        requests["memory"] = format!("{}Mi", 32 * r.below(10)).into();
    }
    if r.chance(10) {
        requests["example.com/gpu"] = "1".into();
    }
    let mut container =
        json!({"name": "c", "image": r.of(&["a", "b", "c", "d"]), "resources": {"requests": requests}});
    if r.chance(15) {
        container["ports"] =
            json!([{"containerPort": 1, "hostPort": 80 + r.below(2), "hostIP": r.of(&["", "127.0.0.1"])}]);
    }
    let mut spec = json!({"containers": [container], "affinity": affinity(r)});
    if r.chance(30) {
        spec["topologySpreadConstraints"] = list(r, 90, spread);
    }
    if r.chance(15) {
        spec["nodeSelector"] = json!({"disk": r.of(&["ssd", "hdd"])});
    }
    spec["tolerations"] = list(r, 30, |r| match r.below(4) {
        0 => json!({"key": "team", "operator": "Exists"}),
        1 => json!({"key": "team", "value": "a", "effect": "NoSchedule"}),
        2 => json!({"key": "slow", "operator": "Exists"}),
        _ => json!({"operator": "Exists"}),
    });
    let namespace = r.of(&["one", "two", "three"]);
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    }))
    .unwrap();
    let spec = pod.spec.as_mut().unwrap();
    if spec.topology_spread_constraints.as_ref().is_some_and(Vec::is_empty) {
        spec.topology_spread_constraints = None;
    }
    pod
}

/// Everything that the cluster can be asked about a pod.
fn answers(cluster: &mut Cluster, pod: &Pod) -> (BTreeMap<String, i64>, BTreeMap<String, usize>) {
    let info = PodInfo::of(pod);
    let scores: BTreeMap<String, i64> = cluster.evaluate(&info).into_iter().collect();
    assert_eq!(cluster.would_fit(&info).is_ok(), !scores.is_empty(), "both kinds of classes agree");
    let reasons = match cluster.schedule(&info, 1) {
        Ok(placement) => {
            let best = scores.values().max().copied();
            assert_eq!(scores.get(&placement.node).copied(), best, "not one of the best nodes");
            assert_eq!(placement.feasible, scores.len());
            BTreeMap::new()
        }
        Err(unplaced) => {
            unplaced.reasons.into_iter().map(|(text, count)| (text.into_owned(), count)).collect()
        }
    };
    (scores, reasons)
}

fn expected(reference: &Reference, pod: &Pod) -> (BTreeMap<String, i64>, BTreeMap<String, usize>) {
    let scores = reference.evaluate(pod);
    let mut reasons = BTreeMap::new();
    if scores.is_empty() {
        for name in reference.nodes.keys() {
            for reason in reference.against(pod, name) {
                *reasons.entry(reason).or_insert(0) += 1;
            }
        }
    }
    (scores, reasons)
}

fn rebuilt(reference: &Reference) -> Cluster {
    let mut cluster = Cluster::new();
    for (name, labels) in &reference.namespaces {
        cluster.set_namespace(name, Some(labels.clone()));
    }
    for pod in reference.pods.values().rev() {
        cluster.upsert_pod(pod);
    }
    for node in reference.nodes.values().rev() {
        cluster.upsert_node(node);
    }
    cluster
}

fn step(r: &mut Random, reference: &mut Reference, cluster: &mut Cluster, names: u64, count: u64) {
    let name = format!("n{}", r.below(names));
    match r.below(20) {
        0..=2 => {
            let node = node(r, &name);
            cluster.upsert_node(&node);
            reference.nodes.insert(name, node);
        }
        3 => {
            cluster.remove_node(&name);
            reference.nodes.remove(&name);
        }
        4 => {
            let namespace = r.of(&["one", "two", "three"]);
            let env = r.of(&["prod", "test"]);
            let labels: BTreeMap<String, String> = [("env".to_owned(), env.to_owned())].into();
            cluster.set_namespace(namespace, Some(labels.clone()));
            reference.namespaces.insert(namespace.to_owned(), labels);
        }
        5..=7 => {
            if let Some(uid) =
                reference.pods.keys().nth(r.below(1 + reference.pods.len() as u64) as usize).cloned()
            {
                cluster.remove_pod(&uid);
                reference.pods.remove(&uid);
            }
        }
        8 => {
            if let Some(pod) = reference.pods.values_mut().nth(r.below(7) as usize) {
                let now = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
                pod.metadata.deletion_timestamp = Some(now);
                let pod = pod.clone();
                cluster.upsert_pod(&pod);
            }
        }
        _ => {
            let uid = format!("p{}", r.below(count));
            let mut pod = pod(r, &uid);
            pod.spec.as_mut().unwrap().node_name = Some(name);
            cluster.upsert_pod(&pod);
            reference.pods.insert(uid, pod);
        }
    }
}

fn run(seed: u64, names: u64, count: u64, steps: usize) {
    let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut reference, mut cluster) = (Reference::default(), Cluster::new());
    // The same pods are asked about again and again, so that what is remembered is put to the test.
    let questions: Vec<Pod> = (0..6).map(|i| pod(&mut r, &format!("q{i}"))).collect();
    for at in 0..steps {
        step(&mut r, &mut reference, &mut cluster, names, count);
        if at % 3 > 0 {
            continue;
        }
        let question = &questions[r.below(questions.len() as u64) as usize];
        let got = answers(&mut cluster, question);
        assert_eq!(got, expected(&reference, question), "seed {seed} step {at}: {question:#?}");
        if at % 30 == 0 {
            assert_eq!(got, answers(&mut rebuilt(&reference), question), "rebuilt, seed {seed} step {at}");
            // Trying something out leaves no trace.
            let uids: Vec<String> = reference.pods.keys().take(5).cloned().collect();
            cluster.attempt(|c| {
                for uid in &uids {
                    c.remove_pod(uid);
                }
                c.assume(PodInfo::of(question), "n1");
                answers(c, question);
                ((), false)
            });
            assert_eq!(got, answers(&mut cluster, question), "tried out, seed {seed} step {at}");
        }
    }
}

#[test]
fn small_clusters_are_decided_as_the_reference_decides() {
    (1..=40).for_each(|seed| run(seed, 6, 20, 90));
}

#[test]
fn clusters_where_each_node_is_a_domain() {
    (1..=6).for_each(|seed| run(1000 + seed, 40, 120, 240));
}
