//! `pods/binding`: the scheduler's decision.

use std::sync::Arc;

use http::Response;
use sampan_api::{
    kinds::{Gvk, RESERVATION_SEAT},
    status::Status,
    validation,
};
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation, Review},
    body::Body,
    call::{self, Call, text},
    core::Core,
    storage::Found,
    subresource::done,
    verbs::update::{Change, Part},
};

const BINDING: Gvk = Gvk { group: "", version: "v1", kind: "Binding" };

/// Binds the pod in the path to a node.
pub(crate) async fn bind(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let (mut binding, _) = call.decode(BINDING)?;
    call::place(call, &mut binding)?;
    call::check_name(call, &mut binding)?;
    run(core, call, binding).await
}

/// Binds the pod that a `Binding` posted to `/bindings` names.
pub(crate) async fn bind_named(core: &Arc<Core>, call: &mut Call) -> Result<Response<Body>, Status> {
    let (mut binding, _) = call.decode(BINDING)?;
    call::place(call, &mut binding)?;
    call.target.name = Some(text(&binding, "/metadata/name").to_owned());
    call.endpoint = core.endpoint("", "v1", "pods")?;
    run(core, call, binding).await
}

async fn run(core: &Arc<Core>, call: &Call, binding: Value) -> Result<Response<Body>, Status> {
    let dry_run = call.query.dry_run()?;
    let mut review = Review::new(call, Operation::Create, binding, dry_run);
    (review.subresource, review.kind) = ("binding", BINDING);
    admission::mutate(core, &mut review).await?;
    let errors = validation::binding(&review.object);
    if !errors.is_empty() {
        return Err(Status::invalid(("", "Binding"), call.name(), &errors));
    }
    admission::validate(core, &mut review).await?;
    let binding = &review.object;
    let node = text(binding, "/target/name");
    let change = Change { call, part: Part::Server, dry_run, view: None };
    change.run(core, |found| assign(call, found, binding, node)).await?;
    Ok(done())
}

fn assign(call: &Call, found: &Found, binding: &Value, node: &str) -> Result<Value, Status> {
    let name = call.name();
    let refuse = |why: String| Err(Status::conflict_because(("", "pods/binding"), name, why));
    let mut pod = found.object.clone();
    let uid = text(binding, "/metadata/uid");
    if !uid.is_empty() && uid != text(&pod, "/metadata/uid") {
        return Err(Status::uid_mismatch(("", "pods/binding"), name, uid, text(&pod, "/metadata/uid")));
    }
    if !text(&pod, "/metadata/deletionTimestamp").is_empty() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let assigned = text(&pod, "/spec/nodeName");
    if !assigned.is_empty() {
        return refuse(format!("pod {name} is already assigned to node \"{assigned}\""));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    call::metadata(&mut pod)?.shift_remove("resourceVersion");
    pod["spec"]["nodeName"] = node.into();
    if let Some(own) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        own.shift_remove(RESERVATION_SEAT);
    }
    for key in ["annotations", "labels"] {
        let Some(Value::Object(given)) = binding["metadata"].get(key) else { continue };
        let own = call::metadata(&mut pod)?.entry(key).or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            own.extend(given.clone());
        }
    }
    scheduled(&mut pod);
    Ok(pod)
}

/// Sets the condition `PodScheduled`.
fn scheduled(pod: &mut Value) {
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let generation = pod.pointer("/metadata/generation").cloned();
    let mut condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    });
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation;
    }
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(condition);
    }
}
