//! `create`.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::{
    status::{FieldError, Status},
    strategy,
};
use sampan_store::TxnResponse;
use serde_json::Value;

use crate::{
    admission::{self, namespace::Guard},
    body::Body,
    call::{self, Call, text},
    core::Core,
    encode, respond,
    verbs::read,
};

/// Names that are tried when `generateName` meets one that is taken.
const NAME_TRIES: usize = 8;

/// Rounds when an address or port that was chosen is taken meanwhile.
const ALLOCATION_TRIES: usize = 16;

/// Creates what the body says.
pub(crate) async fn create(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = respond::form(&call.headers, &call.query)?;
    let (mut object, mut warnings) = call.decode(call.endpoint.resource.gvk())?;
    call::place(call, &mut object)?;
    let dry_run = call.query.dry_run()?;
    let guard = admission::namespace::may_create(core, call, text(&object, "/metadata/name")).await?;

    let base = text(&object, "/metadata/generateName").to_owned();
    let generated = text(&object, "/metadata/name").is_empty() && !base.is_empty();
    let tries = if generated { NAME_TRIES } else { 1 };
    for _ in 0..tries {
        let mut object = object.clone();
        if generated {
            call::metadata(&mut object)?.insert("name".to_owned(), strategy::generate_name(&base).into());
        }
        let Some((object, revision)) = insert(core, call, object, dry_run, guard.clone()).await? else {
            continue;
        };
        warnings.extend(call.endpoint.warnings(&object, None));
        let stored = encode::canonical(&call.endpoint, &object)?;
        let mut response = read::show(call, form, StatusCode::CREATED, &stored, revision)?;
        respond::warn(&mut response, &warnings);
        return Ok(response);
    }
    let name = text(&object, "/metadata/name");
    if generated {
        return Err(Status::generate_name_conflict(call.endpoint.resource, &base));
    }
    Err(Status::already_exists(call.endpoint.resource, name))
}

/// Completes, checks and stores an object. None when the name is taken.
pub(crate) async fn insert(
    core: &Arc<Core>,
    call: &Call,
    mut object: Value,
    dry_run: bool,
    mut guard: Guard,
) -> Result<Option<(Value, i64)>, Status> {
    let resource = call.endpoint.resource;
    if !text(&object, "/metadata/resourceVersion").is_empty() {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    stamp(&mut object)?;
    call.endpoint.defaults(&mut object);
    admission::create(core, call, &mut object).await?;
    call.endpoint.prepare_create(&mut object);
    let name = text(&object, "/metadata/name").to_owned();
    for _ in 0..ALLOCATION_TRIES {
        let mut complete = object.clone();
        // Validation sees what was asked for; what is allocated afterwards is right by construction.
        let errors = call.endpoint.validate_create(&complete);
        refuse(call, &name, &errors)?;
        let claims = crate::allocate::create(core, call, &mut complete).await?;
        let key = call.endpoint.key(text_option(&complete, "/metadata/namespace"), &name);
        if dry_run {
            return match core.fetch(&call.endpoint, call.namespace(), &name).await? {
                Some(_) => Ok(None),
                None => Ok(Some((complete, 0))),
            };
        }
        let mut more = claims.txn();
        let claimed = more.compare.len();
        more.compare.extend(guard.clone());
        match core.put(&call.endpoint, &complete, &key, more).await? {
            TxnResponse::Committed(revision) => return Ok(Some((complete, revision))),
            TxnResponse::Conflict(_, found) => {
                let Some((own, others)) = found.split_first() else { continue };
                if own.is_some() {
                    return Ok(None);
                }
                // Somebody took an address that was chosen or asked for: choose again, or say so.
                claims.taken(call, &complete, &others[..claimed.min(others.len())])?;
                guard = admission::namespace::may_create(core, call, &name).await?;
            }
        }
    }
    Err(Status::server_timeout(resource, "create", 1))
}

/// Sets what only the server sets, and drops what is not kept.
fn stamp(object: &mut Value) -> Result<(), Status> {
    let metadata = call::metadata(object)?;
    metadata.shift_remove("managedFields");
    metadata.shift_remove("selfLink");
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
