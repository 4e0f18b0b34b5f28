//! HTTP/2 over TLS: a few connections, as an administrator or as whom they impersonate.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use sampan_daemon::tls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Outcome, Words};

/// Opens connections for bodies of one type.
async fn connect<B>(words: &Words, connections: usize) -> Outcome<Vec<SendRequest<B>>>
where
    B: http_body::Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (server, ca) = (words.text("server")?, std::fs::read_to_string(words.text("ca")?)?);
    let mut config = rustls::ClientConfig::clone(&*tls::client_config(&ca, None)?);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).to_owned();
    let mut senders = Vec::new();
    for _ in 0..connections {
        let tcp = TcpStream::connect(server).await?;
        tcp.set_nodelay(true)?;
        let stream = connector.connect(ServerName::try_from(host.clone())?, tcp).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // The requests that are under way tell of an end.
            let _ = connection.await;
        });
        senders.push(sender);
    }
    Ok(senders)
}

/// Sends whole requests.
#[derive(Clone)]
pub struct Api {
    senders: Arc<Vec<SendRequest<Full<Bytes>>>>,
    next: Arc<AtomicUsize>,
    authorization: HeaderValue,
    base: String,
    words: Words,
}

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";

impl Api {
    pub async fn connect(words: &Words, connections: usize) -> Outcome<Self> {
        Ok(Self {
            senders: Arc::new(connect(words, connections).await?),
            next: Arc::default(),
            authorization: format!("Bearer {}", words.text("token")?).parse()?,
            base: format!("https://{}", words.text("server")?),
            words: words.clone(),
        })
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Outcome<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", self.authorization.clone())
            .header("accept", JSON)
            .header("content-type", kind)
            .body(Full::new(body.into()))?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        let mut sender = self.senders[turn].clone();
        sender.ready().await?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        Ok((parts.status, body.collect().await?.to_bytes()))
    }

    /// Opens a watch, on a connection of its own: what is still under way when it is dropped is in nobody's way.
    pub async fn watch(&self, path: &str) -> Outcome<Lines> {
        let request = Request::builder()
            .uri(format!("{}{path}", self.base))
            .header("authorization", self.authorization.clone())
            .header("accept", JSON)
            .body(Full::new(Bytes::new()))?;
        let mut senders = connect(&self.words, 1).await?;
        let mut sender = senders.pop().ok_or("no connection")?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("GET {path}: {}", response.status()).into());
        }
        Ok(Lines { body: response.into_body(), rest: BytesMut::new(), _sender: sender })
    }

    /// An object, or nothing.
    pub async fn get(&self, path: &str) -> Outcome<serde_json::Value> {
        let (code, body) = self.send("GET", path, JSON, Bytes::new()).await?;
        match code.as_u16() {
            200 => Ok(serde_json::from_slice(&body)?),
            404 => Ok(serde_json::Value::Null),
            _ => Err(format!("GET {path}: {code} {}", String::from_utf8_lossy(&body)).into()),
        }
    }
}

/// The lines of a watch.
pub struct Lines {
    body: Incoming,
    rest: BytesMut,
    /// Without any, the connection ends.
    _sender: SendRequest<Full<Bytes>>,
}

impl Lines {
    /// The next line; nothing when the watch has ended.
    pub async fn next(&mut self) -> Outcome<Option<BytesMut>> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.rest[looked..].iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.rest.split_to(looked + at + 1)));
            }
            looked = self.rest.len();
            match self.body.frame().await {
                Some(frame) => self.rest.extend(frame?.into_data().unwrap_or_default()),
                None => return Ok(None),
            }
        }
    }
}

/// What a kube client stands on: the same connections, in the name of a user.
#[derive(Clone)]
pub struct Service {
    senders: Arc<Vec<SendRequest<kube::client::Body>>>,
    next: Arc<AtomicUsize>,
    authorization: HeaderValue,
    user: HeaderValue,
    base: String,
}

impl Service {
    pub async fn connect(words: &Words, user: &str, connections: usize) -> Outcome<Self> {
        Ok(Self {
            senders: Arc::new(connect(words, connections).await?),
            next: Arc::default(),
            authorization: format!("Bearer {}", words.text("token")?).parse()?,
            user: user.parse()?,
            base: format!("https://{}", words.text("server")?),
        })
    }
}

impl tower::Service<Request<kube::client::Body>> for Service {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        if let Ok(uri) = format!("{}{path}", self.base).parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        headers.insert("authorization", self.authorization.clone());
        headers.insert("impersonate-user", self.user.clone());
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        let mut sender = self.senders[turn].clone();
        Box::pin(async move {
            sender.ready().await?;
            sender.send_request(request).await
        })
    }
}
