//! Projects whose images come from another registry when they are asked for, and are kept.
//!
//! Whatever is fetched is fetched once, however many ask for it at a time. A tag is looked up again when it was last
//! looked up some time ago; when the upstream fails or is slow, the kept copy is served (and a slow look-up ends behind).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{
    FutureExt, TryStreamExt,
    future::{BoxFuture, Shared},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::{
    auth::Caller,
    core::{Access, Core, Fetched},
    digest::{Digest, Hasher},
    error::{ApiError, ApiResult},
    growing::{Grower, Growing, create},
    meta::{self, Change, keys},
    name::Selector,
    objects::ByteStream,
    upstream::{Refusal, Upstream, page_of},
};

/// A tag is looked up again after this, unless the project says otherwise.
const FRESH: i64 = 300;
/// A client waits this long for the upstream when there is a kept copy.
const PATIENCE: Duration = Duration::from_secs(3);

type Flight = Shared<BoxFuture<'static, ApiResult<()>>>;

/// What is being fetched at this moment.
pub(crate) struct Flights {
    manifests: Mutex<HashMap<String, Flight>>,
    /// By repository too: what one upstream lets somebody have says nothing about another.
    blobs: Mutex<HashMap<(String, Digest), Arc<Download>>>,
    /// Whoever begins a download; digests share these.
    beginning: Vec<AsyncMutex<()>>,
}

const BEGINNING: usize = 256;

impl Default for Flights {
    fn default() -> Self {
        let beginning = (0..BEGINNING).map(|_| AsyncMutex::new(())).collect();
        Self { manifests: Mutex::default(), blobs: Mutex::default(), beginning }
    }
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flights")
    }
}

/// A blob on its way: clients read what is there.
#[derive(Debug)]
struct Download {
    size: Option<u64>,
    growing: Growing,
}

impl Core {
    fn upstreams(&self, access: &Access) -> ApiResult<(Vec<Upstream>, String)> {
        let proxy =
            access.project.proxy.as_ref().ok_or_else(|| ApiError::name_unknown(&access.repository))?;
        let below = access
            .repository
            .strip_prefix(&format!("{}/", access.project_name))
            .unwrap_or(&access.repository);
        let make = |url: &String| {
            // Mirrors get no credentials: they are somebody else's.
            let (user, password) =
                if *url == proxy.upstream { (&*proxy.username, &*proxy.password) } else { ("", "") };
            Upstream::new(self.client.clone(), url, user, password)
                .map_err(|why| ApiError::unavailable(why.to_string()))
        };
        let all = proxy.mirrors.iter().chain([&proxy.upstream]).map(make).collect::<ApiResult<Vec<_>>>()?;
        Ok((all, below.to_owned()))
    }

    /// A manifest of a proxied project.
    pub(crate) async fn proxy_manifest(
        self: &Arc<Self>,
        access: &Access,
        selector: &Selector,
    ) -> ApiResult<Fetched> {
        let kept = self.resolve(access, selector).await.ok();
        let kept = match kept {
            // Damaged storage is healed by fetching again.
            Some(kept) if self.contents.size(&kept.digest).await?.is_none() => None,
            kept => kept,
        };
        if kept.is_some() {
            let fresh = match selector {
                Selector::Digest(_) => true,
                Selector::Tag(tag) => self.is_fresh(access, tag).await?,
            };
            if fresh {
                return kept.ok_or_else(ApiError::upload_unknown);
            }
        }
        let flight = self.fly(access, selector);
        let outcome = if kept.is_some() {
            match tokio::time::timeout(PATIENCE, flight).await {
                Ok(outcome) => outcome,
                // It goes on behind.
                Err(_) => Ok(()),
            }
        } else {
            flight.await
        };
        match (outcome, kept) {
            (Err(error), Some(kept)) => {
                tracing::debug!(
                    "upstream of {}: {}; the kept copy is served",
                    access.repository,
                    error.message
                );
                Ok(kept)
            }
            (Err(error), None) => Err(error),
            (Ok(()), _) => self.resolve(access, selector).await,
        }
    }

    async fn is_fresh(&self, access: &Access, tag: &str) -> ApiResult<bool> {
        let fresh =
            access.project.proxy.as_ref().and_then(|proxy| proxy.fresh_seconds).map_or(FRESH, i64::from);
        let Some(repository) = self.meta.repository(&access.repository).await? else { return Ok(false) };
        let found = self.meta.tag(repository.id, tag).await?;
        Ok(found.is_some_and(|(tag, _)| meta::now() - tag.checked.max(tag.made) < fresh))
    }

    /// Join the one who fetches it, or become that one.
    fn fly(self: &Arc<Self>, access: &Access, selector: &Selector) -> Flight {
        let reference = match selector {
            Selector::Tag(tag) => tag.clone(),
            Selector::Digest(digest) => digest.to_string(),
        };
        let key = format!("{}@{reference}", access.repository);
        let mut flights = self.flights.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let (sender, receiver) = oneshot::channel();
        let gone = || ApiError::unavailable("the registry ends");
        let flight = receiver.map(move |outcome| outcome.unwrap_or_else(|_| Err(gone()))).boxed().shared();
        flights.insert(key.clone(), flight.clone());
        drop(flights);
        let (core, selector) = (self.clone(), selector.clone());
        let access = Access { caller: Caller::System("proxy"), ..access.clone() };
        self.supervisor.spawn("proxy-manifest", async move {
            let outcome = core.fetch_manifest(&access, &selector, &reference).await;
            core.flights.manifests.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            // Nobody may be waiting any more.
            let _ = sender.send(outcome);
        });
        flight
    }

    async fn fetch_manifest(&self, access: &Access, selector: &Selector, reference: &str) -> ApiResult<()> {
        let (upstreams, below) = self.upstreams(access)?;
        let mut last = Refusal::NotFound;
        for upstream in &upstreams {
            // A tag that did not move costs one small request.
            if let (Selector::Tag(tag), Ok(Some(digest))) = (selector, upstream.head(&below, reference).await)
                && self.confirm(access, tag, &digest).await?
            {
                return Ok(());
            }
            match upstream.manifest(&below, reference).await {
                Ok(found) => {
                    self.metrics.proxied.fetch_add(1, Relaxed);
                    self.keep_fetched(access, selector, &found.media_type, found.bytes).await?;
                    return Ok(());
                }
                Err(refusal) => last = worse(last, refusal),
            }
        }
        Err(self.refusal(last, || ApiError::manifest_unknown(reference)))
    }

    /// The tag still points where it did. False when it has to be fetched.
    async fn confirm(&self, access: &Access, tag: &str, digest: &Digest) -> ApiResult<bool> {
        let Some(repository) = self.meta.repository(&access.repository).await? else { return Ok(false) };
        let Some((known, revision)) = self.meta.tag(repository.id, tag).await? else { return Ok(false) };
        if known.digest != *digest || self.contents.size(digest).await?.is_none() {
            return Ok(false);
        }
        let key = keys::tag(repository.id, tag);
        let mut change = Change::default();
        change.at(key.clone(), revision).put_json(key, &meta::Tag { checked: meta::now(), ..known });
        self.meta.commit(change).await
    }

    fn refusal(&self, refusal: Refusal, unknown: impl FnOnce() -> ApiError) -> ApiError {
        self.metrics.proxy_failures.fetch_add(1, Relaxed);
        match refusal {
            Refusal::NotFound => unknown(),
            Refusal::Denied(_) => ApiError::denied(refusal.to_string()),
            Refusal::Failed(_) => ApiError::unavailable(refusal.to_string()),
        }
    }

    /// The size of a blob that is not here yet.
    pub(crate) async fn proxy_blob_size(&self, access: &Access, digest: &Digest) -> ApiResult<u64> {
        let (upstreams, below) = self.upstreams(access)?;
        let mut last = Refusal::NotFound;
        for upstream in &upstreams {
            match upstream.blob_size(&below, digest).await {
                Ok(Some(size)) => return Ok(size),
                Ok(None) => last = Refusal::Failed("it does not say the size".into()),
                Err(refusal) => last = worse(last, refusal),
            }
        }
        Err(self.refusal(last, || ApiError::blob_unknown(digest)))
    }

    /// A blob that is not here yet: its bytes as they come, while they are stored. The size when it is known.
    pub(crate) async fn proxy_blob(
        self: &Arc<Self>,
        access: &Access,
        digest: &Digest,
    ) -> ApiResult<(Option<u64>, ByteStream)> {
        let Some(download) = self.download(access, digest).await? else {
            let size = self.blob(access, digest).await?;
            let stream = self.contents.stream(digest, 0..size).await?;
            return Ok((Some(size), stream.ok_or_else(|| ApiError::blob_unknown(digest))?));
        };
        Ok((download.size, download.growing.clone().stream()))
    }

    /// Join the one who fetches it, or become that one; nothing when it has arrived since the caller looked.
    async fn download(
        self: &Arc<Self>,
        access: &Access,
        digest: &Digest,
    ) -> ApiResult<Option<Arc<Download>>> {
        let key = (access.repository.clone(), digest.clone());
        let running = |core: &Core| {
            core.flights.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
        };
        let _turn = self.flights.beginning[digest.part(BEGINNING)].lock().await;
        if let Some(download) = running(self) {
            return Ok(Some(download));
        }
        if self.blob(access, digest).await.is_ok() {
            return Ok(None);
        }
        let (upstreams, below) = self.upstreams(access)?;
        let mut last = Refusal::NotFound;
        for upstream in &upstreams {
            match upstream.blob(&below, digest).await {
                Ok((size, stream)) => {
                    let (growing, grower) = create(self.contents.temporary()).await?;
                    let download = Arc::new(Download { size, growing });
                    self.flights
                        .blobs
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(key.clone(), download.clone());
                    let (core, digest, key) = (self.clone(), digest.clone(), key.clone());
                    let access = Access { caller: Caller::System("proxy"), ..access.clone() };
                    self.supervisor.spawn("proxy-blob", async move {
                        let outcome = core.receive(&access, &digest, stream, &grower).await;
                        if outcome.is_err() {
                            let _ = tokio::fs::remove_file(grower.path()).await;
                        }
                        core.flights.blobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                        grower.end(outcome.map_err(|error| error.message));
                    });
                    self.metrics.proxied.fetch_add(1, Relaxed);
                    return Ok(Some(download));
                }
                Err(refusal) => last = worse(last, refusal),
            }
        }
        Err(self.refusal(last, || ApiError::blob_unknown(digest)))
    }

    async fn receive(
        &self,
        access: &Access,
        digest: &Digest,
        mut stream: ByteStream,
        grower: &Grower,
    ) -> ApiResult<()> {
        let hold = self.counts.hold(digest);
        let (mut hasher, mut length) = (Hasher::new(digest.algorithm()), 0_u64);
        let stall = self.options.limits.stall;
        let slow = |_| ApiError::unavailable("the other registry sends nothing");
        while let Some(bytes) = tokio::time::timeout(stall, stream.try_next()).await.map_err(slow)?? {
            length += bytes.len() as u64;
            if length > self.options.limits.blob_bytes {
                return Err(ApiError::size_invalid("the blob is too large"));
            }
            hasher.update(&bytes);
            grower.append(bytes).await?;
        }
        let got = hasher.finish();
        if got != *digest {
            return Err(ApiError::digest_mismatch(digest, &got));
        }
        self.contents.adopt(digest, grower.path(), length).await?;
        self.add_link(access, digest, length).await?;
        drop(hold);
        Ok(())
    }

    /// Wait until a blob that is on its way is here.
    pub(crate) async fn proxy_complete(self: &Arc<Self>, access: &Access, digest: &Digest) -> ApiResult<()> {
        let Some(download) = self.download(access, digest).await? else { return Ok(()) };
        download.growing.clone().ended().await.map_err(|why| ApiError::unavailable(why.to_string()))
    }

    /// Tags of the upstream; nothing when it does not answer, then those that are kept are meant.
    pub(crate) async fn proxy_tags(&self, access: &Access, query: Option<&str>) -> ApiResult<Option<Value>> {
        let (upstreams, below) = self.upstreams(access)?;
        for upstream in &upstreams {
            let Ok(Ok(mut tags)) = tokio::time::timeout(PATIENCE * 3, upstream.tags(&below)).await else {
                continue;
            };
            let (n, last) = page_of(query, usize::MAX);
            tags.sort();
            tags.retain(|tag| *tag > last);
            tags.truncate(n);
            return Ok(Some(json!({ "name": access.repository, "tags": tags })));
        }
        Ok(None)
    }
}

/// A refusal that says more than that it is not there.
fn worse(before: Refusal, now: Refusal) -> Refusal {
    match (&before, &now) {
        (Refusal::NotFound, _) | (_, Refusal::Denied(_)) => now,
        _ => before,
    }
}
