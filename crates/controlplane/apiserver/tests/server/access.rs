//! Identity and permission: certificates, tokens, reviews, refusals; over TLS as real clients come.

use crate::support::Server;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sampan_apiserver::UserInfo;
use sampan_daemon::tls;
use serde_json::{Value, json};
use std::sync::Arc;

/// One request over TLS; `identity` is a client certificate.
async fn over_tls(
    server: &Server,
    identity: Option<&tls::Issued>,
    request: http::Request<Full<Bytes>>,
    second_version: bool,
) -> (u16, http::HeaderMap, Vec<u8>) {
    let mut config = (*tls::client_config(server.ca.cert_pem(), identity).unwrap()).clone();
    if second_version {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let io = TokioIo::new(tls);
    let response = if second_version {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        server.supervisor.spawn("client", async move { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        server.supervisor.spawn("client", async move { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    };
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

fn get(path: &str, token: Option<&str>) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::get(format!("https://127.0.0.1{path}"));
    request = request.header("host", "127.0.0.1");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Full::default()).unwrap()
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn who_comes_without_a_name_is_sent_away() {
    let server = Server::start().await;
    for path in ["/healthz", "/livez", "/readyz?verbose", "/version"] {
        assert_eq!(over_tls(&server, None, get(path, None), false).await.0, 200, "{path}");
    }
    for path in ["/api", "/api/v1/pods", "/metrics", "/nowhere"] {
        let (code, _, body) = over_tls(&server, None, get(path, None), true).await;
        assert_eq!(code, 403, "{path}");
        let message = json_of(&body)["message"].as_str().unwrap().to_owned();
        assert!(message.contains("User \"system:anonymous\" cannot "), "{message}");
    }
    let (code, _, body) = over_tls(&server, None, get("/api", Some("nonsense")), false).await;
    assert_eq!((code, json_of(&body)["message"].as_str()), (401, Some("Unauthorized")));
}

#[tokio::test]
async fn a_certificate_says_who_and_which_groups() {
    let server = Server::start().await;
    let issue = |name: &str, groups: &[&str]| {
        let profile = tls::Profile {
            common_name: name.to_owned(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            dns: Vec::new(),
            ips: Vec::new(),
            usage: tls::Usage::Client,
            days: 1,
        };
        server.ca.issue(&profile).unwrap()
    };
    let admin = issue("root", &["system:masters"]);
    let (code, _, body) =
        over_tls(&server, Some(&admin), get("/api/v1/namespaces/default", None), true).await;
    assert_eq!(code, 200);
    assert_eq!(json_of(&body)["metadata"]["name"], "default");
    let jane = issue("jane", &["people"]);
    let (code, _, body) =
        over_tls(&server, Some(&jane), get("/api/v1/namespaces/default/pods", None), false).await;
    assert_eq!(code, 403);
    assert_eq!(
        json_of(&body)["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let (code, ..) = over_tls(&server, Some(&jane), get("/apis", None), false).await;
    assert_eq!(code, 200);
    let (code, ..) = over_tls(&server, None, get("/api/v1/nodes", Some("secret-admin-token")), false).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn a_service_account_token_lives_as_long_as_its_pod() {
    let server = Server::start().await;
    server.account("default").await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let pod = server.post("/api/v1/namespaces/default/pods", &pod).await.body;
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3607, "boundObjectRef": {
            "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"],
        }},
    });
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = server.post(path, &request).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let token = answer.body["status"]["token"].as_str().unwrap().to_owned();
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
    });
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let good = server.post(reviews, &review).await.body;
    assert_eq!(good["status"]["authenticated"], true, "{good}");
    assert_eq!(good["status"]["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(good["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    let (code, _, body) = over_tls(&server, None, get("/api/v1/pods", Some(&token)), false).await;
    assert_eq!(code, 403, "{}", String::from_utf8_lossy(&body));

    let mut short = request.clone();
    short["spec"]["expirationSeconds"] = 5.into();
    assert_eq!(server.post(path, &short).await.code, 422);
    let mut other = request.clone();
    other["spec"]["boundObjectRef"]["uid"] = "another".into();
    assert_eq!(server.post(path, &other).await.code, 409);
    let mut audience = request.clone();
    audience["spec"]["audiences"] = json!(["vault"]);
    let foreign = server.post(path, &audience).await.body;
    let foreign = foreign["status"]["token"].as_str().unwrap();
    assert_eq!(over_tls(&server, None, get("/api", Some(foreign)), false).await.0, 401);

    server.delete("/api/v1/namespaces/default/pods/p", &json!({"gracePeriodSeconds": 0})).await;
    let gone = server.post(reviews, &review).await.body;
    assert!(gone["status"].get("authenticated").is_none(), "{gone}");
    assert_eq!(over_tls(&server, None, get("/api", Some(&token)), false).await.0, 401);
}

#[tokio::test]
async fn reviews_tell_who_may_what() {
    let server = Server::start().await;
    let jane = server.handle.client(UserInfo::new("jane", &["people"]));
    let post = |path: &str, body: Value| {
        http::Request::post(path)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap()
    };
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who =
        crate::support::answer(jane.clone(), post("/apis/authentication.k8s.io/v1/selfsubjectreviews", who))
            .await;
    assert_eq!(who.body["status"]["userInfo"]["username"], "jane", "{}", who.body);
    let may = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = crate::support::answer(jane, post(path, may.clone())).await;
    assert_eq!((answer.code, &answer.body["status"]["allowed"]), (201, &json!(false)), "{}", answer.body);
    let answer = crate::support::answer(server.client(), post(path, may)).await;
    assert_eq!(answer.body["status"]["allowed"], true);
}

#[tokio::test]
async fn one_may_act_as_another_only_with_permission() {
    let server = Server::start().await;
    let ask = |user: &str| {
        http::Request::get("/api/v1/pods").header("impersonate-user", user).body(Full::default()).unwrap()
    };
    let answer = crate::support::answer(server.client(), ask("jane")).await;
    assert_eq!(answer.code, 403);
    assert!(
        answer.body["message"].as_str().unwrap().contains("User \"jane\" cannot list"),
        "{}",
        answer.body
    );
    let jane = server.handle.client(UserInfo::new("jane", &[]));
    let answer = crate::support::answer(jane, ask("system:kube-scheduler")).await;
    assert_eq!(
        answer.body["message"],
        "users \"system:kube-scheduler\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
}

#[tokio::test]
async fn discovery_has_tags_and_the_issuer_has_keys() {
    let server = Server::start().await;
    let ask = |tag: Option<String>| {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        let mut request = http::Request::get("/apis").header("accept", accept);
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        request.body(Full::default()).unwrap()
    };
    let first = crate::support::answer(server.client(), ask(None)).await;
    assert_eq!(first.body["kind"], "APIGroupDiscoveryList");
    assert!(first.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(crate::support::answer(server.client(), ask(Some(tag))).await.code, 304);
    let plain = server.get("/api/v1").await.body;
    assert!(plain["resources"].as_array().unwrap().iter().any(|r| r["name"] == "pods/log"));
    let keys = server.get("/openid/v1/jwks").await.body;
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    let metrics = server.get("/metrics").await.body;
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("apiserver_request_total{verb=\"create\",resource=\"namespaces\",code=\"201\"} 4")
    );
}

#[tokio::test]
async fn bodies_and_answers_have_their_bounds_on_the_wire() {
    let server = Server::start().await;
    let post = |kind: &str, body: Vec<u8>| {
        http::Request::post("https://127.0.0.1/api/v1/namespaces/default/configmaps")
            .header("host", "127.0.0.1")
            .header("authorization", "Bearer secret-admin-token")
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body)))
            .unwrap()
    };
    let (code, _, body) =
        over_tls(&server, None, post("application/json", vec![b' '; (3 << 20) + 1]), false).await;
    assert_eq!((code, json_of(&body)["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let (code, ..) = over_tls(&server, None, post("application/json", vec![b' '; (3 << 20) + 1]), true).await;
    assert_eq!(code, 413);
    let (code, _, body) = over_tls(&server, None, post("text/html", b"x".to_vec()), true).await;
    assert_eq!((code, json_of(&body)["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    for n in 0..4 {
        let data = "x".repeat(100_000);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n}")}, "data": {"a": data}});
        let (code, ..) =
            over_tls(&server, None, post("application/json", map.to_string().into_bytes()), true).await;
        assert_eq!(code, 201);
    }
    let mut list = get("/api/v1/configmaps", Some("secret-admin-token"));
    list.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let (_, headers, body) = over_tls(&server, None, list, true).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(body.len() < 50_000, "{}", body.len());
    let (_, headers, body) =
        over_tls(&server, None, get("/api/v1/configmaps", Some("secret-admin-token")), true).await;
    assert!(headers.get("content-encoding").is_none() && body.len() > 400_000);
}

#[tokio::test]
async fn who_sends_slowly_is_left() {
    use sampan_apiserver::Limits;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let short = Duration::from_millis(200);
    let server =
        Server::with(Limits { header_read: short, body_read: short, handshake: short, ..Limits::default() })
            .await;
    let open = async || tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let bound = Duration::from_secs(10);
    // Nothing at all, not even a handshake.
    let mut silent = open().await;
    let mut buffer = Vec::new();
    let ended = tokio::time::timeout(bound, silent.read_to_end(&mut buffer)).await;
    assert!(ended.is_ok(), "a silent connection stays");
    let config = tls::client_config(server.ca.cert_pem(), None).unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    // Half a head.
    let mut half = connector.connect(name.clone(), open().await).await.unwrap();
    half.write_all(b"GET /version HTTP/1.1\r\nHo").await.unwrap();
    let mut buffer = Vec::new();
    let ended = tokio::time::timeout(bound, half.read_to_end(&mut buffer)).await;
    assert!(ended.is_ok(), "half a head holds a connection");
    // A body that never comes.
    let mut body = connector.connect(name, open().await).await.unwrap();
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Type: application/json\r\nAuthorization: Bearer secret-admin-token\r\n\r\n";
    body.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 1024];
    let count = tokio::time::timeout(bound, body.read(&mut buffer)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&buffer[..count]);
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}
