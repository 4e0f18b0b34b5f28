//! The content store on disk: blobs, snapshots, names, and who needs what. Blocking; several processes at once.

pub(crate) mod blob;
pub(crate) mod gc;
pub(crate) mod index;
pub(crate) mod info;
pub(crate) mod kept;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod snapshot;
pub(crate) mod uses;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::options::Options;

/// Directories below the store's own.
const DIRS: [&str; 10] =
    ["blobs", "blobs/sha256", "partial", "snapshots", "l", "uses", "leases", "tmp", "cache", "mounts"];

/// One process's view of the store.
pub(crate) struct Store {
    pub(crate) options: Options,
    /// Absolute, so that the plans it gives hold whatever the working directory is.
    pub(crate) dir: PathBuf,
    /// Distinguishes what was written before a power loss.
    boot: String,
    index: Mutex<Option<index::Cached>>,
    /// Snapshots that were found whole by this process.
    whole: Mutex<HashSet<String>>,
    infos: Mutex<HashMap<Digest, Arc<info::ImageInfo>>>,
    counter: AtomicU64,
}

impl Store {
    pub(crate) fn open(mut options: Options) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&options.dir).map_err(Error::io("create", &options.dir))?;
        let dir = fs::canonicalize(&options.dir).map_err(Error::io("open", &options.dir))?;
        for name in DIRS {
            let path = dir.join(name);
            builder.create(&path).map_err(Error::io("create", &path))?;
        }
        options.dir.clone_from(&dir);
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let store = Self {
            options,
            dir,
            boot,
            index: Mutex::default(),
            whole: Mutex::default(),
            infos: Mutex::default(),
            counter: AtomicU64::new(0),
        };
        store.read_index()?;
        store.recover()?;
        Ok(store)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Replace a small file as a whole.
    pub(crate) fn replace_file(&self, path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
        use std::io::Write as _;
        let temporary = self.path("tmp").join(format!("f-{}", self.unique()));
        let mut file = fs::File::create(&temporary).map_err(Error::io("create", &temporary))?;
        let written = file.write_all(bytes).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        let result = written
            .map_err(Error::io("write", &temporary))
            .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("replace", path)));
        if result.is_err() {
            // Best effort: what stays is removed when the store is opened the next time.
            let _ = fs::remove_file(&temporary);
        } else if sync && let Some(parent) = path.parent() {
            sync_dir(parent)?;
        }
        result
    }

    /// A name that no other thread or process uses.
    pub(crate) fn unique(&self) -> String {
        let count = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{}-{count}-{:08x}", std::process::id(), rand::random::<u32>())
    }
}

/// Make renames in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    fs::File::open(dir).and_then(|file| file.sync_all()).map_err(Error::io("sync", dir))
}

/// A lock that a panic elsewhere does not spoil: what it guards is a cache.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
