//! What pods and nodes use, as `kubectl top` and Prometheus see it, and autoscalers that follow it.

use std::time::Duration;

use crate::support::{BOUND, Cluster, condition, within};

/// Millicores out of `123m`.
fn milli(text: &str) -> u64 {
    text.strip_suffix('m')
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no millicores: {text}"))
}

/// Name, CPU and memory columns of a `kubectl top`.
fn top(table: &str, from: usize) -> Vec<(String, u64, String)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        (cells[from].to_owned(), milli(cells[from + 1]), cells[from + 2].to_owned())
    };
    table.lines().map(row).collect()
}

/// Busy while `/tmp/busy` is there, within its limit; `idle` has a container that never is.
const PODS: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: burn}
spec:
  replicas: 1
  selector: {matchLabels: {app: burn}}
  template:
    metadata: {labels: {app: burn}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox:1
        command: [sh, -c, 'while :; do if test -e /tmp/busy; then i=0; while test $i -lt 20000; do i=$((i+1)); done; else sleep 0.5; fi; done']
        resources: {requests: {cpu: 100m}, limits: {cpu: 200m, memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: idle}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: one, image: 'busybox:1', command: [sleep, infinity]}
  - {name: two, image: 'busybox:1', command: [sleep, infinity]}
";

#[test]
fn usage_is_measured_and_a_deployment_follows_its_load_up_and_down() {
    let c = Cluster::start();
    c.apply(PODS);
    c.k("rollout status deployment/burn --timeout=60s");
    c.wait_ready("idle");
    let first = c.k("get pods -l app=burn -o jsonpath={.items[0].metadata.name}");
    c.exec(&first, "touch /tmp/busy");
    c.k("autoscale deployment burn --cpu-percent=50 --min=1 --max=3");
    let quick = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}"#;
    c.k(&format!("patch hpa burn --type=merge -p '{quick}'"));

    shown_by_kubectl(&c, &first);
    scraped(&c, &first);

    let replicas = |want: i64| {
        // Two periods, and a window for each pod that starts.
        within(3 * BOUND, "the size follows", || {
            let hpa = c.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/burn");
            let deployment = c.get("/apis/apps/v1/namespaces/default/deployments/burn");
            let there = deployment["status"]["readyReplicas"].as_i64().unwrap_or(0);
            if there == want && deployment["spec"]["replicas"] == want {
                Ok(hpa)
            } else {
                Err(format!("{there} of {want}: {hpa:#}"))
            }
        })
    };
    replicas(3);
    let hpa = within(BOUND, "it has reached its limit", || {
        let hpa = c.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/burn");
        if condition(&hpa, "ScalingLimited") == "True" { Ok(hpa) } else { Err(format!("{hpa:#}")) }
    });
    assert_eq!(condition(&hpa, "ScalingActive"), "True", "{hpa:#}");
    let described = c.k("describe hpa burn");
    for word in [
        "SuccessfulRescale",
        "cpu resource utilization (percentage of request) above target",
        "resource cpu on pods",
    ] {
        assert!(described.contains(word), "{word}: {described}");
    }
    c.k(&format!("exec {first} -- rm /tmp/busy"));
    replicas(1);
    assert!(c.k("describe hpa burn").contains("All metrics below target"));
}

/// `kubectl top`, `kubectl get` and who may use them.
fn shown_by_kubectl(c: &Cluster, busy: &str) {
    let pods = within(BOUND, "both pods are measured, one of them busy", || {
        let ran = c.sh("kubectl top pods --no-headers");
        let rows = if ran.code == 0 { top(&ran.out, 0) } else { Vec::new() };
        let cpu = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| row.1);
        match (cpu(busy), cpu("idle")) {
            (Some(busy), Some(idle)) if busy >= 20 && idle < busy => Ok(rows),
            _ => Err(format!("{} {}", ran.out, ran.err)),
        }
    });
    let burn = pods.iter().find(|row| row.0 == busy).unwrap();
    // Its limit is 200m.
    assert!(burn.1 <= 260 && burn.2.ends_with("Mi"), "{pods:?}");
    let containers = c.k("top pods idle --containers --no-headers");
    let names: Vec<String> = top(&containers, 1).into_iter().map(|row| row.0).collect();
    assert_eq!(names, ["one", "two"], "{containers}");
    let nodes = c.k("top nodes --no-headers");
    assert!(nodes.starts_with("node-a") && nodes.contains('%'), "{nodes}");
    assert!(
        top(&c.k("top pods -A -l app=burn --no-headers"), 1).iter().all(|row| row.0.starts_with("burn-"))
    );
    let table = c.k("get pods.metrics.k8s.io idle");
    assert!(table.contains("MEMORY") && table.contains("WINDOW"), "{table}");
    // A node that nobody reaches holds up nothing.
    c.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-z}\n");
    assert!(c.k("top nodes --no-headers").starts_with("node-a"));
    c.k("delete node node-z");
    c.k("create rolebinding bob --clusterrole=view --user=bob");
    c.k("top pods --as=bob");
    c.sh("kubectl top nodes --as=bob").fails(&["forbidden"]);
}

/// What Prometheus reads, and the summary.
fn scraped(c: &Cluster, busy: &str) {
    let read = |path: &str| c.k(&format!("get --raw /api/v1/nodes/node-a/proxy/{path}"));
    let series = |text: &str, name: &str, labels: &[String]| {
        let line =
            text.lines().find(|line| line.starts_with(name) && labels.iter().all(|l| line.contains(l)));
        let line = line.unwrap_or_else(|| panic!("no {name} {labels:?} in {text}"));
        line.split(' ').nth(1).unwrap().parse::<f64>().unwrap()
    };
    let of = [format!("pod=\"{busy}\""), "container=\"main\"".to_owned(), "namespace=\"default\"".to_owned()];
    let used = || series(&read("metrics/resource"), "container_cpu_usage_seconds_total", &of);
    let before = used();
    within(Duration::from_secs(30), "CPU time passes", || {
        if used() > before { Ok(()) } else { Err(String::new()) }
    });
    let resource = read("metrics/resource");
    assert!(series(&resource, "container_memory_working_set_bytes", &of) > 0.0);
    assert!(series(&resource, "node_memory_working_set_bytes", &[]) > 1e6);
    let cadvisor = read("metrics/cadvisor");
    assert!(series(&cadvisor, "container_spec_memory_limit_bytes", &of) > 6.7e7);
    // It is held to its limit.
    assert!(series(&cadvisor, "container_cpu_cfs_throttled_periods_total", &of) > 0.0);
    assert!(series(&cadvisor, "container_network_receive_bytes_total", &of[..1]) >= 0.0);
    assert!(series(&read("metrics"), "kubelet_running_pods", &[]) >= 2.0);
    let summary: serde_json::Value = serde_json::from_str(&read("stats/summary")).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let pod = pods.iter().find(|pod| pod["podRef"]["name"] == busy).unwrap();
    assert!(pod["containers"][0]["cpu"]["usageNanoCores"].as_u64().unwrap() > 0, "{pod:#}");
    assert!(
        pod["network"]["interfaces"].is_array() && summary["node"]["fs"]["capacityBytes"].as_u64() > Some(0)
    );
}
