//! Containers: pods as shared namespaces, cgroups, mounts, exec, attach, logs, and the per-pod shim.
//!
//! Imports only `sampan-daemon`; it knows neither Kubernetes' objects, nor images, nor networks. What it needs of them it
//! is given: a list of layer directories, the path of a network namespace.
//!
//! **Options -> [`Runtime`] -> [`PodSandbox`].** The main process holds a `Runtime`. Each pod has one small
//! single-threaded process, the *shim*, forked from a *zygote* (see [`shim`]): it is the pod's pause process, log writer
//! and container parent in one, and lives on when the main process is killed. [`Runtime::adopt`] finds the shims again.
//!
//! The binary that uses this crate must call [`shim::dispatch`] before anything else in its `main`:
//!
//! ```no_run
//! sampan_container::shim::dispatch(); // never returns when this process was started as zygote
//! ```
//!
//! Needs Linux 5.14 or newer and root. Works on cgroup v1, hybrid and v2.
//!
//! ```no_run
//! # async fn example(supervisor: sampan_daemon::Supervisor) -> sampan_container::Result<()> {
//! use sampan_container::{ContainerConfig, Options, PodSandboxConfig, Rootfs, Runtime};
//! let runtime = Runtime::new(Options::new("/run/sampan/x/shim", "/sampan-x"), supervisor)?;
//! let pod = runtime.create_pod(PodSandboxConfig { id: "p1".into(), ..Default::default() }).await?;
//! let container = ContainerConfig {
//!     id: "c1".into(),
//!     rootfs: Rootfs::Directory("/srv/rootfs".into()),
//!     args: vec!["/bin/true".into()],
//!     ..Default::default()
//! };
//! pod.create_container(container).await?;
//! pod.start_container("c1").await?;
//! let exit = pod.wait_container("c1").await?;
//! assert_eq!(exit.code, 0);
//! pod.remove().await?;
//! # Ok(())
//! # }
//! ```

mod cgroup;
mod channel;
mod client;
mod config;
mod error;
mod init;
mod runtime;
mod sandbox;
mod seccomp;
mod session;
pub mod shim;
mod signal;
mod state;
mod status;
mod sys;
mod wire;

pub use config::{
    AttachConfig, Capabilities, ContainerConfig, Device, ExecConfig, IpcMode, LogConfig, MAX_ATTACHED,
    MAX_CONTAINERS, MAX_EXECS, Mount, MountSource, Network, PidMode, PodSandboxConfig, Propagation,
    Resources, Rlimit, Rootfs, RunConfig, Seccomp, TerminalSize, User,
};
pub use error::{Error, Result};
pub use init::mount_overlay;
pub use runtime::{AdoptedSandbox, Events, Options, Runtime};
pub use sandbox::PodSandbox;
pub use session::{AttachSession, ExecControl, ExecProcess, ExecSession, Run, Stream};
pub use signal::signal_number;
pub use status::{ContainerState, ContainerStatus, Event, Exit, ExitReason, Started, Stats, UnixNanos};
