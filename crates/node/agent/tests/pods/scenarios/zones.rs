//! CPUs and memory of zones: two made up over the two first CPUs of this machine, which the kernel really confines to.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::PostParams;
use sampan_agent::ZoneOptions;
use sampan_planner::numa::{self, NodeTopology, Policy, Rules};
use serde_json::{Value, json};

use super::{container, phase, ready};
use crate::cluster::{Cluster, eventually};

/// Zone 0 has CPU 0 and little memory, zone 1 has CPU 1, which is reserved, and much.
fn options(cluster: &Cluster) -> ZoneOptions {
    let sysfs = cluster.dir.path().join("sysfs");
    for (id, memory) in [(0, 64 << 10), (1, 8 << 20)] {
        let zone = sysfs.join(format!("node/node{id}"));
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("cpulist"), format!("{id}\n")).unwrap();
        std::fs::write(zone.join("meminfo"), format!("Node {id} MemTotal:       {memory} kB\n")).unwrap();
        std::fs::write(zone.join("distance"), if id == 0 { "10 21\n" } else { "21 10\n" }).unwrap();
    }
    std::fs::write(sysfs.join("node/online"), "0-1\n").unwrap();
    let rules = Rules {
        policy: Policy::SingleNumaNode,
        cpus: true,
        memory: true,
        reserved_cpus: "1".parse().unwrap(),
        ..Rules::default()
    };
    ZoneOptions { rules, sysfs }
}

fn guaranteed(cpu: &str, memory: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": memory});
    // It stops at once, and ends when it is told to.
    let command = ["sh", "-c", "trap 'exit 1' USR1 TERM; while true; do sleep 0.05; done"];
    json!({"containers": [{"command": command, "resources": {"limits": amounts, "requests": amounts}}]})
}

/// Which CPUs and which memory the first process of a pod's container may use.
async fn allowed(cluster: &Cluster, name: &str) -> String {
    let status = cluster.kubectl(&["exec", name, "--", "cat", "/proc/1/status"]).await;
    let text = String::from_utf8(status.stdout).unwrap();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim().to_owned()
    };
    format!("{}/{}", value("Cpus_allowed_list:"), value("Mems_allowed_list:"))
}

async fn becomes(cluster: &Cluster, name: &str, cpus: &str) {
    eventually(&format!("{name} runs on {cpus}"), async || allowed(cluster, name).await == cpus).await;
}

/// What is available of CPU in both zones, and to which pods that is due.
async fn told(cluster: &Cluster, want: (&str, &str)) {
    let api: Api<NodeTopology> = Api::all(cluster.client.clone());
    eventually(&format!("zones are told to have {want:?}"), async || {
        let Ok(Some(said)) = api.get_opt("node-a").await else { return false };
        let cpus: Vec<&str> = said.zones.iter().map(|zone| zone.resources[0].available.0.as_str()).collect();
        let pods = said.metadata.annotations.as_ref().unwrap()[numa::PODS].as_str();
        (cpus.join(" ").as_str(), pods) == want
    })
    .await;
}

async fn resize(cluster: &Cluster, name: &str, cpu: &str) {
    let patch = json!({"spec": {"containers": [{"name": "c", "resources":
        {"limits": {"cpu": cpu}, "requests": {"cpu": cpu}}}]}});
    let patch = patch.to_string();
    cluster.kubectl_ok(&["patch", "pod", name, "--subresource", "resize", "--patch", &patch]).await;
}

pub async fn whole_cpus_of_one_zone(cluster: &mut Cluster) {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        println!("   skipped: needs two CPUs");
        return;
    }
    let definition =
        include_str!("../../../../../controlplane/controllers/src/definitions/noderesourcetopologies.json");
    let definition: CustomResourceDefinition = serde_json::from_str(definition).unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    cluster.run("shares", json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    cluster.wait("shares", "ready", ready).await;
    let everywhere = allowed(cluster, "shares").await;
    cluster.delete("shares").await;

    cluster.zones = options(cluster);
    cluster.restart_agent().await;
    told(cluster, ("1 0", "")).await;
    cluster.run("shares", json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    cluster.wait("shares", "ready", ready).await;
    assert_eq!(allowed(cluster, "shares").await, format!("0-1/{}", everywhere.split('/').nth(1).unwrap()));
    let mine = cluster.run("mine", guaranteed("1", "32Mi")).await.metadata.uid.unwrap();
    cluster.wait("mine", "ready", ready).await;
    assert_eq!(allowed(cluster, "mine").await, "0/0");
    becomes(cluster, "shares", "1/0").await;
    told(cluster, ("0 0", &mine)).await;

    // No zone has both a CPU to give away and so much memory.
    cluster.run("apart", guaranteed("1", "1Gi")).await;
    let refused = cluster.wait("apart", "refused", |pod| phase(pod) == "Failed").await.status.unwrap();
    let expected = ["OutOfcpu", "TopologyAffinityError"];
    assert!(expected.contains(&refused.reason.as_deref().unwrap()), "{refused:?}");
    cluster.delete("apart").await;

    // The agent is killed: the CPU is still taken, and the container gets it again when it starts anew.
    cluster.restart_agent().await;
    told(cluster, ("0 0", &mine)).await;
    let before = cluster.wait("mine", "ready", ready).await;
    assert_eq!(container(&before).restart_count, 0);
    cluster.kubectl(&["exec", "mine", "--", "kill", "-USR1", "1"]).await;
    cluster.wait("mine", "restarted", |pod| ready(pod) && container(pod).restart_count == 1).await;
    assert_eq!(
        (allowed(cluster, "mine").await, allowed(cluster, "shares").await),
        ("0/0".into(), "1/0".into())
    );

    // Less than a whole CPU is shared, and so is the CPU it had; then it gets one again.
    resize(cluster, "mine", "500m").await;
    becomes(cluster, "mine", "0-1/0").await;
    becomes(cluster, "shares", "0-1/0").await;
    told(cluster, ("1 0", &mine)).await;
    resize(cluster, "mine", "1").await;
    becomes(cluster, "mine", "0/0").await;
    becomes(cluster, "shares", "1/0").await;

    cluster.delete("mine").await;
    becomes(cluster, "shares", "0-1/0").await;
    told(cluster, ("1 0", "")).await;
    cluster.run("apart", guaranteed("1", "1Gi")).await;
    let refused = cluster.wait("apart", "refused", |pod| phase(pod) == "Failed").await.status.unwrap();
    assert_eq!(refused.reason.as_deref(), Some("TopologyAffinityError"));
    assert_eq!(refused.message.as_deref(), Some("Resources cannot be allocated with Topology locality"));
    for name in ["apart", "shares"] {
        cluster.delete(name).await;
    }

    // Without policies the API hears no more of this.
    cluster.zones = ZoneOptions::default();
    cluster.restart_agent().await;
    let api: Api<NodeTopology> = Api::all(cluster.client.clone());
    eventually("zones are told no more", async || matches!(api.get_opt("node-a").await, Ok(None))).await;
}
