//! One HTTP/1.1 connection over TLS.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sampan_daemon::tls;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::TlsConnector;

use crate::Outcome;

/// Where to, and as whom.
#[derive(Clone)]
pub struct Target {
    address: String,
    name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
    token: Option<String>,
}

/// An open connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authorization: Option<String>,
    host: String,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Target {
    /// `identity` is a certificate with its key, in PEM.
    pub fn new(
        address: &str,
        ca: &str,
        identity: Option<(String, String)>,
        token: Option<String>,
    ) -> Outcome<Self> {
        let address = address.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host).to_owned();
        let identity = identity.map(|(cert_pem, key_pem)| tls::Issued { cert_pem, key_pem });
        let tls = tls::client_config(ca, identity.as_ref())?;
        Ok(Self { name: ServerName::try_from(host)?, address, tls, token })
    }

    /// Connects.
    pub async fn connect(&self) -> Outcome<Connection> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(self.name.clone(), tcp).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(async move {
            // The request that is under way tells of an end.
            let _ = connection.await;
        });
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        Ok(Connection { sender, authorization, host: self.address.clone(), task })
    }
}

impl Connection {
    /// Sends a request; the answer's body is still to come.
    pub async fn open(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Outcome<(StatusCode, Incoming)> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let request = request.header("accept", "application/json").body(Full::new(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        Ok((response.status(), response.into_body()))
    }

    /// Sends a request and reads the answer.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Outcome<(StatusCode, Bytes)> {
        let (code, body) = self.open(method, path, kind, body).await?;
        Ok((code, body.collect().await?.to_bytes()))
    }
}
