//! `RUN` of an image build, executed by the container runtime.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use sampan_container::{ContainerConfig, Rootfs, RunConfig, Stream, User};
use sampan_image::{RunMount, RunMountSource, RunNetwork, RunOutput, RunRequest, RunStep, RunStepError};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::throw_away::ThrowAway;

/// Longest line of output passed on whole; the rest of a longer one is dropped.
const MAX_LINE: usize = 16 << 10;

/// Runs steps in throw-away pods of a runtime of its own.
pub(crate) struct BuildSteps {
    own: ThrowAway,
}

impl BuildSteps {
    /// A runtime for this build alone; nothing of it remains when it is dropped.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { own: ThrowAway::new("build")? })
    }
}

/// Connections of one step to its SSH agent at a time.
const AGENT_CONNECTIONS: usize = 16;

/// Secrets of one step as files in memory, and sockets that lead to SSH agents: /run is a tmpfs.
struct Secrets {
    dir: std::path::PathBuf,
    /// One a mount, empty where the mount is neither.
    paths: Vec<std::path::PathBuf>,
    /// Where steps ask, and the agents to pass it on to.
    agents: Vec<(UnixListener, std::path::PathBuf)>,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        if self.paths.iter().any(|path| !path.as_os_str().is_empty())
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), "secrets could not be removed: {error}");
        }
    }
}

impl BuildSteps {
    fn secrets(&self, mounts: &[RunMount]) -> std::io::Result<Secrets> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
        let dir = self.own.dir.join(format!("secrets-{:08x}", rand::random::<u32>()));
        let mut secrets = Secrets { dir: dir.clone(), paths: Vec::new(), agents: Vec::new() };
        for (at, mount) in mounts.iter().enumerate() {
            let path = dir.join(at.to_string());
            let (mode, owner) = match &mount.source {
                RunMountSource::Secret { mode, owner, .. } | RunMountSource::Agent { mode, owner, .. } => {
                    (mode, owner)
                }
                _ => {
                    secrets.paths.push(std::path::PathBuf::new());
                    continue;
                }
            };
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            secrets.paths.push(path.clone());
            match &mount.source {
                RunMountSource::Secret { bytes, .. } => std::fs::write(&path, bytes)?,
                RunMountSource::Agent { socket, .. } => {
                    secrets.agents.push((UnixListener::bind(&path)?, socket.clone()));
                }
                _ => {}
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode))?;
            chown(&path, Some(owner.0), Some(owner.1))?;
        }
        Ok(secrets)
    }
}

/// Pass connections on to an agent, until this is dropped.
async fn forward(listener: &UnixListener, agent: &Path) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < AGENT_CONNECTIONS => {
                let Ok((mut inside, _)) = accepted else { return };
                open.push(async move {
                    // An agent that is away is one that answers nothing.
                    if let Ok(mut outside) = UnixStream::connect(agent).await {
                        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
            Some(()) = open.next(), if !open.is_empty() => {}
        }
    }
}

/// A build's mount in the runtime's words.
fn translate(mount: &RunMount, secret: &Path) -> sampan_container::Mount {
    let bind = |path: &Path| sampan_container::MountSource::Bind { path: path.to_owned(), sub_path: None };
    let source = match &mount.source {
        RunMountSource::Path(path) => bind(path),
        RunMountSource::Secret { .. } | RunMountSource::Agent { .. } => bind(secret),
        RunMountSource::Tmpfs { size } => sampan_container::MountSource::Tmpfs { size: *size, mode: None },
    };
    sampan_container::Mount {
        destination: mount.target.clone(),
        source,
        read_only: mount.read_only,
        recursive_read_only: false,
        propagation: sampan_container::Propagation::Private,
    }
}

impl RunStep for BuildSteps {
    fn run<'a>(&'a self, step: RunRequest, output: RunOutput) -> BoxFuture<'a, Result<i32, RunStepError>> {
        Box::pin(async move {
            let host_network = step.network == RunNetwork::Host;
            let mut mounts = if host_network { resolver_mounts() } else { Vec::new() };
            // Removed with their content when the step is over.
            let secrets = self.secrets(&step.mounts)?;
            mounts.extend(step.mounts.iter().zip(&secrets.paths).map(|(mount, path)| translate(mount, path)));
            let container = ContainerConfig {
                rootfs: Rootfs::Overlay {
                    lower: step.lower_dirs,
                    upper: Some(step.upper),
                    work: Some(step.work),
                    // What they would write into the upper directory cannot be put into a layer.
                    options: vec!["redirect_dir=off".to_owned(), "metacopy=off".to_owned()],
                },
                args: step.argv,
                env: step.env,
                working_dir: step.cwd,
                user: User { name: step.user, ..User::default() },
                mounts,
                ..ContainerConfig::default()
            };
            let config = RunConfig { container, host_network, hostname: "build".to_owned() };
            let mut run = self.own.runtime.run(config).await?;
            let streams = futures::future::join(
                copy_lines(run.stdout.take(), false, output.clone()),
                copy_lines(run.stderr.take(), true, output),
            );
            let agents = secrets.agents.iter().map(|(listener, agent)| forward(listener, agent));
            let agents = async {
                futures::future::join_all(agents).await;
                // They end with the step.
                futures::future::pending::<()>().await;
            };
            tokio::select! {
                () = agents => Err("its agents ended".into()),
                _ = streams => Ok(run.wait().await?.code),
                () = step.cancel.cancelled() => {
                    run.cancel().await?;
                    Err("cancelled".into())
                }
            }
        })
    }
}

/// With the host's network come the host's resolvers.
fn resolver_mounts() -> Vec<sampan_container::Mount> {
    let path = Path::new("/etc/resolv.conf");
    let mount = |path: &Path| sampan_container::Mount {
        destination: path.to_owned(),
        source: sampan_container::MountSource::Bind { path: path.to_owned(), sub_path: None },
        read_only: true,
        recursive_read_only: false,
        propagation: sampan_container::Propagation::Private,
    };
    path.exists().then(|| mount(path)).into_iter().collect()
}

async fn copy_lines(stream: Option<Stream>, stderr: bool, output: Arc<dyn Fn(bool, String) + Send + Sync>) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::with_capacity(MAX_LINE, stream);
    let mut line = Vec::new();
    // An error of a pipe is its end: the exit code tells the rest.
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let taken = end.map_or(chunk.len(), |n| n + 1);
        let room = MAX_LINE.saturating_sub(line.len());
        line.extend_from_slice(&chunk[..end.unwrap_or(taken).min(room)]);
        reader.consume(taken);
        if end.is_some() {
            output(stderr, String::from_utf8_lossy(&line).into_owned());
            line.clear();
        }
    }
    if !line.is_empty() {
        output(stderr, String::from_utf8_lossy(&line).into_owned());
    }
}
