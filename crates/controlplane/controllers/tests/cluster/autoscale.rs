//! HorizontalPodAutoscalers over a whole control plane, with metrics from a real extension server over TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::extension;
use crate::support::Cluster;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::SignedDuration;
use kube::api::{Api, DynamicObject, GroupVersionKind, PostParams};
use serde_json::{Value, json};

/// What the extension server answers with.
#[derive(Default)]
struct Metrics {
    queue: AtomicI64,
    herd: AtomicI64,
}

fn answer(metrics: &Metrics, uri: &http::Uri) -> Option<Value> {
    let list = |group: &str, name: &str| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": [
            {"name": name, "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]},
        ]})
    };
    let now = "2026-01-01T00:00:00Z";
    Some(match uri.path() {
        "/apis/external.metrics.k8s.io/v1beta1" => list("external.metrics.k8s.io/v1beta1", "queue"),
        "/apis/custom.metrics.k8s.io/v1beta2" => {
            list("custom.metrics.k8s.io/v1beta2", "farms.example.com/herd")
        }
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue" => {
            assert_eq!(uri.query(), Some("labelSelector=shard%3Done"));
            let half = metrics.queue.load(Ordering::Relaxed) / 2;
            json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "items": [
                {"metricName": "queue", "metricLabels": {}, "timestamp": now, "value": half.to_string()},
                {"metricName": "queue", "metricLabels": {}, "timestamp": now, "value": half.to_string()},
            ]})
        }
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/farms.example.com/old/herd" => {
            let value = format!("{}m", metrics.herd.load(Ordering::Relaxed));
            json!({"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "items": [
                {"describedObject": {"kind": "Farm", "name": "old"}, "metric": {"name": "herd"}, "timestamp": now, "value": value},
            ]})
        }
        _ => return None,
    })
}

/// A control plane whose autoscalers look five times a second, and the metrics that they see.
async fn start() -> (Cluster, Arc<Metrics>) {
    let cluster = Cluster::with(|options| options.autoscaler.sync = SignedDuration::from_millis(200)).await;
    cluster.node("n1", "64").await;
    let metrics = Arc::new(Metrics::default());
    let seen = metrics.clone();
    let groups = [("custom.metrics.k8s.io", "v1beta2"), ("external.metrics.k8s.io", "v1beta1")];
    extension::serve(&cluster, &groups, move |uri| answer(&seen, uri)).await;
    (cluster, metrics)
}

/// Creates an object of any kind without namespaces.
async fn make(cluster: &Cluster, api_version: &str, kind: &str, plural: &str, object: Value) {
    let api = dynamic(cluster, api_version, kind, plural, None);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn dynamic(
    cluster: &Cluster,
    api_version: &str,
    kind: &str,
    plural: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap();
    let gvk = GroupVersionKind::gvk(group, version, kind);
    let resource = kube::api::ApiResource::from_gvk_with_plural(&gvk, plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    }
}

fn deployment(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "x"}]},
            },
        },
    })
}

fn autoscaler(name: &str, target: &Value, (least, most): (i32, i32), metric: &Value) -> Value {
    let (policy, down) =
        (json!({"type": "Pods", "value": 50, "periodSeconds": 1}), json!({"stabilizationWindowSeconds": 0}));
    let up = json!({"policies": [policy]});
    json!({
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": target, "minReplicas": least, "maxReplicas": most, "metrics": [metric],
            "behavior": {"scaleUp": up, "scaleDown": down},
        },
    })
}

fn of_deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name})
}

fn queue(average: &str) -> Value {
    json!({"type": "External", "external": {
        "metric": {"name": "queue", "selector": {"matchLabels": {"shard": "one"}}},
        "target": {"type": "AverageValue", "averageValue": average},
    }})
}

/// Waits until an autoscaler's status is as it should be.
async fn status(cluster: &Cluster, name: &str, good: impl Fn(&Value) -> bool) -> Value {
    let api: Api<HorizontalPodAutoscaler> = cluster.api("default");
    let (api, good) = (&api, &good);
    cluster
        .until(name, || async move {
            let found = api.get(name).await.unwrap();
            let status = serde_json::to_value(found.status).unwrap();
            good(&status).then_some(status)
        })
        .await
}

/// Status and reason of a condition.
fn condition(status: &Value, kind: &str) -> Option<(String, String)> {
    let found = status["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?;
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
}

fn holds(status: &Value, kind: &str, value: &str, reason: &str) -> bool {
    condition(status, kind) == Some((value.to_owned(), reason.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_follows_a_queue_down_to_zero_and_back() {
    let (cluster, metrics) = start().await;
    cluster.create::<Deployment>("default", deployment("web")).await;
    metrics.queue.store(30, Ordering::Relaxed);
    cluster
        .create::<HorizontalPodAutoscaler>(
            "default",
            autoscaler("web", &of_deployment("web"), (0, 8), &queue("10")),
        )
        .await;
    let running = |want: usize| {
        let cluster = &cluster;
        async move {
            cluster
                .until(
                    "the pods",
                    || async move { (cluster.pods("default").await.len() == want).then_some(()) },
                )
                .await;
        }
    };
    let seen = status(&cluster, "web", |status| status["desiredReplicas"] == 3).await;
    assert!(holds(&seen, "ScalingActive", "True", "ValidMetricFound"), "{seen:#}");
    running(3).await;
    metrics.queue.store(0, Ordering::Relaxed);
    let seen = status(&cluster, "web", |status| holds(status, "ScaledToZero", "True", "ScaledToZero")).await;
    assert_eq!(seen["desiredReplicas"], 0, "{seen:#}");
    running(0).await;
    metrics.queue.store(500, Ordering::Relaxed);
    // No more than eight.
    status(&cluster, "web", |status| {
        holds(status, "ScalingLimited", "True", "TooManyReplicas")
            // Not yet where somebody else wrote the Deployment meanwhile.
            && holds(status, "ScaledToZero", "False", "NotScaledToZero")
    })
    .await;
    running(8).await;
    let events: Api<Event> = cluster.api("default");
    let events = &events;
    cluster
        .until("an event", || async move {
            let list = events.list(&Default::default()).await.unwrap().items;
            list.into_iter().find(|event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.reason.as_deref() == Some("SuccessfulRescale")
                    && message == "New size: 3; reason: external metric queue(shard=one) above target"
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_kind_follows_a_metric_of_its_own() {
    let (cluster, metrics) = start().await;
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "farms.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "farms", "singular": "farm", "kind": "Farm", "listKind": "FarmList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"scale": {
                    "specReplicasPath": ".spec.cows", "statusReplicasPath": ".status.cows", "labelSelectorPath": ".status.selector",
                }, "status": {}},
            }],
        },
    });
    make(
        &cluster,
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        definition,
    )
    .await;
    let farms = dynamic(&cluster, "example.com/v1", "Farm", "farms", Some("default"));
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "example.com/v1", "kind": "Farm", "metadata": {"name": "old"}, "spec": {"cows": 2},
    }))
    .unwrap();
    let (farms, object) = (&farms, &object);
    // The definition needs a moment until it is served.
    cluster.until("a farm", || async move { farms.create(&PostParams::default(), object).await.ok() }).await;
    let farm = json!({"apiVersion": "example.com/v1", "kind": "Farm", "name": "old"});
    let metric = json!({"type": "Object", "object": {
        "describedObject": farm, "metric": {"name": "herd"},
        "target": {"type": "AverageValue", "averageValue": "2"},
    }});
    metrics.herd.store(10_000, Ordering::Relaxed);
    cluster.create::<HorizontalPodAutoscaler>("default", autoscaler("farm", &farm, (1, 9), &metric)).await;
    // Nobody says yet which pods these are.
    status(&cluster, "farm", |status| holds(status, "ScalingActive", "False", "InvalidSelector")).await;
    let of = json!({"status": {"cows": 2, "selector": "cow=yes"}});
    farms.patch_status("old", &Default::default(), &kube::api::Patch::Merge(&of)).await.unwrap();
    let cows = |want: i64| {
        cluster.until("cows", move || async move {
            let farm = farms.get("old").await.unwrap();
            (farm.data["spec"]["cows"] == want).then_some(())
        })
    };
    cows(5).await;
    let of = json!({"status": {"cows": 5}});
    farms.patch_status("old", &Default::default(), &kube::api::Patch::Merge(&of)).await.unwrap();
    metrics.herd.store(3000, Ordering::Relaxed);
    cows(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said_and_holds_up_nobody() {
    let (cluster, metrics) = start().await;
    metrics.queue.store(20, Ordering::Relaxed);
    for name in ["one", "two"] {
        cluster.create::<Deployment>("default", deployment(name)).await;
    }
    let create = async |name: &str, target: &Value, metric: &Value| {
        let object = autoscaler(name, target, (1, 5), metric);
        cluster.create::<HorizontalPodAutoscaler>("default", object).await;
    };
    create("lost", &of_deployment("none"), &queue("10")).await;
    create("odd", &json!({"apiVersion": "example.com/v7", "kind": "Moon", "name": "m"}), &queue("10")).await;
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    create("blind", &of_deployment("two"), &cpu).await;
    create("first", &of_deployment("one"), &queue("10")).await;
    status(&cluster, "first", |status| status["desiredReplicas"] == 2).await;
    for name in ["lost", "odd"] {
        status(&cluster, name, |status| holds(status, "AbleToScale", "False", "FailedGetScale")).await;
    }
    status(&cluster, "blind", |status| holds(status, "ScalingActive", "False", "FailedGetResourceMetric"))
        .await;
    // A second one for the same pods stops both.
    create("second", &of_deployment("one"), &queue("1")).await;
    for name in ["first", "second"] {
        status(&cluster, name, |status| holds(status, "ScalingActive", "False", "AmbiguousSelector")).await;
    }
    cluster.api::<HorizontalPodAutoscaler>("default").delete("second", &Default::default()).await.unwrap();
    status(&cluster, "first", |status| holds(status, "ScalingActive", "True", "ValidMetricFound")).await;
    let events: Api<Event> = cluster.api("default");
    let events = &events;
    for (name, reason) in [
        ("lost", "FailedGetScale"),
        ("odd", "FailedGetScale"),
        ("blind", "FailedGetResourceMetric"),
        ("blind", "FailedComputeMetricsReplicas"),
        ("second", "AmbiguousSelector"),
    ] {
        cluster
            .until("its event", || async move {
                let list = events.list(&Default::default()).await.unwrap().items;
                let about = |event: &Event| {
                    event.involved_object.name.as_deref() == Some(name)
                        && event.reason.as_deref() == Some(reason)
                };
                list.into_iter().any(|event| about(&event)).then_some(())
            })
            .await;
    }
    // Somebody switches one off.
    cluster.merge::<Deployment>("default", "one", json!({"spec": {"replicas": 0}})).await;
    status(&cluster, "first", |status| holds(status, "ScalingActive", "False", "ScalingDisabled")).await;
}
