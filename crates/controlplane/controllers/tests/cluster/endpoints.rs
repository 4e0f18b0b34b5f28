//! Who stands behind a Service that picks no pods itself, over a real API server.

use crate::support::Cluster;
use k8s_openapi::api::core::v1::{Endpoints, Pod, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

async fn slices(cluster: &Cluster, service: &str) -> Vec<EndpointSlice> {
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    cluster.api::<EndpointSlice>("default").list(&params).await.unwrap().items
}

fn addresses(slices: &[EndpointSlice]) -> Vec<String> {
    let all = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    let mut all: Vec<String> = all.flat_map(|e| e.addresses.clone()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn endpoints_that_somebody_keeps_are_mirrored() {
    let cluster = Cluster::start().await;
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}});
    cluster.create::<Service>("default", service).await;
    let endpoints = json!({"metadata": {"name": "db"}, "subsets": [
        {"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [{"port": 5432}]}]});
    cluster.create::<Endpoints>("default", endpoints).await;
    let made = cluster
        .until("both families", || async {
            let slices = slices(&cluster, "db").await;
            (addresses(&slices) == ["192.0.2.1", "2001:db8::1"]).then_some(slices)
        })
        .await;
    let by = &made[0].metadata.labels.as_ref().unwrap()["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(by, "endpointslicemirroring-controller.k8s.io");
    let subsets = json!({"subsets": [{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"port": 5432}]}]});
    cluster.merge::<Endpoints>("default", "db", subsets).await;
    cluster
        .until("the new address", || async {
            (addresses(&slices(&cluster, "db").await) == ["192.0.2.9"]).then_some(())
        })
        .await;
    // A slice that is taken away comes back; without a Service there are none.
    let name = slices(&cluster, "db").await[0].metadata.name.clone().unwrap();
    cluster.api::<EndpointSlice>("default").delete(&name, &DeleteParams::default()).await.unwrap();
    cluster
        .until("it again", || async {
            let now = slices(&cluster, "db").await;
            (addresses(&now) == ["192.0.2.9"] && now[0].metadata.name.as_ref() != Some(&name)).then_some(())
        })
        .await;
    let skip = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}});
    cluster.merge::<Endpoints>("default", "db", skip).await;
    cluster.until("none", || async { slices(&cluster, "db").await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn slices_say_where_endpoints_are() {
    let cluster = Cluster::start().await;
    cluster.node("one", "8").await;
    let service = json!({"metadata": {"name": "near"}, "spec": {"selector": {"app": "near"},
        "trafficDistribution": "PreferSameNode", "ports": [{"port": 80}]}});
    cluster.create::<Service>("default", service).await;
    let pod = json!({"metadata": {"name": "near", "labels": {"app": "near"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.create::<Pod>("default", pod).await;
    let hints = |slices: Vec<EndpointSlice>| {
        let endpoint = slices.into_iter().flat_map(|s| s.endpoints.unwrap_or_default()).next()?;
        let hints = endpoint.hints?;
        let zone = hints.for_zones.map(|z| z[0].name.clone());
        Some((endpoint.zone, zone, hints.for_nodes?[0].name.clone()))
    };
    cluster
        .until("the node", || async {
            (hints(slices(&cluster, "near").await)? == (None, None, "one".into())).then_some(())
        })
        .await;
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(cluster.client.clone());
    let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "west"}}});
    nodes.patch("one", &Default::default(), &kube::api::Patch::Merge(label)).await.unwrap();
    cluster
        .until("the zone", || async {
            let west = || Some("west".to_owned());
            (hints(slices(&cluster, "near").await)? == (west(), west(), "one".into())).then_some(())
        })
        .await;
}

#[tokio::test]
async fn endpoints_go_with_their_service_and_only_with_it() {
    let cluster = Cluster::start().await;
    let subsets = json!([{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]);
    for name in ["kept", "served"] {
        let endpoints = json!({"metadata": {"name": name}, "subsets": subsets});
        cluster.create::<Endpoints>("default", endpoints).await;
    }
    let service = json!({"metadata": {"name": "served"}, "spec": {"ports": [{"port": 5432}]}});
    cluster.create::<Service>("default", service).await;
    cluster.until("a slice", || async { (!slices(&cluster, "served").await.is_empty()).then_some(()) }).await;
    cluster.api::<Service>("default").delete("served", &DeleteParams::default()).await.unwrap();
    let api = cluster.api::<Endpoints>("default");
    cluster
        .until("what was behind it to go", || async {
            let gone = api.get_opt("served").await.unwrap().is_none();
            (gone && slices(&cluster, "served").await.is_empty()).then_some(())
        })
        .await;
    assert!(api.get_opt("kept").await.unwrap().is_some(), "no Service was ever before it");
}

#[tokio::test]
async fn what_a_quota_forbids_is_made_once_it_is_gone() {
    let cluster = Cluster::start().await;
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/endpoints": "0"}}});
    cluster.create::<ResourceQuota>("default", quota).await;
    let quotas = cluster.api::<ResourceQuota>("default");
    cluster
        .until("the quota to count", || async {
            quotas.get("none").await.unwrap().status.and_then(|s| s.hard).is_some().then_some(())
        })
        .await;
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create::<Service>("default", service).await;
    let api = cluster.api::<Endpoints>("default");
    cluster
        .until("a slice, which nothing forbids", || async {
            (!slices(&cluster, "web").await.is_empty()).then_some(())
        })
        .await;
    assert!(api.get_opt("web").await.unwrap().is_none());
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    cluster.until("Endpoints", || async { api.get_opt("web").await.unwrap().map(drop) }).await;
}
