//! `watch`: from now, from a revision, or from the objects that are there.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use http::{Response, StatusCode};
use rand::Rng;
use sampan_api::status::{FieldError, Status};
use sampan_store::{Revision, prefix_end};

use crate::{
    body::Body,
    call::Call,
    core::Core,
    respond,
    select::Selection,
    storage::watch_error,
    verbs::list,
    watch::{Order, Source, WatchStream, error_line},
};

/// A watch ends after this many seconds, and up to as many more, when the client does not say.
const TIMEOUT: u64 = 1800;

/// Starts a watch.
pub(crate) async fn watch(core: &Arc<Core>, call: &mut Call) -> Result<Response<Body>, Status> {
    let form = respond::form(&call.headers, &call.query)?;
    let selection = Selection::parse(&call.endpoint, &call.target, &call.query)?;
    let asked = list::revision_of(call)?;
    let bookmarks = call.query.flag("allowWatchBookmarks").unwrap_or(false);
    let initial_events = initial_events(call)?;
    let wants_initial = initial_events.unwrap_or(matches!(asked, None | Some(0)));
    let cache = core.cache(&call.endpoint).await?;

    let mut initial = VecDeque::new();
    let after = if wants_initial {
        let listed = list::all(core, &call.endpoint, call.namespace(), &selection).await?;
        initial = VecDeque::from(listed.items);
        listed.revision
    } else {
        match asked {
            Some(revision) if revision > 0 => revision,
            _ => list::current(core, &call.endpoint).await?,
        }
    };
    let order = Order {
        endpoint: call.endpoint.clone(),
        form,
        selection,
        after,
        initial,
        initial_end: initial_events == Some(true) && bookmarks,
        bookmarks,
        timeout: timeout(call)?,
    };
    let scope = call.endpoint.scope(call.namespace());
    let source = match cache.subscribe(scope, after) {
        Some(subscription) => Source::Cache(subscription),
        None => match own_watch(core, call, after).await {
            Ok(source) => source,
            Err(status) if status.code == 410 => return Ok(lines(Body::full(error_line(&status)))),
            Err(status) => return Err(status),
        },
    };
    let shutdown = core.closing.clone().cancelled_owned();
    Ok(lines(Body::stream(WatchStream::new(order, source, shutdown, call.permit.take()))))
}

fn lines(body: Body) -> Response<Body> {
    let mut response = respond::typed(StatusCode::OK, "application/json", "");
    *response.body_mut() = body;
    response
}

/// For a start that the cache does not reach back to: the store may.
async fn own_watch(core: &Core, call: &Call, after: Revision) -> Result<Source, Status> {
    let start = call.endpoint.scope(call.namespace());
    let end = prefix_end(&start);
    let watch = core.store().watch(start, end, after + 1, true).await;
    let watch = watch.map_err(|e| watch_error(&e, after))?;
    Ok(Source::Store { watch, ready: VecDeque::new(), latest: after })
}

fn initial_events(call: &Call) -> Result<Option<bool>, Status> {
    let asked = call.query.flag("sendInitialEvents");
    let matching = call.query.get("resourceVersionMatch");
    let refuse = |field: &str, why: &str| {
        Err(Status::invalid(("meta.k8s.io", "ListOptions"), "", &[FieldError::forbidden(field, why)]))
    };
    match (asked, matching) {
        (None, Some(_)) => refuse(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(_), None) => refuse(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (Some(_), Some(other)) if other != "NotOlderThan" => refuse(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        _ => Ok(asked),
    }
}

fn timeout(call: &Call) -> Result<Duration, Status> {
    let asked = call.query.number("timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    // Spread, so that clients that came together do not come back together.
    let seconds = asked.unwrap_or_else(|| TIMEOUT + rand::rng().random_range(0..TIMEOUT));
    Ok(Duration::from_secs(seconds.min(24 * 3600)))
}
