//! Events that are told at least once, whatever ends this process: kept in the store until they were dealt with.
//!
//! An event is written by the transaction of what happened. Then it moves, in one transaction, to a queue for each
//! webhook and each rule that wants it, and from there it is removed when it was delivered or given up. Each queue is
//! worked off by a task of its own, so that one that is away holds up nobody else.
//!
//! ```text
//! q/e/<number>           Event, not handed out yet
//! q/w/<webhook>/<number> Event for a webhook          q/x/<rule>/<number>   Event for a replication rule
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use sampan_daemon::Backoff;
use sampan_store::{KeyValue, prefix_end};
use tokio::sync::Notify;

use crate::{
    core::Core,
    error::ApiResult,
    events::{Event, Kind},
    meta::{self, Change, Meta, Replication, Webhook, keys},
};

/// Events that are not handed out yet, and events of one queue; further ones are dropped and counted.
const FRESH: usize = 65_536;
const WAITING: usize = 4096;
/// Events that are handed out or read together.
const BATCH: usize = 64;
/// Deliveries of one webhook at a time. What a rule copies is copied in order.
const PARALLEL: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    next: AtomicU64,
    fresh: AtomicUsize,
    /// There are events to hand out.
    pub(crate) wake: Notify,
    /// By `w/<webhook>` or `x/<rule>`.
    queues: Mutex<BTreeMap<String, Arc<Queue>>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: AtomicUsize,
    /// There is more, or the one it is for has gone.
    wake: Notify,
}

impl Outbox {
    /// Counts what a process before this one left.
    pub(crate) async fn open(meta: &Meta) -> ApiResult<Self> {
        let mut queues: BTreeMap<String, Arc<Queue>> = BTreeMap::new();
        let (mut last, mut fresh) = (0, 0);
        for kv in meta.prefix(b"q/".to_vec()).await? {
            let key = String::from_utf8_lossy(&kv.key[2..]).into_owned();
            let Some((queue, number)) = key.rsplit_once('/') else { continue };
            last = last.max(u64::from_str_radix(number, 16).unwrap_or(0));
            if queue == "e" {
                fresh += 1;
            } else {
                queues.entry(queue.to_owned()).or_default().waiting.fetch_add(1, Relaxed);
            }
        }
        Ok(Self {
            next: AtomicU64::new(last + 1),
            fresh: AtomicUsize::new(fresh),
            wake: Notify::new(),
            queues: Mutex::new(queues),
        })
    }

    /// Events that wait, of any kind.
    pub(crate) fn waiting(&self) -> usize {
        let queues = self.lock();
        self.fresh.load(Relaxed) + queues.values().map(|queue| queue.waiting.load(Relaxed)).sum::<usize>()
    }

    /// Webhooks or rules were removed: what waits for them goes.
    pub(crate) fn rouse(&self) {
        self.lock().values().for_each(|queue| queue.wake.notify_one());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, queue: &str) -> Vec<u8> {
        keys::named("q/", &format!("{queue}/{:016x}", self.next.fetch_add(1, Relaxed)))
    }
}

impl Core {
    /// Commit what happens, and with it the event that tells of it. True when it happened, as with [`Meta::commit`].
    pub(crate) async fn commit_told(&self, mut change: Change, event: &Event) -> ApiResult<bool> {
        let kept = self.announce(&mut change, event).await?;
        let done = self.meta.commit(change).await?;
        self.announced(kept && done);
        Ok(done)
    }

    /// Have the transaction of what happened keep the event, when anybody could want to know of it. Once that is
    /// committed, [`Core::announced`] is told what this returned.
    async fn announce(&self, change: &mut Change, event: &Event) -> ApiResult<bool> {
        if !self.meta.any(b"w/").await? && !self.meta.any(b"x/").await? {
            return Ok(false);
        }
        if self.outbox.fresh.load(Relaxed) >= FRESH {
            self.events.dropped.fetch_add(1, Relaxed);
            return Ok(false);
        }
        change.put_json(self.outbox.key("e"), event);
        Ok(true)
    }

    /// The transaction that [`Core::announce`] prepared has happened.
    fn announced(&self, kept: bool) {
        if kept {
            self.outbox.fresh.fetch_add(1, Relaxed);
            self.outbox.wake.notify_one();
        }
    }

    /// Move events to the queues of those who want them.
    pub(crate) async fn hand_out(self: &Arc<Self>) -> ApiResult<()> {
        loop {
            let fresh = self.meta.range(b"q/e/".to_vec(), prefix_end(b"q/e/").to_vec(), BATCH).await?;
            if fresh.is_empty() {
                // Puts right what was counted after it was handed out; whoever counts one wakes us then.
                self.outbox.fresh.store(0, Relaxed);
                return Ok(());
            }
            let mut change = Change::default();
            let mut events = Vec::with_capacity(fresh.len());
            for kv in &fresh {
                change.delete(kv.key.to_vec());
                match meta::decode::<Event>(kv) {
                    Ok(event) => events.push(event),
                    Err(error) => tracing::warn!("an event cannot be read: {}", error.message),
                }
            }
            self.put_out(change, &events).await?;
            let count = fresh.len();
            // Those of this moment may be counted after they were handed out.
            let _ = self.outbox.fresh.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(count)));
        }
    }

    /// Each event, for each who wants it.
    pub(crate) async fn put_out(self: &Arc<Self>, mut change: Change, events: &[Event]) -> ApiResult<()> {
        let hooks = self.meta.records::<Webhook>("w/").await?;
        let rules = self.meta.records::<Replication>("x/").await?;
        let mut filled: Vec<Arc<Queue>> = Vec::new();
        for event in events {
            let hooks = hooks.iter().filter(|(_, webhook)| webhook.wants(event));
            let mut names: Vec<String> = hooks.map(|(id, _)| format!("w/{id}")).collect();
            let rules = self.rules_about(&rules, event).await?;
            names.extend(rules.into_iter().map(|rule| format!("x/{rule}")));
            for name in names {
                let Some(queue) = self.seat(&name) else {
                    let failures = if name.starts_with("w/") {
                        &self.metrics.webhook_failures
                    } else {
                        &self.metrics.replication_failures
                    };
                    failures.fetch_add(1, Relaxed);
                    continue;
                };
                change.put_json(self.outbox.key(&name), event);
                filled.push(queue);
            }
        }
        if change.is_empty() {
            return Ok(());
        }
        let done = self.meta.commit(change).await;
        for queue in filled {
            match &done {
                Ok(_) => queue.wake.notify_one(),
                Err(_) => _ = queue.waiting.fetch_sub(1, Relaxed),
            }
        }
        done.map(drop)
    }

    /// A seat in a queue, unless it is full. Somebody works it off.
    fn seat(self: &Arc<Self>, name: &str) -> Option<Arc<Queue>> {
        let mut queues = self.outbox.lock();
        let queue = queues.entry(name.to_owned()).or_insert_with(|| {
            let queue = Arc::default();
            self.work_off(name, &queue);
            queue
        });
        if queue.waiting.load(Relaxed) >= WAITING {
            return None;
        }
        queue.waiting.fetch_add(1, Relaxed);
        Some(queue.clone())
    }

    /// Go on with what a process before this one left.
    pub(crate) fn resume_outbox(self: &Arc<Self>) {
        for (name, queue) in self.outbox.lock().iter() {
            self.work_off(name, queue);
        }
        self.outbox.wake.notify_one();
    }

    fn work_off(self: &Arc<Self>, name: &str, queue: &Arc<Queue>) {
        let work = self.clone().worker(name.to_owned(), queue.clone());
        self.supervisor.spawn(format!("outbox-{name}"), work);
    }

    async fn worker(self: Arc<Self>, name: String, queue: Arc<Queue>) {
        let prefix = keys::named("q/", &format!("{name}/"));
        let parallel = if name.starts_with("w/") { PARALLEL } else { 1 };
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            let look = async {
                let waiting = self.meta.range(prefix.clone(), prefix_end(&prefix).to_vec(), BATCH).await?;
                let wanted = self.meta.get(keys::named("", &name)).await?.is_some();
                ApiResult::Ok((waiting, wanted))
            };
            let Ok((waiting, wanted)) = look.await else {
                // The store is broken, or being closed.
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            };
            backoff.reset();
            if waiting.is_empty() {
                if !wanted {
                    let mut queues = self.outbox.lock();
                    if queue.waiting.load(Relaxed) == 0 {
                        queues.remove(&name);
                        return;
                    }
                }
                queue.wake.notified().await;
                continue;
            }
            stream::iter(waiting).for_each_concurrent(parallel, |kv| self.deal_with(&name, &queue, kv)).await;
        }
    }

    async fn deal_with(&self, name: &str, queue: &Queue, kv: KeyValue) {
        if let Ok(event) = meta::decode::<Event>(&kv) {
            match name.split_at(2) {
                ("w/", id) => self.deliver(id, &event).await,
                (_, rule) => self.replicate_event(rule, &event).await,
            }
        }
        // Told again after a crash here, and by no means at once when the disk is full.
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));
        loop {
            let mut change = Change::default();
            change.delete(kv.key.to_vec());
            if self.meta.commit(change).await.is_ok() {
                queue.waiting.fetch_sub(1, Relaxed);
                return;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Looks at what happened, until the end.
    pub(crate) async fn listen(self: Arc<Self>) {
        let Some(mut events) = self.events.receiver() else { return };
        self.resume_outbox();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));
        loop {
            let looked = tokio::select! {
                () = self.outbox.wake.notified() => self.hand_out().await,
                event = events.recv() => match event {
                    None => return,
                    Some(event) => self.look_at(&event).await,
                },
            };
            match looked {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!("an event could not be looked at: {}", error.message);
                    tokio::time::sleep(backoff.next_delay()).await;
                    // Those that are kept are still there.
                    self.outbox.wake.notify_one();
                }
            }
        }
    }

    async fn look_at(self: &Arc<Self>, event: &Event) -> ApiResult<()> {
        if event.kind == Kind::Pull {
            self.pulled(event).await?;
        }
        self.put_out(Change::default(), std::slice::from_ref(event)).await
    }

    /// Remember when a manifest was pulled last, to the hour: rules of retention ask for it.
    async fn pulled(&self, event: &Event) -> ApiResult<()> {
        let Some(digest) = &event.digest else { return Ok(()) };
        let Some(repository) = self.meta.repository(&event.repository).await? else { return Ok(()) };
        let Some((manifest, revision)) = self.meta.manifest(repository.id, digest).await? else {
            return Ok(());
        };
        if event.time - manifest.pulled < 3600 {
            return Ok(());
        }
        let key = keys::manifest(repository.id, digest);
        let mut change = Change::default();
        change.at(key.clone(), revision).put_json(key, &meta::Manifest { pulled: event.time, ..manifest });
        // When it was changed or deleted at this moment, the next pull counts.
        self.meta.commit(change).await?;
        Ok(())
    }
}
