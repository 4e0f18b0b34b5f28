//! Terminals.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::config::TerminalSize;
use crate::error::{Error, Result};

/// Both ends of a pseudo-terminal.
pub(crate) struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens a new terminal through a `ptmx` device.
pub(crate) fn open_terminal(ptmx: &Path) -> Result<Terminal> {
    let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY | nix::fcntl::OFlag::O_CLOEXEC;
    let master = nix::fcntl::open(ptmx, flags, nix::sys::stat::Mode::empty())
        .map_err(|error| Error::os(format!("open {}", ptmx.display()), error.into()))?;
    pair(master)
}

/// The other end of a terminal's master.
pub(crate) fn pair(master: OwnedFd) -> Result<Terminal> {
    let unlock: libc::c_int = 0;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCSPTLCK reads an int, TIOCGPTPEER takes flags and makes a descriptor.
    let slave = unsafe {
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) < 0 {
            return Err(Error::last_os("unlock the terminal"));
        }
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    };
    if slave < 0 {
        return Err(Error::last_os("open the terminal"));
    }
    // SAFETY: just made, owned by nobody else.
    Ok(Terminal { master, slave: unsafe { OwnedFd::from_raw_fd(slave) } })
}

/// Changes a terminal's size; 0 by 0 leaves it.
pub(crate) fn set_size(terminal: &OwnedFd, size: TerminalSize) -> Result<()> {
    if size == TerminalSize::default() {
        return Ok(());
    }
    let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0.. => Ok(()),
        _ => Err(Error::last_os("resize the terminal")),
    }
}

/// Makes a terminal the standard streams and the controlling terminal.
pub(super) fn make_standard(slave: &OwnedFd) -> Result<()> {
    for target in 0..3 {
        // SAFETY: this process owns its descriptor table; nothing else in it runs.
        if unsafe { libc::dup2(slave.as_raw_fd(), target) } < 0 {
            return Err(Error::last_os("make the terminal the standard streams"));
        }
    }
    make_controlling()
}

/// Makes the terminal on stdin the controlling one of this new session.
pub(super) fn make_controlling() -> Result<()> {
    // SAFETY: takes a plain number.
    match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
        0.. => Ok(()),
        _ => Err(Error::last_os("make the terminal the controlling one")),
    }
}
