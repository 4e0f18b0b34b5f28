//! What can go wrong, said so that the reader knows what, where and what to do.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id is taken.
    #[error("{kind} {id:?} already exists")]
    AlreadyExists {
        /// `pod sandbox` or `container`.
        kind: String,
        /// Which.
        id: String,
    },
    /// There is none with that id.
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// `pod sandbox`, `container` or `exec`.
        kind: String,
        /// Which.
        id: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It is not possible in the present state.
    #[error("{0}")]
    Conflict(String),
    /// A bound of this crate is reached.
    #[error("{0}")]
    Limit(String),
    /// The process could not be started: 127 not found, 126 not executable, 128 anything else.
    #[error("{message}")]
    Start {
        /// Exit code that a shell or Docker would give.
        exit_code: i32,
        /// What went wrong.
        message: String,
    },
    /// The pod's shim is gone.
    #[error(
        "the shim of pod sandbox {id:?} is gone (hint: its containers were killed; remove the sandbox and create it again)"
    )]
    Lost {
        /// The pod.
        id: String,
    },
    /// A system call failed.
    #[error("{what}: {message}")]
    System {
        /// What was tried, and where.
        what: String,
        /// What came of it.
        message: String,
        /// The error number, 0 when there is none.
        errno: i32,
    },
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a system call, from the error number that the last one left.
    pub(crate) fn last_os(what: impl Into<String>) -> Self {
        Self::os(what, std::io::Error::last_os_error())
    }

    /// An error of the operating system.
    pub(crate) fn os(what: impl Into<String>, error: std::io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        let hint = match errno {
            libc::EPERM => " (hint: the process lacks a capability or the kernel forbids it here)",
            libc::ENOSPC => " (hint: the disk or a kernel limit is full)",
            libc::EMFILE | libc::ENFILE => " (hint: raise the open files limit)",
            libc::ENODEV => " (hint: the kernel lacks this file system)",
            libc::ENOSYS => " (hint: kernel 5.14 or newer is needed)",
            _ => "",
        };
        Self::System { what: what.into(), message: format!("{error}{hint}"), errno }
    }

    /// The error number behind this error, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { errno, .. } if *errno != 0 => Some(*errno),
            Self::File { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
