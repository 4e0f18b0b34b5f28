//! One metric of an autoscaler: what it proposes, and its part of the status.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricIdentifier, MetricSpec, MetricStatus,
    MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::replicas::{self, Reckoned, Tolerance};
use super::{Reading, Samples, Snapshot};
use crate::quantity;

/// What a metric proposes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// The metric as conditions and events name it.
    pub metric: String,
    pub status: MetricStatus,
}

/// Why a metric proposes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Of the condition and the Event.
    pub reason: &'static str,
    /// What went wrong.
    pub why: String,
    /// The same with the metric's name before it.
    pub full: String,
}

type Result<T, E = Failure> = std::result::Result<T, E>;
type Read<'a> = &'a std::result::Result<Reading, String>;

/// Looks at one metric.
pub(super) fn propose(
    snapshot: &Snapshot<'_>,
    spec: &MetricSpec,
    reading: Read<'_>,
    tolerance: Tolerance,
) -> Result<Proposal> {
    match spec.type_.as_str() {
        "Resource" => resource(snapshot, spec, reading, tolerance),
        "ContainerResource" => container_resource(snapshot, spec, reading, tolerance),
        "Pods" => of_pods(snapshot, spec, reading, tolerance),
        "Object" => object(snapshot, spec, reading, tolerance),
        "External" => external(snapshot, spec, reading, tolerance),
        other => {
            let why = format!("unknown metric source type {other:?}");
            Err(Failure { reason: "InvalidMetricSourceType", full: why.clone(), why })
        }
    }
}

fn failure(reason: &'static str, of: &str) -> impl Fn(String) -> Failure + use<> {
    let prefix = format!("failed to get {of} value: ");
    move |why: String| Failure { reason, full: format!("{prefix}{why}"), why }
}

fn milli(quantity: Option<&Quantity>) -> Option<i64> {
    quantity.and_then(|quantity| quantity::milli(&quantity.0))
}

fn shown(milli: i64) -> Option<Quantity> {
    Some(Quantity(quantity::of_milli(milli)))
}

fn of_each(reading: &Reading) -> Samples {
    match reading {
        Reading::Pods(samples) => samples.clone(),
        Reading::Value(_) => Samples::new(),
    }
}

fn of_all(reading: &Reading) -> i64 {
    match reading {
        Reading::Value(milli) => *milli,
        Reading::Pods(samples) => samples.values().fold(0, |sum, sample| sum.saturating_add(sample.milli)),
    }
}

/// What pods, or one container in each, use of a resource.
fn usage(
    snapshot: &Snapshot<'_>,
    (name, container, target): (&str, Option<&str>, &MetricTarget),
    reading: Read<'_>,
    tolerance: Tolerance,
) -> std::result::Result<(Reckoned, String, MetricValueStatus), String> {
    let read = |what: &str| match reading {
        Ok(reading) => Ok(of_each(reading)),
        Err(why) => {
            Err(format!("failed to get {name} {what}: unable to get metrics for resource {name}: {why}"))
        }
    };
    if let Some(average) = milli(target.average_value.as_ref()) {
        let samples = read("usage")?;
        let reckoned = replicas::by_average(snapshot, samples, name == "cpu", (average, tolerance))
            .map_err(|why| format!("failed to get {name} usage: {why}"))?;
        let status = MetricValueStatus { average_value: shown(reckoned.usage), ..Default::default() };
        return Ok((reckoned, format!("{name} resource"), status));
    }
    let Some(percent) = target.average_utilization else {
        let why = "invalid resource metric source: neither an average utilization target nor an average value \
                   (usage) target was set";
        return Err(why.to_owned());
    };
    let samples = read("utilization")?;
    let reckoned = replicas::by_utilization(snapshot, samples, container, name, (percent, tolerance))
        .map_err(|why| format!("failed to get {name} utilization: {why}"))?;
    let of = if container.is_some() { "container resource" } else { "resource" };
    let status = MetricValueStatus {
        average_utilization: reckoned.percent,
        average_value: shown(reckoned.usage),
        value: None,
    };
    Ok((reckoned, format!("{name} {of} utilization (percentage of request)"), status))
}

fn resource(
    snapshot: &Snapshot<'_>,
    spec: &MetricSpec,
    reading: Read<'_>,
    tolerance: Tolerance,
) -> Result<Proposal> {
    let source = spec.resource.clone().unwrap_or_default();
    let failed = failure("FailedGetResourceMetric", &format!("{} resource metric", source.name));
    let asked = (source.name.as_str(), None, &source.target);
    let (reckoned, metric, current) = usage(snapshot, asked, reading, tolerance).map_err(failed)?;
    let status = ResourceMetricStatus { current, name: source.name.clone() };
    let status = MetricStatus { resource: Some(status), ..of_type(spec) };
    Ok(Proposal { replicas: reckoned.replicas, metric, status })
}

fn container_resource(
    snapshot: &Snapshot<'_>,
    spec: &MetricSpec,
    reading: Read<'_>,
    tolerance: Tolerance,
) -> Result<Proposal> {
    let source = spec.container_resource.clone().unwrap_or_default();
    let failed = failure("FailedGetContainerResourceMetric", &format!("{} container metric", source.name));
    let asked = (source.name.as_str(), Some(source.container.as_str()), &source.target);
    let (reckoned, metric, current) = usage(snapshot, asked, reading, tolerance).map_err(failed)?;
    let status = ContainerResourceMetricStatus {
        container: source.container.clone(),
        current,
        name: source.name.clone(),
    };
    let status = MetricStatus { container_resource: Some(status), ..of_type(spec) };
    Ok(Proposal { replicas: reckoned.replicas, metric, status })
}

fn of_pods(
    snapshot: &Snapshot<'_>,
    spec: &MetricSpec,
    reading: Read<'_>,
    tolerance: Tolerance,
) -> Result<Proposal> {
    let source = spec.pods.clone().unwrap_or_default();
    let failed = failure("FailedGetPodsMetric", "pods metric");
    let name = &source.metric.name;
    let Some(average) = milli(source.target.average_value.as_ref()) else {
        return Err(failed("invalid pods metric source: no average value target was set".to_owned()));
    };
    let samples = reading.as_ref().map(of_each);
    let samples = samples.map_err(|why| failed(format!("unable to get metric {name}: {why}")))?;
    let reckoned = replicas::by_average(snapshot, samples, false, (average, tolerance)).map_err(failed)?;
    let current = MetricValueStatus { average_value: shown(reckoned.usage), ..Default::default() };
    let status = PodsMetricStatus { current, metric: source.metric.clone() };
    Ok(Proposal {
        replicas: reckoned.replicas,
        metric: format!("pods metric {name}"),
        status: MetricStatus { pods: Some(status), ..of_type(spec) },
    })
}

fn object(
    snapshot: &Snapshot<'_>,
    spec: &MetricSpec,
    reading: Read<'_>,
    tolerance: Tolerance,
) -> Result<Proposal> {
    let source = spec.object.clone().unwrap_or_default();
    let failed = failure("FailedGetObjectMetric", "object metric");
    let (name, about) = (&source.metric.name, &source.described_object);
    let read = || {
        reading.as_ref().map(of_all).map_err(|why| {
            let namespace = snapshot.autoscaler.metadata.namespace.as_deref().unwrap_or_default();
            format!("unable to get metric {name}: {} on {namespace} {}/{why}", about.kind, about.name)
        })
    };
    let target = &source.target;
    let outcome =
        match (target.type_.as_str(), milli(target.value.as_ref()), milli(target.average_value.as_ref())) {
            ("Value", Some(value), _) => read().and_then(|usage| {
                let reckoned = replicas::by_value(snapshot, usage, (value, tolerance))?;
                Ok((reckoned, total(usage), format!("{} metric {name}", about.kind)))
            }),
            ("AverageValue", _, Some(average)) => read().map(|usage| {
                let reckoned = replicas::by_share(snapshot, usage, (average, tolerance));
                (reckoned, share(reckoned), named(name, source.metric.selector.as_ref()))
            }),
            _ => Err(
                "invalid object metric source: neither a value target nor an average value target was set"
                    .to_owned(),
            ),
        };
    let (reckoned, current, metric) = outcome.map_err(failed)?;
    let status =
        ObjectMetricStatus { current, described_object: about.clone(), metric: source.metric.clone() };
    let status = MetricStatus { object: Some(status), ..of_type(spec) };
    Ok(Proposal { replicas: reckoned.replicas, metric, status })
}

fn external(
    snapshot: &Snapshot<'_>,
    spec: &MetricSpec,
    reading: Read<'_>,
    tolerance: Tolerance,
) -> Result<Proposal> {
    let source = spec.external.clone().unwrap_or_default();
    let MetricIdentifier { name, selector } = &source.metric;
    let failed = failure("FailedGetExternalMetric", &format!("{name} external metric"));
    let read = || {
        reading.as_ref().map(of_all).map_err(|why| {
            let namespace = snapshot.autoscaler.metadata.namespace.as_deref().unwrap_or_default();
            let selector = selected(selector.as_ref());
            format!("unable to get external metric {namespace}/{name}/{selector}: {why}")
        })
    };
    let target = &source.target;
    let outcome = match (milli(target.average_value.as_ref()), milli(target.value.as_ref())) {
        (Some(average), _) => read().map(|usage| {
            let reckoned = replicas::by_share(snapshot, usage, (average, tolerance));
            (reckoned, share(reckoned))
        }),
        (None, Some(value)) => read()
            .and_then(|usage| Ok((replicas::by_value(snapshot, usage, (value, tolerance))?, total(usage)))),
        (None, None) => Err("invalid external metric source: neither a value target nor an average value \
                             target was set"
            .to_owned()),
    };
    let (reckoned, current) = outcome.map_err(failed)?;
    let metric = named(name, selector.as_ref());
    let status = ExternalMetricStatus { current, metric: source.metric.clone() };
    let status = MetricStatus { external: Some(status), ..of_type(spec) };
    Ok(Proposal { replicas: reckoned.replicas, metric, status })
}

fn of_type(spec: &MetricSpec) -> MetricStatus {
    MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() }
}

fn total(milli: i64) -> MetricValueStatus {
    MetricValueStatus { value: shown(milli), ..MetricValueStatus::default() }
}

fn share(reckoned: Reckoned) -> MetricValueStatus {
    MetricValueStatus { average_value: shown(reckoned.usage), ..MetricValueStatus::default() }
}

fn named(name: &str, selector: Option<&LabelSelector>) -> String {
    format!("external metric {name}({})", selected(selector))
}

/// A selector in the form of a query; `nil` when there is none.
fn selected(selector: Option<&LabelSelector>) -> String {
    selector.map_or_else(|| "nil".to_owned(), crate::selector::query)
}
