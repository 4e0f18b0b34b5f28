//! The store's lock between threads and processes.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Store;
use crate::error::{Error, Result};

/// Held for a short critical section; released when dropped.
pub(crate) struct Guard(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Store {
    /// While this is held nothing is collected: write down what is needed, then let go.
    pub(crate) fn shared(&self) -> Result<Guard> {
        self.lock(FlockArg::LockShared)
    }

    /// For changes of the index and for collection.
    pub(crate) fn exclusive(&self) -> Result<Guard> {
        self.lock(FlockArg::LockExclusive)
    }

    fn lock(&self, how: FlockArg) -> Result<Guard> {
        let path = self.path("lock");
        let mut file = open_lock(&path)?;
        loop {
            match Flock::lock(file, how) {
                Ok(lock) => return Ok(Guard(lock)),
                Err((back, Errno::EINTR)) => file = back,
                Err((_, errno)) => return Err(Error::errno("lock", &path)(errno)),
            }
        }
    }
}

/// Open (or make) a file to lock.
pub(crate) fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::io("open", path))
}

/// Lock at once or not at all.
pub(crate) fn try_exclusive(file: File) -> Option<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Lock, however long it takes.
pub(crate) fn wait_exclusive(mut file: File, path: &Path) -> Result<Flock<File>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(Error::errno("lock", path)(errno)),
        }
    }
}
