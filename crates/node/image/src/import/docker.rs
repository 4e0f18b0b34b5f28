//! Docker archives (`docker save`), old form and new.

use serde::Deserialize;

use super::Import;
use super::archive::Archive;
use crate::compress::{Format, detect};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::ingest::{self, Expected, Ingest, Staged, Tee};
use crate::oci::{self, Descriptor, ImageFile, Manifest};
use crate::progress::{LayerState, Progress, report};
use crate::reference::Reference;
use crate::service::ImageSummary;
use crate::store::blob::scratch_writer;
use crate::store::info::ImageInfo;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

pub(crate) fn import(import: &Import<'_>, archive: &Archive) -> Result<Vec<ImageSummary>> {
    let limit = import.store.options.limits.metadata_bytes;
    let items: Vec<Item> = serde_json::from_slice(&archive.read("manifest.json", limit)?)
        .map_err(|error| Error::archive(archive.path(), format!("manifest.json is malformed: {error}")))?;
    if items.is_empty() {
        return Err(Error::archive(archive.path(), "manifest.json lists no image"));
    }
    if items.len() > 1 && import.name.is_some() {
        let reason = format!(
            "it holds {} images, which cannot all be named the same (hint: give no name)",
            items.len()
        );
        return Err(Error::archive(archive.path(), reason));
    }
    let mut images = Vec::new();
    for item in &items {
        let names = match &import.name {
            Some(name) => vec![name.clone()],
            None => {
                let tags = item.repo_tags.as_deref().unwrap_or_default();
                tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<Vec<_>>>()?
            }
        };
        if names.is_empty() {
            return Err(Error::archive(archive.path(), "it names no image (hint: give NAME:TAG)"));
        }
        images.extend(import.docker_image(archive, item, &names)?);
    }
    Ok(images)
}

impl Import<'_> {
    fn docker_image(&self, archive: &Archive, item: &Item, names: &[Reference]) -> Result<Vec<ImageSummary>> {
        let config_bytes = archive.read(&item.config, self.store.options.limits.metadata_bytes)?;
        let file: ImageFile = serde_json::from_slice(&config_bytes).map_err(|error| {
            Error::archive(archive.path(), format!("{} is malformed: {error}", item.config))
        })?;
        let diff_ids = file.rootfs.diff_ids;
        let limit = self.store.options.limits.layers;
        if diff_ids.len() != item.layers.len() || diff_ids.len() > limit {
            let reason = format!(
                "manifest.json lists {} layers, the config {} (limit {limit})",
                item.layers.len(),
                diff_ids.len()
            );
            return Err(Error::archive(archive.path(), reason));
        }
        self.store.protect(&self.lease, diff_ids.iter().copied())?;
        let (mut layers, mut staged) = (Vec::new(), Vec::new());
        for (path, diff_id) in item.layers.iter().zip(&diff_ids) {
            let (layer, stage) = self.docker_layer(archive, path, diff_id)?;
            layers.push(layer);
            staged.push(stage);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::OCI_MANIFEST.into()),
            config: Descriptor::new(oci::OCI_CONFIG, Digest::of(&config_bytes), config_bytes.len() as u64),
            layers,
        };
        let manifest_bytes = serde_json::to_vec(&manifest)
            .map_err(|error| Error::archive(archive.path(), format!("cannot write a manifest: {error}")))?;
        let digest = Digest::of(&manifest_bytes);
        let info = ImageInfo::new(digest, &manifest_bytes, &config_bytes, limit)
            .map_err(|reason| Error::archive(archive.path(), reason))?;
        self.check_platform(&info)?;
        self.store.protect(&self.lease, info.content())?;
        let reference = names.first().map(Reference::to_string).unwrap_or_default();
        let bytes = info.manifest.layers.iter().map(|layer| layer.size).sum();
        report(
            self.options.progress.as_ref(),
            Progress::Resolved { reference, digest, layers: staged.len(), bytes },
        );
        self.store.put_bytes(&config_bytes)?;
        self.store.put_bytes(&manifest_bytes)?;
        self.finish(&info, staged, names)
    }

    /// Layers are plain tars as a rule: then the digest is known before a byte is read.
    fn docker_layer(
        &self,
        archive: &Archive,
        path: &str,
        diff_id: &Digest,
    ) -> Result<(Descriptor, Option<Staged>)> {
        let (section, size) = archive.open(path)?;
        let mut head = [0; 8];
        let mut probe = archive.open(path)?.0;
        let filled = std::io::Read::read(&mut probe, &mut head).map_err(Error::io("read", archive.path()))?;
        let format =
            detect(&head[..filled]).map_err(|error| Error::archive(archive.path(), error.to_string()))?;
        let cancel = &self.options.cancel;
        if format == Format::Plain {
            let descriptor = Descriptor::new(oci::OCI_LAYER, *diff_id, size);
            let mut partial = self.store.partial(diff_id)?;
            if self.store.has_blob(diff_id, size) {
                partial.discard();
                self.layer_progress(*diff_id, size, LayerState::Exists);
                return Ok((descriptor, None));
            }
            partial.clear()?;
            self.layer_progress(*diff_id, size, LayerState::Unpacking);
            let staged = ingest::stage_blob(
                self.store,
                &self.lease,
                section,
                partial,
                (diff_id, size, diff_id),
                cancel,
            )?;
            self.layer_progress(*diff_id, size, LayerState::Done);
            return Ok((descriptor, Some(staged)));
        }
        self.layer_progress(*diff_id, size, LayerState::Unpacking);
        let file = self.lease.scratch("layer");
        let mut tee = Tee::new(section, scratch_writer(&file)?, size, path);
        let expected = Expected { digest: None, diff_id: Some(diff_id) };
        let ingest = Ingest { store: self.store, lease: &self.lease, expected, cancel };
        let ingested = ingest.run(&mut tee, false)?;
        let descriptor = self.adopt(tee.into_sink(), &file, &ingested)?;
        self.layer_progress(*diff_id, size, LayerState::Done);
        Ok((descriptor, Some(ingested.staged())))
    }
}
