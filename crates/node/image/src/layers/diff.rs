//! A directory in overlayfs form becomes a layer's tar: sorted, with clamped times, the same for the same content.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::{OPAQUE_WHITEOUT, OPAQUE_XATTR, WHITEOUT, is_whiteout, meta};
use crate::error::{Error, Result};
use crate::sys;
use crate::tar::writer::plain;
use crate::tar::{Entry, Kind, TarWriter};

/// Write the content of `dir` as a layer. Files newer than `epoch` get that time, in `dir` too, so that the
/// directory and the tar stay the same. Gives the bytes of file data and whether there was anything.
pub(crate) fn write<W: Write>(dir: &Path, tar: &mut TarWriter<W>, epoch: Option<i64>) -> Result<(u64, bool)> {
    let mut walk = Walk { tar, epoch, links: HashMap::new(), bytes: 0, entries: 0 };
    walk.directory(dir, &mut Vec::new())?;
    Ok((walk.bytes, walk.entries > 0))
}

struct Walk<'a, W> {
    tar: &'a mut TarWriter<W>,
    epoch: Option<i64>,
    /// First path of files with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    bytes: u64,
    entries: u64,
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, dir: &Path, prefix: &mut Vec<u8>) -> Result<()> {
        let mut names: Vec<PathBuf> = fs::read_dir(dir)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(Error::io("read", dir))?;
        names.sort();
        for path in names {
            let Some(name) = path.file_name() else { continue };
            let metadata = fs::symlink_metadata(&path).map_err(Error::io("read", &path))?;
            let length = prefix.len();
            if is_whiteout(&metadata) {
                prefix.extend_from_slice(WHITEOUT);
                prefix.extend_from_slice(name.as_bytes());
                self.marker(prefix)?;
            } else {
                prefix.extend_from_slice(name.as_bytes());
                self.entry(&path, &metadata, prefix)?;
            }
            prefix.truncate(length);
        }
        Ok(())
    }

    fn marker(&mut self, path: &[u8]) -> Result<()> {
        let mut entry = plain("", Kind::File, 0o600);
        entry.path = path.to_vec();
        self.entries += 1;
        self.tar.append_empty(&entry).map_err(Error::io("write the layer entry", Path::new(".wh.")))
    }

    fn entry(&mut self, path: &Path, metadata: &Metadata, name: &mut Vec<u8>) -> Result<()> {
        let io = |error| Error::io("read", path)(error);
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut entry = plain("", Kind::File, 0);
        meta::describe(&mut entry, path, metadata).map_err(io)?;
        refuse_indirect(path, &kind)?;
        entry.mtime = (metadata.mtime(), 0);
        if let Some(epoch) = self.epoch
            && (metadata.mtime() > epoch || (metadata.mtime() == epoch && metadata.mtime_nsec() > 0))
        {
            entry.mtime.0 = epoch;
            meta::set_mtime(path, (epoch, 0)).map_err(io)?;
        }
        entry.path.clone_from(name);
        self.entries += 1;
        if kind.is_dir() {
            name.push(b'/');
            entry.path.push(b'/');
            entry.kind = Kind::Dir;
            self.append(&entry, path)?;
            self.opaque(path, name)?;
            return self.directory(path, name);
        }
        if metadata.nlink() > 1 {
            match self.links.get(&(metadata.dev(), metadata.ino())) {
                Some(first) => {
                    entry.kind = Kind::HardLink;
                    entry.link.clone_from(first);
                    entry.xattrs.clear();
                    return self.append(&entry, path);
                }
                None => drop(self.links.insert((metadata.dev(), metadata.ino()), name.clone())),
            }
        }
        if kind.is_symlink() {
            entry.kind = Kind::Symlink;
            entry.link = fs::read_link(path).map_err(io)?.as_os_str().as_bytes().to_vec();
        } else if kind.is_char_device() || kind.is_block_device() {
            entry.kind = if kind.is_char_device() { Kind::Char } else { Kind::Block };
            let (major, minor) =
                (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
            entry.device =
                (u32::try_from(major).unwrap_or_default(), u32::try_from(minor).unwrap_or_default());
        } else if kind.is_fifo() {
            entry.kind = Kind::Fifo;
        } else {
            entry.size = metadata.len();
            self.bytes += entry.size;
            let mut file = File::open(path).map_err(io)?;
            return self.tar.append(&entry, &mut file).map_err(|error| write_error(error, path));
        }
        self.append(&entry, path)
    }

    fn append(&mut self, entry: &Entry, path: &Path) -> Result<()> {
        self.tar.append_empty(entry).map_err(|error| write_error(error, path))
    }

    fn opaque(&mut self, path: &Path, name: &[u8]) -> Result<()> {
        let opaque = sys::path_cstring(path)
            .and_then(|path| sys::get_xattr(&path, OPAQUE_XATTR))
            .map_err(Error::io("read attributes of", path))?;
        match opaque.as_deref() {
            Some(b"y") => self.marker(&[name, OPAQUE_WHITEOUT].concat()),
            _ => Ok(()),
        }
    }
}

/// With redirects or metacopy an upper directory does not hold the files itself.
fn refuse_indirect(path: &Path, kind: &fs::FileType) -> Result<()> {
    let name = if kind.is_dir() { c"trusted.overlay.redirect" } else { c"trusted.overlay.metacopy" };
    if !kind.is_dir() && !kind.is_file() {
        return Ok(());
    }
    let value = sys::path_cstring(path).and_then(|path| sys::get_xattr(&path, name));
    match value.map_err(Error::io("read attributes of", path))? {
        None => Ok(()),
        Some(_) => Err(Error::Unsupported {
            what: path.display().to_string(),
            reason: "the overlay was mounted with redirect_dir or metacopy (hint: mount it with both off)"
                .into(),
        }),
    }
}

fn write_error(error: io::Error, path: &Path) -> Error {
    Error::io("add to the layer", path)(error)
}
