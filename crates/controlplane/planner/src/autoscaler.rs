//! How many replicas a workload needs, by what is measured of it: HorizontalPodAutoscalers.
//!
//! [`wants`] says whether metrics are needed at all. [`plan`] takes everything that was read, what an API said of each
//! metric among it, and returns the status to write and the size to set, with reasons; [`Plan::rescaled`] takes in
//! whether that size could be set. What was recommended and done before is a [`History`]: the stabilization windows and
//! the rates of the behavior are reckoned from it.
//!
//! A reading is one number, for a pod or for an object. Where it comes from (an API, a forecast) is not known here.

mod behavior;
mod metric;
mod pods;
mod replicas;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::quantity;
use crate::rollout::Notice;

pub use behavior::History;
use metric::{Failure, Proposal};
pub use replicas::Tolerance;
pub use status::scale_unknown;
use status::{Conditions, Kind};

/// What a cluster's administrator decides for all autoscalers.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Between two looks at an autoscaler.
    pub sync: SignedDuration,
    /// A usage this close to its target (as a part of it) changes nothing, where the behavior says nothing else.
    pub tolerance: f64,
    /// For so long after a pod has started, its CPU counts only when it is ready, and was measured since it was.
    pub cpu_initialization: SignedDuration,
    /// A pod that became unready within this time after its start has never been ready.
    pub initial_readiness: SignedDuration,
    /// Nothing is scaled below the highest recommendation of this time, where the behavior says nothing else.
    pub downscale_stabilization: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sync: SignedDuration::from_secs(15),
            tolerance: 0.1,
            cpu_initialization: SignedDuration::from_secs(300),
            initial_readiness: SignedDuration::from_secs(30),
            downscale_stabilization: SignedDuration::from_secs(300),
        }
    }
}

/// What is known of one pod's use of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// In thousandths.
    pub milli: i64,
    /// When it was measured.
    pub at: Timestamp,
    /// Over which time before.
    pub window: SignedDuration,
}

/// Samples by the names of pods.
pub type Samples = BTreeMap<String, Sample>;

/// What was read of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Of each pod.
    Pods(Samples),
    /// Of something else, in thousandths.
    Value(i64),
}

/// The scale of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// How many are asked for.
    pub wanted: i32,
    /// How many there are.
    pub present: i32,
    /// Which pods these are, or why that is not known.
    pub selector: Selection,
}

/// What came of the selector of a scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// It is this, and can be read.
    Good(String),
    /// There is none.
    Missing,
    /// It cannot be read.
    Bad(String),
}

/// Everything that a decision is made from.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The autoscaler.
    pub autoscaler: &'a HorizontalPodAutoscaler,
    /// The scale of its target.
    pub scale: &'a Scale,
    /// The pods that the scale selects.
    pub pods: &'a [&'a Pod],
    /// All autoscalers that these pods belong to, as `namespace/name`; more than one is a conflict.
    pub owners: &'a [String],
    /// What was read of each metric of the spec, in its order, or why nothing was.
    pub readings: &'a [Result<Reading, String>],
    /// The administrator's choices.
    pub settings: &'a Settings,
    /// The present.
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The status to write, when no size is to be set; otherwise see [`Plan::rescaled`].
    pub status: HorizontalPodAutoscalerStatus,
    /// The size to set.
    pub rescale: Option<Rescale>,
    /// What people should know.
    pub notices: Vec<Notice>,
}

/// A size to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescale {
    /// What it is now.
    pub from: i32,
    /// What it is to be.
    pub to: i32,
    /// Why.
    pub reason: String,
}

/// What the present size calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Somebody has set it to zero: nothing is done.
    Off,
    /// It is above the most that is allowed.
    TooMany,
    /// It is below the least that is allowed.
    TooFew,
    /// The metrics decide.
    Metrics,
}

fn least(autoscaler: &HorizontalPodAutoscaler) -> i32 {
    autoscaler.spec.min_replicas.unwrap_or(1)
}

/// Whether a metric is there even when there are no pods.
fn has_outside_metric(autoscaler: &HorizontalPodAutoscaler) -> bool {
    autoscaler
        .spec
        .metrics
        .iter()
        .flatten()
        .any(|metric| matches!(metric.type_.as_str(), "Object" | "External"))
}

/// What a scale calls for. Metrics need be read for [`Course::Metrics`] alone.
pub fn wants(autoscaler: &HorizontalPodAutoscaler, scale: &Scale) -> Course {
    let least = least(autoscaler);
    // A zero of the autoscaler's own making ends when the metrics say so; anybody else's is a way to switch it off.
    let own_zero = status::holds(autoscaler, Kind::ScaledToZero) && has_outside_metric(autoscaler);
    match scale.wanted {
        0 if !own_zero => Course::Off,
        0 => Course::Metrics,
        wanted if wanted > autoscaler.spec.max_replicas => Course::TooMany,
        wanted if wanted < least => Course::TooFew,
        _ => Course::Metrics,
    }
}

/// Decides.
pub fn plan(snapshot: &Snapshot<'_>, history: &mut History) -> Plan {
    let spec = &snapshot.autoscaler.spec;
    let mut conditions = Conditions::of(snapshot.autoscaler, snapshot.now);
    let message = "the HPA controller was able to get the target's current scale";
    conditions.set(Kind::AbleToScale, true, "SucceededGetScale", message);
    let present = snapshot.scale.wanted;
    history.begin(present, snapshot.now);
    let rescale = |to: i32, reason: &str| Some(Rescale { from: present, to, reason: reason.to_owned() });
    let mut out = Outcome { present, metrics: None, conditions, notices: Vec::new() };
    match wants(snapshot.autoscaler, snapshot.scale) {
        Course::Off => {
            let message = "scaling is disabled since the replica count of the target is zero";
            out.conditions.set(Kind::ScalingActive, false, "ScalingDisabled", message);
            out.into_plan(snapshot, None)
        }
        Course::TooMany => {
            let rescale = rescale(spec.max_replicas, "Current number of replicas above Spec.MaxReplicas");
            out.into_plan(snapshot, rescale)
        }
        Course::TooFew => {
            let rescale =
                rescale(least(snapshot.autoscaler), "Current number of replicas below Spec.MinReplicas");
            out.into_plan(snapshot, rescale)
        }
        Course::Metrics => match by_metrics(snapshot, &mut out) {
            Ok((desired, metric)) => {
                let reason = match desired {
                    more if more > present => format!("{metric} above target"),
                    _ => "All metrics below target".to_owned(),
                };
                let desired = behavior::normalize(snapshot, history, &mut out.conditions, desired);
                let rescale = (desired != present).then_some(Rescale { from: present, to: desired, reason });
                out.into_plan(snapshot, rescale)
            }
            Err(why) => {
                out.notices.push(Notice::warning("FailedComputeMetricsReplicas", why));
                out.failed(snapshot)
            }
        },
    }
}

/// What has come out so far.
struct Outcome {
    present: i32,
    metrics: Option<Vec<MetricStatus>>,
    conditions: Conditions,
    notices: Vec<Notice>,
}

impl Outcome {
    fn into_plan(self, snapshot: &Snapshot<'_>, rescale: Option<Rescale>) -> Plan {
        let status = HorizontalPodAutoscalerStatus {
            conditions: Some(self.conditions.list),
            current_metrics: self.metrics,
            current_replicas: Some(self.present),
            desired_replicas: self.present,
            last_scale_time: status::last_scale(snapshot.autoscaler),
            observed_generation: snapshot.autoscaler.metadata.generation,
        };
        Plan { status, rescale, notices: self.notices }
    }

    /// Nothing could be decided: what was desired stays.
    fn failed(self, snapshot: &Snapshot<'_>) -> Plan {
        let desired = snapshot.autoscaler.status.as_ref().map_or(0, |status| status.desired_replicas);
        let mut plan = self.into_plan(snapshot, None);
        plan.status.desired_replicas = desired;
        plan
    }
}

impl Plan {
    /// Takes in what came of setting the size.
    pub fn rescaled(&mut self, snapshot: &Snapshot<'_>, history: &mut History, outcome: Result<(), &str>) {
        let Some(Rescale { from, to, reason }) = self.rescale.clone() else { return };
        let mut conditions =
            Conditions { list: self.status.conditions.take().unwrap_or_default(), now: snapshot.now };
        match outcome {
            Ok(()) => {
                let message = format!("the HPA controller was able to update the target scale to {to}");
                conditions.set(Kind::AbleToScale, true, "SucceededRescale", message);
                let zero = from > 0
                    && to == 0
                    && least(snapshot.autoscaler) == 0
                    && has_outside_metric(snapshot.autoscaler);
                if zero {
                    let message = "the HPA controller scaled the workload to zero";
                    conditions.set(Kind::ScaledToZero, true, "ScaledToZero", message);
                } else {
                    let message = "the HPA controller did not scale the workload to zero";
                    conditions.set(Kind::ScaledToZero, false, "NotScaledToZero", message);
                }
                self.notices
                    .push(Notice::normal("SuccessfulRescale", format!("New size: {to}; reason: {reason}")));
                history.scaled(snapshot.autoscaler.spec.behavior.as_ref(), from, to, snapshot.now);
                self.status.desired_replicas = to;
                self.status.last_scale_time = Some(status::time(snapshot.now));
            }
            Err(why) => {
                let message = format!("the HPA controller was unable to update the target scale: {why}");
                conditions.set(Kind::AbleToScale, false, "FailedUpdateScale", message);
                let text = format!("New size: {to}; reason: {reason}; error: {why}");
                self.notices.push(Notice::warning("FailedRescale", text));
                let before = snapshot.autoscaler.status.as_ref();
                self.status.desired_replicas = before.map_or(0, |status| status.desired_replicas);
            }
        }
        self.status.conditions = Some(conditions.list);
    }
}

/// Why the pods of a scale cannot be told.
fn check_selector(snapshot: &Snapshot<'_>, out: &mut Outcome) -> Result<(), String> {
    let (reason, event, message, error) = match &snapshot.scale.selector {
        Selection::Good(selector) if snapshot.owners.len() > 1 => {
            let all = snapshot.owners.join(" ");
            let why = format!("pods by selector {selector} are controlled by multiple HPAs: [{all}]");
            ("AmbiguousSelector", "AmbiguousSelector", why.clone(), why)
        }
        Selection::Good(_) => return Ok(()),
        Selection::Missing => (
            "InvalidSelector",
            "SelectorRequired",
            "the HPA target's scale is missing a selector".to_owned(),
            "selector is required".to_owned(),
        ),
        Selection::Bad(why) => {
            let why =
                format!("couldn't convert selector into a corresponding internal selector object: {why}");
            ("InvalidSelector", "InvalidSelector", why.clone(), why)
        }
    };
    out.conditions.set(Kind::ScalingActive, false, reason, message);
    out.notices.push(Notice::warning(event, error.clone()));
    Err(error)
}

/// The highest of what the metrics propose, and which it was.
fn by_metrics(snapshot: &Snapshot<'_>, out: &mut Outcome) -> Result<(i32, String), String> {
    check_selector(snapshot, out)?;
    let specs = snapshot.autoscaler.spec.metrics.as_deref().unwrap_or_default();
    let tolerance = tolerance(snapshot);
    let mut statuses = Vec::with_capacity(specs.len());
    let mut best: Option<Proposal> = None;
    let mut failures: Vec<Failure> = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let unread = Err("the metric was not read".to_owned());
        let reading = snapshot.readings.get(at).unwrap_or(&unread);
        match metric::propose(snapshot, spec, reading, tolerance) {
            Ok(mut proposal) => {
                statuses.push(std::mem::take(&mut proposal.status));
                let higher = best.as_ref().is_none_or(|b| b.replicas == 0 || proposal.replicas > b.replicas);
                if higher {
                    best = Some(proposal);
                }
            }
            Err(failure) => {
                statuses.push(MetricStatus::default());
                out.notices.push(Notice::warning(failure.reason, failure.why.clone()));
                failures.push(failure);
            }
        }
    }
    // One for each metric of the spec: clients look them up by their place.
    out.metrics = Some(statuses);
    let replicas = best.as_ref().map_or(0, |best| best.replicas);
    if let Some(first) = failures.first()
        // What is not known might be high: nothing is scaled down on half of what was asked for.
        && (best.is_none() || replicas < snapshot.scale.wanted)
    {
        let message = format!("the HPA was unable to compute the replica count: {}", first.why);
        out.conditions.set(Kind::ScalingActive, false, first.reason, message);
        let (bad, all) = (failures.len(), specs.len());
        return Err(format!("invalid metrics ({bad} invalid out of {all}), first error is: {}", first.full));
    }
    let Some(best) = best else { return Err("the HPA has no metrics".to_owned()) };
    let message = format!("the HPA was able to successfully calculate a replica count from {}", best.metric);
    out.conditions.set(Kind::ScalingActive, true, "ValidMetricFound", message);
    // A zero that the autoscaler made before its least was raised ends at that least.
    let from_zero = snapshot.scale.wanted == 0;
    let desired = if from_zero { best.replicas.max(least(snapshot.autoscaler)) } else { best.replicas };
    Ok((desired, best.metric))
}

fn tolerance(snapshot: &Snapshot<'_>) -> Tolerance {
    let of = |rules: Option<&HPAScalingRules>| {
        let own = rules.and_then(|rules| rules.tolerance.as_ref());
        own.and_then(|own| quantity::number(&own.0)).unwrap_or(snapshot.settings.tolerance)
    };
    let behavior = snapshot.autoscaler.spec.behavior.as_ref();
    Tolerance {
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
    }
}
