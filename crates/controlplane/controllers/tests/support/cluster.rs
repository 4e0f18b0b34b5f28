//! A whole control plane in this process, and a hollow kubelet that says of every bound pod that it runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use sampan_apiserver::UserInfo;
use sampan_controllers::Options;
use sampan_daemon::Supervisor;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::plane::Plane;

/// The running control plane. It ends with the test.
#[allow(dead_code)]
pub struct Cluster {
    pub client: Client,
    pub supervisor: Supervisor,
    pub ca_pem: String,
    _dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.supervisor.cancel();
    }
}

/// How pods behave, by their label `behave`: `run` (also without the label), `succeed`, `fail`, `hang` (never ready),
/// `stay` (does not end when deleted).
fn behaviour(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get("behave")).map_or("run", String::as_str)
}

#[allow(dead_code)]
impl Cluster {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let filter = "warn,sampan_controllers=debug".to_owned();
        // Only the first test of a process sets it up.
        let _ = sampan_daemon::telemetry::init(&sampan_daemon::telemetry::Options { filter, colour: false });
        let dir = tempfile::tempdir().unwrap();
        let mut plane = Plane::open(dir.path(), None).await;
        plane.options.ca = Some(plane.ca.clone());
        plane.options.cluster_info = Some("apiVersion: v1\nkind: Config\n".to_owned());
        change(&mut plane.options);
        plane.control().await;
        let client = Client::new(plane.api.client(UserInfo::admin("tester")), "default");
        let (supervisor, ca_pem) = (plane.supervisor, plane.ca.cert_pem().to_owned());
        supervisor.spawn("hollow-kubelet", hollow_kubelet(client.clone()));
        Self { client, supervisor, ca_pem, _dir: dir }.up().await
    }

    /// One whose state lies elsewhere and stays there.
    pub async fn of(plane: &Plane) -> Self {
        let (client, supervisor) = (plane.client(), plane.supervisor.clone());
        supervisor.spawn("hollow-kubelet", hollow_kubelet(client.clone()));
        let (ca_pem, dir) = (plane.ca.cert_pem().to_owned(), tempfile::tempdir().unwrap());
        Self { client, supervisor, ca_pem, _dir: dir }.up().await
    }

    /// Returns once pods can be made.
    async fn up(self) -> Self {
        let cluster = self;
        cluster
            .until("the default ServiceAccount", || async {
                let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = cluster.api("default");
                accounts.get_opt("default").await.unwrap()
            })
            .await;
        cluster
    }

    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(
        &self,
        namespace: &str,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn create<K>(&self, namespace: &str, value: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(value).unwrap();
        self.api::<K>(namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    pub async fn merge<K>(&self, namespace: &str, name: &str, patch: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.api::<K>(namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// A node that is ready and whose lease nobody renews.
    pub async fn node(&self, name: &str, cpu: &str) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name},
                "annotations": {"sampan.io/host-path-volumes": "/var/lib/hollow/volumes"},
            },
            "status": {
                "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
                "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap();
        let api: Api<Node> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &node).await.unwrap();
        // Controllers may change the node at once: what they write stays.
        let status = Patch::Merge(json!({"status": node.status}));
        api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
    }

    pub async fn pods(&self, namespace: &str) -> Vec<Pod> {
        self.api::<Pod>(namespace).list(&Default::default()).await.unwrap().items
    }

    /// Waits until something is there, at most a minute: the machine may be crowded.
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut check: impl FnMut() -> F,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = check().await {
                return found;
            }
            if start.elapsed() > Duration::from_secs(60) {
                for pod in self.pods("default").await {
                    let status = pod.status.unwrap_or_default();
                    let conditions: BTreeMap<_, _> = status
                        .conditions
                        .iter()
                        .flatten()
                        .map(|c| (&c.type_, (&c.status, &c.message)))
                        .collect();
                    eprintln!("{:?} {:?} {conditions:?}", pod.metadata.name, status.phase);
                }
                for path in [
                    "apis/apps/v1/namespaces/default/deployments",
                    "apis/apps/v1/namespaces/default/replicasets",
                ] {
                    let list = self.client.request_text(http_get(path)).await.unwrap();
                    let list: Value = serde_json::from_str(&list).unwrap();
                    for item in list["items"].as_array().unwrap() {
                        eprintln!(
                            "{} {} {}",
                            item["metadata"]["name"], item["spec"]["replicas"], item["status"]
                        );
                    }
                }
                panic!("waited too long for {what}");
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(format!("/{path}")).body(Vec::new()).unwrap()
}

async fn hollow_kubelet(client: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    let events = watcher(pods, watcher::Config::default()).default_backoff().applied_objects();
    let address = AtomicU32::new(1);
    events
        .for_each_concurrent(64, |event| async {
            if let Ok(pod) = event {
                live(&client, &pod, &address).await;
            }
        })
        .await;
}

async fn live(client: &Client, pod: &Pod, address: &AtomicU32) {
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_some();
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap());
    let name = pod.metadata.name.as_deref().unwrap();
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if !bound {
        return;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if behaviour(pod) != "stay" {
            let _ = api.delete(name, &DeleteParams::default().grace_period(0)).await;
        }
    } else if phase == "Pending" {
        let patch = json!({"status": status(behaviour(pod), address.fetch_add(1, Ordering::SeqCst))});
        // It may be gone already.
        let _ = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    }
}

fn status(behaviour: &str, address: u32) -> Value {
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let (phase, ready) = match behaviour {
        "succeed" => ("Succeeded", "False"),
        "fail" => ("Failed", "False"),
        "hang" => ("Running", "False"),
        _ => ("Running", "True"),
    };
    let ip = format!("10.42.{}.{}", address / 250, address % 250 + 1);
    json!({
        "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
    })
}
