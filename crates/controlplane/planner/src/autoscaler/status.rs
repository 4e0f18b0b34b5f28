//! The status of an autoscaler: its conditions.

use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::Plan;
use crate::rollout::Notice;

/// The conditions that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    AbleToScale,
    ScalingActive,
    ScalingLimited,
    ScaledToZero,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::AbleToScale => "AbleToScale",
            Self::ScalingActive => "ScalingActive",
            Self::ScalingLimited => "ScalingLimited",
            Self::ScaledToZero => "ScaledToZero",
        }
    }
}

/// Conditions that are being set.
pub(super) struct Conditions {
    pub list: Vec<HorizontalPodAutoscalerCondition>,
    pub now: Timestamp,
}

impl Conditions {
    pub fn of(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Self {
        let list = autoscaler.status.as_ref().and_then(|status| status.conditions.clone());
        Self { list: list.unwrap_or_default(), now }
    }

    pub fn set(&mut self, kind: Kind, holds: bool, reason: &str, message: impl Into<String>) {
        let status = if holds { "True" } else { "False" };
        let index = self.list.iter().position(|c| c.type_ == kind.name()).unwrap_or_else(|| {
            let new =
                HorizontalPodAutoscalerCondition { type_: kind.name().to_owned(), ..Default::default() };
            self.list.push(new);
            self.list.len() - 1
        });
        let condition = &mut self.list[index];
        if condition.status != status {
            status.clone_into(&mut condition.status);
            condition.last_transition_time = Some(time(self.now));
        }
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.into());
    }
}

/// A time as objects carry it: in whole seconds.
pub(super) fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Whether a condition of the status is true.
pub(super) fn holds(autoscaler: &HorizontalPodAutoscaler, kind: Kind) -> bool {
    let conditions = autoscaler.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind.name() && c.status == "True")
}

/// When the size was last set.
pub(super) fn last_scale(autoscaler: &HorizontalPodAutoscaler) -> Option<Time> {
    autoscaler.status.as_ref().and_then(|status| status.last_scale_time.clone())
}

/// What is left to say when the scale of the target could not be read.
pub fn scale_unknown(autoscaler: &HorizontalPodAutoscaler, why: &str, now: Timestamp) -> Plan {
    let mut conditions = Conditions::of(autoscaler, now);
    let message = format!("the HPA controller was unable to get the target's current scale: {why}");
    conditions.set(Kind::AbleToScale, false, "FailedGetScale", message);
    let before = autoscaler.status.clone().unwrap_or_default();
    let status = HorizontalPodAutoscalerStatus {
        conditions: Some(conditions.list),
        observed_generation: autoscaler.metadata.generation,
        ..before
    };
    Plan { status, rescale: None, notices: vec![Notice::warning("FailedGetScale", why)] }
}
