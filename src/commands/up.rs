//! `sampan up`: parse everything, start, say where things are, run until told to end.

use std::{
    io::{Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use sampan_apiserver::{AuditLog, AuditPolicy};
use sampan_daemon::{Supervisor, clock};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::Up,
    instance::{self, Choices, Instance, Running},
    platform::{self, Platform, Settings},
};

/// How long a node may take before `--detach` gives up waiting.
const READY_BOUND: Duration = Duration::from_secs(60);

pub(crate) fn run(data_dir: &Path, log: &str, options: Up) -> Result<ExitCode> {
    instance::require_root()?;
    let choices = Choices {
        api_port: options.api_port,
        node_name: options.node_name.clone(),
        pod_cidr: options.pod_cidr,
        service_cidr: options.service_cidr,
    };
    let instance = Instance::open_or_make(data_dir, &choices)?;
    if options.detach {
        return detach(&instance, log, &options);
    }
    let _lock = instance.lock()?;
    // Two workers: the API and the node rarely need more, and each costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .thread_name("sampan")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(&instance, &options));
    // Dropping it would wait for blocking work without a bound.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn serve(instance: &Instance, options: &Up) -> Result<ExitCode> {
    let begun = Instant::now();
    let supervisor = Supervisor::new();
    // Before anything is started, so that no signal is lost on the way.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let settings = Settings {
        bind: options.bind.clone(),
        insecure: options.insecure_registry.clone(),
        mirrors: options.registry_mirror.clone(),
        audit: audit(options)?,
        encryption: options.encryption_provider_config.clone(),
        registry_port: options.registry_port,
        authentication: crate::issuers::configuration(
            options.authentication_config.as_deref(),
            &options.oidc,
        )?,
    };
    platform::make_runtime_dir(instance)?;
    let platform = Platform::start(instance, &settings, supervisor.clone()).await?;
    instance.write_running(&Running {
        pid: std::process::id().cast_signed(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: platform.api.clone(),
        started: clock::rfc3339(clock::now()),
    })?;
    let cancelled = supervisor.token();
    tokio::select! {
        ready = node_ready(&platform.client, &instance.facts.node_name) => {
            ready?;
            announce(instance, options, &platform, begun)?;
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
    platform.stop().await;
    match supervisor.failure() {
        Some(reason) => bail!("{reason}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What is to be recorded of requests, and where.
fn audit(options: &Up) -> Result<Option<(AuditPolicy, AuditLog)>> {
    let (Some(policy), Some(log)) = (&options.audit_policy, &options.audit_log) else { return Ok(None) };
    let text = std::fs::read(policy).with_context(|| policy.display().to_string())?;
    let policy = AuditPolicy::parse(&text)
        .map_err(|why| anyhow::anyhow!("{} is no audit policy: {why}", policy.display()))?;
    let log = AuditLog {
        path: log.clone(),
        max_size: options.audit_log_max_size << 20,
        max_age: Duration::from_secs(options.audit_log_max_age * 24 * 3600),
        max_backups: options.audit_log_max_backups,
    };
    Ok(Some((policy, log)))
}

/// Wait for the node's Ready condition.
async fn node_ready(client: &kube::Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let fields = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut watch = nodes.watch(&fields, "0").await?.boxed();
    while let Some(event) = watch.next().await {
        if let WatchEvent::Added(node) | WatchEvent::Modified(node) = event? {
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
                return Ok(());
            }
        }
    }
    bail!("the API ended before the node was ready")
}

fn announce(instance: &Instance, options: &Up, platform: &Platform, begun: Instant) -> Result<()> {
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(fd) = options.ready_fd {
        // SAFETY: `--detach` opened this descriptor for us and nothing else here uses it.
        let mut pipe = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // One write, so that it is read whole; nobody has to read it.
        let _ = pipe.write_all(format!("ready in {seconds:.2} s\n").as_bytes());
        return Ok(());
    }
    eprintln!("{}", screen(instance, &platform.api, &platform.dns.to_string()));
    eprintln!(
        "  Ready in {seconds:.2} s. Ctrl-C ends the service and leaves pods running; `sampan down` stops them."
    );
    Ok(())
}

/// One screen of where things are.
fn screen(instance: &Instance, api: &str, dns: &str) -> String {
    let facts = &instance.facts;
    let default = instance.dir == Path::new("/var/lib/sampan");
    let flag = if default { String::new() } else { format!(" --data-dir {}", instance.dir.display()) };
    format!(
        "Sampan {version} on node {node}\n\n  \
           API         {api}\n  \
           kubeconfig  {kubeconfig}\n  \
           data        {data}\n  \
           pods        {pods}\n  \
           services    {services}, DNS at {dns}\n  \
           registry    {registry}\n\n  \
           export KUBECONFIG={kubeconfig}\n  \
           kubectl get pods -A\n  \
           sampan{flag} run --rm -it IMAGE sh\n",
        version = env!("CARGO_PKG_VERSION"),
        node = facts.node_name,
        kubeconfig = instance.kubeconfig().display(),
        data = instance.dir.display(),
        pods = facts.pod_cidr,
        services = facts.service_cidr,
        registry = super::registry::place(&instance.dir),
    )
}

/// Start ourselves again in the background and wait until that process says it is ready.
fn detach(instance: &Instance, log: &str, options: &Up) -> Result<ExitCode> {
    drop(instance.lock()?);
    let log_path = instance.dir.join("sampan.log");
    let log_file = std::fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
    let (reader, writer) = std::io::pipe()?;
    let writer_fd = writer.as_raw_fd();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data-dir").arg(&instance.dir).args(["--log", log, "up", "--ready-fd", "3"]);
    if let Some(port) = options.registry_port {
        command.args(["--registry-port", &port.to_string()]);
    }
    for ip in &options.bind {
        command.args(["--bind", &ip.to_string()]);
    }
    for host in &options.insecure_registry {
        command.args(["--insecure-registry", host]);
    }
    for (registry, mirror) in &options.registry_mirror {
        command.args(["--registry-mirror", &format!("{registry}={mirror}")]);
    }
    if let (Some(policy), Some(log)) = (&options.audit_policy, &options.audit_log) {
        command.arg("--audit-policy").arg(std::path::absolute(policy)?);
        command.arg("--audit-log").arg(std::path::absolute(log)?);
        command.args(["--audit-log-max-size", &options.audit_log_max_size.to_string()]);
        command.args(["--audit-log-max-age", &options.audit_log_max_age.to_string()]);
        command.args(["--audit-log-max-backups", &options.audit_log_max_backups.to_string()]);
    }
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
    let dns = instance.service_cidr()?.nth(10).map_or_else(String::new, |ip| ip.to_string());
    eprintln!("{}", screen(instance, &api, &dns));
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
        bail!("the node is not ready after {} s; it goes on in the background", READY_BOUND.as_secs());
    }
    let mut said = [0; 64];
    let n = reader.read(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..n]).into_owned())
}
