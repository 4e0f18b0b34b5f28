//! Connections from the network: TLS, HTTP/1.1 and HTTP/2, within bounds of time and number.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use sampan_daemon::{Backoff, Policy};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    authn,
    body::{Body, Wire},
    core::Core,
    handler::{Peer, Source},
};

/// How long open requests may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Bytes of a connection that are encrypted at once, before the kernel takes them: about two chunks of a list.
const ENCRYPTED: usize = 128 << 10;

/// Streams of one HTTP/2 connection at once.
const STREAMS: u32 = 250;

/// Starts accepting on a bound listener.
pub(crate) fn listen(core: &Arc<Core>, listener: TcpListener, address: SocketAddr) {
    let listener = Arc::new(listener);
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let core = core.clone();
    let supervisor = core.supervisor.clone();
    supervisor.supervise(format!("accept/{address}"), Policy::Restart(backoff), move || {
        let (core, listener) = (core.clone(), listener.clone());
        async move { accept(&core, &listener).await }
    });
}

async fn accept(core: &Arc<Core>, listener: &TcpListener) -> Result<(), std::io::Error> {
    let acceptor = TlsAcceptor::from(core.options.tls.clone());
    loop {
        // A place first: who finds none waits in the kernel's queue.
        let Ok(place) = core.connections.clone().acquire_owned().await else { return Ok(()) };
        let (tcp, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = core.closing.cancelled() => return Ok(()),
        };
        let (task, acceptor) = (core.clone(), acceptor.clone());
        core.supervisor.spawn(format!("connection/{peer}"), async move {
            connection(task, acceptor, tcp, place).await;
        });
    }
}

async fn connection(core: Arc<Core>, acceptor: TlsAcceptor, tcp: TcpStream, _place: OwnedSemaphorePermit) {
    // Best effort: without it, small answers wait for the peer's acknowledgement.
    let _ = tcp.set_nodelay(true);
    let mut tls = match tokio::time::timeout(core.options.limits.handshake, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    tls.get_mut().1.set_buffer_limit(Some(ENCRYPTED));
    let source = tls.get_ref().0.peer_addr().ok().map(|address| Source(address.ip()));
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user = certificate.and_then(|der| authn::Certificate::of(der)).map(Arc::new);
    let peer = Peer::Network(user);
    let begun = CancellationToken::new();
    let service = service_fn({
        let (core, begun) = (core.clone(), begun.clone());
        move |mut request: Request<Incoming>| {
            begun.cancel();
            if let Some(source) = source {
                request.extensions_mut().insert(source);
            }
            let (core, peer) = (core.clone(), peer.clone());
            async move { Ok::<_, Infallible>(respond(core, request, peer).await.map(Wire)) }
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    let limits = &core.options.limits;
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(limits.headers.max(8192))
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.headers).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let served = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(served);
    let shutdown = core.closing.clone();
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = late(&begun, limits.header_read) => return,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, served).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended");
    }
}

/// Ends when no request came in time. The timeout of HTTP/1 begins with a first line and HTTP/2 has none: what says which
/// of them it is, and what opens the latter, may never come.
async fn late(begun: &CancellationToken, time: Duration) {
    if tokio::time::timeout(time, begun.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

async fn respond(core: Arc<Core>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let first_version = request.version() < http::Version::HTTP_2;
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    let mut response = core.serve(request, peer).await;
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE && first_version {
        // What is left of the body is not read; the connection cannot be used again.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
