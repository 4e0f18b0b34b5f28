//! What travels between the main process and a shim: one length-prefixed JSON frame a message, file descriptors beside
//! it over `SCM_RIGHTS`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupPlan;
use crate::config::{ContainerConfig, ExecConfig, PodSandboxConfig, Resources, TerminalSize};
use crate::error::Error;
use crate::status::{ContainerStatus, Exit, UnixNanos};

/// Most bytes that one frame may have: arguments and environment of a process fit (the kernel's own limit is 2 MiB).
pub(crate) const MAX_FRAME: usize = 4 << 20;

/// A pod as it is handed to a new shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodPlan {
    pub config: PodSandboxConfig,
    /// Directory of the sandbox: socket, state.
    pub dir: PathBuf,
    pub cgroup: CgroupPlan,
}

/// What a process gets that was computed ahead in the main process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Privileges {
    /// Capabilities as a bit set.
    pub capabilities: u64,
    /// Classic BPF program, 8 bytes an instruction, as hex digits; empty means none.
    pub seccomp: String,
    pub no_new_privs: bool,
}

/// A request to a shim (or, `Fork` alone, to the zygote).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Zygote: fork a shim that serves the socket sent along.
    Fork {
        dir: PathBuf,
    },
    CreatePod(Box<PodPlan>),
    Describe,
    ContainerStatus {
        id: String,
    },
    /// With `streams`, the process's stdin, stdout and stderr are sent along.
    CreateContainer {
        config: Box<ContainerConfig>,
        privileges: Privileges,
        streams: bool,
    },
    StartContainer {
        id: String,
    },
    SignalContainer {
        id: String,
        signal: i32,
        all: bool,
    },
    UpdateContainer {
        id: String,
        resources: Resources,
    },
    ResizeContainer {
        id: String,
        size: TerminalSize,
    },
    RemoveContainer {
        id: String,
    },
    ReopenLog {
        id: String,
    },
    /// The child's ends of the wanted streams are sent along, in the order stdin, stdout, stderr.
    Exec {
        exec: u64,
        config: Box<ExecConfig>,
        privileges: Option<Privileges>,
    },
    ResizeExec {
        exec: u64,
        size: TerminalSize,
    },
    SignalExec {
        exec: u64,
        signal: i32,
    },
    /// The shim's ends of the wanted streams are sent along, in the order stdin, stdout, stderr.
    Attach {
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Kill everything in the pod.
    StopPod,
    /// Kill everything, remove the state and end the shim.
    RemovePod,
}

/// What a shim says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodDescription {
    pub plan: PodPlan,
    pub pid: u32,
    pub pid_start: u64,
    pub containers: Vec<ContainerStatus>,
}

/// The answer to a request that went well.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Done,
    Forked { pid: u32 },
    Pod(Box<PodDescription>),
    Container(Box<ContainerStatus>),
    Started { pid: u32, at: UnixNanos },
}

/// The answer to a request that did not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    pub subject: String,
    pub message: String,
    pub code: i32,
}

/// Which [`Error`] a [`Failure`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    AlreadyExists,
    NotFound,
    Invalid,
    Conflict,
    Limit,
    Start,
    System,
}

/// A frame to a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub id: u64,
    pub fds: usize,
    pub request: Request,
}

/// A frame from a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Reply { id: u64, fds: usize, result: Result<Response, Failure> },
    ContainerExited { container: String, exit: Exit },
    ExecExited { exec: u64, exit: Exit },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (kind, subject, message, code) = match error {
            Error::AlreadyExists { kind, id } => (FailureKind::AlreadyExists, kind, id, 0),
            Error::NotFound { kind, id } => (FailureKind::NotFound, kind, id, 0),
            Error::Invalid(message) => (FailureKind::Invalid, String::new(), message, 0),
            Error::Conflict(message) => (FailureKind::Conflict, String::new(), message, 0),
            Error::Limit(message) => (FailureKind::Limit, String::new(), message, 0),
            Error::Start { exit_code, message } => (FailureKind::Start, String::new(), message, exit_code),
            Error::System { what, message, errno } => (FailureKind::System, what, message, errno),
            other => {
                let code = other.errno().unwrap_or(0);
                (FailureKind::System, "shim".to_owned(), other.to_string(), code)
            }
        };
        Self { kind, subject, message, code }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { kind, subject, message, code } = failure;
        match kind {
            FailureKind::AlreadyExists => Self::AlreadyExists { kind: subject, id: message },
            FailureKind::NotFound => Self::NotFound { kind: subject, id: message },
            FailureKind::Invalid => Self::Invalid(message),
            FailureKind::Conflict => Self::Conflict(message),
            FailureKind::Limit => Self::Limit(message),
            FailureKind::Start => Self::Start { exit_code: code, message },
            FailureKind::System => Self::System { what: subject, message, errno: code },
        }
    }
}
