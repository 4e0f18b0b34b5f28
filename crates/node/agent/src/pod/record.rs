//! What the agent remembers of a pod between events and over its own restarts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use sampan_planner::numa::{CpuSet, Holding};
use serde::{Deserialize, Serialize};

/// A pod as this node carries it out. Written to `<pod dir>/record.json` when it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodRecord {
    /// The pod's uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When this node accepted it.
    pub start_time: Option<Timestamp>,
    /// Its address, while the sandbox is ready.
    pub ip: Option<Ipv4Addr>,
    /// Its sandbox is ready for containers.
    pub sandbox_ready: bool,
    /// Every container by name (init containers too).
    pub containers: BTreeMap<String, ContainerRecord>,
    /// Set once the pod has failed as a whole (deadline, eviction, rejection): reason and message.
    pub failed: Option<(String, String)>,
    /// Names under which it holds the images of its volumes.
    pub image_holds: Vec<String>,
    /// What its containers were given, by name: what they ask for, unless a change does not fit here.
    pub allocated: BTreeMap<String, ResourceRequirements>,
    /// What it holds of the machine's zones.
    pub zones: Holding,
    /// How far the limits of the pod as a whole follow that.
    pub limits: PodLimits,
    /// Why it has not got what it asks for: reason and message.
    pub resize_pending: Option<(String, String)>,
    /// Why containers do not have what they were given.
    pub resize_error: Option<String>,
    /// Containers are being stopped for good.
    pub terminating: bool,
    /// Everything has stopped and the outcome is final.
    pub finished: bool,
}

/// The limits of a pod as a whole while its containers are resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodLimits {
    /// They are those of what its containers were given.
    #[default]
    Settled,
    /// Its containers were given something else since.
    Due,
    /// They have room for what containers have now and for what they are to have.
    Raised,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerRecord {
    /// How often it was created; `restartCount` is one less.
    pub runs: u32,
    /// Its present run.
    pub run: Run,
    /// How the run before ended.
    pub last: Option<Termination>,
    /// Why it is waiting, when it is.
    pub waiting: Option<Waiting>,
    /// Restart back-off.
    pub backoff: RestartBackoff,
    /// Image name as resolved.
    pub image: String,
    /// Image name with digest.
    pub image_id: String,
    /// Signal that the image asks to be stopped with.
    pub stop_signal: Option<String>,
    /// What the present run has; nothing when a version that did not note it started it.
    pub applied: Option<ResourceRequirements>,
    /// The CPUs that the present run is confined to; nothing when it may use any.
    pub cpus: Option<CpuSet>,
    /// It was stopped to start anew with other resources, however it ended.
    pub resizing: bool,
    /// Readiness as probed (true without a probe while running).
    pub ready: bool,
    /// Startup probe passed (true without one while running).
    pub started: bool,
}

impl ContainerRecord {
    /// `restartCount`.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.runs.saturating_sub(1)
    }

    /// How the present run ended, when it did.
    #[must_use]
    pub fn exited(&self) -> Option<&Termination> {
        match &self.run {
            Run::Exited(termination) => Some(termination),
            _ => None,
        }
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.run, Run::Running { .. })
    }
}

/// A container's present run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Run {
    /// Never ran.
    #[default]
    None,
    /// Being created: pull, create, start.
    Starting,
    /// Running.
    Running {
        /// Runtime id.
        id: String,
        /// Since when.
        at: Timestamp,
    },
    /// Ended.
    Exited(Termination),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    /// Runtime id.
    pub id: String,
    /// Exit code.
    pub exit_code: i32,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` ...
    pub reason: String,
    /// Termination message.
    pub message: String,
    /// Start.
    pub started_at: Option<Timestamp>,
    /// End.
    pub finished_at: Timestamp,
}

/// Why a container is waiting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// CamelCase reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Upstream's restart back-off: the first restart is immediate, then 10 s doubling to 5 min after each end, and
/// forgotten 10 min after it was last raised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestartBackoff {
    /// Present delay in seconds; 0 before the first restart.
    pub seconds: u64,
    /// When it was last raised.
    pub raised: Option<Timestamp>,
}

/// First back-off.
pub const BACKOFF_INITIAL: u64 = 10;
/// Longest back-off.
pub const BACKOFF_MAX: u64 = 300;

impl RestartBackoff {
    /// When a container that ended at `ended` may start again, as seen at `now`; `None` means at once.
    #[must_use]
    pub fn until(&self, ended: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.seconds == 0 || self.expired(ended) {
            return None;
        }
        let until = ended + std::time::Duration::from_secs(self.seconds);
        (until > now).then_some(until)
    }

    /// Count a (re)start of something that ended at `ended`.
    pub fn raise(&mut self, ended: Timestamp, now: Timestamp) {
        self.seconds = if self.seconds == 0 || self.expired(ended) {
            BACKOFF_INITIAL
        } else {
            (self.seconds * 2).min(BACKOFF_MAX)
        };
        self.raised = Some(now);
    }

    fn expired(&self, ended: Timestamp) -> bool {
        let limit = i64::try_from(2 * BACKOFF_MAX).unwrap_or(i64::MAX);
        self.raised.is_some_and(|raised| ended.as_second() - raised.as_second() > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn back_off_doubles_from_ten_seconds_and_is_forgotten() {
        let mut backoff = RestartBackoff::default();
        assert_eq!(backoff.until(at(100), at(100)), None, "the first restart is immediate");
        backoff.raise(at(100), at(100));
        assert_eq!(backoff.until(at(101), at(101)), Some(at(111)));
        for want in [20, 40, 80, 160, 300, 300] {
            backoff.raise(at(200), at(200));
            assert_eq!(backoff.seconds, want);
        }
        assert_eq!(backoff.until(at(900), at(900)), None, "ten good minutes forgive");
        backoff.raise(at(900), at(900));
        assert_eq!(backoff.seconds, 10);
    }
}
