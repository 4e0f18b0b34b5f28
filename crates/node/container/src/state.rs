//! What a shim keeps on disk, so that a main process started later can take over, or clean up when the shim died.
//!
//! `<runtime dir>/<pod>/pod.json`, `containers/<container>.json`, `shim.sock`. Files are replaced as a whole.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Network;
use crate::error::{Error, Result};
use crate::status::{ContainerState, ContainerStatus, Exit, ExitReason, UnixNanos};
use crate::wire::{PodDescription, PodPlan};

/// Name of the socket in a pod's directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// Marks that the pinned network namespace was made by the shim.
const PINNED: &str = "netns-made";

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// The time.
pub(crate) fn now() -> UnixNanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Makes the directories of a pod.
pub(crate) fn create(dir: &Path) -> Result<()> {
    let containers = dir.join("containers");
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&containers);
    made.map_err(failed("create", &containers))
}

/// Removes everything of a pod.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| failed("encode", path)(error.into()))?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes).map_err(failed("write", &temporary))?;
    // Exchanged rather than renamed over: some file systems write a file to disk at once when it replaces another.
    let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    match nix::fcntl::renameat2(AT_FDCWD, &temporary, AT_FDCWD, path, exchange) {
        Ok(()) => fs::remove_file(&temporary).map_err(failed("remove", &temporary)),
        Err(_) => fs::rename(&temporary, path).map_err(failed("replace", path)),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Writes what a pod is.
pub(crate) fn write_pod(pod: &PodDescription) -> Result<()> {
    write(&pod.plan.dir.join("pod.json"), pod)
}

/// Reads what a pod is; `None` when it was never finished.
pub(crate) fn read_pod(dir: &Path) -> Option<PodDescription> {
    read(&dir.join("pod.json")).ok()
}

fn container_path(dir: &Path, id: &str) -> PathBuf {
    dir.join("containers").join(format!("{id}.json"))
}

/// Writes a container's status.
pub(crate) fn write_container(dir: &Path, status: &ContainerStatus) -> Result<()> {
    write(&container_path(dir, &status.id), status)
}

/// Forgets a container.
pub(crate) fn remove_container(dir: &Path, id: &str) -> Result<()> {
    let path = container_path(dir, id);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Every container's status, by id.
pub(crate) fn containers(dir: &Path) -> Result<Vec<ContainerStatus>> {
    let path = dir.join("containers");
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("read", &path))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read", &path))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let status: ContainerStatus = read(&path).map_err(failed("read", &path))?;
            found.push(status);
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// The shim is dead and its containers were killed: writes that down.
pub(crate) fn mark_lost(dir: &Path) -> Result<()> {
    for mut status in containers(dir)? {
        if status.state != ContainerState::Running {
            continue;
        }
        status.state = ContainerState::Exited;
        status.pid = None;
        status.exit = Some(Exit {
            code: 255,
            signal: None,
            reason: ExitReason::Lost,
            message: "the shim died and the container was killed with it".to_owned(),
            finished_at: now(),
        });
        write_container(dir, &status)?;
    }
    Ok(())
}

/// When a process started, in clock ticks since boot; `None` when there is none, or it is a zombie.
pub(crate) fn process_start(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the fields after it do not.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The shim's process id, if it lives.
pub(crate) fn alive(dir: &Path) -> Option<u32> {
    let pod = read_pod(dir)?;
    (process_start(pod.pid) == Some(pod.pid_start)).then_some(pod.pid)
}

/// Connects to a shim. Goes through the directory's descriptor: socket paths are limited to 107 bytes.
pub(crate) fn connect(dir: &Path) -> io::Result<UnixStream> {
    let dir = OwnedFd::from(fs::File::open(dir)?);
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}

/// Notes that the network namespace was pinned by the shim, so that removal unpins it.
pub(crate) fn mark_pinned(dir: &Path) -> Result<()> {
    let path = dir.join(PINNED);
    fs::write(&path, b"").map_err(failed("write", &path))
}

/// Unpins the network namespace if the shim pinned it.
pub(crate) fn unpin(plan: &PodPlan) -> Result<()> {
    let Network::Pinned(path) = &plan.config.network else { return Ok(()) };
    if !plan.dir.join(PINNED).exists() {
        return Ok(());
    }
    match nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(Error::os(format!("unmount {}", path.display()), error.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}
