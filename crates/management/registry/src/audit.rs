//! Who did what: a file of JSON lines, and the last of them in memory.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::{auth::Caller, error::Error, meta};

/// A new file is begun at this size; so many older ones are kept.
const FILE: u64 = 16 << 20;
const OLDER: usize = 4;
/// Entries that can be asked for.
const RECENT: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    length: u64,
    recent: VecDeque<Entry>,
    failed: bool,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) time: String,
    pub(crate) actor: String,
    pub(crate) from: String,
    pub(crate) action: &'static str,
    pub(crate) on: String,
    pub(crate) what: String,
}

impl Audit {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("audit.log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(path.display().to_string()))?;
        let length = file.metadata().map_or(0, |meta| meta.len());
        Ok(Self { path, inner: Mutex::new(Inner { file, length, recent: VecDeque::new(), failed: false }) })
    }

    pub(crate) fn record(&self, caller: &Caller, from: IpAddr, action: &'static str, on: &str, what: &str) {
        let entry = Entry {
            time: meta::time(meta::now()),
            actor: caller.name().to_owned(),
            from: from.to_string(),
            action,
            on: on.chars().take(300).collect(),
            what: what.chars().take(500).collect(),
        };
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.length > FILE {
            self.rotate(&mut inner);
        }
        match inner.file.write_all(&line) {
            Ok(()) => (inner.length, inner.failed) = (inner.length + line.len() as u64, false),
            Err(error) => {
                // Said once, not for each request; images matter more than their log.
                if !std::mem::replace(&mut inner.failed, true) {
                    tracing::error!("{}: {error}", self.path.display());
                }
            }
        }
        if inner.recent.len() == RECENT {
            inner.recent.pop_front();
        }
        inner.recent.push_back(entry);
    }

    fn rotate(&self, inner: &mut Inner) {
        let older = |n: usize| self.path.with_extension(format!("log.{n}"));
        for n in (1..OLDER).rev() {
            let _ = fs::rename(older(n), older(n + 1));
        }
        let _ = fs::rename(&self.path, older(1));
        if let Ok(file) = File::options().create(true).append(true).open(&self.path) {
            (inner.file, inner.length) = (file, 0);
        }
    }

    /// The newest entries that `filter` takes, newest first.
    pub(crate) fn recent(&self, limit: usize, filter: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.recent.iter().rev().filter(|entry| filter(entry)).take(limit).cloned().collect()
    }
}
