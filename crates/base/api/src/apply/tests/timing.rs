//! What it costs to note a manager: `cargo test -p sampan-api apply::tests::timing -- --ignored --nocapture`.

use std::time::Instant;

use serde_json::{Value, json};

use crate::apply::{Reset, Root, Writer, track};

const ROUNDS: u32 = 2_000;

fn pod() -> Value {
    let variable = |n: usize| json!({"name": format!("V{n}"), "value": "x"});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-1", "generateName": "web-", "namespace": "default",
            "labels": {"app": "web", "pod-template-hash": "abc"}, "annotations": {"a/b": "c"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1-2", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "containers": [{
                "name": "web", "image": "nginx", "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File", "env": (0..4).map(variable).collect::<Vec<_>>(),
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "securityContext": {}, "schedulerName": "default-scheduler", "enableServiceLinks": true,
        },
        "status": {"phase": "Pending", "qosClass": "Burstable"},
    })
}

fn lease(time: u32) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "n", "namespace": "kube-node-lease", "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"}]},
        "spec": {"holderIdentity": "n", "leaseDurationSeconds": 40, "renewTime": format!("2026-01-01T00:00:00.{time:06}Z")},
    })
}

#[test]
#[ignore = "prints timings"]
fn creates_and_heartbeats() {
    let writer = Writer { manager: "m", api_version: "v1", subresource: "", now: "2026-01-01T00:00:01Z" };
    let (root, reset) = (Root::builtin("", "v1", "Pod").unwrap(), Reset::of("", "Pod", "", true));
    let mut pods: Vec<Value> = (0..ROUNDS).map(|_| pod()).collect();
    let begun = Instant::now();
    for pod in &mut pods {
        track(&root, None, pod, &writer, &reset);
    }
    let create = begun.elapsed() / ROUNDS;
    let mut phases = pods.clone();
    let status = Reset::of("", "Pod", "status", true);
    let kubelet = Writer { subresource: "status", manager: "kubelet", ..writer };
    let begun = Instant::now();
    for (pod, live) in phases.iter_mut().zip(&pods) {
        pod["status"]["phase"] = "Running".into();
        track(&root, Some(live), pod, &kubelet, &status);
    }
    let first_status = begun.elapsed() / ROUNDS;

    let (root, reset) =
        (Root::builtin("coordination.k8s.io", "v1", "Lease").unwrap(), Reset::of("", "Lease", "", false));
    let mut live = lease(0);
    track(&root, None, &mut live, &writer, &reset);
    let mut leases: Vec<Value> = (1..=ROUNDS).map(lease).collect();
    for lease in &mut leases {
        lease["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
    }
    let later = Writer { now: "2026-01-01T00:00:09Z", ..writer };
    let begun = Instant::now();
    for lease in &mut leases {
        track(&root, Some(&live), lease, &later, &reset);
    }
    let renew = begun.elapsed() / ROUNDS;
    assert_eq!(leases[0]["metadata"]["managedFields"][0]["time"], later.now);
    println!("pod create {create:?}, first status of a pod {first_status:?}, lease renewal {renew:?}");
}
