//! What plugins have at hand of other objects: kept parsed, made ready when it changes and not when it is needed.

use std::sync::Arc;

use sampan_api::status::Status;
use sampan_store::{KeyValue, Revision};
use serde_json::Value;

use super::quota::{Tracked, Turns};
use crate::{call::text, core::Core, mirror::Mirror, storage::store_error};

/// What admission looks at.
pub(crate) struct State {
    namespaces: Arc<Mirror<Namespace>>,
    /// Which quotas there are, and what they are about.
    pub(crate) quotas: Arc<Mirror<Tracked>>,
    /// Whose turn it is to charge them.
    pub(crate) turns: Turns,
}

/// A namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// The revision of this state of it.
    pub(crate) revision: Revision,
    /// It is going away.
    pub(crate) terminating: bool,
    /// Its labels; an object, or `null`.
    pub(crate) labels: Value,
}

impl Namespace {
    fn parse(kv: &KeyValue) -> Option<Self> {
        let mut object: Value = serde_json::from_slice(&kv.value).ok()?;
        let terminating = !text(&object, "/metadata/deletionTimestamp").is_empty()
            || text(&object, "/status/phase") == "Terminating";
        let labels = object.pointer_mut("/metadata/labels").map(Value::take).unwrap_or_default();
        Some(Self { revision: kv.mod_revision, terminating, labels })
    }
}

impl State {
    /// Reads what there is and follows it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn open(core: &Core) -> Result<Self, Status> {
        Ok(Self {
            namespaces: mirror(core, "", "namespaces", Namespace::parse).await?,
            quotas: mirror(core, "", "resourcequotas", Tracked::parse).await?,
            turns: Turns::default(),
        })
    }
}

/// A mirror of a built-in resource that shows every write which this server has answered.
async fn mirror<T: Send + Sync + 'static>(
    core: &Core,
    group: &str,
    plural: &str,
    parse: impl Fn(&KeyValue) -> Option<T> + Send + Sync + 'static,
) -> Result<Arc<Mirror<T>>, Status> {
    let prefix = &core.endpoint(group, "v1", plural)?.prefix;
    let opened = Mirror::open(prefix, core.options.store.clone(), &core.supervisor, parse).await;
    let mirror = opened.map_err(|e| store_error(&e))?;
    core.written.register(&mirror);
    Ok(mirror)
}

impl Core {
    /// A namespace; `anew` looks into the store, for when what is kept was found to be behind.
    pub(crate) async fn namespace(&self, name: &str, anew: bool) -> Result<Option<Arc<Namespace>>, Status> {
        let endpoint = self.endpoint("", "v1", "namespaces")?;
        if let Some(state) = self.admission.get().filter(|_| !anew) {
            state.namespaces.settle().await;
            if let Some(found) = state.namespaces.get(&endpoint.key(None, name)) {
                return Ok(Some(found));
            }
        }
        // Another server may have made it a moment ago.
        Ok(self.fetch(&endpoint, None, name).await?.and_then(|kv| Namespace::parse(&kv)).map(Arc::new))
    }
}
