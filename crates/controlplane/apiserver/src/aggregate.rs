//! API aggregation: groups and versions that another server has. An APIService says where it is; requests are passed on
//! to it with the user's identity, once it was seen to answer.

mod extension;
mod locals;
mod proxy;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use sampan_api::status::Status;
use sampan_daemon::{Backoff, Policy};
use sampan_store::{Compare, KeyValue, Op, Revision, Txn, TxnResponse};
use serde_json::{Value, json};

use self::extension::Verdict;
pub(crate) use self::{
    extension::Extension,
    proxy::{Passed, pass},
};
use crate::{call::text, core::Core, encode, endpoint::RemoteVersion, mirror::Mirror, storage::store_error};

const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";

/// An extension server that answered is asked again after so long.
const RECHECK: Duration = Duration::from_secs(30);
/// One that did not is asked again sooner.
const RETRY: Duration = Duration::from_secs(2);

/// The extension servers there are, by group and version.
#[derive(Default)]
pub(crate) struct Aggregated(RwLock<Arc<HashMap<String, Arc<Extension>>>>);

impl Aggregated {
    /// The server of a group and version, when that is not this one.
    pub(crate) fn get(&self, group: &str, version: &str) -> Option<Arc<Extension>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if table.is_empty() { None } else { table.get(&format!("{version}.{group}")).cloned() }
    }

    fn set(&self, table: HashMap<String, Arc<Extension>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// An APIService as it lies in the store.
pub(super) struct Stored {
    revision: Revision,
    value: Bytes,
}

/// Follows the APIServices, and keeps those of what is served here.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn start(core: &Arc<Core>) -> Result<(), Status> {
    let prefix = core.endpoint(GROUP, "v1", PLURAL)?.prefix.clone();
    let parse = |kv: &KeyValue| Some(Stored { revision: kv.mod_revision, value: kv.value.clone() });
    let mirror = Mirror::open(&prefix, core.options.store.clone(), &core.supervisor, parse).await;
    let mirror = mirror.map_err(|e| store_error(&e))?;
    let mut own = Vec::new();
    core.usage.publish(&mut own);
    core.endpoints.set_remote(own);
    locals::start(core, &mirror).await?;
    let core = core.clone();
    let policy = Policy::Restart(Backoff::new(Duration::from_millis(100), Duration::from_secs(10)));
    let supervisor = core.supervisor.clone();
    supervisor.supervise("aggregator", policy, move || {
        let (core, mirror) = (core.clone(), mirror.clone());
        async move { follow(&core, &mirror).await }
    });
    Ok(())
}

async fn follow(core: &Arc<Core>, mirror: &Mirror<Stored>) -> Result<(), Status> {
    let mut changes = mirror.changes();
    let mut known: HashMap<String, (Value, Arc<Extension>)> = HashMap::new();
    loop {
        changes.borrow_and_update();
        let mut next = HashMap::new();
        for stored in mirror.objects().values() {
            let Ok(object) = serde_json::from_slice::<Value>(&stored.value) else { continue };
            if !object["spec"]["service"].is_object() {
                continue;
            }
            let name = text(&object, "/metadata/name").to_owned();
            let spec = object["spec"].clone();
            let extension = match known.remove(&name).filter(|(before, _)| *before == spec) {
                Some((_, extension)) => extension,
                None => Arc::new(Extension::new(&object, core.options.front_proxy.as_ref())),
            };
            next.insert(name, (spec, extension));
        }
        known = next;
        core.aggregated.set(known.iter().map(|(name, (_, e))| (name.clone(), e.clone())).collect());
        check(core, known.values().map(|(_, extension)| extension)).await?;
        if known.is_empty() {
            if changes.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        // An extension server has no way to tell that it went: it is asked.
        let all = known.values().all(|(_, extension)| extension.is_available());
        let wait = if all { RECHECK } else { RETRY };
        if let Ok(Err(_)) = tokio::time::timeout(wait, changes.changed()).await {
            return Ok(());
        }
    }
}

/// Asks every extension server, says what came of it, and publishes what they serve.
async fn check(core: &Arc<Core>, extensions: impl Iterator<Item = &Arc<Extension>>) -> Result<(), Status> {
    let extensions: Vec<&Arc<Extension>> = extensions.collect();
    let verdicts = join_all(extensions.iter().map(|extension| extension.check(core))).await;
    let mut remote = Vec::new();
    for (extension, verdict) in extensions.iter().zip(&verdicts) {
        core.judge(&extension.name, verdict).await?;
        remote.push(RemoteVersion {
            group: extension.group.clone(),
            version: extension.version.clone(),
            priority: extension.priority,
            resources: extension.resources(),
            fresh: verdict.available,
        });
    }
    core.usage.publish(&mut remote);
    remote.sort_by(|a, b| {
        (&a.group, b.priority)
            .cmp(&(&b.group, a.priority))
            .then_with(|| sampan_api::kinds::compare_versions(&a.version, &b.version))
    });
    core.endpoints.set_remote(remote);
    Ok(())
}

impl Core {
    /// Writes the condition of an APIService, when it says something else.
    async fn judge(&self, name: &str, verdict: &Verdict) -> Result<(), Status> {
        let endpoint = self.endpoint(GROUP, "v1", PLURAL)?;
        loop {
            let Some(kv) = self.fetch(&endpoint, None, name).await? else { return Ok(()) };
            let found = encode::parse(&endpoint, &kv.value, kv.mod_revision)?;
            let mut new = found.clone();
            condition(&mut new, verdict);
            if new == found {
                return Ok(());
            }
            let value = encode::canonical(&endpoint, &new)?;
            let ops = vec![Op::Put { key: kv.key.clone(), value, lease: kv.lease }];
            let compare = vec![Compare::ModRevision(kv.key, kv.mod_revision)];
            if let TxnResponse::Committed(_) = self.commit(Txn { compare, ops }).await? {
                return Ok(());
            }
        }
    }
}

/// Sets `Available`.
fn condition(object: &mut Value, verdict: &Verdict) {
    let status = if verdict.available { "True" } else { "False" };
    let list = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (mine, mut others): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|c| c["type"] == "Available");
    let since = mine.first().filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let now = || sampan_daemon::clock::rfc3339(sampan_daemon::clock::now()).into();
    others.push(json!({
        "type": "Available",
        "status": status,
        "lastTransitionTime": since.unwrap_or_else(now),
        "reason": verdict.reason,
        "message": verdict.message,
    }));
    object["status"] = json!({ "conditions": others });
}
