//! Contents by digest, each kept once: as a plain object, or as chunks that contents share.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::{
    counts::Counts,
    digest::{Digest, Hasher},
    error::{ApiError, ApiResult},
    meta::{self, Change, Content, Meta, keys},
    objects::{ByteStream, Objects, Shared, read_file},
    options::Options,
};

pub(crate) mod alike;
pub(crate) mod apart;
pub(crate) mod bits;
pub(crate) mod deflate;
pub(crate) mod hot;
pub(crate) mod pack;
pub(crate) mod recipe;
pub(crate) mod unpack;
pub(crate) mod zstandard;

use hot::{Found, Hot};
use recipe::Recipe;
use sampan_daemon::Supervisor;

/// Locks that digests share.
const STRIPES: usize = 256;
/// Packed contents that are put together at a time; further readers wait for a seat. Zstandard takes several.
const UNPACKING: usize = 64;
const WIDE: u32 = 8;
const SEAT: Duration = Duration::from_secs(30);
/// Recipes that are read at a time: each may be large.
const DECODING: usize = 4;
/// When contents were read last is known of so many; more make us forget and pack nothing for a while.
const READS: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) objects: Shared,
    pub(crate) meta: Arc<Meta>,
    pub(crate) counts: Arc<Counts>,
    stripes: Vec<AsyncMutex<()>>,
    cache: Cache,
    reads: Mutex<HashMap<Digest, i64>>,
    temporary: PathBuf,
    unpacking: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
    recipes: Mutex<Recipes>,
    pub(crate) hot: Arc<Hot>,
    supervisor: Supervisor,
}

/// Recipes that somebody reads by.
#[derive(Debug, Default)]
struct Recipes {
    all: HashMap<Digest, Weak<Recipe>>,
    /// Counts replacements: what was read before one is not remembered after it.
    replaced: u64,
}

/// Where a plain content is.
pub(crate) fn blob_key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("blobs/{}/{}/{hex}", digest.name(), &hex[..2])
}

/// Where the recipe of a packed content is.
pub(crate) fn recipe_key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("recipes/{}/{}/{hex}", digest.name(), &hex[..2])
}

/// The digest that a key of either kind is about.
pub(crate) fn digest_of_key(key: &str) -> Option<Digest> {
    let mut parts = key.split('/').skip(1);
    let (algorithm, _, hex) = (parts.next()?, parts.next()?, parts.next()?);
    format!("{algorithm}:{hex}").parse().ok()
}

impl Contents {
    pub(crate) fn new(
        objects: Shared,
        meta: Arc<Meta>,
        counts: Arc<Counts>,
        options: &Options,
        supervisor: &Supervisor,
    ) -> Self {
        let dir = &options.dir;
        let hot = Hot::open(dir.join("hot"), options.upkeep.hot_bytes);
        Self {
            objects,
            meta,
            counts,
            stripes: (0..STRIPES).map(|_| AsyncMutex::new(())).collect(),
            cache: Cache::new(options.limits.cache_bytes),
            reads: Mutex::default(),
            temporary: dir.join("tmp"),
            unpacking: Arc::new(Semaphore::new(UNPACKING)),
            decoding: Arc::new(Semaphore::new(DECODING)),
            recipes: Mutex::default(),
            hot: Arc::new(hot),
            supervisor: supervisor.clone(),
        }
    }

    /// Whoever makes, links or removes a content holds its lock.
    pub(crate) async fn lock(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.stripes[digest.part(STRIPES)].lock().await
    }

    /// A file for unfinished work; removed at the next start if it is left behind.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.temporary.join(uuid::Uuid::new_v4().to_string())
    }

    /// A finished file, already known to have this digest, becomes the content. The caller holds it in the counts.
    pub(crate) async fn adopt(&self, digest: &Digest, file: &Path, size: u64) -> ApiResult<()> {
        let _lock = self.lock(digest).await;
        let known = self.meta.content(digest).await?;
        if known.is_some_and(|(content, _)| !content.damaged) {
            // Somebody was faster, or it was always there.
            let _ = tokio::fs::remove_file(file).await;
            return Ok(());
        }
        self.objects.put_file(&blob_key(digest), file).await?;
        self.record(digest, size).await
    }

    /// The same for bytes at hand.
    pub(crate) async fn keep(&self, digest: &Digest, bytes: &Bytes) -> ApiResult<()> {
        let _lock = self.lock(digest).await;
        if self.meta.content(digest).await?.is_some_and(|(content, _)| !content.damaged) {
            return Ok(());
        }
        self.objects.put(&blob_key(digest), bytes.clone()).await?;
        self.record(digest, bytes.len() as u64).await
    }

    async fn record(&self, digest: &Digest, size: u64) -> ApiResult<()> {
        let content = Content { size, made: meta::now(), packed: false, plain: false, damaged: false };
        let mut change = Change::default();
        change.put(keys::content(digest), content.encode());
        self.meta.commit(change).await?;
        Ok(())
    }

    /// Its size; nothing when it does not exist or is damaged.
    pub(crate) async fn size(&self, digest: &Digest) -> ApiResult<Option<u64>> {
        let content = self.meta.content(digest).await?;
        Ok(content.filter(|(content, _)| !content.damaged).map(|(content, _)| content.size))
    }

    /// A whole content of at most `limit` bytes, remembered for a while.
    pub(crate) async fn small(&self, digest: &Digest, limit: usize) -> ApiResult<Option<Bytes>> {
        if let Some(bytes) = self.cache.get(digest) {
            return Ok(Some(bytes));
        }
        let Some(size) = self.size(digest).await? else { return Ok(None) };
        if size > limit as u64 {
            return Err(ApiError::internal(format!(
                "{digest} has {size} bytes, more than the {limit} of a manifest"
            )));
        }
        let Some(stream) = self.stream(digest, 0..size).await? else { return Ok(None) };
        let bytes = collect(stream, limit).await?;
        self.cache.put(digest, &bytes);
        Ok(Some(bytes))
    }

    /// A part of a content, for a client.
    pub(crate) async fn stream(&self, digest: &Digest, range: Range<u64>) -> ApiResult<Option<ByteStream>> {
        self.read(digest, range, true).await
    }

    /// The same from where it is stored, whatever copies there are.
    pub(crate) async fn stored(&self, digest: &Digest, range: Range<u64>) -> ApiResult<Option<ByteStream>> {
        self.read(digest, range, false).await
    }

    async fn read(&self, digest: &Digest, range: Range<u64>, copies: bool) -> ApiResult<Option<ByteStream>> {
        // Between the look at the record and the opening it may move, once.
        for _ in 0..3 {
            let Some((content, _)) = self.meta.content(digest).await? else { return Ok(None) };
            if content.damaged {
                return Ok(None);
            }
            let opened = if content.packed {
                self.packed(digest, content.size, range.clone(), copies).await?
            } else {
                self.objects.stream(&blob_key(digest), range.clone()).await?
            };
            if let Some(stream) = opened {
                return Ok(Some(stream));
            }
        }
        Err(ApiError::internal(format!(
            "content {digest} is missing from storage (hint: `sampan registry scrub`)"
        )))
    }

    /// A part of a packed content. What has to be compressed again becomes a whole copy, from which all read.
    async fn packed(
        &self,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
        copies: bool,
    ) -> ApiResult<Option<ByteStream>> {
        let found = if copies { self.hot.find(digest, size).await } else { None };
        if let Some(Found::Whole(file)) = found {
            return Ok(Some(read_file(file, range)));
        }
        let Some(recipe) = self.recipe(digest).await? else { return Ok(None) };
        let wide = if recipe.is_wide() { WIDE } else { 1 };
        let (objects, again, seats) = (self.objects.clone(), recipe.clone(), self.unpacking.clone());
        let instead = move |range: Range<u64>| {
            // All who follow a copy that fails come at once: they need seats as everybody.
            let seated = async move {
                let seat = seat(seats, wide).await.ok_or(std::io::ErrorKind::TimedOut)?;
                Ok::<_, std::io::Error>(unpack::stream(objects, again, range).inspect(move |_| _ = &seat))
            };
            futures::stream::once(seated).try_flatten().boxed()
        };
        if let Some(found) = found {
            return Ok(Some(found.stream(range, instead)));
        }
        let Some(seat) = seat(self.unpacking.clone(), wide).await else {
            return Err(ApiError::too_many("too many packed blobs are being read (hint: wait)"));
        };
        if copies && recipe.is_taken_apart() {
            // Another reader may have begun while this one waited.
            if let Some(found) = self.hot.find(digest, size).await {
                return Ok(Some(found.stream(range, instead)));
            }
            if let Some((growing, flight)) = self.hot.begin(digest, size).await {
                let (hot, whole) = (self.hot.clone(), unpack::stream(self.objects.clone(), recipe, 0..size));
                self.supervisor.spawn("hot-copy", async move {
                    hot.fill(flight, whole).await;
                    drop(seat);
                });
                return Ok(Some(growing.stream_or(range, instead)));
            }
            if let Some(found) = self.hot.find(digest, size).await {
                return Ok(Some(found.stream(range, instead)));
            }
        }
        let stream = unpack::stream(self.objects.clone(), recipe, range);
        Ok(Some(stream.inspect(move |_| _ = &seat).boxed()))
    }

    /// The file of a content that is one, or has a whole copy.
    pub(crate) async fn file(&self, digest: &Digest) -> ApiResult<Option<std::fs::File>> {
        match (self.meta.content(digest).await?, &*self.objects) {
            (Some((content, _)), _) if content.packed && !content.damaged => {
                // One that is being made is found again by whoever streams it.
                let Some(Found::Whole(file)) = self.hot.look(digest, content.size).await else {
                    return Ok(None);
                };
                self.hot.used(digest);
                Ok(Some(file))
            }
            (Some((content, _)), Objects::Local(local)) if !content.damaged => {
                local.open_file(&blob_key(digest)).await
            }
            _ => Ok(None),
        }
    }

    /// Copies that nobody read since `before`, or whose content is not packed any more, go.
    pub(crate) async fn drop_cold_copies(&self, before: i64) -> ApiResult<()> {
        for (digest, size, read) in self.hot.list() {
            let content = self.meta.content(&digest).await?;
            let good = content.is_some_and(|(content, _)| content.packed && content.size == size);
            if !good || read < before {
                self.hot.forget(&digest).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn recipe(&self, digest: &Digest) -> ApiResult<Option<Arc<Recipe>>> {
        if let Some(read) = self.recipes().all.get(digest).and_then(Weak::upgrade) {
            return Ok(Some(read));
        }
        let turn = self.decoding.clone().acquire_owned().await.map_err(std::io::Error::other)?;
        let before = {
            let recipes = self.recipes();
            // Another reader may have read it meanwhile.
            if let Some(read) = recipes.all.get(digest).and_then(Weak::upgrade) {
                return Ok(Some(read));
            }
            recipes.replaced
        };
        let Some(bytes) = self.objects.read_all(&recipe_key(digest)).await? else { return Ok(None) };
        // Who asked may go away meanwhile: the turn lasts as long as the work.
        let decoded = tokio::task::spawn_blocking(move || (Recipe::decode(&bytes), turn));
        let (recipe, _turn) = decoded.await.map_err(std::io::Error::other)?;
        let recipe = recipe.map_err(|why| ApiError::internal(format!("recipe of {digest}: {why}")))?;
        let recipe = Arc::new(recipe);
        let mut recipes = self.recipes();
        recipes.all.retain(|_, recipe| recipe.strong_count() > 0);
        if recipes.replaced == before {
            recipes.all.insert(digest.clone(), Arc::downgrade(&recipe));
        }
        Ok(Some(recipe))
    }

    fn recipes(&self) -> std::sync::MutexGuard<'_, Recipes> {
        self.recipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A recipe that replaces the one that is there.
    /// Gives what was written.
    pub(crate) async fn replace_recipe(&self, digest: &Digest, recipe: &Recipe) -> ApiResult<Bytes> {
        let bytes = Bytes::from(recipe.encode()?);
        self.objects.put(&recipe_key(digest), bytes.clone()).await?;
        let mut recipes = self.recipes();
        recipes.all.remove(digest);
        recipes.replaced += 1;
        Ok(bytes)
    }

    /// A client read it.
    pub(crate) fn touch(&self, digest: &Digest) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.len() >= READS && !reads.contains_key(digest) {
            reads.clear();
        }
        reads.insert(digest.clone(), meta::now());
    }

    /// When a client read it last, as far as is known.
    pub(crate) fn read_at(&self, digest: &Digest) -> i64 {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied().unwrap_or(0)
    }

    /// Read it whole and compute its digest.
    pub(crate) async fn verify(&self, digest: &Digest, stream: ByteStream) -> ApiResult<bool> {
        let mut hasher = Hasher::new(digest.algorithm());
        let mut stream = stream;
        loop {
            match stream.next().await {
                Some(Ok(bytes)) => hasher.update(&bytes),
                Some(Err(error)) => {
                    tracing::warn!(%digest, "cannot be read: {error}");
                    return Ok(false);
                }
                None => return Ok(hasher.finish() == *digest),
            }
        }
    }

    /// Remove a content that nothing needs. Returns the bytes of its plain object, or nothing when it is needed again.
    pub(crate) async fn collect(&self, digest: &Digest) -> ApiResult<Option<u64>> {
        let _lock = self.lock(digest).await;
        if !self.counts.is_free(digest) {
            return Ok(None);
        }
        let Some((content, _)) = self.meta.content(digest).await? else {
            self.counts.forget(digest);
            return Ok(None);
        };
        let mut change = Change::default();
        change.delete(keys::content(digest));
        self.meta.commit(change).await?;
        self.counts.forget(digest);
        self.forget(digest);
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
        self.hot.forget(digest).await;
        // The record first: a crash in between leaves objects without a record, which the next collection removes.
        self.objects.delete(&blob_key(digest)).await?;
        self.objects.delete(&recipe_key(digest)).await?;
        Ok(Some(content.size))
    }

    /// Bytes of memory that remembered manifests use.
    pub(crate) fn cached(&self) -> usize {
        self.cache.inner.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Forget what is remembered of one content.
    pub(crate) fn forget(&self, digest: &Digest) {
        self.cache.forget(digest);
        self.recipes().all.remove(digest);
    }
}

/// Leave to put a packed content together; nothing when there is none for long.
async fn seat(seats: Arc<Semaphore>, wide: u32) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(SEAT, seats.acquire_many_owned(wide)).await.ok()?.ok()
}

/// A whole stream, bounded.
pub(crate) async fn collect(mut stream: ByteStream, limit: usize) -> ApiResult<Bytes> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.try_next().await? {
        if all.len() + bytes.len() > limit {
            return Err(ApiError::size_invalid(format!("more than {limit} bytes")));
        }
        if all.is_empty() {
            all = bytes.into();
        } else {
            all.extend_from_slice(&bytes);
        }
    }
    Ok(all.into())
}

/// Small contents that were read lately, oldest out first.
#[derive(Debug)]
struct Cache {
    limit: usize,
    inner: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    entries: HashMap<Digest, (Bytes, u64)>,
    bytes: usize,
    clock: u64,
}

impl Cache {
    fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    fn get(&self, digest: &Digest) -> Option<Bytes> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let clock = inner.clock;
        let (bytes, used) = inner.entries.get_mut(digest)?;
        *used = clock;
        Some(bytes.clone())
    }

    fn put(&self, digest: &Digest, bytes: &Bytes) {
        if bytes.len() > self.limit / 8 {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let clock = inner.clock;
        if let Some((old, _)) = inner.entries.insert(digest.clone(), (bytes.clone(), clock)) {
            inner.bytes -= old.len();
        }
        inner.bytes += bytes.len();
        if inner.bytes > self.limit {
            // Half of it goes at once, so that this is rare.
            let mut ages: Vec<u64> = inner.entries.values().map(|(_, used)| *used).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            inner.entries.retain(|_, (_, used)| *used > middle);
            inner.bytes = inner.entries.values().map(|(bytes, _)| bytes.len()).sum();
        }
    }

    fn forget(&self, digest: &Digest) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, _)) = inner.entries.remove(digest) {
            inner.bytes -= bytes.len();
        }
    }
}

impl Objects {
    /// They are in a bucket.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }
}
