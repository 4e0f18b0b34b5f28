//! One stage of a build: its layers and config as they grow.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::cache::NewLayer;
use crate::compress::{Encoder, Format};
use crate::digest::{Digest, HashWriter};
use crate::error::{Error, Result};
use crate::layers::diff;
use crate::oci::{ConfigJson, Descriptor, HistoryEntry, Platform};
use crate::service::Inner;
use crate::store::info::ImageInfo;
use crate::store::lease::{Lease, remove_tree};
use crate::store::snapshot::Contents;
use crate::tar::TarWriter;

const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The state after some instructions.
#[derive(Clone, Default)]
pub(crate) struct Stage {
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) diff_ids: Vec<Digest>,
    /// Files of the layers, top first.
    pub(crate) lowers: Vec<PathBuf>,
    /// Names of their snapshots.
    pub(crate) snapshots: Vec<String>,
    pub(crate) config: ConfigJson,
    pub(crate) history: Vec<HistoryEntry>,
    pub(crate) created: Option<String>,
    /// Digest of everything that led here.
    pub(crate) key: String,
    /// Values of `ARG`s that were declared.
    pub(crate) args: BTreeMap<String, String>,
    /// `CMD` was given in this stage.
    pub(crate) own_cmd: bool,
    /// What its programs run on.
    pub(crate) platform: Option<Platform>,
}

impl Stage {
    /// `FROM scratch`.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        Self { key: "scratch".into(), platform: Some(platform.clone()), ..Self::default() }
    }

    /// `FROM` an image whose content is protected.
    pub(crate) fn image(inner: &Inner, info: &ImageInfo) -> Result<Self> {
        let snapshots = inner.ensure_snapshots(info)?;
        let lowers = snapshots.iter().rev().map(|hex| inner.store.short_link(hex)).collect::<Result<_>>()?;
        Ok(Self {
            layers: info.manifest.layers.clone(),
            diff_ids: info.file.rootfs.diff_ids.clone(),
            lowers,
            snapshots,
            config: info.file.config.clone().unwrap_or_default(),
            history: info.file.history.clone().unwrap_or_default(),
            created: info.file.created.clone(),
            key: format!("image {}", info.digest),
            platform: Some(info.file.platform()),
            ..Self::default()
        })
    }

    /// `FROM` an earlier stage: arguments do not carry over.
    pub(crate) fn continued(&self) -> Self {
        Self { args: BTreeMap::new(), own_cmd: false, ..self.clone() }
    }

    /// Mix an instruction into the key.
    pub(crate) fn mix(&mut self, text: &str) {
        self.key = Digest::of(format!("{}\n{text}", self.key).as_bytes()).to_string();
    }

    /// Add a layer that is in the store.
    pub(crate) fn push(&mut self, inner: &Inner, layer: &NewLayer) -> Result<()> {
        let hex = layer.diff_id.hex();
        self.lowers.insert(0, inner.store.short_link(&hex)?);
        self.snapshots.push(hex);
        self.layers.push(layer.descriptor.clone());
        self.diff_ids.push(layer.diff_id);
        Ok(())
    }

    /// A line of history.
    pub(crate) fn record(&mut self, text: &str, empty_layer: bool, created: Option<&str>) {
        self.history.push(HistoryEntry {
            created: created.or(self.created.as_deref()).map(str::to_owned),
            created_by: Some(text.to_owned()),
            comment: None,
            empty_layer,
        });
    }

    /// Lower directories for overlayfs, which wants at least one.
    pub(crate) fn mountable(&self, inner: &Inner) -> Result<Vec<PathBuf>> {
        if self.lowers.is_empty() { Ok(vec![inner.store.empty_layer()?]) } else { Ok(self.lowers.clone()) }
    }

    pub(crate) fn env(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}=");
        let env = self.config.env.iter().flatten();
        env.rev().find_map(|pair| pair.strip_prefix(&prefix)).map(str::to_owned)
    }

    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let prefix = format!("{name}=");
        let env = self.config.env.get_or_insert_default();
        match env.iter_mut().find(|pair| pair.starts_with(&prefix)) {
            Some(pair) => *pair = prefix + value,
            None => env.push(prefix + value),
        }
    }

    pub(crate) fn shell(&self) -> Vec<String> {
        let default = || SHELL.iter().map(|word| (*word).to_owned()).collect();
        self.config.shell.clone().filter(|shell| !shell.is_empty()).unwrap_or_else(default)
    }

    pub(crate) fn workdir(&self) -> PathBuf {
        PathBuf::from(self.config.working_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or("/"))
    }
}

/// Make an overlay upper directory a layer: its tar becomes a blob, the directory itself the snapshot.
/// `None` when nothing changed.
pub(crate) fn commit(
    inner: &Inner,
    lease: &Lease,
    upper: &Path,
    format: Format,
    epoch: Option<i64>,
) -> Result<Option<NewLayer>> {
    let store = &inner.store;
    let path = lease.scratch("layer");
    let io = |error| Error::io("write", &path)(error);
    let file = BufWriter::with_capacity(256 << 10, File::create_new(&path).map_err(io)?);
    let compressed = Encoder::new(format, HashWriter::new(file)).map_err(io)?;
    let mut tar = TarWriter::new(HashWriter::new(compressed));
    let (bytes, any) = diff::write(upper, &mut tar, epoch)?;
    let plain = tar.finish().map_err(io)?;
    let (encoder, diff_id) = (plain.inner, plain.hasher.finish());
    let mut out = encoder.finish().map_err(io)?;
    out.inner.flush().map_err(io)?;
    if !any {
        return Ok(None);
    }
    let (size, digest) = (out.hasher.bytes(), out.hasher.finish());
    store.protect(lease, [digest, diff_id])?;
    store.adopt_unsynced(&path, &digest)?;
    let staging = lease.scratch_dir("snapshot")?;
    std::fs::rename(upper, staging.join("fs")).map_err(Error::io("move", upper))?;
    let contents = Contents { bytes, ..Contents::default() };
    if !store.commit_snapshot(lease, &staging, &diff_id.hex(), contents)? {
        remove_tree(&staging);
    }
    Ok(Some(NewLayer { descriptor: Descriptor::new(&format.media_type(), digest, size), diff_id }))
}
