//! Leases: what an operation in progress needs is not collected, and what a killed one left is.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::Flock;

use super::lock::{open_lock, try_exclusive};
use super::{Store, locked};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Protects content and owns a scratch directory; both end with it (or with the process).
pub(crate) struct Lease {
    name: String,
    dir: PathBuf,
    state: Mutex<State>,
    scratch: PathBuf,
    counter: std::sync::atomic::AtomicU64,
}

struct State {
    file: Flock<File>,
    seen: HashSet<Digest>,
}

impl Store {
    /// Begin an operation.
    pub(crate) fn lease(&self) -> Result<Lease> {
        let _guard = self.shared()?;
        let name = self.unique();
        let path = self.path("leases").join(&name);
        let file = try_exclusive(open_lock(&path)?).ok_or_else(|| Error::Corrupt {
            path: path.clone(),
            reason: "a fresh lease is locked by somebody else".into(),
        })?;
        let scratch = self.path("tmp").join(&name);
        fs::create_dir(&scratch).map_err(Error::io("create", &scratch))?;
        Ok(Lease {
            name,
            dir: self.dir.clone(),
            state: Mutex::new(State { file, seen: HashSet::new() }),
            scratch,
            counter: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Write down that the operation needs this content. Look whether it exists only afterwards.
    pub(crate) fn protect(&self, lease: &Lease, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        let _guard = self.shared()?;
        let mut state = locked(&lease.state);
        let mut lines = String::new();
        for digest in digests {
            if state.seen.insert(digest) {
                lines.push_str(&digest.hex());
                lines.push('\n');
            }
        }
        state.file.write_all(lines.as_bytes()).map_err(Error::io("write", &lease.scratch))
    }

    /// Content that living operations need, and the names of their leases. Dead leases are removed.
    /// Called with the exclusive lock held.
    pub(crate) fn leased(&self) -> Result<(HashSet<String>, HashSet<String>)> {
        let (mut content, mut names) = (HashSet::new(), HashSet::new());
        let dir = self.path("leases");
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            // Operations end whenever they like: their leases may vanish while this looks.
            let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
            let mut file = match File::open(&path) {
                Err(error) if gone(&error) => continue,
                opened => opened.map_err(Error::io("open", &path))?,
            };
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(Error::io("read", &path))?;
            if try_exclusive(file).is_some() {
                match fs::remove_file(&path) {
                    Err(error) if !gone(&error) => return Err(Error::io("remove", &path)(error)),
                    _ => continue,
                }
            }
            content.extend(text.lines().map(str::to_owned));
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        Ok((content, names))
    }

    /// At start: forget dead operations and remove their scratch directories.
    pub(crate) fn recover(&self) -> Result<()> {
        let tmp = self.path("tmp");
        let empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if empty(&tmp) && empty(&self.path("leases")) {
            return Ok(());
        }
        let doomed = {
            let _guard = self.exclusive()?;
            let (_, alive) = self.leased()?;
            let mut doomed = Vec::new();
            for entry in fs::read_dir(&tmp).map_err(Error::io("read", &tmp))? {
                let entry = entry.map_err(Error::io("read", &tmp))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // Small files live for microseconds and belong to a running process when they are young.
                let file_of_living = name.starts_with("f-") && young(&entry);
                if !alive.contains(&name) && !file_of_living {
                    doomed.push(entry.path());
                }
            }
            doomed
        };
        remove_soon(doomed);
        Ok(())
    }
}

fn young(entry: &fs::DirEntry) -> bool {
    let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
    matches!(age, Ok(Ok(age)) if age.as_secs() < 60)
}

/// Remove trees off the caller's path when there is a runtime to do it.
pub(crate) fn remove_soon(paths: Vec<PathBuf>) {
    if paths.is_empty() {
        return;
    }
    let work = move || {
        for path in paths {
            remove_tree(&path);
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

/// Remove a tree; what cannot be removed now is tried again at the next start.
pub(crate) fn remove_tree(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove leftovers of the image store");
    }
}

impl Lease {
    /// A fresh path in the scratch directory.
    pub(crate) fn scratch(&self, prefix: &str) -> PathBuf {
        let count = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.scratch.join(format!("{prefix}-{count}"))
    }

    /// A fresh empty directory in the scratch directory.
    pub(crate) fn scratch_dir(&self, prefix: &str) -> Result<PathBuf> {
        let path = self.scratch(prefix);
        fs::create_dir(&path).map_err(Error::io("create", &path))?;
        Ok(path)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Both are also removed by the next start, should this fail.
        let _ = fs::remove_dir_all(&self.scratch);
        let _ = fs::remove_file(self.dir.join("leases").join(&self.name));
    }
}
