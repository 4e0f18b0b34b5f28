//! Volumes for claims: bound, made, released, deleted.
//!
//! [`Volumes`] binds; `provision` has volumes made and their data removed; [`Ephemeral`] makes the claims of pods that
//! bring their own; [`Binder`] is the scheduler's side; [`Classes`] makes the default class of a new cluster.

mod classes;
mod ephemeral;
mod provision;
mod reclaim;
mod resize;
mod scheduling;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use sampan_planner::pods;
use sampan_planner::volumes::{self, claim, volume};
use serde_json::json;

pub(crate) use classes::Classes;
pub(crate) use ephemeral::Ephemeral;
pub(crate) use scheduling::Binder;

use crate::apis;
use crate::cache::{Caches, names_volume, of_class, open_of_class, uses_claim};
use crate::error::{Context, Error, Result};
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// A claim.
    Claim(Key),
    /// A volume.
    Volume(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// The controller that binds.
pub(crate) struct Volumes {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Work>,
    /// How often the data of a volume could not be removed.
    removals: Mutex<HashMap<String, u32>>,
}

impl Volumes {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder) -> Arc<Self> {
        let events = events.of("persistentvolume-controller");
        let this = Arc::new(Self { client, caches, events, queue: Queue::new(), removals: Mutex::default() });
        let own = this.clone();
        this.caches.claims.on(move |change| own.claim_changed(change));
        let own = this.clone();
        this.caches.volumes.on(move |change| own.volume_changed(change));
        let own = this.clone();
        this.caches.classes.on(move |change: &Change<'_, StorageClass>| {
            own.look_at_open(pods::name(&change.object().metadata));
            // A default class may be there now, for those that came before it.
            own.look_at_open("");
        });
        this
    }

    fn claim_changed(&self, change: &Change<'_, PersistentVolumeClaim>) {
        let claim = change.object();
        let key = Key::of(&claim.metadata);
        let named = volumes::volume_name(claim);
        if !named.is_empty() {
            self.queue.add(Work::Volume(named.to_owned()));
        }
        if matches!(change, Change::Deleted(_)) {
            for volume in self.caches.volumes.indexed(&uses_claim(&key.namespace, &key.name)) {
                self.queue.add(Work::Volume(pods::name(&volume.metadata).to_owned()));
            }
            return;
        }
        self.queue.add(Work::Claim(key));
    }

    fn volume_changed(&self, change: &Change<'_, PersistentVolume>) {
        let volume = change.object();
        let name = pods::name(&volume.metadata);
        if matches!(change, Change::Deleted(_)) {
            self.forget_tries(name);
        } else {
            self.queue.add(Work::Volume(name.to_owned()));
        }
        for claim in self.caches.claims.indexed(&names_volume(name)) {
            self.queue.add(Work::Claim(Key::of(&claim.metadata)));
        }
        match volumes::claim_ref(volume) {
            Some(reference) => {
                let part = |text: &Option<String>| text.clone().unwrap_or_default();
                self.queue.add(Work::Claim(Key::new(&part(&reference.namespace), &part(&reference.name))));
            }
            // Somebody may have waited for it.
            None => self.look_at_open(volumes::class_of_volume(volume)),
        }
    }

    /// How often it was tried before to remove the data of a volume.
    fn tries(&self, name: &str) -> u32 {
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = removals.entry(name.to_owned()).or_insert(0);
        *tries += 1;
        *tries - 1
    }

    fn forget_tries(&self, name: &str) {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn look_at_open(&self, class: &str) {
        for claim in self.caches.claims.indexed(&open_of_class(class)) {
            self.queue.add(Work::Claim(Key::of(&claim.metadata)));
        }
    }

    async fn claim(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(claim) = self.caches.claims.get(key) else { return Ok(None) };
        let mut candidates = self.caches.volumes.indexed(&of_class(volumes::class_of(&claim)));
        candidates.extend(self.caches.volumes.indexed(&uses_claim(&key.namespace, &key.name)));
        let named = self.caches.volumes.get(&Key::new("", volumes::volume_name(&claim)));
        let mut named = named;
        if named.is_none() && volumes::is_bound(&claim) {
            // What is lost stays lost: the cache alone does not decide that.
            named = self.live_volume(volumes::volume_name(&claim)).await?.map(Arc::new);
        }
        let using = self.caches.pods.indexed(&uses_claim(&key.namespace, &key.name));
        let waiting = using.iter().filter(|pod| pods::node_name(pod).is_empty() && !pods::finished(pod));
        let waiting_pods: Vec<String> = waiting.map(|pod| pods::name(&pod.metadata).to_owned()).collect();
        let world = claim::World {
            volumes: &candidates,
            named: named.as_ref(),
            classes: &self.caches.classes.all(),
            waiting_pods: &waiting_pods,
        };
        match claim::plan(&claim, &world) {
            claim::Step::Bind(volume) => self.bind(&claim, &volume).await?,
            claim::Step::Wait(notice) => {
                if let Some(notice) = notice {
                    self.events.notice(&*claim, notice);
                }
                self.set_status(&claim, "Pending", None).await?;
            }
            claim::Step::NoClass(notice) => self.events.notice(&*claim, notice),
            claim::Step::SetClass(class) => self.set_class(key, &claim, &class).await?,
            claim::Step::Provision(class) => return self.provision(key, &claim, &class).await,
            claim::Step::Lost(notice) => {
                if volumes::claim_phase(&claim) != "Lost" {
                    self.set_status(&claim, "Lost", None).await?;
                    self.events.notice(&*claim, notice);
                }
            }
            claim::Step::Contested(notice) => {
                let problem = notice.message.clone();
                self.events.notice(&*claim, notice);
                return Err(Error::Object { object: format!("PersistentVolumeClaim {key}"), problem });
            }
        }
        Ok(None)
    }

    /// Writes into both that they belong together, the volume first: it cannot be given away twice.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<()> {
        let name = pods::name(&volume.metadata).to_owned();
        let mut volume = volume.clone();
        if let Some(changed) = claim::bound_volume(&volume, claim) {
            volume = self.replace_volume(&changed).await?;
        }
        volume = self.set_phase(volume, "Bound", None).await?;
        let key = Key::of(&claim.metadata);
        let mut claim = claim.clone();
        if let Some(changed) = claim::bound_claim(&claim, &volume) {
            let api = apis::namespaced::<PersistentVolumeClaim>(&self.client, &key.namespace);
            let written = api.replace(&key.name, &PostParams::default(), &changed).await;
            claim = written.during(|| format!("binding claim {key} to volume {name}"))?;
            self.caches.claims.absorb(claim.clone());
        }
        self.set_status(&claim, "Bound", Some(&volume)).await?;
        self.resize(&key, &volume).await
    }

    async fn set_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<()> {
        let Some(status) = claim::status(claim, phase, volume) else { return Ok(()) };
        let changed = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
        apis::replace_status(&self.client, &self.caches.claims, &changed).await
    }

    async fn set_class(&self, key: &Key, claim: &PersistentVolumeClaim, class: &str) -> Result<()> {
        let patch = json!({
            "metadata": {"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version},
            "spec": {"storageClassName": class},
        });
        // The cache learns of it, and with that the claim is looked at again.
        apis::merge(&self.client, &self.caches.claims, key, &patch).await.map(drop)
    }

    async fn live_volume(&self, name: &str) -> Result<Option<PersistentVolume>> {
        let api = apis::cluster::<PersistentVolume>(&self.client);
        api.get_opt(name).await.during(|| format!("reading volume {name}"))
    }

    async fn replace_volume(&self, volume: &PersistentVolume) -> Result<PersistentVolume> {
        let name = pods::name(&volume.metadata);
        let api = apis::cluster::<PersistentVolume>(&self.client);
        let written = api.replace(name, &PostParams::default(), volume).await;
        let written = written.during(|| format!("writing volume {name}"))?;
        self.caches.volumes.absorb(written.clone());
        Ok(written)
    }

    /// Brings a volume into a phase; gives back the volume as it is then.
    async fn set_phase(
        &self,
        volume: PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<PersistentVolume> {
        let known = volume.status.as_ref().and_then(|status| status.message.as_deref());
        if volumes::phase(&volume) == phase && known.unwrap_or_default() == message.unwrap_or_default() {
            return Ok(volume);
        }
        let name = pods::name(&volume.metadata);
        let patch = json!({
            "metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version},
            "status": {"phase": phase, "message": message},
        });
        let api = apis::cluster::<PersistentVolume>(&self.client);
        let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let written = written.during(|| format!("writing the status of volume {name}"))?;
        self.caches.volumes.absorb(written.clone());
        Ok(written)
    }

    async fn volume(&self, name: &str) -> Result<Option<Duration>> {
        let Some(volume) = self.caches.volumes.get(&Key::new("", name)) else { return Ok(None) };
        if self.finalizer_is_wrong(&volume) {
            self.drop_finalizer(&volume).await?;
        }
        let claim = self.claim_of(&volume).await?;
        match volume::plan(&volume, claim.as_deref()) {
            volume::Step::Phase(phase) => drop(self.set_phase((*volume).clone(), phase, None).await?),
            volume::Step::LookAtClaim => {
                if let Some(claim) = claim {
                    self.queue.add(Work::Claim(Key::of(&claim.metadata)));
                }
            }
            volume::Step::Mismatch { of_volume, of_claim } => {
                self.events.notice(&*volume, of_volume);
                if let Some(claim) = claim {
                    self.events.notice(&*claim, of_claim);
                }
            }
            volume::Step::Unbind(free) => {
                let written = self.replace_volume(&free).await?;
                self.set_phase(written, "Available", None).await?;
            }
            volume::Step::Reclaim(policy) => return self.reclaim((*volume).clone(), policy).await,
        }
        Ok(None)
    }

    /// The claim that a volume names, exactly that one. Only the API may say that it is gone: what follows from that
    /// cannot be undone.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>> {
        let Some(reference) = volumes::claim_ref(volume).filter(|r| r.uid.is_some()) else { return Ok(None) };
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let key = Key::new(&part(&reference.namespace), &part(&reference.name));
        let same = |claim: &PersistentVolumeClaim| claim.metadata.uid == reference.uid;
        if let Some(claim) = self.caches.claims.get(&key).filter(|claim| same(claim)) {
            return Ok(Some(claim));
        }
        let api = apis::namespaced::<PersistentVolumeClaim>(&self.client, &key.namespace);
        let live = api.get_opt(&key.name).await.during(|| format!("reading claim {key}"))?;
        Ok(live.filter(same).map(Arc::new))
    }
}

impl Reconciler for Volumes {
    type Key = Work;

    fn queue(&self) -> &Queue<Work> {
        &self.queue
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>> {
        match work {
            Work::Claim(key) => self.claim(key).await,
            Work::Volume(name) => self.volume(name).await,
        }
    }
}
