//! The whole of benches/scale in small: hollow nodes with certificates of their own speak TLS to the API, and all
//! controllers work for them.

use std::collections::HashSet;
use std::future::Future;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use sampan_hollow::{Access, Options};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::plane::{Plane, TOKEN};

async fn until<T, F: Future<Output = Result<T, String>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(found) => return found,
            Err(why) if start.elapsed() > Duration::from_secs(180) => {
                panic!("waited too long for {what}: {why}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn create<K>(api: &Api<K>, value: Value)
where
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(value).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn is_ready(conditions: &Value) -> bool {
    let conditions = conditions.as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == "Ready" && c["status"] == "True").count() == 1
}

async fn ready_nodes(client: &Client) -> usize {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    nodes.iter().filter(|node| is_ready(&json!(node.status)["conditions"])).count()
}

/// Ready endpoints of all slices, and the most that one slice holds.
async fn endpoints(client: &Client) -> (usize, usize) {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "work");
    let slices = slices.list(&ListParams::default()).await.unwrap();
    let ready = |slice: &EndpointSlice| {
        let all = slice.endpoints.iter().flatten();
        all.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count()
    };
    let most = slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).max();
    (slices.iter().map(ready).sum(), most.unwrap_or(0))
}

fn expect<T: PartialEq + std::fmt::Debug>(have: T, want: &T) -> Result<(), String> {
    if have == *want { Ok(()) } else { Err(format!("{have:?} instead of {want:?}")) }
}

fn template(labels: &Value, restart: &str) -> Value {
    json!({
        "metadata": {"labels": labels},
        "spec": {"restartPolicy": restart, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "app:1", "resources": {"requests": {"cpu": "100m"}}}]},
    })
}

async fn space(plane: &Plane) {
    create(&Api::<Namespace>::all(plane.client()), json!({"metadata": {"name": "work"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client(), "work");
    until("the default ServiceAccount", || async {
        accounts.get_opt("default").await.unwrap().map(drop).ok_or_else(|| "not there".to_owned())
    })
    .await;
}

/// The end of everything in the namespace, in the order of a user who leaves.
async fn leave(plane: &Plane) {
    let namespaces: Api<Namespace> = Api::all(plane.client());
    namespaces.delete("work", &DeleteParams::default()).await.unwrap();
    until("the namespace to go", || async {
        let left = namespaces.get_opt("work").await.unwrap();
        left.map_or(Ok(()), |left| Err(json!(left.status).to_string()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_nodes_run_five_hundred_pods_lose_some_and_find_them_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::open(dir.path(), Some("127.0.0.1:0")).await;
    plane.options.node_grace = Duration::from_secs(6);
    plane.control().await;
    space(&plane).await;
    let mut options = Options::new(plane.server(), plane.ca.cert_pem(), Access::Own(plane.ca.clone()), 50);
    options.renewal = Duration::from_secs(1);
    options.start = (Duration::ZERO, Duration::from_millis(200));
    let nodes = sampan_hollow::start(options, &plane.supervisor).unwrap();
    let client = plane.client();
    until("all nodes", || async { expect(ready_nodes(&client).await, &50) }).await;

    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    create(&Api::<Service>::namespaced(client.clone(), "work"), service).await;
    let labels = json!({"app": "web"});
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "work");
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 500,
        "selector": {"matchLabels": labels}, "template": template(&labels, "Always")}});
    create(&deployments, deployment).await;
    let available = || async {
        let status = deployments.get("web").await.unwrap().status.unwrap_or_default();
        status.available_replicas.unwrap_or(0)
    };
    until("the Deployment", || async { expect(available().await, &500) }).await;
    until("its endpoints", || async { expect(endpoints(&client).await, &(500, 100)) }).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "work");
    let all = pods.list(&ListParams::default()).await.unwrap().items;
    let addresses: HashSet<_> = all.iter().map(|p| p.status.as_ref().unwrap().pod_ip.clone()).collect();
    let hosts: HashSet<_> = all.iter().map(|p| p.spec.as_ref().unwrap().node_name.clone()).collect();
    assert_eq!((addresses.len(), hosts.len()), (500, 50), "each pod has an address, each node has pods");

    // Five machines are lost: their nodes are, and their pods serve no more.
    nodes.silence(5);
    let lost: HashSet<_> = (0..5).filter_map(|index| nodes.name(index).map(str::to_owned)).collect();
    let on_lost =
        |pod: &&Pod| pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_some_and(|n| lost.contains(n));
    let serving = 500 - all.iter().filter(on_lost).count();
    until("five nodes to be lost", || async { expect(ready_nodes(&client).await, &45) }).await;
    until("their endpoints to go", || async { expect(endpoints(&client).await.0, &serving) }).await;
    nodes.silence(0);
    until("all nodes again", || async { expect(ready_nodes(&client).await, &50) }).await;
    until("all pods again", || async { expect(available().await, &500) }).await;
    until("all endpoints again", || async { expect(endpoints(&client).await.0, &500) }).await;

    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    until("all pods to be removed", || async { expect(nodes.stats().pods, &0) }).await;
    let stats = nodes.stats();
    assert!(stats.renewals > 50 && stats.started >= 500 && stats.removed >= 500, "{stats:?}");
    leave(&plane).await;
    plane.supervisor.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_acts_for_many_nodes_whose_pods_end_fail_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::open(dir.path(), Some("127.0.0.1:0")).await;
    plane.control().await;
    space(&plane).await;
    let access = Access::Shared { identity: None, token: Some(TOKEN.to_owned()), connections: 1 };
    let mut options = Options::new(plane.server(), plane.ca.cert_pem(), access, 10);
    options.events = true;
    let nodes = sampan_hollow::start(options, &plane.supervisor).unwrap();
    nodes.registered().await;
    let client = plane.client();
    let jobs: Api<Job> = Api::namespaced(client.clone(), "work");
    let job = |name: &str, behaviour: &str| {
        let labels =
            json!({"job": name, (sampan_hollow::BEHAVIOUR): behaviour, "hollow.sampan.io/seconds": "0"});
        json!({"metadata": {"name": name}, "spec": {"completions": 20, "parallelism": 5, "backoffLimit": 0,
            "template": template(&labels, "Never")}})
    };
    create(&jobs, job("good", "succeed")).await;
    create(&jobs, job("bad", "fail")).await;
    let condition = |name: &'static str, kind: &'static str| {
        let jobs = jobs.clone();
        async move {
            let status = jobs.get(name).await.unwrap().status.unwrap_or_default();
            let found = status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
            if found { Ok(status.succeeded) } else { Err(json!(status).to_string()) }
        }
    };
    assert_eq!(until("twenty to succeed", || condition("good", "Complete")).await, Some(20));
    until("one to fail", || condition("bad", "Failed")).await;

    // One that loops is seen as such, and ends when it is deleted.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "work");
    let mut pod = template(&json!({(sampan_hollow::BEHAVIOUR): "fail"}), "Always");
    pod["metadata"]["name"] = "loops".into();
    create(&pods, pod).await;
    until("a container to crash", || async {
        let status = json!(pods.get("loops").await.unwrap().status);
        let why = status["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
        expect(why.as_str(), &Some("CrashLoopBackOff"))
    })
    .await;
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client.clone(), "work");
    until("its events", || async {
        let about = ListParams::default().fields("involvedObject.name=loops,source=kubelet");
        let about = events.list(&about).await.unwrap();
        expect(about.items.len(), &3)
    })
    .await;
    leave(&plane).await;
    until("all pods to be removed", || async { expect(nodes.stats().pods, &0) }).await;
    plane.supervisor.shutdown(Duration::from_secs(10)).await;
}
