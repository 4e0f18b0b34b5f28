//! Files of a volume given to a pod's group, never following a link: other pods may write to the volume meanwhile.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{Gid, fchown, fchownat};

/// Deeper than this nobody nests directories; beyond it files keep their group.
const DEPTH: usize = 128;
/// Owner and group may read and write.
const FILE: u32 = 0o660;
/// They may enter directories, and what is made there belongs to the group.
const DIRECTORY: u32 = 0o2110;

/// Gives everything below `path` to the group. With `on_mismatch` nothing is done when `path` itself is right already.
pub fn give(path: &Path, group: u32, on_mismatch: bool) -> std::io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(path, flags, Mode::empty())?;
    let found = fstat(&root)?;
    let right = found.st_gid == group && found.st_mode & (FILE | DIRECTORY) == FILE | DIRECTORY;
    if on_mismatch && right {
        return Ok(());
    }
    // The root last: when this is cut short, the next try does not take it for done.
    below(&root, group, 0)?;
    change(&root, group, DIRECTORY)
}

fn change(file: &OwnedFd, group: u32, more: u32) -> std::io::Result<()> {
    fchown(file, None, Some(Gid::from_raw(group)))?;
    // Changing the group may clear bits of the mode.
    let mode = fstat(file)?.st_mode & 0o7777;
    fchmod(file, Mode::from_bits_truncate(mode | FILE | more))?;
    Ok(())
}

fn below(dir: &OwnedFd, group: u32, depth: usize) -> std::io::Result<()> {
    let mut entries = Dir::from_fd(dir.try_clone()?)?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match one(dir, name, group, depth) {
            // Somebody was faster.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn one(dir: &OwnedFd, name: &CStr, group: u32, depth: usize) -> std::io::Result<()> {
    let found = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    match kind {
        SFlag::S_IFDIR if depth < DEPTH => {
            let inner = openat(dir, name, flags | OFlag::O_DIRECTORY, Mode::empty())?;
            below(&inner, group, depth + 1)?;
            change(&inner, group, DIRECTORY)
        }
        SFlag::S_IFREG => {
            let file = openat(dir, name, flags, Mode::empty())?;
            // It may have become something else since.
            let now = SFlag::from_bits_truncate(fstat(&file)?.st_mode & SFlag::S_IFMT.bits());
            if now == SFlag::S_IFREG { change(&file, group, 0) } else { Ok(()) }
        }
        _ => {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            Ok(fchownat(dir, name, None, Some(Gid::from_raw(group)), flags)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn everything_is_the_groups_and_nothing_beyond_a_link() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        for path in [volume.join("a/b/file"), outside.join("file")] {
            std::fs::write(&path, "x").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, volume.join("a/link")).unwrap();
        symlink(outside.join("file"), volume.join("a/file-link")).unwrap();
        give(&volume, 2000, false).unwrap();
        let of = |path: &Path| std::fs::symlink_metadata(path).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
        assert_eq!(of(&volume).0, 2000);
        assert_eq!(of(&volume.join("a/b")), (2000, 0o2775));
        assert_eq!(of(&volume.join("a/b/file")), (2000, 0o660));
        assert_eq!(of(&volume.join("a/link")).0, 2000);
        assert_eq!((of(&outside).0, of(&outside.join("file"))), (0, (0, 0o600)));
        // The next time only the top is looked at, when that is what is asked for.
        std::fs::write(volume.join("new"), "x").unwrap();
        std::os::unix::fs::chown(volume.join("new"), None, Some(0)).unwrap();
        give(&volume, 2000, true).unwrap();
        assert_eq!(of(&volume.join("new")).0, 0);
        give(&volume, 2000, false).unwrap();
        assert_eq!(of(&volume.join("new")).0, 2000);
    }
}
