//! Every pod runs as a service account.

use std::{sync::Arc, time::Duration};

use sampan_api::{status::Status, strategy};
use serde_json::Value;

use super::Review;
use crate::{call::text, core::Core};

/// A new namespace gets its default account a moment later; a pod may wait this long for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives the pod its account and the account's token.
pub(crate) async fn pod(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    let pod = &mut review.object;
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Ok(());
    }
    let mut name = text(pod, "/spec/serviceAccountName").to_owned();
    if name.is_empty() {
        name = text(pod, "/spec/serviceAccount").to_owned();
    }
    if name.is_empty() {
        "default".clone_into(&mut name);
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("serviceAccountName".to_owned(), name.clone().into());
        spec.insert("serviceAccount".to_owned(), name.clone().into());
    }
    let namespace = review.call.namespace().unwrap_or_default();
    let Some(account) = find(core, namespace, &name).await? else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        return Err(Status::forbidden(review.resource, text(pod, "/metadata/name"), why));
    };
    strategy::apply_service_account(pod, &account);
    Ok(())
}

/// The account; the default one is waited for.
async fn find(core: &Arc<Core>, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
    let found = look(core, namespace, name).await?;
    if found.is_some() || name != "default" {
        return Ok(found);
    }
    // Listen first, then look again: what comes between the two looks is heard.
    let endpoint = core.endpoint("", "v1", "serviceaccounts")?;
    let cache = core.cache(&endpoint).await?;
    let revision = crate::verbs::list::current(core, &endpoint).await?;
    let all = Arc::new(crate::select::Selection::everything());
    let key = endpoint.key(Some(namespace), name);
    let Some(mut events) = cache.subscribe(&endpoint, key, all, revision) else { return Ok(None) };
    let found = look(core, namespace, name).await?;
    if found.is_some() {
        return Ok(found);
    }
    if events.missed.is_empty() {
        // Nothing within the time, or a closed queue: the look below tells.
        let _ = tokio::time::timeout(PATIENCE, events.queue.recv()).await;
    }
    look(core, namespace, name).await
}

async fn look(core: &Core, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
    core.look_up("", "v1", "serviceaccounts", Some(namespace), name).await
}
