//! Where bytes are kept: files below a directory, or objects of a bucket. Keys are made by us and need no escaping.

use std::{ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{error::ApiResult, options::Options};

mod bucket;
mod local;

pub(crate) use bucket::Remote;
pub(crate) use local::{Local, blocking, read_file};

/// Bytes as they are read.
pub(crate) type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// See the module.
#[derive(Debug)]
pub(crate) enum Objects {
    Local(Local),
    Remote(Remote),
}

/// An object that a listing found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) modified: i64,
}

impl Objects {
    pub(crate) fn open(options: &Options, client: &crate::connect::HttpClient) -> Result<Self, crate::Error> {
        Ok(match &options.bucket {
            None => Self::Local(Local::open(&options.dir)?),
            Some(bucket) => Self::Remote(Remote::open(bucket, client.clone())?),
        })
    }

    /// A finished file becomes the object; durable when this returns. The file is gone then.
    pub(crate) async fn put_file(&self, key: &str, file: &Path) -> ApiResult<()> {
        match self {
            Self::Local(local) => local.put_file(key, file).await,
            Self::Remote(remote) => remote.put_file(key, file).await,
        }
    }

    /// Durable when this returns.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> ApiResult<()> {
        match self {
            Self::Local(local) => local.put(key, bytes).await,
            Self::Remote(remote) => remote.put(key, bytes).await,
        }
    }

    /// A part of an object; nothing when it does not exist.
    pub(crate) async fn read(&self, key: &str, range: Range<u64>) -> ApiResult<Option<Bytes>> {
        match self {
            Self::Local(local) => local.read(key, range).await,
            Self::Remote(remote) => remote.read(key, Some(range)).await,
        }
    }

    /// A whole (small) object.
    pub(crate) async fn read_all(&self, key: &str) -> ApiResult<Option<Bytes>> {
        match self {
            Self::Local(local) => local.read_all(key).await,
            Self::Remote(remote) => remote.read(key, None).await,
        }
    }

    /// A part of an object as a stream.
    pub(crate) async fn stream(&self, key: &str, range: Range<u64>) -> ApiResult<Option<ByteStream>> {
        match self {
            Self::Local(local) => local.stream(key, range).await,
            Self::Remote(remote) => remote.stream(key, range).await,
        }
    }

    /// It need not exist.
    pub(crate) async fn delete(&self, key: &str) -> ApiResult<()> {
        match self {
            Self::Local(local) => local.delete(key).await,
            Self::Remote(remote) => remote.delete(key).await,
        }
    }

    pub(crate) async fn list(&self, prefix: &str) -> ApiResult<Vec<Found>> {
        match self {
            Self::Local(local) => local.list(prefix).await,
            Self::Remote(remote) => remote.list(prefix).await,
        }
    }
}

/// Shared by whoever reads.
pub(crate) type Shared = Arc<Objects>;
