//! `get`.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::status::Status;

use crate::{
    body::Body,
    call::Call,
    core::Core,
    encode::{self, Form},
    respond,
    verbs::{list, options},
};

/// Reads one object.
pub(crate) async fn get(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = call.form()?;
    if let Some(revision) = options::revision_of(call)?.filter(|revision| *revision > 0) {
        list::fresh(core, &call.endpoint, revision).await?;
    }
    let Some(kv) = core.fetch(&call.endpoint, call.namespace(), call.name()).await? else {
        return Err(Status::not_found(call.endpoint.resource, call.name()));
    };
    show(call, form, StatusCode::OK, &kv.value, kv.mod_revision)
}

/// Answers with a stored object in the form asked.
pub(crate) fn show(
    call: &Call,
    form: Form,
    code: StatusCode,
    stored: &[u8],
    revision: i64,
) -> Result<Response<Body>, Status> {
    let mut out = Vec::with_capacity(stored.len() + 64);
    encode::push_form(&mut out, form, &call.endpoint, stored, revision, true)?;
    Ok(respond::json_bytes(code, out))
}
