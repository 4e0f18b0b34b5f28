//! `create`.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use sampan_api::{
    status::{FieldError, Status},
    strategy,
};
use sampan_store::TxnResponse;
use serde_json::Value;

use crate::{
    admission::{self, Operation, Review},
    allocate,
    body::Body,
    call::{self, Call, text},
    certificates,
    core::Core,
    managers,
    verbs::update::Changed,
};

/// Names that are tried when `generateName` meets one that is taken.
const NAME_TRIES: usize = 8;

/// Rounds when an address, a port or a quota that was looked at changes meanwhile.
const TRIES: usize = 16;

/// Creates what the body says.
pub(crate) async fn create(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = call.form()?;
    managers::check(call, "CreateOptions")?;
    let (mut object, warnings) = call.decode(call.endpoint.resource.gvk())?;
    warnings.into_iter().for_each(|warning| call.notes.warn(warning));
    call::place(call, &mut object)?;
    make(core, call, object, call.query.dry_run()?).await?.answer(call, form, StatusCode::CREATED)
}

/// Admits, completes, checks and stores a new object, whichever verb it came with.
pub(crate) async fn make(
    core: &Arc<Core>,
    call: &Call,
    mut object: Value,
    dry_run: bool,
) -> Result<Changed, Status> {
    let resource = call.endpoint.resource;
    if !text(&object, "/metadata/resourceVersion").is_empty() {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let metadata = call::metadata(&mut object)?;
    metadata.shift_remove("selfLink");
    call.endpoint.defaults(&mut object);
    managers::track(call, None, &mut object);
    let mut review = Review::new(call, Operation::Create, object, dry_run);
    admission::mutate(core, &mut review).await?;

    let base = text(&review.object, "/metadata/generateName").to_owned();
    let generated = text(&review.object, "/metadata/name").is_empty() && !base.is_empty();
    let tries = if generated { NAME_TRIES } else { 1 };
    for left in (0..tries).rev() {
        let asked = (left > 0).then(|| review.object.clone());
        if generated {
            let name = strategy::generate_name(&base).into();
            call::metadata(&mut review.object)?.insert("name".to_owned(), name);
        }
        if let Some((revision, stored)) = insert(core, &mut review).await? {
            call.endpoint.warnings(&review.object, None).into_iter().for_each(|w| call.notes.warn(w));
            return Ok(Changed { object: review.object, revision, stored });
        }
        if let Some(asked) = asked {
            review.object = asked;
        }
    }
    if generated {
        return Err(Status::generate_name_conflict(resource, &base));
    }
    Err(Status::already_exists(resource, text(&review.object, "/metadata/name")))
}

/// Completes, checks and stores an admitted object. None when the name is taken.
async fn insert(core: &Arc<Core>, review: &mut Review<'_>) -> Result<Option<(i64, Option<Bytes>)>, Status> {
    let (call, resource) = (review.call, review.resource);
    stamp(&mut review.object)?;
    call.endpoint.prepare_create(&mut review.object);
    certificates::prepare_create(call, &mut review.object);
    let name = text(&review.object, "/metadata/name").to_owned();
    // Validation sees what was asked for; what is allocated afterwards is right by construction.
    let mut errors = call.endpoint.validate_create(&review.object);
    errors.extend(certificates::create_errors(call, &review.object));
    let warnings = call.endpoint.check_rules(&review.object, None, &mut errors);
    warnings.into_iter().for_each(|warning| call.notes.warn(warning));
    refuse(call, &name, &errors)?;
    admission::validate(core, review).await?;
    let key = call.endpoint.key(text_option(&review.object, "/metadata/namespace"), &name);
    for _ in 0..TRIES {
        let asked = allocate::is_service(call).then(|| review.object.clone());
        let claims = allocate::create(core, call, &mut review.object).await?;
        let charges = admission::quota::charge(core, review).await?;
        if review.dry_run {
            let there = core.fetch(&call.endpoint, call.namespace(), &name).await?.is_some();
            return Ok((!there).then_some((0, None)));
        }
        let mut more = claims.txn();
        let claimed = more.compare.len();
        more.compare.extend(admission::conditions(review, &charges));
        more.ops.extend(charges.ops.iter().cloned());
        let stored = call.endpoint.stored(&review.object).await?;
        match core.put(&call.endpoint, &stored, &key, more).await? {
            TxnResponse::Committed(revision) => return Ok(Some((revision, Some(stored)))),
            TxnResponse::Conflict(_, found) => {
                let Some((own, others)) = found.split_first() else { continue };
                if own.is_some() {
                    return Ok(None);
                }
                // Somebody took an address that was chosen or asked for: choose again, or say so.
                claims.taken(call, &review.object, &others[..claimed.min(others.len())])?;
                if let Some(asked) = asked {
                    review.object = asked;
                }
                drop(charges);
                admission::namespace::again(core, review).await?;
            }
        }
    }
    Err(Status::server_timeout(resource, "create", 1))
}

/// Sets what only the server sets.
fn stamp(object: &mut Value) -> Result<(), Status> {
    let metadata = call::metadata(object)?;
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    metadata.insert("creationTimestamp".to_owned(), now.into());
    Ok(())
}

/// 422 when there are errors.
pub(crate) fn refuse(call: &Call, name: &str, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(call.endpoint.resource, name, errors)) }
}

/// The text at the pointer, if there is one that is not empty.
pub(crate) fn text_option<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    Some(text(object, pointer)).filter(|text| !text.is_empty())
}
