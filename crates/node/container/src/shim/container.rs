//! Containers of a pod: made, started, ended, removed.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sys::epoll::EpollFlags;

use super::log::Log;
use super::server::{Caller, Shim, Source};
use super::stdio::{Attached, Input, Output};
use crate::cgroup::{CgroupPlan, DeviceRule};
use crate::config::{ContainerConfig, PidMode};
use crate::error::{Error, Result};
use crate::init::{self, ContainerJob};
use crate::session::pipe;
use crate::state;
use crate::status::{ContainerState, ContainerStatus, Exit, ExitReason};
use crate::sys;
use crate::wire::{Failure, Message, Privileges, Response};

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub config: ContainerConfig,
    pub privileges: Privileges,
    pub cgroup: CgroupPlan,
    pub status: ContainerStatus,
    /// Its first process, until it is reaped.
    pub pid: Option<libc::pid_t>,
    pub log: Option<Log>,
    pub terminal: Option<OwnedFd>,
    pub outputs: [Option<Output>; 2],
    pub input: Input,
    pub attached: Vec<Attached>,
    /// Streams that the caller gave for stdout and stderr.
    given: Option<Vec<OwnedFd>>,
    start: Option<Start>,
}

/// A process on its way to its program.
#[derive(Debug)]
pub(super) struct Start {
    pub caller: Caller,
    pub socket: OwnedFd,
    pub token: u64,
}

/// What a process on its way says.
pub(super) enum Progress {
    /// Nothing more now.
    Wait,
    /// The program runs, or the process died on the way; its end will say so.
    Started,
    Failed(Error),
    Terminal(OwnedFd),
}

impl Start {
    /// Reads the next word.
    pub(super) fn next(&self) -> Progress {
        let mut message = vec![0; 8192];
        match receive(&self.socket, &mut message) {
            Ok((0, _)) => Progress::Started,
            Ok((count, fd)) => match (message[0], fd) {
                (init::TERMINAL, Some(fd)) => Progress::Terminal(fd),
                _ => Progress::Failed(match serde_json::from_slice::<Failure>(&message[1..count]) {
                    Ok(failure) => Error::from(failure),
                    Err(_) => Error::Conflict("the process ended before its program ran".to_owned()),
                }),
            },
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Progress::Wait,
            Err(_) => Progress::Started,
        }
    }
}

fn receive(socket: &OwnedFd, message: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::FromRawFd;
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [std::io::IoSliceMut::new(message)];
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fd = None;
    for part in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel just made these descriptors for us.
            fd = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next_back();
        }
    }
    Ok((received.bytes, fd))
}

/// The container's ends of its streams, and the shim's.
struct Streams {
    theirs: [Option<OwnedFd>; 3],
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
}

impl Streams {
    fn new(config: &ContainerConfig, given: Option<Vec<OwnedFd>>) -> Result<Self> {
        let mut streams = Self { theirs: [None, None, None], stdin: None, outputs: [None, None] };
        if config.tty {
            return Ok(streams);
        }
        if config.stdin {
            let (reader, writer) = pipe()?;
            streams.theirs[0] = Some(reader);
            streams.stdin = Some(writer);
        }
        if let Some(given) = given {
            for (slot, fd) in streams.theirs[1..].iter_mut().zip(given) {
                *slot = Some(fd);
            }
            return Ok(streams);
        }
        for stream in 0..2 {
            let (reader, writer) = pipe()?;
            streams.theirs[stream + 1] = Some(writer);
            streams.outputs[stream] = Some(reader);
        }
        Ok(streams)
    }
}

impl Shim {
    pub(super) fn container(&self, id: &str) -> Result<&Container> {
        let found = self.containers.get(id);
        found.ok_or_else(|| Error::NotFound { kind: "container".to_owned(), id: id.to_owned() })
    }

    pub(super) fn container_mut(&mut self, id: &str) -> Result<&mut Container> {
        let found = self.containers.get_mut(id);
        found.ok_or_else(|| Error::NotFound { kind: "container".to_owned(), id: id.to_owned() })
    }

    fn dir(&self) -> Result<PathBuf> {
        Ok(self.pod()?.plan.dir.clone())
    }

    /// Makes a container: its cgroup and its log; nothing runs yet.
    pub(super) fn create_container(
        &mut self,
        config: ContainerConfig,
        privileges: Privileges,
        given: Option<Vec<OwnedFd>>,
    ) -> Result<()> {
        self.check_room(&config.id)?;
        let plan = &self.pod()?.plan;
        let cgroup = plan.cgroup.child(&config.id);
        let dir = plan.dir.clone();
        let log = config.log.as_ref().map(Log::open).transpose()?;
        let rules = match config.privileged {
            true => None,
            false => {
                let mut rules = DeviceRule::defaults();
                for device in &config.devices {
                    rules.push(DeviceRule::for_device(device)?);
                }
                Some(rules)
            }
        };
        cgroup.create(&config.resources, rules.as_deref())?;
        let status = ContainerStatus {
            id: config.id.clone(),
            state: ContainerState::Created,
            pid: None,
            pid_start: None,
            created_at: state::now(),
            started_at: None,
            exit: None,
            log_path: config.log.as_ref().map(|log| log.path.clone()),
            labels: config.labels.clone(),
        };
        if let Err(error) = state::write_container(&dir, &status) {
            let _ = cgroup.remove();
            return Err(error);
        }
        let container = Container {
            privileges,
            cgroup,
            status,
            pid: None,
            log,
            terminal: None,
            outputs: [None, None],
            input: Input::default(),
            attached: Vec::new(),
            given,
            start: None,
            config,
        };
        self.containers.insert(container.config.id.clone(), container);
        Ok(())
    }

    /// Forks the container's first process. The answer comes when its program runs.
    pub(super) fn start_container(&mut self, caller: Caller, id: &str) -> Result<()> {
        let container = self.container_mut(id)?;
        if container.status.state != ContainerState::Created || container.pid.is_some() {
            return Err(Error::Conflict(format!(
                "container {id:?} was started before (hint: make a new one)"
            )));
        }
        let given = container.given.take();
        let started = self.fork_container(caller, id, given);
        if let Err(error) = &started {
            let message = error.to_string();
            self.never_started(id, 128, message);
        }
        started
    }

    fn fork_container(&mut self, caller: Caller, id: &str, given: Option<Vec<OwnedFd>>) -> Result<()> {
        let (ours, theirs) = Self::start_sockets()?;
        let pod = self.pod()?;
        let container = self.container(id)?;
        let streams = Streams::new(&container.config, given)?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| Error::os("open /dev/null", error))?;
        let shm = pod.shm_copy()?;
        let v2 = container.cgroup.v2_fd();
        let raw = |fd: &Option<OwnedFd>| Some(fd.as_ref().map_or(null.as_raw_fd(), AsRawFd::as_raw_fd));
        let job = ContainerJob {
            pod: &pod.plan,
            config: &container.config,
            privileges: &container.privileges,
            cgroup: &container.cgroup,
            stdio: [raw(&streams.theirs[0]), raw(&streams.theirs[1]), raw(&streams.theirs[2])],
            sync: theirs.as_raw_fd(),
            shm: Some(shm.as_raw_fd()),
            in_v2: v2.is_some(),
        };
        let mut flags = libc::CLONE_NEWNS as u64;
        let neighbour = container.config.pid_of.as_deref();
        let neighbour = neighbour.filter(|_| pod.plan.config.pid == PidMode::Container);
        if pod.plan.config.pid == PidMode::Container && neighbour.is_none() {
            flags |= libc::CLONE_NEWPID as u64;
        }
        let fork = || {
            // SAFETY: the shim has one thread.
            match unsafe { sys::clone3(flags, v2.as_ref()) } {
                Ok(0) => init::become_container(&job),
                Ok(pid) => Ok(pid),
                Err(error) => Err(Error::os(format!("fork container {id:?}"), error)),
            }
        };
        let first = match neighbour {
            Some(other) => {
                let running = self.container(other)?.pid;
                Some(running.ok_or_else(|| Error::Invalid(format!("container {other:?} does not run")))?)
            }
            None => pod.init,
        };
        let pid = match first {
            Some(first) => {
                let target =
                    sys::pidfd_open(first).map_err(|error| Error::os("find the pod's init", error))?;
                pod.in_pid_namespace(&target, fork)?
            }
            None => fork()?,
        };
        drop((theirs, shm, null, v2));
        let Streams { stdin, outputs, theirs: used } = streams;
        drop(used);
        let container = self.container_mut(id)?;
        container.pid = Some(pid);
        container.status.pid = Some(pid as u32);
        container.status.pid_start = state::process_start(pid as u32);
        container.input.set_target(stdin)?;
        for (stream, output) in outputs.into_iter().enumerate() {
            if let Some(output) = output {
                self.add_output(id, stream, output)?;
            }
        }
        let token = self.watch(&ours, EpollFlags::EPOLLIN, Source::Start(id.to_owned()))?;
        self.container_mut(id)?.start = Some(Start { caller, socket: ours, token });
        Ok(())
    }

    /// The process on its way said something.
    pub(super) fn container_progress(&mut self, id: &str) {
        loop {
            let Some(start) = self.containers.get(id).and_then(|container| container.start.as_ref()) else {
                return;
            };
            match start.next() {
                Progress::Wait => return,
                Progress::Terminal(master) => {
                    // Without its terminal the container would hang: its end is told by the kill.
                    if self.set_terminal(id, master).is_err() {
                        let _ = self.kill_container(id);
                    }
                }
                Progress::Failed(error) => return self.start_failed(id, error),
                Progress::Started => return self.started(id),
            }
        }
    }

    fn take_start(&mut self, id: &str) -> Option<Caller> {
        let start = self.containers.get_mut(id)?.start.take()?;
        self.unwatch(&start.socket, start.token);
        Some(start.caller)
    }

    fn started(&mut self, id: &str) {
        let Some(caller) = self.take_start(id) else { return };
        let Some(container) = self.containers.get_mut(id) else { return };
        container.status.state = ContainerState::Running;
        let at = state::now();
        container.status.started_at = Some(at);
        let pid = container.status.pid.unwrap_or(0);
        self.save(id);
        self.reply(caller, Ok(Response::Started { pid, at }), Vec::new());
    }

    fn start_failed(&mut self, id: &str, error: Error) {
        let code = if let Error::Start { exit_code, .. } = &error { *exit_code } else { 128 };
        let message = error.to_string();
        let caller = self.take_start(id);
        // It is about to end by itself; that end is not reported a second time.
        if let Some(pid) = self.containers.get_mut(id).and_then(|container| container.pid.take()) {
            // SAFETY: an unreaped child of ours, which is exiting.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        }
        self.never_started(id, code, message.clone());
        if let Some(caller) = caller {
            let error = match error {
                error @ Error::Start { .. } => error,
                _ => Error::Start { exit_code: code, message },
            };
            self.reply(caller, Err(error), Vec::new());
        }
    }

    fn never_started(&mut self, id: &str, code: i32, message: String) {
        let finished_at = state::now();
        self.finish(id, Exit { code, signal: None, reason: ExitReason::StartError, message, finished_at });
    }

    /// A container's first process ended.
    pub(super) fn container_ended(&mut self, id: &str, code: i32, signal: Option<i32>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        // Reaped: nobody may signal that number any more.
        container.pid = None;
        if container.start.is_some() {
            // What it said on its way comes first.
            self.container_progress(id);
        }
        let shares_pids = self.pod().is_ok_and(|pod| pod.plan.config.pid != PidMode::Container);
        let Some(container) = self.containers.get_mut(id) else { return };
        let shares_pids = shares_pids || container.config.pid_of.is_some();
        if container.status.state == ContainerState::Exited {
            return;
        }
        if shares_pids && !container.cgroup.kill_at_once() {
            // What it left behind ends with it, as it does where it has a PID namespace of its own.
            container.cgroup.signal(libc::SIGKILL);
        }
        let reason = match (code, container.cgroup.oom_kills()) {
            (0, _) => ExitReason::Completed,
            (_, 1..) => ExitReason::OomKilled,
            _ => ExitReason::Error,
        };
        self.finish(id, Exit { code, signal, reason, message: String::new(), finished_at: state::now() });
    }

    /// Takes in the last output, writes down the end, and tells everybody.
    fn finish(&mut self, id: &str, exit: Exit) {
        self.drain_outputs(id);
        self.close_streams(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        container.log = None;
        container.status.state = ContainerState::Exited;
        container.status.pid = None;
        container.status.pid_start = None;
        container.status.exit = Some(exit.clone());
        self.save(id);
        self.broadcast(&Message::ContainerExited { container: id.to_owned(), exit });
    }

    /// Writes the status to disk. A full disk must not stop the pod; the shim itself still knows.
    fn save(&self, id: &str) {
        if let (Ok(dir), Ok(container)) = (self.dir(), self.container(id)) {
            let _ = state::write_container(&dir, &container.status);
        }
    }

    fn kill_container(&mut self, id: &str) -> Result<()> {
        let cgroup = self.container(id)?.cgroup.clone();
        self.kill_cgroup(&cgroup)
    }

    /// Kills what still runs in a container and forgets it.
    pub(super) fn remove_container(&mut self, id: &str) -> Result<()> {
        let dir = self.dir()?;
        self.kill_container(id)?;
        self.container(id)?.cgroup.remove()?;
        self.close_streams(id);
        self.take_start(id);
        self.containers.remove(id);
        state::remove_container(&dir, id)
    }
}
