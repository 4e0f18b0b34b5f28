//! Waiting for what becomes of one object.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::{
    Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use sampan_daemon::Backoff;
use serde::de::DeserializeOwned;

/// Follows the object called `name`, which need not be there yet, until `done` makes something of it. What fails on the
/// way to the API is tried again for as long as the caller waits; what the API refuses is an error.
pub(crate) async fn until<K, T>(
    api: &Api<K>,
    name: &str,
    mut done: impl FnMut(K) -> Result<Option<T>>,
) -> Result<T>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let fields = format!("metadata.name={name}");
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let list = match api.list(&ListParams::default().fields(&fields)).await {
            Ok(list) => list,
            Err(error) if passing(&error) => {
                tracing::debug!("{name} will be looked for again: {error}");
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("look for {name}")),
        };
        let version = list.metadata.resource_version.clone().unwrap_or_default();
        for object in list.items {
            if let Some(made) = done(object)? {
                return Ok(made);
            }
        }
        let Ok(watch) = api.watch(&WatchParams::default().fields(&fields), &version).await else {
            tokio::time::sleep(backoff.next_delay()).await;
            continue;
        };
        let mut watch = watch.boxed();
        // A server that goes meanwhile ends the watch; the next one is asked.
        while let Some(Ok(event)) = watch.next().await {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    backoff.reset();
                    if let Some(made) = done(object)? {
                        return Ok(made);
                    }
                }
                WatchEvent::Error(_) => break,
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether it may pass by itself: nobody answered, or who did has too much to do.
fn passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    }
}
