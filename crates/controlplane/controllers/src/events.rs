//! Events for people: recorded without waiting, aggregated, bounded.
//!
//! At most [`WAITING`] events wait to be written; beyond that they are dropped. The same event again raises the
//! count of the first. More than [`SIMILAR`] events that differ only in their message become one. An object gets
//! a burst of [`BURST`] writes and one more per [`REFILL`].

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use sampan_daemon::{Backoff, Policy, Supervisor, clock};
use sampan_planner::rollout::Notice;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use crate::error::code;

const WAITING: usize = 1024;
const REMEMBERED: usize = 4096;
const SIMILAR: u32 = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// Records events in the name of one component.
#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    queue: mpsc::Sender<Record>,
}

struct Record {
    component: &'static str,
    object: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
}

impl Recorder {
    /// Starts the writer.
    pub fn start(supervisor: &Supervisor, client: Client) -> Self {
        let (queue, records) = mpsc::channel(WAITING);
        let writer = std::sync::Arc::new(Mutex::new(Writer::new(client, records)));
        supervisor.supervise("events", Policy::Restart(Backoff::default()), move || {
            let writer = writer.clone();
            async move {
                writer.lock().await.run().await;
                Ok::<(), std::convert::Infallible>(())
            }
        });
        Self { component: "sampan", queue }
    }

    /// The same recorder in the name of another component.
    pub fn of(&self, component: &'static str) -> Self {
        Self { component, queue: self.queue.clone() }
    }

    /// Records what a planner noticed about an object.
    pub fn notice<K: Resource<DynamicType = ()>>(&self, object: &K, notice: Notice) {
        self.record(reference(object), notice.warning, notice.reason, notice.message);
    }

    /// Records that all is well.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: String) {
        self.record(reference(object), false, reason, message);
    }

    /// Records that something is wrong.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: String) {
        self.record(reference(object), true, reason, message);
    }

    /// Records that all is well with an object of any kind.
    pub fn tell(&self, object: ObjectReference, reason: &str, message: String) {
        self.record(object, false, reason, message);
    }

    /// Records that something is wrong with an object of any kind.
    pub fn about(&self, object: ObjectReference, reason: &str, message: String) {
        self.record(object, true, reason, message);
    }

    fn record(&self, object: ObjectReference, warning: bool, reason: &str, message: String) {
        let reason = reason.to_owned();
        let record = Record { component: self.component, object, warning, reason, message };
        if self.queue.try_send(record).is_err() {
            tracing::debug!("too many events at once: one is dropped");
        }
    }
}

/// A reference to an object, as events carry it.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

type About = (&'static str, Option<String>, Option<String>);
type Group = (About, bool, String);

struct Writer {
    client: Client,
    records: mpsc::Receiver<Record>,
    seen: Bounded<(Group, String), Seen>,
    similar: Bounded<Group, (u32, Instant)>,
    budgets: Bounded<About, (f64, Instant)>,
}

#[derive(Clone)]
struct Seen {
    name: String,
    count: i32,
}

impl Writer {
    fn new(client: Client, records: mpsc::Receiver<Record>) -> Self {
        Self {
            client,
            records,
            seen: Bounded::default(),
            similar: Bounded::default(),
            budgets: Bounded::default(),
        }
    }

    async fn run(&mut self) {
        while let Some(record) = self.records.recv().await {
            self.write(record).await;
        }
    }

    async fn write(&mut self, mut record: Record) {
        let about: About = (record.component, record.object.uid.clone(), record.object.name.clone());
        if !self.spend(&about) {
            return;
        }
        let group: Group = (about, record.warning, record.reason.clone());
        let mut id = (group.clone(), record.message.clone());
        if self.seen.get(&id).is_none() && self.is_one_of_many(&group) {
            record.message = format!("(combined from similar events): {}", record.message);
            id.1 = String::new();
        }
        let namespace = record.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let seen = self.seen.get(&id).cloned();
        let result = match seen {
            Some(seen) => self.count_up(&api, &id, seen, &record).await,
            None => Err(404),
        };
        if result == Err(404) {
            self.create(&api, id, record, &namespace).await;
        }
    }

    async fn count_up(
        &mut self,
        api: &Api<Event>,
        id: &(Group, String),
        mut seen: Seen,
        record: &Record,
    ) -> Result<(), u16> {
        seen.count += 1;
        let patch = json!({
            "count": seen.count,
            "message": record.message,
            "lastTimestamp": clock::rfc3339(clock::now()),
        });
        let result = api.patch_metadata(&seen.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        match result {
            Ok(_) => {
                self.seen.insert(id.clone(), seen);
                Ok(())
            }
            Err(error) => Err(code(&error)),
        }
    }

    async fn create(&mut self, api: &Api<Event>, id: (Group, String), record: Record, namespace: &str) {
        let now = clock::now();
        let event = event(record, namespace, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => self.seen.insert(id, Seen { name, count: 1 }),
            // A namespace that is going away takes no more events, and that is fine.
            Err(error) => tracing::debug!(event = name, "not recorded: {error}"),
        }
    }

    fn is_one_of_many(&mut self, group: &Group) -> bool {
        let now = Instant::now();
        let (count, since) = self.similar.get(group).copied().unwrap_or((0, now));
        let fresh = now - since > SIMILAR_WITHIN;
        let (count, since) = if fresh { (1, now) } else { (count + 1, since) };
        self.similar.insert(group.clone(), (count, since));
        count > SIMILAR
    }

    fn spend(&mut self, about: &About) -> bool {
        let now = Instant::now();
        let (left, at) = self.budgets.get(about).copied().unwrap_or((BURST, now));
        let left = (left + (now - at).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        let enough = left >= 1.0;
        self.budgets.insert(about.clone(), (if enough { left - 1.0 } else { left }, now));
        enough
    }
}

fn event(record: Record, namespace: &str, now: Timestamp) -> Event {
    let name = record.object.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: record.object,
        reason: Some(record.reason),
        message: Some(record.message),
        type_: Some(if record.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(record.component.to_owned()), host: None }),
        reporting_component: Some(record.component.to_owned()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    }
}

/// A map that forgets its oldest entries.
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.map.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.map.remove(&oldest);
            }
        }
    }
}
