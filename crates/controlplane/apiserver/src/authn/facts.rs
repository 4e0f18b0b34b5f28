//! What is kept at hand of the objects that credentials hang on, so that each request can ask whether they still hold.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use sampan_api::status::Status;
use sampan_daemon::clock;
use sampan_store::KeyValue;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::{core::Core, mirror::Mirror, storage::store_error};

/// How long a deleted object that is still there counts as there.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// Which object this is, and whether it is going away.
#[derive(Debug)]
pub(super) struct Stamp {
    pub(super) uid: Box<str>,
    deleted: Option<Timestamp>,
}

impl Stamp {
    /// It is to be gone by now, though something still holds it.
    pub(super) fn is_gone(&self) -> bool {
        let before = clock::now().checked_sub(LEEWAY).unwrap_or(Timestamp::MIN);
        self.deleted.is_some_and(|at| at < before)
    }

    /// Its deletion was asked for.
    pub(super) fn is_going(&self) -> bool {
        self.deleted.is_some()
    }
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Option<Box<str>>,
    deletion_timestamp: Option<String>,
}

impl From<Metadata> for Stamp {
    fn from(metadata: Metadata) -> Self {
        let deleted = metadata.deletion_timestamp.and_then(|at| at.parse().ok());
        Self { uid: metadata.uid.unwrap_or_default(), deleted }
    }
}

impl Stamp {
    pub(super) fn parse(kv: &KeyValue) -> Option<Self> {
        serde_json::from_slice::<Named>(&kv.value).ok().map(|named| named.metadata.into())
    }
}

/// A Secret as far as it proves something.
#[derive(Debug)]
pub(super) struct SecretFacts {
    pub(super) stamp: Stamp,
    pub(super) proof: Proof,
}

/// What a Secret is the proof of.
#[derive(Debug)]
pub(super) enum Proof {
    Nothing,
    /// A service account's token: its SHA-256, and since when it is not valid any more.
    Account {
        token: [u8; 32],
        invalid_since: Option<String>,
    },
    /// A token to join with.
    Bootstrap(Bootstrap),
}

/// The data of a `bootstrap.kubernetes.io/token`.
#[derive(Debug, Default)]
pub(super) struct Bootstrap {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) expiration: String,
    pub(super) authenticates: bool,
    pub(super) groups: String,
}

impl SecretFacts {
    pub(super) fn parse(kv: &KeyValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Secret<'a> {
            metadata: Metadata,
            #[serde(borrow, rename = "type", default)]
            kind: std::borrow::Cow<'a, str>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
        }
        let secret: Secret<'_> = serde_json::from_slice(&kv.value).ok()?;
        let data = || -> Value {
            secret.data.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
        };
        let proof = match &*secret.kind {
            "kubernetes.io/service-account-token" => {
                let labels: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
                let since = &labels["metadata"]["labels"]["kubernetes.io/legacy-token-invalid-since"];
                let token = decoded(&data()["token"]);
                Proof::Account {
                    token: Sha256::digest(token).into(),
                    invalid_since: since.as_str().filter(|since| !since.is_empty()).map(str::to_owned),
                }
            }
            "bootstrap.kubernetes.io/token" => {
                let data = data();
                let text = |name: &str| String::from_utf8(decoded(&data[name])).unwrap_or_default();
                Proof::Bootstrap(Bootstrap {
                    id: text("token-id"),
                    secret: text("token-secret"),
                    expiration: text("expiration"),
                    authenticates: text("usage-bootstrap-authentication") == "true",
                    groups: text("auth-extra-groups"),
                })
            }
            _ => Proof::Nothing,
        };
        Some(Self { stamp: secret.metadata.into(), proof })
    }
}

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

/// Mirrors, each opened when it is first needed: who uses no such credentials pays nothing.
#[derive(Default)]
pub(super) struct Facts {
    accounts: OnceCell<Arc<Mirror<Stamp>>>,
    pods: OnceCell<Arc<Mirror<Stamp>>>,
    nodes: OnceCell<Arc<Mirror<Stamp>>>,
    secrets: OnceCell<Arc<Mirror<SecretFacts>>>,
}

impl Facts {
    pub(super) async fn account(
        &self,
        core: &Core,
        ns: &str,
        name: &str,
    ) -> Result<Option<Arc<Stamp>>, Status> {
        look(core, &self.accounts, "serviceaccounts", Some(ns), name, Stamp::parse).await
    }

    pub(super) async fn pod(&self, core: &Core, ns: &str, name: &str) -> Result<Option<Arc<Stamp>>, Status> {
        look(core, &self.pods, "pods", Some(ns), name, Stamp::parse).await
    }

    pub(super) async fn node(&self, core: &Core, name: &str) -> Result<Option<Arc<Stamp>>, Status> {
        look(core, &self.nodes, "nodes", None, name, Stamp::parse).await
    }

    pub(super) async fn secret(
        &self,
        core: &Core,
        ns: &str,
        name: &str,
    ) -> Result<Option<Arc<SecretFacts>>, Status> {
        look(core, &self.secrets, "secrets", Some(ns), name, SecretFacts::parse).await
    }
}

/// An object as the mirror shows it. One that it does not show may have been made on another server a moment ago, so
/// the store has the last word.
async fn look<T: Send + Sync + 'static>(
    core: &Core,
    cell: &OnceCell<Arc<Mirror<T>>>,
    plural: &str,
    namespace: Option<&str>,
    name: &str,
    parse: fn(&KeyValue) -> Option<T>,
) -> Result<Option<Arc<T>>, Status> {
    let endpoint = core.endpoint("", "v1", plural)?;
    let open = || async {
        let store = core.options.store.clone();
        let opened = Mirror::open(&endpoint.prefix, store, &core.supervisor, parse).await;
        let mirror = opened.map_err(|e| store_error(&e))?;
        core.written.register(&mirror);
        Ok::<_, Status>(mirror)
    };
    let mirror = cell.get_or_try_init(open).await?;
    mirror.settle().await;
    if let Some(found) = mirror.get(&endpoint.key(namespace, name)) {
        return Ok(Some(found));
    }
    Ok(core.fetch(&endpoint, namespace, name).await?.and_then(|kv| parse(&kv)).map(Arc::new))
}
