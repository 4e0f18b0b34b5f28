//! A file that one task writes while others read what is there.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::watch;

use crate::objects::{ByteStream, blocking};

/// Bytes that are read at once.
const READ: u64 = 512 << 10;

#[derive(Clone, Debug)]
struct State {
    length: u64,
    /// Complete, or why not.
    end: Option<Result<(), String>>,
}

/// The readers' side.
#[derive(Clone, Debug)]
pub(crate) struct Growing {
    file: Arc<File>,
    state: watch::Receiver<State>,
}

/// The writer's side. Dropped without an end, reading fails.
#[derive(Debug)]
pub(crate) struct Grower {
    path: PathBuf,
    file: Arc<File>,
    state: watch::Sender<State>,
}

/// A new file of this name.
pub(crate) async fn create(path: PathBuf) -> io::Result<(Growing, Grower)> {
    let made = path.clone();
    let file = blocking(move || File::options().create_new(true).read(true).write(true).open(made)).await?;
    let file = Arc::new(file);
    let (sender, state) = watch::channel(State { length: 0, end: None });
    Ok((Growing { file: file.clone(), state }, Grower { path, file, state: sender }))
}

impl Grower {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn append(&self, bytes: Bytes) -> io::Result<()> {
        let (file, at, count) = (self.file.clone(), self.state.borrow().length, bytes.len() as u64);
        blocking(move || file.write_all_at(&bytes, at)).await?;
        self.state.send_modify(|state| state.length += count);
        Ok(())
    }

    /// What was written is on the disk.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let file = self.file.clone();
        blocking(move || file.sync_data()).await
    }

    pub(crate) fn end(&self, outcome: Result<(), String>) {
        self.state.send_modify(|state| state.end = Some(outcome));
    }
}

impl Growing {
    /// Bytes at `at` and further as soon as there are any; nothing when the file is complete and has no more.
    pub(crate) async fn read(&mut self, at: u64, most: u64) -> io::Result<Option<Bytes>> {
        let state = self.state.wait_for(|state| state.length > at || state.end.is_some()).await;
        let now = state.map_err(io::Error::other)?.clone();
        if now.length > at {
            let (file, count) = (self.file.clone(), (now.length - at).min(most).min(READ));
            let read = move || {
                let mut buffer = vec![0; count as usize];
                file.read_exact_at(&mut buffer, at)?;
                Ok(Bytes::from(buffer))
            };
            return blocking(read).await.map(Some);
        }
        match now.end {
            Some(Err(why)) => Err(io::Error::other(why)),
            _ => Ok(None),
        }
    }

    /// Everything, as it comes.
    pub(crate) fn stream(self) -> ByteStream {
        stream::try_unfold((self, 0), |(mut growing, at)| async move {
            let bytes = growing.read(at, u64::MAX).await?;
            Ok(bytes.map(|bytes| {
                let next = at + bytes.len() as u64;
                (bytes, (growing, next))
            }))
        })
        .boxed()
    }

    /// A part, as it comes; what does not come that way comes from `instead`.
    pub(crate) fn stream_or(
        self,
        range: Range<u64>,
        instead: impl FnOnce(Range<u64>) -> ByteStream + Send + 'static,
    ) -> ByteStream {
        let begin = (Source::Growing(self, Box::new(instead)), range);
        stream::try_unfold(begin, |(mut source, mut range)| async move {
            while range.start < range.end {
                match source {
                    Source::Growing(mut growing, instead) => {
                        match growing.read(range.start, range.end - range.start).await {
                            Ok(Some(bytes)) => {
                                range.start += bytes.len() as u64;
                                return Ok(Some((bytes, (Source::Growing(growing, instead), range))));
                            }
                            Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                            Err(_) => source = Source::Other(instead(range.clone())),
                        }
                    }
                    Source::Other(mut stream) => {
                        let Some(bytes) = stream.next().await.transpose()? else { break };
                        range.start += bytes.len() as u64;
                        return Ok(Some((bytes, (Source::Other(stream), range))));
                    }
                }
            }
            Ok(None)
        })
        .boxed()
    }

    /// Its writer went away without an end.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.has_changed().is_err() && self.state.borrow().end.is_none()
    }

    /// Wait for the end.
    pub(crate) async fn ended(mut self) -> io::Result<()> {
        let state = self.state.wait_for(|state| state.end.is_some()).await.map_err(io::Error::other)?;
        state.end.clone().unwrap_or(Ok(())).map_err(io::Error::other)
    }
}

enum Source {
    Growing(Growing, Box<dyn FnOnce(Range<u64>) -> ByteStream + Send>),
    Other(ByteStream),
}
