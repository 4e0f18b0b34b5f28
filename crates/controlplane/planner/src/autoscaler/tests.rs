//! Tables of what is decided.

mod decisions;
mod pace;
mod sizes;

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;

/// An autoscaler with these metrics.
pub(super) fn autoscaler(
    (least, most): (i32, i32),
    metrics: &Value,
    behavior: Option<&Value>,
) -> HorizontalPodAutoscaler {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "shop", "generation": 1},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": least, "maxReplicas": most, "metrics": metrics,
        },
    });
    if let Some(behavior) = behavior {
        object["spec"]["behavior"] = behavior.clone();
    }
    serde_json::from_value(object).unwrap()
}

pub(super) fn cpu(percent: i32) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

pub(super) fn external(target: &Value) -> Value {
    json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": target}})
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

pub(super) fn at(seconds: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

/// A pod that has run and been ready for an hour, with one container that asks for `request` of CPU.
pub(super) fn pod(name: &str, request: Option<&str>) -> Pod {
    let requests = request.map_or(json!({}), |cpu| json!({"cpu": cpu}));
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]},
        "status": {
            "phase": "Running",
            "startTime": at(-3600),
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(-3590)}],
        },
    }))
    .unwrap()
}

/// So many pods `p0`, `p1`, … that ask for one CPU.
pub(super) fn pods(count: usize) -> Vec<Pod> {
    (0..count).map(|index| pod(&format!("p{index}"), Some("1"))).collect()
}

/// What `p0`, `p1`, … use.
pub(super) fn samples(levels: &[i64]) -> Reading {
    let window = SignedDuration::from_secs(15);
    let sample = |milli: &i64| Sample { milli: *milli, at: now(), window };
    Reading::Pods(
        levels.iter().enumerate().map(|(index, milli)| (format!("p{index}"), sample(milli))).collect(),
    )
}

/// One decision.
pub(super) struct Case {
    pub autoscaler: HorizontalPodAutoscaler,
    pub scale: Scale,
    pub pods: Vec<Pod>,
    pub owners: Vec<String>,
    pub readings: Vec<Result<Reading, String>>,
    pub now: Timestamp,
}

impl Case {
    pub fn new(autoscaler: HorizontalPodAutoscaler, present: i32, readings: Vec<Reading>) -> Self {
        Self {
            autoscaler,
            scale: Scale { wanted: present, present, selector: Selection::Good("app=web".to_owned()) },
            pods: pods(usize::try_from(present).unwrap()),
            owners: vec!["shop/web".to_owned()],
            readings: readings.into_iter().map(Ok).collect(),
            now: now(),
        }
    }

    /// Decides and takes in that the size was set.
    pub fn run(&self, history: &mut History) -> Plan {
        self.run_with(history, Ok(()))
    }

    pub fn run_with(&self, history: &mut History, outcome: Result<(), &str>) -> Plan {
        let (settings, pods) = (Settings::default(), self.pods.iter().collect::<Vec<_>>());
        let snapshot = Snapshot {
            autoscaler: &self.autoscaler,
            scale: &self.scale,
            pods: &pods,
            owners: &self.owners,
            readings: &self.readings,
            settings: &settings,
            now: self.now,
        };
        let mut plan = plan(&snapshot, history);
        plan.rescaled(&snapshot, history, outcome);
        plan
    }

    /// The size that comes out, without a past.
    pub fn size(&self) -> i32 {
        self.run(&mut History::default()).status.desired_replicas
    }
}

pub(super) fn condition<'a>(plan: &'a Plan, kind: &str) -> &'a HorizontalPodAutoscalerCondition {
    plan.status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap()
}

/// Status and reason of a condition.
pub(super) fn says<'a>(plan: &'a Plan, kind: &str) -> (&'a str, &'a str) {
    let condition = condition(plan, kind);
    (&condition.status, condition.reason.as_deref().unwrap_or_default())
}

/// Reasons of the notices.
pub(super) fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.notices.iter().map(|notice| notice.reason).collect()
}
