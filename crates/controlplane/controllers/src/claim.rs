//! Which objects belong to a controller: by owner reference, adopting orphans and releasing what no longer matches.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use sampan_planner::pods;
use sampan_planner::selector::Selector;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cache::{orphans_in, owned_by};
use crate::error::{Context, Result, code};
use crate::informer::{Change, Informer, Key};

/// An owner reference that makes `owner` the controller.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: pods::name(owner.meta()).to_owned(),
        uid: pods::uid(owner.meta()).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The keys of the owners that have to hear of a change: the controller as it is and as it was.
pub(crate) fn owners_of<K, O>(change: &Change<'_, K>) -> impl Iterator<Item = Key>
where
    K: Resource<DynamicType = ()>,
    O: Resource<DynamicType = ()>,
{
    let now = owner_key::<O>(change.object().meta());
    let before =
        change.old().and_then(|old| owner_key::<O>(old.meta())).filter(|old| Some(old) != now.as_ref());
    now.into_iter().chain(before)
}

/// The owners of a namespace that may want to adopt an object that nobody controls.
pub(crate) fn adopters<K, O>(
    change: &Change<'_, K>,
    owners: &Informer<O>,
    selector: impl Fn(&O) -> Selector,
) -> Vec<Key>
where
    K: Resource<DynamicType = ()>,
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let meta = change.object().meta();
    if pods::controller(meta).is_some() || matches!(change, Change::Deleted(_)) {
        return Vec::new();
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let all = owners.in_namespace(namespace).into_iter();
    let wanting = all.filter(|owner| selector(owner).matches(meta.labels.as_ref()));
    wanting.map(|owner| Key::of(owner.meta())).collect()
}

/// The key of the controller of an object, when it is of that kind.
pub(crate) fn owner_key<K: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Option<Key> {
    let owner = pods::controller(meta)?;
    let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let same = owner.kind == K::kind(&()) && group(&owner.api_version) == K::group(&());
    same.then(|| Key::new(meta.namespace.as_deref().unwrap_or_default(), &owner.name))
}

/// What else decides whose an object is.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'r> {
    /// Objects that cannot be the owner's, whatever their labels.
    pub admits: &'r (dyn Fn(&ObjectMeta) -> bool + Sync),
    /// What adopted objects carry, and released ones lose.
    pub finalizer: Option<&'static str>,
}

impl Rules<'_> {
    /// The selector decides alone.
    pub const PLAIN: Self = Self { admits: &|_| true, finalizer: None };
}

/// The objects of `cache` that `owner` controls. Orphans that its selector matches are adopted, what it controls
/// and no longer matches is released.
pub(crate) async fn claim<O, K>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    cache: &Informer<K>,
    rules: Rules<'_>,
) -> Result<Vec<Arc<K>>>
where
    O: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let uid = pods::uid(owner.meta());
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let deleting = owner.meta().deletion_timestamp.is_some();
    let matches =
        |object: &K| selector.matches(object.meta().labels.as_ref()) && (rules.admits)(object.meta());
    let mut claimed = Vec::new();
    for object in cache.indexed(&owned_by(uid)) {
        if matches(&object) {
            claimed.push(object);
        } else if !deleting {
            release(client, cache, &*object, uid, rules).await?;
        }
    }
    if deleting || selector.is_everything() {
        return Ok(claimed);
    }
    let mut orphans = cache.selected(&orphans_in(namespace), |labels| selector.matches(labels));
    orphans.retain(|object| object.meta().deletion_timestamp.is_none() && matches(object));
    // The cache may be behind: an owner that is being deleted adopts nothing.
    if orphans.is_empty() || !is_alive(client, owner).await? {
        return Ok(claimed);
    }
    for object in orphans {
        claimed.extend(adopt(client, cache, &*object, controller_reference(owner), rules).await?);
    }
    Ok(claimed)
}

/// Whether the owner, and not a namesake, is there to stay, as the API knows it.
async fn is_alive<O>(client: &Client, owner: &O) -> Result<bool>
where
    O: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let key = Key::of(owner.meta());
    let api: Api<O> = Api::namespaced(client.clone(), &key.namespace);
    let fresh = api.get_metadata_opt(&key.name).await;
    let fresh = fresh.during(|| format!("reading {} {key}", O::kind(&())))?;
    Ok(fresh.is_some_and(|f| f.metadata.uid == owner.meta().uid && f.metadata.deletion_timestamp.is_none()))
}

async fn release<K>(
    client: &Client,
    cache: &Informer<K>,
    object: &K,
    owner_uid: &str,
    rules: Rules<'_>,
) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let mut patch = json!({"ownerReferences": [{"$patch": "delete", "uid": owner_uid}]});
    if let Some(finalizer) = rules.finalizer {
        patch["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    patch_metadata(client, cache, object, patch).await.map(drop)
}

async fn adopt<K>(
    client: &Client,
    cache: &Informer<K>,
    object: &K,
    reference: OwnerReference,
    rules: Rules<'_>,
) -> Result<Option<Arc<K>>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let mut patch = json!({"ownerReferences": [reference]});
    if let Some(finalizer) = rules.finalizer {
        patch["finalizers"] = json!([finalizer]);
    }
    patch_metadata(client, cache, object, patch).await
}

/// The object as it is then, when it was still there to be patched; its uid guards against a namesake.
async fn patch_metadata<K>(
    client: &Client,
    cache: &Informer<K>,
    object: &K,
    mut patch: serde_json::Value,
) -> Result<Option<Arc<K>>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let meta = object.meta();
    let key = Key::of(meta);
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    patch["uid"] = json!(meta.uid);
    let patch = json!({"metadata": patch});
    match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(patched) => {
            cache.absorb(patched);
            Ok(cache.get(&key))
        }
        Err(error) if matches!(code(&error), 404 | 422) => Ok(None),
        Err(error) => Err(error).during(|| format!("changing the owners of {} {key}", K::kind(&()))),
    }
}
