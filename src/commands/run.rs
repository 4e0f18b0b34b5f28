//! `sampan run IMAGE CMD`: a pod of one container, its output here, its exit code ours.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt as _, StreamExt};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, EnvVar, Pod, PodSpec};
use kube::{
    Api, ResourceExt,
    api::{AttachParams, DeleteParams, LogParams, PostParams, TerminalSize, WatchEvent, WatchParams},
};
use sampan_daemon::Supervisor;
use tokio::io::AsyncWriteExt;

use crate::{cli::Run, instance::Instance, local, terminal};

/// The container's name in the pod.
const CONTAINER: &str = "main";

pub(crate) async fn run(data_dir: &Path, options: Run) -> Result<ExitCode> {
    let instance = Instance::open(data_dir)?;
    let client = local::client(&instance)?;
    let pods: Api<Pod> = Api::namespaced(client, &options.namespace);
    let created = pods.create(&PostParams::default(), &pod(&options)).await?;
    let name = created.name_any();
    if options.detach {
        terminal::write(&format!("{name}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = tokio::select! {
        outcome = follow(&pods, &created, &options) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(130),
    };
    if options.rm {
        // Nothing is left to be graceful with: it ended, or it was interrupted.
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(ExitCode::from(outcome?))
}

fn pod(options: &Run) -> Pod {
    let base = options.image.rsplit('/').next().unwrap_or_default();
    let base: String = base.split(['@', ':']).next().unwrap_or_default().chars().take(40).collect();
    let clean = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let base: String = base.chars().map(clean).collect();
    let mut pod = Pod::default();
    match &options.name {
        Some(name) => pod.metadata.name = Some(name.clone()),
        None => pod.metadata.generate_name = Some(format!("{}-", base.trim_matches('-'))),
    }
    pod.metadata.labels = Some(BTreeMap::from([("run".to_owned(), options.name.clone().unwrap_or(base))]));
    let env = options.env.iter().map(|(name, value)| EnvVar {
        name: name.clone(),
        value: Some(value.clone()),
        ..EnvVar::default()
    });
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(options.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: (!options.command.is_empty()).then(|| options.command.clone()),
        env: Some(env.collect()),
        stdin: Some(options.interactive),
        stdin_once: Some(options.interactive),
        tty: Some(options.tty),
        ..Container::default()
    };
    // What `run` starts rarely talks to the API; a token in it would only be a risk.
    pod.spec = Some(PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        ..PodSpec::default()
    });
    pod
}

/// Show output from start to end; returns the exit code.
async fn follow(pods: &Api<Pod>, created: &Pod, options: &Run) -> Result<u8> {
    let name = created.name_any();
    let fields = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut watch = pods.watch(&fields, &created.resource_version().unwrap_or_default()).await?.boxed();
    let mut shown = false;
    let mut said = String::new();
    while let Some(event) = watch.next().await {
        let pod = match event? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => pod,
            WatchEvent::Deleted(_) => bail!("pod {name} was deleted"),
            WatchEvent::Error(status) => bail!("{}", status.message),
            WatchEvent::Bookmark(_) => continue,
        };
        let Some(status) = container_status(&pod) else {
            report_scheduling(&pod, &mut said);
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        if let Some(waiting) = state.waiting {
            report_waiting(&waiting, &mut said);
        }
        if (state.running.is_some() || state.terminated.is_some()) && !shown {
            shown = true;
            show_output(pods, &name, options, state.terminated.is_some()).await?;
        }
        if let Some(ended) = state.terminated {
            if let Some(message) = ended.message.filter(|_| ended.reason.as_deref() == Some("StartError")) {
                eprintln!("{message}");
            }
            return Ok(u8::try_from(ended.exit_code).unwrap_or(255));
        }
    }
    bail!("the watch on pod {name} ended (hint: is the service still up? `sampan status`)")
}

fn container_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn report_scheduling(pod: &Pod, said: &mut String) {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let waiting = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(message) = waiting.and_then(|c| c.message.clone())
        && *said != message
    {
        eprintln!("waiting: {message}");
        *said = message;
    }
}

fn report_waiting(waiting: &k8s_openapi::api::core::v1::ContainerStateWaiting, said: &mut String) {
    let reason = waiting.reason.clone().unwrap_or_default();
    if matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
        return;
    }
    let line = format!("{reason}: {}", waiting.message.clone().unwrap_or_default());
    if *said != line {
        eprintln!("waiting: {line}");
        *said = line;
    }
}

async fn show_output(pods: &Api<Pod>, name: &str, options: &Run, ended: bool) -> Result<()> {
    if (options.interactive || options.tty) && !ended {
        return attach(pods, name, options).await;
    }
    let logs = LogParams { follow: true, container: Some(CONTAINER.to_owned()), ..LogParams::default() };
    let mut logs = pods.log_stream(name, &logs).await?;
    let mut out = tokio::io::stdout();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = logs.read(&mut buffer).await?;
        if n == 0 {
            return Ok(out.flush().await?);
        }
        out.write_all(&buffer[..n]).await?;
        out.flush().await?;
    }
}

async fn attach(pods: &Api<Pod>, name: &str, options: &Run) -> Result<()> {
    let parameters = AttachParams::default()
        .container(CONTAINER)
        .stdin(options.interactive)
        .stdout(true)
        .stderr(!options.tty)
        .tty(options.tty);
    let mut process = pods.attach(name, &parameters).await?;
    let _raw = if options.tty { Some(RawTerminal::enter()?) } else { None };
    let tasks = Supervisor::new();
    if let Some(mut input) = process.stdin() {
        tasks.spawn("stdin", async move {
            // The end of either side ends the copy; the process's own end is what counts.
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut input).await;
            let _ = input.shutdown().await;
        });
    }
    if let Some(mut size) = process.terminal_size() {
        tasks.spawn("resize", async move {
            use futures::SinkExt;
            let Ok(mut changes) =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())
            else {
                return;
            };
            loop {
                if let Some((width, height)) = window_size()
                    && size.send(TerminalSize { width, height }).await.is_err()
                {
                    return;
                }
                changes.recv().await;
            }
        });
    }
    let mut stderr = process.stderr();
    let copy_err = async {
        if let Some(stream) = &mut stderr {
            tokio::io::copy(stream, &mut tokio::io::stderr()).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let mut stdout = process.stdout().context("no output stream")?;
    let mut out = tokio::io::stdout();
    let (copied, _) = futures::join!(tokio::io::copy(&mut stdout, &mut out), copy_err);
    copied?;
    tasks.cancel();
    Ok(())
}

fn window_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Raw mode for as long as it lives.
struct RawTerminal(nix::sys::termios::Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        use nix::sys::termios;
        let before = termios::tcgetattr(std::io::stdin()).context("-t needs a terminal on stdin")?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), termios::SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        use nix::sys::termios;
        // Nothing can be done for a terminal that is gone.
        let _ = termios::tcsetattr(std::io::stdin(), termios::SetArg::TCSANOW, &self.0);
    }
}
