//! Copying owner, mode, attributes and times between files.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};

use super::OVERLAY_XATTRS;
use crate::sys;
use crate::tar::Entry;

/// Attributes of a file that belong to an image, sorted.
pub(crate) fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = sys::path_cstring(path)?;
    let mut found = Vec::new();
    for name in sys::list_xattrs(&path)? {
        let bytes = name.to_bytes();
        let ours = bytes == b"security.capability" || bytes.starts_with(b"user.");
        if !ours || OVERLAY_XATTRS.iter().any(|prefix| bytes.starts_with(prefix)) {
            continue;
        }
        if let Some(value) = sys::get_xattr(&path, &name)? {
            found.push((bytes.to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// Make `to` look like `from`: owner, mode, attributes, times. Neither end follows a symlink.
pub(crate) fn copy(from: &Path, metadata: &Metadata, to: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let (uid, gid) = owner.unwrap_or((metadata.uid(), metadata.gid()));
    let is_link = metadata.file_type().is_symlink();
    if is_link {
        lchown(to, Some(uid), Some(gid))?;
    } else {
        chown(to, Some(uid), Some(gid))?;
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        let target = sys::path_cstring(to)?;
        for (name, value) in xattrs(from)? {
            let name = sys::cstring(&name)?;
            match sys::set_xattr(&target, &name, &value) {
                Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
                result => result?,
            }
        }
    }
    set_mtime(to, (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or_default()))
}

/// Set the time of change without following a symlink.
pub(crate) fn set_mtime(path: &Path, mtime: (i64, u32)) -> io::Result<()> {
    let time = super::unpack::timespec(mtime);
    Ok(utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Fill owner, mode and attributes of a tar entry from a file.
pub(crate) fn describe(entry: &mut Entry, path: &Path, metadata: &Metadata) -> io::Result<()> {
    entry.mode = metadata.mode() & 0o7777;
    entry.uid = u64::from(metadata.uid());
    entry.gid = u64::from(metadata.gid());
    if !metadata.file_type().is_symlink() {
        entry.xattrs = xattrs(path)?;
    }
    Ok(())
}
