//! Which pods this node has: the watch that starts workers, taking over from an earlier process, and cleaning up.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
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

/// What an earlier process left, until the first list says whose it is. All of it is read before any worker runs, so
/// that nothing of a pod that starts meanwhile is among it.
#[derive(Default)]
struct Left {
    sandboxes: HashMap<String, PodSandbox>,
    records: HashMap<String, PodRecord>,
    /// Names under which images were held.
    holders: Vec<String>,
    /// Ids of network attachments.
    attached: Vec<String>,
    /// Pods' uids and what is on disk for them.
    files: Vec<(String, Leftover)>,
}

/// Something on disk that belongs to one pod.
enum Leftover {
    /// Volumes and other files.
    Pod(PathBuf),
    /// Its logs.
    Logs(PathBuf),
    /// Its record.
    Record(PathBuf),
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
    let pods_dir = ctx.options.pods_dir.clone();
    (left.records, left.files) =
        ctx.supervisor.blocking(move || (load(&records), leftovers(&pods_dir, &records))).await;
    let running = left.records.iter().filter(|(_, record)| !record.finished);
    ctx.zones.restore(running.map(|(uid, record)| (uid, &record.zones)));
    left.attached = ctx.options.network.attachments().into_keys().collect();
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

fn load(dir: &Path) -> HashMap<String, PodRecord> {
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
    for uid in left.records.keys().filter(|uid| !known.contains(*uid)) {
        ctx.zones.release(uid);
    }
    for id in left.attached.iter().filter(|id| !known.contains(*id)) {
        if let Err(error) = ctx.options.network.detach(id).await {
            warn("network attachment", error.to_string());
        }
    }
    let orphaned = left.files.into_iter().filter(|(uid, _)| !known.contains(uid)).collect();
    ctx.supervisor.blocking(move || remove_files(orphaned)).await;
    release_images(ctx, left.holders, &known).await;
}

/// What is on disk, by uid. Only what looks like ours is taken: a pod's uid, or a log directory that ends in one.
fn leftovers(pods_dir: &Path, records: &Path) -> Vec<(String, Leftover)> {
    let entries = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| Some((e.file_name().into_string().ok()?, e.path()))).collect::<Vec<_>>()
    };
    let is_uid = |name: &str| uuid::Uuid::try_parse(name).is_ok();
    let mut found = Vec::new();
    for (name, path) in entries(pods_dir) {
        found.push((name, Leftover::Pod(path)));
    }
    for (name, path) in entries(&pods_dir.join("logs")) {
        found.push((name.rsplit('_').next().unwrap_or_default().to_owned(), Leftover::Logs(path)));
    }
    for (name, path) in entries(records) {
        found.push((name.trim_end_matches(".json").to_owned(), Leftover::Record(path)));
    }
    found.retain(|(uid, _)| is_uid(uid));
    found
}

fn remove_files(orphaned: Vec<(String, Leftover)>) {
    for (uid, what) in orphaned {
        let removed = match &what {
            Leftover::Pod(path) => crate::volumes::remove(path).map_err(|error| error.to_string()),
            Leftover::Logs(path) => std::fs::remove_dir_all(path).map_err(|error| error.to_string()),
            Leftover::Record(path) => std::fs::remove_file(path).map_err(|error| error.to_string()),
        };
        if let Err(error) = removed {
            tracing::warn!(pod = uid, error, "files of an orphaned pod not removed; next start tries again");
        }
    }
}

/// Let go images that no container holds any more. Only holds of our form (64 hex digits) are ours.
async fn release_images(ctx: &Arc<Context>, holders: Vec<String>, known: &HashSet<String>) {
    let mut held: HashSet<String> = HashSet::new();
    for sandbox in ctx.options.runtime.pods() {
        let containers = sandbox.containers().await.unwrap_or_default();
        held.extend(containers.into_iter().map(|container| container.id));
    }
    let ours = |name: &String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Images of volumes are held by their pod.
    let orphaned = |holder: &String| {
        let uid = holder.split_once('.').map(|(uid, _)| uid).filter(|uid| uuid::Uuid::try_parse(uid).is_ok());
        uid.is_some_and(|uid| !known.contains(uid))
    };
    let stale = |holder: &String| (ours(holder) && !held.contains(holder)) || orphaned(holder);
    for holder in holders.into_iter().filter(stale) {
        if let Err(error) = ctx.options.images.release(&holder).await {
            tracing::warn!(holder, %error, "stale image hold not released");
        }
    }
}
