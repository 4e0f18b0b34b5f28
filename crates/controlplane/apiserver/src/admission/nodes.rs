//! NodeRestriction, TaintNodesByCondition and PodTopologyLabels: what concerns nodes.

mod restriction;

use std::collections::HashMap;

use sampan_api::status::Status;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use self::restriction::restrict;
use super::{Operation, Review};
use crate::{
    call::{self, text},
    core::Core,
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Labels of a node that its pods get.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// What is read of a node: it has much more, and this is read for every pod that is placed.
#[derive(Deserialize)]
struct Labelled {
    metadata: Labels,
}

#[derive(Deserialize)]
struct Labels {
    labels: Option<HashMap<String, String>>,
}

/// A new node takes pods once it is known to be ready.
pub(crate) fn taint(review: &mut Review<'_>) {
    if review.operation != Operation::Create || !review.subresource.is_empty() {
        return;
    }
    if !review.object["spec"].is_object() {
        review.object["spec"] = json!({});
    }
    let taints = &mut review.object["spec"]["taints"];
    if !taints.is_array() {
        *taints = json!([]);
    }
    let is = |taint: &Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
    if let Some(list) = taints.as_array_mut().filter(|list| !list.iter().any(is)) {
        list.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

/// A pod that gets to a node gets the node's place.
pub(crate) async fn topology_labels(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    let node = match (review.subresource, review.operation) {
        ("binding", Operation::Create) => match text(&review.object, "/target/kind") {
            "" | "Node" => text(&review.object, "/target/name"),
            _ => return Ok(()),
        },
        ("", Operation::Create) => text(&review.object, "/spec/nodeName"),
        _ => return Ok(()),
    };
    if node.is_empty() {
        return Ok(());
    }
    let endpoint = core.endpoint("", "v1", "nodes")?;
    let Some(stored) = core.fetch(&endpoint, None, node).await? else { return Ok(()) };
    // Most nodes have no place, and are not read then.
    if memchr::memmem::find(&stored.value, b"\"topology.kubernetes.io/").is_none() {
        return Ok(());
    }
    let Ok(Labelled { metadata: Labels { labels: Some(found) } }) = serde_json::from_slice(&stored.value)
    else {
        return Ok(());
    };
    let places = TOPOLOGY.iter().filter_map(|key| Some((*key, Value::from(found.get(*key)?.as_str()))));
    let places: Vec<(&str, Value)> = places.collect();
    if places.is_empty() {
        return Ok(());
    }
    let labels = call::metadata(&mut review.object)?.entry("labels").or_insert_with(|| json!({}));
    if !labels.is_object() {
        *labels = json!({});
    }
    for (key, value) in places {
        labels[key] = value;
    }
    Ok(())
}
