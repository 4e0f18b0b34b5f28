//! What every cluster has from the start: its namespaces, and the `kubernetes` Service that leads back to the API.

use std::{net::SocketAddr, sync::Arc};

use sampan_api::status::Status;
use sampan_store::TxnResponse;
use serde_json::{Value, json};

use crate::{allocate, authz, core::Core, fairness, local::LocalService, user::UserInfo};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

/// Rounds when somebody changes a role meanwhile.
const TRIES: usize = 4;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Classes of what the cluster itself runs.
const PRIORITIES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// Makes what is missing, and sets the endpoint of `kubernetes` to where the server is now.
pub(crate) async fn run(core: &Arc<Core>) -> Result<(), Status> {
    let client = Client(LocalService::new(core.clone(), UserInfo::admin("system:apiserver")));
    roles_and_flows(core).await?;
    for name in NAMESPACES {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        client.ensure("/api/v1/namespaces", &body).await?;
    }
    for (name, value, description) in PRIORITIES {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        });
        client.ensure("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await?;
    }
    let block = core.options.service_cidr;
    service_cidr(&client, &format!("{}/{}", allocate::at(&block, 0), block.prefix)).await?;
    let ip = allocate::at(&core.options.service_cidr, 1).to_string();
    let port = core.options.advertise.map_or(443, |address| address.port());
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    let path = "/api/v1/namespaces/default/services";
    client.ensure(path, &service).await?;
    let patch = json!({"spec": {"ports": service["spec"]["ports"]}});
    client.send("PATCH", &format!("{path}/kubernetes"), &patch).await?;
    if let Some(address) = core.options.advertise {
        endpoints(&client, address).await?;
    }
    authentication(core, &client).await?;
    core.set_ready();
    Ok(())
}

/// The block that Services get their addresses from, as an object.
async fn service_cidr(client: &Client, block: &str) -> Result<(), Status> {
    let path = "/apis/networking.k8s.io/v1/servicecidrs";
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [block]},
    });
    match client.send("POST", path, &object).await {
        Err(status) if status.is("AlreadyExists") => return Ok(()),
        other => other?,
    };
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
        "message": "Kubernetes default Service CIDR is ready",
    });
    let patch = json!({"status": {"conditions": [ready]}});
    client.send("PATCH", &format!("{path}/kubernetes/status"), &patch).await.map(drop)
}

/// Makes what is missing of roles, bindings, flow schemas and priority levels: in one transaction.
async fn roles_and_flows(core: &Arc<Core>) -> Result<(), Status> {
    for _ in 0..TRIES {
        let mut txn = authz::bootstrap::plan(core).await?;
        let flows = fairness::wanted(core).await?;
        txn.compare.extend(flows.compare);
        txn.ops.extend(flows.ops);
        if txn.ops.is_empty() {
            return Ok(());
        }
        if let TxnResponse::Committed(_) = core.commit(txn).await? {
            core.authz.settle().await;
            return Ok(());
        }
    }
    Err(Status::server_timeout(("rbac.authorization.k8s.io", "clusterroles"), "create", 1))
}

/// How extension servers know the API server.
async fn authentication(core: &Core, client: &Client) -> Result<(), Status> {
    let Some(proxy) = &core.options.front_proxy else { return Ok(()) };
    let data = json!({
        "requestheader-client-ca-file": proxy.ca_pem,
        "requestheader-allowed-names": "[\"front-proxy-client\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
    });
    let path = "/api/v1/namespaces/kube-system/configmaps";
    let name = "extension-apiserver-authentication";
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "kube-system"}, "data": data,
    });
    client.ensure(path, &map).await?;
    client.send("PATCH", &format!("{path}/{name}"), &json!({"data": data})).await.map(drop)
}

async fn endpoints(client: &Client, address: SocketAddr) -> Result<(), Status> {
    let ip = address.ip().to_string();
    let ports = json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": ip}], "ports": ports}],
    });
    client.ensure("/api/v1/namespaces/default/endpoints", &endpoints).await?;
    let patch = json!({"subsets": endpoints["subsets"]});
    client.send("PATCH", "/api/v1/namespaces/default/endpoints/kubernetes", &patch).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": ports,
    });
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    client.ensure(path, &slice).await?;
    let patch = json!({"endpoints": slice["endpoints"], "ports": ports});
    client.send("PATCH", &format!("{path}/kubernetes"), &patch).await.map(|_| ())
}

/// The API as its first client.
pub(crate) struct Client(LocalService);

impl Client {
    pub(crate) fn new(service: LocalService) -> Self {
        Self(service)
    }

    /// Creates an object unless it is there.
    pub(crate) async fn ensure(&self, path: &str, object: &Value) -> Result<(), Status> {
        match self.send("POST", path, object).await {
            Err(status) if status.is("AlreadyExists") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, Status> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(Full::new(bytes::Bytes::from(body.to_string())))
            .map_err(Status::internal)?;
        let response = match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let failed = !response.status().is_success();
        let bytes = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
        let value: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
        match Status::from_value(&value).filter(|_| failed) {
            Some(status) => Err(status),
            None => Ok(value),
        }
    }
}
