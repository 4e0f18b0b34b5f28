//! The administrator's short way to the API: a unix socket that only root can open, without TLS.

use std::{convert::Infallible, path::Path};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use sampan_daemon::Supervisor;
use tokio::net::{UnixListener, UnixStream};
use tower::Service;

use crate::instance::Instance;

/// Connections at a time; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 256;

/// Serve `service` on `path`.
pub(crate) fn serve<S, B>(path: &Path, service: S, supervisor: &Supervisor) -> Result<()>
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // The runtime directory has mode 0700; a socket left by a killed process is replaced.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    let seats = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let connections = supervisor.clone();
    supervisor.spawn("api-socket", async move {
        while let (Ok(seat), Ok((stream, _))) = (seats.clone().acquire_owned().await, listener.accept().await)
        {
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            connections.spawn("api-socket-connection", async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                // A client that goes away in the middle is no event worth a line.
                let _ = connection.await;
                drop(seat);
            });
        }
    });
    Ok(())
}

/// A Kubernetes client for the instance that is served, as the administrator.
pub(crate) fn client(instance: &Instance) -> Result<kube::Client> {
    if instance.running().is_none() {
        bail!("nothing is running on {} (hint: `sampan up --detach`)", instance.dir.display());
    }
    let path = instance.socket();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let path = path.clone();
        async move { Ok::<_, tower::BoxError>(send(&path, request).await?) }
    });
    Ok(kube::Client::new(service, "default"))
}

async fn send(
    path: &Path,
    mut request: http::Request<kube::client::Body>,
) -> Result<http::Response<Incoming>> {
    let stream = UnixStream::connect(path).await.with_context(|| path.display().to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    let connection = connection.with_upgrades();
    // The connection lives as long as its answer is read; the runtime of a short command ends it at the latest.
    Supervisor::new().spawn("api-connection", async move {
        let _ = connection.await;
    });
    let (parts, body) = request.into_parts();
    Ok(sender.send_request(http::Request::from_parts(parts, body.boxed_unsync())).await?)
}
