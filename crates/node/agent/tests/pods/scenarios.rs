//! What pods must do. Each scenario cleans up after itself; all share one cluster.

mod lifecycle;
mod network;
mod restart;
mod streams;
mod volumes;
mod zones;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use nix::sys::time::TimeValLike;
use serde_json::json;

use crate::cluster::{Cluster, eventually};

pub fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn container(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
    statuses.unwrap_or_default().into_iter().next().unwrap_or_default()
}

pub fn waiting(pod: &Pod) -> (String, String) {
    let waiting = container(pod).state.and_then(|state| state.waiting).unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

macro_rules! scenarios {
    ($cluster:ident, $filter:ident, $failed:ident, [$($name:path),* $(,)?]) => {
        $(if stringify!($name).contains($filter) {
            let start = Instant::now();
            let done = AssertUnwindSafe($name(&mut $cluster)).catch_unwind().await;
            println!("{} {} ({} ms)", if done.is_ok() { "ok" } else { "FAILED" }, stringify!($name), start.elapsed().as_millis());
            if done.is_err() {
                $failed.push(stringify!($name));
            }
        })*
    };
}

pub async fn run(filter: &str) -> Vec<&'static str> {
    let start = Instant::now();
    let mut cluster = Cluster::start().await;
    println!("cluster and node Ready in {} ms", start.elapsed().as_millis());
    let mut failed = Vec::new();
    scenarios!(
        cluster,
        filter,
        failed,
        [
            a_pod_becomes_ready_and_goes,
            ready_in_time,
            fifty_at_once,
            lifecycle::init_containers_run_in_order,
            lifecycle::crash_loop_and_exit_codes,
            lifecycle::probes_decide,
            lifecycle::hooks_and_grace,
            lifecycle::no_grace_is_too_long_for_the_agent,
            lifecycle::bad_pods_are_shown_as_such,
            lifecycle::a_deadline_ends_a_pod,
            lifecycle::restart_policies,
            lifecycle::security_and_resources,
            volumes::environment_and_volumes,
            volumes::config_maps_are_updated_while_running,
            streams::logs,
            streams::exec,
            streams::exec_with_a_terminal,
            streams::attach,
            streams::copy,
            streams::port_forward,
            restart::the_agent_adopts_running_pods,
            restart::ends_and_deletions_while_away,
            restart::an_unrecorded_container_is_not_doubled,
            restart::a_dead_shim_is_replaced,
            restart::a_node_says_how_it_is_whatever_others_wrote,
            network::services_and_names,
            network::host_network_and_host_ports,
            zones::whole_cpus_of_one_zone,
        ]
    );
    cluster.stop().await;
    failed
}

async fn a_pod_becomes_ready_and_goes(cluster: &mut Cluster) {
    cluster
        .run("first", json!({"containers": [{"command": ["sh", "-c", "echo hello; exec sleep 1000"]}]}))
        .await;
    let pod = cluster.wait("first", "ready", ready).await;
    let status = pod.status.as_ref().unwrap();
    assert_eq!((phase(&pod), status.qos_class.as_deref()), ("Running", Some("BestEffort")));
    assert!(status.pod_ip.as_deref().unwrap().starts_with("10.142.0."), "{:?}", status.pod_ip);
    let seen = container(&pod);
    assert_eq!(seen.image, "docker.io/library/busybox:test");
    assert!(seen.image_id.starts_with("docker.io/library/busybox@sha256:"), "{}", seen.image_id);
    assert!(seen.container_id.unwrap().starts_with("sampan://"));
    assert_eq!(cluster.kubectl_ok(&["logs", "first"]).await, "hello\n");
    cluster.delete("first").await;
    let uid = pod.metadata.uid.unwrap();
    assert!(!cluster.dir.path().join("pods").join(&uid).exists(), "pod directory removed");
}

async fn ready_in_time(cluster: &mut Cluster) {
    let mut times = Vec::new();
    for number in 0..10 {
        let name = format!("fast-{number}");
        let start = Instant::now();
        cluster.run(&name, json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
        cluster.wait(&name, "ready", ready).await;
        times.push(start.elapsed());
        cluster.delete(&name).await;
    }
    times.sort();
    println!("   created to Ready: p50 {} ms, worst {} ms", times[5].as_millis(), times[9].as_millis());
    assert!(times[5] < Duration::from_millis(500), "{times:?}");
}

async fn fifty_at_once(cluster: &mut Cluster) {
    let names: Vec<String> = (0..50).map(|number| format!("many-{number}")).collect();
    let usage = || {
        let all = [nix::sys::resource::UsageWho::RUSAGE_SELF, nix::sys::resource::UsageWho::RUSAGE_CHILDREN];
        let times = all.map(|who| nix::sys::resource::getrusage(who).unwrap());
        times
            .iter()
            .map(|usage| usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds())
            .sum::<i64>()
    };
    let (start, before) = (Instant::now(), usage());
    for name in &names {
        cluster.run(name, json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    }
    for name in &names {
        cluster.wait(name, "ready", ready).await;
    }
    let (took, cpu) = (start.elapsed(), usage() - before);
    println!("   50 pods Ready in {} ms, {cpu} CPU-ms of this process (debug build)", took.as_millis());
    let start = Instant::now();
    for name in &names {
        cluster.pods().delete(name, &kube::api::DeleteParams::default()).await.unwrap();
    }
    for name in &names {
        cluster.wait_gone(name).await;
    }
    println!("   gone in {} ms", start.elapsed().as_millis());
    let entries = |dir: &str| std::fs::read_dir(cluster.dir.path().join(dir)).unwrap().count();
    eventually("only the directory of logs is left", async || entries("pods") == 1).await;
    eventually("the logs of deleted pods are gone", async || entries("pods/logs") == 0).await;
}
