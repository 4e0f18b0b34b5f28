//! Policies and the kinds they are about: checked types, custom resources, and another look after webhooks.

use std::time::{Duration, Instant};

use crate::hook::{Hook, configuration};
use crate::support::Server;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn registered(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn rules(group: &str, version: &str, plural: &str) -> Value {
    json!({"resourceRules": [{
        "apiGroups": [group], "apiVersions": [version], "resources": [plural], "operations": ["CREATE", "UPDATE"],
    }]})
}

async fn put(server: &Server, plural: &str, object: &Value) {
    let answer = server.post(&format!("{GROUP}/{plural}"), object).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
}

/// A mutating policy and a binding of the same name.
async fn mutating(server: &Server, name: &str, constraints: Value, again: &str, mutation: Value) {
    let spec = json!({"matchConstraints": constraints, "reinvocationPolicy": again, "mutations": [mutation]});
    put(server, "mutatingadmissionpolicies", &registered("MutatingAdmissionPolicy", name, &spec)).await;
    let binding = registered("MutatingAdmissionPolicyBinding", name, &json!({"policyName": name}));
    put(server, "mutatingadmissionpolicybindings", &binding).await;
}

async fn checked(server: &Server, name: &str, generation: i64) -> Value {
    let start = Instant::now();
    loop {
        let policy = server.get(&format!("{GROUP}/validatingadmissionpolicies/{name}")).await.body;
        if policy["status"]["observedGeneration"] == generation {
            return policy["status"]["typeChecking"].clone();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{policy}");
        tokio::task::yield_now().await;
    }
}

async fn widgets(server: &Server) {
    let text = json!({"type": "string"});
    let part = json!({"type": "object", "properties": {"name": text, "size": {"type": "integer"}}, "required": ["name"]});
    let parts = json!({"type": "array", "items": part, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]});
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "parts": parts}},
    }});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let made = server.post(path, &definition).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let start = Instant::now();
    while server.get("/apis/example.com/v1/namespaces/default/widgets").await.code != 200 {
        assert!(start.elapsed() < Duration::from_secs(10), "never served");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn expressions_are_checked_against_the_kinds_that_are_matched() {
    let server = Server::start().await;
    widgets(&server).await;
    let validations = json!([
        {"expression": "object.spec.replicas > '1'", "messageExpression": "'has ' + string(object.spec.nope)"},
        {"expression": "object.metadata.labels['a'] == 'b' && variables.fine && oldObject.spec.paused == true"},
    ]);
    let variables = json!([{"name": "fine", "expression": "object.spec.replicas > 1"}]);
    let spec = json!({"matchConstraints": rules("apps", "v1", "deployments"), "validations": validations,
                      "variables": variables});
    put(&server, "validatingadmissionpolicies", &registered("ValidatingAdmissionPolicy", "bad", &spec)).await;
    let warnings = checked(&server, "bad", 1).await["expressionWarnings"].clone();
    let warnings = warnings.as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let said = warnings[0]["warning"].as_str().unwrap();
    assert!(
        said.starts_with(
            "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_'"
        ),
        "{said}"
    );
    assert_eq!(warnings[1]["fieldRef"], "spec.validations[0].messageExpression");
    let said = warnings[1]["warning"].as_str().unwrap();
    assert!(said.contains("undefined field 'nope'"), "{said}");
    // A better spec takes them away.
    let better = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    let path = format!("{GROUP}/validatingadmissionpolicies/bad");
    assert_eq!(server.merge(&path, &better).await.code, 200);
    assert_eq!(checked(&server, "bad", 2).await, json!({}));
    // Custom kinds by the schema of their definition, with metadata as every object has it.
    let validations = json!([{"expression": "object.spec.sise > 1 || object.metadata.labels.size() > 1"}]);
    let spec = json!({"matchConstraints": rules("example.com", "v1", "widgets"), "validations": validations});
    put(&server, "validatingadmissionpolicies", &registered("ValidatingAdmissionPolicy", "custom", &spec))
        .await;
    let warnings = checked(&server, "custom", 1).await["expressionWarnings"].clone();
    let said = warnings[0]["warning"].as_str().unwrap();
    assert!(
        said.starts_with("example.com/v1, Kind=Widget: ERROR: <input>:1:12: undefined field 'sise'"),
        "{said}"
    );
    assert_eq!(said.matches("ERROR").count(), 1, "{said}");
}

#[tokio::test]
async fn a_custom_resource_is_configured_by_its_schema() {
    let server = Server::start().await;
    widgets(&server).await;
    let expression = "Object{spec: Object.spec{size: object.spec.size + 1, parts: [Object.spec.parts{name: 'a', size: 7}]}}";
    let mutation =
        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    mutating(&server, "grow", rules("example.com", "v1", "widgets"), "Never", mutation).await;
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"},
        "spec": {"size": 1, "parts": [{"name": "b", "size": 2}, {"name": "a", "size": 1}]}});
    let made = server.post("/apis/example.com/v1/namespaces/default/widgets", &widget).await;
    assert_eq!(made.code, 201, "{}", made.body);
    // Items of the list are known by their names: one changed, the other stayed.
    assert_eq!(
        made.body["spec"],
        json!({"size": 2, "parts": [{"name": "b", "size": 2}, {"name": "a", "size": 7}]})
    );
}

#[tokio::test]
async fn policies_and_webhooks_look_again_at_what_the_other_changed() {
    let server = Server::start().await;
    let count = |key: &str| {
        let path = format!("/data/{key}");
        let expression = format!(
            "[JSONPatch{{op: 'add', path: '{path}', value: '{key}' in object.data ? object.data['{key}'] + 'x' : 'x'}}]"
        );
        json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
    };
    let maps = || rules("", "v1", "configmaps");
    mutating(&server, "once", maps(), "Never", count("once")).await;
    mutating(&server, "twice", maps(), "IfNeeded", count("twice")).await;
    let hook = Hook::start(|request| {
        let before = request["object"]["data"]["hook"].as_str().unwrap_or_default().to_owned();
        let patch = json!([{"op": "add", "path": "/data/hook", "value": before + "x"}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
    })
    .await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let with = configuration("MutatingWebhookConfiguration", "hook", hook.client_config(), again);
    put(&server, "mutatingwebhookconfigurations", &with).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let made = server.post(MAPS, &map).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["data"], json!({"a": "b", "once": "x", "twice": "xx", "hook": "xx"}));
}
