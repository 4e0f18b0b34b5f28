//! A pod's namespaces, made in the shim itself so that its children are born in them.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};

use crate::config::{IpcMode, Network, PidMode, PodSandboxConfig};
use crate::error::{Error, Result};
use crate::init;
use crate::state;
use crate::sys;
use crate::wire::PodPlan;

/// A pod that stands.
#[derive(Debug)]
pub(super) struct Pod {
    pub plan: PodPlan,
    /// The shim's own PID namespace.
    pub own_pid_namespace: OwnedFd,
    /// PID 1 of a shared PID namespace.
    pub init: Option<libc::pid_t>,
    shm: Shm,
}

/// Where the pod's `/dev/shm` comes from.
#[derive(Debug)]
enum Shm {
    /// A mount that no tree shows.
    Detached(OwnedFd),
    /// Mounted here, because this kernel (before 6.15) does not copy detached mounts.
    At(PathBuf),
    /// The host's.
    Host,
}

impl Pod {
    /// Makes the namespaces. The caller undoes a half-made pod by ending this process and removing the cgroup.
    pub(super) fn create(plan: PodPlan) -> Result<Self> {
        let config = &plan.config;
        check_sysctls(config)?;
        let own =
            File::open("/proc/self/ns/pid").map_err(|error| Error::os("open the PID namespace", error))?;
        enter_namespaces(&plan)?;
        for (name, value) in &config.sysctls {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            fs::write(&path, value)
                .map_err(|error| Error::os(format!("set sysctl {name} to {value:?}"), error))?;
        }
        let shm = make_shm(&plan)?;
        plan.cgroup.create(&config.resources, None)?;
        let mut pod = Self { plan, own_pid_namespace: own.into(), init: None, shm };
        if pod.plan.config.pid == PidMode::Pod {
            pod.init = Some(start_init()?);
        }
        Ok(pod)
    }

    /// A copy of the pod's memory file system for a container to attach.
    pub(super) fn shm_copy(&self) -> Result<OwnedFd> {
        let copy = match &self.shm {
            Shm::Detached(mount) => sys::clone_tree_at(mount, false),
            Shm::At(path) => sys::clone_tree(path, false),
            Shm::Host => sys::clone_tree(Path::new("/dev/shm"), false),
        };
        copy.map_err(|error| Error::os("copy the mount of /dev/shm", error))
    }

    /// Runs `fork` so that its child is born in the PID namespace of `target`.
    pub(super) fn in_pid_namespace<T>(
        &self,
        target: &OwnedFd,
        fork: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        setns(target, CloneFlags::CLONE_NEWPID)
            .map_err(|error| Error::os("enter the PID namespace", error.into()))?;
        let forked = fork();
        setns(&self.own_pid_namespace, CloneFlags::CLONE_NEWPID)
            .map_err(|error| Error::os("leave the PID namespace", error.into()))?;
        forked
    }

    /// Takes away what is visible outside this process, once its containers are killed. The pinned network namespace is the main process's to unpin.
    pub(super) fn destroy(&mut self) -> Result<()> {
        if let Some(init) = self.init.take() {
            // SAFETY: kills a child of ours; its whole namespace goes with it.
            unsafe { libc::kill(init, libc::SIGKILL) };
        }
        if let Shm::At(path) = &self.shm {
            let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
        }
        self.plan.cgroup.remove()
    }
}

fn check_sysctls(config: &PodSandboxConfig) -> Result<()> {
    for name in config.sysctls.keys() {
        let network = name.starts_with("net.");
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
            || name == "kernel.sem";
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
            && !name.contains("..");
        if !plain || !(network || ipc) {
            return Err(Error::Invalid(format!("sysctl {name:?} is not separate for each pod")));
        }
        let shared = (network && config.network == Network::Host) || (ipc && config.ipc == IpcMode::Host);
        if shared {
            return Err(Error::Invalid(format!(
                "sysctl {name:?} would change the host: the pod shares that namespace"
            )));
        }
    }
    Ok(())
}

fn enter_namespaces(plan: &PodPlan) -> Result<()> {
    let config = &plan.config;
    let mut flags = CloneFlags::empty();
    let mut pin = None;
    let mut joined = None;
    match &config.network {
        Network::Host => {}
        Network::Private => flags |= CloneFlags::CLONE_NEWNET,
        Network::Pinned(path) if is_namespace(path) => joined = Some(path),
        Network::Pinned(path) => {
            flags |= CloneFlags::CLONE_NEWNET;
            pin = Some(path);
        }
    }
    if config.network != Network::Host {
        flags |= CloneFlags::CLONE_NEWUTS;
    }
    if config.ipc == IpcMode::Pod {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    if let Some(path) = joined {
        let namespace =
            File::open(path).map_err(|error| Error::os(format!("open {}", path.display()), error))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| {
            Error::os(format!("enter network namespace {}", path.display()), error.into())
        })?;
    }
    unshare(flags).map_err(|error| Error::os(format!("unshare {flags:?}"), error.into()))?;
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        loopback_up()?;
    }
    if let Some(path) = pin {
        pin_network(plan, path)?;
    }
    if flags.contains(CloneFlags::CLONE_NEWUTS) && !config.hostname.is_empty() {
        nix::unistd::sethostname(&config.hostname)
            .map_err(|error| Error::os(format!("set host name {:?}", config.hostname), error.into()))?;
    }
    Ok(())
}

/// Whether a namespace is mounted at a path.
fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn pin_network(plan: &PodPlan, path: &Path) -> Result<()> {
    let failed = |error| Error::os(format!("pin the network namespace at {}", path.display()), error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    drop(fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?);
    state::mark_pinned(&plan.dir)?;
    let none = None::<&str>;
    nix::mount::mount(Some("/proc/self/ns/net"), path, none, nix::mount::MsFlags::MS_BIND, none)
        .map_err(|error| failed(error.into()))
}

/// Every network namespace has a loopback, but it starts down.
fn loopback_up() -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|error| Error::os("open a socket", error.into()))?;
    // SAFETY: an ifreq is plain data; the two calls read and write one.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) < 0 {
            return Err(Error::last_os("bring the loopback up"));
        }
    }
    Ok(())
}

fn make_shm(plan: &PodPlan) -> Result<Shm> {
    if plan.config.ipc == IpcMode::Host {
        return Ok(Shm::Host);
    }
    let failed = |error| Error::os("make /dev/shm", error);
    let size = if plan.config.shm_size == 0 { 64 << 20 } else { plan.config.shm_size };
    let size = size.to_string();
    let options: &[(&str, Option<&[u8]>)] = &[("mode", Some(b"1777")), ("size", Some(size.as_bytes()))];
    let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    let mount = sys::new_mount(c"tmpfs", options, attributes).map_err(failed)?;
    if sys::clone_tree_at(&mount, false).is_ok() {
        return Ok(Shm::Detached(mount));
    }
    let path = plan.dir.join("shm");
    fs::create_dir_all(&path).map_err(failed)?;
    sys::attach(&mount, &File::open(&path).map_err(failed)?).map_err(failed)?;
    Ok(Shm::At(path))
}

fn start_init() -> Result<libc::pid_t> {
    // SAFETY: the shim has one thread.
    match unsafe { sys::clone3(libc::CLONE_NEWPID as u64, None) } {
        Ok(0) => init::become_pod_init(c"sampan-init"),
        Ok(pid) => Ok(pid),
        Err(error) => Err(Error::os("fork the pod's init", error)),
    }
}
