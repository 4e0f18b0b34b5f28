//! [`Images`]: the handle that the rest of the system holds.

use std::path::Path;
use std::sync::Arc;

use crate::analyze::Analysis;
use crate::build::{BuildOptions, BuildResult};
use crate::digest::Digest;
use crate::error::Result;
use crate::export::ExportFormat;
use crate::import::ImportOptions;
use crate::oci::{ImageConfig, Platform};
use crate::options::Options;
use crate::pull::PullOptions;
use crate::push::PushOptions;
use crate::rootfs::RootfsPlan;
use crate::slim::{SlimOptions, SlimPlan};
use crate::store::Store;

mod manage;
mod view;

/// The images of this node. Cheap to clone; several processes may hold one on the same directory.
#[derive(Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) pulls: crate::pull::Pulls,
}

/// An image in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Normalised name: `docker.io/library/nginx:latest`, or `name@sha256:…` for one that was pulled by digest.
    pub reference: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the config (docker's image id).
    pub image_id: Digest,
    /// When the image was built, RFC 3339, as its config says.
    pub created: Option<String>,
    /// Bytes of manifest, config and layers as stored.
    pub size: u64,
    /// Its platform.
    pub platform: Platform,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// Everything about one image.
#[derive(Clone, Debug)]
pub struct ImageDetails {
    /// As in a list.
    pub summary: ImageSummary,
    /// All names of the same image.
    pub names: Vec<String>,
    /// What it says about the process.
    pub config: ImageConfig,
    /// Layers, bottom first.
    pub layers: Vec<LayerDetails>,
    /// How it was built, oldest first.
    pub history: Vec<History>,
    /// Media type of the manifest.
    pub media_type: String,
    /// The config blob as it is.
    pub config_json: serde_json::Value,
    /// Who uses it now.
    pub holders: Vec<String>,
}

/// One layer of [`ImageDetails`].
#[derive(Clone, Debug)]
pub struct LayerDetails {
    /// Digest as transferred.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes as transferred.
    pub size: u64,
    /// Bytes of its files, when it is unpacked.
    pub unpacked: Option<u64>,
}

/// One line of an image's history.
#[derive(Clone, Debug)]
pub struct History {
    /// When.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// Whether it made a layer.
    pub empty_layer: bool,
}

/// A container that uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The name that was given to [`Images::rootfs`].
    pub holder: String,
    /// The image's name.
    pub reference: String,
    /// Digest of its manifest.
    pub digest: Digest,
}

/// What a removal did.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Manifests that have no name any more.
    pub deleted: Vec<Digest>,
    /// Bytes that were freed.
    pub freed: u64,
}

/// What garbage collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Blobs removed.
    pub blobs: usize,
    /// Snapshots removed.
    pub snapshots: usize,
    /// Build steps forgotten.
    pub cache_entries: usize,
    /// Bytes freed.
    pub freed: u64,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Images with a name.
    pub images: usize,
    /// Bytes of blobs.
    pub blobs: u64,
    /// Bytes of unpacked layers.
    pub snapshots: u64,
    /// Build steps remembered.
    pub cache_entries: usize,
    /// Bytes that garbage collection (with the build cache) would free.
    pub reclaimable: u64,
}

impl Images {
    /// Open (or make) the store, and remove what a killed process left.
    pub fn open(options: Options) -> Result<Self> {
        let store = Store::open(options)?;
        Ok(Self { inner: Arc::new(Inner { store, pulls: crate::pull::Pulls::default() }) })
    }

    /// All images with a name, sorted by it.
    pub async fn list(&self) -> Result<Vec<ImageSummary>> {
        self.blocking(|inner| inner.list()).await
    }

    /// The image behind a name, digest (`sha256:…`, also shortened to 7 or more hex digits of the image id), or `None`.
    pub async fn find(&self, reference: &str) -> Result<Option<ImageSummary>> {
        let reference = reference.to_owned();
        self.blocking(move |inner| inner.find(&reference)).await
    }

    /// Everything about one image.
    pub async fn inspect(&self, reference: &str) -> Result<ImageDetails> {
        let reference = reference.to_owned();
        self.blocking(move |inner| inner.inspect(&reference)).await
    }

    /// Layers and config for a container, held under the name `holder` until [`Images::release`].
    ///
    /// The hold is a file: it survives this process, as the container does. Calling again with the same holder
    /// replaces it. Layers that were lost are unpacked again from their blobs.
    pub async fn rootfs(&self, reference: &str, holder: &str) -> Result<RootfsPlan> {
        let (reference, holder) = (reference.to_owned(), holder.to_owned());
        self.blocking(move |inner| inner.rootfs(&reference, &holder)).await
    }

    /// Let go what `holder` held; fine when it holds nothing.
    pub async fn release(&self, holder: &str) -> Result<()> {
        let holder = holder.to_owned();
        self.blocking(move |inner| inner.store.release(&holder)).await
    }

    /// Every hold, so that the owner can release those of containers that are gone.
    pub async fn holders(&self) -> Result<Vec<Holder>> {
        self.blocking(|inner| inner.store.holders()).await
    }

    /// Fetch an image from its registry. A second pull of the same image joins the first one.
    pub async fn pull(&self, reference: &str, options: PullOptions) -> Result<ImageSummary> {
        crate::pull::pull(self, reference, options).await
    }

    /// Read an archive (docker save, OCI layout as directory or tar, root file system tar; plain, gzip or zstd).
    /// What it is is found by content. Returns every image that now has a name.
    pub async fn import(&self, path: &Path, options: ImportOptions) -> Result<Vec<ImageSummary>> {
        let path = path.to_owned();
        self.blocking(move |inner| crate::import::import(&inner, &path, &options)).await
    }

    /// Write an image as an archive that docker, podman and skopeo read.
    pub async fn export(&self, reference: &str, path: &Path, format: ExportFormat) -> Result<()> {
        self.save(&[reference.to_owned()], path, format, crate::build::Compression::None).await
    }

    /// Write several images into one archive, which may be compressed as a whole.
    pub async fn save(
        &self,
        references: &[String],
        path: &Path,
        format: ExportFormat,
        compression: crate::build::Compression,
    ) -> Result<()> {
        let (references, path) = (references.to_vec(), path.to_owned());
        self.blocking(move |inner| crate::export::export(&inner, &references, &path, format, compression))
            .await
    }

    /// Send an image, with all its platforms, to a registry under a name. Gives the digest there.
    pub async fn push(&self, reference: &str, target: &str, options: PushOptions) -> Result<Digest> {
        crate::push::push(self, reference, target, options).await
    }

    /// Give an image another name.
    pub async fn tag(&self, source: &str, target: &str) -> Result<ImageSummary> {
        let (source, target) = (source.to_owned(), target.to_owned());
        self.blocking(move |inner| inner.tag(&source, &target)).await
    }

    /// Remove a name (or, by digest or image id, all names); content without a name is deleted at once.
    /// Refuses while a container uses the last name, unless forced: then the content stays until the container ends.
    pub async fn remove(&self, reference: &str, force: bool) -> Result<Removed> {
        let reference = reference.to_owned();
        self.blocking(move |inner| inner.remove(&reference, force)).await
    }

    /// Build an image from a Dockerfile.
    pub async fn build(&self, options: BuildOptions) -> Result<BuildResult> {
        crate::build::build(self, options).await
    }

    /// Where the bytes of images are, and which of them nobody needs.
    pub async fn analyze(&self, references: &[String]) -> Result<Analysis> {
        let references = references.to_vec();
        self.blocking(move |inner| crate::analyze::analyze(&inner, &references)).await
    }

    /// What of an image is needed to run it, and what is not. Nothing is changed.
    pub async fn slim_plan(&self, options: SlimOptions) -> Result<SlimPlan> {
        self.blocking(move |inner| crate::slim::plan(&inner, &options)).await
    }

    /// Make the image that a plan describes, under a name.
    pub async fn slim(&self, plan: SlimPlan, name: &str) -> Result<ImageSummary> {
        let name = name.to_owned();
        self.blocking(move |inner| crate::slim::write(&inner, &plan, &name)).await
    }

    /// Delete content that nothing refers to; with `cache`, also the results of earlier build steps.
    pub async fn prune(&self, cache: bool) -> Result<Pruned> {
        self.blocking(move |inner| inner.store.collect(cache)).await
    }

    /// Where the bytes are.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        self.blocking(|inner| inner.disk_usage()).await
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(inner)).await {
            Ok(result) => result,
            Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Err(_) => Err(crate::Error::Cancelled { what: "an image operation".into() }),
        }
    }
}
