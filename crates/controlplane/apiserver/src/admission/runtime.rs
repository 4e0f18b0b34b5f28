//! RuntimeClass: its overhead and scheduling become the pod's.

use std::sync::Arc;

use sampan_api::{
    quota,
    status::{Status, go_quote},
};
use serde_json::{Value, json};

use super::{Operation, Review, state};
use crate::{call::text, core::Core};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

async fn class(core: &Core, review: &Review<'_>) -> Result<Option<Arc<Value>>, Status> {
    let name = text(&review.object, "/spec/runtimeClassName");
    let Some(mirrors) = core.admission.get().filter(|_| !name.is_empty()) else { return Ok(None) };
    let gr = ("node.k8s.io", "runtimeclasses");
    match state::named(core, &mirrors.runtime_classes, gr, name).await? {
        Some(class) => Ok(Some(class)),
        None => Err(review.forbidden(format!("pod rejected: RuntimeClass {} not found", go_quote(name)))),
    }
}

fn concerns(review: &Review<'_>) -> bool {
    review.operation == Operation::Create && review.subresource.is_empty()
}

fn overhead_of(class: &Value) -> Option<&Value> {
    class.pointer("/overhead/podFixed").filter(|fixed| fixed.is_object())
}

/// Sets the overhead, and adds where the pod may run.
pub(crate) async fn complete(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    if !concerns(review) {
        return Ok(());
    }
    let Some(class) = class(core, review).await? else { return Ok(()) };
    if let Some(fixed) = overhead_of(&class) {
        let own = quota::amounts(review.object.pointer("/spec/overhead"));
        if !own.is_empty() && own != quota::amounts(Some(fixed)) {
            return Err(review.forbidden(MISMATCH));
        }
        review.object["spec"]["overhead"] = fixed.clone();
    }
    if let Some(Value::Object(wanted)) = class.pointer("/scheduling/nodeSelector") {
        for (key, value) in wanted {
            let own = &review.object["spec"]["nodeSelector"][key];
            if !own.is_null() && own != value {
                let (ours, theirs) = (value.as_str().unwrap_or_default(), own.as_str().unwrap_or_default());
                return Err(review.forbidden(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {ours}; pod.spec.nodeSelector[{key}] = \
                     {theirs}"
                )));
            }
        }
        let selector = &mut review.object["spec"]["nodeSelector"];
        if !selector.is_object() {
            *selector = json!({});
        }
        if let Some(selector) = selector.as_object_mut() {
            selector.extend(wanted.clone());
        }
    }
    if let Some(Value::Array(more)) = class.pointer("/scheduling/tolerations") {
        let own = review.object["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        review.object["spec"]["tolerations"] = merge(own, more).into();
    }
    Ok(())
}

/// Both lists without what another of them covers.
fn merge(mut all: Vec<Value>, more: &[Value]) -> Vec<Value> {
    all.extend(more.iter().cloned());
    let mut out: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let later = all[at + 1..].iter().any(|other| covers(other, toleration));
        if !later && !out.iter().any(|other| covers(other, toleration)) {
            out.push(toleration.clone());
        }
    }
    out
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let (key, operator) = (text(wide, "/key"), text(wide, "/operator"));
    if text(narrow, "/key") != key && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    let effect = text(wide, "/effect");
    if !effect.is_empty() && text(narrow, "/effect") != effect {
        return false;
    }
    if effect == "NoExecute"
        && let Some(seconds) = wide["tolerationSeconds"].as_i64()
        && narrow["tolerationSeconds"].as_i64().is_none_or(|other| other > seconds)
    {
        return false;
    }
    operator == "Exists"
        || (text(narrow, "/operator") == operator && text(narrow, "/value") == text(wide, "/value"))
}

/// Refuses an overhead that the class does not give.
pub(crate) async fn check(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    if !concerns(review) {
        return Ok(());
    }
    let own = review.object.pointer("/spec/overhead").filter(|overhead| !overhead.is_null());
    let class = class(core, review).await?;
    match (class.as_deref().and_then(overhead_of), own) {
        (Some(fixed), own) if quota::amounts(Some(fixed)) != quota::amounts(own) => {
            Err(review.forbidden(MISMATCH))
        }
        (None, Some(_)) => Err(review
            .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        _ => Ok(()),
    }
}
