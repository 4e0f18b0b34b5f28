//! What the caller decides: where, who may, and every bound.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use sampan_daemon::tls::Identity;

/// Options of a [`crate::Registry`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Metadata, uploads in progress and, without a bucket, the blobs.
    pub dir: PathBuf,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// TLS; without it plain HTTP is spoken.
    pub identity: Option<Arc<Identity>>,
    /// A bucket for blobs, instead of the directory.
    pub bucket: Option<Bucket>,
    /// Anybody may do anything: for a private network, or behind a proxy that asks.
    pub open: bool,
    /// How people reach it (`https://host:port`), for the address of the token service; else what they asked for.
    pub external_url: Option<String>,
    /// Write manifest pulls into the audit log too.
    pub audit_pulls: bool,
    /// PEM with authorities that other registries and webhooks may have beside the system's.
    pub extra_ca: Option<String>,
    /// Bounds.
    pub limits: Limits,
    /// Cleaning up.
    pub upkeep: Upkeep,
}

impl Options {
    /// Defaults for a registry in this directory.
    pub fn new(dir: impl Into<PathBuf>, listen: Vec<SocketAddr>) -> Self {
        Self {
            dir: dir.into(),
            listen,
            identity: None,
            bucket: None,
            open: false,
            external_url: None,
            audit_pulls: false,
            extra_ca: None,
            limits: Limits::default(),
            upkeep: Upkeep::default(),
        }
    }
}

/// An S3-compatible bucket.
#[derive(Clone)]
pub struct Bucket {
    /// `http://host:port` of the service; none is Amazon's.
    pub endpoint: Option<String>,
    /// The bucket's name.
    pub name: String,
    /// Put before each key.
    pub prefix: String,
    /// Region.
    pub region: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, name, prefix, .. } = self;
        f.debug_struct("Bucket")
            .field("endpoint", endpoint)
            .field("name", name)
            .field("prefix", prefix)
            .finish_non_exhaustive()
    }
}

/// Bounds against hostile or broken clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a manifest.
    pub manifest_bytes: usize,
    /// Bytes of a blob.
    pub blob_bytes: u64,
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// Connections of one address at a time; further ones are closed.
    pub connections_per_address: usize,
    /// Uploads that are begun and not ended.
    pub uploads: usize,
    /// Bytes of memory for manifests that were read lately.
    pub cache_bytes: usize,
    /// A request's head must be there by then.
    pub head: Duration,
    /// A body without any byte for this long is given up.
    pub stall: Duration,
    /// Each MiB of a body must be there by then.
    pub slow: Duration,
    /// Names in one answer of a listing.
    pub page: usize,
    /// Descriptors of a manifest.
    pub descriptors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            blob_bytes: 256 << 30,
            connections: 2048,
            connections_per_address: 1024,
            uploads: 4096,
            cache_bytes: 4 << 20,
            head: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            slow: Duration::from_secs(300),
            page: 1000,
            descriptors: 10_000,
        }
    }
}

/// When what is cleaned up.
#[derive(Clone, Debug)]
pub struct Upkeep {
    /// Pause between collections.
    pub every: Duration,
    /// What nothing refers to is kept this long: pushes send blobs before the manifest.
    pub grace: Duration,
    /// An upload without progress is dropped after this.
    pub upload_age: Duration,
    /// Blobs that nobody read for this long are cut into chunks that share storage; none never.
    pub pack_after: Option<Duration>,
    /// Smaller blobs are left as they are.
    pub pack_from: u64,
    /// Bytes of whole copies of packed blobs that are read often; 0 keeps none.
    pub hot_bytes: u64,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(3600),
            grace: Duration::from_secs(24 * 3600),
            upload_age: Duration::from_secs(24 * 3600),
            pack_after: Some(Duration::from_secs(24 * 3600)),
            pack_from: 64 << 10,
            hot_bytes: 8 << 30,
        }
    }
}
