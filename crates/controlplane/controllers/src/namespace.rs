//! Namespaces: one that is to go loses all that is in it first.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use sampan_daemon::clock;

use crate::apis;
use crate::cache::Caches;
use crate::discovery::{Discovered, Served};
use crate::error::{Context, Result, code};
use crate::informer::Key;
use crate::queue::Queue;
use crate::worker::Reconciler;

/// The finalizer that keeps a namespace until it is empty.
const FINALIZER: &str = "kubernetes";
/// The end of an object in the namespace is heard of; many that go together are looked at once.
const SOON: Duration = Duration::from_millis(100);
/// What is still there is looked at again after this long though nothing was heard of it, and then ever more seldom.
const RECHECK: Duration = Duration::from_secs(2);
const LAST_RECHECK: Duration = Duration::from_secs(60);

/// The controller.
pub(crate) struct Namespaces {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Key>,
    /// How often each namespace was found not to be empty, in a row and unchanged.
    looks: Mutex<HashMap<String, (u64, u32)>>,
}

/// What is left in a namespace.
#[derive(Default)]
struct Left {
    failures: Vec<String>,
    discovery_failure: Option<String>,
    /// Resource -> how many objects.
    objects: Vec<(String, usize)>,
    /// Finalizer -> on how many objects.
    finalizers: std::collections::BTreeMap<String, usize>,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.failures.is_empty() && self.discovery_failure.is_none() && self.objects.is_empty()
    }
}

impl Namespaces {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new(), looks: Mutex::default() });
        let own = this.clone();
        this.caches.namespaces.on(move |change| {
            if change.object().metadata.deletion_timestamp.is_some() {
                own.queue.add(Key::of(&change.object().metadata));
            }
        });
        this
    }

    /// An object of the namespace is gone.
    pub fn freed_in(&self, namespace: &str) {
        let key = Key::new("", namespace);
        let going = |n: Arc<Namespace>| n.metadata.deletion_timestamp.is_some();
        if self.caches.namespaces.get(&key).is_some_and(going) {
            self.queue.add_after(key, SOON);
        }
    }

    /// When to look again at what has not changed since the last looks.
    fn next_look(&self, namespace: &str, left: &Left) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&left.failures, &left.discovery_failure, &left.objects).hash(&mut hasher);
        let now = hasher.finish();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, count) = looks.entry(namespace.to_owned()).or_insert((now, 0));
        *count = if *before == now { *count + 1 } else { 1 };
        *before = now;
        RECHECK.saturating_mul(1 << (*count - 1).min(10)).min(LAST_RECHECK)
    }

    async fn empty(&self, namespace: &str) -> Left {
        let mut left = Left::default();
        let found = match Discovered::ask(&self.client).await {
            Ok(found) => found,
            Err(error) => {
                left.discovery_failure = Some(error.to_string());
                return left;
            }
        };
        // A group whose server is away keeps the namespace, not what else is in it.
        left.discovery_failure = found.failure();
        let wanted = |s: &Served| {
            // Events would only tell of the others' end.
            s.preferred && s.namespaced && s.can("delete") && s.can("list")
        };
        let resources = found.served.into_iter().filter(wanted);
        let resources = resources.map(|s| (s.resource.clone(), s.can("deletecollection")));
        // Pods first: what they run must not outlive the policies and secrets it was given.
        let (pods, others): (Vec<_>, Vec<_>) =
            resources.into_iter().partition(|(r, _)| r.group.is_empty() && r.plural == "pods");
        if pods.is_empty() {
            // A list of kinds without pods is no list to empty a namespace by.
            left.discovery_failure = Some("the API names no pods among what it serves".to_owned());
            return left;
        }
        self.empty_all(namespace, &pods, &mut left).await;
        if left.objects.is_empty() && left.failures.is_empty() {
            self.empty_all(namespace, &others, &mut left).await;
        }
        left
    }

    async fn empty_all(&self, namespace: &str, resources: &[(ApiResource, bool)], left: &mut Left) {
        let results = join_all(resources.iter().map(|(r, whole)| self.empty_one(namespace, r, *whole))).await;
        for ((resource, _), result) in resources.iter().zip(results) {
            match result {
                Ok(objects) => left.note(resource, objects),
                Err(error) => left.failures.push(error.to_string()),
            }
        }
    }

    /// Deletes all objects of one kind; returns those that stay for now, as their finalizers.
    async fn empty_one(
        &self,
        namespace: &str,
        resource: &ApiResource,
        whole: bool,
    ) -> Result<Vec<Vec<String>>> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        let what = || format!("emptying {} of namespace {namespace}", resource.plural);
        let remaining = match api.list_metadata(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) if matches!(code(&error), 404 | 405) => return Ok(Vec::new()),
            Err(error) => return Err(error).during(what),
        };
        if remaining.is_empty() {
            return Ok(Vec::new());
        }
        let params = DeleteParams::background();
        if whole {
            api.delete_collection(&params, &ListParams::default()).await.during(what)?;
        } else {
            for object in remaining.iter().filter(|o| o.metadata.deletion_timestamp.is_none()) {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                crate::error::gone_is_fine(api.delete(name, &params).await).during(what)?;
            }
        }
        let left = api.list_metadata(&ListParams::default()).await.during(what)?;
        Ok(left.items.into_iter().map(|o| o.metadata.finalizers.unwrap_or_default()).collect())
    }

    async fn finalize(&self, namespace: &Namespace, key: &Key) -> Result<()> {
        let mut done = namespace.clone();
        let spec = done.spec.get_or_insert_default();
        if let Some(finalizers) = &mut spec.finalizers {
            finalizers.retain(|f| f != FINALIZER);
        }
        let api = apis::cluster::<Namespace>(&self.client);
        let result: Result<Namespace, _> =
            api.replace_subresource("finalize", &key.name, &PostParams::default(), &done).await;
        crate::error::gone_is_fine(result).during(|| format!("finalizing namespace {key}"))
    }

    async fn report(&self, namespace: &Namespace, key: &Key, left: &Left) -> Result<()> {
        let mut updated = namespace.clone();
        let status = updated.status.get_or_insert_default();
        let conditions = conditions(status.conditions.as_deref().unwrap_or_default(), left);
        if status.conditions.as_ref() == Some(&conditions) && status.phase.as_deref() == Some("Terminating") {
            return Ok(());
        }
        status.conditions = Some(conditions);
        status.phase = Some("Terminating".into());
        let api = apis::cluster::<Namespace>(&self.client);
        let result = api.replace_status(&key.name, &PostParams::default(), &updated).await;
        result.map(drop).during(|| format!("writing the status of namespace {key}"))
    }
}

impl Left {
    fn note(&mut self, resource: &ApiResource, objects: Vec<Vec<String>>) {
        if objects.is_empty() {
            return;
        }
        let name = match resource.group.as_str() {
            "" => format!("{}.", resource.plural),
            group => format!("{}.{group}", resource.plural),
        };
        self.objects.push((name, objects.len()));
        for finalizer in objects.into_iter().flatten() {
            *self.finalizers.entry(finalizer).or_insert(0) += 1;
        }
    }
}

/// The five conditions of a namespace that is going away, in upstream's words.
fn conditions(old: &[NamespaceCondition], left: &Left) -> Vec<NamespaceCondition> {
    let objects: Vec<String> =
        left.objects.iter().map(|(name, count)| format!("{name} has {count} resource instances")).collect();
    let finalizers: Vec<String> =
        left.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let rows: [(&str, Option<String>, [&str; 2], &str); 5] = [
        (
            "NamespaceDeletionDiscoveryFailure",
            left.discovery_failure.clone(),
            ["ResourcesDiscovered", "DiscoveryFailed"],
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ["ParsedGroupVersions", "GroupVersionParsingFailed"],
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            (!left.failures.is_empty()).then(|| {
                let count = left.failures.len();
                format!(
                    "Failed to delete all resource types, {count} remaining: {}",
                    left.failures.join(", ")
                )
            }),
            ["ContentDeleted", "ContentDeletionFailed"],
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            (!objects.is_empty()).then(|| format!("Some resources are remaining: {}", objects.join(", "))),
            ["ContentRemoved", "SomeResourcesRemain"],
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then(|| {
                format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "))
            }),
            ["ContentHasNoFinalizers", "SomeFinalizersRemain"],
            "All content-preserving finalizers finished",
        ),
    ];
    let mut list: Vec<NamespaceCondition> =
        old.iter().filter(|c| rows.iter().all(|row| row.0 != c.type_)).cloned().collect();
    for (kind, problem, [fine, bad], text) in rows {
        let status = if problem.is_some() { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == kind && c.status == status);
        list.push(NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(if problem.is_some() { bad } else { fine }.into()),
            message: Some(problem.unwrap_or_else(|| text.into())),
            last_transition_time: before
                .map_or_else(|| Some(Time(clock::now())), |c| c.last_transition_time.clone()),
        });
    }
    list
}

impl Reconciler for Namespaces {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        // What the cache says may be old; what is deleted here does not come back.
        let api = apis::cluster::<Namespace>(&self.client);
        let Some(namespace) = api.get_opt(&key.name).await.during(|| format!("reading namespace {key}"))?
        else {
            return Ok(None);
        };
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        let left = self.empty(&key.name).await;
        if left.is_empty() {
            self.finalize(&namespace, key).await?;
            self.looks.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Ok(None);
        }
        self.report(&namespace, key, &left).await?;
        Ok(Some(self.next_look(&key.name, &left)))
    }
}
