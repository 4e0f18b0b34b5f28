//! Revisions: which ReplicaSet is new, its annotations, and the history that is kept.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::status::Found;
use super::{Notice, Set, Work, hash, spec_replicas};
use crate::pods;

/// The revision, on a Deployment and on each of its ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The revisions that a ReplicaSet had before.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// What the Deployment wanted when it last sized the ReplicaSet.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The most replicas that were allowed then.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// The revision that a Deployment is to go back to, for clients of long ago.
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// Annotations of a Deployment that its ReplicaSets do not take over.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    ROLLBACK_TO,
];
/// How long a name may be.
const LONGEST_NAME: usize = 253;
/// How long the list of former revisions may become.
const HISTORY_LENGTH: usize = 2000;

fn revision(set: &Set<'_>) -> i64 {
    set.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

impl Work<'_> {
    /// Finds the new ReplicaSet and brings its revision up to date, or, when it is missing, plans its creation.
    pub(super) fn sync_revision(&mut self, create: bool) {
        let next = self.old.iter().map(revision).max().unwrap_or(0).saturating_add(1);
        let inherited = self.inherited();
        let min_ready = self.deployment.spec.min_ready_seconds.unwrap_or(0);
        if let Some(new) = &mut self.new {
            for (key, value) in &inherited {
                new.annotate(key, value);
            }
            raise_revision(new, next);
            let have = new.object.spec.min_ready_seconds.unwrap_or(0);
            new.min_ready_seconds = (have != min_ready).then_some(min_ready);
            let current = new.annotation(REVISION).unwrap_or_default().to_owned();
            self.found = Some(Found::Existing(new.name().to_owned()));
            self.set_revision(current);
        } else if create {
            let set = self.new_set(next, inherited);
            let size = spec_replicas(&set);
            let name = pods::name(&set.metadata).to_owned();
            if size > 0 {
                let text = format!("Scaled up replica set {name} from 0 to {size}");
                self.plan.notices.push(Notice::normal("ScalingReplicaSet", text));
            }
            self.found = Some(Found::Created(name));
            self.plan.create = Some(Box::new(set));
            self.set_revision(next.to_string());
        }
    }

    fn set_revision(&mut self, revision: String) {
        if pods::annotation(&self.deployment.metadata, REVISION) != Some(&revision) {
            self.plan.revision = Some(revision);
        }
    }

    fn inherited(&self) -> BTreeMap<String, String> {
        let annotations = self.deployment.metadata.annotations.iter().flatten();
        annotations.filter(|(k, _)| !OWN.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn new_set(&self, revision: i64, mut annotations: BTreeMap<String, String>) -> ReplicaSet {
        let spec = self.deployment.spec.clone();
        let meta = &self.deployment.metadata;
        let collisions = self.deployment.status.as_ref().and_then(|s| s.collision_count);
        let hash = hash::template(&spec.template, collisions);
        let replicas = self.new_size(0);

        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(hash::POD_TEMPLATE_HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector
            .match_labels
            .get_or_insert_default()
            .insert(hash::POD_TEMPLATE_HASH.to_owned(), hash.clone());

        annotations.insert(REVISION.to_owned(), revision.to_string());
        annotations.insert(DESIRED.to_owned(), self.replicas().to_string());
        annotations.insert(MAX.to_owned(), self.most().to_string());
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name_of(self.name(), &hash)),
                namespace: meta.namespace.clone(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![OwnerReference {
                    api_version: "apps/v1".into(),
                    kind: "Deployment".into(),
                    name: self.name().to_owned(),
                    uid: pods::uid(meta).to_owned(),
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                }]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        }
    }

    /// Deletes what goes beyond revisionHistoryLimit, the lowest revision first, never one that still has pods.
    pub(super) fn clean_history(&mut self) {
        let limit = self.deployment.spec.revision_history_limit.unwrap_or(10);
        if limit == i32::MAX {
            return;
        }
        let alive = |s: &&Set<'_>| s.object.metadata.deletion_timestamp.is_none();
        let mut old: Vec<&Set<'_>> = self.old.iter().filter(alive).collect();
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|s| (revision(s), pods::created(&s.object.metadata), s.name().to_owned()));
        let idle = |s: &&Set<'_>| {
            let seen = s.object.status.as_ref().and_then(|st| st.observed_generation).unwrap_or(0);
            s.actual() == 0 && s.replicas == 0 && s.object.metadata.generation.unwrap_or(0) <= seen
        };
        let delete = old.into_iter().take(excess).filter(idle).map(|s| s.name().to_owned()).collect();
        self.plan.delete = delete;
    }
}

/// The name of a ReplicaSet: the hash is always whole.
fn name_of(deployment: &str, hash: &str) -> String {
    let room = LONGEST_NAME.saturating_sub(hash.len() + 1);
    let kept = deployment.get(..room).unwrap_or(deployment);
    format!("{kept}-{hash}")
}

/// What it takes to go back to an earlier revision.
#[derive(Debug, PartialEq)]
pub struct Rollback {
    /// The template and the annotations of the Deployment, when they change.
    pub to: Option<(PodTemplateSpec, BTreeMap<String, String>)>,
    /// What came of it.
    pub notice: Notice,
}

/// The way back to the revision that [`ROLLBACK_TO`] names, 0 for the last one. It is taken once: the annotation goes.
pub fn rollback(deployment: &Deployment, owned: &[&ReplicaSet]) -> Option<Rollback> {
    let wanted: i64 = pods::annotation(&deployment.metadata, ROLLBACK_TO)?.parse().ok()?;
    let of = |rs: &&ReplicaSet| pods::annotation(&rs.metadata, REVISION).and_then(|r| r.parse::<i64>().ok());
    let mut all: Vec<i64> = owned.iter().filter_map(of).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    let wanted = if wanted == 0 { all.get(1).copied().unwrap_or(0) } else { wanted };
    let Some(set) = owned.iter().find(|rs| wanted != 0 && of(rs) == Some(wanted)) else {
        let text = "Unable to find the revision to rollback to.";
        return Some(Rollback {
            to: None,
            notice: Notice::warning("DeploymentRollbackRevisionNotFound", text),
        });
    };
    let name = pods::name(&deployment.metadata);
    let mut template = set.spec.template.clone().unwrap_or_default();
    if hash::equal_ignoring_hash(&template, &deployment.spec.template) {
        let text = format!("The rollback revision contains the same template as current deployment {name:?}");
        return Some(Rollback {
            to: None,
            notice: Notice::warning("DeploymentRollbackTemplateUnchanged", text),
        });
    }
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(hash::POD_TEMPLATE_HASH);
    }
    let own = |key: &str| OWN.contains(&key);
    let annotations = |meta: &ObjectMeta, keep: &dyn Fn(&str) -> bool| -> BTreeMap<String, String> {
        let all = meta.annotations.iter().flatten();
        all.filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut kept = annotations(&deployment.metadata, &|key| own(key) && key != ROLLBACK_TO);
    kept.extend(annotations(&set.metadata, &|key| !own(key)));
    let text = format!("Rolled back deployment {name:?} to revision {wanted}");
    Some(Rollback { to: Some((template, kept)), notice: Notice::normal("DeploymentRollback", text) })
}

/// Raises the revision of a ReplicaSet that became new again, and notes the one it had.
fn raise_revision(set: &mut Set<'_>, next: i64) {
    let current = revision(set);
    if current >= next {
        return;
    }
    if current > 0 {
        let mut history: Vec<&str> = set
            .annotation(REVISION_HISTORY)
            .unwrap_or_default()
            .split(',')
            .filter(|r| !r.is_empty())
            .collect();
        let text = current.to_string();
        history.push(&text);
        while history.iter().map(|r| r.len() + 1).sum::<usize>() > HISTORY_LENGTH {
            history.remove(0);
        }
        let history = history.join(",");
        set.annotate(REVISION_HISTORY, &history);
    }
    set.annotate(REVISION, &next.to_string());
}
