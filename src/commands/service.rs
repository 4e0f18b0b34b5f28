//! What every long-running command does: take the lock, start, say when it is ready, run until told to end.

use std::{
    io::{Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use sampan_daemon::{Supervisor, clock};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{self, Launch},
    instance::{Instance, Running},
    platform, wait,
};

/// How long what still runs may take to end.
const END_BOUND: Duration = Duration::from_secs(5);
/// How long it may take to be ready before `--detach` gives up waiting.
const READY_BOUND: Duration = Duration::from_secs(60);

/// A command that runs until it is told to end.
pub(super) trait Service {
    /// What runs.
    type Running;
    /// Its name, as `status` shows it.
    const ROLE: &'static str;

    /// Starts it.
    async fn start(&self, instance: &mut Instance, supervisor: Supervisor) -> Result<Self::Running>;
    /// Where its API is.
    fn api(running: &Self::Running) -> String;
    /// Returns once it does what it is for.
    async fn ready(&self, instance: &Instance, running: &Self::Running) -> Result<()>;
    /// One screen of where things are.
    fn screen(&self, instance: &Instance, api: &str) -> String;
    /// Ends it, within a bound.
    async fn stop(running: Self::Running);
}

pub(super) fn launch<S: Service>(mut instance: Instance, options: Launch, service: &S) -> Result<ExitCode> {
    if options.detach {
        return detach(&instance, service);
    }
    let _lock = instance.lock()?;
    // Two workers: the API and the node rarely need more, and each costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .thread_name("sampan")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(&mut instance, options, service));
    // Dropping it would wait for blocking work without a bound.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn serve<S: Service>(instance: &mut Instance, options: Launch, service: &S) -> Result<ExitCode> {
    let begun = Instant::now();
    let supervisor = Supervisor::new();
    // Before anything is started, so that no signal is lost on the way.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    platform::make_runtime_dir(instance)?;
    let started = tokio::select! {
        running = service.start(instance, supervisor.clone()) => running.map(Some),
        // What it waits for may never come.
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    };
    let running = match started {
        Ok(Some(running)) => running,
        unfinished => {
            // What has started by now ends as it would have later.
            end(&supervisor).await;
            return unfinished.map(|_| ExitCode::SUCCESS);
        }
    };
    let api = S::api(&running);
    instance.write_running(&Running {
        pid: std::process::id().cast_signed(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: api.clone(),
        started: clock::rfc3339(clock::now()),
        role: S::ROLE.to_owned(),
    })?;
    let cancelled = supervisor.token();
    tokio::select! {
        ready = service.ready(instance, &running) => {
            ready?;
            announce(options, &service.screen(instance, &api), begun)?;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = cancelled.cancelled() => {}
            }
        }
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = cancelled.cancelled() => {}
    }
    S::stop(running).await;
    match supervisor.failure() {
        Some(reason) => bail!("{reason}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Ends every task, within a bound.
pub(crate) async fn end(supervisor: &Supervisor) {
    let late = supervisor.shutdown(END_BOUND).await;
    if !late.is_empty() {
        tracing::warn!("did not end in time: {}", late.join(", "));
    }
}

/// Wait for the node's Ready condition.
pub(super) async fn node_ready(client: &kube::Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    wait::until(&nodes, name, |node| {
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(()))
    })
    .await
}

fn announce(options: Launch, screen: &str, begun: Instant) -> Result<()> {
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(fd) = options.ready_fd {
        // SAFETY: `--detach` opened this descriptor for us and nothing else here uses it.
        let mut pipe = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // One write, so that it is read whole; nobody has to read it.
        let _ = pipe.write_all(format!("ready in {seconds:.2} s\n").as_bytes());
        return Ok(());
    }
    eprintln!("{screen}");
    eprintln!(
        "  Ready in {seconds:.2} s. Ctrl-C ends the service and leaves pods running; `sampan down` stops them."
    );
    Ok(())
}

/// ` --data-dir DIR` where it is not the usual one.
pub(super) fn data_dir_flag(instance: &Instance) -> String {
    let default = instance.dir == Path::new("/var/lib/sampan");
    if default { String::new() } else { format!(" --data-dir {}", instance.dir.display()) }
}

/// Start ourselves again in the background and wait until that process says it is ready.
fn detach<S: Service>(instance: &Instance, service: &S) -> Result<ExitCode> {
    drop(instance.lock()?);
    let log_path = instance.dir.join("sampan.log");
    let log_file = std::fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
    let (reader, writer) = std::io::pipe()?;
    let writer_fd = writer.as_raw_fd();
    let mut command = Command::new(std::env::current_exe()?);
    let (arguments, environment) = cli::in_foreground();
    command.args(arguments).args(["--ready-fd", "3"]).envs(environment);
    command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            if nix::libc::dup2(writer_fd, 3) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // `dup2` onto itself keeps close-on-exec; clear it in either case.
            nix::libc::fcntl(3, nix::libc::F_SETFD, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().context("start the service in the background")?;
    drop(writer);
    let said = wait_for_line(reader)?;
    if said.is_empty() {
        let status = child.wait()?;
        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
        let last = log.lines().rev().find(|line| line.starts_with("error:")).unwrap_or("");
        bail!("the service ended ({status}): {last} (hint: see {})", log_path.display());
    }
    let api = instance.running().map_or_else(String::new, |running| running.api);
    // The networks may have been learned meanwhile.
    let instance = Instance::open(&instance.dir)?;
    eprintln!("{}", service.screen(&instance, &api));
    eprintln!("  {}; process {}, log in {}.", said.trim(), child.id(), log_path.display());
    Ok(ExitCode::SUCCESS)
}

/// Read what the child says; an empty answer means that it ended. Bounded.
fn wait_for_line(mut reader: std::io::PipeReader) -> Result<String> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let bound = PollTimeout::try_from(READY_BOUND)?;
    let ready = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], bound)?;
    if ready == 0 {
        bail!("not ready after {} s; it goes on in the background", READY_BOUND.as_secs());
    }
    let mut said = [0; 64];
    let n = reader.read(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..n]).into_owned())
}
