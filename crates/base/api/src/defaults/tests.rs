//! What is filled in, kind by kind; and that filling in twice changes nothing.

use serde_json::{Value, json};

use crate::kinds;

use super::*;

fn applied(group: &str, kind: &str, mut object: Value) -> Value {
    let resource = kinds::by_kind(group, "v1", kind).unwrap();
    apply(resource, &mut object);
    let mut again = object.clone();
    apply(resource, &mut again);
    assert_eq!(again, object, "{kind}: twice is once");
    object
}

#[test]
fn pods() {
    let pod = applied(
        "",
        "Pod",
        json!({ "spec": {
            "serviceAccount": "sa",
            "containers": [{
                "name": "c", "image": "nginx",
                "ports": [{ "containerPort": 80 }],
                "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
                "resources": { "limits": { "cpu": 0.5, "memory": "1024Mi" }, "requests": { "memory": "0.5Gi" } },
                "livenessProbe": { "httpGet": { "port": 80 }, "timeoutSeconds": 0 },
                "readinessProbe": { "grpc": { "port": 1 } },
                "lifecycle": { "preStop": { "httpGet": { "port": 1, "path": "/x" } } },
            }],
            "volumes": [
                { "name": "e" },
                { "name": "h", "hostPath": { "path": "/x" } },
                { "name": "s", "secret": { "secretName": "s" } },
                { "name": "p", "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } },
                    { "downwardAPI": { "items": [{ "path": "n", "fieldRef": { "fieldPath": "metadata.name" } }] } },
                ] } },
            ],
        } }),
    );
    assert_eq!(
        pod,
        json!({ "spec": {
            "serviceAccount": "sa",
            "serviceAccountName": "sa",
            "containers": [{
                "name": "c", "image": "nginx",
                "ports": [{ "containerPort": 80, "protocol": "TCP" }],
                "env": [{ "name": "A", "valueFrom": { "fieldRef": {
                    "fieldPath": "metadata.name", "apiVersion": "v1" } } }],
                "resources": { "limits": { "cpu": "500m", "memory": "1Gi" },
                               "requests": { "cpu": "500m", "memory": "512Mi" } },
                "livenessProbe": { "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" },
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 },
                "readinessProbe": { "grpc": { "port": 1, "service": "" },
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 },
                "lifecycle": { "preStop": { "httpGet": { "port": 1, "path": "/x", "scheme": "HTTP" } } },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "Always",
            }],
            "volumes": [
                { "name": "e", "emptyDir": {} },
                { "name": "h", "hostPath": { "path": "/x", "type": "" } },
                { "name": "s", "secret": { "secretName": "s", "defaultMode": 420 } },
                { "name": "p", "projected": { "defaultMode": 420, "sources": [
                    { "serviceAccountToken": { "path": "t", "expirationSeconds": 3600 } },
                    { "downwardAPI": { "items": [{ "path": "n", "fieldRef": {
                        "fieldPath": "metadata.name", "apiVersion": "v1" } }] } },
                ] } },
            ],
            "enableServiceLinks": true,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "securityContext": {},
            "schedulerName": "default-scheduler",
        } })
    );
}

#[test]
fn pull_policies() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("localhost:5000/nginx", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
        ("nginx:latest@sha256:00", "Always"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(default_pull_policy(image), policy, "{image}");
    }
}

#[test]
fn ports_of_the_host_only_for_pods() {
    let spec = json!({ "hostNetwork": true, "containers": [{ "ports": [{ "containerPort": 80 }] }] });
    let pod = applied("", "Pod", json!({ "spec": spec }));
    assert_eq!(pod.pointer("/spec/containers/0/ports/0/hostPort"), Some(&json!(80)));
    let deployment = applied("apps", "Deployment", json!({ "spec": { "template": { "spec": spec } } }));
    assert_eq!(deployment.pointer("/spec/template/spec/containers/0/ports/0/hostPort"), None);
}

#[test]
fn services() {
    let spec = |spec: Value| applied("", "Service", json!({ "spec": spec }))["spec"].take();
    assert_eq!(
        spec(json!({ "ports": [{ "port": 80 }, { "port": 1, "targetPort": "x" }] })),
        json!({ "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 },
                          { "port": 1, "targetPort": "x", "protocol": "TCP" }],
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"] })
    );
    let node = spec(json!({ "type": "NodePort", "sessionAffinity": "ClientIP" }));
    assert_eq!(node["externalTrafficPolicy"], "Cluster");
    assert_eq!(node["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    let external = spec(json!({ "type": "ExternalName" }));
    assert_eq!(external, json!({ "type": "ExternalName", "sessionAffinity": "None" }));
    assert_eq!(spec(json!({ "type": "LoadBalancer" }))["allocateLoadBalancerNodePorts"], true);
}

#[test]
fn workloads() {
    let deployment = applied("apps", "Deployment", json!({ "spec": { "replicas": 0 } }));
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": "25%" } })
    );
    assert_eq!(deployment["spec"]["progressDeadlineSeconds"], 600);
    assert_eq!(deployment["spec"]["template"]["spec"]["restartPolicy"], "Always");
    assert_eq!(deployment["spec"]["template"]["spec"].get("enableServiceLinks"), None);
    let recreate = applied("apps", "Deployment", json!({ "spec": { "strategy": { "type": "Recreate" } } }));
    assert_eq!(recreate["spec"]["strategy"], json!({ "type": "Recreate" }));
    let set = applied("apps", "StatefulSet", json!({}));
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } })
    );
    let daemon = applied("apps", "DaemonSet", json!({}));
    assert_eq!(
        daemon["spec"]["updateStrategy"]["rollingUpdate"],
        json!({ "maxSurge": 0, "maxUnavailable": 1 })
    );
}

#[test]
fn jobs() {
    let job = applied(
        "batch",
        "Job",
        json!({ "spec": { "template": { "metadata": { "labels": { "a": "b" } } } } }),
    );
    assert_eq!(job["metadata"]["labels"], json!({ "a": "b" }));
    for (key, value) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ("manualSelector", json!(false)),
    ] {
        assert_eq!(job["spec"][key], value, "{key}");
    }
    let wide = applied("batch", "Job", json!({ "spec": { "parallelism": 3, "backoffLimitPerIndex": 1 } }));
    assert_eq!(wide["spec"].get("completions"), None);
    assert_eq!(wide["spec"]["backoffLimit"], i32::MAX);
    let cron = applied("batch", "CronJob", json!({ "spec": { "schedule": "* * * * *" } }));
    assert_eq!(cron["spec"]["concurrencyPolicy"], "Allow");
    assert_eq!(cron["spec"]["successfulJobsHistoryLimit"], 3);
    assert_eq!(cron["spec"]["jobTemplate"]["spec"].get("backoffLimit"), None, "the Job gets its own");
}

#[test]
fn small_kinds() {
    let namespace = applied("", "Namespace", json!({ "metadata": { "name": "n" } }));
    assert_eq!(namespace["metadata"]["labels"], json!({ "kubernetes.io/metadata.name": "n" }));
    assert_eq!(applied("", "Secret", json!({}))["type"], "Opaque");
    let node = applied("", "Node", json!({ "status": { "capacity": { "cpu": "2000m" } } }));
    assert_eq!(node["status"]["allocatable"], json!({ "cpu": "2" }));
    let slice = applied("discovery.k8s.io", "EndpointSlice", json!({ "ports": [{ "port": 1 }] }));
    assert_eq!(slice["ports"][0], json!({ "port": 1, "name": "", "protocol": "TCP" }));
    let endpoints = applied("", "Endpoints", json!({ "subsets": [{ "ports": [{ "port": 1 }] }] }));
    assert_eq!(endpoints["subsets"][0]["ports"][0]["protocol"], "TCP");
}
