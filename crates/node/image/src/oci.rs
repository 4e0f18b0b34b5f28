//! The JSON documents of OCI images and of Docker's schema 2, as far as they are read or written here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// `PATH` of images that say nothing.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Points at content: type, digest, size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// Whether a layer must be fetched from elsewhere (Windows base layers).
    pub(crate) fn is_foreign(&self) -> bool {
        self.media_type.contains("foreign") || self.media_type.contains("nondistributable")
    }
}

/// Operating system and processor of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Processor architecture in Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// Operating system: `linux`.
    pub os: String,
    /// Processor variant: `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's platform.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    /// Parse `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture, variant) = (parts.next()?, parts.next()?, parts.next());
        (parts.next().is_none() && !os.is_empty() && !architecture.is_empty()).then_some(Self {
            architecture,
            os,
            variant,
        })
    }

    /// Whether content for `offered` runs here; an absent variant matches any.
    pub(crate) fn accepts(&self, offered: &Platform) -> bool {
        let variants = match (&self.variant, &offered.variant) {
            (Some(wanted), Some(offered)) => wanted == offered,
            _ => true,
        };
        self.os == offered.os && self.architecture == offered.architecture && variants
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// An image manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// An image index or manifest list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image's config file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(default)]
    pub(crate) config: Option<ConfigJson>,
    pub(crate) rootfs: RootFs,
    #[serde(default)]
    pub(crate) history: Option<Vec<HistoryEntry>>,
}

impl ImageFile {
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// The uncompressed layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}

/// One line of an image's history.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HistoryEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) comment: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) empty_layer: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The `config` object as it is written in JSON; `null` counts as absent everywhere.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ConfigJson {
    #[serde(skip_serializing_if = "empty_text")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exposed_ports: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volumes: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "empty_text")]
    pub(crate) working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "empty_text")]
    pub(crate) stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_build: Option<Vec<String>>,
}

fn empty_text(text: &Option<String>) -> bool {
    text.as_deref().unwrap_or_default().is_empty()
}

/// The `{}` of Go's `map[string]struct{}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Empty {}

/// How a container's health is checked; times are in nanoseconds, zero means "inherit".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "zero")]
    pub timeout: i64,
    /// Before failures count.
    #[serde(skip_serializing_if = "zero")]
    pub start_period: i64,
    /// Between two checks before failures count.
    #[serde(skip_serializing_if = "zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "zero")]
    pub retries: i64,
}

fn zero(value: &i64) -> bool {
    *value == 0
}

/// What an image says about the process to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Default arguments, replaced by the caller's.
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    pub user: String,
    /// Working directory; `/` when the image names none.
    pub working_dir: String,
    /// `80/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM` when absent.
    pub stop_signal: Option<String>,
    /// Paths that ask for a volume, sorted.
    pub volumes: Vec<String>,
    /// Health check.
    pub healthcheck: Option<Healthcheck>,
    /// Shell of the shell form (`SHELL`), when it was set.
    pub shell: Option<Vec<String>>,
}

impl From<&ConfigJson> for ImageConfig {
    fn from(json: &ConfigJson) -> Self {
        let json = json.clone();
        let keys = |map: Option<BTreeMap<String, Empty>>| map.unwrap_or_default().into_keys().collect();
        Self {
            env: json.env.unwrap_or_default(),
            entrypoint: json.entrypoint.unwrap_or_default(),
            cmd: json.cmd.unwrap_or_default(),
            user: json.user.unwrap_or_default(),
            working_dir: json.working_dir.filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into()),
            exposed_ports: keys(json.exposed_ports),
            labels: json.labels.unwrap_or_default(),
            stop_signal: json.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: keys(json.volumes),
            healthcheck: json.healthcheck,
            shell: json.shell,
        }
    }
}
