//! A whole API server over a real embedded store in a temporary directory.

use std::{borrow::Borrow, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use sampan_apiserver::{
    ApiServer, AuditLog, AuditPolicy, Handle, Limits, LocalService, Options, SigningKey, UserInfo,
};
use sampan_daemon::{Supervisor, tls};
use sampan_store::embedded::{self, Embedded};
use serde_json::{Value, json};
use tower::ServiceExt;

/// A running server and what it stands on.
#[allow(dead_code)]
pub struct Server {
    pub handle: Handle,
    pub supervisor: Supervisor,
    pub store: Arc<Embedded>,
    pub dir: tempfile::TempDir,
    pub ca: tls::Ca,
}

/// An answer.
#[allow(dead_code)]
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

#[allow(dead_code)]
impl Server {
    pub async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        Self::on(tempfile::tempdir().unwrap(), "192.0.2.10:6443", limits).await
    }

    /// Ends the server and its store, and starts another on what they leave.
    pub async fn restart(self, advertise: &str) -> Self {
        let Self { handle, supervisor, store, dir, .. } = self;
        assert!(handle.drain(Duration::from_secs(5)).await);
        assert_eq!(supervisor.shutdown(Duration::from_secs(5)).await, Vec::<String>::new());
        drop((handle, store));
        Self::on(dir, advertise, Limits::default()).await
    }

    pub async fn on(dir: tempfile::TempDir, advertise: &str, limits: Limits) -> Self {
        Self::shaped(dir, advertise, limits, |_| {}).await
    }

    /// A server whose options were changed by a test.
    pub async fn changed(change: impl FnOnce(&mut Options)) -> Self {
        Self::shaped(tempfile::tempdir().unwrap(), "192.0.2.10:6443", Limits::default(), change).await
    }

    pub async fn shaped(
        dir: tempfile::TempDir,
        advertise: &str,
        limits: Limits,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        Self::bound(dir, advertise, limits, change, |_| {}).await
    }

    /// A server that records requests.
    pub async fn audited(policy: AuditPolicy, log: AuditLog) -> Self {
        Self::believing(|server| server.audit(policy, log).unwrap()).await
    }

    /// A server that a test spoke to between its binding and its start.
    pub async fn believing(prepare: impl FnOnce(&mut ApiServer)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::bound(dir, "192.0.2.10:6443", Limits::default(), |_| {}, prepare).await
    }

    async fn bound(
        dir: tempfile::TempDir,
        advertise: &str,
        limits: Limits,
        change: impl FnOnce(&mut Options),
        prepare: impl FnOnce(&mut ApiServer),
    ) -> Self {
        let store = Arc::new(Embedded::open(embedded::Options::new(dir.path().join("store"))).unwrap());
        std::fs::create_dir_all(dir.path().join("tls")).unwrap();
        let ca = tls::Ca::load_or_create(&dir.path().join("tls"), "test-ca").unwrap();
        let profile = |name: &str, organizations: &[&str], usage| tls::Profile {
            common_name: name.to_owned(),
            organizations: organizations.iter().map(|o| (*o).to_owned()).collect(),
            dns: vec!["localhost".to_owned()],
            ips: vec!["127.0.0.1".parse().unwrap()],
            usage,
            days: 1,
        };
        let serving = ca.issue(&profile("apiserver", &[], tls::Usage::Server)).unwrap();
        let client = ca.issue(&profile("apiserver", &[], tls::Usage::Client)).unwrap();
        let key = SigningKey::from_pem(&SigningKey::generate_pem().unwrap()).unwrap();
        let mut options = Options {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            tls: tls::server_config(&serving, Some(ca.cert_pem()), false).unwrap(),
            node_tls: tls::client_config(ca.cert_pem(), Some(&client)).unwrap(),
            signing_key: Arc::new(key),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audiences: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            static_tokens: vec![("secret-admin-token".to_owned(), UserInfo::admin("static-admin"))],
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            advertise: Some(advertise.parse().unwrap()),
            store: store.clone(),
            front_proxy: None,
            limits,
        };
        change(&mut options);
        let supervisor = Supervisor::new();
        let mut server = ApiServer::bind(options).await.unwrap();
        prepare(&mut server);
        let handle = server.start(&supervisor).await.unwrap();
        Self { handle, supervisor, store, dir, ca }
    }

    pub fn address(&self) -> SocketAddr {
        self.handle.addresses()[0]
    }

    pub fn client(&self) -> LocalService {
        self.handle.client(UserInfo::admin("tester"))
    }

    pub async fn send(&self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(Full::new(body.into()))
            .unwrap();
        answer(self.client(), request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, "application/json", body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, "application/merge-patch+json", body.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send("DELETE", path, "application/json", body).await
    }

    /// Makes the default service account, as a controller would.
    pub async fn account(&self, namespace: &str) {
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let answer = self.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &body).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
    }

    pub async fn config_map(&self, name: &str) -> Value {
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
        let answer = self.post("/api/v1/namespaces/default/configmaps", &body).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
        answer.body
    }

    pub async fn watch(&self, path: &str) -> Watch {
        let request = http::Request::get(path).body(Full::new(Bytes::new())).unwrap();
        let response = self.client().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

/// Sends a request to a client of the server.
#[allow(dead_code)]
pub async fn answer(client: LocalService, request: http::Request<Full<Bytes>>) -> Answer {
    let response = client.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

/// Asks as a client of the server: JSON, and for PATCH a merge patch.
#[allow(dead_code)]
pub async fn call(client: &LocalService, method: &str, path: &str, body: impl Borrow<Value>) -> Answer {
    let body = body.borrow();
    let bytes = if body.is_null() { String::new() } else { body.to_string() };
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(Full::new(bytes.into()))
        .unwrap();
    answer(client.clone(), request).await
}

/// A pod with what the spec says besides its one container.
#[allow(dead_code)]
pub fn pod(name: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// An open watch.
#[allow(dead_code)]
pub struct Watch {
    body: sampan_apiserver::Body,
    rest: Vec<u8>,
}

#[allow(dead_code)]
impl Watch {
    /// The next event; none when the watch ended. Fails after ten seconds.
    pub async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(Duration::from_secs(10), self.line()).await.expect("no event came")
    }

    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    pub async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch ended");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}
