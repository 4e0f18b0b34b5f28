//! One watch: the events of a subscription, chosen by selectors, as frames.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use sampan_api::status::Status;
use sampan_store::{KeyValue, Revision, Watch as StoreWatch};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{
    cache::{CachedEvent, Change, Subscription},
    encode::{self, Encoding, Form},
    endpoint::Endpoint,
    select::Selection,
};

/// Lines are joined into frames of about this size when several are ready.
const FRAME: usize = 64 << 10;

/// Between bookmarks.
const BOOKMARK: Duration = Duration::from_secs(60);

/// Where events come from.
pub(crate) enum Source {
    /// The watch cache.
    Cache(Subscription),
    /// A store watch of its own, for a start that the cache no longer remembers.
    Store { watch: StoreWatch, ready: VecDeque<Arc<CachedEvent>>, latest: Revision },
}

/// What a watch was asked for.
pub(crate) struct Order {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) encoding: Encoding,
    pub(crate) selection: Arc<Selection>,
    /// Events up to this revision are not sent.
    pub(crate) after: Revision,
    /// Objects to send as ADDED first.
    pub(crate) initial: VecDeque<KeyValue>,
    /// After them, a bookmark that says so.
    pub(crate) initial_end: bool,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
}

/// The stream of a watch's frames.
pub(crate) struct WatchStream {
    order: Order,
    source: Source,
    columns: bool,
    deadline: Pin<Box<Sleep>>,
    bookmarks: Option<Interval>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The definition of the kind changed or went.
    retired: Pin<Box<WaitForCancellationFutureOwned>>,
    done: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What polling the source gave.
enum Next {
    Event(Arc<CachedEvent>),
    Failed(Status),
    Ended,
    Pending,
}

impl WatchStream {
    pub(crate) fn new(
        order: Order,
        source: Source,
        shutdown: WaitForCancellationFutureOwned,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let bookmarks =
            order.bookmarks.then(|| tokio::time::interval_at(Instant::now() + BOOKMARK, BOOKMARK));
        Self {
            columns: true,
            deadline: Box::pin(tokio::time::sleep(order.timeout)),
            bookmarks,
            shutdown: Box::pin(shutdown),
            retired: Box::pin(order.endpoint.retired.clone().cancelled_owned()),
            done: false,
            _permit: permit,
            order,
            source,
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Next {
        match &mut self.source {
            Source::Cache(subscription) => {
                if let Some(event) = subscription.missed.pop_front() {
                    return Next::Event(event);
                }
                match subscription.queue.poll_recv(cx) {
                    Poll::Ready(Some(event)) => Next::Event(event),
                    Poll::Ready(None) => Next::Ended,
                    Poll::Pending => Next::Pending,
                }
            }
            Source::Store { watch, ready, latest } => loop {
                if let Some(event) = ready.pop_front() {
                    return Next::Event(event);
                }
                match watch.as_mut().poll_next(cx) {
                    Poll::Ready(Some(Ok(batch))) => {
                        *latest = batch.revision;
                        let endpoint = &self.order.endpoint;
                        ready.extend(batch.events.iter().map(|e| Arc::new(CachedEvent::new(e, endpoint))));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        return Next::Failed(crate::storage::watch_error(&error, *latest));
                    }
                    Poll::Ready(None) => return Next::Ended,
                    Poll::Pending => return Next::Pending,
                }
            },
        }
    }

    /// The objects that were there at the start, and the bookmark after them.
    fn push_initial(&mut self, out: &mut Vec<u8>) {
        while out.len() < FRAME {
            let Some(kv) = self.order.initial.pop_front() else { break };
            self.push(out, Change::Added, &kv.value, kv.mod_revision);
        }
        if self.order.initial.is_empty() && std::mem::take(&mut self.order.initial_end) {
            let mark = encode::bookmark(self.order.encoding, &self.order.endpoint, self.order.after, true);
            out.extend_from_slice(&mark);
        }
    }

    /// What this watch is to hear of an event: nothing, or a change with the bytes to show.
    fn translate<'a>(&self, event: &'a CachedEvent) -> Option<(Change, &'a Bytes)> {
        let later = event.revision > self.order.after;
        later.then(|| self.order.selection.shows(&self.order.endpoint, event)).flatten()
    }

    /// The event as the frame that is shared when nothing about it is particular to this watch.
    fn shared(&self, event: &CachedEvent, change: Change) -> Option<Bytes> {
        let encoding = self.order.encoding;
        let names_columns = self.columns && matches!(encoding.form, Form::Table(_));
        if change != event.change || names_columns {
            return None;
        }
        event.frame(encoding, &self.order.endpoint).cloned()
    }

    fn push(&mut self, out: &mut Vec<u8>, change: Change, stored: &[u8], revision: Revision) {
        let columns = std::mem::take(&mut self.columns);
        let (encoding, endpoint) = (self.order.encoding, &self.order.endpoint);
        let stored = (stored, revision);
        if let Err(status) = encode::push_frame(out, encoding, change.word(), endpoint, stored, columns) {
            out.extend_from_slice(&error_frame(encoding.protobuf, &status));
        }
    }

    /// Collects what is ready into one frame.
    fn gather(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let mut out = Vec::new();
        self.push_initial(&mut out);
        let mut only: Option<Bytes> = None;
        while out.len() < FRAME && !self.done && self.order.initial.is_empty() {
            let event = match self.poll_source(cx) {
                Next::Event(event) => event,
                Next::Pending => break,
                Next::Ended => {
                    self.done = true;
                    break;
                }
                Next::Failed(status) => {
                    self.done = true;
                    out.extend(only.take().into_iter().flatten());
                    out.extend_from_slice(&error_frame(self.order.encoding.protobuf, &status));
                    break;
                }
            };
            let Some((change, stored)) = self.translate(&event) else { continue };
            match self.shared(&event, change) {
                Some(line) if out.is_empty() && only.is_none() => only = Some(line),
                Some(line) => {
                    out.extend(only.take().into_iter().flatten());
                    out.extend_from_slice(&line);
                }
                None => {
                    out.extend(only.take().into_iter().flatten());
                    self.push(&mut out, change, stored, event.revision);
                }
            }
        }
        only.or_else(|| (!out.is_empty()).then(|| out.into()))
    }

    /// A bookmark at a position before which everything was sent.
    fn mark(&self) -> Option<Bytes> {
        let latest = match &self.source {
            Source::Cache(subscription) => {
                // Read the position first: what is queued afterwards lies behind it.
                let latest = subscription.latest();
                if !subscription.queue.is_empty() || !subscription.missed.is_empty() {
                    return None;
                }
                latest
            }
            Source::Store { latest, .. } => *latest,
        };
        let revision = latest.max(self.order.after);
        Some(encode::bookmark(self.order.encoding, &self.order.endpoint, revision, false).into())
    }
}

impl Stream for WatchStream {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        if let Some(frame) = this.gather(cx) {
            return Poll::Ready(Some(frame));
        }
        if this.done
            || this.shutdown.as_mut().poll(cx).is_ready()
            || this.retired.as_mut().poll(cx).is_ready()
        {
            this.done = true;
            return Poll::Ready(None);
        }
        if this.deadline.as_mut().poll(cx).is_ready() {
            this.done = true;
            // The last bookmark lets the client go on from here without a list.
            let mark = if this.order.bookmarks { this.mark() } else { None };
            return Poll::Ready(mark);
        }
        while this.bookmarks.as_mut().is_some_and(|timer| timer.poll_tick(cx).is_ready()) {
            if let Some(mark) = this.mark() {
                return Poll::Ready(Some(mark));
            }
        }
        Poll::Pending
    }
}

/// A frame that ends a watch with a reason.
pub(crate) fn error_frame(protobuf: bool, status: &Status) -> Vec<u8> {
    encode::frame(protobuf, "ERROR", status.to_value().to_string().as_bytes())
}
