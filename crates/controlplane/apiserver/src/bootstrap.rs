//! What every cluster has from the start: its namespaces, and the `kubernetes` Service that leads back to the API.

use std::{net::SocketAddr, sync::Arc};

use sampan_api::status::Status;
use sampan_store::{Txn, TxnResponse};
use serde_json::{Value, json};

use crate::{allocate, authz, core::Core, fairness, local::LocalService, peers, user::UserInfo};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

/// Rounds when somebody changes a role meanwhile.
const TRIES: usize = 8;

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
    match core.options.advertise {
        // Whoever else serves is listed with us, and taken off the list when it is gone.
        Some(address) if core.shared => peers::start(core, address).await?,
        Some(address) => endpoints(&client, &[address]).await?,
        None => {}
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

/// Makes what is missing of roles, bindings, flow schemas and priority levels: in one transaction, or as many as the
/// store wants. Servers that begin at the same time do this together: each object is made once.
async fn roles_and_flows(core: &Arc<Core>) -> Result<(), Status> {
    for _ in 0..TRIES {
        let mut txn = authz::bootstrap::plan(core).await?;
        let flows = fairness::wanted(core).await?;
        txn.compare.extend(flows.compare);
        txn.ops.extend(flows.ops);
        if txn.ops.is_empty() {
            core.authz.settle().await;
            return Ok(());
        }
        let mut done = true;
        for part in parts(txn, core.store().max_ops()) {
            done &= matches!(core.commit(part).await?, TxnResponse::Committed(_));
        }
        if done {
            core.authz.settle().await;
            return Ok(());
        }
    }
    Err(Status::server_timeout(("rbac.authorization.k8s.io", "clusterroles"), "create", 1))
}

/// A transaction of comparisons and changes that go in pairs, cut into such of at most `most` pairs.
fn parts(txn: Txn, most: usize) -> Vec<Txn> {
    let Txn { mut compare, mut ops } = txn;
    let mut parts = Vec::new();
    while !ops.is_empty() {
        let cut = most.max(1).min(ops.len());
        let (compare_rest, ops_rest) = (compare.split_off(cut.min(compare.len())), ops.split_off(cut));
        parts.push(Txn {
            compare: std::mem::replace(&mut compare, compare_rest),
            ops: std::mem::replace(&mut ops, ops_rest),
        });
    }
    parts
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

/// Brings the endpoints of `kubernetes` to these addresses. Nothing is written where nothing changes.
pub(crate) async fn endpoints(client: &Client, addresses: &[SocketAddr]) -> Result<(), Status> {
    let mut ports: Vec<u16> = addresses.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let of = |port: u16| {
        let mut ips: Vec<String> =
            addresses.iter().filter(|a| a.port() == port).map(|a| a.ip().to_string()).collect();
        ips.sort();
        ips.dedup();
        ips
    };
    let entry = |port: u16| json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let subset = |port: &u16| {
        let ips: Vec<Value> = of(*port).iter().map(|ip| json!({"ip": ip})).collect();
        json!({"addresses": ips, "ports": entry(*port)})
    };
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": ports.iter().map(subset).collect::<Vec<_>>(),
    });
    client.bring("/api/v1/namespaces/default/endpoints", &endpoints, &["subsets"]).await?;
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    for (n, port) in ports.iter().enumerate() {
        let ips = of(*port);
        // Servers with another port than the rest are rare: each port has a slice of its own.
        let name = if n == 0 { "kubernetes".to_owned() } else { format!("kubernetes-{port}") };
        let each = |ip: &String| json!({"addresses": [ip], "conditions": {"ready": true}});
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": if ips.iter().all(|ip| ip.contains('.')) { "IPv4" } else { "IPv6" },
            "endpoints": ips.iter().map(each).collect::<Vec<_>>(),
            "ports": entry(*port),
        });
        client.bring(path, &slice, &["endpoints", "ports"]).await?;
    }
    let label = "labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";
    let listed = client.send("GET", &format!("{path}?{label}"), &Value::Null).await?;
    for slice in listed["items"].as_array().into_iter().flatten() {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        let port = name.strip_prefix("kubernetes-").and_then(|port| port.parse::<u16>().ok());
        if port.is_some_and(|port| !ports.iter().skip(1).any(|p| *p == port)) {
            match client.send("DELETE", &format!("{path}/{name}"), &Value::Null).await {
                Err(status) if !status.is("NotFound") => return Err(status),
                _ => {}
            }
        }
    }
    Ok(())
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

    /// Creates an object, or patches these fields of it when they are otherwise.
    async fn bring(&self, path: &str, object: &Value, fields: &[&str]) -> Result<(), Status> {
        let one = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        let there = match self.send("GET", &one, &Value::Null).await {
            Err(status) if status.is("NotFound") => match self.send("POST", path, object).await {
                Err(status) if status.is("AlreadyExists") => self.send("GET", &one, &Value::Null).await?,
                other => return other.map(drop),
            },
            other => other?,
        };
        let changed: serde_json::Map<String, Value> = fields
            .iter()
            .filter(|field| there[**field] != object[**field])
            .map(|field| ((*field).to_owned(), object[*field].clone()))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.send("PATCH", &one, &Value::Object(changed)).await.map(drop)
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, Status> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(Full::new(if body.is_null() { bytes::Bytes::new() } else { body.to_string().into() }))
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

#[cfg(test)]
mod tests {
    use sampan_store::{Compare, Op};

    use super::*;

    #[test]
    fn a_large_transaction_is_cut_into_pairs() {
        let key = |n: usize| bytes::Bytes::from(n.to_string());
        let compare = (0..5).map(|n| Compare::ModRevision(key(n), 0)).collect();
        let ops = (0..5).map(|n| Op::Delete { key: key(n) }).collect();
        let cut = parts(Txn { compare, ops }, 2);
        assert_eq!(cut.iter().map(|part| part.ops.len()).collect::<Vec<_>>(), [2, 2, 1]);
        for part in &cut {
            for (Compare::ModRevision(compared, _), op) in part.compare.iter().zip(&part.ops) {
                assert!(matches!(op, Op::Delete { key } if key == compared));
            }
            assert_eq!(part.compare.len(), part.ops.len());
        }
    }
}
