//! Who is asking: client certificates, service account tokens, tokens to join with, static tokens.
//!
//! A certificate is verified when the connection opens, and its expiry is checked for each request: a connection does
//! not outlive the certificate that it was opened with (upstream looks at the handshake only). The signature of a
//! token is verified once and then remembered for a while; whether the account, and the object that the token is
//! bound to, are still there is asked for each request.

mod account;
mod bootstrap;
mod cache;
mod facts;
mod oidc;
pub(crate) mod review;

use std::sync::{Arc, OnceLock};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use sampan_api::status::Status;
use sampan_daemon::{clock, tls};

use crate::{core::Core, jose::Unverified, user::UserInfo};
use account::{Claims, LEGACY_ISSUER};
pub use oidc::Authentication;

/// What browsers put before a token among the subprotocols of a WebSocket.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// What a token is told that nobody knows.
const UNKNOWN: &str = "invalid bearer token";

/// The user of a client certificate that was verified when the connection opened.
pub(crate) struct Certificate {
    pub(crate) user: UserInfo,
    /// It holds no longer than this.
    until: Timestamp,
}

impl Certificate {
    /// CN is the name, O are the groups; nothing when there is no name.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let facts = tls::Facts::of_der(der).filter(|facts| !facts.common_name.is_empty())?;
        let groups: Vec<&str> = facts.organizations.iter().map(String::as_str).collect();
        Some(Self { user: UserInfo::new(facts.common_name, &groups), until: facts.not_after })
    }
}

/// A token that was accepted.
pub(crate) struct Accepted {
    pub(crate) user: UserInfo,
    /// The audiences that both sides know.
    pub(crate) audiences: Vec<String>,
}

/// What authentication keeps at hand.
#[derive(Default)]
pub(crate) struct State {
    facts: facts::Facts,
    /// With the generation of the keys that verified it.
    verified: cache::Cache<(u64, Verified)>,
    /// Who else is believed.
    others: OnceLock<Authentication>,
}

/// A token whose signature was good.
enum Verified {
    /// One of ours: it holds as long as what it hangs on is there.
    Own(Claims),
    /// Another issuer's: it holds until then, in seconds since 1970.
    Foreign(UserInfo, i64),
}

impl State {
    /// Says who else is believed; once, before anybody asks.
    pub(crate) fn believe(&self, others: Authentication) {
        let _ = self.others.set(others);
    }

    fn issuer(&self, url: &str) -> Option<&oidc::Issuer> {
        self.others.get()?.issuers.iter().find(|issuer| issuer.is(url))
    }

    fn lets_in_anonymous(&self, path: &str) -> bool {
        self.others.get().is_none_or(|others| others.anonymous.allows(path))
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The token that a browser sends as a subprotocol, for it can set no header; and the subprotocols without it.
fn protocol_bearer(headers: &HeaderMap) -> Option<(String, String)> {
    let asked = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let parts = asked.split(',').map(str::trim);
    let (ours, rest): (Vec<&str>, Vec<&str>) = parts.partition(|part| part.starts_with(PROTOCOL));
    let [one] = ours[..] else { return None };
    let token = URL_SAFE_NO_PAD.decode(one.strip_prefix(PROTOCOL)?).ok()?;
    // Without another one, the client could not be told which was chosen.
    (!rest.is_empty()).then_some((String::from_utf8(token).ok()?, rest.join(", ")))
}

/// Compares every byte, so that the time taken tells nothing.
fn same_bytes(one: &[u8], two: &[u8]) -> bool {
    one.len() == two.len() && one.iter().zip(two).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

impl Core {
    /// The user of a request, anonymous for one that brings nothing, or 401 for one that brings what does not hold. The
    /// credentials are taken out of the headers, so that they go nowhere else.
    pub(crate) async fn authenticate(
        &self,
        certificate: Option<&Certificate>,
        headers: &mut HeaderMap,
        path: &str,
    ) -> Result<UserInfo, Status> {
        if let Some(certificate) = certificate {
            if clock::now() > certificate.until {
                return Err(Status::unauthorized(""));
            }
            return Ok(certificate.user.clone());
        }
        let token = match protocol_bearer(headers) {
            Some((token, rest)) => {
                if let Ok(rest) = HeaderValue::from_str(&rest) {
                    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
                }
                Some(token)
            }
            None => bearer(headers).map(str::to_owned),
        };
        let Some(token) = token else {
            if self.authn.lets_in_anonymous(path) {
                return Ok(UserInfo::anonymous());
            }
            return Err(Status::unauthorized(""));
        };
        headers.remove(header::AUTHORIZATION);
        match self.token_user(&token, &self.options.audiences).await {
            Ok(accepted) => Ok(accepted.user),
            Err(_) => Err(Status::unauthorized("")),
        }
    }

    /// The user of a token that is meant for one of the audiences; the error says why not.
    pub(crate) async fn token_user(&self, token: &str, audiences: &[String]) -> Result<Accepted, String> {
        if let Some(user) = self.plain_user(token).await {
            return self.for_us(user, audiences);
        }
        let generation = self.options.signing_key.generation();
        let known = self.authn.verified.get(token).filter(|known| known.0 == generation);
        let verified = match known {
            Some(known) => known,
            None => {
                let verified = Arc::new((generation, self.verify(token).await?));
                self.authn.verified.put(token, verified.clone());
                verified
            }
        };
        let claims = match &verified.1 {
            Verified::Own(claims) => claims,
            Verified::Foreign(user, until) => {
                if clock::now().as_second() >= *until {
                    return Err("oidc: verify token: oidc: token is expired".to_owned());
                }
                return self.for_us(user.clone(), audiences);
            }
        };
        // Tokens of old say no audience: they are for this server.
        let own = if claims.audiences.is_empty() { &self.options.audiences } else { &claims.audiences };
        let common = common(own, audiences);
        if common.is_empty() {
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(own),
                quoted(audiences)
            ));
        }
        let user = claims.user(self, &self.authn.facts).await?;
        Ok(Accepted { user, audiences: common })
    }

    /// A user of a token that is for this server, whoever asks.
    fn for_us(&self, user: UserInfo, audiences: &[String]) -> Result<Accepted, String> {
        let audiences = common(&self.options.audiences, audiences);
        if audiences.is_empty() { Err(UNKNOWN.to_owned()) } else { Ok(Accepted { user, audiences }) }
    }

    /// The user of a token that is no signed one.
    async fn plain_user(&self, token: &str) -> Option<UserInfo> {
        if let Some(user) = self.static_user(token) {
            return Some(user);
        }
        let (id, secret) = bootstrap::split(token)?;
        bootstrap::user(self, &self.authn.facts, id, secret).await
    }

    /// Checks the signature of a token, and all of it that cannot change.
    async fn verify(&self, token: &str) -> Result<Verified, String> {
        let parsed = Unverified::parse(token).ok_or_else(|| UNKNOWN.to_owned())?;
        let issuer = parsed.claims["iss"].as_str().unwrap_or_default();
        if issuer == self.options.issuer || issuer == LEGACY_ISSUER {
            self.options.signing_key.verify(&parsed)?;
            return Claims::parse(&parsed.claims, issuer, token).map(Verified::Own);
        }
        let other = self.authn.issuer(issuer).ok_or_else(|| UNKNOWN.to_owned())?;
        let (user, until) = other.user(&parsed).await?;
        Ok(Verified::Foreign(user, until))
    }

    fn static_user(&self, token: &str) -> Option<UserInfo> {
        let mut found = None;
        for (known, user) in &self.options.static_tokens {
            if same_bytes(known.as_bytes(), token.as_bytes()) && !known.is_empty() {
                found = Some(user.clone());
            }
        }
        found
    }
}

fn common(own: &[String], asked: &[String]) -> Vec<String> {
    own.iter().filter(|audience| asked.contains(audience)).cloned().collect()
}

/// A list as Go's `%q` writes it.
fn quoted(list: &[String]) -> String {
    let list: Vec<String> = list.iter().map(|text| sampan_api::status::go_quote(text)).collect();
    format!("[{}]", list.join(" "))
}
