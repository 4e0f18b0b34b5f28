//! Extenders: real webhooks over TLS that filter, score, bind and have a say in preemption.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use sampan_controllers::SchedulerConfig;
use sampan_daemon::{Supervisor, tls};
use serde_json::{Value, json};

use crate::scheduling::{class, node_of, pod, refused};
use crate::support::Cluster;

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

fn names(question: &Value) -> Vec<String> {
    let names = question["NodeNames"].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// An extender that keeps pods off a, prefers c, binds itself, and forbids that anyone leaves b.
fn answer(path: &str, question: &Value) -> Value {
    match path.trim_start_matches("/ext/") {
        "filter" => {
            let left: Vec<String> = names(question).into_iter().filter(|name| name != "a").collect();
            json!({"NodeNames": left, "FailedNodes": {"a": "a is full of ghosts"}, "Error": ""})
        }
        "prioritize" => {
            let score = |name: String| json!({"Host": name, "Score": if name == "c" { 10 } else { 0 }});
            names(question).into_iter().map(score).collect()
        }
        "preempt" => {
            let mut all = question["NodeNameToMetaVictims"].clone();
            all.as_object_mut().unwrap().remove("b");
            json!({"NodeNameToMetaVictims": all})
        }
        _ => json!({"Error": "no such verb"}),
    }
}

async fn start(extra: Value) -> (Cluster, Asked, Supervisor) {
    let (dir, supervisor) = (tempfile::tempdir().unwrap(), Supervisor::new());
    let ca = tls::Ca::load_or_create(dir.path(), "extender-ca").unwrap();
    let asked = Asked::default();
    let log = asked.clone();
    let handle = move |request: Request<()>, body: Bytes| {
        let question: Value = serde_json::from_slice(&body).unwrap();
        let path = request.uri().path().to_owned();
        let answer = answer(&path, &question);
        log.lock().unwrap().push((path, question));
        Response::new(Full::new(Bytes::from(answer.to_string())))
    };
    let address = crate::https::serve(&supervisor, &ca, &["localhost"], None, handle).await;
    let mut extender = json!({
        "urlPrefix": format!("https://127.0.0.1:{}/ext", address.port()), "filterVerb": "filter",
        "prioritizeVerb": "prioritize", "preemptVerb": "preempt", "weight": 5, "nodeCacheCapable": true,
        "managedResources": [{"name": "example.com/thing", "ignoredByScheduler": true}],
        "tlsConfig": {"caData": STANDARD.encode(ca.cert_pem())},
    });
    let dead = json!({"urlPrefix": "http://127.0.0.1:1/dead", "filterVerb": "filter", "ignorable": true,
        "managedResources": [{"name": "example.com/thing"}]});
    for (key, value) in extra.as_object().unwrap() {
        extender[key] = value.clone();
    }
    let config = SchedulerConfig::parse(json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "extenders": [dead, extender],
    }))
    .unwrap();
    (Cluster::with(|options| options.scheduler = config).await, asked, supervisor)
}

fn managed(more: Value) -> Value {
    let mut spec = json!({"spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}],
        "resources": {"requests": {"cpu": "1", "example.com/thing": "1"}, "limits": {"example.com/thing": "1"}}}]}});
    for (key, value) in more.as_object().unwrap() {
        spec["spec"][key] = value.clone();
    }
    spec
}

#[tokio::test]
async fn extenders_filter_score_and_have_a_say_in_preemption() {
    let (cluster, asked, _supervisor) = start(json!({})).await;
    class(&cluster, "high", 1000, "PreemptLowerPriority").await;
    cluster.node("a", "4").await;
    cluster.create::<Pod>("default", pod("ghost", "1", managed(json!({})))).await;
    refused(&cluster, "ghost", "0/1 nodes are available: 1 a is full of ghosts.").await;
    cluster.node("b", "4").await;
    assert_eq!(node_of(&cluster, "ghost").await, "b");
    cluster.node("c", "2").await;
    cluster.create::<Pod>("default", pod("liked", "1", managed(json!({})))).await;
    assert_eq!(node_of(&cluster, "liked").await, "c", "the smallest, but liked best");
    let questions = asked.lock().unwrap().len();
    cluster.create::<Pod>("default", pod("plain", "3", json!({}))).await;
    assert_eq!(node_of(&cluster, "plain").await, "a");
    assert_eq!(asked.lock().unwrap().len(), questions, "nobody asks about pods that are not managed");
    let (_, question) = asked.lock().unwrap()[0].clone();
    assert_eq!(question["Pod"]["spec"]["containers"][0]["env"][0]["value"], "b", "the whole pod is sent");

    // The best node to preempt on is b, where the extender forbids it.
    cluster
        .create::<Pod>(
            "default",
            pod("filler", "3", json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "b"}}})),
        )
        .await;
    assert_eq!(node_of(&cluster, "filler").await, "b");
    let mut high =
        managed(json!({"priorityClassName": "high", "nodeSelector": {"kubernetes.io/hostname": "b"}}));
    high["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "3".into();
    cluster.create::<Pod>("default", pod("high", "3", high)).await;
    refused(&cluster, "high", "an extender forbids preemption on b").await;
    assert_eq!(node_of(&cluster, "filler").await, "b");
    let victims = asked.lock().unwrap().iter().find(|(path, _)| path == "/ext/preempt").unwrap().1.clone();
    let victims = victims["NodeNameToMetaVictims"]["b"]["Pods"].as_array().unwrap().clone();
    assert!(victims[0]["UID"].is_string(), "{victims:?}");
}

#[tokio::test]
async fn an_extender_binds_or_is_tried_again() {
    let (cluster, asked, _supervisor) = start(json!({"bindVerb": "bind"})).await;
    cluster.node("c", "4").await;
    let made: Pod = serde_json::from_value(pod("mine", "1", managed(json!({})))).unwrap();
    let made = cluster.api::<Pod>("default").create(&PostParams::default(), &made).await.unwrap();
    // It does not know how to bind: the pod stays where it is, and it is asked again.
    cluster
        .until("two tries", || async {
            let asked = asked.lock().unwrap();
            (asked.iter().filter(|(path, _)| path == "/ext/bind").count() >= 2).then_some(())
        })
        .await;
    let question = asked.lock().unwrap().iter().find(|(path, _)| path == "/ext/bind").unwrap().1.clone();
    assert_eq!(question["PodUID"].as_str(), made.metadata.uid.as_deref());
    assert_eq!((&question["PodName"], &question["Node"]), (&json!("mine"), &json!("c")));
    let now = cluster.api::<Pod>("default").get("mine").await.unwrap();
    assert!(now.spec.unwrap().node_name.is_none());
}
