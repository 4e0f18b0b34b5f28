//! A container runtime of one command alone.

use std::path::{Path, PathBuf};

use anyhow::Result;
use sampan_container::{Options, Runtime};
use sampan_daemon::Supervisor;

/// Nothing of it remains when it is dropped.
pub(crate) struct ThrowAway {
    pub(crate) runtime: Runtime,
    /// In memory, as /run is.
    pub(crate) dir: PathBuf,
}

impl ThrowAway {
    /// One that is called after what it is for.
    pub(crate) fn new(kind: &str) -> Result<Self> {
        let id = format!("{kind}-{:08x}", rand::random::<u32>());
        let dir = Path::new("/run/sampan").join(&id);
        let runtime = Runtime::new(Options::new(&dir, format!("/sampan-{id}")), Supervisor::new())?;
        Ok(Self { runtime, dir })
    }
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        // Pods are removed by whoever made them; what is left is an empty cgroup, and a directory with a log.
        self.runtime.remove_parent_cgroup();
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::debug!(dir = %self.dir.display(), "could not remove: {error}");
        }
    }
}
