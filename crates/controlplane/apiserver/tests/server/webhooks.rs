//! Admission webhooks over real TLS: good ones, slow ones, vanished ones, lying ones.

use std::sync::atomic::Ordering;

use crate::hook::{Hook, configuration};
use crate::support::{Answer, Server};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

async fn configure(server: &Server, mutating: bool, name: &str, client: Value, with: Value) {
    let kind = if mutating { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
    let path = format!("{REGISTRATION}/{}s", kind.to_lowercase());
    let answer = server.post(&path, &configuration(kind, name, client, with)).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

fn message(answer: &Answer) -> String {
    answer.body["message"].as_str().unwrap_or_default().to_owned()
}

fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

#[tokio::test]
async fn a_refusal_carries_the_webhooks_words_warnings_and_code() {
    let server = Server::start().await;
    let hook = Hook::start(|request| match request["object"]["metadata"]["name"].as_str() {
        Some("bad") => json!({"allowed": false, "warnings": ["think twice"],
                              "status": {"code": 403, "reason": "Forbidden", "message": "no bad maps"}}),
        Some("mute") => json!({"allowed": false}),
        _ => json!({"allowed": true, "warnings": ["seen"]}),
    })
    .await;
    configure(&server, false, "deny", hook.client_config(), json!({})).await;
    let refused = server.post(MAPS, &map("bad")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert_eq!(message(&refused), "admission webhook \"deny.example.com\" denied the request: no bad maps");
    assert_eq!(refused.headers["warning"], "299 - \"think twice\"");
    let mute = server.post(MAPS, &map("mute")).await;
    assert_eq!(
        (mute.code, message(&mute).as_str()),
        (400, "admission webhook \"deny.example.com\" denied the request without explanation")
    );
    let fine = server.post(MAPS, &map("fine")).await;
    assert_eq!(fine.code, 201);
    assert_eq!(fine.headers["warning"], "299 - \"seen\"");
    let question = hook.last();
    let request = &question["request"];
    assert_eq!(question["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(request["requestKind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!((&request["namespace"], &request["name"]), (&json!("default"), &json!("fine")));
    assert_eq!(request["userInfo"]["username"], "tester");
    assert_eq!(request["options"]["kind"], "CreateOptions");
    assert!(request["object"]["metadata"]["uid"].is_string() && request["oldObject"].is_null());
    assert_eq!(hook.connections.load(Ordering::SeqCst), 1, "connections are kept");
    let deleted = server.delete(&format!("{MAPS}/fine"), &Value::Null).await;
    assert_eq!(deleted.code, 200, "{}", deleted.body);
    let request = &hook.last()["request"];
    assert_eq!((&request["operation"], &request["oldObject"]["data"]["a"]), (&json!("DELETE"), &json!("b")));
    assert!(request["object"].is_null());
}

#[tokio::test]
async fn mutating_webhooks_change_objects_in_order_and_look_again() {
    let server = Server::start().await;
    let first = Hook::start(|request| {
        let seen = request["object"]["data"]["second"].is_string();
        let at = if seen { "/data/again" } else { "/data/first" };
        patch(json!([{"op": "add", "path": at, "value": "1"}]))
    })
    .await;
    let second = Hook::start(|request| {
        assert_eq!(request["object"]["data"]["first"], "1");
        patch(json!([{"op": "add", "path": "/data/second", "value": "2"}]))
    })
    .await;
    configure(&server, true, "a-first", first.client_config(), json!({"reinvocationPolicy": "IfNeeded"}))
        .await;
    configure(&server, true, "b-second", second.client_config(), json!({})).await;
    let made = server.post(MAPS, &map("m")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["data"], json!({"a": "b", "first": "1", "second": "2", "again": "1"}));
    assert_eq!((first.count(), second.count()), (2, 1));
    let merged = server.merge(&format!("{MAPS}/m"), &json!({"data": {"c": "d"}})).await;
    assert_eq!(merged.code, 200, "{}", merged.body);
    assert_eq!(merged.body["data"]["c"], "d");
    assert_eq!(second.last()["request"]["operation"], "UPDATE");
    assert_eq!(second.last()["request"]["oldObject"]["data"]["second"], "2");
}

#[tokio::test]
async fn failures_close_or_open_as_the_policy_says() {
    let server = Server::start().await;
    let silent = Hook::raw(&["localhost"], |_| Value::Null).await;
    let with = |policy: &str| json!({"failurePolicy": policy, "timeoutSeconds": 1});
    configure(&server, false, "slow", silent.client_config(), with("Fail")).await;
    let refused = server.post(MAPS, &map("m")).await;
    assert_eq!(refused.code, 500, "{}", refused.body);
    let url = format!("https://localhost:{}/review?timeout=1s", silent.address.port());
    assert_eq!(
        message(&refused),
        format!(
            "Internal error occurred: failed calling webhook \"slow.example.com\": failed to call webhook: Post \
             \"{url}\": context deadline exceeded"
        )
    );
    let path = format!("{REGISTRATION}/validatingwebhookconfigurations/slow");
    assert_eq!(server.delete(&path, &Value::Null).await.code, 200);
    configure(&server, false, "open", silent.client_config(), with("Ignore")).await;
    assert_eq!(server.post(MAPS, &map("m")).await.code, 201);
}

#[tokio::test]
async fn liars_vanished_ones_and_strangers_are_no_answer() {
    let server = Server::start().await;
    let review = |response: Value| json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let liar = Hook::raw(&["localhost"], move |question| {
        let uid = question["request"]["uid"].clone();
        match question["request"]["name"].as_str() {
            Some("other-uid") => review(json!({"uid": "x", "allowed": true})),
            Some("no-response") => json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}),
            Some("beta") => json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview",
                                   "response": {"uid": uid, "allowed": true}}),
            Some("patch") => {
                review(json!({"uid": uid, "allowed": true, "patch": "W10=", "patchType": "JSONPatch"}))
            }
            Some("no-json") => json!({"raw": "<html>"}),
            Some("huge") => json!({"raw": "x".repeat(5 << 20)}),
            Some("error") => json!({"raw": "down", "httpCode": 503}),
            _ => review(json!({"uid": uid, "allowed": true})),
        }
    })
    .await;
    configure(&server, false, "liar", liar.client_config(), json!({})).await;
    for (name, part) in [
        ("other-uid", "received invalid webhook response: expected response.uid="),
        ("no-response", "received invalid webhook response: webhook response was absent"),
        (
            "beta",
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview",
        ),
        ("patch", "validating webhook may not return response.patch"),
        ("no-json", "failed to call webhook: the reply is no JSON"),
        ("huge", "reading the reply (at most 4194304 bytes)"),
        (
            "error",
            "failed to call webhook: an error on the server (\"down\") has prevented the request from succeeding",
        ),
    ] {
        let refused = server.post(MAPS, &map(name)).await;
        assert_eq!(refused.code, 500, "{name}: {}", refused.body);
        assert!(message(&refused).contains(part), "{name}: {}", message(&refused));
    }
    assert_eq!(server.post(MAPS, &map("fine")).await.code, 201, "the webhook is asked anew each time");

    let stranger = Hook::raw(&["elsewhere"], |_| Value::Null).await;
    configure(&server, false, "stranger", stranger.client_config(), json!({"failurePolicy": "Fail"})).await;
    let refused = server.post(MAPS, &map("m")).await;
    assert!(message(&refused).contains("tls: failed to verify certificate"), "{}", message(&refused));
    let path = format!("{REGISTRATION}/validatingwebhookconfigurations/stranger");
    assert_eq!(server.delete(&path, &Value::Null).await.code, 200);

    let gone = stranger.client_config();
    let address = stranger.address;
    drop(stranger);
    configure(&server, false, "vanished", gone, json!({})).await;
    let refused = server.post(MAPS, &map("m")).await;
    let expected = format!("dial tcp localhost:{}: connect: connection refused", address.port());
    assert!(message(&refused).contains(&expected), "{}", message(&refused));
    // Configurations of webhooks are never shown to webhooks, so that this one can go.
    let path = format!("{REGISTRATION}/validatingwebhookconfigurations/vanished");
    assert_eq!(server.delete(&path, &Value::Null).await.code, 200);
}

#[tokio::test]
async fn selectors_rules_and_dry_run_choose_who_is_asked() {
    let server = Server::start().await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    let with = json!({
        "objectSelector": {"matchLabels": {"watched": "yes"}},
        "namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]},
        ]},
        "sideEffects": "NoneOnDryRun",
    });
    configure(&server, false, "picky", hook.client_config(), with).await;
    assert_eq!(server.post(MAPS, &map("free")).await.code, 201);
    let mut watched = map("watched");
    watched["metadata"]["labels"] = json!({"watched": "yes"});
    assert_eq!(server.post(MAPS, &watched).await.code, 400);
    assert_eq!(server.post("/api/v1/namespaces/kube-system/configmaps", &watched).await.code, 201);
    assert_eq!(server.post(&format!("{MAPS}?dryRun=All"), &watched).await.code, 400);
    assert_eq!(hook.last()["request"]["dryRun"], true);
    assert_eq!(hook.count(), 2);
}

#[tokio::test]
async fn a_service_is_dialled_at_an_endpoint_by_its_own_name() {
    let server = Server::start().await;
    let hook = Hook::start(|_| json!({"allowed": false, "status": {"message": "by service"}})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
                         "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 8443}]}});
    assert_eq!(server.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    let client = json!({"caBundle": hook.ca_bundle,
                        "service": {"namespace": "default", "name": "hook", "path": "/review"}});
    configure(&server, false, "inside", client, json!({})).await;
    let refused = server.post(MAPS, &map("m")).await;
    assert!(
        message(&refused).contains("no endpoints available for service \"hook\""),
        "{}",
        message(&refused)
    );
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": hook.address.port(), "protocol": "TCP"}],
    });
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let made = server.post(path, &slice).await;
    if made.code == 201 {
        let refused = server.post(MAPS, &map("m")).await;
        assert_eq!(
            message(&refused),
            "admission webhook \"inside.example.com\" denied the request: by service"
        );
    } else {
        // Loopback addresses are no endpoints; then there is nobody to dial.
        assert_eq!(made.code, 422, "{}", made.body);
    }
}
