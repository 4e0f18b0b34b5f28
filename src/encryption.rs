//! The keys that Secrets are encrypted with at rest: `keys/encryption.yaml` in the data directory, an
//! `EncryptionConfiguration` that only root can read; or a file of the administrator's.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sampan_apiserver::{Encrypted, Encryption, EncryptionRules};
use sampan_daemon::{clock, tls};
use sampan_store::Store;
use serde_json::{Value, json};

use crate::{cluster::Cluster, instance::Instance};

/// The keys, and the store that uses them.
#[derive(Clone)]
pub(crate) struct Keys {
    file: PathBuf,
    /// The file is not ours to change.
    foreign: bool,
    encryption: Arc<Encryption>,
    store: Arc<Encrypted>,
    /// Whom other servers learn new keys from.
    cluster: Option<Arc<Cluster>>,
    /// One makes a new key at a time.
    rotating: Arc<tokio::sync::Mutex<()>>,
}

/// How long another server may take to take over a key.
const TAKEN_OVER: std::time::Duration = std::time::Duration::from_secs(30);

impl Keys {
    /// Read the configuration; make one with a new key when there is none.
    pub(crate) fn open(
        instance: &Instance,
        given: Option<&Path>,
        store: Arc<dyn Store>,
        cluster: Option<Arc<Cluster>>,
    ) -> Result<Self> {
        let file = match given {
            Some(given) => given.to_owned(),
            None => Self::make(instance)?,
        };
        let encryption = Encryption::new(rules(&file, &read(&file)?)?);
        let store = Encrypted::new(store, encryption.clone());
        Ok(Self { file, foreign: given.is_some(), encryption, store, cluster, rotating: Arc::default() })
    }

    /// Makes the file with a new key when there is none.
    pub(crate) fn make(instance: &Instance) -> Result<PathBuf> {
        let file = instance.dir.join("keys/encryption.yaml");
        if !file.exists() {
            let dir = instance.dir.join("keys");
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.with_context(|| dir.display().to_string())?;
            write(&file, &configuration(vec![new_key()]))?;
        }
        Ok(file)
    }

    /// Uses what the file says now.
    pub(crate) fn reload(&self) -> Result<()> {
        self.encryption.replace(rules(&self.file, &read(&self.file)?)?);
        Ok(())
    }

    /// The store that encrypts.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Make a new key, and encrypt everything with it. Gives the number of values that were written again.
    pub(crate) async fn rotate(&self) -> Result<usize> {
        if self.foreign {
            bail!("the keys are given by --encryption-provider-config (hint: change that file and restart)");
        }
        let _alone = self.rotating.lock().await;
        let new = new_key();
        if let Some(cluster) = &self.cluster {
            let taken = || self.reload();
            // First every server can read what is encrypted with it, and only then any of them writes so.
            let last = |text: &str| self.changed(text, |keys| keys.push(new.clone()));
            let revision = cluster.change_keys(last, &taken).await?;
            cluster.seen_by_all(revision, TAKEN_OVER).await?;
            let first = |text: &str| {
                self.changed(text, |keys| {
                    keys.retain(|key| *key != new);
                    keys.insert(0, new.clone());
                })
            };
            let revision = cluster.change_keys(first, &taken).await?;
            cluster.seen_by_all(revision, TAKEN_OVER).await?;
            cluster.forget_dead().await?;
        } else {
            let mut all = keys_of(&self.file, &read(&self.file)?)?;
            all.insert(0, new);
            let config = configuration(all);
            let rules = rules(&self.file, &config)?;
            // The file first: nothing may be encrypted with a key that a crash would lose.
            write(&self.file, &config)?;
            self.encryption.replace(rules);
        }
        Ok(self.store.rewrite().await?)
    }

    /// The configuration with other keys.
    fn changed(&self, text: &str, change: impl FnOnce(&mut Vec<Value>)) -> Result<String> {
        let config = serde_yaml_ng::from_str(text).with_context(|| self.file.display().to_string())?;
        let mut keys = keys_of(&self.file, &config)?;
        change(&mut keys);
        Ok(serde_yaml_ng::to_string(&configuration(keys))?)
    }
}

fn keys_of(file: &Path, config: &Value) -> Result<Vec<Value>> {
    let keys = config.pointer("/resources/0/providers/0/derived/keys").and_then(Value::as_array);
    keys.cloned().with_context(|| format!("{} was changed by hand", file.display()))
}

fn new_key() -> Value {
    let secret: [u8; 32] = rand::random();
    // Two servers may make one in the same moment.
    let name = format!("key-{}-{:04x}", clock::now().as_millisecond(), rand::random::<u16>());
    json!({"name": name, "secret": STANDARD.encode(secret)})
}

fn configuration(keys: Vec<Value>) -> Value {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{
            "resources": ["secrets"],
            // What was written before there were keys is still read.
            "providers": [{"derived": {"keys": keys}}, {"identity": {}}],
        }],
    })
}

fn read(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_yaml_ng::from_str(&text).with_context(|| file.display().to_string())
}

fn rules(file: &Path, config: &Value) -> Result<EncryptionRules> {
    EncryptionRules::parse(config).with_context(|| file.display().to_string())
}

fn write(file: &Path, config: &Value) -> Result<()> {
    Ok(tls::write_file(file, serde_yaml_ng::to_string(config)?.as_bytes(), 0o600)?)
}
