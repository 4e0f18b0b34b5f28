//! What the caller decides: where, which registries, and every bound.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::Platform;

/// Options of [`crate::Images`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's directory, usually `<data>/images`; made if absent.
    pub dir: PathBuf,
    /// Which member of a multi-platform image is wanted; this machine's by default.
    pub platform: Platform,
    /// Registries that need other than HTTPS with the system's authorities.
    pub registries: Registries,
    /// Every bound.
    pub limits: Limits,
    /// Whether images reach the disk before an operation says it is done. Off only in tests: a kill -9 is
    /// survived either way, a power loss is not.
    pub sync: bool,
}

impl Options {
    /// Defaults for a store in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            platform: Platform::host(),
            registries: Registries::default(),
            limits: Limits::default(),
            sync: true,
        }
    }
}

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct Registries {
    /// By host (with port when there is one), e.g. `docker.io` or `registry.local:5000`.
    pub hosts: BTreeMap<String, RegistryOptions>,
    /// PEM files with trusted authorities; the first that exists is read. Common system paths by default.
    pub ca_bundles: Vec<PathBuf>,
    /// Sent as `User-Agent`.
    pub user_agent: String,
}

impl Default for Registries {
    fn default() -> Self {
        let paths = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        Self {
            hosts: BTreeMap::new(),
            ca_bundles: paths.iter().map(PathBuf::from).collect(),
            user_agent: concat!("sampan/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// How one registry is reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Plain HTTP is spoken. HTTPS certificates are always verified.
    pub insecure: bool,
    /// `host[:port]` of mirrors, asked in order before the registry itself.
    pub mirrors: Vec<String>,
    /// A PEM file with further authorities for this registry.
    pub ca_file: Option<PathBuf>,
}

/// Bounds against hostile or broken content.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one manifest, index or config.
    pub metadata_bytes: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes of one compressed layer.
    pub layer_bytes: u64,
    /// Bytes of one unpacked layer.
    pub unpacked_bytes: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Bytes of layers that the build cache keeps.
    pub build_cache_bytes: u64,
    /// Layers downloaded at once.
    pub parallel_downloads: usize,
    /// Attempts at one request or layer.
    pub attempts: u32,
    /// A connection or transfer without any byte for this long is given up (and tried again).
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            metadata_bytes: 4 << 20,
            layers: 500,
            layer_bytes: 64 << 30,
            unpacked_bytes: 256 << 30,
            entries: 10_000_000,
            build_cache_bytes: 20 << 30,
            parallel_downloads: 3,
            attempts: 5,
            stall: Duration::from_secs(30),
        }
    }
}
