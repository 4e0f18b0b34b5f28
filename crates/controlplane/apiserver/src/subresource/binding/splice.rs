//! A bound pod out of a stored one, without reading the rest of it: most of a pod is text that is only copied.

use std::borrow::Cow;

use sampan_api::kinds::RESERVATION_SEAT;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, value::RawValue};

/// What a pod is to become.
pub(super) struct Wanted<'a> {
    /// The pod that is meant; empty for whichever has the name.
    pub(super) uid: &'a str,
    pub(super) node: &'a str,
    pub(super) annotations: Option<&'a Map<String, Value>>,
    pub(super) labels: Option<&'a Map<String, Value>>,
    /// When.
    pub(super) now: &'a str,
}

/// Why a pod is not bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is another one, with this uid.
    Another(String),
    Terminating,
    /// It is on this node.
    Assigned(String),
    Gated,
    Damaged(String),
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A member as it stands there; also null is something that stands there.
fn raw<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    spec: &'a RawValue,
    #[serde(borrow, default, deserialize_with = "raw")]
    status: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "raw")]
    deletion_timestamp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "raw")]
    generation: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "raw")]
    annotations: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "raw")]
    labels: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default, deserialize_with = "raw")]
    node_name: Option<&'a RawValue>,
    scheduling_gates: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct Conditions<'a> {
    #[serde(borrow, default, deserialize_with = "raw")]
    conditions: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

/// The stored form of the pod on its node, with the condition `PodScheduled`.
pub(super) fn bound(stored: &[u8], wanted: &Wanted<'_>) -> Result<Vec<u8>, Refusal> {
    let pod: Pod<'_> = serde_json::from_slice(stored)?;
    let metadata: Metadata<'_> = serde_json::from_str(pod.metadata.get())?;
    let spec: Spec<'_> = serde_json::from_str(pod.spec.get())?;
    allowed(&metadata, &spec, wanted)?;
    let mut text = Splice::new(stored);
    if let Some(annotations) = changed(metadata.annotations, wanted.annotations, Some(RESERVATION_SEAT))? {
        text.set(metadata.annotations, pod.metadata, "annotations", &annotations);
    }
    if let Some(labels) = changed(metadata.labels, wanted.labels, None)? {
        text.set(metadata.labels, pod.metadata, "labels", &labels);
    }
    text.set(spec.node_name, pod.spec, "nodeName", &Value::from(wanted.node).to_string());
    let condition = condition(metadata.generation, wanted.now);
    match pod.status.filter(|status| status.get() != "null") {
        Some(status) => {
            let known: Conditions<'_> = serde_json::from_str(status.get())?;
            let conditions = conditions(known.conditions, &condition)?;
            text.set(known.conditions, status, "conditions", &conditions);
        }
        None => {
            let status = format!("{{\"conditions\":[{condition}]}}");
            match pod.status {
                Some(null) => text.replace(null, &status),
                None => text.append(stored.len(), false, "status", &status),
            }
        }
    }
    Ok(text.finish())
}

fn allowed(metadata: &Metadata<'_>, spec: &Spec<'_>, wanted: &Wanted<'_>) -> Result<(), Refusal> {
    let uid = metadata.uid.as_deref().unwrap_or_default();
    if !wanted.uid.is_empty() && wanted.uid != uid {
        return Err(Refusal::Another(uid.to_owned()));
    }
    let said = |text: Option<&RawValue>| text.is_some_and(|text| !matches!(text.get(), "null" | "\"\""));
    if said(metadata.deletion_timestamp) {
        return Err(Refusal::Terminating);
    }
    if let Some(node) = spec.node_name.filter(|node| said(Some(node))) {
        return Err(Refusal::Assigned(serde_json::from_str(node.get())?));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Err(Refusal::Gated);
    }
    Ok(())
}

/// Annotations or labels with what is added to them, and without what may not be there; nothing when they stay as they are.
fn changed(
    known: Option<&RawValue>,
    added: Option<&Map<String, Value>>,
    removed: Option<&str>,
) -> Result<Option<String>, Refusal> {
    let added = added.filter(|added| !added.is_empty());
    let text = known.map_or("null", RawValue::get);
    if added.is_none() && !removed.is_some_and(|key| text.contains(key)) {
        return Ok(None);
    }
    let mut all: Map<String, Value> = serde_json::from_str::<Option<_>>(text)?.unwrap_or_default();
    if let Some(key) = removed {
        all.shift_remove(key);
    }
    for (key, value) in added.into_iter().flatten() {
        all.insert(key.clone(), value.clone());
    }
    Ok(Some(serde_json::to_string(&all)?))
}

fn condition(generation: Option<&RawValue>, now: &str) -> String {
    let now = Value::from(now);
    let generation = generation.filter(|generation| generation.get() != "null");
    let generation = generation.map(|generation| format!(",\"observedGeneration\":{}", generation.get()));
    let generation = generation.unwrap_or_default();
    format!(
        "{{\"type\":\"PodScheduled\",\"status\":\"True\",\"lastProbeTime\":null,\"lastTransitionTime\":{now}{generation}}}"
    )
}

/// The conditions with this one in place of the one of its type.
fn conditions(known: Option<&RawValue>, condition: &str) -> Result<String, Refusal> {
    let known: Option<Vec<&RawValue>> = match known {
        Some(known) => serde_json::from_str(known.get())?,
        None => None,
    };
    let mut out = String::from("[");
    for one in known.unwrap_or_default() {
        let Condition { kind } = serde_json::from_str(one.get())?;
        if kind.as_deref() != Some("PodScheduled") {
            out.push_str(one.get());
            out.push(',');
        }
    }
    out.push_str(condition);
    out.push(']');
    Ok(out)
}

/// A text, and what is put into it where.
struct Splice<'a> {
    stored: &'a [u8],
    /// From, to, and what stands there then.
    parts: Vec<(usize, usize, Vec<u8>)>,
}

impl<'a> Splice<'a> {
    fn new(stored: &'a [u8]) -> Self {
        Self { stored, parts: Vec::with_capacity(4) }
    }

    /// Where a part of the stored text lies in it.
    fn place(&self, part: &RawValue) -> (usize, usize) {
        let from = part.get().as_ptr().addr() - self.stored.as_ptr().addr();
        (from, from + part.get().len())
    }

    fn replace(&mut self, part: &RawValue, with: &str) {
        let (from, to) = self.place(part);
        self.parts.push((from, to, with.as_bytes().to_vec()));
    }

    /// Sets a member of an object: in place where it is there, else as the last.
    fn set(&mut self, member: Option<&RawValue>, object: &RawValue, key: &str, value: &str) {
        match member {
            Some(member) => self.replace(member, value),
            None => {
                let empty = object.get().trim_matches(['{', '}']).trim().is_empty();
                self.append(self.place(object).1, empty, key, value);
            }
        }
    }

    /// Adds a member to an object that ends there.
    fn append(&mut self, end: usize, empty: bool, key: &str, value: &str) {
        let comma = if empty { "" } else { "," };
        self.parts.push((end - 1, end - 1, format!("{comma}\"{key}\":{value}").into_bytes()));
    }

    fn finish(mut self) -> Vec<u8> {
        // In the order of places; what is added to one object in the order in which it was added.
        self.parts.sort_by_key(|(from, ..)| *from);
        let grown: usize = self.parts.iter().map(|(.., with)| with.len()).sum();
        let mut out = Vec::with_capacity(self.stored.len() + grown);
        let mut done = 0;
        for (from, to, with) in &self.parts {
            out.extend_from_slice(&self.stored[done..*from]);
            out.extend_from_slice(with);
            done = *to;
        }
        out.extend_from_slice(&self.stored[done..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    /// The same, the long way: by the pod as a value.
    fn reference(stored: &[u8], wanted: &Wanted<'_>) -> Result<Value, Refusal> {
        let mut pod: Value = serde_json::from_slice(stored).unwrap();
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if !wanted.uid.is_empty() && text("/metadata/uid") != wanted.uid {
            return Err(Refusal::Another(text("/metadata/uid").to_owned()));
        }
        if !text("/metadata/deletionTimestamp").is_empty() {
            return Err(Refusal::Terminating);
        }
        if !text("/spec/nodeName").is_empty() {
            return Err(Refusal::Assigned(text("/spec/nodeName").to_owned()));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(Refusal::Gated);
        }
        if let Some(Value::Object(annotations)) = pod.pointer_mut("/metadata/annotations") {
            annotations.shift_remove(RESERVATION_SEAT);
        }
        for (key, added) in [("annotations", wanted.annotations), ("labels", wanted.labels)] {
            for (name, value) in added.into_iter().flatten() {
                pod["metadata"][key][name] = value.clone();
            }
        }
        let generation = pod["metadata"].get("generation").filter(|known| !known.is_null()).cloned();
        pod["spec"]["nodeName"] = wanted.node.into();
        let mut condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": wanted.now});
        if let Some(generation) = generation {
            condition["observedGeneration"] = generation;
        }
        let known = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut conditions: Vec<Value> =
            known.into_iter().filter(|known| known["type"] != "PodScheduled").collect();
        conditions.push(condition);
        pod["status"]["conditions"] = conditions.into();
        Ok(pod)
    }

    /// Text with all that makes trouble: quotes, braces, escapes, names of members.
    fn some_text(rng: &mut StdRng) -> String {
        let parts =
            ["a", "\"", "\\", "{", "}", "],", "\"nodeName\":\"x\"", "status", "ä", "\u{1}", RESERVATION_SEAT];
        (0..rng.random_range(0..5)).map(|_| parts[rng.random_range(0..parts.len())]).collect()
    }

    fn some_map(rng: &mut StdRng) -> Value {
        let mut map = Map::new();
        for _ in 0..rng.random_range(0..3) {
            let key = if rng.random_bool(0.3) { RESERVATION_SEAT.to_owned() } else { some_text(rng) };
            map.insert(key, some_text(rng).into());
        }
        map.into()
    }

    fn shuffled(rng: &mut StdRng, mut members: Vec<(&str, Value)>) -> Value {
        for at in (1..members.len()).rev() {
            members.swap(at, rng.random_range(0..=at));
        }
        Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// A pod whose members are there or not, in any order.
    fn some_pod(rng: &mut StdRng) -> Value {
        let mut metadata = vec![("name", json!(some_text(rng))), ("uid", json!("u"))];
        if rng.random_bool(0.5) {
            metadata.push(("annotations", some_map(rng)));
        }
        if rng.random_bool(0.5) {
            metadata.push(("labels", some_map(rng)));
        }
        if rng.random_bool(0.5) {
            metadata.push(("generation", json!(rng.random_range(1..9))));
        }
        if rng.random_bool(0.1) {
            metadata.push(("deletionTimestamp", json!(NOW)));
        }
        let mut spec = vec![];
        if rng.random_bool(0.9) {
            spec.push(("containers", json!([{"name": some_text(rng), "env": [some_map(rng)]}])));
        }
        if rng.random_bool(0.3) {
            spec.push(("nodeName", json!(if rng.random_bool(0.5) { "n\"0" } else { "" })));
        }
        if rng.random_bool(0.3) {
            let gates = if rng.random_bool(0.5) { json!([]) } else { json!([{"name": some_text(rng)}]) };
            spec.push(("schedulingGates", gates));
        }
        let mut status = vec![];
        if rng.random_bool(0.5) {
            status.push(("phase", json!("Pending")));
        }
        if rng.random_bool(0.5) {
            let kinds = ["PodScheduled", "Ready", "Pod\"Scheduled"];
            let all = (0..rng.random_range(0..4)).map(|_| {
                json!({"message": some_text(rng), "type": kinds[rng.random_range(0..kinds.len())], "status": "False"})
            });
            status.push(("conditions", all.collect()));
        }
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": shuffled(rng, metadata), "spec": shuffled(rng, spec)});
        if rng.random_bool(0.8) {
            pod["status"] = shuffled(rng, status);
        }
        for member in [
            "/metadata/annotations",
            "/metadata/labels",
            "/metadata/generation",
            "/metadata/deletionTimestamp",
            "/spec/nodeName",
            "/spec/schedulingGates",
            "/status/conditions",
            "/status",
        ] {
            if let Some(member) = pod.pointer_mut(member).filter(|_| rng.random_bool(0.1)) {
                *member = Value::Null;
            }
        }
        pod
    }

    #[test]
    fn what_is_spliced_is_what_the_long_way_gives() {
        let (mut rng, mut bindings) = (StdRng::seed_from_u64(7), 0);
        for _ in 0..20_000 {
            let stored = some_pod(&mut rng).to_string();
            let (annotations, labels) = (some_map(&mut rng), some_map(&mut rng));
            let wanted = Wanted {
                uid: ["", "u", "other"][rng.random_range(0..3)],
                node: ["n1", "n\"2"][rng.random_range(0..2)],
                annotations: annotations.as_object().filter(|_| rng.random_bool(0.5)),
                labels: labels.as_object().filter(|_| rng.random_bool(0.5)),
                now: NOW,
            };
            let long = reference(stored.as_bytes(), &wanted);
            let short = bound(stored.as_bytes(), &wanted);
            let short = short.map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap());
            bindings += usize::from(short.is_ok());
            assert_eq!(short, long, "{stored}");
        }
        assert!(bindings > 4_000, "{bindings} were bound");
    }

    #[test]
    fn what_is_not_touched_stays_byte_for_byte() {
        let stored = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","x":1.50e3},"spec":{"a": [ 1 ]},"status":{}}"#;
        let wanted = Wanted { uid: "", node: "n", annotations: None, labels: None, now: NOW };
        let expected = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p","x":1.50e3}},"spec":{{"a": [ 1 ],"nodeName":"n"}},"status":{{"conditions":[{{"type":"PodScheduled","status":"True","lastProbeTime":null,"lastTransitionTime":"{NOW}"}}]}}}}"#
        );
        assert_eq!(String::from_utf8(bound(stored, &wanted).unwrap()).unwrap(), expected);
    }

    #[test]
    fn damaged_pods_are_told_of() {
        let wanted = Wanted { uid: "", node: "n", annotations: None, labels: None, now: NOW };
        for stored in [
            "",
            "{",
            "[]",
            "{\"metadata\":{}}",
            r#"{"metadata":[],"spec":{}}"#,
            r#"{"metadata":{},"spec":7}"#,
        ] {
            assert!(matches!(bound(stored.as_bytes(), &wanted), Err(Refusal::Damaged(_))), "{stored}");
        }
    }
}
