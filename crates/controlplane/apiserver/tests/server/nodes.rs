//! The way to a node: logs, refusals, and a stream that is spliced after the switch of protocols. The node here is a
//! TLS server that demands the API server's client certificate.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::Server;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use sampan_daemon::tls;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Starts the node and tells the API of it. Returns how many connections it has had.
async fn node(server: &Server) -> Arc<AtomicUsize> {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let profile = tls::Profile {
        common_name: "system:node:n1".to_owned(),
        organizations: vec!["system:nodes".to_owned()],
        dns: Vec::new(),
        ips: vec!["127.0.0.1".parse().unwrap()],
        usage: tls::Usage::Server,
        days: 1,
    };
    let identity = server.ca.issue(&profile).unwrap();
    let config = tls::server_config(&identity, Some(server.ca.cert_pem()), true).unwrap();
    // As the agent does: upgrades are HTTP/1.1's.
    let mut config = (*config).clone();
    config.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let supervisor = server.supervisor.clone();
    server.supervisor.spawn("node", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let (acceptor, inner) = (acceptor.clone(), supervisor.clone());
            supervisor.spawn("node-connection", async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request| serve(inner.clone(), request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service);
                drop(connection.with_upgrades().await);
            });
        }
    });
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    assert_eq!(server.post("/api/v1/nodes", &body).await.code, 201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let answer = server.merge("/api/v1/nodes/n1/status", &status).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    accepted
}

async fn serve(
    supervisor: sampan_daemon::Supervisor,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri().to_string();
    if uri.starts_with("/containerLogs/default/p/gone") {
        let mut response = Response::new(Full::from("no logs here"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    if !uri.starts_with("/exec/") {
        let last = uri.contains("tailLines=9");
        let mut response = Response::new(Full::from(uri));
        if last {
            response.headers_mut().insert("connection", "close".parse().unwrap());
        }
        return Ok(response);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    supervisor.spawn("echo", async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(uri.as_bytes()).await.unwrap();
        io.write_all(b"\n").await.unwrap();
        let mut buffer = [0; 1024];
        loop {
            let count = io.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            io.write_all(&buffer[..count]).await.unwrap();
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    response.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    Ok(response)
}

async fn pod(server: &Server, name: &str, containers: &[&str], bound: bool) {
    let containers: Vec<Value> = containers.iter().map(|c| json!({"name": c, "image": "i"})).collect();
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers},
    });
    let answer = server.post(PODS, &body).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    if bound {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"kind": "Node", "name": "n1"},
        });
        assert_eq!(server.post(&format!("{PODS}/{name}/binding"), &binding).await.code, 201);
    }
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let server = Server::start().await;
    server.account("default").await;
    node(&server).await;
    pod(&server, "p", &["a", "gone"], true).await;
    pod(&server, "single", &["only"], true).await;
    pod(&server, "waiting", &["only"], false).await;
    let log = server.get(&format!("{PODS}/single/log?follow=true&tailLines=3")).await;
    assert_eq!(log.body, "/containerLogs/default/single/only?follow=true&tailLines=3", "{}", log.code);
    let which = server.get(&format!("{PODS}/p/log")).await;
    assert_eq!(which.code, 400);
    assert_eq!(
        which.body["message"],
        "a container name must be specified for pod p, choose one of: [a gone]"
    );
    let wrong = server.get(&format!("{PODS}/p/log?container=x")).await;
    assert_eq!(wrong.body["message"], "container x is not valid for pod p");
    let missing = server.get(&format!("{PODS}/p/log?container=gone")).await;
    assert_eq!((missing.code, missing.body["message"].as_str()), (404, Some("no logs here")));
    let waiting = server.get(&format!("{PODS}/waiting/log")).await;
    assert_eq!(waiting.code, 400);
    assert_eq!(waiting.body["message"], "pod waiting does not have a host assigned");
    let negative = server.get(&format!("{PODS}/single/log?tailLines=-1")).await;
    assert_eq!(negative.code, 422, "{}", negative.body);
}

#[tokio::test]
async fn logs_share_a_connection_while_the_node_keeps_it() {
    let server = Server::start().await;
    server.account("default").await;
    let accepted = node(&server).await;
    pod(&server, "single", &["only", "gone"], true).await;
    let log = async |query: &str| {
        let answer = server.get(&format!("{PODS}/single/log?container=only{query}")).await;
        let query = query.replacen('&', "?", 1);
        assert_eq!(answer.body, format!("/containerLogs/default/single/only{query}"), "{}", answer.code);
    };
    log("").await;
    log("").await;
    log("&tailLines=3").await;
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    // The node hangs up after this answer.
    log("&tailLines=9").await;
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    log("").await;
    log("").await;
    assert_eq!(accepted.load(Ordering::Relaxed), 2);
    let shut = server.supervisor.shutdown(std::time::Duration::from_secs(5)).await;
    assert!(!shut.iter().any(|task| task.contains("node-connection/")), "{shut:?}");
}

#[tokio::test]
async fn bytes_go_both_ways_after_the_switch() {
    let server = Server::start().await;
    server.account("default").await;
    node(&server).await;
    pod(&server, "p", &["a"], true).await;
    let config = tls::client_config(server.ca.cert_pem(), None).unwrap();
    let tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    server.supervisor.spawn("client", async move { drop(connection.with_upgrades().await) });
    let request =
        Request::get(format!("{PODS}/p/exec?command=sh&command=-c&stdin=true&stdout=true&tty=true"))
            .header("host", "127.0.0.1")
            .header("authorization", "Bearer secret-admin-token")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", "v5.channel.k8s.io")
            .body(Full::<Bytes>::default())
            .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        panic!("{status} {:?}", response.into_body().collect().await.unwrap().to_bytes());
    }
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(io.read_u8().await.unwrap());
    }
    assert_eq!(line, b"/exec/default/p/a?input=1&output=1&tty=1&command=sh&command=-c\n");
    io.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    io.shutdown().await.unwrap();
}
