//! A definition that goes takes its objects along: all are deleted, and it goes when none is left.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use sampan_api::{custom::Definition, status::Status};
use sampan_daemon::{Backoff, Policy};
use sampan_store::{Range, prefix_end};
use serde_json::{Value, json};

use super::{FINALIZER, names::condition};
use crate::{bootstrap::Client, core::Core, local::LocalService, storage::store_error, user::UserInfo};

/// Deletes the objects of a definition in the background, then lets it go.
pub(super) fn start(core: &Arc<Core>, name: &str, definition: Option<Arc<Definition>>) {
    let policy = Policy::Restart(Backoff::new(Duration::from_millis(200), Duration::from_secs(30)));
    let (core, name) = (core.clone(), name.to_owned());
    let supervisor = core.supervisor.clone();
    supervisor.supervise(format!("custom-kind-cleanup/{name}"), policy, move || {
        let (core, name, definition) = (core.clone(), name.clone(), definition.clone());
        async move { run(&core, &name, definition.as_deref()).await }
    });
}

async fn run(core: &Arc<Core>, name: &str, definition: Option<&Definition>) -> Result<(), Status> {
    let Some(definition) = definition else {
        let change = |object: &mut Value| {
            condition(object, "Terminating", false, "NeverEstablished", "resource was never established");
            release(object);
        };
        return core.edit_definition(name, change).await;
    };
    core.edit_definition(name, |object| {
        let message = "CustomResource deletion is in progress";
        condition(object, "Terminating", true, "InstanceDeletionInProgress", message);
    })
    .await?;
    if let Err(status) = empty(core, definition).await {
        let message = format!("could not issue all deletes: {}", status.message);
        let change =
            |object: &mut Value| condition(object, "Terminating", true, "InstanceDeletionFailed", &message);
        core.edit_definition(name, change).await?;
        return Err(status);
    }
    core.edit_definition(name, |object| {
        condition(object, "Terminating", false, "InstanceDeletionCompleted", "removed all instances");
        release(object);
    })
    .await
}

fn release(object: &mut Value) {
    if let Some(list) = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        list.retain(|finalizer| finalizer != FINALIZER);
    }
}

/// Deletes every object, and waits until those that something holds are gone too.
async fn empty(core: &Arc<Core>, definition: &Definition) -> Result<(), Status> {
    let prefix = Bytes::from(format!("/registry/{}/{}/", definition.group, definition.plural));
    let end = prefix_end(&prefix);
    let all = |count_only| Range { start: prefix.clone(), end: end.clone(), count_only, ..Range::default() };
    let found = core.store().range(all(false)).await.map_err(|e| store_error(&e))?;
    if found.kvs.is_empty() {
        return Ok(());
    }
    let version = definition.versions.iter().find(|v| v.served).map(|v| v.kind.resource());
    let Some(resource) = version else {
        return Err(Status::internal(
            "no version is served (hint: serve one, so that its objects can be deleted)",
        ));
    };
    let mut places: BTreeSet<String> = BTreeSet::new();
    for kv in &found.kvs {
        let rest = kv.key.get(prefix.len()..).and_then(|rest| std::str::from_utf8(rest).ok());
        let namespace = rest.and_then(|rest| rest.split_once('/')).map(|(namespace, _)| namespace);
        places.insert(match namespace.filter(|_| resource.namespaced) {
            Some(namespace) => format!(
                "/apis/{}/{}/namespaces/{namespace}/{}",
                resource.group, resource.version, resource.plural
            ),
            None => format!("/apis/{}/{}/{}", resource.group, resource.version, resource.plural),
        });
    }
    let client = Client::new(LocalService::new(core.clone(), UserInfo::admin("system:apiserver")));
    for place in places {
        client.send("DELETE", &place, &json!({})).await?;
    }
    let mut watch = core
        .store()
        .watch(prefix.clone(), end.clone(), found.revision + 1, true)
        .await
        .map_err(|e| store_error(&e))?;
    loop {
        let left = core.store().range(all(true)).await.map_err(|e| store_error(&e))?;
        if left.count == 0 {
            return Ok(());
        }
        match watch.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(store_error(&error)),
            None => return Err(Status::service_unavailable("the store ended the watch")),
        }
    }
}
