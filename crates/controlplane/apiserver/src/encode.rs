//! Objects to bytes and back.
//!
//! The store keeps an object as JSON that begins with the kind's head (`{"apiVersion":…,"kind":…,"metadata":{`) and
//! carries no `resourceVersion`: that is the key's revision, spliced in right after the head on the way out.

use std::io::Write;

use bytes::Bytes;
use sampan_api::{kinds, status::Status};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{body::rope::Builder, endpoint::Endpoint, protobuf};

/// How the client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// As rows for people.
    Table(Include),
    /// Their metadata only.
    Partial,
}

/// What a row carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Metadata,
    Object,
    Nothing,
}

/// In what form and media type objects are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) form: Form,
    /// In protobuf instead of JSON.
    pub(crate) protobuf: bool,
}

/// Encodings whose watch frames are shared between watchers.
pub(crate) const SHARED: usize = 5;

impl Encoding {
    /// Where the frame of this encoding is kept; none when it is not worth it.
    pub(crate) fn slot(self) -> Option<usize> {
        match (self.form, self.protobuf) {
            (Form::Object, false) => Some(0),
            (Form::Object, true) => Some(1),
            (Form::Partial, false) => Some(2),
            (Form::Partial, true) => Some(3),
            (Form::Table(Include::Metadata), false) => Some(4),
            _ => None,
        }
    }
}

/// The bytes to store: head first, no resourceVersion.
pub(crate) fn canonical(endpoint: &Endpoint, object: &Value) -> Result<Bytes, Status> {
    let converted;
    let object = if endpoint.foreign() {
        converted = kinds::convert::to_stored(endpoint.resource, object.clone());
        &converted
    } else {
        object
    };
    canonical_as(&endpoint.head, object)
}

/// The bytes to store of an object that is to begin with `head`.
pub(crate) fn canonical_as(head: &str, object: &Value) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(head.as_bytes());
    let metadata = object.get("metadata").and_then(Value::as_object);
    let mut first = true;
    for (key, value) in metadata.into_iter().flatten() {
        if key != "resourceVersion" {
            push_field(&mut out, &mut first, key, value)?;
        }
    }
    out.push(b'}');
    first = false;
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            push_field(&mut out, &mut first, key, value)?;
        }
    }
    out.push(b'}');
    // Without the room that was not needed: the store keeps these bytes for as long as the object lives.
    Ok(out.into_boxed_slice().into())
}

fn push_field(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) -> Result<(), Status> {
    if !std::mem::take(first) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key).map_err(Status::internal)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value).map_err(Status::internal)
}

/// Appends a stored object with its resourceVersion.
pub(crate) fn push_stored(out: &mut Vec<u8>, endpoint: &Endpoint, stored: &[u8], revision: i64) {
    if endpoint.foreign() && push_foreign(out, endpoint, stored, revision) {
        return;
    }
    let head = push_head(out, endpoint, stored, revision);
    out.extend_from_slice(&stored[head..]);
}

/// The same, without a copy of the most of it.
pub(crate) fn share_stored(out: &mut Builder, endpoint: &Endpoint, stored: Bytes, revision: i64) {
    if endpoint.foreign() && push_foreign(out.text(), endpoint, &stored, revision) {
        return;
    }
    let head = push_head(out.text(), endpoint, &stored, revision);
    out.share(stored.slice(head..));
}

/// Appends an object that is kept as another version.
fn push_foreign(out: &mut Vec<u8>, endpoint: &Endpoint, stored: &[u8], revision: i64) -> bool {
    parse(endpoint, stored, revision).is_ok_and(|object| serde_json::to_writer(out, &object).is_ok())
}

/// Appends the head of a stored object and its resourceVersion; says where the rest begins.
fn push_head(out: &mut Vec<u8>, endpoint: &Endpoint, stored: &[u8], revision: i64) -> usize {
    let head = endpoint.head.len().min(stored.len());
    out.extend_from_slice(&stored[..head]);
    push_revision(out, revision);
    if stored.get(head) != Some(&b'}') {
        out.push(b',');
    }
    head
}

fn push_revision(out: &mut Vec<u8>, revision: i64) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "\"resourceVersion\":\"{revision}\"");
}

/// A stored object as a value, with its resourceVersion.
pub(crate) fn parse(endpoint: &Endpoint, stored: &[u8], revision: i64) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(stored)
        .map_err(|e| Status::internal(format!("stored object is damaged: {e}")))?;
    if endpoint.foreign() {
        object = kinds::convert::from_stored(endpoint.resource, object);
    }
    set_revision(&mut object, revision);
    Ok(object)
}

/// Sets `metadata.resourceVersion`.
pub(crate) fn set_revision(object: &mut Value, revision: i64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// Appends a stored object in the form asked. `columns`: a table names its columns.
pub(crate) fn push_form(
    out: &mut Vec<u8>,
    form: Form,
    endpoint: &Endpoint,
    stored: &[u8],
    revision: i64,
    columns: bool,
) -> Result<(), Status> {
    match form {
        Form::Object => push_stored(out, endpoint, stored, revision),
        Form::Partial => push_partial(out, stored, revision)?,
        Form::Table(include) => {
            push_table_head(out, endpoint, columns);
            let meta = json!({"resourceVersion": revision.to_string()});
            let _ = write!(out, "\"metadata\":{meta},\"rows\":[");
            push_row(out, include, endpoint, stored, revision)?;
            out.extend_from_slice(b"]}");
        }
    }
    Ok(())
}

/// Appends a stored object in protobuf, in its envelope.
fn push_protobuf(
    out: &mut Vec<u8>,
    form: Form,
    endpoint: &Endpoint,
    stored: &[u8],
    revision: i64,
) -> Result<(), Status> {
    let unfit = |why: &str| Status::internal(format!("stored object has no protobuf form: {why}"));
    if form == Form::Partial {
        let message = protobuf::partial().ok_or_else(|| unfit("its metadata is not known"))?;
        let kind = ("meta.k8s.io/v1", "PartialObjectMetadata");
        return protobuf::push_object(out, kind, message, stored, Some(revision)).map_err(unfit);
    }
    let message = endpoint.message.ok_or_else(|| unfit("its kind is not known"))?;
    let kind = (endpoint.api_version.as_str(), endpoint.resource.kind);
    if endpoint.foreign() {
        let mut json = Vec::with_capacity(stored.len() + 64);
        push_stored(&mut json, endpoint, stored, revision);
        return protobuf::push_object(out, kind, message, &json, None).map_err(unfit);
    }
    protobuf::push_object(out, kind, message, stored, Some(revision)).map_err(unfit)
}

/// Appends a stored object as an item of a list in protobuf.
pub(crate) fn push_protobuf_item(
    out: &mut Vec<u8>,
    form: Form,
    endpoint: &Endpoint,
    stored: &[u8],
    revision: i64,
) -> Result<(), Status> {
    let unfit = |why: &str| Status::internal(format!("stored object has no protobuf form: {why}"));
    let message = if form == Form::Partial { protobuf::partial() } else { endpoint.message };
    let message = message.ok_or_else(|| unfit("its kind is not known"))?;
    if endpoint.foreign() {
        let mut json = Vec::with_capacity(stored.len() + 64);
        push_stored(&mut json, endpoint, stored, revision);
        return protobuf::push_item(out, message, &json, revision).map_err(unfit);
    }
    protobuf::push_item(out, message, stored, revision).map_err(unfit)
}

/// Appends `PartialObjectMetadata`.
pub(crate) fn push_partial(out: &mut Vec<u8>, stored: &[u8], revision: i64) -> Result<(), Status> {
    let only: OnlyMetadata<'_> = serde_json::from_slice(stored)
        .map_err(|e| Status::internal(format!("stored object is damaged: {e}")))?;
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"#);
    push_revision(out, revision);
    let inner = only.metadata.get().trim_start_matches('{');
    if !inner.starts_with('}') {
        out.push(b',');
    }
    out.extend_from_slice(inner.as_bytes());
    out.push(b'}');
    Ok(())
}

/// Appends `{"kind":"Table",…,` up to and including the column definitions and a comma.
pub(crate) fn push_table_head(out: &mut Vec<u8>, endpoint: &Endpoint, columns: bool) {
    out.extend_from_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","#);
    let definitions: Value = if columns { endpoint.columns() } else { Value::Null };
    let _ = write!(out, "\"columnDefinitions\":{definitions},");
}

/// Appends one row.
pub(crate) fn push_row(
    out: &mut Vec<u8>,
    include: Include,
    endpoint: &Endpoint,
    stored: &[u8],
    revision: i64,
) -> Result<(), Status> {
    let object = parse(endpoint, stored, revision)?;
    let (cells, conditions) = endpoint.row(&object);
    let _ = write!(out, "{{\"cells\":{}", Value::Array(cells));
    if !conditions.is_empty() {
        let _ = write!(out, ",\"conditions\":{}", Value::Array(conditions));
    }
    match include {
        Include::Nothing => {}
        Include::Object => {
            out.extend_from_slice(b",\"object\":");
            push_stored(out, endpoint, stored, revision);
        }
        Include::Metadata => {
            out.extend_from_slice(b",\"object\":");
            push_partial(out, stored, revision)?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// A bookmark: only a kind and a position.
pub(crate) fn bookmark(encoding: Encoding, endpoint: &Endpoint, revision: i64, initial_end: bool) -> Vec<u8> {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let object = match encoding.form {
        Form::Object => json!({
            "kind": endpoint.resource.kind,
            "apiVersion": endpoint.resource.api_version(),
            "metadata": metadata,
        }),
        Form::Partial => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
        }
        Form::Table(_) => {
            let row = json!({"cells": [], "object": {
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            }});
            json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null, "rows": [row],
            })
        }
    };
    frame(encoding.protobuf, "BOOKMARK", object.to_string().as_bytes())
}

/// One event of a watch that is about no stored object.
pub(crate) fn frame(protobuf: bool, change: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 40);
    match protobuf::transcode(object).filter(|_| protobuf) {
        Some(object) => protobuf::push_frame(&mut out, change, &object),
        None => {
            open_frame(&mut out, change);
            out.extend_from_slice(object);
            close_frame(&mut out);
        }
    }
    out
}

/// Appends an event of a watch. `columns`: a table names its columns.
pub(crate) fn push_frame(
    out: &mut Vec<u8>,
    encoding: Encoding,
    change: &str,
    endpoint: &Endpoint,
    (stored, revision): (&[u8], i64),
    columns: bool,
) -> Result<(), Status> {
    if encoding.protobuf {
        let mut object = Vec::with_capacity(stored.len() + 64);
        push_protobuf(&mut object, encoding.form, endpoint, stored, revision)?;
        protobuf::push_frame(out, change, &object);
        return Ok(());
    }
    let start = out.len();
    open_frame(out, change);
    match push_form(out, encoding.form, endpoint, stored, revision, columns) {
        Ok(()) => close_frame(out),
        Err(status) => {
            out.truncate(start);
            return Err(status);
        }
    }
    Ok(())
}

/// Appends what precedes the object in a line of a watch.
fn open_frame(out: &mut Vec<u8>, kind: &str) {
    let _ = write!(out, "{{\"type\":\"{kind}\",\"object\":");
}

/// Appends what follows the object.
fn close_frame(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\n");
}
