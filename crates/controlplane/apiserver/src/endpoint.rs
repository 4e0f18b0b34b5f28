//! The resources that are served, with what each needs at hand: its keys, the head of its stored bytes, its cache, and
//! what its kind does with an object on its way in and out.

mod behaviour;
mod documents;
mod registry;

use std::sync::{Arc, OnceLock, atomic::AtomicUsize};

use bytes::Bytes;
use sampan_api::{custom, kinds::Resource};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Cache,
    custom::{Origin, Rules},
    managers::Fields,
    negotiate::Asked,
    protobuf,
};

pub(crate) use self::registry::{Endpoints, RemoteVersion, Served};

/// One served resource.
pub(crate) struct Endpoint {
    pub(crate) resource: &'static Resource,
    /// The resource whose form stored objects have: itself for nearly all.
    pub(crate) stored: &'static Resource,
    /// What a CustomResourceDefinition says of this kind; none for built-in ones.
    pub(crate) custom: Option<Arc<custom::Kind>>,
    /// The definition behind a custom kind.
    pub(crate) origin: Option<Origin>,
    /// The rules of its schema.
    pub(crate) rules: Option<Rules>,
    /// The bytes that every stored object of this kind begins with, up to the inside of `metadata`.
    pub(crate) head: String,
    /// `apiVersion` of the objects that are shown.
    pub(crate) api_version: String,
    /// The kind of a list of them.
    pub(crate) list_kind: String,
    /// How they lie in protobuf.
    pub(crate) message: Option<protobuf::Message>,
    /// All keys of this resource begin with this.
    pub(crate) prefix: String,
    /// Opened by the first watch.
    pub(crate) cache: OnceCell<Arc<Cache>>,
    /// How many objects the last list of all of them had: what the next one will cost.
    pub(crate) listed: AtomicUsize,
    /// What managed fields have to know of the kind; made by the first write.
    pub(crate) fields: OnceLock<Fields>,
    /// Cancelled when the definition changed or went: watches end, and clients come back to what is served then.
    pub(crate) retired: CancellationToken,
}

impl Endpoint {
    fn new(resource: &'static Resource) -> Self {
        let stored = resource.stored_as().unwrap_or(resource);
        let group = if stored.group.is_empty() { "core" } else { stored.group };
        Self {
            resource,
            stored,
            custom: None,
            origin: None,
            rules: None,
            head: head(stored),
            api_version: resource.api_version(),
            list_kind: resource.list_kind(),
            message: protobuf::Message::find(&resource.api_version(), resource.kind),
            prefix: format!("/registry/{group}/{}/", stored.plural),
            cache: OnceCell::new(),
            listed: AtomicUsize::new(0),
            fields: OnceLock::new(),
            retired: CancellationToken::new(),
        }
    }

    /// A version of a custom kind.
    pub(crate) fn of_custom(kind: Arc<custom::Kind>, origin: Origin) -> Self {
        let resource = kind.resource();
        let rules = Rules::compile(kind.published());
        Self { custom: Some(kind), origin: Some(origin), rules, message: None, ..Self::new(resource) }
    }

    /// In which forms the objects can be had.
    pub(crate) fn asked(&self) -> Asked {
        if self.message.is_some() { Asked::Object } else { Asked::Custom }
    }

    /// Stored objects have another form than this resource shows.
    pub(crate) fn foreign(&self) -> bool {
        !std::ptr::eq(self.resource, self.stored)
    }

    /// The key of one object.
    pub(crate) fn key(&self, namespace: Option<&str>, name: &str) -> Bytes {
        match namespace {
            Some(namespace) if self.resource.namespaced => {
                format!("{}{namespace}/{name}", self.prefix).into()
            }
            _ => format!("{}{name}", self.prefix).into(),
        }
    }

    /// What the keys of a list begin with.
    pub(crate) fn scope(&self, namespace: Option<&str>) -> Bytes {
        match namespace {
            Some(namespace) if self.resource.namespaced => format!("{}{namespace}/", self.prefix).into(),
            _ => self.prefix.clone().into(),
        }
    }

    /// Namespace and name, read back from a key.
    pub(crate) fn names<'a>(&self, key: &'a [u8]) -> (Option<&'a str>, &'a str) {
        let rest =
            key.get(self.prefix.len()..).and_then(|rest| std::str::from_utf8(rest).ok()).unwrap_or_default();
        match rest.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, rest),
        }
    }
}

/// What the stored bytes of a kind begin with.
pub(crate) fn head(stored: &Resource) -> String {
    format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{{", stored.api_version(), stored.kind)
}
