//! The scheduler's decisions on the workloads of Kubernetes' scheduler_perf, without an API server.
//!
//! `cargo run --release -p sampan-planner --example scheduler_perf -- [--scaled] [--nodes 100,1000,5000,15000] [--only NAME]`
//!
//! Each row binds pods one by one: reading the API object, deciding, and counting the pod on its node are all timed.
//! Prints a table and, with `--json`, one JSON line per row. CPU is that of this process's only thread.
//!
//! Upstream's workloads place as many pods on few nodes as on many, so that the same row asks for something else at
//! each size. With `--scaled` there are so many pods a node at every size, in as many rounds as make up for small ones:
//! then a row says what the number of nodes costs. It says besides what the first decision about pods of a new kind
//! takes in a cluster that is in use, and what a node takes of memory.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sampan_planner::scheduler::{Cluster, PodInfo};
use serde_json::{Value, json};

/// What the server allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Row {
    name: &'static str,
    /// Pods already there when the clock starts.
    before: fn(usize) -> Vec<Value>,
    /// How many pods are placed while the clock runs.
    measured: usize,
    template: fn(usize) -> Value,
    /// When scaled: so many pods for ten nodes before the clock runs, and while it does.
    tenths: (usize, usize),
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

/// The same where there may be any number of nodes, each of which gets one after the other.
fn daemon_of(nodes: usize, index: usize) -> Value {
    let mut pod = daemon(index);
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        [0]["matchFields"][0]["values"] = json!([format!("node-{}", index % nodes)]);
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

fn row(name: &'static str, template: fn(usize) -> Value) -> Row {
    Row {
        name,
        before: none,
        measured: 10_000,
        template,
        tenths: (10, 100),
        may_fail: false,
        churn: false,
        preempt: false,
    }
}

fn rows() -> Vec<Row> {
    vec![
        Row {
            before: |_| (0..1000).map(|i| basic(1_000_000 + i)).collect(),
            ..row("SchedulingBasic/10k", basic)
        },
        Row {
            before: |_| (0..5000).map(|i| basic(1_000_000 + i)).collect(),
            measured: 50_000,
            tenths: (100, 200),
            ..row("SchedulingBasic/50k", basic)
        },
        Row {
            before: |_| (0..5000).map(|i| affinity(1_000_000 + i)).collect(),
            measured: 5000,
            tenths: (10, 50),
            ..row("SchedulingPodAffinity", affinity)
        },
        Row {
            before: |nodes| (0..nodes / 5).map(|i| anti_affinity(1_000_000 + i)).collect(),
            measured: 5000,
            tenths: (2, 6),
            may_fail: true,
            ..row("SchedulingPodAntiAffinity", anti_affinity)
        },
        Row {
            before: |_| (0..5000).map(|i| preferred("podAffinity", 1_000_000 + i, "red")).collect(),
            measured: 5000,
            ..row("SchedulingPreferredPodAffinity", |i| preferred("podAffinity", i, "red"))
        },
        Row {
            before: |_| (0..5000).map(|i| preferred("podAntiAffinity", 1_000_000 + i, "yellow")).collect(),
            measured: 5000,
            ..row("SchedulingPreferredPodAntiAffinity", |i| preferred("podAntiAffinity", i, "yellow"))
        },
        Row {
            before: |_| (0..5000).map(|i| basic(1_000_000 + i)).collect(),
            ..row("TopologySpreading", |i| spreading("DoNotSchedule", i))
        },
        Row {
            before: |_| (0..5000).map(|i| basic(1_000_000 + i)).collect(),
            ..row("PreferredTopologySpreading", |i| spreading("ScheduleAnyway", i))
        },
        row("SchedulingNodeAffinity", node_affinity),
        Row { measured: 15_000, tenths: (0, 30), ..row("SchedulingDaemonset", daemon) },
        Row { may_fail: true, ..row("Unschedulable", |i| if i % 2 == 0 { large(i) } else { basic(i) }) },
        Row {
            before: |_| (0..2000).map(|i| mixed(1_000_000 + i)).collect(),
            churn: true,
            tenths: (2, 10),
            ..row("SchedulingWithMixedChurn", mixed)
        },
        Row {
            before: preemption_load,
            measured: 5000,
            tenths: (40, 10),
            may_fail: true,
            preempt: true,
            ..row("PreemptionBasic", high_priority)
        },
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
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Bytes that this process has in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// What a node without pods takes, in a process that has nothing else in memory yet.
fn node_bytes(nodes: usize) -> usize {
    let empty = resident();
    let cluster = cluster(nodes);
    resident().saturating_sub(empty) / cluster.len().max(1)
}

#[derive(Default)]
struct Outcome {
    placed: usize,
    failed: usize,
    latencies: Vec<Duration>,
    cpu: Duration,
    wall: Duration,
    /// What first decisions about a new kind took of the processor.
    first: Vec<Duration>,
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

impl Outcome {
    /// Places pods while the clock runs.
    fn measure(&mut self, row: &Row, cluster: &mut Cluster, pods: &[Pod], bound: &mut Vec<String>) {
        let (cpu, start) = (cpu_time(), Instant::now());
        for pod in pods {
            let seed = self.latencies.len() as u64 + 1;
            let before = Instant::now();
            let placed = place(cluster, pod, seed, row.preempt);
            self.latencies.push(before.elapsed());
            match placed {
                Some(uid) => {
                    self.placed += 1;
                    bound.push(uid);
                }
                None => self.failed += 1,
            }
            if row.churn && !bound.is_empty() {
                let at = seed as usize * 7919 % bound.len();
                cluster.remove_pod(&bound.swap_remove(at));
            }
        }
        self.wall += start.elapsed();
        self.cpu += cpu_time().saturating_sub(cpu);
    }

    fn percentile(&self, percent: usize) -> f64 {
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).map_or(0.0, |l| l.as_secs_f64() * 1e6)
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
    outcome.measure(row, &mut cluster, &pods, &mut bound);
    outcome.latencies.sort_unstable();
    outcome
}

/// So many pods are placed at least, over all rounds.
const SCALED: usize = 30_000;
/// So many pods are read ahead, so that they are not in the way.
const AHEAD: usize = 256;

/// Makes pods without reading each of them from text.
struct Source<'a> {
    row: &'a Row,
    nodes: usize,
    known: Vec<Pod>,
}

impl<'a> Source<'a> {
    fn new(row: &'a Row, nodes: usize, what: fn(usize) -> Value) -> Self {
        // No template has more kinds than ten.
        Self { row, nodes, known: parse((0..10).map(what).collect()) }
    }

    fn pod(&self, index: usize) -> Pod {
        if self.row.name == "SchedulingDaemonset" {
            return serde_json::from_value(daemon_of(self.nodes, index)).unwrap_or_default();
        }
        let mut pod = self.known[index % self.known.len()].clone();
        pod.metadata.name = Some(format!("pod-{index}"));
        pod.metadata.uid = Some(format!("uid-{index}"));
        pod
    }
}

/// The same work at every size: so many pods a node.
fn run_scaled(row: &Row, nodes: usize) -> Outcome {
    let (before, measured) = (nodes * row.tenths.0 / 10, nodes * row.tenths.1 / 10);
    let mut outcome = Outcome::default();
    let source = Source::new(row, nodes, row.template);
    let first = match row.name {
        "PreemptionBasic" => low_priority,
        "TopologySpreading" | "PreferredTopologySpreading" => basic,
        _ => row.template,
    };
    let earlier = Source::new(row, nodes, first);
    let mut grown = false;
    while outcome.latencies.len() < SCALED {
        let mut cluster = cluster(nodes);
        let mut bound = Vec::new();
        for index in 0..before {
            bound.extend(place(&mut cluster, &earlier.pod(1_000_000 + index), index as u64, false));
        }
        // The first decisions are those about a new kind, which are measured apart.
        for index in 0..10 {
            let mut info = PodInfo::of(&source.pod(2_000_000 + index));
            cluster.intern(&mut info);
            drop(cluster.schedule(&info, 1));
        }
        for from in (0..measured).step_by(AHEAD) {
            let pods: Vec<Pod> = (from..measured.min(from + AHEAD)).map(|index| source.pod(index)).collect();
            outcome.measure(row, &mut cluster, &pods, &mut bound);
        }
        outcome.look(&mut cluster, &source);
        // The first round makes the process as large as it will be, and is not counted.
        if !std::mem::replace(&mut grown, true) {
            outcome = Outcome::default();
        }
    }
    outcome.latencies.sort_unstable();
    outcome
}

impl Outcome {
    /// What decisions about pods of new kinds take.
    fn look(&mut self, cluster: &mut Cluster, source: &Source<'_>) {
        for kind in 0..4 {
            let mut pod = source.pod(3_000_000 + kind);
            let cpu = format!("{}m", 50 + kind);
            for container in pod.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
                for requests in container.resources.iter_mut().filter_map(|r| r.requests.as_mut()) {
                    requests.insert("cpu".to_owned(), Quantity(cpu.clone()));
                }
            }
            let mut info = PodInfo::of(&pod);
            cluster.intern(&mut info);
            let before = cpu_time();
            drop(cluster.schedule(&info, 1));
            self.first.push(cpu_time().saturating_sub(before));
        }
    }

    fn first(&mut self) -> f64 {
        self.first.sort_unstable();
        self.first.get(self.first.len() / 2).map_or(0.0, |first| first.as_secs_f64() * 1e6)
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
    let sizes = value("--nodes").unwrap_or_else(|| "100,1000,5000,15000".to_owned());
    let sizes: Vec<usize> = sizes.split(',').filter_map(|n| n.parse().ok()).collect();
    let only = value("--only").unwrap_or_default();
    let as_json = args.iter().any(|a| a == "--json");
    let scaled = args.iter().any(|a| a == "--scaled");
    if scaled && let Some(most) = sizes.iter().max() {
        eprintln!("a node without pods takes {} bytes (of {most} nodes)", node_bytes(*most));
    }
    if !as_json {
        println!(
            "{:36} {:>6} {:>7} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "workload",
            "nodes",
            "placed",
            "failed",
            "pods/s",
            "cpu us",
            "p50 us",
            "p99 us",
            "max us",
            "first us"
        );
    }
    for row in rows().iter().filter(|row| row.name.contains(&only)) {
        for nodes in &sizes {
            let mut o = if scaled { run_scaled(row, *nodes) } else { run(row, *nodes) };
            let decided = (o.placed + o.failed).max(1);
            let rate = decided as f64 / o.wall.as_secs_f64();
            let cpu = o.cpu.as_secs_f64() * 1e6 / decided as f64;
            let full = o.failed > 0 && !row.may_fail && (scaled || *nodes >= 2000);
            assert!(!full, "{}: {} fit nowhere", row.name, o.failed);
            let first = o.first();
            if as_json {
                let line = json!({"workload": row.name, "nodes": nodes, "placed": o.placed, "failed": o.failed,
                    "pods_per_second": rate.round(), "cpu_us_per_pod": cpu, "p50_us": o.percentile(50),
                    "p99_us": o.percentile(99), "max_us": o.percentile(100), "first_us": first});
                println!("{line}");
            } else {
                println!(
                    "{:36} {:>6} {:>7} {:>7} {:>9.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                    row.name,
                    nodes,
                    o.placed,
                    o.failed,
                    rate,
                    cpu,
                    o.percentile(50),
                    o.percentile(99),
                    o.percentile(100),
                    first
                );
            }
        }
    }
}
