//! Objects of an S3-compatible bucket, through `object_store` over our own HTTP client.

use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use object_store::{
    ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
    RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    client::{
        HttpClient as StoreClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
    path::Path as Key,
};

use super::{ByteStream, Found, local::blocking};
use crate::{
    connect::HttpClient,
    error::{ApiResult, Error},
    options::Bucket,
};

/// Bytes of one part of a large object; S3 allows 10,000 parts of at least 5 MiB.
const PART: u64 = 32 << 20;
/// Parts that are sent at once.
const PARALLEL: usize = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Remote {
    store: AmazonS3,
    prefix: String,
}

impl Remote {
    pub(crate) fn open(bucket: &Bucket, client: HttpClient) -> Result<Self, Error> {
        let retry =
            RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket.name)
            .with_region(&bucket.region)
            .with_access_key_id(&bucket.access_key)
            .with_secret_access_key(&bucket.secret_key)
            .with_retry(retry)
            .with_http_connector(Connector(client));
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder
                .with_endpoint(endpoint)
                .with_allow_http(endpoint.starts_with("http://"))
                .with_virtual_hosted_style_request(false);
        }
        let store = builder.build().map_err(|error| Error::Bucket(error.to_string()))?;
        let prefix = bucket.prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { store, prefix })
    }

    fn key(&self, key: &str) -> Key {
        Key::from(format!("{}{key}", self.prefix))
    }

    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> ApiResult<()> {
        self.store.put(&self.key(key), bytes.into()).await?;
        Ok(())
    }

    pub(crate) async fn put_file(&self, key: &str, path: &Path) -> ApiResult<()> {
        let owned = path.to_owned();
        let (file, size) = blocking(move || {
            let file = std::fs::File::open(owned)?;
            let size = file.metadata()?.len();
            Ok((Arc::new(file), size))
        })
        .await?;
        let read = |range: Range<u64>| {
            let file = file.clone();
            blocking(move || {
                let mut buffer = vec![0; (range.end - range.start) as usize];
                std::os::unix::fs::FileExt::read_exact_at(&*file, &mut buffer, range.start)?;
                Ok(Bytes::from(buffer))
            })
        };
        if size <= PART {
            self.put(key, read(0..size).await?).await?;
        } else {
            let mut upload = self.store.put_multipart(&self.key(key)).await?;
            let sent = async {
                let mut parts = futures::stream::FuturesUnordered::new();
                for start in (0..size).step_by(PART as usize) {
                    let bytes = read(start..size.min(start + PART)).await?;
                    if parts.len() >= PARALLEL {
                        parts.try_next().await?;
                    }
                    parts.push(upload.put_part(PutPayload::from(bytes)));
                }
                parts.try_collect::<Vec<()>>().await?;
                upload.complete().await?;
                ApiResult::Ok(())
            }
            .await;
            if let Err(error) = sent {
                // What the bucket keeps of it otherwise is ended by its own rules.
                let _ = upload.abort().await;
                return Err(error);
            }
        }
        let owned = path.to_owned();
        blocking(move || std::fs::remove_file(owned)).await?;
        Ok(())
    }

    pub(crate) async fn read(&self, key: &str, range: Option<Range<u64>>) -> ApiResult<Option<Bytes>> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Some(Bytes::new()));
        }
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        match self.store.get_opts(&self.key(key), options).await {
            Ok(result) => Ok(Some(result.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn stream(&self, key: &str, range: Range<u64>) -> ApiResult<Option<ByteStream>> {
        if range.is_empty() {
            return Ok(Some(futures::stream::empty().boxed()));
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.store.get_opts(&self.key(key), options).await {
            Ok(result) => Ok(Some(result.into_stream().map_err(std::io::Error::other).boxed())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn delete(&self, key: &str) -> ApiResult<()> {
        match self.store.delete(&self.key(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn list(&self, prefix: &str) -> ApiResult<Vec<Found>> {
        let key = self.key(prefix.trim_end_matches('/'));
        let mut all = Vec::new();
        let mut list = self.store.list(Some(&key));
        while let Some(object) = list.try_next().await? {
            let key = object.location.as_ref();
            let key = key.strip_prefix(&self.prefix).unwrap_or(key).to_owned();
            all.push(Found { key, size: object.size, modified: object.last_modified.timestamp() });
        }
        Ok(all)
    }
}

/// Our client, as `object_store` wants it.
#[derive(Clone)]
struct Connector(HttpClient);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<StoreClient> {
        Ok(StoreClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let request = request.map(crate::connect::box_body);
        let response = self.0.request(request).await.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, error)
        })?;
        let interrupted = |error| HttpError::new(HttpErrorKind::Interrupted, error);
        Ok(response.map(|body| HttpResponseBody::new(body.map_err(interrupted))))
    }
}
