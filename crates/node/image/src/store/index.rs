//! Names of images: one small file that is replaced as a whole and read again when another process changed it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Store, locked};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::oci::{self, Descriptor};

const VERSION: u32 = 1;
/// Where an image that stands for several platforms says so: the digest of their index.
pub(crate) const INDEX_ANNOTATION: &str = "io.sampan.image.index";

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Index {
    version: u32,
    /// Manifest by normalised name.
    pub(crate) images: BTreeMap<String, Descriptor>,
}

impl Default for Index {
    fn default() -> Self {
        Self { version: VERSION, images: BTreeMap::new() }
    }
}

/// The file as it was read last.
pub(crate) struct Cached {
    stamp: Stamp,
    index: Arc<Index>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// The index that an image stands for.
pub(crate) fn index_of(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.annotations.get(INDEX_ANNOTATION)?.parse().ok()
}

impl Store {
    /// Manifests of all platforms behind a name: those of its index, or the one.
    pub(crate) fn manifests(&self, descriptor: &Descriptor) -> Result<(Option<Digest>, Vec<Digest>)> {
        let Some(digest) = index_of(descriptor) else { return Ok((None, vec![descriptor.digest])) };
        let index: oci::Index = serde_json::from_slice(&self.read_metadata(&digest)?)
            .map_err(|error| Error::Corrupt { path: self.blob_path(&digest), reason: error.to_string() })?;
        Ok((Some(digest), index.manifests.iter().map(|descriptor| descriptor.digest).collect()))
    }

    /// The names as they are now.
    pub(crate) fn read_index(&self) -> Result<Arc<Index>> {
        let path = self.path("index.json");
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let stamp = Stamp {
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let mut cache = locked(&self.index);
        if let Some(cached) = &*cache
            && cached.stamp == stamp
        {
            return Ok(cached.index.clone());
        }
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let corrupt = |reason: String| Error::Corrupt { path: path.clone(), reason };
        let version: Version = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if version.version > VERSION {
            let reason =
                format!("it has format {} of a newer version; this one reads {VERSION}", version.version);
            return Err(corrupt(reason));
        }
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let index = Arc::new(index);
        *cache = Some(Cached { stamp, index: index.clone() });
        Ok(index)
    }

    /// Change the names. `change` sees the newest state and says whether it changed something.
    pub(crate) fn update_index<T>(&self, change: impl FnOnce(&mut Index) -> Result<(bool, T)>) -> Result<T> {
        let _guard = self.exclusive()?;
        let mut index = Index::clone(&*self.read_index()?);
        let (changed, value) = change(&mut index)?;
        if changed {
            let path = self.path("index.json");
            let bytes = serde_json::to_vec(&index)
                .map_err(|error| Error::Corrupt { path: path.clone(), reason: error.to_string() })?;
            self.replace_file(&path, &bytes, self.options.sync)?;
        }
        Ok(value)
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}
