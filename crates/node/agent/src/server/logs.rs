//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use sampan_daemon::clock;
use tokio::sync::{mpsc, watch};

use super::upgrade::{self, Upgrade};
use super::{Body, Query, text};
use crate::context::{Context, View};
use crate::logs::{self, Ended, LogOptions};
use crate::pod::record::Run;
use crate::pod::spec;
use crate::streams::StreamError;
use crate::streams::websocket::{Message, Reader, Writer};

/// The sub-protocols of logs over WebSocket: as it is, and in base64.
const WEBSOCKET_PROTOCOLS: &[&str] = &["binary.k8s.io", "base64.binary.k8s.io"];
/// How long a client has to hang up.
const LINGER: Duration = Duration::from_secs(5);
/// Pieces waiting for a slow client.
const QUEUE: usize = 8;

struct RunEnded {
    view: watch::Receiver<View>,
    container: String,
    run: u32,
}

impl Ended for RunEnded {
    async fn ended(&mut self) {
        let (container, run) = (self.container.clone(), self.run);
        let over = move |view: &View| {
            let seen = view.record.containers.get(&container);
            seen.is_none_or(|seen| seen.runs != run || !seen.is_running())
        };
        // An ended worker has no running container either.
        let _ = self.view.wait_for(over).await;
    }
}

pub(super) fn serve(
    ctx: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let query = Query::of(&request);
    let options = match options(&query) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::UNPROCESSABLE_ENTITY, message),
    };
    let Some(entry) = ctx.pods.find(namespace, pod, None) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
    };
    let view = entry.view.borrow().clone();
    let (path, run) = match locate(ctx, &view, container, query.flag(&["previous"])) {
        Ok(found) => found,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let upgrade = request.headers().contains_key(http::header::UPGRADE);
    let upgrade = match upgrade.then(|| upgrade::accept(&mut request, WEBSOCKET_PROTOCOLS, &[])).transpose() {
        Ok(upgrade) => upgrade,
        Err(refusal) => return *refusal,
    };
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    let ended = RunEnded { view: entry.view.clone(), container: container.to_owned(), run };
    ctx.supervisor.spawn("logs", async move {
        if let Err(error) = logs::stream(path, options, ended, sender.clone()).await {
            let message = format!("unable to retrieve container logs: {error}\n");
            // The client may have left; then nobody misses the message.
            let _ = sender.send(message.into()).await;
        }
    });
    if let Some(upgrade) = upgrade {
        let Upgrade { protocol, on, response, .. } = upgrade;
        ctx.supervisor.spawn("logs-websocket", async move {
            if let Err(error) = over_websocket(on, receiver, protocol.starts_with("base64")).await {
                tracing::debug!(%error, "logs: connection");
            }
        });
        return response;
    }
    let frames = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|bytes| (bytes, receiver))
    });
    Response::new(BodyExt::boxed(StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes))))))
}

/// The log in messages; ends when the client leaves.
async fn over_websocket(
    on: hyper::upgrade::OnUpgrade,
    mut receiver: mpsc::Receiver<Bytes>,
    base64: bool,
) -> Result<(), StreamError> {
    let Some(io) = upgrade::connection(on).await else { return Ok(()) };
    let (read, write) = tokio::io::split(io);
    let (mut reader, mut writer) = (Reader::new(tokio::io::BufReader::new(read)), Writer::new(write));
    let (pongs, mut pong) = watch::channel(Bytes::new());
    // Nothing that a client says changes a log.
    let mut left = std::pin::pin!(async move {
        while let Ok(Some(message)) = reader.next().await {
            match message {
                Message::Data(_) => {}
                Message::Ping(payload) => {
                    pongs.send_replace(payload);
                }
                Message::Close => break,
            }
        }
    });
    loop {
        tokio::select! {
            () = &mut left => return Ok(()),
            Ok(()) = pong.changed() => {
                let payload = pong.borrow_and_update().clone();
                writer.pong(&payload).await?;
            }
            piece = receiver.recv() => match piece {
                Some(bytes) if base64 => writer.base64(&[], &bytes).await?,
                Some(bytes) => writer.binary(&[], &bytes).await?,
                None => break,
            },
        }
    }
    writer.close(1000, "").await?;
    // Let the client read everything and hang up first.
    let _ = tokio::time::timeout(LINGER, left).await;
    Ok(())
}

fn options(query: &Query) -> Result<LogOptions, String> {
    let number = |name: &str| -> Result<Option<usize>, String> {
        match query.get(name) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("invalid {name}: {text:?}")),
        }
    };
    let since = match (number("sinceSeconds")?, query.get("sinceTime").filter(|text| !text.is_empty())) {
        // So long ago that no clock knows it: from the beginning.
        (Some(seconds), _) => clock::now().checked_sub(Duration::from_secs(seconds as u64)).ok(),
        (None, Some(time)) => Some(time.parse().map_err(|_| format!("invalid sinceTime: {time:?}"))?),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.flag(&["follow"]),
        tail: number("tailLines")?,
        since,
        timestamps: query.flag(&["timestamps"]),
        limit: number("limitBytes")?,
        stream: match query.get("stream") {
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            _ => None,
        },
    })
}

/// The log file of the wanted run, and which run it is.
fn locate(ctx: &Context, view: &View, container: &str, previous: bool) -> Result<(PathBuf, u32), String> {
    let name = spec::name(&view.pod);
    let known = view.pod.spec.as_ref().and_then(|spec| spec::any_container(spec, container));
    if known.is_none() {
        return Err(format!("container {container} is not valid for pod {name}"));
    }
    let seen = view.record.containers.get(container);
    let runs = seen.map_or(0, |seen| seen.runs);
    if previous {
        if runs < 2 {
            return Err(format!("previous terminated container \"{container}\" in pod \"{name}\" not found"));
        }
        return Ok((ctx.log_path(&view.pod, container, runs - 1), runs - 1));
    }
    let never_ran =
        seen.is_none_or(|seen| matches!(seen.run, Run::None | Run::Starting) && seen.last.is_none());
    if runs == 0 || never_ran {
        let reason = seen
            .and_then(|seen| seen.waiting.as_ref())
            .map_or("ContainerCreating", |waiting| &waiting.reason);
        let hint = if matches!(
            reason,
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull"
        ) {
            format!("trying and failing to pull image: {reason}")
        } else {
            reason.to_owned()
        };
        return Err(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {hint}"));
    }
    Ok((ctx.log_path(&view.pod, container, runs), runs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<LogOptions, String> {
        options(&Query::parse(query))
    }

    #[test]
    fn what_is_asked_for_may_be_nonsense() {
        assert_eq!(of("sinceSeconds=9223372036854775807&tailLines=3").unwrap().since, None);
        let since = of("sinceSeconds=60").unwrap().since.unwrap();
        assert!(since < clock::now());
        assert!(of("sinceSeconds=-1").is_err() && of("tailLines=x").is_err() && of("sinceTime=now").is_err());
        assert_eq!(of("limitBytes=7&stream=Stderr").unwrap().stream, Some("stderr"));
    }
}
