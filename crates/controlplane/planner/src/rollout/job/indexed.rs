//! Indexed Jobs: which indexes are done, failed or missing, and what one failed pod hands on to the next.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::backoff::until;
use super::policy::{Ruling, judge};
use super::{Replica, Work, index_of, is_tracked};
use crate::pods;
use crate::rollout::ended_at;
use crate::rollout::indexes::Indexes;

/// How often pods of an index have failed before this one.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often they have failed in a way that does not count.
pub const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// A count in an annotation; what users write there that is not one is 0.
fn count(pod: &Pod, key: &str) -> i32 {
    pods::annotation(&pod.metadata, key).and_then(|v| v.parse().ok()).filter(|n| *n >= 0).unwrap_or(0)
}

fn all_failures(pod: &Pod) -> i32 {
    count(pod, FAILURES).saturating_add(count(pod, IGNORED_FAILURES))
}

impl<'a> Work<'a, '_> {
    /// The completion index of a pod, when it is one of the Job's.
    pub(super) fn valid_index(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|index| *index < self.completions())
    }

    /// Takes in the indexes that succeeded or failed for good.
    pub(super) fn take_in_indexes(&mut self) {
        let tracked: Vec<&'a Pod> = self.owned.iter().copied().filter(|pod| is_tracked(pod)).collect();
        let succeeded = tracked.iter().filter(|pod| pods::phase(pod) == "Succeeded");
        let fresh: Indexes = succeeded.filter_map(|pod| self.valid_index(pod)).collect();
        self.completed = self.completed.union(&fresh);
        let Some(limit) = self.spec.backoff_limit_per_index else { return };
        let before = self.status.failed_indexes.as_deref().unwrap_or_default();
        let before = Indexes::parse(before, self.completions());
        let failed = tracked.iter().filter(|pod| self.failed(pod)).filter(|pod| match self.judge(pod) {
            Ruling::FailIndex => true,
            ruling => ruling.counts() && count(pod, FAILURES) >= limit,
        });
        let fresh: Indexes = failed.filter_map(|pod| self.valid_index(pod)).collect();
        self.failed_indexes = Some(before.union(&fresh));
        self.predecessors = self.find_predecessors(&tracked);
    }

    /// Per index the failed pod that is kept until its successor, which inherits its count, is there.
    fn find_predecessors(&self, tracked: &[&'a Pod]) -> BTreeMap<i32, &'a Pod> {
        let active: Indexes = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        let mut last: BTreeMap<i32, &'a Pod> = BTreeMap::new();
        for pod in tracked.iter().copied().filter(|pod| self.failed(pod)) {
            let Some(index) = self.valid_index(pod) else { continue };
            let over = self.failed_indexes.as_ref().is_some_and(|failed| failed.has(index));
            if self.completed.has(index) || over || active.has(index) {
                continue;
            }
            let rank = |pod: &Pod| (all_failures(pod), ended_at(pod));
            let later = |other: &&Pod| rank(pod).0 >= rank(other).0 && rank(pod).1 >= rank(other).1;
            if last.get(&index).is_none_or(later) {
                last.insert(index, pod);
            }
        }
        last
    }

    /// The next indexes to start, each once its back-off is over.
    pub(super) fn next_indexes(&mut self, most: usize) {
        let mut taken: Indexes = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        taken = taken.union(&self.completed);
        if self.replaces_failed_only() {
            let terminating = self.owned.iter().filter(|pod| pods::terminating(pod) && !pods::finished(pod));
            taken = taken.union(&terminating.filter_map(|pod| index_of(pod)).collect());
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        for index in taken.first_missing(most, self.completions()) {
            let predecessor = self.predecessors.get(&index).copied();
            let waits = predecessor.and_then(|pod| {
                let failures = u32::try_from(all_failures(pod)).unwrap_or(0).saturating_add(1);
                until(failures, ended_at(pod)).filter(|at| *at > self.now)
            });
            match waits {
                Some(at) => self.look_again_at(at),
                None => {
                    let failures = self.spec.backoff_limit_per_index.map(|_| self.inherited(predecessor));
                    self.plan.create.push(Replica { index: Some(index), failures });
                }
            }
        }
    }

    fn inherited(&self, predecessor: Option<&Pod>) -> (i32, i32) {
        let Some(pod) = predecessor else { return (0, 0) };
        let (counted, ignored) = (count(pod, FAILURES), count(pod, IGNORED_FAILURES));
        if judge(self.spec.pod_failure_policy.as_ref(), pod).counts() {
            (counted.saturating_add(1), ignored)
        } else {
            (counted, ignored.saturating_add(1))
        }
    }

    /// Active pods that must go whatever the number: without an index, beyond the last one, or second to another.
    pub(super) fn superfluous(&self) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
        let mut by_index: BTreeMap<i32, Vec<&'a Pod>> = BTreeMap::new();
        let mut out = Vec::new();
        for pod in self.active.iter().copied() {
            match self.valid_index(pod) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => out.push(pod),
            }
        }
        let mut stay = Vec::new();
        for mut same in by_index.into_values() {
            same.sort_by_cached_key(|pod| super::earliness(pod));
            stay.extend(same.pop());
            out.extend(same);
        }
        (out, stay)
    }
}
