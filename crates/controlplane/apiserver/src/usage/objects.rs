//! NodeMetrics and PodMetrics, as objects and as rows of tables.

use std::time::Duration;

use sampan_api::quantity::Quantity;
use sampan_daemon::clock;
use serde_json::{Map, Value, json};

use super::{
    GROUP, list_of,
    nodes::{Container, Used},
};
use crate::{
    encode::{Form, Include},
    protobuf::go_duration,
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Pod,
}

impl Kind {
    pub fn of(plural: &str) -> Option<Self> {
        match plural {
            "nodes" => Some(Self::Node),
            "pods" => Some(Self::Pod),
            _ => None,
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Pod => "pods",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Node => "NodeMetrics",
            Self::Pod => "PodMetrics",
        }
    }

    /// A list, or a table.
    pub fn list(self, version: &str, all: &[Measured], form: Form) -> Value {
        let objects = |form| all.iter().map(|one| one.object(self, version, form)).collect::<Vec<_>>();
        match form {
            Form::Object => list_of(&format!("{}List", self.name()), version, &objects(form)),
            Form::Partial => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
                "items": objects(form),
            }),
            Form::Table(include) => {
                let column = |name: &str, format: &str, what: &str| json!({"name": name, "type": "string", "format": format, "description": what, "priority": 0});
                let rows = all.iter().map(|one| {
                    let mut row = json!({"cells": [one.name(), one.cpu(), one.memory(), text(one.window)]});
                    match include {
                        Include::Nothing => {}
                        Include::Metadata => row["object"] = one.object(self, version, Form::Partial),
                        Include::Object => row["object"] = one.object(self, version, Form::Object),
                    }
                    row
                });
                json!({
                    "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
                    "columnDefinitions": [
                        column("Name", "name", "Name of the resource"),
                        column("cpu", "quantity", "CPU in use"),
                        column("memory", "quantity", "Memory in use"),
                        column("Window", "duration", "Time over which CPU was measured"),
                    ],
                    "rows": rows.collect::<Vec<_>>(),
                })
            }
        }
    }
}

/// The resources of a version, as discovery tells of them.
pub(super) fn resources() -> Value {
    let one = |kind: Kind, namespaced: bool| {
        json!({
            "name": kind.plural(), "singularName": "", "namespaced": namespaced, "kind": kind.name(),
            "verbs": ["get", "list"],
        })
    };
    json!([one(Kind::Node, false), one(Kind::Pod, true)])
}

/// A node or a pod, and what it uses.
pub(super) struct Measured {
    metadata: Map<String, Value>,
    /// RFC 3339.
    at: String,
    window: Duration,
    /// In all.
    nanocores: u64,
    bytes: u64,
    /// Of each container, for a pod.
    containers: Vec<Value>,
}

fn cpu(nanocores: u64) -> String {
    let text = format!("{nanocores}n");
    Quantity::parse(&text).map_or(text, |quantity| quantity.canonical())
}

fn memory(bytes: u64) -> String {
    Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)).canonical()
}

/// A duration as Go writes it, to the millisecond.
fn text(duration: Duration) -> String {
    go_duration(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).saturating_mul(1_000_000))
}

/// Name, namespace and labels; made now, as upstream has it.
fn metadata(object: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    for member in ["name", "namespace", "labels"] {
        if let Some(value) = object["metadata"].get(member) {
            out.insert(member.to_owned(), value.clone());
        }
    }
    out.insert("creationTimestamp".to_owned(), clock::rfc3339(clock::now()).into());
    out
}

impl Measured {
    /// None when its CPU has not been measured yet.
    pub fn of_node(node: &Value, used: &Used) -> Option<Self> {
        Some(Self {
            metadata: metadata(node),
            at: used.at.clone(),
            window: used.window?,
            nanocores: used.nanocores?,
            bytes: used.bytes,
            containers: Vec::new(),
        })
    }

    /// None when any of its containers has not been measured yet: half a pod would look idle.
    pub fn of_pod(pod: &Value, all: &[Container]) -> Option<Self> {
        let first = all.first()?;
        let (mut nanocores, mut bytes, mut window) = (0_u64, 0_u64, Duration::ZERO);
        let mut containers = Vec::with_capacity(all.len());
        for Container { name, used } in all {
            nanocores = nanocores.saturating_add(used.nanocores?);
            bytes = bytes.saturating_add(used.bytes);
            window = window.max(used.window?);
            let usage = json!({"cpu": cpu(used.nanocores?), "memory": memory(used.bytes)});
            containers.push(json!({"name": name, "usage": usage}));
        }
        // The earliest stands for all.
        let at = all.iter().map(|container| &container.used.at).min().unwrap_or(&first.used.at);
        Some(Self { metadata: metadata(pod), at: at.clone(), window, nanocores, bytes, containers })
    }

    fn name(&self) -> Value {
        self.metadata.get("name").cloned().unwrap_or_default()
    }

    fn cpu(&self) -> String {
        cpu(self.nanocores)
    }

    fn memory(&self) -> String {
        memory(self.bytes)
    }

    pub fn object(&self, kind: Kind, version: &str, form: Form) -> Value {
        if form == Form::Partial {
            let (kind, version) = ("PartialObjectMetadata", "meta.k8s.io/v1");
            return json!({"kind": kind, "apiVersion": version, "metadata": self.metadata});
        }
        let mut object = json!({
            "kind": kind.name(), "apiVersion": format!("{GROUP}/{version}"), "metadata": self.metadata,
            "timestamp": self.at, "window": text(self.window),
        });
        match kind {
            Kind::Node => object["usage"] = json!({"cpu": self.cpu(), "memory": self.memory()}),
            Kind::Pod => object["containers"] = self.containers.clone().into(),
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(nanocores: Option<u64>, bytes: u64, millis: u64) -> Used {
        let window = nanocores.map(|_| Duration::from_millis(millis));
        Used { at: "2026-01-01T00:00:00Z".to_owned(), window, nanocores, bytes }
    }

    #[test]
    fn quantities_and_durations_are_written_as_upstream_does() {
        assert_eq!(
            (cpu(0), cpu(1_234_567), cpu(250_000_000)),
            ("0".into(), "1234567n".into(), "250m".into())
        );
        assert_eq!((memory(0), memory(4096), memory(4097)), ("0".into(), "4Ki".into(), "4097".into()));
        for (millis, want) in
            [(0, "0s"), (15_000, "15s"), (14_980, "14.98s"), (62_005, "1m2.005s"), (1007, "1.007s")]
        {
            assert_eq!(text(Duration::from_millis(millis)), want);
        }
    }

    #[test]
    fn half_a_pod_is_none() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}});
        let container = |name: &str, used| Container { name: name.to_owned(), used };
        let both =
            [container("a", used(Some(1000), 1024, 9000)), container("b", used(Some(500), 1024, 15_000))];
        let whole = Measured::of_pod(&pod, &both).unwrap();
        let object = whole.object(Kind::Pod, "v1beta1", Form::Object);
        assert_eq!(
            (&object["window"], &object["containers"][1]["usage"]["cpu"]),
            (&json!("15s"), &json!("500n"))
        );
        assert_eq!(object["metadata"]["labels"]["a"], "b");
        let table = Kind::Pod.list("v1", &[whole], Form::Table(Include::Nothing));
        assert_eq!(table["rows"][0]["cells"], json!(["p", "1500n", "2Ki", "15s"]));
        let half = [container("a", used(Some(1), 1, 1)), container("b", used(None, 1, 1))];
        assert!(Measured::of_pod(&pod, &half).is_none() && Measured::of_pod(&pod, &[]).is_none());
    }
}
