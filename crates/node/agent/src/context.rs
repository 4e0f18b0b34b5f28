//! What all pod workers share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sampan_daemon::Supervisor;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::events::Recorder;
use crate::objects::ObjectCache;
use crate::options::Options;
use crate::pod::record::PodRecord;
use crate::pod::spec;
use crate::usage::Meter;
use crate::volumes::host_path::HostVolumes;
use crate::worker::Message;
use crate::zones::Zones;

/// Images pulled at once.
const PARALLEL_PULLS: usize = 5;

/// Shared by all workers and the kubelet API.
pub struct Context {
    /// As given.
    pub options: Options,
    /// For tasks of the agent.
    pub supervisor: Supervisor,
    /// Events.
    pub recorder: Recorder,
    /// ConfigMaps and Secrets.
    pub objects: ObjectCache,
    /// Services, for environment variables.
    pub services: ServiceList,
    /// The pods of this node.
    pub pods: PodTable,
    /// Bytes of memory of this node.
    pub memory: u64,
    /// Who holds what of the machine's zones.
    pub zones: Zones,
    /// What pods may use.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Volumes of claims that live in directories of ours.
    pub host_volumes: HostVolumes,
    /// Bounds parallel pulls.
    pub pulls: Semaphore,
    /// What is used.
    pub meter: Meter,
    /// Held while a pod is given other resources. The uids of pods that wait until somebody has less.
    pub resizes: Mutex<HashSet<String>>,
}

impl Context {
    /// Put together what workers share.
    #[must_use]
    pub fn new(
        options: Options,
        supervisor: Supervisor,
        memory: u64,
        allocatable: BTreeMap<String, Quantity>,
        zones: Zones,
    ) -> Self {
        let recorder = Recorder::start(options.client.clone(), options.node_name.clone(), &supervisor);
        let objects = ObjectCache::new(options.client.clone(), supervisor.child("objects"));
        let host_volumes = HostVolumes::new(options.pods_dir.with_file_name("volumes"));
        Self {
            options,
            host_volumes,
            supervisor,
            recorder,
            objects,
            services: ServiceList::default(),
            pods: PodTable::default(),
            memory,
            allocatable,
            zones,
            pulls: Semaphore::new(PARALLEL_PULLS),
            meter: Meter::default(),
            resizes: Mutex::default(),
        }
    }

    /// Look again at the pods that wait for others to have less, of whom one has.
    pub fn room_freed(&self, waiting: &mut HashSet<String>) {
        for entry in waiting.drain().filter_map(|uid| self.pods.get(&uid)) {
            // A worker whose inbox is full looks again anyway.
            let _ = entry.inbox.try_send(Message::RoomFreed);
        }
    }

    /// Directory of a pod's volumes and files.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.options.pods_dir.join(uid)
    }

    /// Directory of a pod's logs.
    #[must_use]
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.options.pods_dir.join("logs").join(format!("{namespace}_{name}_{uid}"))
    }

    /// Log file of one run of a container.
    #[must_use]
    pub fn log_path(&self, pod: &Pod, container: &str, run: u32) -> PathBuf {
        let dir = self.log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod));
        dir.join(container).join(format!("{}.log", run.saturating_sub(1)))
    }

    /// Where a pod's record is kept.
    #[must_use]
    pub fn record_path(&self, uid: &str) -> PathBuf {
        self.options.run_dir.join("records").join(format!("{uid}.json"))
    }
}

/// What others may see of a pod.
#[derive(Clone)]
pub struct View {
    /// The pod as the API has it, with the status as computed here.
    pub pod: Arc<Pod>,
    /// Its record.
    pub record: Arc<PodRecord>,
}

/// A worker as others reach it.
#[derive(Clone)]
pub struct Entry {
    /// The pod's uid.
    pub uid: String,
    /// To the worker.
    pub inbox: mpsc::Sender<Message>,
    /// What it shows.
    pub view: watch::Receiver<View>,
    /// Its object is deleted; a successor may have its name.
    pub gone: bool,
}

/// The pods of this node by uid.
#[derive(Default)]
pub struct PodTable {
    entries: Mutex<HashMap<String, Entry>>,
}

impl PodTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker of a pod.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Entry> {
        self.lock().get(uid).cloned()
    }

    /// Add a worker.
    pub fn insert(&self, entry: Entry) {
        self.lock().insert(entry.uid.clone(), entry);
    }

    /// Note that the pod's object is deleted.
    pub fn mark_gone(&self, uid: &str) {
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.gone = true;
        }
    }

    /// Forget a worker.
    pub fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// All workers.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        self.lock().values().cloned().collect()
    }

    /// The pod of this name; with `uid` only that one.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Entry> {
        let matches = |entry: &&Entry| {
            let view = entry.view.borrow();
            spec::namespace(&view.pod) == namespace
                && spec::name(&view.pod) == name
                && uid.is_none_or(|uid| uid == entry.uid)
        };
        let entries = self.lock();
        // A deleted pod may still be ending while its successor of the same name starts: prefer the living.
        // Deleting without grace sets no deletionTimestamp.
        let living =
            |entry: &&Entry| !entry.gone && entry.view.borrow().pod.metadata.deletion_timestamp.is_none();
        let mut found = entries.values().filter(matches);
        let first = found.next()?;
        Some(if living(&first) { first } else { found.find(living).unwrap_or(first) }.clone())
    }
}

/// Services by namespace and name.
pub struct ServiceList {
    services: Mutex<BTreeMap<(String, String), Arc<Service>>>,
    synced: watch::Sender<bool>,
}

impl Default for ServiceList {
    fn default() -> Self {
        Self { services: Mutex::default(), synced: watch::channel(false).0 }
    }
}

impl ServiceList {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Arc<Service>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Put or remove one.
    pub fn set(&self, key: (String, String), service: Option<Arc<Service>>) {
        match service {
            Some(service) => drop(self.lock().insert(key, service)),
            None => drop(self.lock().remove(&key)),
        }
    }

    /// The list has been read once.
    pub fn set_synced(&self) {
        self.synced.send_replace(true);
    }

    /// Wait until the list has been read once.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as self.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Services that a pod of this namespace may see in its environment.
    #[must_use]
    pub fn visible(&self, namespace: &str) -> Vec<Service> {
        let master = ("default".to_owned(), "kubernetes".to_owned());
        let services = self.lock();
        let wanted = services.iter().filter(|(key, _)| key.0 == namespace || **key == master);
        wanted.map(|(_, service)| Service::clone(service)).collect()
    }
}
