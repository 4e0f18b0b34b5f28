//! A second tree with the same files: directories are made anew, everything else is a hard link.

use std::fs;
use std::path::Path;

use super::{OPAQUE_XATTR, meta};
use crate::error::{Error, Result};
use crate::sys;

/// Make `to` (which is not there) the same as `from`, on the same file system.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).map_err(Error::io("create", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(Error::io("read", &source))?.is_dir() {
            tree(&source, &target)?;
        } else {
            fs::hard_link(&source, &target).map_err(Error::io("link", &target))?;
        }
    }
    let io = Error::io("set metadata of", to);
    let metadata = fs::symlink_metadata(from).map_err(Error::io("read", from))?;
    let opaque = sys::path_cstring(from).and_then(|path| sys::get_xattr(&path, OPAQUE_XATTR));
    if let Some(value) = opaque.map_err(Error::io("read attributes of", from))? {
        let path = sys::path_cstring(to).and_then(|path| sys::set_xattr(&path, OPAQUE_XATTR, &value));
        path.map_err(Error::io("set attributes of", to))?;
    }
    meta::copy(from, &metadata, to, None).map_err(io)
}
