//! Files that change all at once: a data directory behind the symbolic link `..data`, swapped by rename.
//!
//! Layout, as upstream has it: `name -> ..data/name`, `..data -> ..2026_…`, and the files in that directory.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sampan_daemon::clock;

/// Files of one volume by relative path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// Contents.
    pub files: BTreeMap<String, File>,
    /// Must not reach a disk.
    pub sensitive: bool,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner, when not root.
    pub owner: Option<u32>,
}

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// Make `dir` show exactly the payload. False when it did already.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> std::io::Result<bool> {
    let link = dir.join(DATA);
    let old = std::fs::read_link(&link).ok().map(|target| dir.join(target));
    if let Some(old) = &old
        && same(old, payload)
    {
        return Ok(false);
    }
    let target = new_directory(dir)?;
    for (name, file) in &payload.files {
        let path = target.join(name);
        if let Some(parent) = path.parent().filter(|parent| *parent != target) {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, &file.data)?;
        let mut mode = file.mode;
        if let Some(group) = group {
            std::os::unix::fs::chown(&path, None, Some(group))?;
            mode |= 0o440;
        }
        if let Some(owner) = file.owner {
            std::os::unix::fs::chown(&path, Some(owner), None)?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    let temporary = dir.join(DATA_TMP);
    let _ = std::fs::remove_file(&temporary);
    symlink(target.file_name().unwrap_or_default(), &temporary)?;
    std::fs::rename(&temporary, &link)?;
    links(dir, payload)?;
    if let Some(old) = old {
        // A reader may hold files of it open; their contents live on until closed.
        let _ = std::fs::remove_dir_all(old);
    }
    Ok(true)
}

fn new_directory(dir: &Path) -> std::io::Result<PathBuf> {
    let stamp = clock::rfc3339_micro(clock::now()).replace([':', '-', 'T', '.', 'Z'], "_");
    for number in 0..1000 {
        let path = dir.join(format!("..{stamp}{number}"));
        match std::fs::create_dir(&path) {
            Ok(()) => {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "no free name for a data directory"))
}

fn same(old: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    if list(old, Path::new(""), &mut found).is_err() || !found.iter().eq(payload.files.keys()) {
        return false;
    }
    payload.files.iter().all(|(name, file)| std::fs::read(old.join(name)).is_ok_and(|data| data == file.data))
}

fn list(root: &Path, relative: &Path, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root.join(relative))? {
        let entry = entry?;
        let path = relative.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, found)?;
        } else {
            found.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// The visible names: one link for each first path component.
fn links(dir: &Path, payload: &Payload) -> std::io::Result<()> {
    let wanted: BTreeSet<&str> =
        payload.files.keys().map(|name| name.split('/').next().unwrap_or(name)).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
