//! Directories for `subPath`, made without ever following a link out of the volume.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Make sure that `sub` exists inside `volume`: missing parts become directories.
pub fn ensure(volume: &Path, sub: &Path) -> std::io::Result<()> {
    let mut at: OwnedFd = open_root(volume)?;
    for part in sub.components() {
        let Component::Normal(name) = part else {
            if part == Component::CurDir {
                continue;
            }
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("subPath {} must be relative and without \"..\"", sub.display()),
            ));
        };
        let how = || {
            OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
        };
        at = match openat2(&at, name, how()) {
            Ok(found) => found,
            Err(nix::Error::ENOENT) => {
                mkdirat(&at, name, Mode::from_bits_truncate(0o755))?;
                openat2(&at, name, how())?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

fn open_root(volume: &Path) -> std::io::Result<OwnedFd> {
    Ok(nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}
