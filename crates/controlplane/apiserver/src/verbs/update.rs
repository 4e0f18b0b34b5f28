//! `update`, and the loop that every change of a stored object goes through.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use sampan_api::{
    status::{FieldError, Status},
    strategy, validation,
};
use sampan_store::{Compare, Op, Txn, TxnResponse};
use serde_json::Value;

use crate::{
    admission::{self, Operation, Review, quota::Charges},
    allocate,
    body::Body,
    call::{self, Call, text},
    certificates,
    core::Core,
    encode::{self, Form},
    managers,
    storage::Found,
    verbs::{
        create::{self, refuse},
        read,
    },
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
    /// What was decided about a request for a certificate.
    Approval,
    /// A namespace's finalizers.
    Finalize,
    /// The ephemeral containers of a pod.
    EphemeralContainers,
    /// The resources of a pod's containers.
    Resize,
    /// What the server changes itself: nothing is kept back, nothing is admitted or checked.
    Server,
}

impl Part {
    /// The part that a subresource stands for.
    pub(crate) fn of(subresource: Option<&str>) -> Self {
        match subresource {
            Some("status") => Self::Status,
            Some("approval") => Self::Approval,
            Some("finalize") => Self::Finalize,
            Some("ephemeralcontainers") => Self::EphemeralContainers,
            Some("resize") => Self::Resize,
            _ => Self::Main,
        }
    }
}

/// How a subresource shows an object: a Scale, for example. Clients and admission see that; what is stored and checked
/// is the object.
pub(crate) struct View {
    /// What is shown of an object.
    pub(crate) show: fn(&Call, &Value) -> Result<Value, Status>,
    /// The object as it is to be, from the one stored and what was asked.
    pub(crate) apply: fn(&Call, &Value, &Value) -> Result<Value, Status>,
}

/// A change of a stored object.
pub(crate) struct Change<'a> {
    /// The request.
    pub(crate) call: &'a Call,
    /// What of the object it is about.
    pub(crate) part: Part,
    /// Nothing is stored.
    pub(crate) dry_run: bool,
    /// Set when clients see something else than the object.
    pub(crate) view: Option<View>,
}

/// A changed or new object.
pub(crate) struct Changed {
    pub(crate) object: Value,
    pub(crate) revision: i64,
    /// Its bytes, when it was stored.
    pub(crate) stored: Option<Bytes>,
}

impl Changed {
    /// Answers with the object: with the bytes that were stored, where they are in the version that was asked for.
    pub(crate) fn answer(&self, call: &Call, form: Form, code: StatusCode) -> Result<Response<Body>, Status> {
        match &self.stored {
            Some(stored) if stored.starts_with(call.endpoint.head.as_bytes()) => {
                read::show(call, form, code, stored, self.revision)
            }
            _ => {
                let stored = encode::canonical(&call.endpoint, &self.object)?;
                read::show(call, form, code, &stored, self.revision)
            }
        }
    }
}

/// Replaces an object by the body.
pub(crate) async fn update(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = call.form()?;
    managers::check(call, "UpdateOptions")?;
    let (mut object, warnings) = call.decode(call.body_kind())?;
    warnings.into_iter().for_each(|warning| call.notes.warn(warning));
    call::place(call, &mut object)?;
    call::check_name(call, &mut object)?;
    let resource = call.endpoint.resource;
    if strategy::needs_resource_version(resource) && text(&object, "/metadata/resourceVersion").is_empty() {
        let why = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", 0, why);
        refuse(call, call.name(), &[error])?;
    }
    let part = Part::of(call.target.subresource.as_deref());
    let dry_run = call.query.dry_run()?;
    if part == Part::Main && strategy::creates_on_update(resource) && !exists(core, call).await? {
        let made = make_anew(core, call, object, dry_run).await?;
        return made.answer(call, form, StatusCode::CREATED);
    }
    let change = Change { call, part, dry_run, view: None };
    change.run(core, |_| Ok(object.clone())).await?.answer(call, form, StatusCode::OK)
}

/// Whether the object that the path names is there.
pub(crate) async fn exists(core: &Core, call: &Call) -> Result<bool, Status> {
    Ok(core.fetch(&call.endpoint, call.namespace(), call.name()).await?.is_some())
}

/// A PUT to a name that is not there.
async fn make_anew(
    core: &Arc<Core>,
    call: &Call,
    mut object: Value,
    dry_run: bool,
) -> Result<Changed, Status> {
    let uid = text(&object, "/metadata/uid");
    if !uid.is_empty() {
        return Err(Status::uid_mismatch(call.endpoint.resource, call.name(), uid, ""));
    }
    let version = text(&object, "/metadata/resourceVersion");
    if !version.is_empty() && version != "0" {
        return Err(Status::not_found(call.endpoint.resource, call.name()));
    }
    call::metadata(&mut object)?.shift_remove("resourceVersion");
    create::make(core, call, object, dry_run).await
}

impl Change<'_> {
    /// Changes a stored object: `make` turns what is stored into what is wanted; it may be called again when somebody
    /// else was faster and the wanted object names no resourceVersion.
    pub(crate) async fn run(
        &self,
        core: &Arc<Core>,
        mut make: impl FnMut(&Found) -> Result<Value, Status>,
    ) -> Result<Changed, Status> {
        let call = self.call;
        for _ in 0..TRIES {
            let found = core.find(&call.endpoint, call.namespace(), call.name()).await?;
            let (new, pinned) = self.admitted(core, make(&found)?, &found).await?;
            if let Some(changed) = self.store(core, new, found, pinned).await? {
                return Ok(changed);
            }
        }
        Err(Status::conflict(call.endpoint.resource, call.name()))
    }

    /// The object as admission, the kind's strategy and its rules leave it; and whether it names its base.
    async fn admitted(
        &self,
        core: &Arc<Core>,
        wanted: Value,
        found: &Found,
    ) -> Result<(Value, bool), Status> {
        let (call, old) = (self.call, &found.object);
        if self.part == Part::Server {
            let mut new = wanted;
            let pinned = check_base(call, &new, found)?;
            encode::set_revision(&mut new, found.kv.mod_revision);
            return Ok((new, pinned));
        }
        let shown = self.view.as_ref().map(|view| (view.show)(call, old)).transpose()?;
        let mut review = Review::new(call, Operation::Update, wanted, self.dry_run);
        review.old = Some(shown.as_ref().unwrap_or(old));
        if self.view.is_none() {
            let pinned = check_base(call, &review.object, found)?;
            self.complete(&mut review.object, found)?;
            managers::track(call, Some(old), &mut review.object);
            admission::mutate(core, &mut review).await?;
            self.prepare(&mut review.object, old)?;
            sampan_api::apply::keep_times(old, &mut review.object);
            admission::validate(core, &mut review).await?;
            return Ok((review.object, pinned));
        }
        if let Some(shown) = &shown {
            managers::track(call, Some(shown), &mut review.object);
        }
        admission::mutate(core, &mut review).await?;
        let apply = self.view.as_ref().map(|view| (view.apply)(call, old, &review.object));
        let mut new = apply.transpose()?.unwrap_or_default();
        let pinned = check_base(call, &new, found)?;
        self.complete(&mut new, found)?;
        self.prepare(&mut new, old)?;
        admission::validate(core, &mut review).await?;
        Ok((new, pinned))
    }

    /// What every change of this part has, whoever asks: the latest base where none is named, and defaults.
    fn complete(&self, new: &mut Value, found: &Found) -> Result<(), Status> {
        encode::set_revision(new, found.kv.mod_revision);
        if self.part != Part::Finalize {
            self.call.endpoint.defaults(new);
        }
        Ok(())
    }

    /// Keeps back what this part may not change, and checks the rest.
    fn prepare(&self, new: &mut Value, old: &Value) -> Result<(), Status> {
        let (call, endpoint) = (self.call, &self.call.endpoint);
        let mut errors = match self.part {
            Part::Server => return Ok(()),
            Part::Main => {
                endpoint.prepare_update(new, old);
                certificates::prepare_update(call, self.part, new, old);
                endpoint.validate_update(new, old)
            }
            Part::Status | Part::Approval => {
                endpoint.prepare_status_update(new, old);
                certificates::prepare_update(call, self.part, new, old);
                endpoint.validate_status_update(new, old)
            }
            Part::Finalize => {
                strategy::prepare_finalize(new, old);
                validation::finalize(new, old)
            }
            Part::EphemeralContainers => {
                strategy::prepare_ephemeral_containers(new, old);
                validation::ephemeral_containers(new, old)
            }
            Part::Resize => {
                strategy::prepare_resize(new, old);
                validation::resize(new, old)
            }
        };
        errors.extend(certificates::update_errors(call, self.part, new, old));
        if matches!(self.part, Part::Main | Part::Status) {
            let warnings = endpoint.check_rules(new, Some(old), &mut errors);
            warnings.into_iter().for_each(|warning| call.notes.warn(warning));
        }
        refuse(call, call.name(), &errors)?;
        if self.part == Part::Main && self.view.is_none() {
            endpoint.warnings(new, Some(old)).into_iter().for_each(|w| call.notes.warn(w));
        }
        Ok(())
    }

    /// Stores the new object, or removes it when nothing holds it any more. None when somebody else was faster.
    async fn store(
        &self,
        core: &Arc<Core>,
        mut new: Value,
        found: Found,
        pinned: bool,
    ) -> Result<Option<Changed>, Status> {
        let call = self.call;
        let mut claims = allocate::Claims::default();
        if self.part == Part::Main {
            claims = allocate::update(core, call, &mut new, &found.object).await?;
        }
        let gone = self.part != Part::Server && is_finished(&new) && !is_finished(&found.object);
        let revision = found.kv.mod_revision;
        // The order of members does not count: who writes the same in another order changes nothing. But what is stored
        // in an old version is stored anew.
        if new == found.object && !gone && !found.stale {
            return Ok(Some(Changed { object: found.object, revision, stored: Some(found.kv.value) }));
        }
        let charges = self.charge(core, &new, &found.object).await?;
        if self.dry_run {
            return Ok(Some(Changed { object: new, revision, stored: None }));
        }
        let mut txn = if gone { Txn::default() } else { claims.txn() };
        let claimed = txn.compare.len();
        txn.compare.insert(0, Compare::ModRevision(found.kv.key.clone(), revision));
        txn.compare.extend(charges.compare.iter().cloned());
        txn.ops.extend(charges.ops.iter().cloned());
        let mut stored = None;
        if gone {
            // The last finalizer went: so does the object.
            txn.ops.extend(allocate::release(call, &found.object));
            txn.ops.push(Op::Delete { key: found.kv.key });
        } else {
            let lease = core.event_lease.lease_for(&call.endpoint, core.store()).await?;
            let value = call.endpoint.stored(&new).await?;
            stored = Some(value.clone());
            txn.ops.push(Op::Put { key: found.kv.key, value, lease });
        }
        match core.commit(txn).await? {
            TxnResponse::Committed(revision) => {
                encode::set_revision(&mut new, revision);
                Ok(Some(Changed { object: new, revision, stored }))
            }
            TxnResponse::Conflict(_, state) => {
                let now = state.first().and_then(|kv| kv.as_ref()).map(|kv| kv.mod_revision);
                if now == Some(revision) {
                    claims.taken(call, &new, &state[1..(1 + claimed).min(state.len())])?;
                } else if pinned {
                    return Err(Status::conflict(call.endpoint.resource, call.name()));
                }
                Ok(None)
            }
        }
    }

    /// What the change costs the namespace's quotas.
    async fn charge(&self, core: &Arc<Core>, new: &Value, old: &Value) -> Result<Charges, Status> {
        if matches!(self.part, Part::Server | Part::Finalize) {
            return Ok(Charges::default());
        }
        admission::quota::charge_update(core, self.call, self.dry_run, new, old).await
    }
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
