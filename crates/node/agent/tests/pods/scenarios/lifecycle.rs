//! Starting, failing, probing, stopping.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{container, phase, ready, waiting};
use crate::cluster::{Cluster, eventually};

fn shell(script: &str) -> serde_json::Value {
    json!(["sh", "-c", script])
}

pub async fn init_containers_run_in_order(cluster: &mut Cluster) {
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({
        "initContainers": [
            {"name": "one", "command": shell("echo one >> /v/log"), "volumeMounts": mount},
            {"name": "side", "restartPolicy": "Always", "command": shell("echo side >> /v/log; exec sleep 1000"), "volumeMounts": mount},
            {"name": "two", "command": shell("echo two >> /v/log"), "volumeMounts": mount}],
        "containers": [{"command": shell("echo main >> /v/log; cat /v/log; exec sleep 1000"), "volumeMounts": mount}],
        "volumes": [{"name": "v", "emptyDir": {}}]});
    cluster.run("init", spec).await;
    let pod = cluster.wait("init", "ready", ready).await;
    let init = pod.status.unwrap().init_container_statuses.unwrap();
    assert!(init.iter().all(|status| status.ready), "{init:?}");
    eventually("order in the log", async || {
        cluster.kubectl_ok(&["logs", "init"]).await == "one\nside\ntwo\nmain\n"
    })
    .await;
    cluster.delete("init").await;
}

pub async fn crash_loop_and_exit_codes(cluster: &mut Cluster) {
    let command = shell("echo dying; printf last-words > /dev/termination-log; exit 3");
    cluster.run("crash", json!({"containers": [{"command": command}]})).await;
    let pod = cluster.wait("crash", "in a crash loop", |pod| waiting(pod).0 == "CrashLoopBackOff").await;
    let seen = container(&pod);
    assert_eq!(seen.restart_count, 1, "the first restart is immediate");
    let (_, message) = waiting(&pod);
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=crash_default("),
        "{message}"
    );
    let ended = seen.last_state.unwrap().terminated.unwrap();
    assert_eq!(
        (ended.exit_code, ended.reason.as_deref(), ended.message.as_deref()),
        (3, Some("Error"), Some("last-words"))
    );
    assert_eq!(phase(&pod), "Running");
    assert_eq!(cluster.kubectl_ok(&["logs", "crash", "--previous"]).await, "dying\n");
    eventually("a BackOff event", async || {
        cluster
            .kubectl_ok(&["get", "events"])
            .await
            .contains("Back-off restarting failed container c in pod crash_default(")
    })
    .await;
    cluster.delete("crash").await;
}

pub async fn probes_decide(cluster: &mut Cluster) {
    let probe = |command: &str| json!({"exec": {"command": shell(command)}, "periodSeconds": 1, "failureThreshold": 1});
    let spec = json!({"containers": [{
        "command": shell("mkdir -p /www; echo hi > /www/ok; httpd -p 8080 -h /www; touch /alive; exec sleep 1000"),
        "ports": [{"name": "web", "containerPort": 8080}],
        "startupProbe": {"httpGet": {"path": "/ok", "port": "web"}, "periodSeconds": 1, "failureThreshold": 10},
        "readinessProbe": {"httpGet": {"path": "/ok", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": probe("test -e /alive")}]});
    cluster.run("probed", spec).await;
    cluster.wait("probed", "ready", ready).await;
    cluster.kubectl_ok(&["exec", "probed", "--", "rm", "/www/ok"]).await;
    cluster.wait("probed", "unready", |pod| !ready(pod)).await;
    cluster.kubectl_ok(&["exec", "probed", "--", "touch", "/www/ok"]).await;
    cluster.wait("probed", "ready again", ready).await;
    cluster.kubectl_ok(&["exec", "probed", "--", "rm", "/alive"]).await;
    cluster.wait("probed", "restarted", |pod| container(pod).restart_count == 1 && ready(pod)).await;
    let events = cluster.kubectl_ok(&["get", "events"]).await;
    for text in [
        "Readiness probe failed: HTTP probe failed with statuscode: 404",
        "Container c failed liveness probe, will be restarted",
    ] {
        assert!(events.contains(text), "{text}\n{events}");
    }
    cluster.delete("probed").await;
}

pub async fn hooks_and_grace(cluster: &mut Cluster) {
    let host = cluster.dir.path().join("hooks");
    std::fs::create_dir_all(&host).unwrap();
    let spec = json!({"terminationGracePeriodSeconds": 20,
        "volumes": [{"name": "h", "hostPath": {"path": host, "type": "Directory"}}],
        "containers": [{
            "command": shell("trap 'echo term >> /h/log; exit 0' TERM; while true; do sleep 0.05; done"),
            "volumeMounts": [{"name": "h", "mountPath": "/h"}],
            "lifecycle": {"postStart": {"exec": {"command": shell("echo post >> /h/log")}},
                "preStop": {"exec": {"command": shell("echo pre >> /h/log")}}}}]});
    cluster.run("hooked", spec).await;
    cluster.wait("hooked", "ready", ready).await;
    eventually("postStart", async || host.join("log").exists()).await;
    let start = Instant::now();
    cluster.delete("hooked").await;
    assert!(start.elapsed() < Duration::from_secs(5), "a container that ends by itself is not waited for");
    assert_eq!(std::fs::read_to_string(host.join("log")).unwrap(), "post\npre\nterm\n");
    // One that ignores the signal is killed when its grace is over.
    cluster
        .run(
            "stubborn",
            json!({"containers": [{"command": shell("trap '' TERM; while true; do sleep 0.05; done")}]}),
        )
        .await;
    cluster.wait("stubborn", "ready", ready).await;
    let start = Instant::now();
    cluster.delete("stubborn").await;
    let took = start.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
}

pub async fn bad_pods_are_shown_as_such(cluster: &mut Cluster) {
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]);
    cluster
        .run(
            "bad-config",
            json!({"containers": [{"command": shell("echo got $A; exec sleep 1000"), "env": env}]}),
        )
        .await;
    let pod =
        cluster.wait("bad-config", "waiting", |pod| waiting(pod).0 == "CreateContainerConfigError").await;
    assert_eq!(waiting(&pod).1, "configmap \"late\" not found");
    cluster.run("bad-command", json!({"containers": [{"command": ["/no/such"]}]})).await;
    let start_error = |pod: &k8s_openapi::api::core::v1::Pod| {
        let ended = container(pod).last_state.and_then(|state| state.terminated);
        ended.is_some_and(|ended| ended.reason.as_deref() == Some("StartError"))
    };
    cluster.wait("bad-command", "a start error", start_error).await;
    cluster
        .run(
            "bad-image",
            json!({"containers": [{"image": "no.such.registry.invalid/x:1", "imagePullPolicy": "Never"}]}),
        )
        .await;
    let pod = cluster.wait("bad-image", "never pulled", |pod| waiting(pod).0 == "ErrImageNeverPull").await;
    assert!(waiting(&pod).1.contains("is not present with pull policy of Never"), "{:?}", waiting(&pod));
    cluster.run("bad-pull", json!({"containers": [{"image": "127.0.0.1:1/x:1"}]})).await;
    cluster
        .wait_for("bad-pull", "backing off", Duration::from_secs(60), |pod| {
            waiting(pod).0 == "ImagePullBackOff"
        })
        .await;
    let root = json!({"runAsNonRoot": true});
    cluster.run("bad-user", json!({"containers": [{"command": ["true"], "securityContext": root}]})).await;
    let pod = cluster.wait("bad-user", "refused", |pod| waiting(pod).0 == "CreateContainerConfigError").await;
    assert!(
        waiting(&pod).1.starts_with("container has runAsNonRoot and image will run as root"),
        "{:?}",
        waiting(&pod)
    );
    // A pod that waits for a ConfigMap starts as soon as it exists.
    cluster.create("v1", "ConfigMap", json!({"metadata": {"name": "late"}, "data": {"k": "v"}})).await;
    cluster.wait("bad-config", "ready", ready).await;
    eventually("the value", async || cluster.kubectl_ok(&["logs", "bad-config"]).await == "got v\n").await;
    for name in ["bad-config", "bad-command", "bad-image", "bad-pull", "bad-user"] {
        cluster.delete(name).await;
    }
}

pub async fn a_deadline_ends_a_pod(cluster: &mut Cluster) {
    cluster.run("late", json!({"activeDeadlineSeconds": 1, "restartPolicy": "Never", "containers": [{"command": ["sleep", "1000"]}]})).await;
    let pod = cluster.wait("late", "failed", |pod| phase(pod) == "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    cluster.delete("late").await;
}

pub async fn restart_policies(cluster: &mut Cluster) {
    cluster.run("ok", json!({"restartPolicy": "OnFailure", "containers": [{"command": ["true"]}]})).await;
    cluster.run("no", json!({"restartPolicy": "Never", "containers": [{"command": ["false"]}]})).await;
    let pod = cluster.wait("ok", "succeeded", |pod| phase(pod) == "Succeeded").await;
    let ready = pod.status.unwrap().conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("PodCompleted")));
    let pod = cluster.wait("no", "failed", |pod| phase(pod) == "Failed").await;
    assert_eq!(container(&pod).state.unwrap().terminated.unwrap().exit_code, 1);
    cluster.delete("ok").await;
    cluster.delete("no").await;
}

pub async fn security_and_resources(cluster: &mut Cluster) {
    let script = "id; cat /proc/self/status | grep -E 'CapEff|NoNewPrivs|Seccomp:'; touch /x 2>&1; hostname; cat /etc/resolv.conf; ls -ld /v";
    let spec = json!({
        "hostname": "named", "subdomain": "sub", "restartPolicy": "Never",
        "securityContext": {"runAsUser": 33, "runAsGroup": 33, "fsGroup": 77},
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
        "containers": [{"command": shell(script), "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "resources": {"limits": {"memory": "32Mi", "cpu": "500m"}},
            "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    cluster.run("secure", spec).await;
    let pod = cluster.wait("secure", "succeeded", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(pod.status.unwrap().qos_class.as_deref(), Some("Guaranteed"));
    let log = cluster.kubectl_ok(&["logs", "secure"]).await;
    for text in [
        "uid=33(www) gid=33(www)",
        "77",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Read-only file system",
        "named\n",
        "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.143.0.10\noptions ndots:5",
        "drwxrwsrwx",
    ] {
        assert!(log.contains(text), "{text:?} not in\n{log}");
    }
    cluster.delete("secure").await;
    // Past its memory limit a container is killed, and says why.
    let eat = json!({"restartPolicy": "Never", "containers": [{"command": shell("head -c 200000000 /dev/zero | tail"),
        "resources": {"limits": {"memory": "16Mi"}}}]});
    cluster.run("hungry", eat).await;
    let pod = cluster.wait("hungry", "ended", |pod| phase(pod) == "Failed").await;
    let ended = container(&pod).state.unwrap().terminated.unwrap();
    assert_eq!(ended.reason.as_deref(), Some("OOMKilled"), "{ended:?}");
    cluster.delete("hungry").await;
}

/// Users may write any number of seconds.
pub async fn no_grace_is_too_long_for_the_agent(cluster: &mut Cluster) {
    let spec = json!({"terminationGracePeriodSeconds": i64::MAX, "containers": [{"command": ["sh", "-c", "trap '' TERM; echo patient; exec sleep 10000"]}]});
    let uid = cluster.run("patient", spec).await.metadata.uid.unwrap();
    cluster.wait("patient", "running", |pod| phase(pod) == "Running").await;
    // Before it says so the signal would end it.
    eventually("it is patient", async || cluster.kubectl_ok(&["logs", "patient"]).await.contains("patient"))
        .await;
    cluster.kubectl_ok(&["delete", "pod", "patient", "--wait=false"]).await;
    cluster.wait("patient", "on its way out", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    cluster.kubectl_ok(&["delete", "pod", "patient", "--grace-period=0", "--force"]).await;
    eventually("nothing of it runs", async || !cluster.runs(&uid)).await;
}
