//! The audit log: what the policy wants is there, in order, in a file that is turned over.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{https, support::Server};
use http_body_util::Full;
use sampan_apiserver::{AuditLog, AuditPolicy, AuditWebhook, UserInfo};
use sampan_daemon::{Supervisor, tls};
use serde_json::{Value, json};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:apiserver"]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  verbs: [create, patch, update]
  resources: [{group: "", resources: [configmaps]}]
  namespaces: [default]
- level: Metadata
  omitStages: []
"#;

fn log(dir: &Path) -> AuditLog {
    AuditLog { path: dir.join("audit.log"), max_size: 0, max_age: Duration::ZERO, max_backups: 0 }
}

fn events(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Ends the server, which writes what is queued.
async fn end(server: Server) -> tempfile::TempDir {
    let Server { handle, supervisor, store, dir, .. } = server;
    assert!(handle.drain(Duration::from_secs(5)).await);
    assert_eq!(supervisor.shutdown(Duration::from_secs(5)).await, Vec::<String>::new());
    drop((handle, store));
    dir
}

#[tokio::test]
async fn each_request_is_recorded_as_the_policy_says() {
    let dir = tempfile::tempdir().unwrap();
    let policy = AuditPolicy::parse(POLICY.as_bytes()).unwrap();
    let server = Server::audited(policy, log(dir.path())).await;
    server.config_map("map").await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "hidden"}});
    assert_eq!(server.post("/api/v1/namespaces/default/secrets", &secret).await.code, 201);
    assert_eq!(server.get("/healthz").await.code, 200);
    assert_eq!(server.get("/version").await.code, 200);
    let jane = server.handle.client(UserInfo::new("jane", &[]));
    let request = http::Request::get("/api/v1/namespaces/default/pods/x?pretty=1")
        .header("user-agent", "tester/1")
        .body(Full::default())
        .unwrap();
    let refused = crate::support::answer(jane, request).await;
    assert_eq!(refused.code, 403);
    let request = http::Request::get("/api/v1/namespaces")
        .header("impersonate-user", "joe")
        .header("audit-id", "mine")
        .body(Full::default())
        .unwrap();
    let other = crate::support::answer(server.client(), request).await;
    assert_eq!((other.code, other.headers["audit-id"].to_str().unwrap()), (403, "mine"));
    let watch = server.watch("/api/v1/configmaps?watch=1").await;
    drop(watch);
    let _server = end(server).await;
    let events = events(dir.path());
    assert!(events.iter().all(|event| event["stage"] != "RequestReceived" && event["kind"] == "Event"));
    assert!(!events.iter().any(|event| event["requestURI"] == "/version" || event["user"]["username"] == "system:apiserver"));
    let of = |uri: &str, stage: &str| {
        let found = events
            .iter()
            .find(|event| event["requestURI"].as_str().unwrap().contains(uri) && event["stage"] == stage);
        found.unwrap_or_else(|| panic!("{uri} {stage}: {events:#?}"))
    };
    let map = of("/configmaps", "ResponseComplete");
    assert_eq!((map["level"].as_str(), map["verb"].as_str()), (Some("RequestResponse"), Some("create")));
    assert_eq!(map["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(map["responseObject"]["metadata"]["name"], "map");
    assert_eq!(map["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(
        map["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"})
    );
    assert_eq!(map["annotations"]["authorization.k8s.io/decision"], "allow");
    let secret = of("/secrets", "ResponseComplete");
    assert!(secret.get("requestObject").is_none() && !secret.to_string().contains("hidden"), "{secret}");
    let refused = of("/pods/x?pretty=1", "ResponseComplete");
    assert_eq!(refused["user"], json!({"username": "jane", "groups": ["system:authenticated"]}));
    assert_eq!(
        (refused["userAgent"].as_str(), refused["responseStatus"]["reason"].as_str()),
        (Some("tester/1"), Some("Forbidden"))
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    let other = of("/api/v1/namespaces", "ResponseComplete");
    assert!(
        events
            .iter()
            .any(|event| event["auditID"] == "mine" && event["impersonatedUser"]["username"] == "joe"),
        "{other}"
    );
    of("watch=1", "ResponseStarted");
    of("watch=1", "ResponseComplete");
}

#[tokio::test]
async fn the_file_is_turned_over_and_few_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let policy = b"{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}";
    let options = AuditLog { max_size: 4096, max_backups: 2, ..log(dir.path()) };
    let server = Server::audited(AuditPolicy::parse(policy).unwrap(), options).await;
    for _ in 0..200 {
        assert_eq!(server.get("/api/v1/namespaces/default").await.code, 200);
        tokio::task::yield_now().await;
    }
    let _server = end(server).await;
    let files: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(files.len() <= 3, "{files:?}");
    for event in events(dir.path()) {
        assert_eq!(event["apiVersion"], "audit.k8s.io/v1");
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    for (text, wanted) in [
        ("{kind: Policy, apiVersion: v1, rules: [{level: None}]}", "apiVersion is audit.k8s.io/v1"),
        ("{kind: Policy, apiVersion: audit.k8s.io/v1, rules: []}", "no rules"),
        ("{kind: Policy, apiVersion: audit.k8s.io/v1, rules: [{level: All}]}", "unknown variant `All`"),
        (
            "{kind: Policy, apiVersion: audit.k8s.io/v1, rules: [{level: None, colour: red}]}",
            "unknown field `colour`",
        ),
    ] {
        let why = AuditPolicy::parse(text.as_bytes()).unwrap_err();
        assert!(why.contains(wanted), "{why}");
    }
}

/// Somebody who takes events: refuses the first batch, and notes the others and how they came.
async fn receiver(ca: &tls::Ca, supervisor: &Supervisor) -> (String, Arc<Mutex<Vec<Value>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (log, refused) = (taken.clone(), AtomicBool::new(false));
    let address = https::serve(supervisor, ca, &["localhost"], None, move |request, body| {
        assert_eq!(request.headers()["authorization"], "Bearer of-the-auditor");
        let code = if refused.swap(true, Ordering::SeqCst) { 200 } else { 500 };
        if code == 200 {
            log.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        }
        http::Response::builder().status(code).body(Full::default()).unwrap()
    })
    .await;
    let config = format!(
        "current-context: a\ncontexts: [{{name: a, context: {{cluster: b, user: c}}}}]\n\
         clusters: [{{name: b, cluster: {{server: \"https://localhost:{}/events\", certificate-authority: ca.crt}}}}]\n\
         users: [{{name: c, user: {{token: of-the-auditor}}}}]\n",
        address.port()
    );
    (config, taken)
}

fn items(lists: &Mutex<Vec<Value>>) -> Vec<Value> {
    let lists = lists.lock().unwrap();
    assert!(lists.iter().all(|list| list["kind"] == "EventList" && list["apiVersion"] == "audit.k8s.io/v1"));
    lists.iter().flat_map(|list| list["items"].as_array().unwrap().clone()).collect()
}

#[tokio::test]
async fn events_are_posted_in_batches_and_again_when_refused() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), Supervisor::new());
    let ca = tls::Ca::load_or_create(dir.path(), "audit-ca").unwrap();
    let (config, taken) = receiver(&ca, &outside).await;
    let mut webhook = AuditWebhook::parse(config.as_bytes(), |path| {
        assert_eq!(path, "ca.crt");
        Ok(ca.cert_pem().as_bytes().to_vec())
    })
    .unwrap();
    webhook.initial_backoff = Duration::from_millis(10);
    webhook.max_wait = Duration::from_millis(50);
    let policy = AuditPolicy::parse(POLICY.as_bytes()).unwrap();
    let server = Server::believing(|server| server.audit_webhook(policy, webhook)).await;
    server.config_map("map").await;
    let is_there = |name: &str| {
        let ends = |event: &Value| {
            event["objectRef"]["name"] == name || event["responseObject"]["metadata"]["name"] == name
        };
        items(&taken).iter().any(ends)
    };
    let found = tokio::time::timeout(Duration::from_secs(60), async {
        while !is_there("map") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.expect("what was refused at first came again");
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.body.to_string().contains("apiserver_audit_error_total{plugin=\\\"webhook\\\"} 0"),
        "{}",
        metrics.body
    );
    // What is queued when the server ends is sent before it is gone.
    assert_eq!(server.get("/api/v1/namespaces/last").await.code, 404);
    let _dir = end(server).await;
    assert!(is_there("last"), "{:?}", items(&taken));
    outside.shutdown(Duration::from_secs(5)).await;
}
