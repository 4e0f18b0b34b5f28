//! Who is asking: client certificates, service account tokens, static tokens.

use http::{HeaderMap, header};
use sampan_api::status::Status;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{core::Core, user::UserInfo};

/// The user of a verified client certificate: CN is the name, O are the groups.
pub(crate) fn certificate_user(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    Some(UserInfo::new(name, &groups))
}

/// The bearer token of a request. WebSocket clients of browsers send it as a subprotocol.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// A token that was accepted.
pub(crate) struct Accepted {
    pub(crate) user: UserInfo,
    /// The audiences that both sides know.
    pub(crate) audiences: Vec<String>,
}

impl Core {
    /// The user of a request, anonymous for one that brings nothing, or 401 for one that brings what does not hold.
    pub(crate) async fn authenticate(
        &self,
        certificate: Option<&UserInfo>,
        headers: &HeaderMap,
    ) -> Result<UserInfo, Status> {
        if let Some(user) = certificate {
            return Ok(user.clone());
        }
        let Some(token) = bearer(headers) else { return Ok(UserInfo::anonymous()) };
        match self.token_user(token, &self.options.audiences).await {
            Ok(accepted) => Ok(accepted.user),
            Err(_) => Err(Status::unauthorized("")),
        }
    }

    /// The user of a token that is meant for one of the audiences; the error says why not.
    pub(crate) async fn token_user(&self, token: &str, audiences: &[String]) -> Result<Accepted, String> {
        if let Some(user) = self.static_user(token) {
            return Ok(Accepted { user, audiences: audiences.to_vec() });
        }
        let claims = self.options.signing_key.verify(token).map_err(|e| e.to_string())?;
        if claims["iss"] != self.options.issuer.as_str() {
            return Err("token was issued by another cluster".to_owned());
        }
        let now = sampan_daemon::clock::now().as_second();
        if claims["exp"].as_i64().is_none_or(|exp| exp <= now) {
            return Err("token has expired".to_owned());
        }
        if claims["nbf"].as_i64().is_some_and(|nbf| nbf > now + 30) {
            return Err("token is not valid yet".to_owned());
        }
        let own: Vec<&str> = match &claims["aud"] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            Value::String(one) => vec![one.as_str()],
            _ => Vec::new(),
        };
        let common: Vec<String> = audiences.iter().filter(|a| own.contains(&a.as_str())).cloned().collect();
        if common.is_empty() {
            return Err(format!("token audiences {own:?} is invalid for the target audiences {audiences:?}"));
        }
        let user = self.service_account(&claims["kubernetes.io"]).await?;
        Ok(Accepted { user, audiences: common })
    }

    fn static_user(&self, token: &str) -> Option<UserInfo> {
        // Compares every byte of every token, so that the time taken tells nothing.
        let mut found = None;
        for (known, user) in &self.options.static_tokens {
            let differs = known.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
            if known.len() == token.len() && differs == 0 && !known.is_empty() {
                found = Some(user.clone());
            }
        }
        found
    }

    /// Checks that the account, and the object that the token is bound to, still exist as they were.
    async fn service_account(&self, claims: &Value) -> Result<UserInfo, String> {
        let text = |pointer: &str| claims.pointer(pointer).and_then(Value::as_str);
        let (Some(namespace), Some(name), Some(uid)) =
            (text("/namespace"), text("/serviceaccount/name"), text("/serviceaccount/uid"))
        else {
            return Err("token names no service account".to_owned());
        };
        self.still_there("serviceaccounts", Some(namespace), name, uid, "service account").await?;
        let mut extra = Vec::new();
        for (claim, plural) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
            let (Some(bound), Some(uid)) = (text(&format!("/{claim}/name")), text(&format!("/{claim}/uid")))
            else {
                continue;
            };
            let scope = (claim != "node").then_some(namespace);
            // The node is only told; the token is not bound to it when it is bound to a pod.
            if claim != "node" {
                self.still_there(plural, scope, bound, uid, claim).await?;
            }
            extra.push((format!("authentication.kubernetes.io/{claim}-name"), vec![bound.to_owned()]));
            extra.push((format!("authentication.kubernetes.io/{claim}-uid"), vec![uid.to_owned()]));
        }
        let by_namespace = format!("system:serviceaccounts:{namespace}");
        let mut user = UserInfo::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &by_namespace],
        );
        user.uid = Some(uid.to_owned());
        user.extra = extra;
        Ok(user)
    }

    async fn still_there(
        &self,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
        uid: &str,
        what: &str,
    ) -> Result<(), String> {
        let object =
            self.look_up("", "v1", plural, namespace, name).await.map_err(|status| status.message)?;
        let same = object
            .and_then(|object| object.pointer("/metadata/uid").map(|found| found == uid))
            .unwrap_or_default();
        if same { Ok(()) } else { Err(format!("{what} {name} of the token is gone")) }
    }
}
