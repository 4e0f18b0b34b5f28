//! What a container's (or an exec's) process does between its fork from the shim and its `execve`.
//!
//! It runs in a fork of the single-threaded shim, so it may allocate. It ends in the program or in an error that is sent
//! to the shim over a socket; the program's start closes that socket. No descriptor of the host's stays open from the
//! moment it enters the container's root.

pub(crate) mod caps;
mod mounts;
mod process;
mod rootfs;
mod terminal;
mod user;

pub use rootfs::mount_overlay;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Component;

use nix::sched::{CloneFlags, setns, unshare};

use crate::cgroup::CgroupPlan;
use crate::channel;
use crate::config::{ContainerConfig, ExecConfig, MountSource, Rootfs};
use crate::error::{Error, Result};
use crate::wire::{Failure, PodPlan, Privileges};

pub(crate) use terminal::{Terminal, open_terminal, pair, set_size};

/// First byte of a message to the shim: an error follows.
pub(crate) const FAILED: u8 = b'E';
/// First byte of a message to the shim: the terminal's master comes along.
pub(crate) const TERMINAL: u8 = b'T';

/// Descriptor of the socket to the shim, in the child.
const SYNC: RawFd = 3;
/// Descriptor of the pod's `/dev/shm`, in the child.
const SHM: RawFd = 4;

/// A container to become.
pub(crate) struct ContainerJob<'a> {
    pub pod: &'a PodPlan,
    pub config: &'a ContainerConfig,
    pub privileges: &'a Privileges,
    pub cgroup: &'a CgroupPlan,
    /// Standard streams; with a terminal they are made here.
    pub stdio: [Option<RawFd>; 3],
    pub sync: RawFd,
    /// The pod's memory file system for `/dev/shm`.
    pub shm: Option<RawFd>,
    /// Forked into the version 2 cgroup.
    pub in_v2: bool,
}

/// A process to run in a container.
pub(crate) struct ExecJob<'a> {
    pub container: &'a ContainerConfig,
    pub config: &'a ExecConfig,
    pub privileges: &'a Privileges,
    pub cgroup: &'a CgroupPlan,
    /// The container's first process.
    pub target: RawFd,
    pub stdio: [Option<RawFd>; 3],
    /// Slave of its terminal.
    pub terminal: Option<RawFd>,
    pub sync: RawFd,
    pub in_v2: bool,
}

/// Refuses a configuration that makes no sense, before anything is made.
pub(crate) fn check(config: &ContainerConfig) -> Result<()> {
    let invalid = |text: String| Err(Error::Invalid(format!("container {:?}: {text}", config.id)));
    if config.args.first().is_none_or(String::is_empty) {
        return invalid(
            "no command is given (hint: neither the image nor the container names one)".to_owned(),
        );
    }
    let strings = config.args.iter().chain(&config.env).chain([&config.working_dir]);
    if strings.into_iter().any(|text| text.contains('\0')) {
        return invalid("an argument, environment variable or path contains a NUL character".to_owned());
    }
    let root = match &config.rootfs {
        Rootfs::Directory(path) => Some(path),
        Rootfs::Overlay { lower, upper, work, .. } => {
            if lower.is_empty() || upper.is_some() != work.is_some() {
                return invalid(
                    "an overlay needs lower directories, and either both or none of upper and work"
                        .to_owned(),
                );
            }
            lower.iter().chain(upper).chain(work).find(|path| !path.is_absolute())
        }
    };
    if root.is_some_and(|path| !path.is_absolute()) {
        return invalid(format!("root file system path {root:?} is not absolute"));
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return invalid(format!("working directory {:?} is not absolute", config.working_dir));
    }
    for mount in &config.mounts {
        let climbs = mount.destination.components().any(|part| part == Component::ParentDir);
        if !mount.destination.is_absolute() || climbs || mount.destination.parent().is_none() {
            return invalid(format!(
                "mount destination {:?} must be an absolute path without ..",
                mount.destination
            ));
        }
        if let MountSource::Bind { path, .. } = &mount.source
            && !path.is_absolute()
        {
            return invalid(format!("mount source {path:?} is not absolute"));
        }
    }
    process::check_rlimits(&config.rlimits)
}

/// Becomes the container's first process. Does not return.
pub(crate) fn become_container(job: &ContainerJob<'_>) -> ! {
    begin(job.stdio, job.sync, job.shm);
    let error = match enter_container(job) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    fail(error)
}

/// Becomes a process in a running container. Does not return.
pub(crate) fn become_exec(job: &ExecJob<'_>) -> ! {
    // The descriptor of the target goes where a container has its shm.
    begin(job.stdio, job.sync, Some(job.target));
    let error = match enter_exec(job) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    fail(error)
}

/// Leaves the shim behind. Until this is done, descriptors are the shim's.
fn begin(stdio: [Option<RawFd>; 3], sync: RawFd, more: Option<RawFd>) {
    if let Err(error) = process::prepare().and_then(|()| arrange(stdio, sync, more)) {
        // SAFETY: the socket is open in the shim, of which this is a copy.
        fail_to(unsafe { BorrowedFd::borrow_raw(sync) }, error)
    }
}

fn fail(error: Error) -> ! {
    fail_to(shim(), error)
}

fn fail_to(shim: BorrowedFd<'_>, error: Error) -> ! {
    let mut message = vec![FAILED];
    let exit = if let Error::Start { exit_code, .. } = &error { *exit_code } else { 128 };
    // What cannot be encoded or sent leaves the exit code to speak.
    if serde_json::to_writer(&mut message, &Failure::from(error)).is_ok() {
        let _ = channel::send(&shim, &message, &[]);
    }
    // SAFETY: ends the process without running what the shim registered.
    unsafe { libc::_exit(exit) }
}

/// The socket to the shim.
fn shim() -> BorrowedFd<'static> {
    // SAFETY: `arrange` puts the socket there, and it stays open until exec.
    unsafe { BorrowedFd::borrow_raw(SYNC) }
}

/// Puts descriptors where they belong and closes every other one.
fn arrange(stdio: [Option<RawFd>; 3], sync: RawFd, shm: Option<RawFd>) -> Result<()> {
    let failed = || Error::last_os("arrange descriptors");
    // Out of the way first, so that none is overwritten.
    let mut moved = [None; 5];
    for (slot, fd) in moved.iter_mut().zip([stdio[0], stdio[1], stdio[2], Some(sync), shm]) {
        if let Some(fd) = fd {
            // SAFETY: only makes a new descriptor.
            let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64) };
            if copy < 0 {
                return Err(failed());
            }
            *slot = Some(copy);
        }
    }
    for (target, source) in moved.into_iter().enumerate() {
        let Some(source) = source else { continue };
        let flags = if target < 3 { 0 } else { libc::O_CLOEXEC };
        // SAFETY: this process owns its descriptor table; nothing else in it runs.
        if unsafe { libc::dup3(source, target as RawFd, flags) } < 0 {
            return Err(failed());
        }
    }
    let first = if shm.is_some() { SHM + 1 } else { SHM };
    // SAFETY: closes descriptors that nobody in this process uses any more; their owners are never dropped.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } < 0 {
        return Err(failed());
    }
    Ok(())
}

fn enter_container(job: &ContainerJob<'_>) -> Result<std::convert::Infallible> {
    let config = job.config;
    process::set_oom_score(config.oom_score_adj)?;
    process::set_rlimits(&config.rlimits)?;
    job.cgroup.join(job.in_v2)?;
    unshare(CloneFlags::CLONE_NEWCGROUP)
        .map_err(|error| Error::os("unshare the cgroup namespace", error.into()))?;
    let shm = job.shm.map(|_| {
        // SAFETY: `arrange` put it there; nothing else owns it.
        unsafe { OwnedFd::from_raw_fd(SHM) }
    });
    let sources = mounts::open_sources(config, job.cgroup, shm)?;
    rootfs::enter(&config.rootfs, &job.pod.dir)?;
    mounts::mount_all(config, sources)?;
    let terminal = if config.tty {
        let terminal = open_terminal("/dev/pts/ptmx".as_ref())?;
        set_size(&terminal.master, config.terminal_size.unwrap_or_default())?;
        mounts::mount_console(&terminal.slave)?;
        channel::send(&shim(), &[TERMINAL], &[terminal.master.as_raw_fd()])
            .map_err(|error| Error::os("send the terminal to the shim", error))?;
        Some(terminal.slave)
    } else {
        None
    };
    rootfs::finish(config)?;
    if let Some(slave) = &terminal {
        terminal::make_standard(slave)?;
    }
    drop(terminal);
    let user = user::lookup(&config.user)?;
    let program = process::Program {
        args: &config.args,
        env: config.env.clone(),
        working_dir: &config.working_dir,
        user,
        privileges: job.privileges,
        tty: config.tty,
    };
    program.run()
}

fn enter_exec(job: &ExecJob<'_>) -> Result<std::convert::Infallible> {
    let terminal = job.terminal.is_some();
    // SAFETY: `arrange` put it there; nothing else owns it.
    let target = unsafe { OwnedFd::from_raw_fd(SHM) };
    process::set_oom_score(job.container.oom_score_adj)?;
    process::set_rlimits(&job.container.rlimits)?;
    job.cgroup.join(job.in_v2)?;
    setns(&target, CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
        .map_err(|error| Error::os("enter the container's namespaces", error.into()))?;
    drop(target);
    if terminal {
        terminal::make_controlling()?;
    }
    let mut env = job.container.env.clone();
    env.extend(job.config.env.iter().cloned());
    let working_dir = job.config.working_dir.as_deref().unwrap_or(&job.container.working_dir);
    let program = process::Program {
        args: &job.config.args,
        env,
        working_dir,
        user: user::lookup(job.config.user.as_ref().unwrap_or(&job.container.user))?,
        privileges: job.privileges,
        tty: job.config.tty,
    };
    program.run()
}

/// The tiny init of a pod that shares its PID namespace: reaps whatever is left to it. Does not return.
pub(crate) fn become_pod_init(name: &std::ffi::CStr) -> ! {
    // Without these it still does its work: the shim kills it by its id.
    let _ = process::prepare();
    // SAFETY: the name is a C string; the calls touch only this process, whose descriptors nobody uses any more. PID 1 of
    // a namespace ignores every signal from inside that it does not handle; the parent's death kills it.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        loop {
            libc::pause();
        }
    }
}
