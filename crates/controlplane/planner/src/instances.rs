//! Which node is of which InstanceType, and what that says about it.
//!
//! A node belongs to the type that its label `node.kubernetes.io/instance-type` names. Without the label it belongs to the
//! type that what it has comes closest to, within the type's tolerance; then it gets the label. Nodes of a type carry
//! the type's class, labels and taints, and lose them when they are of that type no more. What a *pod* gets is worked out
//! where pods are admitted: [`sampan_api::instancetype`].

mod object;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sampan_api::instancetype::{self, CLASS, NODE_TYPE, Shape};
use sampan_api::quantity::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::pods;

pub use object::{InstanceType, TypeStatus};
pub use sampan_api::instancetype::Shape as InstanceShape;

/// The annotation of a node that says what was put there because of its type: that, and nothing else, is taken away again.
pub const GIVEN: &str = "sampan.io/instance-type-given";

/// What was put on a node because of its type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Given {
    /// The label of the type itself, too: nobody else had set it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    matched: bool,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    labels: BTreeSet<String>,
    /// As `key:effect`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    taints: BTreeSet<String>,
}

fn given(node: &Node) -> Option<Given> {
    // What nobody can read any more counts as nothing: it was not us who wrote that.
    Some(serde_json::from_str(pods::annotation(&node.metadata, GIVEN)?).unwrap_or_default())
}

/// Whether types, or the lack of them, might say something about the node.
pub fn concerns(node: &Node, any_types: bool) -> bool {
    any_types || pods::annotation(&node.metadata, GIVEN).is_some()
}

/// The type whose size a pod was given.
pub fn of_pod(meta: &ObjectMeta) -> Option<&str> {
    meta.labels.as_ref()?.get(instancetype::TYPE).map(String::as_str)
}

/// The type of a node.
pub fn type_of<'a>(node: &Node, types: &'a [Shape]) -> Option<&'a Shape> {
    let ours = given(node).is_some_and(|given| given.matched);
    match node.metadata.labels.as_ref().and_then(|labels| labels.get(NODE_TYPE)) {
        Some(name) if !ours => types.iter().find(|shape| shape.name == *name),
        _ => closest(node, types),
    }
}

/// The type that a node without a label comes closest to.
fn closest<'a>(node: &Node, types: &'a [Shape]) -> Option<&'a Shape> {
    let capacity = node.status.as_ref()?.capacity.as_ref()?;
    let near = types.iter().filter_map(|shape| Some((distance(capacity, shape)?, shape)));
    near.min_by(|(a, one), (b, other)| a.total_cmp(b).then_with(|| one.name.cmp(&other.name)))
        .map(|(_, shape)| shape)
}

/// How far what a node has is from a type, as a part of it; nothing when that is too far. Devices must be the same.
fn distance(capacity: &BTreeMap<String, Amount>, shape: &Shape) -> Option<f64> {
    let has = |name: &str| capacity.get(name).and_then(|amount| Quantity::parse(amount.0.trim()).ok());
    let special = |name: &&String| name.contains('/');
    let devices = capacity.keys().filter(special).filter(|name| has(name).is_some_and(|a| !a.is_zero()));
    if devices.filter(|name| !is_made_up(name)).any(|name| !shape.size.contains_key(name)) {
        return None;
    }
    let mut farthest: f64 = 0.0;
    for (name, wanted) in &shape.size {
        let there = has(name)?;
        if special(&name) {
            if there != *wanted {
                return None;
            }
            continue;
        }
        let off = (there.to_f64() - wanted.to_f64()).abs() / wanted.to_f64();
        if off * 100.0 > shape.tolerance as f64 {
            return None;
        }
        farthest = farthest.max(off);
    }
    Some(farthest)
}

/// What comes and goes with what is used: no part of the machine.
fn is_made_up(resource: &str) -> bool {
    matches!(resource, crate::overcommit::CPU | crate::overcommit::MEMORY)
}

fn mark(taint: &Value) -> String {
    let text = |key: &str| taint.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{}:{}", text("key"), text("effect"))
}

/// The merge patch that makes a node look as its type says; nothing when it does.
pub fn patch(node: &Node, types: &[Shape]) -> Option<Value> {
    let before = given(node).unwrap_or_default();
    let shape = type_of(node, types);
    let empty = BTreeMap::new();
    let has = node.metadata.labels.as_ref().unwrap_or(&empty);
    let mut after = Given::default();
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    if let Some(shape) = shape {
        after.matched = before.matched || !has.contains_key(NODE_TYPE);
        if after.matched {
            wanted.insert(NODE_TYPE.to_owned(), shape.name.clone());
        }
        wanted.insert(CLASS.to_owned(), shape.class.clone());
        let others = shape.labels.iter().filter(|(key, _)| {
            // What somebody else says about the node stays.
            before.labels.contains(*key) || !has.contains_key(*key)
        });
        wanted.extend(others.map(|(key, value)| (key.clone(), value.clone())));
        after.labels = wanted.keys().filter(|key| *key != NODE_TYPE).cloned().collect();
    }
    let mut labels = Map::new();
    let mut gone = before.labels.difference(&after.labels).cloned().collect::<Vec<_>>();
    gone.extend((before.matched && !after.matched).then(|| NODE_TYPE.to_owned()));
    for key in gone.into_iter().filter(|key| has.contains_key(key)) {
        labels.insert(key, Value::Null);
    }
    for (key, value) in wanted.iter().filter(|(key, value)| has.get(*key) != Some(*value)) {
        labels.insert(key.clone(), value.as_str().into());
    }
    let taints = taints(node, shape, &before, &mut after);
    let mut patch = json!({});
    if !labels.is_empty() {
        patch["metadata"]["labels"] = labels.into();
    }
    if let Some(taints) = taints {
        patch["spec"]["taints"] = taints.into();
    }
    let note = (after != Given::default()).then(|| serde_json::to_string(&after).unwrap_or_default());
    if note.as_deref() != pods::annotation(&node.metadata, GIVEN) {
        patch["metadata"]["annotations"] = json!({GIVEN: note});
    }
    patch.as_object().is_some_and(|patch| !patch.is_empty()).then_some(patch)
}

/// All taints of the node as they should be, when they are not.
fn taints(node: &Node, shape: Option<&Shape>, before: &Given, after: &mut Given) -> Option<Vec<Value>> {
    let there = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let there: Vec<Value> = there.filter_map(|taint| serde_json::to_value(taint).ok()).collect();
    let (ours, mut all): (Vec<Value>, Vec<Value>) =
        there.iter().cloned().partition(|taint| before.taints.contains(&mark(taint)));
    for taint in shape.iter().flat_map(|shape| &shape.taints) {
        if all.iter().any(|other| mark(other) == mark(taint)) {
            continue;
        }
        let mut taint = taint.clone();
        // When a taint began is not for a type to say.
        if let Some(taint) = taint.as_object_mut() {
            taint.remove("timeAdded");
        }
        let same = |other: &&Value| ["key", "value", "effect"].iter().all(|k| other.get(k) == taint.get(k));
        after.taints.insert(mark(&taint));
        all.push(ours.iter().find(same).cloned().unwrap_or(taint));
    }
    let same = all.len() == there.len() && all.iter().all(|taint| there.contains(taint));
    (!same).then_some(all)
}

/// Gives nodes and pods what types say, as the API server and the controllers would: for simulations.
///
/// # Errors
/// Which pod asks for what it cannot have.
pub fn settle<'a>(
    types: &[InstanceType],
    nodes: impl Iterator<Item = &'a mut Node>,
    pods: impl Iterator<Item = &'a mut Pod>,
) -> Result<(), String> {
    let mut shapes = Vec::new();
    for kind in types {
        let shape = kind.shape();
        shapes.push(shape.map_err(|why| format!("InstanceType {}: {why}", pods::name(&kind.metadata)))?);
    }
    for node in nodes {
        let Some(patch) = patch(node, &shapes) else { continue };
        let labels = patch["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let own = node.metadata.labels.get_or_insert_default();
        for (key, value) in labels {
            match value {
                Value::String(text) => drop(own.insert(key, text)),
                _ => drop(own.remove(&key)),
            }
        }
        if let Ok(taints) = serde_json::from_value(patch["spec"]["taints"].clone()) {
            node.spec.get_or_insert_default().taints = Some(taints);
        }
    }
    let shapes: Vec<&Shape> = shapes.iter().collect();
    for pod in pods {
        let about = |key: &str| pods::annotation(&pod.metadata, key).is_some();
        if !pods::node_name(pod).is_empty()
            || ![instancetype::TYPE, CLASS, instancetype::NODES].iter().any(|k| about(k))
        {
            continue;
        }
        let name = pods::name(&pod.metadata).to_owned();
        let error = |why: String| format!("Pod {name}: {why}");
        let mut value = serde_json::to_value(&*pod).map_err(|e| error(e.to_string()))?;
        instancetype::apply(&mut value, &shapes).map_err(error)?;
        *pod = serde_json::from_value(value).map_err(|e| error(e.to_string()))?;
    }
    Ok(())
}
