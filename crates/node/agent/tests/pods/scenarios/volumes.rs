//! Environment and volumes of running pods.

use std::time::Instant;

use serde_json::json;

use super::{phase, ready};
use crate::cluster::{Cluster, eventually};

pub async fn environment_and_volumes(cluster: &mut Cluster) {
    cluster
        .create("v1", "ConfigMap", json!({"metadata": {"name": "conf"}, "data": {"a": "1", "b": "2"}}))
        .await;
    cluster
        .create("v1", "Secret", json!({"metadata": {"name": "hush"}, "stringData": {"key": "psst"}}))
        .await;
    let script = "echo $A $P_b $NAME $IP $(nproc >/dev/null && echo ok); cat /conf/a /conf/sub/b /hush/key; ls /both | wc -l; \
        ls -l /hush/..data/key | cut -c1-10; cat /proj/name; echo; echo token=$(wc -c < /proj/token); cat /etc/hosts | tail -1; \
        mount | grep -c ' /hush '; cat /one; echo into > /empty/x; ls /dir";
    let mounts =
        [("conf", "/conf"), ("hush", "/hush"), ("proj", "/proj"), ("empty", "/empty"), ("both", "/both")];
    let mut mounts: Vec<_> =
        mounts.iter().map(|(name, path)| json!({"name": name, "mountPath": path})).collect();
    mounts.push(json!({"name": "conf", "mountPath": "/one", "subPath": "a"}));
    mounts.push(json!({"name": "empty", "mountPath": "/dir", "subPathExpr": "deep/$(NAME)"}));
    let spec = json!({
        "restartPolicy": "Never", "serviceAccountName": "default",
        "hostAliases": [{"ip": "192.0.2.8", "hostnames": ["alias"]}],
        "volumes": [
            {"name": "conf", "configMap": {"name": "conf", "items": [{"key": "a", "path": "a"}, {"key": "b", "path": "sub/b"}]}},
            {"name": "hush", "secret": {"secretName": "hush", "defaultMode": 0o400}},
            {"name": "proj", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
            {"name": "both", "configMap": {"name": "none", "optional": true}},
            {"name": "empty", "emptyDir": {}}],
        "containers": [{"command": ["sh", "-c", script], "volumeMounts": mounts,
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "conf"}}],
            "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "A", "value": "<$(NAME)>"}]}]});
    cluster.run("vols", spec).await;
    let pod = cluster.wait("vols", "ended", |pod| matches!(phase(pod), "Succeeded" | "Failed")).await;
    let log = cluster.kubectl_ok(&["logs", "vols"]).await;
    let ip = pod.status.unwrap().pod_ip.unwrap();
    assert!(log.starts_with(&format!("<vols> 2 vols {ip} ok\n12psst")), "{log}");
    for text in ["-r--------", "vols", "192.0.2.8\talias", "\n1\n1"] {
        assert!(log.contains(text), "{text:?} not in\n{log}");
    }
    let token: usize = log.lines().find_map(|line| line.strip_prefix("token=")).unwrap().parse().unwrap();
    assert!(token > 100, "{log}");
    cluster.delete("vols").await;
}

pub async fn config_maps_are_updated_while_running(cluster: &mut Cluster) {
    cluster.create("v1", "ConfigMap", json!({"metadata": {"name": "live"}, "data": {"k": "old"}})).await;
    let spec = json!({"volumes": [{"name": "v", "configMap": {"name": "live"}}],
        "containers": [{"command": ["sleep", "1000"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]});
    cluster.run("live", spec).await;
    cluster.wait("live", "ready", ready).await;
    assert_eq!(cluster.kubectl_ok(&["exec", "live", "--", "cat", "/v/k"]).await, "old");
    cluster
        .kubectl_ok(&["patch", "configmap", "live", "--type=merge", "-p", r#"{"data":{"k":"new"}}"#])
        .await;
    let start = Instant::now();
    eventually("the new value in the pod", async || {
        cluster.kubectl_ok(&["exec", "live", "--", "cat", "/v/k"]).await == "new"
    })
    .await;
    println!("   ConfigMap change seen in the pod within {} ms", start.elapsed().as_millis());
    cluster.delete("live").await;
}
