//! A handle on one pod sandbox: its containers, execs and attached streams.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::client::Connection;
use crate::config::{
    AttachConfig, ContainerConfig, ExecConfig, Network, PodSandboxConfig, Resources, Seccomp, TerminalSize,
};
use crate::error::{Error, Result};
use crate::runtime::{AdoptedSandbox, Events, Inner, Runtime, check_id};
use crate::session::{AttachSession, ExecProcess, ExecSession, Pipes, Stream, duplicate};
use crate::status::{ContainerState, ContainerStatus, Event, Exit, Started, Stats};
use crate::wire::{PodDescription, PodPlan, Privileges, Request, Response};
use crate::{init, state};

/// A pod sandbox. Cheap to clone; dropping it leaves the pod running.
#[derive(Debug, Clone)]
pub struct PodSandbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    runtime: Arc<Inner>,
    plan: PodPlan,
    pid: u32,
    pid_start: u64,
    link: Mutex<Link>,
}

/// The way to the shim; `None` once it is gone.
#[derive(Debug)]
struct Link {
    connection: Option<Arc<Connection>>,
    removed: bool,
}

/// Exec numbers differ between main processes that use the same shim one after the other.
fn next_exec() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let first = (u64::from(std::process::id()) << 32) | 1;
    let _ = NEXT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn unexpected(response: &Response) -> Error {
    Error::Conflict(format!("unexpected answer {response:?} (hint: the shim is of another version)"))
}

/// A pod whose shim was forked and does not know its plan yet.
pub(crate) struct Starting {
    runtime: Arc<Inner>,
    connection: Arc<Connection>,
    ready: tokio::sync::oneshot::Sender<PodSandbox>,
}

impl Starting {
    /// Begins to read from the shim.
    pub(crate) fn new(runtime: Arc<Inner>, connection: Arc<Connection>, id: String) -> Self {
        let (ready, sandbox) = tokio::sync::oneshot::channel::<PodSandbox>();
        let (token, reader, inner, name) =
            (runtime.supervisor.token(), connection.clone(), runtime.clone(), id.clone());
        runtime.supervisor.spawn(format!("pod-{name}"), async move {
            let exited = |container, exit| inner.publish(Event::Exited { pod: id.clone(), container, exit });
            tokio::select! {
                () = reader.read(exited) => {}
                () = token.cancelled() => return,
            }
            if let Ok(sandbox) = sandbox.await {
                sandbox.disconnected().await;
            }
        });
        Self { runtime, connection, ready }
    }

    /// The pod is made.
    pub(crate) fn finish(self, description: PodDescription) -> PodSandbox {
        let sandbox = PodSandbox::new(self.runtime.clone(), &description, Some(self.connection));
        self.runtime.pods().insert(sandbox.id().to_owned(), sandbox.clone());
        // Fails only when the reader ended, at shutdown.
        let _ = self.ready.send(sandbox.clone());
        sandbox
    }

    /// A known pod is connected again.
    fn rejoin(self, sandbox: &PodSandbox) {
        sandbox.link().connection = Some(self.connection);
        let _ = self.ready.send(sandbox.clone());
    }
}

/// Takes over the pod that a state directory describes.
pub(crate) async fn adopt(runtime: Arc<Inner>, description: PodDescription) -> Result<AdoptedSandbox> {
    let config = description.plan.config.clone();
    let dir = description.plan.dir.clone();
    if let Some(socket) = state::alive(&dir).and_then(|_| state::connect(&dir).ok()) {
        let connection = Arc::new(Connection::new(config.id.clone(), socket)?);
        let starting = Starting::new(runtime.clone(), connection.clone(), config.id.clone());
        match connection.call(Request::Describe).await {
            Ok(Response::Pod(description)) => {
                let containers = description.containers.clone();
                return Ok(AdoptedSandbox { sandbox: starting.finish(*description), config, containers });
            }
            Ok(other) => return Err(unexpected(&other)),
            // It died while we asked.
            Err(Error::Lost { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let sandbox = PodSandbox::new(runtime.clone(), &description, None);
    runtime.pods().insert(config.id.clone(), sandbox.clone());
    sandbox.bury().await?;
    let containers = state::containers(&dir)?;
    Ok(AdoptedSandbox { sandbox, config, containers })
}

impl PodSandbox {
    fn new(runtime: Arc<Inner>, description: &PodDescription, connection: Option<Arc<Connection>>) -> Self {
        let link = Mutex::new(Link { connection, removed: false });
        let PodDescription { plan, pid, pid_start, .. } = description;
        Self {
            shared: Arc::new(Shared { runtime, plan: plan.clone(), pid: *pid, pid_start: *pid_start, link }),
        }
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Link> {
        self.shared.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Result<Arc<Connection>> {
        self.link().connection.clone().ok_or_else(|| Error::Lost { id: self.id().to_owned() })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.shared.plan.config.id
    }

    /// How it was made.
    pub fn config(&self) -> &PodSandboxConfig {
        &self.shared.plan.config
    }

    /// The shim's process id.
    pub fn shim_pid(&self) -> u32 {
        self.shared.pid
    }

    /// Path of the pod's network namespace; valid while the shim lives (a pinned one as long as it is pinned).
    pub fn netns(&self) -> PathBuf {
        match &self.config().network {
            Network::Pinned(path) => path.clone(),
            Network::Private | Network::Host => PathBuf::from(format!("/proc/{}/ns/net", self.shared.pid)),
        }
    }

    /// Whether the shim is gone, and the containers with it.
    pub fn is_lost(&self) -> bool {
        self.link().connection.is_none()
    }

    /// The shim hung up: it died, was told to end, or dropped us because we read too slowly.
    async fn disconnected(&self) {
        {
            let mut link = self.link();
            link.connection = None;
            if link.removed {
                return;
            }
        }
        let Shared { runtime, plan, pid, pid_start, .. } = &*self.shared;
        if state::process_start(*pid) == Some(*pid_start)
            && let Ok(socket) = state::connect(&plan.dir)
            && let Ok(connection) = Connection::new(self.id(), socket)
        {
            // Alive. Whoever listens must list again, since ends may have been missed.
            Starting::new(runtime.clone(), Arc::new(connection), self.id().to_owned()).rejoin(self);
            runtime.publish(Event::Lagged);
            return;
        }
        let before = state::containers(&plan.dir).unwrap_or_default();
        if let Err(error) = self.bury().await {
            tracing::warn!(pod = self.id(), %error, "cleaning up after a dead shim failed");
        }
        let after = state::containers(&plan.dir).unwrap_or_default();
        for status in after {
            let ran = before.iter().any(|old| old.id == status.id && old.exit.is_none());
            if let (true, Some(exit)) = (ran, status.exit) {
                runtime.publish(Event::Exited { pod: self.id().to_owned(), container: status.id, exit });
            }
        }
        runtime.publish(Event::SandboxLost { pod: self.id().to_owned() });
    }

    /// Kills what a dead shim left and marks its running containers lost.
    async fn bury(&self) -> Result<()> {
        let plan = self.shared.plan.clone();
        let work = move || plan.cgroup.kill().and_then(|()| state::mark_lost(&plan.dir));
        self.shared.runtime.supervisor.blocking(work).await
    }

    /// Makes a container; nothing runs yet.
    pub async fn create_container(&self, config: ContainerConfig) -> Result<()> {
        self.create(config, Vec::new()).await
    }

    /// The same with stdout and stderr given.
    pub(crate) async fn create_with_streams(
        &self,
        config: ContainerConfig,
        streams: Vec<OwnedFd>,
    ) -> Result<()> {
        self.create(config, streams).await
    }

    async fn create(&self, mut config: ContainerConfig, fds: Vec<OwnedFd>) -> Result<()> {
        check_id("container", &config.id)?;
        init::check(&config)?;
        let privileges = self.privileges(&mut config)?;
        let streams = !fds.is_empty();
        let request = Request::CreateContainer { config: Box::new(config), privileges, streams };
        self.connection()?.call_with_fds(request, fds).await.map(drop)
    }

    /// Computes here, once, what is the same for many containers. The filter leaves the configuration.
    fn privileges(&self, config: &mut ContainerConfig) -> Result<Privileges> {
        let capabilities = crate::init::caps::resolve(config.privileged, &config.capabilities)?;
        let seccomp = match std::mem::take(&mut config.seccomp) {
            _ if config.privileged => String::new(),
            Seccomp::Default => self.shared.runtime.filters.default_for(capabilities)?,
            Seccomp::Unconfined => String::new(),
            Seccomp::Program(program) => crate::seccomp::hex(&program),
        };
        Ok(Privileges { capabilities, seccomp, no_new_privs: config.no_new_privs })
    }

    /// Starts a created container and returns its process, once the program was executed. A program that cannot be
    /// executed gives [`Error::Start`]; the container is then `Exited` with reason `StartError`, which is sent as an event too.
    pub async fn start_container(&self, id: &str) -> Result<Started> {
        match self.connection()?.call(Request::StartContainer { id: id.to_owned() }).await? {
            Response::Started { pid, at } => Ok(Started { pid, at }),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a signal to a container's first process, or with `all` to every process in it. A container that does not
    /// run is no error.
    pub async fn signal_container(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let request = Request::SignalContainer { id: id.to_owned(), signal, all };
        self.connection()?.call(request).await.map(drop)
    }

    /// Asks a container to end with `signal`, and after `grace` kills it. Returns how it ended; one never started is
    /// `Conflict`.
    pub async fn stop_container(&self, id: &str, signal: i32, grace: Duration) -> Result<Exit> {
        let status = self.container_status(id).await?;
        if status.state == ContainerState::Created {
            return Err(Error::Conflict(format!("container {id:?} was not started")));
        }
        if !grace.is_zero() {
            self.signal_container(id, signal, false).await?;
            if let Ok(exit) = tokio::time::timeout(grace, self.wait_container(id)).await {
                return exit;
            }
        }
        self.signal_container(id, libc::SIGKILL, true).await?;
        self.wait_container(id).await
    }

    /// Waits until a container has ended.
    pub async fn wait_container(&self, id: &str) -> Result<Exit> {
        let mut events: Events = Runtime { inner: self.shared.runtime.clone() }.events();
        loop {
            if let Some(exit) = self.container_status(id).await?.exit {
                return Ok(exit);
            }
            loop {
                match events.next().await {
                    Some(Event::Exited { pod, container, exit }) if pod == self.id() && container == id => {
                        return Ok(exit);
                    }
                    Some(Event::Lagged) => break,
                    Some(Event::SandboxLost { pod }) if pod == self.id() => break,
                    Some(_) => {}
                    None => return Err(Error::Lost { id: self.id().to_owned() }),
                }
            }
        }
    }

    /// All containers, by id. Also works on a lost sandbox.
    pub async fn containers(&self) -> Result<Vec<ContainerStatus>> {
        let asked = match self.connection() {
            Ok(connection) => connection.call(Request::Describe).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(Response::Pod(description)) => Ok(description.containers),
            Ok(other) => Err(unexpected(&other)),
            Err(Error::Lost { .. }) => state::containers(&self.shared.plan.dir),
            Err(error) => Err(error),
        }
    }

    /// One container.
    pub async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let asked = match self.connection() {
            Ok(connection) => connection.call(Request::ContainerStatus { id: id.to_owned() }).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(Response::Container(status)) => return Ok(*status),
            Ok(other) => return Err(unexpected(&other)),
            Err(Error::Lost { .. }) => {}
            Err(error) => return Err(error),
        }
        let found = state::containers(&self.shared.plan.dir)?.into_iter().find(|status| status.id == id);
        found.ok_or_else(|| Error::NotFound { kind: "container".to_owned(), id: id.to_owned() })
    }

    /// Resource usage of a container, read from its cgroups by this process.
    pub fn container_stats(&self, id: &str) -> Result<Stats> {
        check_id("container", id)?;
        self.shared.plan.cgroup.child(id).stats()
    }

    /// Resource usage of the whole pod.
    pub fn stats(&self) -> Result<Stats> {
        self.shared.plan.cgroup.stats()
    }

    /// Changes the limits of the whole pod; absent ones stay.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        self.shared.plan.cgroup.apply(resources)
    }

    /// Changes a container's limits; absent ones stay.
    pub async fn update_container(&self, id: &str, resources: Resources) -> Result<()> {
        let request = Request::UpdateContainer { id: id.to_owned(), resources };
        self.connection()?.call(request).await.map(drop)
    }

    /// Changes the size of a container's terminal.
    pub async fn resize_container(&self, id: &str, size: TerminalSize) -> Result<()> {
        self.connection()?.call(Request::ResizeContainer { id: id.to_owned(), size }).await.map(drop)
    }

    /// Opens the log file anew, after somebody moved it away.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        self.connection()?.call(Request::ReopenLog { id: id.to_owned() }).await.map(drop)
    }

    /// Kills what still runs in a container and forgets it. Its log stays. One that does not exist is no error.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        match self.connection()?.call(Request::RemoveContainer { id: id.to_owned() }).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Starts a process in a running container. A program that cannot be executed gives [`Error::Start`].
    pub async fn exec(&self, config: ExecConfig) -> Result<ExecSession> {
        let connection = self.connection()?;
        let exec = next_exec();
        let tty = config.tty;
        let wanted = if tty { [false; 3] } else { [config.stdin, config.stdout, config.stderr] };
        let streams = [config.stdin, config.stdout, config.stderr];
        let mut pipes = Pipes::new(wanted)?;
        let all = crate::init::caps::ALL;
        let privileges = config.privileged.then(|| Privileges { capabilities: all, ..Privileges::default() });
        let ended = connection.expect_exec(exec);
        let request = Request::Exec { exec, config: Box::new(config), privileges };
        let answer = connection.call_with_fds(request, std::mem::take(&mut pipes.theirs)).await;
        let (pid, mut fds) = match answer {
            Ok((Response::Started { pid, .. }, fds)) => (pid, fds),
            Ok((other, _)) => return Err(unexpected(&other)),
            Err(error) => {
                connection.forget_exec(exec);
                return Err(error);
            }
        };
        let [stdin, stdout, stderr] = match fds.pop() {
            Some(master) if tty => {
                let copy = streams[0].then(|| duplicate(&master).and_then(Stream::new)).transpose()?;
                [copy, Some(Stream::new(master)?), None]
            }
            _ => pipes.streams()?,
        };
        let process = ExecProcess { connection, id: exec, pid, ended: Some(ended), exit: None, tty };
        Ok(ExecSession { stdin, stdout, stderr, process })
    }

    /// Attaches to a running container's own streams. Output from before is not repeated; it is in the log.
    pub async fn attach(&self, config: AttachConfig) -> Result<AttachSession> {
        let connection = self.connection()?;
        let AttachConfig { container, stdin, stdout, stderr } = config;
        let mut pipes = Pipes::new([stdin, stdout, stderr])?;
        let request = Request::Attach { container, stdin, stdout, stderr };
        connection.call_with_fds(request, std::mem::take(&mut pipes.theirs)).await?;
        let [stdin, stdout, stderr] = pipes.streams()?;
        Ok(AttachSession { stdin, stdout, stderr })
    }

    /// Kills everything in the pod; namespaces and statuses stay.
    pub async fn stop(&self) -> Result<()> {
        match self.connection() {
            Ok(connection) => connection.call(Request::StopPod).await.map(drop),
            Err(_) => {
                let cgroup = self.shared.plan.cgroup.clone();
                self.shared.runtime.supervisor.blocking(move || cgroup.kill()).await
            }
        }
    }

    /// Kills everything and removes the sandbox with all its state, and ends the shim. Logs stay, and so does a pinned
    /// network namespace that existed before. Running it twice is no error.
    pub async fn remove(&self) -> Result<()> {
        let connection = {
            let mut link = self.link();
            link.removed = true;
            link.connection.clone()
        };
        let removed = match connection {
            Some(connection) => connection.call(Request::RemovePod).await.map(drop),
            None => Err(Error::Lost { id: self.id().to_owned() }),
        };
        match removed {
            Ok(()) => {}
            // What the shim cannot do any more is done here.
            Err(Error::Lost { .. } | Error::System { .. }) => {
                let cgroup = self.shared.plan.cgroup.clone();
                self.shared.runtime.supervisor.blocking(move || cgroup.kill_and_remove()).await?;
            }
            Err(error) => return Err(error),
        }
        state::unpin(&self.shared.plan)?;
        state::remove(&self.shared.plan.dir)?;
        let mut pods = self.shared.runtime.pods();
        if pods.get(self.id()).is_some_and(|pod| pod.shim_pid() == self.shim_pid()) {
            pods.remove(self.id());
        }
        Ok(())
    }

    /// As given at creation.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.config().labels
    }

    /// Its directory of state and socket.
    pub fn dir(&self) -> &Path {
        &self.shared.plan.dir
    }
}
