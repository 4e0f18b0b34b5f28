//! The cells of a HorizontalPodAutoscaler.

use serde_json::Value;

use super::cells::{list, name, number, text};

/// The cells; an object of autoscaling/v1 reads like its v2 form.
pub(super) fn row(object: &Value, age: Value) -> Vec<Value> {
    let old = object.get("apiVersion").and_then(Value::as_str) == Some("autoscaling/v1");
    let converted = old.then(|| crate::kinds::autoscalers::to_v2(object.clone()));
    let object = converted.as_ref().unwrap_or(object);
    let target = "/spec/scaleTargetRef";
    let reference =
        format!("{}/{}", text(object, &format!("{target}/kind")), text(object, &format!("{target}/name")));
    let least = match object.pointer("/spec/minReplicas").and_then(Value::as_i64) {
        Some(least) => least.to_string(),
        None => "<unset>".to_owned(),
    };
    vec![
        name(object),
        reference.into(),
        metrics(object).into(),
        least.into(),
        number(object, "/spec/maxReplicas").into(),
        number(object, "/status/currentReplicas").into(),
        age,
    ]
}

fn metrics(object: &Value) -> String {
    const SHOWN: usize = 2;
    let (specs, statuses) = (list(object, "/spec/metrics"), list(object, "/status/currentMetrics"));
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let cells: Vec<String> =
        specs.iter().enumerate().take(SHOWN).map(|(i, spec)| metric(spec, statuses.get(i))).collect();
    let shown = cells.join(", ");
    if specs.len() > SHOWN { format!("{shown} + {} more...", specs.len() - SHOWN) } else { shown }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let member = match text(spec, "/type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = |key: &str| spec.pointer(&format!("/{member}/target/{key}")).filter(|v| !v.is_null());
    let current = |key: &str| {
        let found = status.and_then(|s| s.pointer(&format!("/{member}/current/{key}")));
        found.filter(|v| !v.is_null())
    };
    let shown = |value: Option<&Value>, otherwise: &str, unit: &str| match value {
        Some(Value::String(text)) => format!("{text}{unit}"),
        Some(other) => format!("{other}{unit}"),
        None => otherwise.to_owned(),
    };
    let average = wanted("averageValue").is_some();
    let pair = |key: &str, missing: &str, unit: &str| {
        format!("{}/{}", shown(current(key), "<unknown>", unit), shown(wanted(key), missing, unit))
    };
    match member {
        "resource" | "containerResource" => {
            let name = text(spec, &format!("/{member}/name"));
            let cell = if average {
                pair("averageValue", "0", "")
            } else {
                pair("averageUtilization", "<auto>", "%")
            };
            format!("{name}: {cell}")
        }
        "pods" => pair("averageValue", "0", ""),
        _ if average => format!("{} (avg)", pair("averageValue", "0", "")),
        _ => pair("value", "0", ""),
    }
}
