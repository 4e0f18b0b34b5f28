//! Objects as files. An object appears by rename after it was synced, and its directory is synced after that.

use std::{
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{ByteStream, Found};
use crate::error::{ApiResult, Error};

/// Bytes that are read at once.
const READ: u64 = 256 << 10;
/// Reads that are ahead of the client.
const AHEAD: usize = 2;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    dir: Arc<Path>,
}

impl Local {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        for part in ["blobs", "packs", "recipes", "tmp"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(Error::io(path.display().to_string()))?;
        }
        Ok(Self { dir: Arc::from(dir) })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    pub(crate) async fn put_file(&self, key: &str, file: &Path) -> ApiResult<()> {
        let (path, file) = (self.path(key), file.to_owned());
        blocking(move || {
            File::open(&file)?.sync_data()?;
            place(&file, &path)
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> ApiResult<()> {
        let path = self.path(key);
        let temporary = self.dir.join("tmp").join(uuid::Uuid::new_v4().to_string());
        blocking(move || {
            let written = File::create_new(&temporary).and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_data()
            });
            let placed = written.and_then(|()| place(&temporary, &path));
            if placed.is_err() {
                // Half a file is of no use to anybody.
                let _ = fs::remove_file(&temporary);
            }
            placed
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn read(&self, key: &str, range: Range<u64>) -> ApiResult<Option<Bytes>> {
        let path = self.path(key);
        let read = blocking(move || {
            let file = File::open(path)?;
            read_at(&file, range)
        });
        found(read.await)
    }

    pub(crate) async fn read_all(&self, key: &str) -> ApiResult<Option<Bytes>> {
        let path = self.path(key);
        found(blocking(move || fs::read(path).map(Bytes::from)).await)
    }

    pub(crate) async fn stream(&self, key: &str, range: Range<u64>) -> ApiResult<Option<ByteStream>> {
        let file = self.open_file(key).await?;
        Ok(file.map(|file| read_file(file, range)))
    }

    pub(crate) async fn open_file(&self, key: &str) -> ApiResult<Option<File>> {
        let path = self.path(key);
        found(blocking(move || File::open(path)).await)
    }

    pub(crate) async fn delete(&self, key: &str) -> ApiResult<()> {
        let path = self.path(key);
        found(blocking(move || fs::remove_file(path)).await)?;
        Ok(())
    }

    pub(crate) async fn list(&self, prefix: &str) -> ApiResult<Vec<Found>> {
        let (dir, root) = (self.path(prefix), self.dir.clone());
        let list = blocking(move || {
            let mut all = Vec::new();
            let mut queue = vec![dir];
            while let Some(dir) = queue.pop() {
                let entries = match fs::read_dir(&dir) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    entries => entries?,
                };
                for entry in entries {
                    let entry = entry?;
                    // It may have gone meanwhile.
                    let Ok(meta) = entry.metadata() else { continue };
                    let path = entry.path();
                    if meta.is_dir() {
                        queue.push(path);
                    } else if let Ok(key) = path.strip_prefix(&root) {
                        let modified = std::os::unix::fs::MetadataExt::mtime(&meta);
                        let key = key.to_string_lossy().into_owned();
                        all.push(Found { key, size: meta.len(), modified });
                    }
                }
            }
            Ok(all)
        });
        Ok(list.await?)
    }
}

/// Blocking work off the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn found<T>(outcome: io::Result<T>) -> ApiResult<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Rename, and make the new name durable.
fn place(file: &Path, path: &Path) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    match fs::rename(file, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !parent.exists() => {
            fs::create_dir_all(parent)?;
            for made in parent.ancestors().skip(1).take(2) {
                File::open(made)?.sync_all()?;
            }
            fs::rename(file, path)?;
        }
        done => done?,
    }
    File::open(parent)?.sync_all()
}

fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}

/// Memory of [`READ`] bytes that is used again: to get it from the system each time costs as much as to fill it.
struct Buffer(Vec<u8>);

static BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// So many wait to be used again.
const KEPT: usize = 16;

impl Buffer {
    fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let kept = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = Self(kept.unwrap_or_else(|| vec![0; READ as usize]));
        file.read_exact_at(&mut buffer.0[..length], range.start)?;
        Ok(Bytes::from_owner(buffer).slice(..length))
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < KEPT {
            buffers.push(std::mem::take(&mut self.0));
        }
    }
}

/// A part of an open file, read ahead of the client; what was opened stays readable when it is deleted.
pub(crate) fn read_file(file: File, range: Range<u64>) -> ByteStream {
    let file = Arc::new(file);
    let starts = (range.start..range.end).step_by(READ as usize);
    stream::iter(starts)
        .map(move |start| {
            let (file, end) = (file.clone(), range.end.min(start + READ));
            blocking(move || Buffer::read_at(&file, start..end))
        })
        .buffered(AHEAD)
        .into_stream()
        .boxed()
}
