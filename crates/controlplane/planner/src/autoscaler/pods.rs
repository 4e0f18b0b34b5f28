//! Which pods' samples count, and what the pods have asked for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::jiff::Timestamp;

use super::{Sample, Samples, Settings};
use crate::{pods, quantity};

/// Pods by what their samples are worth.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Groups<'a> {
    /// Ready, and measured.
    pub ready: usize,
    /// Not to be measured yet.
    pub unready: BTreeSet<&'a str>,
    /// To be measured, but not.
    pub missing: BTreeSet<&'a str>,
    /// Failed or on their way out: not counted at all.
    pub ignored: BTreeSet<&'a str>,
}

/// Groups pods. For CPU, what a pod uses while it starts says nothing of its load.
pub(super) fn group<'a>(
    all: &[&'a Pod],
    samples: &Samples,
    is_cpu: bool,
    settings: &Settings,
    now: Timestamp,
) -> Groups<'a> {
    let mut groups = Groups::default();
    for pod in all {
        let name = pods::name(&pod.metadata);
        if pods::terminating(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(name) {
            if is_cpu && is_unready(pod, sample, settings, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

fn is_unready(pod: &Pod, sample: &Sample, settings: &Settings, now: Timestamp) -> bool {
    let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(condition), Some(start)) = (pods::condition(pod, "Ready"), start) else { return true };
    let changed = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let unready = condition.status == "False";
    if start.saturating_add(settings.cpu_initialization).is_ok_and(|end| end > now) {
        // One window must lie behind the last change.
        unready || changed.saturating_add(sample.window).is_ok_and(|first| sample.at < first)
    } else {
        unready && start.saturating_add(settings.initial_readiness).is_ok_and(|end| end > changed)
    }
}

/// What each pod has asked for of a resource, in thousandths; `container`: of this one alone.
pub(super) fn requests<'a>(
    all: &[&'a Pod],
    container: Option<&str>,
    resource: &str,
) -> Result<BTreeMap<&'a str, i64>, String> {
    let asked = |pod: &&'a Pod| {
        let name = pods::name(&pod.metadata);
        request(pod, name, container, resource).map(|milli| (name, milli))
    };
    all.iter().map(asked).collect()
}

fn request(pod: &Pod, name: &str, container: Option<&str>, resource: &str) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let of = |resources: Option<&ResourceRequirements>| {
        resources?.requests.as_ref()?.get(resource).and_then(|text| quantity::milli(&text.0))
    };
    // What the pod as a whole asks for stands above what its containers do.
    if container.is_none() && spec.resources.as_ref().is_some_and(|all| all.requests.is_some()) {
        let missing = || format!("missing pod-level request for {resource} in Pod {name}");
        return of(spec.resources.as_ref()).ok_or_else(missing);
    }
    let stays = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(stays);
    let counted = |c: &&Container| container.is_none_or(|container| container == c.name);
    spec.containers.iter().chain(sidecars).filter(counted).try_fold(0_i64, |sum, c| {
        let missing = || format!("missing request for {resource} in container {} of Pod {name}", c.name);
        Ok(sum.saturating_add(of(c.resources.as_ref()).ok_or_else(missing)?))
    })
}
