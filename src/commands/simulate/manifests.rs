//! Scenarios as manifests: nodes, pods, and workloads, which stand for their pods.
//!
//! Annotations of a workload, pod or Reservation say when its pods come: `sampan.io/arrives-at` (seconds, 0 by default),
//! `sampan.io/arrives-every` (seconds between its pods, 0), `sampan.io/lasts` (seconds that each runs, for ever). A node's
//! `sampan.io/copies` stands for so many nodes of its kind, and so does that of a NodeResourceTopology. TenantQueues and
//! InstanceTypes are there from the start.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use sampan_planner::numa::NodeTopology;
use sampan_planner::simulator::{Arrival, Scenario};
use serde::Deserialize;
use serde_json::{Value, json};

const AT: &str = "sampan.io/arrives-at";
const EVERY: &str = "sampan.io/arrives-every";
const LASTS: &str = "sampan.io/lasts";
const COPIES: &str = "sampan.io/copies";
/// Pods and nodes that one object can stand for.
const MOST: u64 = 1_000_000;

pub(super) fn add(text: &str, scenario: &mut Scenario) -> Result<()> {
    for (at, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document).with_context(|| format!("document {}", at + 1))?;
        add_object(&value, scenario).with_context(|| format!("document {}", at + 1))?;
    }
    Ok(())
}

fn add_object(value: &Value, scenario: &mut Scenario) -> Result<()> {
    let name = value["metadata"]["name"].as_str().unwrap_or("?");
    let kind = value["kind"].as_str().unwrap_or_default();
    let what = || format!("{kind} {name}");
    let spec = &value["spec"];
    match kind {
        "" if value.is_null() => Ok(()),
        "List" => {
            let mut items = value["items"].as_array().into_iter().flatten();
            items.try_for_each(|item| add_object(item, scenario))
        }
        "Node" => add_nodes(value, scenario).with_context(what),
        "NodeResourceTopology" => add_topologies(value, scenario).with_context(what),
        "Namespace" => {
            let namespace: Namespace = serde_json::from_value(value.clone()).with_context(what)?;
            scenario.namespaces.insert(name.to_owned(), namespace.metadata.labels.unwrap_or_default());
            Ok(())
        }
        "PodGroup" => {
            scenario.groups.push(serde_json::from_value(value.clone()).with_context(what)?);
            Ok(())
        }
        "TenantQueue" => {
            scenario.queues.push(serde_json::from_value(value.clone()).with_context(what)?);
            Ok(())
        }
        "InstanceType" => {
            scenario.types.push(serde_json::from_value(value.clone()).with_context(what)?);
            Ok(())
        }
        "Reservation" => {
            let at = seconds(value, AT).with_context(what)?.unwrap_or(0.0);
            let reservation = serde_json::from_value(value.clone()).with_context(what)?;
            scenario.reservations.push((at, reservation));
            Ok(())
        }
        "Pod" => add_pods(value, value, 1, scenario).with_context(what),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController" => {
            add_pods(value, &spec["template"], spec["replicas"].as_u64().unwrap_or(1), scenario)
                .with_context(what)
        }
        "Job" => {
            let count = spec["completions"].as_u64().or(spec["parallelism"].as_u64()).unwrap_or(1);
            add_pods(value, &spec["template"], count, scenario).with_context(what)
        }
        other => bail!(
            "{other} {name} has no pods (hint: Node, NodeResourceTopology, Namespace, TenantQueue, InstanceType, Reservation, PodGroup, Pod, Deployment, ReplicaSet, StatefulSet, Job)"
        ),
    }
}

/// A number in an annotation.
fn seconds(owner: &Value, annotation: &str) -> Result<Option<f64>> {
    let Some(text) = owner["metadata"]["annotations"][annotation].as_str() else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(Some(number)),
        _ => bail!("annotation {annotation} is {text:?} (hint: seconds, as a number)"),
    }
}

/// For how many objects it stands.
fn copies(value: &Value) -> Result<Option<u64>> {
    let copies = seconds(value, COPIES)?.map(|copies| copies as u64);
    if let Some(copies) = copies.filter(|copies| *copies > MOST) {
        bail!("{copies} copies are more than the {MOST} that are allowed");
    }
    Ok(copies)
}

fn add_topologies(value: &Value, scenario: &mut Scenario) -> Result<()> {
    let topology: NodeTopology = serde_json::from_value(value.clone())?;
    let Some(copies) = copies(value)? else {
        scenario.topologies.push(topology);
        return Ok(());
    };
    for at in 0..copies {
        let mut topology = topology.clone();
        topology.metadata.name = Some(format!("{}-{at}", topology.metadata.name.unwrap_or_default()));
        scenario.topologies.push(topology);
    }
    Ok(())
}

fn add_nodes(value: &Value, scenario: &mut Scenario) -> Result<()> {
    let node: Node = serde_json::from_value(value.clone())?;
    let Some(copies) = copies(value)? else {
        scenario.nodes.push(node);
        return Ok(());
    };
    for at in 0..copies {
        let mut node = node.clone();
        let name = format!("{}-{at}", node.metadata.name.unwrap_or_default());
        let labels = node.metadata.labels.get_or_insert_with(BTreeMap::new);
        labels.insert("kubernetes.io/hostname".to_owned(), name.clone());
        node.metadata.name = Some(name);
        scenario.nodes.push(node);
    }
    Ok(())
}

fn add_pods(owner: &Value, template: &Value, count: u64, scenario: &mut Scenario) -> Result<()> {
    if count > MOST {
        bail!("{count} pods are more than the {MOST} that are allowed");
    }
    let (at, every) = (seconds(owner, AT)?.unwrap_or(0.0), seconds(owner, EVERY)?.unwrap_or(0.0));
    let lasts = seconds(owner, LASTS)?;
    let namespace = owner["metadata"]["namespace"].as_str().unwrap_or("default");
    let name = owner["metadata"]["name"].as_str().unwrap_or("pod");
    let kind = owner["kind"].as_str().unwrap_or_default();
    for n in 0..count {
        let mut object = json!({"metadata": template["metadata"], "spec": template["spec"]});
        let metadata = &mut object["metadata"];
        if metadata.is_null() {
            *metadata = json!({});
        }
        metadata["namespace"] = namespace.into();
        metadata["name"] = if kind == "Pod" { name.into() } else { format!("{name}-{n}").into() };
        metadata["uid"] = format!("{namespace}/{kind}/{name}/{n}").into();
        let pod: Pod = serde_json::from_value(object)?;
        scenario.arrivals.push(Arrival { at: at + every * n as f64, pod, lasts });
    }
    Ok(())
}
