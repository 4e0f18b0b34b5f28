//! Which objects a list, watch or deletecollection is about.

mod view;

use bytes::Bytes;
use memchr::memmem::Finder;
use sampan_api::{
    selector::{FieldSelector, LabelSelector},
    status::Status,
};
use sampan_store::KeyValue;
use serde_json::Value;

use self::view::Wanted;
use crate::{
    cache::{CachedEvent, Change, Pin},
    endpoint::Endpoint,
    request::{Query, Target},
};

/// A longer selector is refused.
const MAX_SELECTOR: usize = 8 << 10;

/// How deep in custom objects the fields may lie that can be selected by.
const CUSTOM_DEPTH: usize = 32;

/// What selectors can see of a stored object. Kept beside watch history in place of the whole.
pub(crate) fn visible(endpoint: &Endpoint, stored: &[u8]) -> Option<Value> {
    let wanted = match endpoint.custom {
        Some(_) => Wanted::Deep(CUSTOM_DEPTH),
        None => Wanted::Offered(endpoint.resource.fields),
    };
    view::read(stored, wanted)
}

/// Label and field selectors together.
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// Nothing but this name can match: a look at the key suffices.
    name: Option<String>,
    everything: bool,
    /// What the stored form of anything that matches has in it: far quicker found to be missing than the form is read.
    needle: Option<Finder<'static>>,
}

/// The one node whose objects are selected. Fields of custom kinds need not be text.
fn node<'a>(endpoint: &Endpoint, fields: &'a FieldSelector) -> Option<&'a str> {
    fields.exact("spec.nodeName").filter(|_| endpoint.custom.is_none())
}

/// The node's name as it is stored, unless JSON would write it another way; or the beginning of any, if only objects with a
/// node are selected.
fn needle(endpoint: &Endpoint, fields: &FieldSelector) -> Option<Finder<'static>> {
    if endpoint.custom.is_none() && fields.some("spec.nodeName") {
        return Some(Finder::new("\"nodeName\":\""));
    }
    let node = node(endpoint, fields)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_plain = !node.is_empty() && node.bytes().all(plain);
    is_plain.then(|| Finder::new(&format!("\"{node}\"")).into_owned())
}

impl Selection {
    pub(crate) fn parse(endpoint: &Endpoint, target: &Target, query: &Query) -> Result<Self, Status> {
        let labels = query.get("labelSelector").unwrap_or_default();
        let fields = query.get("fieldSelector").unwrap_or_default();
        if labels.len() > MAX_SELECTOR || fields.len() > MAX_SELECTOR {
            return Err(Status::bad_request(format!("a selector is longer than {MAX_SELECTOR} bytes")));
        }
        let labels = LabelSelector::parse(labels)?;
        let fields = FieldSelector::parse(endpoint.resource, fields)?;
        // A watch of one object comes as a name in the path.
        let selected = fields.exact("metadata.name");
        if target.name.is_some() && !fields.is_everything() && selected != target.name.as_deref() {
            let why = "fieldSelector metadata.name doesn't match requested name";
            return Err(Status::bad_request(why));
        }
        let name = target.name.clone().or_else(|| selected.map(str::to_owned));
        let everything = labels.is_everything() && fields.is_everything() && name.is_none();
        let needle = needle(endpoint, &fields);
        Ok(Self { labels, fields, name, everything, needle })
    }

    /// The one value that what is selected has in a field by which watchers are found.
    pub(crate) fn pin(&self, endpoint: &Endpoint) -> Option<Pin> {
        if let Some(name) = &self.name {
            return Some(Pin::Name(name.clone()));
        }
        Some(Pin::Node(node(endpoint, &self.fields)?.to_owned()))
    }

    /// The one node whose objects are selected.
    pub(crate) fn on_node(&self, endpoint: &Endpoint) -> Option<&str> {
        node(endpoint, &self.fields)
    }

    /// All objects.
    pub(crate) fn everything() -> Self {
        let (labels, fields) = (LabelSelector::everything(), FieldSelector::everything());
        Self { labels, fields, name: None, everything: true, needle: None }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.everything
    }

    /// False when the key alone says that the object does not match.
    pub(crate) fn may_match_key(&self, endpoint: &Endpoint, key: &[u8]) -> bool {
        self.name.as_deref().is_none_or(|name| endpoint.names(key).1 == name)
    }

    /// False when what is stored says without being read that it does not match.
    fn may_match(&self, stored: &[u8]) -> bool {
        self.needle.as_ref().is_none_or(|needle| needle.find(stored).is_some())
    }

    /// Whether an object whose key may match does, by its stored form.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches(object)
    }

    /// What a watcher is to hear of an event: nothing, or a change with the bytes to show.
    pub(crate) fn shows<'a>(
        &self,
        endpoint: &Endpoint,
        event: &'a CachedEvent,
    ) -> Option<(Change, &'a Bytes)> {
        if self.everything {
            return Some((event.change, &event.value));
        }
        if !self.may_match_key(endpoint, &event.key) {
            return None;
        }
        let previous = event.previous.as_ref().filter(|previous| self.may_match(previous));
        let before = previous.and_then(|_| event.before(endpoint)).is_some_and(|object| self.matches(object));
        if event.change == Change::Deleted {
            let was = before || event.previous.is_none();
            return was.then_some((Change::Deleted, &event.value));
        }
        let now = Some(&event.value).filter(|value| self.may_match(value));
        let now = now.and_then(|_| event.now(endpoint)).is_some_and(|object| self.matches(object));
        match (now, before) {
            (true, false) => Some((Change::Added, &event.value)),
            (true, true) => Some((Change::Modified, &event.value)),
            (false, true) => Some((Change::Deleted, event.previous.as_ref().unwrap_or(&event.value))),
            (false, false) => None,
        }
    }

    /// Whether a stored object is selected.
    pub(crate) fn selects(&self, endpoint: &Endpoint, kv: &KeyValue) -> bool {
        self.everything
            || (self.may_match_key(endpoint, &kv.key)
                && self.may_match(&kv.value)
                && visible(endpoint, &kv.value).is_some_and(|object| self.matches(&object)))
    }
}
