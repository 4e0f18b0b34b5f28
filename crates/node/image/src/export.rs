//! Export: an image as one tar that other tools read.

use std::path::Path;

use crate::error::Result;
use crate::service::Inner;

/// Form of an exported archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// OCI layout with docker's `manifest.json` beside it: read by docker 25+, podman, skopeo (`docker-archive:`
    /// and `oci-archive:`).
    #[default]
    Docker,
    /// Plain OCI layout.
    Oci,
}

pub(crate) fn export(_inner: &Inner, _reference: &str, path: &Path, _format: ExportFormat) -> Result<()> {
    Err(crate::Error::archive(path, "not yet"))
}
