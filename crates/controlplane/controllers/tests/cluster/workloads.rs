//! Workloads over the real API server: from a Deployment to endpoints and back to nothing.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::support::Cluster;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template("web", image)},
    })
}

fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

async fn rolled_out(cluster: &Cluster, replicas: i32) -> Deployment {
    let api = cluster.api::<Deployment>("default");
    cluster
        .until("the rollout", || async {
            let found = api.get("web").await.unwrap();
            let status = found.status.clone().unwrap_or_default();
            let done = status.observed_generation == found.metadata.generation
                && status.updated_replicas.unwrap_or(0) == replicas
                && status.replicas.unwrap_or(0) == replicas
                && status.available_replicas.unwrap_or(0) == replicas;
            done.then_some(found)
        })
        .await
}

fn ready_addresses(slices: &[EndpointSlice]) -> BTreeSet<String> {
    let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    ready.flat_map(|e| e.addresses.clone()).collect()
}

#[tokio::test]
async fn a_deployment_rolls_scales_comes_back_and_goes() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    cluster.node("b", "8").await;
    let service = json!({"metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.create::<Service>("default", service).await;
    let start = Instant::now();
    cluster.create::<Deployment>("default", deployment(3, "v1")).await;
    let first = rolled_out(&cluster, 3).await;
    println!("3 replicas available after {:?}", start.elapsed());
    assert_eq!(first.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "1");

    let slices = cluster.api::<EndpointSlice>("default");
    let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
    let before = cluster
        .until("three endpoints", || async {
            let ready = ready_addresses(&slices.list(&of_web).await.unwrap().items);
            (ready.len() == 3).then_some(ready)
        })
        .await;
    cluster
        .until("the Endpoints", || async {
            let endpoints = cluster.api::<Endpoints>("default").get_opt("web").await.unwrap()?;
            let addresses = endpoints.subsets?.pop()?.addresses?;
            (addresses.len() == 3).then_some(())
        })
        .await;

    // A new image: never fewer than three ready pods behind the Service, whatever is read when.
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "v2", "ports": [{"name": "http", "containerPort": 8080}]}]}}}});
    cluster.merge::<Deployment>("default", "web", patch).await;
    let second = rolled_out(&cluster, 3).await;
    assert_eq!(second.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "2");
    cluster
        .until("three other endpoints", || async {
            let ready = ready_addresses(&slices.list(&of_web).await.unwrap().items);
            (ready.len() == 3 && ready.is_disjoint(&before)).then_some(())
        })
        .await;

    cluster.merge::<Deployment>("default", "web", json!({"spec": {"replicas": 12}})).await;
    rolled_out(&cluster, 12).await;
    // What `kubectl rollout undo` does: the template of the old ReplicaSet.
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "v1", "ports": [{"name": "http", "containerPort": 8080}]}]}}}});
    cluster.merge::<Deployment>("default", "web", patch).await;
    let third = rolled_out(&cluster, 12).await;
    assert_eq!(third.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "3");
    let sets = cluster.api::<ReplicaSet>("default").list(&ListParams::default()).await.unwrap().items;
    assert_eq!(sets.len(), 2);
    let spread = cluster
        .pods("default")
        .await
        .iter()
        .filter(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some("a"))
        .count();
    assert!((4..=8).contains(&spread), "12 pods, {spread} of them on one of two nodes");

    cluster.api::<Deployment>("default").delete("web", &DeleteParams::background()).await.unwrap();
    cluster
        .until("nothing to be left", || async {
            let sets = cluster.api::<ReplicaSet>("default").list(&ListParams::default()).await.unwrap().items;
            (sets.is_empty() && cluster.pods("default").await.is_empty()).then_some(())
        })
        .await;
    cluster
        .until("no endpoint", || async {
            let all = slices.list(&of_web).await.unwrap().items;
            all.iter().all(|s| s.endpoints.as_deref().unwrap_or_default().is_empty()).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_once_it_fits() {
    let cluster = Cluster::start().await;
    cluster.node("small", "1").await;
    let pod = json!({"metadata": {"name": "big"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "4"}}}]}});
    cluster.create::<Pod>("default", pod).await;
    let api = cluster.api::<Pod>("default");
    let want = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                1 Preemption is not helpful for scheduling.";
    cluster
        .until("the reason", || async {
            let pod = api.get("big").await.unwrap();
            let conditions = pod.status.and_then(|s| s.conditions).unwrap_or_default();
            let condition = conditions.into_iter().find(|c| c.type_ == "PodScheduled")?;
            (condition.reason.as_deref() == Some("Unschedulable")
                && condition.message.as_deref() == Some(want))
            .then_some(())
        })
        .await;
    let reasons = |reason: &'static str| {
        let events = cluster.api::<Event>("default");
        async move {
            let all = events.list(&ListParams::default()).await.unwrap().items;
            let about = all.into_iter().filter(|e| e.reason.as_deref() == Some(reason));
            about.filter_map(|e| e.message).collect::<Vec<String>>()
        }
    };
    // The node's taint from before it was ready may have been told first.
    let told = || async { reasons("FailedScheduling").await.into_iter().find(|message| message == want) };
    cluster.until("the event", told).await;
    cluster.node("large", "8").await;
    cluster
        .until("the binding", || async {
            let pod = api.get("big").await.unwrap();
            (pod.spec.unwrap().node_name.as_deref() == Some("large")).then_some(())
        })
        .await;
    let text = cluster.until("the event", || async { reasons("Scheduled").await.pop() }).await;
    assert_eq!(text, "Successfully assigned default/big to large");
}

#[tokio::test]
async fn fifty_pods_are_bound_quickly() {
    let cluster = Cluster::start().await;
    cluster.node("a", "64").await;
    let start = Instant::now();
    cluster.create::<Deployment>("default", deployment(50, "v1")).await;
    rolled_out(&cluster, 50).await;
    println!("50 replicas available after {:?}", start.elapsed());
}

#[tokio::test]
async fn jobs_end_well_or_badly() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let job = |name: &str, behave: &str, extra: Value| {
        let mut spec = json!({"template": {"metadata": {"labels": {"behave": behave}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let ended = |name: &'static str, kind: &'static str| {
        let api = cluster.api::<Job>("default");
        async move {
            let status = api.get(name).await.unwrap().status?;
            let end = status.conditions.as_ref()?.iter().find(|c| c.type_ == kind && c.status == "True")?;
            Some((end.reason.clone().unwrap_or_default(), status.clone()))
        }
    };
    cluster
        .create::<Job>("default", job("good", "succeed", json!({"completions": 5, "parallelism": 2})))
        .await;
    let (_, status) = cluster.until("the good end", || ended("good", "Complete")).await;
    assert_eq!((status.succeeded, status.completion_time.is_some()), (Some(5), true));

    let indexed = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"});
    cluster.create::<Job>("default", job("indexed", "succeed", indexed)).await;
    let (_, status) = cluster.until("all indexes", || ended("indexed", "Complete")).await;
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));

    cluster.create::<Job>("default", job("bad", "fail", json!({"backoffLimit": 0}))).await;
    let (reason, status) = cluster.until("the bad end", || ended("bad", "Failed")).await;
    assert_eq!((reason.as_str(), status.failed), ("BackoffLimitExceeded", Some(1)));

    cluster.create::<Job>("default", job("short", "succeed", json!({"ttlSecondsAfterFinished": 0}))).await;
    cluster
        .until("the Job to vanish with its pods", || async {
            let job = cluster.api::<Job>("default").get_opt("short").await.unwrap();
            let mut pods = cluster.pods("default").await;
            pods.retain(|p| p.metadata.name.as_deref().unwrap().starts_with("short"));
            (job.is_none() && pods.is_empty()).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_cron_job_catches_up_once() {
    let cluster = Cluster::start().await;
    let cron = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
    cluster.create::<CronJob>("default", cron).await;
    let past = sampan_daemon::clock::now() - jiff::SignedDuration::from_mins(10);
    let patch = json!({"status": {"lastScheduleTime": sampan_daemon::clock::rfc3339(past)}});
    let api = cluster.api::<CronJob>("default");
    api.patch_status("tick", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    cluster
        .until("the Job", || async {
            let jobs = cluster.api::<Job>("default").list(&ListParams::default()).await.unwrap().items;
            let active = api.get("tick").await.unwrap().status.and_then(|s| s.active).unwrap_or_default();
            (jobs.len() == 1 && active.len() == 1).then_some(())
        })
        .await;
}

#[tokio::test]
async fn stateful_sets_go_in_order_and_roll_from_the_top() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 3, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "v1")}});
    cluster.create::<StatefulSet>("default", set).await;
    let api = cluster.api::<StatefulSet>("default");
    let ready = |image: &'static str| {
        let (api, cluster) = (api.clone(), &cluster);
        async move {
            let set = api.get("db").await.unwrap();
            let status = set.status.unwrap_or_default();
            let pods = cluster.pods("default").await;
            let images = pods
                .iter()
                .filter(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image));
            (status.ready_replicas == Some(3)
                && images.count() == 3
                && status.current_revision == status.update_revision)
                .then_some(pods)
        }
    };
    let pods = cluster.until("three in order", || ready("v1")).await;
    let names: Vec<_> = pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    assert_eq!(pods[1].spec.as_ref().unwrap().hostname.as_deref(), Some("db-1"));
    cluster
        .merge::<StatefulSet>(
            "default",
            "db",
            json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "v2"}]}}}}),
        )
        .await;
    cluster.until("the update", || ready("v2")).await;
    cluster.merge::<StatefulSet>("default", "db", json!({"spec": {"replicas": 1}})).await;
    cluster.until("one", || async { (cluster.pods("default").await.len() == 1).then_some(()) }).await;
}

#[tokio::test]
async fn daemon_sets_follow_the_nodes() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    cluster.node("b", "8").await;
    let set = json!({"metadata": {"name": "log"}, "spec": {
        "selector": {"matchLabels": {"app": "log"}}, "template": template("log", "v1")}});
    cluster.create::<DaemonSet>("default", set).await;
    let api = cluster.api::<DaemonSet>("default");
    let ready = |count: i32| {
        let api = api.clone();
        async move {
            let status = api.get("log").await.unwrap().status?;
            (status.number_ready == count && status.desired_number_scheduled == count).then_some(())
        }
    };
    cluster.until("two", || ready(2)).await;
    cluster.node("c", "8").await;
    cluster.until("three", || ready(3)).await;
    let nodes: BTreeSet<_> =
        cluster.pods("default").await.into_iter().map(|p| p.spec.unwrap().node_name.unwrap()).collect();
    assert_eq!(nodes.len(), 3);
}
