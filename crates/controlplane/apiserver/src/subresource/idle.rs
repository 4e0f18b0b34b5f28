//! Connections to nodes that have answered in full and can be asked again, so that a log costs no handshake.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::SendRequest;
use tokio_util::sync::CancellationToken;

/// A connection on which requests can be sent.
pub(crate) type Sender = SendRequest<Empty<Bytes>>;

/// Idle connections kept to each node; more are closed. The node closes those that nobody uses.
const KEPT: usize = 4;

/// Time for the end of the last answer to arrive.
const SETTLE: Duration = Duration::from_millis(100);

/// Idle connections by the node's address and port.
#[derive(Debug)]
pub(crate) struct Idle {
    by_authority: Mutex<HashMap<String, Vec<Sender>>>,
    closing: CancellationToken,
}

impl Idle {
    /// Keeps nothing any more once `closing` is cancelled.
    pub(crate) fn new(closing: CancellationToken) -> Self {
        Self { by_authority: Mutex::default(), closing }
    }

    /// A connection that still works.
    pub(crate) async fn take(&self, authority: &str) -> Option<Sender> {
        loop {
            let mut sender = self.pop(authority)?;
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, sender.ready()).await {
                return Some(sender);
            }
        }
    }

    /// Lets go of all; connections end when nobody can send on them.
    pub(crate) fn clear(&self) {
        self.by_authority.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn pop(&self, authority: &str) -> Option<Sender> {
        self.by_authority.lock().unwrap_or_else(PoisonError::into_inner).get_mut(authority)?.pop()
    }

    fn put(&self, authority: String, sender: Sender) {
        let mut by_authority = self.by_authority.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: whoever clears after closing finds what was put before.
        if self.closing.is_cancelled() {
            return;
        }
        // Those that their node has closed meanwhile, also of nodes that nobody asks any more.
        by_authority.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        let senders = by_authority.entry(authority).or_default();
        if senders.len() < KEPT {
            senders.push(sender);
        }
    }
}

/// A connection in use. It becomes idle when this is dropped, which is to happen after the answer's body.
#[derive(Debug)]
pub(crate) struct Lent {
    idle: Arc<Idle>,
    authority: String,
    sender: Option<Sender>,
}

impl Lent {
    /// `sender` goes to `idle` afterwards.
    pub(crate) fn new(idle: Arc<Idle>, authority: String, sender: Sender) -> Self {
        Self { idle, authority, sender: Some(sender) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) {
            self.idle.put(std::mem::take(&mut self.authority), sender);
        }
    }
}
