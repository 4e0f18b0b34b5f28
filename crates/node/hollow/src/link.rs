//! A connection to the API server: HTTP/2 over TLS, opened when it is needed and again when it broke.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use sampan_daemon::{Supervisor, tls};
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::TlsConnector;

use crate::Error;

/// A write that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer to a write.
const ANSWER: usize = 4 << 20;
/// What a server may send ahead on one stream.
const WINDOW: u32 = 256 << 10;

/// Why a request was not answered as it should be.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection.
    Transport(String),
    /// The server, with a status code and its message.
    Refused(StatusCode, String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transport(why) => f.write_str(why),
            Self::Refused(code, why) => write!(f, "{}: {why}", code.as_u16()),
        }
    }
}

impl Failure {
    /// The status code of an answer.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Transport(_) => 0,
            Self::Refused(code, _) => code.as_u16(),
        }
    }
}

fn transport(error: &dyn std::fmt::Display) -> Failure {
    Failure::Transport(error.to_string())
}

/// Where the API server is.
pub(crate) struct Place {
    address: String,
    name: ServerName<'static>,
    supervisor: Supervisor,
}

impl Place {
    pub(crate) fn new(server: &str, supervisor: Supervisor) -> Result<Self, Error> {
        let address = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let bad = || Error::Options {
            what: format!("{server:?} is no server"),
            hint: "host:port, as in 127.0.0.1:6443",
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_| bad())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { name: ServerName::try_from(host).map_err(|_| bad())?, address, supervisor })
    }
}

/// What is asked.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    /// Of the body.
    pub(crate) kind: &'static str,
    pub(crate) body: Vec<u8>,
    /// The node in whose name.
    pub(crate) node: &'a str,
}

/// The media types of patches.
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// RFC 7386.
pub(crate) const MERGE: &str = "application/merge-patch+json";
/// Whole objects.
pub(crate) const JSON: &str = "application/json";

type Sender = http2::SendRequest<Full<Bytes>>;

/// A connection.
pub(crate) struct Link {
    place: Arc<Place>,
    tls: Arc<ClientConfig>,
    token: Option<HeaderValue>,
    impersonates: bool,
    sender: Mutex<Option<Sender>>,
}

impl Link {
    pub(crate) fn new(
        place: Arc<Place>,
        ca_pem: &str,
        identity: Option<&tls::Issued>,
        token: Option<&str>,
        impersonates: bool,
    ) -> Result<Self, Error> {
        let mut config = ClientConfig::clone(&*tls::client_config(ca_pem, identity)?);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // One of thousands: no memory for sessions that are hardly ever resumed.
        config.resumption = rustls::client::Resumption::disabled();
        let token = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let token = token.map_err(|_| Error::Options {
            what: "the token holds control characters".to_owned(),
            hint: "copy it again",
        })?;
        Ok(Self { place, tls: Arc::new(config), token, impersonates, sender: Mutex::new(None) })
    }

    async fn sender(&self) -> Result<Sender, Failure> {
        let mut kept = self.sender.lock().await;
        if let Some(sender) = kept.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let dialed = tokio::time::timeout(PATIENCE, self.dial()).await;
        let sender =
            dialed.map_err(|_| Failure::Transport("the server did not answer in time".to_owned()))??;
        *kept = Some(sender.clone());
        Ok(sender)
    }

    async fn dial(&self) -> Result<Sender, Failure> {
        let tcp = TcpStream::connect(&self.place.address).await.map_err(|e| transport(&e))?;
        tcp.set_nodelay(true).map_err(|e| transport(&e))?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(self.place.name.clone(), tcp).await.map_err(|e| transport(&e))?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|e| transport(&e))?;
        self.place.supervisor.spawn("connection", async move {
            // The requests that are under way tell of its end.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Sends; the answer's body is still to come.
    pub(crate) async fn open(&self, ask: Ask<'_>) -> Result<Incoming, Failure> {
        let uri = format!("https://{}{}", self.place.address, ask.path);
        let mut request = Request::builder().method(ask.method).uri(uri).header(header::ACCEPT, JSON);
        if !ask.kind.is_empty() {
            request = request.header(header::CONTENT_TYPE, ask.kind);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.clone());
        }
        if self.impersonates && !ask.node.is_empty() {
            request = request.header("impersonate-user", format!("system:node:{}", ask.node));
            request = request.header("impersonate-group", "system:nodes");
        }
        let request = request.body(Full::new(ask.body.into())).map_err(|e| transport(&e))?;
        let mut sender = self.sender().await?;
        sender.ready().await.map_err(|e| transport(&e))?;
        let response = sender.send_request(request).await.map_err(|e| transport(&e))?;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            return Ok(body);
        }
        let body = Limited::new(body, ANSWER).collect().await.map_err(|e| transport(&e))?.to_bytes();
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(Failure::Refused(parts.status, status["message"].as_str().unwrap_or_default().to_owned()))
    }

    /// Sends, and reads the answer.
    pub(crate) async fn send(&self, ask: Ask<'_>) -> Result<Bytes, Failure> {
        let exchange = async {
            let body = self.open(ask).await?;
            let read = Limited::new(body, ANSWER).collect().await.map_err(|e| transport(&e))?;
            Ok(read.to_bytes())
        };
        let answered = tokio::time::timeout(PATIENCE, exchange).await;
        answered.unwrap_or_else(|_| Err(Failure::Transport("no answer in time".to_owned())))
    }
}
