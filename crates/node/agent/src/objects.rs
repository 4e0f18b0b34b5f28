//! ConfigMaps and Secrets that pods refer to: each is watched once, for as long as a pod refers to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use sampan_daemon::{Supervisor, TaskHandle};
use tokio::sync::watch;

use crate::pod::env::Objects;
use crate::pod::spec;

/// What is referred to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A ConfigMap by namespace and name.
    ConfigMap(String, String),
    /// A Secret by namespace and name.
    Secret(String, String),
}

/// What is known of an object.
#[derive(Clone, Debug, Default)]
pub enum Seen {
    /// Not looked up yet.
    #[default]
    Unknown,
    /// It does not exist.
    Missing,
    /// A ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// A Secret.
    Secret(Arc<Secret>),
}

/// Watches objects on behalf of pods. Cheap to clone.
#[derive(Clone)]
pub struct ObjectCache {
    client: Client,
    supervisor: Supervisor,
    entries: Arc<Mutex<HashMap<Key, Weak<Entry>>>>,
}

struct Entry {
    state: watch::Receiver<Seen>,
    task: TaskHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ObjectCache {
    /// A cache that watches through `client`.
    #[must_use]
    pub fn new(client: Client, supervisor: Supervisor) -> Self {
        Self { client, supervisor, entries: Arc::default() }
    }

    /// Hold what a pod refers to. What was held before and is still wanted keeps its watch.
    #[must_use]
    pub fn hold(&self, pod: &Pod) -> References {
        let mut held = BTreeMap::new();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| entry.strong_count() > 0);
        for key in keys(pod) {
            let entry = entries.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                let entry = Arc::new(self.watch(&key));
                entries.insert(key.clone(), Arc::downgrade(&entry));
                entry
            });
            // A clone remembers what the original saw, which is nothing: without this it reports a change at once.
            let mut state = entry.state.clone();
            state.mark_unchanged();
            held.insert(key, (entry, state));
        }
        References { namespace: spec::namespace(pod).to_owned(), held }
    }

    fn watch(&self, key: &Key) -> Entry {
        let (sender, state) = watch::channel(Seen::Unknown);
        let client = self.client.clone();
        let task = match key.clone() {
            Key::ConfigMap(namespace, name) => {
                let api = Api::<ConfigMap>::namespaced(client, &namespace);
                let run = follow(api, name, sender, |object| Seen::ConfigMap(Arc::new(object)));
                self.supervisor.spawn("watch-configmap", run)
            }
            Key::Secret(namespace, name) => {
                let api = Api::<Secret>::namespaced(client, &namespace);
                let run = follow(api, name, sender, |object| Seen::Secret(Arc::new(object)));
                self.supervisor.spawn("watch-secret", run)
            }
        };
        Entry { state, task }
    }
}

async fn follow<K>(api: Api<K>, name: String, sender: watch::Sender<Seen>, wrap: impl Fn(K) -> Seen)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = false;
    while let Some(event) = events.next().await {
        let seen = match event {
            Ok(watcher::Event::Init) => {
                listed = false;
                continue;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                listed = true;
                wrap(object)
            }
            Ok(watcher::Event::InitDone) if !listed => Seen::Missing,
            Ok(watcher::Event::Delete(_)) => Seen::Missing,
            Ok(watcher::Event::InitDone) => continue,
            Err(error) => {
                tracing::debug!(%error, %name, "watch of a referenced object");
                continue;
            }
        };
        sender.send_replace(seen);
    }
}

/// What one pod refers to. Dropping it ends watches that nobody else needs.
pub struct References {
    namespace: String,
    held: BTreeMap<Key, (Arc<Entry>, watch::Receiver<Seen>)>,
}

impl References {
    /// Wait until every object is known to exist or not, and look at them.
    pub fn settled(&self) -> impl Future<Output = Snapshot> + Send + 'static {
        let namespace = self.namespace.clone();
        let states: Vec<_> = self.held.iter().map(|(key, (_, state))| (key.clone(), state.clone())).collect();
        async move {
            let mut objects = BTreeMap::new();
            for (key, mut state) in states {
                // An ended watch leaves the state as it is; the agent is stopping then.
                let _ = state.wait_for(|seen| !matches!(seen, Seen::Unknown)).await;
                let seen = state.borrow().clone();
                objects.insert(key, seen);
            }
            Snapshot { namespace, objects }
        }
    }

    /// Wait until any object changes after the last call.
    pub async fn changed(&mut self) {
        let waits = self.held.values_mut().map(|(_, state)| Box::pin(state.changed()));
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        if futures::future::select_all(waits).await.0.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A consistent look at referenced objects.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    namespace: String,
    objects: BTreeMap<Key, Seen>,
}

impl Objects for Snapshot {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        match self.objects.get(&Key::ConfigMap(self.namespace.clone(), name.to_owned()))? {
            Seen::ConfigMap(object) => Some(object),
            _ => None,
        }
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        match self.objects.get(&Key::Secret(self.namespace.clone(), name.to_owned()))? {
            Seen::Secret(object) => Some(object),
            _ => None,
        }
    }
}

/// Everything that a pod refers to.
fn keys(pod: &Pod) -> BTreeSet<Key> {
    let namespace = spec::namespace(pod);
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let ephemerals: Vec<_> = spec::ephemerals(spec).collect();
    for container in spec::containers(spec).map(|(_, container)| container).chain(&ephemerals) {
        for source in container.env_from.iter().flatten() {
            maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.iter().map(|selector| selector.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|selector| selector.name.clone()));
        }
    }
    spec.volumes.iter().flatten().for_each(|volume| volume_keys(volume, &mut maps, &mut secrets));
    secrets.extend(spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()));
    let maps = maps.into_iter().map(|name| Key::ConfigMap(namespace.to_owned(), name));
    maps.chain(secrets.into_iter().map(|name| Key::Secret(namespace.to_owned(), name))).collect()
}

fn volume_keys(volume: &Volume, maps: &mut BTreeSet<String>, secrets: &mut BTreeSet<String>) {
    maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
    secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        maps.extend(source.config_map.iter().map(|projection| projection.name.clone()));
        secrets.extend(source.secret.iter().map(|projection| projection.name.clone()));
    }
}
