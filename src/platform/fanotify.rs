//! Which files of a file system are opened, as the kernel says it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// Files that are remembered.
const MAX_FILES: usize = 1_000_000;

/// Watches one mounted file system, in whatever namespace it is used.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: OwnedFd,
    root: PathBuf,
    seen: BTreeSet<PathBuf>,
}

impl Watch {
    /// Begin, before anything runs there. Needs root.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        let flags =
            libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_UNLIMITED_QUEUE;
        // SAFETY: no pointers are passed.
        let fd = check(unsafe {
            libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as u32)
        })?;
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = CString::new(root.as_os_str().as_bytes())?;
        let mask = libc::FAN_OPEN | libc::FAN_OPEN_EXEC | libc::FAN_ONDIR;
        // SAFETY: the path ends in NUL and outlives the call; the descriptor is open.
        check(unsafe {
            libc::fanotify_mark(
                fd.as_raw_fd(),
                libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM,
                mask,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        })?;
        Ok(Self { fd, root: root.to_owned(), seen: BTreeSet::new() })
    }

    /// Take what happened since the last time.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let read = match nix::unistd::read(&self.fd, &mut buffer) {
                Ok(0) | Err(nix::Error::EAGAIN) => return Ok(()),
                Err(nix::Error::EINTR) => continue,
                result => result?,
            };
            self.events(&buffer[..read])?;
        }
    }

    fn events(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        const SIZE: usize = size_of::<libc::fanotify_event_metadata>();
        while bytes.len() >= SIZE {
            // SAFETY: enough bytes are there, and any bytes are a valid value of this plain structure.
            let event =
                unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<libc::fanotify_event_metadata>()) };
            let length = usize::try_from(event.event_len).unwrap_or(SIZE).max(SIZE).min(bytes.len());
            bytes = &bytes[length..];
            if event.fd < 0 {
                // The queue was full: what is missing is not known.
                return Err(io::Error::other("the kernel dropped events (hint: exercise less at a time)"));
            }
            // SAFETY: the kernel made this descriptor for us.
            let file = unsafe { OwnedFd::from_raw_fd(event.fd) };
            let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            // Through another mount of it the path begins at its root already.
            let path = match path.strip_prefix(&self.root) {
                Ok(rest) => Path::new("/").join(rest),
                Err(_) => path,
            };
            if self.seen.len() < MAX_FILES {
                self.seen.insert(path);
            }
        }
        Ok(())
    }

    /// Everything that was opened.
    pub(crate) fn finish(mut self) -> io::Result<BTreeSet<PathBuf>> {
        self.drain()?;
        Ok(std::mem::take(&mut self.seen))
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
