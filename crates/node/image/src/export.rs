//! Export: an image as one tar that other tools read.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::oci::{Descriptor, Index, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
use crate::service::Inner;
use crate::store::info::ImageInfo;
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

pub(crate) fn export(inner: &Inner, reference: &str, path: &Path, format: ExportFormat) -> Result<()> {
    let target = inner.require(reference)?;
    let lease = inner.store.lease()?;
    let info = inner.store.info(&target.digest)?;
    inner.store.protect(&lease, info.content())?;
    let write = |file: File| -> Result<()> {
        let mut tar = TarWriter::new(BufWriter::with_capacity(256 << 10, file));
        members(inner, &mut tar, path, &info, &target.reference, format)?;
        tar.finish().and_then(|mut out| out.flush()).map_err(Error::io("write", path))
    };
    let result = File::create(path).map_err(Error::io("create", path)).and_then(write);
    if result.is_err() && path.is_file() {
        // Half an archive is worse than none.
        let _ = std::fs::remove_file(path);
    }
    result
}

fn members(
    inner: &Inner,
    tar: &mut TarWriter<BufWriter<File>>,
    path: &Path,
    info: &ImageInfo,
    reference: &str,
    format: ExportFormat,
) -> Result<()> {
    let io = |error| Error::io("write", path)(error);
    let json =
        |value: serde_json::Result<Vec<u8>>| value.map_err(|error| Error::archive(path, error.to_string()));
    for dir in ["blobs/", "blobs/sha256/"] {
        tar.append_empty(&plain(dir, Kind::Dir, 0o755)).map_err(io)?;
    }
    let manifest_size = inner.store.read_metadata(&info.digest)?.len() as u64;
    let media_type = info.manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST);
    let mut manifest = Descriptor::new(media_type, info.digest, manifest_size);
    let mut blobs = vec![manifest.clone(), info.manifest.config.clone()];
    blobs.extend(info.manifest.layers.iter().cloned());
    blobs.sort_by_key(|blob| blob.digest);
    blobs.dedup_by_key(|blob| blob.digest);
    for blob in &blobs {
        let mut entry = plain(&format!("blobs/sha256/{}", blob.digest.hex()), Kind::File, 0o644);
        entry.size = blob.size;
        let mut file = inner.store.open_blob(&blob.digest)?;
        tar.append(&entry, &mut file).map_err(io)?;
    }
    let name = Reference::parse(reference).ok();
    if let Some(name) = &name {
        manifest.annotations.insert("io.containerd.image.name".into(), name.to_string());
        let tag = name.tag().unwrap_or("latest");
        manifest.annotations.insert("org.opencontainers.image.ref.name".into(), tag.to_owned());
    }
    let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.into()), manifests: vec![manifest] };
    tar.append_bytes("index.json", &json(serde_json::to_vec(&index))?).map_err(io)?;
    if format == ExportFormat::Docker {
        let blob = |digest: &crate::Digest| format!("blobs/sha256/{}", digest.hex());
        let tags: Vec<String> =
            name.iter().filter(|name| name.tag().is_some()).map(Reference::familiar).collect();
        let layers: Vec<String> = info.manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
        let item =
            json!([{"Config": blob(&info.manifest.config.digest), "RepoTags": tags, "Layers": layers}]);
        tar.append_bytes("manifest.json", &json(serde_json::to_vec(&item))?).map_err(io)?;
    }
    tar.append_bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(io)
}
