//! A mirror keeps the objects of one resource parsed and at hand, for decisions that every request needs: read once,
//! then followed by a store watch. What it shows lags behind the store by the time of one event; who needs more waits
//! with [`Mirror::reach`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use sampan_daemon::{Backoff, Policy, Supervisor};
use sampan_store::{KeyValue, Op, Range, Revision, Store, Watch, prefix_end};
use tokio::sync::watch;

/// Objects by key.
pub(crate) type Objects<T> = BTreeMap<Bytes, Arc<T>>;

/// Makes what is kept of a stored object; nothing when it is of no use.
type Parse<T> = Box<dyn Fn(&KeyValue) -> Option<T> + Send + Sync>;

/// The objects of one resource.
pub(crate) struct Mirror<T> {
    prefix: Bytes,
    parse: Parse<T>,
    objects: RwLock<Arc<Objects<T>>>,
    /// Where objects are looked for by something else than their keys. Taken after `objects`.
    groups: Option<Groups<T>>,
    /// Everything up to this revision has been seen.
    seen: watch::Sender<Revision>,
    /// The last revision at which something changed.
    changed: watch::Sender<Revision>,
    /// The last revision at which this server wrote something.
    written: Arc<AtomicI64>,
}

/// The keys of objects by what they have in common.
struct Groups<T> {
    of: fn(&T) -> &str,
    keys: RwLock<HashMap<Box<str>, BTreeSet<Bytes>>>,
}

impl<T> Groups<T> {
    fn new(of: fn(&T) -> &str) -> Self {
        Self { of, keys: RwLock::default() }
    }

    /// An object took the place of another.
    fn change(&self, key: &Bytes, old: Option<&T>, new: Option<&T>) {
        let (old, new) = (old.map(self.of), new.map(self.of));
        if old == new {
            return;
        }
        let mut groups = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = old
            && let Some(keys) = groups.get_mut(old)
        {
            keys.remove(key);
            if keys.is_empty() {
                groups.remove(old);
            }
        }
        if let Some(new) = new {
            match groups.get_mut(new) {
                Some(keys) => drop(keys.insert(key.clone())),
                None => drop(groups.insert(new.into(), BTreeSet::from([key.clone()]))),
            }
        }
    }
}

/// A mirror that lags further behind than this is looked at as it is.
const SETTLE: Duration = Duration::from_secs(2);

/// Which mirrors have to show a write before it counts as done: what a client was told is true for its next request.
#[derive(Default)]
pub(crate) struct Written(RwLock<Vec<(Bytes, Arc<AtomicI64>)>>);

impl Written {
    /// From now on writes below the mirror's prefix are told to it.
    pub(crate) fn register<T: Send + Sync + 'static>(&self, mirror: &Mirror<T>) {
        let entry = (mirror.prefix.clone(), mirror.written.clone());
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// The mirrors that these steps concern.
    pub(crate) fn touched(&self, ops: &[Op]) -> Vec<Arc<AtomicI64>> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let concerns = |prefix: &Bytes| {
            ops.iter().any(|op| match op {
                Op::Put { key, .. } | Op::Delete { key } => key.starts_with(prefix),
            })
        };
        entries.iter().filter(|(prefix, _)| concerns(prefix)).map(|(_, written)| written.clone()).collect()
    }
}

impl<T: Send + Sync + 'static> Mirror<T> {
    /// Reads every object whose key begins with `prefix` and follows them from there on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn open(
        prefix: &str,
        store: Arc<dyn Store>,
        supervisor: &Supervisor,
        parse: impl Fn(&KeyValue) -> Option<T> + Send + Sync + 'static,
    ) -> sampan_store::Result<Arc<Self>> {
        Self::start(prefix, store, supervisor, Box::new(parse), None).await
    }

    /// The same, for objects that are looked for by what `of` says of them: see [`Mirror::any_of`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn open_grouped(
        prefix: &str,
        store: Arc<dyn Store>,
        supervisor: &Supervisor,
        parse: impl Fn(&KeyValue) -> Option<T> + Send + Sync + 'static,
        of: fn(&T) -> &str,
    ) -> sampan_store::Result<Arc<Self>> {
        Self::start(prefix, store, supervisor, Box::new(parse), Some(Groups::new(of))).await
    }

    async fn start(
        prefix: &str,
        store: Arc<dyn Store>,
        supervisor: &Supervisor,
        parse: Parse<T>,
        groups: Option<Groups<T>>,
    ) -> sampan_store::Result<Arc<Self>> {
        let mirror = Arc::new(Self {
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            parse,
            objects: RwLock::default(),
            groups,
            seen: watch::Sender::new(0),
            changed: watch::Sender::new(0),
            written: Arc::default(),
        });
        let mut first = Some(mirror.attach(&*store).await?);
        let policy = Policy::Restart(Backoff::new(Duration::from_millis(100), Duration::from_secs(10)));
        let task = mirror.clone();
        supervisor.supervise(format!("mirror{prefix}"), policy, move || {
            let (mirror, store, first) = (task.clone(), store.clone(), first.take());
            async move {
                let watch = match first {
                    Some(watch) => watch,
                    None => mirror.attach(&*store).await?,
                };
                mirror.follow(watch).await
            }
        });
        Ok(mirror)
    }

    /// Every object now.
    pub(crate) fn objects(&self) -> Arc<Objects<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One object by its key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Whether any object whose key begins with `prefix` is such a one. Holds back changes meanwhile: be short.
    pub(crate) fn any(&self, prefix: &[u8], mut is: impl FnMut(&T) -> bool) -> bool {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut within = objects
            .range::<[u8], _>(from)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object);
        within.any(|object| is(object))
    }

    /// Whether any object of a group whose key begins with `prefix` is such a one. What is in no group is not looked at.
    /// Holds back changes meanwhile: be short.
    pub(crate) fn any_of(&self, group: &str, prefix: &[u8], mut is: impl FnMut(&T) -> bool) -> bool {
        let Some(groups) = &self.groups else { return self.any(prefix, is) };
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let groups = groups.keys.read().unwrap_or_else(PoisonError::into_inner);
        let Some(keys) = groups.get(group) else { return false };
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut within = keys.range::<[u8], _>(from).take_while(|key| key.starts_with(prefix));
        within.any(|key| objects.get(key).is_some_and(|object| is(object)))
    }

    /// The keys of a group that begin with `prefix`, and the revision at which they were all there was of it. None where
    /// objects are in no groups.
    pub(crate) fn keys_of(&self, group: &str, prefix: &[u8]) -> Option<(Vec<Bytes>, Revision)> {
        let groups = self.groups.as_ref()?;
        // What is seen moves on only while the objects are held.
        let _objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let groups = groups.keys.read().unwrap_or_else(PoisonError::into_inner);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let keys = groups.get(group).into_iter().flat_map(|keys| keys.range::<[u8], _>(from));
        Some((keys.take_while(|key| key.starts_with(prefix)).cloned().collect(), *self.seen.borrow()))
    }

    /// Tells the revision of each change; the current one counts as seen.
    pub(crate) fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// Waits until every write that this server has answered is shown: nearly always at once. False when that takes too long.
    pub(crate) async fn settle(&self) -> bool {
        let written = self.written.load(Ordering::Acquire);
        let seen = *self.seen.borrow();
        seen >= written || self.reach(written, SETTLE).await
    }

    /// Waits until everything up to the revision is shown; false when that takes longer than `bound`.
    pub(crate) async fn reach(&self, revision: Revision, bound: Duration) -> bool {
        let mut seen = self.seen.subscribe();
        tokio::time::timeout(bound, seen.wait_for(|at| *at >= revision)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Reads all there is, and watches from there.
    async fn attach(&self, store: &dyn Store) -> sampan_store::Result<Watch> {
        let end = prefix_end(&self.prefix);
        let range = Range { start: self.prefix.clone(), end: end.clone(), ..Range::default() };
        let response = store.range(range).await?;
        let parsed = response.kvs.iter().filter_map(|kv| Some((kv.key.clone(), Arc::new((self.parse)(kv)?))));
        let objects: Objects<T> = parsed.collect();
        {
            let mut guard = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(groups) = &self.groups {
                groups.keys.write().unwrap_or_else(PoisonError::into_inner).clear();
                objects.iter().for_each(|(key, object)| groups.change(key, None, Some(object)));
            }
            *guard = Arc::new(objects);
            self.changed.send_replace(response.revision);
            self.seen.send_replace(response.revision);
        }
        store.watch(self.prefix.clone(), end, response.revision + 1, true).await
    }

    async fn follow(&self, mut watch: Watch) -> sampan_store::Result<()> {
        while let Some(batch) = watch.next().await {
            let batch = batch?;
            if !batch.events.is_empty() {
                let mut guard = self.objects.write().unwrap_or_else(PoisonError::into_inner);
                // Copied only while somebody still looks at the state before.
                let objects = Arc::make_mut(&mut guard);
                for event in batch.events.iter() {
                    let key = &event.kv.key;
                    let new = (self.parse)(&event.kv).filter(|_| !event.deleted).map(Arc::new);
                    let old = match &new {
                        Some(object) => objects.insert(key.clone(), object.clone()),
                        None => objects.remove(key),
                    };
                    if let Some(groups) = &self.groups {
                        groups.change(key, old.as_deref(), new.as_deref());
                    }
                }
                self.changed.send_replace(batch.revision);
                self.seen.send_replace(batch.revision);
            } else {
                self.seen.send_replace(batch.revision);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sampan_store::{Txn, TxnResponse, embedded};

    use super::*;

    async fn commit(store: &dyn Store, op: Op) -> Revision {
        match store.txn(Txn { compare: Vec::new(), ops: vec![op] }).await.unwrap() {
            TxnResponse::Committed(revision) => revision,
            TxnResponse::Conflict(..) => panic!("nothing was compared"),
        }
    }

    /// An empty store, whoever watches it, and where it lies.
    fn opened() -> (Arc<dyn Store>, Supervisor, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let store = embedded::Embedded::open(embedded::Options::new(dir.path())).unwrap();
        (Arc::new(store), Supervisor::new(), dir)
    }

    fn put(key: &'static str, value: &'static str) -> Op {
        Op::Put { key: key.into(), value: value.into(), lease: 0 }
    }

    #[tokio::test]
    async fn what_was_there_and_what_comes_is_shown() {
        let (store, supervisor, _dir) = opened();
        commit(&*store, put("/a/x", "1")).await;
        commit(&*store, put("/b/x", "9")).await;
        let parse = |kv: &KeyValue| std::str::from_utf8(&kv.value).ok()?.parse::<u32>().ok();
        let mirror = Mirror::open("/a/", store.clone(), &supervisor, parse).await.unwrap();
        assert_eq!(mirror.objects().len(), 1);
        let before = mirror.objects();
        let mut changes = mirror.changes();
        commit(&*store, put("/a/y", "2")).await;
        let last = commit(&*store, Op::Delete { key: "/a/x".into() }).await;
        assert!(mirror.reach(last, Duration::from_secs(10)).await);
        assert!(changes.has_changed().unwrap());
        assert!(changes.borrow_and_update().to_owned() >= last);
        assert_eq!(before.len(), 1, "who looks at the state before keeps it");
        assert!(mirror.get(b"/a/x").is_none());
        assert_eq!(mirror.get(b"/a/y").map(|n| *n), Some(2));
        supervisor.shutdown(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn what_has_something_in_common_is_found_by_it() {
        let (store, supervisor, _dir) = opened();
        commit(&*store, put("/a/n/x", "red 1")).await;
        let parse = |kv: &KeyValue| Some(std::str::from_utf8(&kv.value).ok()?.to_owned());
        // The mirror keeps `String`s and hands them out as they are.
        #[allow(clippy::ptr_arg)]
        fn colour(text: &String) -> &str {
            text.split(' ').next().unwrap_or_default()
        }
        let mirror = Mirror::open_grouped("/a/", store.clone(), &supervisor, parse, colour).await.unwrap();
        let found = |group: &str, prefix: &str, text: &str| {
            mirror.any_of(group, prefix.as_bytes(), |object| {
                assert_eq!(colour(object), group, "others are not looked at");
                object == text
            })
        };
        assert!(found("red", "/a/n/", "red 1") && !found("red", "/a/o/", "red 1"));
        assert!(!found("blue", "/a/n/", "red 1"));
        commit(&*store, put("/a/n/x", "blue 1")).await;
        commit(&*store, put("/a/o/y", "red 2")).await;
        let last = commit(&*store, put("/a/o/z", "red 3")).await;
        assert!(mirror.reach(last, Duration::from_secs(10)).await);
        assert!(found("blue", "/a/n/", "blue 1") && !found("red", "/a/n/", "red 1"));
        assert!(found("red", "/a/", "red 3") && !found("red", "/a/n/", "red 3"));
        let keys = |prefix: &str| mirror.keys_of("red", prefix.as_bytes());
        assert_eq!(keys("/a/"), Some((vec!["/a/o/y".into(), "/a/o/z".into()], last)));
        assert_eq!(keys("/a/n/"), Some((vec![], last)));
        let last = commit(&*store, Op::Delete { key: "/a/n/x".into() }).await;
        assert!(mirror.reach(last, Duration::from_secs(10)).await);
        assert!(!found("blue", "/a/", "blue 1"));
        supervisor.shutdown(Duration::from_secs(5)).await;
    }
}
