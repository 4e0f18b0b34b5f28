//! Events about pods and the node: queued, merged, written in the background.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use sampan_daemon::{Supervisor, clock};
use tokio::sync::mpsc;

use crate::pod::spec;

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 1024;
/// Repetitions of an event are counted in one object while it is among this many latest.
const REMEMBERED: usize = 1024;
/// Most events written together.
const BATCH: usize = 64;
/// How long events are gathered.
const GATHER: Duration = Duration::from_millis(50);

/// Records events. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
}

#[derive(Debug)]
struct Entry {
    object: Arc<ObjectReference>,
    kind: &'static str,
    reason: &'static str,
    message: String,
}

/// Whom events are about.
#[derive(Clone)]
pub struct Subject {
    recorder: Recorder,
    object: Arc<ObjectReference>,
}

impl Subject {
    /// Something went as it should.
    pub fn normal(&self, reason: &'static str, message: impl Into<String>) {
        self.record("Normal", reason, message.into());
    }

    /// Something did not.
    pub fn warning(&self, reason: &'static str, message: impl Into<String>) {
        self.record("Warning", reason, message.into());
    }

    /// The same about one container of the pod.
    #[must_use]
    pub fn container(&self, role: spec::Role, name: &str) -> Self {
        let mut object = ObjectReference::clone(&self.object);
        let list = match role {
            spec::Role::Main => "containers",
            spec::Role::Ephemeral => "ephemeralContainers",
            spec::Role::Init | spec::Role::Sidecar => "initContainers",
        };
        object.field_path = Some(format!("spec.{list}{{{name}}}"));
        Self { recorder: self.recorder.clone(), object: Arc::new(object) }
    }

    fn record(&self, kind: &'static str, reason: &'static str, message: String) {
        let entry = Entry { object: Arc::clone(&self.object), kind, reason, message };
        // Events are best effort: with a full queue this one is dropped.
        let _ = self.recorder.queue.try_send(entry);
    }
}

impl Recorder {
    /// Start the writer.
    #[must_use]
    pub fn start(client: Client, host: String, supervisor: &Supervisor) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        let token = supervisor.token();
        supervisor.spawn("events", async move {
            let mut writer = Writer { client, host, entries, seen: HashMap::new() };
            tokio::select! {
                () = writer.run() => {}
                () = token.cancelled() => {}
            }
        });
        Self { queue }
    }

    /// Events about a pod.
    #[must_use]
    pub fn pod(&self, pod: &Pod) -> Subject {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            ..Default::default()
        };
        Subject { recorder: self.clone(), object: Arc::new(object) }
    }

    /// Events about the node.
    #[must_use]
    pub fn node(&self, name: &str) -> Subject {
        let object = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        Subject { recorder: self.clone(), object: Arc::new(object) }
    }
}

/// Whom an event is about, its reason and its message: what makes two events the same.
type Key = (String, &'static str, String);

struct Seen {
    name: String,
    count: i32,
}

struct Writer {
    client: Client,
    host: String,
    entries: mpsc::Receiver<Entry>,
    seen: HashMap<Key, Seen>,
}

impl Writer {
    /// Gathers events for a moment and sends them together: nobody waits for an event, and the store makes one
    /// durable step of what comes at once.
    async fn run(&mut self) {
        let mut batch = Vec::new();
        while self.entries.recv_many(&mut batch, BATCH).await > 0 {
            tokio::time::sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(entry) = self.entries.try_recv()
            {
                batch.push(entry);
            }
            let mut counted: HashMap<Key, (Entry, i32)> = HashMap::new();
            let mut order = Vec::new();
            for entry in batch.drain(..) {
                let key = key(&entry);
                let slot = counted.entry(key.clone()).or_insert_with(|| {
                    order.push(key);
                    (entry, 0)
                });
                slot.1 += 1;
            }
            let writes = order.into_iter().filter_map(|key| {
                let (entry, count) = counted.remove(&key)?;
                let known = self.seen.get(&key).map(|seen| (seen.name.clone(), seen.count));
                Some(write(self.client.clone(), self.host.clone(), key, entry, count, known))
            });
            for (key, outcome) in join_all(writes.collect::<Vec<_>>()).await {
                self.remember(key, outcome);
            }
        }
    }

    fn remember(&mut self, key: Key, outcome: Result<Seen, kube::Error>) {
        match outcome {
            Ok(seen) => {
                if self.seen.len() >= REMEMBERED {
                    self.seen.clear();
                }
                self.seen.insert(key, seen);
            }
            Err(error) => tracing::debug!(%error, "event not written"),
        }
    }
}

fn key(entry: &Entry) -> Key {
    let who = entry.object.uid.clone().unwrap_or_default() + entry.object.field_path.as_deref().unwrap_or("");
    (who, entry.reason, entry.message.clone())
}

/// Counts up an event that is known, or writes a new one.
async fn write(
    client: Client,
    host: String,
    key: Key,
    entry: Entry,
    more: i32,
    known: Option<(String, i32)>,
) -> (Key, Result<Seen, kube::Error>) {
    let namespace = entry.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let api: Api<Event> = Api::namespaced(client, &namespace);
    if let Some((name, count)) = known {
        let count = count + more;
        let patch = serde_json::json!({"count": count, "lastTimestamp": clock::rfc3339(clock::now())});
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return (key, other.map(|_| Seen { name, count })),
        }
    }
    let event = new_event(entry, namespace, host, more);
    let name = event.metadata.name.clone().unwrap_or_default();
    let created = api.create(&PostParams::default(), &event).await;
    (key, created.map(|_| Seen { name, count: more }))
}

fn new_event(entry: Entry, namespace: String, host: String, count: i32) -> Event {
    let now = Time(clock::now());
    // Events of one batch come within a clock tick of each other; the random part keeps their names apart.
    let stamp = clock::now().as_nanosecond() ^ i128::from(rand::random::<u16>());
    let name = format!("{}.{stamp:016x}", entry.object.name.as_deref().unwrap_or("unknown"));
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
        involved_object: ObjectReference::clone(&entry.object),
        reason: Some(entry.reason.to_owned()),
        message: Some(entry.message),
        type_: Some(entry.kind.to_owned()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(host.clone()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(host),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(count),
        ..Default::default()
    }
}
