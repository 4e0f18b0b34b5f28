//! Server-side apply and managed fields over HTTP.

use crate::support::{Answer, Server, answer};
use http_body_util::Full;
use serde_json::{Value, json};

const APPLY: &str = "application/apply-patch+yaml";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "nginx"}]},
            },
        },
    });
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

async fn apply(server: &Server, path: &str, query: &str, body: impl ToString) -> Answer {
    server.send("PATCH", &format!("{path}?{query}"), APPLY, body.to_string()).await
}

fn managers(object: &Value) -> Vec<(&str, &str, &str)> {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries
        .iter()
        .map(|e| {
            (
                e["manager"].as_str().unwrap_or_default(),
                e["operation"].as_str().unwrap_or_default(),
                e["subresource"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_creates_changes_and_conflicts() {
    let server = Server::start().await;
    let web = format!("{DEPLOYMENTS}/web");
    let made = apply(&server, &web, "fieldManager=a", deployment(&json!({"replicas": 3}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(managers(&made.body), [("a", "Apply", "")]);
    assert_eq!(made.body["spec"]["replicas"], 3);
    assert_eq!(made.body["spec"]["revisionHistoryLimit"], 10, "defaults, which nobody owns");
    let fields = &made.body["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:spec"]["f:replicas"], json!({}));
    assert!(fields["f:spec"].get("f:revisionHistoryLimit").is_none(), "{fields}");

    let again = apply(&server, &web, "fieldManager=a", deployment(&json!({"replicas": 3}))).await;
    assert_eq!((again.code, &again.body), (200, &made.body), "nothing changes");

    let refused = apply(&server, &web, "fieldManager=b", deployment(&json!({"replicas": 5}))).await;
    assert_eq!(refused.code, 409);
    assert_eq!(refused.body["message"], "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
    assert_eq!(
        refused.body["details"],
        json!({"causes": [{"reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".spec.replicas"}]})
    );
    let dry =
        apply(&server, &web, "fieldManager=b&force=true&dryRun=All", deployment(&json!({"replicas": 5})))
            .await;
    assert_eq!((dry.code, &dry.body["spec"]["replicas"]), (200, &json!(5)));
    assert_eq!(server.get(&web).await.body, made.body);
    let forced = apply(&server, &web, "fieldManager=b&force=true", deployment(&json!({"replicas": 5}))).await;
    assert_eq!(managers(&forced.body), [("a", "Apply", ""), ("b", "Apply", "")]);
    let left = apply(&server, &web, "fieldManager=b", deployment(&json!({}))).await;
    assert_eq!(left.body["spec"]["replicas"], 1, "nobody's now: the default");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_apply_is_refused_for() {
    let server = Server::start().await;
    let web = format!("{DEPLOYMENTS}/web");
    let body = deployment(&json!({}));
    for (query, content, body, code, message) in [
        (
            "",
            APPLY,
            body.to_string(),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            "force=true",
            "application/merge-patch+json",
            "{}".to_owned(),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ),
        ("fieldManager=a", APPLY, "{".to_owned(), 400, "error decoding YAML: "),
        ("fieldManager=a", APPLY, "[]".to_owned(), 400, "error decoding YAML: "),
        ("fieldManager=a", APPLY, "{}".to_owned(), 400, "invalid object type: /, Kind="),
        (
            "fieldManager=a",
            APPLY,
            body.to_string().replace("\"web\"", "\"other\""),
            400,
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        (
            "fieldManager=a",
            APPLY,
            body.to_string()
                .replace("\"name\":\"web\",\"labels\"", "\"name\":\"web\",\"managedFields\":[],\"labels\""),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "fieldManager=a",
            APPLY,
            body.to_string().replace("\"image\"", "\"imagine\""),
            500,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): .spec.template.spec.containers[name=\"web\"].imagine: field not declared in schema",
        ),
        (
            "fieldManager=a&fieldValidation=Strict",
            APPLY,
            format!("{{\"kind\":\"x\",{}", &body.to_string()[1..]),
            400,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 1: key \"kind\" already set in map",
        ),
        (
            "fieldManager=a",
            "application/apply-patch+cbor",
            String::new(),
            415,
            "the body of the request was in an unknown format",
        ),
    ] {
        let refused = server.send("PATCH", &format!("{web}?{query}"), content, body).await;
        let said = refused.body["message"].as_str().unwrap_or_default();
        assert!(
            refused.code == code && said.starts_with(message),
            "{query} {content}: {} {said}",
            refused.code
        );
    }
    let long = "x".repeat(129);
    let refused = apply(&server, &web, &format!("fieldManager={long}"), &body).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let refused = server
        .send("POST", &format!("{DEPLOYMENTS}?fieldManager={long}"), "application/json", body.to_string())
        .await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let missing = apply(&server, &format!("{web}/status"), "fieldManager=a", &body).await;
    assert_eq!(missing.code, 404, "a subresource makes nothing: {}", missing.body);
    let mut stale = deployment(&json!({}));
    stale["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    let refused = apply(&server, &web, "fieldManager=a", &stale).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    let made = apply(&server, &web, "fieldManager=a", deployment(&json!({}))).await;
    assert_eq!(made.code, 201);
    let refused = apply(&server, &web, "fieldManager=a", &stale).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    let mut stale = deployment(&json!({"paused": true}));
    stale["metadata"]["resourceVersion"] = "1".into();
    let refused = apply(&server, &web, "fieldManager=a", &stale).await;
    assert_eq!((refused.code, refused.body["reason"].as_str()), (409, Some("Conflict")), "{}", refused.body);
    stale["metadata"]["resourceVersion"] = made.body["metadata"]["resourceVersion"].clone();
    assert_eq!(apply(&server, &web, "fieldManager=a", &stale).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_notes_its_manager() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let body =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    let request = |method: &str, path: &str, kind: &str, body: &Value| {
        http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("user-agent", "gopher/v1.2 (linux)")
            .body(Full::new(body.to_string().into()))
            .unwrap()
    };
    let made = answer(server.client(), request("POST", path, "application/json", &body)).await;
    assert_eq!(managers(&made.body), [("gopher", "Update", "")]);
    let one = format!("{path}/c");
    let patch = request(
        "PATCH",
        &format!("{one}?fieldManager=p"),
        "application/merge-patch+json",
        &json!({"data": {"b": "2"}}),
    );
    let patched = answer(server.client(), patch).await;
    let entries = patched.body["metadata"]["managedFields"].as_array().unwrap().clone();
    let own = entries.iter().find(|e| e["manager"] == "p").unwrap();
    assert_eq!(own["fieldsV1"], json!({"f:data": {"f:b": {}}}));
    // Who sends no managers keeps them.
    let put = server.put(&one, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}})).await;
    assert_eq!(put.body["metadata"]["managedFields"], Value::Array(entries));
    let mut reset = put.body.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    let reset = server.put(&one, &reset).await;
    assert_eq!(reset.code, 200);
    assert!(reset.body["metadata"].get("managedFields").is_none(), "{}", reset.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subresources_have_managers_of_their_own() {
    let server = Server::start().await;
    let web = format!("{DEPLOYMENTS}/web");
    apply(&server, &web, "fieldManager=a", deployment(&json!({"replicas": 1}))).await;
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "status": {"observedGeneration": 1}});
    let applied = apply(&server, &format!("{web}/status"), "fieldManager=s", &status).await;
    assert_eq!(applied.code, 200, "{}", applied.body);
    assert_eq!(managers(&applied.body), [("a", "Apply", ""), ("s", "Apply", "status")]);
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 4}});
    let refused = apply(&server, &format!("{web}/scale"), "fieldManager=hpa", &scale).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    assert_eq!(refused.body["message"], "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
    let forced = apply(&server, &format!("{web}/scale"), "fieldManager=hpa&force=true", &scale).await;
    assert_eq!((forced.code, &forced.body["spec"]["replicas"]), (200, &json!(4)), "{}", forced.body);
    assert!(forced.body["metadata"].get("managedFields").is_none());
    let object = server.get(&web).await.body;
    assert_eq!(object["spec"]["replicas"], 4);
    assert!(managers(&object).contains(&("hpa", "Apply", "scale")), "{:?}", managers(&object));
    let own = object["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "a");
    assert!(own.unwrap()["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    let scaled = server
        .send(
            "PATCH",
            &format!("{web}/scale?fieldManager=k"),
            "application/merge-patch+json",
            json!({"spec": {"replicas": 2}}).to_string(),
        )
        .await;
    assert_eq!(scaled.code, 200, "{}", scaled.body);
    let object = server.get(&web).await.body;
    assert!(managers(&object).contains(&("k", "Update", "scale")), "{:?}", managers(&object));
    assert!(!managers(&object).iter().any(|m| m.0 == "hpa"), "{:?}", managers(&object));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_at_once_all_hold() {
    let server = std::sync::Arc::new(Server::start().await);
    let path = "/api/v1/namespaces/default/configmaps/shared";
    let one = |n: usize| {
        let server = server.clone();
        async move {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": {format!("k{n}"): "v"}});
            apply(&server, path, &format!("fieldManager=m{n}"), body).await.code
        }
    };
    let codes = futures::future::join_all((0..6).map(one)).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 200 | 201)), "{codes:?}");
    let object = server.get(path).await.body;
    assert_eq!(object["data"].as_object().unwrap().len(), 6);
    assert_eq!(managers(&object).len(), 6);
}
