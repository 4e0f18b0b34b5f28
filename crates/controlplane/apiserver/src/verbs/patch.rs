//! `patch`.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::{
    decode::{FieldValidation, Parsed},
    kinds::Gvk,
    patch,
    status::Status,
};
use serde_json::Value;

use crate::{
    authz::Attributes,
    body::Body,
    call::{self, Call, text},
    core::Core,
    encode, managers,
    storage::Found,
    verbs::{
        create,
        update::{Change, Part, exists},
    },
};

/// The patch types that are understood.
const TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    managers::APPLY,
];

/// Those of a custom kind.
const CUSTOM_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", managers::APPLY];

fn is_custom(call: &Call) -> bool {
    call.endpoint.custom.is_some()
}

/// How the body is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
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
        managers::APPLY => Ok(Kind::Apply),
        _ if is_custom(call) => Err(Status::unsupported_media_type(&CUSTOM_TYPES)),
        _ => Err(Status::unsupported_media_type(&TYPES)),
    }
}

/// Changes an object as the body says; an apply creates it when it is not there.
pub(crate) async fn run(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = call.form()?;
    let kind = kind(call)?;
    managers::check_patch(call)?;
    let part = Part::of(call.target.subresource.as_deref());
    let dry_run = call.query.dry_run()?;
    let validation = call.validation()?;
    if kind == Kind::Apply {
        return configure(core, call, form, validation, dry_run).await;
    }
    let change = Change { call, part, dry_run, view: None };
    let make = |found: &Found| {
        let (mut new, warnings) = apply(kind, call, &found.object, validation)?;
        warnings.into_iter().for_each(|warning| call.notes.warn(warning));
        unpin(&mut new, &found.object)?;
        call::place(call, &mut new)?;
        call::check_name(call, &mut new)?;
        Ok(new)
    };
    change.run(core, make).await?.answer(call, form, StatusCode::OK)
}

/// Rounds when an object comes or goes while it is applied.
const APPLY_TRIES: usize = 4;

/// Server-side apply.
async fn configure(
    core: &Arc<Core>,
    call: &Call,
    form: encode::Form,
    validation: FieldValidation,
    dry_run: bool,
) -> Result<Response<Body>, Status> {
    let config = managers::configuration(call, validation)?;
    let part = Part::of(call.target.subresource.as_deref());
    let change = Change { call, part, dry_run, view: None };
    for left in (0..APPLY_TRIES).rev() {
        let changed = change.run(core, |found| configured(call, Some(&found.object), &config)).await;
        let missing = match changed {
            Ok(changed) => return changed.answer(call, form, StatusCode::OK),
            Err(status) => status,
        };
        // Subresources are never made by an apply.
        if !missing.is("NotFound") || part != Part::Main || exists(core, call).await? {
            return Err(missing);
        }
        let object = configured(call, None, &config)?;
        let uid = text(&object, "/metadata/uid");
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Status::conflict_because(call.endpoint.resource, call.name(), why));
        }
        core.authorize(&call.user, &Attributes::resource("create", &call.target))?;
        match create::make(core, call, object, dry_run).await {
            Err(taken) if taken.is("AlreadyExists") && left > 0 => {}
            made => return made?.answer(call, form, StatusCode::CREATED),
        }
    }
    Err(Status::conflict(call.endpoint.resource, call.name()))
}

/// The object as the configuration would have it.
fn configured(call: &Call, live: Option<&Value>, config: &Value) -> Result<Value, Status> {
    let object = managers::apply(call, live, config)?;
    let parsed = Parsed::from(object);
    let decoded = call.endpoint.decode(parsed, FieldValidation::Ignore);
    let (mut object, _) = decoded.map_err(|status| {
        let (resource, name) = (call.endpoint.resource, call.name());
        let (group, version, kind) = (resource.group, resource.version, resource.kind);
        let namespace = call.namespace().unwrap_or_default();
        let why = status.message;
        let why = format!(
            "failed to convert new object ({namespace}/{name}; {group}/{version}, Kind={kind}) to proper version: {why}"
        );
        Status::new(500, "", why)
    })?;
    if text(config, "/metadata/resourceVersion").is_empty() {
        call::metadata(&mut object)?.shift_remove("resourceVersion");
    }
    call::place(call, &mut object)?;
    call::check_name(call, &mut object)?;
    Ok(object)
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
    let gvk = call.endpoint.resource.gvk();
    let (patched, duplicates) = patched(kind, gvk, &call.body, object)?;
    if kind == Kind::Strategic {
        return patch::checked_strategic(gvk, patched, duplicates, &call.body, validation);
    }
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
        // An apply does not patch: see `configure`.
        Kind::Apply => return Err(Status::unsupported_media_type(&TYPES)),
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
