//! One layer after the other: what each brings, and what it hides of those below.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::WastedFile;
use crate::error::{Error, Result};
use crate::layers::{OPAQUE_XATTR, is_whiteout};
use crate::sys;

/// What one layer holds.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) bytes: u64,
    pub(super) files: usize,
}

/// What all hold.
pub(super) struct Seen {
    pub(super) layers: Vec<Layer>,
    pub(super) wasted: Vec<WastedFile>,
}

/// A file that is visible so far.
struct There {
    bytes: u64,
    layer: usize,
}

struct Walk {
    there: BTreeMap<PathBuf, There>,
    seen: Seen,
    at: usize,
    files: u64,
    limit: u64,
}

/// Walk layers, bottom first.
pub(super) fn walk(layers: &[PathBuf], limit: u64) -> Result<Seen> {
    let seen = Seen { layers: Vec::new(), wasted: Vec::new() };
    let mut walk = Walk { there: BTreeMap::new(), seen, at: 0, files: 0, limit };
    for (at, dir) in layers.iter().enumerate() {
        walk.at = at;
        walk.seen.layers.push(Layer::default());
        walk.directory(dir, Path::new("/"))?;
    }
    Ok(walk.seen)
}

impl Walk {
    fn directory(&mut self, dir: &Path, path: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
            let entry = entry.map_err(Error::io("read", dir))?;
            let (place, path) = (entry.path(), path.join(entry.file_name()));
            let metadata = fs::symlink_metadata(&place).map_err(Error::io("read", &place))?;
            self.files += 1;
            if self.files > self.limit {
                let (what, limit) = ("files of the image".into(), self.limit);
                return Err(Error::Limit { what, limit, unit: "files" });
            }
            if is_whiteout(&metadata) {
                self.hide(&path, true);
            } else if metadata.is_dir() {
                let name = sys::path_cstring(&place).map_err(Error::io("read", &place))?;
                let opaque = sys::get_xattr(&name, OPAQUE_XATTR).map_err(Error::io("read", &place))?;
                if opaque.is_some_and(|value| value == b"y") {
                    self.hide(&path, true);
                } else {
                    // A file may become a directory.
                    self.take(&path, false);
                }
                self.directory(&place, &path)?;
            } else {
                self.hide(&path, false);
                let bytes = if metadata.is_file() { metadata.len() } else { 0 };
                let layer = &mut self.seen.layers[self.at];
                layer.bytes += bytes;
                layer.files += 1;
                self.there.insert(path, There { bytes, layer: self.at });
            }
        }
        Ok(())
    }

    /// Whatever lower layers have there, and below, is not seen any more.
    fn hide(&mut self, path: &Path, deleted: bool) {
        let below: Vec<PathBuf> = self
            .there
            .range(path.to_owned()..)
            .take_while(|(there, _)| there.starts_with(path))
            .map(|(there, _)| there.clone())
            .collect();
        for path in below {
            self.take(&path, deleted);
        }
    }

    fn take(&mut self, path: &Path, deleted: bool) {
        match self.there.get(path) {
            Some(there) if there.layer < self.at => {}
            _ => return,
        }
        if let Some(there) = self.there.remove(path)
            && there.bytes > 0
        {
            let (bytes, layer) = (there.bytes, there.layer);
            self.seen.wasted.push(WastedFile { path: path.to_owned(), bytes, layer, by: self.at, deleted });
        }
    }
}
