//! How many pods a ReplicaSet creates, and which ones it deletes.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::ended_at;
use crate::pods;

/// The most pods that one step creates or deletes.
pub const BURST: usize = 500;

/// The annotation by which users say which replica they would rather lose.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What to do to the pods.
#[derive(Debug, PartialEq)]
pub enum Plan<'a> {
    /// Nothing.
    Keep,
    /// That many more.
    Create(usize),
    /// More, but not before then: the last ones failed as soon as they came.
    Wait(Timestamp),
    /// These, in this order.
    Delete(Vec<&'a Pod>),
}

/// Compares what is wanted with the active pods that the ReplicaSet owns. `related` are the active pods of all
/// ReplicaSets with the same owner: where they crowd a node is where the first replica goes.
pub fn plan<'a>(replicas: i32, owned: &[&'a Pod], related: &[&Pod], now: Timestamp) -> Plan<'a> {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    let active: Vec<&Pod> = owned.iter().copied().filter(|p| pods::active(p)).collect();
    match active.len().cmp(&wanted) {
        Ordering::Equal => Plan::Keep,
        Ordering::Less => match held_until(replicas, owned).filter(|until| *until > now) {
            Some(until) => Plan::Wait(until),
            None => Plan::Create((wanted - active.len()).min(BURST)),
        },
        Ordering::Greater => {
            let count = (active.len() - wanted).min(BURST);
            Plan::Delete(to_delete(active, related, count, now))
        }
    }
}

/// A pod that failed this soon after it came was refused, or cannot work.
const SOON: SignedDuration = SignedDuration::from_secs(60);
/// The longest wait after such failures.
const LONGEST_WAIT: i64 = 300;

/// When pods may be created after some failed as soon as they came: 2 s after the first round of them, then 4 s,
/// 8 s, ... up to 5 min. Those that had worked for a while are replaced at once.
fn held_until(replicas: i32, owned: &[&Pod]) -> Option<Timestamp> {
    let failed = owned.iter().filter(|pod| pods::phase(pod) == "Failed");
    let times: Vec<Timestamp> = failed
        .filter_map(|pod| {
            let (created, ended) = (pods::created(&pod.metadata), ended_at(pod));
            (ended.duration_since(created) < SOON).then_some(ended)
        })
        .collect();
    let last = *times.iter().max()?;
    let lately = last.checked_sub(SignedDuration::from_secs(2 * LONGEST_WAIT)).ok()?;
    let count = times.iter().filter(|at| **at > lately).count();
    let rounds = count.div_ceil(usize::try_from(replicas).unwrap_or(1).max(1)).min(10);
    let seconds = (1_i64 << rounds).min(LONGEST_WAIT);
    last.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn to_delete<'a>(mut active: Vec<&'a Pod>, related: &[&Pod], count: usize, now: Timestamp) -> Vec<&'a Pod> {
    if count < active.len() {
        let mut crowd: HashMap<&str, usize> = HashMap::new();
        for pod in related.iter().filter(|p| pods::active(p)) {
            *crowd.entry(pods::node_name(pod)).or_insert(0) += 1;
        }
        active.sort_by_cached_key(|pod| {
            Rank::new(pod, crowd.get(pods::node_name(pod)).copied().unwrap_or(0), now)
        });
        active.truncate(count);
    }
    active
}

/// The order in which replicas are given up; the fields are compared one after the other.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    crowd: Reverse<usize>,
    ready_for: u32,
    restarts: Reverse<(i32, i32)>,
    age: u32,
    uid: String,
}

impl Rank {
    fn new(pod: &Pod, crowd: usize, now: Timestamp) -> Self {
        let ready = pods::ready(pod);
        Self {
            assigned: !pods::node_name(pod).is_empty(),
            phase: match pods::phase(pod) {
                "Running" => 2,
                "Unknown" => 1,
                _ => 0,
            },
            ready,
            cost: pods::annotation(&pod.metadata, DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0),
            crowd: Reverse(crowd),
            ready_for: pods::ready_since(pod).map_or(0, |since| magnitude(since, now)),
            restarts: Reverse(pods::most_restarts(pod)),
            age: magnitude(pods::created(&pod.metadata), now),
            uid: pods::uid(&pod.metadata).to_owned(),
        }
    }
}

/// Ages are compared by their order of magnitude, so that among replicas of about the same age chance decides.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    let age = now.as_nanosecond() - since.as_nanosecond();
    u64::try_from(age).map_or(0, |age| age.checked_ilog2().unwrap_or(0))
}

/// What could not be done to the pods, as the ReplicaFailure condition tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// The error.
    pub message: String,
}

/// The status as it should be now.
pub fn status(
    replica_set: &ReplicaSet,
    owned: &[&Pod],
    failure: Option<Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let empty = ReplicaSetStatus::default();
    let old = replica_set.status.as_ref().unwrap_or(&empty);
    let min_ready = replica_set.spec.min_ready_seconds.unwrap_or(0);
    let template = replica_set.spec.template.as_ref().and_then(|t| t.metadata.as_ref());
    let wanted = template.and_then(|m| m.labels.as_ref());
    let labelled = |pod: &Pod| {
        let have = pod.metadata.labels.as_ref();
        wanted.into_iter().flatten().all(|(k, v)| have.and_then(|l| l.get(k)) == Some(v))
    };
    let active: Vec<&Pod> = owned.iter().copied().filter(|p| pods::active(p)).collect();
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| test(p)).count() as i32;
    let terminating = owned.iter().filter(|p| pods::terminating(p) && !pods::finished(p)).count() as i32;
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: Some(count(&labelled)),
        ready_replicas: Some(count(&pods::ready)),
        available_replicas: Some(count(&|p| pods::available(p, min_ready, now))),
        terminating_replicas: Some(terminating),
        observed_generation: replica_set.metadata.generation,
        conditions: conditions(old, failure, now),
    }
}

fn conditions(
    old: &ReplicaSetStatus,
    failure: Option<Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut list = old.conditions.clone().unwrap_or_default();
    let at = list.iter().position(|c| c.type_.as_deref() == Some("ReplicaFailure"));
    match (failure, at) {
        (None, Some(at)) => {
            list.remove(at);
        }
        // The first failure stays until all is well: what follows is told by Events.
        (Some(failure), None) => list.push(ReplicaSetCondition {
            type_: Some("ReplicaFailure".into()),
            status: Some("True".into()),
            reason: Some(failure.reason.into()),
            message: Some(failure.message),
            last_transition_time: Some(Time(now)),
        }),
        (Some(_), Some(_)) => {}
        (None, None) => {}
    }
    (!list.is_empty()).then_some(list)
}

/// Whether two statuses differ in anything that readers see.
pub fn same_status(a: &ReplicaSetStatus, b: &ReplicaSetStatus) -> bool {
    let number = |n: Option<i32>| n.unwrap_or(0);
    a.replicas == b.replicas
        && number(a.fully_labeled_replicas) == number(b.fully_labeled_replicas)
        && number(a.ready_replicas) == number(b.ready_replicas)
        && number(a.available_replicas) == number(b.available_replicas)
        && number(a.terminating_replicas) == number(b.terminating_replicas)
        && a.observed_generation == b.observed_generation
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}

/// When the next ready pod becomes available: the moment to look again.
pub fn next_available(owned: &[&Pod], min_ready_seconds: i32, now: Timestamp) -> Option<Timestamp> {
    let waiting = owned.iter().filter(|p| pods::active(p) && pods::ready(p));
    waiting.filter_map(|p| pods::available_at(p, min_ready_seconds)).filter(|at| *at > now).min()
}

#[cfg(test)]
mod tests;
