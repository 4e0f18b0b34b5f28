//! Snapshots: layers unpacked once, named by diff id, or by chain id when their files depend on the layers below.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lease::Lease;
use super::{Store, locked};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::sys;

const SHORT: usize = 12;

/// What a snapshot's files take from the layers below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Leans {
    #[default]
    OnNothing,
    /// Directories that the layer does not describe: at the bottom of an image they are what they are.
    Directories,
    /// Hard links to files that are not in the layer: it has only its bytes to give.
    Links,
}

/// What a snapshot holds.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Of a snapshot that bears the layer's own name.
    #[serde(default)]
    pub(crate) leans: Leans,
    /// Size of the blob, where the snapshot is all that is kept of it.
    #[serde(default)]
    pub(crate) layer: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    #[serde(flatten)]
    contents: Contents,
    /// Whether its files reached the disk; if not, they are trusted only until the machine restarts.
    synced: bool,
    boot: String,
}

impl Leans {
    /// Whether files that lean so can be used as they are.
    fn fits(self, at_the_bottom: bool) -> bool {
        self == Leans::OnNothing || (self == Leans::Directories && at_the_bottom)
    }
}

impl Store {
    pub(crate) fn snapshot_dir(&self, hex: &str) -> PathBuf {
        self.path("snapshots").join(hex)
    }

    /// The name of the snapshot of a layer, if it is unpacked and whole.
    pub(crate) fn find_snapshot(&self, diff_id: &Digest, chain_id: &Digest) -> Option<String> {
        let by_diff = diff_id.hex();
        if self.is_whole(&by_diff)
            && self.meta(&by_diff).is_some_and(|meta| meta.contents.leans.fits(diff_id == chain_id))
        {
            return Some(by_diff);
        }
        let by_chain = chain_id.hex();
        (diff_id != chain_id && self.is_whole(&by_chain)).then_some(by_chain)
    }

    fn is_whole(&self, hex: &str) -> bool {
        let dir = self.snapshot_dir(hex);
        if locked(&self.whole).contains(hex) {
            // Another process may have collected it.
            return dir.join("fs").is_dir();
        }
        let whole = self.meta(hex).is_some_and(|meta| meta.synced || meta.boot == self.boot)
            && dir.join("fs").is_dir();
        if whole {
            locked(&self.whole).insert(hex.to_owned());
        }
        whole
    }

    /// Size of the blob that a snapshot is kept instead of.
    pub(crate) fn kept_layer(&self, digest: &Digest) -> Option<u64> {
        let hex = digest.hex();
        if self.is_whole(&hex) { self.meta(&hex)?.contents.layer } else { None }
    }

    fn meta(&self, hex: &str) -> Option<Meta> {
        serde_json::from_slice(&fs::read(self.snapshot_dir(hex).join("meta.json")).ok()?).ok()
    }

    /// Bytes of a snapshot's files.
    pub(crate) fn snapshot_bytes(&self, hex: &str) -> Option<u64> {
        self.meta(hex).map(|meta| meta.contents.bytes)
    }

    /// Show a finished snapshot. `staging` holds `fs`. Whoever comes second keeps the first one's: then it is false, and
    /// `staging` is still there.
    pub(crate) fn commit_snapshot(
        &self,
        lease: &Lease,
        staging: &Path,
        hex: &str,
        contents: Contents,
    ) -> Result<bool> {
        let meta = Meta { contents, synced: false, boot: self.boot.clone() };
        let path = staging.join("meta.json");
        fs::write(&path, serde_json::to_vec(&meta).unwrap_or_default()).map_err(Error::io("write", &path))?;
        let target = self.snapshot_dir(hex);
        for _ in 0..2 {
            match fs::rename(staging, &target) {
                Ok(()) => return Ok(true),
                Err(_) if self.is_whole(hex) => return Ok(false),
                // What a power loss left is moved away; the lease's end removes it.
                Err(_) if target.exists() => {
                    let away = lease.scratch("stale");
                    fs::rename(&target, &away).map_err(Error::io("move", &target))?;
                }
                Err(error) => return Err(Error::io("store", &target)(error)),
            }
        }
        Err(Error::Corrupt { path: target, reason: "it cannot be replaced".into() })
    }

    /// Write snapshots to the disk and note it: after this they survive a power loss.
    pub(crate) fn sync_snapshots(&self, names: &[String]) -> Result<()> {
        if !self.options.sync {
            return Ok(());
        }
        let fresh: Vec<_> = names
            .iter()
            .filter_map(|hex| Some((hex, self.meta(hex)?)))
            .filter(|(_, meta)| !meta.synced)
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        sys::sync_fs(&self.dir).map_err(Error::io("sync", &self.dir))?;
        for (hex, meta) in fresh {
            let meta = serde_json::to_vec(&Meta { synced: true, ..meta }).unwrap_or_default();
            self.replace_file(&self.snapshot_dir(hex).join("meta.json"), &meta, false)?;
        }
        Ok(())
    }

    /// A directory for images without any layer: overlayfs wants at least one below.
    pub(crate) fn empty_layer(&self) -> Result<PathBuf> {
        let path = self.path("l").join("empty");
        match fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io("create", &path)(error))
            }
            _ => Ok(path),
        }
    }

    /// The short symlink to a snapshot's files, made if absent.
    pub(crate) fn short_link(&self, hex: &str) -> Result<PathBuf> {
        let target = PathBuf::from(format!("../snapshots/{hex}/fs"));
        let mut length = SHORT;
        loop {
            let link = self.path("l").join(&hex[..length]);
            match fs::read_link(&link) {
                Ok(there) if there == target => return Ok(link),
                // Two digests with the same beginning: take more of it.
                Ok(_) if length < hex.len() => length += 4,
                _ => match std::os::unix::fs::symlink(&target, &link) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(Error::io("create", &link)(error));
                    }
                    _ => {}
                },
            }
        }
    }
}
