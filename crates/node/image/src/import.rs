//! Import: archives and root file systems become images.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::progress::ProgressFn;
use crate::service::{ImageSummary, Inner};

/// Options of one import.
#[derive(Clone, Default)]
pub struct ImportOptions {
    /// The name to give. Needed for a root file system; for an archive with names in it, it replaces the name
    /// when there is one image, and is an error when there are several.
    pub name: Option<String>,
    /// Default command of an image made from a root file system.
    pub cmd: Vec<String>,
    /// Receives progress.
    pub progress: Option<ProgressFn>,
    /// Cancels the import.
    pub cancel: CancellationToken,
}

pub(crate) fn import(_inner: &Inner, path: &Path, _options: &ImportOptions) -> Result<Vec<ImageSummary>> {
    Err(crate::Error::archive(path, "not yet"))
}
