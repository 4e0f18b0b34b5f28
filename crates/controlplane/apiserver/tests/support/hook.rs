//! A webhook: a real HTTPS server that answers as a test tells it to.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sampan_daemon::tls;
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Answer = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// The running server.
#[allow(dead_code)]
pub struct Hook {
    pub address: SocketAddr,
    pub ca_bundle: String,
    /// Every question that arrived.
    pub asked: Arc<Mutex<Vec<Value>>>,
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[allow(dead_code)]
impl Hook {
    /// Answers each request with `response`, made of the question's `request`; `uid` is filled in.
    pub async fn start(response: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self::raw(&["localhost", "hook.default.svc"], move |review| {
            let mut response = response(&review["request"]);
            if response.get("uid").is_none() {
                response["uid"] = review["request"]["uid"].clone();
            }
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
        })
        .await
    }

    /// Answers with whatever `answer` makes; `null` never answers. The certificate is for these names.
    pub async fn raw(dns: &[&str], answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = tls::Ca::load_or_create(dir.path(), "hook-ca").unwrap();
        let profile = tls::Profile {
            common_name: "hook".to_owned(),
            organizations: Vec::new(),
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            ips: Vec::new(),
            usage: tls::Usage::Server,
            days: 1,
        };
        let serving = ca.issue(&profile).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls::server_config(&serving, None, false).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (log, count, answer) = (asked.clone(), connections.clone(), Arc::new(answer) as Answer);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, log, answer) = (acceptor.clone(), log.clone(), answer.clone());
                open.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request| reply(request, log.clone(), answer.clone()));
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, ca_bundle: STANDARD.encode(ca.cert_pem()), asked, connections, task, _dir: dir }
    }

    /// How a configuration reaches it by address.
    pub fn client_config(&self) -> Value {
        let url = format!("https://localhost:{}/review", self.address.port());
        json!({"url": url, "caBundle": self.ca_bundle})
    }

    pub fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub fn last(&self) -> Value {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

async fn reply(
    request: http::Request<hyper::body::Incoming>,
    log: Arc<Mutex<Vec<Value>>>,
    answer: Answer,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&bytes).unwrap();
    log.lock().unwrap().push(review.clone());
    let reply = answer(&review);
    if reply.is_null() {
        std::future::pending::<()>().await;
    }
    let code = reply["httpCode"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(200);
    let text = reply["raw"].as_str().map_or_else(|| reply.to_string(), str::to_owned);
    Ok(http::Response::builder().status(code).body(Full::new(text.into())).unwrap())
}

/// A configuration with one webhook about ConfigMaps, changed by `with`.
#[allow(dead_code)]
pub fn configuration(kind: &str, name: &str, client: Value, with: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"),
        "clientConfig": client,
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    });
    for (key, value) in with.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "webhooks": [hook],
    })
}
