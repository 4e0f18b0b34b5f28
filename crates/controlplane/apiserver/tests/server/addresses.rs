//! Addresses of Services as objects: who has one, and which block they come from.

use crate::support::Server;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: Value) -> Value {
    let mut service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    service["spec"]["ports"] = json!([{"port": 80}]);
    service
}

#[tokio::test]
async fn an_address_in_use_is_an_object() {
    let server = Server::start().await;
    let block = server.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.body;
    assert_eq!(block["spec"]["cidrs"].as_array().map(Vec::len), Some(1), "{block}");
    assert_eq!(
        (&block["status"]["conditions"][0]["type"], &block["status"]["conditions"][0]["status"]),
        (&json!("Ready"), &json!("True"))
    );
    let own = server.get(&format!("{SERVICES}/kubernetes")).await.body;
    let path = format!("{ADDRESSES}/{}", own["spec"]["clusterIP"].as_str().unwrap());
    assert_eq!(server.get(&path).await.body["spec"]["parentRef"]["name"], "kubernetes");
    let made = server.post(SERVICES, &service("a", json!({}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let ip = made.body["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let address = server.get(&format!("{ADDRESSES}/{ip}")).await.body;
    assert_eq!(address["kind"], "IPAddress", "{address}");
    assert_eq!(
        address["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "a"})
    );
    assert_eq!(address["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    // Who asks for one that is taken is told once.
    let refused = server.post(SERVICES, &service("b", json!({"clusterIP": ip}))).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert_eq!(refused.body["details"]["causes"].as_array().map(Vec::len), Some(1), "{}", refused.body);
    assert!(refused.body["message"].as_str().unwrap().contains("provided IP is already allocated"));
    // A Service that gives its address up, or goes, takes the object along.
    let change = json!({"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": "", "clusterIPs": null}});
    let changed = server.merge(&format!("{SERVICES}/a"), &change).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(server.get(&format!("{ADDRESSES}/{ip}")).await.code, 404);
    let made = server.post(SERVICES, &service("b", json!({"clusterIP": ip}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(server.get(&format!("{ADDRESSES}/{ip}")).await.body["spec"]["parentRef"]["name"], "b");
    assert_eq!(server.delete(&format!("{SERVICES}/b"), &Value::Null).await.code, 200);
    assert_eq!(server.get(&format!("{ADDRESSES}/{ip}")).await.code, 404);
}
