//! What the controllers cost: nothing while nothing happens, and little time to place a pod.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/plane.rs"]
mod plane;
#[path = "support/cluster.rs"]
mod support;

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use support::Cluster;

/// CPU time of this process so far, and its resident memory in MiB.
fn usage() -> (Duration, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    (Duration::from_millis(ticks * 10), pages * 4096.0 / 1048576.0)
}

#[tokio::test]
async fn placing_is_quick_and_idling_is_free() {
    let cluster = Cluster::start().await;
    cluster.node("a", "64").await;
    let api = cluster.api::<Pod>("default");
    let mut times = Vec::new();
    for index in 0..30 {
        let name = format!("p{index}");
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        cluster.create::<Pod>("default", pod).await;
        let start = Instant::now();
        cluster
            .until("the binding", || async { api.get(&name).await.unwrap().spec.unwrap().node_name })
            .await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("created to bound: p50 {:?}, worst {:?}", times[15], times[29]);
    assert!(times[15] < Duration::from_secs(1));

    let labels = json!({"app": "x"});
    let deployment = json!({"metadata": {"name": "x"}, "spec": {"replicas": 50, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (before, _) = usage();
    cluster.create::<Deployment>("default", deployment).await;
    let deployments = cluster.api::<Deployment>("default");
    cluster
        .until("fifty pods", || async {
            let status = deployments.get("x").await.unwrap().status.unwrap_or_default();
            (status.available_replicas == Some(50)).then_some(())
        })
        .await;
    // What is still under way, such as events, comes to rest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (rested, memory) = usage();
    println!("fifty pods: {:?} of CPU, {memory:.0} MiB resident", rested.saturating_sub(before));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (after, _) = usage();
    let spent = after.saturating_sub(rested);
    println!("idle for 4 s: {spent:?} of CPU");
    assert!(spent <= Duration::from_millis(40), "idle controllers spent {spent:?} in 4 s");
}
