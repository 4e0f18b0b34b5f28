//! Secrets at rest: nothing of them can be found in the store's files, and everything of them through the API.

use std::{path::Path, sync::Arc};

use crate::support::Server;
use sampan_apiserver::{Encrypted, Encryption, EncryptionRules};
use sampan_store::Store;
use serde_json::{Value, json};

const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const TWO: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn rules(keys: &[(&str, &str)]) -> EncryptionRules {
    let keys: Vec<Value> =
        keys.iter().map(|(name, secret)| json!({"name": name, "secret": secret})).collect();
    EncryptionRules::parse(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"derived": {"keys": keys}}, {"identity": {}}]}],
    }))
    .unwrap()
}

fn secret(name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": text}})
}

/// True when a file below the directory has the text, or what base64 makes of it.
fn found(dir: &Path, text: &str) -> bool {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let encoded = STANDARD.encode(text);
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return found(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap();
        let has = |what: &str| bytes.windows(what.len()).any(|part| part == what.as_bytes());
        has(text) || has(encoded.trim_end_matches('='))
    })
}

/// A server with an encrypting store, and that store.
async fn server(encryption: &Arc<Encryption>, dir: tempfile::TempDir) -> (Server, Arc<Encrypted>) {
    let mut kept = None;
    let server = Server::shaped(dir, "192.0.2.10:6443", sampan_apiserver::Limits::default(), |options| {
        let store = Encrypted::new(options.store.clone(), encryption.clone());
        kept = Some(store.clone());
        options.store = store as Arc<dyn Store>;
    })
    .await;
    (server, kept.unwrap())
}

#[tokio::test]
async fn secrets_are_nowhere_in_the_files_and_everywhere_in_the_api() {
    let encryption = Encryption::new(rules(&[("one", ONE)]));
    let (server, _) = server(&encryption, tempfile::tempdir().unwrap()).await;
    let mut watch = server.watch(&format!("{SECRETS}?watch=true")).await;
    let made = server.post(SECRETS, &secret("a", "correct horse battery")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    server.post("/api/v1/namespaces/default/configmaps", &json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain"}, "data": {"a": "in plain sight"}
    })).await;
    let patched = server.merge(&format!("{SECRETS}/a"), &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let listed = server.get(&format!("{SECRETS}?labelSelector=x%3Dy")).await;
    assert_eq!(listed.body["items"][0]["data"]["password"], "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5");
    // A selector needs the object before the change.
    let mut chosen = server
        .watch(&format!(
            "{SECRETS}?watch=true&labelSelector=x%3Dy&resourceVersion={}",
            made.body["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    assert_eq!(chosen.brief().await, ("ADDED".to_owned(), "a".to_owned()));
    let conflict = server.put(&format!("{SECRETS}/a"), &made.body).await;
    assert_eq!(conflict.code, 409, "{}", conflict.body);
    assert_eq!(server.delete(&format!("{SECRETS}/a"), &Value::Null).await.code, 200);
    for (kind, has) in [("ADDED", true), ("MODIFIED", true), ("DELETED", true)] {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], kind);
        assert_eq!(event["object"]["data"]["password"] == "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5", has);
    }
    let store = server.dir.path().join("store");
    assert!(!found(&store, "correct horse battery"));
    assert!(found(&store, "in plain sight"));
}

#[tokio::test]
async fn what_was_there_before_is_read_and_encrypted_when_the_key_changes() {
    // First without encryption.
    let plain = Server::start().await;
    assert_eq!(plain.post(SECRETS, &secret("old", "written in plain")).await.code, 201);
    let Server { handle, supervisor, store, dir, .. } = plain;
    assert!(handle.drain(std::time::Duration::from_secs(5)).await);
    supervisor.shutdown(std::time::Duration::from_secs(5)).await;
    drop((handle, store));

    let encryption = Encryption::new(rules(&[("one", ONE)]));
    let (server, encrypted) = server(&encryption, dir).await;
    assert_eq!(
        server.get(&format!("{SECRETS}/old")).await.body["data"]["password"],
        "d3JpdHRlbiBpbiBwbGFpbg=="
    );
    assert_eq!(server.post(SECRETS, &secret("new", "with the first key")).await.code, 201);
    assert_eq!(encrypted.rewrite().await.unwrap(), 1);
    assert_eq!(encrypted.rewrite().await.unwrap(), 0);

    encryption.replace(rules(&[("two", TWO), ("one", ONE)]));
    assert_eq!(encrypted.rewrite().await.unwrap(), 2);
    // The first key is no longer needed.
    encryption.replace(rules(&[("two", TWO)]));
    for (name, data) in [("old", "d3JpdHRlbiBpbiBwbGFpbg=="), ("new", "d2l0aCB0aGUgZmlyc3Qga2V5")] {
        let read = server.get(&format!("{SECRETS}/{name}")).await;
        assert_eq!(read.body["data"]["password"], data, "{}", read.body);
    }
    // Without its key, a value is an error and no garbage; the rest of the API does not notice.
    encryption.replace(rules(&[("one", ONE)]));
    let lost = server.get(&format!("{SECRETS}/new")).await;
    assert_eq!(lost.code, 500, "{}", lost.body);
    assert!(lost.body["message"].as_str().unwrap().contains("unable to transform key"), "{}", lost.body);
    server.config_map("goes-on").await;
}
