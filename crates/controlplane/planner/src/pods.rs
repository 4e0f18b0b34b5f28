//! Facts about a pod that every plan reads.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The phase, `""` when there is none yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether the pod ran to its end, well or not.
pub fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether deletion has been asked for.
pub fn terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither finished nor terminating: a replica that counts.
pub fn active(pod: &Pod) -> bool {
    !finished(pod) && !terminating(pod)
}

/// The condition of that type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether the Ready condition is True.
pub fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When the pod became ready, when it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(|t| t.0)
}

/// Whether the pod has been ready for at least `min_ready_seconds`.
pub fn available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    ready(pod) && available_at(pod, min_ready_seconds).is_none_or(|at| at <= now)
}

/// When a ready pod becomes available; `None` when it is so from the start or is not ready.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if min_ready_seconds <= 0 {
        return None;
    }
    ready_since(pod)?.checked_add(SignedDuration::from_secs(min_ready_seconds.into())).ok()
}

/// The name of the claim behind a volume of the pod with that name: named there, or made for the pod.
pub fn claim_of(pod: &str, volume: &Volume) -> Option<String> {
    match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)),
    }
}

/// The names of the claims behind all its volumes.
pub fn claims(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_of(name(&pod.metadata), volume))
}

/// The PodGroup that it names.
pub fn group(pod: &Pod) -> Option<&str> {
    let group = pod.spec.as_ref()?.scheduling_group.as_ref()?;
    group.pod_group_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether it must not be placed yet.
pub fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

/// The name of the node it is bound to, `""` when it is not.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// The most restarts of any container, and of any sidecar.
pub fn most_restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let most = |list: &mut dyn Iterator<Item = &ContainerStatus>| list.map(|c| c.restart_count).max();
    let sidecars = status.init_container_statuses.iter().flatten().filter(|c| is_sidecar(pod, &c.name));
    let containers = most(&mut status.container_statuses.iter().flatten());
    (containers.unwrap_or(0), most(&mut { sidecars }).unwrap_or(0))
}

/// Whether the init container of that name runs as long as the pod does.
pub fn is_sidecar(pod: &Pod, name: &str) -> bool {
    let mut init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    init.any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
}

/// The uid, `""` when there is none.
pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The name, `""` when there is none.
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The owner that controls the object.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
}

/// When the object was created; the beginning of time when unknown.
pub fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

/// One annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}
