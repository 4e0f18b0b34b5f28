//! Tokens of another issuer, a real one that serves its keys over TLS.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use crate::support::Server;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use sampan_apiserver::{ApiServer, Authentication, SigningKey};
use sampan_daemon::{Supervisor, clock, tls};
use serde_json::{Value, json};

const RSA: &str = include_str!("../support/rsa.pem");

/// An issuer on loopback.
struct Issuer {
    url: String,
    ca: String,
    key: Arc<SigningKey>,
    broken: Arc<Mutex<bool>>,
    asked: Arc<AtomicUsize>,
    supervisor: Supervisor,
    _dir: tempfile::TempDir,
}

impl Issuer {
    async fn start(pem: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = tls::Ca::load_or_create(dir.path(), "issuer-ca").unwrap();
        let identity = ca
            .issue(&tls::Profile {
                common_name: "issuer".into(),
                organizations: vec![],
                dns: vec!["localhost".into()],
                ips: vec!["127.0.0.1".parse().unwrap()],
                usage: tls::Usage::Server,
                days: 1,
            })
            .unwrap();
        let config = tls::server_config(&identity, None, false).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let issuer = Self {
            url: url.clone(),
            ca: ca.cert_pem().to_owned(),
            key: Arc::new(SigningKey::from_pem(pem).unwrap()),
            broken: Arc::default(),
            asked: Arc::default(),
            supervisor: Supervisor::new(),
            _dir: dir,
        };
        let (key, broken, asked) = (issuer.key.clone(), issuer.broken.clone(), issuer.asked.clone());
        let tasks = issuer.supervisor.clone();
        issuer.supervisor.spawn("issuer", async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(tcp).await else { continue };
                let (key, broken, asked, url) = (key.clone(), broken.clone(), asked.clone(), url.clone());
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let body = match request.uri().path() {
                            _ if *broken.lock().unwrap() => "out of order".to_owned(),
                            "/.well-known/openid-configuration" => {
                                json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string()
                            }
                            _ => {
                                asked.fetch_add(1, Ordering::SeqCst);
                                key.jwks().to_string()
                            }
                        };
                        async move {
                            Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(
                                body,
                            ))))
                        }
                    });
                tasks.spawn("issuer-connection", async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        issuer
    }

    fn token(&self, changes: Value) -> String {
        let now = clock::now().as_second();
        let mut claims = json!({"iss": self.url, "aud": "cluster", "exp": now + 600, "sub": "jane"});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.key.sign_for_tests(&claims)
    }
}

/// A server that believes the issuer.
async fn believing(issuer: &Issuer, mut jwt: Value, anonymous: Value) -> Server {
    jwt["issuer"] = json!({"url": issuer.url, "audiences": ["cluster"], "certificateAuthority": issuer.ca});
    let config = json!({"kind": "AuthenticationConfiguration", "jwt": [jwt], "anonymous": anonymous});
    let authentication =
        Authentication::parse(&config, &["https://kubernetes.default.svc.cluster.local"]).unwrap();
    Server::believing(|server: &mut ApiServer| server.believe(authentication)).await
}

async fn review(server: &Server, token: &str) -> Value {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
    });
    server.post("/apis/authentication.k8s.io/v1/tokenreviews", &body).await.body["status"].clone()
}

#[tokio::test]
async fn claims_become_a_user() {
    let issuer = Issuer::start(RSA).await;
    let jwt = json!({
        "claimMappings": {
            "username": {"claim": "sub", "prefix": "corp:"},
            "groups": {"claim": "roles", "prefix": "corp:"},
            "uid": {"claim": "id"},
        },
        "claimValidationRules": [{"claim": "tenant", "requiredValue": "blue"}],
    });
    let server = believing(&issuer, jwt, Value::Null).await;
    let good = json!({"roles": ["dev", "ops"], "id": "7", "tenant": "blue"});
    let token = issuer.token(good);
    let status = review(&server, &token).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "corp:jane");
    assert_eq!(status["user"]["uid"], "7");
    assert_eq!(status["user"]["groups"], json!(["corp:dev", "corp:ops", "system:authenticated"]));
    for (changes, why) in [
        (json!({"id": "7"}), "oidc: required claim tenant not present in ID token"),
        (
            json!({"id": "7", "tenant": "red"}),
            "oidc: required claim tenant value does not match. Got = red, want = blue",
        ),
        (json!({"tenant": "blue"}), "oidc: parse uid claims \"id\": claim not present"),
        (json!({"exp": 1}), "oidc: verify token: oidc: token is expired"),
        (
            json!({"aud": "other"}),
            "oidc: verify token: oidc: expected audience in [\"cluster\"] got [\"other\"]",
        ),
        (json!({"iss": "https://elsewhere.example"}), "invalid bearer token"),
    ] {
        assert_eq!(review(&server, &issuer.token(changes)).await["error"], why);
    }
    // One fetch was enough for all of them.
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1);

    let ca = server.dir.path().join("ca.crt");
    std::fs::write(&ca, server.ca.cert_pem()).unwrap();
    let out = tokio::process::Command::new("/usr/bin/kubectl")
        .args(["--kubeconfig", "/dev/null", "--server", &format!("https://{}", server.address())])
        .args(["--certificate-authority", ca.to_str().unwrap(), "--token", &token])
        .args(["auth", "whoami", "-o", "json"])
        .env("HOME", server.dir.path())
        .output()
        .await
        .unwrap();
    let said: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    assert_eq!(said["status"]["userInfo"]["username"], "corp:jane");
}

#[tokio::test]
async fn expressions_over_claims_and_the_user() {
    let issuer = Issuer::start(&SigningKey::generate_pem().unwrap()).await;
    let jwt = json!({
        "claimMappings": {
            "username": {"expression": "claims.sub + '@corp'"},
            "groups": {"expression": "claims.roles.filter(r, r != 'guest')"},
            "extra": [{"key": "example.com/team", "valueExpression": "claims.team"}],
        },
        "claimValidationRules": [{"expression": "claims.level > 2", "message": "level is too low"}],
        "userValidationRules": [
            {"expression": "!user.username.startsWith('system:')", "message": "reserved"},
        ],
    });
    let server = believing(&issuer, jwt, Value::Null).await;
    let roles = json!(["guest", "dev"]);
    let status = review(&server, &issuer.token(json!({"roles": roles, "level": 3, "team": "a"}))).await;
    assert_eq!(status["user"]["username"], "jane@corp", "{status}");
    assert_eq!(status["user"]["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(status["user"]["extra"], json!({"example.com/team": ["a"]}));
    let low = review(&server, &issuer.token(json!({"roles": roles, "level": 1, "team": "a"}))).await;
    assert_eq!(low["error"], "oidc: validation expression 'claims.level > 2' failed: level is too low");
    let own = json!({"roles": roles, "level": 3, "team": "a", "sub": "system:admin"});
    let error = review(&server, &issuer.token(own)).await["error"].as_str().unwrap().to_owned();
    assert!(error.ends_with("failed: reserved"), "{error}");
}

#[tokio::test]
async fn a_forged_token_and_a_broken_issuer_harm_nobody() {
    let issuer = Issuer::start(&SigningKey::generate_pem().unwrap()).await;
    let jwt = json!({"claimMappings": {"username": {"claim": "sub", "prefix": ""}}});
    *issuer.broken.lock().unwrap() = true;
    let server = believing(&issuer, jwt, json!({"enabled": false})).await;
    let error = review(&server, &issuer.token(json!({}))).await["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("oidc: verify token: fetching keys"), "{error}");
    // It is not asked again at once, and others are served meanwhile.
    *issuer.broken.lock().unwrap() = false;
    assert!(review(&server, &issuer.token(json!({}))).await["error"].is_string());
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 0);
    server.config_map("others").await;
    let forged = SigningKey::from_pem(RSA).unwrap().sign_for_tests(&json!({
        "iss": issuer.url, "aud": "cluster", "sub": "jane", "exp": clock::now().as_second() + 600,
    }));
    assert!(review(&server, &forged).await["error"].is_string());
}

#[test]
fn everything_that_is_wrong_with_a_configuration_is_said() {
    let config = json!({"jwt": [{
        "issuer": {"url": "http://a", "audiences": []},
        "claimMappings": {"username": {"claim": "sub"}, "groups": {"expression": "claims.("}},
    }]});
    let error = Authentication::parse(&config, &[]).unwrap_err().to_string();
    for part in [
        "URL scheme must be https",
        "at least one issuer.audiences is required",
        "prefix is required when claim is set",
        "claimMappings.groups: Invalid value",
    ] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
}
