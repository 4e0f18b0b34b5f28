//! `patch`.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::{decode::FieldValidation, kinds::Gvk, patch, status::Status};
use serde_json::Value;

use crate::{
    body::Body,
    call::{self, Call},
    core::Core,
    encode,
    storage::Found,
    verbs::{
        read,
        update::{Change, Part},
    },
};

/// The patch types that are understood.
const TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// Those of a custom kind.
const CUSTOM_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

fn is_custom(call: &Call) -> bool {
    call.endpoint.custom.is_some()
}

/// How the body is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Merge,
    Strategic,
}

/// The kind of patch that the content type says.
pub(crate) fn kind(call: &Call) -> Result<Kind, Status> {
    match call.content_type() {
        "application/json-patch+json" => Ok(Kind::Json),
        "application/merge-patch+json" => Ok(Kind::Merge),
        // The keys by which lists would be merged are known of built-in kinds only.
        "application/strategic-merge-patch+json" if is_custom(call) => {
            Err(Status::unsupported_media_type(&CUSTOM_TYPES))
        }
        "application/strategic-merge-patch+json" => Ok(Kind::Strategic),
        "application/apply-patch+yaml" => {
            let mut status = Status::unsupported_media_type(&TYPES);
            status.message = format!(
                "server-side apply is not served yet (hint: use kubectl apply without --server-side); {}",
                status.message
            );
            Err(status)
        }
        _ => Err(Status::unsupported_media_type(&TYPES)),
    }
}

/// Changes an object as the body says.
pub(crate) async fn run(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = call.form()?;
    let kind = kind(call)?;
    let part = Part::of(call.target.subresource.as_deref());
    let dry_run = call.query.dry_run()?;
    let validation = call.validation()?;
    let change = Change { call, part, dry_run, view: None };
    let make = |found: &Found| {
        let (mut new, warnings) = apply(kind, call, &found.object, validation)?;
        warnings.into_iter().for_each(|warning| call.notes.warn(warning));
        unpin(&mut new, &found.object)?;
        call::place(call, &mut new)?;
        call::check_name(call, &mut new)?;
        Ok(new)
    };
    let changed = change.run(core, make).await?;
    let stored = encode::canonical(&call.endpoint, &changed.object)?;
    read::show(call, form, StatusCode::OK, &stored, changed.revision)
}

/// A resourceVersion that the patch did not touch is not a condition: whoever is second applies it again.
fn unpin(new: &mut Value, old: &Value) -> Result<(), Status> {
    let before = old.pointer("/metadata/resourceVersion").cloned();
    let metadata = call::metadata(new)?;
    if metadata.get("resourceVersion") == before.as_ref() {
        metadata.shift_remove("resourceVersion");
    }
    Ok(())
}

/// The object as the patch would have it, and the warnings that earns.
fn apply(
    kind: Kind,
    call: &Call,
    object: &Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let (patched, duplicates) = patched(kind, call.endpoint.resource.gvk(), &call.body, object)?;
    call.endpoint.patched(patched, duplicates, &call.body, validation)
}

/// Applies a patch to an object of any kind.
pub(crate) fn apply_to(
    kind: Kind,
    gvk: Gvk,
    body: &[u8],
    object: &Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let (patched, duplicates) = patched(kind, gvk, body, object)?;
    patch::checked(gvk, patched, duplicates, body, validation)
}

/// The object after the patch as it is, with the members that the patch's body has twice.
fn patched(kind: Kind, gvk: Gvk, body: &[u8], object: &Value) -> Result<(Value, Vec<String>), Status> {
    Ok(match kind {
        Kind::Json => (patch::json(object, body)?, Vec::new()),
        Kind::Merge => {
            let parsed = patch::parse(body)?;
            (patch::merge(object, &parsed.value)?, parsed.duplicates)
        }
        Kind::Strategic => {
            let parsed = patch::parse(body)?;
            (patch::strategic_of(gvk, object, &parsed.value)?, parsed.duplicates)
        }
    })
}
