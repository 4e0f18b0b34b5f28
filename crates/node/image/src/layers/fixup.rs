//! Finishing layers that lean on the ones below: directories that they use without describing them, and hard
//! links to files of lower layers.
//!
//! Most layers describe everything they touch; those are unpacked without knowing their parents. The rest would,
//! as overlayfs merges, hide a `/bin -> usr/bin` of the base or reset the mode of `/tmp`: here they are put right.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::lookup::Layered;
use super::meta;
use super::unpack::Unpacked;
use crate::error::{Error, Result};

/// Put right the unpacked layer in `dir`; `lowers` are the layers below, top first.
pub(crate) fn apply(dir: &Path, unpacked: &Unpacked, lowers: &[PathBuf], layer: &str) -> Result<()> {
    let stack = Layered::new(lowers);
    let mut implicit: Vec<PathBuf> = unpacked.implicit.iter().map(|path| path_of(path)).collect();
    implicit.reverse();
    // Parents come first; a move renames what is still to come.
    while let Some(path) = implicit.pop() {
        let found = stack.lookup(&path, true)?;
        let moved = found.path.strip_prefix("/").unwrap_or(&found.path).to_path_buf();
        if moved != path && found.metadata.as_ref().is_none_or(fs::Metadata::is_dir) {
            relocate(dir, &stack, &path, &moved)?;
            for later in &mut implicit {
                if let Ok(rest) = later.strip_prefix(&path) {
                    *later = moved.join(rest);
                }
            }
            continue;
        }
        if let (true, Some(metadata), Some(place)) = (found.is_dir(), &found.metadata, found.places.first()) {
            let target = dir.join(&path);
            meta::copy(place, metadata, &target, None).map_err(Error::io("set metadata of", &target))?;
        }
    }
    for link in &unpacked.dangling {
        copy_target(dir, &stack, &path_of(&link.path), &path_of(&link.target), layer)?;
    }
    Ok(())
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// The lower layers have a symlink on the way: move the content to where the link leads.
fn relocate(dir: &Path, stack: &Layered, from: &Path, to: &Path) -> Result<()> {
    make_dirs(dir, stack, to)?;
    merge(&dir.join(from), &dir.join(to))
}

/// Make directories in a layer as the lower layers have them. The path is resolved already.
pub(crate) fn make_dirs(dir: &Path, stack: &Layered, path: &Path) -> Result<()> {
    let mut done = PathBuf::new();
    for part in path.components() {
        done.push(part);
        let target = dir.join(&done);
        if fs::symlink_metadata(&target).is_ok() {
            continue;
        }
        fs::create_dir(&target).map_err(Error::io("create", &target))?;
        let found = stack.lookup(&done, false)?;
        if let (true, Some(metadata), Some(place)) = (found.is_dir(), &found.metadata, found.places.first()) {
            meta::copy(place, metadata, &target, None).map_err(Error::io("set metadata of", &target))?;
        }
    }
    Ok(())
}

fn merge(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let both = entry.file_type().is_ok_and(|kind| kind.is_dir())
            && fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.is_dir());
        if both {
            merge(&source, &target)?;
        } else {
            fs::rename(&source, &target).map_err(Error::io("move", &source))?;
        }
    }
    fs::remove_dir(from).map_err(Error::io("remove", from))
}

fn copy_target(dir: &Path, stack: &Layered, path: &Path, target: &Path, layer: &str) -> Result<()> {
    let found = stack.lookup(target, false)?;
    let bad = |reason: &str| Error::Layer {
        layer: layer.to_owned(),
        entry: path.display().to_string(),
        reason: format!("a hard link to {:?}, {reason}", target.display().to_string()),
    };
    let (Some(metadata), Some(place)) = (&found.metadata, found.places.first()) else {
        return Err(bad("which is neither in this layer nor below it"));
    };
    if !metadata.is_file() {
        return Err(bad("which is no regular file"));
    }
    let to = dir.join(path);
    // The name is free: the unpacker made nothing there. An existing one belongs to a later entry and stays.
    let mut file = match fs::File::create_new(&to) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(Error::io("create", &to)(error)),
    };
    let mut source = fs::File::open(place).map_err(Error::io("open", place))?;
    std::io::copy(&mut source, &mut file).map_err(Error::io("write", &to))?;
    meta::copy(place, metadata, &to, None).map_err(Error::io("set metadata of", &to))
}
