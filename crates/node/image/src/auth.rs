//! Credentials for registries, as docker's config.json and Kubernetes' pull secrets write them.

use std::fmt;

use base64::Engine as _;
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::reference::{DEFAULT_REGISTRY, Reference};

/// One way to identify oneself to a registry. Its `Debug` form never shows the secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// User name and password (or personal token).
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth refresh token (`identitytoken`), exchanged at the token service.
    IdentityToken(String),
    /// A bearer token that is sent as it is (`registrytoken`).
    RegistryToken(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Basic { username, .. } => write!(f, "Basic({username})"),
            Auth::IdentityToken(_) => f.write_str("IdentityToken"),
            Auth::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

/// A set of credentials by registry and, optionally, path prefix.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    entries: Vec<(String, Auth)>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Credentials {
    /// No credentials: anonymous access.
    pub fn none() -> Self {
        Self::default()
    }

    /// Parse `{"auths": {…}}` (config.json, `kubernetes.io/dockerconfigjson`). The error names the entry.
    pub fn from_docker_config(json: &[u8]) -> Result<Self, String> {
        let file: ConfigFile = serde_json::from_slice(json)
            .map_err(|error| format!("registry credentials are not JSON of docker's config.json: {error}"))?;
        Self::from_entries(file.auths)
    }

    /// Parse the older form without `auths` (`.dockercfg`, `kubernetes.io/dockercfg`).
    pub fn from_dockercfg(json: &[u8]) -> Result<Self, String> {
        let entries = serde_json::from_slice(json)
            .map_err(|error| format!("registry credentials are not JSON of docker's .dockercfg: {error}"))?;
        Self::from_entries(entries)
    }

    /// Add credentials for a registry, optionally with a path (`quay.io/team`).
    pub fn add(&mut self, registry: &str, auth: Auth) {
        self.entries.push((normalise(registry), auth));
    }

    /// Add all of another set, behind these.
    pub fn extend(&mut self, other: Credentials) {
        self.entries.extend(other.entries);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What to try for this image on its own registry: the longest path prefix first.
    pub fn for_image(&self, reference: &Reference) -> Vec<Auth> {
        self.matching(reference.registry(), reference.repository())
    }

    pub(crate) fn matching(&self, registry: &str, repository: &str) -> Vec<Auth> {
        let full = format!("{registry}/{repository}");
        let mut found: Vec<(usize, &Auth)> = self
            .entries
            .iter()
            .filter(|(key, _)| covers(key, &full))
            .map(|(key, auth)| (key.len(), auth))
            .collect();
        found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        found.into_iter().map(|(_, auth)| auth.clone()).collect()
    }

    fn from_entries(entries: BTreeMap<String, Entry>) -> Result<Self, String> {
        let mut credentials = Self::default();
        for (registry, entry) in entries {
            if let Some(auth) =
                decode(entry).map_err(|reason| format!("registry credentials for {registry:?}: {reason}"))?
            {
                credentials.add(&registry, auth);
            }
        }
        Ok(credentials)
    }
}

fn decode(entry: Entry) -> Result<Option<Auth>, String> {
    if !entry.registrytoken.is_empty() {
        return Ok(Some(Auth::RegistryToken(entry.registrytoken)));
    }
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Auth::IdentityToken(entry.identitytoken)));
    }
    if !entry.username.is_empty() {
        return Ok(Some(Auth::Basic { username: entry.username, password: entry.password }));
    }
    if entry.auth.is_empty() {
        return Ok(None);
    }
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let bytes = engine.decode(entry.auth.trim()).map_err(|_| "\"auth\" is not base64".to_owned())?;
    let text = String::from_utf8(bytes).map_err(|_| "\"auth\" is not text".to_owned())?;
    let (username, password) =
        text.split_once(':').ok_or_else(|| "\"auth\" is not base64 of user:password".to_owned())?;
    Ok(Some(Auth::Basic { username: username.into(), password: password.trim_end_matches('\0').into() }))
}

/// `https://index.docker.io/v1/` and friends become `docker.io`; scheme and API suffix go.
fn normalise(registry: &str) -> String {
    let rest =
        registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let rest = rest.trim_end_matches('/');
    let rest = rest.strip_suffix("/v1").or_else(|| rest.strip_suffix("/v2")).unwrap_or(rest);
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

/// Kubernetes' matching: `*` stands for one label of the host, a path is a prefix.
fn covers(key: &str, image: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    let (key_labels, labels): (Vec<_>, Vec<_>) = (key_host.split('.').collect(), host.split('.').collect());
    let hosts = key_labels.len() == labels.len()
        && key_labels.iter().zip(&labels).all(|(key, label)| glob(key, label));
    let paths = key_path.is_empty()
        || path == key_path
        || path.strip_prefix(key_path).is_some_and(|rest| rest.starts_with('/'));
    hosts && paths
}

fn glob(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((before, after)) => {
            label.len() >= before.len() + after.len() && label.starts_with(before) && label.ends_with(after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Auth {
        Auth::Basic { username: username.into(), password: password.into() }
    }

    #[test]
    fn reads_both_forms() {
        let json = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnc="},"quay.io/team":{"username":"t","password":"1"},
            "quay.io":{"identitytoken":"id"},"x.io":{}}}"#;
        let credentials = Credentials::from_docker_config(json).unwrap();
        let of = |name: &str| credentials.for_image(&Reference::parse(name).unwrap());
        assert_eq!(of("nginx"), [basic("u", "p:w")]);
        assert_eq!(of("quay.io/team/x"), [basic("t", "1"), Auth::IdentityToken("id".into())]);
        assert_eq!(of("quay.io/teams/x"), [Auth::IdentityToken("id".into())]);
        assert!(of("x.io/y").is_empty());
        let old = Credentials::from_dockercfg(br#"{"*.r.io":{"auth":"dTpw"}}"#).unwrap();
        assert_eq!(old.for_image(&Reference::parse("a.r.io/x").unwrap()), [basic("u", "p")]);
        assert!(old.for_image(&Reference::parse("a.b.r.io/x").unwrap()).is_empty());
        assert_eq!(format!("{:?}", basic("u", "secret")), "Basic(u)");
    }

    #[test]
    fn names_the_bad_entry() {
        let error = Credentials::from_docker_config(br#"{"auths":{"r.io":{"auth":"!!"}}}"#).unwrap_err();
        assert!(error.contains("r.io") && error.contains("base64"), "{error}");
        assert!(Credentials::from_docker_config(b"[").is_err());
    }
}
