//! Hostile inputs for every decoder of this crate.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, Method, header};
use sampan_api::decode;
use sampan_daemon::tls::{self, Profile, Usage};
use sampan_fuzz::{Counting, Target};
use serde_json::{Value, json};

use crate::{
    AuditPolicy, Authentication, EncryptionRules,
    jose::{PublicKey, Unverified},
    jwt::SigningKey,
    negotiate::{self, Accepted, Asked},
    protobuf,
    request::{Query, Route, verb},
    verbs::list,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn text(input: &[u8]) -> &str {
    std::str::from_utf8(input).unwrap_or_default()
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "default", "labels": {"app": "a"}, "resourceVersion": "7",
            "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"containers": [{"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "env": [{"name": "A", "value": "b"}], "resources": {"limits": {"cpu": "100m"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3}}]},
    })
}

#[test]
fn fuzz_protobuf() {
    let whole =
        |object: Value| protobuf::transcode(object.to_string().as_bytes()).expect("it has such a form");
    let seeds = [
        whole(pod()),
        whole(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"a": "QQ=="}}),
        ),
        whole(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "a"}, "spec": {"group": "a", "scope": "Cluster", "names": {"kind": "A", "plural": "a"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}}}}]}})),
    ];
    let run = |input: &[u8]| {
        let Ok(object) = protobuf::decode(input) else { return };
        let json = object.to_string();
        let Some(again) = protobuf::transcode(json.as_bytes()) else { return };
        let back = protobuf::decode(&again).unwrap_or_else(|why| panic!("{json}: {}", why.message));
        let third = protobuf::transcode(back.to_string().as_bytes());
        assert_eq!(third.as_deref(), Some(&again[..]), "{json}");
    };
    Target::new("fuzz_protobuf").seeds(seeds).inputs(1500).allocates(1 << 20, 4000).run(run);
}

#[test]
fn fuzz_transcoding() {
    let run = |input: &[u8]| {
        let _ = protobuf::transcode(input);
    };
    Target::new("fuzz_transcoding").seeds([pod().to_string()]).allocates(1 << 20, 2000).run(run);
}

#[test]
fn fuzz_tokens() {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({"alg": "RS256", "kid": "a", "typ": "JWT"}));
    let claims = part(json!({"iss": "a", "sub": "b", "aud": ["c"], "exp": 1.5e10, "nbf": 0}));
    let seeds = [
        format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode([7; 64])),
        "abcdef.0123456789abcdef".to_owned(),
    ];
    let key = SigningKey::from_pem(&SigningKey::generate_pem().expect("a key")).expect("its own form");
    let run = |input: &[u8]| {
        let Some(token) = Unverified::parse(text(input)) else { return };
        assert!(key.verify(&token).is_err(), "nobody but the key signs");
    };
    Target::new("fuzz_tokens").seeds(seeds).inputs(2000).allocates(1 << 16, 200).run(run);
    // Once more from within: what is not base64 does not get far.
    let run = |input: &[u8]| {
        let encoded = URL_SAFE_NO_PAD.encode(input);
        for token in [format!("{encoded}.{claims}.AA"), format!("{head}.{encoded}.AA")] {
            let _ = Unverified::parse(&token).map(|token| key.verify(&token));
        }
        if let Ok(jwk) = serde_json::from_slice::<Value>(input) {
            let _ = PublicKey::from_jwk(&jwk);
        }
    };
    let seeds = [
        r#"{"alg":"ES256","kid":"a"}"#,
        r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
        r#"{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}"#,
    ];
    Target::new("fuzz_tokens").seeds(seeds).inputs(1000).allocates(1 << 16, 600).run(run);
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).expect("PEM is base64")
}

#[test]
fn fuzz_certificates() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = tls::Ca::load_or_create(dir.path(), "fuzz-ca").expect("a CA");
    let profile = Profile {
        common_name: "a".to_owned(),
        organizations: vec!["system:masters".to_owned()],
        dns: vec!["localhost".to_owned()],
        ips: vec!["127.0.0.1".parse().expect("an address")],
        usage: Usage::Client,
        days: 1,
    };
    let issued = ca.issue(&profile).expect("a certificate");
    let pem = SigningKey::generate_pem().expect("a key");
    let run = |input: &[u8]| {
        let _ = (tls::Facts::of_der(input), PublicKey::from_spki(input));
        let _ = tls::Facts::of(text(input));
        let _ = tls::Request::parse(input);
        let _ = SigningKey::from_pem(text(input));
        let wrapped = |label: &str| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(input))
        };
        let _ = tls::Request::parse(wrapped("CERTIFICATE REQUEST").as_bytes());
        let _ = tls::Facts::of(&wrapped("CERTIFICATE"));
        let _ = SigningKey::from_pem(&wrapped("PRIVATE KEY"));
    };
    let seeds =
        [der(&issued.cert_pem), issued.cert_pem.clone().into_bytes(), der(&pem), pem.clone().into_bytes()];
    let target = Target::new("fuzz_certificates").seeds(seeds).longest(4 << 10);
    target.allocates(1 << 20, 4000).run(run);
}

#[test]
fn fuzz_accept_headers() {
    let words = &[
        "application/",
        "json",
        "yaml",
        "vnd.kubernetes.protobuf",
        "*/*",
        ";q=",
        ";as=Table",
        ";v=v1",
        ";g=meta.k8s.io",
        ";stream=watch",
        "PartialObjectMetadataList",
        "APIGroupDiscoveryList",
        "apidiscovery.k8s.io",
        ",",
        "NaN",
        "inf",
    ];
    let seeds = [
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1;q=0.5, */*;q=0.1",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    ];
    let run = |input: &[u8]| {
        let Ok(value) = HeaderValue::from_bytes(input) else { return };
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value);
        for asked in [Asked::Object, Asked::Custom, Asked::Other] {
            let _ = Accepted::read(&headers, &Query::default(), asked);
        }
        let _ = negotiate::aggregated(&headers);
    };
    let target = Target::new("fuzz_accept_headers").seeds(seeds).words(words).inputs(2000);
    target.allocates(8192, 400).run(run);
}

#[test]
fn fuzz_continue_tokens() {
    let run = |input: &[u8]| {
        for token in [text(input).to_owned(), URL_SAFE_NO_PAD.encode(input)] {
            let Ok(read) = list::read_token(&token) else { continue };
            assert!(!read.start.is_empty() && read.rv != 0);
            let again =
                list::read_token(&list::write_token(read.rv, &read.start)).expect("what is written is read");
            assert_eq!((again.rv, again.start), (read.rv, read.start));
        }
    };
    let seeds =
        [list::write_token(7, "default/a"), r#"{"v":"meta.k8s.io/v1","rv":7,"start":"a"}"#.to_owned()];
    Target::new("fuzz_continue_tokens").seeds(seeds).inputs(2000).allocates(8192, 40).run(run);
}

#[test]
fn fuzz_paths() {
    let words = &[
        "api",
        "apis",
        "v1",
        "namespaces",
        "pods",
        "watch",
        "proxy",
        "/",
        "%2F",
        "%",
        "..",
        "status",
        "openapi",
    ];
    let seeds = [
        "/api/v1/namespaces/default/pods/a/status?watch=true&limit=5&dryRun=All&fieldSelector=a%3Db",
        "/apis/apps/v1/watch/namespaces/default/deployments?pretty&timeoutSeconds=3",
        "/api/v1/namespaces/default/services/https:a:b/proxy/c/d?e=f",
    ];
    let run = |input: &[u8]| {
        let (path, raw) = text(input).split_once('?').unwrap_or((text(input), ""));
        let query = Query::parse(Some(raw));
        let _ = (query.dry_run(), query.number("limit"), query.pretty(), query.flag("watch"));
        if let Route::Object(target) = Route::parse(path) {
            for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let _ = verb(&method, &target, &query);
            }
        }
    };
    Target::new("fuzz_paths").seeds(seeds).words(words).inputs(3000).allocates(8192, 200).run(run);
}

#[test]
fn fuzz_configuration() {
    let seeds = [
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  users: [a]\n  \
         resources: [{group: '', resources: ['pods/*'], resourceNames: [a]}]\n- level: None\n  nonResourceURLs: ['/a*']\n",
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: \
         [{path: /livez}]}\njwt:\n- issuer: {url: 'https://a.example.com', audiences: [a], audienceMatchPolicy: MatchAny}\n  \
         claimMappings: {username: {claim: sub, prefix: ''}, groups: {expression: 'claims.groups'}, uid: {claim: uid}, \
         extra: [{key: 'a.b/c', valueExpression: 'claims.x'}]}\n  claimValidationRules: [{expression: 'claims.a == 1', \
         message: no}]\n  userValidationRules: [{expression: \"!user.username.startsWith('system:')\"}]\n",
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, '*.apps']\n  \
         providers:\n  - aescbc: {keys: [{name: a, secret: 'MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY='}]}\n  \
         - secretbox: {keys: [{name: a, secret: 'MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY='}]}\n  - identity: {}\n",
    ];
    let words = &[
        "aesgcm",
        "derived",
        "kms",
        "level",
        "RequestResponse",
        "claim",
        "expression",
        "rules",
        "jwt",
        "keys",
    ];
    let run = |input: &[u8]| {
        let _ = AuditPolicy::parse(input);
        let Ok(parsed) = decode::parse_yaml(input) else { return };
        let _ = Authentication::parse(&parsed.value, &["https://own.example.com"]);
        let _ = EncryptionRules::parse(&parsed.value);
    };
    let target = Target::new("fuzz_configuration").seeds(seeds).words(words);
    target.allocates(64 << 20, 40_000).run(run);
}
