//! Import: archives and root file systems become images. What a file is, is found by its content.

mod archive;
mod docker;
mod layout;
mod rootfs;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::compress::{self, Decoder, Format};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::ingest::{self, Place, Staged};
use crate::oci::Descriptor;
use crate::progress::{LayerState, Progress, ProgressFn, report};
use crate::reference::Reference;
use crate::service::{ImageSummary, Inner};
use crate::store::Store;
use crate::store::index::INDEX_ANNOTATION;
use crate::store::info::ImageInfo;
use crate::store::lease::Lease;
use archive::Archive;

/// Options of one import.
#[derive(Clone, Default)]
pub struct ImportOptions {
    /// The name to give. Needed for a root file system; for an archive with names in it, it replaces the name
    /// when there is one image, and is an error when there are several.
    pub name: Option<String>,
    /// Default command of an image made from a root file system.
    pub cmd: Vec<String>,
    /// Receives progress.
    pub progress: Option<ProgressFn>,
    /// Cancels the import.
    pub cancel: CancellationToken,
}

/// What an import works with.
pub(crate) struct Import<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: Lease,
    pub(crate) options: &'a ImportOptions,
    /// The file, for messages.
    pub(crate) path: &'a Path,
    pub(crate) name: Option<Reference>,
}

pub(crate) fn import(inner: &Inner, path: &Path, options: &ImportOptions) -> Result<Vec<ImageSummary>> {
    let name = options.name.as_deref().map(Reference::parse).transpose()?;
    if name.as_ref().is_some_and(|name| name.digest().is_some()) {
        let name = options.name.clone().unwrap_or_default();
        return Err(Error::InvalidName { name, reason: "an import is named by tag, not by digest".into() });
    }
    let lease = inner.store.lease()?;
    let import = Import { store: &inner.store, lease, options, path, name };
    let metadata = std::fs::metadata(path).map_err(Error::io("open", path))?;
    if metadata.is_dir() {
        return import.archive(&Archive::directory(path))?.ok_or_else(|| {
            Error::archive(
                path,
                "not an OCI layout: index.json is missing (hint: give a tar file, or an OCI layout)",
            )
        });
    }
    let file = File::open(path).map_err(Error::io("open", path))?;
    if !metadata.is_file() {
        let spooled = import.spool(file)?;
        let file = File::open(&spooled).map_err(Error::io("open", &spooled))?;
        return import.file(file);
    }
    import.file(file)
}

impl Import<'_> {
    fn file(&self, file: File) -> Result<Vec<ImageSummary>> {
        let head = compress::head(&file).map_err(Error::io("read", self.path))?;
        if head.is_empty() {
            return Err(Error::archive(self.path, "the file is empty"));
        }
        let format = compress::detect(&head).map_err(|error| Error::archive(self.path, error.to_string()))?;
        if format == Format::Plain {
            return self.plain(file, &head);
        }
        if !format.is_for_layers() || self.looks_like_archive(&file)? {
            let unpacked = self.spool(Decoder::new(&file).map_err(Error::io("read", self.path))?)?;
            let file = File::open(&unpacked).map_err(Error::io("open", &unpacked))?;
            let head = compress::head(&file).map_err(Error::io("read", &unpacked))?;
            return self.plain(file, &head);
        }
        self.rootfs(file)
    }

    fn plain(&self, file: File, head: &[u8]) -> Result<Vec<ImageSummary>> {
        if !crate::tar::reader::looks_like_header(head) {
            let reason =
                "neither a tar archive (plain, gzip, zstd, xz or bzip2), a docker archive, nor an OCI layout";
            return Err(Error::archive(self.path, reason));
        }
        let copy = file.try_clone().map_err(Error::io("open", self.path))?;
        match self.archive(&Archive::tar(self.path, copy)?)? {
            Some(images) => Ok(images),
            None => self.rootfs(file),
        }
    }

    /// Import an image archive; `None` when it is none.
    fn archive(&self, archive: &Archive) -> Result<Option<Vec<ImageSummary>>> {
        let docker = archive.has("manifest.json");
        if archive.has("index.json") && archive.has("oci-layout") {
            let images = layout::find(self, archive)?;
            let named = images.iter().all(|image| image.name.is_some()) && !images.is_empty();
            if named || self.name.is_some() || !docker {
                return self.import_layout(archive, images).map(Some);
            }
        }
        if docker { docker::import(self, archive).map(Some) } else { Ok(None) }
    }

    /// Compressed archives cannot be searched; their first member tells.
    fn looks_like_archive(&self, file: &File) -> Result<bool> {
        let copy = file.try_clone().map_err(Error::io("open", self.path))?;
        let bad = |error: &dyn std::fmt::Display| Error::archive(self.path, error.to_string());
        let mut tar = crate::tar::TarReader::new(Decoder::new(copy).map_err(|error| bad(&error))?);
        let first = tar.next_entry();
        std::io::Seek::rewind(&mut &*file).map_err(Error::io("read", self.path))?;
        let Some(entry) = first.map_err(|error| bad(&error))? else { return Ok(false) };
        let name = entry.name();
        let first = name.trim_start_matches("./").split('/').next().unwrap_or_default();
        let stem = first.trim_start_matches("sha256:").split('.').next().unwrap_or_default();
        Ok(Digest::from_hex(stem).is_some()
            || matches!(first, "blobs" | "manifest.json" | "index.json" | "oci-layout" | "repositories"))
    }

    fn spool(&self, mut source: impl std::io::Read) -> Result<std::path::PathBuf> {
        let path = self.lease.scratch("spool");
        let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let limit = self.store.options.limits.unpacked_bytes;
        let copied =
            std::io::copy(&mut source.by_ref().take(limit), &mut file).map_err(|error| {
                match error.raw_os_error() {
                    Some(_) => Error::io("write", &path)(error),
                    None => Error::archive(self.path, error.to_string()),
                }
            })?;
        if copied == limit {
            return Err(Error::Limit { what: self.path.display().to_string(), limit, unit: "bytes" });
        }
        Ok(path)
    }

    pub(crate) fn layer_progress(&self, digest: Digest, size: u64, state: LayerState) {
        let done = if state == LayerState::Unpacking { 0 } else { size };
        report(self.options.progress.as_ref(), Progress::Layer { digest, done, total: Some(size), state });
    }

    pub(crate) fn finish(
        &self,
        info: &ImageInfo,
        staged: Vec<Option<Staged>>,
        names: &[Reference],
    ) -> Result<Vec<ImageSummary>> {
        finish(
            Finish { store: self.store, lease: &self.lease, cancel: &self.options.cancel },
            info,
            staged,
            names,
        )
    }
}

/// What the end of an import or a pull works with.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) cancel: &'a CancellationToken,
}

/// Show layers in order, after all were staged; then name the image.
pub(crate) fn finish(
    with: Finish<'_>,
    info: &ImageInfo,
    mut staged: Vec<Option<Staged>>,
    names: &[Reference],
) -> Result<Vec<ImageSummary>> {
    let Finish { store, lease, cancel } = with;
    let (mut lowers, mut shown) = (Vec::new(), Vec::new());
    for (index, layer) in info.manifest.layers.iter().enumerate() {
        let place = Place {
            diff_id: &info.file.rootfs.diff_ids[index],
            chain_id: &info.chain[index],
            lowers: &lowers,
        };
        let hex = match staged.get_mut(index).and_then(Option::take) {
            Some(staged) => ingest::show(store, lease, staged, place)?,
            None => match store.find_snapshot(place.diff_id, place.chain_id) {
                Some(hex) => hex,
                None => ingest::unpack_blob(store, lease, &layer.digest, place, cancel)?,
            },
        };
        lowers.insert(0, store.snapshot_dir(&hex).join("fs"));
        shown.push(hex);
    }
    // Also those that only keep a layer's bytes.
    shown.extend(info.file.rootfs.diff_ids.iter().map(Digest::hex));
    store.sync_snapshots(&shown)?;
    name_image(store, info, None, names)
}

/// Give an image its names. From here on it is seen. With an index, the image stands for all that it lists.
pub(crate) fn name_image(
    store: &Store,
    info: &ImageInfo,
    index: Option<Digest>,
    names: &[Reference],
) -> Result<Vec<ImageSummary>> {
    let media_type = info.manifest.media_type.as_deref().unwrap_or(crate::oci::OCI_MANIFEST);
    let size = store.read_metadata(&info.digest)?.len() as u64;
    let mut descriptor = Descriptor::new(media_type, info.digest, size);
    if let Some(index) = index {
        descriptor.annotations.insert(INDEX_ANNOTATION.into(), index.to_string());
    }
    let names: Vec<String> = names.iter().map(Reference::to_string).collect();
    store.update_index(|index| {
        for name in &names {
            index.images.insert(name.clone(), descriptor.clone());
        }
        Ok((true, ()))
    })?;
    Ok(names.iter().map(|name| info.summary(name)).collect())
}
