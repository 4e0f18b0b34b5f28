//! Which nodes the claims of a pod allow, and what is to be bound or made there.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::{Taken, Wanted};
use super::{
    NO_PROVISIONER, Reach, SELECTED_NODE, capacity, claim_phase, claim_ref, class_of, is_bound,
    modes_suffice, names_claim, topology_allows, volume_name, waits_for_consumer,
};
use crate::pods;
use crate::selector::Labels;

/// Where claims, volumes and classes are looked up.
pub trait Source {
    /// A claim of a namespace.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    /// A volume.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// All volumes of a class, and all that name the claim.
    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>>;
    /// A class.
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    /// How many volumes of a driver a node can have attached; `None` for any number.
    fn limit(&self, node: &str, driver: &str) -> Option<usize>;
}

/// Why a pod cannot go anywhere, in the words of Kubernetes' scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready(pub String);

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a pod cannot go to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conflict {
    /// A bound volume cannot be reached from there.
    Reach,
    /// No volume that can be reached from there is free, and none can be made.
    NothingToBind,
    /// A claim is bound to a volume that does not exist.
    NoVolume,
}

impl Conflict {
    /// The reason, in the words of Kubernetes' scheduler.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Reach => "node(s) didn't match PersistentVolume's node affinity",
            Self::NothingToBind => "node(s) didn't find available persistent volumes to bind",
            Self::NoVolume => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What must be done before a pod may go to a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// Claims and the volumes that are to be reserved for them.
    pub bind: Vec<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>)>,
    /// Claims for which volumes are to be made on the node.
    pub provision: Vec<Arc<PersistentVolumeClaim>>,
}

impl Choice {
    /// Whether everything is bound already.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

/// The claims of one pod, read once and asked for every node.
#[derive(Debug, Clone, Default)]
pub struct PodVolumes {
    bound: Vec<Reach>,
    lost: bool,
    open: Vec<Open>,
}

/// A claim that waits for the node of its first pod.
#[derive(Debug, Clone)]
struct Open {
    claim: Arc<PersistentVolumeClaim>,
    class: Arc<StorageClass>,
    /// The node that was chosen for it before.
    node: Option<String>,
    /// Volumes that would do, with where they can be reached; the one that is reserved first, then by size.
    candidates: Vec<(Arc<PersistentVolume>, Reach)>,
}

impl PodVolumes {
    /// Reads what a pod needs; `None` when it has no claims.
    ///
    /// # Errors
    /// A claim does not exist, goes away, is lost, or ought to be bound before.
    pub fn of(pod: &Pod, source: &impl Source) -> Result<Option<Self>, Unready> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let (mut all, mut seen) = (Self::default(), HashSet::new());
        let mut unbound = false;
        for volume in volumes {
            let ephemeral = volume.ephemeral.is_some();
            let Some(name) = pods::claim_of(pods::name(&pod.metadata), volume) else { continue };
            if !seen.insert(name.clone()) {
                continue;
            }
            let claim = source.claim(namespace, &name);
            let claim = claim.ok_or_else(|| Unready(absent(&name, ephemeral)))?;
            check(pod, &claim, ephemeral)?;
            unbound |= !all.add(&claim, source)?;
        }
        if seen.is_empty() {
            return Ok(None);
        }
        if unbound {
            return Err(Unready("pod has unbound immediate PersistentVolumeClaims".to_owned()));
        }
        // The smallest claims are served first, so that large volumes stay for those that need them.
        all.open.sort_by_key(|open| super::requested(&open.claim));
        Ok(Some(all))
    }

    /// Takes in a claim; false when it ought to be bound before its pod is placed, and is not.
    fn add(&mut self, claim: &Arc<PersistentVolumeClaim>, source: &impl Source) -> Result<bool, Unready> {
        if is_bound(claim) {
            match source.volume(volume_name(claim)) {
                Some(volume) => self.bound.push(Reach::of(&volume)),
                None => self.lost = true,
            }
            return Ok(true);
        }
        let class = source.class(class_of(claim));
        let Some(class) = class.filter(|class| waits_for_consumer(Some(class))) else { return Ok(false) };
        if !volume_name(claim).is_empty() {
            return Ok(false);
        }
        let node = pods::annotation(&claim.metadata, SELECTED_NODE).filter(|node| !node.is_empty());
        let node = node.map(str::to_owned);
        let candidates = if node.is_some() { Vec::new() } else { candidates(claim, source) };
        self.open.push(Open { claim: claim.clone(), class, node, candidates });
        Ok(true)
    }

    /// Whether the pod may go to the node as far as its volumes are concerned, and what must be done for it.
    ///
    /// # Errors
    /// It may not.
    pub fn on(&self, node: &str, labels: &Labels, taken: &Taken) -> Result<Choice, Conflict> {
        if self.lost {
            return Err(Conflict::NoVolume);
        }
        if !self.bound.iter().all(|reach| reach.includes(node, labels)) {
            return Err(Conflict::Reach);
        }
        let mut choice = Choice::default();
        for open in &self.open {
            match &open.node {
                Some(chosen) if chosen != node => return Err(Conflict::NothingToBind),
                Some(_) => choice.provision.push(open.claim.clone()),
                None => open.on(node, labels, taken, &mut choice)?,
            }
        }
        Ok(choice)
    }
}

impl Open {
    fn on(&self, node: &str, labels: &Labels, taken: &Taken, choice: &mut Choice) -> Result<(), Conflict> {
        let reserved = self.candidates.first().filter(|(volume, _)| names_claim(volume, &self.claim));
        if let Some((volume, reach)) = reserved {
            if !reach.includes(node, labels) {
                return Err(Conflict::NothingToBind);
            }
            choice.bind.push((self.claim.clone(), volume.clone()));
            return Ok(());
        }
        let free = |volume: &PersistentVolume| {
            let name = pods::name(&volume.metadata);
            !taken.contains(name)
                && choice.bind.iter().all(|(_, chosen)| pods::name(&chosen.metadata) != name)
        };
        let found = self.candidates.iter().find(|(v, reach)| reach.includes(node, labels) && free(v));
        if let Some((volume, _)) = found {
            choice.bind.push((self.claim.clone(), volume.clone()));
            return Ok(());
        }
        let provisioner = self.class.provisioner.as_str();
        if matches!(provisioner, "" | NO_PROVISIONER) || !topology_allows(&self.class, labels) {
            return Err(Conflict::NothingToBind);
        }
        choice.provision.push(self.claim.clone());
        Ok(())
    }
}

/// The volumes that would do for a claim, wherever they are.
fn candidates(claim: &PersistentVolumeClaim, source: &impl Source) -> Vec<(Arc<PersistentVolume>, Reach)> {
    let wanted = Wanted::of(claim);
    let mut all = source.candidates(claim);
    all.retain(|volume| wanted.could_take(claim, volume));
    if let Some(reserved) = all.iter().find(|volume| names_claim(volume, claim)) {
        return vec![(reserved.clone(), Reach::of(reserved))];
    }
    all.retain(|v| wanted.is_free(v) && claim_ref(v).is_none() && modes_suffice(claim, v));
    all.sort_by_key(|volume| (capacity(volume), pods::name(&volume.metadata).to_owned()));
    all.into_iter().map(|volume| (volume.clone(), Reach::of(&volume))).collect()
}

fn absent(name: &str, ephemeral: bool) -> String {
    if ephemeral {
        format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
    } else {
        format!("persistentvolumeclaim {name:?} not found")
    }
}

fn check(pod: &Pod, claim: &PersistentVolumeClaim, ephemeral: bool) -> Result<(), Unready> {
    let name = pods::name(&claim.metadata);
    if claim_phase(claim) == "Lost" {
        let volume = volume_name(claim);
        let text =
            format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}");
        return Err(Unready(text));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(Unready(format!("persistentvolumeclaim {name:?} is being deleted")));
    }
    if ephemeral && !is_for(pod, claim) {
        return Err(Unready(not_for(pod, claim)));
    }
    Ok(())
}

/// Whether the claim of an ephemeral volume was made for this very pod.
pub fn is_for(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    pods::controller(&claim.metadata).is_some_and(|owner| owner.uid == pods::uid(&pod.metadata))
}

/// What to say when it was not.
pub fn not_for(pod: &Pod, claim: &PersistentVolumeClaim) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (claim, pod) = (pods::name(&claim.metadata), pods::name(&pod.metadata));
    format!("PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)")
}
