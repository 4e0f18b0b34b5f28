//! When a Job is over, and how its conditions tell it.

use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::policy::{Ruling, success};
use super::{Notice, Work};
use crate::pods;

/// How a Job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Complete,
    Failed,
}

impl Outcome {
    /// The condition that announces the end while pods still run, and the one that seals it.
    fn conditions(self) -> (&'static str, &'static str) {
        match self {
            Self::Complete => ("SuccessCriteriaMet", "Complete"),
            Self::Failed => ("FailureTarget", "Failed"),
        }
    }
}

/// The end and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub outcome: Outcome,
    reason: String,
    message: String,
}

fn failure(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { outcome: Outcome::Failed, reason: reason.to_owned(), message: message.into() }
}

/// The reasons that are told in an Event of their own.
const REASONS: [&str; 5] = [
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "PodFailurePolicy",
    "MaxFailedIndexesExceeded",
    "FailedIndexes",
];

impl Work<'_, '_> {
    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        let conditions = self.status.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == kind)
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let condition = JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        let list = self.status.conditions.get_or_insert_default();
        match list.iter_mut().find(|c| c.type_ == kind) {
            Some(old) => *old = condition,
            None => list.push(condition),
        }
    }

    pub(super) fn suspended(&self) -> bool {
        self.spec.suspend.unwrap_or(false)
    }

    /// The Suspended condition. The clock of the deadline stands while the Job is suspended and starts anew after.
    pub(super) fn note_suspension(&mut self) {
        let was = self.condition("Suspended").map(|c| c.status == "True");
        if self.suspended() && was != Some(true) {
            self.set("Suspended", "True", "JobSuspended", "Job suspended");
            self.status.start_time = None;
            self.plan.notices.push(Notice::normal("Suspended", "Job suspended"));
        } else if !self.suspended() && was == Some(true) {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.status.start_time = Some(Time(self.now));
            self.plan.notices.push(Notice::normal("Resumed", "Job resumed"));
        }
    }

    /// Whether the Job is over although not all completions are reached. What was announced is not taken back;
    /// failure comes before success.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        for outcome in [Outcome::Complete, Outcome::Failed] {
            if let Some(c) = self.condition(outcome.conditions().0).filter(|c| c.status == "True") {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                return Some(Verdict { outcome, reason: text(&c.reason), message: text(&c.message) });
            }
        }
        let mut failed = self.owned.iter().filter(|pod| self.failed(pod));
        let fatal = failed.find_map(|pod| match self.judge(pod) {
            Ruling::FailJob(message) => Some(message),
            _ => None,
        });
        if let Some(message) = fatal {
            return Some(failure("PodFailurePolicy", message));
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let limit = self.spec.backoff_limit.unwrap_or(if per_index { i32::MAX } else { 6 });
        if self.failures > limit || self.restarted_too_often(limit) {
            return Some(failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if !self.suspended() && self.deadline().is_some_and(|at| at <= self.now) {
            return Some(failure("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        self.verdict_of_indexes()
    }

    fn verdict_of_indexes(&self) -> Option<Verdict> {
        if !self.is_indexed() {
            return None;
        }
        if let Some(failed) = self.failed_indexes.as_ref().map(super::Indexes::total) {
            if self.spec.max_failed_indexes.is_some_and(|most| failed > most) {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return Some(failure("MaxFailedIndexesExceeded", text));
            }
            if failed > 0 && failed + self.completed.total() >= self.completions() {
                return Some(failure("FailedIndexes", "Job has failed indexes"));
            }
        }
        let message = success(self.spec.success_policy.as_ref(), self.completions(), &self.completed)?;
        Some(Verdict { outcome: Outcome::Complete, reason: "SuccessPolicy".to_owned(), message })
    }

    /// Whether everything that was asked for has succeeded and nothing runs any more.
    pub(super) fn completed(&self) -> Option<Verdict> {
        let enough = match self.spec.completions {
            // A work queue is done when one has succeeded and the others have ended.
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= completions,
        };
        let reached = enough && self.alive == 0 && self.plan.create.is_empty();
        reached.then(|| Verdict {
            outcome: Outcome::Complete,
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        })
    }

    /// With restartPolicy OnFailure, failures show as restarts of containers.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let alive = self.owned.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let statuses = alive.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
        });
        let restarts: i64 = statuses.map(|c| i64::from(c.restart_count)).sum();
        restarts > 0 && restarts >= i64::from(limit)
    }

    /// Says that the end has come, while pods may still have to stop.
    pub(super) fn announce(&mut self, verdict: &Verdict) {
        let (kind, _) = verdict.outcome.conditions();
        if self.condition(kind).is_none_or(|c| c.status != "True") {
            self.set(kind, "True", &verdict.reason, &verdict.message);
        }
    }

    /// Seals the end once every pod has stopped and is counted.
    pub(super) fn conclude(&mut self, verdict: &Verdict) {
        let noted = self.uncounted.succeeded.iter().chain(&self.uncounted.failed).flatten().count();
        if noted > 0 || self.alive > 0 || self.terminating > 0 || !self.plan.release.is_empty() {
            return;
        }
        let (_, kind) = verdict.outcome.conditions();
        self.set(kind, "True", &verdict.reason, &verdict.message);
        let notices = &mut self.plan.notices;
        match verdict.outcome {
            Outcome::Complete => {
                self.status.completion_time = Some(Time(self.now));
                if self.spec.completions.is_some_and(|wanted| self.succeeded > wanted) {
                    let text = "Too many succeeded pods running after completion count reached";
                    notices.push(Notice::warning("TooManySucceededPods", text));
                }
                notices.push(Notice::normal("Completed", "Job completed"));
            }
            Outcome::Failed => {
                let known = REASONS.into_iter().find(|reason| *reason == verdict.reason);
                notices.push(Notice::warning(known.unwrap_or("Failed"), verdict.message.clone()));
            }
        }
    }
}
