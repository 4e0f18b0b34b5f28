//! `scale`: the number of replicas, seen and set alike for every kind that has one.

use std::sync::Arc;

use http::{Response, StatusCode};
use sampan_api::{apply, status::Status, strategy, validation};
use serde_json::Value;

use crate::{
    body::Body,
    call::{self, Call, text},
    core::Core,
    encode, managers, respond,
    storage::Found,
    verbs::{
        patch,
        update::{Change, Part, View},
    },
};

/// Reads, replaces or patches a Scale.
pub(crate) async fn run(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    respond::accepts_json(&call.headers)?;
    if call.verb == "get" {
        let found = core.find(&call.endpoint, call.namespace(), call.name()).await?;
        return Ok(respond::json_value(StatusCode::OK, &scale_of(call, &found.object)?));
    }
    match call.verb {
        "patch" => managers::check_patch(call)?,
        _ => managers::check(call, "UpdateOptions")?,
    }
    let dry_run = call.query.dry_run()?;
    let given = if call.verb == "update" { Some(call.decode(call.body_kind())?.0) } else { None };
    let view = Some(View { show: managed_scale, apply: with_scale });
    let change = Change { call, part: Part::Main, dry_run, view };
    let make = |found: &Found| {
        let mut scale = match &given {
            Some(given) => given.clone(),
            None => patched(call, found)?,
        };
        call::place(call, &mut scale)?;
        call::check_name(call, &mut scale)?;
        Ok(scale)
    };
    let changed = change.run(core, make).await?;
    let mut object = changed.object;
    encode::set_revision(&mut object, changed.revision);
    Ok(respond::json_value(StatusCode::OK, &scale_of(call, &object)?))
}

fn scale_of(call: &Call, object: &Value) -> Result<Value, Status> {
    if let Some(paths) = call.endpoint.custom.as_ref().and_then(|kind| kind.scale()) {
        return paths.of(object).map_err(Status::internal);
    }
    strategy::scale_of(call.endpoint.resource, object).ok_or_else(Status::no_such_resource)
}

/// The Scale with the managers of the replicas; clients never see these.
fn managed_scale(call: &Call, object: &Value) -> Result<Value, Status> {
    let mut scale = scale_of(call, object)?;
    if let Some(managers) = apply::scale_managers(object, &managers::replicas(call)) {
        call::metadata(&mut scale)?.insert("managedFields".to_owned(), managers);
    }
    Ok(scale)
}

/// The object with the replicas of the Scale, based on what the Scale is based on.
fn with_scale(call: &Call, stored: &Value, scale: &Value) -> Result<Value, Status> {
    check(call, scale)?;
    let mut object = stored.clone();
    // What the Scale says of its base counts, not what was read just now.
    call::metadata(&mut object)?.shift_remove("resourceVersion");
    match call.endpoint.custom.as_ref().and_then(|kind| kind.scale()) {
        Some(paths) => paths.apply(&mut object, scale).map_err(Status::internal)?,
        None => strategy::apply_scale(call.endpoint.resource, &mut object, scale),
    }
    let api_version = call.endpoint.resource.api_version();
    apply::set_scale_managers(&mut object, scale, &managers::replicas(call), &api_version);
    let uid = text(scale, "/metadata/uid");
    if !uid.is_empty() {
        call::metadata(&mut object)?.insert("uid".to_owned(), uid.into());
    }
    Ok(object)
}

fn patched(call: &Call, found: &Found) -> Result<Value, Status> {
    let before = managed_scale(call, &found.object)?;
    let kind = patch::kind(call)?;
    let validation = call.validation()?;
    if kind == patch::Kind::Apply {
        let config = managers::configuration(call, validation)?;
        let mut scale = managers::apply(call, Some(&before), &config)?;
        if text(&config, "/metadata/resourceVersion").is_empty() {
            call::metadata(&mut scale)?.shift_remove("resourceVersion");
        }
        return Ok(scale);
    }
    let (mut scale, _) = patch::apply_to(kind, call.body_kind(), &call.body, &before, validation)?;
    let version = before.pointer("/metadata/resourceVersion");
    if scale.pointer("/metadata/resourceVersion") == version {
        call::metadata(&mut scale)?.shift_remove("resourceVersion");
    }
    Ok(scale)
}

fn check(call: &Call, scale: &Value) -> Result<(), Status> {
    let errors = validation::scale(scale);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(("autoscaling", "Scale"), call.name(), &errors))
}
