//! How long a Job waits after failures before it starts pods again: 10 s, 20 s, ... up to 10 min since the last one.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::rollout::ended_at;

const FIRST: i64 = 10;
const LAST: i64 = 600;

/// The failures since the last success, and when the last of them was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// Takes in pods that ended since it was last asked.
    #[must_use]
    pub(super) fn and(self, succeeded: &[&Pod], failed: &[&Pod]) -> Self {
        let last_success = succeeded.iter().map(|pod| ended_at(pod)).max();
        let times = failed.iter().map(|pod| ended_at(pod));
        let after: Vec<Timestamp> =
            times.filter(|at| last_success.is_none_or(|success| *at > success)).collect();
        let count = u32::try_from(after.len()).unwrap_or(u32::MAX);
        match last_success {
            Some(_) => Self { failures: count, last: after.into_iter().max() },
            None if after.is_empty() => self,
            None => Self { failures: self.failures.saturating_add(count), last: after.into_iter().max() },
        }
    }

    /// When pods may be started again.
    pub(super) fn until(self) -> Option<Timestamp> {
        until(self.failures, self.last?)
    }
}

/// When pods may be started again after so many failures in a row.
pub(super) fn until(failures: u32, last: Timestamp) -> Option<Timestamp> {
    if failures == 0 {
        return None;
    }
    let seconds = (FIRST << (failures - 1).min(10)).min(LAST);
    last.checked_add(SignedDuration::from_secs(seconds)).ok()
}
