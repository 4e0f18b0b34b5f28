//! Reading: list, find, inspect, plans for containers, disk usage.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::{DiskUsage, History, ImageDetails, ImageSummary, Inner, LayerDetails};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::ingest::{self, Place};
use crate::oci::Platform;
use crate::reference::Reference;
use crate::rootfs::RootfsPlan;
use crate::store::info::ImageInfo;
use crate::store::uses::Use;

/// Hex digits that a shortened id needs.
const SHORT_ID: usize = 7;

/// An image that was found by a name, a digest or an id.
pub(crate) struct Target {
    /// Normalised name, or the digest when it was asked for by digest or id.
    pub(crate) reference: String,
    pub(crate) digest: Digest,
    /// Whether a name was given, and not a digest or an id.
    pub(crate) by_name: bool,
}

impl Inner {
    pub(crate) fn list(&self) -> Result<Vec<ImageSummary>> {
        let index = self.store.read_index()?;
        let mut images = Vec::with_capacity(index.images.len());
        for (name, descriptor) in &index.images {
            match self.store.info(&descriptor.digest) {
                Ok(info) => images.push(info.summary(name)),
                // Another process may be removing it; damage is shown by inspect and run.
                Err(error) => tracing::debug!(image = %name, %error, "an image cannot be read"),
            }
        }
        Ok(images)
    }

    pub(crate) fn find(&self, reference: &str) -> Result<Option<ImageSummary>> {
        let Some(target) = self.target(reference)? else { return Ok(None) };
        Ok(Some(self.store.info(&target.digest)?.summary(&target.reference)))
    }

    /// The image of a platform behind a name, and else the platform that is there instead.
    pub(crate) fn find_platform(
        &self,
        text: &str,
        platform: &Platform,
    ) -> Result<(Option<Digest>, Option<Platform>)> {
        let Some(target) = self.target(text)? else { return Ok((None, None)) };
        let index = self.store.read_index()?;
        let all = match index.images.get(&target.reference) {
            Some(descriptor) => self.store.manifests(descriptor)?.1,
            None => vec![target.digest],
        };
        let mut other = None;
        for digest in all {
            let there = self.store.info(&digest)?.file.platform();
            if there.architecture.is_empty() || platform.accepts(&there) {
                return Ok((Some(digest), None));
            }
            other = Some(there);
        }
        Ok((None, other))
    }

    /// Look a reference up. Only nonsense is an error.
    pub(crate) fn target(&self, text: &str) -> Result<Option<Target>> {
        let index = self.store.read_index()?;
        let by_digest = |digest: Digest| Target { reference: digest.to_string(), digest, by_name: false };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let could_be_id =
            hex.len() >= SHORT_ID && hex.len() <= 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_digest = text.starts_with("sha256:");
        if !is_digest && let Ok(reference) = Reference::parse(text) {
            if let Some(descriptor) = index.images.get(&reference.to_string()) {
                let reference = reference.to_string();
                return Ok(Some(Target { reference, digest: descriptor.digest, by_name: true }));
            }
            if let Some(digest) = reference.digest() {
                let known = index.images.iter().any(|(name, descriptor)| {
                    descriptor.digest == *digest
                        && Reference::parse(name).is_ok_and(|known| known.name() == reference.name())
                });
                return Ok(known.then(|| Target {
                    reference: reference.to_string(),
                    digest: *digest,
                    by_name: true,
                }));
            }
        }
        if could_be_id || is_digest {
            let mut found: BTreeMap<Digest, Target> = BTreeMap::new();
            for descriptor in index.images.values() {
                let digest = descriptor.digest;
                let id = self.store.info(&digest).ok().map(|info| info.manifest.config.digest.hex());
                if digest.hex().starts_with(hex) || id.is_some_and(|id| id.starts_with(hex)) {
                    found.insert(digest, by_digest(digest));
                }
            }
            if found.len() > 1 {
                let reason = "several images begin with this id; give more digits".to_owned();
                return Err(Error::InvalidName { name: text.to_owned(), reason });
            }
            return Ok(found.into_values().next());
        }
        Reference::parse(text).map(|_| None)
    }

    pub(crate) fn require(&self, text: &str) -> Result<Target> {
        self.target(text)?.ok_or_else(|| {
            let name =
                Reference::parse(text).map_or_else(|_| text.to_owned(), |reference| reference.to_string());
            Error::NotPresent { name }
        })
    }

    pub(crate) fn inspect(&self, reference: &str) -> Result<ImageDetails> {
        let target = self.require(reference)?;
        let info = self.store.info(&target.digest)?;
        let config_bytes = self.store.read_metadata(&info.manifest.config.digest)?;
        let index = self.store.read_index()?;
        let names = index.images.iter().filter(|(_, there)| there.digest == target.digest);
        let layers = info.manifest.layers.iter().enumerate().map(|(at, layer)| {
            let diff_id = info.file.rootfs.diff_ids[at];
            let snapshot = self.store.find_snapshot(&diff_id, &info.chain[at]);
            let unpacked = snapshot.and_then(|hex| self.store.snapshot_bytes(&hex));
            LayerDetails { digest: layer.digest, diff_id, size: layer.size, unpacked }
        });
        let history = info.file.history.iter().flatten().map(|entry| History {
            created: entry.created.clone(),
            created_by: entry.created_by.clone().unwrap_or_default(),
            empty_layer: entry.empty_layer,
        });
        let uses = self.store.uses()?.into_iter().filter(|hold| hold.digest == target.digest);
        Ok(ImageDetails {
            summary: info.summary(&target.reference),
            names: names.map(|(name, _)| name.clone()).collect(),
            config: info.config.clone(),
            layers: layers.collect(),
            history: history.collect(),
            media_type: info.manifest.media_type.clone().unwrap_or_else(|| crate::oci::OCI_MANIFEST.into()),
            config_json: serde_json::from_slice(&config_bytes)
                .map_err(|error| Error::archive(reference, format!("malformed config: {error}")))?,
            holders: uses.map(|hold| hold.holder).collect(),
        })
    }

    pub(crate) fn rootfs(&self, reference: &str, holder: &str) -> Result<RootfsPlan> {
        let target = self.require(reference)?;
        let info = self.store.info(&target.digest)?;
        self.store.hold(&Use {
            holder: holder.to_owned(),
            reference: target.reference.clone(),
            digest: target.digest,
            content: info.content().iter().map(Digest::hex).collect(),
        })?;
        let plan = self.plan(&target.reference, &info);
        if plan.is_err() {
            self.store.release(holder)?;
        }
        plan
    }

    /// Layers of an image whose content is protected by somebody.
    pub(crate) fn plan(&self, reference: &str, info: &ImageInfo) -> Result<RootfsPlan> {
        let snapshots = self.ensure_snapshots(info)?;
        let mut lower_dirs = Vec::with_capacity(snapshots.len());
        for hex in snapshots.iter().rev() {
            lower_dirs.push(self.store.short_link(hex)?);
        }
        if lower_dirs.is_empty() {
            lower_dirs.push(self.store.empty_layer()?);
        }
        Ok(RootfsPlan {
            reference: reference.to_owned(),
            digest: info.digest,
            image_id: info.manifest.config.digest,
            lower_dirs,
            lower_base: self.store.path("l"),
            config: info.config.clone(),
            size: info.size,
        })
    }

    /// Names of an image's snapshots, bottom first; what is missing is unpacked again.
    pub(crate) fn ensure_snapshots(&self, info: &ImageInfo) -> Result<Vec<String>> {
        let store = &self.store;
        let mut lease = None;
        let (mut names, mut lowers) = (Vec::new(), Vec::new());
        for (at, layer) in info.manifest.layers.iter().enumerate() {
            let (diff_id, chain_id) = (&info.file.rootfs.diff_ids[at], &info.chain[at]);
            let hex = match store.find_snapshot(diff_id, chain_id) {
                Some(hex) => hex,
                None => {
                    if !store.has_blob(&layer.digest, layer.size) {
                        let path = store.blob_path(&layer.digest);
                        return Err(Error::Corrupt {
                            path,
                            reason: "the layer is missing or truncated".into(),
                        });
                    }
                    let lease = match &lease {
                        Some(lease) => lease,
                        None => lease.insert(store.lease()?),
                    };
                    let place = Place { diff_id, chain_id, lowers: &lowers };
                    ingest::unpack_blob(store, lease, &layer.digest, place, &CancellationToken::new())?
                }
            };
            lowers.insert(0, store.snapshot_dir(&hex).join("fs"));
            names.push(hex);
        }
        if lease.is_some() {
            store.sync_snapshots(&names)?;
        }
        Ok(names)
    }

    pub(crate) fn disk_usage(&self) -> Result<DiskUsage> {
        let store = &self.store;
        let cache = store.path("cache");
        Ok(DiskUsage {
            images: store.read_index()?.images.len(),
            blobs: store.blobs()?.iter().map(|(_, _, size)| size).sum(),
            snapshots: store.snapshots()?.iter().map(|(_, _, size)| size).sum(),
            cache_entries: std::fs::read_dir(&cache).map_err(Error::io("read", &cache))?.count(),
            reclaimable: store.reclaimable()?,
        })
    }
}
