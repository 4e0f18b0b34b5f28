//! Encryption at rest: a store over a store that keeps the values of chosen resources encrypted.
//!
//! What is written is encrypted with the first key of the first matching rule; what is read may be encrypted with any
//! of the rule's keys. The form is upstream's, `k8s:enc:<provider>:v1:<key>:<data>`, and so is the configuration
//! (`EncryptionConfiguration`, <https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/>), with one provider
//! more: `derived` encrypts each value with AES-256-GCM under a key of its own, derived from the configured one, so
//! that no number of writes wears a key out. The key's path in the store is authenticated with the value: a value
//! that is moved to another path does not decrypt.

mod cipher;
mod config;
mod store;

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use cipher::Cipher;
pub use config::ConfigError;
pub use store::Encrypted;

/// All encrypted values begin with this; JSON does not.
const MARK: &[u8] = b"k8s:enc:";

/// Keys of objects begin with this.
const REGISTRY: &str = "/registry/";

/// Which resources are encrypted, and how. May be replaced while in use.
#[derive(Debug)]
pub struct Encryption(RwLock<Arc<Rules>>);

/// An `EncryptionConfiguration` ready for use.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    resources: Vec<Pattern>,
    /// The first one encrypts.
    entries: Vec<Entry>,
}

/// `resource.group`; nothing stands for `*`.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    resource: Option<String>,
    /// `core` for the core group, as keys have it.
    group: Option<String>,
}

#[derive(Debug)]
struct Entry {
    /// What values of this key begin with; empty for values that are not encrypted.
    prefix: Bytes,
    cipher: Cipher,
}

impl Encryption {
    /// Starts with these rules.
    #[must_use]
    pub fn new(rules: Rules) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(rules))))
    }

    /// From now on, these rules hold. What is stored stays as it is until it is written again
    /// ([`Encrypted::rewrite`]): they must still know the keys that it was encrypted with.
    pub fn replace(&self, rules: Rules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn rules(&self) -> Arc<Rules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Rules {
    /// The rule for a key in the store.
    fn of(&self, key: &[u8]) -> Option<&Rule> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(REGISTRY)?;
        let (group, rest) = rest.split_once('/')?;
        let resource = rest.split('/').next()?;
        let matches = |one: &Option<String>, other| one.as_deref().is_none_or(|one| one == other);
        let hit = |p: &Pattern| matches(&p.group, group) && matches(&p.resource, resource);
        self.0.iter().find(|rule| rule.resources.iter().any(hit))
    }

    /// What the keys of everything that may be encrypted begin with.
    fn prefixes(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for pattern in self.0.iter().flat_map(|rule| &rule.resources) {
            all.push(match pattern {
                Pattern { resource: Some(resource), group: Some(group) } => {
                    format!("{REGISTRY}{group}/{resource}/")
                }
                _ => REGISTRY.to_owned(),
            });
        }
        all.sort();
        all.dedup();
        if all.iter().any(|prefix| prefix == REGISTRY) {
            return vec![REGISTRY.to_owned()];
        }
        all
    }

    /// Something between the keys `start` and `end` may be encrypted.
    fn touches(&self, start: &[u8], end: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        if end.is_empty() {
            return self.of(start).is_some();
        }
        // A list begins inside its resource; one that begins before any is of everything.
        let inside = start.strip_prefix(REGISTRY.as_bytes()).unwrap_or_default();
        inside.iter().filter(|byte| **byte == b'/').count() < 2 || self.of(start).is_some()
    }
}

impl Rule {
    fn seal(&self, key: &[u8], value: &Bytes) -> Result<Bytes, String> {
        let Some(entry) = self.entries.first() else { return Ok(value.clone()) };
        entry.cipher.seal(&entry.prefix, key, value)
    }

    /// The value as it was written; and whether it would be written otherwise today.
    fn open(&self, key: &[u8], value: &Bytes) -> Result<(Bytes, bool), String> {
        let marked = value.starts_with(MARK);
        for (index, entry) in self.entries.iter().enumerate() {
            let fits =
                if entry.prefix.is_empty() { !marked } else { marked && value.starts_with(&entry.prefix) };
            if fits {
                return Ok((entry.cipher.open(&entry.prefix, key, value)?, index > 0));
            }
        }
        Err("no matching prefix found (hint: the key that it was encrypted with is no longer configured)"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(config: &serde_json::Value) -> Rules {
        Rules::parse(config).unwrap()
    }

    fn of(resources: &[&str], providers: serde_json::Value) -> serde_json::Value {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": resources, "providers": providers}],
        })
    }

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn every_provider_gives_back_what_it_was_given_and_only_at_its_place() {
        let keys = json!({"keys": [{"name": "one", "secret": KEY}]});
        for provider in ["derived", "aesgcm", "aescbc", "secretbox"] {
            let rules = rules(&of(&["secrets"], json!([{provider: keys}, {"identity": {}}])));
            let key = b"/registry/core/secrets/a/b";
            let rule = rules.of(key).unwrap();
            for text in ["", "x", "{\"a\":\"sixteen bytes!!\"}"] {
                let sealed = rule.seal(key, &Bytes::from(text)).unwrap();
                assert!(sealed.starts_with(format!("k8s:enc:{provider}:v1:one:").as_bytes()), "{provider}");
                assert_ne!(sealed, rule.seal(key, &Bytes::from(text)).unwrap(), "{provider} repeats itself");
                assert_eq!(rule.open(key, &sealed).unwrap(), (Bytes::from(text), false), "{provider}");
                let moved = rule.open(b"/registry/core/secrets/a/c", &sealed);
                let bound = matches!(provider, "derived" | "aesgcm");
                assert_eq!(moved.is_err(), bound, "{provider}");
                let mut changed = sealed.to_vec();
                *changed.last_mut().unwrap() ^= 1;
                let opened = rule.open(key, &changed.into()).map(|(value, _)| value);
                assert_ne!(opened.ok(), Some(Bytes::from(text)), "{provider} did not notice a change");
                for cut in 0..sealed.len() {
                    let _ = rule.open(key, &sealed.slice(..cut));
                }
            }
        }
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let keys = json!({"keys": [{"name": "one", "secret": KEY}]});
        let config = json!({"resources": [
            {"resources": ["events"], "providers": [{"identity": {}}]},
            {"resources": ["pandas.awesome.example", "*.apps"], "providers": [{"aesgcm": keys}]},
            {"resources": ["*."], "providers": [{"secretbox": keys}]},
        ]});
        let rules = rules(&config);
        let how = |key: &str| {
            let rule = rules.of(key.as_bytes())?;
            let sealed = rule.seal(key.as_bytes(), &Bytes::from_static(b"{}")).unwrap();
            Some(String::from_utf8_lossy(&sealed).split(':').nth(2).unwrap_or("identity").to_owned())
        };
        assert_eq!(how("/registry/core/events/a/b").as_deref(), Some("identity"));
        assert_eq!(how("/registry/core/pods/a/b").as_deref(), Some("secretbox"));
        assert_eq!(how("/registry/apps/deployments/a/b").as_deref(), Some("aesgcm"));
        assert_eq!(how("/registry/awesome.example/pandas/b").as_deref(), Some("aesgcm"));
        assert_eq!(how("/registry/batch/jobs/a/b"), None);
        assert_eq!(how("/elsewhere"), None);
        assert!(rules.touches(b"/registry/core/pods/", b"/registry/core/pods0"));
        assert!(!rules.touches(b"/registry/batch/jobs/", b"/registry/batch/jobs0"));
        assert!(rules.touches(b"/registry/", b"/registry0"));
    }

    #[test]
    fn an_old_key_and_plain_values_are_read_and_told_apart() {
        let old = rules(&of(&["secrets"], json!([{"derived": {"keys": [{"name": "old", "secret": KEY}]}}])));
        let key = b"/registry/core/secrets/a/b";
        let plain = Bytes::from_static(b"{}");
        let sealed = old.of(key).unwrap().seal(key, &plain).unwrap();
        let other = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
        let both = json!({"keys": [{"name": "new", "secret": other}, {"name": "old", "secret": KEY}]});
        let new = rules(&of(&["secrets"], json!([{"derived": both}, {"identity": {}}])));
        let rule = new.of(key).unwrap();
        assert_eq!(rule.open(key, &sealed).unwrap(), (plain.clone(), true));
        assert_eq!(rule.open(key, &plain).unwrap(), (plain.clone(), true));
        let again = rule.seal(key, &plain).unwrap();
        assert_eq!(rule.open(key, &again).unwrap(), (plain.clone(), false));
        assert!(old.of(key).unwrap().open(key, &again).is_err());
        assert!(old.of(key).unwrap().open(key, &plain).is_err());
    }
}
