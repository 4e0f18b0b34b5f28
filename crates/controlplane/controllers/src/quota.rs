//! Resource quotas: what a namespace's objects use, counted anew when objects end or a quota changes.
//!
//! The API server charges a quota in the transaction that stores an object; what is given back is found here, by counting.
//! The quota is read before the objects are, and written with the version that was read: an object that was charged
//! meanwhile changed that version, so that a count which lacks it is refused and done again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use kube::Client;
use kube::api::PostParams;
use sampan_api::quantity::Quantity;
use sampan_api::quota::{self, Amounts, Scopes};
use sampan_api::{kinds, kinds::Resource};
use sampan_daemon::clock;
use serde_json::Value;

use crate::apis;
use crate::cache::Caches;
use crate::error::{Context, Result, code};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// Every quota is counted anew after this long, whatever was heard.
const RESYNC: Duration = Duration::from_secs(300);

/// Kinds that use names of their own, besides `count/…`.
const KINDS: [&str; 7] = [
    "pods",
    "services",
    "persistentvolumeclaims",
    "configmaps",
    "secrets",
    "replicationcontrollers",
    "resourcequotas",
];

/// The controller.
pub(crate) struct Quotas {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Key>,
}

impl Quotas {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new() });
        let own = this.clone();
        this.caches.quotas.on(move |change| own.quota_changed(change));
        let own = this.clone();
        this.caches.pods.on(move |change| {
            if ends(change) {
                own.freed_in(change.object().metadata.namespace.as_deref().unwrap_or_default());
            }
        });
        let own = this.clone();
        this.caches.services.on(move |change| {
            if is_smaller(change) {
                own.freed_in(change.object().metadata.namespace.as_deref().unwrap_or_default());
            }
        });
        this
    }

    /// Something in the namespace ended: its quotas are counted anew.
    pub fn freed_in(&self, namespace: &str) {
        for quota in self.caches.quotas.in_namespace(namespace) {
            self.queue.add(Key::of(&quota.metadata));
        }
    }

    fn quota_changed(&self, change: &Change<'_, ResourceQuota>) {
        let (object, key) = (change.object(), Key::of(&change.object().metadata));
        match change {
            Change::Added(_) => self.queue.add(key),
            // What the API server charges is not to be counted.
            Change::Updated { old, .. } if old.spec != object.spec => self.queue.add(key),
            Change::Updated { old, new } => {
                let hard = |quota: &ResourceQuota| quota.status.as_ref().and_then(|s| s.hard.clone());
                if hard(old) != hard(new) {
                    self.queue.add(key);
                }
            }
            Change::Deleted(_) => {}
        }
    }

    /// What objects of a kind use of the names.
    async fn used(&self, of: &Kind, namespace: &str, scopes: &Scopes) -> Result<Option<Amounts>> {
        let Some(items) = self.list(of, namespace).await? else { return Ok(None) };
        let now = clock::now().as_second();
        let mut sum = Amounts::new();
        match of.resource {
            Some(resource) => {
                for object in items.iter().filter(|object| scopes.hold(resource, object)) {
                    quota::add(&mut sum, &quota::usage(resource, object, now));
                }
            }
            None if scopes.is_empty() => {
                let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
                sum.insert(of.count_name(), Quantity::from_units(count));
            }
            None => {}
        }
        Ok(Some(sum))
    }

    /// The objects as they are now; none when the kind is not served.
    async fn list(&self, of: &Kind, namespace: &str) -> Result<Option<Vec<Value>>> {
        let what = || format!("counting {} of namespace {namespace}", of.plural);
        let root = if of.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            let Some(group) = self.get(&format!("/apis/{}", of.group)).await.during(what)? else {
                return Ok(None);
            };
            let version = group.pointer("/preferredVersion/groupVersion").and_then(Value::as_str);
            let Some(version) = version else { return Ok(None) };
            format!("/apis/{version}")
        };
        let path = format!("{root}/namespaces/{namespace}/{}", of.plural);
        let list = self.get(&path).await.during(what)?;
        Ok(list.map(|mut list| match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        }))
    }

    async fn get(&self, path: &str) -> Result<Option<Value>, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.client.request::<Value>(request).await {
            Err(error) if code(&error) == 404 => Ok(None),
            other => other.map(Some),
        }
    }
}

/// A kind that a quota counts; `resource` is known of built-in ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    group: String,
    plural: String,
}

struct Kind {
    group: String,
    plural: String,
    resource: Option<&'static Resource>,
}

impl Kind {
    fn of(name: Name) -> Self {
        let served = |r: &&Resource| r.group == name.group && r.plural == name.plural;
        let resource = kinds::resources().iter().find(served);
        Self { group: name.group, plural: name.plural, resource }
    }

    fn count_name(&self) -> String {
        match self.group.as_str() {
            "" => format!("count/{}", self.plural),
            group => format!("count/{}.{group}", self.plural),
        }
    }

    fn tracks(&self, name: &str) -> bool {
        name == self.count_name() || self.resource.is_some_and(|resource| quota::tracks(resource, name))
    }
}

/// The kinds that use any of the names.
fn kinds_of<'a>(names: impl Iterator<Item = &'a String>) -> Vec<Kind> {
    let mut found = BTreeSet::new();
    for name in names {
        if let Some(counted) = name.strip_prefix("count/") {
            let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
            found.insert(Name { group: group.to_owned(), plural: plural.to_owned() });
            continue;
        }
        let uses = |plural: &&str| {
            kinds::by_path("", "v1", plural).is_some_and(|resource| quota::tracks(resource, name))
        };
        for plural in KINDS.iter().filter(|plural| uses(plural)) {
            found.insert(Name { group: String::new(), plural: (*plural).to_owned() });
        }
    }
    found.into_iter().map(Kind::of).collect()
}

/// Whether a pod is gone, or will do nothing any more.
fn ends(change: &Change<'_, Pod>) -> bool {
    let finished = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    match change {
        Change::Deleted(_) => true,
        Change::Updated { old, new } => {
            let spec_changed = old.metadata.generation != new.metadata.generation;
            (finished(new) && !finished(old)) || spec_changed
        }
        Change::Added(_) => false,
    }
}

/// Whether a Service is gone, or may have given ports back.
fn is_smaller(change: &Change<'_, Service>) -> bool {
    match change {
        Change::Deleted(_) => true,
        Change::Updated { old, new } => {
            let shape = |service: &Service| {
                let spec = service.spec.as_ref();
                let ports = spec.and_then(|spec| spec.ports.as_ref()).map_or(0, Vec::len);
                (spec.and_then(|spec| spec.type_.clone()), ports)
            };
            shape(old) != shape(new)
        }
        Change::Added(_) => false,
    }
}

impl Reconciler for Quotas {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let api = apis::namespaced::<ResourceQuota>(&self.client, &key.namespace);
        // First the quota, then what it counts: see above.
        let Some(mut quota) = api.get_opt(&key.name).await.during(|| format!("reading quota {key}"))? else {
            return Ok(None);
        };
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let whole = serde_json::to_value(&quota).unwrap_or_default();
        let scopes = Scopes::of(&whole);
        let mut used = Amounts::new();
        for kind in kinds_of(hard.keys()) {
            let Some(sum) = self.used(&kind, &key.namespace, &scopes).await? else { continue };
            for name in hard.keys().filter(|name| kind.tracks(name)) {
                let amount = sum.get(name).copied().unwrap_or(Quantity::ZERO);
                used.entry(name.clone()).and_modify(|at| *at += amount).or_insert(amount);
            }
        }
        let before = quota::amounts(whole.pointer("/status/used"));
        let status = quota.status.get_or_insert_default();
        if status.hard.as_ref() == Some(&hard) && before == used && status.used.is_some() {
            return Ok(Some(RESYNC));
        }
        status.hard = Some(hard);
        status.used = Some(used.into_iter().map(|(name, amount)| (name, Wire(amount.canonical()))).collect());
        let written: Result<ResourceQuota, _> =
            api.replace_status(&key.name, &PostParams::default(), &quota).await;
        written.during(|| format!("writing the status of quota {key}"))?;
        Ok(Some(RESYNC))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_kinds() {
        let names: Vec<String> = ["requests.cpu", "count/widgets.example.com", "services.nodeports", "pods"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        let found: Vec<String> = kinds_of(names.iter()).iter().map(Kind::count_name).collect();
        assert_eq!(found, ["count/pods", "count/services", "count/widgets.example.com"]);
    }
}
