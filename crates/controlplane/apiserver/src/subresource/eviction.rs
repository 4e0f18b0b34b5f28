//! `pods/eviction`: a delete that a disruption budget may refuse.

use std::sync::Arc;

use http::Response;
use sampan_api::{selector::LabelSelector, status::Status};
use sampan_store::{Compare, Op, Txn, TxnResponse};
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation, Review},
    body::Body,
    call::{self, Call, text},
    core::Core,
    encode,
    endpoint::Endpoint,
    select::Selection,
    storage::Found,
    subresource::done,
    verbs::{
        delete::{self, Wishes},
        list,
        update::{Change, Part},
    },
};

/// Rounds when somebody else changes the pod or its budget meanwhile.
const TRIES: usize = 20;

/// Pods that a budget may wait for at once.
const MAX_DISRUPTED: usize = 2000;

const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// How a pod may go.
enum Leave {
    /// No budget has a say.
    Free,
    /// It may go as it is now, not once it has become healthy; the name is the budget's.
    AsItIs(String),
    /// A budget has counted it.
    Counted,
}

/// Evicts a pod.
pub(crate) async fn evict(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let (mut eviction, _) = call.decode(call.body_kind())?;
    call::place(call, &mut eviction)?;
    call::check_name(call, &mut eviction)?;
    let dry_run = call.query.dry_run()?;
    let mut review = Review::new(call, Operation::Create, eviction, dry_run);
    admission::decide(core, &mut review).await?;
    let mut wishes = Wishes::from_options(call, &review.object["deleteOptions"])?;
    wishes.dry_run |= dry_run;
    let pinned = wishes.version.is_some();
    for _ in 0..TRIES {
        let found = core.find(&call.endpoint, call.namespace(), call.name()).await?;
        let pod = &found.object;
        if !is_guarded(pod) {
            let mut wishes = wishes.clone();
            let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
            let going = !text(pod, "/metadata/deletionTimestamp").is_empty();
            if !pinned && !ended && !going {
                // It might become ready meanwhile, and a budget's.
                wishes.version = Some(found.kv.mod_revision.to_string());
            }
            match remove(core, call, &wishes).await {
                Err(status) if status.code == 409 && !pinned => continue,
                result => return result.map(|()| done()),
            }
        }
        return match ask(core, call, &found, wishes.dry_run).await? {
            Leave::Free | Leave::Counted => remove(core, call, &wishes).await.map(|()| done()),
            Leave::AsItIs(budget) => {
                if !pinned {
                    wishes.version = Some(found.kv.mod_revision.to_string());
                }
                match remove(core, call, &wishes).await {
                    Err(status) if status.code == 409 && !pinned => Err(in_progress(&budget)),
                    result => result.map(|()| done()),
                }
            }
        };
    }
    Err(Status::conflict(call.endpoint.resource, call.name()))
}

/// Whether budgets are asked about the pod: it runs and is to go on.
fn is_guarded(pod: &Value) -> bool {
    let phase = text(pod, "/status/phase");
    !matches!(phase, "Succeeded" | "Failed" | "Pending")
        && text(pod, "/metadata/deletionTimestamp").is_empty()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Says on the pod why it goes, and deletes it.
async fn remove(core: &Arc<Core>, call: &Call, wishes: &Wishes) -> Result<(), Status> {
    let mut wishes = wishes.clone();
    if !wishes.dry_run {
        let change = Change { call, part: Part::Server, dry_run: false, view: None };
        let changed = change.run(core, |found| condemned(call, found, &wishes)).await?;
        if wishes.version.is_some() {
            wishes.version = Some(changed.revision.to_string());
        }
    }
    delete::remove(core, call, call.name(), &wishes, false).await.map(drop)
}

/// The pod with the condition `DisruptionTarget`.
fn condemned(call: &Call, found: &Found, wishes: &Wishes) -> Result<Value, Status> {
    let refuse = |what: &str, wanted: &str, is: &str, hint: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). The object might \
             have been {hint}"
        );
        Err(Status::conflict_because(("", "Pod"), call.name(), why))
    };
    let mut pod = found.object.clone();
    let uid = text(&pod, "/metadata/uid");
    if let Some(wanted) = wishes.uid.as_deref().filter(|wanted| *wanted != uid) {
        return refuse("UID", wanted, uid, "deleted and then recreated");
    }
    let version = found.kv.mod_revision.to_string();
    if let Some(wanted) = wishes.version.as_deref().filter(|wanted| *wanted != version) {
        return refuse("ResourceVersion", wanted, &version, "modified");
    }
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
    });
    call::metadata(&mut pod)?.shift_remove("resourceVersion");
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(all) = pod["status"]["conditions"].as_array_mut() {
        let there = |c: &Value| c["type"] == "DisruptionTarget" && c["status"] == "True";
        if !all.iter().any(there) {
            all.retain(|c| c["type"] != "DisruptionTarget");
            all.push(condition);
        }
    }
    Ok(pod)
}

/// Asks the pod's budget, and has it count the pod.
async fn ask(core: &Arc<Core>, call: &Call, pod: &Found, dry_run: bool) -> Result<Leave, Status> {
    let budgets = core.endpoint("policy", "v1", "poddisruptionbudgets")?;
    let all = list::all(core, &budgets, call.namespace(), &Selection::everything()).await?;
    let mut matching = Vec::new();
    for kv in all.items {
        let object = encode::parse(&budgets, &kv.value, kv.mod_revision)?;
        if guards(&object, &pod.object) {
            matching.push(Found { object, kv, stale: false });
        }
    }
    let Some(mut budget) = matching.pop() else { return Ok(Leave::Free) };
    if !matching.is_empty() {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Status::new(500, "", why));
    }
    let name = text(&budget.object, "/metadata/name").to_owned();
    if !is_ready(&pod.object) {
        let status = |key: &str| number(&budget.object, &format!("/status/{key}"));
        let wanted = status("desiredHealthy");
        let spare = status("currentHealthy") >= wanted && wanted > 0;
        if text(&budget.object, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow" || spare {
            return Ok(Leave::AsItIs(name));
        }
    }
    for _ in 0..TRIES {
        let counted = count(&budget.object, call.name())?;
        if dry_run || store(core, &budgets, &budget, &counted).await? {
            return Ok(Leave::Counted);
        }
        budget = core.find(&budgets, call.namespace(), &name).await?;
    }
    let why = format!("couldn't update PodDisruptionBudget \"{name}\" due to conflicts");
    Err(Status::new(504, "Timeout", format!("Timeout: {why}")))
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether the budget is about the pod. One without a selector is about none, an empty selector about all.
fn guards(budget: &Value, pod: &Value) -> bool {
    let Some(selector) = budget.pointer("/spec/selector").filter(|selector| !selector.is_null()) else {
        return false;
    };
    LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(pod))
}

async fn store(core: &Core, endpoint: &Endpoint, old: &Found, new: &Value) -> Result<bool, Status> {
    let key = old.kv.key.clone();
    let compare = vec![Compare::ModRevision(key.clone(), old.kv.mod_revision)];
    let value = encode::canonical(endpoint, new)?;
    let txn = Txn { compare, ops: vec![Op::Put { key, value, lease: old.kv.lease }] };
    Ok(matches!(core.commit(txn).await?, TxnResponse::Committed(_)))
}

/// The budget with one disruption fewer to give; a refusal when it has none.
fn count(budget: &Value, pod: &str) -> Result<Value, Status> {
    let name = text(budget, "/metadata/name");
    let status = |key: &str| number(budget, &format!("/status/{key}"));
    if status("observedGeneration") < number(budget, "/metadata/generation") {
        return Err(in_progress(name));
    }
    let forbid = |why: &str| Err(Status::forbidden(("policy", "poddisruptionbudget"), name, why));
    let allowed = status("disruptionsAllowed");
    if allowed < 0 {
        return forbid("pdb disruptions allowed is negative");
    }
    let waiting =
        budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    if waiting > MAX_DISRUPTED {
        return forbid("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(violates(0, refusal(budget, name)));
    }
    let mut new = budget.clone();
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if !new["status"]["disruptedPods"].is_object() {
        new["status"]["disruptedPods"] = json!({});
    }
    new["status"]["disruptedPods"][pod] = now.clone().into();
    if allowed == 1 {
        exhausted(&mut new, &now);
    }
    Ok(new)
}

/// Sets the condition that says that no more disruptions are allowed.
fn exhausted(budget: &mut Value, now: &str) {
    let condition = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": now, "observedGeneration": budget["status"]["observedGeneration"],
    });
    if !budget["status"]["conditions"].is_array() {
        budget["status"]["conditions"] = json!([]);
    }
    if let Some(all) = budget["status"]["conditions"].as_array_mut() {
        all.retain(|c| c["type"] != "DisruptionAllowed");
        all.push(condition);
    }
}

/// Why the budget refuses.
fn refusal(budget: &Value, name: &str) -> String {
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array);
    let condition = conditions.into_iter().flatten().find(|c| c["type"] == "DisruptionAllowed");
    let blocked = condition.filter(|c| c["status"] == "False" && !text(c, "/message").is_empty());
    let head = format!("The disruption budget {name}");
    if let Some(failed) = blocked.filter(|c| c["reason"] == "SyncFailed") {
        let why = text(failed, "/message");
        return format!("{head} does not allow evicting pods currently because it failed sync: {why}");
    }
    let (is, wanted) = (number(budget, "/status/currentHealthy"), number(budget, "/status/desiredHealthy"));
    if is <= wanted {
        return format!("{head} needs {wanted} healthy pods and has {is} currently");
    }
    match blocked {
        Some(blocked) => format!(
            "{head} does not allow evicting pods currently ({}): {}",
            text(blocked, "/reason"),
            text(blocked, "/message")
        ),
        None => format!("{head} does not allow evicting pods currently"),
    }
}

fn violates(retry_after: i32, cause: String) -> Status {
    Status::too_many_requests(VIOLATES, retry_after).with_cause("DisruptionBudget", &cause, "")
}

/// The budget has not seen its last change yet.
fn in_progress(budget: &str) -> Status {
    violates(10, format!("The disruption budget {budget} is still being processed by the server."))
}
