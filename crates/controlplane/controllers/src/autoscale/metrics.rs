//! What the metrics APIs say: `metrics.k8s.io` for resources, `custom.metrics.k8s.io` for metrics of objects, and
//! `external.metrics.k8s.io` for everything else. The last two are there when somebody serves them.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, MetricIdentifier, MetricSpec,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use sampan_planner::autoscaler::{Reading, Sample, Samples};
use sampan_planner::{quantity, selector};
use serde_json::Value;

use super::target::{Targets, get, said};

/// The longest that one API may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The window of a custom metric that tells none.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

const RESOURCE: &str = "resource metrics API";
const CUSTOM: &str = "custom metrics API";
const EXTERNAL: &str = "external metrics API";

/// A part of a path or a query.
pub(super) fn escape(text: &str) -> String {
    // A space is `+` in forms only.
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Reads metrics.
pub(super) struct Metrics {
    client: Client,
    /// Where kinds are that custom metrics describe.
    kinds: Targets,
}

impl Metrics {
    pub fn new(client: Client) -> Self {
        Self { kinds: Targets::new(client.clone()), client }
    }

    /// Reads every metric of an autoscaler; `pods` selects the pods of its target.
    pub async fn read(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        pods: &str,
    ) -> Vec<Result<Reading, String>> {
        let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        let mut resources = None;
        let mut readings = Vec::new();
        for spec in autoscaler.spec.metrics.iter().flatten() {
            if matches!(spec.type_.as_str(), "Resource" | "ContainerResource") && resources.is_none() {
                // All of them are in one answer.
                resources = Some(self.of_pods(namespace, pods).await);
            }
            readings.push(self.one(namespace, pods, spec, resources.as_ref()).await);
        }
        readings
    }

    async fn one(
        &self,
        namespace: &str,
        pods: &str,
        spec: &MetricSpec,
        resources: Option<&Result<Vec<Value>, String>>,
    ) -> Result<Reading, String> {
        if let Some(source) = &spec.pods {
            return self.custom_of_pods(namespace, pods, &source.metric).await;
        }
        if let Some(source) = &spec.object {
            return self.custom(namespace, &source.described_object, &source.metric).await;
        }
        if let Some(source) = &spec.external {
            return self.external(namespace, &source.metric).await;
        }
        let list = resources.ok_or("the metric has no source")?.as_ref().map_err(Clone::clone)?;
        match (&spec.resource, &spec.container_resource) {
            (Some(source), _) => Ok(Reading::Pods(of_resource(list, &source.name))),
            (_, Some(source)) => of_container(list, &source.name, &source.container).map(Reading::Pods),
            _ => Err("the metric has no source".to_owned()),
        }
    }

    async fn of_pods(&self, namespace: &str, pods: &str) -> Result<Vec<Value>, String> {
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
            escape(pods)
        );
        self.items(&path, RESOURCE).await
    }

    /// The items of a list; none at all is a failure.
    async fn items(&self, path: &str, api: &str) -> Result<Vec<Value>, String> {
        let read = tokio::time::timeout(PATIENCE, get(&self.client, path)).await;
        let mut list = match read {
            Ok(Ok(list)) => list,
            Ok(Err(error)) => return Err(format!("unable to fetch metrics from {api}: {}", said(&error))),
            Err(_) => return Err(format!("unable to fetch metrics from {api}: no answer in {PATIENCE:?}")),
        };
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if !items.is_empty() => Ok(items),
            _ => Err(format!("no metrics returned from {api}")),
        }
    }

    /// The root of the preferred version of the custom metrics.
    async fn custom_root(&self) -> Result<String, String> {
        let group = tokio::time::timeout(PATIENCE, get(&self.client, "/apis/custom.metrics.k8s.io")).await;
        let unable = |why: String| format!("unable to fetch metrics from {CUSTOM}: {why}");
        let group = match group {
            Ok(Ok(group)) => group,
            Ok(Err(error)) => return Err(unable(said(&error))),
            Err(_) => return Err(unable(format!("no answer in {PATIENCE:?}"))),
        };
        let version = group.pointer("/preferredVersion/groupVersion").and_then(Value::as_str);
        version
            .map(|version| format!("/apis/{version}"))
            .ok_or_else(|| unable("no version is served".to_owned()))
    }

    async fn custom_of_pods(
        &self,
        namespace: &str,
        pods: &str,
        metric: &MetricIdentifier,
    ) -> Result<Reading, String> {
        let root = self.custom_root().await?;
        let name = escape(&metric.name);
        let path = format!(
            "{root}/namespaces/{namespace}/pods/*/{name}?labelSelector={}{}",
            escape(pods),
            narrowed(metric, '&')
        );
        let items = self.items(&path, CUSTOM).await?;
        let samples = items.iter().filter_map(|item| {
            let pod = item.pointer("/describedObject/name")?.as_str()?.to_owned();
            Some((pod, Sample { milli: milli(&item["value"])?, at: time(item), window: window(item) }))
        });
        Ok(Reading::Pods(samples.collect()))
    }

    async fn custom(
        &self,
        namespace: &str,
        about: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
    ) -> Result<Reading, String> {
        let api_version = about.api_version.as_deref().unwrap_or("v1");
        let api_version = if api_version.is_empty() { "v1" } else { api_version };
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let root = self.custom_root().await?;
        let name = escape(&metric.name);
        let narrowed = narrowed(metric, '?');
        let path = if about.kind == "Namespace" && group.is_empty() {
            format!("{root}/namespaces/{namespace}/metrics/{name}{narrowed}")
        } else {
            let (_, plural) = self.kinds.place(api_version, &about.kind).await?;
            let resource = if group.is_empty() { plural } else { format!("{plural}.{group}") };
            format!("{root}/namespaces/{namespace}/{resource}/{}/{name}{narrowed}", escape(&about.name))
        };
        let items = self.items(&path, CUSTOM).await?;
        let value = items.first().and_then(|item| milli(&item["value"]));
        value.map(Reading::Value).ok_or_else(|| format!("no metrics returned from {CUSTOM}"))
    }

    async fn external(&self, namespace: &str, metric: &MetricIdentifier) -> Result<Reading, String> {
        let mut path =
            format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}", escape(&metric.name));
        if let Some(selector) = &metric.selector {
            path.push_str(&format!("?labelSelector={}", escape(&selector::query(selector))));
        }
        let items = self.items(&path, EXTERNAL).await?;
        let values = items.iter().filter_map(|item| milli(&item["value"]));
        Ok(Reading::Value(values.fold(0, i64::saturating_add)))
    }
}

/// Which series of a custom metric are meant.
fn narrowed(metric: &MetricIdentifier, before: char) -> String {
    match &metric.selector {
        Some(selector) => format!("{before}metricLabelSelector={}", escape(&selector::query(selector))),
        None => String::new(),
    }
}

fn milli(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => quantity::milli(text),
        other => quantity::milli(&other.to_string()),
    }
}

fn time(item: &Value) -> Timestamp {
    item["timestamp"].as_str().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// How long the window of a custom metric is; its name differs by version.
fn window(item: &Value) -> SignedDuration {
    let seconds = item["windowSeconds"].as_i64().or_else(|| item["window"].as_i64());
    seconds.map_or(WINDOW, SignedDuration::from_secs)
}

fn sample(pod: &Value, milli: i64) -> Option<(String, Sample)> {
    let window = pod["window"].as_str().and_then(|text| text.parse().ok()).unwrap_or(SignedDuration::ZERO);
    let name = pod.pointer("/metadata/name")?.as_str()?.to_owned();
    Some((name, Sample { milli, at: time(pod), window }))
}

/// What each pod uses in all; one that lacks a container's usage is not measured.
fn of_resource(list: &[Value], resource: &str) -> Samples {
    let of = |pod: &Value| {
        let containers = pod["containers"].as_array().filter(|all| !all.is_empty())?;
        let sum = containers.iter().try_fold(0_i64, |sum, container| {
            Some(sum.saturating_add(milli(container.get("usage")?.get(resource)?)?))
        });
        sample(pod, sum?)
    };
    list.iter().filter_map(of).collect()
}

/// What one container in each pod uses.
fn of_container(list: &[Value], resource: &str, name: &str) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for pod in list {
        let mut containers = pod["containers"].as_array().into_iter().flatten();
        let Some(container) = containers.find(|container| container["name"] == name) else {
            let of = |member: &str| pod["metadata"][member].as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "failed to get container metrics: container {name} not present in metrics for pod {}/{}",
                of("namespace"),
                of("name")
            ));
        };
        let usage = container.get("usage").and_then(|usage| usage.get(resource)).and_then(milli);
        samples.extend(usage.and_then(|milli| sample(pod, milli)));
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_summed_and_containers_found() {
        let list = json!([
            {"metadata": {"name": "a", "namespace": "n"}, "timestamp": "2026-01-01T00:00:00Z", "window": "14.5s",
             "containers": [{"name": "main", "usage": {"cpu": "1500u", "memory": "1Ki"}},
                            {"name": "side", "usage": {"cpu": "2m", "memory": "1"}}]},
            {"metadata": {"name": "b", "namespace": "n"}, "containers": [{"name": "main", "usage": {"memory": "1"}}]},
            {"metadata": {"name": "c", "namespace": "n"}, "containers": []},
        ]);
        let list = list.as_array().unwrap();
        let cpu = of_resource(list, "cpu");
        assert_eq!(cpu.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((cpu["a"].milli, cpu["a"].window), (4, SignedDuration::from_millis(14_500)));
        assert_eq!(of_resource(list, "memory")["a"].milli, 1_025_000);
        assert_eq!(of_container(&list[..1], "cpu", "side").unwrap()["a"].milli, 2);
        let why = of_container(list, "cpu", "side").unwrap_err();
        assert!(why.contains("container side not present in metrics for pod n/b"), "{why}");
        assert_eq!(escape("a b/c=d,e in (f)"), "a%20b%2Fc%3Dd%2Ce%20in%20%28f%29");
    }
}
