//! Garbage collection: what neither a name, a container, a running operation nor the build cache needs goes.
//!
//! Marking and unlinking happen under the exclusive lock, which every operation takes (shared) to write down what
//! it needs *before* it looks whether that exists. So either the collector sees the need, or the operation sees
//! that the content is gone.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::lease::remove_tree;
use super::lock::{open_lock, try_exclusive};
use super::{Store, locked};
use crate::build::mounts;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::service::Pruned;

/// Build steps that are remembered.
const CACHE_ENTRIES: usize = 2000;
/// Directories of `RUN --mount=type=cache` that stay.
const CACHE_MOUNTS: usize = 100;
/// A download that nobody continued for this long is given up.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Delete what nothing refers to; with `cache`, the build cache too.
    pub(crate) fn collect(&self, cache: bool) -> Result<Pruned> {
        let (pruned, trash) = {
            let _guard = self.exclusive()?;
            let (mut live, _) = self.leased()?;
            self.mark(&mut live)?;
            let mut pruned = Pruned { cache_entries: self.trim_cache(cache)?, ..Pruned::default() };
            if !cache {
                self.mark_cache(&mut live)?;
            }
            let trash = self.path("tmp").join(format!("trash-{}", self.unique()));
            self.sweep(&live, &trash, &mut pruned)?;
            (pruned, trash)
        };
        if trash.exists() {
            remove_tree(&trash);
        }
        let mut pruned = pruned;
        pruned.freed += mounts::prune(self, if cache { 0 } else { CACHE_MOUNTS })?;
        Ok(pruned)
    }

    /// After a build: forget the oldest steps when there are too many, or their layers are too large.
    pub(crate) fn bound_cache(&self) -> Result<()> {
        let over = {
            let _guard = self.exclusive()?;
            self.trim_cache(false)? > 0
        };
        if over { self.collect(false).map(drop) } else { Ok(()) }
    }

    /// Bytes that [`Store::collect`] with the cache would free now.
    pub(crate) fn reclaimable(&self) -> Result<u64> {
        let _guard = self.shared()?;
        let mut live = HashSet::new();
        self.mark(&mut live)?;
        let mut bytes = 0;
        for (hex, _, size) in self.blobs()?.into_iter().chain(self.snapshots()?) {
            if !live.contains(&hex) {
                bytes += size;
            }
        }
        Ok(bytes)
    }

    /// Content behind names and containers.
    fn mark(&self, live: &mut HashSet<String>) -> Result<()> {
        for hold in self.uses()? {
            live.extend(hold.content);
        }
        let mut manifests: HashSet<Digest> = HashSet::new();
        for descriptor in self.read_index()?.images.values() {
            manifests.insert(descriptor.digest);
            if let Ok((index, all)) = self.manifests(descriptor) {
                live.extend(index.map(|digest| digest.hex()));
                manifests.extend(all);
            }
        }
        for digest in manifests {
            // An image whose manifest is damaged keeps nothing but its manifest.
            live.insert(digest.hex());
            if let Ok(content) = self.content_of(&digest) {
                live.extend(content);
            }
        }
        Ok(())
    }

    fn mark_cache(&self, live: &mut HashSet<String>) -> Result<()> {
        let dir = self.path("cache");
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))?.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            live.extend(text.split('"').filter_map(|word| word.strip_prefix("sha256:")).map(str::to_owned));
        }
        Ok(())
    }

    fn trim_cache(&self, all: bool) -> Result<usize> {
        let dir = self.path("cache");
        let mut entries: Vec<_> = fs::read_dir(&dir)
            .map_err(Error::io("read", &dir))?
            .flatten()
            .map(|entry| (entry.metadata().and_then(|metadata| metadata.modified()).ok(), entry.path()))
            .collect();
        entries.sort_by(|left, right| right.cmp(left));
        // The newest stay, as far as their layers fit.
        let (mut kept, mut bytes, mut seen) = (0, 0, HashSet::new());
        for (_, path) in entries.iter().take(if all { 0 } else { CACHE_ENTRIES }) {
            let text = fs::read(path).unwrap_or_default();
            let layer = serde_json::from_slice::<crate::build::Step>(&text).ok().and_then(|step| step.layer);
            if let Some(layer) = layer
                && seen.insert(layer.diff_id)
            {
                bytes += layer.descriptor.size;
            }
            if bytes > self.options.limits.build_cache_bytes {
                break;
            }
            kept += 1;
        }
        for (_, path) in &entries[kept..] {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
        }
        Ok(entries.len() - kept)
    }

    fn sweep(&self, live: &HashSet<String>, trash: &PathBuf, pruned: &mut Pruned) -> Result<()> {
        for (hex, path, size) in self.blobs()? {
            if !live.contains(&hex) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                pruned.blobs += 1;
                pruned.freed += size;
            }
        }
        for (hex, path, size) in self.snapshots()? {
            if live.contains(&hex) {
                continue;
            }
            // Renaming is quick; the tree is removed after the lock is let go.
            fs::create_dir_all(trash).map_err(Error::io("create", trash))?;
            fs::rename(&path, trash.join(&hex)).map_err(Error::io("move", &path))?;
            locked(&self.whole).remove(&hex);
            pruned.snapshots += 1;
            pruned.freed += size;
        }
        self.sweep_links()?;
        self.sweep_partials(live)
    }

    fn sweep_links(&self) -> Result<()> {
        let dir = self.path("l");
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))?.flatten() {
            if !entry.path().exists() {
                // Somebody may have removed it meanwhile.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn sweep_partials(&self, live: &HashSet<String>) -> Result<()> {
        let dir = self.path("partial");
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            let old = matches!(age, Ok(Ok(age)) if age > PARTIAL_AGE);
            if old && !live.contains(&name) && try_exclusive(open_lock(&entry.path())?).is_some() {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// `(hex, path, bytes)` of every blob.
    pub(crate) fn blobs(&self) -> Result<Vec<(String, PathBuf, u64)>> {
        let dir = self.path("blobs/sha256");
        let entries = fs::read_dir(&dir).map_err(Error::io("read", &dir))?.flatten();
        Ok(entries
            .map(|entry| {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                (entry.file_name().to_string_lossy().into_owned(), entry.path(), size)
            })
            .collect())
    }

    /// `(hex, path, bytes)` of every snapshot.
    pub(crate) fn snapshots(&self) -> Result<Vec<(String, PathBuf, u64)>> {
        let dir = self.path("snapshots");
        let entries = fs::read_dir(&dir).map_err(Error::io("read", &dir))?.flatten();
        Ok(entries
            .map(|entry| {
                let hex = entry.file_name().to_string_lossy().into_owned();
                let size = self.snapshot_bytes(&hex).unwrap_or_default();
                (hex, entry.path(), size)
            })
            .collect())
    }
}
