//! What a caller says about a pod sandbox, a container, an exec and a mount. Plain data: it travels to the shim as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Most containers that one pod may hold at a time.
pub const MAX_CONTAINERS: usize = 64;
/// Most exec sessions that may run in one pod at a time.
pub const MAX_EXECS: usize = 64;
/// Most attached clients of one container.
pub const MAX_ATTACHED: usize = 16;

/// A pod sandbox: the namespaces that its containers share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    /// Unique name, 1 to 128 of `[A-Za-z0-9._-]` (the pod's UID). Directory and cgroup names come from it.
    pub id: String,
    /// Host name in the pod's UTS namespace; empty keeps the host's. Ignored with [`Network::Host`].
    pub hostname: String,
    /// Network namespace.
    pub network: Network,
    /// IPC namespace (System V, POSIX queues and `/dev/shm`).
    pub ipc: IpcMode,
    /// PID namespace.
    pub pid: PidMode,
    /// Sysctls by dotted name; only namespaced ones (`net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`,
    /// `fs.mqueue.*`) are accepted, and only when the pod does not share that namespace with the host.
    pub sysctls: BTreeMap<String, String>,
    /// Limits for the whole pod.
    pub resources: Resources,
    /// Size limit of the pod's `/dev/shm` in bytes; 0 means 64 MiB.
    pub shm_size: u64,
    /// Kept by the shim and given back by adoption.
    pub labels: BTreeMap<String, String>,
}

/// Where a pod's network namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A fresh network namespace, alive as long as the shim; reach it at [`crate::PodSandbox::netns`].
    #[default]
    Private,
    /// A namespace pinned by a bind mount at this path: joined when one is mounted there, else created and pinned there.
    Pinned(PathBuf),
    /// The host's.
    Host,
}

/// Where a pod's IPC namespace comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    /// One of the pod's own, shared by its containers.
    #[default]
    Pod,
    /// The host's.
    Host,
}

/// Where containers get their PID namespace from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One for each container.
    #[default]
    Container,
    /// One for the pod (`shareProcessNamespace`), with a tiny init as PID 1.
    Pod,
    /// The host's.
    Host,
}

/// Limits of a pod or a container. `None` leaves the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative CPU weight as cgroup v1 shares (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds.
    pub cpu_quota: Option<i64>,
    /// Length of the period, microseconds (100000 when absent).
    pub cpu_period: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
    /// Most processes and threads.
    pub pids_limit: Option<i64>,
    /// CPUs, as a cpuset list ("0-1,3").
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a cpuset list.
    pub cpuset_mems: Option<String>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Unique in the pod, 1 to 128 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Root file system.
    pub rootfs: Rootfs,
    /// Program and arguments; the program is looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// Environment as `NAME=value`. `PATH` and `HOME` are filled in when absent.
    pub env: Vec<String>,
    /// Working directory, made when missing; empty means `/`.
    pub working_dir: String,
    /// Who the process runs as.
    pub user: User,
    /// Mounts, applied in order after the default ones.
    pub mounts: Vec<Mount>,
    /// Host devices to add.
    pub devices: Vec<Device>,
    /// All capabilities and devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// Root file system read-only (mounts stay as they say).
    pub read_only_rootfs: bool,
    /// Forbid gaining privileges by exec (`allowPrivilegeEscalation: false`).
    pub no_new_privs: bool,
    /// Changes to the default capabilities.
    pub capabilities: Capabilities,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Paths to hide; `None` means the default list, an empty list hides nothing (`procMount: Unmasked`).
    pub masked_paths: Option<Vec<String>>,
    /// Paths to make read-only; `None` means the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Resource limits of processes.
    pub rlimits: Vec<Rlimit>,
    /// Run in the PID namespace of this container of the pod, where each has one of its own.
    pub pid_of: Option<String>,
    /// OOM score adjustment.
    pub oom_score_adj: Option<i32>,
    /// cgroup limits.
    pub resources: Resources,
    /// Keep the process's stdin open for attaching clients.
    pub stdin: bool,
    /// Close stdin once the first attached client's stdin ended.
    pub stdin_once: bool,
    /// Give the process a terminal.
    pub tty: bool,
    /// First size of that terminal.
    pub terminal_size: Option<TerminalSize>,
    /// Where output is logged; `None` logs nothing.
    pub log: Option<LogConfig>,
    /// Kept by the shim and given back by status.
    pub labels: BTreeMap<String, String>,
}

/// A container's root file system, mounted inside its mount namespace only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// A directory (or mount point) of the host, used as it is.
    Directory(PathBuf),
    /// An overlay.
    Overlay {
        /// Read-only layers, uppermost first.
        lower: Vec<PathBuf>,
        /// Writable layer; `None` makes the root file system read-only.
        upper: Option<PathBuf>,
        /// Work directory beside `upper`, on the same file system.
        work: Option<PathBuf>,
        /// Further overlay options, such as `metacopy=on`.
        options: Vec<String>,
    },
}

impl Default for Rootfs {
    fn default() -> Self {
        Self::Directory(PathBuf::new())
    }
}

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// `user[:group]` as images write it, each a name or a number; looked up in the image's `/etc/passwd` and
    /// `/etc/group`. Empty means root.
    pub name: String,
    /// Overrides the user of `name`.
    pub uid: Option<u32>,
    /// Overrides the primary group.
    pub gid: Option<u32>,
    /// Further groups, beside those that the image's `/etc/group` gives the user.
    pub groups: Vec<u32>,
    /// Leave out the groups of the image's `/etc/group` (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; made when missing.
    pub destination: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// Mount read-only.
    pub read_only: bool,
    /// With `read_only`: also every mount below (`recursiveReadOnly`).
    pub recursive_read_only: bool,
    /// How mounts made later travel.
    pub propagation: Propagation,
}

/// What a [`Mount`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host, with everything mounted below it.
    Bind {
        /// Path on the host; symbolic links in it are followed (it is the caller's own).
        path: PathBuf,
        /// Path inside `path` (a `subPath`); resolved so that no link in it leads outside `path`. Must exist.
        sub_path: Option<PathBuf>,
    },
    /// An empty memory file system.
    Tmpfs {
        /// Size limit in bytes.
        size: Option<u64>,
        /// Permissions of its root (0o1777 when absent).
        mode: Option<u32>,
    },
}

/// Mount propagation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Nothing travels.
    #[default]
    Private,
    /// Mounts made on the host appear in the container.
    HostToContainer,
    /// As well the other way round; the host's mount must be shared.
    Bidirectional,
}

/// A device node to make in a container and to allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Device on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// Changes to the default capabilities; names with or without `CAP_`, `ALL` for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Added to the default set.
    pub add: Vec<String>,
    /// Taken away from it (wins only over the default set and `ALL`, as Docker has it).
    pub drop: Vec<String>,
}

/// System call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The default allow-list, fitted to the container's capabilities.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// A ready classic BPF program: 8 bytes an instruction, in this machine's byte order.
    Program(Vec<u8>),
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Name such as `nofile` or `RLIMIT_NOFILE`.
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A container's log file in CRI format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The live file; parent directories are made. Rotated ones are `<path>.1` (newest) to `<path>.<max_files - 1>`.
    pub path: PathBuf,
    /// Rotate when the file would grow beyond this many bytes; 0 never rotates.
    pub max_size: u64,
    /// How many files stay, the live one included (at least 1).
    pub max_files: u32,
}

impl LogConfig {
    /// A log at `path` with the usual rotation: 5 files of 10 MiB.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_size: 10 << 20, max_files: 5 }
    }
}

/// A process to run inside a running container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecConfig {
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment on top of the container's.
    pub env: Vec<String>,
    /// Working directory; `None` means the container's.
    pub working_dir: Option<String>,
    /// Who it runs as; `None` means the container's user.
    pub user: Option<User>,
    /// All capabilities and no filter for this process.
    pub privileged: bool,
    /// Give it a terminal; output then comes as one stream, `stdout`.
    pub tty: bool,
    /// Open a stream to its stdin.
    pub stdin: bool,
    /// Open a stream from its stdout.
    pub stdout: bool,
    /// Open a stream from its stderr (not with `tty`).
    pub stderr: bool,
    /// First size of the terminal.
    pub terminal_size: Option<TerminalSize>,
}

/// Attaching to a running container's own streams.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachConfig {
    /// The container.
    pub container: String,
    /// Send to its stdin (the container must have been made with `stdin`).
    pub stdin: bool,
    /// Receive its stdout (with a terminal: everything).
    pub stdout: bool,
    /// Receive its stderr.
    pub stderr: bool,
}

/// A command to run once in a root file system, as image builds do.
#[derive(Debug, Clone, Default)]
pub struct RunConfig {
    /// The container; `id`, `log`, `stdin` and `tty` are not used.
    pub container: ContainerConfig,
    /// Use the host's network; otherwise only an own loopback that is down.
    pub host_network: bool,
    /// Host name inside.
    pub hostname: String,
}
