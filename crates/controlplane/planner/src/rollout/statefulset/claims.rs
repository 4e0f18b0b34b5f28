//! The volume claims of a StatefulSet's pods: which there should be, and who owns them by the retention policy.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::pods;

const SET: (&str, &str) = ("apps/v1", "StatefulSet");
const POD: (&str, &str) = ("v1", "Pod");

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.volume_claim_templates.as_deref().unwrap_or_default()
}

fn name_of(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", pods::name(&template.metadata), pods::name(&set.metadata))
}

/// The names of the claims of one pod.
pub fn names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = String> + '_ {
    templates(set).iter().map(move |template| name_of(set, template, ordinal))
}

/// The claims of one pod as they are created: with the labels of the selector.
pub fn claims(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = PersistentVolumeClaim> + '_ {
    templates(set).iter().map(move |template| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name_of(set, template, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels).filter(|labels| !labels.is_empty()),
                annotations: template.metadata.annotations.clone(),
                finalizers: template.metadata.finalizers.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    })
}

fn claim_name<'v>(volumes: &'v [Volume], name: &str) -> Option<&'v str> {
    let volume = volumes.iter().find(|volume| volume.name == name)?;
    volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.as_str())
}

/// Whether the pod uses its claims: one that was adopted may not.
pub fn storage_matches(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    templates(set).iter().all(|template| {
        let wanted = name_of(set, template, ordinal);
        claim_name(volumes, pods::name(&template.metadata)) == Some(wanted.as_str())
    })
}

/// Puts the claims in place of volumes of the same names.
pub fn mount(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let Some(spec) = &mut pod.spec else { return };
    let others = spec.volumes.take().unwrap_or_default();
    let mut volumes: Vec<Volume> = templates(set)
        .iter()
        .map(|template| Volume {
            name: pods::name(&template.metadata).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name_of(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    let taken = |volume: &Volume| templates(set).iter().any(|t| pods::name(&t.metadata) == volume.name);
    volumes.extend(others.into_iter().filter(|volume| !taken(volume)));
    spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
}

/// Whether claims are deleted with the set, and with a pod that is scaled away.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|w| w == "Delete");
    (
        deletes(policy.and_then(|p| p.when_deleted.as_ref())),
        deletes(policy.and_then(|p| p.when_scaled.as_ref())),
    )
}

fn refers(reference: &OwnerReference, (version, kind): (&str, &str), name: &str) -> bool {
    reference.api_version == version && reference.kind == kind && reference.name == name
}

fn references(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

fn is_stale(claim: &PersistentVolumeClaim, kind: (&str, &str), name: &str, uid: &str) -> bool {
    references(claim).iter().find(|r| refers(r, kind, name)).is_some_and(|r| r.uid != uid)
}

/// Whether a claim belongs to a pod of the same name that went before, and goes with it: the new pod must wait.
pub fn blocks(set: &StatefulSet, claim: &PersistentVolumeClaim, pod_name: &str) -> bool {
    policy(set).1 && is_stale(claim, POD, pod_name, "")
}

/// Whether something else than the set and the pod has a hold on the claim, so that the policy cannot be applied.
pub fn has_other_controller(set: &StatefulSet, pod: &ObjectMeta, claim: &PersistentVolumeClaim) -> bool {
    if policy(set) == (false, false) {
        return false;
    }
    references(claim).iter().any(|reference| {
        if refers(reference, SET, pods::name(&set.metadata)) {
            reference.uid != pods::uid(&set.metadata)
        } else if refers(reference, POD, pods::name(pod)) {
            reference.uid != pods::uid(pod)
        } else {
            reference.controller == Some(true)
        }
    })
}

/// The owners that a claim should have, when it has others. `in_range` tells whether the pod is to stay.
pub fn owners(
    set: &StatefulSet,
    pod: &ObjectMeta,
    in_range: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let (set_name, set_uid) = (pods::name(&set.metadata), pods::uid(&set.metadata));
    let (pod_name, pod_uid) = (pods::name(pod), pods::uid(pod));
    if is_stale(claim, SET, set_name, set_uid) || is_stale(claim, POD, pod_name, pod_uid) {
        // It is managed by a predecessor that is gone: the garbage collector's.
        return None;
    }
    let all = references(claim);
    let ours = |reference: &&OwnerReference| reference.uid == set_uid || reference.uid == pod_uid;
    let others = all
        .iter()
        .filter(|r| !refers(r, SET, set_name) && !refers(r, POD, pod_name))
        .cloned()
        .collect::<Vec<_>>();
    if has_other_controller(set, pod, claim) {
        return all.iter().any(|r| ours(&r)).then_some(others);
    }
    let (with_set, with_pod) = policy(set);
    let scaled_away = with_pod && !in_range;
    let by_set = with_set && !scaled_away;
    let has = |uid: &str| all.iter().any(|r| r.uid == uid);
    let controlled = all.iter().filter(ours).all(|r| r.controller == Some(true));
    if has(set_uid) == by_set && has(pod_uid) == scaled_away && controlled {
        return None;
    }
    let mut wanted = others;
    let mut own = |(version, kind): (&str, &str), name: &str, uid: &str| {
        wanted.push(OwnerReference {
            api_version: version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        });
    };
    if scaled_away {
        own(POD, pod_name, pod_uid);
    }
    if by_set {
        own(SET, set_name, set_uid);
    }
    Some(wanted)
}
