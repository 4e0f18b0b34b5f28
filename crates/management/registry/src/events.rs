//! What happened, for those who want to know: webhooks, replication, and the time of the last pull.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{core::Access, digest::Digest, meta};

/// Events in memory that wait to be looked at; further ones are dropped and counted. Pushes and deletions are not among
/// them: see [`crate::outbox`].
const QUEUE: usize = 4096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    Push,
    Pull,
    Delete,
    Quota,
    Replication,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Delete => "delete",
            Self::Quota => "quota",
            Self::Replication => "replication",
        }
    }
}

/// One event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) project: String,
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) digest: Option<Digest>,
    pub(crate) actor: String,
    /// Seconds since 1970.
    pub(crate) time: i64,
}

impl Event {
    pub(crate) fn new(kind: Kind, access: &Access, tag: &str, digest: Option<&Digest>) -> Self {
        Self {
            kind,
            project: access.project_name.clone(),
            repository: access.repository.clone(),
            tag: tag.to_owned(),
            digest: digest.cloned(),
            actor: access.caller.name().to_owned(),
            time: meta::now(),
        }
    }
}

/// Events that may be lost with the process.
#[derive(Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Event>,
    receiver: Mutex<Option<mpsc::Receiver<Event>>>,
    pub(crate) dropped: AtomicU64,
}

impl Events {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Mutex::new(Some(receiver)), dropped: AtomicU64::new(0) }
    }

    /// The other end; once.
    pub(crate) fn receiver(&self) -> Option<mpsc::Receiver<Event>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Never waits.
    pub(crate) fn send(&self, event: Event) {
        if event.kind == Kind::Pull && self.sender.capacity() < QUEUE / 2 {
            return;
        }
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
