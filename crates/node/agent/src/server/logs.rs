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

use super::{Body, Query, text};
use crate::context::{Context, View};
use crate::logs::{self, Ended, LogOptions};
use crate::pod::record::Run;
use crate::pod::spec;

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
    request: &Request<Incoming>,
) -> Response<Body> {
    let query = Query::of(request);
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
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    let ended = RunEnded { view: entry.view.clone(), container: container.to_owned(), run };
    ctx.supervisor.spawn("logs", async move {
        if let Err(error) = logs::stream(path, options, ended, sender.clone()).await {
            let message = format!("unable to retrieve container logs: {error}\n");
            // The client may have left; then nobody misses the message.
            let _ = sender.send(message.into()).await;
        }
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|bytes| (bytes, receiver))
    });
    Response::new(BodyExt::boxed(StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes))))))
}

fn options(query: &Query) -> Result<LogOptions, String> {
    let number = |name: &str| -> Result<Option<usize>, String> {
        match query.get(name) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("invalid {name}: {text:?}")),
        }
    };
    let since = match (number("sinceSeconds")?, query.get("sinceTime").filter(|text| !text.is_empty())) {
        (Some(seconds), _) => Some(clock::now() - Duration::from_secs(seconds as u64)),
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
