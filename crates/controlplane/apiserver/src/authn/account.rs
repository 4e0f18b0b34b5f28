//! Tokens of service accounts: what they claim, and whether it still holds.

use jiff::Timestamp;
use sampan_daemon::clock;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::facts::{Facts, Proof};
use crate::{core::Core, user::UserInfo};

/// `iss` of tokens that controllers put into Secrets before bound tokens were there.
pub(super) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Seconds by which clocks may differ.
const LEEWAY: i64 = 60;

/// What a token with a good signature claims.
#[derive(Debug)]
pub(super) struct Claims {
    namespace: String,
    name: String,
    uid: String,
    bound: Bound,
    /// From, until, issued.
    times: [Option<i64>; 3],
    pub(super) audiences: Vec<String>,
    user: UserInfo,
}

/// The object that a token ends with.
#[derive(Debug)]
enum Bound {
    Nothing,
    Pod(Named),
    Secret(Named),
    Node(Named),
    /// The Secret that holds this very token.
    Legacy {
        secret: String,
        token: [u8; 32],
    },
}

#[derive(Debug)]
struct Named {
    name: String,
    uid: String,
}

impl Named {
    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        value.is_object().then(|| Self { name: text("name"), uid: text("uid") })
    }
}

impl Claims {
    /// Reads the claims of a token from `issuer`.
    pub(super) fn parse(claims: &Value, issuer: &str, token: &str) -> Result<Self, String> {
        let mut parsed =
            if issuer == LEGACY_ISSUER { Self::legacy(claims, token)? } else { Self::modern(claims) };
        parsed.times = ["nbf", "exp", "iat"].map(|name| claims[name].as_f64().map(|at| at as i64));
        parsed.audiences = match &claims["aud"] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        Ok(parsed)
    }

    fn modern(claims: &Value) -> Self {
        let private = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = text(&private["namespace"]);
        let account = &private["serviceaccount"];
        let (name, uid) = (text(&account["name"]), text(&account["uid"]));
        let mut extra: Vec<(String, Vec<String>)> = Vec::new();
        let mut add = |key: &str, value: &str| {
            extra.push((format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
        };
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            add("credential-id", &format!("JTI={id}"));
        }
        let node = Named::parse(&private["node"]);
        if let Some(node) = node.as_ref().filter(|node| !node.name.is_empty()) {
            add("node-name", &node.name);
            if !node.uid.is_empty() {
                add("node-uid", &node.uid);
            }
        }
        let bound = if let Some(secret) = Named::parse(&private["secret"]) {
            Bound::Secret(secret)
        } else if let Some(pod) = Named::parse(&private["pod"]) {
            // The node is only told: the pod is what the token hangs on.
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
            Bound::Pod(pod)
        } else {
            node.map_or(Bound::Nothing, Bound::Node)
        };
        Self::new(namespace, name, uid, bound, extra)
    }

    fn legacy(claims: &Value, token: &str) -> Result<Self, String> {
        let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
        let private = |name: &str, missing: &str| {
            let value = text(&format!("kubernetes.io/serviceaccount/{name}"));
            if value.is_empty() { Err(format!("{missing} claim is missing")) } else { Ok(value) }
        };
        let subject = text("sub");
        if subject.is_empty() {
            return Err("sub claim is missing".to_owned());
        }
        let namespace = private("namespace", "namespace")?;
        let secret = private("secret.name", "secretName")?;
        let name = private("service-account.name", "serviceAccountName")?;
        let uid = private("service-account.uid", "serviceAccountUID")?;
        if subject != format!("system:serviceaccount:{namespace}:{name}") {
            return Err("sub claim is invalid".to_owned());
        }
        let bound = Bound::Legacy { secret, token: Sha256::digest(token).into() };
        Ok(Self::new(namespace, name, uid, bound, Vec::new()))
    }

    fn new(
        namespace: String,
        name: String,
        uid: String,
        bound: Bound,
        extra: Vec<(String, Vec<String>)>,
    ) -> Self {
        let by_namespace = format!("system:serviceaccounts:{namespace}");
        let mut user = UserInfo::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &by_namespace],
        );
        user.uid = Some(uid.clone());
        user.extra = extra;
        Self { namespace, name, uid, bound, times: [None; 3], audiences: Vec::new(), user }
    }

    fn check_times(&self, now: Timestamp) -> Result<(), String> {
        let now = now.as_second();
        let [from, until, issued] = self.times;
        if from.is_some_and(|from| now + LEEWAY < from) {
            return Err("service account token is not valid yet".to_owned());
        }
        if until.is_some_and(|until| now - LEEWAY > until) {
            return Err("service account token has expired".to_owned());
        }
        if issued.is_some_and(|issued| now + LEEWAY < issued) {
            return Err("service account token is issued in the future".to_owned());
        }
        Ok(())
    }

    /// The user, when everything that the token hangs on is still as it was.
    pub(super) async fn user(&self, core: &Core, facts: &Facts) -> Result<UserInfo, String> {
        self.check_times(clock::now())?;
        let (namespace, name) = (&self.namespace, &self.name);
        if let Bound::Legacy { secret, token } = &self.bound {
            self.check_legacy(core, facts, secret, token).await?;
        }
        let found = facts.account(core, namespace, name).await.map_err(|status| status.message)?;
        let Some(account) = found else { return Err(format!("serviceaccounts {name:?} not found")) };
        if *account.uid != *self.uid {
            return Err(format!("service account UID ({}) does not match claim ({})", account.uid, self.uid));
        }
        if account.is_gone() {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        self.check_bound(core, facts).await?;
        Ok(self.user.clone())
    }

    async fn check_bound(&self, core: &Core, facts: &Facts) -> Result<(), String> {
        let namespace = &self.namespace;
        let invalid = || "service account token has been invalidated".to_owned();
        let (kind, named, uid, gone) = match &self.bound {
            Bound::Nothing | Bound::Legacy { .. } => return Ok(()),
            Bound::Pod(pod) => {
                let found = facts.pod(core, namespace, &pod.name).await.ok().flatten().ok_or_else(invalid)?;
                ("pod", pod, found.uid.clone(), found.is_gone())
            }
            Bound::Node(node) => {
                let found = facts.node(core, &node.name).await.ok().flatten().ok_or_else(invalid)?;
                ("node", node, found.uid.clone(), found.is_gone())
            }
            Bound::Secret(secret) => {
                let found = facts.secret(core, namespace, &secret.name).await;
                let found = found.ok().flatten().ok_or_else(invalid)?;
                ("secret", secret, found.stamp.uid.clone(), found.stamp.is_gone())
            }
        };
        if *uid != *named.uid {
            let said = &named.uid;
            return Err(format!(
                "{kind} UID ({uid}) does not match service account {kind} ref claim ({said})"
            ));
        }
        if gone { Err(invalid()) } else { Ok(()) }
    }

    async fn check_legacy(
        &self,
        core: &Core,
        facts: &Facts,
        secret: &str,
        token: &[u8; 32],
    ) -> Result<(), String> {
        let found = facts.secret(core, &self.namespace, secret).await.ok().flatten();
        let Some(found) = found.filter(|found| !found.stamp.is_going()) else {
            return Err("Token has been invalidated".to_owned());
        };
        match &found.proof {
            Proof::Account { token: held, invalid_since } if held == token => match invalid_since {
                None => Ok(()),
                Some(_) => Err(format!(
                    "the token in secret {}/{secret} for service account {}/{} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the 'kubernetes.io/legacy-token-invalid-since' label from the secret to temporarily allow use of this token",
                    self.namespace, self.namespace, self.name
                )),
            },
            _ => Err("Token does not match server's copy".to_owned()),
        }
    }
}
