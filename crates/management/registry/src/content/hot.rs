//! Whole copies of packed contents that are read: what has to be compressed again to be served is compressed once, however
//! many ask and however often, as far as there is room.
//!
//! Copies are files below `hot/` on the local disk, also when contents are in a bucket. A copy has its name only when it is
//! complete, checked against its digest, and on the disk, so that those that a start finds are good. Nothing depends on
//! them: each may go at any time.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures::TryStreamExt;

use crate::{
    digest::{Digest, Hasher},
    growing::{Grower, Growing, create},
    meta,
    objects::{ByteStream, blocking, read_file},
};

/// Room that is left to others on the disk.
const SPARE: u64 = 1 << 30;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hot {
    dir: PathBuf,
    /// Bytes of all copies at most.
    budget: u64,
    inner: Mutex<Inner>,
    /// Copies that were made.
    pub(crate) made: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    copies: HashMap<Digest, Copied>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Copied {
    size: u64,
    /// By the clock, and in seconds since 1970.
    used: u64,
    read: i64,
    reads: u32,
    /// It is being made.
    growing: Option<Growing>,
}

/// Where a reader finds a copy.
#[derive(Debug)]
pub(crate) enum Found {
    Whole(File),
    Growing(Growing),
}

impl Found {
    /// A part of it; what a copy that is being made does not give comes from `instead`.
    pub(crate) fn stream(
        self,
        range: Range<u64>,
        instead: impl FnOnce(Range<u64>) -> ByteStream + Send + 'static,
    ) -> ByteStream {
        match self {
            Self::Whole(file) => read_file(file, range),
            Self::Growing(growing) => growing.stream_or(range, instead),
        }
    }
}

/// A copy that is to be made.
#[derive(Debug)]
pub(crate) struct Flight {
    digest: Digest,
    grower: Grower,
}

fn name(digest: &Digest) -> String {
    format!("{}-{}", digest.name(), digest.hex())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), "could not remove: {error}");
    }
}

impl Hot {
    /// What was there before is used on; what was not finished goes. Where the disk does not let us, there are no copies.
    pub(crate) fn open(dir: PathBuf, budget: u64) -> Self {
        let (inner, budget) = match Self::read(&dir) {
            Ok(inner) => (inner, budget),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), "no whole copies are kept: {error}");
                (Inner::default(), 0)
            }
        };
        let hot = Self { dir, budget, inner: Mutex::new(inner), made: AtomicU64::new(0) };
        let gone = hot.inner().make_room(0, budget);
        gone.unwrap_or_default().iter().for_each(|digest| remove(&hot.path(digest)));
        hot
    }

    fn read(dir: &Path) -> io::Result<Inner> {
        fs::create_dir_all(dir)?;
        let mut inner = Inner::default();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().replacen('-', ":", 1);
            let Ok(digest) = name.parse::<Digest>() else {
                remove(&entry.path());
                continue;
            };
            let size = entry.metadata()?.len();
            inner.bytes += size;
            let copy = Copied { size, used: 0, read: meta::now(), reads: 1, growing: None };
            inner.copies.insert(digest, copy);
        }
        Ok(inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(name(digest))
    }

    /// Bytes of all copies.
    pub(crate) fn bytes(&self) -> u64 {
        self.inner().bytes
    }

    /// The copy of a content, for a reader: it counts as read.
    pub(crate) async fn find(&self, digest: &Digest, size: u64) -> Option<Found> {
        self.used(digest);
        self.look(digest, size).await
    }

    /// A reader has the copy.
    pub(crate) fn used(&self, digest: &Digest) {
        let mut inner = self.inner();
        inner.clock += 1;
        let clock = inner.clock;
        if let Some(copy) = inner.copies.get_mut(digest) {
            (copy.used, copy.read, copy.reads) = (clock, meta::now(), copy.reads.saturating_add(1));
        }
    }

    /// The same for whoever does not read it, or not yet.
    pub(crate) async fn look(&self, digest: &Digest, size: u64) -> Option<Found> {
        let growing = self.inner().copies.get(digest)?.growing.clone();
        match growing {
            // Who made it went away.
            Some(growing) if growing.is_lost() => {
                self.forget(digest).await;
                return None;
            }
            Some(growing) => return Some(Found::Growing(growing)),
            None => {}
        }
        let path = self.path(digest);
        let opened = blocking(move || {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        match opened.await {
            Ok((file, length)) if length == size => Some(Found::Whole(file)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%digest, "its whole copy cannot be opened, it is compressed again: {error}");
                None
            }
            // Somebody cleaned up, or it is of another time.
            _ => {
                self.forget(digest).await;
                None
            }
        }
    }

    /// Begin a copy; nothing when there is no room for it, or somebody was faster.
    pub(crate) async fn begin(&self, digest: &Digest, size: u64) -> Option<(Growing, Flight)> {
        self.try_begin(digest, size).await.unwrap_or_else(|error| {
            tracing::warn!(%digest, "no whole copy can be begun, it is compressed again for each pull: {error}");
            None
        })
    }

    async fn try_begin(&self, digest: &Digest, size: u64) -> io::Result<Option<(Growing, Flight)>> {
        if size > self.budget {
            return Ok(None);
        }
        let (dir, part) = (self.dir.clone(), self.dir.join(uuid::Uuid::new_v4().to_string()));
        let free = blocking(move || {
            let found = rustix::fs::statvfs(dir)?;
            Ok(found.f_bavail.saturating_mul(found.f_frsize))
        });
        let free = free.await?;
        if free < size.saturating_add(SPARE) {
            return Ok(None);
        }
        let (growing, grower) = create(part.clone()).await?;
        let gone = {
            let mut inner = self.inner();
            let is_possible =
                !inner.copies.contains_key(digest) && inner.promised().saturating_add(size + SPARE) <= free;
            let room = if is_possible { inner.make_room(size, self.budget) } else { None };
            if room.is_some() {
                inner.clock += 1;
                let (used, growing) = (inner.clock, Some(growing.clone()));
                let copy = Copied { size, used, read: meta::now(), reads: 1, growing };
                inner.copies.insert(digest.clone(), copy);
                inner.bytes += size;
            }
            room
        };
        // Its name is known to nobody else: it goes with whoever has it open, or gets its own in the end.
        let Some(gone) = gone else {
            blocking(move || fs::remove_file(part)).await?;
            return Ok(None);
        };
        let paths: Vec<PathBuf> = gone.iter().map(|digest| self.path(digest)).collect();
        // Not waited for: who asked may go away, and then nobody would fill the copy.
        drop(tokio::task::spawn_blocking(move || paths.iter().for_each(|path| remove(path))));
        Ok(Some((growing, Flight { digest: digest.clone(), grower })))
    }

    /// Fill a copy. Whoever follows it is told of the end.
    pub(crate) async fn fill(&self, flight: Flight, content: ByteStream) {
        let Flight { digest, grower } = flight;
        let outcome = self.receive(&digest, &grower, content).await;
        match &outcome {
            Ok(()) => {
                let wanted = self.inner().copies.get_mut(&digest).map(|copy| copy.growing = None).is_some();
                if !wanted {
                    // It was forgotten while it was made.
                    let path = self.path(&digest);
                    let _ = blocking(move || fs::remove_file(path)).await;
                }
                self.made.fetch_add(1, Relaxed);
            }
            Err(error) => {
                tracing::warn!(%digest, "no whole copy is kept, it is compressed again for each pull: {error}");
                self.forget(&digest).await;
                let part = grower.path().to_owned();
                let _ = blocking(move || fs::remove_file(part)).await;
            }
        }
        grower.end(outcome.map_err(|error| error.to_string()));
    }

    async fn receive(&self, digest: &Digest, grower: &Grower, mut content: ByteStream) -> io::Result<()> {
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(bytes) = content.try_next().await? {
            hasher.update(&bytes);
            grower.append(bytes).await?;
        }
        if hasher.finish() != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its chunks make something else"));
        }
        grower.sync().await?;
        let (part, path) = (grower.path().to_owned(), self.path(digest));
        blocking(move || fs::rename(part, path)).await
    }

    /// Drop a copy. Whoever reads it reads on.
    pub(crate) async fn forget(&self, digest: &Digest) {
        let removed = {
            let mut inner = self.inner();
            let removed = inner.copies.remove(digest);
            inner.bytes -= removed.as_ref().map_or(0, |copy| copy.size);
            removed
        };
        if removed.is_some() {
            let path = self.path(digest);
            let _ = blocking(move || fs::remove_file(path)).await;
        }
    }

    /// Those that are complete, with their size and when they were read last.
    pub(crate) fn list(&self) -> Vec<(Digest, u64, i64)> {
        let inner = self.inner();
        let whole = inner.copies.iter().filter(|(_, copy)| copy.growing.is_none());
        whole.map(|(digest, copy)| (digest.clone(), copy.size, copy.read)).collect()
    }
}

impl Inner {
    /// Bytes of the copies that are being made; how many of them are on the disk already is not known.
    fn promised(&self) -> u64 {
        self.copies.values().filter(|copy| copy.growing.is_some()).map(|copy| copy.size).sum()
    }

    /// Make room for so many bytes: those that were read once go first, then by the last use. What has to go is given;
    /// nothing, and nothing is changed, when there is not enough.
    fn make_room(&mut self, size: u64, budget: u64) -> Option<Vec<Digest>> {
        let mut bytes = self.bytes + size;
        let mut gone = Vec::new();
        if bytes > budget {
            let whole = self.copies.iter().filter(|(_, copy)| copy.growing.is_none());
            let mut order: Vec<_> =
                whole.map(|(digest, copy)| (copy.reads > 1, copy.used, copy.size, digest.clone())).collect();
            order.sort_unstable();
            for (_, _, size, digest) in order {
                if bytes <= budget {
                    break;
                }
                bytes -= size;
                gone.push(digest);
            }
        }
        if bytes > budget {
            return None;
        }
        for digest in &gone {
            self.bytes -= self.copies.remove(digest).map_or(0, |copy| copy.size);
        }
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[test]
    fn what_was_read_once_goes_first_and_what_is_being_made_stays() {
        let mut inner = Inner::default();
        let digest = |n: u8| Digest::of(&[n]);
        for (n, reads) in [(0, 5), (1, 1), (2, 1), (3, 9)] {
            let copy = Copied { size: 10, used: u64::from(n), read: 0, reads, growing: None };
            inner.copies.insert(digest(n), copy);
            inner.bytes += 10;
        }
        assert_eq!(inner.make_room(10, 50), Some(Vec::new()));
        assert_eq!(inner.make_room(15, 40), Some(vec![digest(1), digest(2)]));
        assert_eq!(inner.bytes, 20);
        assert_eq!(inner.make_room(50, 40), None);
        assert_eq!(inner.bytes, 20);
        assert_eq!(inner.make_room(25, 40), Some(vec![digest(0)]));
    }

    #[tokio::test]
    async fn a_copy_whose_maker_went_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let hot = Hot::open(dir.path().join("hot"), 100);
        let digest = Digest::of(b"content");
        let flight = hot.begin(&digest, 7).await.unwrap();
        assert!(matches!(hot.find(&digest, 7).await, Some(Found::Growing(_))));
        assert!(hot.begin(&digest, 7).await.is_none());
        drop(flight);
        assert!(hot.find(&digest, 7).await.is_none());
        assert_eq!(hot.bytes(), 0);
        let (growing, flight) = hot.begin(&digest, 7).await.unwrap();
        let content = futures::stream::iter([Ok(bytes::Bytes::from_static(b"content"))]).boxed();
        hot.fill(flight, content).await;
        growing.ended().await.unwrap();
        assert!(matches!(hot.find(&digest, 7).await, Some(Found::Whole(_))));
    }

    #[tokio::test]
    async fn who_only_looks_has_not_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"content");
        fs::create_dir(dir.path().join("hot")).unwrap();
        fs::write(dir.path().join("hot").join(name(&digest)), b"content").unwrap();
        let hot = Hot::open(dir.path().join("hot"), 100);
        let uses = || {
            let inner = hot.inner();
            let copy = &inner.copies[&digest];
            (copy.reads, copy.used)
        };
        assert!(matches!(hot.look(&digest, 7).await, Some(Found::Whole(_))));
        assert_eq!(uses(), (1, 0));
        assert!(matches!(hot.find(&digest, 7).await, Some(Found::Whole(_))));
        assert_eq!(uses(), (2, 1));
    }

    #[tokio::test]
    async fn without_a_directory_there_are_no_copies_and_no_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hot");
        fs::write(&path, b"in the way").unwrap();
        let hot = Hot::open(path, 100);
        let digest = Digest::of(b"content");
        assert!(hot.find(&digest, 7).await.is_none());
        assert!(hot.begin(&digest, 7).await.is_none());
    }
}
