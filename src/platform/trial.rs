//! An image tried out: its container runs in a pod of its own with nothing but loopback, and is asked whether it is well.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use sampan_container::{
    ContainerConfig, ContainerState, ExecConfig, LogConfig, Mount, MountSource, PodSandbox, PodSandboxConfig,
    Propagation, Rootfs, User, mount_overlay, signal_number,
};
use sampan_image::RootfsPlan;

use super::{fanotify::Watch, throw_away::ThrowAway};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(300);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// How long a container has to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes of its log that a failure shows.
const LOG_TAIL: usize = 2000;
const CONTAINER: &str = "trial";
/// What every runtime gives its containers, and images rightly go without. `localhost` is IPv4 alone, as where health
/// checks come from: who listens on `0.0.0.0` would not be found at `::1`.
const FILES: [(&str, &str); 3] = [
    ("hosts", "127.0.0.1\tlocalhost\n::1\tip6-localhost ip6-loopback\n127.0.0.1\ttrial\n"),
    ("hostname", "trial\n"),
    ("resolv.conf", "# There is nobody to ask.\nnameserver 127.0.0.1\n"),
];

/// Runs images for a moment; nothing of it remains when it is dropped.
pub(crate) struct Trials {
    own: ThrowAway,
    /// Writable layers: on a disk, since applications write much at their first start.
    disk: tempfile::TempDir,
}

/// A container that runs.
pub(crate) struct Trial<'a> {
    _trials: &'a Trials,
    sandbox: PodSandbox,
    dir: PathBuf,
    mounted: Option<Mounted>,
    watch: Option<Watch>,
    signal: i32,
}

/// An overlay in this process's own mount namespace.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            tracing::warn!(dir = %self.0.display(), "could not unmount: {error}");
        }
    }
}

impl Trials {
    pub(crate) fn new(data_dir: &Path) -> Result<Self> {
        let own = ThrowAway::new("trial")?;
        let disk = tempfile::Builder::new().prefix("trial-").tempdir_in(data_dir);
        Ok(Self { own, disk: disk.context("make a directory for the trial")? })
    }

    /// Start an image's own command. With `watch`, remember which files are opened.
    pub(crate) async fn start(&self, plan: &RootfsPlan, watch: bool) -> Result<Trial<'_>> {
        let name = format!("{:08x}", rand::random::<u32>());
        let dir = self.disk.path().join(&name);
        for part in ["upper", "work", "merged"] {
            std::fs::create_dir_all(dir.join(part)).with_context(|| format!("create {}", dir.display()))?;
        }
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let (rootfs, mounted, watch) = if watch {
            let mounted = overlay(&plan.lower_dirs, &dir)?;
            let watch = Watch::new(&mounted.0).context("watch the container's files with fanotify")?;
            (Rootfs::Directory(mounted.0.clone()), Some(mounted), Some(watch))
        } else {
            let lower = plan.lower_dirs.clone();
            let rootfs = Rootfs::Overlay { lower, upper: Some(upper), work: Some(work), options: Vec::new() };
            (rootfs, None, None)
        };
        let mut mounts = Vec::new();
        for (name, text) in FILES {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            mounts.push(Mount {
                destination: Path::new("/etc").join(name),
                source: MountSource::Bind { path, sub_path: None },
                read_only: false,
                recursive_read_only: false,
                propagation: Propagation::default(),
            });
        }
        let config = &plan.config;
        let args = [config.entrypoint.clone(), config.cmd.clone()].concat();
        if args.is_empty() {
            bail!("the image has no command to try (hint: it needs ENTRYPOINT or CMD)");
        }
        let container = ContainerConfig {
            id: CONTAINER.to_owned(),
            rootfs,
            args,
            mounts,
            env: config.env.clone(),
            working_dir: config.working_dir.clone(),
            user: User { name: config.user.clone(), ..User::default() },
            log: Some(LogConfig::new(dir.join("log"))),
            ..ContainerConfig::default()
        };
        let pod = PodSandboxConfig { id: name, hostname: "trial".to_owned(), ..Default::default() };
        let sandbox = self.own.runtime.create_pod(pod).await?;
        let signal = config.stop_signal.as_deref().and_then(signal_number).unwrap_or(nix::libc::SIGTERM);
        let trial = Trial { _trials: self, sandbox, dir, mounted, watch, signal };
        let started = match trial.sandbox.create_container(container).await {
            Ok(()) => trial.sandbox.start_container(CONTAINER).await.map(drop),
            Err(error) => Err(error),
        };
        match started {
            Ok(()) => Ok(trial),
            Err(error) => {
                trial.stop().await?;
                Err(error.into())
            }
        }
    }
}

impl Trial<'_> {
    /// Ask until the command succeeds. Fails when the container ends before, or nothing helped for that long.
    pub(crate) async fn well(&mut self, check: &[String], within: Duration) -> Result<()> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            self.drain()?;
            let said = match self.exec(check).await {
                Ok((0, _)) => return Ok(()),
                Ok((code, said)) => format!("exit code {code}: {}", said.trim()),
                Err(error) => error.to_string(),
            };
            if tokio::time::Instant::now() >= deadline {
                bail!("{check:?} did not succeed within {within:?}: {said}{}", self.log());
            }
            if let Some(code) = self.settled(PAUSE).await? {
                bail!("its main process ended with exit code {code}{}", self.log());
            }
        }
    }

    /// How the main process is after a while: its exit code, or `None` while it runs.
    pub(crate) async fn settled(&mut self, within: Duration) -> Result<Option<i32>> {
        let exit = tokio::time::timeout(within, self.sandbox.wait_container(CONTAINER)).await;
        self.drain()?;
        Ok(exit.ok().transpose()?.map(|exit| exit.code))
    }

    /// Run a command in the container; its code, and what it printed.
    pub(crate) async fn exec(&mut self, argv: &[String]) -> Result<(i32, String)> {
        let config = ExecConfig {
            container: CONTAINER.to_owned(),
            args: argv.to_vec(),
            stdout: true,
            stderr: true,
            ..ExecConfig::default()
        };
        let mut session = self.sandbox.exec(config).await?;
        let control = session.process.control();
        let said = futures::future::join(last(session.stdout.take()), last(session.stderr.take()));
        let done = futures::future::join(said, session.process.wait());
        let Ok((said, exit)) = tokio::time::timeout(COMMAND, done).await else {
            control.signal(nix::libc::SIGKILL).await?;
            bail!("{argv:?} did not end within {COMMAND:?}");
        };
        self.drain()?;
        Ok((exit?.code, said.0 + &said.1))
    }

    async fn ended(&self) -> Result<Option<i32>> {
        let status = self.sandbox.container_status(CONTAINER).await?;
        let exited = status.state == ContainerState::Exited;
        Ok(exited.then(|| status.exit.map_or(-1, |exit| exit.code)))
    }

    fn drain(&mut self) -> Result<()> {
        self.watch.as_mut().map_or(Ok(()), Watch::drain).context("read what the container opened")
    }

    /// What it printed last, for messages.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let from = text.char_indices().rev().nth(LOG_TAIL).map_or(0, |(at, _)| at);
        if text.is_empty() {
            String::new()
        } else {
            format!("; it printed last:\n{}", text[from..].trim_end())
        }
    }

    /// End it and remove everything. Gives the files that were opened, when they were watched.
    pub(crate) async fn stop(mut self) -> Result<BTreeSet<PathBuf>> {
        if self.ended().await.ok().flatten().is_none()
            && let Err(error) = self.sandbox.stop_container(CONTAINER, self.signal, GRACE).await
        {
            tracing::debug!("could not stop the trial: {error}");
        }
        self.sandbox.remove().await?;
        let seen =
            self.watch.take().map(Watch::finish).transpose().context("read what the container opened")?;
        drop(self.mounted.take());
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        Ok(seen.unwrap_or_default())
    }
}

fn overlay(lowers: &[PathBuf], dir: &Path) -> Result<Mounted> {
    let [upper, work, merged] = ["upper", "work", "merged"].map(|part| dir.join(part));
    mount_overlay(lowers, Some((upper.as_path(), work.as_path())), &merged)?;
    Ok(Mounted(merged))
}

/// The end of what a stream says.
async fn last(stream: Option<sampan_container::Stream>) -> String {
    use tokio::io::AsyncReadExt;
    let Some(mut stream) = stream else { return String::new() };
    let (mut text, mut buffer) = (Vec::new(), vec![0; 8 << 10]);
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..read]);
        let over = text.len().saturating_sub(LOG_TAIL);
        text.drain(..over);
    }
    String::from_utf8_lossy(&text).into_owned()
}
