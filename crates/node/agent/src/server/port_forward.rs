//! `/portForward`: connections into a pod's network namespace, many over one SPDY connection.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use nix::sched::{CloneFlags, setns};
use sampan_daemon::Supervisor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::upgrade::{self, Carrier, Upgrade};
use super::{Body, text};
use crate::context::Context;
use crate::streams::spdy::{self, Stream};
use crate::streams::{StreamError, tunnel};

/// Over WebSocket, SPDY is tunnelled.
const WEBSOCKET: &[&str] = &["SPDY/3.1+portforward.k8s.io"];
const SPDY: &[&str] = &["portforward.k8s.io"];
/// Streams of one client: two a forwarded connection.
const MAX_STREAMS: usize = 1024;
/// How long a connection into the pod may take to be made.
const DIAL: Duration = Duration::from_secs(10);
/// Bytes read from the pod at a time.
const CHUNK: usize = 32 * 1024;

/// Where connections go.
#[derive(Clone)]
struct Place {
    pod: String,
    /// `None`: the host's own namespace.
    netns: Option<PathBuf>,
    supervisor: Supervisor,
}

pub(super) fn serve(
    ctx: &Arc<Context>,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let Some(entry) = ctx.pods.find(namespace, pod, uid) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
    };
    let Some(sandbox) = ctx.options.runtime.pod(&entry.uid).filter(|sandbox| !sandbox.is_lost()) else {
        let message = format!("unable to upgrade connection: sandbox of pod \"{pod}\" is not running");
        return text(StatusCode::INTERNAL_SERVER_ERROR, message);
    };
    let host = sandbox.config().network == sampan_container::Network::Host;
    let upgrade = match upgrade::accept(&mut request, WEBSOCKET, SPDY) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return *refusal,
    };
    let supervisor = ctx.supervisor.child("port-forward");
    let place = Place {
        pod: entry.uid.clone(),
        netns: (!host).then(|| sandbox.netns()),
        supervisor: supervisor.clone(),
    };
    let Upgrade { carrier, on, response, .. } = upgrade;
    supervisor.clone().spawn("connection", async move {
        let Some(io) = upgrade::connection(on).await else { return };
        let ended = match carrier {
            Carrier::Spdy => forward(io, place).await,
            Carrier::WebSocket => {
                let (inner, tunnel) = tunnel::tunnel(io);
                let (tunnelled, forwarded) = tokio::join!(tunnel, forward(inner, place));
                tunnelled.and(forwarded)
            }
        };
        // Forwarded connections of a client that left have nobody to talk to.
        supervisor.cancel();
        if let Err(error) = ended {
            tracing::debug!(%error, "port-forward: connection");
        }
    });
    response
}

#[derive(Default)]
struct Pair {
    error: Option<Stream>,
    data: Option<Stream>,
}

async fn forward<IO>(io: IO, place: Place) -> Result<(), StreamError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut connection, driver) = spdy::connect(io, MAX_STREAMS);
    let accept = async move {
        let mut pairs: HashMap<String, Pair> = HashMap::new();
        while let Some(stream) = connection.accept().await {
            // Clients from before request ids open the error stream first, then the data stream two numbers later.
            let id = match (stream.header("requestid"), stream.header("streamtype")) {
                (Some(id), _) => id.to_owned(),
                (None, Some("error")) => stream.id.to_string(),
                (None, _) => stream.id.saturating_sub(2).to_string(),
            };
            let pair = pairs.entry(id.clone()).or_default();
            match stream.header("streamtype") {
                Some("error") => pair.error = Some(stream),
                Some("data") => pair.data = Some(stream),
                _ => stream.writer.reset(spdy::STATUS_CANCEL),
            }
            if pair.error.is_some() && pair.data.is_some() {
                let Some(Pair { error: Some(error), data: Some(data) }) = pairs.remove(&id) else { continue };
                let place = place.clone();
                place.supervisor.clone().spawn("forward", async move { one(data, error, &place).await });
            }
        }
    };
    let (driven, ()) = tokio::join!(driver.run(), accept);
    driven
}

/// One forwarded connection.
async fn one(data: Stream, error: Stream, place: &Place) {
    let port = data.header("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    let Some(port) = port else {
        let message =
            format!("\"port\" header must be a number from 1 to 65535 (got {:?})", data.header("port"));
        fail(data, error, message).await;
        return;
    };
    match dial(place, port).await {
        Ok(stream) => {
            // Small answers must not wait for more.
            let _ = stream.set_nodelay(true);
            copy(data, stream).await;
            error.writer.finish().await;
        }
        Err(problem) => {
            let pod = &place.pod;
            let message = format!(
                "error forwarding port {port} to pod {pod}, uid : failed to connect to localhost:{port} inside \
                 namespace \"{pod}\": dial tcp4 127.0.0.1:{port}: {problem}"
            );
            fail(data, error, message).await;
        }
    }
}

async fn fail(data: Stream, error: Stream, message: String) {
    // Fails only when the client has left.
    let _ = error.writer.send(Bytes::from(message)).await;
    error.writer.finish().await;
    data.writer.finish().await;
    data.writer.reset(spdy::STATUS_CANCEL);
}

/// Both directions, each ending by itself: a client that has sent everything may still read.
async fn copy(data: Stream, stream: TcpStream) {
    let Stream { mut reader, writer, .. } = data;
    let (mut from_pod, mut to_pod) = stream.into_split();
    let inbound = async {
        while let Some(bytes) = reader.recv().await {
            if to_pod.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to_pod.shutdown().await;
    };
    let outbound = async {
        let mut buffer = vec![0u8; CHUNK];
        loop {
            match from_pod.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    if writer.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                        break;
                    }
                }
            }
        }
        writer.finish().await;
    };
    tokio::join!(inbound, outbound);
}

/// Connect to a port on the pod's loopback.
async fn dial(place: &Place, port: u16) -> Result<TcpStream, String> {
    let socket = match place.netns.clone() {
        None => TcpSocket::new_v4().map_err(|error| error.to_string())?,
        Some(netns) => {
            place.supervisor.blocking(move || socket_in(netns)).await.map_err(|error| error.to_string())?
        }
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match tokio::time::timeout(DIAL, socket.connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err("connect: connection refused".to_owned())
        }
        Ok(Err(error)) => Err(format!("connect: {error}")),
        Err(_) => Err("connect: i/o timeout".to_owned()),
    }
}

/// A socket that belongs to a network namespace for good, made by a thread that enters it and ends there: a thread
/// that came back might not be back entirely.
fn socket_in(netns: PathBuf) -> std::io::Result<TcpSocket> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> std::io::Result<TcpSocket> {
            let namespace = std::fs::File::open(&netns)?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            TcpSocket::new_v4()
        });
        thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the dialling thread failed")))
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn sockets_know_their_namespace() {
        // Our own namespace: entering it needs privilege, as entering a pod's does.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let socket = socket_in("/proc/self/ns/net".into()).unwrap();
            assert!(socket.as_raw_fd() > 2);
            socket.connect(listener.local_addr().unwrap()).await.unwrap();
        });
    }
}
