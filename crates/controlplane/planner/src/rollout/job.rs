//! What a Job does next: which pods to create and delete, what to count, when it is over.
//!
//! Each pod of a Job carries a finalizer until it has been counted, so that none is missed or counted twice:
//! a finished pod's uid is first noted in `uncountedTerminatedPods`, then its finalizer is removed, and only when
//! that has been seen does the number go up and the uid leave the note. A completed index needs no note: it is
//! in the list of completed indexes before its pod is let go.

mod backoff;
mod indexed;
mod outcome;
mod policy;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

pub use self::backoff::Backoff;
pub use self::indexed::{FAILURES, IGNORED_FAILURES};
use self::outcome::Outcome;
use self::policy::{Ruling, judge};
use super::Notice;
use super::indexes::Indexes;
use crate::pods;

/// The finalizer of pods that are not counted yet.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The label and annotation with the completion index of a pod.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The most pods that one step creates, deletes or counts.
const BURST: usize = 500;

/// A pod to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// Its completion index, when the Job is Indexed.
    pub index: Option<i32>,
    /// Failures of its index so far that count and that do not, when they are limited per index.
    pub failures: Option<(i32, i32)>,
}

/// One step. It is carried out in the order of the fields.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Pods that there are too many of: released and deleted, and never counted.
    pub excess: Vec<&'a Pod>,
    /// Pods of a Job that is over: deleted.
    pub kill: Vec<&'a Pod>,
    /// Pods to create.
    pub create: Vec<Replica>,
    /// The status, when it changes. It takes for granted that all of the above succeeds.
    pub status: Option<JobStatus>,
    /// Pods whose tracking finalizer has done its work.
    pub release: Vec<&'a Pod>,
    /// Events to record.
    pub notices: Vec<Notice>,
    /// When to look again although nothing happened.
    pub again_at: Option<Timestamp>,
    /// What to hand in at the next step.
    pub backoff: Backoff,
}

/// Whether the pod is still to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

/// When a Job was over.
pub fn finished_at(job: &Job) -> Option<Timestamp> {
    end(job)?.last_transition_time.as_ref().map(|t| t.0)
}

/// How a Job ended: `Complete` or `Failed`.
pub fn ended_as(job: &Job) -> Option<&str> {
    end(job).map(|condition| condition.type_.as_str())
}

fn end(job: &Job) -> Option<&JobCondition> {
    let is_end = |c: &&JobCondition| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True";
    job.status.as_ref()?.conditions.as_ref()?.iter().find(is_end)
}

/// The completion index of a pod.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pods::annotation(&pod.metadata, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// The order in which active pods are given up: those that have come least far first.
fn earliness(pod: &Pod) -> impl Ord + use<> {
    let phase = match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let ready = pods::ready(pod);
    (
        !pods::node_name(pod).is_empty(),
        phase,
        ready,
        Reverse(pods::ready_since(pod)),
        Reverse(pods::most_restarts(pod)),
        Reverse(pods::created(&pod.metadata)),
        pods::name(&pod.metadata).to_owned(),
    )
}

/// One step of the Job. `owned` are all pods that it controls; `settled` is false while creations or deletions
/// of an earlier step have not been seen yet, so that none is repeated; `backoff` is what the last step left, when
/// there was one.
pub fn plan<'a>(
    job: &Job,
    owned: &[&'a Pod],
    settled: bool,
    backoff: Option<Backoff>,
    now: Timestamp,
) -> Plan<'a> {
    if job.metadata.deletion_timestamp.is_some() || ended_as(job).is_some() {
        let release = owned.iter().copied().filter(|pod| is_tracked(pod)).collect();
        return Plan { release, ..Plan::default() };
    }
    let mut work = Work::new(job, owned, now);
    work.settle_notes();
    work.take_in_finished(backoff);
    if work.is_indexed() {
        work.take_in_indexes();
        work.succeeded = work.completed.total();
    }
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
    completed: Indexes,
    failed_indexes: Option<Indexes>,
    /// Failed pods that wait for the successor of their index.
    predecessors: BTreeMap<i32, &'a Pod>,
    /// Successes and failures, those not counted for good included.
    succeeded: i32,
    failures: i32,
    /// How many pods there will be after this step.
    alive: i32,
    ready: i32,
    terminating: i32,
    now: Timestamp,
    plan: Plan<'a>,
}

fn length<T>(list: &[T]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}

fn noted(list: Option<&Vec<String>>) -> i32 {
    list.map_or(0, |list| length(list))
}

impl<'a, 'j> Work<'a, 'j> {
    fn new(job: &'j Job, owned: &[&'a Pod], now: Timestamp) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let active: Vec<&'a Pod> = owned.iter().copied().filter(|pod| pods::active(pod)).collect();
        let terminating = owned.iter().filter(|pod| pods::terminating(pod) && !pods::finished(pod)).count();
        let mut owned = owned.to_vec();
        // Indexes are counted in their order.
        owned.sort_by_key(|pod| index_of(pod));
        let completed = Indexes::parse(
            status.completed_indexes.as_deref().unwrap_or_default(),
            spec.completions.unwrap_or(0),
        );
        Self {
            job,
            uncounted: status.uncounted_terminated_pods.clone().unwrap_or_default(),
            alive: length(&active),
            ready: i32::try_from(active.iter().filter(|pod| pods::ready(pod)).count()).unwrap_or(i32::MAX),
            terminating: i32::try_from(terminating).unwrap_or(i32::MAX),
            active,
            owned,
            plan: Plan::default(),
            completed,
            failed_indexes: None,
            predecessors: BTreeMap::new(),
            succeeded: 0,
            failures: 0,
            spec,
            status,
            now,
        }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// A pod that is on its way out is replaced only once it has ended: so the user wants it, or its way of
    /// failing has to be known.
    fn replaces_failed_only(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    /// A pod that ended badly, or that is being deleted before it ended well.
    fn failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => !self.replaces_failed_only() && pods::terminating(pod),
        }
    }

    fn judge(&self, pod: &Pod) -> Ruling {
        judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// Moves what has been seen without its finalizer from the notes into the numbers.
    fn settle_notes(&mut self) {
        let tracked: HashSet<&str> =
            self.owned.iter().filter(|pod| is_tracked(pod)).map(|pod| pods::uid(&pod.metadata)).collect();
        let settle = |list: &mut Option<Vec<String>>| {
            let before = noted(list.as_ref());
            if let Some(list) = list {
                list.retain(|uid| tracked.contains(uid.as_str()));
            }
            before - noted(list.as_ref())
        };
        let succeeded = settle(&mut self.uncounted.succeeded);
        let failed = settle(&mut self.uncounted.failed);
        let add = |number: &mut Option<i32>, more: i32| {
            let sum = number.unwrap_or(0).saturating_add(more);
            *number = Some(sum);
        };
        add(&mut self.status.succeeded, succeeded);
        add(&mut self.status.failed, failed);
    }

    /// Sums up, with the pods that ended since the last step.
    fn take_in_finished(&mut self, backoff: Option<Backoff>) {
        let noted_uids: HashSet<&str> = {
            let all = self.uncounted.succeeded.iter().chain(&self.uncounted.failed).flatten();
            all.map(String::as_str).collect()
        };
        let valid = |pod: &Pod| !self.is_indexed() || self.valid_index(pod).is_some();
        let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
        let (mut fresh_succeeded, mut fresh_failed) = (Vec::new(), Vec::new());
        for pod in self.owned.iter().copied().filter(|pod| valid(pod)) {
            let fresh = is_tracked(pod) && !noted_uids.contains(pods::uid(&pod.metadata));
            if pods::phase(pod) == "Succeeded" {
                succeeded.push(pod);
                fresh_succeeded.extend(fresh.then_some(pod));
            } else if self.failed(pod) {
                failed.push(pod);
                fresh_failed.extend(fresh.then_some(pod));
            }
        }
        let counting = fresh_failed.iter().filter(|pod| self.judge(pod).counts()).count();
        let (status, uncounted) = (&self.status, &self.uncounted);
        self.failures = status.failed.unwrap_or(0)
            + noted(uncounted.failed.as_ref())
            + i32::try_from(counting).unwrap_or(i32::MAX);
        self.succeeded =
            status.succeeded.unwrap_or(0) + noted(uncounted.succeeded.as_ref()) + length(&fresh_succeeded);
        // Without a memory, the pods that are still there are all that is known.
        self.plan.backoff = match backoff {
            Some(known) => known.and(&fresh_succeeded, &fresh_failed),
            None => Backoff::default().and(&succeeded, &failed),
        };
    }

    fn decide(&mut self, settled: bool) {
        if !self.suspended() && self.status.start_time.is_none() {
            self.status.start_time = Some(Time(self.now));
        }
        let mut verdict = self.verdict();
        if verdict.is_some() {
            self.plan.kill.clone_from(&self.active);
            self.alive = 0;
            self.ready = 0;
            self.terminating += length(&self.active);
            // Pods that have not been seen yet have to be killed first.
            verdict = verdict.filter(|_| settled);
        } else {
            if settled {
                self.manage();
            }
            verdict = self.completed();
            if verdict.is_none() && settled {
                self.note_suspension();
            }
        }
        let outcome = verdict.as_ref().map(|v| v.outcome);
        let all_counted = self.note_finished(outcome);
        if let Some(verdict) = verdict {
            self.announce(&verdict);
            if all_counted {
                self.conclude(&verdict);
            }
        } else if let Some(at) = self.deadline().filter(|at| *at > self.now && !self.suspended()) {
            self.look_again_at(at);
        }
    }

    /// Pods to create or delete while the Job goes on: never both in one step.
    fn manage(&mut self) {
        let wanted = self.wanted_active();
        let excess = self.excess(usize::try_from(self.alive - wanted).unwrap_or(0));
        if !excess.is_empty() {
            self.alive -= length(&excess);
            self.ready -= i32::try_from(excess.iter().filter(|pod| pods::ready(pod)).count()).unwrap_or(0);
            self.terminating += length(&excess);
            self.plan.excess = excess;
            return;
        }
        let leaving = if self.replaces_failed_only() { self.terminating } else { 0 };
        let missing = usize::try_from(wanted - leaving - self.alive).unwrap_or(0).min(BURST);
        if missing == 0 || self.suspended() {
            return;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let waits = self.plan.backoff.until().filter(|at| !per_index && *at > self.now);
        match waits {
            Some(at) => self.look_again_at(at),
            None if self.is_indexed() => self.next_indexes(missing),
            None => self.plan.create = vec![Replica { index: None, failures: None }; missing],
        }
        self.alive += length(&self.plan.create);
    }

    fn excess(&self, at_least: usize) -> Vec<&'a Pod> {
        let suspended = self.suspended();
        let (mut out, mut left) =
            if self.is_indexed() { self.superfluous() } else { (Vec::new(), self.active.clone()) };
        if out.len() < at_least {
            left.sort_by_cached_key(|pod| earliness(pod));
            out.extend(left.into_iter().take(at_least - out.len()));
        }
        if !suspended {
            out.truncate(BURST);
        }
        out
    }

    fn wanted_active(&self) -> i32 {
        if self.suspended() {
            return 0;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        match self.spec.completions {
            // A work queue: once one has succeeded the others finish, and nobody new begins.
            None if self.succeeded > 0 => self.alive,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        }
    }

    /// Lets go of pods that ended, and notes those that still have to be counted. Whether all could be taken.
    fn note_finished(&mut self, outcome: Option<Outcome>) -> bool {
        let mut room = BURST
            .saturating_sub(self.uncounted.succeeded.iter().chain(&self.uncounted.failed).flatten().count());
        let known: HashSet<String> =
            self.uncounted.succeeded.iter().chain(&self.uncounted.failed).flatten().cloned().collect();
        let excess: HashSet<&str> = self.plan.excess.iter().map(|pod| pods::uid(&pod.metadata)).collect();
        for pod in self.owned.clone() {
            let uid = pods::uid(&pod.metadata);
            let ended = pods::phase(pod) == "Succeeded" || outcome.is_some() || self.failed(pod);
            if !is_tracked(pod) || excess.contains(uid) || !ended || (outcome.is_none() && self.is_kept(pod))
            {
                continue;
            }
            if room == 0 {
                return false;
            }
            self.plan.release.push(pod);
            if known.contains(uid) {
                continue;
            }
            let valid = !self.is_indexed() || self.valid_index(pod).is_some();
            if pods::phase(pod) == "Succeeded" {
                if !self.is_indexed() {
                    self.uncounted.succeeded.get_or_insert_default().push(uid.to_owned());
                }
                room -= 1;
            } else if (self.failed(pod) || outcome == Some(Outcome::Failed))
                && valid
                && self.judge(pod).counts()
            {
                self.uncounted.failed.get_or_insert_default().push(uid.to_owned());
                room -= 1;
            }
        }
        true
    }

    /// Whether the failed pod waits for its successor.
    fn is_kept(&self, pod: &Pod) -> bool {
        let kept = index_of(pod).and_then(|index| self.predecessors.get(&index));
        pods::phase(pod) != "Succeeded" && kept.is_some_and(|kept| kept.metadata.uid == pod.metadata.uid)
    }

    fn look_again_at(&mut self, at: Timestamp) {
        self.plan.again_at = Some(self.plan.again_at.map_or(at, |before| before.min(at)));
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?;
        start.0.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn finish(mut self) -> Plan<'a> {
        self.status.active = Some(self.alive);
        self.status.ready = Some(self.ready);
        self.status.terminating = Some(self.terminating);
        if self.is_indexed() {
            self.status.succeeded = Some(self.completed.total());
            self.status.completed_indexes = Some(self.completed.to_string()).filter(|text| !text.is_empty());
            self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
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

/// Whether readers would see no difference: absent numbers are zero.
fn same(a: &JobStatus, b: &JobStatus) -> bool {
    let plain = |s: &JobStatus| {
        let numbers = [s.active, s.ready, s.terminating, s.succeeded, s.failed].map(|n| n.unwrap_or(0));
        let notes = s.uncounted_terminated_pods.clone().unwrap_or_default();
        let notes = (notes.succeeded.unwrap_or_default(), notes.failed.unwrap_or_default());
        let times = (s.start_time.clone(), s.completion_time.clone());
        let indexes = (s.completed_indexes.clone().unwrap_or_default(), s.failed_indexes.clone());
        (numbers, notes, times, indexes, s.conditions.clone().unwrap_or_default())
    };
    plain(a) == plain(b)
}
