//! Clients in the shapes that controllers use.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use sampan_daemon::clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Context, Result, gone_is_fine};
use crate::informer::{Informer, Key};

/// The API of one namespace.
pub(crate) fn namespaced<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), namespace)
}

/// The API of a kind without namespaces.
pub(crate) fn cluster<K>(client: &Client) -> Api<K>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>,
{
    Api::all(client.clone())
}

/// A merge patch of an object in a namespace; the cache learns of it at once.
pub(crate) async fn merge<K>(client: &Client, cache: &Informer<K>, key: &Key, patch: &Value) -> Result<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<K> = namespaced(client, &key.namespace);
    let result = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let patched = result.during(|| format!("patching {} {key}", K::kind(&())))?;
    cache.absorb(patched.clone());
    Ok(patched)
}

/// A strategic merge patch of the status of an object in a namespace.
pub(crate) async fn patch_status<K>(client: &Client, key: &Key, patch: &Value) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = namespaced(client, &key.namespace);
    let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    result.map(drop).during(|| format!("patching the status of {} {key}", K::kind(&())))
}

/// A merge patch of the status of exactly this object, not of a namesake that followed it; the cache learns of it at once.
pub(crate) async fn merge_status<K>(
    api: &Api<K>,
    cache: &Informer<K>,
    meta: &ObjectMeta,
    status: &(impl Serialize + Sync),
) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let key = Key::of(meta);
    let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
    let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    cache.absorb(result.during(|| format!("writing the status of {} {key}", K::kind(&())))?);
    Ok(())
}

/// Replaces the status of an object in a namespace; its resourceVersion guards against races, and the cache
/// learns of it at once.
pub(crate) async fn replace_status<K>(client: &Client, cache: &Informer<K>, object: &K) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let key = Key::of(object.meta());
    let api: Api<K> = namespaced(client, &key.namespace);
    let result = api.replace_status(&key.name, &PostParams::default(), object).await;
    cache.absorb(result.during(|| format!("writing the status of {} {key}", K::kind(&())))?);
    Ok(())
}

/// Deletes exactly this object, not a namesake that followed it; that it is gone already is fine. Whether it was there.
pub(crate) async fn delete<K>(client: &Client, object: &K) -> Result<bool>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let key = Key::of(object.meta());
    let api: Api<K> = namespaced(client, &key.namespace);
    let preconditions = Preconditions { uid: object.meta().uid.clone(), resource_version: None };
    let result = api.delete(&key.name, &DeleteParams::background().preconditions(preconditions)).await;
    let there = result.is_ok();
    gone_is_fine(result).during(|| format!("deleting {} {key}", K::kind(&())))?;
    Ok(there)
}

/// Makes exactly this pod leave, in the time that it may take: why is said in its condition `DisruptionTarget` before. Whether it
/// was there.
pub(crate) async fn disrupt(client: &Client, pod: &Pod, reason: &str, message: &str) -> Result<bool> {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": clock::rfc3339(clock::now()),
    });
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    match patch_status::<Pod>(client, &Key::of(&pod.metadata), &patch).await {
        Err(error) if error.is_gone() => return Ok(false),
        other => other?,
    }
    delete(client, pod).await
}
