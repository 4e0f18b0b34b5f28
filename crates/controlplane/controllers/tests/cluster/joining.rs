//! What a machine that joins gets of the controllers: its part of the pods' network, and a certificate for serving.

use std::{collections::BTreeSet, time::Duration};

use crate::support::Cluster;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use sampan_daemon::tls;
use serde_json::json;

fn node(name: &str, ip: &str) -> Node {
    let addresses = json!([{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]);
    serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}})).unwrap()
}

async fn make(cluster: &Cluster, name: &str, ip: &str) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let made = node(name, ip);
    nodes.create(&PostParams::default(), &made).await.unwrap();
}

async fn block(cluster: &Cluster, name: &str) -> Option<String> {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.get(name).await.unwrap().spec?.pod_cidr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_gets_a_part_of_the_pods_network_of_its_own() {
    let cluster = Cluster::with(|options| options.pod_network = Some("10.42.0.0/22".parse().unwrap())).await;
    // At once: none is given twice.
    let names: Vec<String> = (0..4).map(|n| format!("node-{n}")).collect();
    futures::future::join_all(names.iter().map(|name| make(&cluster, name, "10.0.0.1"))).await;
    let mut given = BTreeSet::new();
    for name in &names {
        given.insert(cluster.until("a part", || block(&cluster, name)).await);
    }
    let all: BTreeSet<String> = (0..4).map(|n| format!("10.42.{n}.0/24")).collect();
    assert_eq!(given, all);
    make(&cluster, "late", "10.0.0.9").await;
    let events: Api<k8s_openapi::api::core::v1::Event> = cluster.api("default");
    cluster
        .until("it is told that there is none", || async {
            let list = events.list(&kube::api::ListParams::default()).await.unwrap();
            list.items.into_iter().find(|event| event.reason.as_deref() == Some("CIDRNotAvailable"))
        })
        .await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let freed = block(&cluster, "node-2").await;
    nodes.delete("node-2", &DeleteParams::default()).await.unwrap();
    assert_eq!(cluster.until("the part that became free", || block(&cluster, "late")).await, freed.unwrap());
    cluster.supervisor.shutdown(Duration::from_secs(10)).await;
}

/// A client that is a node.
fn as_node(client: Client, name: &'static str) -> Client {
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        let client = client.clone();
        let user = format!("system:node:{name}");
        request.headers_mut().insert("impersonate-user", user.parse().unwrap());
        request.headers_mut().insert("impersonate-group", "system:nodes".parse().unwrap());
        async move { client.send(request).await.map_err(tower::BoxError::from) }
    });
    Client::new(service, "default")
}

async fn ask(client: &Client, node: &str, name: &str, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let (request, _) = tls::ask(&format!("system:node:{node}"), &["system:nodes"], &names).unwrap();
    let csr: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "request": ByteString(request.into_bytes()),
            "usages": ["digital signature", "server auth"],
        },
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &csr).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_a_serving_certificate_for_its_own_names_only() {
    let cluster = Cluster::with(|options| options.server_names = vec!["10.0.0.7".to_owned()]).await;
    make(&cluster, "one", "10.0.0.1").await;
    make(&cluster, "two", "10.0.0.2").await;
    let one = as_node(cluster.client.clone(), "one");
    // A node writes its status itself: saying that a name or an address is its own does not make it so.
    let lies = json!({"status": {"addresses": [
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "Hostname", "address": "kubernetes"},
        {"type": "InternalIP", "address": "10.0.0.7"},
        {"type": "InternalIP", "address": "10.0.0.2"},
        {"type": "InternalIP", "address": "127.0.0.1"},
        {"type": "InternalIP", "address": "10.43.0.1"},
    ]}});
    let nodes: Api<Node> = Api::all(one.clone());
    nodes.patch_status("one", &PatchParams::default(), &Patch::Merge(&lies)).await.unwrap();
    ask(&one, "one", "api", &["kubernetes"]).await;
    ask(&one, "one", "api-address", &["one", "10.0.0.7"]).await;
    ask(&one, "one", "loopback", &["one", "127.0.0.1"]).await;
    ask(&one, "one", "service", &["one", "10.43.0.1"]).await;
    ask(&one, "one", "another-address", &["one", "10.0.0.2"]).await;
    ask(&one, "one", "another-name", &["two"]).await;
    ask(&one, "one", "own", &["one", "10.0.0.1"]).await;
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let pem = cluster
        .until("the certificate", || async { requests.get("own").await.unwrap().status?.certificate })
        .await;
    let pem = String::from_utf8(pem.0).unwrap();
    assert_eq!(tls::names(&pem).unwrap(), ["one", "10.0.0.1"]);
    for foreign in ["another-address", "another-name", "api", "api-address", "loopback", "service"] {
        let conditions = requests.get(foreign).await.unwrap().status.and_then(|status| status.conditions);
        assert!(conditions.unwrap_or_default().is_empty(), "{foreign} was decided");
    }
    // What was another node's is free once that is gone.
    Api::<Node>::all(cluster.client.clone()).delete("two", &DeleteParams::default()).await.unwrap();
    cluster
        .until("the certificate for what became free", || async {
            requests.get("another-address").await.unwrap().status?.certificate
        })
        .await;
    cluster.supervisor.shutdown(Duration::from_secs(10)).await;
}
