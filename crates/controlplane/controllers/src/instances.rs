//! InstanceTypes: nodes carry what their type says, and types say how they are used.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Patch, PatchParams};
use sampan_daemon::{Supervisor, clock};
use sampan_planner::instances::{self, InstanceShape, InstanceType};
use sampan_planner::pods;
use serde_json::json;

use crate::apis;
use crate::cache::{Caches, of_type};
use crate::error::{Context, Result};
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::{self, Reconciler};

/// What is counted of a type is written at most so often.
const REST: Duration = Duration::from_secs(1);

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// What a node carries.
    Node(String),
    /// How a type is used.
    Type(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Type(name) => write!(f, "InstanceType {name}"),
        }
    }
}

/// The controller.
pub(crate) struct Instances {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Work>,
}

impl Instances {
    /// Follows what happens, and works from the moment on at which it is known which types there are: without them nodes would
    /// lose what they were given.
    pub fn start(supervisor: &Supervisor, client: Client, caches: Arc<Caches>, events: &Recorder) {
        let events = events.of("instance-types");
        let this = Arc::new(Self { client, caches, events, queue: Queue::new() });
        let own = this.clone();
        this.caches.instance_types.on(move |change| own.type_changed(change));
        let own = this.clone();
        this.caches.nodes.on(move |change| own.node_changed(change));
        let own = this.clone();
        this.caches.pods.on(move |change| own.pod_changed(change));
        let inner = supervisor.clone();
        supervisor.spawn("instance-types-start", async move {
            futures::join!(this.caches.instance_types.synced(), this.caches.nodes.synced());
            worker::run(&inner, "instance-types", 4, this);
        });
    }

    fn type_changed(&self, change: &Change<'_, InstanceType>) {
        let kind = change.object();
        let name = pods::name(&kind.metadata);
        let gone = matches!(change, Change::Deleted(_));
        if change.old().is_some_and(|old| !gone && old.spec == kind.spec) {
            return;
        }
        if gone {
            let count = self.used(name);
            if count > 0 {
                let text =
                    format!("{count} pods have its size and keep it; new ones that ask for it are refused");
                self.events.warning(&**kind, "DeletedWhileUsed", text);
            }
        }
        self.queue.add(Work::Type(name.to_owned()));
        for node in self.caches.nodes.all() {
            self.queue.add(Work::Node(pods::name(&node.metadata).to_owned()));
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        let types = self.caches.instance_types.all();
        if !instances::concerns(node, !types.is_empty()) {
            return;
        }
        let capacity = |node: &Node| node.status.as_ref().and_then(|status| status.capacity.clone());
        let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
        let same = change.old().is_some_and(|old| {
            old.metadata.labels == node.metadata.labels
                && old.metadata.annotations == node.metadata.annotations
                && capacity(old) == capacity(node)
                && taints(old) == taints(node)
        });
        if same && !matches!(change, Change::Deleted(_)) {
            return;
        }
        self.queue.add(Work::Node(pods::name(&node.metadata).to_owned()));
        for kind in types {
            self.queue.add_after(Work::Type(pods::name(&kind.metadata).to_owned()), REST);
        }
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let Some(name) = instances::of_pod(&pod.metadata) else { return };
        let counted = change.old().is_some_and(|old| pods::active(old));
        if counted != (pods::active(pod) && !matches!(change, Change::Deleted(_))) {
            self.queue.add_after(Work::Type(name.to_owned()), REST);
        }
    }

    /// All types that make sense.
    fn shapes(&self) -> Vec<InstanceShape> {
        self.caches.instance_types.all().iter().filter_map(|kind| kind.shape().ok()).collect()
    }

    /// How many pods have the size of a type.
    fn used(&self, name: &str) -> usize {
        self.caches.pods.indexed(&of_type(name)).iter().filter(|pod| pods::active(pod)).count()
    }

    async fn node(&self, name: &str) -> Result<()> {
        let Some(node) = self.caches.nodes.get(&Key::new("", name)) else { return Ok(()) };
        let Some(mut patch) = instances::patch(&node, &self.shapes()) else { return Ok(()) };
        // Against the version that was read: what others write meanwhile is not undone.
        patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
        let api = apis::cluster::<Node>(&self.client);
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        let patched = patched.during(|| format!("giving node {name} what its InstanceType says"))?;
        self.caches.nodes.absorb(patched);
        Ok(())
    }

    async fn kind(&self, name: &str) -> Result<()> {
        let Some(kind) = self.caches.instance_types.get(&Key::new("", name)) else { return Ok(()) };
        let shapes = self.shapes();
        let is_of = |node: &&Arc<Node>| instances::type_of(node, &shapes).is_some_and(|s| s.name == name);
        let nodes = self.caches.nodes.all().iter().filter(is_of).count();
        let Some(status) = kind.status_for(nodes, self.used(name), &clock::rfc3339(clock::now())) else {
            return Ok(());
        };
        let was_ready = kind.status.iter().flat_map(|s| &s.conditions).all(|c| c.status == "True");
        for condition in status.conditions.iter().filter(|c| c.status != "True" && was_ready) {
            self.events.warning(&*kind, &condition.reason, condition.message.clone());
        }
        let api = apis::cluster(&self.client);
        apis::merge_status(&api, &self.caches.instance_types, &kind.metadata, &status).await
    }
}

impl Reconciler for Instances {
    type Key = Work;

    const LONGEST_REST: Duration = REST;

    fn queue(&self) -> &Queue<Work> {
        &self.queue
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>> {
        match work {
            Work::Node(name) => self.node(name).await?,
            Work::Type(name) => self.kind(name).await?,
        }
        Ok(None)
    }
}
