//! A real HTTPS server on loopback, for webhooks and extension servers.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use sampan_daemon::{Supervisor, tls};
use tokio_rustls::TlsAcceptor;

/// Answers each request with what `handle` makes of its head and body. Ends with the supervisor.
pub async fn serve(
    supervisor: &Supervisor,
    ca: &tls::Ca,
    names: &[&str],
    clients: Option<&str>,
    handle: impl Fn(Request<()>, Bytes) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> SocketAddr {
    let profile = tls::Profile {
        common_name: "extension".to_owned(),
        organizations: Vec::new(),
        dns: names.iter().map(|name| (*name).to_owned()).collect(),
        ips: vec!["127.0.0.1".parse().unwrap()],
        usage: tls::Usage::Server,
        days: 1,
    };
    let issued = ca.issue(&profile).unwrap();
    let config = tls::server_config(&issued, clients, clients.is_some()).unwrap();
    let mut config = rustls::ServerConfig::clone(&config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (handle, inner) = (Arc::new(handle), supervisor.clone());
    supervisor.spawn("https", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, handle) = (acceptor.clone(), handle.clone());
            inner.spawn("https-connection", async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let handle = handle.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        Ok::<_, hyper::Error>(handle(Request::from_parts(parts, ()), body))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    });
    address
}
