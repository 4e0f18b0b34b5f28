//! The agent goes and comes back; pods do not notice.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::json;

use super::{container, phase, ready};
use crate::cluster::{Cluster, eventually};

pub async fn the_agent_adopts_running_pods(cluster: &mut Cluster) {
    let spec = json!({"containers": [{"command": ["sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done"],
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}]});
    cluster.run("stays", spec).await;
    let before = cluster.wait("stays", "ready", ready).await;
    cluster.restart_agent().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = cluster.wait("stays", "ready", ready).await;
    let (old, new) = (container(&before), container(&after));
    assert_eq!((old.container_id, 0), (new.container_id, new.restart_count), "nothing was restarted");
    assert_eq!(before.status.as_ref().unwrap().pod_ip, after.status.as_ref().unwrap().pod_ip);
    let condition = |pod: &k8s_openapi::api::core::v1::Pod| {
        let all = pod.status.clone().unwrap().conditions.unwrap();
        all.into_iter().find(|condition| condition.type_ == "Ready").unwrap().last_transition_time
    };
    assert_eq!(condition(&before), condition(&after), "readiness did not flap");
    eventually("fresh log lines", async || {
        let log = cluster.kubectl_ok(&["logs", "stays", "--tail=1"]).await;
        log.trim().parse::<u32>().is_ok_and(|number| number > 5)
    })
    .await;
    assert!(cluster.kubectl_ok(&["exec", "stays", "--", "echo", "hi"]).await == "hi\n");
    cluster.delete("stays").await;
}

pub async fn ends_and_deletions_while_away(cluster: &mut Cluster) {
    let flag = cluster.dir.path().join("flag");
    std::fs::create_dir_all(&flag).unwrap();
    let waits = json!({"volumes": [{"name": "f", "hostPath": {"path": flag}}], "containers": [{
        "command": ["sh", "-c", "while ! test -e /f/go; do sleep 0.05; done; exit 4"], "volumeMounts": [{"name": "f", "mountPath": "/f"}]}]});
    let mut never = waits.clone();
    never["restartPolicy"] = json!("Never");
    cluster.run("ends", never).await;
    let mut always = waits;
    always["restartPolicy"] = json!("Always");
    cluster.run("again", always).await;
    cluster.run("goes", json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    cluster.run("forced", json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    for name in ["ends", "again", "goes", "forced"] {
        cluster.wait(name, "ready", ready).await;
    }
    let forced = cluster.pods().get("forced").await.unwrap().metadata.uid.unwrap();
    cluster
        .restart_agent_after(async |cluster| {
            std::fs::write(flag.join("go"), "").unwrap();
            cluster.pods().delete("goes", &DeleteParams::default()).await.unwrap();
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            cluster.pods().delete("forced", &now).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        })
        .await;
    let pod = cluster.wait("ends", "failed", |pod| phase(pod) == "Failed").await;
    assert_eq!(container(&pod).state.unwrap().terminated.unwrap().exit_code, 4);
    cluster.wait("again", "restarted", |pod| container(pod).restart_count >= 1).await;
    cluster.wait_gone("goes").await;
    let dir = cluster.dir.path().join("pods").join(&forced);
    eventually("files of the forced pod to go", async || !dir.exists()).await;
    cluster.delete("ends").await;
    cluster.delete("again").await;
}

/// The process was killed between starting a container and writing that down.
pub async fn an_unrecorded_container_is_not_doubled(cluster: &mut Cluster) {
    cluster.run("once", json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    let before = cluster.wait("once", "ready", ready).await;
    let uid = before.metadata.uid.clone().unwrap();
    cluster
        .restart_agent_after(async |cluster| {
            let path = cluster.record_path(&uid);
            let mut record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            record["containers"] = json!({});
            std::fs::write(&path, record.to_string()).unwrap();
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = cluster.wait("once", "ready", ready).await;
    assert_eq!(container(&before), container(&after));
    assert_eq!(cluster.containers(&uid).await, 1);
    cluster.delete("once").await;
}

pub async fn a_dead_shim_is_replaced(cluster: &mut Cluster) {
    cluster.run("shim", json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    let pod = cluster.wait("shim", "ready", ready).await;
    let id = container(&pod).container_id.unwrap();
    let shim = cluster.shim_pid(pod.metadata.uid.as_deref().unwrap());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL).unwrap();
    let pod = cluster.wait("shim", "restarted", |pod| container(pod).restart_count == 1 && ready(pod)).await;
    assert_ne!(container(&pod).container_id.unwrap(), id);
    cluster.delete("shim").await;
}

/// The controllers give up a node that was silent; it is back as soon as it can say so. And a Node that was deleted and
/// made anew has a lease of its own.
pub async fn a_node_says_how_it_is_whatever_others_wrote(cluster: &mut Cluster) {
    let lost = r#"{"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}}"#;
    let node = ["get", "node", "node-a", "-o"];
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let get = async |how: &str| cluster.kubectl(&[&node[..], &[how]].concat()).await.stdout;
    cluster.kubectl_ok(&["patch", "node", "node-a", "--subresource=status", "-p", lost]).await;
    eventually("the node is Ready again", async || get(ready).await == b"True").await;
    let uid = "jsonpath={.metadata.uid}";
    let before = get(uid).await;
    cluster.kubectl_ok(&["delete", "node", "node-a"]).await;
    eventually("it is there again", async || {
        let now = get(uid).await;
        !now.is_empty() && now != before && get(ready).await == b"True"
    })
    .await;
    // As the collector does.
    cluster.kubectl_ok(&["-n", "kube-node-lease", "delete", "lease", "node-a", "--ignore-not-found"]).await;
    let owner = "jsonpath={.metadata.ownerReferences[0].uid}";
    eventually("its lease is its own", async || {
        let lease = ["-n", "kube-node-lease", "get", "lease", "node-a", "-o", owner];
        cluster.kubectl(&lease).await.stdout == get(uid).await
    })
    .await;
}
