//! The shim's loop: one thread, `epoll`, and for each descriptor a word on whose it is.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};

use super::container::Container;
use super::exec::Exec;
use super::pod::Pod;
use crate::cgroup::CgroupPlan;
use crate::channel::{self, Inbox};
use crate::error::{Error, Result};
use crate::state;
use crate::sys;
use crate::wire::{Call, Failure, MAX_FRAME, Message, Response};

/// Most bytes that wait for a client that does not read; then it is dropped and must list again.
const MAX_OUTBOX: usize = 2 * MAX_FRAME;
/// Most clients at a time.
const MAX_CLIENTS: usize = 16;
/// Output read at once.
pub(super) const CHUNK: usize = 32 << 10;

/// Whose a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Listener,
    Client,
    /// The start of a container's process.
    Start(String),
    /// The start of an exec's process.
    ExecStart(u64),
    /// A container's stdout (0, also its terminal) or stderr (1).
    Output(String, usize),
    /// A container's stdin, which did not take everything.
    Stdin(String),
    /// An attached client's stdin.
    AttachedInput(String, u64),
    /// An attached client's stdout or stderr, watched for its end.
    AttachedOutput(String, u64),
}

/// A connected main process.
#[derive(Debug)]
struct Client {
    socket: UnixStream,
    inbox: Inbox,
    outbox: VecDeque<Outgoing>,
    waiting: usize,
}

#[derive(Debug)]
struct Outgoing {
    frame: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// Which call of which client waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub client: u64,
    pub call: u64,
}

/// The shim.
#[derive(Debug)]
pub(super) struct Shim {
    epoll: Epoll,
    next: u64,
    sources: BTreeMap<u64, Source>,
    clients: BTreeMap<u64, Client>,
    listener: Option<UnixListener>,
    signals: SignalFd,
    pub pod: Option<Pod>,
    pub containers: BTreeMap<String, Container>,
    pub execs: BTreeMap<u64, Exec>,
    pub scratch: Vec<u8>,
    /// End once the outgoing answers are sent.
    pub ending: bool,
}

/// Serves a pod until it is removed. Does not return.
pub(super) fn run(dir: &Path, socket: UnixStream) -> ! {
    let code =
        match super::leave_zygote(socket).map_err(|e| Error::os("leave the zygote", e)).and_then(Shim::new) {
            Ok(mut shim) => shim.serve(dir).map_or(1, |()| 0),
            Err(_) => 1,
        };
    // SAFETY: ends this process; the zygote's exit handlers are not ours to run.
    unsafe { libc::_exit(code) }
}

impl Shim {
    fn new(socket: UnixStream) -> Result<Self> {
        let failed = |what: &'static str| move |error: nix::Error| Error::os(what, error.into());
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
            mask.add(signal);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).map_err(failed("block signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&mask, flags).map_err(failed("open a signal descriptor"))?;
        let mut shim = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("open epoll"))?,
            next: 0,
            sources: BTreeMap::new(),
            clients: BTreeMap::new(),
            listener: None,
            signals,
            pod: None,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            scratch: Vec::new(),
            ending: false,
        };
        let token = shim.token(Source::Signals);
        shim.epoll
            .add(&shim.signals, EpollEvent::new(EpollFlags::EPOLLIN, token))
            .map_err(failed("watch signals"))?;
        shim.add_client(socket)?;
        Ok(shim)
    }

    fn token(&mut self, source: Source) -> u64 {
        self.next += 1;
        self.sources.insert(self.next, source);
        self.next
    }

    /// Watches a descriptor; the number ends it with [`Shim::unwatch`].
    pub(super) fn watch(&mut self, fd: &impl AsFd, flags: EpollFlags, source: Source) -> Result<u64> {
        let token = self.token(source);
        match self.epoll.add(fd, EpollEvent::new(flags, token)) {
            Ok(()) => Ok(token),
            Err(error) => {
                self.sources.remove(&token);
                Err(Error::os("watch a descriptor", error.into()))
            }
        }
    }

    /// Changes what is waited for.
    pub(super) fn rewatch(&self, fd: &impl AsFd, token: u64, flags: EpollFlags) {
        let mut event = EpollEvent::new(flags, token);
        // Fails only for a descriptor that is not watched, and then nothing is lost.
        let _ = self.epoll.modify(fd, &mut event);
    }

    /// Stops watching. Call it before the descriptor is closed.
    pub(super) fn unwatch(&mut self, fd: &impl AsFd, token: u64) {
        self.sources.remove(&token);
        let _ = self.epoll.delete(fd);
    }

    fn serve(&mut self, dir: &Path) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            // A pod that never came to be, or was removed, needs no shim.
            let idle = self.clients.is_empty() && self.pod.is_none();
            if idle || (self.ending && self.clients.values().all(|client| client.outbox.is_empty())) {
                return Ok(());
            }
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                // What an earlier event of this round took away is no longer there.
                let Some(source) = self.sources.get(&event.data()).cloned() else { continue };
                self.handle(dir, event.data(), source, event.events());
            }
        }
    }

    fn handle(&mut self, dir: &Path, token: u64, source: Source, flags: EpollFlags) {
        match source {
            Source::Signals => self.reap(),
            Source::Listener => self.accept(),
            Source::Client => self.serve_client(dir, token, flags),
            Source::Start(id) => self.container_progress(&id),
            Source::ExecStart(exec) => self.exec_progress(exec),
            Source::Output(id, stream) => drop(self.read_output(&id, stream)),
            Source::Stdin(id) => self.flush_input(&id),
            Source::AttachedInput(id, number) => self.read_attached(&id, number),
            Source::AttachedOutput(id, number) => self.detach(&id, number),
        }
    }

    /// Opens the socket through which later main processes come.
    pub(super) fn listen(&mut self, dir: &Path) -> Result<()> {
        let failed = |error| Error::os(format!("listen at {}/{}", dir.display(), state::SOCKET), error);
        let directory = std::fs::File::open(dir).map_err(failed)?;
        let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), state::SOCKET);
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        self.watch(&listener, EpollFlags::EPOLLIN, Source::Listener)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn accept(&mut self) {
        loop {
            let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) else { return };
            // Only root may command root's containers; the directory's permissions say so as well.
            let root = getsockopt(&socket, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() == 0);
            if root && self.clients.len() < MAX_CLIENTS {
                let _ = self.add_client(socket);
            }
        }
    }

    fn add_client(&mut self, socket: UnixStream) -> Result<()> {
        socket.set_nonblocking(true).map_err(|error| Error::os("open a client's socket", error))?;
        let token = self.watch(&socket, EpollFlags::EPOLLIN, Source::Client)?;
        let client = Client { socket, inbox: Inbox::default(), outbox: VecDeque::new(), waiting: 0 };
        self.clients.insert(token, client);
        Ok(())
    }

    fn drop_client(&mut self, token: u64) {
        if let Some(client) = self.clients.remove(&token) {
            self.unwatch(&client.socket, token);
        }
    }

    fn serve_client(&mut self, dir: &Path, token: u64, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.flush(token);
        }
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        let Some(client) = self.clients.get_mut(&token) else { return };
        match client.inbox.receive(&client.socket) {
            Ok(0) => return self.drop_client(token),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(_) => return self.drop_client(token),
        }
        loop {
            let Some(client) = self.clients.get_mut(&token) else { return };
            let next = client.inbox.take::<Call>().and_then(|call| match call {
                Some(call) => Ok(Some((client.inbox.take_fds(call.fds)?, call))),
                None => Ok(None),
            });
            match next {
                Ok(Some((fds, call))) => {
                    self.request(dir, Caller { client: token, call: call.id }, call.request, fds);
                }
                Ok(None) => return,
                // A client that does not speak our language is dropped.
                Err(_) => return self.drop_client(token),
            }
        }
    }

    /// Answers a call.
    pub(super) fn reply(&mut self, caller: Caller, result: Result<Response>, fds: Vec<OwnedFd>) {
        let result = result.map_err(Failure::from);
        let message = Message::Reply { id: caller.call, fds: fds.len(), result };
        self.send(caller.client, &message, fds);
    }

    /// Tells every client.
    pub(super) fn broadcast(&mut self, message: &Message) {
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        for client in clients {
            self.send(client, message, Vec::new());
        }
    }

    /// Tells one client. One that is gone, or reads too slowly, is no concern.
    pub(super) fn send(&mut self, token: u64, message: &Message, fds: Vec<OwnedFd>) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let Ok(frame) = channel::encode(message) else { return self.drop_client(token) };
        client.waiting += frame.len();
        if client.waiting > MAX_OUTBOX {
            return self.drop_client(token);
        }
        client.outbox.push_back(Outgoing { frame, sent: 0, fds });
        self.flush(token);
    }

    fn flush(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        while let Some(next) = client.outbox.front_mut() {
            let raw: Vec<_> = next.fds.iter().map(AsRawFd::as_raw_fd).collect();
            match channel::send(&client.socket, &next.frame[next.sent..], &raw) {
                Ok(count) => {
                    next.sent += count;
                    next.fds.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.drop_client(token),
            }
            if next.sent == next.frame.len() {
                client.waiting -= next.frame.len();
                client.outbox.pop_front();
            }
        }
        let flags = match client.outbox.is_empty() {
            true => EpollFlags::EPOLLIN,
            false => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        };
        let Some(client) = self.clients.get(&token) else { return };
        self.rewatch(&client.socket, token, flags);
    }

    /// Takes in the ends of children, ours and those that were left to us.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let mut status = 0;
            // SAFETY: writes one int.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let (code, signal) = match libc::WIFSIGNALED(status) {
                true => (128 + libc::WTERMSIG(status), Some(libc::WTERMSIG(status))),
                false => (libc::WEXITSTATUS(status), None),
            };
            let container = self.containers.values().find(|container| container.pid == Some(pid));
            if let Some(id) = container.map(|container| container.status.id.clone()) {
                self.container_ended(&id, code, signal);
            } else if let Some(exec) =
                self.execs.iter().find(|(_, exec)| exec.pid == pid).map(|(number, _)| *number)
            {
                self.exec_ended(exec, code, signal);
            }
        }
    }

    /// Kills everything in a cgroup, reaping meanwhile.
    pub(super) fn kill_cgroup(&mut self, cgroup: &CgroupPlan) -> Result<()> {
        let signals =
            self.signals.as_fd().try_clone_to_owned().map_err(|error| Error::os("watch signals", error))?;
        let killed = cgroup.kill_reaping(Some((signals.as_fd(), &mut || self.reap())));
        self.reap();
        killed
    }

    /// The pod, which every request but the first needs.
    pub(super) fn pod(&self) -> Result<&Pod> {
        self.pod.as_ref().ok_or_else(|| Error::Conflict("the pod sandbox is not made yet".to_owned()))
    }

    /// A pair of sockets for the start of a process: the shim's end is non-blocking.
    pub(super) fn start_sockets() -> Result<(OwnedFd, OwnedFd)> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
        let made = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = made.map_err(|error| Error::os("make a socket pair", error.into()))?;
        sys::set_nonblocking(&ours).map_err(|error| Error::os("make a socket pair", error))?;
        Ok((ours, theirs))
    }
}
