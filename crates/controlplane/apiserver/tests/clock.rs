//! The clock is set forwards and back by a year: the service goes on, and only who shows what has expired is refused.
//! Alone in its process, for the clock is everybody's.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/server.rs"]
mod support;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use sampan_daemon::{Supervisor, clock, tls};
use support::Server;

fn profile(name: &str, usage: tls::Usage) -> tls::Profile {
    tls::Profile {
        common_name: name.to_owned(),
        organizations: vec!["system:masters".to_owned()],
        dns: vec!["localhost".to_owned()],
        ips: vec!["127.0.0.1".parse().unwrap()],
        usage,
        days: 90,
    }
}

/// A connection that stays open.
struct Connection(SendRequest<Empty<Bytes>>);

impl Connection {
    async fn open(
        server: &Server,
        config: Arc<rustls::ClientConfig>,
        tasks: &Supervisor,
    ) -> Result<Self, String> {
        let tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tasks.spawn("connection", async move {
            let _ = connection.await;
        });
        Ok(Self(sender))
    }

    async fn get(&mut self, token: &str) -> u16 {
        let mut request = http::Request::get("/api/v1/namespaces").header("host", "localhost");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = self.0.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        code
    }
}

#[tokio::test]
async fn a_year_forwards_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let ca = tls::Ca::load_or_create(dir.path(), "ca").unwrap();
    let issue = |name: &str, usage| ca.issue(&profile(name, usage)).unwrap();
    let identity = tls::Identity::new(issue("api", tls::Usage::Server)).unwrap();
    let config = tls::live_server_config(identity.clone(), Some(ca.cert_pem()), false).unwrap();
    let server = Server::changed(|options| options.tls = config).await;
    let tasks = Supervisor::new();
    let plain = || tls::client_config(ca.cert_pem(), None).unwrap();
    let named = || tls::client_config(ca.cert_pem(), Some(&issue("jane", tls::Usage::Client))).unwrap();
    let token = "secret-admin-token";

    let mut with_token = Connection::open(&server, plain(), &tasks).await.unwrap();
    let mut with_certificate = Connection::open(&server, named(), &tasks).await.unwrap();
    assert_eq!(with_token.get(token).await, 200);
    assert_eq!(with_certificate.get("").await, 200);

    let year = SignedDuration::from_hours(24 * 365);
    let before = clock::jumps();
    clock::shift(year);
    assert!(before.has_changed().unwrap());
    // The certificate that the connection was opened with is over; the connection of somebody else is not touched.
    assert_eq!(with_certificate.get("").await, 401);
    assert_eq!(with_token.get(token).await, 200);
    assert!(Connection::open(&server, plain(), &tasks).await.is_err(), "the server's certificate is over");

    assert!(identity.facts().due(clock::now()));
    identity.replace(issue("api", tls::Usage::Server)).unwrap();
    assert!(!identity.facts().due(clock::now()));
    assert_eq!(with_token.get(token).await, 200);
    let mut fresh = Connection::open(&server, named(), &tasks).await.unwrap();
    assert_eq!(fresh.get("").await, 200);
    server.config_map("while-away").await;

    clock::shift(-year);
    // What was issued in a future that is no more is replaced as well.
    assert!(identity.facts().due(clock::now()));
    assert!(Connection::open(&server, plain(), &tasks).await.is_err(), "the certificate is not valid yet");
    identity.replace(issue("api", tls::Usage::Server)).unwrap();
    let mut fresh = Connection::open(&server, named(), &tasks).await.unwrap();
    assert_eq!(fresh.get("").await, 200);
    assert_eq!(with_token.get(token).await, 200);
    assert_eq!(with_certificate.get("").await, 200);
    tasks.shutdown(std::time::Duration::from_secs(5)).await;
}
