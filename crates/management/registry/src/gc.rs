//! Cleaning up while everything goes on: nothing is ever locked for longer than one step on one digest takes, and all
//! that computes does so on a thread of its own.
//!
//! A run goes through these steps; each can be cut off anywhere, and the next run begins anew and loses nothing:
//! 1. uploads without progress are dropped;
//! 2. images that the rules of their project do not keep are removed ([`crate::retention`]);
//! 3. blobs that no manifest of their repository refers to and that are older than the grace are unlinked;
//! 4. contents without any link are removed;
//! 5. objects without a record (of a crash between the two) are removed;
//! 6. packs lose the chunks that no recipe refers to: a pack without any goes, one that is half empty is rewritten;
//! 7. contents that lie idle are packed.
//!
//! Steps 3 and 4 cannot race with a push: the transaction that stores a manifest demands that each of its blobs is
//! still linked exactly as it was seen, and writes links anew that are older than a second, so that whoever saw them as
//! old cannot remove them; and a content is removed only under its lock while nothing holds it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use sampan_daemon::Supervisor;
use sampan_store::KeyValue;
use serde::Serialize;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use crate::{
    content::{
        alike::{Refused, Sketch},
        digest_of_key,
        hot::Found,
        pack::{Round, index_key, pack_of_key},
        recipe::{Chunk, Recipe},
        unpack::{pack_key, read_run},
    },
    core::Core,
    digest::Digest,
    error::{ApiError, ApiResult},
    meta::{self, Change, Content, Link, RepoId, keys},
    objects::read_file,
};

/// Objects without a record that are younger may belong to a push at this moment.
const ORPHAN_AGE: i64 = 3600;

/// What a run did.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) began: String,
    pub(crate) seconds: f64,
    /// Longest time that one step held the processor or a lock.
    pub(crate) longest_step_millis: f64,
    pub(crate) uploads: usize,
    pub(crate) images: usize,
    pub(crate) links: usize,
    pub(crate) contents: usize,
    pub(crate) bytes: u64,
    pub(crate) orphans: usize,
    pub(crate) packs: usize,
    pub(crate) packed: u64,
    pub(crate) packed_before: u64,
    pub(crate) packed_after: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What a run may do besides what it always does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    /// What nothing needs is old after this time, instead of what the options say.
    pub(crate) grace: Option<Duration>,
    /// Pack what lies idle.
    pub(crate) pack: bool,
}

/// State of cleaning up.
#[derive(Debug, Default)]
pub(crate) struct Upkeeper {
    /// One run at a time.
    running: AsyncMutex<()>,
    last: Mutex<Option<Report>>,
    wake: Notify,
}

impl Upkeeper {
    pub(crate) fn last(&self) -> Option<Report> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Measures steps.
struct Pace {
    longest: Duration,
}

impl Pace {
    async fn step<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let value = work.await;
        self.longest = self.longest.max(begun.elapsed());
        tokio::task::yield_now().await;
        value
    }
}

impl Core {
    /// Runs now and then, until the end.
    pub(crate) async fn upkeep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.options.upkeep.every) => {}
                () = self.upkeep.wake.notified() => {}
            }
            let task = Task { grace: None, pack: self.options.upkeep.pack_after.is_some() };
            if let Err(error) = self.clean(task).await {
                tracing::warn!("cleaning up stopped, and goes on at the next time: {}", error.message);
            }
        }
    }

    /// One run.
    pub(crate) async fn clean(self: &Arc<Self>, task: Task) -> ApiResult<Report> {
        let _running = self.upkeep.running.lock().await;
        let begun = Instant::now();
        let mut report = Report { began: meta::time(meta::now()), ..Report::default() };
        let core = self.clone();
        let outcome;
        (report, outcome) = apart(&self.supervisor, async move {
            let mut pace = Pace { longest: Duration::ZERO };
            let outcome = core.steps(task, &mut report, &mut pace).await;
            report.longest_step_millis = pace.longest.as_secs_f64() * 1e3;
            (report, outcome)
        })
        .await?;
        report.seconds = begun.elapsed().as_secs_f64();
        report.error = outcome.as_ref().err().map(|error: &ApiError| error.message.clone());
        let metrics = &self.metrics;
        metrics.collections.fetch_add(1, Relaxed);
        metrics.unlinked.fetch_add(report.links as u64, Relaxed);
        metrics.collected.fetch_add(report.contents as u64, Relaxed);
        metrics.collected_bytes.fetch_add(report.bytes, Relaxed);
        metrics.packed.fetch_add(report.packed, Relaxed);
        metrics.packed_before.fetch_add(report.packed_before, Relaxed);
        metrics.packed_after.fetch_add(report.packed_after, Relaxed);
        *self.upkeep.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
        outcome.map(|()| report)
    }

    async fn steps(self: &Arc<Self>, task: Task, report: &mut Report, pace: &mut Pace) -> ApiResult<()> {
        let upkeep = &self.options.upkeep;
        // At least a second: see above.
        let age = |age: Duration| {
            let age = task.grace.unwrap_or(age).min(age);
            i64::try_from(age.as_secs()).unwrap_or(i64::MAX).max(1)
        };
        let now = meta::now();
        let upload_age = i64::try_from(upkeep.upload_age.as_secs()).unwrap_or(i64::MAX);
        report.uploads = self.uploads.drop_old(now.saturating_sub(upload_age)).await;
        report.images = self.retain().await?;
        for (name, repository) in self.meta.repositories("", usize::MAX).await? {
            report.links += self.unlink_old(&name, repository.id, now - age(upkeep.grace), pace).await?;
        }
        // Nobody can see what no repository has; an answer that is being sent has its file open, a bucket needs time.
        let free = now - age(upkeep.grace.min(Duration::from_secs(600)));
        for digest in self.counts.free_since(free) {
            if let Some(bytes) = pace.step(self.contents.collect(&digest)).await? {
                report.contents += 1;
                report.bytes += bytes;
            }
        }
        report.orphans = self.remove_orphans(now - ORPHAN_AGE, pace).await?;
        report.packs = self.compact_packs(now - age(Duration::from_secs(ORPHAN_AGE as u64)), pace).await?;
        let cold = upkeep.pack_after.unwrap_or(Duration::from_secs(24 * 3600));
        self.contents.drop_cold_copies(now - i64::try_from(cold.as_secs()).unwrap_or(i64::MAX)).await?;
        if task.pack {
            self.pack(task.grace.is_some(), report).await?;
        }
        Ok(())
    }

    /// Step 3.
    async fn unlink_old(&self, name: &str, repo: RepoId, before: i64, pace: &mut Pace) -> ApiResult<usize> {
        let mut used: HashSet<u64> = HashSet::new();
        let mut manifests = self.meta.pages(keys::of_repo(b'm', repo));
        while let Some(page) = pace.step(manifests.next()).await? {
            for kv in page {
                used.extend(meta::decode::<meta::Manifest>(&kv)?.blobs.iter().map(mark));
            }
        }
        let (mut count, mut links) = (0, self.meta.pages(keys::of_repo(b'b', repo)));
        while let Some(page) = pace.step(links.next()).await? {
            for kv in page {
                let (Some((digest, _)), Some(link)) =
                    (Digest::from_key(&kv.key[5..]), Link::decode(&kv.value))
                else {
                    continue;
                };
                if link.made > before || used.contains(&mark(&digest)) {
                    continue;
                }
                // A manifest that came since the marking wrote the link anew, and then this does nothing.
                if pace.step(self.unlink(name, repo, &digest, kv.mod_revision)).await? {
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    /// Step 5.
    async fn remove_orphans(&self, before: i64, pace: &mut Pace) -> ApiResult<usize> {
        let mut count = 0;
        for (prefix, packed) in [("blobs", false), ("recipes", true)] {
            for found in self.contents.objects.list(prefix).await? {
                let Some(digest) = digest_of_key(&found.key).filter(|_| found.modified < before) else {
                    continue;
                };
                let _lock = self.contents.lock(&digest).await;
                let known = pace.step(self.meta.content(&digest)).await?;
                if known.is_none_or(|(content, _)| content.packed != packed) {
                    self.contents.objects.delete(&found.key).await?;
                    count += 1;
                }
            }
        }
        // Unfinished work of a process that was killed.
        if let Ok(mut entries) = tokio::fs::read_dir(self.options.dir.join("tmp")).await {
            while let Some(entry) = entries.next_entry().await? {
                let age = entry.metadata().await.ok().and_then(|meta| meta.modified().ok()?.elapsed().ok());
                if age.is_some_and(|age| age.as_secs() > 24 * 3600) {
                    count += usize::from(tokio::fs::remove_file(entry.path()).await.is_ok());
                }
            }
        }
        Ok(count)
    }

    /// Step 6. References are counted from the recipes each time.
    async fn compact_packs(&self, before: i64, pace: &mut Pace) -> ApiResult<usize> {
        let packs = self.contents.objects.list("packs").await?;
        if packs.is_empty() {
            return Ok(0);
        }
        let recipes = self.contents.objects.list("recipes").await?;
        let recipes: Vec<Digest> = recipes.iter().filter_map(|found| digest_of_key(&found.key)).collect();
        let (mut live, mut is_known) = (Live::default(), true);
        for digest in &recipes {
            match pace.step(self.contents.recipe(digest)).await {
                Ok(Some(recipe)) => recipe.chunks().for_each(|chunk| live.add(chunk)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%digest, "cannot be looked at (hint: `sampan registry scrub`): {}", error.message);
                    // What it needs stays, unless it is given up already.
                    is_known &= self.meta.content(digest).await?.is_none_or(|(content, _)| content.damaged);
                }
            }
        }
        let live = live.bytes();
        let (mut count, mut sparse) = (0, HashSet::new());
        let last =
            packs.iter().filter_map(|found| pack_of_key(&found.key)).map(|(pack, _)| pack).max().unwrap_or(0);
        let mut next = last + 2;
        for found in packs {
            let Some((pack, is_index)) = pack_of_key(&found.key).filter(|_| found.modified <= before) else {
                continue;
            };
            let Some(bytes) = live.get(&pack) else {
                if !is_known {
                    continue;
                }
                // Its index goes first: a pack without one is never found again.
                self.contents.objects.delete(&index_key(pack)).await?;
                self.contents.objects.delete(&pack_key(pack)).await?;
                count += usize::from(!is_index);
                continue;
            };
            if !is_index && bytes * 2 < found.size {
                sparse.insert(pack);
            }
        }
        if sparse.is_empty() {
            return Ok(count);
        }
        // Which chunks those are, and whose, is only asked for the few packs that are written anew.
        let mut packs: HashMap<u32, (HashMap<u32, Chunk>, HashSet<Digest>)> = HashMap::new();
        for digest in &recipes {
            let Ok(Some(recipe)) = pace.step(self.contents.recipe(digest)).await else { continue };
            for chunk in recipe.chunks().filter(|chunk| sparse.contains(&chunk.pack)) {
                let (chunks, users) = packs.entry(chunk.pack).or_default();
                chunks.insert(chunk.offset, *chunk);
                users.insert(digest.clone());
            }
        }
        for (pack, (chunks, users)) in packs {
            self.rewrite_pack(pack, next, &chunks, users).await?;
            next += 1;
            count += 1;
        }
        Ok(count)
    }

    /// What is live moves into a new pack, and the recipes follow. The old pack goes with the next run: somebody may be
    /// reading it.
    async fn rewrite_pack(
        &self,
        old: u32,
        new: u32,
        chunks: &HashMap<u32, Chunk>,
        users: HashSet<Digest>,
    ) -> ApiResult<()> {
        let mut order: Vec<Chunk> = chunks.values().copied().collect();
        order.sort_unstable_by_key(|chunk| chunk.offset);
        let (mut bytes, mut index) = (Vec::new(), Vec::new());
        let mut moved: HashMap<u32, Chunk> = HashMap::new();
        for chunk in order {
            // Checked on the way: damage must not spread.
            read_run(&self.contents.objects, vec![chunk]).await?;
            let range = u64::from(chunk.offset)..u64::from(chunk.offset) + u64::from(chunk.packed);
            let part = self.contents.objects.read(&pack_key(old), range).await?.unwrap_or_default();
            let to = Chunk { pack: new, offset: u32::try_from(bytes.len()).unwrap_or(u32::MAX), ..chunk };
            bytes.extend_from_slice(&part);
            to.encode(&mut index);
            moved.insert(chunk.offset, to);
        }
        self.contents.objects.put(&pack_key(new), bytes.into()).await?;
        self.contents.objects.put(&index_key(new), index.into()).await?;
        self.contents.objects.delete(&index_key(old)).await?;
        for digest in users {
            let _lock = self.contents.lock(&digest).await;
            let Some(recipe) = self.contents.recipe(&digest).await? else { continue };
            let mut recipe = Recipe::clone(&recipe);
            for chunk in recipe.chunks_mut().filter(|chunk| chunk.pack == old) {
                if let Some(to) = moved.get(&chunk.offset) {
                    *chunk = *to;
                }
            }
            self.contents.replace_recipe(&digest, &recipe).await?;
        }
        Ok(())
    }

    /// Step 7.
    async fn pack(self: &Arc<Self>, now: bool, report: &mut Report) -> ApiResult<()> {
        let upkeep = &self.options.upkeep;
        let after = upkeep.pack_after.unwrap_or_default().as_secs();
        let before = if now { i64::MAX } else { meta::now() - i64::try_from(after).unwrap_or(i64::MAX) };
        let idle = |digest: &Digest, content: &Content| {
            !content.packed && !content.damaged && content.made.max(self.contents.read_at(digest)) <= before
        };
        let (mut due, mut refused) = (Vec::new(), Refused::default());
        let mut contents = self.meta.pages(vec![b'c']);
        while let Some(page) = contents.next().await? {
            for kv in &page {
                let Some((digest, content, _)) = content_of(kv) else { continue };
                if !idle(&digest, &content) || content.size < upkeep.pack_from {
                    continue;
                }
                if content.plain {
                    let sketch = kv.value.get(Content::BYTES..).unwrap_or_default();
                    refused.add(digest, content.size, &Sketch::decode(sketch));
                } else {
                    due.push((digest, content));
                }
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        // Versions of one image were pushed one after the other; equal data lies together then.
        due.sort_by_key(|(_, content)| content.made);
        let mut round = Round::begin(self.contents.clone(), self.supervisor.token(), refused).await?;
        for (digest, content) in due {
            round.add(&digest, content).await?;
        }
        while let Some(digest) = round.reopened() {
            if let Some((content, _)) = self.meta.content(&digest).await?
                && idle(&digest, &content)
            {
                round.add(&digest, content).await?;
            }
        }
        let done = round.finish().await?;
        (report.packed, report.packed_before, report.packed_after) = (done.contents, done.before, done.after);
        Ok(())
    }

    /// Read everything and compare it with its digest. What is damaged is not served any more, and the next push of it
    /// (or fetch, in a proxied project) heals it.
    pub(crate) async fn scrub(&self) -> ApiResult<Scrubbed> {
        let _running = self.upkeep.running.lock().await;
        let mut report = Scrubbed::default();
        let mut contents = self.meta.pages(vec![b'c']);
        while let Some(page) = contents.next().await? {
            for (digest, content, revision) in page.iter().filter_map(content_of) {
                self.scrub_one(&mut report, digest, content, revision).await?;
            }
        }
        Ok(report)
    }

    async fn scrub_one(
        &self,
        report: &mut Scrubbed,
        digest: Digest,
        content: Content,
        revision: i64,
    ) -> ApiResult<()> {
        report.contents += 1;
        report.bytes += content.size;
        // A copy that is damaged must not be served, and says nothing about what is stored.
        if content.packed
            && let Some(Found::Whole(file)) = self.contents.hot.look(&digest, content.size).await
            && !self.contents.verify(&digest, read_file(file, 0..content.size)).await?
        {
            tracing::warn!(%digest, "the whole copy is damaged; it goes");
            self.contents.hot.forget(&digest).await;
        }
        let whole = match self.contents.stored(&digest, 0..content.size).await {
            Ok(Some(stream)) => self.contents.verify(&digest, stream).await?,
            Ok(None) if content.damaged => {
                report.damaged.push(digest);
                return Ok(());
            }
            // It was collected meanwhile.
            Ok(None) => return Ok(()),
            // A bucket that is away says nothing about what is in it.
            Err(error) if self.contents.objects.is_remote() && error.code == "UNAVAILABLE" => {
                return Err(error);
            }
            Err(_) => false,
        };
        if whole {
            return Ok(());
        }
        let mut change = Change::default();
        let damaged = Content { damaged: true, ..content };
        change.at(keys::content(&digest), revision).put(keys::content(&digest), damaged.encode());
        if self.meta.commit(change).await? {
            self.contents.forget(&digest);
            self.metrics.damaged.fetch_add(1, Relaxed);
            tracing::error!(%digest, "is damaged (hint: push it again)");
            report.damaged.push(digest);
        }
        Ok(())
    }
}

/// What a scrub found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Scrubbed {
    contents: u64,
    bytes: u64,
    damaged: Vec<Digest>,
}

/// A record of a content, and its revision.
fn content_of(kv: &KeyValue) -> Option<(Digest, Content, i64)> {
    let (digest, _) = Digest::from_key(&kv.key[1..])?;
    Some((digest, Content::decode(&kv.value)?, kv.mod_revision))
}

/// Eight bytes stand for a digest in a set of millions. When two look the same, one more is kept than needed.
fn mark(digest: &Digest) -> u64 {
    digest.bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Run on a thread that the event loop does not wait for, until the end or the supervisor's.
async fn apart<T: Send + 'static>(
    supervisor: &Supervisor,
    work: impl Future<Output = T> + Send + 'static,
) -> ApiResult<T> {
    let (token, runtime) = (supervisor.token(), tokio::runtime::Handle::current());
    let done = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                value = work => Some(value),
                () = token.cancelled() => None,
            }
        })
    });
    let done = done.await.map_err(std::io::Error::other)?;
    done.ok_or_else(|| ApiError::unavailable("the registry ends"))
}

/// Bytes of each pack that recipes refer to; what several share counts once.
#[derive(Default)]
struct Live {
    /// Pack, offset, bytes; the first `settled` are sorted and differ.
    chunks: Vec<(u32, u32, u32)>,
    settled: usize,
}

impl Live {
    fn add(&mut self, chunk: &Chunk) {
        self.chunks.push((chunk.pack, chunk.offset, chunk.packed));
        // Versions share most of their chunks: what they share is dropped before it takes much memory.
        if self.chunks.len() > 2 * self.settled + (1 << 20) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.chunks.sort_unstable();
        self.chunks.dedup();
        self.settled = self.chunks.len();
    }

    fn bytes(mut self) -> HashMap<u32, u64> {
        self.settle();
        let mut packs = HashMap::new();
        for (pack, _, bytes) in self.chunks {
            *packs.entry(pack).or_default() += u64::from(bytes);
        }
        packs
    }
}

#[cfg(test)]
mod measure;
