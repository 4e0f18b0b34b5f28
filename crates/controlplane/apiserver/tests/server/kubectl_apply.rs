//! `kubectl apply --server-side`, `diff --server-side`, `--prune`, and the move from client-side apply.

use crate::kubectl::Kubectl;
use crate::support::Server;

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: nginx, ports: [{containerPort: 80}]}
";

const SSA: [&str; 4] = ["apply", "--server-side", "-f", "-"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_conflict_until_they_are_forced() {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    let out = kubectl.ok(&SSA, WEB).await;
    assert!(out.contains("deployment.apps/web serverside-applied"), "{out}");
    let out = kubectl.ok(&["get", "deploy", "web", "--show-managed-fields", "-o", "yaml"], "").await;
    assert!(out.contains("manager: kubectl") && out.contains("k:{\"name\":\"web\"}:"), "{out}");
    let other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let changed = WEB.replace("replicas: 2", "replicas: 3");
    let err = kubectl.bad(&other, &changed).await;
    assert!(err.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas"), "{err}");
    let mut forced = other.to_vec();
    forced.push("--force-conflicts");
    kubectl.ok(&forced, &changed).await;
    let out = kubectl.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "").await;
    assert_eq!(out, "3");
    kubectl.ok(&["scale", "deploy", "web", "--replicas=5"], "").await;
    let err = kubectl.bad(&other, &changed).await;
    assert!(err.contains("with subresource \"scale\" using apps/v1: .spec.replicas"), "{err}");
    let typo = WEB.replace("replicas", "replicaz");
    let err = kubectl.bad(&["apply", "--server-side", "--validate=false", "-f", "-"], &typo).await;
    assert!(err.contains(".spec.replicaz: field not declared in schema"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differences_are_shown_and_nothing_is_changed() {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    kubectl.ok(&SSA, WEB).await;
    let diff = ["diff", "--server-side", "-f", "-"];
    assert_eq!(kubectl.ok(&diff, WEB).await, "");
    let (code, out, err) = kubectl.run(&diff, &WEB.replace("image: nginx", "image: httpd")).await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("-      - image: nginx") && out.contains("+      - image: httpd"), "{out}");
    let before =
        kubectl.ok(&["get", "deploy", "web", "-o", "jsonpath={.metadata.resourceVersion}"], "").await;
    kubectl.ok(&SSA, WEB).await;
    let after = kubectl.ok(&["get", "deploy", "web", "-o", "jsonpath={.metadata.resourceVersion}"], "").await;
    assert_eq!(before, after, "applied again: nothing is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_side_applies_move_over() {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    kubectl.ok(&["apply", "-f", "-"], WEB).await;
    let moved = WEB.replace("replicas: 2", "replicas: 4").replace(", ports: [{containerPort: 80}]", "");
    let out = kubectl.ok(&SSA, &moved).await;
    assert!(out.contains("serverside-applied"), "{out}");
    let out = kubectl.ok(&["get", "deploy", "web", "--show-managed-fields", "-o", "json"], "").await;
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    let managers: Vec<_> = object["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap()))
        .collect();
    assert!(managers.contains(&("kubectl", "Apply")), "{managers:?}");
    assert!(!managers.contains(&("kubectl-client-side-apply", "Update")), "{managers:?}");
    assert_eq!(object["spec"]["replicas"], 4);
    assert!(object["spec"]["template"]["spec"]["containers"][0].get("ports").is_none(), "{object}");
    let last = &object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(last.as_str().unwrap().contains("\"replicas\":4"), "{last}");
    let out = kubectl.ok(&["apply", "-f", "-"], &moved.replace("replicas: 4", "replicas: 6")).await;
    assert!(out.contains("configured"), "back again: {out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_applied_is_pruned() {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    let map = |name: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: a}}}}\n---\n")
    };
    let prune = ["apply", "--prune", "-l", "set=a", "--prune-allowlist=core/v1/ConfigMap", "-f", "-"];
    kubectl.ok(&prune, &format!("{}{}", map("one"), map("two"))).await;
    let out = kubectl.ok(&prune, &map("one")).await;
    assert!(out.contains("configmap/two pruned"), "{out}");
    let out = kubectl.ok(&["get", "cm", "-l", "set=a", "-o", "name"], "").await;
    assert_eq!(out.trim(), "configmap/one");
}
