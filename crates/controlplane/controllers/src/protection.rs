//! Claims and volumes that are in use stay: the finalizers that admission gives them go once nobody uses them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams};
use sampan_planner::pods;
use serde_json::{Value, json};

use crate::apis;
use crate::cache::{Caches, uses_claim};
use crate::error::{Context, Result, gone_is_fine};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::volumes::Work;
use crate::worker::Reconciler;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// The controller.
pub(crate) struct Protection {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Work>,
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|known| known == finalizer)
}

/// Whether the object goes and is kept by the finalizer, or stays and has none.
fn concerns(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() == has(meta, finalizer)
}

/// The change of metadata that takes the finalizer away, or puts it there; it fails when somebody was faster.
fn patch(meta: &ObjectMeta, finalizer: &str) -> Value {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    if has(meta, finalizer) {
        finalizers.retain(|known| known != finalizer);
    } else {
        finalizers.push(finalizer.to_owned());
    }
    json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers}})
}

impl Protection {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new() });
        let own = this.clone();
        this.caches.claims.on(move |change: &Change<'_, PersistentVolumeClaim>| {
            let meta = &change.object().metadata;
            if !matches!(change, Change::Deleted(_)) && concerns(meta, CLAIM_FINALIZER) {
                own.queue.add(Work::Claim(Key::of(meta)));
            }
        });
        let own = this.clone();
        this.caches.volumes.on(move |change: &Change<'_, PersistentVolume>| {
            let meta = &change.object().metadata;
            if !matches!(change, Change::Deleted(_)) && concerns(meta, VOLUME_FINALIZER) {
                own.queue.add(Work::Volume(pods::name(meta).to_owned()));
            }
        });
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        this
    }

    /// A pod that is gone, has ended or never came to a node frees its claims.
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let deleted = matches!(change, Change::Deleted(_));
        if deleted || pods::finished(pod) || pods::node_name(pod).is_empty() {
            self.look_at_claims(pod);
        }
        if let Some(old) = change.old().filter(|old| old.metadata.uid != pod.metadata.uid) {
            self.look_at_claims(old);
        }
    }

    fn look_at_claims(&self, pod: &Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for name in pods::claims(pod) {
            let key = Key::new(namespace, &name);
            let claim = self.caches.claims.get(&key);
            if claim.is_some_and(|claim| concerns(&claim.metadata, CLAIM_FINALIZER)) {
                self.queue.add(Work::Claim(key));
            }
        }
    }

    async fn claim(&self, key: &Key) -> Result<()> {
        let Some(claim) = self.caches.claims.get(key) else { return Ok(()) };
        let meta = &claim.metadata;
        if !concerns(meta, CLAIM_FINALIZER)
            || (has(meta, CLAIM_FINALIZER) && self.in_use(key, &claim).await?)
        {
            return Ok(());
        }
        let change = patch(meta, CLAIM_FINALIZER);
        let api = apis::namespaced::<PersistentVolumeClaim>(&self.client, &key.namespace);
        let result = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&change)).await;
        gone_is_fine(result).during(|| format!("changing the finalizers of claim {key}"))
    }

    /// Whether a pod uses the claim; the cache may be behind, so that nobody is found only when the API agrees.
    async fn in_use(&self, key: &Key, claim: &PersistentVolumeClaim) -> Result<bool> {
        let known = self.caches.pods.indexed(&uses_claim(&key.namespace, &key.name));
        if known.iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        let all = api.list(&ListParams::default()).await;
        let all = all.during(|| format!("looking for the pods of claim {key}"))?;
        Ok(all.items.iter().any(|pod| uses(pod, claim)))
    }

    async fn volume(&self, name: &str) -> Result<()> {
        let Some(volume) = self.caches.volumes.get(&Key::new("", name)) else { return Ok(()) };
        let meta = &volume.metadata;
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if !concerns(meta, VOLUME_FINALIZER) || (has(meta, VOLUME_FINALIZER) && bound) {
            return Ok(());
        }
        let change = patch(meta, VOLUME_FINALIZER);
        let api = apis::cluster::<PersistentVolume>(&self.client);
        let result = api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await;
        gone_is_fine(result).during(|| format!("changing the finalizers of volume {name}"))
    }
}

/// Whether the pod is on a node and uses the claim there: nodes begin no pod whose claim goes.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = pods::name(&claim.metadata);
    // Nothing of the pod runs any more.
    let shut_down = pods::terminating(pod) && pod.metadata.deletion_grace_period_seconds.unwrap_or(-1) == 0;
    let of_pod =
        || pods::controller(&claim.metadata).is_some_and(|owner| owner.uid == pods::uid(&pod.metadata));
    let with = |volume: &Volume| {
        pods::claim_of(pods::name(&pod.metadata), volume).is_some_and(|used| used == name)
            && (volume.persistent_volume_claim.is_some() || (!shut_down && of_pod()))
    };
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    !pods::node_name(pod).is_empty() && volumes.into_iter().any(with)
}

impl Reconciler for Protection {
    type Key = Work;

    fn queue(&self) -> &Queue<Work> {
        &self.queue
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>> {
        match work {
            Work::Claim(key) => self.claim(key).await?,
            Work::Volume(name) => self.volume(name).await?,
        }
        Ok(None)
    }
}
