//! The kubelet API: logs, exec, attach, port-forward and a little more, over HTTPS with client certificates.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sampan_daemon::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::context::Context;
use crate::options::{ApiOptions, Error};

mod exec;
mod exposition;
mod host_volumes;
mod logs;
mod port_forward;
mod stats;
mod upgrade;

/// Connections served at once.
const MAX_CONNECTIONS: usize = 1024;
/// Longest a client may take for the TLS handshake or the request head.
const PATIENCE: Duration = Duration::from_secs(15);

/// Body of every answer.
type Body = BoxBody<Bytes, Infallible>;

/// The bound listener.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    address: SocketAddr,
}

impl Server {
    /// Listen on the node's address.
    pub async fn bind(address: std::net::Ipv4Addr, options: &ApiOptions) -> Result<Self, Error> {
        let config = tls::live_server_config(options.identity.clone(), Some(&options.client_ca), true)?;
        let mut config = rustls::ServerConfig::clone(&config);
        // Upgrades exist in HTTP/1.1 only.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = SocketAddr::from((address, options.port));
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), address })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Serve until the agent stops.
    pub fn serve(self, ctx: &Arc<Context>) {
        let supervisor = ctx.supervisor.child("kubelet-api");
        let ctx = Arc::clone(ctx);
        let token = supervisor.token();
        let connections = supervisor.clone();
        supervisor.spawn("accept", async move {
            let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                let accepted = tokio::select! {
                    accepted = self.listener.accept() => accepted,
                    () = token.cancelled() => return,
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "kubelet API: accept");
                        // Usually too many open files: give some a chance to close.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (ctx, acceptor, token) = (Arc::clone(&ctx), self.acceptor.clone(), token.clone());
                connections.spawn("connection", async move {
                    tokio::select! {
                        () = connection(ctx, acceptor, stream) => {}
                        () = token.cancelled() => {}
                    }
                    drop(slot);
                });
            }
        });
    }
}

async fn connection(ctx: Arc<Context>, acceptor: TlsAcceptor, stream: TcpStream) {
    // Keystrokes must not wait for the next ones.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "kubelet API: TLS");
            return;
        }
        Err(_) => return,
    };
    let trusted =
        stream.get_ref().1.peer_certificates().and_then(<[_]>::first).is_some_and(|cert| is_master(cert));
    let service = service_fn(move |request| {
        let ctx = Arc::clone(&ctx);
        async move {
            let open = request.uri().path() == "/healthz";
            let refusal = "Forbidden: the client certificate must be of group system:masters";
            Ok::<_, Infallible>(if trusted || open {
                route(&ctx, request).await
            } else {
                text(StatusCode::FORBIDDEN, refusal)
            })
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "kubelet API: connection");
    }
}

/// Whether a certificate of our CA belongs to the control plane. Ordinary users' certificates come from the same CA,
/// and must not reach into pods past the API server's authorization.
fn is_master(certificate: &[u8]) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    certificate.subject().iter_organization().any(|group| group.as_str() == Ok("system:masters"))
}

async fn route(ctx: &Arc<Context>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] if get => stats::pods(ctx),
        ["hostPathVolumes", name] if request.method() == Method::DELETE => {
            host_volumes::remove(ctx, name).await
        }
        ["stats", "summary"] if get => {
            stats::summary(ctx, Query::of(&request).flag(&["only_cpu_and_memory"])).await
        }
        ["metrics"] if get => exposition::own(ctx),
        ["metrics", "resource"] if get => exposition::resource(ctx).await,
        ["metrics", "cadvisor"] if get => exposition::cadvisor(ctx).await,
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(ctx, namespace, pod, container, request)
        }
        ["exec" | "attach", namespace, pod, container] => {
            exec::serve(ctx, (namespace, pod, None, container), parts[0] == "attach", request).await
        }
        ["exec" | "attach", namespace, pod, uid, container] => {
            exec::serve(ctx, (namespace, pod, Some(uid), container), parts[0] == "attach", request).await
        }
        ["portForward", namespace, pod] => port_forward::serve(ctx, namespace, pod, None, request),
        ["portForward", namespace, pod, uid] => port_forward::serve(ctx, namespace, pod, Some(uid), request),
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text.into())).boxed());
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

fn prometheus(metrics: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, metrics);
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(Full::new(Bytes::from(bytes)).boxed());
            let kind = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Query parameters; a name may come several times.
struct Query(HashMap<String, Vec<String>>);

impl Query {
    fn of(request: &Request<Incoming>) -> Self {
        Self::parse(request.uri().query().unwrap_or_default())
    }

    fn parse(query: &str) -> Self {
        let mut map: HashMap<String, Vec<String>> = HashMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(decode(name)).or_default().push(decode(value));
        }
        Self(map)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true" | "True" | "TRUE" | "t")))
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            (b'+', ..) => out.push(b' '),
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                index += 2;
            }
            (byte, ..) => out.push(byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn percent_decoding() {
        assert_eq!(super::decode("a%20b+c%2fd%zz%"), "a b c/d%zz%");
    }
}
