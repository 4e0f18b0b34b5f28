//! LimitRanger: what containers, pods and claims of a namespace may ask for, and what they get when they ask for nothing.

use std::sync::Arc;

use sampan_api::{
    quantity::Quantity,
    quota::{self, Amounts},
    status::{Status, aggregate},
};
use sampan_store::{KeyValue, prefix_end};
use serde_json::{Map, Value, json};

use super::{Operation, Review};
use crate::{call::text, core::Core};

/// Says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// One of the limits of a LimitRange.
#[derive(Debug)]
pub(crate) struct Limit {
    kind: String,
    default: Amounts,
    default_request: Amounts,
    min: Amounts,
    max: Amounts,
    ratio: Amounts,
}

pub(crate) fn parse(kv: &KeyValue) -> Option<Vec<Limit>> {
    let object: Value = serde_json::from_slice(&kv.value).ok()?;
    let limits = object.pointer("/spec/limits")?.as_array()?;
    let one = |limit: &Value| Limit {
        kind: text(limit, "/type").to_owned(),
        default: quota::amounts(limit.get("default")),
        default_request: quota::amounts(limit.get("defaultRequest")),
        min: quota::amounts(limit.get("min")),
        max: quota::amounts(limit.get("max")),
        ratio: quota::amounts(limit.get("maxLimitRequestRatio")),
    };
    Some(limits.iter().map(one).collect())
}

/// The namespace's limits, one entry a LimitRange.
async fn of(core: &Core, review: &Review<'_>) -> Result<Vec<Arc<Vec<Limit>>>, Status> {
    let (Some(state), Some(namespace)) = (core.admission.get(), review.call.namespace()) else {
        return Ok(Vec::new());
    };
    let deleted = |old: &Value| !text(old, "/metadata/deletionTimestamp").is_empty();
    if review.old.is_some_and(deleted) {
        return Ok(Vec::new());
    }
    state.limits.settle().await;
    let scope = core.endpoint("", "v1", "limitranges")?.scope(Some(namespace));
    let objects = state.limits.objects();
    Ok(objects.range(scope.clone()..prefix_end(&scope)).map(|(_, limits)| limits.clone()).collect())
}

fn concerns(review: &Review<'_>) -> bool {
    matches!(
        (review.resource.plural, review.subresource, review.operation),
        ("pods", "resize", Operation::Update)
            | ("pods", "", Operation::Create)
            | ("persistentvolumeclaims", "", Operation::Create | Operation::Update)
    )
}

/// Fills in what containers do not say.
pub(crate) async fn complete(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    if !concerns(review) {
        return Ok(());
    }
    for limits in of(core, review).await? {
        let (mut requests, mut maxima) = (Amounts::new(), Amounts::new());
        for limit in limits.iter().filter(|limit| limit.kind == "Container") {
            requests.extend(limit.default_request.iter().map(|(name, amount)| (name.clone(), *amount)));
            maxima.extend(limit.default.iter().map(|(name, amount)| (name.clone(), *amount)));
        }
        fill(&mut review.object, &requests, &maxima);
    }
    Ok(())
}

fn fill(pod: &mut Value, requests: &Amounts, limits: &Amounts) {
    let mut said = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers =
            pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            for (key, amounts, noun) in [("requests", requests, "request"), ("limits", limits, "limit")] {
                let set = fill_one(container, key, amounts);
                if !set.is_empty() {
                    said.push(format!("{} {noun} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty()
        && let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut)
    {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations[ANNOTATION] = format!("LimitRanger plugin set: {}", said.join("; ")).into();
    }
}

/// The names that were filled in.
fn fill_one(container: &mut Map<String, Value>, key: &str, amounts: &Amounts) -> Vec<String> {
    if amounts.is_empty() {
        return Vec::new();
    }
    let resources = container.entry("resources").or_insert_with(|| json!({}));
    let Some(resources) = resources.as_object_mut() else { return Vec::new() };
    let list = resources.entry(key).or_insert_with(|| json!({}));
    let Some(list) = list.as_object_mut() else { return Vec::new() };
    let mut set = Vec::new();
    for (name, amount) in amounts {
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.canonical().into());
            set.push(name.clone());
        }
    }
    set
}

/// Refuses what is beyond the limits.
pub(crate) async fn check(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    if !concerns(review) {
        return Ok(());
    }
    for limits in of(core, review).await? {
        let errors = broken(&limits, review.resource.plural, &review.object);
        if !errors.is_empty() {
            return Err(review.forbidden(aggregate(errors)));
        }
    }
    Ok(())
}

/// What is wrong with a pod or a claim.
fn broken(limits: &[Limit], plural: &str, object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for limit in limits {
        match (plural, limit.kind.as_str()) {
            ("persistentvolumeclaims", "PersistentVolumeClaim") => {
                let asked = quota::amounts(object.pointer("/spec/resources/requests"));
                least(limit, &asked, &Amounts::new(), &mut out);
                for (name, max) in &limit.max {
                    out.extend(most_requested(&limit.kind, name, *max, asked.get(name).copied()));
                }
            }
            ("pods", "Container") => {
                for list in ["/spec/containers", "/spec/initContainers"] {
                    for container in object.pointer(list).and_then(Value::as_array).into_iter().flatten() {
                        let requests = quota::amounts(container.pointer("/resources/requests"));
                        let maxima = quota::amounts(container.pointer("/resources/limits"));
                        all(limit, &requests, &maxima, &mut out);
                    }
                }
            }
            ("pods", "Pod") => {
                let requests = quota::pod_resources(object, "requests", false);
                let maxima = quota::pod_resources(object, "limits", false);
                all(limit, &requests, &maxima, &mut out);
            }
            _ => {}
        }
    }
    out
}

fn all(limit: &Limit, requests: &Amounts, limits: &Amounts, out: &mut Vec<String>) {
    least(limit, requests, limits, out);
    for (name, max) in &limit.max {
        out.extend(most(&limit.kind, name, *max, requests.get(name).copied(), limits.get(name).copied()));
    }
    for (name, ratio) in &limit.ratio {
        out.extend(spread(&limit.kind, name, *ratio, requests.get(name).copied(), limits.get(name).copied()));
    }
}

fn least(limit: &Limit, requests: &Amounts, limits: &Amounts, out: &mut Vec<String>) {
    let kind = &limit.kind;
    for (name, min) in &limit.min {
        let head = format!("minimum {name} usage per {kind} is {}", min.canonical());
        match (requests.get(name), limits.get(name)) {
            (None, _) => out.push(format!("{head}.  No request is specified")),
            (Some(request), _) if request < min => {
                out.push(format!("{head}, but request is {}", request.canonical()));
            }
            (_, Some(limit)) if limit < min => {
                out.push(format!("{head}, but limit is {}", limit.canonical()));
            }
            _ => {}
        }
    }
}

fn most_requested(kind: &str, name: &str, max: Quantity, request: Option<Quantity>) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {}", max.canonical());
    match request {
        None => Some(format!("{head}.  No request is specified")),
        Some(request) if request > max => Some(format!("{head}, but request is {}", request.canonical())),
        Some(_) => None,
    }
}

fn most(
    kind: &str,
    name: &str,
    max: Quantity,
    request: Option<Quantity>,
    limit: Option<Quantity>,
) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {}", max.canonical());
    match (limit, request) {
        (None, _) => Some(format!("{head}.  No limit is specified")),
        (Some(limit), _) if limit > max => Some(format!("{head}, but limit is {}", limit.canonical())),
        (_, Some(request)) if request > max => {
            Some(format!("{head}, but request is {}", request.canonical()))
        }
        _ => None,
    }
}

fn spread(
    kind: &str,
    name: &str,
    ratio: Quantity,
    request: Option<Quantity>,
    limit: Option<Quantity>,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {}", ratio.canonical());
    let given = |amount: Option<Quantity>| amount.filter(|amount| !amount.is_zero());
    let Some(request) = given(request) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = given(limit) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    let observed = limit.to_f64() / request.to_f64();
    (observed > ratio.to_f64()).then(|| format!("{head}, but provided ratio is {observed:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(spec: &Value) -> Vec<Limit> {
        let object = json!({"spec": {"limits": [spec]}});
        let kv = KeyValue {
            key: "/x".into(),
            value: object.to_string().into(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            lease: 0,
        };
        parse(&kv).unwrap()
    }

    fn said(limit: Value, requests: Value, maxima: Value) -> String {
        let mut limit = limit;
        limit["type"] = "Container".into();
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": requests, "limits": maxima}},
        ]}});
        aggregate(broken(&limits(&limit), "pods", &pod))
    }

    #[test]
    fn refusals_read_as_in_kubernetes() {
        let table = [
            (
                json!({"min": {"cpu": "50m"}}),
                json!({"cpu": "40m"}),
                json!({}),
                "minimum cpu usage per Container is 50m, but request is 40m",
            ),
            (
                json!({"min": {"cpu": "50m"}}),
                json!({}),
                json!({}),
                "minimum cpu usage per Container is 50m.  No request is specified",
            ),
            (
                json!({"max": {"memory": "1Gi"}}),
                json!({}),
                json!({}),
                "maximum memory usage per Container is 1Gi.  No limit is specified",
            ),
            (
                json!({"max": {"memory": "1Gi"}}),
                json!({}),
                json!({"memory": "2Gi"}),
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "1"}}),
                json!({"cpu": "1250m"}),
                json!({"cpu": "2500m"}),
                "cpu max limit to request ratio per Container is 1, but provided ratio is 2.000000",
            ),
            (json!({"maxLimitRequestRatio": {"cpu": "2500m"}}), json!({"cpu": "1"}), json!({"cpu": "2"}), ""),
        ];
        for (limit, requests, maxima, expected) in table {
            assert_eq!(said(limit, requests, maxima), expected);
        }
    }

    #[test]
    fn what_is_missing_is_filled_in_and_said() {
        let limit = json!({"type": "Container", "default": {"cpu": "75m", "memory": "10Mi"},
                           "defaultRequest": {"cpu": "50m"}});
        let limits = limits(&limit);
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "foo", "resources": {"limits": {"cpu": "1"}}}, {"name": "bar"},
        ]}});
        fill(&mut pod, &limits[0].default_request, &limits[0].default);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "1", "memory": "10Mi"})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container foo; memory limit for container foo; \
             cpu request for container bar; cpu, memory limit for container bar"
        );
    }
}
