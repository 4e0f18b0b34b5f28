//! Uploads in progress. Each is a directory with what was received and a note of whose it is, so that it goes on after
//! this process was killed; the digest of the whole decides in the end.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    digest::{Algorithm, Digest, Hasher},
    error::{ApiError, ApiResult, Error},
    meta,
    name::project_of,
    options::Limits,
};

/// Bytes that are written at once.
const BATCH: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Uploads {
    dir: PathBuf,
    limits: Limits,
    open: Mutex<HashMap<String, Arc<Upload>>>,
}

/// One upload.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) repository: String,
    dir: PathBuf,
    state: AsyncMutex<Option<State>>,
    /// Bytes that are written, and when the last came (seconds since 1970).
    progress: Mutex<(u64, i64)>,
}

/// What a writer works on. It travels to the blocking threads and back.
#[derive(Debug)]
struct State {
    file: File,
    length: u64,
    /// Of the first `hasher.bytes()` bytes.
    hasher: Hasher,
}

#[derive(Serialize, Deserialize)]
struct Note {
    repository: String,
}

/// A whole upload with the digest that was asked for. Nobody else writes to it while this lives.
#[derive(Debug)]
pub(crate) struct Finished<'a> {
    pub(crate) file: PathBuf,
    pub(crate) size: u64,
    seat: tokio::sync::MutexGuard<'a, Option<State>>,
}

impl Finished<'_> {
    /// The file is somebody else's now.
    pub(crate) fn taken(mut self) {
        *self.seat = None;
    }
}

impl Uploads {
    /// Take up what was not finished.
    pub(crate) fn open(dir: &Path, limits: &Limits) -> Result<Self, Error> {
        let dir = dir.join("uploads");
        fs::create_dir_all(&dir).map_err(Error::io(dir.display().to_string()))?;
        let mut open = HashMap::new();
        for entry in fs::read_dir(&dir).map_err(Error::io(dir.display().to_string()))?.flatten() {
            let path = entry.path();
            match resume(&path) {
                Ok(upload) => {
                    open.insert(entry.file_name().to_string_lossy().into_owned(), Arc::new(upload));
                }
                Err(error) => {
                    tracing::debug!("{}: dropped: {error}", path.display());
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
        Ok(Self { dir, limits: limits.clone(), open: Mutex::new(open) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begin one.
    pub(crate) async fn begin(
        &self,
        repository: &str,
        algorithm: Algorithm,
    ) -> ApiResult<(String, Arc<Upload>)> {
        let full =
            || ApiError::too_many("too many uploads are in progress (hint: finish or cancel some, or wait)");
        {
            let open = self.lock();
            let project = project_of(repository);
            let mine = || open.values().filter(|upload| project_of(&upload.repository) == project).count();
            // No project takes the seats of all others.
            if open.len() >= self.limits.uploads || mine() >= (self.limits.uploads / 4).max(16) {
                return Err(full());
            }
        }
        let id = uuid::Uuid::new_v4().to_string();
        let (dir, note) = (self.dir.join(&id), Note { repository: repository.to_owned() });
        let made = dir.clone();
        let file = crate::objects::blocking(move || {
            fs::create_dir(&made)?;
            fs::write(made.join("note"), serde_json::to_vec(&note).map_err(io::Error::other)?)?;
            File::options().create_new(true).read(true).write(true).open(made.join("data"))
        })
        .await?;
        let upload = Arc::new(Upload {
            repository: repository.to_owned(),
            dir,
            state: AsyncMutex::new(Some(State { file, length: 0, hasher: Hasher::new(algorithm) })),
            progress: Mutex::new((0, meta::now())),
        });
        self.lock().insert(id.clone(), upload.clone());
        Ok((id, upload))
    }

    /// One that was begun for this repository.
    pub(crate) fn get(&self, id: &str, repository: &str) -> ApiResult<Arc<Upload>> {
        let upload = self.lock().get(id).cloned();
        upload.filter(|upload| upload.repository == repository).ok_or_else(ApiError::upload_unknown)
    }

    /// It is finished or given up.
    pub(crate) async fn end(&self, id: &str) {
        let Some(upload) = self.lock().remove(id) else { return };
        let dir = upload.dir.clone();
        // What stays behind is removed when it has become old.
        let _ = crate::objects::blocking(move || fs::remove_dir_all(dir)).await;
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Drop those without progress since `before`. Returns how many.
    pub(crate) async fn drop_old(&self, before: i64) -> usize {
        let old: Vec<String> = {
            let open = self.lock();
            // One that is being written to is held by its writer.
            let idle = |upload: &Arc<Upload>| Arc::strong_count(upload) == 1 && upload.progress().1 < before;
            open.iter().filter(|(_, upload)| idle(upload)).map(|(id, _)| id.clone()).collect()
        };
        for id in &old {
            self.end(id).await;
        }
        old.len()
    }

    /// Append a body. Holds the upload: a second writer is refused. Returns the length then.
    pub(crate) async fn append<B>(&self, upload: &Upload, start: Option<u64>, body: B) -> ApiResult<u64>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let busy = || {
            ApiError::new(
                http::StatusCode::CONFLICT,
                "BLOB_UPLOAD_INVALID",
                "somebody else is writing to this upload",
            )
        };
        let mut seat = upload.state.try_lock().map_err(|_| busy())?;
        let state = match seat.take() {
            Some(state) => state,
            None => upload.reopen().await?,
        };
        if let Some(start) = start.filter(|start| *start != state.length) {
            let message = format!("the upload is at {} and the range begins at {start}", state.length);
            *seat = Some(state);
            return Err(ApiError::range_invalid(message));
        }
        let (state, outcome) = self.receive(upload, state, body).await;
        *seat = state;
        outcome
    }

    /// Write and hash one batch while the next one arrives.
    async fn receive<B>(&self, upload: &Upload, state: State, mut body: B) -> (Option<State>, ApiResult<u64>)
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut state = state;
        let (mut batch, mut failed) = self.batch(&mut body).await;
        while !batch.is_empty() {
            let coming: usize = batch.iter().map(Bytes::len).sum();
            if state.length + coming as u64 > self.limits.blob_bytes {
                let message = format!("a blob has at most {} bytes here", self.limits.blob_bytes);
                return (Some(state), Err(ApiError::size_invalid(message)));
            }
            let parts = std::mem::take(&mut batch);
            let writing = tokio::task::spawn_blocking(move || state.write(&parts));
            if failed.is_none() {
                (batch, failed) = self.batch(&mut body).await;
            }
            let (back, written) = match writing.await {
                Ok(done) => done,
                Err(error) => return (None, Err(io::Error::other(error).into())),
            };
            state = back;
            *upload.progress.lock().unwrap_or_else(PoisonError::into_inner) = (state.length, meta::now());
            if let Err(error) = written {
                return (Some(state), Err(error.into()));
            }
        }
        if let Some(error) = failed {
            // What came before is kept: the client goes on from there.
            return (Some(state), Err(error));
        }
        let length = state.length;
        (Some(state), Ok(length))
    }

    /// Up to a MiB of a body; empty at its end. Bounded in time.
    async fn batch<B>(&self, body: &mut B) -> (Vec<Bytes>, Option<ApiError>)
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        read_batch(body, BATCH, self.limits.stall, self.limits.slow).await
    }

    /// Compare with the digest; the file is ready to become the content then.
    pub(crate) async fn finish<'a>(&self, upload: &'a Upload, digest: &Digest) -> ApiResult<Finished<'a>> {
        let busy = || {
            ApiError::new(
                http::StatusCode::CONFLICT,
                "BLOB_UPLOAD_INVALID",
                "somebody else is writing to this upload",
            )
        };
        let mut seat = upload.state.try_lock().map_err(|_| busy())?;
        let state = match seat.take() {
            Some(state) => state,
            None => upload.reopen().await?,
        };
        let algorithm = digest.algorithm();
        let (state, got) = crate::objects::blocking(move || {
            let mut state = state;
            if state.hasher.algorithm() != algorithm {
                state.hasher = Hasher::new(algorithm);
            }
            state.catch_up()?;
            let got = state.hasher.clone().finish();
            Ok((state, got))
        })
        .await?;
        let size = state.length;
        *seat = Some(state);
        if got != *digest {
            return Err(ApiError::digest_mismatch(digest, &got));
        }
        Ok(Finished { file: upload.dir.join("data"), size, seat })
    }
}

/// Up to `limit` bytes of a body, and what its last frame has more; empty at its end. When it breaks, what came before
/// and why. A body without a byte for `stall`, or slower than this by `slow`, is given up.
pub(crate) async fn read_batch<B>(
    body: &mut B,
    limit: usize,
    stall: Duration,
    slow: Duration,
) -> (Vec<Bytes>, Option<ApiError>)
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let timed_out = || {
        ApiError::new(http::StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", "the body comes too slowly")
    };
    let deadline = tokio::time::Instant::now() + slow;
    let (mut parts, mut bytes) = (Vec::new(), 0);
    while bytes < limit {
        let until = deadline.min(tokio::time::Instant::now() + stall);
        let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else {
            return (parts, Some(timed_out()));
        };
        let Some(frame) = frame else { break };
        match frame {
            Err(error) => {
                let error = ApiError::upload_invalid(format!("the body was cut off: {error}"));
                return (parts, Some(error));
            }
            Ok(frame) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    bytes += data.len();
                    parts.push(data);
                }
            }
        }
    }
    (parts, None)
}

fn resume(dir: &Path) -> io::Result<Upload> {
    let note: Note = serde_json::from_slice(&fs::read(dir.join("note"))?).map_err(io::Error::other)?;
    let data = fs::metadata(dir.join("data"))?;
    let modified = std::os::unix::fs::MetadataExt::mtime(&data);
    let progress = Mutex::new((data.len(), modified));
    Ok(Upload { repository: note.repository, dir: dir.to_owned(), state: AsyncMutex::default(), progress })
}

impl Upload {
    /// Bytes that are there, and when the last came.
    pub(crate) fn progress(&self) -> (u64, i64) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reopen(&self) -> ApiResult<State> {
        let path = self.dir.join("data");
        let (file, length) = crate::objects::blocking(move || {
            let file = File::options().read(true).write(true).open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        })
        .await
        .map_err(|_| ApiError::upload_unknown())?;
        Ok(State { file, length, hasher: Hasher::new(Algorithm::default()) })
    }
}

impl State {
    /// Append; on an error the file is as it was.
    fn write(mut self, parts: &[Bytes]) -> (Self, io::Result<()>) {
        let mut at = self.length;
        for part in parts {
            if let Err(error) = self.file.write_all_at(part, at) {
                let _ = self.file.set_len(self.length);
                return (self, Err(error));
            }
            at += part.len() as u64;
        }
        // Only what follows on what was hashed; after a restart all is read again in the end.
        if self.hasher.bytes() == self.length {
            parts.iter().for_each(|part| self.hasher.update(part));
        }
        self.length = at;
        (self, Ok(()))
    }

    /// Hash what was not.
    fn catch_up(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        while self.hasher.bytes() < self.length {
            let read = self.file.read_at(&mut buffer, self.hasher.bytes())?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hasher.update(&buffer[..read]);
        }
        Ok(())
    }
}
