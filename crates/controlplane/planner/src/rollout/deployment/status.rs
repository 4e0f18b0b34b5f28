//! The status of a Deployment and its conditions: Available, Progressing, ReplicaFailure.

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Deployment, Set, Work};

/// What became of the new ReplicaSet.
pub(super) enum Found {
    /// It was there.
    Existing(String),
    /// It is created by this step.
    Created(String),
}

const AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
/// Why there is no progress when the new ReplicaSet cannot be created.
pub const CREATE_FAILED: &str = "ReplicaSetCreateError";
const NEVER: i32 = i32::MAX;

fn number(n: Option<i32>) -> i32 {
    n.unwrap_or(0)
}

fn number64(n: Option<i64>) -> i64 {
    n.unwrap_or(0)
}

fn find<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_.as_deref() == Some(kind))
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(list) = &mut status.conditions {
        list.retain(|c| c.type_.as_deref() != Some(kind));
    }
}

/// Sets a condition. The same status and reason as before change nothing; the same status keeps its time.
fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let kind = condition.type_.clone().unwrap_or_default();
    if let Some(old) = find(status, &kind) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &kind);
    status.conditions.get_or_insert_default().push(condition);
}

impl Work<'_> {
    /// Whether every replica is of the new template and available.
    pub(super) fn complete(&self) -> bool {
        let status = self.counted();
        self.is_complete(&status)
    }

    fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let desired = self.replicas();
        number(status.updated_replicas) == desired
            && number(status.replicas) == desired
            && number(status.available_replicas) == desired
    }

    fn old_status(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap_or_default()
    }

    fn condition(&self, kind: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
        DeploymentCondition {
            type_: Some(kind.into()),
            status: Some(status.into()),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        }
    }

    /// The status with the numbers and the Available condition of now.
    fn counted(&self) -> DeploymentStatus {
        let old = self.old_status();
        let available = self.sum(Set::available);
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: Some(self.sum(Set::actual)),
            updated_replicas: Some(self.new.as_ref().map_or(0, Set::actual)),
            ready_replicas: Some(self.sum(Set::ready)),
            available_replicas: Some(available),
            unavailable_replicas: Some(self.total().saturating_sub(available).max(0)),
            terminating_replicas: self.terminating(),
            collision_count: old.collision_count,
            conditions: old.conditions,
        };
        let enough = available >= self.replicas() - self.max_unavailable();
        let condition = if enough {
            let text = "Deployment has minimum availability.";
            self.condition("Available", "True", "MinimumReplicasAvailable", text.into())
        } else {
            let text = "Deployment does not have minimum availability.";
            self.condition("Available", "False", "MinimumReplicasUnavailable", text.into())
        };
        set(&mut status, condition);
        self.note_pause(&mut status);
        status
    }

    /// The sum over all ReplicaSets; nothing as long as one does not say it.
    fn terminating(&self) -> Option<i32> {
        let statuses = self.all().filter_map(|s| s.object.status.as_ref());
        let unseen =
            |s: &&ReplicaSetStatus| number64(s.observed_generation) == 0 && s.terminating_replicas.is_none();
        statuses.filter(|s| !unseen(s)).map(|s| s.terminating_replicas).sum()
    }

    /// A pause stops the clock of the progress deadline, a resume starts it anew.
    fn note_pause(&self, status: &mut DeploymentStatus) {
        if self.deadline().is_none() || self.deployment.metadata.deletion_timestamp.is_some() {
            return;
        }
        let reason = find(status, "Progressing").and_then(|c| c.reason.as_deref()).unwrap_or_default();
        match (self.paused(), reason) {
            (_, TIMED_OUT) => {}
            (true, reason) if reason != PAUSED => {
                let text = "Deployment is paused".into();
                set(status, self.condition("Progressing", "Unknown", PAUSED, text));
            }
            (false, PAUSED) => {
                let text = "Deployment is resumed".into();
                set(status, self.condition("Progressing", "Unknown", "DeploymentResumed", text));
            }
            _ => {}
        }
    }

    fn deadline(&self) -> Option<i32> {
        self.deployment.spec.progress_deadline_seconds.filter(|d| *d != NEVER)
    }

    pub(super) fn set_plain_status(&mut self) {
        let status = self.counted();
        self.publish(status);
    }

    pub(super) fn set_rollout_status(&mut self) {
        let mut status = self.counted();
        match self.deadline() {
            None => remove(&mut status, "Progressing"),
            Some(deadline) => self.judge_progress(&mut status, deadline),
        }
        self.copy_failures(&mut status);
        self.again_at(&status);
        self.publish(status);
    }

    fn subject(&self) -> String {
        let created = self.plan.create.as_ref().and_then(|rs| rs.metadata.name.as_deref());
        match self.new.as_ref().map(Set::name).or(created) {
            Some(name) => format!("ReplicaSet \"{name}\""),
            None => format!("Deployment \"{}\"", self.name()),
        }
    }

    fn judge_progress(&self, status: &mut DeploymentStatus, deadline: i32) {
        self.note_found(status);
        let old = self.old_status();
        let current = find(status, "Progressing").cloned();
        let was_complete = number(status.replicas) == number(status.updated_replicas)
            && find(&old, "Progressing").is_some_and(|c| c.reason.as_deref() == Some(AVAILABLE));
        if was_complete {
            return;
        }
        let subject = self.subject();
        if self.is_complete(status) {
            let text = format!("{subject} has successfully progressed.");
            set(status, self.condition("Progressing", "True", AVAILABLE, text));
        } else if progressed(&old, status) {
            let text = format!("{subject} is progressing.");
            let mut condition = self.condition("Progressing", "True", "ReplicaSetUpdated", text);
            if let Some(current) = current.filter(|c| c.status.as_deref() == Some("True")) {
                condition.last_transition_time = current.last_transition_time;
            }
            remove(status, "Progressing");
            set(status, condition);
        } else if self.timed_out(status, deadline) {
            let text = format!("{subject} has timed out progressing.");
            set(status, self.condition("Progressing", "False", TIMED_OUT, text));
        }
    }

    /// A new ReplicaSet begins a new stretch of progress.
    fn note_found(&self, status: &mut DeploymentStatus) {
        match &self.found {
            Some(Found::Created(name)) => {
                let text = format!("Created new replica set \"{name}\"");
                set(status, self.condition("Progressing", "True", "NewReplicaSetCreated", text));
            }
            Some(Found::Existing(name)) if find(status, "Progressing").is_none() => {
                let text = format!("Found new replica set \"{name}\"");
                set(status, self.condition("Progressing", "True", "FoundNewReplicaSet", text));
            }
            _ => {}
        }
    }

    fn timed_out(&self, status: &DeploymentStatus, deadline: i32) -> bool {
        let Some(condition) = find(status, "Progressing") else { return false };
        match condition.reason.as_deref() {
            Some(AVAILABLE) => false,
            Some(TIMED_OUT) => true,
            _ => overdue_at(condition, deadline).is_some_and(|at| at < self.now),
        }
    }

    /// What a ReplicaSet could not do is told here, too: the new one first.
    fn copy_failures(&self, status: &mut DeploymentStatus) {
        let failure = |s: &Set<'_>| {
            let conditions = s.object.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure")).cloned()
        };
        let found = self.new.iter().chain(&self.old).find_map(failure);
        match found {
            None => remove(status, "ReplicaFailure"),
            Some(c) => set(
                status,
                DeploymentCondition {
                    type_: c.type_,
                    status: c.status,
                    reason: c.reason,
                    message: c.message,
                    last_update_time: c.last_transition_time.clone(),
                    last_transition_time: c.last_transition_time,
                },
            ),
        }
    }

    fn again_at(&mut self, status: &DeploymentStatus) {
        let Some((deadline, condition)) = self.deadline().zip(find(status, "Progressing")) else { return };
        if !matches!(condition.reason.as_deref(), Some(AVAILABLE | TIMED_OUT)) {
            let second = SignedDuration::from_secs(1);
            self.plan.again_at = overdue_at(condition, deadline).and_then(|at| at.checked_add(second).ok());
        }
    }

    fn publish(&mut self, status: DeploymentStatus) {
        if !same(&self.old_status(), &status) {
            self.plan.status = Some(status);
        }
    }
}

/// The status when the new ReplicaSet could not be created.
pub fn create_failed(deployment: &Deployment, message: &str, now: Timestamp) -> Option<DeploymentStatus> {
    deployment.spec.progress_deadline_seconds.filter(|d| *d != NEVER)?;
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = before.clone();
    let condition = DeploymentCondition {
        type_: Some("Progressing".into()),
        status: Some("False".into()),
        reason: Some(CREATE_FAILED.into()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    set(&mut status, condition);
    (status != before).then_some(status)
}

fn overdue_at(condition: &DeploymentCondition, deadline: i32) -> Option<Timestamp> {
    let since = condition.last_update_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(deadline.into())).ok()
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let leftover = |s: &DeploymentStatus| number(s.replicas) - number(s.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || leftover(new) < leftover(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

/// Whether readers would see no difference: absent numbers are zero.
fn same(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let plain = |s: &DeploymentStatus| {
        let fields =
            [s.replicas, s.updated_replicas, s.ready_replicas, s.available_replicas, s.unavailable_replicas];
        (
            fields.map(number),
            s.terminating_replicas,
            s.observed_generation,
            s.conditions.clone().unwrap_or_default(),
        )
    };
    plain(a) == plain(b)
}
