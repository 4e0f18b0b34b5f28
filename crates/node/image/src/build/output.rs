//! The end of a build: config and manifest, an index of several platforms, names, archives, files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::context::Source;
use super::copy::Target;
use super::run::Build;
use super::stage::Stage;
use super::{BuildOutput, CacheTo, OutputKind, shared};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::export::{self, ExportFormat, Exported};
use crate::oci::{self, Descriptor, ImageFile, Index, Manifest, Platform, RootFs};
use crate::reference::Reference;
use crate::service::{ImageSummary, Images, Inner};
use crate::store::info::ImageInfo;
use crate::store::lease::Lease;

/// An image of one platform, written but not named.
pub(super) struct Built {
    pub(super) info: Arc<ImageInfo>,
    pub(super) platform: Platform,
    lowers: Vec<PathBuf>,
}

impl Build {
    /// Write config and manifest of a stage, and make everything durable.
    pub(super) async fn finish(&self, stage: &Stage) -> Result<Built> {
        let mut stage = stage.clone();
        for (name, value) in &self.options.labels {
            stage.config.labels.get_or_insert_default().insert(name.clone(), value.clone());
        }
        if self.options.cache_to.contains(&CacheTo::Inline) {
            let list = shared::list(&self.kept, &stage.layers);
            stage.config.labels.get_or_insert_default().insert(shared::LABEL.into(), list);
        }
        let platform = stage.platform.clone().unwrap_or_else(Platform::host);
        let created = match self.options.source_date_epoch {
            Some(_) => self.created(),
            None => stage.created.clone().unwrap_or_else(|| self.created()),
        };
        let named = platform.clone();
        let file = ImageFile {
            created: Some(created),
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            config: Some(stage.config),
            rootfs: RootFs { kind: "layers".into(), diff_ids: stage.diff_ids },
            history: Some(stage.history),
        };
        let (layers, snapshots, lowers) = (stage.layers, stage.snapshots, stage.lowers);
        let (lease, path) = (self.lease.clone(), self.plan.file.clone());
        self.images
            .blocking(move |inner| {
                let info = write_image(&inner, &lease, file, layers, &path)?;
                inner.store.sync_snapshots(&snapshots)?;
                Ok(Built { info: Arc::new(info), platform: named, lowers })
            })
            .await
    }
}

/// Config and manifest of an image whose layers are in the store.
pub(crate) fn write_image(
    inner: &Inner,
    lease: &Lease,
    file: ImageFile,
    layers: Vec<Descriptor>,
    path: &Path,
) -> Result<ImageInfo> {
    let bad = |error: serde_json::Error| Error::archive(path, error.to_string());
    let config = serde_json::to_vec(&file).map_err(bad)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(oci::OCI_MANIFEST.into()),
        config: Descriptor::new(oci::OCI_CONFIG, Digest::of(&config), config.len() as u64),
        layers,
    };
    let bytes = serde_json::to_vec(&manifest).map_err(bad)?;
    let info = ImageInfo::new(Digest::of(&bytes), &bytes, &config, inner.store.options.limits.layers)
        .map_err(|reason| Error::archive(path, reason))?;
    inner.store.protect(lease, info.content())?;
    inner.store.put_bytes(&config)?;
    inner.store.put_bytes(&bytes)?;
    Ok(info)
}

/// Everything that a build gives, for all its platforms.
pub(super) struct Results {
    pub(super) built: Vec<Built>,
    pub(super) index: Option<Digest>,
}

impl Results {
    /// One image as it is; several in an index.
    pub(super) async fn new(images: &Images, lease: &Arc<Lease>, built: Vec<Built>) -> Result<Self> {
        if built.len() < 2 {
            return Ok(Self { built, index: None });
        }
        let lease = lease.clone();
        images
            .blocking(move |inner| {
                let mut manifests = Vec::new();
                for one in &built {
                    let size = inner.store.read_metadata(&one.info.digest)?.len() as u64;
                    let mut descriptor = Descriptor::new(oci::OCI_MANIFEST, one.info.digest, size);
                    descriptor.platform = Some(one.platform.clone());
                    manifests.push(descriptor);
                }
                let index = Index { schema_version: 2, media_type: Some(oci::OCI_INDEX.into()), manifests };
                let bytes = serde_json::to_vec(&index)
                    .map_err(|error| Error::archive("the index", error.to_string()))?;
                inner.store.protect(&lease, [Digest::of(&bytes)])?;
                let digest = inner.store.put_bytes(&bytes)?;
                Ok(Self { built, index: Some(digest) })
            })
            .await
    }

    /// The image that a node runs: this machine's platform, or the first.
    pub(super) fn primary(&self, images: &Images) -> Result<&Built> {
        let own = &images.inner.store.options.platform;
        let found = self.built.iter().find(|built| own.accepts(&built.platform)).or(self.built.first());
        found.ok_or_else(|| Error::Cancelled { what: "the build".into() })
    }

    /// Give the names, and write what else was asked for.
    pub(super) async fn write(
        &self,
        images: &Images,
        tags: &[Reference],
        outputs: &[BuildOutput],
    ) -> Result<ImageSummary> {
        let primary = self.primary(images)?.info.clone();
        for output in outputs {
            self.output(images, tags, output, &primary).await?;
        }
        let (tags, index) = (tags.to_vec(), self.index);
        images
            .blocking(move |inner| {
                let named = match tags.is_empty() {
                    true => Vec::new(),
                    false => crate::import::name_image(&inner.store, &primary, index, &tags)?,
                };
                let first = named.into_iter().next();
                Ok(first.unwrap_or_else(|| primary.summary(&primary.digest.to_string())))
            })
            .await
    }

    async fn output(
        &self,
        images: &Images,
        tags: &[Reference],
        output: &BuildOutput,
        primary: &Arc<ImageInfo>,
    ) -> Result<()> {
        let format = match output.kind {
            OutputKind::Oci => ExportFormat::Oci,
            OutputKind::Docker => ExportFormat::Docker,
            OutputKind::Local => return self.files(images, &output.dest).await,
        };
        if format == ExportFormat::Docker && self.index.is_some() {
            let hint = "(hint: type=oci, or one --platform)";
            return Err(Error::archive(
                &output.dest,
                format!("a docker archive holds one platform only {hint}"),
            ));
        }
        let exported = Exported {
            names: tags.to_vec(),
            index: self.index,
            primary: primary.clone(),
            images: self.built.iter().map(|built| built.info.clone()).collect(),
        };
        let (path, compression) = (output.dest.clone(), output.compression);
        images.blocking(move |inner| export::write(&inner, &[exported], &path, format, compression)).await
    }

    /// The root file systems as directories.
    async fn files(&self, images: &Images, dest: &Path) -> Result<()> {
        let several = self.built.len() > 1;
        for built in &self.built {
            let mut dir = dest.to_owned();
            if several {
                dir.push(built.platform.to_string().replace('/', "_"));
            }
            let lowers = built.lowers.clone();
            images
                .blocking(move |_| {
                    std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
                    if lowers.is_empty() {
                        return Ok(());
                    }
                    let source = Source::layers(&lowers, "the image");
                    let all = source.choose("/").map_err(|reason| Error::archive(&dir, reason))?;
                    let target = Target { upper: &dir, lowers: &[], owner: None, chmod: None };
                    target.copy(&source, &all, Path::new("/"), true)
                })
                .await?;
        }
        Ok(())
    }
}
