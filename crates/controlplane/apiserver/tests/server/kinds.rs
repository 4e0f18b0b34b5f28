//! Every built-in kind: made, read, shown as a table, changed, deleted.

use std::collections::BTreeMap;

use crate::support::Server;
use serde_json::{Value, json};

/// The least that each kind takes, by plural and group.
fn samples() -> BTreeMap<String, Value> {
    serde_json::from_str(include_str!("../support/samples.json")).unwrap()
}

/// Kinds that other tests are about: their objects need keys, certificates or servers.
const ELSEWHERE: [&str; 6] = [
    "componentstatuses",
    "apiservices.apiregistration.k8s.io",
    "certificatesigningrequests.certificates.k8s.io",
    "clustertrustbundles.certificates.k8s.io",
    "podcertificaterequests.certificates.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
];

/// The resources that discovery shows: path of the group's version, entry.
async fn discovered(server: &Server) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut paths = vec!["/api/v1".to_owned()];
    for group in server.get("/apis").await.body["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            paths.push(format!("/apis/{}", version["groupVersion"].as_str().unwrap()));
        }
    }
    for path in paths {
        let list = server.get(&path).await.body;
        for resource in list["resources"].as_array().unwrap() {
            if !resource["name"].as_str().unwrap().contains('/') {
                out.push((path.clone(), resource.clone()));
            }
        }
    }
    out
}

#[tokio::test]
async fn every_kind_can_be_made_read_shown_changed_and_deleted() {
    let server = Server::start().await;
    server.account("default").await;
    let samples = samples();
    for (path, resource) in discovered(&server).await {
        let verbs = resource["verbs"].as_array().unwrap();
        if !verbs.contains(&"delete".into()) {
            continue;
        }
        let (group, version) = path
            .trim_start_matches("/api/")
            .trim_start_matches("/apis/")
            .split_once('/')
            .map_or(("", "v1"), |(group, version)| (group, version));
        let plural = resource["name"].as_str().unwrap();
        let key = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        if ELSEWHERE.contains(&key.as_str()) {
            continue;
        }
        let mut object = samples.get(key.as_str()).unwrap_or_else(|| panic!("no sample of {key}")).clone();
        object["apiVersion"] =
            if group.is_empty() { version.into() } else { format!("{group}/{version}").into() };
        object["kind"] = resource["kind"].clone();
        if object["metadata"].is_null() {
            object["metadata"] = json!({"name": "sample"});
        }
        let namespaced = resource["namespaced"] == true;
        let path = if namespaced {
            format!("{path}/namespaces/default/{plural}")
        } else {
            format!("{path}/{plural}")
        };
        round(&server, &path, &object).await;
    }
}

async fn round(server: &Server, path: &str, object: &Value) {
    let made = server.post(path, object).await;
    assert_eq!(made.code, 201, "POST {path}: {}", made.body);
    let one = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
    let read = server.get(&one).await;
    // The server itself keeps the status of these.
    let kept = path.contains("/flowcontrol.") || path.ends_with("/validatingadmissionpolicies");
    assert_eq!(read.code, 200, "{one}");
    assert!(kept || read.body == made.body, "{one}: {} is not {}", read.body, made.body);
    let table = table(server, path).await;
    let (columns, rows) = (&table["columnDefinitions"], &table["rows"]);
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["object"]["metadata"]["name"] == object["metadata"]["name"]);
    let cells = row.unwrap_or_else(|| panic!("{path}: no row in {table}"))["cells"].as_array().unwrap();
    assert_eq!(cells.len(), columns.as_array().unwrap().len(), "{path}: {table}");
    assert!(cells.iter().all(|cell| !cell.is_null()), "{path}: {cells:?}");
    let patched = server.merge(&one, &json!({"metadata": {"labels": {"changed": "yes"}}})).await;
    assert_eq!(patched.code, 200, "PATCH {one}: {}", patched.body);
    assert_eq!(patched.body["metadata"]["labels"]["changed"], "yes");
    let mut put = server.put(&one, &patched.body).await;
    while kept && put.code == 409 {
        put = server.put(&one, &server.get(&one).await.body).await;
    }
    assert_eq!(put.code, 200, "PUT {one}: {}", put.body);
    assert!(kept || put.body == patched.body, "PUT {one}: {} is not {}", put.body, patched.body);
    let deleted = server.delete(&one, &json!({"gracePeriodSeconds": 0})).await;
    assert!(matches!(deleted.code, 200 | 202), "DELETE {one}: {}", deleted.body);
}

async fn table(server: &Server, path: &str) -> Value {
    let request = http::Request::get(path)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(http_body_util::Full::default())
        .unwrap();
    crate::support::answer(server.client(), request).await.body
}

#[tokio::test]
async fn autoscalers_are_one_object_in_two_versions() {
    let server = Server::start().await;
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let old = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": 60,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
    });
    assert_eq!(server.post(path, &old).await.code, 201);
    let new = server.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h").await.body;
    assert_eq!(new["apiVersion"], "autoscaling/v2");
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let change = json!({"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}});
    let changed =
        server.merge("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h", &change).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(changed.body["spec"]["behavior"]["scaleUp"]["policies"][0]["value"], 4);
    let back = server.get(&format!("{path}/h")).await.body;
    assert_eq!(back["spec"]["targetCPUUtilizationPercentage"], 60);
    let carried =
        back["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/behavior"].as_str().unwrap();
    assert!(carried.contains("\"StabilizationWindowSeconds\":60"), "{carried}");
}

#[tokio::test]
async fn a_claim_grows_only_while_it_is_bound() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "grows"},
    });
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "grows"},
        "provisioner": "example.com/p", "allowVolumeExpansion": true});
    assert_eq!(server.post("/apis/storage.k8s.io/v1/storageclasses", &class).await.code, 201);
    assert_eq!(server.post(path, &claim).await.code, 201);
    let one = format!("{path}/c");
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = server.merge(&one, &grow).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("spec is immutable after creation except resources.requests"), "{message}");
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    assert_eq!(server.merge(&format!("{one}/status"), &bound).await.code, 200);
    assert_eq!(server.merge(&one, &grow).await.code, 200);
    let shrink = json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}});
    let refused = server.merge(&one, &shrink).await;
    assert!(refused.body["message"].as_str().unwrap().contains("field can not be less than status.capacity"));
}
