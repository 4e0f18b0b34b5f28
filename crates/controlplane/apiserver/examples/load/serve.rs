//! A bare server to run against, as the tests start it: embedded store, secrets encrypted, a user with a role and an
//! administrator.

use std::{path::Path, sync::Arc, time::Instant};

use sampan_apiserver::{Encrypted, Encryption, EncryptionRules, Limits, UserInfo};
use sampan_store::{Range, Store, prefix_end};
use serde_json::json;

use crate::Outcome;

#[path = "../../tests/support/server.rs"]
mod support;

/// The key that secrets are encrypted with.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn encryption() -> Arc<Encryption> {
    let rules = EncryptionRules::parse(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [
            {"derived": {"keys": [{"name": "one", "secret": KEY}]}}, {"identity": {}}]}],
    }));
    Encryption::new(rules.unwrap())
}

/// A role that permits everything, and the user `load` bound to it.
async fn permit(server: &support::Server) -> Outcome<()> {
    let group = "rbac.authorization.k8s.io";
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "load"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let binding = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {"name": "load"}, "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "load"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "load"}]});
    for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let answer = server.post(&format!("/apis/{group}/v1/{plural}"), &object).await;
        if !matches!(answer.code, 201 | 409) {
            return Err(format!("{plural}: {}", answer.body).into());
        }
    }
    Ok(())
}

/// Serves until killed, from and to the directory; says how to reach it, and how long the start took.
pub async fn run(store: Option<&str>) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    if let Some(store) = store {
        std::fs::create_dir_all(store)?;
        std::os::unix::fs::symlink(Path::new(store).canonicalize()?, dir.path().join("store"))?;
    }
    let started = Instant::now();
    let server = support::Server::shaped(dir, "192.0.2.10:6443", Limits::default(), |options| {
        options.store = Encrypted::new(options.store.clone(), encryption());
        options.static_tokens.push(("secret-load-token".to_owned(), UserInfo::new("load", &[])));
    })
    .await;
    let took = started.elapsed();
    permit(&server).await?;
    let all = bytes::Bytes::from_static(b"/registry/");
    let range = Range { end: prefix_end(&all), start: all, count_only: true, ..Range::default() };
    let objects = server.store.range(range).await?.count;
    eprintln!("started with {objects} objects in {:.3} s", took.as_secs_f64());
    let ca = server.dir.path().join("ca.crt");
    std::fs::write(&ca, server.ca.cert_pem())?;
    let (address, pid) = (server.address(), std::process::id());
    println!("--server {address} --ca {} --token secret-load-token --pid {pid}", ca.display());
    std::future::pending().await
}
