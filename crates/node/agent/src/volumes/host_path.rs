//! Directories that claims had made on this node: which pods use them, and how they go.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::claims::Kind;
use super::{Plan, PlanKind};

/// Why a directory is not removed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// This is no name of a directory of ours.
    #[error("{0:?} is no name of a volume")]
    Name(String),
    /// A pod still has it.
    #[error("volume is in use by a pod of this node")]
    InUse,
    /// The file system does not let us.
    #[error("cannot remove {}: {source}", path.display())]
    Io {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The directories of this node, with the pods that use them.
#[derive(Debug)]
pub struct HostVolumes {
    root: PathBuf,
    used: Mutex<HashMap<String, Vec<PathBuf>>>,
}

impl HostVolumes {
    /// Directories below `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, used: Mutex::default() }
    }

    /// Below which directory they are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn used(&self) -> MutexGuard<'_, HashMap<String, Vec<PathBuf>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a pod uses from now on.
    pub fn hold(&self, uid: &str, plans: &[Plan]) {
        let made = plans.iter().filter_map(|plan| match &plan.kind {
            PlanKind::Claimed(Kind::Made(path)) => Some(path.clone()),
            _ => None,
        });
        let made: Vec<PathBuf> = made.collect();
        if !made.is_empty() {
            self.used().insert(uid.to_owned(), made);
        }
    }

    /// A pod uses nothing any more.
    pub fn release(&self, uid: &str) {
        self.used().remove(uid);
    }

    /// Removes one directory with everything in it; that it is gone already is fine.
    ///
    /// # Errors
    /// It is not one of ours, in use, or cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Refusal> {
        // Names of namespaces and claims have no underscore, ours always do: nothing else is ever named by it.
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let ours = name.split('_').count() == 3 && !name.starts_with('.') && name.len() < 256;
        if !ours || !name.chars().all(safe) {
            return Err(Refusal::Name(name.to_owned()));
        }
        let path = self.root.join(name);
        if self.used().values().flatten().any(|used| *used == path) {
            return Err(Refusal::InUse);
        }
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Refusal::Io { path, source }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(path: &Path) -> Plan {
        let kind = PlanKind::Claimed(Kind::Made(path.to_owned()));
        Plan { name: "v".into(), kind, fs_group: None, on_mismatch: false, read_only: false }
    }

    #[test]
    fn only_our_own_directories_go_and_only_when_nobody_uses_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volumes");
        let volumes = HostVolumes::new(root.clone());
        let made = root.join("ns_data_pvc-1");
        std::fs::create_dir_all(made.join("deep")).unwrap();
        std::fs::write(dir.path().join("other"), "keep").unwrap();
        std::os::unix::fs::symlink(dir.path(), made.join("link")).unwrap();
        for name in
            ["", ".", "..", "../other", "a_b_../../other", "ns_data", "ns%2Fdata_x_y", "_/_/_", "other"]
        {
            assert!(matches!(volumes.remove(name), Err(Refusal::Name(_))), "{name:?}");
        }
        volumes.hold("uid", &[plan(&made)]);
        assert!(matches!(volumes.remove("ns_data_pvc-1"), Err(Refusal::InUse)));
        volumes.release("uid");
        volumes.remove("ns_data_pvc-1").unwrap();
        volumes.remove("ns_data_pvc-1").unwrap();
        assert!(!made.exists());
        assert!(dir.path().join("other").exists(), "links are not followed");
    }
}
