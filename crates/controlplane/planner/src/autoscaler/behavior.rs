//! How fast a size may change: stabilization windows, scaling policies, and the limits of the spec.

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::status::{Conditions, Kind};
use super::{Settings, Snapshot, least};

/// What was recommended for one autoscaler, and how its target was scaled. In memory only: after a restart, the first
/// recommendation is the size that is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Before stabilization.
    recommendations: Vec<(Timestamp, i32)>,
    /// How many replicas were added.
    added: Vec<(Timestamp, i32)>,
    /// How many were taken away.
    removed: Vec<(Timestamp, i32)>,
}

/// More entries than this are not kept: the oldest go. One a second fills the longest window that is allowed.
const MOST: usize = 3600;

fn before(now: Timestamp, seconds: i32) -> Timestamp {
    now.saturating_sub(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MIN)
}

fn push(list: &mut Vec<(Timestamp, i32)>, now: Timestamp, longest: i32, entry: i32) {
    let cut = before(now, longest);
    list.retain(|(at, _)| *at >= cut);
    if list.len() >= MOST {
        list.remove(0);
    }
    list.push((now, entry));
}

impl History {
    /// Remembers the size that is found first, so that a restart scales nothing down at once.
    pub(super) fn begin(&mut self, present: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, present));
        }
    }

    /// Remembers that a target was scaled; without a behavior nobody asks.
    pub(super) fn scaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let (list, rules) = if to > from {
            (&mut self.added, behavior.scale_up.as_ref())
        } else {
            (&mut self.removed, behavior.scale_down.as_ref())
        };
        let periods = rules.and_then(|rules| rules.policies.as_ref()).into_iter().flatten();
        // The default policies look back 15 seconds.
        let longest = periods.map(|policy| policy.period_seconds).max().unwrap_or(15);
        push(list, now, longest, (to - from).abs());
    }

    /// The size at the beginning of a period.
    fn at_start(&self, present: i32, seconds: i32, now: Timestamp) -> i32 {
        let cut = before(now, seconds);
        let sum = |list: &[(Timestamp, i32)]| {
            let within = list.iter().filter(|(at, _)| *at > cut);
            within.fold(0_i32, |sum, (_, count)| sum.saturating_add(*count))
        };
        present.saturating_sub(sum(&self.added)).saturating_add(sum(&self.removed))
    }
}

/// Rules of one direction, defaults filled in.
struct Rules<'a> {
    window: i32,
    select: &'a str,
    policies: &'a [HPAScalingPolicy],
}

impl<'a> Rules<'a> {
    fn new(rules: Option<&'a HPAScalingRules>, window: i32, policies: &'a [HPAScalingPolicy]) -> Self {
        Self {
            window: rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(window),
            select: rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max"),
            policies: rules
                .and_then(|rules| rules.policies.as_deref())
                .filter(|own| !own.is_empty())
                .unwrap_or(policies),
        }
    }
}

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { period_seconds: 15, type_: kind.to_owned(), value }
}

/// A size within all limits, and what limited it.
struct Limited {
    size: i32,
    reason: &'static str,
    message: &'static str,
}

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const FAST_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const FAST_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl Limited {
    fn new(size: i32, (reason, message): (&'static str, &'static str)) -> Self {
        Self { size, reason, message }
    }
}

/// Makes of what the metrics call for what may be done now.
pub(super) fn normalize(
    snapshot: &Snapshot<'_>,
    history: &mut History,
    conditions: &mut Conditions,
    desired: i32,
) -> i32 {
    let (stable, reason, limited) = match &snapshot.autoscaler.spec.behavior {
        None => {
            let stable = stabilize_plain(history, desired, snapshot.settings, snapshot.now);
            (stable, "ScaleDownStabilized", limit_plain(snapshot, stable))
        }
        Some(behavior) => {
            let (ups, downs) = ([policy("Pods", 4), policy("Percent", 100)], [policy("Percent", 100)]);
            let window = snapshot.settings.downscale_stabilization.as_secs();
            let window = i32::try_from(window).unwrap_or(i32::MAX);
            let up = Rules::new(behavior.scale_up.as_ref(), 0, &ups);
            let down = Rules::new(behavior.scale_down.as_ref(), window, &downs);
            let present = snapshot.scale.wanted;
            let stable = stabilize(history, (present, desired), (up.window, down.window), snapshot.now);
            let reason = if desired >= present { "ScaleUpStabilized" } else { "ScaleDownStabilized" };
            (stable, reason, limit(snapshot, history, stable, (&up, &down)))
        }
    };
    if stable == desired {
        let message = "recommended size matches current size";
        conditions.set(Kind::AbleToScale, true, "ReadyForNewScale", message);
    } else {
        let message = match reason {
            "ScaleUpStabilized" => {
                "recent recommendations were lower than current one, applying the lowest recent recommendation"
            }
            _ => {
                "recent recommendations were higher than current one, applying the highest recent recommendation"
            }
        };
        conditions.set(Kind::AbleToScale, true, reason, message);
    }
    conditions.set(Kind::ScalingLimited, limited.size != stable, limited.reason, limited.message);
    limited.size
}

/// Never below the highest recommendation of the window.
fn stabilize_plain(history: &mut History, desired: i32, settings: &Settings, now: Timestamp) -> i32 {
    let window = i32::try_from(settings.downscale_stabilization.as_secs()).unwrap_or(i32::MAX);
    push(&mut history.recommendations, now, window, desired);
    history.recommendations.iter().map(|(_, size)| *size).max().unwrap_or(desired)
}

/// At least twice as many, or four, at a time.
fn limit_plain(snapshot: &Snapshot<'_>, desired: i32) -> Limited {
    let fastest = snapshot.scale.wanted.saturating_mul(2).max(4);
    let most = snapshot.autoscaler.spec.max_replicas;
    let (most, why) = if most > fastest { (fastest, FAST_UP) } else { (most, MANY) };
    let least = least(snapshot.autoscaler);
    if desired < least {
        Limited::new(least, FEW)
    } else if desired > most {
        Limited::new(most, why)
    } else {
        Limited::new(desired, WITHIN)
    }
}

/// Not above the lowest recommendation of the one window, and not below the highest of the other.
fn stabilize(
    history: &mut History,
    (present, desired): (i32, i32),
    (up, down): (i32, i32),
    now: Timestamp,
) -> i32 {
    let within = |seconds: i32| {
        let cut = before(now, seconds);
        history.recommendations.iter().filter(move |(at, _)| *at > cut).map(|(_, size)| *size)
    };
    let lowest = within(up).fold(desired, i32::min);
    let highest = within(down).fold(desired, i32::max);
    push(&mut history.recommendations, now, up.max(down), desired);
    present.max(lowest).min(highest)
}

fn limit(
    snapshot: &Snapshot<'_>,
    history: &History,
    desired: i32,
    (up, down): (&Rules<'_>, &Rules<'_>),
) -> Limited {
    let present = snapshot.scale.wanted;
    if desired > present {
        let fastest = fastest_up(history, present, up, snapshot.now).max(present);
        let most = snapshot.autoscaler.spec.max_replicas;
        let (most, why) = if most > fastest { (fastest, FAST_UP) } else { (most, MANY) };
        if desired > most {
            return Limited::new(most, why);
        }
    } else if desired < present {
        let fastest = fastest_down(history, present, down, snapshot.now).min(present);
        let least = least(snapshot.autoscaler);
        let (least, why) = if least < fastest { (fastest, FAST_DOWN) } else { (least, FEW) };
        if desired < least {
            return Limited::new(least, why);
        }
    }
    Limited::new(desired, WITHIN)
}

fn fastest_up(history: &History, present: i32, rules: &Rules<'_>, now: Timestamp) -> i32 {
    let proposed = rules.policies.iter().map(|policy| {
        let start = history.at_start(present, policy.period_seconds, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            // Rounded up: from one replica there would be no way otherwise.
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    match rules.select {
        "Disabled" => present,
        "Min" => proposed.min().unwrap_or(present),
        _ => proposed.max().unwrap_or(present),
    }
}

fn fastest_down(history: &History, present: i32, rules: &Rules<'_>, now: Timestamp) -> i32 {
    let proposed = rules.policies.iter().map(|policy| {
        let start = history.at_start(present, policy.period_seconds, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_sub(policy.value),
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    match rules.select {
        "Disabled" => present,
        // The least change leaves the most.
        "Min" => proposed.max().unwrap_or(present),
        _ => proposed.min().unwrap_or(present),
    }
}
