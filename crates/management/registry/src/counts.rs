//! How many links each content has, and how many bytes each project uses. Counted from the metadata at the start and
//! kept in memory: what is never stored cannot drift.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    digest::Digest,
    error::{ApiError, ApiResult},
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Who needs each content that anybody needs.
    needs: HashMap<Digest, Needs>,
    /// Contents without any, and since when (seconds since 1970).
    free: HashMap<Digest, i64>,
    usage: HashMap<String, u64>,
}

#[derive(Debug, Default)]
struct Needs {
    /// Links that are stored.
    links: u32,
    holds: u32,
}

/// While it lives, the content cannot be collected.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    counts: &'a Counts,
    digest: Option<Digest>,
}

impl Hold<'_> {
    /// The hold became a link that is stored.
    pub(crate) fn keep(mut self) {
        let Some(digest) = self.digest.take() else { return };
        self.counts.less(&digest, |needs| {
            needs.holds -= 1;
            needs.links += 1;
        });
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(digest) = self.digest.take() {
            self.counts.less(&digest, |needs| needs.holds -= 1);
        }
    }
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep this content; it need not exist yet.
    pub(crate) fn hold(&self, digest: &Digest) -> Hold<'_> {
        let mut inner = self.lock();
        inner.needs.entry(digest.clone()).or_default().holds += 1;
        inner.free.remove(digest);
        Hold { counts: self, digest: Some(digest.clone()) }
    }

    /// A link is gone.
    pub(crate) fn release(&self, digest: &Digest) {
        self.less(digest, |needs| needs.links = needs.links.saturating_sub(1));
    }

    fn less(&self, digest: &Digest, change: impl FnOnce(&mut Needs)) {
        let mut inner = self.lock();
        let Some(needs) = inner.needs.get_mut(digest) else { return };
        change(needs);
        if needs.links + needs.holds == 0 {
            inner.needs.remove(digest);
            inner.free.insert(digest.clone(), crate::meta::now());
        }
    }

    /// A link to it is stored.
    pub(crate) fn is_linked(&self, digest: &Digest) -> bool {
        self.lock().needs.get(digest).is_some_and(|needs| needs.links > 0)
    }

    /// The content exists; nothing is known to need it yet. Only at the start.
    pub(crate) fn found(&self, digest: Digest) {
        self.lock().free.insert(digest, crate::meta::now());
    }

    /// Nothing needs it.
    pub(crate) fn is_free(&self, digest: &Digest) -> bool {
        !self.lock().needs.contains_key(digest)
    }

    /// The content is gone.
    pub(crate) fn forget(&self, digest: &Digest) {
        self.lock().free.remove(digest);
    }

    /// Contents that nothing has needed since `before`.
    pub(crate) fn free_since(&self, before: i64) -> Vec<Digest> {
        let inner = self.lock();
        inner.free.iter().filter(|(_, since)| **since <= before).map(|(digest, _)| digest.clone()).collect()
    }

    /// Whether there are so many bytes of a project's quota (0: no limit).
    pub(crate) fn check(&self, project: &str, bytes: u64, quota: u64) -> ApiResult<()> {
        Self::afford(&self.lock(), project, bytes, quota).map(drop)
    }

    /// Take them.
    pub(crate) fn charge(&self, project: &str, bytes: u64, quota: u64) -> ApiResult<()> {
        let mut inner = self.lock();
        let after = Self::afford(&inner, project, bytes, quota)?;
        inner.usage.insert(project.to_owned(), after);
        Ok(())
    }

    fn afford(inner: &Inner, project: &str, bytes: u64, quota: u64) -> ApiResult<u64> {
        let used = inner.usage.get(project).copied().unwrap_or(0);
        let after = used.saturating_add(bytes);
        if quota > 0 && after > quota {
            let message = format!(
                "the quota of project {project} is exceeded: {used} of {quota} bytes are used and {bytes} more are needed (hint: delete images, or ask its administrator for more)"
            );
            return Err(ApiError::denied(message));
        }
        Ok(after)
    }

    /// Give bytes back.
    pub(crate) fn refund(&self, project: &str, bytes: u64) {
        let mut inner = self.lock();
        if let Some(used) = inner.usage.get_mut(project) {
            *used = used.saturating_sub(bytes);
        }
    }

    /// Bytes that a project uses.
    pub(crate) fn usage(&self, project: &str) -> u64 {
        self.lock().usage.get(project).copied().unwrap_or(0)
    }

    /// Contents with links, contents without.
    pub(crate) fn totals(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.needs.len(), inner.free.len())
    }
}
