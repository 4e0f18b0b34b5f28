//! API aggregation with a real extension server over TLS.

use std::sync::{Arc, Mutex};

use crate::support::Server;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use sampan_apiserver::FrontProxy;
use sampan_daemon::tls;
use serde_json::{Value, json};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

fn front_proxy(dir: &std::path::Path) -> (FrontProxy, String) {
    let ca = tls::Ca::load_or_create(dir, "front-proxy-ca").unwrap();
    let identity = ca
        .issue(&tls::Profile {
            common_name: "front-proxy-client".to_owned(),
            organizations: Vec::new(),
            dns: Vec::new(),
            ips: Vec::new(),
            usage: tls::Usage::Client,
            days: 1,
        })
        .unwrap();
    let ca_pem = ca.cert_pem().to_owned();
    (FrontProxy { ca_pem: ca_pem.clone(), identity }, ca_pem)
}

fn api_service(ca: &str, port: u16) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.toys.example.com"},
        "spec": {
            "group": "toys.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "caBundle": STANDARD.encode(ca),
            "service": {"namespace": "default", "name": "toys", "port": port},
        },
    })
}

/// Waits for the condition `Available`.
async fn available(server: &Server, status: &str) -> Value {
    let mut watch =
        server.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name=v1.toys.example.com")).await;
    loop {
        let event = watch.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|c| c["type"] == "Available" && c["status"] == status);
        if let Some(found) = found {
            return found;
        }
    }
}

#[tokio::test]
async fn requests_go_to_the_server_that_has_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let (proxy, proxy_ca) = front_proxy(dir.path());
    let server = Server::changed(|options| options.front_proxy = Some(proxy)).await;
    let seen: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>> = Arc::default();
    let shared = seen.clone();
    let handle = move |request: Request<()>, body: Bytes| {
        let path = request.uri().to_string();
        shared.lock().unwrap().push((path.clone(), request.headers().clone(), body));
        let reply = if path == "/apis/toys.example.com/v1" {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "toys.example.com/v1", "resources": [
                {"name": "toys", "singularName": "toy", "namespaced": true, "kind": "Toy", "verbs": ["get", "list"]},
            ]})
        } else {
            json!({"kind": "Toy", "apiVersion": "toys.example.com/v1", "metadata": {"name": "ball"}})
        };
        let mut response = Response::new(Full::new(Bytes::from(reply.to_string())));
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    };
    let names = ["toys.default.svc"];
    let address = crate::https::serve(&server.supervisor, &server.ca, &names, Some(&proxy_ca), handle).await;

    let registered = server.post(SERVICES, &api_service(server.ca.cert_pem(), address.port())).await;
    assert_eq!(registered.code, 201, "{}", registered.body);
    let condition = available(&server, "False").await;
    assert_eq!(condition["reason"], "ServiceNotFound", "{condition}");
    let refused = server.get("/apis/toys.example.com/v1/namespaces/default/toys/ball").await;
    assert_eq!((refused.code, &refused.body), (503, &Value::from("service unavailable\n")));

    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "toys"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    let made = server.post("/api/v1/namespaces/default/services", &service).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let condition = available(&server, "True").await;
    assert_eq!(
        (&condition["reason"], &condition["message"]),
        (&json!("Passed"), &json!("all checks passed"))
    );

    let path = "/apis/toys.example.com/v1/namespaces/default/toys/ball?pretty=1";
    let answer = server.get(path).await;
    assert_eq!((answer.code, &answer.body["metadata"]["name"]), (200, &json!("ball")));
    let (_, headers, _) = seen.lock().unwrap().iter().find(|(p, ..)| p == path).cloned().unwrap();
    assert_eq!(headers["x-remote-user"], "tester");
    assert!(headers.get_all("x-remote-group").iter().any(|group| group == "system:masters"));
    assert!(headers.get("authorization").is_none());

    let groups = server.get("/apis").await.body;
    let groups = groups["groups"].as_array().unwrap();
    assert!(groups.iter().any(|g| g["name"] == "toys.example.com"));
    let map =
        server.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
    assert_eq!(map.body["data"]["requestheader-client-ca-file"], proxy_ca);
}

#[tokio::test]
async fn what_is_served_here_has_services_too() {
    let server = Server::start().await;
    for name in ["v1.", "v1.apps", "v1.apiextensions.k8s.io"] {
        let found = server.get(&format!("{SERVICES}/{name}")).await;
        assert_eq!(found.code, 200, "{name}: {}", found.body);
        assert_eq!(found.body["status"]["conditions"][0]["reason"], "Local");
    }
}
