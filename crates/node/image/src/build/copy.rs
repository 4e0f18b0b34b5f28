//! `COPY` and `ADD`: files of a source tree go into a layer, as the layers below demand.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};

use super::chmod::Chmod;
use super::context::{Chosen, Source};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::layers::lookup::{Found, Layered};
use crate::layers::meta;

/// Where copied files go.
pub(crate) struct Target<'a> {
    /// The layer that is being made.
    pub(crate) upper: &'a Path,
    /// Layers below it, top first.
    pub(crate) lowers: &'a [PathBuf],
    /// Owner of what is copied; the source's own when `None`.
    pub(crate) owner: Option<(u32, u32)>,
    /// Mode of what is copied; the source's own when `None`.
    pub(crate) chmod: Option<&'a Chmod>,
}

/// A digest over names, modes and content, and owners where they are kept, but not times: what a step's result depends on.
pub(crate) fn digest(source: &Source, chosen: &[Chosen]) -> Result<Digest> {
    let mut hasher = Hasher::default();
    for item in chosen {
        feed(&mut hasher, source, &item.found, &item.name, &item.name)?;
    }
    Ok(hasher.finish())
}

fn feed(hasher: &mut Hasher, source: &Source, found: &Found, visible: &Path, name: &Path) -> Result<()> {
    let (Some(metadata), Some(place)) = (&found.metadata, found.places.first()) else { return Ok(()) };
    let mut line = name.as_os_str().as_bytes().to_vec();
    line.extend_from_slice(
        format!("\0{:o} {} {}\0", metadata.mode(), metadata.len(), metadata.rdev()).as_bytes(),
    );
    if metadata.is_dir() {
        // The size of a directory is a matter of the file system.
        line.truncate(name.as_os_str().len());
        line.extend_from_slice(format!("\0{:o}\0", metadata.mode()).as_bytes());
    }
    if source.owned {
        line.extend_from_slice(format!("{}:{}\0", metadata.uid(), metadata.gid()).as_bytes());
    }
    hasher.update(&line);
    if metadata.is_file() {
        hasher.update(Digest::of_file(place)?.hex().as_bytes());
    } else if metadata.is_symlink() {
        hasher.update(fs::read_link(place).map_err(Error::io("read", place))?.as_os_str().as_bytes());
    } else if metadata.is_dir() {
        for child in source.tree.names(found)? {
            let (shown, child_name) = (visible.join(&child), name.join(&child));
            let below = source.tree.child(found, child.as_bytes())?;
            if !source.ignored(&shown) || below.is_dir() {
                feed(hasher, source, &below, &shown, &child_name)?;
            }
        }
    }
    Ok(())
}

impl Target<'_> {
    /// Copy what was chosen to `to` (absolute). With `into`, `to` is a directory, whatever is there now.
    pub(crate) fn copy(&self, source: &Source, chosen: &[Chosen], to: &Path, into: bool) -> Result<()> {
        for item in chosen {
            let stack = self.stack();
            let there = stack.lookup(to, true)?;
            let exists = there.metadata.is_some();
            if item.found.is_dir() {
                if exists && !there.is_dir() {
                    return Err(refuse(to, "is not a directory in the image"));
                }
                self.directories(&stack, &there.path)?;
                self.children(source, &item.found, &item.name, &there.path)?;
                continue;
            }
            if into && exists && !there.is_dir() {
                return Err(refuse(to, "is not a directory in the image"));
            }
            let path = match item.name.file_name() {
                Some(name) if into || there.is_dir() => there.path.join(name),
                _ => there.path,
            };
            if let Some(parent) = path.parent() {
                self.directories(&stack, parent)?;
            }
            self.entry(source, &item.found, &item.name, &path)?;
        }
        Ok(())
    }

    /// `COPY --parents`: below `to`, the source's directories on the way to each file are there too.
    pub(crate) fn copy_parents(&self, source: &Source, chosen: &[Chosen], to: &Path) -> Result<()> {
        for item in chosen {
            let base = self.stack().lookup(to, true)?.path;
            self.directories(&self.stack(), &base)?;
            let (mut from, mut place) = (PathBuf::from("/"), base);
            let mut parts =
                item.name.strip_prefix("/").unwrap_or(&item.name).components().enumerate().peekable();
            while let Some((at, part)) = parts.next() {
                from.push(part);
                if at < item.pivot {
                    continue;
                }
                place.push(part);
                if parts.peek().is_none() {
                    self.entry(source, &item.found, &item.name, &place)?;
                    continue;
                }
                let found = source.tree.lookup(&from, true)?;
                let there = self.stack().lookup(&place, false)?;
                if there.metadata.is_some() {
                    self.directories(&self.stack(), &place)?;
                } else if let (Some(metadata), Some(dir)) = (&found.metadata, found.places.first()) {
                    let made = self.place(&place);
                    fs::create_dir(&made).map_err(Error::io("create", &made))?;
                    self.metadata(dir, metadata, &made)?;
                }
            }
        }
        Ok(())
    }

    fn stack(&self) -> Layered {
        let mut layers = vec![self.upper.to_owned()];
        layers.extend_from_slice(self.lowers);
        Layered::new(&layers)
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.upper.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Make a directory and those above it in the layer; existing ones look as they do below.
    pub(crate) fn directories(&self, stack: &Layered, path: &Path) -> Result<()> {
        let mut done = PathBuf::from("/");
        for part in path.strip_prefix("/").unwrap_or(path).components() {
            done.push(part);
            let place = self.place(&done);
            if fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_dir()) {
                continue;
            }
            let found = stack.lookup(&done, false)?;
            match (&found.metadata, found.places.first()) {
                (Some(metadata), Some(lower)) if metadata.is_dir() => {
                    fs::create_dir(&place).map_err(Error::io("create", &place))?;
                    meta::copy(lower, metadata, &place, None)
                        .map_err(Error::io("set metadata of", &place))?;
                }
                (Some(_), _) => return Err(refuse(&done, "is not a directory in the image")),
                (None, _) => {
                    fs::create_dir(&place).map_err(Error::io("create", &place))?;
                    let mode = fs::Permissions::from_mode(0o755);
                    fs::set_permissions(&place, mode).map_err(Error::io("set mode of", &place))?;
                    let (uid, gid) = self.owner.unwrap_or((0, 0));
                    std::os::unix::fs::chown(&place, Some(uid), Some(gid))
                        .map_err(Error::io("chown", &place))?;
                }
            }
        }
        Ok(())
    }

    fn children(&self, source: &Source, dir: &Found, visible: &Path, to: &Path) -> Result<()> {
        for name in source.tree.names(dir)? {
            let shown = visible.join(&name);
            let found = source.tree.child(dir, name.as_bytes())?;
            if !source.ignored(&shown) {
                self.entry(source, &found, &shown, &to.join(&name))?;
            } else if found.is_dir() {
                // A later rule may bring back what lies below; the directory appears only then.
                self.kept_below(source, &found, &shown, &to.join(&name))?;
            }
        }
        Ok(())
    }

    fn kept_below(&self, source: &Source, dir: &Found, visible: &Path, to: &Path) -> Result<()> {
        for name in source.tree.names(dir)? {
            let shown = visible.join(&name);
            let found = source.tree.child(dir, name.as_bytes())?;
            if !source.ignored(&shown) {
                self.directories(&self.stack(), to)?;
                self.entry(source, &found, &shown, &to.join(&name))?;
            } else if found.is_dir() {
                self.kept_below(source, &found, &shown, &to.join(&name))?;
            }
        }
        Ok(())
    }

    /// One file, link or directory with its content to exactly this path, whose parent exists.
    fn entry(&self, source: &Source, found: &Found, visible: &Path, to: &Path) -> Result<()> {
        let (Some(metadata), Some(from)) = (&found.metadata, found.places.first()) else { return Ok(()) };
        let place = self.place(to);
        let there = self.stack().lookup(to, false)?;
        if metadata.is_dir() {
            if there.metadata.is_some() && !there.is_dir() {
                return Err(refuse(to, "is not a directory in the image, but one in the source"));
            }
            if fs::symlink_metadata(&place).is_err() {
                fs::create_dir(&place).map_err(Error::io("create", &place))?;
            }
            self.children(source, found, visible, to)?;
            return self.metadata(from, metadata, &place);
        }
        if there.is_dir() {
            return Err(refuse(to, "is a directory in the image, but none in the source"));
        }
        if fs::symlink_metadata(&place).is_ok() {
            fs::remove_file(&place).map_err(Error::io("replace", &place))?;
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(from).map_err(Error::io("read", from))?;
            std::os::unix::fs::symlink(target, &place).map_err(Error::io("create", &place))?;
        } else if kind.is_file() {
            fs::copy(from, &place).map_err(Error::io("copy to", &place))?;
        } else if kind.is_socket() {
            return Ok(());
        } else {
            let flag = SFlag::from_bits_truncate(metadata.mode()) & SFlag::S_IFMT;
            let device = if kind.is_fifo() { 0 } else { metadata.rdev() };
            mknod(&place, flag, Mode::from_bits_truncate(0o600), device)
                .map_err(Error::errno("create", &place))?;
        }
        self.metadata(from, metadata, &place)
    }

    fn metadata(&self, from: &Path, metadata: &Metadata, to: &Path) -> Result<()> {
        meta::copy(from, metadata, to, self.owner).map_err(Error::io("set metadata of", to))?;
        match self.chmod {
            Some(chmod) if !metadata.is_symlink() => {
                let mode = chmod.apply(metadata.mode(), metadata.is_dir());
                fs::set_permissions(to, fs::Permissions::from_mode(mode))
                    .map_err(Error::io("set mode of", to))
            }
            _ => Ok(()),
        }
    }
}

fn refuse(path: &Path, reason: &str) -> Error {
    Error::archive(path, reason)
}
