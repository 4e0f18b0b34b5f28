//! Network namespaces: naming them, and working inside one without staying there.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    libc,
    mount::{MntFlags, MsFlags},
    sched::{CloneFlags, setns, unshare},
};

use crate::{Error, Result, link, netlink::Socket};

/// The namespace of the thread that asks. Not `/proc/self`: that is the main thread's.
const MINE: &str = "/proc/thread-self/ns/net";

/// Make a network namespace with `lo` up and pin it at `path`, whose directory must exist.
/// The calling thread is in the same namespace afterwards as before.
///
/// # Errors
/// The kernel refuses, or `path` is taken.
pub fn create(path: &Path) -> Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map_err(Error::file(path))?;
    let made = away(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        link::loopback_up(&mut Socket::route()?)?;
        Ok(nix::mount::mount(Some(MINE), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    });
    made.map_err(|source| {
        // The empty file would look like a namespace to the next one who looks; nothing else can be done about it.
        let _ = fs::remove_file(path);
        Error::Kernel { what: format!("new network namespace at {}", path.display()), source }
    })
}

/// Unpin the namespace at `path`; it ends with its last process. A missing one is fine.
///
/// # Errors
/// The kernel refuses.
pub fn delete(path: &Path) -> Result<()> {
    match nix::mount::umount2(path, MntFlags::MNT_DETACH) {
        // Not mounted: only the file is left of a creation that was interrupted.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(Errno::ENOENT) => return Ok(()),
        Err(error) => {
            return Err(Error::kernel(format!("unpin network namespace {}", path.display()))(error.into()));
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(path)(error)),
        _ => Ok(()),
    }
}

/// Open a routing socket inside another namespace. The socket stays there; the thread does not.
pub(crate) fn socket_in(netns: &File) -> io::Result<Socket> {
    away(|| {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Socket::route()
    })
}

/// Open a namespace file, refusing to wait on something that is none.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

/// Run `work`, which may change this thread's namespace, and come back.
fn away<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    struct Home(File);
    impl Drop for Home {
        fn drop(&mut self) {
            if setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
                // A pooled thread in a foreign namespace would later open sockets in a pod. Better none than that.
                std::process::abort();
            }
        }
    }
    let _home = Home(File::open(MINE)?);
    work()
}
