//! `tenantqueues.sampan.io`, as the API serves it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::share::{self, Standing};
use crate::object::{Condition, object};

/// A queue of a tenant, or of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantQueue {
    #[serde(default = "api_version")]
    api_version: String,
    #[serde(default = "kind")]
    kind: String,
    /// Name and so on.
    pub metadata: ObjectMeta,
    /// What it should be.
    #[serde(default)]
    pub spec: QueueSpec,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<QueueStatus>,
}

object!(TenantQueue: "sampan.io", "v1alpha1", "TenantQueue", "tenantqueues", ClusterResourceScope);

/// What a queue should be. Words that nobody knows are told in its conditions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueSpec {
    /// The queue above it; none for a root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its part beside its siblings; 1 when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// What it has a right to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guaranteed: Option<BTreeMap<String, Quantity>>,
    /// What it never exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<BTreeMap<String, Quantity>>,
    /// `Allowed` (when nothing is said) or `Never`: whether it may have more than its guarantee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub borrowing: Option<String>,
    /// `Any` (when nothing is said), `LowerPriority` or `Never`: what it may make leave in other queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<String>,
    /// The namespaces that belong to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// How long until half of what was used is forgotten; as above it, or an hour, when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_half_life: Option<String>,
}

impl QueueSpec {
    /// The queue above it.
    pub fn parent(&self) -> Option<&str> {
        self.parent.as_deref().filter(|name| !name.is_empty())
    }
}

/// What a queue is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueStatus {
    /// What its pods on nodes ask for.
    pub used: BTreeMap<String, Quantity>,
    /// How many of its pods wait.
    pub pending: i64,
    /// What they ask for.
    pub wanted: BTreeMap<String, Quantity>,
    /// The largest part that it has of any resource, as `12.5%`.
    pub dominant_share: String,
    /// Which resource that is.
    pub dominant_resource: String,
    /// The part that it is due as things are.
    pub fair_share: String,
    /// The mean of its dominant share, the older the less it counts.
    pub decayed_usage: String,
    /// When that was so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<String>,
    /// Of which spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is right and wrong.
    pub conditions: Vec<Condition>,
}

fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
}

fn part(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    percent.is_finite().then_some((percent / 100.0).clamp(0.0, 1.0))
}

/// The seconds of `90s`, `30m`, `12h`, `7d`, or several of them in a row.
pub(crate) fn seconds(text: &str) -> Option<f64> {
    if text == "0" {
        return Some(0.0);
    }
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[end..].chars().next()?;
        let factor = match unit {
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            'd' => 86_400.0,
            _ => return None,
        };
        total += rest[..end].parse::<f64>().ok()? * factor;
        rest = &rest[end + unit.len_utf8()..];
    }
    (!text.is_empty() && f64::is_finite(total)).then_some(total)
}

impl TenantQueue {
    /// A queue of that name.
    pub fn new(name: &str, spec: QueueSpec) -> Self {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Self { api_version: api_version(), kind: kind(), metadata, spec, status: None }
    }

    /// What is remembered of the queue's past by now, as its status tells.
    pub fn remembered(&self, now: Timestamp) -> f64 {
        let told = self.status.as_ref().and_then(|status| {
            let since: Timestamp = status.observed_at.as_ref()?.parse().ok()?;
            let share = part(&status.dominant_share).unwrap_or(0.0);
            Some((part(&status.decayed_usage)?, share, now.duration_since(since).as_secs_f64().max(0.0)))
        });
        let half_life = self.spec.usage_half_life.as_deref().and_then(seconds).unwrap_or(3600.0);
        // It had that all the time: otherwise something else would be told.
        told.map_or(0.0, |(history, share, passed)| share::remembered(history, share, passed, half_life))
    }

    /// The status that says how the queue stands; `None` when the object says so already.
    pub fn status_for(&self, standing: &Standing, now: Timestamp) -> Option<QueueStatus> {
        let old = self.status.clone().unwrap_or_default();
        let mut new = QueueStatus {
            used: standing.used.clone(),
            pending: i64::try_from(standing.pending).unwrap_or(i64::MAX),
            wanted: standing.wanted.clone(),
            dominant_share: percent(standing.dominant_share),
            dominant_resource: standing.dominant_resource.clone(),
            fair_share: percent(standing.fair_share),
            decayed_usage: percent(standing.decayed_usage),
            observed_at: old.observed_at.clone(),
            observed_generation: self.metadata.generation,
            conditions: conditions(&old.conditions, standing, now),
        };
        if new == old {
            return None;
        }
        new.observed_at = Some(now.to_string());
        Some(new)
    }
}

/// The conditions of a queue that stands so.
pub fn conditions(old: &[Condition], standing: &Standing, now: Timestamp) -> Vec<Condition> {
    let ready = match (&standing.problem, standing.contested.as_slice()) {
        (Some((reason, message)), _) => (false, *reason, message.clone()),
        (None, []) => (true, "Ready", String::new()),
        (None, namespaces) => {
            let text = "other queues select these namespaces, too, and have them";
            (true, "NamespacesContested", format!("{text}: {}", namespaces.join(", ")))
        }
    };
    let backed = match &standing.unbacked {
        Some((reason, message)) => (false, *reason, message.clone()),
        None => (true, "Backed", String::new()),
    };
    let starving = if standing.starving {
        let text = "pods wait, and the queue has less than it is guaranteed";
        (true, "BelowGuarantee", text.to_owned())
    } else {
        (false, "Served", String::new())
    };
    let all = [("Ready", ready), ("GuaranteeBacked", backed), ("Starving", starving)];
    all.into_iter().map(|(kind, what)| Condition::after(old, kind, what, now)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, want) in
            [("90s", Some(90.0)), ("1h30m", Some(5400.0)), ("7d", Some(604_800.0)), ("0", Some(0.0))]
        {
            assert_eq!(seconds(text), want, "{text}");
        }
        for text in ["", "h", "5", "1x", "-1h", "1.2.3h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn the_past_outlives_a_restart() {
        let mut queue =
            TenantQueue::new("a", QueueSpec { usage_half_life: Some("1h".into()), ..QueueSpec::default() });
        let then: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        queue.status = Some(QueueStatus {
            decayed_usage: "40.0%".into(),
            observed_at: Some(then.to_string()),
            ..QueueStatus::default()
        });
        let later: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        assert!((queue.remembered(later) - 0.2).abs() < 1e-12);
    }
}
