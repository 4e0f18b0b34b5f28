//! HorizontalPodAutoscalers have two faces: autoscaling/v1 and v2. They are kept as v2; what v1 has no member for
//! travels in annotations, as upstream does it.

use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Annotations that carry members to and fro and are never kept.
const CARRIED: [&str; 6] = [
    METRICS,
    CURRENT_METRICS,
    CONDITIONS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

/// What v1 meant when it named no metric: 80 % of the requested CPU.
const DEFAULT_UTILIZATION: i64 = 80;

/// Names of the members of `behavior` in the annotation, which spells them as Go does.
const BEHAVIOR_NAMES: [(&str, &str); 9] = [
    ("scaleUp", "ScaleUp"),
    ("scaleDown", "ScaleDown"),
    ("stabilizationWindowSeconds", "StabilizationWindowSeconds"),
    ("selectPolicy", "SelectPolicy"),
    ("policies", "Policies"),
    ("tolerance", "Tolerance"),
    ("type", "Type"),
    ("value", "Value"),
    ("periodSeconds", "PeriodSeconds"),
];

/// Turns an autoscaling/v1 object into v2.
pub(crate) fn to_v2(mut object: Value) -> Value {
    let Some(members) = object.as_object_mut() else { return object };
    members.insert("apiVersion".to_owned(), "autoscaling/v2".into());
    let carried = take_carried(members);
    let read = |name: &str| {
        let text = carried.iter().find(|(key, _)| key == name)?.1.as_str()?;
        serde_json::from_str::<Value>(text).ok()
    };
    if let Some(spec) = members.get_mut("spec").and_then(Value::as_object_mut) {
        let cpu = spec.shift_remove("targetCPUUtilizationPercentage").filter(|cpu| !cpu.is_null());
        let mut metrics: Vec<Value> = match read(METRICS) {
            Some(Value::Array(list)) => list.into_iter().map(|m| metric(m, source_to_v2)).collect(),
            _ => Vec::new(),
        };
        metrics.extend(cpu.map(cpu_metric));
        if metrics.is_empty() {
            metrics.push(cpu_metric(DEFAULT_UTILIZATION.into()));
        }
        spec.insert("metrics".to_owned(), metrics.into());
        let behavior = read(BEHAVIOR).map(|b| spell(b, |(short, go)| (go, short)));
        if let Some(behavior) = behavior.filter(|b| b.as_object().is_some_and(|b| !b.is_empty())) {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    let status = members.get_mut("status").and_then(Value::as_object_mut);
    if let Some(status) = status {
        if let Some(cpu) = status.shift_remove("currentCPUUtilizationPercentage").filter(|cpu| !cpu.is_null())
        {
            let current = json!({"averageUtilization": cpu});
            let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
            status.insert("currentMetrics".to_owned(), json!([metric]));
        }
        if let Some(Value::Array(list)) = read(CURRENT_METRICS) {
            let metrics: Vec<Value> = list.into_iter().map(|m| metric(m, status_to_v2)).collect();
            status.insert("currentMetrics".to_owned(), metrics.into());
        }
        if let Some(Value::Array(list)) = read(CONDITIONS) {
            status.insert("conditions".to_owned(), list.into());
        }
    }
    object
}

/// Turns an autoscaling/v2 object into v1.
pub(super) fn to_v1(mut object: Value) -> Value {
    let Some(members) = object.as_object_mut() else { return object };
    members.insert("apiVersion".to_owned(), "autoscaling/v1".into());
    take_carried(members);
    let mut carry: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = members.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = spec.shift_remove("metrics");
        let (cpu, others): (Vec<Value>, Vec<Value>) =
            array(metrics).into_iter().partition(|m| cpu_target(m).is_some());
        if let Some(cpu) = cpu.first().and_then(cpu_target) {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), cpu.clone());
        }
        let others: Vec<Value> = others.into_iter().map(|m| metric(m, source_to_v1)).collect();
        if !others.is_empty() {
            carry.push((METRICS, others.into()));
        }
        if let Some(behavior) = spec.shift_remove("behavior").filter(|b| !b.is_null()) {
            carry.push((BEHAVIOR, spell(behavior, |(short, go)| (short, go))));
        }
    }
    if let Some(status) = members.get_mut("status").and_then(Value::as_object_mut) {
        let metrics = array(status.shift_remove("currentMetrics"));
        let cpu = metrics.iter().filter(|m| m["resource"]["name"] == "cpu" && m["type"] == "Resource");
        let cpu = cpu.filter_map(|m| m.pointer("/resource/current/averageUtilization")).next_back().cloned();
        if let Some(cpu) = cpu {
            status.insert("currentCPUUtilizationPercentage".to_owned(), cpu);
        }
        let metrics: Vec<Value> = metrics.into_iter().map(|m| metric(m, status_to_v1)).collect();
        if !metrics.is_empty() {
            carry.push((CURRENT_METRICS, metrics.into()));
        }
        let conditions = array(status.shift_remove("conditions"));
        if !conditions.is_empty() {
            carry.push((CONDITIONS, conditions.into()));
        }
    }
    if let Some(metadata) = members.get_mut("metadata").and_then(Value::as_object_mut)
        && !carry.is_empty()
    {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        for (name, value) in carry {
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(name.to_owned(), value.to_string().into());
            }
        }
    }
    object
}

fn array(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn take_carried(members: &mut Map<String, Value>) -> Vec<(String, Value)> {
    let Some(metadata) = members.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    let taken: Vec<(String, Value)> = CARRIED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), annotations.shift_remove(*name)?)))
        .collect();
    if !taken.is_empty() && annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    taken
}

fn cpu_metric(utilization: Value) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": utilization});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

/// The utilization that a metric wants of the CPU, if it is that metric.
fn cpu_target(metric: &Value) -> Option<&Value> {
    let utilization = metric.pointer("/resource/target/averageUtilization").filter(|u| !u.is_null());
    utilization.filter(|_| metric["type"] == "Resource" && metric["resource"]["name"] == "cpu")
}

/// Converts the source of a metric, which lies under a member of its own for each type.
fn metric(mut metric: Value, convert: fn(&str, &Map<String, Value>) -> Value) -> Value {
    for (name, source) in metric.as_object_mut().into_iter().flatten() {
        if let Value::Object(members) = source {
            *source = convert(name, members);
        }
    }
    metric
}

/// Gathers members that are there.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.filter(|(_, value)| !value.is_null()).collect())
}

fn quantity_or_zero(value: Option<Value>) -> Option<Value> {
    Some(value.filter(|v| !v.is_null()).unwrap_or_else(|| "0".into()))
}

fn source_to_v1(kind: &str, source: &Map<String, Value>) -> Value {
    let at = |path: &str| find(source, path);
    match kind {
        "resource" | "containerResource" => object([
            ("name", at("name")),
            ("targetAverageUtilization", at("target/averageUtilization")),
            ("targetAverageValue", at("target/averageValue")),
            ("container", at("container")),
        ]),
        "pods" => object([
            ("metricName", at("metric/name")),
            ("targetAverageValue", quantity_or_zero(at("target/averageValue"))),
            ("selector", at("metric/selector")),
        ]),
        "object" => object([
            ("target", at("describedObject")),
            ("metricName", at("metric/name")),
            ("targetValue", quantity_or_zero(at("target/value"))),
            ("selector", at("metric/selector")),
            ("averageValue", at("target/averageValue")),
        ]),
        _ => object([
            ("metricName", at("metric/name")),
            ("metricSelector", at("metric/selector")),
            ("targetValue", at("target/value")),
            ("targetAverageValue", at("target/averageValue")),
        ]),
    }
}

fn source_to_v2(kind: &str, source: &Map<String, Value>) -> Value {
    let at = |path: &str| find(source, path);
    let name = |selector: &str| object([("name", at("metricName")), ("selector", at(selector))]);
    let target = |kind: &str, members: [(&str, Option<Value>); 2]| {
        let [first, second] = members;
        Some(object([("type", Some(kind.into())), first, second]))
    };
    match kind {
        "resource" | "containerResource" => {
            let utilization = at("targetAverageUtilization");
            let wanted = if utilization.is_some() { "Utilization" } else { "AverageValue" };
            let members = [("averageUtilization", utilization), ("averageValue", at("targetAverageValue"))];
            object([
                ("name", at("name")),
                ("container", at("container")),
                ("target", target(wanted, members)),
            ])
        }
        "pods" => {
            let members = [("averageValue", at("targetAverageValue")), ("", None)];
            object([("metric", Some(name("selector"))), ("target", target("AverageValue", members))])
        }
        "object" => {
            let average = at("averageValue");
            let value = at("targetValue").filter(|v| average.is_none() || v != "0");
            let wanted = if average.is_some() { "AverageValue" } else { "Value" };
            object([
                ("describedObject", at("target")),
                ("target", target(wanted, [("value", value), ("averageValue", average)])),
                ("metric", Some(name("selector"))),
            ])
        }
        _ => {
            let (value, average) = (at("targetValue"), at("targetAverageValue"));
            let wanted = if value.is_some() { "Value" } else { "AverageValue" };
            let members = [("value", value), ("averageValue", average)];
            object([("metric", Some(name("metricSelector"))), ("target", target(wanted, members))])
        }
    }
}

fn status_to_v1(kind: &str, status: &Map<String, Value>) -> Value {
    let at = |path: &str| find(status, path);
    match kind {
        "resource" | "containerResource" => object([
            ("name", at("name")),
            ("currentAverageUtilization", at("current/averageUtilization")),
            ("currentAverageValue", quantity_or_zero(at("current/averageValue"))),
            ("container", at("container")),
        ]),
        "pods" => object([
            ("metricName", at("metric/name")),
            ("currentAverageValue", quantity_or_zero(at("current/averageValue"))),
            ("selector", at("metric/selector")),
        ]),
        "object" => object([
            ("target", at("describedObject")),
            ("metricName", at("metric/name")),
            ("currentValue", quantity_or_zero(at("current/value"))),
            ("selector", at("metric/selector")),
            ("averageValue", at("current/averageValue")),
        ]),
        _ => object([
            ("metricName", at("metric/name")),
            ("metricSelector", at("metric/selector")),
            ("currentValue", quantity_or_zero(at("current/value"))),
            ("currentAverageValue", at("current/averageValue")),
        ]),
    }
}

fn status_to_v2(kind: &str, status: &Map<String, Value>) -> Value {
    let at = |path: &str| find(status, path);
    let name = |selector: &str| Some(object([("name", at("metricName")), ("selector", at(selector))]));
    match kind {
        "resource" | "containerResource" => {
            let current = object([
                ("averageValue", at("currentAverageValue")),
                ("averageUtilization", at("currentAverageUtilization")),
            ]);
            object([("name", at("name")), ("container", at("container")), ("current", Some(current))])
        }
        "pods" => {
            let current = object([("averageValue", at("currentAverageValue"))]);
            object([("metric", name("selector")), ("current", Some(current))])
        }
        "object" => {
            let current = object([("value", at("currentValue")), ("averageValue", at("averageValue"))]);
            object([
                ("metric", name("selector")),
                ("current", Some(current)),
                ("describedObject", at("target")),
            ])
        }
        _ => {
            let current =
                object([("value", at("currentValue")), ("averageValue", at("currentAverageValue"))]);
            object([("metric", name("metricSelector")), ("current", Some(current))])
        }
    }
}

fn find(members: &Map<String, Value>, path: &str) -> Option<Value> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let value = members.get(first)?;
    if rest.is_empty() { Some(value.clone()) } else { find(value.as_object()?, rest) }
}

/// Renames the members of a behavior at every level.
fn spell(value: Value, pair: fn((&'static str, &'static str)) -> (&'static str, &'static str)) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| {
                let known = BEHAVIOR_NAMES.iter().copied().map(pair);
                let to = known.into_iter().find(|(from, _)| from.eq_ignore_ascii_case(&name));
                (to.map_or(name, |(_, to)| to.to_owned()), spell(value, pair))
            })
            .collect(),
        Value::Array(list) => list.into_iter().map(|v| spell(v, pair)).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(metrics: Value) -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": metrics},
            "status": {"desiredReplicas": 1},
        })
    }

    #[test]
    fn the_cpu_has_a_member_of_its_own_in_v1() {
        let new = v2(json!([cpu_metric(70.into())]));
        let old = to_v1(new.clone());
        assert_eq!(old["apiVersion"], "autoscaling/v1");
        assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 70);
        assert!(old["spec"].get("metrics").is_none() && old["metadata"].get("annotations").is_none());
        assert_eq!(to_v2(old)["spec"]["metrics"], new["spec"]["metrics"]);
    }

    #[test]
    fn other_metrics_behavior_and_conditions_travel_in_annotations() {
        let mut new = v2(json!([
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Object", "object": {"metric": {"name": "q"}, "describedObject": {"kind": "Service", "name": "s"},
                "target": {"type": "Value", "value": "9"}}},
            {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "Value", "value": "9"}}},
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
        ]));
        new["spec"]["behavior"] = json!({"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}});
        new["status"]["conditions"] = json!([{"type": "AbleToScale", "status": "True"}]);
        new["status"]["currentMetrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
            "current": {"averageValue": "5m", "averageUtilization": 5}}}]);
        let old = to_v1(new.clone());
        assert_eq!(old["status"], json!({"desiredReplicas": 1, "currentCPUUtilizationPercentage": 5}));
        assert_eq!(
            old["metadata"]["annotations"][BEHAVIOR],
            r#"{"ScaleUp":{"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}]}}"#
        );
        assert_eq!(to_v2(old), new);
    }

    #[test]
    fn v1_without_a_metric_means_eighty_percent() {
        let old = json!({"apiVersion": "autoscaling/v1", "metadata": {}, "spec": {"maxReplicas": 2}});
        assert_eq!(to_v2(old)["spec"]["metrics"], json!([cpu_metric(80.into())]));
    }
}
