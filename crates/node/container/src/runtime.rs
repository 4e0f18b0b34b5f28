//! The main process's side: makes pods through the zygote, adopts those that an earlier process made.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_daemon::Supervisor;
use tokio::sync::broadcast;

use crate::cgroup::Layout;
use crate::client::Connection;
use crate::config::{Network, PodSandboxConfig, RunConfig};
use crate::error::{Error, Result};
use crate::sandbox::{self, PodSandbox};
use crate::seccomp::Filters;
use crate::session::{Pipes, Run};
use crate::status::{ContainerStatus, Event};
use crate::wire::{PodPlan, Request, Response};
use crate::{shim, state};

/// Events that a slow receiver may fall behind before it is told [`Event::Lagged`].
const EVENT_BACKLOG: usize = 4096;

/// Marks the pod of a [`Runtime::run`].
const RUN_LABEL: &str = "sampan.io/run";

/// How a [`Runtime`] is to work.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of sockets and state, one directory a pod in it; best on a tmpfs such as `/run`. Made when
    /// missing.
    pub runtime_dir: PathBuf,
    /// Parent cgroup in every hierarchy, such as `/sampan-1a2b3c4d`. Pods are `<parent>/pod<id>`, containers
    /// `<parent>/pod<id>/<container>`.
    pub cgroup_parent: String,
    /// Where cgroups are mounted.
    pub cgroup_root: PathBuf,
    /// The executable started as zygote: one whose `main` calls [`crate::shim::dispatch`].
    pub executable: PathBuf,
    /// Most pods at a time.
    pub max_pods: usize,
}

impl Options {
    /// The usual: this very executable, cgroups at `/sys/fs/cgroup`, at most 1000 pods.
    pub fn new(runtime_dir: impl Into<PathBuf>, cgroup_parent: impl Into<String>) -> Self {
        Self {
            runtime_dir: runtime_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            executable: PathBuf::from("/proc/self/exe"),
            max_pods: 1000,
        }
    }
}

/// Makes and finds pod sandboxes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) supervisor: Supervisor,
    pub(crate) layout: Layout,
    pub(crate) filters: Filters,
    events: broadcast::Sender<Event>,
    pods: Mutex<HashMap<String, PodSandbox>>,
    /// Ids that are being made.
    reserved: Mutex<HashSet<String>>,
    zygote: tokio::sync::Mutex<Option<Arc<Connection>>>,
}

/// A pod that an earlier main process made.
#[derive(Debug, Clone)]
pub struct AdoptedSandbox {
    /// Its handle. When the shim is gone, [`PodSandbox::is_lost`] says so; it can then only be listed and removed.
    pub sandbox: PodSandbox,
    /// How it was made.
    pub config: PodSandboxConfig,
    /// Its containers, with the exits that happened meanwhile. These exits are not sent as events again.
    pub containers: Vec<ContainerStatus>,
}

/// A stream of [`Event`]s.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` once the runtime is gone.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Lagged),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// An id that is being made; nobody else may make it meanwhile.
#[derive(Debug)]
struct Reservation {
    inner: Arc<Inner>,
    id: String,
}

impl Reservation {
    fn new(inner: Arc<Inner>, id: &str) -> Result<Self> {
        let new = inner.reserved.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        if !new {
            return Err(Error::AlreadyExists { kind: "pod sandbox".to_owned(), id: id.to_owned() });
        }
        Ok(Self { inner, id: id.to_owned() })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.inner.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Inner {
    pub(crate) fn publish(&self, event: Event) {
        // Fails only when nobody listens.
        let _ = self.events.send(event);
    }

    pub(crate) fn pods(&self) -> MutexGuard<'_, HashMap<String, PodSandbox>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connection to the zygote, which is started when there is none or it died.
    async fn fork_shim(self: &Arc<Self>, dir: &Path) -> Result<Connection> {
        let failed = |error| Error::os("make a socket pair", error);
        let mut zygote = self.zygote.lock().await;
        for last_try in [false, true] {
            let connection = match zygote.as_ref() {
                Some(connection) => connection.clone(),
                None => zygote.insert(self.start_zygote()?).clone(),
            };
            let (ours, theirs) = UnixStream::pair().map_err(failed)?;
            let request = Request::Fork { dir: dir.to_owned() };
            match connection.call_with_fds(request, vec![theirs.into()]).await {
                Ok(_) => return Connection::new(dir.display().to_string(), ours),
                Err(error @ (Error::Lost { .. } | Error::System { .. })) if !last_try => {
                    tracing::debug!(%error, "zygote is gone; starting another");
                    *zygote = None;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict("the zygote could not be started".to_owned()))
    }

    fn start_zygote(&self) -> Result<Arc<Connection>> {
        let executable = &self.options.executable;
        let failed = |error| Error::os(format!("start the zygote {}", executable.display()), error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.options.runtime_dir.join("shim.log"));
        // Standard input is the socket: no descriptor has to be passed in another way. No environment, no secrets.
        let mut child = Command::new(executable)
            .arg0("sampan")
            .arg(shim::ZYGOTE_ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(log.map_or_else(|_| Stdio::null(), Stdio::from))
            .spawn()
            .map_err(failed)?;
        let connection = Arc::new(Connection::new("the zygote", ours)?);
        let (reader, token) = (connection.clone(), self.supervisor.token());
        let supervisor = self.supervisor.clone();
        self.supervisor.spawn("zygote", async move {
            tokio::select! {
                () = reader.read(|_, _| {}) => {}
                () = token.cancelled() => return,
            }
            // The socket is closed, so the zygote has ended or is about to.
            let _ = supervisor.blocking(move || child.wait()).await;
        });
        Ok(connection)
    }
}

impl Runtime {
    /// Prepares the runtime directory and looks at the cgroups. Call it inside a tokio runtime.
    pub fn new(options: Options, supervisor: Supervisor) -> Result<Self> {
        if !options.runtime_dir.is_absolute() {
            return Err(Error::Invalid(format!(
                "runtime directory {} must be absolute",
                options.runtime_dir.display()
            )));
        }
        if !options.cgroup_parent.starts_with('/') || options.cgroup_parent.contains("..") {
            return Err(Error::Invalid(format!(
                "cgroup parent {:?} must be an absolute path",
                options.cgroup_parent
            )));
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.runtime_dir);
        made.map_err(|source| Error::File { what: "create", path: options.runtime_dir.clone(), source })?;
        let layout = Layout::detect(&options.cgroup_root)?;
        let inner = Inner {
            options,
            supervisor,
            layout,
            filters: Filters::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            pods: Mutex::default(),
            reserved: Mutex::default(),
            zygote: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Events from now on, of every pod.
    pub fn events(&self) -> Events {
        Events { receiver: self.inner.events.subscribe() }
    }

    /// Removes the parent cgroup if no pod is left in it: for an end that is meant to leave nothing behind. Pods go on.
    pub fn remove_parent_cgroup(&self) {
        self.inner.layout.remove_parent(&self.inner.options.cgroup_parent);
    }

    /// The pod with this id, if this runtime holds it.
    pub fn pod(&self, id: &str) -> Option<PodSandbox> {
        self.inner.pods().get(id).cloned()
    }

    /// All pods that this runtime holds.
    pub fn pods(&self) -> Vec<PodSandbox> {
        self.inner.pods().values().cloned().collect()
    }

    /// Makes a pod sandbox: a shim with its namespaces and cgroups. Undone when it fails; goes on when the caller stops
    /// waiting, and is then found by [`Runtime::pod`].
    pub async fn create_pod(&self, config: PodSandboxConfig) -> Result<PodSandbox> {
        check_id("pod sandbox", &config.id)?;
        let inner = &self.inner;
        if inner.pods().len() >= inner.options.max_pods {
            return Err(Error::Limit(format!(
                "this node already runs {} pod sandboxes",
                inner.options.max_pods
            )));
        }
        let dir = inner.options.runtime_dir.join(&config.id);
        let reservation = Reservation::new(inner.clone(), &config.id)?;
        if inner.pods().contains_key(&config.id) || state::alive(&dir).is_some() {
            return Err(Error::AlreadyExists { kind: "pod sandbox".to_owned(), id: config.id });
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (runtime, id) = (self.clone(), config.id.clone());
        inner.supervisor.spawn(format!("create-{id}"), async move {
            let _reservation = reservation;
            // Nobody waits any more: the pod stays, as promised.
            let _ = sender.send(runtime.make_pod(config, dir).await);
        });
        receiver.await.unwrap_or_else(|_| {
            Err(Error::Conflict(format!("pod sandbox {id:?} was not made: shutting down")))
        })
    }

    async fn make_pod(&self, config: PodSandboxConfig, dir: PathBuf) -> Result<PodSandbox> {
        let cgroup = self.inner.layout.plan(&self.inner.options.cgroup_parent, &config.id);
        // What is left of one that was never finished, or of a shim that died.
        cgroup.kill_and_remove()?;
        state::remove(&dir)?;
        state::create(&dir)?;
        let plan = PodPlan { config, dir: dir.clone(), cgroup };
        let made = self.start_pod(plan.clone()).await;
        if made.is_err() {
            let _ = plan.cgroup.kill_and_remove();
            let _ = state::unpin(&plan);
            let _ = state::remove(&dir);
        }
        made
    }

    async fn start_pod(&self, plan: PodPlan) -> Result<PodSandbox> {
        let connection = Arc::new(self.inner.fork_shim(&plan.dir).await?);
        let pod = sandbox::Starting::new(self.inner.clone(), connection.clone(), plan.config.id.clone());
        match connection.call(Request::CreatePod(Box::new(plan))).await? {
            Response::Pod(description) => Ok(pod.finish(*description)),
            other => Err(sandbox::unexpected(&other)),
        }
    }

    /// Finds the pods that an earlier main process made and takes them over. Containers whose shim died are killed and
    /// reported as lost. Pods that this runtime already holds are left out.
    pub async fn adopt(&self) -> Result<Vec<AdoptedSandbox>> {
        let dir = &self.inner.options.runtime_dir;
        let failed = |source| Error::File { what: "read", path: dir.clone(), source };
        let mut adopted = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(id) = entry.file_name().into_string() else { continue };
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_dir || check_id("pod sandbox", &id).is_err() || self.pod(&id).is_some() {
                continue;
            }
            let Some(description) = state::read_pod(&entry.path()) else {
                // Never finished: nothing in it was ever reported as made.
                self.inner.layout.plan(&self.inner.options.cgroup_parent, &id).kill_and_remove()?;
                state::remove(&entry.path())?;
                continue;
            };
            let one_shot = description.plan.config.labels.contains_key(RUN_LABEL);
            let pod = sandbox::adopt(self.inner.clone(), description).await?;
            match one_shot {
                // Whoever waited for that command is gone.
                true => pod.sandbox.remove().await?,
                false => adopted.push(pod),
            }
        }
        Ok(adopted)
    }

    /// Runs a command once in a root file system of the caller's, as image builds do. Its output comes as streams.
    pub async fn run(&self, config: RunConfig) -> Result<Run> {
        let RunConfig { mut container, host_network, hostname } = config;
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("run-{}-{number}", std::process::id());
        let labels = [(RUN_LABEL.to_owned(), String::new())].into();
        let network = if host_network { Network::Host } else { Network::Private };
        let sandbox =
            self.create_pod(PodSandboxConfig { id, network, hostname, labels, ..Default::default() }).await?;
        container.id = "run".to_owned();
        let id = container.id.clone();
        let started = async {
            let mut pipes = Pipes::new([false, true, true])?;
            sandbox.create_with_streams(container, std::mem::take(&mut pipes.theirs)).await?;
            sandbox.start_container(&id).await?;
            pipes.streams()
        };
        match started.await {
            Ok([_, stdout, stderr]) => Ok(Run { stdout, stderr, sandbox, container: id }),
            Err(error) => {
                let _ = sandbox.remove().await;
                Err(error)
            }
        }
    }
}

/// Ids become names of files and cgroups.
pub(crate) fn check_id(kind: &str, id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if id.is_empty() || id.len() > 128 || !id.chars().all(plain) || id.starts_with('.') {
        let text = format!("{kind} id {id:?} must be 1 to 128 of [A-Za-z0-9._-] and not start with a dot");
        return Err(Error::Invalid(text));
    }
    Ok(())
}
