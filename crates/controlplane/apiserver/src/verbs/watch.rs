//! `watch`: from now, from a revision, or from the objects that are there.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use http::{Response, StatusCode};
use rand::Rng;
use sampan_api::status::Status;
use sampan_store::{Revision, prefix_end};

use crate::{
    body::Body,
    call::Call,
    core::Core,
    encode::Encoding,
    negotiate::{self, Media},
    protobuf, respond,
    select::Selection,
    storage::watch_error,
    verbs::{list, options::ListOptions},
    watch::{Order, Source, WatchStream, error_frame},
};

/// A watch ends after this many seconds, and up to as many more, when the client does not say.
const TIMEOUT: u64 = 1800;

/// No watch lasts longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Starts a watch.
pub(crate) async fn watch(core: &Arc<Core>, call: &mut Call) -> Result<Response<Body>, Status> {
    let form = call.form()?;
    if call.accepted.media == Media::Yaml {
        return Err(negotiate::stream_refusal(call.endpoint.asked()));
    }
    let encoding = Encoding { form, protobuf: call.accepted.media == Media::Protobuf };
    let options = ListOptions::read(call, true)?;
    let selection = Selection::parse(&call.endpoint, &call.target, &call.query)?;
    let wants_initial = options.initial_events.unwrap_or(matches!(options.revision, None | Some(0)));
    let cache = core.cache(&call.endpoint).await?;

    let mut initial = VecDeque::new();
    let after = if wants_initial {
        if let Some(revision) = options.revision.filter(|revision| *revision > 0) {
            list::fresh(core, &call.endpoint, revision).await?;
        }
        let page = list::Page::since(options.revision.unwrap_or_default());
        let listed = list::read(core, &call.endpoint, call.namespace(), &selection, &page).await?;
        initial = VecDeque::from(listed.items);
        listed.revision
    } else {
        match options.revision {
            Some(revision) if revision > 0 => revision,
            _ => list::current(core, &call.endpoint).await?,
        }
    };
    let selection = Arc::new(selection);
    let order = Order {
        endpoint: call.endpoint.clone(),
        encoding,
        selection: selection.clone(),
        after,
        initial,
        // Who says nothing of revisions asks for the same thing in the older way.
        initial_end: wants_initial && options.bookmarks,
        bookmarks: options.bookmarks,
        timeout: options.timeout.unwrap_or_else(timeout).min(LONGEST),
    };
    let scope = call.endpoint.scope(call.namespace());
    let source = match cache.subscribe(&call.endpoint, scope, selection, after) {
        Some(subscription) => Source::Cache(subscription),
        None => match own_watch(core, call, after).await {
            Ok(source) => source,
            Err(status) if status.code == 410 => {
                return Ok(frames(encoding, Body::full(error_frame(encoding.protobuf, &status))));
            }
            Err(status) => return Err(status),
        },
    };
    let shutdown = core.closing.clone().cancelled_owned();
    Ok(frames(encoding, Body::stream(WatchStream::new(order, source, shutdown, call.permit.take()))))
}

fn frames(encoding: Encoding, body: Body) -> Response<Body> {
    let kind = if encoding.protobuf { protobuf::WATCH_TYPE } else { "application/json" };
    let mut response = respond::typed(StatusCode::OK, kind, "");
    *response.body_mut() = body;
    response
}

/// For a start that the cache does not reach back to: the store may.
async fn own_watch(core: &Core, call: &Call, after: Revision) -> Result<Source, Status> {
    let start = call.endpoint.scope(call.namespace());
    let end = prefix_end(&start);
    let watch = core.store().watch(start, end, after + 1, true).await;
    let watch = watch.map_err(|e| watch_error(&e, after))?;
    let watch = call.endpoint.present_watch(watch);
    Ok(Source::Store { watch, ready: VecDeque::new(), latest: after })
}

/// Spread, so that clients that came together do not come back together.
fn timeout() -> Duration {
    Duration::from_secs(TIMEOUT + rand::rng().random_range(0..TIMEOUT))
}
