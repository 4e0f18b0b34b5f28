//! What a manifest and its config say, read once and remembered.

use std::sync::Arc;

use super::{Store, locked};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::oci::{ConfigJson, ImageConfig, ImageFile, Manifest};
use crate::service::ImageSummary;

/// Images whose documents are remembered.
const REMEMBERED: usize = 256;

/// One image's documents.
#[derive(Debug)]
pub(crate) struct ImageInfo {
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) file: ImageFile,
    pub(crate) config: ImageConfig,
    /// Chain id of every layer, bottom first.
    pub(crate) chain: Vec<Digest>,
    pub(crate) size: u64,
}

impl ImageInfo {
    /// Check that the documents fit each other.
    pub(crate) fn new(
        digest: Digest,
        manifest_bytes: &[u8],
        config_bytes: &[u8],
        layers: usize,
    ) -> Result<Self, String> {
        let manifest: Manifest = serde_json::from_slice(manifest_bytes)
            .map_err(|error| format!("its manifest is malformed: {error}"))?;
        let file: ImageFile = serde_json::from_slice(config_bytes)
            .map_err(|error| format!("its config is malformed: {error}"))?;
        let (count, diff_ids) = (manifest.layers.len(), file.rootfs.diff_ids.len());
        if count != diff_ids {
            return Err(format!("its manifest has {count} layers, its config {diff_ids}"));
        }
        if count > layers {
            return Err(format!("it has {count} layers, more than the limit of {layers}"));
        }
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.is_foreign()) {
            return Err(format!(
                "layer {} has type {} and must come from elsewhere",
                layer.digest, layer.media_type
            ));
        }
        let mut chain: Vec<Digest> = Vec::with_capacity(count);
        for diff_id in &file.rootfs.diff_ids {
            chain.push(Digest::chain(chain.last(), diff_id));
        }
        let size = manifest_bytes.len() as u64
            + config_bytes.len() as u64
            + manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        let config = ImageConfig::from(file.config.as_ref().unwrap_or(&ConfigJson::default()));
        Ok(Self { digest, manifest, file, config, chain, size })
    }

    pub(crate) fn summary(&self, reference: &str) -> ImageSummary {
        ImageSummary {
            reference: reference.to_owned(),
            digest: self.digest,
            image_id: self.manifest.config.digest,
            created: self.file.created.clone(),
            size: self.size,
            platform: self.file.platform(),
            labels: self.config.labels.clone(),
        }
    }

    /// Blobs and possible snapshots, as digests.
    pub(crate) fn content(&self) -> Vec<Digest> {
        let mut content = vec![self.digest, self.manifest.config.digest];
        content.extend(self.manifest.layers.iter().map(|layer| layer.digest));
        content.extend(&self.file.rootfs.diff_ids);
        content.extend(&self.chain);
        content
    }
}

impl Store {
    /// Documents of the image with this manifest.
    pub(crate) fn info(&self, digest: &Digest) -> Result<Arc<ImageInfo>> {
        if let Some(info) = locked(&self.infos).get(digest) {
            return Ok(info.clone());
        }
        let corrupt = |reason: String| Error::Corrupt { path: self.blob_path(digest), reason };
        let manifest_bytes = self.read_metadata(digest)?;
        let manifest: Manifest = serde_json::from_slice(&manifest_bytes)
            .map_err(|error| corrupt(format!("malformed manifest: {error}")))?;
        let config_bytes = self.read_metadata(&manifest.config.digest)?;
        let info = ImageInfo::new(*digest, &manifest_bytes, &config_bytes, self.options.limits.layers);
        let info = Arc::new(info.map_err(corrupt)?);
        let mut infos = locked(&self.infos);
        if infos.len() >= REMEMBERED {
            infos.clear();
        }
        infos.insert(*digest, info.clone());
        Ok(info)
    }

    /// Hex digests of everything that an image consists of.
    pub(crate) fn content_of(&self, digest: &Digest) -> Result<Vec<String>> {
        Ok(self.info(digest)?.content().iter().map(Digest::hex).collect())
    }
}
