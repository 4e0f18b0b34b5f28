//! Decisions by what is measured, with metrics from a real extension server over TLS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::SignedDuration;
use kube::api::ListParams;
use sampan_controllers::{Options, Rebalance, SchedulerConfig};
use sampan_daemon::clock;
use sampan_planner::quantity;
use sampan_planner::rebalance::Aim;
use serde_json::{Value, json};

use crate::extension;
use crate::scheduling::{node_of, pod, refused};
use crate::support::Cluster;

/// What the extension server says is used: thousandths of a CPU and MiB, by name.
#[derive(Default)]
pub struct Meter {
    nodes: Mutex<BTreeMap<String, (i64, i64)>>,
    pods: Mutex<BTreeMap<String, (i64, i64)>>,
}

impl Meter {
    pub fn node(&self, name: &str, milli: i64, mib: i64) {
        self.nodes.lock().unwrap().insert(name.to_owned(), (milli, mib));
    }

    pub fn pod(&self, name: &str, milli: i64, mib: i64) {
        self.pods.lock().unwrap().insert(name.to_owned(), (milli, mib));
    }

    fn answer(&self, path: &str) -> Option<Value> {
        let now = clock::rfc3339(clock::now());
        let used =
            |(milli, mib): &(i64, i64)| json!({"cpu": format!("{milli}m"), "memory": format!("{mib}Mi")});
        Some(match path {
            "/apis/metrics.k8s.io/v1beta1" => {
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": [
                    {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]},
                    {"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]},
                ]})
            }
            "/apis/metrics.k8s.io/v1beta1/nodes" => {
                let nodes = self.nodes.lock().unwrap();
                let items = nodes.iter().map(|(name, all)| {
                    json!({"metadata": {"name": name}, "timestamp": now, "window": "10s", "usage": used(all)})
                });
                json!({"kind": "NodeMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "items": items.collect::<Vec<_>>()})
            }
            "/apis/metrics.k8s.io/v1beta1/pods" => {
                let pods = self.pods.lock().unwrap();
                let items = pods.iter().map(|(name, all)| {
                    json!({"metadata": {"name": name, "namespace": "default"}, "timestamp": now, "window": "10s",
                        "containers": [{"name": "c", "usage": used(all)}]})
                });
                json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "items": items.collect::<Vec<_>>()})
            }
            _ => return None,
        })
    }
}

/// A control plane that looks at these metrics ten times a second.
pub async fn start(change: impl FnOnce(&mut Options)) -> (Cluster, Arc<Meter>) {
    let cluster = Cluster::with(|options| {
        options.usage_every = Duration::from_millis(100);
        change(options);
    })
    .await;
    let meter = Arc::new(Meter::default());
    let seen = meter.clone();
    extension::serve(&cluster, &[("metrics.k8s.io", "v1beta1")], move |uri| seen.answer(uri.path())).await;
    (cluster, meter)
}

/// The default scheduler goes by what is used, and by nothing else.
fn by_use() -> SchedulerConfig {
    let config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{
            "schedulerName": "default-scheduler",
            "plugins": {
                "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "LoadAware", "weight": 5}]},
                "filter": {"enabled": [{"name": "LoadAware"}]},
            },
            "pluginConfig": [{"name": "LoadAware", "args": {"usageThresholds": {"cpu": 60}}}],
        }],
    });
    SchedulerConfig::parse(config).unwrap()
}

#[tokio::test]
async fn pods_go_where_little_is_used_and_wait_while_all_nodes_are_hot() {
    let (cluster, meter) = start(|options| options.scheduler = by_use()).await;
    meter.node("a", 3000, 100);
    meter.node("b", 2900, 100);
    cluster.node("a", "4").await;
    cluster.node("b", "4").await;
    // By requests both are free; both are measured to be hot.
    let hot = "0/2 nodes are available: 2 node(s) cpu usage exceeded the threshold.";
    let mut at = 0;
    loop {
        // Until the first look a pod is placed by requests.
        let name = format!("probe-{at}");
        cluster.create::<Pod>("default", pod(&name, "10m", json!({}))).await;
        let decided = cluster
            .until("a decision", || async {
                let pod = cluster.api::<Pod>("default").get(&name).await.unwrap();
                let told = pod
                    .status
                    .and_then(|s| s.conditions)
                    .into_iter()
                    .flatten()
                    .find(|c| c.type_ == "PodScheduled");
                told.map(|condition| condition.status)
            })
            .await;
        if decided == "False" {
            break;
        }
        at += 1;
        assert!(at < 200, "nothing was ever measured");
    }
    let waiting = format!("probe-{at}");
    refused(&cluster, &waiting, hot).await;
    // One cools down: who waits is woken by the measurement alone.
    meter.node("b", 200, 100);
    assert_eq!(node_of(&cluster, &waiting).await, "b");
    // The other one becomes the colder one.
    meter.node("a", 10, 50);
    meter.node("b", 2000, 100);
    for at in 0.. {
        assert!(at < 200, "the colder node is never taken");
        let name = format!("cold-{at}");
        cluster.create::<Pod>("default", pod(&name, "10m", json!({}))).await;
        if node_of(&cluster, &name).await == "a" {
            break;
        }
    }
}

fn replicas(name: &str, count: u32, cpu: &str) -> Value {
    let container = json!({"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}});
    json!({"metadata": {"name": name}, "spec": {
        "replicas": count, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
    }})
}

/// The pods of an app, with their nodes.
async fn of_app(cluster: &Cluster, app: &str) -> Vec<(String, String)> {
    let all = cluster.pods("default").await.into_iter();
    let own =
        all.filter(|pod| pod.metadata.labels.as_ref().and_then(|l| l.get("app")).is_some_and(|l| l == app));
    own.filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| Some((pod.metadata.name?, pod.spec?.node_name?)))
        .collect()
}

async fn events_of(cluster: &Cluster, name: &str) -> Vec<String> {
    let about = ListParams::default().fields(&format!("involvedObject.name={name},reason=Rebalanced"));
    let events = cluster.api::<Event>("default").list(&about).await.unwrap();
    events.items.into_iter().filter_map(|event| event.message).collect()
}

/// Load leaves a hot node within the limits of the minute; what opted out, and what a budget protects, stays.
#[tokio::test]
async fn load_is_moved_off_a_hot_node_a_few_pods_at_a_time() {
    let (cluster, meter) = start(|options| {
        options.scheduler = by_use();
        let mut rebalance = Rebalance::new(vec![Aim::Cool]);
        rebalance.every = Duration::from_millis(200);
        rebalance.per_minute = 1;
        rebalance.cool_down = Duration::ZERO;
        options.rebalance = Some(rebalance);
    })
    .await;
    cluster.node("a", "4").await;
    for (name, patch) in
        [("moves", json!({})), ("guarded", json!({})), ("stays", json!({"sampan.io/may-move": "false"}))]
    {
        let mut set = replicas(name, 1, "100m");
        set["spec"]["template"]["metadata"]["annotations"] = patch;
        cluster.create::<ReplicaSet>("default", set).await;
    }
    let budget = json!({"metadata": {"name": "guard"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}});
    cluster.create::<PodDisruptionBudget>("default", budget).await;
    let mut names = Vec::new();
    for app in ["moves", "guarded", "stays"] {
        let found = cluster.until(app, || async { of_app(&cluster, app).await.pop() }).await;
        assert_eq!(found.1, "a");
        names.push(found.0);
    }
    cluster.node("b", "4").await;
    // Older than a minute, their use is believed.
    let started = clock::rfc3339(clock::now() - SignedDuration::from_secs(300));
    for name in &names {
        let patch = kube::api::Patch::Merge(json!({"status": {"startTime": started}}));
        cluster.api::<Pod>("default").patch_status(name, &Default::default(), &patch).await.unwrap();
        meter.pod(name, 900, 10);
    }
    meter.node("b", 100, 100);
    meter.node("a", 3600, 100);
    let moved = cluster
        .until("a move", || async {
            of_app(&cluster, "moves").await.into_iter().find(|(_, node)| node == "b")
        })
        .await;
    assert_ne!(moved.0, names[0], "made anew");
    let told = cluster.until("an event", || async { events_of(&cluster, &names[0]).await.pop() }).await;
    assert!(
        told.starts_with("Moved off node a: a uses 90 % of its cpu; as things are, b suits it better"),
        "{told}"
    );
    let of_owner =
        cluster.until("the owner to be told", || async { events_of(&cluster, "moves").await.pop() }).await;
    assert!(of_owner.starts_with(&format!("Pod {}: Moved off node a", names[0])), "{of_owner}");
    // The minute has had its move, however hot it still is.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stay = |app| of_app(&cluster, app);
    assert_eq!(stay("guarded").await, [(names[1].clone(), "a".to_owned())]);
    assert_eq!(stay("stays").await, [(names[2].clone(), "a".to_owned())]);
}

/// Nodes are emptied onto those in use, and taken last from then on.
#[tokio::test]
async fn nodes_are_emptied_and_left_alone() {
    let (cluster, _meter) = start(|options| {
        let mut rebalance = Rebalance::new(vec![Aim::Empty]);
        rebalance.every = Duration::from_millis(200);
        rebalance.per_minute = 10;
        rebalance.cool_down = Duration::ZERO;
        options.rebalance = Some(rebalance);
    })
    .await;
    cluster.node("a", "4").await;
    // What stays makes its node one that is in use.
    let mut large = replicas("large", 1, "2");
    large["spec"]["template"]["metadata"]["annotations"] = json!({"sampan.io/may-move": "false"});
    cluster.create::<ReplicaSet>("default", large).await;
    cluster.until("the large one", || async { of_app(&cluster, "large").await.pop() }).await;
    let emptied = |node: &'static str| {
        let api = kube::Api::<Node>::all(cluster.client.clone());
        async move {
            let taints = api.get(node).await.unwrap().spec.and_then(|spec| spec.taints).unwrap_or_default();
            taints.iter().any(|taint| taint.key == "sampan.io/emptying").then_some(())
        }
    };
    // Both nodes are there; the small ones can but go to b.
    cluster.node("b", "4").await;
    let mut small = replicas("small", 2, "500m");
    small["spec"]["template"]["spec"]["nodeSelector"] = json!({"side": "any"});
    let api = kube::Api::<Node>::all(cluster.client.clone());
    let label = kube::api::Patch::Merge(json!({"metadata": {"labels": {"side": "any"}}}));
    api.patch("b", &Default::default(), &label).await.unwrap();
    cluster.create::<ReplicaSet>("default", small).await;
    cluster
        .until("both small ones on b", || async {
            let there = of_app(&cluster, "small").await;
            (there.len() == 2 && there.iter().all(|(_, node)| node == "b")).then_some(())
        })
        .await;
    // Now they may go to a as well, and b can be emptied.
    api.patch("a", &Default::default(), &label).await.unwrap();
    cluster
        .until("both small ones on a", || async {
            let there = of_app(&cluster, "small").await;
            (there.len() == 2 && there.iter().all(|(_, node)| node == "a")).then_some(())
        })
        .await;
    cluster.until("b to be marked", || emptied("b")).await;
    assert!(emptied("a").await.is_none());
}

fn batch_pod(name: &str, milli: &str, mib: &str) -> Value {
    let amounts = json!({"sampan.io/batch-cpu": milli, "sampan.io/batch-memory": mib});
    let container = json!({"name": "c", "image": "x", "resources": {"requests": amounts, "limits": amounts}});
    json!({"metadata": {"name": name}, "spec": {"containers": [container]}})
}

/// What is promised and idle is offered to batch pods, and taken back under load: they leave, the others stay.
#[tokio::test]
async fn batch_pods_run_on_what_others_leave_and_go_when_a_node_gets_short() {
    let (cluster, meter) = start(|options| {
        options.overcommit = Some("cpu=60,memory=60,evict-cpu=90,evict-memory=80".parse().unwrap());
    })
    .await;
    cluster.node("a", "4").await;
    // All of the CPU is promised, and nearly nothing of it is used.
    cluster.create::<Pod>("default", pod("promised", "4", json!({}))).await;
    node_of(&cluster, "promised").await;
    cluster.create::<Pod>("default", pod("ordinary", "100m", json!({}))).await;
    refused(&cluster, "ordinary", "Insufficient cpu").await;
    cluster.create::<Pod>("default", batch_pod("early", "1000", "1073741824")).await;
    refused(&cluster, "early", "Insufficient sampan.io/batch-cpu").await;

    let api = kube::Api::<Node>::all(cluster.client.clone());
    let offered = || async {
        let list = api.get("a").await.unwrap().status.unwrap().allocatable.unwrap();
        let of = |name: &str| list.get(name).map_or(0, |amount| quantity::value(&amount.0).unwrap());
        (of("sampan.io/batch-cpu"), of("sampan.io/batch-memory") >> 20)
    };
    let old = |name: &'static str| {
        let started = clock::rfc3339(clock::now() - SignedDuration::from_secs(300));
        let patch = kube::api::Patch::Merge(json!({"status": {"startTime": started}}));
        let pods = cluster.api::<Pod>("default");
        async move {
            pods.patch_status(name, &Default::default(), &patch).await.unwrap();
        }
    };
    old("promised").await;
    meter.pod("promised", 400, 500);
    meter.node("a", 400, 500);
    // 60 % of four cores and of 8 GiB, less what is used at its peaks, in steps of a hundredth.
    let (cpu, memory) = cluster
        .until("an offer", || async {
            let (cpu, memory) = offered().await;
            (cpu > 1500).then_some((cpu, memory))
        })
        .await;
    assert!((1960..=2000).contains(&cpu) && (4300..=4420).contains(&memory), "{cpu} {memory}");
    assert_eq!(node_of(&cluster, "early").await, "a");
    cluster.create::<Pod>("default", batch_pod("second", "500", "1073741824")).await;
    node_of(&cluster, "second").await;
    cluster.create::<Pod>("default", batch_pod("too-much", "1000", "1")).await;
    refused(&cluster, "too-much", "Insufficient sampan.io/batch-cpu").await;
    refused(&cluster, "ordinary", "Insufficient cpu").await;

    // The one to whom the memory was promised takes it: who uses most of what was lent leaves, nobody else.
    old("early").await;
    old("second").await;
    meter.pod("early", 900, 2000);
    meter.pod("second", 400, 300);
    meter.pod("promised", 3000, 4400);
    meter.node("a", 3500, 6800);
    cluster
        .until("the batch pod to leave", || async {
            cluster.api::<Pod>("default").get_opt("early").await.unwrap().is_none().then_some(())
        })
        .await;
    meter.node("a", 3500, 4800);
    let about = ListParams::default().fields("involvedObject.name=early,reason=Evicted");
    let told = cluster
        .until("an event", || async {
            cluster.api::<Event>("default").list(&about).await.unwrap().items.pop()?.message
        })
        .await;
    assert_eq!(told, "83 % of the node's memory are used; batch pods may stay up to 80 %");
    cluster.until("nothing to be offered", || async { (offered().await.0 == 0).then_some(()) }).await;
    for stays in ["promised", "second"] {
        let pod = cluster.api::<Pod>("default").get(stays).await.unwrap();
        assert!(pod.metadata.deletion_timestamp.is_none(), "{stays} stays");
    }
}
