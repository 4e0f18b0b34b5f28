//! Tokens of service accounts and tokens to join with, over real HTTP.

use crate::support::Server;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sampan_apiserver::SigningKey;
use sampan_store::{Compare, Op, Store, Txn};
use serde_json::{Value, json};

const RSA: &str = include_str!("../support/rsa.pem");
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/robot";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

async fn with_account() -> Server {
    let server = Server::start().await;
    account(&server).await;
    server
}

async fn account(server: &Server) {
    let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let answer = server.post("/api/v1/namespaces/default/serviceaccounts", &body).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
}

async fn ask(server: &Server, spec: Value) -> crate::support::Answer {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    server.post(&format!("{ACCOUNT}/token"), &body).await
}

async fn token(server: &Server, spec: Value) -> String {
    let answer = ask(server, spec).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer.body["status"]["token"].as_str().unwrap().to_owned()
}

async fn review(server: &Server, token: &str, audiences: &[&str]) -> Value {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences},
    });
    let answer = server.post("/apis/authentication.k8s.io/v1/tokenreviews", &body).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer.body["status"].clone()
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

async fn pod(server: &Server, name: &str, account: &str) -> String {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]},
    });
    let answer = server.post("/api/v1/namespaces/default/pods", &body).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer.body["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn requests_are_completed_and_checked() {
    let server = with_account().await;
    let answer = ask(&server, json!({})).await;
    assert_eq!(answer.body["spec"]["audiences"], json!([ISSUER]));
    assert_eq!(answer.body["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer.body["metadata"]["name"], "robot");
    let own = claims(answer.body["status"]["token"].as_str().unwrap());
    assert_eq!(own["sub"], "system:serviceaccount:default:robot");
    assert_eq!(own["exp"].as_i64().unwrap() - own["iat"].as_i64().unwrap(), 3600);

    for (seconds, why) in [
        (599, "may not specify a duration less than 10 minutes"),
        ((1_i64 << 32) + 1, "may not specify a duration larger than 2^32 seconds"),
    ] {
        let answer = ask(&server, json!({"expirationSeconds": seconds})).await;
        let text = format!(
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {seconds}: {why}"
        );
        assert_eq!((answer.code, answer.body["message"].as_str().unwrap()), (422, text.as_str()));
    }
    let other = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {"name": "other"}, "spec": {},
    });
    let answer = server.post(&format!("{ACCOUNT}/token"), &other).await;
    let text = "TokenRequest.authentication.k8s.io \"robot\" is invalid: metadata.name: Invalid value: \"other\": must match the service account name if specified";
    assert_eq!((answer.code, answer.body["message"].as_str().unwrap()), (422, text));
    let stale = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {"uid": "nobody"}, "spec": {},
    });
    assert_eq!(server.post(&format!("{ACCOUNT}/token"), &stale).await.code, 409);
    let map = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}});
    let answer = ask(&server, map).await;
    assert_eq!(answer.code, 400);
    assert_eq!(answer.body["message"], "cannot bind token to object of type /v1, Kind=ConfigMap");
}

#[tokio::test]
async fn a_token_is_as_good_as_what_it_is_bound_to() {
    let server = with_account().await;
    server.account("default").await;
    let uid = pod(&server, "mine", "robot").await;
    pod(&server, "other", "default").await;
    let bound = |name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}});
    let answer = ask(&server, bound("other", "")).await;
    assert_eq!(answer.code, 400, "{}", answer.body);
    let answer = ask(&server, bound("mine", "another")).await;
    assert_eq!(answer.code, 409);
    let text = "Operation cannot be fulfilled on Pod \"mine\": the UID in the bound object reference (another) does not match the UID in record. The object might have been deleted and then recreated";
    assert_eq!(answer.body["message"], text);

    let good = token(&server, bound("mine", &uid)).await;
    let status = review(&server, &good, &[]).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["audiences"], json!([ISSUER]));
    let user = &status["user"];
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    assert_eq!(user["groups"], json!(groups));
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["mine"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-uid"], json!([uid]));
    let id = format!("JTI={}", claims(&good)["jti"].as_str().unwrap());
    assert_eq!(user["extra"]["authentication.kubernetes.io/credential-id"], json!([id]));

    assert_eq!(
        server.delete("/api/v1/namespaces/default/pods/mine", &json!({"gracePeriodSeconds": 0})).await.code,
        200
    );
    let status = review(&server, &good, &[]).await;
    assert_eq!(status, json!({"user": {}, "error": "service account token has been invalidated"}));
    // A namesake is not the one.
    pod(&server, "mine", "robot").await;
    let error = review(&server, &good, &[]).await["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("pod UID ("), "{error}");

    let plain = token(&server, json!({})).await;
    assert_eq!(review(&server, &plain, &[]).await["authenticated"], true);
    server.delete(ACCOUNT, &Value::Null).await;
    assert_eq!(review(&server, &plain, &[]).await["error"], "serviceaccounts \"robot\" not found");
    account(&server).await;
    let error = review(&server, &plain, &[]).await["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("service account UID ("), "{error}");
}

#[tokio::test]
async fn kubelets_tokens_live_on_and_say_when_to_renew() {
    let server = with_account().await;
    pod(&server, "mine", "robot").await;
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "mine"});
    let long = token(&server, json!({"expirationSeconds": 3607, "boundObjectRef": bound})).await;
    let own = claims(&long);
    assert_eq!(own["exp"].as_i64().unwrap() - own["iat"].as_i64().unwrap(), 365 * 24 * 3600);
    assert_eq!(own["kubernetes.io"]["warnafter"].as_i64().unwrap() - own["iat"].as_i64().unwrap(), 3607);
    let other = json!({"expirationSeconds": 3607, "boundObjectRef": bound, "audiences": ["vault"]});
    assert!(claims(&token(&server, other).await)["kubernetes.io"].get("warnafter").is_none());
}

#[tokio::test]
async fn audiences_have_to_meet() {
    let server = with_account().await;
    let vault = token(&server, json!({"audiences": ["vault", "other"]})).await;
    let status = review(&server, &vault, &["vault", "third"]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    let status = review(&server, &vault, &[]).await;
    let text =
        format!("token audiences [\"vault\" \"other\"] is invalid for the target audiences [\"{ISSUER}\"]");
    assert_eq!(status, json!({"user": {}, "error": text}));
    // A token without audiences of its own is for the server only.
    let status = review(&server, "secret-admin-token", &["vault"]).await;
    assert_eq!(status["error"], "invalid bearer token");
    assert_eq!(review(&server, "secret-admin-token", &[ISSUER]).await["authenticated"], true);
    assert_eq!(review(&server, "nonsense", &[]).await["error"], "invalid bearer token");
}

#[tokio::test]
async fn keys_can_be_changed_while_tokens_are_out() {
    let mut key = None;
    let server = Server::changed(|options| key = Some(options.signing_key.clone())).await;
    let key = key.unwrap();
    let first = SigningKey::generate_pem().unwrap();
    key.replace(&first).unwrap();
    account(&server).await;
    let old = token(&server, json!({})).await;
    assert_eq!(review(&server, &old, &[]).await["authenticated"], true);
    key.replace(&format!("{RSA}{first}")).unwrap();
    let new = token(&server, json!({})).await;
    let header = URL_SAFE_NO_PAD.decode(new.split('.').next().unwrap()).unwrap();
    assert!(String::from_utf8(header).unwrap().contains("RS256"));
    for token in [&old, &new] {
        assert_eq!(review(&server, token, &[]).await["authenticated"], true);
    }
    key.replace(RSA).unwrap();
    assert_eq!(review(&server, &old, &[]).await["error"], "invalid signature, no keys found");
    assert_eq!(review(&server, &new, &[]).await["authenticated"], true);
    key.replace(&format!("{RSA}{first}")).unwrap();
    let keys = server.get("/openid/v1/jwks").await;
    assert_eq!(keys.body["keys"].as_array().unwrap().len(), 2);
    let about = server.get("/.well-known/openid-configuration").await;
    assert_eq!(about.body["id_token_signing_alg_values_supported"], json!(["RS256", "ES256"]));
}

#[tokio::test]
async fn tokens_of_old_are_known_by_their_secret() {
    let mut key = None;
    let server = Server::changed(|options| key = Some(options.signing_key.clone())).await;
    account(&server).await;
    let uid = server.get(ACCOUNT).await.body["metadata"]["uid"].clone();
    let old = key.unwrap().sign_for_tests(&json!({
        "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:robot",
        "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/secret.name": "robot-token",
        "kubernetes.io/serviceaccount/service-account.name": "robot",
        "kubernetes.io/serviceaccount/service-account.uid": uid,
    }));
    assert_eq!(review(&server, &old, &[]).await["error"], "Token has been invalidated");
    let secret = |token: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": "robot-token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
            "stringData": {"token": token},
        })
    };
    let secrets = "/api/v1/namespaces/default/secrets";
    let made = server.post(secrets, &secret(&old)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let status = review(&server, &old, &[]).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    server.merge(&format!("{secrets}/robot-token"), &json!({"stringData": {"token": "other"}})).await;
    assert_eq!(review(&server, &old, &[]).await["error"], "Token does not match server's copy");
}

#[tokio::test]
async fn a_token_to_join_with_is_good_until_it_is_over() {
    let server = Server::start().await;
    let secret = |expiration: &str, groups: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": "bootstrap-token-abcdef"},
            "stringData": {
                "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                "expiration": expiration, "auth-extra-groups": groups,
            },
        })
    };
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let made = server.post(secrets, &secret("2999-01-01T00:00:00Z", "system:bootstrappers:a")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let status = review(&server, "abcdef.0123456789abcdef", &[]).await;
    assert_eq!(status["user"]["username"], "system:bootstrap:abcdef", "{status}");
    let groups = ["system:bootstrappers", "system:bootstrappers:a", "system:authenticated"];
    assert_eq!(status["user"]["groups"], json!(groups));
    for change in [
        secret("2001-01-01T00:00:00Z", ""),
        secret("2999-01-01T00:00:00Z", "system:masters"),
        json!({"stringData": {"usage-bootstrap-authentication": "false", "auth-extra-groups": ""}}),
    ] {
        let data = json!({"stringData": change["stringData"]});
        let answer = server.merge(&format!("{secrets}/bootstrap-token-abcdef"), &data).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        assert_eq!(review(&server, "abcdef.0123456789abcdef", &[]).await["error"], "invalid bearer token");
    }
    assert_eq!(review(&server, "abcdef.0123456789abcdeg", &[]).await["error"], "invalid bearer token");
}

/// What another server did with the store is seen too: nothing here was told of it.
#[tokio::test]
async fn a_deletion_behind_the_servers_back_ends_a_token() {
    let server = with_account().await;
    let token = token(&server, json!({})).await;
    assert_eq!(review(&server, &token, &[]).await["authenticated"], true);
    let key = bytes::Bytes::from_static(b"/registry/core/serviceaccounts/default/robot");
    let txn = Txn { compare: Vec::<Compare>::new(), ops: vec![Op::Delete { key }] };
    server.store.txn(txn).await.unwrap();
    for _ in 0..1000 {
        if review(&server, &token, &[]).await["authenticated"] != true {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the token outlived its account");
}
