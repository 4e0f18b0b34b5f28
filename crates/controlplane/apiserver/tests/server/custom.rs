//! Custom kinds over the API: definitions, their objects, and what becomes of both.

use crate::support::{Answer, Server};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "color": {"type": "string", "enum": ["red", "blue"]},
            "size": {"type": "integer", "default": 3},
            "replicas": {"type": "integer"},
        }},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                }},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
            }],
        },
    })
}

fn thing(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

/// Creates a definition and waits until it says that it is established.
async fn establish(server: &Server, definition: &Value) {
    let answer = server.post(DEFINITIONS, definition).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let name = definition["metadata"]["name"].as_str().unwrap();
    condition(server, name, "Established", "True").await;
}

async fn condition(server: &Server, name: &str, kind: &str, status: &str) -> Value {
    let mut watch = server.watch(&format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name={name}")).await;
    loop {
        let event = watch.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(found) = conditions.into_iter().find(|c| c["type"] == kind && c["status"] == status) {
            return found;
        }
    }
}

fn ok(answer: Answer, code: u16) -> Value {
    assert_eq!(answer.code, code, "{}", answer.body);
    answer.body
}

#[tokio::test]
async fn a_definition_brings_a_kind() {
    let server = Server::start().await;
    establish(&server, &definition()).await;
    let crd = ok(server.get(&format!("{DEFINITIONS}/things.example.com")).await, 200);
    assert_eq!(crd["spec"]["names"]["singular"], "thing");
    assert_eq!(crd["spec"]["names"]["listKind"], "ThingList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["acceptedNames"]["shortNames"], json!(["th"]));

    let made = ok(server.post(THINGS, &thing("a", &json!({"color": "red", "no": 1}))).await, 201);
    assert_eq!(made["spec"], json!({"color": "red", "size": 3}));
    assert_eq!(made["metadata"]["generation"], 1);
    let bad = ok(server.post(THINGS, &thing("b", &json!({"color": "green", "size": "x"}))).await, 422);
    assert_eq!(
        bad["message"],
        "Thing.example.com \"b\" is invalid: [spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\", \
         spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"]"
    );
    let strict =
        server.post(&format!("{THINGS}?fieldValidation=Strict"), &thing("b", &json!({"no": 1}))).await;
    let strict = ok(strict, 400);
    assert_eq!(
        strict["message"],
        "Thing in version \"v1\" cannot be handled as a Thing: strict decoding error: unknown field \"spec.no\""
    );

    ok(server.post(THINGS, &thing("c", &json!({"color": "blue", "replicas": 2}))).await, 201);
    let list = ok(server.get("/apis/example.com/v1/things?fieldSelector=spec.color%3Dblue").await, 200);
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("ThingList"), Some(1)));
    assert_eq!(list["items"][0]["metadata"]["name"], "c");
    let refused = ok(server.get("/apis/example.com/v1/things?fieldSelector=spec.size%3D1").await, 400);
    assert_eq!(refused["message"], "field label not supported: spec.size");

    let scale = ok(server.get(&format!("{THINGS}/c/scale")).await, 200);
    assert_eq!(scale["spec"]["replicas"], 2);
    let scale = server.merge(&format!("{THINGS}/c/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(ok(scale, 200)["spec"]["replicas"], 5);
    let patch = json!({"status": {"x": 1}, "spec": {"size": 9}});
    let status = ok(server.merge(&format!("{THINGS}/c/status"), &patch).await, 200);
    assert_eq!((&status["status"], &status["spec"]["size"]), (&json!({"x": 1}), &json!(3)));
    assert_eq!(status["metadata"]["generation"], 2);
    let strategic = "application/strategic-merge-patch+json";
    ok(server.send("PATCH", &format!("{THINGS}/c"), strategic, "{}").await, 415);

    let groups = ok(server.get("/apis").await, 200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "example.com"));
    let resources = ok(server.get("/apis/example.com/v1").await, 200);
    let names: Vec<_> = resources["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["things", "things/scale", "things/status"]);
}

#[tokio::test]
async fn a_change_ends_watches_and_counts_for_what_is_stored() {
    let server = Server::start().await;
    establish(&server, &definition()).await;
    ok(server.post(THINGS, &thing("a", &json!({"color": "red"}))).await, 201);
    let mut watch = server.watch(&format!("{THINGS}?watch=1")).await;
    assert_eq!(watch.brief().await, ("ADDED".to_owned(), "a".to_owned()));
    let patch = json!([
        {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/more",
         "value": {"type": "string", "default": "yes"}},
        {"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size"},
    ]);
    let path = format!("{DEFINITIONS}/things.example.com");
    ok(server.send("PATCH", &path, "application/json-patch+json", patch.to_string()).await, 200);
    while watch.next().await.is_some() {}
    let now = ok(server.get(&format!("{THINGS}/a")).await, 200);
    assert_eq!(now["spec"], json!({"color": "red", "more": "yes"}));
}

#[tokio::test]
async fn names_are_given_once() {
    let server = Server::start().await;
    establish(&server, &definition()).await;
    let mut other = definition();
    other["metadata"]["name"] = "others.example.com".into();
    other["spec"]["names"] = json!({"plural": "others", "kind": "Thing"});
    ok(server.post(DEFINITIONS, &other).await, 201);
    let refused = condition(&server, "others.example.com", "NamesAccepted", "False").await;
    assert_eq!(
        (&refused["reason"], &refused["message"]),
        (&json!("ListKindConflict"), &json!("\"ThingList\" is already in use"))
    );
    ok(server.get("/apis/example.com/v1/others").await, 404);
    // Who waits gets the names of who goes.
    ok(server.delete(&format!("{DEFINITIONS}/things.example.com"), &Value::Null).await, 200);
    condition(&server, "others.example.com", "Established", "True").await;
    ok(server.get("/apis/example.com/v1/others").await, 200);
}

#[tokio::test]
async fn a_definition_takes_its_objects_along() {
    let server = Server::start().await;
    establish(&server, &definition()).await;
    let mut held = thing("held", &json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    ok(server.post(THINGS, &held).await, 201);
    ok(server.post(THINGS, &thing("free", &json!({}))).await, 201);
    let mut watch = server.watch(&format!("{DEFINITIONS}?watch=1")).await;
    ok(server.delete(&format!("{DEFINITIONS}/things.example.com"), &Value::Null).await, 200);
    condition(&server, "things.example.com", "Terminating", "True").await;
    let refused = server.post(THINGS, &thing("late", &json!({}))).await;
    assert_eq!(refused.code, 405, "{}", refused.body);
    let released = server.merge(&format!("{THINGS}/held"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{}", released.body);
    loop {
        if watch.brief().await == ("DELETED".to_owned(), "things.example.com".to_owned()) {
            break;
        }
    }
    // It is told of before it is taken from the paths: that follows at once.
    let mut left = server.get(THINGS).await.code;
    for _ in 0..1000 {
        if left == 404 {
            break;
        }
        tokio::task::yield_now().await;
        left = server.get(THINGS).await.code;
    }
    assert_eq!(left, 404);
}

#[tokio::test]
async fn versions_show_the_same_object() {
    let server = Server::start().await;
    let mut crd = definition();
    let mut second = crd["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    establish(&server, &crd).await;
    let mut watch = server.watch("/apis/example.com/v1/things?watch=1").await;
    let two = "/apis/example.com/v2/namespaces/default/things";
    let mut body = thing("a", &json!({"color": "red"}));
    body["apiVersion"] = "example.com/v2".into();
    assert_eq!(ok(server.post(two, &body).await, 201)["apiVersion"], "example.com/v2");
    assert_eq!(ok(server.get(&format!("{THINGS}/a")).await, 200)["apiVersion"], "example.com/v1");
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["apiVersion"], "example.com/v1");
    let list = ok(server.get(two).await, 200);
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v2");
    let group = ok(server.get("/apis/example.com").await, 200);
    assert_eq!(group["preferredVersion"]["version"], "v2");
}

#[tokio::test]
async fn an_old_version_warns_and_moves_over() {
    let server = Server::start().await;
    let mut crd = definition();
    let mut second = crd["spec"]["versions"][0].clone();
    (second["name"], second["storage"]) = ("v2".into(), false.into());
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    crd["spec"]["versions"][0]["deprecated"] = true.into();
    crd["spec"]["versions"][0]["deprecationWarning"] = "v1 goes".into();
    establish(&server, &crd).await;
    let warning = |answer: &Answer| answer.headers.get("warning").map(|w| w.to_str().unwrap().to_owned());
    let made = server.post(THINGS, &thing("a", &json!({"color": "red"}))).await;
    assert_eq!(warning(&made).as_deref(), Some("299 - \"v1 goes\""));
    let list = server.get("/apis/example.com/v1/things").await;
    assert_eq!(warning(&list).as_deref(), Some("299 - \"v1 goes\""));
    assert_eq!(warning(&server.get("/apis/example.com/v2/things").await), None);

    // What lies in an old version is written anew by a change of nothing, once another is the one to store.
    let path = format!("{DEFINITIONS}/things.example.com");
    let mut crd = ok(server.get(&path).await, 200);
    for (index, storage) in [false, true].into_iter().enumerate() {
        crd["spec"]["versions"][index]["storage"] = storage.into();
    }
    let mut watch = server.watch("/apis/example.com/v2/things?watch=1").await;
    ok(server.put(&path, &crd).await, 200);
    while watch.next().await.is_some() {}
    let path = "/apis/example.com/v2/namespaces/default/things/a";
    let before = ok(server.get(path).await, 200);
    let after = ok(server.put(path, &before).await, 200);
    assert_ne!(before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);
    let again = ok(server.put(path, &after).await, 200);
    assert_eq!(again["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn what_leaves_a_selection_is_told_as_deleted() {
    let server = Server::start().await;
    establish(&server, &definition()).await;
    let mut watch = server.watch("/apis/example.com/v1/things?watch=1&fieldSelector=spec.color%3Dred").await;
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        ok(server.post(THINGS, &thing(name, &json!({"color": color}))).await, 201);
    }
    ok(server.merge(&format!("{THINGS}/a"), &json!({"spec": {"color": "blue"}})).await, 200);
    ok(server.merge(&format!("{THINGS}/b"), &json!({"spec": {"color": "red"}})).await, 200);
    ok(server.delete(&format!("{THINGS}?fieldSelector=spec.color%3Dred"), &json!({})).await, 200);
    let mut told = Vec::new();
    while told.len() < 6 {
        let (kind, name) = watch.brief().await;
        told.push(format!("{kind} {name}"));
    }
    told[4..].sort();
    assert_eq!(told, ["ADDED a", "ADDED c", "DELETED a", "ADDED b", "DELETED b", "DELETED c"]);
    let left = ok(server.get(THINGS).await, 200);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}
