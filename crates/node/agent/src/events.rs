//! Events about pods and the node: queued, merged, written in the background.

use std::collections::HashMap;
use std::sync::Arc;

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
        let list = if role == spec::Role::Main { "containers" } else { "initContainers" };
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

struct Seen {
    name: String,
    count: i32,
}

struct Writer {
    client: Client,
    host: String,
    entries: mpsc::Receiver<Entry>,
    seen: HashMap<(String, &'static str, String), Seen>,
}

impl Writer {
    async fn run(&mut self) {
        while let Some(entry) = self.entries.recv().await {
            if let Err(error) = self.write(entry).await {
                tracing::debug!(%error, "event not written");
            }
        }
    }

    async fn write(&mut self, entry: Entry) -> Result<(), kube::Error> {
        let namespace = entry.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let who =
            entry.object.uid.clone().unwrap_or_default() + entry.object.field_path.as_deref().unwrap_or("");
        let key = (who, entry.reason, entry.message.clone());
        let now = Time(clock::now());
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.count += 1;
            let patch = serde_json::json!({"count": seen.count, "lastTimestamp": clock::rfc3339(now.0)});
            let patched = api.patch_metadata(&seen.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            match patched {
                Err(kube::Error::Api(status)) if status.code == 404 => drop(self.seen.remove(&key)),
                other => return other.map(drop),
            }
        }
        let stamp = clock::now().as_nanosecond();
        let name = format!("{}.{:016x}", entry.object.name.as_deref().unwrap_or("unknown"), stamp);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: ObjectReference::clone(&entry.object),
            reason: Some(entry.reason.to_owned()),
            message: Some(entry.message),
            type_: Some(entry.kind.to_owned()),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.host.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.host.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Default::default()
        };
        api.create(&PostParams::default(), &event).await?;
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(key, Seen { name, count: 1 });
        Ok(())
    }
}
