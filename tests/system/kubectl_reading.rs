//! kubectl: get in all its forms, describe, explain, api-resources, watch, wait, auth.

use crate::support::{Cluster, until};

/// A Deployment with a Service, a bare pod with labels.
const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: httpd
        image: busybox:1
        command: [httpd, -f, -p, '8080', -h, /etc]
        ports: [{name: http, containerPort: 8080}]
        resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: lone, labels: {app: lone}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: 'busybox:1', command: [sleep, infinity], env: [{name: COLOUR, value: blue}]}]
";

#[test]
fn get_prints_what_people_know() {
    let c = Cluster::start();
    c.apply(WEB);
    c.k("rollout status deployment/web --timeout=60s");
    c.k("wait pod/lone --for=condition=Ready --timeout=60s");

    let table = c.k("get pods");
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    );
    assert_eq!(table.lines().count(), 4, "{table}");
    let wide = c.k("get pods -o wide");
    for column in ["IP", "NODE", "NOMINATED NODE", "READINESS GATES", "node-a", "10.42.0."] {
        assert!(wide.contains(column), "{wide}");
    }
    let line = c.k("get deployment web --no-headers");
    assert_eq!(line.split_whitespace().take(4).collect::<Vec<_>>(), ["web", "2/2", "2", "2"]);
    let line = c.k("get service web --no-headers -o wide");
    assert!(line.contains("ClusterIP") && line.contains("80/TCP") && line.contains("app=web"), "{line}");
    let line = c.k("get node node-a --no-headers");
    assert!(line.split_whitespace().nth(1) == Some("Ready") && line.contains("v1.37"), "{line}");
    assert_eq!(c.k("get pods -l app=web,tier=front -o name").lines().count(), 2);
    assert_eq!(c.k("get pods -l 'app notin (web)' -o name").trim(), "pod/lone");
    assert_eq!(c.k("get pods --field-selector metadata.name=lone -o name").trim(), "pod/lone");
    assert_eq!(c.k("get pods --field-selector status.phase!=Running -o name"), "");
    assert_eq!(c.k("get pods --field-selector spec.nodeName=node-a -o name").lines().count(), 3);
    assert_eq!(c.k("get po lone -o jsonpath='{.spec.containers[0].env[0].value}'"), "blue");
    let custom = c.k("get pods lone -o custom-columns=N:.metadata.name,I:.spec.containers[*].image");
    assert!(custom.lines().nth(1).unwrap().split_whitespace().eq(["lone", "busybox:1"]), "{custom}");
    assert!(c.k("get pods --sort-by=.metadata.name").lines().nth(1).unwrap().starts_with("lone"));
    assert!(c.k("get pod lone -o yaml").contains("phase: Running"));
    let json: serde_json::Value = serde_json::from_str(&c.k("get pods -o json")).unwrap();
    assert_eq!((json["kind"].as_str(), json["items"].as_array().unwrap().len()), (Some("List"), 3));
    let all = c.k("get all --all-namespaces");
    for name in
        ["pod/lone", "service/kubernetes", "service/web", "deployment.apps/web", "replicaset.apps/web-"]
    {
        assert!(all.contains(name), "{all}");
    }
    assert!(c.k("get pods --show-labels").contains("app=web,"));
    assert!(c.k("get pods -L tier").lines().next().unwrap().ends_with("TIER"));
    assert!(c.k("get pods --chunk-size=1").lines().count() == 4);
    assert_eq!(c.k("get --raw /healthz"), "ok");
    c.sh("kubectl get pod nosuch").fails(&[r#"Error from server (NotFound): pods "nosuch" not found"#]);
    c.sh("kubectl get gadgets").fails(&[r#"the server doesn't have a resource type "gadgets""#]);
    assert!(c.k("cluster-info").contains("https://127.0.0.1:6443"));
    assert!(c.k("version").contains("Server Version: v1.37"));
}

#[test]
fn describe_tells_the_story() {
    let c = Cluster::start();
    c.apply(WEB);
    c.k("rollout status deployment/web --timeout=60s");
    c.wait_ready("lone");
    // Events are recorded in the background.
    until("events in describe", || {
        let pod = c.k("describe pod lone");
        let expected =
            ["COLOUR:  blue", "Status:           Running", "Scheduled", "Pulled", "Created", "Started"];
        if expected.iter().all(|word| pod.contains(word)) { Ok(()) } else { Err(pod) }
    });
    let deployment = c.k("describe deployment web");
    for word in [
        "2 desired | 2 updated | 2 total | 2 available",
        "RollingUpdate",
        "ScalingReplicaSet",
        "NewReplicaSet:",
    ] {
        assert!(deployment.contains(word), "{deployment}");
    }
    until("endpoints in describe", || {
        let service = c.k("describe service web");
        let endpoints =
            service.lines().find(|line| line.starts_with("Endpoints:")).unwrap_or_default().to_owned();
        if endpoints.matches(":8080").count() == 2 { Ok(()) } else { Err(service) }
    });
    let node = c.k("describe node node-a");
    for word in [
        "KubeletReady",
        "Allocatable:",
        "PodCIDR:",
        "Non-terminated Pods:          (3 in total)",
        "20m",
        "Lease:",
    ] {
        assert!(node.contains(word), "no {word:?} in {node}");
    }
    assert!(c.k("events --for pod/lone").contains("Started"));
    assert!(c.k("describe namespace default").contains("Active"));
}

#[test]
fn discovery_and_explain_have_the_words_of_kubernetes() {
    let c = Cluster::start();
    let resources = c.k("api-resources");
    let rows: Vec<String> =
        resources.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in [
        "pods po v1 true Pod",
        "deployments deploy apps/v1 true Deployment",
        "cronjobs cj batch/v1 true CronJob",
        "endpointslices discovery.k8s.io/v1 true EndpointSlice",
        "customresourcedefinitions crd,crds apiextensions.k8s.io/v1 false CustomResourceDefinition",
    ] {
        assert!(rows.iter().any(|found| found == row), "no {row:?} in\n{resources}");
    }
    assert!(c.k("api-resources --namespaced=false -o name").lines().any(|name| name == "nodes"));
    assert!(c.k("api-versions").lines().any(|group| group == "discovery.k8s.io/v1"));
    let containers = c.k("explain pod.spec.containers");
    for prose in [
        "FIELD: containers <[]Container>",
        "List of containers belonging to the pod.",
        "livenessProbe\t<Probe>",
    ] {
        assert!(containers.contains(prose), "no {prose:?} in\n{containers}");
    }
    let policy = c.k("explain deploy.spec.strategy.rollingUpdate.maxSurge");
    assert!(policy.contains("<IntOrString>") && policy.contains("maximum number of pods"), "{policy}");
    assert!(c.k("explain job --recursive").contains("backoffLimit"));
    c.sh("kubectl explain pod.spec.nosuch").fails(&["field \"nosuch\" does not exist"]);
    assert_eq!(c.k("auth can-i delete nodes").trim(), "yes");
    assert!(c.k("auth whoami").contains("kubernetes-admin"));
    // Plain discovery, as older clients ask.
    let groups = c.get("/apis");
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "apps"), "{groups}");
    let swagger = c.get("/openapi/v2");
    assert!(swagger["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
}

#[test]
fn watches_and_waits_see_changes() {
    let c = Cluster::start();
    let mut watch = c.spawn("watch", "kubectl get pods -w");
    let mut names = c.spawn("names", "kubectl get configmaps -w --output-watch-events");
    names.says("ADDED      kube-root-ca.crt");
    c.apply(WEB);
    let waiting =
        c.spawn("wait", "kubectl wait pod/lone --for=jsonpath='{.status.phase}'=Running --timeout=60s");
    waiting.says("pod/lone condition met");
    watch.says("lone");
    watch.says("Running");
    c.k("create configmap colours --from-literal=a=1");
    names.says("ADDED      colours");
    c.k("label configmap colours x=y");
    names.says("MODIFIED   colours");
    c.k("delete configmap colours");
    names.says("DELETED    colours");
    let mut gone = c.spawn("gone", "kubectl wait pod/lone --for=delete --timeout=60s");
    c.k("delete pod lone");
    assert_eq!(gone.wait(), 0, "{}", gone.output());
    watch.says("Terminating");
    c.sh("kubectl wait pod -l app=web --for=condition=Nosuch --timeout=1s").fails(&["timed out waiting"]);
    let _ = (watch.child.kill(), names.child.kill());
}
