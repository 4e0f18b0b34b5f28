//! Export: an image as one tar that other tools read.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::build::Compression;
use crate::compress::Encoder;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Index, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
use crate::service::Inner;
use crate::store::info::ImageInfo;
use crate::store::lease::Lease;
use crate::tar::writer::plain;
use crate::tar::{Kind, TarWriter};

/// Form of an exported archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// OCI layout with docker's `manifest.json` beside it: read by docker, podman and skopeo, as
    /// `docker-archive:` and as `oci-archive:`.
    #[default]
    Docker,
    /// Plain OCI layout.
    Oci,
}

/// One image, with everything behind its name.
pub(crate) struct Exported {
    pub(crate) names: Vec<Reference>,
    /// The index of several platforms.
    pub(crate) index: Option<Digest>,
    /// What stands for it where only one platform fits.
    pub(crate) primary: Arc<ImageInfo>,
    pub(crate) images: Vec<Arc<ImageInfo>>,
}

pub(crate) fn export(
    inner: &Inner,
    references: &[String],
    path: &Path,
    format: ExportFormat,
    compression: Compression,
) -> Result<()> {
    let lease = inner.store.lease()?;
    let mut all: Vec<Exported> = Vec::new();
    for reference in references {
        let one = exported(inner, &lease, reference)?;
        match all.iter_mut().find(|there| there.primary.digest == one.primary.digest) {
            Some(there) => there.names.extend(one.names),
            None => all.push(one),
        }
    }
    write(inner, &all, path, format, compression)
}

/// What is behind a name, protected by the lease.
pub(crate) fn exported(inner: &Inner, lease: &Lease, reference: &str) -> Result<Exported> {
    let target = inner.require(reference)?;
    let names = inner.store.read_index()?;
    let (index, digests) = match names.images.get(&target.reference) {
        Some(descriptor) => inner.store.manifests(descriptor)?,
        None => (None, vec![target.digest]),
    };
    inner.store.protect(lease, index)?;
    let mut images = Vec::new();
    for digest in digests {
        let info = inner.store.info(&digest)?;
        inner.store.protect(lease, info.content())?;
        images.push(info);
    }
    let primary = inner.store.info(&target.digest)?;
    inner.store.protect(lease, primary.content())?;
    Ok(Exported { names: Reference::parse(&target.reference).into_iter().collect(), index, primary, images })
}

/// Write images whose content is protected.
pub(crate) fn write(
    inner: &Inner,
    all: &[Exported],
    path: &Path,
    format: ExportFormat,
    compression: Compression,
) -> Result<()> {
    let io = |error| Error::io("write", path)(error);
    let write = |file: File| -> Result<()> {
        let file = BufWriter::with_capacity(256 << 10, file);
        let mut tar = TarWriter::new(Encoder::new(compression.format(), file).map_err(io)?);
        members(inner, &mut tar, path, all, format)?;
        let encoder = tar.finish().map_err(io)?;
        encoder.finish().and_then(|mut out| out.flush()).map_err(io)
    };
    let result = File::create(path).map_err(Error::io("create", path)).and_then(write);
    // Not through links: /dev/stdout is one.
    if result.is_err() && std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        // Half an archive is worse than none.
        let _ = std::fs::remove_file(path);
    }
    result
}

fn members<W: std::io::Write>(
    inner: &Inner,
    tar: &mut TarWriter<W>,
    path: &Path,
    all: &[Exported],
    format: ExportFormat,
) -> Result<()> {
    let io = |error| Error::io("write", path)(error);
    let json =
        |value: serde_json::Result<Vec<u8>>| value.map_err(|error| Error::archive(path, error.to_string()));
    for dir in ["blobs/", "blobs/sha256/"] {
        tar.append_empty(&plain(dir, Kind::Dir, 0o755)).map_err(io)?;
    }
    let mut blobs = Vec::new();
    let mut manifests = Vec::new();
    for image in all {
        for info in image.images.iter().chain([&image.primary]) {
            let size = inner.store.read_metadata(&info.digest)?.len() as u64;
            let media_type = info.manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST);
            blobs.push(Descriptor::new(media_type, info.digest, size));
            blobs.push(info.manifest.config.clone());
            blobs.extend(info.manifest.layers.iter().cloned());
        }
        manifests.extend(described(inner, image)?);
        if let Some(index) = image.index {
            let size = inner.store.read_metadata(&index)?.len() as u64;
            blobs.push(Descriptor::new(OCI_INDEX, index, size));
        }
    }
    blobs.sort_by_key(|blob| blob.digest);
    blobs.dedup_by_key(|blob| blob.digest);
    for blob in &blobs {
        let mut entry = plain(&format!("blobs/sha256/{}", blob.digest.hex()), Kind::File, 0o644);
        entry.size = blob.size;
        let mut file = inner.store.open_blob(&blob.digest)?;
        tar.append(&entry, &mut file).map_err(io)?;
    }
    let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.into()), manifests };
    tar.append_bytes("index.json", &json(serde_json::to_vec(&index))?).map_err(io)?;
    if format == ExportFormat::Docker {
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let items: Vec<serde_json::Value> = all
            .iter()
            .map(|image| {
                let (info, names) = (&image.primary, &image.names);
                let tags: Vec<String> =
                    names.iter().filter(|name| name.tag().is_some()).map(Reference::familiar).collect();
                let layers: Vec<String> =
                    info.manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
                json!({"Config": blob(&info.manifest.config.digest), "RepoTags": tags, "Layers": layers})
            })
            .collect();
        tar.append_bytes("manifest.json", &json(serde_json::to_vec(&items))?).map_err(io)?;
    }
    tar.append_bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(io)
}

/// Lines of `index.json` for one image: one a name.
fn described(inner: &Inner, image: &Exported) -> Result<Vec<Descriptor>> {
    let (media_type, digest) = match image.index {
        Some(index) => (OCI_INDEX, index),
        None => {
            let media_type = image.primary.manifest.media_type.as_deref();
            (media_type.unwrap_or(OCI_MANIFEST), image.primary.digest)
        }
    };
    let size = inner.store.read_metadata(&digest)?.len() as u64;
    let plain = Descriptor::new(media_type, digest, size);
    if image.names.is_empty() {
        return Ok(vec![plain]);
    }
    let named = image.names.iter().map(|name| {
        let mut line = plain.clone();
        line.annotations.insert("io.containerd.image.name".into(), name.to_string());
        let tag = name.tag().unwrap_or("latest");
        line.annotations.insert("org.opencontainers.image.ref.name".into(), tag.to_owned());
        line
    });
    Ok(named.collect())
}
