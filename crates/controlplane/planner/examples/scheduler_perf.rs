//! The scheduler's decisions on the workloads of Kubernetes' scheduler_perf, without an API server.
//!
//! `cargo run --release -p sampan-planner --example scheduler_perf -- [--nodes 100,1000,5000,15000] [--only NAME]`
//!
//! Each row binds pods one by one: reading the API object, deciding, and counting the pod on its node are all timed.
//! Prints a table and, with `--json`, one JSON line per row. CPU is that of this process's only thread.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use sampan_planner::scheduler::{Cluster, PodInfo};
use serde_json::{Value, json};

struct Row {
    name: &'static str,
    /// Pods already there when the clock starts.
    before: fn(usize) -> Vec<Value>,
    /// How many pods are placed while the clock runs.
    measured: usize,
    template: fn(usize) -> Value,
    /// Whether pods that fit nowhere are expected.
    may_fail: bool,
    /// Whether a bound pod goes for every one that comes.
    churn: bool,
    preempt: bool,
}

fn base(index: usize, labels: &Value) -> Value {
    json!({
        "metadata": {"name": format!("pod-{index}"), "uid": format!("uid-{index}"), "namespace": "sched-0",
            "labels": labels},
        "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.1",
            "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "100m", "memory": "500Mi"}, "requests": {"cpu": "100m", "memory": "500Mi"}}}]},
    })
}

fn basic(index: usize) -> Value {
    base(index, &json!({}))
}

fn term(key: &str, color: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key, "namespaces": ["sched-1", "sched-0"]})
}

fn affinity(index: usize) -> Value {
    let mut pod = base(index, &json!({"color": "blue"}));
    pod["spec"]["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [term("topology.kubernetes.io/zone", "blue")]}});
    pod
}

fn anti_affinity(index: usize) -> Value {
    let mut pod = base(index, &json!({"color": "green"}));
    pod["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [term("kubernetes.io/hostname", "green")]}});
    pod
}

fn preferred(kind: &str, index: usize, color: &str) -> Value {
    let mut pod = base(index, &json!({"color": color}));
    pod["spec"]["affinity"] = json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 1, "podAffinityTerm": term("kubernetes.io/hostname", color)}]}});
    pod
}

fn spreading(when: &str, index: usize) -> Value {
    let mut pod = base(index, &json!({"color": "blue"}));
    pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"color": "blue"}}}]);
    pod
}

fn node_affinity(index: usize) -> Value {
    let mut pod = base(index, &json!({}));
    pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In",
            "values": ["zone1", "zone2"]}]}]}}});
    pod
}

fn daemon(index: usize) -> Value {
    let mut pod = base(index, &json!({}));
    pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In",
            "values": [format!("node-{}", index % 5000)]}]}]}}});
    pod
}

fn large(index: usize) -> Value {
    let mut pod = base(index, &json!({}));
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "9".into();
    pod
}

fn mixed(index: usize) -> Value {
    match index % 5 {
        0 => basic(index),
        1 => affinity(index),
        2 => anti_affinity(index),
        3 => preferred("podAffinity", index, "red"),
        _ => preferred("podAntiAffinity", index, "yellow"),
    }
}

fn low_priority(index: usize) -> Value {
    let mut pod = base(index, &json!({}));
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "900m".into();
    pod["spec"]["priority"] = 0.into();
    pod
}

fn high_priority(index: usize) -> Value {
    let mut pod = base(index, &json!({}));
    pod["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "3", "memory": "500Mi"});
    pod["spec"]["priority"] = 10.into();
    pod
}

fn none(_: usize) -> Vec<Value> {
    Vec::new()
}

fn rows() -> Vec<Row> {
    let row = |name, before, measured, template| Row {
        name,
        before,
        measured,
        template,
        may_fail: false,
        churn: false,
        preempt: false,
    };
    vec![
        row("SchedulingBasic/10k", |_| (0..1000).map(|i| basic(1_000_000 + i)).collect(), 10_000, basic),
        row("SchedulingBasic/50k", |_| (0..5000).map(|i| basic(1_000_000 + i)).collect(), 50_000, basic),
        row(
            "SchedulingPodAffinity",
            |_| (0..5000).map(|i| affinity(1_000_000 + i)).collect(),
            5000,
            affinity,
        ),
        Row {
            may_fail: true,
            ..row(
                "SchedulingPodAntiAffinity",
                |nodes| (0..nodes / 5).map(|i| anti_affinity(1_000_000 + i)).collect(),
                5000,
                anti_affinity,
            )
        },
        row(
            "SchedulingPreferredPodAffinity",
            |_| (0..5000).map(|i| preferred("podAffinity", 1_000_000 + i, "red")).collect(),
            5000,
            |i| preferred("podAffinity", i, "red"),
        ),
        row(
            "SchedulingPreferredPodAntiAffinity",
            |_| (0..5000).map(|i| preferred("podAntiAffinity", 1_000_000 + i, "yellow")).collect(),
            5000,
            |i| preferred("podAntiAffinity", i, "yellow"),
        ),
        row(
            "TopologySpreading",
            |_| (0..5000).map(|i| basic(1_000_000 + i)).collect(),
            10_000,
            |i| spreading("DoNotSchedule", i),
        ),
        row(
            "PreferredTopologySpreading",
            |_| (0..5000).map(|i| basic(1_000_000 + i)).collect(),
            10_000,
            |i| spreading("ScheduleAnyway", i),
        ),
        row("SchedulingNodeAffinity", none, 10_000, node_affinity),
        row("SchedulingDaemonset", none, 15_000, daemon),
        Row {
            may_fail: true,
            ..row("Unschedulable", none, 10_000, |i| if i % 2 == 0 { large(i) } else { basic(i) })
        },
        Row {
            churn: true,
            ..row(
                "SchedulingWithMixedChurn",
                |_| (0..2000).map(|i| mixed(1_000_000 + i)).collect(),
                10_000,
                mixed,
            )
        },
        Row { may_fail: true, preempt: true, ..row("PreemptionBasic", preemption_load, 5000, high_priority) },
    ]
}

fn preemption_load(nodes: usize) -> Vec<Value> {
    (0..nodes * 4).map(|i| low_priority(1_000_000 + i)).collect()
}

fn cluster(nodes: usize) -> Cluster {
    let mut cluster = Cluster::new();
    for i in 0..nodes {
        let name = format!("node-{i}");
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": format!("zone{}", i % 3 + 1)}},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
        }))
        .unwrap_or_default();
        cluster.upsert_node(&node);
    }
    cluster
}

fn parse(pods: Vec<Value>) -> Vec<Pod> {
    pods.into_iter().filter_map(|pod| serde_json::from_value(pod).ok()).collect()
}

fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0))
}

#[derive(Default)]
struct Outcome {
    placed: usize,
    failed: usize,
    latencies: Vec<Duration>,
    cpu: Duration,
    wall: Duration,
}

fn place(cluster: &mut Cluster, pod: &Pod, seed: u64, preempt: bool) -> Option<String> {
    let mut info = PodInfo::of(pod);
    cluster.intern(&mut info);
    match cluster.schedule(&info, seed) {
        Ok(placement) => {
            let uid = info.uid().to_owned();
            cluster.assume_placed(info, &placement);
            Some(uid)
        }
        Err(_) if preempt => {
            let plan = cluster.preempt(&info, seed, None).ok()?;
            for victim in &plan.victims {
                cluster.remove_pod(victim.uid());
            }
            let uid = info.uid().to_owned();
            cluster.assume(info, &plan.node);
            Some(uid)
        }
        Err(_) => None,
    }
}

fn run(row: &Row, nodes: usize) -> Outcome {
    let mut cluster = cluster(nodes);
    let mut bound = Vec::new();
    for (seed, pod) in (1..).zip(parse((row.before)(nodes))) {
        bound.extend(place(&mut cluster, &pod, seed, false));
    }
    let pods = parse((0..row.measured).map(row.template).collect());
    let mut outcome = Outcome::default();
    let (cpu, start) = (cpu_time(), Instant::now());
    for (seed, pod) in (1..).zip(&pods) {
        let before = Instant::now();
        let placed = place(&mut cluster, pod, seed, row.preempt);
        outcome.latencies.push(before.elapsed());
        match placed {
            Some(uid) => {
                outcome.placed += 1;
                bound.push(uid);
            }
            None => outcome.failed += 1,
        }
        if row.churn && !bound.is_empty() {
            let at = seed as usize * 7919 % bound.len();
            cluster.remove_pod(&bound.swap_remove(at));
        }
    }
    outcome.wall = start.elapsed();
    outcome.cpu = cpu_time().saturating_sub(cpu);
    outcome.latencies.sort_unstable();
    outcome
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
    let sizes = value("--nodes").unwrap_or_else(|| "100,1000,5000,15000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').filter_map(|n| n.parse().ok()).collect();
    let only = value("--only").unwrap_or_default();
    let as_json = args.iter().any(|a| a == "--json");
    if !as_json {
        println!(
            "{:36} {:>6} {:>7} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8}",
            "workload", "nodes", "placed", "failed", "pods/s", "cpu us", "p50 us", "p99 us", "max us"
        );
    }
    for row in rows().iter().filter(|row| row.name.contains(&only)) {
        for nodes in &sizes {
            let o = run(row, *nodes);
            let decided = (o.placed + o.failed).max(1);
            let at = |percent: usize| {
                let index = (o.latencies.len() * percent / 100).min(o.latencies.len().saturating_sub(1));
                o.latencies.get(index).map_or(0.0, |l| l.as_secs_f64() * 1e6)
            };
            let rate = decided as f64 / o.wall.as_secs_f64();
            let cpu = o.cpu.as_secs_f64() * 1e6 / decided as f64;
            assert!(row.may_fail || o.failed == 0 || *nodes < 2000, "{}: {} fit nowhere", row.name, o.failed);
            if as_json {
                let line = json!({"workload": row.name, "nodes": nodes, "placed": o.placed, "failed": o.failed,
                    "pods_per_second": rate.round(), "cpu_us_per_pod": cpu, "p50_us": at(50), "p99_us": at(99), "max_us": at(100)});
                println!("{line}");
            } else {
                println!(
                    "{:36} {:>6} {:>7} {:>7} {:>9.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                    row.name,
                    nodes,
                    o.placed,
                    o.failed,
                    rate,
                    cpu,
                    at(50),
                    at(99),
                    at(100)
                );
            }
        }
    }
}
