//! What each namespace is given: a default ServiceAccount and the CA of the API server; and tokens in Secrets.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::PostParams;
use sampan_planner::pods;
use serde_json::json;

use crate::apis;
use crate::cache::{Caches, ROOT_CA};
use crate::error::{Context, Result, code, namespace_ends};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Tokens in Secrets are meant to stay; ten years is what the API server may cut down.
const TOKEN_SECONDS: i64 = 10 * 365 * 24 * 3600;

/// The controller of what each namespace is given. Its keys are namespaces.
pub(crate) struct Accounts {
    client: Client,
    caches: Arc<Caches>,
    ca_pem: String,
    queue: Queue<Key>,
}

impl Accounts {
    pub fn new(client: Client, caches: Arc<Caches>, ca_pem: String) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, ca_pem, queue: Queue::new() });
        let own = this.clone();
        this.caches.namespaces.on(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                own.queue.add(Key::of(&change.object().metadata));
            }
        });
        let own = this.clone();
        this.caches.accounts.on(move |change| {
            let meta = &change.object().metadata;
            if matches!(change, Change::Deleted(_)) && pods::name(meta) == "default" {
                own.queue.add(Key::new("", meta.namespace.as_deref().unwrap_or_default()));
            }
        });
        let own = this.clone();
        this.caches.root_cas.on(move |change| {
            if !matches!(change, Change::Added(_)) {
                let meta = &change.object().metadata;
                own.queue.add(Key::new("", meta.namespace.as_deref().unwrap_or_default()));
            }
        });
        this
    }

    async fn account(&self, namespace: &str) -> Result<()> {
        if self.caches.accounts.get(&Key::new(namespace, "default")).is_some() {
            return Ok(());
        }
        let account = ServiceAccount { metadata: named(namespace, "default"), ..ServiceAccount::default() };
        let api = apis::namespaced::<ServiceAccount>(&self.client, namespace);
        let result = api.create(&PostParams::default(), &account).await;
        exists_is_fine(result).during(|| format!("creating ServiceAccount {namespace}/default"))
    }

    async fn root_ca(&self, namespace: &str) -> Result<()> {
        let key = Key::new(namespace, ROOT_CA);
        let data = json!({"data": {"ca.crt": self.ca_pem}});
        match self.caches.root_cas.get(&key) {
            Some(map) if map.data.as_ref().and_then(|d| d.get("ca.crt")) == Some(&self.ca_pem) => Ok(()),
            Some(_) => apis::merge(&self.client, &self.caches.root_cas, &key, &data).await.map(drop),
            None => {
                let mut metadata = named(namespace, ROOT_CA);
                let text = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                            endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                            guaranteed across distributions of Kubernetes clusters.";
                metadata.annotations =
                    Some([("kubernetes.io/description".to_owned(), text.to_owned())].into());
                let data = Some([("ca.crt".to_owned(), self.ca_pem.clone())].into());
                let map = ConfigMap { metadata, data, ..ConfigMap::default() };
                let api = apis::namespaced::<ConfigMap>(&self.client, namespace);
                let result = api.create(&PostParams::default(), &map).await;
                exists_is_fine(result).during(|| format!("creating ConfigMap {key}"))
            }
        }
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Somebody else made it: good. The namespace goes away: it needs nothing any more. A quota or a policy that forbids it
/// is another matter: it may make room.
fn exists_is_fine<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error) if matches!(code(&error), 404 | 409) || namespace_ends(&error) => Ok(()),
        other => other.map(drop),
    }
}

impl Reconciler for Accounts {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let going = |n: &Namespace| n.metadata.deletion_timestamp.is_some();
        if self.caches.namespaces.get(key).is_none_or(|n| going(&n)) {
            return Ok(None);
        }
        self.account(&key.name).await?;
        self.root_ca(&key.name).await?;
        Ok(None)
    }
}

/// The controller of Secrets that hold a token of a ServiceAccount.
pub(crate) struct Tokens {
    client: Client,
    caches: Arc<Caches>,
    ca_pem: String,
    queue: Queue<Key>,
}

impl Tokens {
    pub fn new(client: Client, caches: Arc<Caches>, ca_pem: String) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, ca_pem, queue: Queue::new() });
        let own = this.clone();
        this.caches.tokens.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        let own = this.clone();
        this.caches.accounts.on(move |change| {
            if matches!(change, Change::Updated { .. }) {
                return;
            }
            let meta = &change.object().metadata;
            for secret in own.caches.tokens.in_namespace(meta.namespace.as_deref().unwrap_or_default()) {
                if pods::annotation(&secret.metadata, ACCOUNT_NAME) == meta.name.as_deref() {
                    own.queue.add(Key::of(&secret.metadata));
                }
            }
        });
        this
    }

    async fn exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool> {
        let api = apis::namespaced::<ServiceAccount>(&self.client, namespace);
        let found = api.get_metadata_opt(name).await;
        let found = found.during(|| format!("reading ServiceAccount {namespace}/{name}"))?;
        Ok(found.is_some_and(|account| account.metadata.uid.as_deref() == Some(uid)))
    }

    async fn fill(&self, key: &Key, account: &ServiceAccount, has_token: bool) -> Result<()> {
        let mut data = json!({
            "ca.crt": ByteString(self.ca_pem.clone().into_bytes()),
            "namespace": ByteString(key.namespace.clone().into_bytes()),
        });
        if !has_token {
            let token = self.token(key, account).await?;
            data["token"] = json!(ByteString(token.into_bytes()));
        }
        let patch = json!({"data": data, "metadata": {"annotations": {ACCOUNT_UID: account.metadata.uid}}});
        apis::merge(&self.client, &self.caches.tokens, key, &patch).await.map(drop)
    }

    async fn token(&self, key: &Key, account: &ServiceAccount) -> Result<String> {
        let secret = self.caches.tokens.get(key);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                bound_object_ref: secret.map(|secret| BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Secret".into()),
                    name: Some(key.name.clone()),
                    uid: secret.metadata.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let name = pods::name(&account.metadata);
        let api = apis::namespaced::<ServiceAccount>(&self.client, &key.namespace);
        let answer = api.create_token_request(name, &PostParams::default(), &request).await;
        let answer =
            answer.during(|| format!("asking for a token of ServiceAccount {}/{name}", key.namespace))?;
        Ok(answer.status.and_then(|s| s.token).unwrap_or_default())
    }
}

impl Reconciler for Tokens {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(secret) = self.caches.tokens.get(key) else { return Ok(None) };
        let meta = &secret.metadata;
        let Some(name) = pods::annotation(meta, ACCOUNT_NAME) else { return Ok(None) };
        if meta.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let account = self.caches.accounts.get(&Key::new(&key.namespace, name));
        let named_uid = pods::annotation(meta, ACCOUNT_UID);
        let same = |a: &ServiceAccount| named_uid.is_none_or(|uid| Some(uid) == a.metadata.uid.as_deref());
        let Some(account) = account.filter(|a| same(a)) else {
            // Its account is gone for good: nobody may use the token any more. Unless it has just come to be, and the
            // cache does not know it yet.
            if let Some(uid) = named_uid
                && !self.exists(&key.namespace, name, uid).await?
            {
                apis::delete(&self.client, &*secret).await?;
            }
            return Ok(None);
        };
        let has =
            |field: &str| secret.data.as_ref().is_some_and(|d| d.get(field).is_some_and(|v| !v.0.is_empty()));
        let ca = secret.data.as_ref().and_then(|d| d.get("ca.crt")).map(|v| v.0.as_slice());
        if !has("token") || !has("namespace") || ca != Some(self.ca_pem.as_bytes()) || named_uid.is_none() {
            self.fill(key, &account, has("token")).await?;
        }
        Ok(None)
    }
}
