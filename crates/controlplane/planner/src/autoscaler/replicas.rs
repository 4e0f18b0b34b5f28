//! From usage to a number of replicas.
//!
//! Samples of pods are averaged and compared with the target. Where pods are not measured, the answer errs towards
//! doing nothing: on the way up they count as idle, on the way down as busy, and if that turns the direction around,
//! the size stays.

use std::collections::BTreeMap;

use super::pods::{self, Groups};
use super::{Sample, Samples, Snapshot};
use crate::pods as facts;

/// How far usage may be from its target, as parts of it, without anything being done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Below the target.
    pub down: f64,
    /// Above it.
    pub up: f64,
}

impl Tolerance {
    fn holds(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What was reckoned: the size, and the usage that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reckoned {
    pub replicas: i32,
    /// In percent of what was asked for, where that is the target.
    pub percent: Option<i32>,
    /// In thousandths.
    pub usage: i64,
}

/// Samples against a target.
struct Ratio {
    ratio: f64,
    percent: Option<i32>,
    usage: i64,
}

/// Rounded up. Casts of floating point numbers saturate.
fn ceil(number: f64) -> i32 {
    number.ceil() as i32
}

fn no_pods() -> String {
    "no pods returned by selector while calculating replica count".to_owned()
}

/// Sorts out whose samples count; at least one must.
fn sort<'a>(snapshot: &Snapshot<'a>, samples: &mut Samples, is_cpu: bool) -> Result<Groups<'a>, String> {
    if snapshot.pods.is_empty() {
        return Err(no_pods());
    }
    let groups = pods::group(snapshot.pods, samples, is_cpu, snapshot.settings, snapshot.now);
    for name in groups.ignored.iter().chain(&groups.unready) {
        samples.remove(*name);
    }
    Ok(groups)
}

fn unmeasured() -> String {
    "did not receive metrics for targeted pods (pods might be unready)".to_owned()
}

/// By what pods use of a resource, in percent of what they asked for.
pub(super) fn by_utilization(
    snapshot: &Snapshot<'_>,
    mut samples: Samples,
    container: Option<&str>,
    resource: &str,
    (target, tolerance): (i32, Tolerance),
) -> Result<Reckoned, String> {
    let groups = sort(snapshot, &mut samples, resource == "cpu")?;
    if samples.is_empty() {
        return Err(unmeasured());
    }
    let requests = pods::requests(snapshot.pods, container, resource)?;
    let busy = i64::from(target.max(100));
    let fallback =
        |pod: &str| requests.get(pod).map_or(0, |milli| (i128::from(*milli) * i128::from(busy) / 100) as i64);
    let ratio = |samples: &Samples| utilization(samples, &requests, target);
    settle(snapshot.scale.wanted, &groups, samples, tolerance, fallback, ratio)
}

/// By what pods use on average, against an absolute target.
pub(super) fn by_average(
    snapshot: &Snapshot<'_>,
    mut samples: Samples,
    is_cpu: bool,
    (target, tolerance): (i64, Tolerance),
) -> Result<Reckoned, String> {
    let groups = sort(snapshot, &mut samples, is_cpu)?;
    if samples.is_empty() {
        return Err(unmeasured());
    }
    let ratio = |samples: &Samples| Ok(average(samples, target));
    settle(snapshot.scale.wanted, &groups, samples, tolerance, |_| target, ratio)
}

fn utilization(samples: &Samples, requests: &BTreeMap<&str, i64>, target: i32) -> Result<Ratio, String> {
    let (mut used, mut asked, mut count) = (0_i128, 0_i128, 0_i128);
    for (pod, sample) in samples {
        // A sample without a pod is of one that went.
        let Some(request) = requests.get(pod.as_str()) else { continue };
        used += i128::from(sample.milli);
        asked += i128::from(*request);
        count += 1;
    }
    if asked == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used * 100 / asked).unwrap_or(i32::MAX);
    let usage = i64::try_from(used / count).unwrap_or(i64::MAX);
    Ok(Ratio { ratio: f64::from(percent) / f64::from(target), percent: Some(percent), usage })
}

fn average(samples: &Samples, target: i64) -> Ratio {
    let sum: i128 = samples.values().map(|sample| i128::from(sample.milli)).sum();
    let usage = i64::try_from(sum / (samples.len().max(1) as i128)).unwrap_or(i64::MAX);
    Ratio { ratio: usage as f64 / target as f64, percent: None, usage }
}

/// Turns a ratio into a size, with what is not measured filled in for the worse.
fn settle(
    present: i32,
    groups: &Groups<'_>,
    mut samples: Samples,
    tolerance: Tolerance,
    busy: impl Fn(&str) -> i64,
    ratio: impl Fn(&Samples) -> Result<Ratio, String>,
) -> Result<Reckoned, String> {
    let first = ratio(&samples)?;
    let with = |replicas| Reckoned { replicas, percent: first.percent, usage: first.usage };
    let rebalance = !groups.unready.is_empty() && first.ratio > 1.0;
    if !rebalance && groups.missing.is_empty() {
        if tolerance.holds(first.ratio) {
            return Ok(with(present));
        }
        return Ok(with(ceil(first.ratio * groups.ready as f64)));
    }
    let mut fill = |pod: &str, milli: i64| {
        let any = samples.values().next().copied();
        if let Some(any) = any {
            samples.insert(pod.to_owned(), Sample { milli, ..any });
        }
    };
    for pod in &groups.missing {
        if first.ratio < 1.0 {
            fill(pod, busy(pod));
        } else if first.ratio > 1.0 {
            fill(pod, 0);
        }
    }
    if rebalance {
        groups.unready.iter().for_each(|pod| fill(pod, 0));
    }
    let second = ratio(&samples)?.ratio;
    let turned = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    if tolerance.holds(second) || turned {
        return Ok(with(present));
    }
    let replicas = ceil(second * samples.len() as f64);
    // The number of samples is not the size: what only follows from their difference is not done.
    let against = (second < 1.0 && replicas > present) || (second > 1.0 && replicas < present);
    Ok(with(if against { present } else { replicas }))
}

/// By one number for all, against a target for all.
pub(super) fn by_value(
    snapshot: &Snapshot<'_>,
    usage: i64,
    (target, tolerance): (i64, Tolerance),
) -> Result<Reckoned, String> {
    let present = snapshot.scale.wanted;
    let ratio = usage as f64 / target as f64;
    let with = |replicas| Reckoned { replicas, percent: None, usage };
    if present == 0 {
        // There is nothing to multiply: the number alone decides.
        return Ok(with(ceil(ratio)));
    }
    if tolerance.holds(ratio) {
        return Ok(with(present));
    }
    if snapshot.pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {}", no_pods()));
    }
    let ready = snapshot.pods.iter().filter(|pod| facts::phase(pod) == "Running" && facts::ready(pod));
    Ok(with(ceil(ratio * ready.count() as f64)))
}

/// By one number for all, against a target for each replica.
pub(super) fn by_share(
    snapshot: &Snapshot<'_>,
    usage: i64,
    (target, tolerance): (i64, Tolerance),
) -> Reckoned {
    let there = snapshot.scale.present;
    let ratio = usage as f64 / (target as f64 * f64::from(there));
    let replicas = if tolerance.holds(ratio) { there } else { ceil(usage as f64 / target as f64) };
    let share = if there == 0 { usage as f64 } else { usage as f64 / f64::from(there) };
    Reckoned { replicas, percent: None, usage: share.ceil() as i64 }
}
