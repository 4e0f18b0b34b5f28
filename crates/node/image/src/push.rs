//! Pushing: blobs that a registry lacks, then manifests, then the index of several platforms.

use std::io::Read as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio_util::sync::CancellationToken;

use crate::auth::Credentials;
use crate::digest::Digest;
use crate::error::{Error, RegistryFailure, Result};
use crate::export::{Exported, exported};
use crate::oci::{Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::progress::{LayerState, Progress, ProgressFn, report};
use crate::reference::Reference;
use crate::registry::{Body, Call, Client, Refused, Registry, Retry, whole};
use crate::service::Images;
use crate::store::blob::Blob;
use crate::store::info::ImageInfo;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// How many times as long as it may take no byte a registry may look at a blob that it has.
const CHECKING: u32 = 10;

/// Options of one push.
#[derive(Clone, Default)]
pub struct PushOptions {
    /// Credentials to try.
    pub credentials: Credentials,
    /// Receives progress.
    pub progress: Option<ProgressFn>,
    /// Cancels this push.
    pub cancel: CancellationToken,
}

pub(crate) async fn push(
    images: &Images,
    reference: &str,
    target: &str,
    options: PushOptions,
) -> Result<Digest> {
    let push = Push::new(images, Reference::parse(target)?, options)?;
    let reference = reference.to_owned();
    let (image, _lease) = images
        .blocking(move |inner| {
            let lease = inner.store.lease()?;
            let image = exported(&inner, &lease, &reference)?;
            Ok((image, lease))
        })
        .await?;
    push.carry_out(&image).await
}

/// Push one image that has no name here. The caller holds it.
pub(crate) async fn push_image(
    images: &Images,
    target: Reference,
    info: Arc<ImageInfo>,
    options: PushOptions,
) -> Result<()> {
    let image = Exported { names: Vec::new(), index: None, primary: info.clone(), images: vec![info] };
    let push = Push::new(images, target, options)?;
    push.carry_out(&image).await.map(drop)
}

struct Push {
    images: Images,
    target: Reference,
    options: PushOptions,
}

impl Push {
    fn new(images: &Images, target: Reference, options: PushOptions) -> Result<Self> {
        if target.digest().is_some() {
            let reason = "a push gives a tag, not a digest".to_owned();
            return Err(Error::InvalidName { name: target.to_string(), reason });
        }
        Ok(Self { images: images.clone(), target, options })
    }

    async fn carry_out(&self, image: &Exported) -> Result<Digest> {
        tokio::select! {
            result = self.run(image) => result,
            () = self.options.cancel.cancelled() => {
                Err(Error::Cancelled { what: format!("pushing {}", self.target) })
            }
        }
    }

    async fn run(&self, image: &Exported) -> Result<Digest> {
        let options = &self.images.inner.store.options;
        let client = Arc::new(Client::new(&options.registries, &options.limits, self.target.registry())?);
        // Mirrors only give: the registry itself is last.
        let endpoints =
            Registry::endpoints(&client, &options.registries, &self.target, &self.options.credentials);
        let registry = endpoints
            .into_iter()
            .next_back()
            .ok_or_else(|| Error::NotPresent { name: self.target.to_string() })?;
        let mut blobs: Vec<Descriptor> = Vec::new();
        for info in &image.images {
            blobs.extend(info.manifest.layers.iter().cloned());
            blobs.push(info.manifest.config.clone());
        }
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        let digest = image.index.unwrap_or(image.primary.digest);
        report(
            self.options.progress.as_ref(),
            Progress::Resolved {
                reference: self.target.to_string(),
                digest,
                layers: blobs.len(),
                bytes: blobs.iter().map(|blob| blob.size).sum(),
            },
        );
        let parallel = options.limits.parallel_downloads.max(1);
        let uploads = blobs.iter().map(|blob| self.blob(&registry, blob));
        stream::iter(uploads).buffer_unordered(parallel).try_collect::<Vec<()>>().await?;
        let tag = self.target.tag().unwrap_or("latest").to_owned();
        if image.index.is_some() {
            for info in &image.images {
                let media_type = info.manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST);
                self.manifest(&registry, &info.digest, media_type, &info.digest.to_string()).await?;
            }
            self.manifest(&registry, &digest, OCI_INDEX, &tag).await?;
        } else {
            let media_type = image.primary.manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST);
            self.manifest(&registry, &digest, media_type, &tag).await?;
        }
        Ok(digest)
    }

    fn layer(&self, blob: &Descriptor, done: u64, state: LayerState) {
        let event = Progress::Layer { digest: blob.digest, done, total: Some(blob.size), state };
        report(self.options.progress.as_ref(), event);
    }

    async fn blob(&self, registry: &Registry, blob: &Descriptor) -> Result<()> {
        let action = format!("pushing blob {} to {}", blob.digest, registry.repository());
        let mut retry = Retry::new(&self.images.inner.store.options.limits);
        loop {
            match self.attempt(registry, blob, &action).await {
                Ok(state) => {
                    self.layer(blob, blob.size, state);
                    return Ok(());
                }
                Err(refused) => retry.again(refused).await?,
            }
        }
    }

    async fn attempt(
        &self,
        registry: &Registry,
        blob: &Descriptor,
        action: &str,
    ) -> Result<LayerState, Refused> {
        let name = registry.repository();
        let empty = || whole("");
        let call =
            |method: Method| Call { method, headers: HeaderMap::new(), body: &empty, patient: false, action };
        let there = registry.uri(&format!("/v2/{name}/blobs/{}", blob.digest), action)?;
        // Whether it is there is asked of those who may read it; who may only write is told by the upload.
        if registry.send_once(&there, &call(Method::HEAD)).await?.status().is_success() {
            return Ok(LayerState::Exists);
        }
        let begin = registry.uri(&format!("/v2/{name}/blobs/uploads/"), action)?;
        let mut post = call(Method::POST);
        post.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = registry.send_once(&begin, &post).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(registry.refused(response, action).await);
        }
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| {
            registry.fail(action, "an upload without a location", RegistryFailure::Protocol)
        })?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let location = format!("{location}{separator}digest={}", blob.digest);
        let uri = registry.resolve(&begin, &location, action)?;
        let upload = Arc::new(Upload {
            images: self.images.clone(),
            blob: blob.clone(),
            sent: AtomicU64::new(0),
            progress: self.options.progress.clone(),
            broken: Mutex::default(),
        });
        let body = || upload.body();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(blob.size));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let call = Call { method: Method::PUT, headers, body: &body, patient: true, action };
        let stall = self.images.inner.store.options.limits.stall;
        let response = tokio::select! {
            response = registry.send_once(&uri, &call) => response,
            () = upload.stalled(stall) => {
                let reason = format!("no byte was taken for {stall:?}");
                Err(registry.fail(action, reason, RegistryFailure::Unavailable))
            }
        };
        let broken = upload.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(error) = broken {
            return Err(error.into());
        }
        let response = response?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(LayerState::Done),
            _ => Err(registry.refused(response, action).await),
        }
    }

    async fn manifest(
        &self,
        registry: &Registry,
        digest: &Digest,
        media_type: &str,
        selector: &str,
    ) -> Result<()> {
        let wanted = *digest;
        let bytes = self.images.blocking(move |inner| inner.store.read_metadata(&wanted)).await?;
        let bytes = Bytes::from(bytes);
        let action = format!("pushing manifest {}:{selector}", registry.repository());
        let uri = registry.uri(&format!("/v2/{}/manifests/{selector}", registry.repository()), &action)?;
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::try_from(media_type)
            .map_err(|error| registry.fail(&action, error, RegistryFailure::Protocol))?;
        headers.insert(header::CONTENT_TYPE, kind);
        let body = || whole(bytes.clone());
        let call = Call { method: Method::PUT, headers, body: &body, patient: false, action: &action };
        let mut retry = Retry::new(&self.images.inner.store.options.limits);
        loop {
            match registry.succeed(&uri, &call).await {
                Ok(_) => return Ok(()),
                Err(refused) => retry.again(refused).await?,
            }
        }
    }
}

/// A blob on its way.
struct Upload {
    images: Images,
    blob: Descriptor,
    sent: AtomicU64,
    progress: Option<ProgressFn>,
    /// Why it could not be read.
    broken: Mutex<Option<Error>>,
}

impl Upload {
    fn body(self: &Arc<Self>) -> Body {
        let upload = self.clone();
        upload.sent.store(0, Ordering::Relaxed);
        let chunks = stream::try_unfold(None, move |blob: Option<Blob>| {
            let upload = upload.clone();
            async move {
                let next = upload.next(blob).await;
                next.map_err(|error| {
                    let copy = std::io::Error::other(error.to_string());
                    let mut broken = upload.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    *broken = Some(error);
                    copy
                })
            }
        });
        StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync()
    }

    async fn next(&self, blob: Option<Blob>) -> Result<Option<(Bytes, Option<Blob>)>> {
        let digest = self.blob.digest;
        let read = self.images.blocking(move |inner| {
            let mut blob = match blob {
                Some(blob) => blob,
                None => inner.store.open_blob(&digest)?,
            };
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = blob.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
            read.map_err(Error::io("read", &inner.store.blob_path(&digest)))?;
            Ok((Bytes::from(chunk), blob))
        });
        let (chunk, blob) = read.await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let done = self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed) + chunk.len() as u64;
        let state = LayerState::Uploading;
        let event = Progress::Layer { digest, done, total: Some(self.blob.size), state };
        report(self.progress.as_ref(), event);
        Ok(Some((chunk, Some(blob))))
    }

    /// Ends when nothing was taken for that long; what was sent whole the registry may check for [`CHECKING`] times that.
    async fn stalled(&self, stall: std::time::Duration) {
        let (mut before, mut checking) = (u64::MAX, 0);
        loop {
            let now = self.sent.load(Ordering::Relaxed);
            if now == before && (now < self.blob.size || checking == CHECKING) {
                return;
            }
            checking = if now == before { checking + 1 } else { 0 };
            before = now;
            tokio::time::sleep(stall).await;
        }
    }
}
