//! What a Deployment does next: which ReplicaSet is its own, how large each becomes, what its status says.
//!
//! [`plan`] makes one step from what is there now. It is asked again after each change, so that the bounds of
//! `maxSurge` and `maxUnavailable` hold whatever happened in between.

mod recreate;
mod revision;
mod rolling;
mod scaling;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

pub use self::revision::{DESIRED, MAX, REVISION, REVISION_HISTORY, ROLLBACK_TO, Rollback, rollback};
pub use self::status::{CREATE_FAILED, create_failed};
use super::{Notice, hash, resolve};
use crate::pods;

/// A change to one ReplicaSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The version that the change is made against.
    pub resource_version: Option<String>,
    /// The new size, when it changes.
    pub replicas: Option<i32>,
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
    /// The new minReadySeconds, when it changes.
    pub min_ready_seconds: Option<i32>,
}

/// One step. It is carried out in the order of the fields.
#[derive(Debug, Default)]
pub struct Plan {
    /// A ReplicaSet to create.
    pub create: Option<Box<ReplicaSet>>,
    /// ReplicaSets to change.
    pub changes: Vec<Change>,
    /// ReplicaSets of the history to delete.
    pub delete: Vec<String>,
    /// The revision annotation of the Deployment, when it changes.
    pub revision: Option<String>,
    /// The status, when it changes.
    pub status: Option<DeploymentStatus>,
    /// Events to record.
    pub notices: Vec<Notice>,
    /// When to look again although nothing happened.
    pub again_at: Option<Timestamp>,
}

/// A ReplicaSet at work: what it is, and what it shall be.
struct Set<'a> {
    object: &'a ReplicaSet,
    replicas: i32,
    annotations: BTreeMap<String, String>,
    min_ready_seconds: Option<i32>,
}

impl<'a> Set<'a> {
    fn new(object: &'a ReplicaSet) -> Self {
        Self {
            object,
            replicas: spec_replicas(object),
            annotations: BTreeMap::new(),
            min_ready_seconds: None,
        }
    }

    fn name(&self) -> &str {
        pods::name(&self.object.metadata)
    }

    fn actual(&self) -> i32 {
        self.object.status.as_ref().map_or(0, |s| s.replicas)
    }

    fn available(&self) -> i32 {
        self.object.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    fn ready(&self) -> i32 {
        self.object.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str).or_else(|| pods::annotation(&self.object.metadata, key))
    }

    fn annotate(&mut self, key: &str, value: &str) {
        if self.annotation(key) != Some(value) {
            self.annotations.insert(key.to_owned(), value.to_owned());
        }
    }

    fn change(self) -> Option<Change> {
        let replicas = (self.replicas != spec_replicas(self.object)).then_some(self.replicas);
        if replicas.is_none() && self.annotations.is_empty() && self.min_ready_seconds.is_none() {
            return None;
        }
        Some(Change {
            name: self.name().to_owned(),
            resource_version: self.object.metadata.resource_version.clone(),
            replicas,
            annotations: self.annotations,
            min_ready_seconds: self.min_ready_seconds,
        })
    }
}

fn spec_replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Everything while one step is worked out. `old` is sorted by age, the oldest first.
struct Work<'a> {
    deployment: &'a Deployment,
    now: Timestamp,
    new: Option<Set<'a>>,
    old: Vec<Set<'a>>,
    plan: Plan,
    /// What became of the new ReplicaSet, for the Progressing condition.
    found: Option<status::Found>,
}

/// One step of the Deployment. `owned` are the ReplicaSets it controls, `pods` those that these control.
pub fn plan(deployment: &Deployment, owned: &[&ReplicaSet], pods: &[&Pod], now: Timestamp) -> Plan {
    let mut work = Work::new(deployment, owned, now);
    if deployment.metadata.deletion_timestamp.is_some() {
        work.set_plain_status();
        return work.finish();
    }
    if work.paused() {
        work.sync_revision(false);
        work.scale();
        work.clean_history();
        work.set_plain_status();
    } else if work.is_scaling_event() {
        work.sync_revision(false);
        work.scale();
        work.set_plain_status();
    } else if work.recreates() {
        work.recreate(pods);
        work.set_rollout_status();
    } else {
        work.roll();
        work.set_rollout_status();
    }
    work.finish()
}

impl<'a> Work<'a> {
    fn new(deployment: &'a Deployment, owned: &[&'a ReplicaSet], now: Timestamp) -> Self {
        let mut sorted = owned.to_vec();
        sorted.sort_by_key(|rs| (pods::created(&rs.metadata), pods::name(&rs.metadata)));
        let template = &deployment.spec.template;
        let same = |rs: &&ReplicaSet| {
            rs.spec.template.as_ref().is_some_and(|theirs| hash::equal_ignoring_hash(theirs, template))
        };
        let at = sorted.iter().position(same);
        let new = at.map(|at| Set::new(sorted.remove(at)));
        let old = sorted.into_iter().map(Set::new).collect();
        Self { deployment, now, new, old, plan: Plan::default(), found: None }
    }

    fn name(&self) -> &'a str {
        pods::name(&self.deployment.metadata)
    }

    fn replicas(&self) -> i32 {
        self.deployment.spec.replicas.unwrap_or(1)
    }

    fn paused(&self) -> bool {
        self.deployment.spec.paused.unwrap_or(false)
    }

    fn recreates(&self) -> bool {
        let strategy = self.deployment.spec.strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    /// How many replicas beyond those wanted there may be, and how many may be missing.
    fn bounds(&self) -> (i32, i32) {
        if self.recreates() {
            return (0, 0);
        }
        let strategy = self.deployment.spec.strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let replicas = self.replicas();
        let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), replicas, true, &quarter).max(0);
        let missing =
            resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), replicas, false, &quarter).max(0);
        // Both zero would never move; validation refuses it, but percentages may round to it.
        if surge == 0 && missing == 0 { (0, 1) } else { (surge, missing) }
    }

    fn max_surge(&self) -> i32 {
        self.bounds().0
    }

    /// The most replicas that there may be in all.
    fn most(&self) -> i32 {
        self.replicas().saturating_add(self.max_surge())
    }

    fn max_unavailable(&self) -> i32 {
        if self.replicas() == 0 { 0 } else { self.bounds().1.min(self.replicas()) }
    }

    fn all(&self) -> impl Iterator<Item = &Set<'a>> {
        self.old.iter().chain(self.new.iter())
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Set<'a>> {
        self.old.iter_mut().chain(self.new.iter_mut())
    }

    fn sum(&self, number: impl Fn(&Set<'a>) -> i32) -> i32 {
        self.all().map(number).fold(0, i32::saturating_add)
    }

    /// Replicas that all ReplicaSets shall have, the one to be created included.
    fn total(&self) -> i32 {
        let planned = self.plan.create.as_ref().map_or(0, |rs| spec_replicas(rs));
        self.all().map(|s| s.replicas).fold(planned, i32::saturating_add)
    }

    fn finish(mut self) -> Plan {
        let sets = std::mem::take(&mut self.old).into_iter().chain(self.new.take());
        self.plan.changes = sets.filter_map(Set::change).collect();
        self.plan
    }
}
