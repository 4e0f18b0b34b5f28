//! Which objects belong to a controller: by owner reference, adopting orphans and releasing what no longer matches.

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
use crate::informer::{Informer, Key};

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

/// The key of the controller of an object, when it is of that kind.
pub(crate) fn owner_key<K: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Option<Key> {
    let owner = pods::controller(meta)?;
    let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let same = owner.kind == K::kind(&()) && group(&owner.api_version) == K::group(&());
    same.then(|| Key::new(meta.namespace.as_deref().unwrap_or_default(), &owner.name))
}

/// The objects of `cache` that `owner` controls. Orphans that its selector matches are adopted, what it controls
/// and no longer matches is released.
pub(crate) async fn claim<O, K>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    cache: &Informer<K>,
) -> Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = ()>,
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let uid = pods::uid(owner.meta());
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let deleting = owner.meta().deletion_timestamp.is_some();
    let mut claimed = Vec::new();
    for object in cache.indexed(&owned_by(uid)) {
        if selector.matches(object.meta().labels.as_ref()) {
            claimed.push(object);
        } else if !deleting {
            release(client, &*object, uid).await?;
        }
    }
    if deleting || selector.is_everything() {
        return Ok(claimed);
    }
    for object in cache.indexed(&orphans_in(namespace)) {
        let meta = object.meta();
        if meta.deletion_timestamp.is_none()
            && selector.matches(meta.labels.as_ref())
            && adopt(client, &*object, controller_reference(owner)).await?
        {
            claimed.push(object);
        }
    }
    Ok(claimed)
}

async fn release<K>(client: &Client, object: &K, owner_uid: &str) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let references = json!([{"$patch": "delete", "uid": owner_uid}]);
    patch_references(client, object, references).await.map(drop)
}

async fn adopt<K>(client: &Client, object: &K, reference: OwnerReference) -> Result<bool>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    patch_references(client, object, json!([reference])).await
}

/// Whether the object was still there to be patched; its uid guards against a namesake.
async fn patch_references<K>(client: &Client, object: &K, references: serde_json::Value) -> Result<bool>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let meta = object.meta();
    let key = Key::of(meta);
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let patch = json!({"metadata": {"uid": meta.uid, "ownerReferences": references}});
    match api.patch_metadata(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(code(&error), 404 | 422) => Ok(false),
        Err(error) => Err(error).during(|| format!("changing the owners of {} {key}", K::kind(&()))),
    }
}
