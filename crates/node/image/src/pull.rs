//! Pulling: resolve a reference at a registry (or its mirrors), download what is missing, unpack, name.

pub(crate) mod download;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, Shared};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::auth::{Auth, Credentials};
use crate::digest::Digest;
use crate::error::{Error, RegistryFailure, Result};
use crate::import::{Finish, finish};
use crate::oci::{self, Descriptor, Index, Manifest, Platform};
use crate::progress::{Progress, ProgressFn, report};
use crate::reference::Reference;
use crate::registry::{Client, Registry};
use crate::service::{ImageSummary, Images};
use crate::store::info::ImageInfo;
use crate::store::lease::Lease;
use crate::store::locked;

/// Options of one pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Credentials to try, e.g. from pull secrets; anonymous when none matches the registry.
    pub credentials: Credentials,
    /// Another platform than the store's.
    pub platform: Option<Platform>,
    /// Receives progress.
    pub progress: Option<ProgressFn>,
    /// Cancels this pull; bytes that came stay for the next attempt.
    pub cancel: CancellationToken,
}

/// What a registry may answer with.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Indexes inside indexes that are followed.
const DEPTH: usize = 3;

type Outcome = Result<ImageSummary, Arc<Error>>;

/// Pulls in flight, so that the same image is fetched once.
#[derive(Default)]
pub(crate) struct Pulls {
    flights: Mutex<HashMap<Key, Flight>>,
}

/// Who may share a pull: the same image, for the same platform, with the same rights.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    reference: String,
    platform: String,
    auths: Vec<Auth>,
}

#[derive(Clone)]
struct Flight {
    future: Shared<BoxFuture<'static, Outcome>>,
    listeners: Arc<Mutex<Vec<ProgressFn>>>,
}

pub(crate) async fn pull(images: &Images, reference: &str, options: PullOptions) -> Result<ImageSummary> {
    let reference = Reference::parse(reference)?;
    let platform = options.platform.clone().unwrap_or_else(|| images.inner.store.options.platform.clone());
    let key = Key {
        reference: reference.to_string(),
        platform: platform.to_string(),
        auths: options.credentials.for_image(&reference),
    };
    let flight = {
        images.inner.pulls.sweep();
        let mut flights = locked(&images.inner.pulls.flights);
        let flight = flights.entry(key.clone()).or_insert_with(|| {
            let listeners: Arc<Mutex<Vec<ProgressFn>>> = Arc::default();
            let to = listeners.clone();
            let progress: ProgressFn = Arc::new(move |event| {
                locked(&to).iter().for_each(|listener| listener(event.clone()));
            });
            let pull = Pull { images: images.clone(), reference: reference.clone(), platform, progress };
            let credentials = options.credentials.clone();
            let future = async move { pull.run(&credentials).await.map_err(Arc::new) };
            Flight { future: future.boxed().shared(), listeners }
        });
        locked(&flight.listeners).extend(options.progress.clone());
        flight.clone()
    };
    let waiter = Waiter { images, flight: Some(flight.clone()) };
    let future = flight.future;
    let outcome = tokio::select! {
        outcome = future => outcome,
        () = options.cancel.cancelled() => {
            Err(Arc::new(Error::Cancelled { what: format!("pulling {reference}") }))
        }
    };
    drop(waiter);
    outcome.map_err(|error| Arc::try_unwrap(error).unwrap_or_else(Error::Shared))
}

/// What an image at a registry is, and the place that has it. Its layers stay there.
pub(crate) async fn peek(
    images: &Images,
    reference: &str,
    options: &PullOptions,
) -> Result<(Arc<Registry>, ImageInfo)> {
    let reference = Reference::parse(reference)?;
    let platform = options.platform.clone().unwrap_or_else(|| images.inner.store.options.platform.clone());
    let pull = Pull { images: images.clone(), reference, platform, progress: Arc::new(|_| ()) };
    let lease = Arc::new(images.blocking(|inner| inner.store.lease()).await?);
    let mut last = None;
    for registry in pull.endpoints(&options.credentials).await? {
        match pull.info(&registry, &lease).await {
            Ok((info, ..)) => return Ok((Arc::new(registry), info)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::NotPresent { name: pull.reference.to_string() }))
}

/// Forgets a pull that nobody waits for any more, also when its caller is dropped: that ends the download.
struct Waiter<'a> {
    images: &'a Images,
    flight: Option<Flight>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.flight = None;
        self.images.inner.pulls.sweep();
    }
}

impl Pulls {
    fn sweep(&self) {
        let mut flights = locked(&self.flights);
        let over =
            |flight: &Flight| flight.future.peek().is_some() || flight.future.strong_count() <= Some(1);
        let gone: Vec<_> = flights.extract_if(|_, flight| over(flight)).collect();
        drop(flights);
        // Dropped without the lock: a pull's end touches files.
        drop(gone);
    }
}

/// One pull.
struct Pull {
    images: Images,
    reference: Reference,
    platform: Platform,
    progress: ProgressFn,
}

impl Pull {
    async fn endpoints(&self, credentials: &Credentials) -> Result<Vec<Registry>> {
        let options = &self.images.inner.store.options;
        let registries = options.registries.clone();
        let (limits, name) = (options.limits.clone(), self.reference.registry().to_owned());
        let client = self.images.blocking({
            let registries = registries.clone();
            move |_| Client::new(&registries, &limits, &name)
        });
        Ok(Registry::endpoints(&Arc::new(client.await?), &registries, &self.reference, credentials))
    }

    async fn run(&self, credentials: &Credentials) -> Result<ImageSummary> {
        let mut last = None;
        for registry in self.endpoints(credentials).await? {
            match self.from(Arc::new(registry)).await {
                Ok(image) => return Ok(image),
                // A mirror that cannot serve the image is no reason to give up.
                Err(error @ Error::Registry { .. }) => {
                    tracing::debug!(%error, "a registry could not serve an image");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::NotPresent { name: self.reference.to_string() }))
    }

    /// What the image is, with the bytes of its manifest and its config.
    async fn info(&self, registry: &Registry, lease: &Arc<Lease>) -> Result<(ImageInfo, Bytes, Bytes)> {
        let (digest, manifest_bytes) = self.resolve(registry).await?;
        let manifest: Manifest = serde_json::from_slice(&manifest_bytes)
            .map_err(|error| self.nonsense(registry, format!("manifest {digest} is malformed: {error}")))?;
        let config_bytes = self.config(registry, lease, &manifest.config).await?;
        let limit = self.images.inner.store.options.limits.layers;
        let info = ImageInfo::new(digest, &manifest_bytes, &config_bytes, limit)
            .map_err(|reason| self.nonsense(registry, reason))?;
        Ok((info, manifest_bytes, config_bytes))
    }

    async fn from(&self, registry: Arc<Registry>) -> Result<ImageSummary> {
        let lease = Arc::new(self.images.blocking(|inner| inner.store.lease()).await?);
        let (info, manifest_bytes, config_bytes) = self.info(&registry, &lease).await?;
        let digest = info.digest;
        let offered = info.file.platform();
        if !offered.architecture.is_empty() && !self.platform.accepts(&offered) {
            return Err(
                self.nonsense(&registry, format!("the image is for {offered}, wanted is {}", self.platform))
            );
        }
        let info = Arc::new(info);
        self.protect(&lease, info.content()).await?;
        self.check_sizes(&info)?;
        report(
            Some(&self.progress),
            Progress::Resolved {
                reference: self.reference.to_string(),
                digest,
                layers: info.manifest.layers.len(),
                bytes: info.manifest.layers.iter().map(|layer| layer.size).sum(),
            },
        );
        let parallel = self.images.inner.store.options.limits.parallel_downloads.max(1);
        let downloads = (0..info.manifest.layers.len()).map(|at| {
            download::Download {
                images: self.images.clone(),
                registry: registry.clone(),
                lease: lease.clone(),
                layer: info.manifest.layers[at].clone(),
                diff_id: info.file.rootfs.diff_ids[at],
                progress: self.progress.clone(),
            }
            .run()
        });
        let staged: Vec<_> = stream::iter(downloads).buffered(parallel).try_collect().await?;
        // What this node cannot run does not take the name from what it can.
        let own = self.images.inner.store.options.platform.accepts(&self.platform);
        let name = if own { self.reference.clone() } else { self.reference.with_digest(digest) };
        self.images
            .blocking(move |inner| {
                inner.store.put_bytes(&config_bytes)?;
                inner.store.put_bytes(&manifest_bytes)?;
                let cancel = CancellationToken::new();
                let done = finish(
                    Finish { store: &inner.store, lease: &lease, cancel: &cancel },
                    &info,
                    staged,
                    &[name],
                )?;
                done.into_iter().next().ok_or_else(|| Error::NotPresent { name: String::new() })
            })
            .await
    }

    /// Follow the reference to the manifest for the platform.
    async fn resolve(&self, registry: &Registry) -> Result<(Digest, Bytes)> {
        let (mut selector, mut expected) = (self.reference.selector(), self.reference.digest().copied());
        for _ in 0..=DEPTH {
            let (content_type, bytes) = registry.manifest(&selector, ACCEPT).await?;
            let digest = Digest::of(&bytes);
            if let Some(expected) = expected
                && expected != digest
            {
                let what = format!("manifest {selector} from {}", registry.host());
                return Err(Error::DigestMismatch { what, expected, actual: digest });
            }
            match kind_of(&content_type, &bytes) {
                Document::Manifest => return Ok((digest, bytes)),
                Document::Old => {
                    let reason = "the image has a schema 1 manifest, which is no longer supported (hint: push it again)";
                    return Err(self.nonsense(registry, reason.to_owned()));
                }
                Document::Unknown => {
                    let reason = format!("neither an image manifest nor an index ({content_type:?})");
                    return Err(self.nonsense(registry, reason));
                }
                Document::Index => {
                    let chosen = self.choose(registry, &bytes)?;
                    (selector, expected) = (chosen.to_string(), Some(chosen));
                }
            }
        }
        Err(self.nonsense(registry, "indexes are nested too deep".into()))
    }

    fn choose(&self, registry: &Registry, bytes: &[u8]) -> Result<Digest> {
        let index: Index = serde_json::from_slice(bytes)
            .map_err(|error| self.nonsense(registry, format!("the index is malformed: {error}")))?;
        let fits = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => self.platform.accepts(platform),
            None => true,
        };
        let exact =
            index.manifests.iter().find(|descriptor| descriptor.platform.as_ref() == Some(&self.platform));
        exact.or_else(|| index.manifests.iter().find(fits)).map(|descriptor| descriptor.digest).ok_or_else(
            || {
                let offered: Vec<String> = index
                    .manifests
                    .iter()
                    .filter_map(|there| Some(there.platform.as_ref()?.to_string()))
                    .collect();
                let reason = format!("no image for {}; there are {}", self.platform, offered.join(", "));
                registry.fail(&format!("manifest {}", self.reference), reason, RegistryFailure::NotFound)
            },
        )
    }

    async fn config(&self, registry: &Registry, lease: &Arc<Lease>, config: &Descriptor) -> Result<Bytes> {
        self.protect(lease, vec![config.digest]).await?;
        let limit = self.images.inner.store.options.limits.metadata_bytes;
        if config.size > limit {
            return Err(Error::Limit { what: format!("config of {}", self.reference), limit, unit: "bytes" });
        }
        let digest = config.digest;
        if self.images.inner.store.has_blob(&digest, config.size) {
            let local = self.images.blocking(move |inner| inner.store.read_metadata(&digest)).await;
            if let Ok(bytes) = local {
                return Ok(bytes.into());
            }
        }
        let bytes = registry.small_blob(&digest).await?;
        let actual = Digest::of(&bytes);
        if actual != digest {
            let what = format!("config of {} from {}", self.reference, registry.host());
            return Err(Error::DigestMismatch { what, expected: digest, actual });
        }
        Ok(bytes)
    }

    fn check_sizes(&self, info: &ImageInfo) -> Result<()> {
        let limit = self.images.inner.store.options.limits.layer_bytes;
        match info.manifest.layers.iter().find(|layer| layer.size > limit) {
            Some(layer) => {
                Err(Error::Limit { what: format!("layer {}", layer.digest), limit, unit: "bytes" })
            }
            None => Ok(()),
        }
    }

    async fn protect(&self, lease: &Arc<Lease>, digests: Vec<Digest>) -> Result<()> {
        let lease = lease.clone();
        self.images.blocking(move |inner| inner.store.protect(&lease, digests)).await
    }

    fn nonsense(&self, registry: &Registry, reason: String) -> Error {
        registry.fail(&format!("image {}", self.reference), reason, RegistryFailure::Protocol)
    }
}

enum Document {
    Manifest,
    Index,
    Old,
    Unknown,
}

/// Registries do not always say the type; the content does.
fn kind_of(content_type: &str, bytes: &[u8]) -> Document {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: u32,
        media_type: Option<String>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let Ok(shape) = serde_json::from_slice::<Shape>(bytes) else { return Document::Unknown };
    if shape.schema_version == 1 {
        return Document::Old;
    }
    let media_type = shape.media_type.as_deref().unwrap_or(content_type);
    if matches!(media_type, oci::OCI_MANIFEST | oci::DOCKER_MANIFEST)
        || (shape.layers.is_some() && shape.manifests.is_none())
    {
        Document::Manifest
    } else if is_index(media_type) || (shape.manifests.is_some() && shape.layers.is_none()) {
        Document::Index
    } else {
        Document::Unknown
    }
}

/// Whether a media type is that of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, oci::OCI_INDEX | oci::DOCKER_LIST)
}
