//! What the server decides about an object on its way in: status, generation, generated labels, grace.

use serde_json::Value;

use crate::kinds::Resource;

/// Prepares an object for its creation: drops the status, sets the first one, generation and what is generated
/// from the UID. Call it after metadata.uid, name and creationTimestamp are set and defaults are applied.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    let _ = (resource, object);
}

/// Prepares an update of the main resource: keeps the old status and server-set metadata, bumps the generation iff
/// the spec changed.
pub fn prepare_update(resource: &Resource, new: &mut Value, old: &Value) {
    let _ = (resource, new, old);
}

/// Prepares an update of the status subresource: keeps everything but the status (and what of the metadata a status
/// update may touch).
pub fn prepare_status_update(resource: &Resource, new: &mut Value, old: &Value) {
    let _ = (resource, new, old);
}

/// The seconds of grace when a delete does not say: for pods `spec.terminationGracePeriodSeconds`.
pub fn default_grace(resource: &Resource, object: &Value) -> Option<i64> {
    let _ = (resource, object);
    None
}

/// What to do with dependents when a delete does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Delete the object at once and its dependents afterwards.
    Background,
    /// Leave the dependents.
    Orphan,
    /// Delete the dependents first.
    Foreground,
}

/// The propagation policy when neither the request nor a finalizer says one.
pub fn default_propagation(resource: &Resource) -> Propagation {
    let _ = resource;
    Propagation::Background
}

/// A name from `metadata.generateName`: the base, cut to 58 characters, and five random ones.
pub fn generate_name(base: &str) -> String {
    base.to_owned()
}

/// The warnings that a create (`old` absent) or an update of this object earns.
pub fn warnings(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
    let _ = (resource, new, old);
    Vec::new()
}

/// Whether the update needs metadata.resourceVersion (kinds that do not allow unconditional updates).
pub fn needs_resource_version(resource: &Resource) -> bool {
    let _ = resource;
    false
}

/// The pod's quality of service class: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Value) -> &'static str {
    let _ = pod;
    "BestEffort"
}

/// The `autoscaling/v1` Scale of a Deployment, ReplicaSet or StatefulSet; none for other kinds.
pub fn scale_of(resource: &Resource, object: &Value) -> Option<Value> {
    let _ = (resource, object);
    None
}

/// Puts a Scale's replicas into the object. The caller has checked the Scale by `validation::scale`.
pub fn apply_scale(resource: &Resource, object: &mut Value, scale: &Value) {
    let _ = (resource, object, scale);
}
