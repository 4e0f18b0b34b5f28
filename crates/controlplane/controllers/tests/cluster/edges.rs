//! The edges of the workload controllers over the real API server: policies of Jobs, claims of StatefulSets, budgets of
//! foreign kinds, and objects that nothing can be done about.

use std::time::Duration;

use crate::counted::Counted;
use crate::support::Cluster;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

fn template(labels: Value) -> Value {
    json!({"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn job(name: &str, behave: &str, spec: Value) -> Value {
    let mut template = template(json!({"behave": behave}));
    template["spec"]["restartPolicy"] = "Never".into();
    let mut whole = json!({"template": template});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": whole})
}

async fn ended(cluster: &Cluster, name: &str) -> (String, JobStatus) {
    let api = cluster.api::<Job>("default");
    cluster
        .until(&format!("the end of {name}"), || async {
            let status = api.get(name).await.unwrap().status?;
            let all = status.conditions.clone().unwrap_or_default();
            let end = all
                .into_iter()
                .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
            Some((format!("{} {}", end.type_, end.reason.unwrap_or_default()), status))
        })
        .await
}

async fn events_of(cluster: &Cluster, name: &str) -> Vec<(String, String)> {
    let all = cluster.api::<Event>("default").list(&ListParams::default()).await.unwrap().items;
    all.into_iter()
        .filter(|e| e.involved_object.name.as_deref() == Some(name))
        .map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
        .collect()
}

async fn until_event(cluster: &Cluster, name: &str, reason: &str, message: &str) {
    cluster
        .until(&format!("the event {reason} of {name}"), || async {
            let all = events_of(cluster, name).await;
            all.iter().any(|(r, m)| r == reason && m.contains(message)).then_some(())
        })
        .await;
}

#[tokio::test]
async fn jobs_end_by_their_policies() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let fatal =
        json!({"rules": [{"action": "FailJob", "onPodConditions": [{"type": "Ready", "status": "False"}]}]});
    let spec = json!({"completions": 3, "parallelism": 3, "backoffLimit": 100, "podFailurePolicy": fatal});
    cluster.create::<Job>("default", job("fatal", "fail", spec)).await;
    let (end, status) = ended(&cluster, "fatal").await;
    assert_eq!((end.as_str(), status.failed), ("Failed PodFailurePolicy", Some(3)));
    assert_eq!((status.active.unwrap_or(0), status.terminating.unwrap_or(0)), (0, 0));
    until_event(&cluster, "fatal", "PodFailurePolicy", "matching FailJob rule at index 0").await;

    let policy = json!({"rules": [{"succeededCount": 2}]});
    let spec =
        json!({"completions": 20, "parallelism": 2, "completionMode": "Indexed", "successPolicy": policy});
    cluster.create::<Job>("default", job("enough", "succeed", spec)).await;
    let (end, status) = ended(&cluster, "enough").await;
    assert_eq!(end, "Complete SuccessPolicy");
    assert!(status.succeeded.unwrap() < 20 && status.failed.unwrap_or(0) == 0, "{status:?}");

    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 1});
    cluster.create::<Job>("default", job("indexes", "fail", spec)).await;
    let (end, status) = ended(&cluster, "indexes").await;
    assert_eq!(end, "Failed MaxFailedIndexesExceeded");
    assert_eq!(status.failed, Some(3));
    assert!(status.failed_indexes.unwrap().len() >= 3);
    // Nothing is held by a finalizer once its Job is over.
    let pods = cluster.pods("default").await;
    assert!(pods.iter().all(|pod| pod.metadata.finalizers.as_deref().unwrap_or_default().is_empty()));
}

#[tokio::test]
async fn jobs_pause_are_left_to_others_and_let_go_of_their_pods() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let jobs = cluster.api::<Job>("default");
    cluster.create::<Job>("default", job("pause", "run", json!({"completions": 2, "parallelism": 2}))).await;
    let active = |wanted: i32| {
        let jobs = jobs.clone();
        async move {
            let status = jobs.get("pause").await.unwrap().status?;
            (status.active.unwrap_or(0) == wanted && status.ready.unwrap_or(0) == wanted).then_some(status)
        }
    };
    cluster.until("two running", || active(2)).await;
    cluster.merge::<Job>("default", "pause", json!({"spec": {"suspend": true}})).await;
    let status = cluster.until("none running", || active(0)).await;
    assert_eq!((status.failed.unwrap_or(0), status.start_time), (0, None));
    cluster.until("no pod", || async { cluster.pods("default").await.is_empty().then_some(()) }).await;
    cluster.merge::<Job>("default", "pause", json!({"spec": {"suspend": false}})).await;
    let status = cluster.until("two again", || active(2)).await;
    assert!(status.start_time.is_some());

    // A pod that is taken out of the Job is let go, and replaced.
    let first = cluster.pods("default").await.remove(0).metadata.name.unwrap();
    cluster
        .merge::<Pod>(
            "default",
            &first,
            json!({"metadata": {"labels": {"batch.kubernetes.io/controller-uid": null}}}),
        )
        .await;
    cluster
        .until("the pod to be free", || async {
            let pod = cluster.api::<Pod>("default").get(&first).await.unwrap();
            let free = pod.metadata.owner_references.unwrap_or_default().is_empty()
                && pod.metadata.finalizers.unwrap_or_default().is_empty();
            (free && cluster.pods("default").await.len() == 3).then_some(())
        })
        .await;
    // Pods do not outlive their Job because of the finalizer, nor do those that are orphaned on purpose keep it.
    jobs.delete("pause", &DeleteParams::orphan()).await.unwrap();
    cluster
        .until("orphans without finalizers", || async {
            let gone = jobs.get_opt("pause").await.unwrap().is_none();
            let pods = cluster.pods("default").await;
            let free = pods.iter().all(|p| {
                p.metadata.finalizers.as_deref().unwrap_or_default().is_empty()
                    && p.metadata.owner_references.as_deref().unwrap_or_default().is_empty()
            });
            (gone && free && pods.len() == 3).then_some(())
        })
        .await;

    let foreign = json!({"managedBy": "example.com/other"});
    cluster.create::<Job>("default", job("foreign", "succeed", foreign)).await;
    cluster.create::<Job>("default", job("ours", "succeed", json!({"ttlSecondsAfterFinished": 0}))).await;
    cluster
        .until("ours to come and go", || async {
            let gone = jobs.get_opt("ours").await.unwrap().is_none();
            let created = events_of(&cluster, "ours").await.iter().any(|(reason, _)| reason == "Completed");
            (gone && created).then_some(())
        })
        .await;
    let foreign = jobs.get("foreign").await.unwrap().status.unwrap_or_default();
    assert_eq!(foreign, JobStatus::default(), "what others manage is not touched");
}

#[tokio::test]
async fn stateful_sets_bring_their_claims_and_keep_to_the_policy() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db",
        "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"app": "db"}},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}],
        "template": template(json!({"app": "db"}))}});
    cluster.create::<StatefulSet>("default", set).await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    let owned_by = |kind: &'static str| {
        let claims = claims.clone();
        async move {
            let claim = claims.get_opt("data-db-1").await.unwrap()?;
            let owners = claim.metadata.owner_references.unwrap_or_default();
            (owners.len() == 1 && owners[0].kind == kind).then_some(())
        }
    };
    cluster.until("the claim of the set", || owned_by("StatefulSet")).await;
    let pod = cluster.api::<Pod>("default").get("db-1").await.unwrap();
    let volumes = pod.spec.unwrap().volumes.unwrap();
    let source = volumes.iter().find_map(|v| v.persistent_volume_claim.as_ref()).unwrap();
    assert_eq!(source.claim_name, "data-db-1");
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-1");
    until_event(&cluster, "db", "SuccessfulCreate", "Create Claim data-db-1 Pod db-1").await;
    // The claim goes with the pod that is scaled away, and the next pod waits for its own.
    cluster.merge::<StatefulSet>("default", "db", json!({"spec": {"replicas": 1}})).await;
    cluster
        .until("the claim to go", || async {
            let left = claims.list(&ListParams::default()).await.unwrap().items;
            (left.len() == 1 && cluster.pods("default").await.len() == 1).then_some(())
        })
        .await;
    cluster.api::<StatefulSet>("default").delete("db", &DeleteParams::background()).await.unwrap();
    cluster
        .until("everything to go", || async {
            let left = claims.list(&ListParams::default()).await.unwrap().items;
            (left.is_empty() && cluster.pods("default").await.is_empty()).then_some(())
        })
        .await;
}

/// A kind that the controllers know nothing of but its scale.
async fn foreign_kind(cluster: &Cluster) -> Api<DynamicObject> {
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "fleets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "fleets", "singular": "fleet", "kind": "Fleet"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &ApiResource::from_gvk(&kind));
    api.create(&Default::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Fleet"));
    let fleets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    cluster.until("the new kind", || async { fleets.list(&ListParams::default()).await.ok() }).await;
    fleets
}

#[tokio::test]
async fn budgets_ask_any_kind_for_its_scale() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let fleets = foreign_kind(&cluster).await;
    let fleet = json!({"apiVersion": "example.com/v1", "kind": "Fleet", "metadata": {"name": "f"}, "spec": {"replicas": 10}});
    let fleet = fleets.create(&Default::default(), &serde_json::from_value(fleet).unwrap()).await.unwrap();
    let owner = |kind: &str, name: &str, uid: Option<&str>| json!([{"apiVersion": "example.com/v1", "kind": kind, "name": name, "uid": uid.unwrap_or("none"), "controller": true}]);
    let pod = |name: &str, app: &str, owners: Value| {
        json!({"metadata": {"name": name, "labels": {"app": app}, "ownerReferences": owners},
            "spec": {"containers": [{"name": "c", "image": "i"}]}})
    };
    for name in ["f-1", "f-2"] {
        cluster
            .create::<Pod>("default", pod(name, "f", owner("Fleet", "f", fleet.metadata.uid.as_deref())))
            .await;
    }
    cluster.create::<Pod>("default", pod("lost", "lost", owner("Ship", "s", None))).await;
    for app in ["f", "lost"] {
        let budget = json!({"metadata": {"name": app}, "spec": {"minAvailable": "20%", "selector": {"matchLabels": {"app": app}}}});
        cluster.create::<PodDisruptionBudget>("default", budget).await;
    }
    let budgets = cluster.api::<PodDisruptionBudget>("default");
    cluster
        .until("a fifth of ten", || async {
            let status = budgets.get("f").await.unwrap().status?;
            (status.expected_pods == Some(10)
                && status.desired_healthy == Some(2)
                && status.current_healthy == Some(2))
            .then_some(())
        })
        .await;
    cluster
        .until("the budget to say why it cannot work", || async {
            let conditions = budgets.get("lost").await.unwrap().status?.conditions?;
            let failed = conditions.iter().find(|c| c.reason == "SyncFailed")?;
            (failed.status == "False" && failed.message == "found no controllers for pod \"lost\"")
                .then_some(())
        })
        .await;
    until_event(&cluster, "lost", "CalculateExpectedPodCountFailed", "found no controllers").await;
}

/// Marks of an eviction that did not come about vanish.
#[tokio::test]
async fn a_stale_mark_of_disruption_is_taken_back() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    cluster
        .create::<Pod>(
            "default",
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    let pods = cluster.api::<Pod>("default");
    let running = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    cluster.until("it to run", || async { running(&pods.get("p").await.unwrap()).then_some(()) }).await;
    let mark = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    pods.patch_status("p", &PatchParams::default(), &Patch::Strategic(mark)).await.unwrap();
    cluster
        .until("the mark to be taken back", || async {
            let conditions = pods.get("p").await.unwrap().status?.conditions?;
            conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "False").then_some(())
        })
        .await;
}

async fn until_create_failed(cluster: &Cluster, set: &str) {
    let sets = cluster.api::<ReplicaSet>("default");
    cluster
        .until("the condition", || async {
            let conditions = sets.get(set).await.unwrap().status?.conditions?;
            let failure = conditions.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure"))?;
            (failure.reason.as_deref() == Some("FailedCreate")).then_some(())
        })
        .await;
}

/// Each of these fails for ever, in its own way. All of them say so, the healthy one beside them comes up, and the API is
/// asked ever more rarely.
#[tokio::test]
async fn what_cannot_work_is_told_and_costs_next_to_nothing() {
    let counted = Counted::default();
    let log = counted.clone();
    let cluster = Cluster::with(|options| options.client = log.around(options.client.clone())).await;
    cluster.node("a", "64").await;
    let labels = |app: &str| json!({"matchLabels": {"app": app}});
    let with_account = |app: &str| {
        let mut template = template(json!({"app": app}));
        template["spec"]["serviceAccountName"] = "missing".into();
        template
    };
    let dying = |app: &str| template(json!({"app": app, "behave": "fail"}));
    let set = |name: &str, template: Value| {
        json!({"metadata": {"name": name}, "spec": {"replicas": 3,
        "selector": labels(name), "serviceName": name, "template": template}})
    };
    cluster
        .create::<ReplicaSet>(
            "default",
            json!({"metadata": {"name": "rs"}, "spec": {"replicas": 3,
        "selector": labels("rs"), "template": with_account("rs")}}),
        )
        .await;
    cluster
        .create::<ReplicaSet>(
            "default",
            json!({"metadata": {"name": "dying-rs"}, "spec": {"replicas": 1,
        "selector": labels("dying-rs"), "template": dying("dying-rs")}}),
        )
        .await;
    cluster.create::<StatefulSet>("default", set("sts", with_account("sts"))).await;
    cluster.create::<StatefulSet>("default", set("dying-sts", dying("dying-sts"))).await;
    cluster
        .create::<DaemonSet>(
            "default",
            json!({"metadata": {"name": "dying-ds"}, "spec": {
        "selector": labels("dying-ds"), "template": dying("dying-ds")}}),
        )
        .await;
    let mut refused = job("refused", "run", json!({"parallelism": 2, "completions": 2}));
    refused["spec"]["template"]["spec"]["serviceAccountName"] = "missing".into();
    cluster.create::<Job>("default", refused).await;
    cluster
        .create::<ResourceQuota>(
            "default",
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/replicasets.apps": "3"}}}),
        )
        .await;
    cluster
        .create::<Deployment>(
            "default",
            json!({"metadata": {"name": "fine"}, "spec": {"replicas": 2,
        "selector": labels("fine"), "template": template(json!({"app": "fine"}))}}),
        )
        .await;

    for (name, reason, message) in [
        ("rs", "FailedCreate", "serviceaccount \"missing\" not found"),
        ("sts", "FailedCreate", "Create Pod sts-0 in StatefulSet sts failed error"),
        ("refused", "FailedCreate", "serviceaccount \"missing\" not found"),
        ("dying-ds", "FailedDaemonPod", "Found failed daemon pod default/dying-ds-"),
    ] {
        until_event(&cluster, name, reason, message).await;
    }
    until_create_failed(&cluster, "rs").await;
    let deployments = cluster.api::<Deployment>("default");
    cluster
        .until("the healthy one", || async {
            let status = deployments.get("fine").await.unwrap().status?;
            (status.available_replicas == Some(2)).then_some(())
        })
        .await;
    // One more Deployment than the quota lets have a ReplicaSet.
    cluster
        .create::<Deployment>(
            "default",
            json!({"metadata": {"name": "surplus"}, "spec": {"replicas": 2,
        "selector": labels("surplus"), "template": template(json!({"app": "surplus"}))}}),
        )
        .await;
    until_event(&cluster, "surplus", "ReplicaSetCreateError", "exceeded quota: q").await;
    cluster
        .until("the Deployment to say so", || async {
            let conditions = deployments.get("surplus").await.unwrap().status?.conditions?;
            let progressing = conditions.iter().find(|c| c.type_.as_deref() == Some("Progressing"))?;
            (progressing.reason.as_deref() == Some("ReplicaSetCreateError")).then_some(())
        })
        .await;

    // What remains is retries, each slower than the last. Eight objects fail: in ten seconds, half a minute after nothing
    // works, a hot loop would ask thousands of times.
    tokio::time::sleep(Duration::from_secs(8)).await;
    counted.take();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = counted.take();
    println!("{} requests in 10 s: {asked:#?}", asked.len());
    assert!(asked.len() < 100, "{} requests in 10 s: {asked:#?}", asked.len());
}
