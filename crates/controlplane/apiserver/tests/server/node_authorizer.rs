//! What a node may read and write: what its own pods need, and what is its own.

use crate::support::{Server, call};
use sampan_apiserver::{LocalService, UserInfo};
use serde_json::{Value, json};

fn node(server: &Server, name: &str) -> LocalService {
    server.handle.client(UserInfo::new(format!("system:node:{name}"), &["system:nodes"]))
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need_and_nothing_else() {
    let server = Server::start().await;
    server.account("default").await;
    for name in ["needed", "other"] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        assert_eq!(server.post("/api/v1/namespaces/default/secrets", &secret).await.code, 201);
        server.config_map(name).await;
    }
    let (a, b) = (node(&server, "a"), node(&server, "b"));
    let secret = "/api/v1/namespaces/default/secrets/needed";
    let refused = call(&a, "GET", secret, Value::Null).await;
    assert_eq!(
        refused.body["message"],
        "secrets \"needed\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in API group \"\" in the \
         namespace \"default\": no relationship found between node 'a' and this object"
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "nodeName": "a",
            "containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "needed"}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "needed"}}],
        },
    });
    let made = server.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let watch = "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dneeded";
    for path in
        [secret, watch, "/api/v1/namespaces/default/configmaps/needed", "/api/v1/namespaces/default/pods/p"]
    {
        assert_eq!(call(&a, "GET", path, Value::Null).await.code, 200, "{path}");
        assert_eq!(call(&b, "GET", path, Value::Null).await.code, 403, "{path}");
    }
    for path in [
        "/api/v1/namespaces/default/secrets/other",
        "/api/v1/namespaces/default/secrets",
        "/api/v1/secrets",
        "/api/v1/pods",
        "/api/v1/nodes",
        "/api/v1/nodes/b",
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/b",
    ] {
        assert_eq!(call(&a, "GET", path, Value::Null).await.code, 403, "{path}");
    }
    assert_eq!(call(&a, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Da", Value::Null).await.code, 200);
    assert_eq!(call(&a, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Db", Value::Null).await.code, 403);
    assert_eq!(call(&a, "GET", "/api/v1/services", Value::Null).await.code, 200);
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made.body["metadata"]["uid"],
    }}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(call(&a, "POST", path, token.clone()).await.code, 201);
    assert_eq!(call(&b, "POST", path, token).await.code, 403);
    assert_eq!(call(&a, "DELETE", secret, Value::Null).await.code, 403);
    assert_eq!(
        server.delete("/api/v1/namespaces/default/pods/p", &json!({"gracePeriodSeconds": 0})).await.code,
        200
    );
    // The mirror of the pods follows by itself.
    while call(&a, "GET", secret, Value::Null).await.code != 403 {
        tokio::task::yield_now().await;
    }
}
