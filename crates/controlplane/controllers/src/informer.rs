//! One kind of object, kept in memory: a watch fills it, handlers hear of each change, indexes find objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::whole::Whole;

/// Namespace and name; the namespace is empty for cluster wide objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A change that the watch told of.
pub(crate) enum Change<'a, K> {
    Added(&'a Arc<K>),
    Updated { old: &'a Arc<K>, new: &'a Arc<K> },
    Deleted(&'a Arc<K>),
}

impl<K> Change<'_, K> {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) => object,
            Self::Updated { new, .. } => new,
        }
    }

    /// The object as it was before, when there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(_) => None,
            Self::Deleted(object) => Some(object),
            Self::Updated { old, .. } => Some(old),
        }
    }
}

/// What the cache keeps of an object, and under which names it finds it.
pub(crate) struct Rules<K> {
    /// Cuts away what nobody here reads.
    pub slim: fn(&mut K),
    /// The index entries of an object.
    pub index: fn(&K) -> Vec<String>,
}

impl<K> Rules<K> {
    /// Keeps everything and indexes nothing beyond the namespace.
    pub const PLAIN: Self = Self { slim: |_| {}, index: |_| Vec::new() };
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// How objects are kept that were not heard of for a while.
struct Packing<K> {
    pack: fn(&K) -> Option<Box<str>>,
    unpack: fn(&str) -> Option<K>,
    /// So many of those heard of last are kept as they are.
    whole: usize,
}

/// The cache of one kind.
pub(crate) struct Informer<K> {
    rules: Rules<K>,
    packing: Option<Packing<K>>,
    state: RwLock<State<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// Each key is kept once, shared by the objects and their index entries.
struct State<K> {
    objects: HashMap<Arc<Key>, Kept<K>>,
    index: HashMap<String, BTreeSet<Arc<Key>>>,
    /// What is kept whole, by the point at which it was heard of last; empty where nothing is packed.
    whole: BTreeMap<u64, Arc<Key>>,
    heard: u64,
    /// Labels of packed objects: many have the same.
    labels: HashSet<Arc<Labels>>,
}

/// So many different labels of packed objects are known again.
const LABELS: usize = 4096;

/// An object in the cache.
enum Kept<K> {
    /// As it is, heard of at that point.
    Whole(Arc<K>, u64),
    /// Its JSON: a fifth of the memory, read again when somebody asks for it; and its labels, by which most are passed over.
    Packed(Box<str>, Option<Arc<Labels>>),
}

pub(crate) type Labels = BTreeMap<String, String>;

impl<K: Resource> Kept<K> {
    fn labels(&self) -> Option<&Labels> {
        match self {
            Self::Whole(object, _) => object.meta().labels.as_ref(),
            Self::Packed(_, labels) => labels.as_deref(),
        }
    }
}

impl<K> Kept<K> {
    fn get(&self, packing: Option<&Packing<K>>) -> Option<Arc<K>> {
        match self {
            Self::Whole(object, _) => Some(object.clone()),
            Self::Packed(text, _) => (packing?.unpack)(text).map(Arc::new),
        }
    }
}

impl<K> Informer<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    pub fn new(rules: Rules<K>) -> Self {
        let (objects, index) = (HashMap::new(), HashMap::new());
        let state = State { objects, index, whole: BTreeMap::new(), heard: 0, labels: HashSet::new() };
        Self {
            rules,
            packing: None,
            state: RwLock::new(state),
            handlers: RwLock::new(Vec::new()),
            synced: watch::Sender::new(false),
        }
    }

    /// Keeps only so many objects as they are, those heard of last, and of the others their JSON.
    pub fn packing(mut self, whole: usize) -> Self
    where
        K: Serialize,
    {
        self.packing = Some(Packing {
            pack: |object| serde_json::to_string(object).ok().map(String::into_boxed_str),
            unpack: |text| serde_json::from_str(text).ok(),
            whole,
        });
        self
    }

    /// Calls the handler on each change from now on. It runs on the task of the watch: it must be quick.
    pub fn on(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key)?.get(self.packing.as_ref())
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().filter_map(|kept| kept.get(self.packing.as_ref())).collect()
    }

    /// The objects under an index entry, in the order of their keys.
    pub fn indexed(&self, entry: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let keys = state.index.get(entry);
        let objects = keys.into_iter().flatten().filter_map(|key| state.objects.get(key));
        objects.filter_map(|kept| kept.get(self.packing.as_ref())).collect()
    }

    /// The objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.indexed(&of_namespace(namespace))
    }

    /// The objects under an index entry whose labels are such ones.
    pub fn selected(&self, entry: &str, selects: impl Fn(Option<&Labels>) -> bool) -> Vec<Arc<K>> {
        let state = self.read();
        let keys = state.index.get(entry);
        let objects = keys.into_iter().flatten().filter_map(|key| state.objects.get(key));
        let selected = objects.filter(|kept| selects(kept.labels()));
        selected.filter_map(|kept| kept.get(self.packing.as_ref())).collect()
    }

    /// Returns once the first complete list is in the cache.
    pub async fn synced(&self) {
        // The sender lives as long as the cache, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Follows the API for ever.
    pub async fn run(&self, api: Api<Whole<K>>, config: watcher::Config) {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                // Taken in one by one: all at once they would need far more memory than the cache does.
                Ok(Event::InitApply(Whole(object))) => {
                    listed.insert(Key::of(object.meta()));
                    self.apply(self.slimmed(object));
                }
                Ok(Event::InitDone) => {
                    self.retain(&std::mem::take(&mut listed));
                    self.synced.send_replace(true);
                }
                Ok(Event::Apply(Whole(object))) => self.apply(self.slimmed(object)),
                Ok(Event::Delete(Whole(object))) => {
                    let object = self.slimmed(object);
                    self.delete(&Key::of(object.meta()), Some(object));
                }
                Err(error) => {
                    tracing::debug!(kind = %K::kind(&()), "watch will be repeated: {error}");
                }
            }
        }
    }

    fn slimmed(&self, mut object: K) -> K {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        // Lists grow by doubling, and of these there is one per object.
        meta.owner_references.iter_mut().for_each(Vec::shrink_to_fit);
        meta.finalizers.iter_mut().for_each(Vec::shrink_to_fit);
        (self.rules.slim)(&mut object);
        object
    }

    fn tell(&self, change: &Change<'_, K>) {
        for handler in self.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            handler(change);
        }
    }

    fn entries(&self, key: &Key, object: &K) -> Vec<String> {
        let mut entries = (self.rules.index)(object);
        entries.push(of_namespace(&key.namespace));
        entries
    }

    /// Takes in the answer to a write of our own, so that the next look at the object does not see it as it was
    /// before. The watch will tell the same again, and is not heeded then.
    pub fn absorb(&self, object: K) {
        let key = Key::of(object.meta());
        let known = self.get(&key).is_some_and(|known| known.meta().uid == object.meta().uid);
        // What is not known is left to the watch: it might be gone already.
        if known {
            self.apply(self.slimmed(object));
        }
    }

    fn apply(&self, object: K) {
        let key = Key::of(object.meta());
        let new = Arc::new(object);
        let old = {
            let mut state = self.write();
            let known = state.objects.get_key_value(&key);
            let old = known.and_then(|(_, kept)| kept.get(self.packing.as_ref()));
            if old.as_ref().is_some_and(|known| is_older(new.meta(), known.meta())) {
                return;
            }
            let key = known.map_or_else(|| Arc::new(key), |(key, _)| key.clone());
            state.insert(&key, new.clone(), self.packing.as_ref());
            let old_entries = old.as_ref().map(|old| self.entries(&key, old)).unwrap_or_default();
            state.reindex(&key, &old_entries, &self.entries(&key, &new));
            old
        };
        match old {
            None => self.tell(&Change::Added(&new)),
            Some(old) if old.meta().uid != new.meta().uid => {
                self.tell(&Change::Deleted(&old));
                self.tell(&Change::Added(&new));
            }
            Some(old) if old.meta().resource_version == new.meta().resource_version => {}
            Some(old) => self.tell(&Change::Updated { old: &old, new: &new }),
        }
    }

    /// An object is gone; its last state, where that is known, is that of the event and not the one in the cache.
    fn delete(&self, key: &Key, last: Option<K>) {
        let known = {
            let mut state = self.write();
            let Some((key, kept)) = state.remove(key) else { return };
            let object = kept.get(self.packing.as_ref());
            let entries = object.as_ref().map(|object| self.entries(&key, object)).unwrap_or_default();
            state.reindex(&key, &entries, &[]);
            object
        };
        if let Some(object) = last.map(Arc::new).or(known) {
            self.tell(&Change::Deleted(&object));
        }
    }

    /// A list was complete: what was not in it is gone.
    fn retain(&self, listed: &HashSet<Key>) {
        let gone: Vec<Arc<Key>> =
            self.read().objects.keys().filter(|key| !listed.contains(&***key)).cloned().collect();
        gone.iter().for_each(|key| self.delete(key, None));
    }
}

/// Whether `a` is a state of the object before `b`. Versions are numbers that grow.
fn is_older(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    let version = |meta: &ObjectMeta| meta.resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
    a.uid == b.uid && version(a).zip(version(b)).is_some_and(|(a, b)| a < b)
}

impl<K: Resource> State<K> {
    /// Keeps an object, and packs those that nothing was heard of for the longest time.
    fn insert(&mut self, key: &Arc<Key>, object: Arc<K>, packing: Option<&Packing<K>>) {
        self.heard += 1;
        let before = self.objects.insert(key.clone(), Kept::Whole(object, self.heard));
        let Some(packing) = packing else { return };
        if let Some(Kept::Whole(_, at)) = before {
            self.whole.remove(&at);
        }
        self.whole.insert(self.heard, key.clone());
        while self.whole.len() > packing.whole {
            let Some((_, key)) = self.whole.pop_first() else { return };
            if let Some(kept) = self.objects.get_mut(&key)
                && let Kept::Whole(object, _) = kept
                && let Some(text) = (packing.pack)(object)
            {
                let labels = object.meta().labels.as_ref().map(|labels| intern(&mut self.labels, labels));
                *kept = Kept::Packed(text, labels);
            }
        }
    }

    fn remove(&mut self, key: &Key) -> Option<(Arc<Key>, Kept<K>)> {
        let removed = self.objects.remove_entry(key);
        if let Some((_, Kept::Whole(_, at))) = &removed {
            self.whole.remove(at);
        }
        removed
    }

    fn reindex(&mut self, key: &Arc<Key>, old: &[String], new: &[String]) {
        for entry in old.iter().filter(|e| !new.contains(e)) {
            if let Some(keys) = self.index.get_mut(entry) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(entry);
                }
            }
        }
        for entry in new.iter().filter(|e| !old.contains(e)) {
            self.index.entry(entry.clone()).or_default().insert(key.clone());
        }
    }
}

/// The same labels as those of objects before, if there were any.
fn intern(known: &mut HashSet<Arc<Labels>>, labels: &Labels) -> Arc<Labels> {
    if let Some(labels) = known.get(labels) {
        return labels.clone();
    }
    if known.len() >= LABELS {
        known.clear();
    }
    let labels = Arc::new(labels.clone());
    known.insert(labels.clone());
    labels
}

/// The index entry of all objects of a namespace.
pub(crate) fn of_namespace(namespace: &str) -> String {
    format!("namespace/{namespace}")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, uid: &str, version: &str) -> ConfigMap {
        let metadata = ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    /// As a list tells of objects.
    fn list(informer: &Informer<ConfigMap>, objects: Vec<ConfigMap>) {
        let listed = objects.iter().map(|object| Key::of(&object.metadata)).collect();
        objects.into_iter().for_each(|object| informer.apply(object));
        informer.retain(&listed);
    }

    #[test]
    fn what_is_packed_is_found_like_everything_else() {
        let rules = Rules { slim: |_| {}, index: |o: &ConfigMap| vec![o.metadata.uid.clone().unwrap()] };
        let informer = Informer::new(rules).packing(2);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.on(move |change| {
            let version = |o: &Arc<ConfigMap>| o.metadata.resource_version.clone().unwrap();
            log.lock().unwrap().push((change.old().map(version), version(change.object())));
        });
        for name in ["a", "b", "c", "d"] {
            informer.apply(object(name, name, "1"));
        }
        let packed = || {
            let state = informer.read();
            let packed = state.objects.iter().filter(|(_, kept)| matches!(kept, Kept::Packed(..)));
            let mut names: Vec<String> = packed.map(|(key, _)| key.name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!(packed(), ["a", "b"]);
        assert_eq!((informer.all().len(), informer.in_namespace("ns").len()), (4, 4));
        assert_eq!(informer.indexed("a")[0].metadata.name.as_deref(), Some("a"));
        informer.apply(object("a", "a", "2"));
        assert_eq!(packed(), ["b", "c"]);
        // An older state of a packed object is not believed; the same changes nothing.
        informer.apply(object("b", "b", "0"));
        informer.delete(&Key::new("ns", "b"), Some(object("b", "b", "3")));
        assert!(informer.get(&Key::new("ns", "b")).is_none() && informer.indexed("b").is_empty());
        list(&informer, vec![object("a", "a", "2"), object("d", "d", "1")]);
        assert_eq!(informer.all().len(), 2);
        let seen = seen.lock().unwrap();
        let one = |old: Option<&str>, new: &str| (old.map(str::to_owned), new.to_owned());
        // What is deleted was, last, as the event says.
        assert_eq!(seen[4..], [one(Some("1"), "2"), one(Some("3"), "3"), one(Some("1"), "1")]);
    }

    #[test]
    fn one_that_changes_all_the_time_packs_no_others() {
        let informer = Informer::new(Rules { slim: |_| {}, index: |_: &ConfigMap| Vec::new() }).packing(2);
        for name in ["a", "b"] {
            informer.apply(object(name, name, "1"));
        }
        for version in 2..20 {
            informer.apply(object("a", "a", &version.to_string()));
        }
        informer.delete(&Key::new("ns", "b"), Some(object("b", "b", "20")));
        informer.apply(object("c", "c", "21"));
        let state = informer.read();
        assert!(state.objects.values().all(|kept| matches!(kept, Kept::Whole(..))));
        assert_eq!((state.objects.len(), state.whole.len()), (2, 2));
    }

    #[test]
    fn tells_of_changes_once_and_keeps_indexes() {
        let rules = Rules { slim: |_| {}, index: |o: &ConfigMap| vec![o.metadata.uid.clone().unwrap()] };
        let informer = Informer::new(rules);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.on(move |change| {
            let word = match change {
                Change::Added(_) => "+",
                Change::Updated { .. } => "~",
                Change::Deleted(_) => "-",
            };
            log.lock().unwrap().push(format!("{word}{}", change.object().metadata.uid.clone().unwrap()));
        });
        list(&informer, vec![object("a", "1", "1"), object("b", "2", "1")]);
        informer.absorb(object("a", "1", "2"));
        informer.apply(object("a", "1", "1"));
        informer.apply(object("a", "1", "2"));
        informer.absorb(object("unknown", "9", "9"));
        // Another list: b is gone, a was made anew.
        list(&informer, vec![object("a", "3", "5")]);
        assert_eq!(*seen.lock().unwrap(), ["+1", "+2", "~1", "-1", "+3", "-2"]);
        assert!(informer.indexed("1").is_empty() && informer.indexed("2").is_empty());
        assert_eq!(informer.indexed("3").len(), 1);
        assert_eq!(informer.in_namespace("ns").len(), 1);
    }
}
