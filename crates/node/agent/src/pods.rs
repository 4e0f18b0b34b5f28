//! Which pods this node has: the watch that starts workers, taking over from an earlier process, and cleaning up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use sampan_container::{Event, Events, PodSandbox};
use sampan_daemon::{Backoff, Policy};

use crate::context::Context;
use crate::options::Error;
use crate::pod::record::PodRecord;
use crate::pod::spec;
use crate::worker::{Adopted, Message, Worker};

/// What an earlier process left, until the first list says whose it is.
#[derive(Default)]
struct Left {
    sandboxes: HashMap<String, PodSandbox>,
    records: HashMap<String, PodRecord>,
    /// Names under which images were held. Read before any worker runs, so that none of theirs is among them.
    holders: Vec<String>,
}

/// Take over what runs, then follow the API.
pub async fn start(ctx: &Arc<Context>) -> Result<(), Error> {
    // Events are subscribed to before adoption, so that no end of a container falls between the two.
    let events = ctx.options.runtime.events();
    let mut left = Left::default();
    for adopted in ctx.options.runtime.adopt().await? {
        left.sandboxes.insert(adopted.sandbox.id().to_owned(), adopted.sandbox);
    }
    let records = ctx.options.run_dir.join("records");
    left.records = ctx.supervisor.blocking(move || load(&records)).await;
    match ctx.options.images.holders().await {
        Ok(holders) => left.holders = holders.into_iter().map(|holder| holder.holder).collect(),
        Err(error) => tracing::warn!(%error, "image holds not listed; stale ones stay until the next start"),
    }
    let (token, routing) = (ctx.supervisor.token(), Arc::clone(ctx));
    ctx.supervisor.spawn("container-events", async move {
        tokio::select! {
            () = route(routing, events) => {}
            () = token.cancelled() => {}
        }
    });
    let mut left = Some(left);
    let watching = Arc::clone(ctx);
    let policy = Policy::Restart(Backoff::default());
    ctx.supervisor.supervise("pods", policy, move || follow(Arc::clone(&watching), left.take()));
    Ok(())
}

fn load(dir: &std::path::Path) -> HashMap<String, PodRecord> {
    let mut records = HashMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            // Half of a write that was cut short.
            let _ = std::fs::remove_file(path);
            continue;
        }
        let parsed =
            std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<PodRecord>(&bytes).ok());
        match parsed {
            Some(record) => drop(records.insert(record.uid.clone(), record)),
            None => {
                tracing::warn!(path = %path.display(), "unreadable pod record; continuing from the API's status")
            }
        }
    }
    records
}

/// Tell workers what happens to their containers.
async fn route(ctx: Arc<Context>, mut events: Events) {
    while let Some(event) = events.next().await {
        let (pod, message) = match event {
            Event::Exited { pod, container, exit } => (pod, Message::Exited(container, exit)),
            Event::SandboxLost { pod } => (pod, Message::SandboxLost),
            Event::Lagged => {
                for entry in ctx.pods.all() {
                    // A worker that is gone needs no news.
                    let _ = entry.inbox.send(Message::Resync).await;
                }
                continue;
            }
        };
        if let Some(entry) = ctx.pods.get(&pod) {
            let _ = entry.inbox.send(message).await;
        }
    }
}

async fn follow(ctx: Arc<Context>, mut left: Option<Left>) -> Result<(), std::convert::Infallible> {
    let api: Api<Pod> = Api::all(ctx.options.client.clone());
    let mine = format!("spec.nodeName={}", ctx.options.node_name);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().fields(&mine)).default_backoff());
    let mut listed: HashSet<String> = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.insert(spec::uid(&pod).to_owned());
                apply(&ctx, pod, left.as_mut()).await;
            }
            Ok(watcher::Event::Apply(pod)) => apply(&ctx, pod, None).await,
            Ok(watcher::Event::Delete(pod)) => gone(&ctx, spec::uid(&pod)).await,
            Ok(watcher::Event::InitDone) => {
                for entry in ctx.pods.all() {
                    if !listed.contains(&entry.uid) {
                        gone(&ctx, &entry.uid).await;
                    }
                }
                if let Some(left) = left.take() {
                    let ctx = Arc::clone(&ctx);
                    let known = listed.clone();
                    ctx.clone().supervisor.spawn("orphans", async move { sweep(&ctx, left, known).await });
                }
            }
            Err(error) => tracing::debug!(%error, "watch of pods"),
        }
    }
    Ok(())
}

async fn apply(ctx: &Arc<Context>, pod: Pod, left: Option<&mut Left>) {
    let uid = spec::uid(&pod).to_owned();
    let pod = Arc::new(pod);
    if let Some(entry) = ctx.pods.get(&uid) {
        let _ = entry.inbox.send(Message::Pod(pod)).await;
        return;
    }
    let adopted = left.map_or_else(Adopted::default, |left| Adopted {
        sandbox: left.sandboxes.remove(&uid),
        record: left.records.remove(&uid),
    });
    Worker::start(ctx, pod, adopted);
}

async fn gone(ctx: &Context, uid: &str) {
    ctx.pods.mark_gone(uid);
    if let Some(entry) = ctx.pods.get(uid) {
        let _ = entry.inbox.send(Message::Gone).await;
    }
}

/// Remove what belongs to pods that no longer exist.
async fn sweep(ctx: &Arc<Context>, left: Left, known: HashSet<String>) {
    let warn =
        |what: &str, error: String| tracing::warn!(what, error, "orphan not removed; next start tries again");
    for (uid, sandbox) in left.sandboxes {
        tracing::info!(pod = uid, "removing the sandbox of a pod that no longer exists");
        if let Err(error) = sandbox.remove().await {
            warn("sandbox", error.to_string());
        }
    }
    let mut in_use: HashSet<String> = ctx.pods.all().into_iter().map(|entry| entry.uid).collect();
    in_use.extend(known);
    if let Err(error) = ctx.options.network.reconcile(&in_use).await {
        warn("network attachment", error.to_string());
    }
    let (pods_dir, records, keep) =
        (ctx.options.pods_dir.clone(), ctx.options.run_dir.join("records"), in_use.clone());
    ctx.supervisor.blocking(move || sweep_files(&pods_dir, &records, &keep)).await;
    release_images(ctx, left.holders).await;
}

fn sweep_files(pods_dir: &std::path::Path, records: &std::path::Path, keep: &HashSet<String>) {
    let names = |dir: &std::path::Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    // Only what looks like ours is removed: a pod's uid, or a log directory that ends in one.
    let is_uid = |name: &str| uuid::Uuid::try_parse(name).is_ok();
    for name in names(pods_dir).into_iter().filter(|name| is_uid(name) && !keep.contains(name)) {
        if let Err(error) = crate::volumes::remove(&pods_dir.join(&name)) {
            tracing::warn!(pod = name, %error, "files of an orphaned pod not removed");
        }
    }
    for name in names(&pods_dir.join("logs")) {
        if name.rsplit('_').next().is_some_and(|uid| is_uid(uid) && !keep.contains(uid)) {
            let _ = std::fs::remove_dir_all(pods_dir.join("logs").join(name));
        }
    }
    for name in names(records) {
        if name.strip_suffix(".json").is_some_and(|uid| !keep.contains(uid)) {
            let _ = std::fs::remove_file(records.join(name));
        }
    }
}

/// Let go images that no container holds any more. Only holds of our form (64 hex digits) are ours.
async fn release_images(ctx: &Arc<Context>, holders: Vec<String>) {
    let mut held: HashSet<String> = HashSet::new();
    for sandbox in ctx.options.runtime.pods() {
        let containers = sandbox.containers().await.unwrap_or_default();
        held.extend(containers.into_iter().map(|container| container.id));
    }
    let ours = |name: &String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    for holder in holders.into_iter().filter(|holder| ours(holder) && !held.contains(holder)) {
        if let Err(error) = ctx.options.images.release(&holder).await {
            tracing::warn!(holder, %error, "stale image hold not released");
        }
    }
}
