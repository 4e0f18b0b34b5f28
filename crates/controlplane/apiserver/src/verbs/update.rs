//! `update`, and the loop that every change of a stored object goes through.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::{
    status::{FieldError, Status},
    strategy,
};
use sampan_store::{Compare, Op, Txn, TxnResponse};
use serde_json::Value;

use crate::{
    allocate,
    body::Body,
    call::{self, Call, text},
    core::Core,
    encode, respond,
    storage::Found,
    verbs::{create::refuse, read},
};

/// Rounds when somebody else changes the object meanwhile.
const TRIES: usize = 8;

/// Which part of the object a change is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status.
    Main,
    /// The status.
    Status,
    /// A namespace's finalizers.
    Finalize,
    /// What the server changes itself: nothing is kept back, nothing is checked.
    Server,
}

impl Part {
    /// The part that a subresource stands for.
    pub(crate) fn of(subresource: Option<&str>) -> Self {
        match subresource {
            Some("status") => Self::Status,
            Some("finalize") => Self::Finalize,
            _ => Self::Main,
        }
    }
}

/// A changed object.
pub(crate) struct Changed {
    pub(crate) object: Value,
    pub(crate) revision: i64,
}

/// Replaces an object by the body.
pub(crate) async fn update(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = respond::form(&call.headers, &call.query)?;
    let (mut object, mut warnings) = call.decode(call.body_kind())?;
    call::place(call, &mut object)?;
    check_name(call, &mut object)?;
    let resource = call.endpoint.resource;
    if strategy::needs_resource_version(resource) && text(&object, "/metadata/resourceVersion").is_empty() {
        let why = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", 0, why);
        refuse(call, call.name(), &[error])?;
    }
    let part = Part::of(call.target.subresource.as_deref());
    let dry_run = call.query.dry_run()?;
    let mut old = Value::Null;
    let changed = change(core, call, part, dry_run, |found| {
        old = found.object.clone();
        Ok(object.clone())
    })
    .await?;
    if part == Part::Main {
        warnings.extend(call.endpoint.warnings(&changed.object, Some(&old)));
    }
    let stored = encode::canonical(&call.endpoint, &changed.object)?;
    let mut response = read::show(call, form, StatusCode::OK, &stored, changed.revision)?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn check_name(call: &Call, object: &mut Value) -> Result<(), Status> {
    call::check_name(call, object)
}

/// Changes a stored object: `make` turns what is stored into what is wanted; it may be called again when somebody
/// else was faster and the wanted object names no resourceVersion.
pub(crate) async fn change(
    core: &Arc<Core>,
    call: &Call,
    part: Part,
    dry_run: bool,
    mut make: impl FnMut(&Found) -> Result<Value, Status>,
) -> Result<Changed, Status> {
    let resource = call.endpoint.resource;
    for _ in 0..TRIES {
        let found = core.find(&call.endpoint, call.namespace(), call.name()).await?;
        let mut new = make(&found)?;
        let pinned = check_base(call, &new, &found)?;
        // Who names no base means the latest.
        encode::set_revision(&mut new, found.kv.mod_revision);
        prepare(call, part, &mut new, &found.object)?;
        let mut claims = allocate::Claims::default();
        if part == Part::Main {
            claims = allocate::update(core, call, &mut new, &found.object).await?;
        }
        let gone = part != Part::Server && is_finished(&new) && !is_finished(&found.object);
        // The order of members does not count: who writes the same in another order changes nothing.
        if (new == found.object || dry_run) && !gone {
            return Ok(Changed { object: new, revision: found.kv.mod_revision });
        }
        let mut txn = if gone { Txn::default() } else { claims.txn() };
        txn.compare.insert(0, Compare::ModRevision(found.kv.key.clone(), found.kv.mod_revision));
        if gone && !dry_run {
            // The last finalizer went: so does the object.
            txn.ops.extend(allocate::release(call, &found.object));
            txn.ops.push(Op::Delete { key: found.kv.key.clone() });
        } else {
            let lease = core.event_lease.lease_for(&call.endpoint, core.store()).await?;
            let value = encode::canonical(&call.endpoint, &new)?;
            txn.ops.push(Op::Put { key: found.kv.key.clone(), value, lease });
        }
        if dry_run {
            return Ok(Changed { object: new, revision: found.kv.mod_revision });
        }
        match core.commit(txn).await? {
            TxnResponse::Committed(revision) => {
                encode::set_revision(&mut new, revision);
                return Ok(Changed { object: new, revision });
            }
            TxnResponse::Conflict(_, state) => {
                let unchanged = state
                    .first()
                    .is_some_and(|kv| kv.as_ref().is_some_and(|kv| kv.mod_revision == found.kv.mod_revision));
                if unchanged {
                    claims.taken(call, &new, &state[1..])?;
                } else if pinned {
                    return Err(Status::conflict(resource, call.name()));
                }
            }
        }
    }
    Err(Status::conflict(resource, call.name()))
}

/// Compares what the new object says of its base with what is stored. True when it names a resourceVersion.
fn check_base(call: &Call, new: &Value, found: &Found) -> Result<bool, Status> {
    let resource = call.endpoint.resource;
    let (uid, stored) = (text(new, "/metadata/uid"), text(&found.object, "/metadata/uid"));
    if !uid.is_empty() && uid != stored {
        return Err(Status::uid_mismatch(resource, call.name(), uid, stored));
    }
    let version = text(new, "/metadata/resourceVersion");
    if version.is_empty() || version == "0" {
        return Ok(false);
    }
    if version.parse::<u64>().is_err() {
        let why = format!("strconv.ParseUint: parsing \"{version}\": invalid syntax");
        let error = FieldError::invalid("metadata.resourceVersion", version, why);
        refuse(call, call.name(), &[error])?;
    }
    if version != found.kv.mod_revision.to_string() {
        return Err(Status::conflict(resource, call.name()));
    }
    Ok(true)
}

/// Keeps back what this part may not change, and checks the rest.
fn prepare(call: &Call, part: Part, new: &mut Value, old: &Value) -> Result<(), Status> {
    let endpoint = &call.endpoint;
    call::metadata(new)?.shift_remove("managedFields");
    let errors = match part {
        Part::Server => return Ok(()),
        Part::Main => {
            endpoint.defaults(new);
            endpoint.prepare_update(new, old);
            endpoint.validate_update(new, old)
        }
        Part::Status => {
            endpoint.defaults(new);
            endpoint.prepare_status_update(new, old);
            endpoint.validate_status_update(new, old)
        }
        Part::Finalize => {
            strategy::prepare_finalize(new, old);
            Vec::new()
        }
    };
    refuse(call, call.name(), &errors)
}

/// Whether nothing holds a deleted object any more.
pub(crate) fn is_finished(object: &Value) -> bool {
    let empty = |pointer: &str| {
        object.pointer(pointer).and_then(Value::as_array).is_none_or(|finalizers| finalizers.is_empty())
    };
    let deleted = !text(object, "/metadata/deletionTimestamp").is_empty();
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let namespace = object["kind"] == "Namespace" && object["apiVersion"] == "v1";
    deleted && grace == 0 && empty("/metadata/finalizers") && (!namespace || empty("/spec/finalizers"))
}
