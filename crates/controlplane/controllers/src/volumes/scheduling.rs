//! The scheduler's side of volumes: what a pod's claims allow, and what is written before the pod is bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use sampan_planner::pods;
use sampan_planner::selector::Labels;
use sampan_planner::volumes::matching::Taken;
use sampan_planner::volumes::placement::{Choice, PodVolumes, Source};
use sampan_planner::volumes::{self, SELECTED_NODE, claim, listed};
use serde_json::json;
use tokio::sync::watch;

use crate::apis;
use crate::cache::{Caches, of_class, uses_claim};
use crate::error::{Context, Error, Result};
use crate::informer::Key;

/// How long volumes may take to be made and bound.
const BOUND: Duration = Duration::from_secs(600);

/// Binds the volumes of pods on behalf of the scheduler.
pub(crate) struct Binder {
    client: Client,
    caches: Arc<Caches>,
    /// Volumes that pods on their way were promised, by the pod's uid.
    taken: Mutex<HashMap<String, String>>,
    changed: watch::Sender<()>,
}

impl Source for Caches {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(&Key::new(namespace, name))
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(&Key::new("", name))
    }

    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let key = Key::of(&claim.metadata);
        let mut all = self.volumes.indexed(&of_class(volumes::class_of(claim)));
        all.extend(self.volumes.indexed(&uses_claim(&key.namespace, &key.name)));
        all
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(&Key::new("", name))
    }

    fn limit(&self, node: &str, driver: &str) -> Option<usize> {
        listed::limit(&*self.csi_nodes.get(&Key::new("", node))?, driver)
    }
}

impl Binder {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let (taken, changed) = (Mutex::default(), watch::Sender::new(()));
        let this = Arc::new(Self { client, caches, taken, changed });
        let own = this.clone();
        this.caches.claims.on(move |_| own.changed.send_replace(()));
        let own = this.clone();
        this.caches.volumes.on(move |_| own.changed.send_replace(()));
        let own = this.clone();
        this.caches.classes.on(move |_| own.changed.send_replace(()));
        this
    }

    /// Calls back whenever something changed that pods with claims may wait for.
    pub fn on_change(&self, callback: impl Fn() + Clone + Send + Sync + 'static) {
        let (one, two, three) = (callback.clone(), callback.clone(), callback.clone());
        self.caches.claims.on(move |_| callback());
        self.caches.volumes.on(move |_| one());
        self.caches.classes.on(move |_| two());
        self.caches.csi_nodes.on(move |_| three());
    }

    /// What is to be done for the pod on the node; its volumes are spoken for from now on.
    pub fn choose(&self, pod: &Pod, volumes: &PodVolumes, node: &str) -> Choice {
        let labels = self.caches.nodes.get(&Key::new("", node)).and_then(|node| node.metadata.labels.clone());
        let choice = volumes.on(node, &labels.unwrap_or_default(), &self.taken()).unwrap_or_default();
        self.reserve(pod, &choice);
        choice
    }

    /// The volumes that are spoken for.
    pub fn taken(&self) -> Taken {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Speaks for the volumes of a choice, so that no other pod is given them meanwhile.
    fn reserve(&self, pod: &Pod, choice: &Choice) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, volume) in &choice.bind {
            taken.insert(pods::name(&volume.metadata).to_owned(), pods::uid(&pod.metadata).to_owned());
        }
    }

    /// Gives back what was spoken for.
    pub fn release(&self, uid: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, owner| owner != uid);
    }

    /// Writes what was chosen, and waits until all claims of the pod are bound to volumes that the node reaches.
    pub async fn prebind(&self, pod: &Pod, node: &str, choice: &Choice) -> Result<()> {
        if choice.is_empty() {
            return Ok(());
        }
        let mut changes = self.changed.subscribe();
        for (claim, volume) in &choice.bind {
            let Some(changed) = claim::bound_volume(volume, claim) else { continue };
            let name = pods::name(&volume.metadata);
            let api = apis::cluster::<PersistentVolume>(&self.client);
            let written = api.replace(name, &PostParams::default(), &changed).await;
            self.caches.volumes.absorb(written.during(|| format!("reserving volume {name}"))?);
        }
        for claim in &choice.provision {
            if pods::annotation(&claim.metadata, SELECTED_NODE) == Some(node) {
                continue;
            }
            let key = Key::of(&claim.metadata);
            let patch = json!({
                "metadata": {
                    "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                    "annotations": {SELECTED_NODE: node},
                },
            });
            let api = apis::namespaced::<PersistentVolumeClaim>(&self.client, &key.namespace);
            let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            self.caches.claims.absorb(written.during(|| format!("choosing node {node} for claim {key}"))?);
        }
        let waited = tokio::time::timeout(BOUND, async {
            loop {
                changes.borrow_and_update();
                if self.is_settled(pod, node, choice)? {
                    return Ok(());
                }
                if changes.changed().await.is_err() {
                    // The controllers end.
                    return std::future::pending().await;
                }
            }
        });
        waited.await.unwrap_or_else(|_| {
            let problem = format!("its volumes were not bound within {} s", BOUND.as_secs());
            Err(Error::Object { object: format!("Pod {}", Key::of(&pod.metadata)), problem })
        })
    }

    /// Whether all is bound; an error when it never will be this way.
    fn is_settled(&self, pod: &Pod, node: &str, choice: &Choice) -> Result<bool> {
        let failed = |claim: &Key, problem: String| Error::Object {
            object: format!("PersistentVolumeClaim {claim}"),
            problem,
        };
        if self
            .caches
            .pods
            .get(&Key::of(&pod.metadata))
            .is_none_or(|now| now.metadata.uid != pod.metadata.uid)
        {
            let problem = "is gone".to_owned();
            return Err(Error::Object { object: format!("Pod {}", Key::of(&pod.metadata)), problem });
        }
        let labels = self.caches.nodes.get(&Key::new("", node));
        let labels: Labels = labels.and_then(|node| node.metadata.labels.clone()).unwrap_or_default();
        let all = choice.bind.iter().map(|(claim, _)| claim).chain(&choice.provision);
        let mut settled = true;
        for claim in all {
            let key = Key::of(&claim.metadata);
            let now = self.caches.claims.get(&key).filter(|now| now.metadata.uid == claim.metadata.uid);
            let Some(now) = now else { return Err(failed(&key, "is gone".into())) };
            if volumes::is_bound(&now) {
                let volume = self.caches.volumes.get(&Key::new("", volumes::volume_name(&now)));
                let Some(volume) = volume else {
                    settled = false;
                    continue;
                };
                if !volumes::Reach::of(&volume).includes(node, &labels) {
                    let name = pods::name(&volume.metadata);
                    return Err(failed(
                        &key,
                        format!("pv {name:?} node affinity doesn't match node {node:?}"),
                    ));
                }
                continue;
            }
            let provisions = choice.provision.iter().any(|c| Key::of(&c.metadata) == key);
            if provisions && pods::annotation(&now.metadata, SELECTED_NODE) != Some(node) {
                return Err(failed(&key, "the choice of its node was taken back".into()));
            }
            settled = false;
        }
        Ok(settled)
    }
}
