//! Which volume fits a claim best: the smallest of those with the fewest ways of access beyond what is asked for.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{
    access_modes, attributes_differ, capacity, claim_ref, class_of, class_of_volume, modes_differ,
    modes_suffice, names_claim, phase, requested,
};
use crate::pods;
use crate::selector::Selector;

/// The best volume for a claim, among all. A claim that waits for its first pod gets only what was reserved for it.
pub fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    waits_for_consumer: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let wanted = Wanted::of(claim);
    let mut fitting: Vec<&Arc<PersistentVolume>> =
        volumes.iter().filter(|volume| modes_suffice(claim, volume)).collect();
    fitting.sort_by_key(|volume| access_modes(volume).len());
    for group in fitting.chunk_by(|a, b| access_modes(a).len() == access_modes(b).len()) {
        let could: Vec<&Arc<PersistentVolume>> =
            group.iter().copied().filter(|volume| wanted.could_take(claim, volume)).collect();
        if let Some(reserved) = could.iter().find(|volume| names_claim(volume, claim)) {
            return Some(reserved);
        }
        if waits_for_consumer {
            continue;
        }
        let free = could.into_iter().filter(|volume| wanted.is_free(volume));
        let smallest = free.min_by_key(|v| (capacity(v), pods::name(&v.metadata).to_owned()));
        if smallest.is_some() {
            return smallest;
        }
    }
    None
}

/// What a claim asks for, read once.
#[derive(Debug, Clone)]
pub struct Wanted {
    bytes: i64,
    class: String,
    selector: Option<Selector>,
}

impl Wanted {
    /// Reads a claim.
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Self {
            bytes: requested(claim),
            class: class_of(claim).to_owned(),
            selector: selector.map(|selector| Selector::new(Some(selector))),
        }
    }

    /// Whether nothing speaks against the volume but that somebody else might have it: it is large enough, of the
    /// right mode, does not go, and is nobody else's.
    pub fn could_take(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
        (claim_ref(volume).is_none() || names_claim(volume, claim))
            && capacity(volume) >= self.bytes
            && !modes_differ(claim, volume)
            && !attributes_differ(claim, volume)
            && volume.metadata.deletion_timestamp.is_none()
    }

    /// Whether a volume that could be taken is available, and of the class and labels asked for.
    pub fn is_free(&self, volume: &PersistentVolume) -> bool {
        let selected = |selector: &Selector| selector.matches(volume.metadata.labels.as_ref());
        phase(volume) == "Available"
            && self.selector.as_ref().is_none_or(selected)
            && class_of_volume(volume) == self.class
    }
}

/// Why a volume that a claim names cannot be bound to it.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(format!("the volume is marked for deletion {:?}", pods::name(&volume.metadata)));
    }
    let problems = [
        (capacity(volume) < requested(claim), "requested PV is too small"),
        (class_of_volume(volume) != class_of(claim), "storageClassName does not match"),
        (attributes_differ(claim, volume), "volumeAttributesClassName does not match"),
        (modes_differ(claim, volume), "incompatible volumeMode"),
        (!modes_suffice(claim, volume), "incompatible accessMode"),
    ];
    problems.into_iter().find(|(is_so, _)| *is_so).map(|(_, text)| text.to_owned())
}

/// The names of volumes that are spoken for but do not say so yet.
pub type Taken = HashSet<String>;
