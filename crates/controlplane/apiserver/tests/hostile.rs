//! Clients that mean harm, over real TLS: what they are told, and that nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/hook.rs"]
mod hook;
#[path = "support/https.rs"]
mod https;
#[path = "support/server.rs"]
mod support;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use sampan_apiserver::Limits;
use sampan_daemon::tls;
use serde_json::{Value, json};
use support::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const BOUND: Duration = Duration::from_secs(60);

/// A connection on which nothing was said yet.
async fn dial(server: &Server, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = (*tls::client_config(server.ca.cert_pem(), None).unwrap()).clone();
    config.alpn_protocols = if protocol.is_empty() { Vec::new() } else { vec![protocol.to_vec()] };
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

/// An ordinary client, which keeps its connection.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Client {
    async fn of(server: &Server) -> Self {
        let tls = dial(server, b"http/1.1").await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        server.supervisor.spawn("client", async move { drop(connection.await) });
        Self { sender, token: "secret-admin-token".to_owned() }
    }

    async fn open(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> http::Response<hyper::body::Incoming> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", kind)
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::new(body))
            .unwrap();
        tokio::time::timeout(BOUND, self.sender.send_request(request)).await.expect("no answer").unwrap()
    }

    async fn send(&mut self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let response = self.open(method, path, kind, body.into()).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Fails unless the server serves as always.
    async fn goes_on(&mut self) {
        assert_eq!(self.send("GET", MAPS, "", "").await.0, 200);
    }
}

/// Code, reason and message of a refusal.
async fn refused(
    client: &mut Client,
    method: &str,
    path: &str,
    kind: &str,
    body: impl Into<Bytes>,
) -> (u16, String, String) {
    let (code, status) = client.send(method, path, kind, body).await;
    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)), "{status}");
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    (code, text("reason"), text("message"))
}

#[tokio::test]
async fn bombs_are_refused_with_the_codes_that_users_know() {
    let server = Server::start().await;
    let mut client = Client::of(&server).await;
    server.config_map("a").await;
    let json = "application/json";
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
    let (code, reason, message) = refused(&mut client, "POST", MAPS, json, deep).await;
    assert_eq!((code, reason.as_str()), (400, "BadRequest"), "{message}");

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{}, ", level - 1).repeat(9);
        writeln!(bomb, "a{level}: &a{level} [{}]", before.trim_end_matches(", ")).unwrap();
    }
    let (code, reason, message) = refused(&mut client, "POST", MAPS, "application/yaml", bomb).await;
    assert_eq!((code, reason.as_str()), (400, "BadRequest"), "{message}");
    let deep = "- ".repeat(200_000);
    let (code, reason, message) = refused(&mut client, "POST", MAPS, "application/yaml", deep).await;
    assert_eq!((code, reason.as_str()), (400, "BadRequest"), "{message}");

    let operations = vec![json!({"op": "add", "path": "/data/a", "value": "b"}); 10_001];
    let path = format!("{MAPS}/a");
    let body = Value::from(operations).to_string();
    let (code, reason, message) =
        refused(&mut client, "PATCH", &path, "application/json-patch+json", body).await;
    assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"), "{message}");
    assert!(
        message.contains("The allowed maximum operations in a JSON patch is 10000, got 10001"),
        "{message}"
    );

    // An answer of that code ends the connection.
    let mut client = Client::of(&server).await;
    let path = format!("{MAPS}?labelSelector=a+in+({})", "x,".repeat(20_000));
    let (code, _, message) = refused(&mut client, "GET", &path, json, "").await;
    assert_eq!(code, 414, "{message}");

    // Last: the rest of such a body is not read, and the connection ends.
    let (code, reason, message) = refused(&mut client, "POST", MAPS, json, vec![b' '; (3 << 20) + 1]).await;
    assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"), "{message}");
    Client::of(&server).await.goes_on().await;
}

#[tokio::test]
async fn expressions_that_cost_too_much_are_refused_beforehand_or_stopped() {
    let server = Server::start().await;
    let mut client = Client::of(&server).await;
    let rule = "self.all(a, self.all(b, self.all(c, self.all(d, a + b + c + d != ''))))";
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "bombs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "bombs", "kind": "Bomb"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "array", "items": {"type": "string"},
                    "x-kubernetes-validations": [{"rule": rule}]}}}}}]},
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, reason, message) =
        refused(&mut client, "POST", path, "application/json", definition.to_string()).await;
    assert_eq!((code, reason.as_str()), (422, "Invalid"), "{message}");
    assert!(message.contains("estimated rule cost exceeds budget"), "{message}");

    // What a policy costs only shows when it runs.
    let registration = "/apis/admissionregistration.k8s.io/v1";
    let numbers = format!("[{}]", "1,".repeat(99) + "1");
    let bomb =
        format!("{numbers}.all(a, {numbers}.all(b, {numbers}.all(c, {numbers}.all(d, a + b + c + d > 0))))");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "bomb"},
        "spec": {"failurePolicy": "Fail", "validations": [{"expression": bomb}], "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]}},
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "bomb"}, "spec": {"policyName": "bomb", "validationActions": ["Deny"]},
    });
    let made = server.post(&format!("{registration}/validatingadmissionpolicies"), &policy).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let made = server.post(&format!("{registration}/validatingadmissionpolicybindings"), &binding).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}).to_string();
    let (code, reason, message) = refused(&mut client, "POST", MAPS, "application/json", map).await;
    assert_eq!((code, reason.as_str()), (422, "Invalid"), "{message}");
    assert!(message.contains("operation cancelled: actual cost limit exceeded"), "{message}");
    client.goes_on().await;
}

#[tokio::test]
async fn a_webhook_that_answers_without_end_is_cut_off() {
    let server = Server::start().await;
    let endless = Bytes::from(vec![b' '; 1 << 30]);
    let reply = move |_: http::Request<()>, _: Bytes| http::Response::new(Full::new(endless.clone()));
    let address = https::serve(&server.supervisor, &server.ca, &["localhost"], None, reply).await;
    let url = format!("https://localhost:{}/review", address.port());
    let client_config = json!({"url": url, "caBundle": STANDARD.encode(server.ca.cert_pem())});
    let hook = hook::configuration("ValidatingWebhookConfiguration", "endless", client_config, json!({}));
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(server.post(path, &hook).await.code, 201);
    let mut client = Client::of(&server).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}).to_string();
    let (code, reason, message) = refused(&mut client, "POST", MAPS, "application/json", map).await;
    assert_eq!((code, reason.as_str()), (500, "InternalError"), "{message}");
    assert!(message.contains("failed calling webhook \"endless.example.com\""), "{message}");
    client.goes_on().await;
}

#[tokio::test]
async fn a_watcher_that_never_reads_is_ended_and_others_hear_everything() {
    const MADE: usize = 120;
    let server = Server::with(Limits { watch_queue: 16, ..Limits::default() }).await;
    let mut deaf = Client::of(&server).await;
    let deaf = deaf.open("GET", &format!("{MAPS}?watch=true"), "", Bytes::new()).await;
    let mut ordinary = server.watch(&format!("{MAPS}?watch=true&labelSelector=!none")).await;
    let mut client = Client::of(&server).await;
    let filling = "x".repeat(400 << 10);
    let mut heard = 0;
    for number in 0..MADE {
        let name = format!("m{number}");
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": filling}});
        assert_eq!(client.send("POST", MAPS, "application/json", map.to_string()).await.0, 201);
        while ordinary.brief().await != ("ADDED".to_owned(), name.clone()) {}
        heard += 1;
    }
    assert_eq!(heard, MADE);
    // What waited for it in sockets and queues is all there is.
    let mut rest = deaf.into_body();
    let mut bytes = 0;
    while let Some(Ok(frame)) = tokio::time::timeout(BOUND, rest.frame()).await.expect("the watch goes on") {
        bytes += frame.into_data().map_or(0, |data| data.len());
    }
    assert!(bytes < MADE * (400 << 10), "{bytes} bytes were kept for it");
}

#[tokio::test]
async fn connections_without_a_request_do_not_stay() {
    let server = Server::with(Limits { header_read: Duration::from_millis(200), ..Limits::default() }).await;
    // Nothing; what may yet become HTTP/2; nothing after agreeing on it; its preface alone.
    let starts: [(&[u8], &[u8]); 5] = [
        (b"", b""),
        (b"", b"PRI * HT"),
        (b"h2", b""),
        (b"h2", b"PRI * HTTP/2.0\r\n\r\n"),
        (b"h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ];
    for (protocol, said) in starts {
        let mut tls = dial(&server, protocol).await;
        tls.write_all(said).await.unwrap();
        tls.flush().await.unwrap();
        let mut buffer = Vec::new();
        let ended = tokio::time::timeout(BOUND, tls.read_to_end(&mut buffer)).await;
        assert!(ended.is_ok(), "{:?} holds a connection", String::from_utf8_lossy(said));
    }
}

#[tokio::test]
async fn rapid_resets_end_their_connection_alone() {
    let server = Server::start().await;
    let mut client = Client::of(&server).await;
    let mut tls = dial(&server, b"h2").await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..40_001_u32).step_by(2) {
        // GET / of the host x, all there is of it; then its reset (CANCEL).
        flood.extend_from_slice(b"\0\0\x06\x01\x05");
        flood.extend_from_slice(&stream.to_be_bytes());
        flood.extend_from_slice(b"\x82\x87\x84\x41\x01x\0\0\x04\x03\0");
        flood.extend_from_slice(&stream.to_be_bytes());
        flood.extend_from_slice(b"\0\0\0\x08");
    }
    // It may be over before all is sent.
    let _ = tls.write_all(&flood).await;
    let mut said = Vec::new();
    let ended = tokio::time::timeout(BOUND, tls.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "the connection goes on");
    client.goes_on().await;
}

#[tokio::test]
async fn thousands_of_idle_connections_are_nobodys_concern() {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    if soft < hard {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    // Both ends are here, and other tests need some.
    let many = usize::try_from(hard / 4).unwrap_or(usize::MAX).min(2000);
    let limits = Limits { connections: many, header_read: Duration::from_secs(300), ..Limits::default() };
    let server = Server::with(limits).await;
    let mut client = Client::of(&server).await;
    client.goes_on().await;
    let mut idle = Vec::new();
    while idle.len() < many - 1 {
        idle.push(dial(&server, b"h2").await);
        if idle.len() % 500 == 0 {
            client.goes_on().await;
        }
    }
    // One more than there are places waits; who is inside goes on.
    let mut next = std::pin::pin!(Client::of(&server));
    tokio::select! {
        biased;
        _ = next.as_mut() => panic!("there are more places than said"),
        () = client.goes_on() => {}
    }
    drop(idle.pop());
    tokio::time::timeout(BOUND, next).await.expect("a place that is free is taken").goes_on().await;
}

#[tokio::test]
async fn a_token_that_is_revoked_ends_on_a_kept_connection() {
    let server = Server::start().await;
    server.account("default").await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts/default";
    let made = server.post(&format!("{accounts}/token"), &json!({"spec": {}})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let mut client = Client::of(&server).await;
    client.token = made.body["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(client.send("GET", "/api", "", "").await.0, 200);
    assert_eq!(server.delete(accounts, &Value::Null).await.code, 200);
    let (code, reason, message) = refused(&mut client, "GET", "/api", "", "").await;
    assert_eq!((code, reason.as_str(), message.as_str()), (401, "Unauthorized", "Unauthorized"));
    client.token = "secret-admin-token".to_owned();
    client.goes_on().await;
}
