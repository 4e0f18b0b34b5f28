//! Garbage: objects whose owners are gone, in the background, in the foreground, or orphaned instead.

mod graph;
mod monitors;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use sampan_daemon::Supervisor;
use serde_json::{Value, json};

use self::graph::{Graph, Identity, Node, Work};
use self::monitors::Kinds;
use crate::cache::Caches;
use crate::error::{Context, Error, Result, gone_is_fine};
use crate::events::Recorder;
use crate::queue::Queue;
use crate::worker::Reconciler;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// The garbage collector.
pub(crate) struct Garbage {
    client: Client,
    graph: Mutex<Graph>,
    kinds: Kinds,
    queue: Queue<Work>,
    events: Recorder,
    /// Told of the namespace of each object that is gone.
    freed: Box<dyn Fn(&str) + Send + Sync>,
}

impl Garbage {
    pub fn new(
        client: Client,
        caches: &Caches,
        events: &Recorder,
        freed: impl Fn(&str) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let this = Arc::new(Self {
            client,
            graph: Mutex::new(Graph::default()),
            kinds: Kinds::default(),
            queue: Queue::new(),
            events: events.of("garbage-collector-controller"),
            freed: Box::new(freed),
        });
        monitors::listen(&this, caches);
        this
    }

    /// Watches every served kind that no cache holds; returns once all of them are known.
    pub async fn watch(self: &Arc<Self>, supervisor: &Supervisor) {
        monitors::watch(self, supervisor).await;
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, work: Vec<Work>) {
        work.into_iter().for_each(|work| self.queue.add(work));
    }

    fn api(&self, id: &Identity) -> Result<Api<DynamicObject>> {
        let kind = self.kinds.get(&id.api_version, &id.kind).ok_or_else(|| Error::Object {
            object: id.to_string(),
            problem: "its kind is not served (hint: is its CustomResourceDefinition gone?)".to_owned(),
        })?;
        let client = self.client.clone();
        Ok(match id.namespace.as_deref().filter(|_| kind.namespaced) {
            Some(namespace) => Api::namespaced_with(client, namespace, &kind.resource),
            None => Api::all_with(client, &kind.resource),
        })
    }

    /// The metadata of exactly this object, when it still exists.
    async fn live(&self, id: &Identity) -> Result<Option<ObjectMeta>> {
        let found = self.api(id)?.get_metadata_opt(&id.name).await.during(|| format!("reading {id}"))?;
        Ok(found.map(|o| o.metadata).filter(|meta| meta.uid.as_deref() == Some(&*id.uid)))
    }

    async fn patch(&self, id: &Identity, meta: &ObjectMeta, change: Value) -> Result<()> {
        let mut patch = json!({"metadata": {"uid": &*id.uid, "resourceVersion": meta.resource_version}});
        if let (Some(into), Value::Object(change)) = (patch["metadata"].as_object_mut(), change) {
            into.extend(change);
        }
        let api = self.api(id)?;
        let result = api.patch_metadata(&id.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_fine(result).during(|| format!("patching {id}"))
    }

    async fn delete(
        &self,
        id: &Identity,
        resource_version: Option<String>,
        policy: PropagationPolicy,
    ) -> Result<()> {
        // Somebody may adopt it this very moment.
        let preconditions = Preconditions { uid: Some(id.uid.to_string()), resource_version };
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        let result = self.api(id)?.delete(&id.name, &params.preconditions(preconditions)).await;
        gone_is_fine(result).during(|| format!("deleting {id}"))
    }

    async fn remove_finalizer(&self, id: &Identity, finalizer: &str) -> Result<()> {
        let Some(meta) = self.live(id).await? else { return Ok(()) };
        let all = meta.finalizers.clone().unwrap_or_default();
        let left: Vec<String> = all.iter().filter(|f| *f != finalizer).cloned().collect();
        if left.len() == all.len() {
            return Ok(());
        }
        self.patch(id, &meta, json!({"finalizers": left})).await
    }

    async fn collect(&self, uid: &str) -> Result<()> {
        let Some(node) = self.graph().get(uid).cloned() else { return Ok(()) };
        if node.is_virtual {
            return self.verify(&node).await;
        }
        if node.deletes_dependents {
            return self.delete_dependents(&node).await;
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(());
        }
        let certain = self.graph().certain_garbage(&node);
        if let Some(version) = certain {
            match self.delete(&node.id, Some(version.to_string()), PropagationPolicy::Background).await {
                // It has changed: it is read and judged.
                Err(error) if error.is_race() => {}
                done => return done,
            }
        }
        let Some(meta) = self.live(&node.id).await? else {
            let work = self.graph().gone(uid);
            self.enqueue(work);
            return Ok(());
        };
        if meta.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.judge(&node, &meta).await
    }

    /// An owner that somebody named but nobody has seen.
    async fn verify(&self, node: &Node) -> Result<()> {
        let known = self.kinds.get(&node.id.api_version, &node.id.kind).is_some();
        if known && self.live(&node.id).await?.is_none() {
            let work = self.graph().gone(&node.id.uid);
            self.enqueue(work);
        }
        Ok(())
    }

    async fn delete_dependents(&self, node: &Node) -> Result<()> {
        let (blocking, idle) = self.graph().blocking(&node.id.uid);
        if blocking == 0 {
            return self.remove_finalizer(&node.id, FOREGROUND).await;
        }
        for uid in idle {
            self.queue.add(Work::Collect(uid));
        }
        Ok(())
    }

    /// Decides about one object by what became of its owners.
    async fn judge(&self, node: &Node, meta: &ObjectMeta) -> Result<()> {
        let (mut solid, mut waiting, mut drop) = (0, 0, Vec::new());
        for owner in meta.owner_references.iter().flatten() {
            match self.state_of(node, owner).await? {
                State::Solid => solid += 1,
                State::DeletesDependents => {
                    waiting += 1;
                    drop.push(owner.uid.clone());
                }
                State::Absent => drop.push(owner.uid.clone()),
                State::Nowhere => return Ok(()),
            }
        }
        if meta.owner_references.iter().flatten().next().is_none() {
            return Ok(());
        }
        if solid > 0 {
            if drop.is_empty() {
                return Ok(());
            }
            return self.drop_owners(&node.id, meta, &drop).await;
        }
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        let policy = if waiting > 0 && self.graph().has_dependents(&node.id.uid) {
            self.unblock(node).await?;
            PropagationPolicy::Foreground
        } else if has(ORPHAN) {
            PropagationPolicy::Orphan
        } else if has(FOREGROUND) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        self.delete(&node.id, meta.resource_version.clone(), policy).await
    }

    /// Two that wait for each other would wait for ever: a dependent that deletes its own no longer blocks.
    async fn unblock(&self, node: &Node) -> Result<()> {
        let circular = self.graph().deleting_dependents_of(&node.id.uid);
        for id in circular {
            let Some(meta) = self.live(&id).await? else { continue };
            let mut references = meta.owner_references.clone().unwrap_or_default();
            for reference in references.iter_mut().filter(|r| r.uid == *node.id.uid) {
                reference.block_owner_deletion = Some(false);
            }
            self.patch(&id, &meta, json!({"ownerReferences": references})).await?;
        }
        Ok(())
    }

    async fn drop_owners(&self, id: &Identity, meta: &ObjectMeta, uids: &[String]) -> Result<()> {
        let all = meta.owner_references.iter().flatten();
        let left: Vec<&OwnerReference> = all.filter(|r| !uids.contains(&r.uid)).collect();
        self.patch(id, meta, json!({"ownerReferences": left})).await
    }

    async fn state_of(&self, node: &Node, owner: &OwnerReference) -> Result<State> {
        let id = Identity::of_owner(owner, node.id.namespace.as_deref());
        let kind = self.kinds.get(&owner.api_version, &owner.kind);
        if node.id.namespace.is_none() && kind.as_ref().is_some_and(|kind| kind.namespaced) {
            self.tell_invalid(node, owner);
            return Ok(State::Nowhere);
        }
        let known = self.graph().get(&owner.uid).filter(|n| !n.is_virtual).cloned();
        if let Some(known) = known {
            let elsewhere = known.is_elsewhere(node);
            if elsewhere {
                self.tell_invalid(node, owner);
            }
            return Ok(match (elsewhere, known.deletes_dependents) {
                (true, _) => State::Absent,
                (false, true) => State::DeletesDependents,
                (false, false) => State::Solid,
            });
        }
        if self.graph().is_gone(&owner.uid) {
            return Ok(State::Absent);
        }
        // Of a kind that is not served nobody can say whether its objects are gone.
        if kind.is_none() {
            return Ok(State::Solid);
        }
        Ok(if self.live(&id).await?.is_some() { State::Solid } else { State::Absent })
    }

    fn tell_invalid(&self, node: &Node, owner: &OwnerReference) {
        let namespace = node.id.namespace.as_deref().unwrap_or_default();
        let text = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        self.events.about(reference(&node.id), "OwnerRefInvalidNamespace", text);
    }

    async fn orphan(&self, uid: &str) -> Result<()> {
        let (node, dependents) = {
            let graph = self.graph();
            let Some(node) = graph.get(uid).cloned() else { return Ok(()) };
            (node, graph.dependents(uid))
        };
        let uids = [uid.to_owned()];
        try_join_all(dependents.iter().map(|id| self.orphan_one(id, &uids))).await?;
        self.remove_finalizer(&node.id, ORPHAN).await
    }

    async fn orphan_one(&self, id: &Identity, uids: &[String]) -> Result<()> {
        match self.live(id).await? {
            Some(meta) => self.drop_owners(id, &meta, uids).await,
            None => Ok(()),
        }
    }
}

/// The object as events refer to it.
fn reference(id: &Identity) -> ObjectReference {
    ObjectReference {
        api_version: Some(id.api_version.to_string()),
        kind: Some(id.kind.to_string()),
        namespace: id.namespace.as_deref().map(str::to_owned),
        name: Some(id.name.to_string()),
        uid: Some(id.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// What became of an owner.
enum State {
    Solid,
    DeletesDependents,
    Absent,
    /// What is in no namespace cannot have it for an owner: nobody can say whether it is gone, and nothing follows.
    Nowhere,
}

impl Reconciler for Garbage {
    type Key = Work;

    fn queue(&self) -> &Queue<Work> {
        &self.queue
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>> {
        match work {
            Work::Collect(uid) => self.collect(uid).await?,
            Work::Orphan(uid) => self.orphan(uid).await?,
        }
        Ok(None)
    }
}
