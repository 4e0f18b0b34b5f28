//! What the registry knows, in the embedded store: projects, repositories, manifests, tags, links and contents.
//!
//! Keys (`id`: number of a repository, 4 bytes; `digest`: 1 byte of algorithm and the digest):
//! ```text
//! p/<project>            Project          r/<repository>       Repository
//! u/<user>               User             k/<robot>            Robot
//! w/<id>                 Webhook          x/<id>               Replication rule
//! m id digest            Manifest         t id tag             Tag
//! b id digest            size, time: the repository has this blob
//! s id subject digest    the manifest `digest` refers to `subject`
//! c digest               size, flags: the content is durable
//! q/…                    events that wait, see [`crate::outbox`]
//! ```
//! A blob of a repository is a link to content that all repositories share. How many links a content has is counted
//! in memory at the start ([`crate::counts`]), so a count can never drift from what is stored.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use sampan_store::{
    Compare, KeyValue, Op, Range, Store, Txn, TxnResponse,
    embedded::{self, Embedded},
    prefix_end,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    digest::Digest,
    error::{ApiError, ApiResult, Error},
};

mod records;
#[cfg(test)]
pub(crate) use records::Rule;
pub(crate) use records::{
    Manifest, Member, Project, Replication, Retention, Robot, Role, Tag, User, Webhook,
};
pub(crate) use records::{ReplicationMode, Repository};

/// The number of a repository; never used again.
pub(crate) type RepoId = u32;

/// Typed access to the store.
#[derive(Debug)]
pub(crate) struct Meta {
    store: Arc<Embedded>,
    next_repo: AtomicU32,
}

/// A blob of a repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) made: i64,
}

/// A content that is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) made: i64,
    /// It is kept as chunks.
    pub(crate) packed: bool,
    /// Packing it was tried and brought nothing.
    pub(crate) plain: bool,
    /// It was found damaged; the next push of it heals it.
    pub(crate) damaged: bool,
}

/// Conditions and changes that happen together.
#[derive(Debug, Default)]
pub(crate) struct Change(Txn);

impl Change {
    pub(crate) fn put(&mut self, key: Vec<u8>, value: impl Into<Bytes>) -> &mut Self {
        self.0.ops.push(Op::Put { key: key.into(), value: value.into(), lease: 0 });
        self
    }

    pub(crate) fn put_json(&mut self, key: Vec<u8>, value: &impl Serialize) -> &mut Self {
        // Records are plain data; they always have a JSON form.
        let value = serde_json::to_vec(value).unwrap_or_default();
        self.put(key, value)
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) -> &mut Self {
        self.0.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Nothing happens by it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.ops.is_empty()
    }

    /// Only if the key is still at this revision; 0: absent.
    pub(crate) fn at(&mut self, key: Vec<u8>, revision: i64) -> &mut Self {
        self.0.compare.push(Compare::ModRevision(key.into(), revision));
        self
    }
}

/// A walk over many keys.
pub(crate) struct Pages<'a> {
    meta: &'a Meta,
    next: Option<Vec<u8>>,
    end: Vec<u8>,
}

impl Pages<'_> {
    const PAGE: usize = 512;

    /// `None` at the end. What was written behind the walk's back may be missed, what was there all the time is not.
    pub(crate) async fn next(&mut self) -> ApiResult<Option<Vec<KeyValue>>> {
        let Some(start) = self.next.take() else { return Ok(None) };
        tokio::task::yield_now().await;
        let page = self.meta.range(start, self.end.clone(), Self::PAGE).await?;
        if page.len() == Self::PAGE {
            self.next = page.last().map(|last| [&last.key[..], &[0]].concat());
        }
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}

impl Meta {
    pub(crate) fn open(dir: &std::path::Path) -> Result<Self, Error> {
        let mut options = embedded::Options::new(dir);
        // Nobody watches: history is of no use.
        options.max_history_bytes = 256 << 10;
        options.snapshot_log_bytes = 32 << 20;
        let store = Arc::new(Embedded::open(options)?);
        Ok(Self { store, next_repo: AtomicU32::new(1) })
    }

    /// Numbers of repositories go on after those that are there.
    pub(crate) async fn prepare(&self) -> ApiResult<()> {
        let highest = self.repositories("", usize::MAX).await?.iter().map(|(_, repo)| repo.id).max();
        // Manifests of a repository that was removed are gone before it is, so its number may come again.
        self.next_repo.store(highest.unwrap_or(0) + 1, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) async fn get(&self, key: Vec<u8>) -> ApiResult<Option<KeyValue>> {
        let range = Range { start: key.into(), ..Range::default() };
        Ok(self.store.range(range).await?.kvs.pop())
    }

    /// Keys of `[start, end)`, at most `limit` (0: all).
    pub(crate) async fn range(&self, start: Vec<u8>, end: Vec<u8>, limit: usize) -> ApiResult<Vec<KeyValue>> {
        let range =
            Range { start: start.into(), end: end.into(), limit, uncounted: true, ..Range::default() };
        Ok(self.store.range(range).await?.kvs)
    }

    pub(crate) async fn prefix(&self, prefix: Vec<u8>) -> ApiResult<Vec<KeyValue>> {
        let end = prefix_end(&prefix).to_vec();
        self.range(prefix, end, 0).await
    }

    /// Everything with a prefix, a page at a time: whoever writes has a turn between two.
    pub(crate) fn pages(&self, prefix: Vec<u8>) -> Pages<'_> {
        let end = prefix_end(&prefix).to_vec();
        Pages { meta: self, next: Some(prefix), end }
    }

    /// True when it happened, false when a condition did not hold.
    pub(crate) async fn commit(&self, change: Change) -> ApiResult<bool> {
        Ok(matches!(self.store.txn(change.0).await?, TxnResponse::Committed(_)))
    }

    /// There are keys with this prefix.
    pub(crate) async fn any(&self, prefix: &[u8]) -> ApiResult<bool> {
        let end = prefix_end(prefix).to_vec();
        Ok(!self.range(prefix.to_vec(), end, 1).await?.is_empty())
    }

    /// A record, and its revision.
    pub(crate) async fn record<T: DeserializeOwned>(&self, key: Vec<u8>) -> ApiResult<Option<(T, i64)>> {
        let Some(kv) = self.get(key).await? else { return Ok(None) };
        Ok(Some((decode(&kv)?, kv.mod_revision)))
    }

    pub(crate) async fn records<T: DeserializeOwned>(&self, prefix: &str) -> ApiResult<Vec<(String, T)>> {
        let kvs = self.prefix(prefix.as_bytes().to_vec()).await?;
        kvs.iter()
            .map(|kv| {
                let name = String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned();
                Ok((name, decode(kv)?))
            })
            .collect()
    }

    pub(crate) async fn project(&self, name: &str) -> ApiResult<Option<(Project, i64)>> {
        self.record(keys::project(name)).await
    }

    pub(crate) async fn repository(&self, name: &str) -> ApiResult<Option<Repository>> {
        Ok(self.record(keys::repository(name)).await?.map(|(repository, _)| repository))
    }

    /// The repository's number; it is made when it does not exist.
    pub(crate) async fn repository_or_make(&self, name: &str) -> ApiResult<RepoId> {
        loop {
            if let Some(repository) = self.repository(name).await? {
                return Ok(repository.id);
            }
            let id = self.next_repo.fetch_add(1, Ordering::Relaxed);
            let repository = Repository { id, made: now(), labels: Vec::new(), description: String::new() };
            let mut change = Change::default();
            change.at(keys::repository(name), 0).put_json(keys::repository(name), &repository);
            if self.commit(change).await? {
                return Ok(id);
            }
        }
    }

    /// Repositories with names after `last`, in order.
    pub(crate) async fn repositories(
        &self,
        last: &str,
        limit: usize,
    ) -> ApiResult<Vec<(String, Repository)>> {
        let mut start = keys::repository(last);
        start.push(0);
        let end = prefix_end(b"r/").to_vec();
        let limit = if limit == usize::MAX { 0 } else { limit };
        let kvs = self.range(start, end, limit).await?;
        kvs.iter().map(|kv| Ok((String::from_utf8_lossy(&kv.key[2..]).into_owned(), decode(kv)?))).collect()
    }

    /// Repositories of a project.
    pub(crate) async fn repositories_of(&self, project: &str) -> ApiResult<Vec<(String, Repository)>> {
        let all = self.records::<Repository>(&format!("r/{project}/")).await?;
        let mut all: Vec<_> =
            all.into_iter().map(|(name, repo)| (format!("{project}/{name}"), repo)).collect();
        if project == crate::name::DEFAULT_PROJECT {
            let others = self.repositories("", usize::MAX).await?;
            all.extend(others.into_iter().filter(|(name, _)| !name.contains('/')));
        }
        Ok(all)
    }

    pub(crate) async fn manifest(&self, repo: RepoId, digest: &Digest) -> ApiResult<Option<(Manifest, i64)>> {
        self.record(keys::manifest(repo, digest)).await
    }

    /// Manifests of a repository.
    pub(crate) async fn manifests(&self, repo: RepoId) -> ApiResult<Vec<(Digest, Manifest)>> {
        let (mut all, mut pages) = (Vec::new(), self.pages(keys::of_repo(b'm', repo)));
        while let Some(page) = pages.next().await? {
            for kv in page {
                if let Some((digest, _)) = Digest::from_key(&kv.key[5..]) {
                    all.push((digest, decode(&kv)?));
                }
            }
        }
        Ok(all)
    }

    /// It has no manifests.
    pub(crate) async fn is_empty_repository(&self, repo: RepoId) -> ApiResult<bool> {
        Ok(!self.any(&keys::of_repo(b'm', repo)).await?)
    }

    pub(crate) async fn tag(&self, repo: RepoId, tag: &str) -> ApiResult<Option<(Tag, i64)>> {
        self.record(keys::tag(repo, tag)).await
    }

    /// Tags after `last`, in order.
    pub(crate) async fn tags(&self, repo: RepoId, last: &str, limit: usize) -> ApiResult<Vec<(String, Tag)>> {
        let mut start = keys::tag(repo, last);
        if !last.is_empty() {
            start.push(0);
        }
        let end = prefix_end(&keys::of_repo(b't', repo)).to_vec();
        let kvs = self.range(start, end, limit).await?;
        kvs.iter().map(|kv| Ok((String::from_utf8_lossy(&kv.key[5..]).into_owned(), decode(kv)?))).collect()
    }

    pub(crate) async fn link(&self, repo: RepoId, digest: &Digest) -> ApiResult<Option<(Link, i64)>> {
        let kv = self.get(keys::link(repo, digest)).await?;
        Ok(kv.and_then(|kv| Some((Link::decode(&kv.value)?, kv.mod_revision))))
    }

    pub(crate) async fn content(&self, digest: &Digest) -> ApiResult<Option<(Content, i64)>> {
        let kv = self.get(keys::content(digest)).await?;
        Ok(kv.and_then(|kv| Some((Content::decode(&kv.value)?, kv.mod_revision))))
    }
}

pub(crate) fn decode<T: DeserializeOwned>(kv: &KeyValue) -> ApiResult<T> {
    serde_json::from_slice(&kv.value)
        .map_err(|error| ApiError::internal(format!("record {:?} is damaged: {error}", kv.key)))
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    sampan_daemon::clock::now().as_second()
}

/// Seconds as RFC 3339.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), sampan_daemon::clock::rfc3339)
}

impl Link {
    pub(crate) fn encode(self) -> Vec<u8> {
        [self.size.to_be_bytes(), self.made.to_be_bytes()].concat()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (size, rest) = value.split_first_chunk()?;
        let (made, _) = rest.split_first_chunk()?;
        Some(Self { size: u64::from_be_bytes(*size), made: i64::from_be_bytes(*made) })
    }
}

impl Content {
    /// What is stored of one; behind it may lie the [`Sketch`](crate::content::alike::Sketch) of one that stays plain.
    pub(crate) const BYTES: usize = 17;

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut value = [self.size.to_be_bytes(), self.made.to_be_bytes()].concat();
        value.push(u8::from(self.packed) | u8::from(self.plain) << 1 | u8::from(self.damaged) << 2);
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (size, rest) = value.split_first_chunk()?;
        let (made, rest) = rest.split_first_chunk()?;
        let flags = *rest.first()?;
        Some(Self {
            size: u64::from_be_bytes(*size),
            made: i64::from_be_bytes(*made),
            packed: flags & 1 != 0,
            plain: flags & 2 != 0,
            damaged: flags & 4 != 0,
        })
    }
}

/// How keys are made.
pub(crate) mod keys {
    use super::{Digest, RepoId};

    pub(crate) fn named(prefix: &str, name: &str) -> Vec<u8> {
        format!("{prefix}{name}").into_bytes()
    }

    pub(crate) fn project(name: &str) -> Vec<u8> {
        named("p/", name)
    }

    pub(crate) fn repository(name: &str) -> Vec<u8> {
        named("r/", name)
    }

    pub(crate) fn of_repo(kind: u8, repo: RepoId) -> Vec<u8> {
        let mut key = vec![kind];
        key.extend_from_slice(&repo.to_be_bytes());
        key
    }

    fn with(kind: u8, repo: RepoId, rest: &[u8]) -> Vec<u8> {
        let mut key = of_repo(kind, repo);
        key.extend_from_slice(rest);
        key
    }

    pub(crate) fn manifest(repo: RepoId, digest: &Digest) -> Vec<u8> {
        with(b'm', repo, &digest.key())
    }

    pub(crate) fn tag(repo: RepoId, tag: &str) -> Vec<u8> {
        with(b't', repo, tag.as_bytes())
    }

    pub(crate) fn link(repo: RepoId, digest: &Digest) -> Vec<u8> {
        with(b'b', repo, &digest.key())
    }

    pub(crate) fn referrers(repo: RepoId, subject: &Digest) -> Vec<u8> {
        with(b's', repo, &subject.key())
    }

    pub(crate) fn referrer(repo: RepoId, subject: &Digest, digest: &Digest) -> Vec<u8> {
        [referrers(repo, subject), digest.key()].concat()
    }

    pub(crate) fn content(digest: &Digest) -> Vec<u8> {
        [vec![b'c'], digest.key()].concat()
    }
}
