//! `delete` and `deletecollection`: preconditions, grace, finalizers.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::{
    status::{FieldError, Status},
    strategy::{self, Propagation},
    validation,
};
use sampan_store::{Compare, Op, Txn, TxnResponse};
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation, Review},
    allocate,
    body::Body,
    call::{self, Call, text},
    core::Core,
    encode, respond,
    select::Selection,
    storage::Found,
    verbs::{list, read, update::is_finished},
};

/// Rounds when somebody else changes the object meanwhile.
const TRIES: usize = 8;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete was asked to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

/// What became of the object.
pub(crate) enum Outcome {
    /// It is gone; this was its last state.
    Gone(Box<Found>),
    /// It is marked, and goes when grace or finalizers are over.
    Marked(Value, i64),
}

impl Wishes {
    /// From the body and the query; the query counts where the body says nothing.
    pub(crate) fn read(call: &Call) -> Result<Self, Status> {
        let options = call.delete_options()?;
        Self::from_options(call, &options)
    }

    /// From `DeleteOptions`.
    pub(crate) fn from_options(call: &Call, options: &Value) -> Result<Self, Status> {
        let errors = validation::delete_options(options);
        if !errors.is_empty() {
            return Err(Status::invalid(("meta.k8s.io", "DeleteOptions"), "", &errors));
        }
        let said = |pointer: &str| Some(text(options, pointer).to_owned()).filter(|text| !text.is_empty());
        let grace = match options["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => call.query.number("gracePeriodSeconds")?,
        };
        let orphan = options["orphanDependents"].as_bool().or_else(|| call.query.flag("orphanDependents"));
        let policy =
            said("/propagationPolicy").or_else(|| call.query.get("propagationPolicy").map(str::to_owned));
        let propagation = match (policy.as_deref(), orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some(other), _) => {
                let known = ["Background", "Foreground", "Orphan"];
                let error = FieldError::not_supported("propagationPolicy", other, &known);
                return Err(Status::invalid(("meta.k8s.io", "DeleteOptions"), "", &[error]));
            }
            (None, None) => None,
        };
        let dry = options["dryRun"].as_array().is_some_and(|list| list.iter().any(|v| v == "All"));
        Ok(Self {
            grace,
            uid: said("/preconditions/uid"),
            version: said("/preconditions/resourceVersion"),
            propagation,
            dry_run: dry || call.query.dry_run()?,
        })
    }
}

/// Deletes one object.
pub(crate) async fn delete(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = call.form()?;
    let wishes = Wishes::read(call)?;
    match remove(core, call, call.name(), &wishes, true).await? {
        Outcome::Marked(object, revision) => {
            let stored = encode::canonical(&call.endpoint, &object)?;
            read::show(call, form, StatusCode::OK, &stored, revision)
        }
        Outcome::Gone(found) if returns_object(call) => {
            read::show(call, form, StatusCode::OK, &found.kv.value, found.kv.mod_revision)
        }
        Outcome::Gone(found) => {
            let uid = text(&found.object, "/metadata/uid");
            Ok(respond::status(&Status::success(call.endpoint.resource, call.name(), uid)))
        }
    }
}

/// Kinds whose delete answers with the object.
fn returns_object(call: &Call) -> bool {
    let resource = call.endpoint.resource;
    match resource.group {
        "" => matches!(
            resource.plural,
            "pods"
                | "services"
                | "serviceaccounts"
                | "podtemplates"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "resourcequotas"
        ),
        "storage.k8s.io" => resource.plural != "csistoragecapacities",
        "resource.k8s.io" => true,
        _ => false,
    }
}

/// Deletes all objects that the selectors choose; answers with a list of them.
pub(crate) async fn delete_collection(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let wishes = Wishes::read(call)?;
    let selection = Selection::parse(&call.endpoint, &call.target, &call.query)?;
    let listed = list::select(core, call, &selection).await?;
    let mut items = Vec::with_capacity(listed.items.len());
    for kv in &listed.items {
        let (_, name) = call.endpoint.names(&kv.key);
        match remove(core, call, name, &wishes, true).await {
            Ok(Outcome::Gone(found)) => items.push(found.object),
            Ok(Outcome::Marked(object, _)) => items.push(object),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let body = json!({
        "kind": call.endpoint.resource.list_kind(),
        "apiVersion": call.endpoint.resource.api_version(),
        "metadata": {"resourceVersion": listed.revision.to_string()},
        "items": items,
    });
    Ok(respond::json_value(StatusCode::OK, &body))
}

/// Deletes an object, or marks it when something has to happen first. An eviction was admitted as what it is, and asks
/// for nothing to be admitted again.
pub(crate) async fn remove(
    core: &Arc<Core>,
    call: &Call,
    name: &str,
    wishes: &Wishes,
    admit: bool,
) -> Result<Outcome, Status> {
    for _ in 0..TRIES {
        let found = core.find(&call.endpoint, call.namespace(), name).await?;
        check(call, name, wishes, &found)?;
        let plan = plan(call, wishes, &found)?;
        if admit && !matches!(plan, Plan::Nothing) {
            let review = Review::new(call, Operation::Delete, Value::Null, wishes.dry_run);
            admission::decide(core, &mut review.over(&found.object)).await?;
        }
        let compare = vec![Compare::ModRevision(found.kv.key.clone(), found.kv.mod_revision)];
        let (ops, outcome) = match plan {
            Plan::Nothing => return Ok(Outcome::Marked(found.object, found.kv.mod_revision)),
            Plan::Go => {
                let mut ops = allocate::release(call, &found.object);
                ops.push(Op::Delete { key: found.kv.key.clone() });
                (ops, Outcome::Gone(Box::new(found)))
            }
            Plan::Mark(new) => {
                let value = call.endpoint.stored(&new).await?;
                let lease = found.kv.lease;
                (vec![Op::Put { key: found.kv.key.clone(), value, lease }], Outcome::Marked(new, 0))
            }
        };
        if wishes.dry_run {
            return Ok(outcome);
        }
        match core.commit(Txn { compare, ops }).await? {
            TxnResponse::Conflict(..) => {}
            TxnResponse::Committed(revision) => {
                return Ok(match outcome {
                    Outcome::Marked(mut object, _) => {
                        encode::set_revision(&mut object, revision);
                        Outcome::Marked(object, revision)
                    }
                    gone @ Outcome::Gone(_) => gone,
                });
            }
        }
    }
    Err(Status::conflict(call.endpoint.resource, name))
}

fn check(call: &Call, name: &str, wishes: &Wishes, found: &Found) -> Result<(), Status> {
    let resource = call.endpoint.resource;
    let uid = text(&found.object, "/metadata/uid");
    if let Some(wanted) = wishes.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Err(Status::uid_precondition(resource, name, wanted, uid));
    }
    let version = found.kv.mod_revision.to_string();
    if let Some(wanted) = wishes.version.as_deref().filter(|wanted| *wanted != version) {
        return Err(Status::resource_version_precondition(resource, name, wanted, &version));
    }
    Ok(())
}

/// What a delete does to an object.
enum Plan {
    /// It is marked already, and nothing changes.
    Nothing,
    /// It goes at once.
    Go,
    /// It gets these marks, and goes later.
    Mark(Value),
}

/// The object with the marks of its deletion, unless it goes at once.
fn plan(call: &Call, wishes: &Wishes, found: &Found) -> Result<Plan, Status> {
    let resource = call.endpoint.resource;
    let marked = !text(&found.object, "/metadata/deletionTimestamp").is_empty();
    let grace = strategy::grace_for(resource, &found.object, wishes.grace).unwrap_or(0).max(0);
    let before = found.object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let finalizers = finalizers(call, wishes, &found.object);
    let namespace = resource.group.is_empty() && resource.plural == "namespaces";
    let definition = resource.plural == "customresourcedefinitions";
    // What nothing holds needs no marks: most deletes. A definition and a namespace are held by what is in them.
    if !marked && grace == 0 && finalizers.is_empty() && !namespace && !definition {
        return Ok(Plan::Go);
    }
    let mut new = found.object.clone();
    let metadata = call::metadata(&mut new)?;
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
    if !marked {
        mark(metadata, grace);
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
            metadata.insert("generation".to_owned(), (generation + 1).into());
        }
    } else if grace < before.unwrap_or(0) {
        // A later delete can only hurry the earlier one.
        mark(metadata, grace);
    }
    if namespace {
        new["status"]["phase"] = "Terminating".into();
    }
    if !marked {
        crate::custom::mark_definition(resource, &mut new);
    }
    Ok(match new {
        new if is_finished(&new) => Plan::Go,
        new if new == found.object => Plan::Nothing,
        new => Plan::Mark(new),
    })
}

fn mark(metadata: &mut serde_json::Map<String, Value>, grace: i64) {
    let at = sampan_daemon::clock::now();
    let at = at.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(at);
    metadata.insert("deletionTimestamp".to_owned(), sampan_daemon::clock::rfc3339(at).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
}

/// The finalizers that the object has after the delete: the garbage collector's follow the wish.
fn finalizers(call: &Call, wishes: &Wishes, object: &Value) -> Vec<Value> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    let mut names: Vec<Value> = list.cloned().unwrap_or_default();
    let has = |name: &str| names.iter().any(|finalizer| finalizer == name);
    let propagation = wishes.propagation.unwrap_or(if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        strategy::default_propagation(call.endpoint.resource)
    });
    names.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match propagation {
        Propagation::Orphan => names.push(ORPHAN.into()),
        Propagation::Foreground => names.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    names
}
