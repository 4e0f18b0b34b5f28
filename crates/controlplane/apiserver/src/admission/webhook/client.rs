//! The way to a webhook: an address or a Service, TLS, and connections that are kept for the next request.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::seq::IndexedRandom;
use rustls::pki_types::ServerName;
use sampan_api::status::go_quote;
use sampan_daemon::tls;
use sampan_store::{Range, prefix_end};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{call::text, core::Core};

/// A longer reply is no reply.
const MAX_REPLY: usize = 4 << 20;
/// Idle connections that are kept for one webhook.
const IDLE: usize = 16;
/// What of an error page is repeated.
const SAID: usize = 1 << 10;

/// Somebody who is asked over HTTPS.
pub(crate) struct Remote {
    /// `https://host:port/path`, as messages show it.
    url: Result<Uri, String>,
    service: Option<Service>,
    tls: Result<TlsConnector, String>,
    /// What is sent as `Authorization`.
    authorization: Option<HeaderValue>,
    /// Connections end with whoever holds this, and not with the server.
    lasting: bool,
    pool: Mutex<Pool>,
}

/// A Service behind which somebody answers.
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: i64,
}

#[derive(Default)]
struct Pool {
    shared: Option<http2::SendRequest<Full<Bytes>>>,
    idle: Vec<http1::SendRequest<Full<Bytes>>>,
}

/// A connection that takes one request at a time, or many.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

impl Remote {
    /// From a `WebhookClientConfig`. What is wrong with it is said by each call.
    pub(crate) fn new(config: &Value) -> Self {
        let service = config.get("service").filter(|service| service.is_object()).map(|service| Service {
            namespace: text(service, "/namespace").to_owned(),
            name: text(service, "/name").to_owned(),
            port: service.get("port").and_then(Value::as_i64).unwrap_or(443),
        });
        let url = match &service {
            Some(to) => {
                let path = text(config, "/service/path");
                let slash = if path.starts_with('/') { "" } else { "/" };
                format!("https://{}.{}.svc:{}{slash}{path}", to.name, to.namespace, to.port)
            }
            None => text(config, "/url").to_owned(),
        };
        let url = url.parse::<Uri>().map_err(|error| format!("Unparsable URL: {error}")).and_then(|uri| {
            let usable = uri.scheme_str() == Some("https") && uri.host().is_some();
            let why = "webhook configuration must have either service or URL";
            if usable { Ok(uri) } else { Err(why.to_owned()) }
        });
        let tls = connector(config, service.is_some());
        Self { tls, url, service, authorization: None, lasting: false, pool: Mutex::default() }
    }

    /// At an address, known by these authorities; as whom is said by a certificate, a token, or neither. It can be asked
    /// while the server ends, too.
    pub(crate) fn fixed(url: &str, ca: &str, identity: Option<&tls::Issued>, token: Option<&str>) -> Self {
        let url = url.parse::<Uri>().map_err(|error| format!("Unparsable URL: {error}"));
        let authorization = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let tls = tls::client_config(ca, identity).map_err(|error| error.to_string());
        let tls = tls.map(|config| TlsConnector::from(speaking(&config, true)));
        Self { url, service: None, tls, authorization, lasting: true, pool: Mutex::default() }
    }

    /// Sends a body and returns what comes back with success.
    ///
    /// # Errors
    /// A sentence: what was called, and why there is no reply.
    pub(crate) async fn post(&self, core: &Core, body: Bytes, timeout: Duration) -> Result<Bytes, String> {
        let url = self.url.as_ref().map_err(Clone::clone)?;
        let whole = format!("{url}?timeout={}s", timeout.as_secs());
        let called = |why: String| format!("Post {}: {why}", go_quote(&whole));
        match tokio::time::timeout(timeout, self.exchange(core, url, &whole, body)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Trouble::Transport(why))) => Err(called(why)),
            Ok(Err(Trouble::Answer(why))) => Err(why),
            Err(_) => Err(called("context deadline exceeded".to_owned())),
        }
    }

    async fn exchange(&self, core: &Core, url: &Uri, whole: &str, body: Bytes) -> Result<Bytes, Trouble> {
        // A kept connection may have been closed by the other side in this very moment: then a new one is opened.
        if let Some(sender) = self.take().await
            && let Ok((response, sender)) = send(sender, self.request(url, whole, body.clone())?).await
        {
            return self.answer(response, sender).await;
        }
        let sender = self.dial(core, url).await.map_err(Trouble::Transport)?;
        let (response, sender) =
            send(sender, self.request(url, whole, body)?).await.map_err(Trouble::Transport)?;
        self.answer(response, sender).await
    }

    async fn answer(&self, response: Response<Incoming>, sender: Sender) -> Result<Bytes, Trouble> {
        let (parts, body) = response.into_parts();
        let read = Limited::new(body, MAX_REPLY).collect().await;
        let bytes = read.map_err(|error| {
            Trouble::Answer(format!("reading the reply (at most {MAX_REPLY} bytes): {error}"))
        })?;
        let bytes = bytes.to_bytes();
        self.give(sender);
        match parts.status {
            code if (200..=206).contains(&code.as_u16()) => Ok(bytes),
            StatusCode::NOT_FOUND => {
                Err(Trouble::Answer("the server could not find the requested resource".to_owned()))
            }
            code => {
                let said = String::from_utf8_lossy(&bytes[..bytes.len().min(SAID)]).trim().to_owned();
                let said = if said.is_empty() { code.to_string() } else { said };
                Err(Trouble::Answer(format!(
                    "an error on the server ({}) has prevented the request from succeeding",
                    go_quote(&said)
                )))
            }
        }
    }

    fn request(&self, url: &Uri, whole: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Trouble> {
        let transport = |error: &dyn std::fmt::Display| Trouble::Transport(error.to_string());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = whole.parse().map_err(|error| transport(&error))?;
        let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let host = HeaderValue::from_str(authority).map_err(|error| transport(&error))?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    /// A connection that was used before.
    async fn take(&self) -> Option<Sender> {
        loop {
            let mut sender = {
                let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
                match pool.shared.clone() {
                    Some(shared) if !shared.is_closed() => return Some(Sender::Many(shared)),
                    _ => pool.shared = None,
                }
                pool.idle.pop()?
            };
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(Sender::One(sender));
            }
        }
    }

    fn give(&self, sender: Sender) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match sender {
            Sender::Many(shared) => pool.shared = Some(shared),
            Sender::One(sender) if pool.idle.len() < IDLE && !sender.is_closed() => pool.idle.push(sender),
            Sender::One(_) => {}
        }
    }

    async fn dial(&self, core: &Core, url: &Uri) -> Result<Sender, String> {
        let connector = self.tls.as_ref().map_err(Clone::clone)?;
        let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (to, port) = match &self.service {
            Some(service) => service.endpoint(core).await?,
            None => (host.clone(), url.port_u16().unwrap_or(443)),
        };
        let tcp = TcpStream::connect((to.as_str(), port))
            .await
            .map_err(|error| format!("dial tcp {to}:{port}: {}", plain(&error)))?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let tls = connector
            .connect(name, tcp)
            .await
            .map_err(|error| format!("tls: failed to verify certificate or to agree: {error}"))?;
        let many = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let label = format!("webhook/{to}:{port}");
        let failed = |error: hyper::Error| error.to_string();
        if many {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.map_err(failed)?;
            drive(core, label, connection, self.lasting);
            return Ok(Sender::Many(sender));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(failed)?;
        drive(core, label, connection, self.lasting);
        Ok(Sender::One(sender))
    }
}

/// What goes wrong on the way, and what the other side says.
enum Trouble {
    Transport(String),
    Answer(String),
}

/// Runs a connection until it ends or, unless it is lasting, the server does: requests that are answered while no new ones
/// are taken may still need it.
fn drive(
    core: &Core,
    label: String,
    connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    lasting: bool,
) {
    let stop = core.supervisor.token();
    core.supervisor.spawn(label, async move {
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection to a webhook ended");
                }
            }
            () = stop.cancelled(), if !lasting => {}
        }
    });
}

async fn send(sender: Sender, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Sender), String> {
    match sender {
        Sender::One(mut sender) => {
            let mut request = request;
            let path = request.uri().path_and_query().map_or("/", |both| both.as_str()).to_owned();
            *request.uri_mut() = path.parse().unwrap_or_default();
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            Ok((response, Sender::One(sender)))
        }
        Sender::Many(mut sender) => {
            sender.ready().await.map_err(|error| error.to_string())?;
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            Ok((response, Sender::Many(sender)))
        }
    }
}

/// The system's reason in the words that Go gives it.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// TLS that trusts the bundle only. Requests to a Service are spread by connection, so that one of HTTP/2 would pin all
/// of them to one endpoint.
fn connector(config: &Value, service: bool) -> Result<TlsConnector, String> {
    let bundle = STANDARD.decode(text(config, "/caBundle")).map_err(|error| format!("caBundle: {error}"))?;
    let pem = String::from_utf8(bundle).map_err(|error| format!("caBundle: {error}"))?;
    let config = tls::client_config(&pem, None).map_err(|error| error.to_string())?;
    Ok(TlsConnector::from(speaking(&config, !service)))
}

/// The same, offering HTTP/1.1, and before it HTTP/2 where that is wanted.
fn speaking(config: &rustls::ClientConfig, second: bool) -> Arc<rustls::ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if second {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Arc::new(config)
}

impl Service {
    /// An address of the Service that is ready, chosen by chance.
    pub(crate) async fn endpoint(&self, core: &Core) -> Result<(String, u16), String> {
        let told = |status: sampan_api::status::Status| status.message;
        let found =
            core.look_up("", "v1", "services", Some(&self.namespace), &self.name).await.map_err(told)?;
        let Some(service) = found else { return Err(format!("service {} not found", go_quote(&self.name))) };
        if text(&service, "/spec/type") == "ExternalName" {
            let port = u16::try_from(self.port).map_err(|error| error.to_string())?;
            return Ok((text(&service, "/spec/externalName").to_owned(), port));
        }
        let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let Some(port) = ports.find(|port| port["port"].as_i64() == Some(self.port)) else {
            let why = format!("no service port {} found for service {}", self.port, go_quote(&self.name));
            return Err(why);
        };
        let slices = core.endpoint("discovery.k8s.io", "v1", "endpointslices").map_err(told)?;
        let scope = slices.scope(Some(&self.namespace));
        let range = Range { end: prefix_end(&scope), start: scope, ..Range::default() };
        let found = core.store().range(range).await.map_err(|error| error.to_string())?;
        let mut ready = Vec::new();
        for kv in &found.kvs {
            let Ok(slice) = serde_json::from_slice::<Value>(&kv.value) else { continue };
            if slice["metadata"]["labels"]["kubernetes.io/service-name"] == self.name {
                ready.extend(addresses(&slice, text(port, "/name")));
            }
        }
        let chosen = ready.choose(&mut rand::rng()).cloned();
        chosen.ok_or_else(|| format!("no endpoints available for service {}", go_quote(&self.name)))
    }
}

/// The ready addresses of a slice for the port of that name.
fn addresses(slice: &Value, port: &str) -> Vec<(String, u16)> {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let number = ports.find(|p| text(p, "/name") == port).and_then(|p| p["port"].as_u64());
    let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { return Vec::new() };
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)))
        .filter_map(|endpoint| Some((endpoint["addresses"].get(0)?.as_str()?.to_owned(), number)))
        .collect()
}
