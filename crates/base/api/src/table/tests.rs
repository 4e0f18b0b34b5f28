//! The cells that people know.

use serde_json::{Value, json};

use crate::kinds;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn cells(group: &str, kind: &str, mut object: Value) -> Vec<Value> {
    let resource = kinds::by_kind(group, "v1", kind).unwrap();
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let row = row(resource, &object, at(300));
    assert_eq!(row.len(), columns(resource).len(), "{kind}: as many cells as columns");
    row
}

#[test]
fn each_kind_has_a_cell_for_each_column() {
    for resource in kinds::resources() {
        for object in [json!({}), json!(null), json!([1]), json!({ "spec": 1, "status": [] })] {
            assert_eq!(row(resource, &object, at(0)).len(), columns(resource).len(), "{}", resource.kind);
        }
    }
}

#[test]
fn ages() {
    for (seconds, words) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (12_000, "3h20m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (691_200, "8d"),
        (63_072_000, "2y"),
        (64_000_000, "2y10d"),
        (252_288_000, "8y"),
    ] {
        assert_eq!(human(seconds), words, "{seconds}");
    }
}

/// Ready, status and restarts of a pod with these container statuses.
fn pod(status: Value) -> [String; 3] {
    pod_with(json!({}), json!({ "containers": [{ "name": "a" }, { "name": "b" }] }), status)
}

fn pod_with(metadata: Value, spec: Value, status: Value) -> [String; 3] {
    let row = cells("", "Pod", json!({ "metadata": metadata, "spec": spec, "status": status }));
    [1, 2, 3].map(|i| row[i].as_str().unwrap().to_owned())
}

#[test]
fn pods_in_one_word() {
    let running = |ready: bool| json!({ "ready": ready, "restartCount": 0, "state": { "running": {} } });
    let waiting = |reason: &str| {
        json!({ "restartCount": 3, "state": { "waiting": { "reason": reason } },
        "lastState": { "terminated": { "exitCode": 1, "finishedAt": "2026-01-01T00:03:00Z" } } })
    };
    let ended = |code: i64, reason: &str| json!({ "state": { "terminated": { "exitCode": code, "reason": reason } } });
    let statuses = |statuses: Value| json!({ "phase": "Running", "containerStatuses": statuses });
    let cases: [(Value, [&str; 3]); 8] = [
        (json!({ "phase": "Pending" }), ["0/2", "Pending", "0"]),
        (statuses(json!([running(true), running(true)])), ["2/2", "Running", "0"]),
        (
            statuses(json!([running(true), waiting("CrashLoopBackOff")])),
            ["1/2", "CrashLoopBackOff", "3 (2m ago)"],
        ),
        (statuses(json!([ended(0, "Completed"), running(true)])), ["1/2", "NotReady", "0"]),
        (statuses(json!([ended(0, "Completed"), ended(1, "Error")])), ["0/2", "Error", "0"]),
        (statuses(json!([ended(137, ""), ended(0, "Completed")])), ["0/2", "ExitCode:137", "0"]),
        (json!({ "phase": "Failed", "reason": "Evicted" }), ["0/2", "Evicted", "0"]),
        (
            json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "reason": "SchedulingGated" }] }),
            ["0/2", "SchedulingGated", "0"],
        ),
    ];
    for (status, expected) in cases {
        assert_eq!(pod(status.clone()), expected, "{status}");
    }
    let going = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
    let spec = json!({ "containers": [{}] });
    assert_eq!(pod_with(going.clone(), spec.clone(), json!({ "phase": "Running" }))[1], "Terminating");
    assert_eq!(pod_with(going, spec, json!({ "phase": "Succeeded" }))[1], "Succeeded");
}

#[test]
fn pods_that_begin() {
    let spec = json!({ "containers": [{ "name": "c" }],
        "initContainers": [{ "name": "side", "restartPolicy": "Always" }, { "name": "init" }] });
    let status = |inits: Value, containers: Value| json!({ "phase": "Pending", "initContainerStatuses": inits, "containerStatuses": containers });
    let side = json!({ "name": "side", "ready": true, "started": true, "state": { "running": {} } });
    let first = json!([side, { "name": "init", "state": { "running": {} } }]);
    assert_eq!(pod_with(json!({}), spec.clone(), status(first, json!([]))), ["1/2", "Init:1/2", "0"]);
    let failed = json!([side, { "name": "init", "restartCount": 2, "state": { "waiting": {
        "reason": "CrashLoopBackOff" } } }]);
    assert_eq!(pod_with(json!({}), spec.clone(), status(failed, json!([])))[1], "Init:CrashLoopBackOff");
    let error = json!([side, { "name": "init", "state": { "terminated": { "exitCode": 2 } } }]);
    assert_eq!(pod_with(json!({}), spec.clone(), status(error, json!([])))[1], "Init:ExitCode:2");
    let done = json!([side, { "name": "init", "state": { "terminated": { "exitCode": 0 } } }]);
    let mut up = status(done, json!([{ "name": "c", "ready": true, "state": { "running": {} } }]));
    up["phase"] = json!("Running");
    assert_eq!(pod_with(json!({}), spec, up), ["2/2", "Running", "0"]);
}

#[test]
fn the_wide_columns_of_a_pod() {
    let row = cells(
        "",
        "Pod",
        json!({ "spec": { "nodeName": "n", "readinessGates": [{ "conditionType": "a" }, { "conditionType": "b" }] },
                "status": { "podIPs": [{ "ip": "10.0.0.1" }], "conditions": [{ "type": "a", "status": "True" }] } }),
    );
    assert_eq!(row[4..], [json!("5m"), json!("10.0.0.1"), json!("n"), json!("<none>"), json!("1/2")]);
    let resource = kinds::by_kind("", "v1", "Pod").unwrap();
    assert_eq!(
        row_conditions(resource, &json!({ "status": { "phase": "Succeeded" } }))[0]["type"],
        "Completed"
    );
}

#[test]
fn workloads() {
    let template =
        json!({ "spec": { "containers": [{ "name": "a", "image": "i" }, { "name": "b", "image": "j" }] } });
    let selector = json!({ "matchLabels": { "app": "a" } });
    let row = cells(
        "apps",
        "Deployment",
        json!({ "spec": { "replicas": 3, "selector": selector, "template": template },
                "status": { "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1 } }),
    );
    assert_eq!(
        row,
        [
            json!("x"),
            json!("1/3"),
            json!(2),
            json!(1),
            json!("5m"),
            json!("a,b"),
            json!("i,j"),
            json!("app=a")
        ]
    );
    let row = cells("apps", "ReplicaSet", json!({ "spec": { "replicas": 3 }, "status": { "replicas": 2 } }));
    assert_eq!(row[1..5], [json!(3), json!(2), json!(0), json!("5m")]);
    let job = |spec: Value, status: Value| {
        cells("batch", "Job", json!({ "spec": spec, "status": status }))[1..4].to_vec()
    };
    assert_eq!(
        job(json!({ "completions": 2 }), json!({ "succeeded": 1, "startTime": "2026-01-01T00:04:00Z" })),
        [json!("Running"), json!("1/2"), json!("60s")]
    );
    assert_eq!(
        job(
            json!({ "parallelism": 3 }),
            json!({ "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:00:07Z", "conditions": [{ "type": "Complete", "status": "True" }] })
        ),
        [json!("Complete"), json!("0/1 of 3"), json!("7s")]
    );
    let row = cells("batch", "CronJob", json!({ "spec": { "schedule": "* * * * *", "suspend": false } }));
    assert_eq!(row[1..6], [json!("* * * * *"), json!("<none>"), json!("False"), json!(0), json!("<none>")]);
    let row = cells(
        "apps",
        "ControllerRevision",
        json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d",
                "controller": true }] }, "revision": 4 }),
    );
    assert_eq!(row[1..3], [json!("daemonset.apps/d"), json!(4)]);
}

#[test]
fn services_and_endpoints() {
    let service = |spec: Value, status: Value| {
        cells("", "Service", json!({ "spec": spec, "status": status }))[1..5].to_vec()
    };
    assert_eq!(
        service(
            json!({ "type": "NodePort", "clusterIPs": ["10.43.0.2"],
                    "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30000 }, { "port": 53, "protocol": "UDP" }] }),
            json!({})
        ),
        [json!("NodePort"), json!("10.43.0.2"), json!("<none>"), json!("80:30000/TCP,53/UDP")]
    );
    assert_eq!(service(json!({ "type": "LoadBalancer" }), json!({}))[2], json!("<pending>"));
    assert_eq!(
        service(json!({ "type": "ExternalName", "externalName": "a.b" }), json!({}))[1..],
        [json!("<none>"), json!("a.b"), json!("<none>")]
    );
    let row = cells(
        "",
        "Endpoints",
        json!({ "subsets": [{ "addresses": [{ "ip": "1.1.1.1" }, { "ip": "1.1.1.2" }],
        "ports": [{ "port": 80 }, { "port": 81 }] }] }),
    );
    assert_eq!(row[1], "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more...");
    let row = cells("discovery.k8s.io", "EndpointSlice", json!({ "addressType": "IPv4" }));
    assert_eq!(row[1..4], [json!("IPv4"), json!("<unset>"), json!("<unset>")]);
}

#[test]
fn nodes_and_events() {
    let row = cells(
        "",
        "Node",
        json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "a" } },
                "spec": { "unschedulable": true },
                "status": { "conditions": [{ "type": "Ready", "status": "True" }],
                            "addresses": [{ "type": "InternalIP", "address": "10.0.0.9" }],
                            "nodeInfo": { "kubeletVersion": "v1.37.0", "kernelVersion": "6.18", "architecture": "amd64" } } }),
    );
    assert_eq!(
        row[1..],
        [
            json!("Ready,SchedulingDisabled"),
            json!("a,control-plane"),
            json!("5m"),
            json!("v1.37.0"),
            json!("10.0.0.9"),
            json!("<none>"),
            json!("<unknown>"),
            json!("6.18 (amd64)"),
            json!("<unknown>"),
        ]
    );
    let row = cells(
        "",
        "Event",
        json!({ "involvedObject": { "kind": "Pod", "name": "p" }, "type": "Normal", "reason": "Started",
                "message": " done\n", "source": { "component": "kubelet", "host": "n" },
                "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:04:30Z", "count": 3 }),
    );
    assert_eq!(
        row,
        [
            json!("30s"),
            json!("Normal"),
            json!("Started"),
            json!("pod/p"),
            json!(""),
            json!("kubelet, n"),
            json!("done"),
            json!("5m"),
            json!(3),
            json!("x"),
        ]
    );
    assert_eq!(cells("", "ConfigMap", json!({ "data": { "a": "" }, "binaryData": { "b": "" } }))[1], 2);
}
