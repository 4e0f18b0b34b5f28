//! Custom kinds in several versions, converted by a real webhook over TLS.

use std::sync::{Arc, Mutex};

use crate::support::Server;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ONE: &str = "/apis/example.com/v1/namespaces/default/places";
const TWO: &str = "/apis/example.com/v2/namespaces/default/places";

/// `v1` has `spec.address` (`host:port`), `v2` has `spec.host` and `spec.port`.
fn convert(object: &Value, to: &str) -> Value {
    let mut out = object.clone();
    out["apiVersion"] = to.into();
    if to.ends_with("v2") {
        let (host, port) = object["spec"]["address"].as_str().unwrap().split_once(':').unwrap();
        out["spec"] = json!({"host": host, "port": port});
    } else {
        let text = |name: &str| object["spec"][name].as_str().unwrap().to_owned();
        out["spec"] = json!({"address": format!("{}:{}", text("host"), text("port"))});
    }
    out
}

fn version(name: &str, storage: bool, fields: &[&str]) -> Value {
    let fields: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {"spec": {"type": "object", "properties": fields}},
    }}})
}

/// How many objects came in each review, and what the webhook is to refuse with.
#[derive(Default)]
struct Seen {
    sizes: Vec<usize>,
    refuse: Option<String>,
}

async fn start() -> (Server, Arc<Mutex<Seen>>) {
    let server = Server::start().await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = seen.clone();
    let handle = move |_: http::Request<()>, body: Bytes| {
        let review: Value = serde_json::from_slice(&body).unwrap();
        let (request, mut seen) = (&review["request"], shared.lock().unwrap());
        let objects = request["objects"].as_array().unwrap();
        seen.sizes.push(objects.len());
        let to = request["desiredAPIVersion"].as_str().unwrap();
        let response = match &seen.refuse {
            Some(why) => json!({"uid": request["uid"], "result": {"status": "Failed", "message": why}}),
            None => json!({
                "uid": request["uid"], "result": {"status": "Success"},
                "convertedObjects": objects.iter().map(|o| convert(o, to)).collect::<Vec<_>>(),
            }),
        };
        let reply =
            json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response});
        Response::new(Full::new(Bytes::from(reply.to_string())))
    };
    let address = crate::https::serve(&server.supervisor, &server.ca, &[], None, handle).await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "places.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "places", "kind": "Place"},
            "versions": [version("v1", true, &["address"]), version("v2", false, &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{}/convert", address.port()),
                    "caBundle": STANDARD.encode(server.ca.cert_pem()),
                },
            }},
        },
    });
    let answer = server.post(DEFINITIONS, &definition).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let mut watch = server.watch(&format!("{DEFINITIONS}?watch=1")).await;
    loop {
        let event = watch.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return (server, seen);
        }
    }
}

fn place(version: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("example.com/{version}"), "kind": "Place",
        "metadata": {"name": name}, "spec": spec,
    })
}

#[tokio::test]
async fn a_webhook_converts_what_is_stored_and_what_is_shown() {
    let (server, seen) = start().await;
    let made = server.post(TWO, &place("v2", "a", &json!({"host": "h", "port": "1"}))).await;
    assert_eq!((made.code, &made.body["spec"]), (201, &json!({"host": "h", "port": "1"})), "{}", made.body);
    assert_eq!(server.get(&format!("{ONE}/a")).await.body["spec"], json!({"address": "h:1"}));
    assert_eq!(server.get(&format!("{TWO}/a")).await.body["spec"], json!({"host": "h", "port": "1"}));
    let made = server.post(ONE, &place("v1", "b", &json!({"address": "i:2"}))).await;
    assert_eq!(made.code, 201, "{}", made.body);

    seen.lock().unwrap().sizes.clear();
    let list = server.get(TWO).await.body;
    let specs: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|o| &o["spec"]).collect();
    assert_eq!(specs, [&json!({"host": "h", "port": "1"}), &json!({"host": "i", "port": "2"})]);
    assert_eq!(seen.lock().unwrap().sizes, [2], "a list is converted at once");

    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = server.watch(&format!("{TWO}?watch=1&resourceVersion={revision}")).await;
    let merged = server.merge(&format!("{ONE}/b"), &json!({"spec": {"address": "j:3"}})).await;
    assert_eq!(merged.code, 200, "{}", merged.body);
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["spec"], json!({"host": "j", "port": "3"}));
    assert_eq!(event["object"]["apiVersion"], "example.com/v2");
}

#[tokio::test]
async fn what_a_webhook_refuses_is_told() {
    let (server, seen) = start().await;
    let made = server.post(ONE, &place("v1", "a", &json!({"address": "h:1"}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    seen.lock().unwrap().refuse = Some("not today".to_owned());
    let refused = server.get(&format!("{TWO}/a")).await;
    assert_eq!(refused.code, 500);
    assert_eq!(
        refused.body["message"],
        "conversion webhook for example.com/v1, Kind=Place failed: not today"
    );
    // Who asks for the stored version is not concerned.
    assert_eq!(server.get(&format!("{ONE}/a")).await.code, 200);
}
