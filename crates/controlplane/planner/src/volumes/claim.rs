//! What is to be done about one claim.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, claim_phase, claim_ref, class_of, default_class, has,
    matching, names_claim, volume_name, waits_for_consumer,
};
use crate::pods;
use crate::rollout::Notice;

/// What is known beside the claim itself.
#[derive(Debug, Clone, Default)]
pub struct World<'a> {
    /// Volumes among which one for the claim may be found: those of its class, and those that name the claim.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The volume that the claim names.
    pub named: Option<&'a Arc<PersistentVolume>>,
    /// All classes.
    pub classes: &'a [Arc<StorageClass>],
    /// Pods that use the claim and are on no node yet.
    pub waiting_pods: &'a [String],
}

/// The next step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Bring both together, or see that they are.
    Bind(Arc<PersistentVolume>),
    /// Nothing can be done now; the claim is Pending.
    Wait(Option<Notice>),
    /// Give it the default class, which came after it.
    SetClass(String),
    /// Have a volume made.
    Provision(Arc<StorageClass>),
    /// Its class does not exist.
    NoClass(Notice),
    /// Its data is gone.
    Lost(Notice),
    /// Somebody tampered with the binding: nothing is written, and it is looked at again.
    Contested(Notice),
}

/// Decides.
pub fn plan(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    if has(&claim.metadata, BIND_COMPLETED) {
        return plan_bound(claim, world);
    }
    if volume_name(claim).is_empty() {
        return plan_open(claim, world);
    }
    let Some(volume) = world.named else { return Step::Wait(None) };
    if claim_ref(volume).is_none() {
        return match matching::mismatch(volume, claim) {
            None => Step::Bind(volume.clone()),
            Some(problem) => {
                let name = pods::name(&volume.metadata);
                let text = format!("Cannot bind to requested volume {name:?}: {problem}");
                Step::Wait(Some(Notice::warning("VolumeMismatch", text)))
            }
        };
    }
    if names_claim(volume, claim) {
        return Step::Bind(volume.clone());
    }
    let name = pods::name(&volume.metadata);
    let notice =
        Notice::warning("FailedBinding", format!("volume {name:?} already bound to a different claim."));
    if has(&claim.metadata, BOUND_BY_CONTROLLER) { Step::Contested(notice) } else { Step::Wait(Some(notice)) }
}

fn plan_open(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    let wanted = class_of(claim);
    let class = world.classes.iter().find(|class| pods::name(&class.metadata) == wanted);
    let delayed = waits_for_consumer(class.map(|class| &**class));
    if let Some(volume) = matching::best(claim, world.volumes, delayed) {
        return Step::Bind(volume.clone());
    }
    let names_none = claim.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none());
    if wanted.is_empty()
        && names_none
        && let Some(default) = default_class(world.classes.iter().map(|class| &**class))
    {
        return Step::SetClass(pods::name(&default.metadata).to_owned());
    }
    if wanted.is_empty() {
        let text = "no persistent volumes available for this claim and no storage class is set";
        return Step::Wait(Some(Notice::normal("FailedBinding", text)));
    }
    let Some(class) = class else {
        let text = format!("storageclass.storage.k8s.io {wanted:?} not found");
        return Step::NoClass(Notice::warning("ProvisioningFailed", text));
    };
    if delayed && pods::annotation(&claim.metadata, SELECTED_NODE).unwrap_or_default().is_empty() {
        return Step::Wait(Some(awaits(world.waiting_pods)));
    }
    Step::Provision(class.clone())
}

/// What a claim tells that waits for its first pod.
fn awaits(pods: &[String]) -> Notice {
    match pods {
        [] => {
            Notice::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
        }
        [one] => Notice::normal("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        many => {
            let text = format!("waiting for pods {} to be scheduled", many.join(","));
            Notice::normal("WaitForPodScheduled", text)
        }
    }
}

fn plan_bound(claim: &PersistentVolumeClaim, world: &World<'_>) -> Step {
    let lost = |reason, text: &str| Step::Lost(Notice::warning(reason, text));
    if volume_name(claim).is_empty() {
        let text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost("ClaimLost", text);
    }
    let Some(volume) = world.named else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match claim_ref(volume) {
        Some(reference) if reference.uid != claim.metadata.uid => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
        _ => Step::Bind(volume.clone()),
    }
}

/// The volume with the claim written into it; `None` when it says so already.
pub fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let complete = names_claim(volume, claim) && claim_ref(volume)?.uid == claim.metadata.uid;
    let reserved = names_claim(volume, claim);
    if complete {
        return None;
    }
    let mut changed = volume.clone();
    if !reserved {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    let spec = changed.spec.get_or_insert_default();
    spec.claim_ref = Some(reference(claim));
    Some(changed)
}

/// A reference to a claim, as volumes carry it.
pub fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// The claim with the volume written into it; `None` when it says so already.
pub fn bound_claim(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Option<PersistentVolumeClaim> {
    let name = pods::name(&volume.metadata);
    let named = volume_name(claim) == name;
    if named && has(&claim.metadata, BIND_COMPLETED) {
        return None;
    }
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    if !named {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    changed.spec.get_or_insert_default().volume_name = Some(name.to_owned());
    Some(changed)
}

/// The status of a claim in that phase; `None` when it is so already. What a claim was bound with stays its capacity
/// until it is resized.
pub fn status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<PersistentVolumeClaimStatus> {
    let mut status = claim.status.clone().unwrap_or_default();
    let before = status.clone();
    let was_bound = claim_phase(claim) == "Bound";
    status.phase = Some(phase.to_owned());
    match volume.and_then(|volume| volume.spec.as_ref()) {
        None => {
            status.access_modes = None;
            status.capacity = None;
        }
        Some(spec) => {
            status.access_modes = spec.access_modes.clone();
            if !was_bound || status.capacity.is_none() {
                let capacity = spec.capacity.iter().flatten().filter(|(name, _)| *name == "storage");
                status.capacity = Some(capacity.map(|(name, q)| (name.clone(), q.clone())).collect());
            }
            let class = spec.volume_attributes_class_name.clone().filter(|name| !name.is_empty());
            if !was_bound && class.is_some() {
                status.current_volume_attributes_class_name = class;
            }
        }
    }
    (status != before).then_some(status)
}
