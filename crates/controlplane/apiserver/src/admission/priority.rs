//! Priority: a pod's priority comes from its PriorityClass.

use std::sync::Arc;

use sampan_api::status::Status;
use serde_json::Value;

use super::{Operation, Review, state};
use crate::{call::text, core::Core};

/// The policy of classes that say none, and of pods without a class.
const PREEMPT: &str = "PreemptLowerPriority";

fn value(class: &Value) -> i64 {
    class.get("value").and_then(Value::as_i64).unwrap_or(0)
}

/// Of classes that are marked as default at once the lowest counts.
async fn default_class(core: &Core) -> Option<Arc<Value>> {
    let mirror = &core.admission.get()?.priorities;
    mirror.settle().await;
    let objects = mirror.objects();
    let marked = objects.values().filter(|class| class["globalDefault"] == true);
    marked.min_by_key(|class| value(class)).cloned()
}

/// Sets name, priority and preemption policy.
pub(crate) async fn complete(core: &Core, review: &mut Review<'_>) -> Result<(), Status> {
    let Some(mirrors) = core.admission.get().filter(|_| review.subresource.is_empty()) else {
        return Ok(());
    };
    if review.operation == Operation::Update {
        keep(review);
        return Ok(());
    }
    if review.operation != Operation::Create {
        return Ok(());
    }
    let name = text(&review.object, "/spec/priorityClassName").to_owned();
    let class = if name.is_empty() {
        default_class(core).await
    } else {
        let gr = ("scheduling.k8s.io", "priorityclasses");
        let Some(class) = state::named(core, &mirrors.priorities, gr, &name).await? else {
            return Err(review.forbidden(format!("no PriorityClass with name {name} was found")));
        };
        Some(class)
    };
    let priority = class.as_deref().map_or(0, value);
    let said = class.as_deref().map(|class| text(class, "/preemptionPolicy")).unwrap_or_default();
    let policy = if said.is_empty() { PREEMPT } else { said };
    if let Some(given) = review.object.pointer("/spec/priority").and_then(Value::as_i64)
        && given != priority
    {
        return Err(review.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    let given = text(&review.object, "/spec/preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(review.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    if let Some(spec) = review.object.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(class) = &class {
            spec.insert("priorityClassName".to_owned(), text(class, "/metadata/name").into());
        }
        spec.insert("priority".to_owned(), priority.into());
        spec.insert("preemptionPolicy".to_owned(), policy.into());
    }
    Ok(())
}

/// An update that leaves out what was set at creation does not take it away.
fn keep(review: &mut Review<'_>) {
    let Some(old) = review.old else { return };
    for key in ["priority", "preemptionPolicy"] {
        let before = old.pointer("/spec").and_then(|spec| spec.get(key)).filter(|v| !v.is_null());
        let spec = review.object.get_mut("spec").and_then(Value::as_object_mut);
        if let (Some(before), Some(spec)) = (before, spec)
            && spec.get(key).is_none_or(Value::is_null)
        {
            spec.insert(key.to_owned(), before.clone());
        }
    }
}

/// There is one default class only.
pub(crate) async fn check(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    let changes = matches!(review.operation, Operation::Create | Operation::Update);
    if !changes || review.object["globalDefault"] != true {
        return Ok(());
    }
    let Some(class) = default_class(core).await else { return Ok(()) };
    let name = text(&class, "/metadata/name");
    if review.operation == Operation::Create || name != text(&review.object, "/metadata/name") {
        return Err(review.forbidden(format!(
            "PriorityClass {name} is already marked as default. Only one default can exist"
        )));
    }
    Ok(())
}
