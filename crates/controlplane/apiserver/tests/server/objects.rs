//! Objects through the in-process service: create, read, list, update, patch, delete, and every refusal on the way.

use crate::support::Server;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    })
}

#[tokio::test]
async fn a_new_cluster_has_its_namespaces_and_service() {
    let server = Server::start().await;
    let list = server.get("/api/v1/namespaces").await.body;
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|n| n["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = server.get("/api/v1/namespaces/default/services/kubernetes").await.body;
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 6443);
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(server.get(slice).await.body["endpoints"][0]["addresses"][0], "192.0.2.10");
    assert_eq!(server.get("/readyz").await.body, "ok");
}

#[tokio::test]
async fn create_read_update_delete() {
    let server = Server::start().await;
    let created = server.post(MAPS, &map("one")).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let metadata = &created.body["metadata"];
    assert!(!metadata["uid"].as_str().unwrap().is_empty());
    assert!(!metadata["resourceVersion"].as_str().unwrap().is_empty());
    assert_eq!(metadata["namespace"], "default");
    let read = server.get(&format!("{MAPS}/one")).await;
    assert_eq!(read.body, created.body);

    let again = server.post(MAPS, &map("one")).await;
    assert_eq!(again.code, 409);
    assert_eq!(again.body["message"], "configmaps \"one\" already exists");
    assert_eq!(again.body["reason"], "AlreadyExists");
    assert_eq!(again.body["details"], json!({"name": "one", "kind": "configmaps"}));

    let mut changed = created.body.clone();
    changed["data"]["a"] = "c".into();
    let updated = server.put(&format!("{MAPS}/one"), &changed).await;
    assert_eq!(updated.code, 200, "{}", updated.body);
    assert_ne!(updated.body["metadata"]["resourceVersion"], metadata["resourceVersion"]);
    let stale = server.put(&format!("{MAPS}/one"), &changed).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.body["message"],
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // The same again changes nothing, not even the revision.
    let same = server.put(&format!("{MAPS}/one"), &updated.body).await;
    assert_eq!(same.body, updated.body);
    let backwards: serde_json::Map<String, Value> =
        updated.body.as_object().unwrap().clone().into_iter().rev().collect();
    let same = server.put(&format!("{MAPS}/one"), &backwards.into()).await;
    assert_eq!(same.body["metadata"]["resourceVersion"], updated.body["metadata"]["resourceVersion"]);

    let gone = server.delete(&format!("{MAPS}/one"), &Value::Null).await;
    assert_eq!(gone.code, 200);
    assert_eq!(gone.body["status"], "Success");
    assert_eq!(gone.body["details"]["name"], "one");
    let missing = server.get(&format!("{MAPS}/one")).await;
    assert_eq!(missing.code, 404);
    assert_eq!(missing.body["message"], "configmaps \"one\" not found");
}

#[tokio::test]
async fn bad_requests_are_told_apart() {
    let server = Server::start().await;
    let malformed = server.send("POST", MAPS, "application/json", "{\"a\":").await;
    assert_eq!((malformed.code, malformed.body["reason"].as_str()), (400, Some("BadRequest")));
    let kind = server.post(MAPS, &pod("x")).await;
    assert_eq!(kind.code, 400, "{}", kind.body);
    let media = server.send("POST", MAPS, "text/plain", "x").await;
    assert_eq!((media.code, media.body["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    let apply = server.send("PATCH", &format!("{MAPS}/x"), "application/apply-patch+yaml", "{}").await;
    assert_eq!(apply.code, 422);
    assert!(apply.body["message"].as_str().unwrap().contains("is required for apply patch"));
    let large = server.send("POST", MAPS, "application/json", vec![b' '; (3 << 20) + 1]).await;
    assert_eq!((large.code, large.body["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let namespace = server.post("/api/v1/namespaces/nowhere/configmaps", &map("x")).await;
    assert_eq!(namespace.code, 404);
    assert_eq!(namespace.body["message"], "namespaces \"nowhere\" not found");
    let mut other = map("x");
    other["metadata"]["namespace"] = "kube-system".into();
    let other = server.post(MAPS, &other).await;
    assert_eq!(other.code, 400);
    assert_eq!(
        other.body["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    let unknown = server.get("/apis/nothing.example/v1/things").await;
    assert_eq!(unknown.code, 404);
    assert_eq!(unknown.body["message"], "the server could not find the requested resource");
    let method = server.send("POST", &format!("{MAPS}/x"), "application/json", "{}").await;
    assert_eq!((method.code, method.body["reason"].as_str()), (405, Some("MethodNotAllowed")));
    let mut strict = map("strict");
    strict["nonsense"] = 1.into();
    let strict = server.post(&format!("{MAPS}?fieldValidation=Strict"), &strict).await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.body["message"].as_str().unwrap().contains("unknown field \"nonsense\""),
        "{}",
        strict.body
    );
    let invalid = server.post(MAPS, &map("Not_A_Name")).await;
    assert_eq!((invalid.code, invalid.body["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(invalid.body["details"]["causes"][0]["field"], "metadata.name");
    let long = format!("{MAPS}?labelSelector={}", "a".repeat(20_000));
    assert_eq!(server.get(&long).await.code, 414);
}

#[tokio::test]
async fn yaml_and_generated_names_and_dry_run() {
    let server = Server::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  generateName: gen-\ndata:\n  k: v\n";
    let first = server.send("POST", MAPS, "application/yaml", yaml).await;
    let second = server.send("POST", MAPS, "application/yaml", yaml).await;
    assert_eq!((first.code, second.code), (201, 201), "{}", first.body);
    let name = first.body["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    assert_ne!(first.body["metadata"]["name"], second.body["metadata"]["name"]);
    let dry = server.post(&format!("{MAPS}?dryRun=All"), &map("dry")).await;
    assert_eq!(dry.code, 201, "{}", dry.body);
    assert_eq!(server.get(&format!("{MAPS}/dry")).await.code, 404);
    let some = server.post(&format!("{MAPS}?dryRun=Some"), &map("dry")).await;
    assert_eq!(some.code, 422);
}

#[tokio::test]
async fn lists_come_in_pages_and_expire() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.config_map(name).await;
    }
    let first = server.get(&format!("{MAPS}?limit=2")).await.body;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // What happens after the first page is not seen on the second.
    server.delete(&format!("{MAPS}/c"), &Value::Null).await;
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.body;
    let names: Vec<&Value> =
        second["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let bad = server.get(&format!("{MAPS}?continue=nonsense")).await;
    assert_eq!(bad.code, 400);
    assert!(
        bad.body["message"]
            .as_str()
            .unwrap()
            .starts_with("invalid continue token: continue key is not valid"),
        "{}",
        bad.body
    );

    let now: i64 =
        server.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    sampan_store::Store::compact(&*server.store, now).await.unwrap();
    let expired = server.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, expired.body["reason"].as_str()), (410, Some("Expired")), "{}", expired.body);
    let onward = expired.body["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?limit=5&continue={onward}")).await;
    let names: Vec<&Value> =
        rest.body["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["d", "e"]);
    let old = server.get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    assert_eq!(old.code, 410);
    let future = server.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!((future.code, future.body["reason"].as_str()), (504, Some("Timeout")), "{}", future.body);
}

#[tokio::test]
async fn pods_of_a_node_are_those_that_are_bound_to_it() {
    let server = Server::start().await;
    server.account("default").await;
    for (name, node) in [("n1", "n2"), ("x", "n1"), ("y", "")] {
        let mut pod = pod(name);
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        let made = server.post(PODS, &pod).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    for (node, expected) in
        [("n1", vec!["x"]), ("n2", vec!["n1"]), ("n", vec![]), ("", vec!["y"]), ("a%22b", vec![])]
    {
        let found = server.get(&format!("{PODS}?fieldSelector=spec.nodeName%3D{node}")).await.body;
        let found = found["items"].as_array().unwrap();
        let names: Vec<&str> = found.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{node}");
    }
    let names = async |query: &str| {
        let found = server.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1{query}")).await.body;
        let names =
            found["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].clone()).collect();
        (Value::Array(names), found["metadata"].clone())
    };
    let binding = json!({"metadata": {"name": "y"}, "target": {"name": "n1"}});
    assert_eq!(server.post(&format!("{PODS}/y/binding"), &binding).await.code, 201);
    let (both, metadata) = names("").await;
    assert_eq!(both, json!(["x", "y"]), "what was answered is there");
    let version = metadata["resourceVersion"].as_str().unwrap();
    let page = names("&limit=1").await;
    assert!(page.0 == json!(["x"]) && page.1["continue"].is_string(), "{page:?}");
    assert_eq!(server.delete(&format!("{PODS}/x?gracePeriodSeconds=0"), &Value::Null).await.code, 200);
    assert_eq!(names("").await.0, json!(["y"]));
    assert_eq!(names(&format!("&resourceVersion={version}")).await.0, json!(["y"]));
    let then = names(&format!("&resourceVersion={version}&resourceVersionMatch=Exact")).await.0;
    assert_eq!(then, json!(["x", "y"]), "as it was");
    assert_eq!(names(",metadata.name%3Dx").await.0, json!([]));
    assert_eq!(
        server.get("/api/v1/namespaces/kube-system/pods?fieldSelector=spec.nodeName%3Dn1").await.body["items"],
        json!([])
    );
    assert_eq!(
        server.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.body["items"][0]["metadata"]["name"],
        "y"
    );
}

#[tokio::test]
async fn selectors_tables_and_partial_metadata() {
    let server = Server::start().await;
    server.account("default").await;
    for name in ["web", "db"] {
        let made = server.post(PODS, &pod(name)).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    let chosen = server.get(&format!("{PODS}?labelSelector=app%3Dweb")).await.body;
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1);
    let chosen =
        server.get("/api/v1/pods?fieldSelector=metadata.name%3Ddb,status.phase%3DPending").await.body;
    assert_eq!(chosen["items"].as_array().unwrap().len(), 1);
    let none = server.get("/api/v1/pods?fieldSelector=spec.nodeName%21%3D").await.body;
    assert_eq!(none["items"], json!([]));
    let bad = server.get(&format!("{PODS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!(bad.code, 400);
    let accept = |form: &str| {
        http::Request::get(PODS)
            .header("accept", format!("application/json;as={form};v=v1;g=meta.k8s.io"))
            .body(http_body_util::Full::default())
            .unwrap()
    };
    let table = crate::support::answer(server.client(), accept("Table")).await.body;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "db");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = crate::support::answer(server.client(), accept("PartialObjectMetadataList")).await.body;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0]["metadata"]["name"], "db");
    assert!(partial["items"][0].get("spec").is_none());
    let refused =
        http::Request::get(PODS).header("accept", "text/html").body(http_body_util::Full::default());
    assert_eq!(crate::support::answer(server.client(), refused.unwrap()).await.code, 406);
}

#[tokio::test]
async fn patches_of_three_kinds() {
    let server = Server::start().await;
    server.config_map("p").await;
    let path = format!("{MAPS}/p");
    let merged = server.merge(&path, &json!({"data": {"x": "1", "a": null}})).await;
    assert_eq!(merged.body["data"], json!({"x": "1"}), "{}", merged.body);
    let operations = json!([{"op": "add", "path": "/data/y", "value": "2"}]).to_string();
    let patched = server.send("PATCH", &path, "application/json-patch+json", operations).await;
    assert_eq!(patched.body["data"], json!({"x": "1", "y": "2"}), "{}", patched.body);
    let strategic = json!({"metadata": {"labels": {"l": "v"}}}).to_string();
    let strategic = server.send("PATCH", &path, "application/strategic-merge-patch+json", strategic).await;
    assert_eq!(strategic.body["metadata"]["labels"]["l"], "v");
    let stale = server.merge(&path, &json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "3"}})).await;
    assert_eq!(stale.code, 409, "{}", stale.body);
    let rename = server.merge(&path, &json!({"metadata": {"name": "q"}})).await;
    assert_eq!(rename.code, 400, "{}", rename.body);
    let none = server.merge(&format!("{MAPS}/none"), &json!({})).await;
    assert_eq!(none.code, 404);
    // Many at once: each is applied, none is lost.
    let patches = (0..20).map(|n| {
        let (server, path) = (&server, &path);
        async move { server.merge(path, &json!({"data": {format!("k{n}"): "v"}})).await.code }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200 || *code == 409), "{codes:?}");
    let kept = server.get(&path).await.body;
    let applied = codes.iter().filter(|code| **code == 200).count();
    let present = kept["data"].as_object().unwrap().keys().filter(|key| key.starts_with('k')).count();
    assert_eq!(applied, present);
}

#[tokio::test]
async fn finalizers_and_preconditions_hold_a_delete() {
    let server = Server::start().await;
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let held = server.post(MAPS, &held).await.body;
    let path = format!("{MAPS}/held");
    let wrong = server.delete(&path, &json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(wrong.code, 409, "{}", wrong.body);
    let wrong = server.delete(&path, &json!({"preconditions": {"resourceVersion": "1"}})).await;
    assert_eq!(wrong.code, 409);
    let uid = held["metadata"]["uid"].clone();
    let marked = server.delete(&path, &json!({"preconditions": {"uid": uid}})).await;
    assert_eq!(marked.code, 200);
    assert!(marked.body["metadata"]["deletionTimestamp"].is_string(), "{}", marked.body);
    let released = server.merge(&path, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{}", released.body);
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_held_service_gives_back_its_address_when_it_goes() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Value, finalizers: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "finalizers": finalizers},
            "spec": {"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80}]},
        })
    };
    let held = server.post(services, &service("held", "10.43.7.7".into(), json!(["example.com/wait"]))).await;
    assert_eq!(held.code, 201, "{}", held.body);
    server.delete(&format!("{services}/held"), &Value::Null).await;
    let taken = server.post(services, &service("next", "10.43.7.7".into(), Value::Null)).await;
    assert_eq!(taken.code, 422);
    let released =
        server.merge(&format!("{services}/held"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(released.code, 200, "{}", released.body);
    let next = server.post(services, &service("next", "10.43.7.7".into(), Value::Null)).await;
    assert_eq!(next.code, 201, "{}", next.body);
}

#[tokio::test]
async fn pods_are_deleted_with_grace() {
    let server = Server::start().await;
    server.account("default").await;
    let made = server.post(PODS, &pod("unbound")).await.body;
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(
        made["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
        3607
    );
    assert_eq!(server.delete(&format!("{PODS}/unbound"), &Value::Null).await.code, 200);
    assert_eq!(server.get(&format!("{PODS}/unbound")).await.code, 404);

    server.post(PODS, &pod("bound")).await;
    let path = format!("{PODS}/bound");
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "bound"},
        "target": {"kind": "Node", "name": "n1"},
    });
    let bound = server.post(&format!("{path}/binding"), &binding).await;
    assert_eq!((bound.code, bound.body["status"].as_str()), (201, Some("Success")), "{}", bound.body);
    let twice = server.post(&format!("{path}/binding"), &binding).await;
    assert_eq!(twice.code, 409);
    assert_eq!(
        twice.body["message"],
        "Operation cannot be fulfilled on pods/binding \"bound\": pod bound is already assigned to node \"n1\""
    );
    let read = server.get(&path).await.body;
    assert_eq!(read["spec"]["nodeName"], "n1");
    assert_eq!(read["status"]["conditions"][0]["type"], "PodScheduled");

    let marked = server.delete(&path, &Value::Null).await.body;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30, "{marked}");
    let again = server.delete(&path, &Value::Null).await.body;
    assert_eq!(again["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    let hurried = server.delete(&path, &json!({"gracePeriodSeconds": 5})).await.body;
    assert_eq!(hurried["metadata"]["deletionGracePeriodSeconds"], 5);
    // The agent has stopped it.
    assert_eq!(server.delete(&path, &json!({"gracePeriodSeconds": 0})).await.code, 200);
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let server = Server::start().await;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "temp"}});
    assert_eq!(server.post("/api/v1/namespaces", &body).await.code, 201);
    let marked = server.delete("/api/v1/namespaces/temp", &Value::Null).await.body;
    assert_eq!(marked["status"]["phase"], "Terminating", "{marked}");
    let refused = server.post("/api/v1/namespaces/temp/configmaps", &map("late")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "configmaps \"late\" is forbidden: unable to create new content in namespace temp because it is being terminated"
    );
    let mut finalized = server.get("/api/v1/namespaces/temp").await.body;
    finalized["spec"]["finalizers"] = json!([]);
    let answer = server.put("/api/v1/namespaces/temp/finalize", &finalized).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    assert_eq!(server.get("/api/v1/namespaces/temp").await.code, 404);
    let kept = server.delete("/api/v1/namespaces/default", &Value::Null).await;
    assert_eq!(kept.code, 403);
}

#[tokio::test]
async fn status_and_scale_are_apart() {
    let server = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        }},
    });
    let made = server.post(deployments, &body).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["generation"], 1);
    let path = format!("{deployments}/d");
    let status = server
        .merge(&format!("{path}/status"), &json!({"spec": {"replicas": 9}, "status": {"replicas": 2}}))
        .await;
    assert_eq!(
        (&status.body["spec"]["replicas"], &status.body["status"]["replicas"]),
        (&json!(2), &json!(2)),
        "{}",
        status.body
    );
    assert_eq!(status.body["metadata"]["generation"], 1);
    let scale = server.get(&format!("{path}/scale")).await.body;
    assert_eq!((scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()), (Some("Scale"), Some(2)));
    let scaled = server.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(scaled.body["spec"]["replicas"], 5, "{}", scaled.body);
    let mut put = scaled.body.clone();
    put["spec"]["replicas"] = 6.into();
    assert_eq!(server.put(&format!("{path}/scale"), &put).await.code, 200);
    assert_eq!(server.put(&format!("{path}/scale"), &put).await.code, 409);
    let read = server.get(&path).await.body;
    assert_eq!(
        (read["spec"]["replicas"].as_i64(), read["metadata"]["generation"].as_i64()),
        (Some(6), Some(3))
    );
    let foreground = server.delete(&path, &json!({"propagationPolicy": "Foreground"})).await.body;
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{foreground}");
}

#[tokio::test]
async fn addresses_and_ports_are_given_once() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| {
        let mut body = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}},
        });
        body["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        body
    };
    let names: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
    let made = names.iter().map(|name| {
        let body = service(name, json!({"type": "NodePort"}));
        let server = &server;
        async move { server.post(services, &body).await }
    });
    let made = futures::future::join_all(made).await;
    assert!(made.iter().all(|answer| answer.code == 201), "{:?}", made.iter().find(|a| a.code != 201));
    let distinct = |pointer: &str| {
        let values = made.iter().map(|answer| answer.body.pointer(pointer).unwrap().to_string());
        values.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(distinct("/spec/clusterIP"), 30);
    assert_eq!(distinct("/spec/ports/0/nodePort"), 30);

    let ip = made[0].body["spec"]["clusterIP"].as_str().unwrap();
    let taken = server.post(services, &service("taken", json!({"clusterIP": ip}))).await;
    assert_eq!(taken.code, 422, "{}", taken.body);
    assert!(
        taken.body["message"].as_str().unwrap().contains("provided IP is already allocated"),
        "{}",
        taken.body
    );
    let outside = server.post(services, &service("outside", json!({"clusterIP": "10.99.0.7"}))).await;
    assert_eq!(outside.code, 422);
    assert!(outside.body["message"].as_str().unwrap().contains("10.43.0.0/16"), "{}", outside.body);
    let port = made[0].body["spec"]["ports"][0]["nodePort"].clone();
    let ports = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let taken = server.post(services, &service("taken", ports.clone())).await;
    assert_eq!(taken.code, 422);
    assert!(
        taken.body["message"].as_str().unwrap().contains("provided port is already allocated"),
        "{}",
        taken.body
    );
    let headless = server.post(services, &service("headless", json!({"clusterIP": "None"}))).await;
    assert_eq!(headless.body["spec"]["clusterIP"], "None", "{}", headless.body);

    assert_eq!(server.delete(&format!("{services}/s0"), &Value::Null).await.code, 200);
    let mut again = ports;
    again["clusterIP"] = ip.into();
    let again = server.post(services, &service("again", again)).await;
    assert_eq!(again.code, 201, "{}", again.body);
    let back = server.merge(&format!("{services}/again"), &json!({"spec": {"type": "ClusterIP"}})).await;
    assert!(back.body["spec"]["ports"][0].get("nodePort").is_none(), "{}", back.body);
    let free = server
        .post(
            services,
            &service("free", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]})),
        )
        .await;
    assert_eq!(free.code, 201, "{}", free.body);
}

#[tokio::test]
async fn a_second_start_continues_where_the_first_stopped() {
    let server = Server::start().await;
    let kept = server.config_map("kept").await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Option<&Value>| {
        let mut body = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]},
        });
        if let Some(ip) = ip {
            body["spec"]["clusterIP"] = ip.clone();
        }
        body
    };
    let first = server.post(services, &service("first", None)).await.body;
    let token = server.get(&format!("{MAPS}?limit=1")).await.body["metadata"]["resourceVersion"].clone();

    let server = server.restart("192.0.2.20:7443").await;
    assert_eq!(server.get(&format!("{MAPS}/kept")).await.body, kept);
    assert_eq!(server.get(&format!("{services}/first")).await.body, first);
    let taken = server.post(services, &service("second", Some(&first["spec"]["clusterIP"]))).await;
    assert_eq!(taken.code, 422, "{}", taken.body);
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = server.get(slice).await.body;
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.20");
    assert_eq!(slice["ports"][0]["port"], 7443);
    let kubernetes = server.get(&format!("{services}/kubernetes")).await.body;
    assert_eq!(kubernetes["spec"]["ports"][0]["targetPort"], 7443);
    // A watcher goes on from where it was before the restart.
    let from = token.as_str().unwrap();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    server.config_map("later").await;
    assert_eq!(watch.brief().await, ("ADDED".to_owned(), "later".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_slips_into_a_namespace_that_goes() {
    let server = Server::start().await;
    for round in 0..10 {
        let name = format!("n{round}");
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        assert_eq!(server.post("/api/v1/namespaces", &body).await.code, 201);
        let maps = format!("/api/v1/namespaces/{name}/configmaps");
        let path = format!("/api/v1/namespaces/{name}");
        let creates = futures::future::join_all((0..20).map(|n| {
            let (server, maps) = (&server, &maps);
            async move { server.post(maps, &map(&format!("m{n}"))).await.code }
        }));
        let (codes, marked) = tokio::join!(creates, server.delete(&path, &Value::Null));
        assert_eq!(marked.code, 200, "{}", marked.body);
        assert!(codes.iter().all(|code| matches!(code, 201 | 403)), "{codes:?}");
        // What a controller sees after the mark is all there will ever be.
        let seen = server.get(&maps).await.body["items"].as_array().unwrap().len();
        assert_eq!(seen, codes.iter().filter(|code| **code == 201).count());
        assert_eq!(server.post(&maps, &map("late")).await.code, 403);
    }
}
