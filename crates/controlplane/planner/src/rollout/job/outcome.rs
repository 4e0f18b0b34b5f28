//! When a Job is over, and how its conditions tell it.

use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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

impl Verdict {
    fn new(outcome: Outcome, reason: &str, message: &str) -> Self {
        Self { outcome, reason: reason.to_owned(), message: message.to_owned() }
    }
}

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
        list.retain(|c| c.type_ != kind);
        list.push(condition);
    }

    pub(super) fn suspended(&self) -> bool {
        self.spec.suspend.unwrap_or(false)
    }

    /// The Suspended condition; a resumed Job starts its clock anew.
    pub(super) fn note_suspension(&mut self) {
        let was = self.condition("Suspended").map(|c| c.status == "True");
        if self.suspended() && was != Some(true) {
            self.set("Suspended", "True", "JobSuspended", "Job suspended");
            self.plan.notices.push(Notice::normal("Suspended", "Job suspended"));
        } else if !self.suspended() && was == Some(true) {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.status.start_time = Some(Time(self.now));
            self.plan.notices.push(Notice::normal("Resumed", "Job resumed"));
        }
    }

    /// Whether the Job is over. What was announced before is not taken back.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        for outcome in [Outcome::Complete, Outcome::Failed] {
            if let Some(c) = self.condition(outcome.conditions().0).filter(|c| c.status == "True") {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                return Some(Verdict { outcome, reason: text(&c.reason), message: text(&c.message) });
            }
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failures() > limit || self.restarted_too_often(limit) {
            let text = "Job has reached the specified backoff limit";
            return Some(Verdict::new(Outcome::Failed, "BackoffLimitExceeded", text));
        }
        if !self.suspended() && self.deadline().is_some_and(|at| at <= self.now) {
            let text = "Job was active longer than specified deadline";
            return Some(Verdict::new(Outcome::Failed, "DeadlineExceeded", text));
        }
        let complete = match self.spec.completions {
            None => self.succeeded() > 0 && self.active.is_empty(),
            Some(completions) => !self.suspended() && self.succeeded() >= completions,
        };
        let text = "Reached expected number of succeeded pods";
        complete.then(|| Verdict::new(Outcome::Complete, "CompletionsReached", text))
    }

    /// With restartPolicy OnFailure, failures show as restarts of containers.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let init = |pod: &Pod| {
            let statuses = pod.status.as_ref().and_then(|s| s.init_container_statuses.as_ref());
            statuses.into_iter().flatten().map(|c| i64::from(c.restart_count)).sum::<i64>()
        };
        let alive = self.active.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let restarts: i64 = alive.map(|pod| pods::restarts(pod) + init(pod)).sum();
        restarts > 0 && restarts >= i64::from(limit)
    }

    /// Says that the end has come, while pods may still have to stop.
    pub(super) fn announce(&mut self, verdict: &Verdict) {
        let (kind, _) = verdict.outcome.conditions();
        if self.condition(kind).is_none() {
            self.set(kind, "True", &verdict.reason, &verdict.message);
        }
    }

    /// Seals the end once every pod has stopped and is counted.
    pub(super) fn conclude(&mut self, verdict: &Verdict) {
        let noted = self.uncounted.succeeded.iter().chain(&self.uncounted.failed).flatten().count();
        if noted > 0 || !self.active.is_empty() || self.terminating() > 0 || !self.plan.release.is_empty() {
            return;
        }
        let (_, kind) = verdict.outcome.conditions();
        self.set(kind, "True", &verdict.reason, &verdict.message);
        match verdict.outcome {
            Outcome::Complete => {
                self.status.completion_time = Some(Time(self.now));
                self.plan.notices.push(Notice::normal("Completed", "Job completed"));
            }
            Outcome::Failed => {
                let reason = match verdict.reason.as_str() {
                    "DeadlineExceeded" => "DeadlineExceeded",
                    "BackoffLimitExceeded" => "BackoffLimitExceeded",
                    _ => "Failed",
                };
                self.plan.notices.push(Notice::warning(reason, verdict.message.clone()));
            }
        }
    }
}
