//! Who watches a resource. Those who ask for one name, or for the pods of one node, are found by it: of five thousand
//! nodes that watch their pods, one hears of an event, and the others cost nothing.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{CachedEvent, Change};
use crate::{endpoint::Endpoint, select::Selection};

/// The value by which a watcher is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pin {
    /// `metadata.name`.
    Name(String),
    /// `spec.nodeName`; empty for pods without a node.
    Node(String),
}

/// Somebody who watches.
pub(super) struct Watcher {
    pub(super) scope: Bytes,
    pub(super) selection: Arc<Selection>,
    pub(super) queue: mpsc::Sender<Arc<CachedEvent>>,
}

/// All who watch.
#[derive(Default)]
pub(super) struct Watchers {
    pinned: HashMap<Pin, HashMap<u64, Watcher>>,
    others: HashMap<u64, Watcher>,
    /// Pins of nodes: without any, nobody has to look for the node.
    on_nodes: usize,
    next: u64,
}

impl Watchers {
    /// Takes one in; gives what it is removed by.
    pub(super) fn insert(&mut self, watcher: Watcher, pin: Option<&Pin>) -> u64 {
        let id = self.next;
        self.next += 1;
        let Some(pin) = pin else {
            self.others.insert(id, watcher);
            return id;
        };
        let same = self.pinned.entry(pin.clone()).or_default();
        if same.is_empty() && matches!(pin, Pin::Node(_)) {
            self.on_nodes += 1;
        }
        same.insert(id, watcher);
        id
    }

    pub(super) fn remove(&mut self, id: u64, pin: Option<&Pin>) {
        let Some(pin) = pin else {
            self.others.remove(&id);
            return;
        };
        let Some(same) = self.pinned.get_mut(pin) else { return };
        same.remove(&id);
        if same.is_empty() {
            self.forget(pin);
        }
    }

    fn forget(&mut self, pin: &Pin) {
        if self.pinned.remove(pin).is_some() && matches!(pin, Pin::Node(_)) {
            self.on_nodes -= 1;
        }
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        self.pinned.clear();
        self.others.clear();
        self.on_nodes = 0;
    }

    /// Tells everybody whom an event concerns. Who does not hear of it is not woken. A watcher that is full or gone is
    /// forgotten; its stream ends after what it still holds.
    pub(super) fn tell(&mut self, endpoint: &Endpoint, event: &Arc<CachedEvent>) {
        tell(&mut self.others, endpoint, event);
        if self.pinned.is_empty() {
            return;
        }
        if event.change == Change::Deleted && event.previous.is_none() {
            // Nobody knows what it was.
            self.pinned.values_mut().for_each(|same| tell(same, endpoint, event));
            return;
        }
        self.tell_pinned(&Pin::Name(endpoint.names(&event.key).1.to_owned()), endpoint, event);
        if self.on_nodes == 0 {
            return;
        }
        let node = |object: Option<&Value>| {
            let value = object?.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
            Some(Pin::Node(value.to_owned()))
        };
        let (now, before) = (node(event.now(endpoint)), node(event.before(endpoint)));
        if let Some(before) = before.filter(|before| now.as_ref() != Some(before)) {
            self.tell_pinned(&before, endpoint, event);
        }
        if let Some(now) = now {
            self.tell_pinned(&now, endpoint, event);
        }
    }

    fn tell_pinned(&mut self, pin: &Pin, endpoint: &Endpoint, event: &Arc<CachedEvent>) {
        let Some(same) = self.pinned.get_mut(pin) else { return };
        tell(same, endpoint, event);
        if same.is_empty() {
            self.forget(pin);
        }
    }
}

fn tell(watchers: &mut HashMap<u64, Watcher>, endpoint: &Endpoint, event: &Arc<CachedEvent>) {
    watchers.retain(|_, watcher| {
        !event.key.starts_with(&watcher.scope)
            || watcher.selection.shows(endpoint, event).is_none()
            || watcher.queue.try_send(event.clone()).is_ok()
    });
}
