//! Reading through a stack of layers as overlayfs would show them, without a mount.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::{OPAQUE_XATTR, is_whiteout};
use crate::error::{Error, Result};
use crate::sys;

/// Symlinks that one lookup follows, as the kernel has it.
const MAX_LINKS: usize = 40;

/// A stack of layers, top first.
#[derive(Clone)]
pub(crate) struct Layered {
    layers: Vec<PathBuf>,
}

/// What a path is in the stack.
pub(crate) struct Found {
    /// Absolute path in the root with all symlinks (but the last, if asked) resolved.
    pub(crate) path: PathBuf,
    /// Metadata of the topmost layer that has it; `None` when it does not exist.
    pub(crate) metadata: Option<Metadata>,
    /// For a directory every layer that contributes to it, top first; else the one place of the file.
    pub(crate) places: Vec<PathBuf>,
}

impl Found {
    pub(crate) fn is_dir(&self) -> bool {
        self.metadata.as_ref().is_some_and(Metadata::is_dir)
    }
}

impl Layered {
    pub(crate) fn new(layers: &[PathBuf]) -> Self {
        Self { layers: layers.to_vec() }
    }

    /// Resolve a path inside the root; `..` stops at the root. With `follow`, also a symlink at the end.
    pub(crate) fn lookup(&self, path: &Path, follow: bool) -> Result<Found> {
        let mut todo: Vec<Vec<u8>> = components(path);
        todo.reverse();
        let mut done = vec![self.root()?];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b".." => {
                    if done.len() > 1 {
                        done.pop();
                    }
                    continue;
                }
                b"." | b"" => continue,
                _ => {}
            }
            let Some(parent) = done.last() else { continue };
            let child = step(parent, &name)?;
            let is_link = child.metadata.as_ref().is_some_and(|metadata| metadata.file_type().is_symlink());
            if is_link && (follow || !todo.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::archive(path, "too many levels of symbolic links"));
                }
                let target = fs::read_link(&child.places[0]).map_err(Error::io("read", &child.places[0]))?;
                if target.is_absolute() {
                    done.truncate(1);
                }
                todo.extend(components(&target).into_iter().rev());
                continue;
            }
            done.push(child);
        }
        done.pop().map_or_else(|| self.root(), Ok)
    }

    /// A regular file's first `limit` bytes, or `None` when it is absent or no regular file.
    pub(crate) fn read_file(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        let found = self.lookup(Path::new(path), true)?;
        let (Some(metadata), Some(place)) = (&found.metadata, found.places.first()) else { return Ok(None) };
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let file = File::open(place).map_err(Error::io("open", place))?;
        file.take(limit as u64).read_to_end(&mut bytes).map_err(Error::io("read", place))?;
        Ok(Some(bytes))
    }

    /// Names in a directory as the stack shows it, sorted.
    pub(crate) fn names(&self, dir: &Found) -> Result<Vec<OsString>> {
        let mut names = BTreeSet::new();
        let mut hidden = BTreeSet::new();
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        for place in &dir.places {
            for entry in fs::read_dir(place).map_err(Error::io("read", place))? {
                let entry = entry.map_err(Error::io("read", place))?;
                let name = entry.file_name();
                if hidden.contains(&name) || names.contains(&name) {
                    continue;
                }
                let is_device = entry.file_type().is_ok_and(|kind| kind.is_char_device());
                if is_device && entry.metadata().is_ok_and(|metadata| is_whiteout(&metadata)) {
                    hidden.insert(name);
                } else {
                    names.insert(name);
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// One name in a directory; a symlink stays one.
    pub(crate) fn child(&self, dir: &Found, name: &[u8]) -> Result<Found> {
        step(dir, name)
    }

    fn root(&self) -> Result<Found> {
        let metadata = match self.layers.first() {
            Some(top) => Some(fs::metadata(top).map_err(Error::io("read", top))?),
            None => None,
        };
        Ok(Found { path: "/".into(), metadata, places: self.layers.clone() })
    }
}

fn components(path: &Path) -> Vec<Vec<u8>> {
    path.as_os_str().as_bytes().split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
}

/// One name below a directory. A parent that is missing (or no directory) has nothing below.
fn step(parent: &Found, name: &[u8]) -> Result<Found> {
    let name = std::ffi::OsStr::from_bytes(name);
    let mut found = Found { path: parent.path.join(name), metadata: None, places: Vec::new() };
    if !parent.is_dir() {
        return Ok(found);
    }
    for dir in &parent.places {
        let place = dir.join(name);
        let metadata = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("read", &place)(error)),
        };
        if is_whiteout(&metadata) {
            break;
        }
        let is_dir = metadata.is_dir();
        if found.metadata.is_some() && !is_dir {
            break;
        }
        let opaque = is_dir && is_opaque(&place)?;
        found.metadata.get_or_insert(metadata);
        found.places.push(place);
        if !is_dir || opaque {
            break;
        }
    }
    Ok(found)
}

fn is_opaque(dir: &Path) -> Result<bool> {
    let path = sys::path_cstring(dir).map_err(Error::io("read", dir))?;
    let value = sys::get_xattr(&path, OPAQUE_XATTR).map_err(Error::io("read attributes of", dir))?;
    Ok(value.is_some_and(|value| value == b"y"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn sees_what_overlayfs_shows() {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("top"), dir.path().join("low"));
        for path in ["low/usr/bin", "low/gone", "low/opaque/old", "top/opaque/new", "top/usr/bin"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(low.join("usr/bin/sh"), "low").unwrap();
        fs::write(top.join("usr/bin/new"), "top").unwrap();
        symlink("/usr/bin", low.join("bin")).unwrap();
        symlink("../../../usr", low.join("up")).unwrap();
        symlink("loop", low.join("loop")).unwrap();
        nix::sys::stat::mknod(
            &top.join("gone"),
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::empty(),
            0,
        )
        .unwrap();
        let opaque = sys::path_cstring(&top.join("opaque")).unwrap();
        sys::set_xattr(&opaque, OPAQUE_XATTR, b"y").unwrap();
        let stack = Layered::new(&[top, low]);
        assert_eq!(stack.read_file("/bin/sh", 10).unwrap().unwrap(), b"low");
        assert_eq!(stack.read_file("up/bin/new", 2).unwrap().unwrap(), b"to");
        assert_eq!(stack.lookup(Path::new("/bin/x"), true).unwrap().path, Path::new("/usr/bin/x"));
        assert_eq!(stack.lookup(Path::new("/usr/bin"), true).unwrap().places.len(), 2);
        assert!(stack.lookup(Path::new("/gone"), true).unwrap().metadata.is_none());
        assert!(stack.lookup(Path::new("/opaque/old"), true).unwrap().metadata.is_none());
        assert!(stack.lookup(Path::new("/opaque/new"), true).unwrap().is_dir());
        assert!(stack.lookup(Path::new("/loop"), true).is_err());
        assert!(stack.lookup(Path::new("/loop"), false).unwrap().metadata.is_some());
    }
}
