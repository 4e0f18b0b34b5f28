//! Controllers at their edges, on one cluster: a Job whose indexes fail, budgets against a drain, rollbacks, a node that is lost.

use serde_json::Value;

use crate::support::{BOUND, Cluster, condition, eventually, until, within};

/// Index 1 succeeds at the second try, index 2 fails for good with its first.
const INDEXED: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  completions: 4
  parallelism: 4
  completionMode: Indexed
  backoffLimitPerIndex: 1
  podFailurePolicy:
    rules:
    - {action: FailIndex, onExitCodes: {containerName: main, operator: In, values: [42]}}
  template:
    spec:
      terminationGracePeriodSeconds: 0
      restartPolicy: Never
      containers:
      - name: main
        image: busybox:1
        env: [{name: FAILURES, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"}}}]
        command: [sh, -c, 'echo $(hostname) after $FAILURES; case $JOB_COMPLETION_INDEX$FAILURES in 10) exit 1;; 2*) exit 42;; esac']
"#;

/// A Job that is over as soon as two of its three workers are.
const ENOUGH: &str = r"
---
apiVersion: batch/v1
kind: Job
metadata: {name: enough}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  successPolicy: {rules: [{succeededIndexes: '0,1'}]}
  template:
    spec:
      terminationGracePeriodSeconds: 0
      restartPolicy: Never
      containers: [{name: main, image: 'busybox:1', command: [sh, -c, '[ $JOB_COMPLETION_INDEX = 2 ] && exec sleep 1000; true']}]
";

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, infinity]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 100%, selector: {matchLabels: {app: web}}}
";

const SETS: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  podManagementPolicy: Parallel
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 2}}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sh, -c, 'exec sleep infinity'], env: [{name: V, value: one}]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: each}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: 'busybox:1', command: [sleep, infinity], env: [{name: V, value: one}]}]
";

/// Waits for a rollout to be over, however busy the machine is.
fn rolled_out(c: &Cluster, what: &str) {
    within(4 * BOUND, &format!("the rollout of {what}"), || {
        let ran = c.sh(&format!("kubectl rollout status {what} --timeout=20s"));
        if ran.code == 0 { Ok(()) } else { Err(format!("{}{}", ran.out, ran.err)) }
    });
}

fn job<'a>(all: &'a Value, name: &str) -> &'a Value {
    let items = all["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().find(|job| job["metadata"]["name"] == name).unwrap_or(&Value::Null)
}

fn jobs_end_index_by_index(c: &Cluster) {
    c.apply(&format!("{INDEXED}{ENOUGH}"));
    let jobs = within(4 * BOUND, "both Jobs to be over", || {
        let all = c.get("/apis/batch/v1/namespaces/default/jobs");
        let over = condition(job(&all, "indexed"), "Failed") == "True"
            && condition(job(&all, "enough"), "Complete") == "True";
        if over { Ok(all) } else { Err(format!("{all:#}")) }
    });
    let status = &job(&jobs, "indexed")["status"];
    assert_eq!(
        (status["completedIndexes"].as_str(), status["failedIndexes"].as_str()),
        (Some("0,1,3"), Some("2"))
    );
    assert_eq!((status["succeeded"].as_i64(), status["failed"].as_i64()), (Some(3), Some(2)), "{status:#}");
    assert!(c.k("describe job indexed").contains("FailedIndexes"));
    let logs = c.k("logs -l job-name=indexed --tail=-1 --ignore-errors");
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    let expected = [
        "indexed-0 after 0",
        "indexed-1 after 0",
        "indexed-1 after 1",
        "indexed-2 after 0",
        "indexed-3 after 0",
    ];
    assert_eq!(lines, expected);
    let status = &job(&jobs, "enough")["status"];
    let counts = ["succeeded", "failed"].map(|key| status[key].as_i64().unwrap_or(0));
    assert_eq!(counts, [2, 0], "{status:#}");
    assert!(c.k("get job enough -o yaml").contains("SuccessPolicy"));
    eventually("the third worker is killed", || {
        c.k("get pods -l job-name=enough --field-selector=status.phase=Running -o name").is_empty()
    });
}

/// Waits until the pods of both sets are made from these versions of their templates.
fn versions(c: &Cluster, db: [&str; 3], each: &str) {
    within(4 * BOUND, &format!("{db:?} and {each}"), || {
        let all = c.get("/api/v1/namespaces/default/pods?labelSelector=app+in+(db,each)");
        let mut have: Vec<(String, String)> = Vec::new();
        for pod in all["items"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            have.push((
                text(&pod["metadata"]["name"]),
                text(&pod["spec"]["containers"][0]["env"][0]["value"]),
            ));
        }
        have.sort();
        let have: Vec<&str> = have.iter().map(|(_, version)| version.as_str()).collect();
        if have == [db[0], db[1], db[2], each] { Ok(()) } else { Err(format!("{have:?}")) }
    });
}

/// A canary, all of them, and back again.
fn sets_roll_and_come_back(c: &Cluster) {
    c.apply(SETS);
    rolled_out(c, "statefulset/db");
    rolled_out(c, "daemonset/each");
    c.k("set env statefulset/db daemonset/each V=two");
    versions(c, ["one", "one", "two"], "two");
    rolled_out(c, "statefulset/db");
    versions(c, ["one", "one", "two"], "two");
    c.k("patch statefulset db -p '{\"spec\":{\"updateStrategy\":{\"rollingUpdate\":{\"partition\":0,\"maxUnavailable\":2}}}}'");
    versions(c, ["two"; 3], "two");
    rolled_out(c, "statefulset/db");
    rolled_out(c, "daemonset/each");
    c.k("rollout undo statefulset/db daemonset/each");
    versions(c, ["one"; 3], "one");
    let history = c.k("rollout history daemonset/each");
    assert!(history.lines().filter(|line| line.starts_with(['2', '3'])).count() == 2, "{history}");
}

/// A budget that allows none holds a drain up; one that allows one lets exactly one go.
fn a_budget_holds_up_a_drain(c: &Cluster) {
    c.apply(WEB);
    rolled_out(c, "deployment/web");
    until("the budget", || {
        let budget = c.get("/apis/policy/v1/namespaces/default/poddisruptionbudgets/web");
        if budget["status"]["currentHealthy"] == 2 { Ok(()) } else { Err(format!("{budget:#}")) }
    });
    let drain = "kubectl drain node-a --pod-selector=app=web --ignore-daemonsets --timeout=5s";
    c.sh(drain).fails(&["Cannot evict pod as it would violate the pod's disruption budget."]);
    let names = || c.k("get pods -l app=web -o jsonpath={.items[*].metadata.name}");
    let before = names();
    assert_eq!(before.split_whitespace().count(), 2);
    c.k("patch pdb web -p '{\"spec\":{\"minAvailable\":1}}'");
    c.sh(drain).fails(&["Cannot evict pod as it would violate the pod's disruption budget."]);
    let after = names();
    let left: Vec<&str> = before.split_whitespace().filter(|name| after.contains(name)).collect();
    assert_eq!(left.len(), 1, "{before}; {after}");
    assert!(!c.processes(&c.pod(left[0])).is_empty(), "it runs on");
    c.k("uncordon node-a");
    rolled_out(c, "deployment/web");
}

/// A machine that never answered: its pod of the DaemonSet waits for it, and goes with it.
fn a_lost_node_takes_its_daemon_along(c: &Cluster) {
    c.apply("apiVersion: v1\nkind: Node\nmetadata: {name: ghost, labels: {kubernetes.io/hostname: ghost}}\n");
    let now = c.sh("date -u +%Y-%m-%dT%H:%M:%SZ").ok().out.trim().to_owned();
    let ready = format!(
        "{{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"Up\",\"lastHeartbeatTime\":\"{now}\",\"lastTransitionTime\":\"{now}\"}}"
    );
    let room = "{\"cpu\":\"4\",\"memory\":\"4Gi\",\"pods\":\"110\"}";
    c.k(&format!("patch node ghost --subresource=status --type=merge -p '{{\"status\":{{\"allocatable\":{room},\"capacity\":{room},\"conditions\":[{ready}]}}}}'"));
    let ghost = || c.k("get pods -l app=each --field-selector=spec.nodeName=ghost -o name");
    eventually("a pod for the new node", || !ghost().is_empty());
    let counts = |wanted: [i64; 3]| {
        within(3 * BOUND, "the status", || {
            let status = c.get("/apis/apps/v1/namespaces/default/daemonsets/each")["status"].clone();
            let keys = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady"];
            let have = keys.map(|key| status[key].as_i64().unwrap_or(0));
            if have == wanted { Ok(()) } else { Err(format!("{status:#}")) }
        });
    };
    counts([2, 2, 1]);
    let taints = || c.k("get node ghost -o jsonpath={.spec.taints[*].key}");
    within(3 * BOUND, "the node to be given up", || {
        let taints = taints();
        if taints.contains("unreachable") || taints.contains("not-ready") { Ok(()) } else { Err(taints) }
    });
    assert!(!ghost().is_empty(), "trouble of a node is no reason to leave it");
    c.k("delete node ghost");
    counts([1, 1, 1]);
    eventually("its pod is gone", || ghost().is_empty());
}

#[test]
fn workloads_at_their_edges() {
    // How full the disk of the machine is does not matter here.
    let c = Cluster::start_on_small_disk(1024);
    sets_roll_and_come_back(&c);
    jobs_end_index_by_index(&c);
    a_lost_node_takes_its_daemon_along(&c);
    a_budget_holds_up_a_drain(&c);
}
