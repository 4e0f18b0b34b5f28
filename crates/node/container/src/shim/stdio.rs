//! The streams of containers: output into the log and to attached clients, input from them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::epoll::EpollFlags;

use super::server::{CHUNK, Shim, Source};
use crate::config::MAX_ATTACHED;
use crate::error::{Error, Result};
use crate::state;
use crate::status::ContainerState;
use crate::sys;

/// A pipe takes this much without blocking once it is writable at all.
const INPUT_CHUNK: usize = 4096;
/// What an attached client may fall behind before it is dropped: the size of its pipes.
const ATTACHED_PIPE: i32 = 1 << 20;

/// A stream that the container writes to.
#[derive(Debug)]
pub(super) struct Output {
    fd: OwnedFd,
    token: u64,
}

/// The stream that the container reads from.
#[derive(Debug, Default)]
pub(super) struct Input {
    target: Option<OwnedFd>,
    token: Option<u64>,
    /// What the container did not take yet; attached clients wait meanwhile.
    pending: Vec<u8>,
    /// Close it once that is written.
    closing: bool,
    terminal: bool,
}

impl Input {
    /// Sets where input goes.
    pub(super) fn set_target(&mut self, target: Option<OwnedFd>) -> Result<()> {
        if let Some(target) = &target {
            sys::set_nonblocking(target).map_err(|error| Error::os("open stdin", error))?;
        }
        self.target = target;
        Ok(())
    }

    /// Writes what waits, as far as the container takes it.
    fn flush(&mut self) {
        while let (Some(target), false) = (&self.target, self.pending.is_empty()) {
            match nix::unistd::write(target, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return,
                // Nobody reads it any more.
                Err(_) => {
                    self.pending = Vec::new();
                    self.closing = true;
                }
            }
        }
    }
}

/// A client attached to a container.
#[derive(Debug)]
pub(super) struct Attached {
    number: u64,
    stdin: Option<(OwnedFd, u64)>,
    outputs: [Option<(OwnedFd, u64)>; 2],
}

impl Shim {
    /// Begins to read one of a container's outputs.
    pub(super) fn add_output(&mut self, id: &str, stream: usize, fd: OwnedFd) -> Result<()> {
        sys::set_nonblocking(&fd).map_err(|error| Error::os("open an output", error))?;
        let token = self.watch(&fd, EpollFlags::EPOLLIN, Source::Output(id.to_owned(), stream))?;
        self.container_mut(id)?.outputs[stream] = Some(Output { fd, token });
        Ok(())
    }

    /// The container's terminal: output, input and size.
    pub(super) fn set_terminal(&mut self, id: &str, master: OwnedFd) -> Result<()> {
        let failed = |error| Error::os("copy the terminal", error);
        let (output, input) = (master.try_clone().map_err(failed)?, master.try_clone().map_err(failed)?);
        self.add_output(id, 0, output)?;
        let container = self.container_mut(id)?;
        if container.config.stdin {
            container.input.set_target(Some(input))?;
            container.input.terminal = true;
        }
        container.terminal = Some(master);
        Ok(())
    }

    /// Output is there, or its end. Returns whether there may be more.
    pub(super) fn read_output(&mut self, id: &str, stream: usize) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(CHUNK, 0);
        let more = self.read_into(id, stream, &mut scratch);
        self.scratch = scratch;
        more
    }

    fn read_into(&mut self, id: &str, stream: usize, scratch: &mut [u8]) -> bool {
        let Some(container) = self.containers.get_mut(id) else { return false };
        let Some(output) = &container.outputs[stream] else { return false };
        match nix::unistd::read(&output.fd, scratch) {
            Ok(count @ 1..) => {
                let data = &scratch[..count];
                if let Some(log) = &mut container.log {
                    log.write(stream, data, state::now());
                }
                self.send_to_attached(id, stream, data);
                true
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => false,
            // The end; a terminal says EIO.
            Ok(_) | Err(_) => {
                self.close_output(id, stream);
                false
            }
        }
    }

    fn close_output(&mut self, id: &str, stream: usize) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(log) = &mut container.log {
            log.finish(stream, state::now());
        }
        if let Some(output) = container.outputs[stream].take() {
            self.unwatch(&output.fd, output.token);
        }
    }

    /// Reads what is left when the container has ended.
    pub(super) fn drain_outputs(&mut self, id: &str) {
        for stream in 0..2 {
            // Bounded: something that outlived the container may write for ever.
            for _ in 0..64 {
                if !self.read_output(id, stream) {
                    break;
                }
            }
        }
    }

    /// Closes all streams of a container; attached clients see their end.
    pub(super) fn close_streams(&mut self, id: &str) {
        for stream in 0..2 {
            self.close_output(id, stream);
        }
        self.close_input(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        container.terminal = None;
        let numbers: Vec<u64> = container.attached.iter().map(|attached| attached.number).collect();
        for number in numbers {
            self.detach(id, number);
        }
    }

    fn close_input(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let input = std::mem::take(&mut container.input);
        if let (Some(target), Some(token)) = (&input.target, input.token) {
            self.unwatch(target, token);
        }
    }

    /// Attaches a client: descriptors come in the order stdin, stdout, stderr.
    pub(super) fn attach(&mut self, id: &str, wanted: [bool; 3], fds: Vec<OwnedFd>) -> Result<()> {
        let container = self.container(id)?;
        if container.status.state != ContainerState::Running {
            return Err(Error::Conflict(format!("container {id:?} is not running")));
        }
        if container.attached.len() >= MAX_ATTACHED {
            return Err(Error::Limit(format!(
                "container {id:?} already has {MAX_ATTACHED} attached clients"
            )));
        }
        if wanted[0] && !container.config.stdin {
            return Err(Error::Conflict(format!("container {id:?} has no stdin (hint: set stdin: true)")));
        }
        let number = container.attached.last().map_or(1, |attached| attached.number + 1);
        let mut fds = VecDeque::from(fds);
        let mut slots = [None, None, None];
        for (slot, wanted) in slots.iter_mut().zip(wanted) {
            if wanted {
                let fd = fds
                    .pop_front()
                    .ok_or_else(|| Error::Invalid("attach: a stream was not sent".to_owned()))?;
                sys::set_nonblocking(&fd).map_err(|error| Error::os("attach", error))?;
                *slot = Some(fd);
            }
        }
        let [stdin, stdout, stderr] = slots;
        let mut attached = Attached { number, stdin: None, outputs: [None, None] };
        for (stream, fd) in [stdout, stderr].into_iter().enumerate() {
            let Some(fd) = fd else { continue };
            // SAFETY: takes a plain number. A smaller pipe works as well.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, ATTACHED_PIPE) };
            let source = Source::AttachedOutput(id.to_owned(), number);
            let token = self.watch(&fd, EpollFlags::empty(), source)?;
            attached.outputs[stream] = Some((fd, token));
        }
        if let Some(fd) = stdin {
            let token = self.watch(&fd, EpollFlags::EPOLLIN, Source::AttachedInput(id.to_owned(), number))?;
            attached.stdin = Some((fd, token));
        }
        self.container_mut(id)?.attached.push(attached);
        Ok(())
    }

    /// Forgets an attached client.
    pub(super) fn detach(&mut self, id: &str, number: u64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(place) = container.attached.iter().position(|attached| attached.number == number) else {
            return;
        };
        let Attached { stdin, outputs, .. } = container.attached.remove(place);
        for (fd, token) in outputs.into_iter().chain([stdin]).flatten() {
            self.unwatch(&fd, token);
        }
    }

    /// One that does not take everything at once has a full pipe: it does not read, and is dropped.
    fn send_to_attached(&mut self, id: &str, stream: usize, data: &[u8]) {
        let Some(container) = self.containers.get(id) else { return };
        let failed = |attached: &&Attached| match &attached.outputs[stream] {
            Some((fd, _)) => nix::unistd::write(fd, data) != Ok(data.len()),
            None => false,
        };
        let gone: Vec<u64> =
            container.attached.iter().filter(failed).map(|attached| attached.number).collect();
        for number in gone {
            self.detach(id, number);
        }
    }

    /// An attached client sends input.
    pub(super) fn read_attached(&mut self, id: &str, number: u64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let attached = container.attached.iter_mut().find(|attached| attached.number == number);
        let Some((fd, token)) = attached.and_then(|attached| attached.stdin.take()) else { return };
        let mut chunk = [0; INPUT_CHUNK];
        let ended = match nix::unistd::read(&fd, &mut chunk) {
            Ok(count @ 1..) => {
                container.input.pending.extend_from_slice(&chunk[..count]);
                false
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => false,
            Ok(_) | Err(_) => true,
        };
        if ended {
            container.input.closing |= container.config.stdin_once && !container.input.terminal;
            let useless = container.attached.iter().find(|attached| attached.number == number);
            let useless = useless.is_some_and(|attached| attached.outputs.iter().all(Option::is_none));
            self.unwatch(&fd, token);
            if useless {
                self.detach(id, number);
            }
        } else if let Some(attached) =
            container.attached.iter_mut().find(|attached| attached.number == number)
        {
            attached.stdin = Some((fd, token));
        }
        self.flush_input(id);
    }

    /// Hands waiting input on; while some is left, attached clients are not read.
    pub(super) fn flush_input(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.input.flush();
        let blocked = !container.input.pending.is_empty() && container.input.target.is_some();
        if container.input.target.is_none() {
            container.input.pending.clear();
        }
        if !blocked && container.input.closing {
            self.close_input(id);
        } else if blocked && container.input.token.is_none() {
            let copy = container.input.target.as_ref().and_then(|target| target.try_clone().ok());
            if let Some(copy) = copy
                && let Ok(token) = self.watch_input(id, copy)
                && let Some(container) = self.containers.get_mut(id)
            {
                container.input.token = Some(token);
            }
        } else if !blocked
            && let Some(token) = container.input.token.take()
            && let Some(target) = container.input.target.take()
        {
            self.unwatch(&target, token);
            if let Some(container) = self.containers.get_mut(id) {
                container.input.target = Some(target);
            }
        }
        let flags = if blocked { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let Some(container) = self.containers.get(id) else { return };
        for (fd, token) in container.attached.iter().filter_map(|attached| attached.stdin.as_ref()) {
            self.rewatch(fd, *token, flags);
        }
    }

    /// Waits until the container takes input again; the watched copy replaces the descriptor.
    fn watch_input(&mut self, id: &str, copy: OwnedFd) -> io::Result<u64> {
        let token = self
            .watch(&copy, EpollFlags::EPOLLOUT, Source::Stdin(id.to_owned()))
            .map_err(|error| io::Error::other(error.to_string()))?;
        if let Some(container) = self.containers.get_mut(id) {
            container.input.target = Some(copy);
        }
        Ok(token)
    }
}
