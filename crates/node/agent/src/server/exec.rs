//! `/exec` and `/attach`: a command in a container, or the container's own streams, over WebSocket or SPDY.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use sampan_container::{AttachConfig, ExecConfig, PodSandbox, Stream, TerminalSize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::upgrade::{self, Carrier, Upgrade};
use super::{Body, Query, text};
use crate::context::Context;
use crate::pod::record::Run;
use crate::pod::spec;
use crate::streams::remote::{
    self, Input, Output, Resize, SPDY_PROTOCOLS, Session, Size, WEBSOCKET_PROTOCOLS, Wanted,
};
use crate::streams::spdy;

/// SPDY streams of one command: five are used.
const MAX_STREAMS: usize = 8;
/// How long output may still come after the command's own process ended: descendants can hold its pipes open.
const DRAIN: Duration = Duration::from_secs(1);
/// Bytes read from a container at a time.
const CHUNK: usize = 32 * 1024;

/// What is to be run.
enum What {
    Exec(Vec<String>),
    Attach,
}

struct Job {
    sandbox: PodSandbox,
    container: String,
    what: What,
    wanted: Wanted,
}

pub(super) async fn serve(
    ctx: &Arc<Context>,
    (namespace, pod, uid, container): (&str, &str, Option<&str>, &str),
    attach: bool,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let query = Query::of(&request);
    let job = match prepare(ctx, (namespace, pod, uid, container), attach, &query) {
        Ok(job) => job,
        Err((status, message)) => return text(status, message),
    };
    let upgrade = match upgrade::accept(&mut request, WEBSOCKET_PROTOCOLS, SPDY_PROTOCOLS) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return *refusal,
    };
    let Upgrade { carrier, protocol, on, response } = upgrade;
    ctx.supervisor.spawn(if attach { "attach" } else { "exec" }, async move {
        let Some(io) = upgrade::connection(on).await else { return };
        let ended = match carrier {
            Carrier::WebSocket => {
                let (session, driver) = remote::over_websocket(io, job.wanted, &protocol);
                drive(driver, run(job, session)).await
            }
            Carrier::Spdy => {
                let (mut connection, driver) = spdy::connect(io, MAX_STREAMS);
                let run = async move {
                    match remote::over_spdy(&mut connection, job.wanted).await {
                        Ok(session) => run(job, session).await,
                        Err(error) => tracing::debug!(%error, "exec: streams"),
                    }
                };
                drive(driver.run(), run).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "exec: connection");
        }
    });
    response
}

/// Runs the command beside the connection. When the client leaves, the command's streams end, and nobody waits for the
/// command any more: one that says nothing and never ends would be waited for for ever.
async fn drive<E>(
    driver: impl Future<Output = Result<(), E>>,
    run: impl Future<Output = ()>,
) -> Result<(), E> {
    let mut driver = std::pin::pin!(driver);
    tokio::select! {
        driven = &mut driver => driven,
        () = run => driver.await,
    }
}

fn prepare(
    ctx: &Context,
    (namespace, pod, uid, container): (&str, &str, Option<&str>, &str),
    attach: bool,
    query: &Query,
) -> Result<Job, (StatusCode, String)> {
    let entry = ctx
        .pods
        .find(namespace, pod, uid)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found")))?;
    let view = entry.view.borrow().clone();
    let found = view.pod.spec.as_ref().and_then(|spec| spec::any_container(spec, container));
    let (_, declared) = found.ok_or_else(|| {
        (StatusCode::NOT_FOUND, format!("container {container} is not valid for pod {pod}"))
    })?;
    let running = view.record.containers.get(container).map(|seen| &seen.run);
    let Some(Run::Running { id, .. }) = running else {
        let message = format!("unable to upgrade connection: container not found (\"{container}\")");
        return Err((StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    let sandbox = ctx.options.runtime.pod(&entry.uid).ok_or_else(|| {
        (StatusCode::INTERNAL_SERVER_ERROR, "unable to upgrade connection: pod does not exist".to_owned())
    })?;
    let wanted = Wanted {
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: query.flag(&["error", "stderr"]),
        tty: query.flag(&["tty"]),
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err((StatusCode::BAD_REQUEST, message.to_owned()));
    }
    let what = if attach {
        let message = "the container has no stdin (hint: set `stdin: true` in its spec)";
        if wanted.stdin && declared.stdin != Some(true) && !wanted.stdout && !wanted.stderr {
            return Err((StatusCode::BAD_REQUEST, message.to_owned()));
        }
        What::Attach
    } else {
        let command = query.all("command");
        if command.is_empty() {
            return Err((StatusCode::BAD_REQUEST, "you must specify at least 1 command".to_owned()));
        }
        What::Exec(command)
    };
    Ok(Job { sandbox, container: id.clone(), what, wanted })
}

async fn run(job: Job, session: Session) {
    let Session { stdin, stdout, stderr, resize, error, plain } = session;
    let status = match &job.what {
        What::Exec(command) => {
            exec(&job, command.clone(), stdin, (stdout.clone(), stderr.clone()), resize).await
        }
        What::Attach => attach(&job, stdin, (stdout.clone(), stderr.clone()), resize).await,
    };
    // All of these fail only when the client has left.
    for output in [stdout, stderr].into_iter().flatten() {
        output.finish().await;
    }
    let said = match plain {
        false => status.to_string(),
        true if status["status"] == "Success" => String::new(),
        true => status["message"].as_str().unwrap_or_default().to_owned(),
    };
    if !said.is_empty() {
        let _ = error.send(Bytes::from(said)).await;
    }
    error.finish().await;
}

async fn exec(
    job: &Job,
    command: Vec<String>,
    stdin: Option<Input>,
    (stdout, stderr): (Option<Output>, Option<Output>),
    mut resize: Option<Resize>,
) -> Value {
    let config = ExecConfig {
        container: job.container.clone(),
        args: command,
        tty: job.wanted.tty,
        stdin: stdin.is_some(),
        stdout: stdout.is_some(),
        stderr: stderr.is_some(),
        ..ExecConfig::default()
    };
    let mut session = match job.sandbox.exec(config).await {
        Ok(session) => session,
        Err(error) => {
            let message = format!("error executing command in container: {error}");
            return remote::failure_status(&message);
        }
    };
    let control = session.process.control();
    let sizes = async {
        if let Some(resize) = &mut resize {
            while let Some(Size { width, height }) = resize.next().await {
                let _ = control.resize(TerminalSize { width, height }).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let input = async {
        if let (Some(from), Some(to)) = (stdin, session.stdin.take()) {
            pump_in(from, to).await;
        }
        std::future::pending::<()>().await;
    };
    let mut output = std::pin::pin!(async {
        tokio::join!(pump_out(session.stdout.take(), stdout), pump_out(session.stderr.take(), stderr));
    });
    let main = async {
        let mut drained = false;
        let exit = loop {
            tokio::select! {
                exit = session.process.wait() => break exit,
                () = &mut output, if !drained => drained = true,
            }
        };
        if !drained {
            let _ = tokio::time::timeout(DRAIN, output).await;
        }
        exit
    };
    let exit = tokio::select! {
        exit = main => exit,
        () = sizes => unreachable_exit(),
        () = input => unreachable_exit(),
    };
    match exit {
        Ok(exit) => remote::exit_status(exit.code),
        Err(error) => remote::failure_status(&format!("error executing command in container: {error}")),
    }
}

/// The side jobs never end by themselves.
fn unreachable_exit() -> sampan_container::Result<sampan_container::Exit> {
    Err(sampan_container::Error::Conflict("the command was abandoned".to_owned()))
}

async fn attach(
    job: &Job,
    stdin: Option<Input>,
    (stdout, stderr): (Option<Output>, Option<Output>),
    mut resize: Option<Resize>,
) -> Value {
    let config = AttachConfig {
        container: job.container.clone(),
        stdin: stdin.is_some(),
        stdout: stdout.is_some(),
        stderr: stderr.is_some(),
    };
    let mut session = match job.sandbox.attach(config).await {
        Ok(session) => session,
        Err(error) => return remote::failure_status(&format!("error attaching to container: {error}")),
    };
    let sizes = async {
        if let Some(resize) = &mut resize {
            while let Some(Size { width, height }) = resize.next().await {
                let size = TerminalSize { width, height };
                let _ = job.sandbox.resize_container(&job.container, size).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let input = async {
        if let (Some(from), Some(to)) = (stdin, session.stdin.take()) {
            pump_in(from, to).await;
        }
        std::future::pending::<()>().await;
    };
    let mut output = std::pin::pin!(async {
        tokio::join!(pump_out(session.stdout.take(), stdout), pump_out(session.stderr.take(), stderr));
    });
    let main = async {
        let mut drained = false;
        loop {
            tokio::select! {
                _ = job.sandbox.wait_container(&job.container) => break,
                () = &mut output, if !drained => drained = true,
            }
        }
        if !drained {
            let _ = tokio::time::timeout(DRAIN, output).await;
        }
    };
    tokio::select! {
        () = main => {}
        () = sizes => {}
        () = input => {}
    }
    remote::exit_status(0)
}

/// Client to container, until either has enough; then the container sees the end.
async fn pump_in(mut from: Input, mut to: Stream) {
    while let Some(data) = from.recv().await {
        if to.write_all(&data).await.is_err() {
            break;
        }
    }
}

/// Container to client, until either has enough.
async fn pump_out(from: Option<Stream>, to: Option<Output>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    let mut buffer = vec![0u8; CHUNK];
    // A terminal whose last process left reads as an error: the end, too.
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 || to.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_wait_for_a_command_that_says_nothing() {
        let (near, far) = tokio::io::duplex(4096);
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let (session, driver) = remote::over_websocket(near, wanted, "v5.channel.k8s.io");
        let (held, mut released) = tokio::sync::oneshot::channel::<()>();
        let silent = async move {
            let (_session, _held) = (session, held);
            std::future::pending::<()>().await;
        };
        let driven = tokio::spawn(drive(driver, silent));
        assert!(released.try_recv().is_err());
        drop(far);
        // Whether the goodbye could still be written does not matter.
        let _ = driven.await.unwrap();
        assert!(released.await.is_err(), "what the session held is released");
    }
}
