//! Pulling: resolve a reference at a registry (or its mirrors), download what is missing, unpack, name.

use tokio_util::sync::CancellationToken;

use crate::auth::Credentials;
use crate::error::Result;
use crate::oci::Platform;
use crate::progress::ProgressFn;
use crate::service::{ImageSummary, Images};

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

/// Pulls in flight, so that the same image is fetched once.
#[derive(Default)]
pub(crate) struct Pulls {}

pub(crate) async fn pull(_images: &Images, reference: &str, _options: PullOptions) -> Result<ImageSummary> {
    Err(crate::Error::NotPresent { name: reference.to_owned() })
}

/// Whether a media type is that of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, crate::oci::OCI_INDEX | crate::oci::DOCKER_LIST)
}
