//! Files that go from the page cache to the socket without passing through this process, by `sendfile(2)`.
//!
//! HTTP is hyper's, and hyper only writes memory. So the body of an answer is placeholder memory that nobody looks into,
//! and what it stands for is noted beside the connection; below hyper, [`Direct`] sees placeholders come by and has the
//! kernel send the noted parts instead. Only for HTTP/1 without TLS: there, slices of a body reach the stream as they are.
//! If they ever did not, notes would be left when a write is complete, and then the connection fails.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    ops::Range,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rustix::io::ReadWriteFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::Body;

/// Bytes of a placeholder at most.
const FRAME: u64 = 1 << 20;
/// One page of so many bytes is looked at to know whether the page cache has them.
const STEP: u64 = 256 << 10;

/// Placeholder memory. It is never touched, so it costs address space only.
fn hole() -> &'static [u8] {
    static HOLE: OnceLock<Box<[u8]>> = OnceLock::new();
    HOLE.get_or_init(|| vec![0; FRAME as usize].into())
}

fn is_hole(slice: &[u8]) -> bool {
    hole().as_ptr_range().contains(&slice.as_ptr())
}

/// What the placeholders that are under way stand for, in order.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<VecDeque<Part>>);

#[derive(Debug)]
struct Part {
    file: Arc<File>,
    at: u64,
    length: usize,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a file as the body of an answer on the connection that the notes belong to.
pub(super) fn body(file: File, range: Range<u64>, notes: Arc<Notes>) -> Body {
    let (file, end) = (Arc::new(file), range.end);
    let frames = stream::unfold(range.start, move |at| {
        let (file, notes) = (file.clone(), notes.clone());
        async move {
            if at >= end {
                return None;
            }
            let next = end.min(at + FRAME);
            if let Err(error) = warm(&file, at..next).await {
                return Some((Err(error), end));
            }
            let length = (next - at) as usize;
            notes.lock().push_back(Part { file, at, length });
            Some((Ok(Frame::data(Bytes::from_static(&hole()[..length]))), next))
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Have the page cache hold this part: the event loop must not wait for the disk.
async fn warm(file: &Arc<File>, range: Range<u64>) -> io::Result<()> {
    let cached = |at: u64| {
        let mut byte = [0];
        let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
        // Also when the file system cannot say: then it is read.
        read == Ok(1)
    };
    if range.clone().step_by(STEP as usize).chain([range.end - 1]).all(cached) {
        return Ok(());
    }
    let file = file.clone();
    crate::objects::blocking(move || {
        let mut buffer = vec![0; 128 << 10];
        let mut at = range.start;
        while at < range.end {
            let most = buffer.len().min((range.end - at) as usize);
            match file.read_at(&mut buffer[..most], at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => at += read as u64,
            }
        }
        Ok(())
    })
    .await
}

/// See the module.
#[derive(Debug)]
pub(super) struct Direct {
    stream: TcpStream,
    notes: Arc<Notes>,
}

impl Direct {
    pub(super) fn new(stream: TcpStream) -> (Self, Arc<Notes>) {
        let notes = Arc::<Notes>::default();
        (Self { stream, notes: notes.clone() }, notes)
    }

    /// Send what the next `most` bytes of placeholder stand for.
    fn poll_send(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let mut notes = self.notes.lock();
            let Some(part) = notes.front_mut() else {
                return Poll::Ready(Err(io::Error::other("a placeholder without a file")));
            };
            let (stream, length) = (&self.stream, part.length.min(most));
            let mut at = part.at;
            let sent = stream.try_io(Interest::WRITABLE, || {
                Ok(rustix::fs::sendfile(stream, &*part.file, Some(&mut at), length)?)
            });
            match sent {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(sent) => {
                    part.at += sent as u64;
                    part.length -= sent;
                    if part.length == 0 {
                        notes.pop_front();
                    }
                    return Poll::Ready(Ok(sent));
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Direct {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Direct {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if is_hole(buffer) {
            return this.poll_send(cx, buffer.len());
        }
        Pin::new(&mut this.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let empty = buffers.iter().take_while(|buffer| buffer.is_empty()).count();
        let buffers = &buffers[empty..];
        match buffers.iter().position(|buffer| is_hole(buffer)) {
            Some(0) => this.poll_send(cx, buffers[0].len()),
            Some(hole) => Pin::new(&mut this.stream).poll_write_vectored(cx, &buffers[..hole]),
            None => Pin::new(&mut this.stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.notes.lock().is_empty() {
            return Poll::Ready(Err(io::Error::other("a placeholder was sent as it is")));
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    #[tokio::test]
    async fn placeholders_become_the_file_between_other_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        file.write_all(&content).unwrap();
        let (server, mut client) = pair().await;
        let (mut direct, notes) = Direct::new(server);
        let part = 5..content.len() as u64 - 7;
        let mut body = body(file, part, notes);
        let sending = tokio::spawn(async move {
            direct.write_all(b"head").await.unwrap();
            while let Some(frame) = body.frame().await {
                direct.write_all(&frame.unwrap().into_data().unwrap()).await.unwrap();
                direct.flush().await.unwrap();
            }
            direct.write_all(b"tail").await.unwrap();
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        sending.await.unwrap();
        let expected = [&b"head"[..], &content[5..content.len() - 7], b"tail"].concat();
        assert!(got == expected, "{} bytes", got.len());
    }

    #[tokio::test]
    async fn a_placeholder_that_was_copied_ends_the_connection() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 1000]).unwrap();
        let (server, _client) = pair().await;
        let (mut direct, notes) = Direct::new(server);
        let mut body = body(file, 0..1000, notes);
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let copied = Vec::from(frame);
        direct.write_all(&copied).await.unwrap();
        assert!(direct.flush().await.is_err());
    }
}
