//! What workloads do next: each function reads objects and returns what to change, with its reasons.

pub mod cron;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod failures;
pub mod hash;
pub mod indexes;
pub mod job;
pub mod replicaset;
pub mod statefulset;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::pods;

/// Something worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Warning rather than Normal.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Notice {
    /// A notice that all is well.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    /// A notice that something is wrong.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

/// A number or a percentage of `total`; what cannot be read counts as 0.
pub fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool, default: &IntOrString) -> i32 {
    match value.unwrap_or(default) {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else { return 0 };
            let product = percent.saturating_mul(i64::from(total));
            let whole =
                if round_up { product.saturating_add(99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

/// When a pod ended: with its last container, when it was found not ready, when its deletion was asked for.
fn ended_at(pod: &Pod) -> Timestamp {
    let not_ready = || {
        let condition = pods::condition(pod, "Ready").filter(|c| c.status == "False")?;
        condition.last_transition_time.as_ref().map(|t| t.0)
    };
    let deleted = || {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        at.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    last_container(pod).or_else(not_ready).or_else(deleted).unwrap_or_else(|| pods::created(&pod.metadata))
}

/// When the last container ended, sidecars included; `None` while one runs.
fn last_container(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten().filter(|c| pods::is_sidecar(pod, &c.name));
    let all = status.container_statuses.iter().flatten().chain(init);
    let times: Option<Vec<Timestamp>> =
        all.map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).collect();
    times?.into_iter().max()
}
