//! `EncryptionConfiguration`, read.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::Value;

use super::{Cipher, Entry, MARK, Pattern, Rule, Rules};

/// What is wrong with a configuration: all of it, one line each.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Rules {
    /// Makes rules of an `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`) with the providers `derived`,
    /// `aesgcm` (keys of 16 or 32 bytes), `aescbc`, `secretbox` and `identity`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(config: &Value) -> Result<Self, ConfigError> {
        let mut errors = Vec::new();
        let kind = config["kind"].as_str();
        if kind.is_some_and(|kind| kind != "EncryptionConfiguration") {
            errors.push("kind: must be EncryptionConfiguration".to_owned());
        }
        let list = config["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
        if list.is_empty() {
            errors.push("resources: Required value: resources can't be empty".to_owned());
        }
        let mut rules = Vec::new();
        for (index, one) in list.iter().enumerate() {
            let at = format!("resources[{index}]");
            let resources = resources(&one["resources"], &at, &mut errors);
            let entries = providers(&one["providers"], &at, &mut errors);
            rules.push(Rule { resources, entries });
        }
        if errors.is_empty() { Ok(Self(rules)) } else { Err(ConfigError(errors)) }
    }
}

fn resources(list: &Value, at: &str, errors: &mut Vec<String>) -> Vec<Pattern> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        errors.push(format!("{at}.resources: Required value: resources can't be empty"));
    }
    let mut patterns = Vec::new();
    for (index, name) in list.iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        let (resource, group) = name.split_once('.').unwrap_or((name, ""));
        if resource.is_empty() || name.contains('/') || name == "*" {
            errors.push(format!(
                "{at}.resources[{index}]: Invalid value: {name:?}: must be RESOURCE or RESOURCE.GROUP (hint: use '*.*' for everything)"
            ));
            continue;
        }
        let any = |part: &str| (part != "*").then(|| part.to_owned());
        let group = if group.is_empty() { Some("core".to_owned()) } else { any(group) };
        patterns.push(Pattern { resource: any(resource), group });
    }
    patterns
}

fn providers(list: &Value, at: &str, errors: &mut Vec<String>) -> Vec<Entry> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        errors.push(format!("{at}.providers: Required value: providers can't be empty"));
    }
    let mut entries = Vec::new();
    for (index, provider) in list.iter().enumerate() {
        let at = format!("{at}.providers[{index}]");
        let set: Vec<(&String, &Value)> =
            provider.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()).collect();
        let [(name, settings)] = set[..] else {
            errors.push(format!("{at}: Invalid value: exactly one provider must be given"));
            continue;
        };
        match name.as_str() {
            "identity" => entries.push(Entry { prefix: Bytes::new(), cipher: Cipher::Identity }),
            "derived" | "aesgcm" | "aescbc" | "secretbox" => {
                keys(name, &settings["keys"], &format!("{at}.{name}"), &mut entries, errors);
            }
            other => errors.push(format!(
                "{at}.{other}: is not supported (hint: use derived, aesgcm, aescbc, secretbox or identity)"
            )),
        }
    }
    entries
}

fn keys(provider: &str, list: &Value, at: &str, entries: &mut Vec<Entry>, errors: &mut Vec<String>) {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        errors.push(format!("{at}.keys: Required value: at least one key must be given"));
    }
    for (index, key) in list.iter().enumerate() {
        let at = format!("{at}.keys[{index}]");
        let name = key["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains(':') {
            errors.push(format!("{at}.name: Invalid value: {name:?}: must be set and have no colon"));
            continue;
        }
        let secret = STANDARD.decode(key["secret"].as_str().unwrap_or_default().trim());
        let Some(cipher) = secret.ok().and_then(|secret| cipher(provider, &secret)) else {
            // The secret itself is not shown.
            errors.push(format!("{at}.secret: must be base64 of 32 bytes (aesgcm: or of 16)"));
            continue;
        };
        let mut prefix = MARK.to_vec();
        prefix.extend_from_slice(format!("{provider}:v1:{name}:").as_bytes());
        if entries.iter().any(|entry| entry.prefix == prefix) {
            errors.push(format!("{at}.name: Duplicate value: {name:?}"));
            continue;
        }
        entries.push(Entry { prefix: prefix.into(), cipher });
    }
}

fn cipher(provider: &str, secret: &[u8]) -> Option<Cipher> {
    let whole = <&[u8; 32]>::try_from(secret);
    match provider {
        "derived" => whole.ok().map(Cipher::derived),
        "aesgcm" => matches!(secret.len(), 16 | 32).then(|| Cipher::gcm(secret)).flatten(),
        "aescbc" => whole.ok().map(Cipher::cbc),
        "secretbox" => whole.ok().map(Cipher::secretbox),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_is_wrong_is_said_and_no_secret_shown() {
        let config = json!({"kind": "Other", "resources": [
            {"resources": ["*", "a/b"], "providers": [
                {"kms": {"name": "x"}},
                {"aesgcm": {"keys": [{"name": "a:b", "secret": "x"}, {"name": "c", "secret": "c2hvcnQtc2VjcmV0"}]}},
                {"aesgcm": {}, "identity": {}},
            ]},
            {},
        ]});
        let error = Rules::parse(&config).unwrap_err();
        assert_eq!(error.0.len(), 9, "{error}");
        assert!(!error.to_string().contains("c2hvcnQ"));
        for part in [
            "kind",
            "resources[0].resources[1]",
            "providers[0].kms",
            "keys[1].secret",
            "resources[1].providers",
        ] {
            assert!(error.to_string().contains(part), "{part} is missing in {error}");
        }
    }
}
