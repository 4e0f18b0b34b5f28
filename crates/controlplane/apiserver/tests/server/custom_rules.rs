//! The rules of custom kinds' schemas: what they refuse, let pass, and cost.

use crate::support::{Answer, Server};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BOATS: &str = "/apis/harbour.example/v1/namespaces/default/boats";

/// A definition whose `spec` has these properties and these rules.
fn definition(properties: &Value, rules: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.harbour.example"},
        "spec": {
            "group": "harbour.example", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": properties, "x-kubernetes-validations": rules},
                    "status": {"type": "object", "properties": {"aboard": {"type": "integer",
                        "x-kubernetes-validations": [{"rule": "self >= 0", "message": "nobody is below zero"}]}}},
                }}},
            }],
        },
    })
}

fn boat(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "harbour.example/v1", "kind": "Boat", "metadata": {"name": name}, "spec": spec})
}

async fn establish(server: &Server, definition: &Value) {
    let answer = server.post(DEFINITIONS, definition).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    served(server).await;
}

/// Waits until the definition says that it is established.
async fn served(server: &Server) {
    let path = format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name=boats.harbour.example");
    let mut watch = server.watch(&path).await;
    loop {
        let event = watch.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return;
        }
    }
}

fn ok(answer: Answer, code: u16) -> Value {
    assert_eq!(answer.code, code, "{}", answer.body);
    answer.body
}

fn integers() -> Value {
    json!({"planks": {"type": "integer"}, "crew": {"type": "integer", "default": 1}, "name": {"type": "string"}})
}

#[tokio::test]
async fn rules_are_kept_by_every_write() {
    let server = Server::start().await;
    let rules = json!([
        {"rule": "self.crew <= self.planks * 2", "message": "too many people for so few planks"},
        {"rule": "!has(oldSelf.name) || self.name == oldSelf.name", "fieldPath": ".name",
         "reason": "FieldValueForbidden", "messageExpression": "'the name ' + oldSelf.name + ' stays'"},
    ]);
    establish(&server, &definition(&integers(), &rules)).await;
    let refused = ok(server.post(BOATS, &boat("a", &json!({"planks": 1, "crew": 3}))).await, 422);
    assert_eq!(
        refused["message"],
        "Boat.harbour.example \"a\" is invalid: spec: Invalid value: too many people for so few planks"
    );
    assert_eq!(refused["details"]["causes"][0]["field"], "spec");
    let made = ok(server.post(BOATS, &boat("a", &json!({"planks": 2, "name": "x"}))).await, 201);
    assert_eq!(made["spec"]["crew"], 1);
    let path = format!("{BOATS}/a");
    let refused = ok(server.merge(&path, &json!({"spec": {"crew": 5}})).await, 422);
    assert!(refused["message"].as_str().unwrap().ends_with("too many people for so few planks"), "{refused}");
    let refused = ok(server.merge(&path, &json!({"spec": {"name": "y"}})).await, 422);
    let message = "Boat.harbour.example \"a\" is invalid: spec.name: Forbidden: the name x stays";
    assert_eq!(refused["message"], message);
    let status = format!("{path}/status");
    let refused = ok(server.merge(&status, &json!({"status": {"aboard": -1}})).await, 422);
    let message =
        "Boat.harbour.example \"a\" is invalid: status.aboard: Invalid value: -1: nobody is below zero";
    assert_eq!(refused["message"], message);
    ok(server.merge(&status, &json!({"status": {"aboard": 1}})).await, 200);
    let blocked = ok(server.post(BOATS, &boat("b", &json!({"planks": "x"}))).await, 422);
    let sentence = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
                    correct the existing errors to complete validation";
    assert!(blocked["message"].as_str().unwrap().contains(sentence), "{blocked}");
}

#[tokio::test]
async fn what_was_wrong_before_may_stay_where_nothing_changes() {
    let server = Server::start().await;
    establish(&server, &definition(&integers(), &json!([{"rule": "true"}]))).await;
    ok(server.post(BOATS, &boat("a", &json!({"planks": 1, "crew": 9}))).await, 201);
    let path = format!("{DEFINITIONS}/boats.harbour.example");
    let stricter = json!([{"rule": "self.crew <= self.planks * 2", "message": "too many"}]);
    let mut new = ok(server.get(&path).await, 200);
    new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        stricter;
    ok(server.put(&path, &new).await, 200);
    // The new rule counts as soon as a new object is refused by it.
    loop {
        let answer =
            server.post(&format!("{BOATS}?dryRun=All"), &boat("b", &json!({"planks": 1, "crew": 9}))).await;
        if answer.code == 422 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let path = format!("{BOATS}/a");
    let answer = server.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    let warning = answer.headers.get("warning").and_then(|w| w.to_str().ok()).unwrap_or_default().to_owned();
    ok(answer, 200);
    assert_eq!(warning, "299 - \"spec: Invalid value: too many\"");
    ok(server.merge(&path, &json!({"spec": {"planks": 2}})).await, 422);
    ok(server.merge(&path, &json!({"spec": {"planks": 5}})).await, 200);
}

#[tokio::test]
async fn lists_of_type_map_know_their_elements_again() {
    let server = Server::start().await;
    let properties = json!({"cargo": {
        "type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"],
            "properties": {"name": {"type": "string", "maxLength": 10}, "weight": {"type": "integer"}},
            "x-kubernetes-validations": [
                {"rule": "self.weight >= oldSelf.weight", "message": "cargo gets no lighter"},
                {"rule": "oldSelf.hasValue() || self.weight < 100", "optionalOldSelf": true, "message": "starts light"},
            ]},
    }});
    establish(&server, &definition(&properties, &json!([{"rule": "true"}]))).await;
    let cargo = |name: &str, weight: i64| json!({"name": name, "weight": weight});
    let refused = ok(server.post(BOATS, &boat("a", &json!({"cargo": [cargo("x", 200)]}))).await, 422);
    let message = "Boat.harbour.example \"a\" is invalid: spec.cargo[0]: Invalid value: starts light";
    assert_eq!(refused["message"], message);
    ok(server.post(BOATS, &boat("a", &json!({"cargo": [cargo("x", 5), cargo("y", 50)]}))).await, 201);
    let path = format!("{BOATS}/a");
    let turned = json!({"spec": {"cargo": [cargo("z", 1), cargo("y", 150), cargo("x", 4)]}});
    let refused = ok(server.merge(&path, &turned).await, 422);
    let message =
        "Boat.harbour.example \"a\" is invalid: spec.cargo[2]: Invalid value: cargo gets no lighter";
    assert_eq!(refused["message"], message);
}

#[tokio::test]
async fn definitions_with_wrong_or_expensive_rules_are_refused() {
    let server = Server::start().await;
    let wrong = definition(&integers(), &json!([{"rule": "self.sails > 1"}]));
    let refused = ok(server.post(DEFINITIONS, &wrong).await, 422);
    let message = refused["message"].as_str().unwrap();
    let at =
        "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: ";
    assert!(message.contains(at) && message.contains("compilation failed: ERROR: <input>:1:5"), "{message}");
    assert!(message.contains("undefined field 'sails'"), "{message}");
    let texts = json!({"texts": {"type": "array", "items": {"type": "string"}}});
    let dear = definition(&texts, &json!([{"rule": "self.texts.all(a, self.texts.exists_one(b, a == b))"}]));
    let refused = ok(server.post(DEFINITIONS, &dear).await, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("estimated rule cost exceeds budget by factor of more than 100x"), "{message}");
    let mut change = definition(&integers(), &json!([{"rule": "true"}]));
    establish(&server, &change).await;
    change = ok(server.get(&format!("{DEFINITIONS}/boats.harbour.example")).await, 200);
    change["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.planks"}]);
    let refused = ok(server.put(&format!("{DEFINITIONS}/boats.harbour.example"), &change).await, 422);
    assert!(
        refused["message"].as_str().unwrap().ends_with("cel expression must evaluate to a bool"),
        "{refused}"
    );
}

/// The rules of Kubernetes' own end-to-end test.
#[tokio::test]
async fn what_costs_too_much_when_it_runs_is_refused_then() {
    let server = Server::start().await;
    let numbers = |most: u64| json!({"type": "array", "maxItems": most, "items": {"type": "integer"}});
    let properties = json!({"x": {"type": "integer"}, "y": {"type": "integer"}, "firstArray": numbers(1000),
        "secondArray": numbers(1000), "largeArray": numbers(725)});
    let rules = json!([
        {"rule": "self.x + self.y > 0"},
        {"rule": "self.firstArray.isSorted() && self.secondArray.isSorted() && \
                  ((self.firstArray.sum() + self.secondArray.sum()) % 2 == 0)"},
        {"rule": "self.largeArray.all(x, self.largeArray.all(y, y == x))"},
    ]);
    establish(&server, &definition(&properties, &rules)).await;
    let spec = |large: Vec<i64>| json!({"x": 1, "y": 0, "firstArray": [1, 2], "secondArray": [3], "largeArray": large});
    ok(server.post(BOATS, &boat("a", &spec(vec![2; 10]))).await, 201);
    let refused = ok(server.post(BOATS, &boat("b", &json!({"x": -1, "y": 0}))).await, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("spec: Invalid value: failed rule: self.x + self.y > 0"), "{message}");
    assert!(message.contains("no such key: firstArray evaluating rule: self.firstArray"), "{message}");
    let refused = ok(server.post(BOATS, &boat("b", &spec(vec![20; 725]))).await, 422);
    assert!(refused["message"].as_str().unwrap().contains("call cost exceeds limit"), "{refused}");
}
