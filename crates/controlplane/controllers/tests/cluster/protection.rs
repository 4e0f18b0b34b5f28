//! Claims and volumes stay while they are in use, by the real controllers over a real API server.

use crate::support::Cluster;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }})
}

fn pod(name: &str, claim: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
    }})
}

async fn gone<K>(cluster: &Cluster, api: &Api<K>, name: &str)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    cluster.until(name, || async { api.get_opt(name).await.unwrap().is_none().then_some(()) }).await;
}

#[tokio::test]
async fn a_claim_stays_until_its_pod_is_gone() {
    let cluster = Cluster::start().await;
    cluster.node("one", "4").await;
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let made: PersistentVolumeClaim = cluster.create("default", claim("kept")).await;
    assert_eq!(made.metadata.finalizers.unwrap(), ["kubernetes.io/pvc-protection"]);
    let _: PersistentVolumeClaim = cluster.create("default", claim("free")).await;
    let _: Pod = cluster.create("default", pod("user", "kept")).await;
    let pods: Api<Pod> = cluster.api("default");
    cluster
        .until("the pod to be on a node", || async {
            let pod = pods.get("user").await.unwrap();
            pod.spec.unwrap().node_name.map(drop)
        })
        .await;
    claims.delete("kept", &DeleteParams::default()).await.unwrap();
    claims.delete("free", &DeleteParams::default()).await.unwrap();
    // By the time that one goes which nobody uses, the other would have gone, too.
    gone(&cluster, &claims, "free").await;
    let kept = claims.get("kept").await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_some());
    pods.delete("user", &DeleteParams::default().grace_period(0)).await.unwrap();
    gone(&cluster, &claims, "kept").await;
}

#[tokio::test]
async fn a_volume_stays_while_it_is_bound() {
    let cluster = Cluster::start().await;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    for name in ["bound", "free"] {
        let volume = json!({"metadata": {"name": name}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"},
        }});
        let made =
            volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
        assert_eq!(made.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    }
    let mut user = claim("user");
    user["spec"]["storageClassName"] = json!("");
    user["spec"]["volumeName"] = json!("bound");
    let _: PersistentVolumeClaim = cluster.create("default", user).await;
    cluster
        .until("the volume to be bound", || async {
            let status = volumes.get("bound").await.unwrap().status.unwrap_or_default();
            (status.phase.as_deref() == Some("Bound")).then_some(())
        })
        .await;
    volumes.delete("bound", &DeleteParams::default()).await.unwrap();
    volumes.delete("free", &DeleteParams::default()).await.unwrap();
    gone(&cluster, &volumes, "free").await;
    assert!(volumes.get("bound").await.unwrap().metadata.deletion_timestamp.is_some());
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    claims.delete("user", &DeleteParams::default()).await.unwrap();
    gone(&cluster, &volumes, "bound").await;
}
