//! What the API hears of this machine's zones: one object of the node's name, written when it changes.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use sampan_planner::numa::NodeTopology;

use crate::context::Context;
use crate::node::owner;

/// Between two writes, at least: pods come and go in crowds.
const BETWEEN: Duration = Duration::from_millis(200);

/// A file that is there while the API has heard of zones: whoever has none any more takes that back.
fn note(ctx: &Context) -> PathBuf {
    ctx.options.pods_dir.with_file_name("zones-told")
}

/// Whether the API was told of zones by a process before this one.
pub fn was_told(ctx: &Context) -> bool {
    note(ctx).exists()
}

/// Tell it how things are, again and again.
pub async fn keep(ctx: &Context) -> Result<(), kube::Error> {
    let mut changes = ctx.zones.changes.subscribe();
    let api: Api<NodeTopology> = Api::all(ctx.options.client.clone());
    let name = &ctx.options.node_name;
    let nodes = Api::<Node>::all(ctx.options.client.clone());
    if let Err(error) = std::fs::write(note(ctx), b"") {
        tracing::warn!(%error, "what the API is told of zones stays there when zones are not told any more");
    }
    let mut told = None;
    loop {
        changes.borrow_and_update();
        let mut said = ctx.zones.report(name);
        // It goes with the node, which may be another one by now.
        let node = nodes.get(name).await?;
        said.metadata.owner_references = Some(vec![owner(&node)]);
        if told.as_ref() != Some(&said) {
            match api.patch(name, &PatchParams::default(), &Patch::Merge(&said)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    drop(api.create(&PostParams::default(), &said).await?);
                }
                other => drop(other?),
            }
            told = Some(said);
            tokio::time::sleep(BETWEEN).await;
        }
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// There are no zones to tell of any more.
pub async fn withdraw(ctx: &Context) -> Result<(), kube::Error> {
    let api: Api<NodeTopology> = Api::all(ctx.options.client.clone());
    match api.delete(&ctx.options.node_name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other?),
    }
    if let Err(error) = std::fs::remove_file(note(ctx)) {
        tracing::debug!(%error, "the next start looks again");
    }
    Ok(())
}
