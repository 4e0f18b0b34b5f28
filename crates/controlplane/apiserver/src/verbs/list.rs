//! `list`: at the latest or an older revision, whole or in pages, chosen by selectors.

use std::{io::Write, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Response, StatusCode};
use sampan_api::status::{FieldError, Status};
use sampan_store::{Error, KeyValue, Range, RangeResponse, Revision, prefix_end};
use serde::{Deserialize, Serialize};

use crate::{
    body::Body,
    call::Call,
    core::Core,
    encode::{self, Form},
    endpoint::Endpoint,
    respond,
    select::Selection,
    storage::{store_error, unsigned},
};

/// A longer continue token cannot be ours.
const MAX_TOKEN: usize = 2048;

/// How often a page with a selector reads on before it is sent short.
const MOST_READS: usize = 1000;

/// What the continue token holds: a position and the revision to read at (-1: the latest).
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: Revision,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// How a list was asked for.
pub(crate) struct Page {
    limit: usize,
    start: Option<String>,
    revision: Revision,
    /// The revision came from a continue token.
    continued: bool,
}

/// What a list found.
pub(crate) struct Listed {
    pub(crate) revision: Revision,
    pub(crate) items: Vec<KeyValue>,
    next: Option<String>,
    remaining: Option<usize>,
}

/// Lists.
pub(crate) async fn list(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Status> {
    let form = respond::form(&call.headers, &call.query)?;
    let selection = Selection::parse(&call.endpoint, &call.target, &call.query)?;
    let page = page(core, call).await?;
    let listed = read(core, &call.endpoint, call.namespace(), &selection, &page).await?;
    let bytes = write(&call.endpoint, form, &listed)?;
    Ok(respond::json_bytes(StatusCode::OK, bytes))
}

/// The revision that `resourceVersion` says; none when it says nothing.
pub(crate) fn revision_of(call: &Call) -> Result<Option<Revision>, Status> {
    let Some(text) = call.query.get("resourceVersion") else { return Ok(None) };
    text.parse::<u64>().ok().and_then(|n| Revision::try_from(n).ok()).map(Some).ok_or_else(|| {
        let error = FieldError::invalid(
            "resourceVersion",
            text,
            format!("strconv.ParseUint: parsing \"{text}\": invalid syntax"),
        );
        Status::invalid(("", "ResourceVersion"), "", &[error])
    })
}

async fn page(core: &Core, call: &Call) -> Result<Page, Status> {
    let limit = call.query.number("limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(0).min(core.options.limits.page);
    let asked = revision_of(call)?;
    let matching = call.query.get("resourceVersionMatch");
    if let Some(token) = call.query.get("continue") {
        if asked.is_some_and(|revision| revision != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = read_token(token)?;
        return Ok(Page {
            limit,
            start: Some(token.start),
            revision: token.rv.max(0),
            continued: token.rv > 0,
        });
    }
    let revision = match (asked, matching) {
        (None, Some(_)) => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            let error = FieldError::forbidden("resourceVersionMatch", why);
            return Err(Status::invalid(("meta.k8s.io", "ListOptions"), "", &[error]));
        }
        (Some(0), Some("Exact")) => {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            let error = FieldError::forbidden("resourceVersionMatch", why);
            return Err(Status::invalid(("meta.k8s.io", "ListOptions"), "", &[error]));
        }
        (_, Some(other)) if !matches!(other, "Exact" | "NotOlderThan") => {
            let known = ["Exact", "NotOlderThan", ""];
            let error = FieldError::not_supported("resourceVersionMatch", other, &known);
            return Err(Status::invalid(("meta.k8s.io", "ListOptions"), "", &[error]));
        }
        (Some(revision), Some("Exact")) => revision,
        (Some(revision), None) if limit > 0 && revision > 0 => revision,
        (Some(revision), _) if revision > 0 => {
            fresh(core, &call.endpoint, revision).await?;
            0
        }
        _ => 0,
    };
    Ok(Page { limit, start: None, revision, continued: false })
}

/// The store's revision now.
pub(crate) async fn current(core: &Core, endpoint: &Endpoint) -> Result<Revision, Status> {
    let range = Range { start: endpoint.prefix.clone().into(), count_only: true, ..Range::default() };
    Ok(core.store().range(range).await.map_err(|e| store_error(&e))?.revision)
}

/// Refuses when the store has not reached the revision yet.
async fn fresh(core: &Core, endpoint: &Endpoint, asked: Revision) -> Result<(), Status> {
    let now = current(core, endpoint).await?;
    if asked > now {
        return Err(Status::too_large_resource_version(unsigned(asked), unsigned(now)));
    }
    Ok(())
}

fn read_token(text: &str) -> Result<Continue, Status> {
    let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
    if text.len() > MAX_TOKEN {
        return Err(bad("too long"));
    }
    let json = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e.to_string()))?;
    let token: Continue = serde_json::from_slice(&json).map_err(|e| bad(&e.to_string()))?;
    if token.v != TOKEN_VERSION {
        return Err(bad(&format!("server does not recognize this encoded version \"{}\"", token.v)));
    }
    if token.rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    Ok(token)
}

fn write_token(revision: Revision, start: &str) -> String {
    let token = Continue { v: TOKEN_VERSION.to_owned(), rv: revision, start: start.to_owned() };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

/// Reads what is asked for.
pub(crate) async fn read(
    core: &Core,
    endpoint: &Endpoint,
    namespace: Option<&str>,
    selection: &Selection,
    page: &Page,
) -> Result<Listed, Status> {
    let prefix = endpoint.scope(namespace);
    let end = prefix_end(&prefix);
    let mut start = prefix.clone();
    if let Some(after) = &page.start {
        // The key after the last one sent; it must not lead out of the asked range.
        start = format!("{}{after}\0", endpoint.prefix).into();
        if !start.starts_with(&prefix) {
            return Err(Status::bad_request("continue key is not valid: it is for another list"));
        }
    }
    let everything = selection.is_everything();
    let mut revision = page.revision;
    let mut items = Vec::new();
    for _ in 0..MOST_READS {
        let wanted = if page.limit == 0 { 0 } else { page.limit - items.len() };
        // With a selector most keys may not match: read more at once than are missing.
        let limit = if everything || wanted == 0 { wanted } else { wanted.max(500) };
        let range = Range { start: start.clone(), end: end.clone(), revision, limit, count_only: false };
        let response = core.store().range(range).await;
        let response = response.map_err(|e| list_error(&e, page))?;
        if revision == 0 {
            revision = response.revision;
        }
        let (done, last) = take(endpoint, selection, &response, page.limit, &mut items);
        let left = response.count.saturating_sub(done);
        if left == 0 {
            return Ok(Listed { revision, items, next: None, remaining: None });
        }
        let name = endpoint_rest(endpoint, &last);
        if page.limit > 0 && items.len() >= page.limit {
            let remaining = everything.then_some(left);
            return Ok(Listed { revision, items, next: Some(write_token(revision, &name)), remaining });
        }
        start = format!("{}{name}\0", endpoint.prefix).into();
    }
    Err(Status::timeout("the list took too many reads", 1))
}

/// Moves what matches into `items`. Returns how many keys were looked at, and the last of them.
fn take(
    endpoint: &Endpoint,
    selection: &Selection,
    response: &RangeResponse,
    limit: usize,
    items: &mut Vec<KeyValue>,
) -> (usize, Bytes) {
    let mut last = Bytes::new();
    for (seen, kv) in response.kvs.iter().enumerate() {
        if limit > 0 && items.len() >= limit {
            return (seen, last);
        }
        last = kv.key.clone();
        if selection.selects(endpoint, kv) {
            items.push(kv.clone());
        }
    }
    (response.kvs.len(), last)
}

/// What follows the resource's prefix in a key.
fn endpoint_rest(endpoint: &Endpoint, key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(endpoint.prefix.len()..).unwrap_or_default()).into_owned()
}

fn list_error(error: &Error, page: &Page) -> Status {
    match (error, &page.start) {
        // An inconsistent list can go on where this one stopped.
        (Error::Compacted(_), Some(start)) if page.continued => {
            Status::expired_continue_with(write_token(-1, start))
        }
        (Error::Future(now), _) => {
            Status::too_large_resource_version(unsigned(page.revision), unsigned(*now))
        }
        _ => store_error(error),
    }
}

/// All objects of a resource (in a namespace) now.
pub(crate) async fn all(
    core: &Core,
    endpoint: &Endpoint,
    namespace: Option<&str>,
    selection: &Selection,
) -> Result<Listed, Status> {
    let page = Page { limit: 0, start: None, revision: 0, continued: false };
    read(core, endpoint, namespace, selection, &page).await
}

/// The list as it is sent.
fn write(endpoint: &Endpoint, form: Form, listed: &Listed) -> Result<Vec<u8>, Status> {
    let size: usize = listed.items.iter().map(|kv| kv.value.len() + 64).sum();
    let mut out = Vec::with_capacity(size + 256);
    let mut metadata = serde_json::json!({"resourceVersion": listed.revision.to_string()});
    if let Some(next) = &listed.next {
        metadata["continue"] = next.as_str().into();
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    // Writing to a Vec cannot fail.
    match form {
        Form::Table(_) => {
            encode::push_table_head(&mut out, endpoint, true);
            let _ = write!(out, "\"metadata\":{metadata},\"rows\":[");
        }
        Form::Partial => {
            let head = r#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":"#;
            let _ = write!(out, "{head}{metadata},\"items\":[");
        }
        Form::Object => {
            let (kind, version) = (endpoint.resource.list_kind(), endpoint.resource.api_version());
            let _ = write!(
                out,
                "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
            );
        }
    }
    for (index, kv) in listed.items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match form {
            Form::Table(include) => {
                encode::push_row(&mut out, include, endpoint, &kv.value, kv.mod_revision)?;
            }
            _ => encode::push_form(&mut out, form, endpoint, &kv.value, kv.mod_revision, false)?,
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}
