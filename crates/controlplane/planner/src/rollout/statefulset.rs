//! What a StatefulSet does next: pods with a stable name and stable volumes, one after the other.
//!
//! As upstream has it, an ordered set whose rollout is broken stays so until the broken pod is deleted: nothing
//! is done to a pod before all below it are well. It comes back by the template as it is then.

mod claims;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

pub use self::claims::{mount, names as claim_names};
use super::failures::Failures;
use super::{Notice, resolve};
use crate::pods;

/// The label with the name of the revision that a pod was made from.
pub const REVISION: &str = "controller-revision-hash";
/// The label with the name of the pod.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the ordinal of the pod.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// What there is.
pub struct Input<'i, 'a> {
    /// The set.
    pub set: &'i StatefulSet,
    /// The pods that it controls.
    pub owned: &'i [&'a Pod],
    /// Finds a volume claim by its name.
    pub claim: &'i dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    /// The name of the revision that it comes from.
    pub current: &'i str,
    /// The name of the revision that it goes to.
    pub update: &'i str,
    /// The name collisions of revisions so far.
    pub collisions: Option<i32>,
    /// What the last step left.
    pub failures: Failures,
    /// The time.
    pub now: Timestamp,
}

/// A claim whose owners have to change.
#[derive(Debug)]
pub struct Ownership {
    /// The claim as it is.
    pub claim: Arc<PersistentVolumeClaim>,
    /// All its owners as they should be.
    pub owners: Vec<OwnerReference>,
}

/// One step. It is carried out in the order of the fields.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Claims to create, each with the ordinal of its pod: that pod is not created without them.
    pub claims: Vec<(i32, PersistentVolumeClaim)>,
    /// Claims that get other owners.
    pub ownerships: Vec<Ownership>,
    /// Pods whose labels of identity are not theirs.
    pub relabel: Vec<&'a Pod>,
    /// Pods to delete.
    pub delete: Vec<&'a Pod>,
    /// Ordinals to create, each with the name of the revision to make it from.
    pub create: Vec<(i32, String)>,
    /// The status, as it should be now.
    pub status: StatefulSetStatus,
    /// Events to record.
    pub notices: Vec<Notice>,
    /// What cannot be done now and has to be tried again.
    pub problems: Vec<String>,
    /// When to look again although nothing happened.
    pub again_at: Option<Timestamp>,
    /// What to hand in at the next step.
    pub failures: Failures,
}

/// The ordinal of a pod by its name, when it is one of the set's.
pub fn ordinal(set: &StatefulSet, pod: &ObjectMeta) -> Option<i32> {
    let rest = pods::name(pod).strip_prefix(pods::name(&set.metadata))?.strip_prefix('-')?;
    let digits = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    rest.parse().ok().filter(|_| digits)
}

struct Work<'i, 'a> {
    input: Input<'i, 'a>,
    pods: BTreeMap<i32, &'a Pod>,
    plan: Plan<'a>,
}

/// One step of the set.
pub fn plan<'a>(input: Input<'_, 'a>) -> Plan<'a> {
    let numbered = input.owned.iter().filter_map(|pod| Some((ordinal(input.set, &pod.metadata)?, *pod)));
    let pods: BTreeMap<i32, &'a Pod> = numbered.collect();
    let mut work = Work { input, pods, plan: Plan::default() };
    let failures = std::mem::take(&mut work.input.failures);
    work.plan.failures = failures.of_generation(work.input.set.metadata.generation);
    work.status();
    if work.input.set.metadata.deletion_timestamp.is_none() && work.fill() && work.condemn() {
        work.roll();
    }
    work.complete_rollout();
    let min_ready = work.min_ready();
    let available = super::replicaset::next_available(work.input.owned, min_ready, work.input.now);
    work.plan.again_at = [work.plan.again_at, available].into_iter().flatten().min();
    work.plan
}

impl<'a> Work<'_, 'a> {
    fn replicas(&self) -> i32 {
        self.input.set.spec.replicas.unwrap_or(1)
    }

    fn min_ready(&self) -> i32 {
        self.input.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn first(&self) -> i32 {
        self.input.set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }

    fn in_order(&self) -> bool {
        self.input.set.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn rolling(&self) -> Option<&RollingUpdateStatefulSetStrategy> {
        self.input.set.spec.update_strategy.as_ref()?.rolling_update.as_ref()
    }

    fn partition(&self) -> i32 {
        self.rolling().and_then(|r| r.partition).unwrap_or(0)
    }

    fn on_delete(&self) -> bool {
        let strategy = self.input.set.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete")
    }

    fn wanted(&self) -> std::ops::Range<i32> {
        self.first()..self.first().saturating_add(self.replicas())
    }

    fn available(&self, pod: &Pod) -> bool {
        running(pod) && pods::available(pod, self.min_ready(), self.input.now)
    }

    fn healthy(&self, pod: &Pod) -> bool {
        self.available(pod) && !pods::terminating(pod)
    }

    /// The revision that a missing ordinal is made from.
    fn revision_for(&self, ordinal: i32) -> String {
        let old = !self.on_delete() && ordinal < self.first().saturating_add(self.partition());
        if old { self.input.current } else { self.input.update }.to_owned()
    }

    /// Creates what is missing, in order unless all may come at once; whether there is nothing to wait for.
    fn fill(&mut self) -> bool {
        let in_order = self.in_order();
        for ordinal in self.wanted() {
            let settled = match self.pods.get(&ordinal).copied() {
                None => {
                    self.bring(ordinal);
                    false
                }
                Some(pod) if pods::finished(pod) => {
                    self.clear_away(pod);
                    false
                }
                Some(pod) => self.tend(ordinal, pod),
            };
            if in_order && !settled {
                return false;
            }
        }
        true
    }

    /// Deletes a pod that ended: its successor comes once it is gone.
    fn clear_away(&mut self, pod: &'a Pod) {
        if pods::terminating(pod) {
            return;
        }
        let (name, now) = (pods::name(&pod.metadata), self.input.now);
        if let Some(until) = self.plan.failures.wait(name, now) {
            self.plan.again_at = Some(self.plan.again_at.map_or(until, |before| before.min(until)));
            return;
        }
        self.plan.failures.note(name, now);
        self.plan.delete.push(pod);
    }

    /// Plans a pod with its claims, unless one of them stands in the way.
    fn bring(&mut self, ordinal: i32) {
        let name = format!("{}-{ordinal}", pods::name(&self.input.set.metadata));
        let old: Vec<_> =
            claims::names(self.input.set, ordinal).filter_map(|claim| (self.input.claim)(&claim)).collect();
        if old.iter().any(|claim| claims::blocks(self.input.set, claim, &name)) {
            return;
        }
        if self.need_claims(ordinal) {
            self.plan.create.push((ordinal, self.revision_for(ordinal)));
        }
    }

    /// Plans claims that are missing; whether all there are can be used.
    fn need_claims(&mut self, ordinal: i32) -> bool {
        let mut usable = true;
        for claim in claims::claims(self.input.set, ordinal) {
            match (self.input.claim)(pods::name(&claim.metadata)) {
                None => self.plan.claims.push((ordinal, claim)),
                Some(there) if there.metadata.deletion_timestamp.is_some() => {
                    self.plan.problems.push(format!("pvc {} is being deleted", pods::name(&claim.metadata)));
                    usable = false;
                }
                Some(_) => {}
            }
        }
        usable
    }

    /// Keeps a pod as it should be; whether it is well.
    fn tend(&mut self, ordinal: i32, pod: &'a Pod) -> bool {
        if pods::phase(pod) == "Pending" || pods::phase(pod).is_empty() {
            self.need_claims(ordinal);
            self.own_claims(ordinal, pod);
        }
        if self.in_order() && !self.healthy(pod) {
            return false;
        }
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
        if label(POD_NAME) != pod.metadata.name.as_deref() {
            self.plan.relabel.push(pod);
        }
        if !claims::storage_matches(self.input.set, pod, ordinal) {
            self.need_claims(ordinal);
            let name = pods::name(&pod.metadata);
            let text =
                format!("pod {name} does not use its volume claims and cannot be changed (hint: delete it)");
            self.plan.problems.push(text);
        }
        self.own_claims(ordinal, pod);
        true
    }

    /// Gives the claims of a pod the owners that the retention policy wants.
    fn own_claims(&mut self, ordinal: i32, pod: &Pod) {
        let in_range = self.wanted().contains(&ordinal);
        for name in claims::names(self.input.set, ordinal) {
            let Some(claim) = (self.input.claim)(&name) else { continue };
            let Some(owners) = claims::owners(self.input.set, &pod.metadata, in_range, &claim) else {
                continue;
            };
            if self.plan.ownerships.iter().any(|o| o.claim.metadata.name == claim.metadata.name) {
                continue;
            }
            if claims::has_other_controller(self.input.set, &pod.metadata, &claim) {
                let text = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a managing \
                     controller, the retention policy is ignored for this claim"
                );
                self.plan.notices.push(Notice::warning("ConflictingController", text));
            }
            self.plan.ownerships.push(Ownership { claim, owners });
        }
    }

    /// Deletes what is too much, the highest ordinal first; whether nothing is in the way of an update.
    fn condemn(&mut self) -> bool {
        let wanted = self.wanted();
        let condemned: Vec<(i32, &'a Pod)> =
            self.pods.iter().rev().filter(|(o, _)| !wanted.contains(o)).map(|(o, pod)| (*o, *pod)).collect();
        for (ordinal, pod) in &condemned {
            self.own_claims(*ordinal, pod);
        }
        let lowest_ill = condemned.iter().rev().find(|(_, pod)| !self.healthy(pod)).map(|(o, _)| *o);
        for (ordinal, pod) in condemned {
            if self.in_order() {
                // One at a time, and a pod that is not well only when none below it is ill.
                let may = !pods::terminating(pod) && (self.available(pod) || lowest_ill == Some(ordinal));
                self.plan.delete.extend(may.then_some(pod));
                return false;
            }
            if !pods::terminating(pod) {
                self.plan.delete.push(pod);
            }
        }
        true
    }

    /// Replaces pods of another revision, the highest ordinal first.
    fn roll(&mut self) {
        if self.on_delete() {
            return;
        }
        let replicas = self.replicas();
        let at_once = self.rolling().and_then(|r| r.max_unavailable.clone());
        let before = self.plan.delete.len();
        match at_once {
            Some(most) => {
                let most = resolve(Some(&most), replicas, false, &IntOrString::Int(1)).max(1);
                self.roll_within(most);
            }
            None => self.roll_one_by_one(),
        }
        let replaced = i32::try_from(self.plan.delete.len() - before).unwrap_or(0);
        let current = &mut self.plan.status.current_replicas;
        *current = current.map(|n| (n - replaced).max(0));
    }

    /// Each once those above are well.
    fn roll_one_by_one(&mut self) {
        for ordinal in self.updated_range().rev() {
            let Some(pod) = self.pods.get(&ordinal).copied() else { return };
            if revision(pod) != self.input.update && !pods::terminating(pod) {
                self.replace(pod);
                return;
            }
            if !self.healthy(pod) {
                return;
            }
        }
    }

    fn roll_within(&mut self, most: i32) {
        let missing = |ordinal: i32| self.pods.get(&ordinal).is_none_or(|pod| !self.healthy(pod));
        let unavailable = i32::try_from(self.wanted().filter(|o| missing(*o)).count()).unwrap_or(i32::MAX);
        let room = usize::try_from(most - unavailable).unwrap_or(0);
        let mut old: Vec<&'a Pod> = self
            .updated_range()
            .rev()
            .filter_map(|ordinal| self.pods.get(&ordinal).copied())
            .filter(|pod| revision(pod) != self.input.update && !pods::terminating(pod))
            .collect();
        old.truncate(room);
        old.into_iter().for_each(|pod| self.replace(pod));
    }

    fn updated_range(&self) -> std::ops::Range<i32> {
        self.first().saturating_add(self.partition())..self.wanted().end
    }

    fn replace(&mut self, pod: &'a Pod) {
        if !self.plan.delete.iter().any(|other| other.metadata.uid == pod.metadata.uid) {
            self.plan.delete.push(pod);
        }
    }

    fn status(&mut self) {
        let set = self.input.set;
        let all: Vec<&Pod> = self.pods.values().copied().collect();
        let count = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(all.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        let of = |name: &str| count(&|pod| !pods::terminating(pod) && revision(pod) == name);
        self.plan.status = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: Some(count(&|pod| running(pod) && pods::ready(pod))),
            available_replicas: Some(count(&|pod| self.available(pod))),
            current_replicas: Some(of(self.input.current)),
            updated_replicas: Some(of(self.input.update)),
            current_revision: Some(self.input.current.to_owned()),
            update_revision: Some(self.input.update.to_owned()),
            collision_count: Some(self.input.collisions.unwrap_or(0)),
            conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
        };
    }

    /// Once all pods are of the new revision and ready, it is the current one.
    fn complete_rollout(&mut self) {
        let wanted = self.replicas();
        let on_delete = self.on_delete();
        let status = &mut self.plan.status;
        let all = [status.updated_replicas, status.ready_replicas, Some(status.replicas)];
        if !on_delete && all.iter().all(|n| *n == Some(wanted)) {
            status.current_revision.clone_from(&status.update_revision);
            status.current_replicas = status.updated_replicas;
        }
    }
}

fn running(pod: &Pod) -> bool {
    pods::phase(pod) == "Running"
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).map(String::as_str).unwrap_or_default()
}
