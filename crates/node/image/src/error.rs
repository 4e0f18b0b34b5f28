//! What can go wrong, in words that name the image, the registry, the file or the line.

use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Shorthand used by the whole crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not an image reference.
    #[error(
        "invalid image name {name:?}: {reason} (hint: write [registry/]repository[:tag][@sha256:digest])"
    )]
    InvalidName {
        /// The text as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such image in the local store.
    #[error("image {name:?} is not present locally (hint: import, build or pull it)")]
    NotPresent {
        /// The normalised name.
        name: String,
    },
    /// A registry refused, failed or spoke nonsense.
    #[error("registry {registry}: {action}: {reason}")]
    Registry {
        /// Host and port of the registry (or mirror).
        registry: String,
        /// What was being done.
        action: String,
        /// Why it failed.
        reason: String,
        /// Coarse class of the failure.
        class: RegistryFailure,
    },
    /// Content does not hash to what it should.
    #[error(
        "{what}: content is {actual}, expected {expected} (hint: the source is corrupt or was tampered with)"
    )]
    DigestMismatch {
        /// What was read.
        what: String,
        /// The digest that was promised.
        expected: Digest,
        /// The digest that came.
        actual: Digest,
    },
    /// An archive or layout cannot be read.
    #[error("{}: {reason}", path.display())]
    Archive {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer's tar stream is malformed or hostile.
    #[error("layer {layer}: entry {entry:?}: {reason}")]
    Layer {
        /// Digest of the layer, or the file it came from.
        layer: String,
        /// The path inside the layer.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content asks for something that the image format allows but we do not carry.
    #[error("{what}: {reason}")]
    Unsupported {
        /// What was read.
        what: String,
        /// What is not carried.
        reason: String,
    },
    /// A stated bound was reached.
    #[error(
        "{what}: larger than the limit of {limit} {unit} (hint: raise the limit in the configuration if this is expected)"
    )]
    Limit {
        /// What is too large.
        what: String,
        /// The bound.
        limit: u64,
        /// The unit of the bound.
        unit: &'static str,
    },
    /// The Dockerfile (or .dockerignore) is wrong.
    #[error("{}:{line}: {reason}", file.display())]
    Dockerfile {
        /// The file.
        file: PathBuf,
        /// 1-based line of the instruction.
        line: usize,
        /// What is wrong, with a hint.
        reason: String,
    },
    /// A build step failed while it ran.
    #[error("{}:{line}: {instruction}: {reason}", file.display())]
    BuildStep {
        /// The Dockerfile.
        file: PathBuf,
        /// 1-based line of the instruction.
        line: usize,
        /// The instruction, shortened.
        instruction: String,
        /// Why it failed.
        reason: String,
    },
    /// The image is used by running containers.
    #[error("image {name:?} is in use by {users} (hint: stop them first, or force the removal)")]
    InUse {
        /// The image.
        name: String,
        /// Who uses it.
        users: String,
    },
    /// The store on disk is damaged.
    #[error("image store {}: {reason} (hint: remove the image and fetch it again)", path.display())]
    Corrupt {
        /// The file that is damaged.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An operation on a file failed.
    #[error("{action} {}: {source}{}", path.display(), disk_hint(source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The failure of a pull that several callers waited for.
    #[error(transparent)]
    Shared(std::sync::Arc<Error>),
    /// The caller cancelled the operation.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was cancelled.
        what: String,
    },
}

/// Why a registry request failed, as far as a caller may act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryFailure {
    /// No or wrong credentials (401), or not allowed (403).
    Denied,
    /// No such repository, tag or blob.
    NotFound,
    /// Too many requests.
    RateLimited,
    /// Unreachable, timed out, TLS failed, or 5xx after all retries.
    Unavailable,
    /// The answer makes no sense.
    Protocol,
}

/// Coarse class of an [`Error`]; what an agent maps to its waiting reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The reference cannot be parsed (`InvalidImageName`).
    InvalidName,
    /// The image is not present locally (`ErrImageNeverPull` when pulling is not allowed).
    NotPresent,
    /// A pull failed at the registry (`ErrImagePull`).
    Registry(RegistryFailure),
    /// The content is wrong: digest, format, hostile paths, limits (`ErrImagePull`, `ImageInspectError`).
    Content,
    /// A Dockerfile or a build step is wrong.
    Build,
    /// The image is in use.
    InUse,
    /// Local disk trouble.
    Io,
    /// Cancelled by the caller.
    Cancelled,
}

impl Error {
    /// The coarse class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::InvalidName { .. } => ErrorKind::InvalidName,
            Error::NotPresent { .. } => ErrorKind::NotPresent,
            Error::Registry { class, .. } => ErrorKind::Registry(*class),
            Error::DigestMismatch { .. }
            | Error::Archive { .. }
            | Error::Layer { .. }
            | Error::Unsupported { .. }
            | Error::Limit { .. }
            | Error::Corrupt { .. } => ErrorKind::Content,
            Error::Dockerfile { .. } | Error::BuildStep { .. } => ErrorKind::Build,
            Error::InUse { .. } => ErrorKind::InUse,
            Error::Io { .. } => ErrorKind::Io,
            Error::Cancelled { .. } => ErrorKind::Cancelled,
            Error::Shared(error) => error.kind(),
        }
    }

    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    pub(crate) fn errno(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(nix::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |errno| Error::Io { action, path, source: errno.into() }
    }

    pub(crate) fn archive(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
        Error::Archive { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }
}

fn disk_hint(source: &std::io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => " (hint: free disk space, e.g. remove unused images)",
        Some(nix::libc::EPERM | nix::libc::EACCES) => " (hint: run as root)",
        _ => "",
    }
}
