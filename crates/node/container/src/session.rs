//! Streams to and from processes: what exec and attach give the caller.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::client::Connection;
use crate::config::TerminalSize;
use crate::error::{Error, Result};
use crate::status::Exit;
use crate::wire::Request;

/// One direction of a process's streams: a pipe, or the master of its terminal. Bytes go straight between this process
/// and the container's, not through the shim. Drop it to close it.
#[derive(Debug)]
pub struct Stream {
    fd: AsyncFd<OwnedFd>,
}

impl Stream {
    /// Takes over a descriptor and makes it non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self> {
        let failed = |error| Error::os("open a stream", error);
        crate::sys::set_nonblocking(&fd).map_err(failed)?;
        // SAFETY: an owned descriptor stays open, and the same, as long as it is registered.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|error| failed(error.into()))?;
        Ok(Self { fd })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref().as_fd(), space)?)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose last user closed it reports EIO.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: a pipe is closed by dropping the stream.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A process started by [`crate::PodSandbox::exec`]. Take the streams out of it and use them side by side; a stream
/// left in it is closed with it. Dropping the session does not kill the process.
#[derive(Debug)]
pub struct ExecSession {
    /// To its stdin, when asked for. Dropping it closes the stdin (with a terminal: a copy of the master, closing it
    /// does not end the input; send 0x04 instead).
    pub stdin: Option<Stream>,
    /// From its stdout, or from its terminal.
    pub stdout: Option<Stream>,
    /// From its stderr.
    pub stderr: Option<Stream>,
    /// Resizes, signals and waits.
    pub process: ExecProcess,
}

/// The process of an [`ExecSession`].
#[derive(Debug)]
pub struct ExecProcess {
    pub(crate) connection: Arc<Connection>,
    pub(crate) id: u64,
    /// Process on the host.
    pub(crate) pid: u32,
    pub(crate) ended: Option<oneshot::Receiver<Exit>>,
    pub(crate) exit: Option<Exit>,
    pub(crate) tty: bool,
}

impl ExecProcess {
    /// Process id on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A handle that resizes and signals while another task waits.
    pub fn control(&self) -> ExecControl {
        ExecControl { connection: self.connection.clone(), id: self.id, tty: self.tty }
    }

    /// Waits for its end; may be called again. Output may still be in the streams: read them to their end.
    pub async fn wait(&mut self) -> Result<Exit> {
        if let Some(exit) = &self.exit {
            return Ok(exit.clone());
        }
        let gone = || Error::Lost { id: format!("exec {}", self.id) };
        let ended = self.ended.as_mut().ok_or_else(gone)?;
        match ended.await {
            Ok(exit) => {
                self.exit = Some(exit.clone());
                Ok(exit)
            }
            Err(_) => {
                self.ended = None;
                Err(Error::Lost { id: format!("exec {}", self.id) })
            }
        }
    }
}

/// Resizes and signals an exec's process.
#[derive(Debug, Clone)]
pub struct ExecControl {
    connection: Arc<Connection>,
    id: u64,
    tty: bool,
}

impl ExecControl {
    /// Changes the size of its terminal; without one nothing happens.
    pub async fn resize(&self, size: TerminalSize) -> Result<()> {
        if !self.tty {
            return Ok(());
        }
        self.connection.call(Request::ResizeExec { exec: self.id, size }).await.map(drop)
    }

    /// Sends it a signal.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        self.connection.call(Request::SignalExec { exec: self.id, signal }).await.map(drop)
    }
}

/// Streams attached to a container by [`crate::PodSandbox::attach`]. Output streams end when the container ends, or
/// when this client reads so slowly that its pipe is full: then it is dropped, the container never waits for it.
#[derive(Debug)]
pub struct AttachSession {
    /// To the container's stdin.
    pub stdin: Option<Stream>,
    /// From its stdout, or from its terminal.
    pub stdout: Option<Stream>,
    /// From its stderr.
    pub stderr: Option<Stream>,
}

/// A command started by [`crate::Runtime::run`].
#[derive(Debug)]
pub struct Run {
    /// Its stdout.
    pub stdout: Option<Stream>,
    /// Its stderr.
    pub stderr: Option<Stream>,
    pub(crate) sandbox: crate::PodSandbox,
    pub(crate) container: String,
}

impl Run {
    /// Waits for its end and removes what it ran in. Read the streams meanwhile, or a chatty command blocks.
    pub async fn wait(self) -> Result<Exit> {
        let exit = self.sandbox.wait_container(&self.container).await;
        let removed = self.sandbox.remove().await;
        let exit = exit?;
        removed?;
        Ok(exit)
    }

    /// Kills it and removes what it ran in. Dropping a `Run` instead leaves it running until the next adoption.
    pub async fn cancel(self) -> Result<()> {
        self.sandbox.remove().await
    }
}

/// A pipe: reading end, writing end.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| Error::os("make a pipe", error.into()))
}

/// Pipes for the wanted ones of stdin, stdout and stderr.
pub(crate) struct Pipes {
    /// The caller's ends.
    pub(crate) ours: [Option<OwnedFd>; 3],
    /// The other ends, in order.
    pub(crate) theirs: Vec<OwnedFd>,
}

impl Pipes {
    /// Makes them. `ours` of stdin writes, of the others reads.
    pub(crate) fn new(wanted: [bool; 3]) -> Result<Self> {
        let mut pipes = Self { ours: [None, None, None], theirs: Vec::new() };
        for (index, wanted) in wanted.into_iter().enumerate() {
            if !wanted {
                continue;
            }
            let (reader, writer) = pipe()?;
            let (ours, theirs) = if index == 0 { (writer, reader) } else { (reader, writer) };
            pipes.ours[index] = Some(ours);
            pipes.theirs.push(theirs);
        }
        Ok(pipes)
    }

    /// The caller's ends as streams.
    pub(crate) fn streams(self) -> Result<[Option<Stream>; 3]> {
        let [stdin, stdout, stderr] = self.ours;
        Ok([
            stdin.map(Stream::new).transpose()?,
            stdout.map(Stream::new).transpose()?,
            stderr.map(Stream::new).transpose()?,
        ])
    }
}

/// A second descriptor of the same open file.
pub(crate) fn duplicate(fd: &impl AsRawFd) -> Result<OwnedFd> {
    // SAFETY: the descriptor is open, and F_DUPFD_CLOEXEC only makes a new one.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(Error::last_os("duplicate a descriptor"));
    }
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
}
