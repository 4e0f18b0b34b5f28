//! `list`: at the latest or an older revision, whole or in pages, chosen by selectors.

use std::{
    io::Write,
    sync::{Arc, atomic::Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Response, StatusCode};
use sampan_api::status::Status;
use sampan_store::{Error, KeyValue, Range, RangeResponse, Revision, prefix_end};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    body::{
        Body,
        rope::{Builder, Rope},
    },
    call::Call,
    core::Core,
    encode::{self, Form},
    endpoint::Endpoint,
    negotiate::Media,
    protobuf, respond,
    select::Selection,
    storage::{store_error, unsigned},
    verbs::options::ListOptions,
};

/// A longer continue token cannot be ours.
const MAX_TOKEN: usize = 2048;

/// A list is sent in chunks of about this size.
const CHUNK: usize = 64 << 10;

/// How often a page with a selector reads on before it is sent short.
const MOST_READS: usize = 1000;

/// What the continue token holds: a position and the revision to read at (-1: the latest).
#[derive(Serialize, Deserialize)]
pub(crate) struct Continue {
    v: String,
    pub(crate) rv: Revision,
    pub(crate) start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// Which part of a list is to be read, and when it was so.
#[derive(Default)]
pub(crate) struct Page {
    limit: usize,
    start: Option<String>,
    revision: Revision,
    /// It may not have been so before this one.
    least: Revision,
    /// The revision came from a continue token.
    continued: bool,
}

impl Page {
    /// All there is now, or was at this revision or later.
    pub(crate) fn since(least: Revision) -> Self {
        Self { least, ..Self::default() }
    }
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
    let form = call.form()?;
    let selection = Selection::parse(&call.endpoint, &call.target, &call.query)?;
    let listed = select(core, call, &selection).await?;
    if call.namespace().is_none() && selection.is_everything() {
        let all = listed.items.len() + listed.remaining.unwrap_or_default();
        call.endpoint.listed.store(all, Ordering::Relaxed);
    }
    write(call, form, listed)
}

/// Reads what the call's selectors and list options choose.
pub(crate) async fn select(core: &Core, call: &Call, selection: &Selection) -> Result<Listed, Status> {
    let options = ListOptions::read(call, false)?;
    let page = page(core, call, &options).await?;
    read(core, &call.endpoint, call.namespace(), selection, &page).await
}

async fn page(core: &Core, call: &Call, options: &ListOptions) -> Result<Page, Status> {
    let limit = options.limit.min(core.options.limits.page);
    if let Some(token) = &options.token {
        let token =
            read_token(token).map_err(|why| Status::bad_request(format!("invalid continue token: {why}")))?;
        if options.revision.is_some_and(|revision| revision != 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(why));
        }
        let (start, revision) = (Some(token.start), token.rv.max(0));
        return Ok(Page { limit, start, revision, continued: token.rv > 0, ..Page::default() });
    }
    let legacy = call.query.get("resourceVersionMatch").is_none();
    Ok(match options.revision {
        Some(revision) if options.exact || (legacy && limit > 0 && revision > 0) => {
            Page { limit, revision, ..Page::default() }
        }
        // Who takes any state gets all of it at once.
        Some(0) => Page::default(),
        Some(revision) => {
            fresh(core, &call.endpoint, revision).await?;
            Page { limit, least: revision, ..Page::default() }
        }
        None => Page { limit, ..Page::default() },
    })
}

/// The store's revision now.
pub(crate) async fn current(core: &Core, endpoint: &Endpoint) -> Result<Revision, Status> {
    let range = Range { start: endpoint.prefix.clone().into(), count_only: true, ..Range::default() };
    Ok(core.store().range(range).await.map_err(|e| store_error(&e))?.revision)
}

/// Refuses when the store has not reached the revision yet.
pub(crate) async fn fresh(core: &Core, endpoint: &Endpoint, asked: Revision) -> Result<(), Status> {
    let now = current(core, endpoint).await?;
    if asked > now {
        return Err(Status::too_large_resource_version(unsigned(asked), unsigned(now)));
    }
    Ok(())
}

/// A continue token, or why it is none.
pub(crate) fn read_token(text: &str) -> Result<Continue, String> {
    let bad = |why: &dyn std::fmt::Display| format!("continue key is not valid: {why}");
    if text.len() > MAX_TOKEN {
        return Err(bad(&"it is too long"));
    }
    let json = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e))?;
    let token: Continue = serde_json::from_slice(&json).map_err(|e| bad(&e))?;
    if token.v != TOKEN_VERSION {
        return Err(bad(&format!("server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(bad(&"incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if token.start.is_empty() {
        return Err(bad(&"encoded start key empty (version meta.k8s.io/v1)"));
    }
    Ok(token)
}

pub(crate) fn write_token(revision: Revision, start: &str) -> String {
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
    if let Some(listed) = on_node(core, endpoint, &prefix, selection, page).await {
        return Ok(listed);
    }
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
        let range = Range { start: start.clone(), end: end.clone(), revision, limit, ..Range::default() };
        let response = core.store().range(range).await;
        let mut response = response.map_err(|e| list_error(&e, page))?;
        endpoint.present(&mut response.kvs).await?;
        if revision == 0 {
            revision = response.revision;
        }
        let count = response.count;
        let (done, last) = take(endpoint, selection, response, page.limit, &mut items);
        let left = count.saturating_sub(done);
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

/// The pods of one node, found by it: every node asks for its own when it starts. None where they have to be looked for:
/// in pages, at another time, or where other servers write as well and may have answered for what is not known here yet.
async fn on_node(
    core: &Core,
    endpoint: &Endpoint,
    prefix: &[u8],
    selection: &Selection,
    page: &Page,
) -> Option<Listed> {
    let node = selection.on_node(endpoint).filter(|_| endpoint.resource.plural == "pods")?;
    if core.shared || page.start.is_some() || page.revision != 0 || node.is_empty() {
        return None;
    }
    let (keys, revision) = core.authz.nodes.pods_on(node, prefix).await?;
    if revision < page.least || (page.limit > 0 && keys.len() > page.limit) {
        return None;
    }
    let mut items = Vec::with_capacity(keys.len());
    for start in keys {
        let range = Range { start, revision, ..Range::default() };
        // It may be longer ago than the store remembers.
        items.extend(core.store().range(range).await.ok()?.kvs);
    }
    items.retain(|kv| selection.selects(endpoint, kv));
    Some(Listed { revision, items, next: None, remaining: None })
}

/// Moves what matches into `items`. Returns how many keys were looked at, and the last of them.
fn take(
    endpoint: &Endpoint,
    selection: &Selection,
    response: RangeResponse,
    limit: usize,
    items: &mut Vec<KeyValue>,
) -> (usize, Bytes) {
    if selection.is_everything() && limit == 0 && items.is_empty() {
        *items = response.kvs;
        return (items.len(), items.last().map(|kv| kv.key.clone()).unwrap_or_default());
    }
    let (mut seen, mut last) = (0, Bytes::new());
    for kv in response.kvs {
        if limit > 0 && items.len() >= limit {
            break;
        }
        seen += 1;
        if selection.selects(endpoint, &kv) {
            last = kv.key.clone();
            items.push(kv);
        } else {
            last = kv.key;
        }
    }
    (seen, last)
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
    read(core, endpoint, namespace, selection, &Page::default()).await
}

/// The list as it is sent.
fn write(call: &Call, form: Form, listed: Listed) -> Result<Response<Body>, Status> {
    if call.accepted.media == Media::Protobuf {
        return protobuf_list(&call.endpoint, form, &listed);
    }
    let about = listed.items.iter().map(|kv| kv.value.len() + 64).sum();
    let chunks = Chunks {
        head: Some(head(&call.endpoint, form, &listed)),
        endpoint: call.endpoint.clone(),
        form,
        items: listed.items.into_iter(),
        first: true,
        ended: false,
    };
    if call.accepted.is_plain() && about > CHUNK {
        let mut response = respond::json_bytes(StatusCode::OK, "");
        *response.body_mut() = Body::chunks(chunks, about);
        return Ok(response);
    }
    let whole = chunks.fold(Vec::with_capacity(about + 256), |mut whole, chunk| {
        chunk.pieces().for_each(|piece| whole.extend_from_slice(piece));
        whole
    });
    Ok(respond::json_bytes(StatusCode::OK, whole))
}

/// What a list says of itself.
fn metadata(listed: &Listed) -> Value {
    let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
    if let Some(next) = &listed.next {
        metadata["continue"] = next.as_str().into();
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// The kind of a list.
fn kind(endpoint: &Endpoint, form: Form) -> (&str, &str) {
    match form {
        Form::Partial => ("meta.k8s.io/v1", "PartialObjectMetadataList"),
        _ => (&endpoint.api_version, &endpoint.list_kind),
    }
}

/// What precedes the items.
fn head(endpoint: &Endpoint, form: Form, listed: &Listed) -> Vec<u8> {
    let (mut out, metadata) = (Vec::with_capacity(1024), metadata(listed));
    // Writing to a Vec cannot fail.
    if matches!(form, Form::Table(_)) {
        encode::push_table_head(&mut out, endpoint, true);
        let _ = write!(out, "\"metadata\":{metadata},\"rows\":[");
    } else {
        let (version, kind) = kind(endpoint, form);
        let _ = write!(
            out,
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
        );
    }
    out
}

/// A list in protobuf says first how long it is: it is made whole.
fn protobuf_list(endpoint: &Endpoint, form: Form, listed: &Listed) -> Result<Response<Body>, Status> {
    let size: usize = listed.items.iter().map(|kv| kv.value.len()).sum();
    let mut items = Vec::with_capacity(size);
    for kv in &listed.items {
        encode::push_protobuf_item(&mut items, form, endpoint, &kv.value, kv.mod_revision)?;
    }
    let mut out = Vec::with_capacity(items.len() + 256);
    protobuf::push_list(&mut out, kind(endpoint, form), metadata(listed).to_string().as_bytes(), &items)
        .map_err(Status::internal)?;
    Ok(respond::typed(StatusCode::OK, protobuf::CONTENT_TYPE, out))
}

/// A list in JSON, made while it is sent, in chunks; what the store holds is not copied.
struct Chunks {
    head: Option<Vec<u8>>,
    endpoint: Arc<Endpoint>,
    form: Form,
    items: std::vec::IntoIter<KeyValue>,
    first: bool,
    ended: bool,
}

impl Chunks {
    fn push(&self, out: &mut Builder, kv: KeyValue) -> Result<(), Status> {
        let KeyValue { value, mod_revision, .. } = kv;
        match self.form {
            Form::Object => encode::share_stored(out, &self.endpoint, value, mod_revision),
            Form::Partial => encode::push_partial(out.text(), &value, mod_revision)?,
            Form::Table(include) => {
                encode::push_row(out.text(), include, &self.endpoint, &value, mod_revision)?;
            }
        }
        Ok(())
    }
}

impl Iterator for Chunks {
    type Item = Rope;

    fn next(&mut self) -> Option<Rope> {
        if self.ended {
            return None;
        }
        let mut out = Builder::new(self.head.take().unwrap_or_default());
        while out.len() < CHUNK {
            let Some(kv) = self.items.next() else {
                self.ended = true;
                out.text().extend_from_slice(b"]}");
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.text().push(b',');
            }
            if let Err(status) = self.push(&mut out, kv) {
                // The answer has begun: all that is left is to end it where the client cannot take it for whole.
                tracing::error!("a list is cut off: {status}");
                self.ended = true;
                return None;
            }
        }
        Some(out.build())
    }
}
