//! The way to the API when it is served by several: one connection to whichever server answers, another server when that
//! one goes, and the next certificate when there is one. Requests share connections; one carries at most
//! [`STREAMS`] of them, the next is opened beside it.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, ServerName};
use sampan_daemon::{Supervisor, tls::Facts};
use tokio::net::TcpStream;

/// The name by which every server of a cluster has a certificate.
const NAME: &str = "kubernetes";
/// The group of nodes.
const NODES: &str = "system:nodes";
/// Requests on one connection; servers allow 250.
const STREAMS: usize = 200;
/// Connections at a time; requests beyond them wait for one to end.
const CONNECTIONS: usize = 16;
/// How long one server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(4);
/// Between signs of life on a connection, and how long an answer may take: a server that vanished is noticed.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// How often a request that was not sent is tried elsewhere.
const TRIES: usize = 4;

type Sender = http2::SendRequest<kube::client::Body>;

/// The servers of a cluster.
pub(crate) struct Servers {
    tls: Arc<rustls::ClientConfig>,
    token: Option<HeaderValue>,
    supervisor: Supervisor,
    state: Mutex<State>,
    /// One opens a connection at a time, and the others then use it.
    opening: tokio::sync::Mutex<()>,
}

struct State {
    /// `host:port`; the first one answered last.
    list: Vec<String>,
    /// Those that somebody named: asked when no other answers, whatever the cluster says of itself.
    given: Vec<String>,
    connections: Vec<Connection>,
}

#[derive(Clone)]
struct Connection {
    sender: Sender,
    used: Arc<AtomicUsize>,
}

/// A request's place on a connection.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Servers {
    /// These servers, which prove who they are as `tls` wants it. With a token, it is sent with each request.
    pub(crate) fn new(
        list: Vec<String>,
        tls: Arc<rustls::ClientConfig>,
        token: Option<String>,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let mut tls = (*tls).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let token = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let token = token.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Arc::new(Self {
            tls: Arc::new(tls),
            token,
            supervisor: supervisor.child("servers"),
            state: Mutex::new(State { given: list.clone(), list, connections: Vec::new() }),
            opening: tokio::sync::Mutex::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All servers that are known, the one in use first.
    pub(crate) fn list(&self) -> Vec<String> {
        self.state().list.clone()
    }

    /// Those that were named.
    pub(crate) fn given(&self) -> Vec<String> {
        self.state().given.clone()
    }

    /// The server in use.
    pub(crate) fn current(&self) -> String {
        self.state().list.first().cloned().unwrap_or_default()
    }

    /// These serve now, and besides those that were named no others. True when that is news.
    pub(crate) fn learn(&self, now: &[String]) -> bool {
        let mut state = self.state();
        let before = state.list.clone();
        let given = state.given.clone();
        state.list.retain(|server| now.contains(server) || given.contains(server));
        for server in now.iter().chain(&given) {
            if !state.list.contains(server) {
                state.list.push(server.clone());
            }
        }
        // The order of those that stay is kept, for the first is in use; what only was named comes last.
        state.list.sort_by_key(|server| !now.contains(server));
        before != state.list
    }

    /// New requests go over new connections, which show the identity as it is now.
    pub(crate) fn reconnect(&self) {
        self.state().connections.clear();
    }

    /// A client of the API over these servers.
    pub(crate) fn client(self: &Arc<Self>) -> kube::Client {
        let servers = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let servers = servers.clone();
            async move { servers.send(request).await.map_err(|error| tower::BoxError::from(format!("{error:#}"))) }
        });
        kube::Client::new(service, "default")
    }

    async fn send(&self, request: Request<kube::client::Body>) -> Result<Response<Held>> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        parts.uri = http::Uri::builder().scheme("https").authority(NAME).path_and_query(path).build()?;
        if let Some(token) = &self.token {
            parts.headers.insert(header::AUTHORIZATION, token.clone());
        }
        let mut request = Request::from_parts(parts, body);
        let mut tries = 0;
        loop {
            let (mut sender, place) = self.connection().await?;
            tries += 1;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|body| Held { body, _place: place })),
                Err(mut error) => match error.take_message() {
                    // It was not sent: another connection, perhaps another server.
                    Some(unsent) if tries < TRIES => request = unsent,
                    _ => {
                        let server = self.current();
                        return Err(error.into_error()).with_context(|| format!("ask {server}"));
                    }
                },
            }
        }
    }

    /// A connection with room.
    async fn connection(&self) -> Result<(Sender, Place)> {
        if let Some(found) = self.open_connection() {
            return Ok(found);
        }
        let _opening = self.opening.lock().await;
        if let Some(found) = self.open_connection() {
            return Ok(found);
        }
        let mut refused = Vec::new();
        for server in self.list() {
            match tokio::time::timeout(CONNECT, self.connect(&server)).await {
                Ok(Ok(sender)) => {
                    let mut state = self.state();
                    // It is asked first next time.
                    state.list.sort_by_key(|known| *known != server);
                    let used = Arc::new(AtomicUsize::new(1));
                    state.connections.push(Connection { sender: sender.clone(), used: used.clone() });
                    return Ok((sender, Place(used)));
                }
                Ok(Err(error)) => refused.push(format!("{server}: {error:#}")),
                Err(_) => refused.push(format!("{server}: no answer in {} s", CONNECT.as_secs())),
            }
        }
        bail!("no server answers: {} (hint: is one running, and reachable?)", refused.join("; "))
    }

    fn open_connection(&self) -> Option<(Sender, Place)> {
        let mut state = self.state();
        state.connections.retain(|connection| !connection.sender.is_closed());
        let full = state.connections.len() >= CONNECTIONS;
        let least =
            state.connections.iter().min_by_key(|connection| connection.used.load(Ordering::Acquire))?;
        if least.used.load(Ordering::Acquire) >= STREAMS && !full {
            return None;
        }
        least.used.fetch_add(1, Ordering::AcqRel);
        Some((least.sender.clone(), Place(least.used.clone())))
    }

    async fn connect(&self, server: &str) -> Result<Sender> {
        let tcp = TcpStream::connect(server).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(NAME)?;
        let tls = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        no_node(tls.get_ref().1.peer_certificates())?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(tls))
            .await?;
        let server = server.to_owned();
        self.supervisor.spawn(format!("connection/{server}"), async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection to {server} ended: {error}");
            }
        });
        Ok(sender)
    }
}

/// Nodes have certificates of the same CA, for serving too. None of them is a server, whatever its certificate says.
fn no_node(shown: Option<&[CertificateDer<'_>]>) -> Result<()> {
    let shown = shown.and_then(|chain| chain.first()).context("it shows no certificate")?;
    let facts = Facts::of_der(shown).context("its certificate does not parse")?;
    if facts.organizations.iter().any(|organization| organization == NODES) {
        bail!(
            "this is {}, a node and no server (hint: does somebody pretend to be the server?)",
            facts.common_name
        );
    }
    Ok(())
}

/// An answer's body, which holds its place on the connection until it is read or dropped.
pub(crate) struct Held {
    body: Incoming,
    _place: Place,
}

impl Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use sampan_daemon::tls;

    use super::*;

    #[tokio::test]
    async fn a_node_that_pretends_to_be_a_server_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = tls::Ca::load_or_create(dir.path(), "ca").unwrap();
        let served = async |organizations: &[&str]| {
            let profile = tls::Profile {
                common_name: "system:node:one".to_owned(),
                organizations: organizations.iter().map(|&name| name.to_owned()).collect(),
                // As if it had been signed by mistake.
                dns: vec![NAME.to_owned()],
                ips: Vec::new(),
                usage: tls::Usage::Server,
                days: 1,
            };
            let config = tls::server_config(&ca.issue(&profile).unwrap(), None, false).unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let supervisor = Supervisor::new();
            supervisor.spawn("server", async move {
                let acceptor = tokio_rustls::TlsAcceptor::from(config);
                let mut open = Vec::new();
                while let Ok((tcp, _)) = listener.accept().await {
                    open.push(acceptor.accept(tcp).await);
                }
            });
            let trust = tls::client_config(ca.cert_pem(), None).unwrap();
            let servers = Servers::new(vec![address], trust, None, &supervisor);
            let connected = servers.connection().await.map(drop).map_err(|error| format!("{error:#}"));
            supervisor.cancel();
            connected
        };
        served(&[]).await.unwrap();
        let refused = served(&["system:nodes"]).await.unwrap_err();
        assert!(refused.contains("a node and no server") && refused.contains("hint"), "{refused}");
    }

    #[tokio::test]
    async fn servers_that_are_gone_are_forgotten_and_the_order_is_kept() {
        let supervisor = Supervisor::new();
        let list = ["a:1", "b:1"].map(str::to_owned).to_vec();
        let servers = Servers::new(
            list,
            sampan_daemon::tls::unverified_client_config(None).unwrap(),
            None,
            &supervisor,
        );
        assert!(servers.learn(&["c:1", "b:1"].map(str::to_owned)));
        assert_eq!(servers.list(), ["b:1", "c:1", "a:1"], "what was named is never forgotten");
        assert!(!servers.learn(&["b:1", "c:1"].map(str::to_owned)));
        assert!(servers.learn(&["d:1"].map(str::to_owned)));
        assert_eq!(servers.list(), ["d:1", "b:1", "a:1"]);
        assert!(servers.learn(&["b:1"].map(str::to_owned)));
        assert_eq!(servers.current(), "b:1");
    }
}
