//! What the servers of one cluster have in common: its CAs, the key that signs tokens, the keys that Secrets are
//! encrypted with, its networks.
//!
//! It lies in the shared store as one value, encrypted with a key that is derived from the *cluster secret*. The first
//! server makes both; another is given the secret and finds the rest. Whoever reads the store without it (a backup,
//! etcd's administrator) has nothing. See `docs/decisions/0003-several-servers.md`.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt;
use ring::{aead, pbkdf2};
use sampan_daemon::{Backoff, Policy, Supervisor, tls};
use sampan_store::{Compare, Op, Range, Revision, Store, Txn, TxnResponse, prefix_end};
use serde::{Deserialize, Serialize};

use crate::instance::Instance;

/// Where it lies in the store.
const KEY: &str = "/sampan/cluster";
/// Below this each server says which state of it it uses.
const SEEN: &str = "/sampan/seen/";
/// Rounds of key derivation: a tenth of a second for who guesses, once a start for us.
const ROUNDS: u32 = 100_000;
/// What is shared, as files of the data directory. The first ones make the cluster what it is and never change.
const FIXED: [&str; 5] =
    ["tls/ca.crt", "tls/ca.key", "tls/sa.key", "tls/front-proxy/ca.crt", "tls/front-proxy/ca.key"];
const ENCRYPTION: &str = "keys/encryption.yaml";

/// The content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    pod_cidr: String,
    service_cidr: String,
    files: BTreeMap<String, String>,
}

/// As it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sealed {
    format: u32,
    rounds: u32,
    salt: String,
    nonce: String,
    data: String,
}

/// The shared part of a cluster, open.
pub(crate) struct Cluster {
    store: Arc<dyn Store>,
    instance: Instance,
    key: SealingKey,
    state: Mutex<(Content, Revision)>,
}

/// A key with what it was derived from.
struct SealingKey {
    key: aead::LessSafeKey,
    salt: Vec<u8>,
    rounds: u32,
}

impl SealingKey {
    fn derive(secret: &str, salt: &[u8], rounds: u32) -> Result<Self> {
        let rounds =
            NonZeroU32::new(rounds).filter(|n| n.get() <= 10_000_000).context("no sane number of rounds")?;
        let mut key = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, secret.as_bytes(), &mut key);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key).map_err(|_| anyhow::anyhow!("no key"))?;
        Ok(Self { key: aead::LessSafeKey::new(key), salt: salt.to_vec(), rounds: rounds.get() })
    }

    fn seal(&self, content: &Content) -> Result<Vec<u8>> {
        let nonce: [u8; aead::NONCE_LEN] = rand::random();
        let mut data = serde_json::to_vec(content)?;
        let about = aead::Aad::from(KEY.as_bytes());
        self.key
            .seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(nonce), about, &mut data)
            .map_err(|_| anyhow::anyhow!("could not be encrypted"))?;
        Ok(serde_json::to_vec(&Sealed {
            format: 1,
            rounds: self.rounds,
            salt: STANDARD.encode(&self.salt),
            nonce: STANDARD.encode(nonce),
            data: STANDARD.encode(data),
        })?)
    }

    fn open(&self, sealed: &Sealed) -> Result<Content> {
        let nonce: [u8; aead::NONCE_LEN] =
            STANDARD.decode(&sealed.nonce)?.try_into().map_err(|_| anyhow::anyhow!("no nonce"))?;
        let mut data = STANDARD.decode(&sealed.data)?;
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let open = self.key.open_in_place(nonce, aead::Aad::from(KEY.as_bytes()), &mut data);
        let open = open.map_err(|_| {
            anyhow::anyhow!(
                "the cluster secret is wrong (hint: it is in the file cluster-secret of each server's data \
                 directory; give it with --cluster-secret-file)"
            )
        })?;
        Ok(serde_json::from_slice(open)?)
    }
}

fn sealed(value: &[u8]) -> Result<Sealed> {
    let damaged = || format!("what the servers share ({KEY} in the store) is damaged (hint: restore it)");
    let sealed: Sealed = serde_json::from_slice(value).with_context(damaged)?;
    if sealed.format != 1 {
        bail!(
            "what the servers share has format {}, this build reads 1 (hint: use the newer version)",
            sealed.format
        );
    }
    Ok(sealed)
}

/// Enters the cluster whose state is in the store, or founds one. Afterwards the data directory holds what is shared,
/// and the instance has the cluster's networks. `make` makes what a new cluster needs.
pub(crate) async fn enter(
    instance: &mut Instance,
    store: Arc<dyn Store>,
    secret: Option<String>,
    make: impl FnOnce(&Instance) -> Result<()>,
) -> Result<Cluster> {
    let file = instance.dir.join("cluster-secret");
    let secret = match secret {
        Some(secret) => Some(secret),
        None if file.exists() => Some(fs::read_to_string(&file).with_context(|| file.display().to_string())?),
        None => None,
    };
    let secret = secret.map(|secret| secret.trim().to_owned());
    if secret.as_ref().is_some_and(|secret| secret.len() < 16) {
        bail!("a cluster secret has at least 16 characters (hint: head -c 24 /dev/urandom | base64)");
    }
    // What is made here and not accepted is thrown away; what was there before is not.
    let fresh = !instance.dir.join(FIXED[0]).exists();
    let mut make = Some(make);
    loop {
        if let Some((value, revision)) = read(&*store).await? {
            let secret = secret.clone().context(
                "this cluster has servers already, and none of them told its secret (hint: copy the file \
                 cluster-secret from one's data directory and give it with --cluster-secret-file)",
            )?;
            let sealed = sealed(&value)?;
            let key = SealingKey::derive(&secret, &STANDARD.decode(&sealed.salt)?, sealed.rounds)?;
            let content = key.open(&sealed)?;
            adopt(instance, &content)?;
            tls::write_file(&file, format!("{secret}\n").as_bytes(), 0o600)?;
            return Ok(Cluster {
                store,
                instance: instance.clone(),
                key,
                state: Mutex::new((content, revision)),
            });
        }
        let Some(make) = make.take() else {
            bail!("{KEY} comes and goes (hint: does another program use this prefix?)")
        };
        make(instance)?;
        let secret = secret.clone().unwrap_or_else(|| {
            let random: [u8; 24] = rand::random();
            STANDARD.encode(random)
        });
        let salt: [u8; 16] = rand::random();
        let key = SealingKey::derive(&secret, &salt, ROUNDS)?;
        let content = content_of(instance)?;
        // Before others can find it: a crash in between leaves a secret of nothing, which the next start uses.
        tls::write_file(&file, format!("{secret}\n").as_bytes(), 0o600)?;
        let put = Op::Put { key: KEY.into(), value: key.seal(&content)?.into(), lease: 0 };
        let compare = vec![Compare::ModRevision(KEY.into(), 0)];
        if let TxnResponse::Committed(revision) = store.txn(Txn { compare, ops: vec![put] }).await? {
            return Ok(Cluster {
                store,
                instance: instance.clone(),
                key,
                state: Mutex::new((content, revision)),
            });
        }
        // Another server founded the cluster at the same moment: enter that.
        if fresh {
            for name in FIXED.into_iter().chain([ENCRYPTION, "cluster-secret"]) {
                let _ = fs::remove_file(instance.dir.join(name));
            }
        }
    }
}

async fn read(store: &dyn Store) -> Result<Option<(bytes::Bytes, Revision)>> {
    let found = store.range(Range { start: KEY.into(), ..Range::default() }).await?;
    Ok(found.kvs.into_iter().next().map(|kv| (kv.value, kv.mod_revision)))
}

fn content_of(instance: &Instance) -> Result<Content> {
    let mut files = BTreeMap::new();
    for name in FIXED.into_iter().chain([ENCRYPTION]) {
        let path = instance.dir.join(name);
        // Keys for encryption that the administrator keeps elsewhere are not ours to share.
        if name != ENCRYPTION || path.exists() {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            files.insert(name.to_owned(), text);
        }
    }
    let facts = &instance.facts;
    Ok(Content { pod_cidr: facts.pod_cidr.clone(), service_cidr: facts.service_cidr.clone(), files })
}

/// Writes the cluster's files where there are none, and refuses where there are others.
fn adopt(instance: &mut Instance, content: &Content) -> Result<()> {
    for (name, text) in &content.files {
        if !FIXED.contains(&name.as_str()) && name != ENCRYPTION {
            bail!(
                "what the servers share holds {name}, which this build does not know (hint: use the newer version)"
            );
        }
        let path = instance.dir.join(name);
        let have = fs::read_to_string(&path).unwrap_or_default();
        if have == *text {
            continue;
        }
        if !have.is_empty() && FIXED.contains(&name.as_str()) {
            bail!(
                "{} is of another cluster than the store (hint: use another --data-dir, or another prefix in --store)",
                path.display()
            );
        }
        let dir = path.parent().unwrap_or(&instance.dir);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| dir.display().to_string())?;
        tls::write_file(
            &path,
            text.as_bytes(),
            if Path::new(name).extension().is_some_and(|e| e == "crt") { 0o644 } else { 0o600 },
        )?;
    }
    instance.facts.pod_cidr.clone_from(&content.pod_cidr);
    instance.facts.service_cidr.clone_from(&content.service_cidr);
    instance.save()
}

impl Cluster {
    /// Writes new encryption keys for all servers, unless another was faster. Gives the revision of that state.
    pub(crate) async fn publish_keys(&self, text: &str) -> Result<Revision> {
        let (mut content, before) = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        content.files.insert(ENCRYPTION.to_owned(), text.to_owned());
        let put = Op::Put { key: KEY.into(), value: self.key.seal(&content)?.into(), lease: 0 };
        let compare = vec![Compare::ModRevision(KEY.into(), before)];
        match self.store.txn(Txn { compare, ops: vec![put] }).await? {
            TxnResponse::Committed(revision) => {
                *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (content, revision);
                Ok(revision)
            }
            TxnResponse::Conflict(..) => bail!("another server changes the keys right now (hint: try again)"),
        }
    }

    /// Returns once every server that lives uses that state, or names one that does not.
    pub(crate) async fn seen_by_all(&self, revision: Revision, bound: Duration) -> Result<()> {
        let list = |prefix: &'static str| async move {
            let range =
                Range { start: prefix.into(), end: prefix_end(prefix.as_bytes()), ..Range::default() };
            anyhow::Ok(self.store.range(range).await?.kvs)
        };
        let check = async || {
            let seen: BTreeMap<String, Revision> = list(SEEN)
                .await?
                .iter()
                .filter_map(|kv| {
                    let server = String::from_utf8_lossy(kv.key.get(SEEN.len()..)?).into_owned();
                    Some((server, std::str::from_utf8(&kv.value).ok()?.parse().ok()?))
                })
                .collect();
            let live = list("/masterleases/").await?;
            let names = live.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
            anyhow::Ok(names.into_iter().find(|name| seen.get(name).is_none_or(|at| *at < revision)))
        };
        let mut watch = self.store.watch(SEEN.into(), prefix_end(SEEN.as_bytes()), 0, false).await?;
        let begun = tokio::time::Instant::now();
        loop {
            let Some(late) = check().await? else { return Ok(()) };
            let left = bound.saturating_sub(begun.elapsed());
            if left.is_zero() {
                bail!("server {late} has not taken over the new key (hint: is it well? then rotate again)");
            }
            // A server that dies meanwhile writes nothing: look again in any case.
            let _ = tokio::time::timeout(left.min(Duration::from_secs(2)), watch.next()).await;
        }
    }

    /// Takes over what other servers change, for as long as this one runs. `taken` is called after each change.
    pub(crate) fn follow(
        self: &Arc<Self>,
        server: String,
        supervisor: &Supervisor,
        taken: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) {
        let (cluster, taken) = (self.clone(), Arc::new(taken));
        let policy = Policy::Restart(Backoff::default());
        supervisor.supervise("cluster-keys", policy, move || {
            let (cluster, taken, server) = (cluster.clone(), taken.clone(), server.clone());
            async move { cluster.follow_once(&server, &*taken).await }
        });
    }

    async fn follow_once(&self, server: &str, taken: &(dyn Fn() -> Result<()> + Send + Sync)) -> Result<()> {
        // Watched before it is read: nothing is missed in between.
        let mut watch = self.store.watch(KEY.into(), bytes::Bytes::new(), 0, false).await?;
        loop {
            let Some((value, revision)) = read(&*self.store).await? else {
                bail!("{KEY} is gone from the store")
            };
            let content = self.key.open(&sealed(&value)?)?;
            let news = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let news = state.0 != content;
                *state = (content.clone(), revision);
                news
            };
            if news {
                adopt(&mut self.instance.clone(), &content)?;
            }
            taken()?;
            let (key, value) = (format!("{SEEN}{server}").into(), revision.to_string().into());
            self.store.txn(Txn { compare: Vec::new(), ops: vec![Op::Put { key, value, lease: 0 }] }).await?;
            match watch.next().await {
                Some(batch) => drop(batch?),
                None => bail!("the watch ended"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_secret_reads_it() {
        let key = SealingKey::derive("a good long secret", b"salt", 10).unwrap();
        let content = Content { pod_cidr: "10.42.0.0/16".into(), ..Content::default() };
        let stored = key.seal(&content).unwrap();
        assert!(!String::from_utf8_lossy(&stored).contains("10.42"));
        assert_eq!(key.open(&sealed(&stored).unwrap()).unwrap(), content);
        assert_ne!(stored, key.seal(&content).unwrap(), "never the same twice");
        let other = SealingKey::derive("another long secret", b"salt", 10).unwrap();
        let error = other.open(&sealed(&stored).unwrap()).unwrap_err().to_string();
        assert!(error.contains("hint"), "{error}");
        let mut changed: Sealed = sealed(&stored).unwrap();
        changed.data = STANDARD.encode([1; 40]);
        assert!(key.open(&changed).is_err());
        assert!(sealed(b"nonsense").unwrap_err().to_string().contains("hint"));
    }
}
