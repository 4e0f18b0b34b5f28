//! How many pods may be disrupted at will: what a PodDisruptionBudget's status says.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::pods;
use crate::rollout::resolve;

/// An evicted pod counts as gone for this long; if it is still there then, it stays.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);

/// How the pods are counted that there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Those that there are: the budget says a plain number.
    Pods,
    /// Those that their controllers want.
    Scale,
}

/// What the budget's numbers are relative to.
pub fn basis(budget: &PodDisruptionBudget) -> Basis {
    let spec = budget.spec.as_ref();
    let percent =
        spec.and_then(|s| s.min_available.as_ref()).is_some_and(|m| matches!(m, IntOrString::String(_)));
    if percent || spec.is_some_and(|s| s.max_unavailable.is_some()) { Basis::Scale } else { Basis::Pods }
}

/// The status of a budget over the pods that it selects, of which there should be `expected`; and when to look again.
pub fn status(
    budget: &PodDisruptionBudget,
    selected: &[&Pod],
    expected: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Timestamp>) {
    let (old, spec) = (budget.status.clone().unwrap_or_default(), budget.spec.clone().unwrap_or_default());
    let amount = |value, all| resolve(Some(value), all, true, &IntOrString::Int(0));
    let (desired, expected) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => ((expected - amount(most, expected)).max(0), expected),
        (None, Some(least)) => (amount(least, expected), expected),
        (None, None) => (0, 0),
    };
    let (disrupted, again) = disrupted(&old, selected, now);
    let healthy = selected.iter().filter(|pod| {
        let counted = disrupted.contains_key(pods::name(&pod.metadata));
        !pods::terminating(pod) && !counted && pods::ready(pod)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let generation = budget.metadata.generation;
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(old.conditions, allowed > 0, None, generation, now)),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: generation,
    };
    (status, again)
}

/// How long a pod may be marked for disruption before the mark is taken to be stale.
const STALE: SignedDuration = SignedDuration::from_secs(120);

/// When the mark of a pod that was to be disrupted, and was not, is stale: never when its node set it.
pub fn stale_at(pod: &Pod) -> Option<Timestamp> {
    let mark = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True")?;
    if !pods::active(pod) || mark.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = mark.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    since.checked_add(STALE).ok()
}

/// Pods that a budget let go, and that are still there.
pub fn not_deleted<'a>(
    budget: &'a PodDisruptionBudget,
    selected: &'a [&'a Pod],
    now: Timestamp,
) -> impl Iterator<Item = &'a Pod> {
    let waiting = budget.status.iter().flat_map(|s| s.disrupted_pods.iter().flatten());
    let over =
        waiting.filter(move |(_, since)| since.0.checked_add(DELETION_TIMEOUT).is_ok_and(|at| at < now));
    over.filter_map(|(name, _)| {
        let pod = selected.iter().find(|pod| pods::name(&pod.metadata) == name)?;
        (!pods::terminating(pod)).then_some(*pod)
    })
}

/// The status when nobody knows how many pods there should be: no disruption is allowed.
pub fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let seen = status.observed_generation;
    status.conditions = Some(conditions(status.conditions, false, Some(why), seen, now));
    status
}

/// Evicted pods that are still expected to go.
fn disrupted(
    old: &PodDisruptionBudgetStatus,
    selected: &[&Pod],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Timestamp>) {
    let mut out = BTreeMap::new();
    let mut again: Option<Timestamp> = None;
    let Some(waiting) = old.disrupted_pods.as_ref().filter(|waiting| !waiting.is_empty()) else {
        return (out, again);
    };
    // A drain lets many of very many pods go.
    let by_name: HashMap<&str, &Pod> = selected.iter().map(|pod| (pods::name(&pod.metadata), *pod)).collect();
    for (name, since) in waiting {
        let there = by_name.get(name.as_str());
        let until = since.0.checked_add(DELETION_TIMEOUT).unwrap_or(since.0);
        if there.is_some_and(|pod| !pods::terminating(pod)) && until >= now {
            out.insert(name.clone(), since.clone());
            again = Some(again.map_or(until, |again| again.min(until)));
        }
    }
    (out, again)
}

fn conditions(
    old: Option<Vec<Condition>>,
    allowed: bool,
    failure: Option<&str>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    const KIND: &str = "DisruptionAllowed";
    let mut all = old.unwrap_or_default();
    let state = if allowed { "True" } else { "False" };
    let since =
        all.iter().find(|c| c.type_ == KIND && c.status == state).map(|c| c.last_transition_time.clone());
    let reason = match (failure, allowed) {
        (Some(_), _) => "SyncFailed",
        (None, true) => "SufficientPods",
        (None, false) => "InsufficientPods",
    };
    let new = Condition {
        last_transition_time: since.unwrap_or(Time(now)),
        message: failure.unwrap_or_default().to_owned(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: state.to_owned(),
        type_: KIND.to_owned(),
    };
    match all.iter_mut().find(|c| c.type_ == KIND) {
        Some(condition) => *condition = new,
        None => all.push(new),
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        let conditions = json!([{"type": "Ready", "status": ready}]);
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": conditions}}))
            .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn numbers_and_percentages_are_what_upstream_makes_of_them() {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        let refs: Vec<&Pod> = pods.iter().collect();
        let cases = [
            (json!({"minAvailable": 1}), 3, (2, 1, 1)),
            (json!({"minAvailable": "50%"}), 3, (2, 2, 0)),
            (json!({"maxUnavailable": 1}), 3, (2, 2, 0)),
            (json!({"maxUnavailable": "30%"}), 10, (2, 7, 0)),
            (json!({"maxUnavailable": 2}), 3, (2, 1, 1)),
            (json!({"maxUnavailable": 5}), 3, (2, 0, 2)),
            (json!({"minAvailable": 0}), 0, (2, 0, 0)),
        ];
        for (spec, expected, wanted) in cases {
            let (status, _) = status(&budget(spec.clone(), json!(null)), &refs, expected, now());
            let got = (status.current_healthy, status.desired_healthy, status.disruptions_allowed);
            let wanted = (Some(wanted.0), Some(wanted.1), Some(wanted.2));
            assert_eq!(got, wanted, "{spec}");
            assert_eq!(status.observed_generation, Some(2));
        }
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_until_its_time_is_over() {
        let pods = [pod("a", true), pod("b", true), pod("c", true)];
        let refs: Vec<&Pod> = pods.iter().collect();
        let old = json!({
            "currentHealthy": 3, "desiredHealthy": 1, "disruptionsAllowed": 2, "expectedPods": 3,
            "disruptedPods": {"a": "2026-01-01T00:09:00Z", "b": "2026-01-01T00:01:00Z", "gone": "2026-01-01T00:09:59Z"},
        });
        let (status, again) = status(&budget(json!({"minAvailable": 1}), old), &refs, 3, now());
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(2), Some(1)));
        assert_eq!(status.disrupted_pods.unwrap().keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(again.unwrap().to_string(), "2026-01-01T00:11:00Z");
    }

    #[test]
    fn marks_become_stale() {
        let marked = |mark: Value, more: Value| -> Pod {
            let mut pod = json!({"metadata": {"name": "a"}, "status": {"conditions": [mark]}});
            pod["metadata"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(pod).unwrap()
        };
        let mark = |status: &str, reason: &str| {
            json!({"type": "DisruptionTarget", "status": status, "reason": reason,
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let at = |pod: &Pod| stale_at(pod).map(|t| t.to_string());
        let due = Some("2026-01-01T00:02:00Z".to_owned());
        assert_eq!(at(&marked(mark("True", "EvictionByEvictionAPI"), json!({}))), due);
        assert_eq!(at(&marked(mark("False", "EvictionByEvictionAPI"), json!({}))), None);
        assert_eq!(at(&marked(mark("True", "TerminationByKubelet"), json!({}))), None);
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(at(&marked(mark("True", "EvictionByEvictionAPI"), gone)), None);
    }

    #[test]
    fn pods_that_were_let_go_and_stayed_are_named() {
        let old = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            "disruptedPods": {"a": "2026-01-01T00:01:00Z", "b": "2026-01-01T00:09:30Z", "gone": "2026-01-01T00:00:00Z"}});
        let pods = [pod("a", true), pod("b", true)];
        let refs: Vec<&Pod> = pods.iter().collect();
        let budget = budget(json!({}), old);
        let names: Vec<&str> =
            not_deleted(&budget, &refs, now()).map(|pod| crate::pods::name(&pod.metadata)).collect();
        assert_eq!(names, ["a"]);
    }
}
