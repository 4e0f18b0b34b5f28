//! Which claim gets which volume, and what becomes of both, as Kubernetes' persistent volume controller and the volume
//! binder of its scheduler have it.
//!
//! - [`claim`] and [`volume`]: what is to be done about one claim, one volume.
//! - [`matching`]: which volume fits a claim best.
//! - [`placement`]: which nodes a pod's claims allow, and what must be bound there.
//! - [`filter`]: all that a pod's volumes say about a node, as the scheduler asks it; [`listed`] looks objects up in lists.

pub mod claim;
pub mod filter;
pub mod listed;
pub mod matching;
pub mod placement;
pub mod volume;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sampan_api::quantity::Quantity;

use crate::pods;
use crate::scheduler::{NodeTerm, node_terms};
use crate::selector::{Labels, Requirement};

/// A claim whose binding was finished once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Claim and volume were not brought together by a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made the volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The node that the scheduler chose for the first pod of a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to make a volume for the claim.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, for provisioners of before 1.23.
pub const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The provisioner of classes whose volumes nobody makes.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Our own provisioner: directories on nodes.
pub const HOST_PATH: &str = "sampan.io/host-path";

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The class that a claim asks for, `""` when none.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let named = || claim.spec.as_ref()?.storage_class_name.as_deref();
    pods::annotation(&claim.metadata, OLD_CLASS).or_else(named).unwrap_or_default()
}

/// The class of a volume, `""` when none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let named = || volume.spec.as_ref()?.storage_class_name.as_deref();
    pods::annotation(&volume.metadata, OLD_CLASS).or_else(named).unwrap_or_default()
}

/// The volume that a claim names, `""` when none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

/// The claim that a volume names.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The phase of a volume.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The phase of a claim.
pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether the volume names this claim: its name, and its uid unless that is still open.
pub fn names_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        let uid = reference.uid.as_deref().unwrap_or_default();
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && (uid.is_empty() || uid == pods::uid(&claim.metadata))
    })
}

/// Whether claim and volume are bound to each other for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && has(&claim.metadata, BIND_COMPLETED)
}

/// Whether claims of the class wait for their first pod.
pub fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|c| c.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// The default among classes: the newest of those marked, of those as old the first by name.
pub fn default_class<'a>(classes: impl Iterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let marked = classes.filter(|class| {
        DEFAULT_CLASS.iter().any(|key| pods::annotation(&class.metadata, key) == Some("true"))
    });
    marked.min_by_key(|class| {
        (std::cmp::Reverse(pods::created(&class.metadata)), pods::name(&class.metadata).to_owned())
    })
}

/// Bytes asked for.
pub fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get("storage")).map_or(0, |quantity| bytes(&quantity.0))
}

/// Bytes that a volume has.
pub fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    capacity.and_then(|c| c.get("storage")).map_or(0, |quantity| bytes(&quantity.0))
}

fn bytes(text: &str) -> i64 {
    Quantity::parse(text.trim()).map_or(0, |quantity| quantity.to_units())
}

fn has(meta: &ObjectMeta, annotation: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|all| all.contains_key(annotation))
}

/// `Filesystem` unless something else is said.
fn mode(given: Option<&str>) -> &str {
    given.filter(|mode| !mode.is_empty()).unwrap_or("Filesystem")
}

/// Whether one is a block device and the other a file system.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    mode(of_claim) != mode(of_volume)
}

fn attributes_class(name: Option<&String>) -> &str {
    name.map(String::as_str).unwrap_or_default()
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref());
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref());
    attributes_class(of_claim) != attributes_class(of_volume)
}

/// Whether the volume can be accessed in every way that the claim asks for.
pub fn modes_suffice(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let offered = access_modes(volume);
    let wanted = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten());
    wanted.into_iter().all(|mode| offered.contains(mode))
}

fn access_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default()
}

/// From which nodes a volume can be reached.
#[derive(Debug, Clone, Default)]
pub struct Reach(Option<Vec<NodeTerm>>);

impl Reach {
    /// The node affinity of a volume, compiled.
    pub fn of(volume: &PersistentVolume) -> Self {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        Self(affinity.and_then(|affinity| affinity.required.as_ref()).map(node_terms))
    }

    /// Whether the node is among them. A term without requirements matches no node.
    pub fn includes(&self, node: &str, labels: &Labels) -> bool {
        self.0.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, labels)))
    }

    /// The names or host names that the volume is confined to, when it says so.
    pub fn hosts(&self) -> Vec<&str> {
        let listed = |r: &'_ Requirement| matches!(r.key(), "kubernetes.io/hostname" | "metadata.name");
        let terms = self.0.iter().flatten();
        let all = terms.flat_map(NodeTerm::requirements);
        all.filter(|r| listed(r)).filter_map(Requirement::in_values).flatten().map(AsRef::as_ref).collect()
    }
}

/// Whether a class lets volumes be made for the node.
pub fn topology_allows(class: &StorageClass, labels: &Labels) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty()) else {
        return true;
    };
    terms.iter().any(|term| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        !expressions.is_empty()
            && expressions.iter().all(|e| labels.get(&e.key).is_some_and(|value| e.values.contains(value)))
    })
}
