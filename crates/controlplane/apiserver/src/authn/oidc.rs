//! Tokens of other issuers (OpenID Connect Core 1.0): `AuthenticationConfiguration` of `apiserver.config.k8s.io/v1`
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration>).

mod claims;
mod config;
mod fetch;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use sampan_daemon::clock;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{
    jose::{PublicKey, Unverified},
    user::UserInfo,
};
use claims::Mapping;

/// Between two fetches of an issuer's keys at least; doubles while they fail.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long keys are believed before they are fetched again, when a token comes.
const FRESH: Duration = Duration::from_secs(3600);
/// Keys of one issuer that are kept; more are left out.
const MOST_KEYS: usize = 64;
/// Seconds by which `nbf` may lie ahead, as go-oidc has it.
const NOT_BEFORE_LEEWAY: f64 = 300.0;

/// Who is believed besides this server itself.
#[derive(Debug, Default)]
pub struct Authentication {
    pub(super) issuers: Vec<Issuer>,
    pub(super) anonymous: Anonymous,
}

/// Whether requests without credentials are let in, as `system:anonymous`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) enum Anonymous {
    #[default]
    Everywhere,
    Nowhere,
    /// On these paths only.
    At(Vec<String>),
}

impl Anonymous {
    pub(super) fn allows(&self, path: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Nowhere => false,
            Self::At(paths) => paths.iter().any(|one| one == path),
        }
    }
}

/// One issuer.
#[derive(Debug)]
pub(super) struct Issuer {
    url: String,
    discovery: String,
    tls: Arc<rustls::ClientConfig>,
    audiences: Vec<String>,
    mapping: Mapping,
    keys: RwLock<Arc<Keys>>,
    refresh: Mutex<Refresh>,
}

#[derive(Debug, Default)]
struct Keys {
    list: Vec<(Option<String>, PublicKey)>,
    fetched: Option<Instant>,
}

#[derive(Debug)]
struct Refresh {
    not_before: Option<Instant>,
    pause: Duration,
}

impl Default for Refresh {
    fn default() -> Self {
        Self { not_before: None, pause: PAUSE }
    }
}

impl Issuer {
    pub(super) fn is(&self, url: &str) -> bool {
        self.url == url
    }

    /// The user of a token, and until when (in seconds since 1970) it is one.
    pub(super) async fn user(&self, token: &Unverified<'_>) -> Result<(UserInfo, i64), String> {
        self.check_signature(token).await.map_err(|why| format!("oidc: verify token: {why}"))?;
        let claims = &token.claims;
        let until = self.check_claims(claims).map_err(|why| format!("oidc: verify token: {why}"))?;
        Ok((self.mapping.user(claims)?, until))
    }

    async fn check_signature(&self, token: &Unverified<'_>) -> Result<(), String> {
        let before = self.keys();
        let stale = before.fetched.is_none_or(|at| at.elapsed() > FRESH);
        if !stale && verifies(&before, token) {
            return Ok(());
        }
        // A key that is not known may be new. Who comes while it is fetched waits for that.
        let outcome = self.fetch(&before).await;
        if verifies(&self.keys(), token) {
            return Ok(());
        }
        Err(match outcome {
            Err(why) => format!("fetching keys {why}"),
            Ok(()) => "failed to verify signature: failed to verify id token signature".to_owned(),
        })
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the keys, unless somebody else just did or it was tried a moment ago.
    async fn fetch(&self, before: &Arc<Keys>) -> Result<(), String> {
        let mut refresh = self.refresh.lock().await;
        if !Arc::ptr_eq(before, &self.keys()) {
            return Ok(());
        }
        if refresh.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let fetched = fetch::keys(&self.tls, &self.discovery, &self.url).await;
        refresh.not_before = Some(Instant::now() + refresh.pause);
        match fetched {
            Ok(mut list) => {
                list.truncate(MOST_KEYS);
                refresh.pause = PAUSE;
                let keys = Keys { list, fetched: Some(Instant::now()) };
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                Ok(())
            }
            Err(why) => {
                refresh.pause = (refresh.pause * 2).min(LONGEST_PAUSE);
                tracing::warn!(issuer = self.url, "keys cannot be fetched, will try again: {why}");
                Err(why)
            }
        }
    }

    fn check_claims(&self, claims: &Value) -> Result<i64, String> {
        let own: Vec<&str> = match &claims["aud"] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            Value::String(one) => vec![one.as_str()],
            _ => Vec::new(),
        };
        if !self.audiences.iter().any(|audience| own.contains(&audience.as_str())) {
            return Err(format!("oidc: expected audience in {:?} got {own:?}", self.audiences));
        }
        let now = clock::now().as_second() as f64;
        let until = claims["exp"].as_f64().unwrap_or(0.0);
        if until <= now {
            return Err("oidc: token is expired".to_owned());
        }
        if claims["nbf"].as_f64().is_some_and(|from| from > now + NOT_BEFORE_LEEWAY) {
            return Err("oidc: current time before the nbf (not before) time".to_owned());
        }
        Ok(until as i64)
    }
}

fn verifies(keys: &Keys, token: &Unverified<'_>) -> bool {
    keys.list.iter().any(|(kid, key)| {
        let named = token.kid.is_none() || kid.is_none() || token.kid == *kid;
        named && key.verify(token.algorithm, token.signed.as_bytes(), &token.signature)
    })
}
