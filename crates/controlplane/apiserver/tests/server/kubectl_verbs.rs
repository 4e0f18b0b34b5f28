//! The real kubectl against the server over TLS.

use std::{process::Stdio, time::Duration};

use crate::kubectl::Kubectl;
use crate::support::Server;
use serde_json::Value;

const DEPLOYMENT: &str = "apiVersion: apps/v1
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
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_applied_changed_and_deleted() {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    let out = kubectl.ok(&["apply", "--dry-run=server", "-f", "-"], DEPLOYMENT).await;
    assert!(out.contains("deployment.apps/web created (server dry run)"), "{out}");
    let out = kubectl.ok(&["apply", "-f", "-"], DEPLOYMENT).await;
    assert!(out.contains("deployment.apps/web created") && out.contains("service/web created"), "{out}");
    let out = kubectl.ok(&["apply", "-f", "-"], DEPLOYMENT).await;
    assert!(
        out.contains("deployment.apps/web unchanged") && out.contains("configmap/settings unchanged"),
        "{out}"
    );
    let out = kubectl.ok(&["apply", "-f", "-"], &DEPLOYMENT.replace("blue", "green")).await;
    assert!(out.contains("configmap/settings configured"), "{out}");
    let out = kubectl.ok(&["get", "deploy,svc,cm", "-o", "wide"], "").await;
    assert!(out.contains("READY") && out.contains("CLUSTER-IP") && out.contains("DATA"), "{out}");
    let out = kubectl.ok(&["get", "cm", "settings", "-o", "yaml"], "").await;
    assert!(out.contains("color: green"), "{out}");
    let out: Value = serde_json::from_str(&kubectl.ok(&["get", "cm", "-A", "-o", "json"], "").await).unwrap();
    assert_eq!(out["kind"], "List");
    kubectl.ok(&["label", "cm", "settings", "tier=front"], "").await;
    kubectl.ok(&["annotate", "cm", "settings", "note=hello"], "").await;
    let out = kubectl.ok(&["get", "cm", "-l", "tier=front", "-o", "name"], "").await;
    assert_eq!(out.trim(), "configmap/settings");
    kubectl.ok(&["patch", "cm", "settings", "-p", r#"{"data":{"size":"2"}}"#], "").await;
    kubectl
        .ok(&["patch", "cm", "settings", "--type=json", "-p", r#"[{"op":"remove","path":"/data/size"}]"#], "")
        .await;
    kubectl.ok(&["scale", "deploy/web", "--replicas=5"], "").await;
    let out = kubectl.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"], "").await;
    assert_eq!(out, "5");
    kubectl.ok(&["set", "image", "deploy/web", "web=nginx:2"], "").await;
    let out = kubectl.ok(&["describe", "deploy", "web"], "").await;
    assert!(out.contains("nginx:2"), "{out}");
    let out =
        kubectl.ok(&["wait", "cm/settings", "--for=jsonpath={.data.color}=green", "--timeout=5s"], "").await;
    assert!(out.contains("condition met"), "{out}");
    let out = kubectl.ok(&["delete", "deploy,svc", "web"], "").await;
    assert!(out.contains("deleted"), "{out}");
    let err = kubectl.bad(&["get", "deploy", "web"], "").await;
    assert_eq!(err.trim(), "Error from server (NotFound): deployments.apps \"web\" not found");
    let err =
        kubectl.bad(&["create", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: BAD}\n").await;
    assert!(err.contains("The ConfigMap \"BAD\" is invalid: metadata.name: Invalid value: \"BAD\""), "{err}");
    let err = kubectl
        .bad(&["apply", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ncolour: red\n")
        .await;
    assert!(err.contains("unknown field \"colour\""), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_finds_its_way() {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    let out = kubectl.ok(&["api-resources"], "").await;
    assert!(out.contains("deployments") && out.contains("apps/v1") && out.contains("po"), "{out}");
    let out = kubectl.ok(&["api-versions"], "").await;
    assert!(out.contains("batch/v1"), "{out}");
    let out = kubectl.ok(&["version"], "").await;
    assert!(out.contains("v1.37.0+sampan"), "{out}");
    let out = kubectl.ok(&["auth", "can-i", "create", "pods"], "").await;
    assert_eq!(out.trim(), "yes");
    let out = kubectl.ok(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"], "").await;
    assert_eq!(out, "kubectl");
    for n in 0..7 {
        server.config_map(&format!("m{n}")).await;
    }
    let out = kubectl.ok(&["get", "cm", "--chunk-size=2", "-o", "name"], "").await;
    assert_eq!(out.lines().count(), 7, "{out}");
    kubectl.ok(&["create", "ns", "other"], "").await;
    kubectl.ok(&["create", "sa", "robot", "-n", "other"], "").await;
    let token = kubectl.ok(&["create", "token", "robot", "-n", "other"], "").await;
    assert_eq!(token.trim().split('.').count(), 3);
    let err = kubectl.bad(&["get", "nonsense"], "").await;
    assert!(err.contains("the server doesn't have a resource type \"nonsense\""), "{err}");
    let out = kubectl.ok(&["get", "--raw", "/readyz?verbose"], "").await;
    assert!(out.contains("readyz check passed"), "{out}");
    let out = kubectl.ok(&["explain", "pod.spec.containers"], "").await;
    assert!(out.contains("image"), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_watches() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    server.config_map("first").await;
    let mut child =
        kubectl.command(&["get", "cm", "--watch", "-o", "name"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
        line.expect("kubectl printed nothing").unwrap().unwrap()
    };
    assert_eq!(next().await, "configmap/first");
    server.config_map("second").await;
    assert_eq!(next().await, "configmap/second");
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_edits() {
    let server = Server::start().await;
    let kubectl = Kubectl::admin(&server);
    server.config_map("edited").await;
    let editor = server.dir.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/a: b/a: changed/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = kubectl.command(&["edit", "cm", "edited"]).env("EDITOR", &editor).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = kubectl.ok(&["get", "cm", "edited", "-o", "jsonpath={.data.a}"], "").await;
    assert_eq!(out, "changed");
    server.account("default").await;
    kubectl.ok(&["run", "one", "--image=busybox", "--", "true"], "").await;
    let out = kubectl.ok(&["get", "pods", "-o", "wide"], "").await;
    assert!(out.contains("Pending") && out.contains("NOMINATED NODE"), "{out}");
    let err = kubectl.bad(&["logs", "one"], "").await;
    assert!(err.contains("pod one does not have a host assigned"), "{err}");
    kubectl.ok(&["delete", "pod", "one", "--wait"], "").await;
    kubectl.ok(&["create", "deployment", "d", "--image=nginx"], "").await;
    kubectl.ok(&["expose", "deployment", "d", "--port=80"], "").await;
    kubectl.ok(&["create", "secret", "generic", "s", "--from-literal=k=v"], "").await;
    kubectl.ok(&["create", "job", "j", "--image=busybox"], "").await;
    kubectl.ok(&["create", "cronjob", "c", "--image=busybox", "--schedule=* * * * *"], "").await;
    let out = kubectl.ok(&["get", "all"], "").await;
    assert!(out.contains("deployment.apps/d") && out.contains("job.batch/j"), "{out}");
    kubectl.ok(&["describe", "svc", "d"], "").await;
    let differs = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: edited}\ndata: {a: other}\n";
    let (code, out, _) = kubectl.run(&["diff", "-f", "-"], differs).await;
    assert!(code == 1 && out.contains("+  a: other"), "{out}");
    kubectl
        .ok(
            &["replace", "-f", "-"],
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: edited}\ndata: {n: m}\n",
        )
        .await;
    kubectl.ok(&["delete", "all", "--all"], "").await;
}
