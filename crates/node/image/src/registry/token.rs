//! Bearer tokens: what a token service is asked, and its answer.

use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde::Deserialize;

use base64::Engine as _;
use bytes::Bytes;

use crate::auth::Auth;

/// Name that token services know clients by.
const CLIENT_ID: &str = "sampan";

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// Build the request for a token.
pub(crate) fn request(
    realm: &str,
    service: Option<&str>,
    scope: &str,
    auth: Option<&Auth>,
) -> Result<Request<Full<Bytes>>, String> {
    let bad = |error: &dyn std::fmt::Display| {
        format!("the token service's address {realm:?} is not usable: {error}")
    };
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    pairs.extend(service.map(|service| ("service", service)));
    pairs.push(("scope", scope));
    if let Some(Auth::IdentityToken(token)) = auth {
        pairs.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", token)]);
        return Request::builder()
            .method(Method::POST)
            .uri(realm)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form(&pairs)))
            .map_err(|error| bad(&error));
    }
    if let Some(Auth::Basic { username, .. }) = auth {
        pairs.push(("account", username));
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    let uri: Uri = format!("{realm}{separator}{}", form(&pairs)).parse().map_err(|error| bad(&error))?;
    let mut builder = Request::builder().method(Method::GET).uri(uri);
    if let Some(value) = auth.and_then(basic) {
        builder = builder.header(header::AUTHORIZATION, value);
    }
    builder.body(Full::default()).map_err(|error| bad(&error))
}

/// The token in the answer, as a header.
pub(crate) fn header_of(body: &[u8]) -> Result<HeaderValue, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| format!("the token service's answer is malformed: {error}"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err("the token service gave no token".into());
    }
    bearer(&token).ok_or_else(|| "the token service's token holds odd characters".into())
}

/// `Bearer …`, marked as secret.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

/// `Basic …` for credentials that have a password.
pub(crate) fn basic(auth: &Auth) -> Option<HeaderValue> {
    let Auth::Basic { username, password } = auth else { return None };
    sensitive(format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"))
    ))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(key);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte))
                }
                other => out.push_str(&format!("%{other:02X}")),
            }
        }
    }
    out
}
