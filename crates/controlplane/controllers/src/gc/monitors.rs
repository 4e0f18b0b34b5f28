//! Where the graph hears of objects: from the caches that exist anyway, and for every other kind from a watch of
//! its metadata.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Error as WatchError, Event, watcher};
use kube::{Api, Resource};
use sampan_daemon::{Backoff, Policy, Supervisor, TaskHandle};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Garbage;
use super::graph::Identity;
use crate::cache::Caches;
use crate::discovery::Discovered;
use crate::error::code;
use crate::informer::{Change, Informer};

/// A served kind.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
}

/// All served kinds, by apiVersion and kind.
#[derive(Debug, Default)]
pub(super) struct Kinds(RwLock<State>);

/// How the graph hears of a resource.
#[derive(Debug)]
enum Monitor {
    /// A cache that is there anyway.
    Cache,
    /// A watch of its own, of this kind.
    Watch(TaskHandle, Names),
}

#[derive(Debug, Default)]
struct State {
    kinds: HashMap<(String, String), Kind>,
    /// By group and plural.
    monitors: HashMap<(String, String), Monitor>,
}

impl Kinds {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, api_version: &str, kind: &str) -> Option<Kind> {
        self.read().kinds.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    fn is_monitored(&self, resource: &ApiResource) -> bool {
        self.read().monitors.contains_key(&(resource.group.clone(), resource.plural.clone()))
    }

    fn monitor(&self, resource: &ApiResource, monitor: Monitor) {
        self.write().monitors.insert((resource.group.clone(), resource.plural.clone()), monitor);
    }

    /// Takes in what is served now; returns the watches of what is not served any more.
    fn replace(&self, found: &Discovered) -> Vec<(TaskHandle, Names)> {
        let mut state = self.write();
        // Of a group that does not answer, what was known stays.
        state.kinds.retain(|_, kind| found.is_unsure_of(&kind.resource.group));
        for served in &found.served {
            let resource = served.resource.clone();
            let kind = Kind { resource: resource.clone(), namespaced: served.namespaced };
            state.kinds.insert((resource.api_version, resource.kind), kind);
        }
        let served: HashSet<(&str, &str)> =
            found.served.iter().map(|s| (s.resource.group.as_str(), s.resource.plural.as_str())).collect();
        let gone = state.monitors.iter().filter(|((group, plural), monitor)| {
            let watched = matches!(monitor, Monitor::Watch(..));
            watched && !served.contains(&(group.as_str(), plural.as_str())) && !found.is_unsure_of(group)
        });
        let gone: Vec<(String, String)> = gone.map(|(key, _)| key.clone()).collect();
        let ended = gone.into_iter().filter_map(|key| match state.monitors.remove(&key)? {
            Monitor::Watch(task, names) => Some((task, names)),
            Monitor::Cache => None,
        });
        ended.collect()
    }
}

/// Kinds whose objects come and go by themselves and own nothing.
fn is_ignored(resource: &ApiResource) -> bool {
    resource.kind == "Event"
}

/// Listens to the caches that are there anyway.
pub(super) fn listen(garbage: &Arc<Garbage>, caches: &Caches) {
    listen_to(garbage, &caches.pods);
    listen_to(garbage, &caches.nodes);
    // With thousands of nodes the busiest of all kinds: a watch more would be felt.
    listen_to(garbage, &caches.leases);
    listen_to(garbage, &caches.namespaces);
    listen_to(garbage, &caches.services);
    listen_to(garbage, &caches.slices);
    listen_to(garbage, &caches.endpoints);
    listen_to(garbage, &caches.accounts);
    listen_to(garbage, &caches.replica_sets);
    listen_to(garbage, &caches.deployments);
    listen_to(garbage, &caches.stateful_sets);
    listen_to(garbage, &caches.daemon_sets);
    listen_to(garbage, &caches.revisions);
    listen_to(garbage, &caches.jobs);
    listen_to(garbage, &caches.cron_jobs);
    listen_to(garbage, &caches.replication_controllers);
    listen_to(garbage, &caches.budgets);
    listen_to(garbage, &caches.autoscalers);
    listen_to(garbage, &caches.certificate_requests);
    listen_to(garbage, &caches.cluster_roles);
    listen_to(garbage, &caches.quotas);
    listen_to(garbage, &caches.claims);
    listen_to(garbage, &caches.volumes);
    listen_to(garbage, &caches.classes);
    listen_to(garbage, &caches.csi_nodes);
    listen_to(garbage, &caches.pod_groups);
}

fn listen_to<K>(garbage: &Arc<Garbage>, cache: &Informer<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let resource = ApiResource::erase::<K>(&());
    garbage.kinds.monitor(&resource, Monitor::Cache);
    let names = Names::new(&resource);
    let garbage = garbage.clone();
    cache.on(move |change| {
        let object = change.object();
        match change {
            Change::Deleted(_) => garbage.deleted(object.meta()),
            Change::Updated { old, new } if same_for_graph(old.meta(), new.meta()) => {
                garbage.graph().renewed(new.meta());
            }
            _ => garbage.observe(&names, object.meta()),
        }
    });
}

/// Most changes concern nobody's owners.
fn same_for_graph(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    a.owner_references == b.owner_references
        && a.finalizers == b.finalizers
        && a.deletion_timestamp.is_some() == b.deletion_timestamp.is_some()
}

/// The shared names of a kind.
#[derive(Debug, Clone)]
struct Names {
    api_version: Arc<str>,
    kind: Arc<str>,
}

impl Names {
    fn new(resource: &ApiResource) -> Self {
        Self { api_version: resource.api_version.as_str().into(), kind: resource.kind.as_str().into() }
    }
}

impl Garbage {
    fn observe(&self, names: &Names, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref() else { return };
        let id = Identity {
            api_version: names.api_version.clone(),
            kind: names.kind.clone(),
            namespace: meta.namespace.as_deref().map(Into::into),
            name: meta.name.as_deref().unwrap_or_default().into(),
            uid: uid.into(),
        };
        let work = self.graph().observe(id, meta);
        self.enqueue(work);
    }

    fn deleted(&self, meta: &ObjectMeta) {
        self.gone(meta.uid.as_deref().unwrap_or_default());
        if let Some(namespace) = meta.namespace.as_deref() {
            (self.freed)(namespace);
        }
    }

    fn gone(&self, uid: &str) {
        let work = self.graph().gone(uid);
        self.enqueue(work);
    }
}

/// Starts a watch for every served kind that is not monitored yet, and waits until each has listed its objects.
pub(super) async fn watch(garbage: &Arc<Garbage>, supervisor: &Supervisor) {
    let (changed, mut changes) = watch::channel(());
    let mut synced = discover(garbage, supervisor, &changed).await;
    join_all(synced.drain(..).map(until_true)).await;
    let garbage = garbage.clone();
    let inner = supervisor.clone();
    supervisor.spawn("gc-kinds", async move {
        // A definition of a kind came or changed: its objects are to be watched as well.
        while changes.changed().await.is_ok() {
            discover(&garbage, &inner, &changed).await;
        }
    });
}

async fn until_true(mut flag: watch::Receiver<bool>) {
    // A watch that ends before its first list is started again by its supervisor; there is nothing to wait for.
    let _ = flag.wait_for(|synced| *synced).await;
}

async fn discover(
    garbage: &Arc<Garbage>,
    supervisor: &Supervisor,
    changed: &watch::Sender<()>,
) -> Vec<watch::Receiver<bool>> {
    let mut backoff = Backoff::default();
    let found = loop {
        match Discovered::ask(&garbage.client).await {
            Ok(found) => break found,
            Err(error) => {
                tracing::warn!("the served kinds are not known yet, will ask again: {error}");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    };
    for (task, names) in garbage.kinds.replace(&found) {
        task.abort();
        // With their kind all of its objects are gone, whether or not the watch came to tell.
        let known = garbage.graph().of_kind(&names.api_version, &names.kind);
        known.iter().for_each(|uid| garbage.gone(uid));
    }
    let mut flags = Vec::new();
    for served in found.served.into_iter().filter(|served| served.preferred) {
        let wanted = ["list", "watch", "delete"].iter().all(|verb| served.can(verb));
        if wanted && !is_ignored(&served.resource) && !garbage.kinds.is_monitored(&served.resource) {
            flags.push(follow(garbage, supervisor, served.resource, changed.clone()));
        }
    }
    flags
}

/// Whether the API says that there is no such resource.
fn is_not_served(error: &WatchError) -> bool {
    let (WatchError::InitialListFailed(source)
    | WatchError::WatchStartFailed(source)
    | WatchError::WatchFailed(source)) = error
    else {
        return false;
    };
    code(source) == 404
}

fn follow(
    garbage: &Arc<Garbage>,
    supervisor: &Supervisor,
    resource: ApiResource,
    changed: watch::Sender<()>,
) -> watch::Receiver<bool> {
    let (synced, flag) = watch::channel(false);
    let synced = Arc::new(synced);
    let (kinds, names, own) = (garbage.clone(), Names::new(&resource), resource.clone());
    let garbage = garbage.clone();
    let name = format!("gc-{}", resource.plural);
    let task = supervisor.supervise(name, Policy::Restart(Backoff::default()), move || {
        let (garbage, resource, synced, changed) =
            (garbage.clone(), resource.clone(), synced.clone(), changed.clone());
        async move {
            monitor(&garbage, &resource, &synced, &changed).await;
            Err("the watch ended")
        }
    });
    kinds.kinds.monitor(&own, Monitor::Watch(task, names));
    flag
}

async fn monitor(
    garbage: &Garbage,
    resource: &ApiResource,
    synced: &watch::Sender<bool>,
    changed: &watch::Sender<()>,
) {
    let names = Names::new(resource);
    // Others of these may be served, or no longer.
    let defines = matches!(resource.kind.as_str(), "CustomResourceDefinition" | "APIService");
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(garbage.client.clone(), resource);
    let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
    let mut listed: HashSet<String> = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.extend(object.metadata.uid.clone());
                garbage.observe(&names, &object.metadata);
            }
            Ok(Event::InitDone) => {
                let known = garbage.graph().of_kind(&names.api_version, &names.kind);
                known.iter().filter(|uid| !listed.contains(&***uid)).for_each(|uid| garbage.gone(uid));
                listed = HashSet::new();
                synced.send_replace(true);
            }
            Ok(Event::Apply(object)) => {
                garbage.observe(&names, &object.metadata);
                if defines {
                    changed.send_replace(());
                }
            }
            Ok(Event::Delete(object)) => {
                garbage.deleted(&object.metadata);
                if defines {
                    changed.send_replace(());
                }
            }
            Err(error) => {
                tracing::debug!(kind = resource.kind, "watch will be repeated: {error}");
                if is_not_served(&error) {
                    changed.send_replace(());
                }
            }
        }
    }
}
