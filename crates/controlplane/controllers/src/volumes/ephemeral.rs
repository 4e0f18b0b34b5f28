//! The claims of pods that bring their own: made from the pod's template, owned by the pod.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::PostParams;
use sampan_planner::pods;
use sampan_planner::volumes::placement::{is_for, not_for};

use crate::apis;
use crate::cache::{Caches, uses_claim};
use crate::claim::controller_reference;
use crate::error::{Context, Error, Result, code};
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// The controller. Its keys are pods.
pub(crate) struct Ephemeral {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

impl Ephemeral {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("ephemeral_volume");
        let this = Arc::new(Self { client, caches, events, queue: Queue::new() });
        let own = this.clone();
        this.caches.pods.on(move |change| {
            // The volumes of a pod never change.
            if let Change::Added(pod) = change {
                own.enqueue(pod);
            }
        });
        let own = this.clone();
        this.caches.claims.on(move |change| {
            if let Change::Deleted(claim) = change {
                let key = Key::of(&claim.metadata);
                for pod in own.caches.pods.indexed(&uses_claim(&key.namespace, &key.name)) {
                    own.enqueue(&pod);
                }
            }
        });
        this
    }

    fn enqueue(&self, pod: &Pod) {
        if !pods::terminating(pod) && ephemeral(pod).next().is_some() {
            self.queue.add(Key::of(&pod.metadata));
        }
    }

    async fn one(&self, key: &Key, pod: &Pod, volume: &Volume) -> Result<()> {
        let Some(name) = pods::claim_of(&key.name, volume) else { return Ok(()) };
        let claim = Key::new(&key.namespace, &name);
        if let Some(known) = self.caches.claims.get(&claim) {
            return own(pod, &known, volume);
        }
        // The cache keeps no templates.
        let api = apis::namespaced::<Pod>(&self.client, &key.namespace);
        let live = api.get_opt(&key.name).await.during(|| format!("reading pod {key}"))?;
        let live = live.filter(|live| live.metadata.uid == pod.metadata.uid && !pods::terminating(live));
        let Some(live) = live else { return Ok(()) };
        let template = ephemeral(&live).find(|v| v.name == volume.name).and_then(|v| v.ephemeral.clone());
        let Some(template) = template.and_then(|source| source.volume_claim_template) else { return Ok(()) };
        let meta = template.metadata.unwrap_or_default();
        let made = PersistentVolumeClaim {
            metadata: ObjectMeta {
                namespace: Some(key.namespace.clone()),
                name: Some(name.clone()),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![controller_reference(&live)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec),
            status: None,
        };
        let api = apis::namespaced::<PersistentVolumeClaim>(&self.client, &key.namespace);
        match api.create(&PostParams::default(), &made).await {
            Err(error) if code(&error) == 409 => {
                let known = api.get_opt(&name).await.during(|| format!("reading claim {claim}"))?;
                known.map_or(Ok(()), |known| own(pod, &known, volume))
            }
            other => other.map(drop).during(|| format!("create PVC {name}")),
        }
    }
}

/// Whether the claim was made for the pod; another of its name is in the way.
fn own(pod: &Pod, claim: &PersistentVolumeClaim, volume: &Volume) -> Result<()> {
    if is_for(pod, claim) {
        return Ok(());
    }
    Err(Error::Object { object: format!("ephemeral volume {}", volume.name), problem: not_for(pod, claim) })
}

impl Reconciler for Ephemeral {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(pod) = self.caches.pods.get(key).filter(|pod| !pods::terminating(pod)) else {
            return Ok(None);
        };
        for volume in ephemeral(&pod) {
            if let Err(error) = self.one(key, &pod, volume).await {
                let text = match &error {
                    Error::Object { problem, .. } => problem.clone(),
                    other => other.to_string(),
                };
                let text = format!("ephemeral volume {}: {text}", volume.name);
                self.events.warning(&*pod, "FailedBinding", text);
                return Err(error);
            }
        }
        Ok(None)
    }
}
