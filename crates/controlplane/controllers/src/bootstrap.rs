//! Tokens to join with: those that are over are deleted, and the others sign `cluster-info`, so that who has one can
//! trust what it says of the cluster's CA before it has any
//! (<https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::PostParams;
use ring::hmac;
use sampan_daemon::clock;
use serde_json::{Value, json};

use crate::apis;
use crate::cache::{CLUSTER_INFO, Caches};
use crate::error::{Context, Result, code};
use crate::informer::Key;
use crate::queue::Queue;
use crate::worker::Reconciler;

const NAMESPACE: &str = "kube-public";
const SIGNATURE: &str = "jws-kubeconfig-";

/// The controller of tokens to join with. Its keys are their Secrets; `kube-public/cluster-info` stands for that.
pub(crate) struct Bootstrap {
    client: Client,
    caches: Arc<Caches>,
    /// What `cluster-info` says when it is made anew.
    kubeconfig: Option<String>,
    queue: Queue<Key>,
}

impl Bootstrap {
    pub fn new(client: Client, caches: Arc<Caches>, kubeconfig: Option<String>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, kubeconfig, queue: Queue::new() });
        let info = Key::new(NAMESPACE, CLUSTER_INFO);
        this.queue.add(info.clone());
        let own = this.clone();
        let both = info.clone();
        this.caches.bootstrap_tokens.on(move |change| {
            own.queue.add(Key::of(&change.object().metadata));
            own.queue.add(both.clone());
        });
        let own = this.clone();
        this.caches.cluster_info.on(move |_| own.queue.add(info.clone()));
        this
    }

    /// Deletes a token that is over; tells how long another has.
    async fn clean(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(secret) = self.caches.bootstrap_tokens.get(key) else { return Ok(None) };
        let text = field(&secret, "expiration");
        if text.is_empty() {
            return Ok(None);
        }
        // A time that does not parse counts as over.
        let end = text.parse::<Timestamp>().unwrap_or(Timestamp::MIN);
        match Duration::try_from(end.duration_since(clock::now())) {
            Ok(left) if !left.is_zero() => Ok(Some(left)),
            _ => {
                apis::delete(&self.client, &*secret).await?;
                Ok(None)
            }
        }
    }

    /// Brings the signatures of `cluster-info` to what the tokens say; makes it when it is not there.
    async fn sign(&self, key: &Key) -> Result<()> {
        let Some(info) = self.caches.cluster_info.get(key) else { return self.make().await };
        let data = info.data.clone().unwrap_or_default();
        let Some(config) = data.get("kubeconfig") else { return Ok(()) };
        let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
        for old in data.keys().filter(|name| name.starts_with(SIGNATURE)) {
            wanted.insert(old.clone(), Value::Null);
        }
        for secret in self.caches.bootstrap_tokens.all() {
            if let Some((id, token)) = signs(&secret) {
                wanted.insert(format!("{SIGNATURE}{id}"), signature(config, &id, &token).into());
            }
        }
        wanted.retain(|name, value| data.get(name).map(String::as_str) != value.as_str());
        if wanted.is_empty() {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": info.metadata.resource_version}, "data": wanted});
        apis::merge(&self.client, &self.caches.cluster_info, key, &patch).await.map(drop)
    }

    async fn make(&self) -> Result<()> {
        let Some(kubeconfig) = &self.kubeconfig else { return Ok(()) };
        let metadata = ObjectMeta {
            namespace: Some(NAMESPACE.into()),
            name: Some(CLUSTER_INFO.into()),
            ..ObjectMeta::default()
        };
        let data = Some([("kubeconfig".to_owned(), kubeconfig.clone())].into());
        let map = ConfigMap { metadata, data, ..ConfigMap::default() };
        let api = apis::namespaced::<ConfigMap>(&self.client, NAMESPACE);
        match api.create(&PostParams::default(), &map).await {
            Err(error) if matches!(code(&error), 403 | 404 | 409) => Ok(()),
            other => other.map(drop).during(|| format!("creating ConfigMap {NAMESPACE}/{CLUSTER_INFO}")),
        }
    }
}

impl Reconciler for Bootstrap {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        if key.namespace == NAMESPACE {
            self.sign(key).await?;
            return Ok(None);
        }
        self.clean(key).await
    }
}

fn field(secret: &Secret, name: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(name));
    value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
}

/// Id and secret of a token that may sign.
fn signs(secret: &Secret) -> Option<(String, String)> {
    let (id, token) = (field(secret, "token-id"), field(secret, "token-secret"));
    let named = secret.metadata.name.as_deref().and_then(|name| name.strip_prefix("bootstrap-token-"));
    let good = secret.metadata.deletion_timestamp.is_none()
        && named == Some(id.as_str())
        && !token.is_empty()
        && field(secret, "usage-bootstrap-signing") == "true"
        && is_valid(&field(secret, "expiration"));
    good.then_some((id, token))
}

fn is_valid(expiration: &str) -> bool {
    expiration.is_empty() || expiration.parse::<Timestamp>().is_ok_and(|end| end > clock::now())
}

/// A JSON web signature (HS256) without what it signs.
fn signature(content: &str, id: &str, token: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by go-jose in upstream's own test of the same content and token.
    #[test]
    fn a_signature_is_what_others_make_of_it() {
        let made = signature(
            "Hello from the other side. I must have called a thousand times.",
            "joshua",
            "my voice is my passcode",
        );
        assert_eq!(
            made,
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }
}
