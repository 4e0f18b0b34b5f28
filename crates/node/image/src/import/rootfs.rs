//! Root file system archives: one layer and a config that is made up.

use std::fs::File;
use std::io::{BufWriter, Seek as _, Write as _};
use std::path::Path;

use sampan_daemon::clock;

use super::Import;
use crate::digest::{Digest, HashWriter};
use crate::error::{Error, Result};
use crate::layers::ingest::{self, Expected, Ingest, Ingested, Tee};
use crate::oci::{self, ConfigJson, Descriptor, HistoryEntry, ImageFile, Manifest, RootFs};
use crate::progress::LayerState;
use crate::service::ImageSummary;
use crate::store::blob::scratch_writer;
use crate::store::info::ImageInfo;

impl Import<'_> {
    pub(crate) fn rootfs(&self, file: File) -> Result<Vec<ImageSummary>> {
        let Some(name) = self.name.clone() else {
            let reason = "a root file system has no name of its own (hint: give NAME:TAG)";
            return Err(Error::archive(self.path, reason));
        };
        let size = file.metadata().map_err(Error::io("read", self.path))?.len();
        let scratch = self.lease.scratch("layer");
        let label = self.path.display().to_string();
        let mut tee =
            Tee::new(&file, scratch_writer(&scratch)?, self.store.options.limits.layer_bytes, &label);
        let (expected, cancel) = (Expected::default(), &self.options.cancel);
        let ingest = Ingest { store: self.store, lease: &self.lease, expected, cancel };
        let ingested = ingest.run(&mut tee, true)?;
        if !ingested.ended {
            return Err(Error::archive(self.path, "the archive has no end marker (truncated)"));
        }
        ingest::refuse_dangling(&ingested.unpacked, self.path)?;
        let (digest, diff_id) = (ingested.digest, ingested.diff_id);
        self.layer_progress(digest, size, LayerState::Unpacking);
        self.store.protect(&self.lease, [digest])?;
        let mut sink = tee.into_sink();
        let left = if ingested.kept { ingest.keep(&ingested)? } else { None };
        let layer = match left {
            None if ingested.kept => Descriptor::new(&ingested.format.media_type(), digest, ingested.size),
            None => self.adopt(sink, &scratch, &ingested)?,
            Some(mut layer) => {
                // Its beginning is there.
                sink.inner.rewind().map_err(Error::io("write", &scratch))?;
                std::io::copy(&mut layer, &mut sink).map_err(Error::io("write", &scratch))?;
                self.adopt(sink, &scratch, &ingested)?
            }
        };
        let (info, config_bytes, manifest_bytes) = self.describe(layer, diff_id)?;
        self.store.protect(&self.lease, info.content())?;
        self.store.put_bytes(&config_bytes)?;
        self.store.put_bytes(&manifest_bytes)?;
        let images = self.finish(&info, vec![Some(ingested.staged())], &[name])?;
        self.layer_progress(digest, size, LayerState::Done);
        Ok(images)
    }

    fn describe(&self, layer: Descriptor, diff_id: Digest) -> Result<(ImageInfo, Vec<u8>, Vec<u8>)> {
        let created = clock::rfc3339(clock::now());
        let platform = self.store.options.platform.clone();
        let file = ImageFile {
            created: Some(created.clone()),
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            config: Some(ConfigJson {
                env: Some(vec![oci::DEFAULT_PATH.into()]),
                cmd: Some(self.options.cmd.clone()).filter(|cmd| !cmd.is_empty()),
                ..ConfigJson::default()
            }),
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id] },
            history: Some(vec![HistoryEntry {
                created: Some(created),
                created_by: Some("sampan image import".into()),
                ..HistoryEntry::default()
            }]),
        };
        let bad = |error: serde_json::Error| Error::archive(self.path, error.to_string());
        let config_bytes = serde_json::to_vec(&file).map_err(bad)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::OCI_MANIFEST.into()),
            config: Descriptor::new(oci::OCI_CONFIG, Digest::of(&config_bytes), config_bytes.len() as u64),
            layers: vec![layer],
        };
        let manifest_bytes = serde_json::to_vec(&manifest).map_err(bad)?;
        let info = ImageInfo::new(Digest::of(&manifest_bytes), &manifest_bytes, &config_bytes, 1)
            .map_err(|reason| Error::archive(self.path, reason))?;
        Ok((info, config_bytes, manifest_bytes))
    }

    /// Make a finished layer file a blob.
    pub(crate) fn adopt(
        &self,
        sink: HashWriter<BufWriter<File>>,
        file: &Path,
        ingested: &Ingested,
    ) -> Result<Descriptor> {
        let mut sink = sink.inner;
        sink.flush().map_err(Error::io("write", file))?;
        let (digest, size) = (ingested.digest, ingested.size);
        self.store.protect(&self.lease, [digest])?;
        if !self.store.has_blob(&digest, size) {
            self.store.adopt_file(file, &digest)?;
        }
        Ok(Descriptor::new(&ingested.format.media_type(), digest, size))
    }
}
