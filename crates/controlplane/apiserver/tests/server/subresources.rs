//! Parts of pods and namespaces that are changed by themselves: debuggers, resources, finalizers.

use crate::kubectl::Kubectl;
use crate::support::{Answer, Server};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{
        "name": "c", "image": "i",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
    }]}})
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

async fn made(server: &Server, name: &str) -> Value {
    server.account("default").await;
    let made = server.post(PODS, &pod(name)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body
}

#[tokio::test]
async fn debuggers_come_and_stay() {
    let server = Server::start().await;
    let old = made(&server, "p").await;
    let path = format!("{PODS}/p/ephemeralcontainers");
    let debugger = json!({"name": "d", "image": "busybox", "targetContainerName": "c"});
    let change = json!({
        "metadata": {"labels": {"not": "kept"}},
        "spec": {"ephemeralContainers": [debugger], "nodeName": "not-kept"},
    });
    let kind = "application/strategic-merge-patch+json";
    let changed = server.send("PATCH", &path, kind, change.to_string()).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(
        (&old["metadata"]["generation"], &changed.body["metadata"]["generation"]),
        (&json!(1), &json!(2))
    );
    let container = &changed.body["spec"]["ephemeralContainers"][0];
    assert_eq!((&container["name"], &container["imagePullPolicy"]), (&json!("d"), &json!("Always")));
    assert_eq!(container["terminationMessagePolicy"], "File");
    assert!(changed.body["metadata"]["labels"].is_null() && changed.body["spec"]["nodeName"].is_null());
    assert_eq!(server.get(&path).await.body, changed.body);
    // Neither changed nor taken away, and never with what a debugger may not have.
    let mut other = changed.body.clone();
    other["spec"]["ephemeralContainers"][0]["image"] = json!("other");
    let refused = server.put(&path, &other).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(
        message(&refused).contains("existing ephemeral containers \"d\" may not be changed"),
        "{}",
        refused.body
    );
    other["spec"]["ephemeralContainers"] = json!([]);
    let refused = server.put(&path, &other).await;
    assert!(
        message(&refused).contains("existing ephemeral containers \"d\" may not be removed"),
        "{}",
        refused.body
    );
    let change = json!({"spec": {"ephemeralContainers": [
        {"name": "e", "image": "i", "resources": {"limits": {"cpu": "1"}}}, {"name": "c", "image": "i"},
    ]}});
    let refused = server.send("PATCH", &path, kind, change.to_string()).await;
    assert!(
        message(&refused).contains("].resources: Forbidden: cannot be set for an Ephemeral Container"),
        "{}",
        refused.body
    );
    assert!(message(&refused).contains("].name: Duplicate value: \"c\""), "{}", refused.body);
    // The pod itself does not take them.
    let mut whole = server.get(&format!("{PODS}/p")).await.body;
    whole["spec"]["ephemeralContainers"] = json!([]);
    let refused = server.put(&format!("{PODS}/p"), &whole).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(message(&refused).contains("pod updates may not change fields other than"), "{}", refused.body);
}

#[tokio::test]
async fn resources_are_resized_and_nothing_else() {
    let server = Server::start().await;
    let old = made(&server, "p").await;
    assert_eq!(old["status"]["qosClass"], "Burstable");
    let path = format!("{PODS}/p/resize");
    let kubectl = Kubectl::new(&server, "root", &["system:masters"]);
    let patch = r#"{"spec":{"containers":[{"name":"c","image":"not-kept","resources":{"requests":{"cpu":"200m"}}}]}}"#;
    let (code, _, err) =
        kubectl.run(&["patch", "pod", "p", "--subresource", "resize", "-p", patch], "").await;
    assert_eq!(code, 0, "{err}");
    let new = server.get(&path).await.body;
    let container = &new["spec"]["containers"][0];
    assert_eq!(container["image"], "i");
    assert_eq!(container["resources"]["requests"], json!({"cpu": "200m", "memory": "64Mi"}));
    // Who resizes owns what that sets, and nothing else of the body.
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    let own = entries.iter().find(|entry| entry["subresource"] == "resize").unwrap();
    let owned = &own["fieldsV1"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"];
    assert_eq!(owned, &json!({"f:resources": {"f:requests": {"f:cpu": {}}}}));
    assert_eq!((&new["metadata"]["generation"], &new["status"]["phase"]), (&json!(2), &json!("Pending")));
    let resized = async |resources: Value| {
        let mut wanted = new.clone();
        wanted["spec"]["containers"][0]["resources"] = resources;
        server.put(&path, &wanted).await
    };
    let refused = resized(json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "128Mi"}})).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(
        message(&refused).contains(
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"
        ),
        "{}",
        refused.body
    );
    let refused =
        resized(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}))
            .await;
    assert!(
        message(&refused).contains("Pod QOS Class may not change as a result of resizing"),
        "{}",
        refused.body
    );
    let refused =
        resized(json!({"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "128Mi"}})).await;
    assert!(message(&refused).contains("must be less than or equal to memory limit"), "{}", refused.body);
    // The pod itself takes no other resources.
    let mut whole = new.clone();
    whole["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("1");
    assert_eq!(server.put(&format!("{PODS}/p"), &whole).await.code, 422);
    // A node that says nothing of what its containers have cannot resize them.
    let running = json!({"status": {"containerStatuses": [{
        "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
    }]}});
    assert_eq!(server.merge(&format!("{PODS}/p/status"), &running).await.code, 200);
    let change = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]}});
    let kind = "application/strategic-merge-patch+json";
    let refused = server.send("PATCH", &path, kind, change.to_string()).await;
    assert!(message(&refused).contains("Pod running on node without support for resize"), "{}", refused.body);
}

#[tokio::test]
async fn a_quota_is_charged_for_a_resize() {
    let server = Server::start().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
                       "spec": {"hard": {"requests.cpu": "300m"}}});
    assert_eq!(server.post("/api/v1/namespaces/default/resourcequotas", &quota).await.code, 201);
    let used = json!({"status": {"hard": {"requests.cpu": "300m"}, "used": {"requests.cpu": "0"}}});
    assert_eq!(server.merge("/api/v1/namespaces/default/resourcequotas/q/status", &used).await.code, 200);
    made(&server, "p").await;
    let path = format!("{PODS}/p/resize");
    let kind = "application/strategic-merge-patch+json";
    let cpu = |cpu: &str| {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}).to_string()
    };
    let refused = server.send("PATCH", &path, kind, cpu("400m")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert!(
        message(&refused).contains("exceeded quota: q, requested: requests.cpu=300m"),
        "{}",
        refused.body
    );
    assert_eq!(server.send("PATCH", &path, kind, cpu("300m")).await.code, 200);
}

#[tokio::test]
async fn only_a_binding_says_which_seat_a_pod_took() {
    const SEAT: &str = "sampan.io/reservation-seat";
    let server = Server::start().await;
    let made = made(&server, "p").await;
    let mut forged = pod("forged");
    forged["metadata"]["annotations"] = json!({SEAT: "default/web/0/u"});
    let refused = server.post(PODS, &forged).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert!(message(&refused).contains("is set by the binding of the pod alone"), "{}", refused.body);
    let path = format!("{PODS}/p");
    let said = json!({"metadata": {"annotations": {SEAT: "default/web/0/u", "other": "kept"}}});
    for part in ["", "/status", "/resize", "/ephemeralcontainers"] {
        let changed = server.merge(&format!("{path}{part}"), &said).await;
        let kept = changed.body["metadata"]["annotations"].get(SEAT).is_none();
        assert!(changed.code == 403 || (changed.code == 200 && kept), "{part}: {}", changed.body);
    }
    assert_eq!(server.merge(&path, &said).await.code, 403);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": "n"},
        "metadata": {"name": "p", "uid": made["metadata"]["uid"], "annotations": {SEAT: "default/web/1/u"}},
    });
    assert_eq!(server.post(&format!("{path}/binding"), &binding).await.code, 201);
    let bound = server.get(&path).await.body;
    assert_eq!(bound["metadata"]["annotations"][SEAT], "default/web/1/u");
    // Nor is it changed or taken away later; all else is.
    assert_eq!(server.merge(&path, &said).await.code, 403);
    assert_eq!(server.merge(&path, &json!({"metadata": {"annotations": {SEAT: null}}})).await.code, 403);
    let other = json!({"metadata": {"annotations": {"other": "kept"}}});
    assert_eq!(server.merge(&path, &other).await.code, 200);
}

#[tokio::test]
async fn a_namespace_goes_with_its_last_finalizer() {
    let server = Server::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let made = server.post("/api/v1/namespaces", &namespace).await.body;
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let path = "/api/v1/namespaces/n";
    // Only the subresource changes them.
    let mut wanted = made.clone();
    wanted["spec"]["finalizers"] = json!([]);
    assert_eq!(server.put(path, &wanted).await.body["spec"]["finalizers"], json!(["kubernetes"]));
    wanted["metadata"]["resourceVersion"] =
        server.get(path).await.body["metadata"]["resourceVersion"].clone();
    wanted["spec"]["finalizers"] = json!(["kubernetes", "not qualified/at all/"]);
    let refused = server.put(&format!("{path}/finalize"), &wanted).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(message(&refused).contains("spec.finalizers[1]: Invalid value"), "{}", refused.body);
    assert_eq!(server.get(&format!("{path}/finalize")).await.code, 405);
    let deleted = server.delete(path, &Value::Null).await;
    assert_eq!((deleted.code, &deleted.body["status"]["phase"]), (200, &json!("Terminating")));
    let mut last = server.get(path).await.body;
    last["spec"]["finalizers"] = json!([]);
    last["status"]["phase"] = json!("Active");
    let gone = server.put(&format!("{path}/finalize"), &last).await;
    assert_eq!((gone.code, &gone.body["status"]["phase"]), (200, &json!("Terminating")), "{}", gone.body);
    assert_eq!(server.get(path).await.code, 404);
}

#[tokio::test]
async fn a_pod_is_bound_once_and_only_as_it_was_meant() {
    let server = Server::start().await;
    server.account("default").await;
    let mut asked = pod("p");
    asked["metadata"]["annotations"] = json!({"kept": "yes", "both": "old"});
    let made = server.post(PODS, &asked).await.body;
    let (path, uid) = (format!("{PODS}/p"), made["metadata"]["uid"].clone());
    let binding = |metadata: Value, node: &str| json!({"metadata": metadata, "target": {"name": node}});
    let bind = format!("{path}/binding");
    for (metadata, why) in [
        (json!({"name": "p", "uid": "other"}), "UID in precondition: other, UID in object meta: "),
        (json!({"name": "p", "resourceVersion": "1"}), "ResourceVersion in precondition: 1, "),
    ] {
        let refused = server.post(&bind, &binding(metadata, "n")).await;
        assert_eq!(refused.code, 409, "{}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains(why), "{}", refused.body);
    }
    let missing = server.post(&format!("{PODS}/none/binding"), &binding(json!({"name": "none"}), "n")).await;
    assert_eq!(missing.code, 404);
    let dry =
        server.post(&format!("{bind}?dryRun=All"), &binding(json!({"name": "p", "uid": uid}), "n")).await;
    assert_eq!(dry.code, 201, "{}", dry.body);
    assert_eq!(server.get(&path).await.body, made, "nothing was changed");

    let meant = json!({"name": "p", "uid": uid, "annotations": {"both": "new", "more": "\"{"}});
    let one =
        async |index: usize| server.post(&bind, &binding(meant.clone(), &format!("n{index}"))).await.code;
    let mut codes = futures::future::join_all((0..8).map(one)).await;
    let winner = codes.iter().position(|code| *code == 201).expect("one of them binds it");
    codes.sort_unstable();
    assert_eq!(codes, [201, 409, 409, 409, 409, 409, 409, 409]);
    let bound = server.get(&path).await.body;
    assert_eq!(bound["spec"]["nodeName"], format!("n{winner}"));
    assert_eq!(bound["metadata"]["annotations"], json!({"kept": "yes", "both": "new", "more": "\"{"}));
    assert_eq!(bound["metadata"]["managedFields"], made["metadata"]["managedFields"]);
    let scheduled = &bound["status"]["conditions"][0];
    assert_eq!(
        (&scheduled["type"], &scheduled["status"]),
        (&json!("PodScheduled"), &json!("True")),
        "{bound}"
    );
    assert_eq!(scheduled["observedGeneration"], bound["metadata"]["generation"]);
    assert_eq!(bound["status"]["phase"], "Pending");
}
