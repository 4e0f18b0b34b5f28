//! What the servers of one cluster have in common: its CAs, the key that signs tokens, the keys that Secrets are
//! encrypted with, its networks.
//!
//! It lies in the shared store as one value, encrypted with a key that is derived from the *cluster secret*. The first
//! server makes both; another is given the secret and finds the rest. Whoever reads the store without it (a backup,
//! etcd's administrator) has nothing. See `docs/decisions/0003-several-servers.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZeroU32,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt;
use ring::{aead, pbkdf2};
use sampan_daemon::{Backoff, Policy, Supervisor, tls};
use sampan_store::{Compare, KeyValue, Op, Range, Revision, Store, Txn, TxnResponse, prefix_end};
use serde::{Deserialize, Serialize};

use crate::instance::Instance;

/// Where it lies in the store.
const KEY: &str = "/sampan/cluster";
/// Below this each server says which state of it it uses.
const SEEN: &str = "/sampan/seen/";
/// How long nothing may be heard of servers before they are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
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
    dir: PathBuf,
    key: SealingKey,
    /// The revision that was taken over last; held while something newer is.
    taken_over: Mutex<Revision>,
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
            return Ok(Cluster { store, dir: instance.dir.clone(), key, taken_over: Mutex::new(revision) });
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
            return Ok(Cluster { store, dir: instance.dir.clone(), key, taken_over: Mutex::new(revision) });
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

/// Takes what servers shared in a store that is left for one of the instance's own: its files are the newest ones then.
pub(crate) fn leave(instance: &mut Instance, shared: &[KeyValue]) -> Result<()> {
    let Some(kv) = shared.iter().find(|kv| kv.key == KEY) else { return Ok(()) };
    let file = instance.dir.join("cluster-secret");
    let secret = fs::read_to_string(&file).with_context(|| {
        format!(
            "{}: without it the newest keys cannot be read (hint: copy it from another server)",
            file.display()
        )
    })?;
    let sealed = sealed(&kv.value)?;
    let key = SealingKey::derive(secret.trim(), &STANDARD.decode(&sealed.salt)?, sealed.rounds)?;
    adopt(instance, &key.open(&sealed)?)
}

/// Takes over what the servers share: files and networks.
fn adopt(instance: &mut Instance, content: &Content) -> Result<()> {
    write_files(&instance.dir, content)?;
    instance.facts.pod_cidr.clone_from(&content.pod_cidr);
    instance.facts.service_cidr.clone_from(&content.service_cidr);
    instance.save()
}

/// Writes the cluster's files where there are none, and refuses where there are others.
fn write_files(dir: &Path, content: &Content) -> Result<()> {
    for (name, text) in &content.files {
        if !FIXED.contains(&name.as_str()) && name != ENCRYPTION {
            bail!(
                "what the servers share holds {name}, which this build does not know (hint: use the newer version)"
            );
        }
        let path = dir.join(name);
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
        let parent = path.parent().unwrap_or(dir);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.with_context(|| parent.display().to_string())?;
        tls::write_file(
            &path,
            text.as_bytes(),
            if Path::new(name).extension().is_some_and(|e| e == "crt") { 0o644 } else { 0o600 },
        )?;
    }
    Ok(())
}

/// Uses the files as they are now.
pub(crate) type Taken<'a> = dyn Fn() -> Result<()> + Send + Sync + 'a;

impl Cluster {
    /// Changes the encryption keys for all servers: `change` makes the new text of what is there, and another server that
    /// was faster is told of. Gives the revision of that state, which this server uses then.
    pub(crate) async fn change_keys(
        &self,
        change: impl FnOnce(&str) -> Result<String>,
        taken: &Taken<'_>,
    ) -> Result<Revision> {
        let (value, before) =
            read(&*self.store).await?.with_context(|| format!("{KEY} is gone from the store"))?;
        let mut content = self.key.open(&sealed(&value)?)?;
        let keys = content.files.get(ENCRYPTION).context("the servers share no keys")?;
        let text = change(keys)?;
        content.files.insert(ENCRYPTION.to_owned(), text);
        let put = Op::Put { key: KEY.into(), value: self.key.seal(&content)?.into(), lease: 0 };
        let compare = vec![Compare::ModRevision(KEY.into(), before)];
        match self.store.txn(Txn { compare, ops: vec![put] }).await? {
            TxnResponse::Committed(revision) => {
                self.take(&content, revision, taken)?;
                Ok(revision)
            }
            TxnResponse::Conflict(..) => bail!("another server changes the keys right now (hint: try again)"),
        }
    }

    /// Takes over a state: files first, then who uses them. What is older than what was taken over is left alone, and what
    /// fails counts as not taken over.
    fn take(&self, content: &Content, revision: Revision, taken: &Taken<'_>) -> Result<()> {
        let mut taken_over = self.taken_over.lock().unwrap_or_else(PoisonError::into_inner);
        if revision < *taken_over {
            return Ok(());
        }
        write_files(&self.dir, content)?;
        taken()?;
        *taken_over = revision;
        Ok(())
    }

    async fn list(&self, prefix: &'static str) -> Result<Vec<KeyValue>> {
        let range = Range { start: prefix.into(), end: prefix_end(prefix.as_bytes()), ..Range::default() };
        Ok(self.store.range(range).await?.kvs)
    }

    /// The servers that live.
    async fn live(&self) -> Result<BTreeSet<String>> {
        let live = self.list("/masterleases/").await?;
        Ok(live.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect())
    }

    /// Forgets what servers said that live no more.
    pub(crate) async fn forget_dead(&self) -> Result<()> {
        // What they said first: who comes in between is listed as living then.
        let said = self.list(SEEN).await?;
        let live = self.live().await?;
        for kv in said.into_iter().filter(|kv| !live.contains(&seen_of(kv))) {
            // One that comes back this moment says it again, and is left alone.
            let compare = vec![Compare::ModRevision(kv.key.clone(), kv.mod_revision)];
            self.store.txn(Txn { compare, ops: vec![Op::Delete { key: kv.key }] }).await?;
        }
        Ok(())
    }

    /// Returns once every server that lives uses that state, or names one that does not.
    pub(crate) async fn seen_by_all(&self, revision: Revision, bound: Duration) -> Result<()> {
        let check = async || {
            let said = self.list(SEEN).await?;
            let seen: BTreeMap<String, Revision> = said
                .iter()
                .filter_map(|kv| Some((seen_of(kv), std::str::from_utf8(&kv.value).ok()?.parse().ok()?)))
                .collect();
            let live = self.live().await?;
            anyhow::Ok(live.into_iter().find(|name| seen.get(name).is_none_or(|at| *at < revision)))
        };
        let begun = tokio::time::Instant::now();
        let mut watch = None;
        loop {
            let open = match watch.as_mut() {
                Some(open) => open,
                None => {
                    watch.insert(self.store.watch(SEEN.into(), prefix_end(SEEN.as_bytes()), 0, false).await?)
                }
            };
            let Some(late) = check().await? else { return Ok(()) };
            let left = bound.saturating_sub(begun.elapsed());
            if left.is_zero() {
                bail!("server {late} has not taken over the new key (hint: is it well? then rotate again)");
            }
            // A server that dies meanwhile writes nothing: look again in any case.
            let wait = left.min(LOOK_AGAIN);
            match tokio::time::timeout(wait, open.next()).await {
                Ok(Some(Ok(_))) | Err(_) => {}
                // It ended, and another might end as soon.
                Ok(_) => {
                    watch = None;
                    tokio::time::sleep(wait).await;
                }
            }
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

    async fn follow_once(&self, server: &str, taken: &Taken<'_>) -> Result<()> {
        // Watched before it is read: nothing is missed in between.
        let mut watch = self.store.watch(KEY.into(), bytes::Bytes::new(), 0, false).await?;
        loop {
            let Some((value, revision)) = read(&*self.store).await? else {
                bail!("{KEY} is gone from the store")
            };
            self.take(&self.key.open(&sealed(&value)?)?, revision, taken)?;
            let (key, value) = (format!("{SEEN}{server}").into(), revision.to_string().into());
            self.store.txn(Txn { compare: Vec::new(), ops: vec![Op::Put { key, value, lease: 0 }] }).await?;
            match watch.next().await {
                Some(batch) => drop(batch?),
                None => bail!("the watch ended"),
            }
        }
    }
}

/// The server that said something.
fn seen_of(kv: &KeyValue) -> String {
    String::from_utf8_lossy(kv.key.get(SEEN.len()..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use sampan_store::embedded::{self, Embedded};

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
    fn instance(dir: &Path) -> Instance {
        let facts = serde_json::json!({
            "format": 1, "id": "0a1b2c3d", "podCidr": "10.42.0.0/16", "serviceCidr": "10.43.0.0/16",
            "apiPort": 6443, "nodeName": "n",
        });
        fs::create_dir_all(dir).unwrap();
        Instance { dir: dir.to_owned(), facts: serde_json::from_value(facts).unwrap() }
    }

    async fn entered(dir: &Path, store: &Arc<Embedded>) -> (Instance, Cluster) {
        let mut instance = instance(dir);
        let make = |instance: &Instance| {
            for name in FIXED.into_iter().chain([ENCRYPTION]) {
                let path = instance.dir.join(name);
                fs::create_dir_all(path.parent().unwrap())?;
                fs::write(path, format!("made: {name}"))?;
            }
            Ok(())
        };
        let secret = Some("a good long secret".to_owned());
        let cluster = enter(&mut instance, store.clone(), secret, make).await.unwrap();
        (instance, cluster)
    }

    fn keys(dir: &Path) -> String {
        fs::read_to_string(dir.join(ENCRYPTION)).unwrap()
    }

    async fn now(store: &Embedded) -> (bytes::Bytes, Revision) {
        read(store).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn keys_are_made_of_what_is_there_and_count_once_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(embedded::Options::new(dir.path().join("store"))).unwrap());
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let (_, one) = entered(&a, &store).await;
        let (mut instance, two) = entered(&b, &store).await;
        one.change_keys(|old| Ok(format!("{old} one")), &|| Ok(())).await.unwrap();
        // Its own file is older, and makes no difference.
        assert!(!keys(&b).contains("one"));
        let at = two.change_keys(|old| Ok(format!("{old} two")), &|| Ok(())).await.unwrap();
        assert!(keys(&b).ends_with("one two"), "{}", keys(&b));

        // What cannot be written is not taken over, and nobody is told that it is.
        let (value, revision) = now(&store).await;
        assert_eq!(revision, at);
        let content = one.key.open(&sealed(&value).unwrap()).unwrap();
        fs::rename(a.join("keys"), a.join("aside")).unwrap();
        fs::write(a.join("keys"), "in the way").unwrap();
        assert!(one.take(&content, revision, &|| Ok(())).is_err());
        assert!(one.follow_once("one", &|| Ok(())).await.is_err());
        assert!(one.list(SEEN).await.unwrap().is_empty());
        fs::remove_file(a.join("keys")).unwrap();
        assert!(one.take(&content, revision, &|| bail!("not used")).is_err());
        assert!(*one.taken_over.lock().unwrap() < revision);
        one.take(&content, revision, &|| Ok(())).unwrap();
        assert_eq!(keys(&a), keys(&b));
        // What is older comes late.
        let mut old = content;
        old.files.insert(ENCRYPTION.to_owned(), "old".to_owned());
        one.take(&old, revision - 1, &|| Ok(())).unwrap();
        assert_eq!(keys(&a), keys(&b));

        // What the instance learned meanwhile stays.
        instance.facts.node_cidr = Some("10.42.3.0/24".to_owned());
        instance.save().unwrap();
        let (value, revision) = now(&store).await;
        two.take(&two.key.open(&sealed(&value).unwrap()).unwrap(), revision, &|| Ok(())).unwrap();
        assert!(Instance::open(&b).unwrap().facts.node_cidr.is_some());
    }

    #[tokio::test]
    async fn servers_that_are_gone_are_forgotten_and_waited_for_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(embedded::Options::new(dir.path().join("store"))).unwrap());
        let (_, cluster) = entered(&dir.path().join("a"), &store).await;
        let put = async |key: &str, value: &str| {
            let op = Op::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease: 0 };
            store.txn(Txn { compare: Vec::new(), ops: vec![op] }).await.unwrap();
        };
        put("/sampan/seen/gone", "3").await;
        put("/sampan/seen/here", "3").await;
        put("/masterleases/x", "here").await;
        cluster.seen_by_all(3, Duration::ZERO).await.unwrap();
        let late = cluster.seen_by_all(4, Duration::ZERO).await.unwrap_err().to_string();
        assert!(late.contains("server here") && late.contains("hint"), "{late}");
        cluster.forget_dead().await.unwrap();
        let left: Vec<String> = cluster.list(SEEN).await.unwrap().iter().map(seen_of).collect();
        assert_eq!(left, ["here"]);
    }

    #[tokio::test]
    async fn who_leaves_a_shared_store_takes_the_newest_keys_along() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(embedded::Options::new(dir.path().join("store"))).unwrap());
        let (_, one) = entered(&dir.path().join("a"), &store).await;
        let b = dir.path().join("b");
        let (mut instance, _) = entered(&b, &store).await;
        one.change_keys(|old| Ok(format!("{old} newer")), &|| Ok(())).await.unwrap();
        let shared = one.list("/sampan/").await.unwrap();
        leave(&mut instance, &shared).unwrap();
        assert!(keys(&b).ends_with("newer"));
        fs::remove_file(b.join("cluster-secret")).unwrap();
        assert!(leave(&mut instance, &shared).unwrap_err().to_string().contains("hint"));
        leave(&mut instance, &[]).unwrap();
    }
}
