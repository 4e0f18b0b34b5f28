//! The main process's end of a connection to a shim or the zygote: calls, replies and notifications.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::channel::{self, Inbox};
use crate::error::{Error, Result};
use crate::status::Exit;
use crate::wire::{Call, Message, Request, Response};

/// A reply: what it says and the descriptors that came with it.
type Reply = Result<(Response, Vec<OwnedFd>)>;

/// One connection. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    /// For error messages.
    peer: String,
    stream: UnixStream,
    sending: tokio::sync::Mutex<()>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    calls: HashMap<u64, oneshot::Sender<Reply>>,
    execs: HashMap<u64, oneshot::Sender<Exit>>,
}

impl Connection {
    /// Takes over a connected socket.
    pub(crate) fn new(peer: impl Into<String>, socket: std::os::unix::net::UnixStream) -> Result<Self> {
        let peer = peer.into();
        let prepare = || {
            socket.set_nonblocking(true)?;
            UnixStream::from_std(socket)
        };
        let stream = prepare().map_err(|error| Error::os(format!("open the socket of {peer}"), error))?;
        Ok(Self {
            peer,
            stream,
            sending: tokio::sync::Mutex::default(),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn call(&self, request: Request) -> Result<Response> {
        Ok(self.call_with_fds(request, Vec::new()).await?.0)
    }

    /// The same with descriptors, which are closed here once sent.
    pub(crate) async fn call_with_fds(&self, request: Request, fds: Vec<OwnedFd>) -> Reply {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let call = Call { id, fds: fds.len(), request };
        let frame = channel::encode(&call).map_err(|error| Error::Invalid(error.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.closed {
                return Err(self.gone());
            }
            waiting.calls.insert(id, sender);
        }
        if let Err(error) = self.send(&frame, &fds).await {
            self.waiting().calls.remove(&id);
            return Err(Error::os(format!("send to {}", self.peer), error));
        }
        drop(fds);
        receiver.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> Error {
        Error::Lost { id: self.peer.clone() }
    }

    async fn send(&self, frame: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let _turn = self.sending.lock().await;
        let mut raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut sent = 0;
        while sent < frame.len() {
            self.stream.writable().await?;
            match self.stream.try_io(Interest::WRITABLE, || channel::send(&self.stream, &frame[sent..], &raw))
            {
                Ok(count) => {
                    sent += count;
                    raw.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Expects the end of an exec. Register before starting it.
    pub(crate) fn expect_exec(&self, exec: u64) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().execs.insert(exec, sender);
        receiver
    }

    /// No longer expects it.
    pub(crate) fn forget_exec(&self, exec: u64) {
        self.waiting().execs.remove(&exec);
    }

    /// Reads until the peer closes; ends of containers are handed to `exited`. All waiting calls then fail.
    pub(crate) async fn read(&self, mut exited: impl FnMut(String, Exit)) {
        let mut inbox = Inbox::default();
        let ended = self.read_until_end(&mut inbox, &mut exited).await;
        if let Err(error) = ended {
            tracing::debug!(peer = %self.peer, %error, "connection ended");
        }
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.calls.clear();
        waiting.execs.clear();
    }

    async fn read_until_end(
        &self,
        inbox: &mut Inbox,
        exited: &mut impl FnMut(String, Exit),
    ) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_io(Interest::READABLE, || inbox.receive(&self.stream)) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            while let Some(message) = inbox.take::<Message>()? {
                match message {
                    Message::Reply { id, fds, result } => {
                        let fds = inbox.take_fds(fds)?;
                        let reply = result.map(|response| (response, fds)).map_err(Error::from);
                        if let Some(sender) = self.waiting().calls.remove(&id) {
                            // The caller may have given up meanwhile.
                            let _ = sender.send(reply);
                        }
                    }
                    Message::ContainerExited { container, exit } => exited(container, exit),
                    Message::ExecExited { exec, exit } => {
                        if let Some(sender) = self.waiting().execs.remove(&exec) {
                            let _ = sender.send(exit);
                        }
                    }
                }
            }
        }
    }
}
