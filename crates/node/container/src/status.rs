//! What is known about pods and containers: states, exits, events and usage.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch.
pub type UnixNanos = i64;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended, or never could start.
    Exited,
}

/// Why a container is [`ContainerState::Exited`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Ended with code 0.
    Completed,
    /// Ended with another code or by a signal.
    Error,
    /// The kernel killed something in it for want of memory.
    OomKilled,
    /// The process could not be started; see [`Exit::message`].
    StartError,
    /// The shim died, and the container was killed with it; its code is not known (255 stands in).
    Lost,
}

impl ExitReason {
    /// The reason as Kubernetes writes it in `state.terminated.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Lost => "ContainerStatusUnknown",
        }
    }
}

/// How a container or an exec ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why.
    pub reason: ExitReason,
    /// What went wrong when it could not start.
    pub message: String,
    /// When.
    pub finished_at: UnixNanos,
}

/// A container as the shim knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Process on the host, while running.
    pub pid: Option<u32>,
    /// Start time of that process in clock ticks since boot, so that a reused pid is not mistaken for it.
    pub pid_start: Option<u64>,
    /// When it was made.
    pub created_at: UnixNanos,
    /// When it was started.
    pub started_at: Option<UnixNanos>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Its log file.
    pub log_path: Option<PathBuf>,
    /// As given at creation.
    pub labels: BTreeMap<String, String>,
}

/// The process of a container that was just started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its id on the host.
    pub pid: u32,
    /// When, as the container's status says it from now on.
    pub at: UnixNanos,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container ended, or could not be started. Ends from before an adoption are in its list and not sent again.
    Exited {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A pod's shim died. Its containers were killed; an `Exited` with [`ExitReason::Lost`] came before this for each.
    SandboxLost {
        /// The pod.
        pod: String,
    },
    /// The receiver was too slow and missed events: list again.
    Lagged,
}

/// Resource usage of a pod or a container, read from its cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When it was read.
    pub timestamp: UnixNanos,
    /// CPU time used since creation, nanoseconds.
    pub cpu_usage_nanos: u64,
    /// Memory charged, bytes.
    pub memory_usage_bytes: u64,
    /// Memory charged less inactive file cache, bytes.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub memory_rss_bytes: u64,
    /// The most memory it may use, bytes; 0 when there is no limit.
    pub memory_limit_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Of these, those that had to read.
    pub major_page_faults: u64,
    /// Periods of a CPU limit that have passed; 0 without one.
    pub cpu_periods: u64,
    /// Of these, those in which it was held back.
    pub cpu_throttled_periods: u64,
    /// For how long it was held back, nanoseconds over all threads.
    pub cpu_throttled_nanos: u64,
    /// Processes and threads.
    pub pids: u64,
}
