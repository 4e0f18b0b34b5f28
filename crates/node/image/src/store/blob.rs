//! Blobs: written once, verified while written, visible only when whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::kept::Assembled;
use super::lock::{open_lock, wait_exclusive};
use super::{Store, sync_dir};
use crate::digest::{Digest, HashWriter};
use crate::error::{Error, Result};

/// A blob to read from its beginning.
pub(crate) enum Blob {
    File(File),
    /// A layer that lies there as its files.
    Kept(Box<Assembled>),
}

impl Read for Blob {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Blob::File(file) => file.read(buf),
            Blob::Kept(layer) => layer.read(buf),
        }
    }
}

/// A blob that is being written. Its lock makes writers of the same blob wait for each other, in all processes.
pub(crate) struct Partial {
    file: Flock<File>,
    path: PathBuf,
}

impl Store {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is there with the right size.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.len() == size)
            || self.kept_layer(digest) == Some(size)
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<Blob> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.kept_layer(digest).is_some() => {
                Assembled::open(&self.snapshot_dir(&digest.hex())).map(Box::new).map(Blob::Kept)
            }
            opened => opened.map(Blob::File).map_err(Error::io("open", &path)),
        }
    }

    /// A small blob as a whole, verified.
    pub(crate) fn read_metadata(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let limit = self.options.limits.metadata_bytes;
        let mut bytes = Vec::new();
        self.open_blob(digest)?.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(Error::Limit { what: format!("blob {digest}"), limit, unit: "bytes" });
        }
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(Error::Corrupt { path, reason: format!("its content is {actual}") });
        }
        Ok(bytes)
    }

    /// Store a small blob. The caller holds a lease on its digest.
    pub(crate) fn put_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has_blob(&digest, bytes.len() as u64) {
            self.replace_file(&self.blob_path(&digest), bytes, self.options.sync)?;
        }
        Ok(digest)
    }

    /// Begin to write a blob (or go on where somebody stopped). Waits while another writes the same.
    pub(crate) fn partial(&self, digest: &Digest) -> Result<Partial> {
        let path = self.path("partial").join(digest.hex());
        loop {
            let file = wait_exclusive(open_lock(&path)?, &path)?;
            let mine = file.metadata().map_err(Error::io("read", &path))?;
            // Whoever held the lock may have renamed or removed the file meanwhile.
            match fs::metadata(&path) {
                Ok(there) if there.ino() == mine.ino() => return Ok(Partial { file, path }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path)(error)),
            }
        }
    }

    /// Make a finished file in a scratch directory a blob.
    pub(crate) fn adopt_file(&self, file: &Path, digest: &Digest) -> Result<()> {
        if self.options.sync {
            File::open(file).and_then(|file| file.sync_data()).map_err(Error::io("sync", file))?;
        }
        self.adopt_unsynced(file, digest)?;
        if self.options.sync { sync_dir(&self.path("blobs/sha256")) } else { Ok(()) }
    }

    /// The same for a build's step, whose end writes everything to the disk at once.
    pub(crate) fn adopt_unsynced(&self, file: &Path, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        fs::rename(file, &path).map_err(Error::io("store", &path))
    }
}

impl Partial {
    /// Bytes that are there already.
    pub(crate) fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io("read", &self.path))?.len())
    }

    /// Forget what is there.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(Error::io("write", &self.path))?;
        Ok(())
    }

    /// A second descriptor to read from the beginning.
    pub(crate) fn reader(&self) -> Result<File> {
        File::open(&self.path).map_err(Error::io("open", &self.path))
    }

    /// Continue behind what is there.
    pub(crate) fn seek_end(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::End(0)).map_err(Error::io("write", &self.path)).map(drop)
    }

    /// The blob is whole and verified: show it.
    pub(crate) fn commit(&self, store: &Store, digest: &Digest) -> Result<()> {
        if store.options.sync {
            self.file.sync_data().map_err(Error::io("sync", &self.path))?;
        }
        let path = store.blob_path(digest);
        fs::rename(&self.path, &path).map_err(Error::io("store", &path))?;
        if store.options.sync { sync_dir(&store.path("blobs/sha256")) } else { Ok(()) }
    }

    /// Replace what is there by a layer, or what came of it.
    pub(crate) fn fill(&mut self, mut layer: Assembled) -> Result<()> {
        self.clear()?;
        io::copy(&mut layer, self).map(drop).map_err(Error::io("write", &self.path))
    }

    /// The blob is wrong or not needed: remove it.
    pub(crate) fn discard(self) {
        // Best effort: leftovers are collected.
        let _ = fs::remove_file(&self.path);
    }
}

impl Write for Partial {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf).map_err(|error| carry("write", &self.path, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Wrap an error so that it keeps its path on the way through readers and writers.
pub(crate) fn carry(action: &'static str, path: &Path, error: io::Error) -> io::Error {
    let kind = error.kind();
    if kind == io::ErrorKind::Interrupted {
        return error;
    }
    io::Error::new(kind, Error::io(action, path)(error))
}

/// A writer into a scratch file that hashes.
pub(crate) fn scratch_writer(path: &Path) -> Result<HashWriter<io::BufWriter<File>>> {
    let file = File::create_new(path).map_err(Error::io("create", path))?;
    Ok(HashWriter::new(io::BufWriter::with_capacity(256 << 10, file)))
}
