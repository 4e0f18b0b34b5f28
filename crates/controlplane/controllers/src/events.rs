//! Events for people: recorded without waiting, aggregated, bounded.
//!
//! At most [`WAITING`] events wait to be written; beyond that they are dropped. What waits is written together, so that
//! it shares the store's commits. They give way to what must not wait: while pods are placed one after the other, until
//! that has paused for [`PAUSE`] or they have waited for [`PATIENCE`]. The same event again raises the count of the first. More than [`SIMILAR`] events that differ only in their message become one. An object gets
//! a burst of [`BURST`] writes and one more per [`REFILL`].

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use sampan_daemon::{Backoff, Policy, Supervisor, clock};
use sampan_planner::rollout::Notice;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use crate::error::code;

const WAITING: usize = 16_384;
/// So many are written at once.
const ROUND: usize = 64;
/// A pause in what is more urgent.
const PAUSE: Duration = Duration::from_millis(50);
/// How long events give way.
const PATIENCE: Duration = Duration::from_secs(3);
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
    urgent: Arc<Urgent>,
}

/// When something more urgent was done last, in milliseconds since this was made.
struct Urgent {
    start: Instant,
    last: AtomicU64,
}

impl Urgent {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for a pause, within bounds.
    async fn pause(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let last = self.last.load(Ordering::Relaxed);
            let until = (self.start + Duration::from_millis(last) + PAUSE).min(end);
            if last == 0 || until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
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
        let urgent = Arc::new(Urgent { start: Instant::now(), last: AtomicU64::new(0) });
        let writer = Arc::new(Mutex::new(Writer::new(client, records, urgent.clone())));
        supervisor.supervise("events", Policy::Restart(Backoff::default()), move || {
            let writer = writer.clone();
            async move {
                writer.lock().await.run().await;
                Ok::<(), std::convert::Infallible>(())
            }
        });
        Self { component: "sampan", queue, urgent }
    }

    /// The same recorder in the name of another component.
    pub fn of(&self, component: &'static str) -> Self {
        Self { component, queue: self.queue.clone(), urgent: self.urgent.clone() }
    }

    /// Says that something is being done that events give way to.
    pub fn give_way(&self) {
        self.urgent.last.store(self.urgent.now().max(1), Ordering::Relaxed);
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
    urgent: Arc<Urgent>,
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
    fn new(client: Client, records: mpsc::Receiver<Record>, urgent: Arc<Urgent>) -> Self {
        Self {
            client,
            records,
            urgent,
            seen: Bounded::default(),
            similar: Bounded::default(),
            budgets: Bounded::default(),
        }
    }

    async fn run(&mut self) {
        let mut records = Vec::with_capacity(ROUND);
        while self.records.recv_many(&mut records, ROUND).await > 0 {
            self.urgent.pause().await;
            let mut round: Vec<Write> = Vec::with_capacity(records.len());
            for record in records.drain(..) {
                self.take(record, &mut round);
            }
            let written = join_all(round.iter().map(|write| write.carry_out(&self.client))).await;
            for (write, seen) in round.into_iter().zip(written) {
                if let Some(seen) = seen {
                    self.seen.insert(write.id, seen);
                }
            }
        }
    }

    /// Decides what is written of a record: a new event, a higher count of one that there is or will be, or nothing.
    fn take(&mut self, mut record: Record, round: &mut Vec<Write>) {
        let about: About = (record.component, record.object.uid.clone(), record.object.name.clone());
        if !self.spend(&about) {
            return;
        }
        let group: Group = (about, record.warning, record.reason.clone());
        let mut id = (group.clone(), record.message.clone());
        let known = self.seen.get(&id).is_some() || round.iter().any(|write| write.id == id);
        if !known && self.is_one_of_many(&group) {
            record.message = format!("(combined from similar events): {}", record.message);
            id.1 = String::new();
        }
        if let Some(same) = round.iter_mut().find(|write| write.id == id) {
            (same.record, same.times) = (record, same.times + 1);
            return;
        }
        let seen = self.seen.get(&id).cloned();
        round.push(Write { id, record, times: 1, seen });
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

/// What is to be written of the same event.
struct Write {
    id: (Group, String),
    record: Record,
    times: i32,
    /// What was written of it before.
    seen: Option<Seen>,
}

impl Write {
    /// Writes it; what is known of it then.
    async fn carry_out(&self, client: &Client) -> Option<Seen> {
        let namespace = self.record.object.namespace.as_deref().unwrap_or("default");
        if let Some(seen) = &self.seen {
            match self.count_up(client, namespace, seen).await {
                Ok(seen) => return Some(seen),
                // It is older than events get.
                Err(404) => {}
                Err(_) => return None,
            }
        }
        let event = event(&self.record, namespace, clock::now(), self.times);
        let name = event.metadata.name.clone().unwrap_or_default();
        match create(client, namespace, &event).await {
            Ok(()) => Some(Seen { name, count: self.times }),
            // A namespace that is going away takes no more events, and that is fine.
            Err(error) => {
                tracing::debug!(event = name, "not recorded: {error}");
                None
            }
        }
    }

    async fn count_up(&self, client: &Client, namespace: &str, seen: &Seen) -> Result<Seen, u16> {
        let seen = Seen { name: seen.name.clone(), count: seen.count + self.times };
        let patch = json!({
            "count": seen.count,
            "message": self.record.message,
            "lastTimestamp": clock::rfc3339(clock::now()),
        });
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let result = api.patch_metadata(&seen.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        result.map(|_| seen).map_err(|error| code(&error))
    }
}

/// Creates an event. What the server makes of it is not read.
async fn create(client: &Client, namespace: &str, event: &Event) -> kube::Result<()> {
    let body = serde_json::to_vec(event).map_err(kube::Error::SerdeError)?;
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/events"));
    let request = request.header("content-type", "application/json").body(body);
    client.request_text(request.map_err(kube::Error::HttpError)?).await.map(drop)
}

fn event(record: &Record, namespace: &str, now: Timestamp, times: i32) -> Event {
    let name = record.object.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: record.object.clone(),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        type_: Some(if record.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(times),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_wait_for_a_pause_but_not_for_ever() {
        let urgent = Urgent { start: Instant::now(), last: AtomicU64::new(0) };
        let waited = async || {
            let begun = Instant::now();
            urgent.pause().await;
            begun.elapsed()
        };
        let touch = || urgent.last.store(urgent.now().max(1), Ordering::Relaxed);
        assert_eq!(waited().await, Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(1)).await;
        touch();
        assert_eq!(waited().await, PAUSE);
        // Nothing urgent since: nothing to wait for.
        assert_eq!(waited().await, Duration::ZERO);
        let busy = async {
            loop {
                touch();
                tokio::time::sleep(PAUSE / 2).await;
            }
        };
        touch();
        let patient = tokio::select! {
            patient = waited() => patient,
            () = busy => unreachable!(),
        };
        assert!(patient >= PATIENCE && patient <= PATIENCE + PAUSE, "{patient:?}");
    }
}
