//! Holds of running containers: files, because containers outlive the process that started them.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::service::Holder;

/// What one holder needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Use {
    pub(crate) holder: String,
    pub(crate) reference: String,
    pub(crate) digest: Digest,
    /// Blobs and snapshots, as hex.
    pub(crate) content: Vec<String>,
}

impl Store {
    /// Write down a hold. Look whether the content exists only afterwards.
    pub(crate) fn hold(&self, hold: &Use) -> Result<()> {
        let path = self.use_path(&hold.holder);
        let bytes = serde_json::to_vec(hold)
            .map_err(|error| Error::Corrupt { path: path.clone(), reason: error.to_string() })?;
        let _guard = self.shared()?;
        self.replace_file(&path, &bytes, false)
    }

    pub(crate) fn release(&self, holder: &str) -> Result<()> {
        let path = self.use_path(holder);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn uses(&self) -> Result<Vec<Use>> {
        let dir = self.path("uses");
        let mut uses = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            match fs::read(&path) {
                // Not synced on purpose: after a power loss no container runs, and an empty file holds nothing.
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(hold) => uses.push(hold),
                    Err(_) => drop(fs::remove_file(&path)),
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path)(error)),
            }
        }
        Ok(uses)
    }

    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        let mut holders: Vec<_> = self
            .uses()?
            .into_iter()
            .map(|hold| Holder { holder: hold.holder, reference: hold.reference, digest: hold.digest })
            .collect();
        holders.sort_by(|a, b| a.holder.cmp(&b.holder));
        Ok(holders)
    }

    fn use_path(&self, holder: &str) -> PathBuf {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        // File names are at most 255 bytes; longer or odd names become their digest.
        let name = if holder.len() <= 200 && !holder.is_empty() && holder.bytes().all(plain) {
            holder.to_owned()
        } else {
            format!("h.{}", Digest::of(holder.as_bytes()).hex())
        };
        self.path("uses").join(name)
    }
}
