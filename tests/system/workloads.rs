//! Controllers: Job, CronJob, DaemonSet, StatefulSet, ReplicaSet, garbage, namespaces, scheduling.

use serde_json::Value;

use crate::{
    pods::pod,
    support::{BOUND, Cluster, condition, eventually, until, within},
};

/// A pod template's spec that runs `script`.
fn template(script: &str, restart: &str) -> String {
    format!(
        "{{terminationGracePeriodSeconds: 0, restartPolicy: {restart}, containers: [{{name: main, image: 'busybox:1', command: [sh, -c, '{script}']}}]}}"
    )
}

fn job(name: &str, spec: &str, script: &str) -> String {
    let template = template(script, "Never");
    format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  template: {{spec: {template}}}\n{spec}\n"
    )
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn jobs_succeed_fail_and_count() {
    let c = Cluster::start();
    c.apply(
        &(job("good", "  completions: 4\n  parallelism: 2", "echo done")
            + &job("bad", "  backoffLimit: 1", "exit 1")
            + &job(
                "indexed",
                "  completions: 3\n  parallelism: 3\n  completionMode: Indexed",
                "echo index $JOB_COMPLETION_INDEX",
            )
            + &job("slow", "  activeDeadlineSeconds: 2", "sleep 1000")
            + &job("swept", "  ttlSecondsAfterFinished: 1", "true")),
    );
    c.k("wait job/good --for=condition=Complete --timeout=60s");
    let good = c.get("/apis/batch/v1/namespaces/default/jobs/good");
    assert_eq!(good["status"]["succeeded"], 4);
    assert!(
        good["status"]["completionTime"].is_string() && good["status"]["startTime"].is_string(),
        "{good:#}"
    );
    let table = c.k("get job good --no-headers");
    assert!(table.split_whitespace().take(3).eq(["good", "Complete", "4/4"]), "{table}");
    c.k("wait job/bad --for=condition=Failed --timeout=90s");
    let bad = c.get("/apis/batch/v1/namespaces/default/jobs/bad");
    assert_eq!(bad["status"]["failed"], 2, "{bad:#}");
    assert!(c.k("describe job bad").contains("BackoffLimitExceeded"));
    c.k("wait job/indexed --for=condition=Complete --timeout=60s");
    assert_eq!(c.get("/apis/batch/v1/namespaces/default/jobs/indexed")["status"]["completedIndexes"], "0-2");
    let logs = c.k("logs -l job-name=indexed --tail=-1");
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["index 0", "index 1", "index 2"]);
    c.k("wait job/slow --for=condition=Failed --timeout=60s");
    assert!(c.k("get job slow -o yaml").contains("DeadlineExceeded"));
    eventually("its pod is gone", || c.k("get pods -l job-name=slow -o name").is_empty());
    eventually("swept away", || c.get("/apis/batch/v1/namespaces/default/jobs/swept")["code"] == 404);
    c.k("delete job good");
    eventually("its pods go with it", || c.k("get pods -l job-name=good -o name").is_empty());
}

/// Fires once a minute at most; the slowest test there is, so it does more on the way.
#[test]
fn cron_jobs_fire_and_can_be_held() {
    let c = Cluster::start();
    let template = template("echo tick", "Never");
    for (name, suspend) in [("tick", "false"), ("held", "true")] {
        c.apply(&format!("apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: {name}}}\nspec:\n  schedule: '* * * * *'\n  suspend: {suspend}\n  jobTemplate: {{spec: {{template: {{spec: {template}}}}}}}\n"));
    }
    c.sh("kubectl create cronjob bad --image=busybox:1 --schedule='61 * * * *'")
        .fails(&["spec.schedule", "Invalid value"]);
    within(2 * BOUND, "a job of the CronJob", || {
        let jobs = c.get("/apis/batch/v1/namespaces/default/jobs");
        let done = items(&jobs).iter().any(|job| {
            job["metadata"]["ownerReferences"][0]["name"] == "tick" && condition(job, "Complete") == "True"
        });
        // Up to a minute for the clock, and some time for the pod.
        if done { Ok(()) } else { Err(format!("{jobs:#}")) }
    });
    let jobs = c.get("/apis/batch/v1/namespaces/default/jobs");
    assert!(items(&jobs).iter().all(|job| job["metadata"]["ownerReferences"][0]["name"] == "tick"));
    let cron = c.get("/apis/batch/v1/namespaces/default/cronjobs/tick");
    assert!(cron["status"]["lastScheduleTime"].is_string(), "{cron:#}");
    assert!(c.k("get events --field-selector involvedObject.name=tick").contains("SuccessfulCreate"));
}

#[test]
fn stateful_sets_go_in_order_and_daemon_sets_everywhere() {
    let c = Cluster::start();
    let script = "until test -e /tmp/ready; do sleep 0.1; done; exec sleep infinity";
    c.apply(&format!(r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 2
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {{name: main, image: 'busybox:1', command: [sh, -c, '{script}'], readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1}}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: each}}
spec:
  selector: {{matchLabels: {{app: each}}}}
  template:
    metadata: {{labels: {{app: each}}}}
    spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: main, image: 'busybox:1', command: [sleep, infinity]}}]}}
"));
    c.wait_pod("db-0", "runs", |pod| pod["status"]["phase"] == "Running");
    // The second waits for the first.
    assert_eq!(c.pod("db-1")["code"], 404);
    c.exec("db-0", "touch /tmp/ready");
    c.wait_pod("db-1", "runs", |pod| pod["status"]["phase"] == "Running");
    c.exec("db-1", "touch /tmp/ready");
    c.k("rollout status statefulset/db --timeout=60s");
    let uid = c.pod("db-0")["metadata"]["uid"].clone();
    c.k("delete pod db-0");
    c.wait_pod("db-0", "is made again under its name", |pod| {
        pod["metadata"]["uid"] != uid && pod["status"]["phase"] == "Running"
    });
    c.exec("db-0", "touch /tmp/ready");
    c.wait_ready("db-0");
    c.k("scale statefulset db --replicas=1");
    c.wait_gone("db-1");
    until("one of one", || {
        let line = c.k("get statefulset db --no-headers");
        if line.split_whitespace().nth(1) == Some("1/1") { Ok(()) } else { Err(line) }
    });

    c.k("rollout status daemonset/each --timeout=60s");
    assert!(c.k("get daemonset each --no-headers").split_whitespace().skip(1).take(5).eq(["1"; 5]));
    c.k("set env daemonset/each V=2");
    c.k("rollout status daemonset/each --timeout=60s");
    let pods = c.get("/api/v1/namespaces/default/pods?labelSelector=app=each");
    let value = &items(&pods)[0]["spec"]["containers"][0]["env"][0]["value"];
    assert_eq!((items(&pods).len(), value.as_str()), (1, Some("2")));
    // It stays on a cordoned node.
    c.k("cordon node-a");
    c.k("delete pod -l app=each --wait=false");
    c.k("rollout status daemonset/each --timeout=60s");
    c.k("uncordon node-a");
}

#[test]
fn replica_sets_adopt_release_and_replace() {
    let c = Cluster::start();
    let sleep = "  terminationGracePeriodSeconds: 0\n  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity]}]";
    c.apply(&pod("web", sleep));
    c.wait_ready("web");
    let template = template("exec sleep infinity", "Always");
    c.apply(&format!("apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: rs}}\nspec:\n  replicas: 2\n  selector: {{matchLabels: {{app: web}}}}\n  template: {{metadata: {{labels: {{app: web}}}}, spec: {template}}}\n"));
    c.wait_pod("web", "adopted", |pod| pod["metadata"]["ownerReferences"][0]["name"] == "rs");
    let count = || items(&c.get("/api/v1/namespaces/default/pods?labelSelector=app=web")).len();
    eventually("two in all", || count() == 2);
    c.k("label --overwrite pod web app=free");
    c.wait_pod("web", "released", |pod| {
        pod["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty)
    });
    eventually("two again", || count() == 2);
    let first = c.k("get pods -l app=web -o jsonpath={.items[0].metadata.name}");
    c.k(&format!("delete pod {first}"));
    eventually("replaced", || count() == 2 && c.pod(&first)["code"] == 404);
    // An owner that is gone takes what is left with it, even what claims it wrongly late.
    let uid = c.k("get replicaset rs -o jsonpath={.metadata.uid}");
    c.k("delete replicaset rs");
    c.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: orphaned, ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: rs, uid: {uid}}}]}}\n"));
    eventually("collected", || c.get("/api/v1/namespaces/default/configmaps/orphaned")["code"] == 404);
    assert_eq!(c.pod("web")["status"]["phase"], "Running");
}

#[test]
fn a_namespace_takes_everything_with_it() {
    let c = Cluster::start();
    c.k("create namespace team");
    until("the account that pods need", || {
        let ran = c.sh("kubectl -n team get serviceaccount default");
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    c.k("-n team create deployment app --image=busybox:1 --replicas=2 -- sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.1; done'");
    c.k("-n team create configmap m");
    c.k("-n team rollout status deployment/app --timeout=60s");
    assert!(c.k("-n team get configmap kube-root-ca.crt -o jsonpath={.data}").contains("BEGIN CERTIFICATE"));
    // Held by a finalizer, so that it is still going when the next command comes.
    c.k(r#"-n team patch configmap m -p '{"metadata":{"finalizers":["example.com/held"]}}'"#);
    c.k("delete namespace team --wait=false");
    c.sh("kubectl -n team create configmap late").fails(&["forbidden", "because it is being terminated"]);
    c.k(r#"-n team patch configmap m --type=merge -p '{"metadata":{"finalizers":null}}'"#);
    c.k("wait namespace/team --for=delete --timeout=60s");
    assert_eq!(c.k("get pods,deployments,replicasets -A -o name"), "");
    c.sh("kubectl delete namespace kube-system").fails(&["forbidden"]);
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let c = Cluster::start();
    let with = |more: &str, container: &str| {
        format!(
            "  terminationGracePeriodSeconds: 0\n{more}  containers: [{{name: main, image: 'busybox:1', command: [sleep, infinity]{container}}}]"
        )
    };
    c.apply(
        &(pod("big", &with("", ", resources: {requests: {cpu: '1000'}}"))
            + &pod("fat", &with("", ", resources: {requests: {memory: 100Ti}}"))
            + &pod("picky", &with("  nodeSelector: {disk: ssd}\n", ""))),
    );
    let expected = [
        ("big", "0/1 nodes are available: 1 Insufficient cpu"),
        ("fat", "1 Insufficient memory"),
        ("picky", "1 node(s) didn't match Pod's node affinity/selector"),
    ];
    for (name, message) in expected {
        let seen = c.wait_pod(name, "Unschedulable", |pod| {
            pod["status"]["conditions"][0]["reason"] == "Unschedulable"
        });
        let scheduled = &seen["status"]["conditions"][0];
        assert_eq!(
            (scheduled["type"].as_str(), scheduled["status"].as_str()),
            (Some("PodScheduled"), Some("False"))
        );
        assert!(scheduled["message"].as_str().unwrap().contains(message), "{scheduled}");
        assert_eq!(seen["status"]["phase"], "Pending");
        until("FailedScheduling", || {
            let events = c.k(&format!("get events --field-selector involvedObject.name={name}"));
            if events.contains("FailedScheduling") && events.contains(message) { Ok(()) } else { Err(events) }
        });
    }
    // It is placed as soon as there is a place.
    c.k("label node node-a disk=ssd");
    c.wait_ready("picky");
    let node = c.get("/api/v1/nodes/node-a");
    assert_eq!(condition(&node, "Ready"), "True");
    assert_eq!(condition(&node, "MemoryPressure"), "False");
    let lease = c.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-a");
    assert_eq!(lease["spec"]["holderIdentity"], "node-a");
}
