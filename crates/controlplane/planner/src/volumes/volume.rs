//! What is to be done about one volume.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{BOUND_BY_CONTROLLER, PROVISIONED_BY, claim_ref, has, modes_differ, phase, volume_name};
use crate::pods;
use crate::rollout::Notice;

/// The next step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It is in this phase, and nothing else is to be done.
    Phase(&'static str),
    /// Its claim is to be looked at: that one completes the binding.
    LookAtClaim,
    /// Volume and claim can never come together; both say so.
    Mismatch {
        /// For the volume.
        of_volume: Notice,
        /// For the claim.
        of_claim: Notice,
    },
    /// Its claim has another volume: it is free again.
    Unbind(Box<PersistentVolume>),
    /// Its claim is gone: Released, and then whatever its reclaim policy says.
    Reclaim(Reclaim),
}

/// What a reclaim policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaim {
    /// Nothing: an administrator decides.
    Retain,
    /// The data and the volume go.
    Delete,
    /// The data goes, the volume stays.
    Recycle,
    /// Nobody knows this policy.
    Unknown,
}

/// Decides. `claim` is the one of the name that the volume says, exactly that one by uid.
pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let Some(reference) = claim_ref(volume) else { return Step::Phase("Available") };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return Step::Phase("Available");
    }
    let name = pods::name(&volume.metadata);
    let Some(claim) = claim.filter(|claim| claim.metadata.uid == reference.uid) else {
        return Step::Reclaim(policy(volume));
    };
    if volume_name(claim).is_empty() {
        if !modes_differ(claim, volume) {
            return Step::LookAtClaim;
        }
        let claim = pods::name(&claim.metadata);
        let text = format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {claim:?} due to incompatible volumeMode."
        );
        let other = format!(
            "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
        );
        return Step::Mismatch {
            of_volume: Notice::warning("VolumeMismatch", text),
            of_claim: Notice::warning("VolumeMismatch", other),
        };
    }
    if volume_name(claim) == name {
        return Step::Phase("Bound");
    }
    if has(&volume.metadata, PROVISIONED_BY) && policy(volume) == Reclaim::Delete {
        return Step::Reclaim(Reclaim::Delete);
    }
    Step::Unbind(Box::new(unbound(volume)))
}

/// The reclaim policy of a volume; what cannot be known is told as such.
pub fn policy(volume: &PersistentVolume) -> Reclaim {
    match volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()) {
        Some("Retain") => Reclaim::Retain,
        Some("Delete") => Reclaim::Delete,
        Some("Recycle") => Reclaim::Recycle,
        _ => Reclaim::Unknown,
    }
}

/// The volume without what the controller wrote into it; what a user reserved stays reserved.
fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut changed = volume.clone();
    let spec = changed.spec.get_or_insert_default();
    if has(&volume.metadata, BOUND_BY_CONTROLLER) {
        spec.claim_ref = None;
        if let Some(annotations) = &mut changed.metadata.annotations {
            annotations.remove(BOUND_BY_CONTROLLER);
        }
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    changed
}

/// Whether a volume whose claim is gone still has to be told so: what failed stays Failed, for all to see.
pub fn must_be_released(volume: &PersistentVolume) -> bool {
    !matches!(phase(volume), "Released" | "Failed")
}
