//! OCI image layouts, as a directory or a tar.

use super::Import;
use super::archive::Archive;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::ingest;
use crate::oci::{Descriptor, Index};
use crate::progress::{LayerState, Progress, report};
use crate::reference::Reference;
use crate::service::ImageSummary;
use crate::store::info::ImageInfo;

/// Indexes inside indexes that are followed.
const DEPTH: usize = 3;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";

/// An image of a layout.
pub(crate) struct Found {
    pub(crate) manifest: Digest,
    pub(crate) name: Option<Reference>,
}

fn member(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document of a layout, verified.
fn document(import: &Import<'_>, archive: &Archive, digest: &Digest) -> Result<Vec<u8>> {
    let bytes = archive.read(&member(digest), import.store.options.limits.metadata_bytes)?;
    let actual = Digest::of(&bytes);
    if actual != *digest {
        let what = format!("{} in {}", member(digest), archive.path().display());
        return Err(Error::DigestMismatch { what, expected: *digest, actual });
    }
    Ok(bytes)
}

/// The images in `index.json`, one for this platform where there are several.
pub(crate) fn find(import: &Import<'_>, archive: &Archive) -> Result<Vec<Found>> {
    let bytes = archive.read("index.json", import.store.options.limits.metadata_bytes)?;
    let index = parse_index(archive, "index.json", &bytes)?;
    let mut found: Vec<Found> = Vec::new();
    for descriptor in &index.manifests {
        let Some(manifest) = resolve(import, archive, descriptor, DEPTH)? else { continue };
        let name = name_of(descriptor);
        if !found.iter().any(|image| image.manifest == manifest && image.name == name) {
            found.push(Found { manifest, name });
        }
    }
    if found.is_empty() {
        let platform = &import.store.options.platform;
        return Err(Error::archive(archive.path(), format!("the OCI layout holds no image for {platform}")));
    }
    Ok(found)
}

fn parse_index(archive: &Archive, what: &str, bytes: &[u8]) -> Result<Index> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::archive(archive.path(), format!("{what} is malformed: {error}")))
}

/// Follow a descriptor to the manifest for this platform.
fn resolve(
    import: &Import<'_>,
    archive: &Archive,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Option<Digest>> {
    let wanted = &import.store.options.platform;
    if descriptor.platform.as_ref().is_some_and(|platform| !wanted.accepts(platform)) {
        return Ok(None);
    }
    if !crate::pull::is_index(&descriptor.media_type) {
        return Ok(Some(descriptor.digest));
    }
    if depth == 0 {
        return Err(Error::archive(archive.path(), "indexes are nested too deep"));
    }
    let bytes = document(import, archive, &descriptor.digest)?;
    for inner in &parse_index(archive, &member(&descriptor.digest), &bytes)?.manifests {
        if let Some(found) = resolve(import, archive, inner, depth - 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Full names count; a mere tag does not.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let full = descriptor.annotations.get(FULL_NAME);
    let short = descriptor.annotations.get(REF_NAME).filter(|name| name.contains([':', '/']));
    full.or(short).and_then(|name| Reference::parse(name).ok())
}

impl Import<'_> {
    pub(crate) fn import_layout(&self, archive: &Archive, images: Vec<Found>) -> Result<Vec<ImageSummary>> {
        let distinct =
            images.iter().map(|image| image.manifest).collect::<std::collections::HashSet<_>>().len();
        if distinct > 1 && self.name.is_some() {
            let reason = format!(
                "it holds {distinct} images, which cannot all be named the same (hint: give no name)"
            );
            return Err(Error::archive(archive.path(), reason));
        }
        let mut done = Vec::new();
        for image in images {
            let Some(name) = self.name.clone().or(image.name) else {
                return Err(Error::archive(archive.path(), "it names no image (hint: give NAME:TAG)"));
            };
            done.extend(self.layout_image(archive, &image.manifest, name)?);
        }
        done.dedup();
        Ok(done)
    }

    fn layout_image(&self, archive: &Archive, digest: &Digest, name: Reference) -> Result<Vec<ImageSummary>> {
        let manifest_bytes = document(self, archive, digest)?;
        let manifest: crate::oci::Manifest = serde_json::from_slice(&manifest_bytes).map_err(|error| {
            Error::archive(archive.path(), format!("manifest {digest} is malformed: {error}"))
        })?;
        let config_bytes = document(self, archive, &manifest.config.digest)?;
        let info = ImageInfo::new(*digest, &manifest_bytes, &config_bytes, self.store.options.limits.layers)
            .map_err(|reason| Error::archive(archive.path(), format!("image {name}: {reason}")))?;
        self.check_platform(&info)?;
        self.store.protect(&self.lease, info.content())?;
        report(
            self.options.progress.as_ref(),
            Progress::Resolved {
                reference: name.to_string(),
                digest: *digest,
                layers: info.manifest.layers.len(),
                bytes: info.manifest.layers.iter().map(|layer| layer.size).sum(),
            },
        );
        let mut staged = Vec::new();
        for (index, layer) in info.manifest.layers.iter().enumerate() {
            let diff_id = &info.file.rootfs.diff_ids[index];
            let partial = self.store.partial(&layer.digest)?;
            if self.store.has_blob(&layer.digest, layer.size) {
                partial.discard();
                self.layer_progress(layer.digest, layer.size, LayerState::Exists);
                staged.push(None);
                continue;
            }
            let mut partial = partial;
            partial.clear()?;
            let (section, size) = archive.open(&member(&layer.digest))?;
            if size != layer.size {
                let reason =
                    format!("layer {} has {size} bytes, its manifest says {}", layer.digest, layer.size);
                partial.discard();
                return Err(Error::archive(archive.path(), reason));
            }
            self.layer_progress(layer.digest, size, LayerState::Unpacking);
            let expected = (&layer.digest, layer.size, diff_id);
            let cancel = &self.options.cancel;
            staged.push(Some(ingest::stage_blob(
                self.store,
                &self.lease,
                section,
                partial,
                expected,
                cancel,
            )?));
            self.layer_progress(layer.digest, size, LayerState::Done);
        }
        self.store.put_bytes(&config_bytes)?;
        self.store.put_bytes(&manifest_bytes)?;
        self.finish(&info, staged, &[name])
    }

    pub(crate) fn check_platform(&self, info: &ImageInfo) -> Result<()> {
        let (wanted, offered) = (&self.store.options.platform, info.file.platform());
        if offered.architecture.is_empty() || wanted.accepts(&offered) {
            return Ok(());
        }
        Err(Error::archive(self.path, format!("the image is for {offered}, this node is {wanted}")))
    }
}
