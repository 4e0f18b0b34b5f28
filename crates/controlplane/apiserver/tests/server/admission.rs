//! The plugins, over the whole way of a request.

use crate::support::{Answer, Server, answer, pod};
use bytes::Bytes;
use http_body_util::Full;
use sampan_apiserver::UserInfo;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn message(answer: &Answer) -> String {
    answer.body["message"].as_str().unwrap_or_default().to_owned()
}

async fn make(server: &Server, path: &str, body: Value) -> Value {
    let made = server.post(path, &body).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body
}

#[tokio::test]
async fn limit_ranges_fill_in_and_refuse() {
    let server = Server::start().await;
    server.account("default").await;
    let limits = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "200m"}, "max": {"cpu": "500m"}}]},
    });
    make(&server, "/api/v1/namespaces/default/limitranges", limits).await;
    let made = make(&server, PODS, pod("a", &json!({}))).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"]["cpu"], "200m");
    let note = made["metadata"]["annotations"]["kubernetes.io/limit-ranger"].as_str().unwrap();
    assert!(note.starts_with("LimitRanger plugin set: cpu"), "{note}");
    let big =
        json!([{"name": "c", "image": "x", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}]);
    let refused = server.post(PODS, &pod("b", &json!({"containers": big}))).await;
    assert_eq!(
        (refused.code, message(&refused).as_str()),
        (403, "pods \"b\" is forbidden: maximum cpu usage per Container is 500m, but limit is 1")
    );
}

#[tokio::test]
async fn classes_give_pods_their_priority() {
    let server = Server::start().await;
    server.account("default").await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    assert_eq!(server.get(&format!("{classes}/system-node-critical")).await.body["value"], 2_000_001_000);
    let unknown = server.post(PODS, &pod("a", &json!({"priorityClassName": "none"}))).await;
    assert_eq!(message(&unknown), "pods \"a\" is forbidden: no PriorityClass with name none was found");
    let class = |name: &str, value: i64, default: bool| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
               "value": value, "globalDefault": default})
    };
    make(&server, classes, class("high", 1000, false)).await;
    let made = make(&server, PODS, pod("a", &json!({"priorityClassName": "high"}))).await;
    assert_eq!(made["spec"]["priority"], 1000);
    assert_eq!(made["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    let wrong = server.post(PODS, &pod("b", &json!({"priorityClassName": "high", "priority": 7}))).await;
    assert_eq!(
        message(&wrong),
        "pods \"b\" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority \
         admission controller computed 1000 from the given PriorityClass name"
    );
    make(&server, classes, class("usual", 5, true)).await;
    let made = make(&server, PODS, pod("c", &json!({}))).await;
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(5), &json!("usual")));
    let second = server.post(classes, &class("other", 6, true)).await;
    assert_eq!(
        message(&second),
        "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is already marked as default. \
         Only one default can exist"
    );
}

#[tokio::test]
async fn default_classes_of_claims_and_ingresses() {
    let server = Server::start().await;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "p",
        "metadata": {"name": "s", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    });
    make(&server, "/apis/storage.k8s.io/v1/storageclasses", class).await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let made = make(&server, claims, claim).await;
    assert_eq!(made["spec"]["storageClassName"], "s");
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = server.merge(&format!("{claims}/c"), &more).await;
    assert!(matches!(refused.code, 403 | 422), "{}", refused.body);
}

#[tokio::test]
async fn runtime_classes_bring_overhead_and_place() {
    let server = Server::start().await;
    server.account("default").await;
    let class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "r"}, "handler": "h",
        "overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"kind": "fast"}},
    });
    make(&server, "/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let made = make(&server, PODS, pod("a", &json!({"runtimeClassName": "r"}))).await;
    assert_eq!(made["spec"]["overhead"]["cpu"], "100m");
    assert_eq!(made["spec"]["nodeSelector"]["kind"], "fast");
    let missing = server.post(PODS, &pod("b", &json!({"runtimeClassName": "x"}))).await;
    assert_eq!(message(&missing), "pods \"b\" is forbidden: pod rejected: RuntimeClass \"x\" not found");
    let own = server.post(PODS, &pod("b", &json!({"overhead": {"cpu": "1"}}))).await;
    assert_eq!(
        message(&own),
        "pods \"b\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
    );
}

#[tokio::test]
async fn pod_security_enforces_warns_and_tells_of_pods_that_are_there() {
    let server = Server::start().await;
    server.account("default").await;
    let privileged = json!([{"name": "c", "image": "x", "securityContext": {"privileged": true}}]);
    make(&server, PODS, pod("old", &json!({"containers": privileged}))).await;
    let labels = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let path = "/api/v1/namespaces/default";
    let tightened = server.merge(path, &labels("baseline")).await;
    assert_eq!(tightened.code, 200, "{}", tightened.body);
    let told: Vec<&str> = tightened.headers.get_all("warning").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(
        told,
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \
         \\\"baseline:latest\\\"\"",
            "299 - \"old: privileged\"",
        ]
    );
    let refused = server.post(PODS, &pod("new", &json!({"containers": privileged}))).await;
    assert_eq!(
        (refused.code, message(&refused).as_str()),
        (
            403,
            "pods \"new\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must \
             not set securityContext.privileged=true)"
        )
    );
    make(&server, PODS, pod("plain", &json!({}))).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": privileged}}},
    });
    let made = server.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let warning = made.headers["warning"].to_str().unwrap();
    assert!(warning.contains("would violate PodSecurity \\\"baseline:latest\\\": privileged"), "{warning}");
    let bad = server.merge(path, &labels("strict")).await;
    assert_eq!(bad.code, 422, "{}", bad.body);
    assert!(message(&bad).contains("must be one of privileged, baseline, restricted"), "{}", message(&bad));
}

async fn as_node(server: &Server, method: &str, path: &str, body: &Value) -> Answer {
    let user = UserInfo::new("system:node:n1", &["system:nodes", "system:masters"]);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(
            "content-type",
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
        )
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    answer(server.handle.client(user), request).await
}

#[tokio::test]
async fn a_node_changes_itself_and_nothing_else() {
    let server = Server::start().await;
    server.account("default").await;
    let node = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let other = as_node(&server, "POST", "/api/v1/nodes", &node("n2", json!({}))).await;
    assert_eq!(
        message(&other),
        "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
    );
    let role = json!({"node-role.kubernetes.io/x": ""});
    let refused = as_node(&server, "POST", "/api/v1/nodes", &node("n1", role)).await;
    assert_eq!(
        message(&refused),
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: node-role.kubernetes.io/x"
    );
    let made =
        as_node(&server, "POST", "/api/v1/nodes", &node("n1", json!({"kubernetes.io/os": "linux"}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let untainted = as_node(&server, "PATCH", "/api/v1/nodes/n1", &json!({"spec": {"taints": []}})).await;
    assert_eq!(message(&untainted), "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints");
    let plain = as_node(&server, "POST", PODS, &pod("p", &json!({}))).await;
    assert!(message(&plain).contains("can only create mirror pods"), "{}", message(&plain));
    make(&server, PODS, pod("p", &json!({"nodeName": "n2"}))).await;
    let deleted = as_node(&server, "DELETE", &format!("{PODS}/p"), &json!({})).await;
    assert_eq!(
        message(&deleted),
        "pods \"p\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set to itself"
    );
}
