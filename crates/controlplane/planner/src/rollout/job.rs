//! What a Job does next: which pods to create and delete, what to count, when it is over.
//!
//! Each pod of a Job carries a finalizer until it has been counted, so that none is missed or counted twice:
//! a finished pod's uid is first noted in `uncountedTerminatedPods`, then its finalizer is removed, and only when
//! that has been seen does the number go up and the uid leave the note.

mod outcome;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Notice, indexes};
use crate::pods;

/// The finalizer of pods that are not counted yet.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The label and annotation with the completion index of a pod.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The most pods that one step creates, deletes or counts.
const BURST: usize = 500;
const FIRST_BACKOFF: i64 = 10;
const LAST_BACKOFF: i64 = 600;

/// One step. It is carried out in the order of the fields.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// The status, when it changes.
    pub status: Option<JobStatus>,
    /// Pods whose tracking finalizer has done its work.
    pub release: Vec<&'a Pod>,
    /// Pods to delete.
    pub delete: Vec<&'a Pod>,
    /// Pods to create, each with its completion index when the Job is Indexed.
    pub create: Vec<Option<i32>>,
    /// Events to record.
    pub notices: Vec<Notice>,
    /// When to look again although nothing happened.
    pub again_at: Option<Timestamp>,
}

/// Whether the pod is still to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

/// The condition that a Job is over with, and since when.
pub fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let last = conditions.iter().find(|c| is_end(c))?;
    last.last_transition_time.as_ref().map(|t| t.0)
}

fn is_end(condition: &JobCondition) -> bool {
    matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
}

/// The completion index of a pod.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pods::annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// One step of the Job. `owned` are all pods that it controls; `settled` is false while creations or deletions
/// of an earlier step have not been seen yet, so that none is repeated.
pub fn plan<'a>(job: &Job, owned: &[&'a Pod], settled: bool, now: Timestamp) -> Plan<'a> {
    if job.metadata.deletion_timestamp.is_some() || finished_at(job).is_some() {
        let release = owned.iter().copied().filter(|pod| is_tracked(pod)).collect();
        return Plan { release, ..Plan::default() };
    }
    let mut work = Work::new(job, owned, now);
    work.count();
    work.decide(settled);
    work.finish()
}

struct Work<'a, 'j> {
    job: &'j Job,
    spec: JobSpec,
    owned: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    status: JobStatus,
    uncounted: UncountedTerminatedPods,
    completed: BTreeSet<i32>,
    now: Timestamp,
    plan: Plan<'a>,
}

/// A pod that ended badly, or that is being deleted before it ended well.
fn failed(pod: &Pod, replace_failed_only: bool) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => !replace_failed_only && pods::terminating(pod),
    }
}

impl<'a, 'j> Work<'a, 'j> {
    fn new(job: &'j Job, owned: &[&'a Pod], now: Timestamp) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let completed = match (indexed(&spec), spec.completions) {
            (true, Some(limit)) => {
                indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), limit)
            }
            _ => BTreeSet::new(),
        };
        Self {
            job,
            uncounted: status.uncounted_terminated_pods.clone().unwrap_or_default(),
            active: owned.iter().copied().filter(|pod| pods::active(pod)).collect(),
            owned: owned.to_vec(),
            plan: Plan::default(),
            spec,
            status,
            completed,
            now,
        }
    }

    fn indexed(&self) -> bool {
        indexed(&self.spec)
    }

    fn replace_failed_only(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
    }

    /// Moves what has been seen without its finalizer from the notes into the numbers, and notes what is new.
    fn count(&mut self) {
        let tracked: HashMap<&str, &'a Pod> = self
            .owned
            .iter()
            .filter(|pod| is_tracked(pod))
            .map(|pod| (pods::uid(&pod.metadata), *pod))
            .collect();
        let settle = |list: &mut Option<Vec<String>>| {
            let before = list.as_ref().map_or(0, Vec::len);
            if let Some(list) = list {
                list.retain(|uid| tracked.contains_key(uid.as_str()));
            }
            i32::try_from(before - list.as_ref().map_or(0, Vec::len)).unwrap_or(0)
        };
        let succeeded = settle(&mut self.uncounted.succeeded);
        let failed_now = settle(&mut self.uncounted.failed);
        *self.status.failed.get_or_insert(0) += failed_now;
        if !self.indexed() {
            *self.status.succeeded.get_or_insert(0) += succeeded;
        }
        self.note_finished();
        if self.indexed() {
            self.status.succeeded = Some(i32::try_from(self.completed.len()).unwrap_or(i32::MAX));
        }
    }

    fn note_finished(&mut self) {
        let noted: HashSet<String> =
            self.uncounted.succeeded.iter().chain(&self.uncounted.failed).flatten().cloned().collect();
        let mut room = BURST.saturating_sub(noted.len());
        let tracked: Vec<&'a Pod> = self.owned.iter().copied().filter(|pod| is_tracked(pod)).collect();
        for pod in tracked {
            let uid = pods::uid(&pod.metadata);
            if noted.contains(uid) {
                self.plan.release.push(pod);
            } else if room > 0 && pods::phase(pod) == "Succeeded" {
                room -= 1;
                self.note_success(pod, uid);
            } else if room > 0 && failed(pod, self.replace_failed_only()) {
                room -= 1;
                self.uncounted.failed.get_or_insert_default().push(uid.to_owned());
                self.plan.release.push(pod);
            }
        }
    }

    fn note_success(&mut self, pod: &'a Pod, uid: &str) {
        self.plan.release.push(pod);
        if !self.indexed() {
            self.uncounted.succeeded.get_or_insert_default().push(uid.to_owned());
        } else if let Some(index) = index_of(pod).filter(|i| *i < self.spec.completions.unwrap_or(0)) {
            // An index is completed once, however many pods succeed with it.
            self.completed.insert(index);
        }
    }

    fn succeeded(&self) -> i32 {
        let noted = if self.indexed() { 0 } else { self.uncounted.succeeded.as_ref().map_or(0, Vec::len) };
        self.status.succeeded.unwrap_or(0) + i32::try_from(noted).unwrap_or(0)
    }

    fn failures(&self) -> i32 {
        let noted = self.uncounted.failed.as_ref().map_or(0, Vec::len);
        self.status.failed.unwrap_or(0) + i32::try_from(noted).unwrap_or(0)
    }

    fn decide(&mut self, settled: bool) {
        self.note_suspension();
        if !self.suspended() && self.status.start_time.is_none() {
            self.status.start_time = Some(Time(self.now));
        }
        if let Some(verdict) = self.verdict() {
            self.plan.delete.clone_from(&self.active);
            self.announce(&verdict);
            self.conclude(&verdict);
        } else if settled {
            self.manage();
        }
        self.look_again();
    }

    /// Pods to create or delete while the Job goes on.
    fn manage(&mut self) {
        let wanted = self.wanted_active();
        let have = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        if have > wanted {
            let excess = usize::try_from(have - wanted).unwrap_or(0);
            // The youngest and least ready go first.
            let mut ranked = self.active.clone();
            ranked.sort_by_key(|pod| (pods::ready(pod), std::cmp::Reverse(pods::created(&pod.metadata))));
            self.plan.delete = ranked.into_iter().take(excess.min(BURST)).collect();
            // What is deleted for want of room has not failed: it is let go uncounted.
            self.plan.release.extend(self.plan.delete.iter().copied().filter(|pod| is_tracked(pod)));
        } else if have < wanted && !self.suspended() {
            let waiting = self.backoff_until().filter(|at| *at > self.now);
            if let Some(at) = waiting {
                self.plan.again_at = Some(at);
            } else {
                self.create(usize::try_from(wanted - have).unwrap_or(0).min(BURST));
            }
        }
    }

    fn wanted_active(&self) -> i32 {
        if self.suspended() {
            return 0;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let have = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        let mut wanted = match self.spec.completions {
            // A work queue: once one has succeeded the others finish, and nobody new begins.
            None if self.succeeded() > 0 => have.min(parallelism),
            None => parallelism,
            Some(completions) => (completions - self.succeeded()).min(parallelism),
        };
        if self.replace_failed_only() {
            wanted -= i32::try_from(self.terminating()).unwrap_or(0);
        }
        wanted.max(0)
    }

    fn terminating(&self) -> usize {
        self.owned.iter().filter(|pod| pods::terminating(pod) && !pods::finished(pod)).count()
    }

    fn create(&mut self, count: usize) {
        if !self.indexed() {
            self.plan.create = vec![None; count];
            return;
        }
        let busy: HashSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        let all = 0..self.spec.completions.unwrap_or(0);
        let free = all.filter(|i| !self.completed.contains(i) && !busy.contains(i));
        self.plan.create = free.take(count).map(Some).collect();
    }

    /// After failures new pods wait: 10 s, 20 s, ... up to 10 min since the last one.
    fn backoff_until(&self) -> Option<Timestamp> {
        let mut ended: Vec<(Timestamp, bool)> = self
            .owned
            .iter()
            .filter(|pod| pods::finished(pod) || failed(pod, self.replace_failed_only()))
            .map(|pod| (ended_at(pod), pods::phase(pod) == "Succeeded"))
            .collect();
        ended.sort();
        let failures = ended.iter().rev().take_while(|(_, success)| !success).count();
        let (last, _) = ended.last().filter(|_| failures > 0)?;
        let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
        let seconds = (FIRST_BACKOFF << doublings).min(LAST_BACKOFF);
        last.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn look_again(&mut self) {
        let deadline = self.deadline().filter(|at| *at > self.now && !self.suspended());
        self.plan.again_at = [self.plan.again_at, deadline].into_iter().flatten().min();
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?;
        start.0.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn finish(mut self) -> Plan<'a> {
        let count = |n: usize| Some(i32::try_from(n).unwrap_or(i32::MAX));
        let deleted = self.plan.delete.len();
        self.status.active = count(self.active.len() - deleted.min(self.active.len()));
        self.status.ready = count(self.active.iter().filter(|pod| pods::ready(pod)).count());
        self.status.terminating = count(self.terminating() + deleted);
        if self.indexed() {
            let text = indexes::format(&self.completed);
            self.status.completed_indexes = Some(text).filter(|text| !text.is_empty());
        }
        for list in [&mut self.uncounted.succeeded, &mut self.uncounted.failed] {
            *list = list.take().filter(|list| !list.is_empty());
        }
        self.status.uncounted_terminated_pods = Some(self.uncounted);
        let before = self.job.status.clone().unwrap_or_default();
        if !same(&before, &self.status) {
            self.plan.status = Some(self.status);
        }
        self.plan
    }
}

fn indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// When a pod ended, as near as can be told.
fn ended_at(pod: &Pod) -> Timestamp {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let finished = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let ready = pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref());
    let deleted = pod.metadata.deletion_timestamp.as_ref();
    let at = finished.max_by_key(|t| t.0).or(ready).or(deleted);
    at.map_or_else(|| pods::created(&pod.metadata), |t| t.0)
}

/// Whether readers would see no difference: absent numbers are zero.
fn same(a: &JobStatus, b: &JobStatus) -> bool {
    let plain = |s: &JobStatus| {
        let numbers = [s.active, s.ready, s.terminating, s.succeeded, s.failed].map(|n| n.unwrap_or(0));
        let noted = s.uncounted_terminated_pods.clone().unwrap_or_default();
        let noted = (noted.succeeded.unwrap_or_default(), noted.failed.unwrap_or_default());
        let times = (s.start_time.clone(), s.completion_time.clone());
        (numbers, noted, times, s.completed_indexes.clone(), s.conditions.clone().unwrap_or_default())
    };
    plain(a) == plain(b)
}
