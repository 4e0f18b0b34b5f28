//! What a pod asks for, put into its spec.

use serde_json::{Value, json};

use super::{AUTO, CLASS, CLASSES, NODE_TYPE, NODES, Shape, TYPE, fitting};
use crate::quantity::Quantity;
use crate::quota::{self, Amounts, amounts};

/// The weight of nodes whose class fits, among what the pod itself prefers: others than that have more to say.
const WEIGHT: u64 = 10;
/// So many types are named where any of them will do, the smallest.
const NAMED: usize = 64;

/// What the type means for nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nodes {
    Any,
    Prefer,
    Require,
}

/// What a pod asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    /// A type by its name; otherwise it is chosen.
    name: Option<&'a str>,
    class: Option<&'a str>,
    nodes: Nodes,
}

fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// Whether a pod, or the template of one, asks for a type at all.
pub fn asks(pod: &Value) -> bool {
    [TYPE, CLASS, NODES].iter().any(|key| annotation(pod, key).is_some())
}

/// The type that a pod asks for by name, if it does.
pub fn asks_for_shape(pod: &Value) -> Option<&str> {
    annotation(pod, TYPE).filter(|name| *name != AUTO)
}

fn asked(pod: &Value) -> Result<Asked<'_>, String> {
    let class = annotation(pod, CLASS);
    if let Some(class) = class.filter(|class| !CLASSES.contains(class)) {
        return Err(format!("annotation {CLASS} is {class:?} (hint: one of {})", CLASSES.join(", ")));
    }
    let nodes = match annotation(pod, NODES) {
        None | Some("Prefer") => Nodes::Prefer,
        Some("Any") => Nodes::Any,
        Some("Require") => Nodes::Require,
        Some(other) => {
            return Err(format!("annotation {NODES} is {other:?} (hint: Prefer, Any or Require)"));
        }
    };
    let name = annotation(pod, TYPE);
    if name.is_none() && class.is_none() {
        return Err(format!("annotation {NODES} says nothing without {TYPE} or {CLASS}"));
    }
    if name.is_some_and(str::is_empty) {
        return Err(format!("annotation {TYPE} is empty (hint: an InstanceType's name, or {AUTO})"));
    }
    Ok(Asked { name: name.filter(|name| *name != AUTO), class, nodes })
}

/// Puts into the spec of a pod what it asks for; the name of the type that became its size, if one did. Doing it twice changes nothing.
///
/// # Errors
/// Why it cannot have that, for people.
pub fn apply(pod: &mut Value, types: &[&Shape]) -> Result<Option<String>, String> {
    if !asks(pod) {
        return Ok(None);
    }
    let Asked { name, class, nodes } = asked(pod)?;
    let able: Vec<&Shape> = match name {
        Some(name) => vec![named(name, class, types)?],
        None => {
            let need = need(pod);
            let able = fitting(types.iter().copied(), &need, class);
            if able.is_empty() {
                return Err(none_fits(&need, class, types));
            }
            able
        }
    };
    let Some(first) = able.first().copied() else { return Ok(None) };
    if nodes == Nodes::Require {
        let only = name.is_some();
        require(pod, &able[..able.len().min(NAMED)], only)?;
        return Ok(None);
    }
    size(pod, first, name.is_some())?;
    tell(pod, first)?;
    if nodes == Nodes::Prefer {
        prefer(pod, WEIGHT, CLASS, &first.class);
    }
    Ok(Some(first.name.clone()))
}

fn named<'a>(name: &str, class: Option<&str>, types: &[&'a Shape]) -> Result<&'a Shape, String> {
    let Some(shape) = types.iter().find(|shape| shape.name == name) else {
        let mut known: Vec<&str> = types.iter().map(|shape| shape.name.as_str()).collect();
        known.sort_unstable();
        let hint = match known.as_slice() {
            [] => "there is none yet: kubectl apply -f one".to_owned(),
            some => format!("kubectl get instancetypes: {}", some[..some.len().min(8)].join(", ")),
        };
        return Err(format!("there is no InstanceType {name:?} that can be used (hint: {hint})"));
    };
    match class {
        Some(class) if class != shape.class => Err(format!(
            "InstanceType {name:?} is of class {}, not {class} (hint: leave out one of {TYPE} and {CLASS})",
            shape.class
        )),
        _ => Ok(shape),
    }
}

fn none_fits(need: &Amounts, class: Option<&str>, types: &[&Shape]) -> String {
    let of_class: Vec<&&Shape> =
        types.iter().filter(|shape| class.is_none_or(|class| class == shape.class)).collect();
    let what = class.map(|class| format!(" of class {class}")).unwrap_or_default();
    let largest = of_class.iter().max_by(|a, b| {
        let ((unused, cost), (other, costs)) = (a.cost(need), b.cost(need));
        cost.total_cmp(&costs).then(other.cmp(&unused))
    });
    match largest {
        None => format!("there is no InstanceType{what} (hint: kubectl get instancetypes)"),
        Some(largest) => format!(
            "no InstanceType{what} is large enough for what the pod asks: {} (hint: the largest is {}, {})",
            quota::print(need),
            largest.name,
            largest.words()
        ),
    }
}

/// What the pod needs, as it says itself.
fn need(pod: &Value) -> Amounts {
    let mut need = quota::pod_resources(pod, "requests", false);
    // Who says only how much it may have at most is taken to need it.
    for (name, amount) in quota::pod_resources(pod, "limits", false) {
        need.entry(name).or_insert(amount);
    }
    need.retain(|_, amount| !amount.is_zero());
    need
}

/// What lies there, made an object when it is none.
fn entry<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Value {
    let mut inner = object;
    for key in path {
        inner = &mut inner[*key];
        if !inner.is_object() {
            *inner = json!({});
        }
    }
    inner
}

/// The shape becomes the size of the whole pod.
fn size(pod: &mut Value, shape: &Shape, by_name: bool) -> Result<(), String> {
    let name = &shape.name;
    let mut without = pod.clone();
    without["spec"]["resources"] = Value::Null;
    let own = |kind: &str| quota::pod_resources(&without, kind, false);
    let (asked, most) = (own("requests"), own("limits"));
    for (resource, amount) in &shape.size {
        let of_pod = resource == "cpu" || resource == "memory" || resource.starts_with("hugepages-");
        let beyond = [asked.get(resource), most.get(resource).filter(|_| !of_pod)];
        if let Some(sum) = beyond.into_iter().flatten().find(|sum| *sum > amount) {
            return Err(format!(
                "its containers ask for {} of {resource}, InstanceType {name:?} has {} (hint: a larger type, or {AUTO})",
                sum.canonical(),
                amount.canonical()
            ));
        }
        if of_pod {
            size_of_pod(pod, shape, (resource, *amount), by_name)?;
        } else if !asked.contains_key(resource) && !most.contains_key(resource) {
            let Some(first) = pod.pointer_mut("/spec/containers/0") else { continue };
            for kind in ["requests", "limits"] {
                entry(first, &["resources", kind])[resource] = amount.canonical().into();
            }
        }
    }
    let strange = asked.keys().find(|r| r.contains('/') && !shape.size.contains_key(*r));
    strange.map_or(Ok(()), |resource| {
        Err(format!("its containers ask for {resource}, of which InstanceType {name:?} has none"))
    })
}

fn size_of_pod(
    pod: &mut Value,
    shape: &Shape,
    (resource, amount): (&str, Quantity),
    by_name: bool,
) -> Result<(), String> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    for container in containers {
        let limit = amounts(container.pointer("/resources/limits")).get(resource).copied();
        if let Some(limit) = limit.filter(|limit| *limit > amount) {
            return Err(format!(
                "a container may use {} of {resource}, InstanceType {:?} has {} (hint: a larger type, or {AUTO})",
                limit.canonical(),
                shape.name,
                amount.canonical()
            ));
        }
    }
    for kind in ["requests", "limits"] {
        let list = entry(pod, &["spec", "resources", kind]);
        let said = list.get(resource).and_then(Quantity::from_value);
        if let Some(said) = said.filter(|said| by_name && *said != amount) {
            return Err(format!(
                "spec.resources.{kind} says {resource} is {}, InstanceType {:?} says {} (hint: leave out one of them)",
                said.canonical(),
                shape.name,
                amount.canonical()
            ));
        }
        list[resource] = amount.canonical().into();
    }
    Ok(())
}

/// Labels the pod with the type that it got.
fn tell(pod: &mut Value, shape: &Shape) -> Result<(), String> {
    let labels = entry(pod, &["metadata", "labels"]);
    match labels.get(TYPE).and_then(Value::as_str) {
        Some(label) if label != shape.name => Err(format!(
            "label {TYPE} says {label:?}, and the pod gets InstanceType {:?} (hint: leave out the label, ask by annotation)",
            shape.name
        )),
        _ => {
            labels[TYPE] = shape.name.as_str().into();
            Ok(())
        }
    }
}

fn prefer(pod: &mut Value, weight: u64, key: &str, value: &str) {
    let term = json!({
        "weight": weight,
        "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]},
    });
    let affinity = entry(pod, &["spec", "affinity", "nodeAffinity"]);
    let terms = &mut affinity["preferredDuringSchedulingIgnoredDuringExecution"];
    if terms.is_null() {
        *terms = json!([]);
    }
    if let Some(terms) = terms.as_array_mut().filter(|terms| !terms.contains(&term)) {
        terms.push(term);
    }
}

/// Only nodes of these types will do.
fn require(pod: &mut Value, types: &[&Shape], only: bool) -> Result<(), String> {
    let Some(first) = types.first() else { return Ok(()) };
    if only {
        let selector = entry(pod, &["spec", "nodeSelector"]);
        if let Some(other) = selector.get(NODE_TYPE).and_then(Value::as_str).filter(|v| *v != first.name) {
            return Err(format!(
                "spec.nodeSelector asks for nodes of type {other:?}, the annotation {TYPE} for {:?} (hint: leave out one of them)",
                first.name
            ));
        }
        selector[NODE_TYPE] = first.name.as_str().into();
    } else {
        let names: Vec<&str> = types.iter().map(|shape| shape.name.as_str()).collect();
        let expression = json!({"key": NODE_TYPE, "operator": "In", "values": names});
        let affinity = entry(pod, &["spec", "affinity", "nodeAffinity"]);
        let required = &mut affinity["requiredDuringSchedulingIgnoredDuringExecution"];
        if required.is_null() {
            *required = json!({"nodeSelectorTerms": [{}]});
        }
        let terms = required.get_mut("nodeSelectorTerms").and_then(Value::as_array_mut).into_iter().flatten();
        for term in terms.filter(|term| term.is_object()) {
            let expressions = &mut term["matchExpressions"];
            if expressions.is_null() {
                *expressions = json!([]);
            }
            if let Some(list) = expressions.as_array_mut().filter(|list| !list.contains(&expression)) {
                list.push(expression.clone());
            }
        }
        // The smallest, where there is one with room.
        prefer(pod, 100, NODE_TYPE, &first.name);
    }
    for taint in types.iter().flat_map(|shape| &shape.taints) {
        tolerate(pod, taint);
    }
    Ok(())
}

fn tolerate(pod: &mut Value, taint: &Value) {
    let text = |key: &str| taint.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut toleration = json!({"key": text("key"), "operator": "Equal", "effect": text("effect")});
    if !text("value").is_empty() {
        toleration["value"] = text("value").into();
    }
    let all = &mut pod["spec"]["tolerations"];
    if all.is_null() {
        *all = json!([]);
    }
    if let Some(all) = all.as_array_mut().filter(|all| !all.contains(&toleration)) {
        all.push(toleration);
    }
}
