//! Processes started in a running container.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::epoll::EpollFlags;

use super::container::{Progress, Start};
use super::server::{Caller, Shim, Source};
use crate::config::{ExecConfig, MAX_EXECS, PidMode, TerminalSize};
use crate::error::{Error, Result};
use crate::init::{self, ExecJob};
use crate::state;
use crate::status::{ContainerState, Exit, ExitReason};
use crate::sys;
use crate::wire::{Message, Privileges, Response};

/// A process of an exec.
#[derive(Debug)]
pub(super) struct Exec {
    pub pid: libc::pid_t,
    /// The client that started it, and is told of its end.
    client: u64,
    /// Its terminal, until the client has it, and then a copy to resize it by.
    terminal: Option<OwnedFd>,
    start: Option<Start>,
}

impl Shim {
    /// Forks a process into a container. The answer comes when its program runs.
    pub(super) fn start_exec(
        &mut self,
        caller: Caller,
        number: u64,
        config: ExecConfig,
        privileges: Option<Privileges>,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        if self.execs.len() >= MAX_EXECS {
            return Err(Error::Limit(format!(
                "the pod already runs {MAX_EXECS} execs (hint: let some of them end)"
            )));
        }
        if self.execs.contains_key(&number) {
            return Err(Error::AlreadyExists { kind: "exec".to_owned(), id: number.to_string() });
        }
        if config.args.first().is_none_or(String::is_empty) {
            return Err(Error::Invalid("exec: no command is given".to_owned()));
        }
        let container = self.container(&config.container)?;
        let (Some(pid), ContainerState::Running) = (container.pid, container.status.state) else {
            return Err(Error::Conflict(format!("container {:?} is not running", config.container)));
        };
        let target =
            sys::pidfd_open(pid).map_err(|error| Error::os("find the container's process", error))?;
        let terminal = config.tty.then(|| container_terminal(pid, &config)).transpose()?;
        let (ours, theirs) = Self::start_sockets()?;
        let pid = self.fork_exec(&config, privileges, fds, &target, &theirs, terminal.as_ref())?;
        drop(theirs);
        let token = self.watch(&ours, EpollFlags::EPOLLIN, Source::ExecStart(number))?;
        let start = Some(Start { caller, socket: ours, token });
        let terminal = terminal.map(|terminal| terminal.master);
        self.execs.insert(number, Exec { pid, client: caller.client, terminal, start });
        Ok(())
    }

    fn fork_exec(
        &self,
        config: &ExecConfig,
        privileges: Option<Privileges>,
        fds: Vec<OwnedFd>,
        target: &OwnedFd,
        sync: &OwnedFd,
        terminal: Option<&init::Terminal>,
    ) -> Result<libc::pid_t> {
        let pod = self.pod()?;
        let container = self.container(&config.container)?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| Error::os("open /dev/null", error))?;
        let mut given = fds.iter();
        let mut stdio = [Some(null.as_raw_fd()); 3];
        for (slot, wanted) in stdio.iter_mut().zip([config.stdin, config.stdout, config.stderr]) {
            match terminal {
                Some(terminal) => *slot = Some(terminal.slave.as_raw_fd()),
                None if wanted => {
                    let fd = given
                        .next()
                        .ok_or_else(|| Error::Invalid("exec: a stream was not sent".to_owned()))?;
                    *slot = Some(fd.as_raw_fd());
                }
                None => {}
            }
        }
        let v2 = container.cgroup.v2_fd();
        let job = ExecJob {
            container: &container.config,
            config,
            privileges: privileges.as_ref().unwrap_or(&container.privileges),
            cgroup: &container.cgroup,
            target: target.as_raw_fd(),
            stdio,
            terminal: terminal.map(|terminal| terminal.slave.as_raw_fd()),
            sync: sync.as_raw_fd(),
            in_v2: v2.is_some(),
        };
        let fork = || {
            // SAFETY: the shim has one thread.
            match unsafe { sys::clone3(0, v2.as_ref()) } {
                Ok(0) => init::become_exec(&job),
                Ok(pid) => Ok(pid),
                Err(error) => Err(Error::os(format!("fork into container {:?}", config.container), error)),
            }
        };
        match pod.plan.config.pid {
            PidMode::Host => fork(),
            PidMode::Container | PidMode::Pod => pod.in_pid_namespace(target, fork),
        }
    }

    /// The process on its way said something.
    pub(super) fn exec_progress(&mut self, number: u64) {
        let Some(start) = self.execs.get(&number).and_then(|exec| exec.start.as_ref()) else { return };
        let error = match start.next() {
            Progress::Wait | Progress::Terminal(_) => return,
            Progress::Started => None,
            Progress::Failed(error) => Some(error),
        };
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let Some(start) = exec.start.take() else { return };
        let pid = exec.pid as u32;
        let mut fds = Vec::new();
        if error.is_none()
            && let Some(copy) = exec.terminal.as_ref().and_then(|terminal| terminal.try_clone().ok())
        {
            fds.push(copy);
        }
        self.unwatch(&start.socket, start.token);
        match error {
            None => self.reply(start.caller, Ok(Response::Started { pid, at: state::now() }), fds),
            Some(error) => {
                // Its end is not reported: it never was.
                self.execs.remove(&number);
                let error = match error {
                    error @ Error::Start { .. } => error,
                    other => Error::Start { exit_code: 128, message: other.to_string() },
                };
                self.reply(start.caller, Err(error), Vec::new());
            }
        }
    }

    /// A process of an exec ended.
    pub(super) fn exec_ended(&mut self, number: u64, code: i32, signal: Option<i32>) {
        if self.execs.get(&number).is_some_and(|exec| exec.start.is_some()) {
            self.exec_progress(number);
        }
        let Some(exec) = self.execs.remove(&number) else { return };
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        let exit = Exit { code, signal, reason, message: String::new(), finished_at: state::now() };
        self.send(exec.client, &Message::ExecExited { exec: number, exit }, Vec::new());
    }

    fn exec(&self, number: u64) -> Result<&Exec> {
        let found = self.execs.get(&number);
        found.ok_or_else(|| Error::NotFound { kind: "exec".to_owned(), id: number.to_string() })
    }

    /// Changes the size of an exec's terminal.
    pub(super) fn resize_exec(&self, number: u64, size: TerminalSize) -> Result<()> {
        match &self.exec(number)?.terminal {
            Some(terminal) => init::set_size(terminal, size),
            None => Ok(()),
        }
    }

    /// Sends a signal to an exec's process.
    pub(super) fn signal_exec(&self, number: u64, signal: i32) -> Result<()> {
        let pid = self.exec(number)?.pid;
        // SAFETY: an unreaped child of ours: its id cannot be somebody else's.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(Error::last_os(format!("send signal {signal} to exec {number}"))),
        }
    }
}

/// A new terminal of the container's own.
fn container_terminal(pid: libc::pid_t, config: &ExecConfig) -> Result<init::Terminal> {
    let failed = |error| Error::os("open a terminal in the container", error);
    let root = std::fs::File::open(format!("/proc/{pid}/root")).map_err(failed)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
    let master = sys::open_in_root(&root, Path::new("dev/pts/ptmx"), flags, 0).map_err(failed)?;
    let master = std::fs::File::from(master);
    // A container may put anything there; only the kernel's own multiplexer is a terminal.
    if master.metadata().map_err(failed)?.rdev() != libc::makedev(5, 2) {
        return Err(Error::Conflict(
            "the container's /dev/pts/ptmx is not a terminal multiplexer".to_owned(),
        ));
    }
    let terminal = init::pair(master.into())?;
    init::set_size(&terminal.master, config.terminal_size.unwrap_or_default())?;
    Ok(terminal)
}
