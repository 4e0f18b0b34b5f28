//! Whom to believe before anything is known: `kube-public/cluster-info`, checked by the pin and by the token
//! (<https://kubernetes.io/docs/reference/setup-tools/kubeadm/kubeadm-join/>, token-based discovery with CA pinning).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use ring::hmac;
use sampan_daemon::{Backoff, Supervisor, tls};
use serde_json::Value;

use super::Servers;

/// How long a token that was made a moment ago may not be signed with yet.
const SIGNED: Duration = Duration::from_secs(10);

/// The cluster's CA certificate.
pub(super) async fn ca(
    servers: &[String],
    token: &str,
    pins: &[String],
    unpinned: bool,
    bound: Duration,
) -> Result<String> {
    if pins.is_empty() && !unpinned {
        bail!(
            "nothing says that the server is the right one (hint: --ca-hash sha256:…, which `sampan token create \
             --print-join-command` prints; --unsafe-skip-ca-verification believes whoever knows the token)"
        );
    }
    if let Some(bad) = pins.iter().find(|pin| pin.strip_prefix("sha256:").is_none_or(|hash| hash.len() != 64))
    {
        bail!("--ca-hash {bad}: not a hash (hint: sha256: and 64 hexadecimal digits)");
    }
    let supervisor = Supervisor::new();
    let way = Servers::new(servers.to_vec(), tls::unverified_client_config(None)?, None, &supervisor);
    let maps: Api<ConfigMap> = Api::namespaced(way.client(), "kube-public");
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
    let begun = tokio::time::Instant::now();
    let outcome = loop {
        let tried = match maps.get("cluster-info").await {
            Ok(info) => check(&info, token, pins),
            Err(error) => {
                let left = if is(&error, 401) { Duration::ZERO } else { bound };
                let asked = format!("ask {} for the cluster's CA", servers.join(", "));
                Err((anyhow::Error::new(error).context(asked), left))
            }
        };
        match tried {
            Err((error, bound)) if begun.elapsed() < bound => {
                tracing::debug!("{error:#}");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            other => break other.map_err(|(error, _)| error),
        }
    };
    supervisor.cancel();
    outcome
}

/// The API's answer was this.
pub(super) fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Gives the CA, or why not and how long it may be that another try helps.
fn check(info: &ConfigMap, token: &str, pins: &[String]) -> Result<String, (anyhow::Error, Duration)> {
    let never = |error| (error, Duration::ZERO);
    let (id, secret) = token.split_once('.').context("a token has the form ID.SECRET").map_err(never)?;
    let data = info.data.clone().unwrap_or_default();
    let kubeconfig = data.get("kubeconfig").context("cluster-info says nothing").map_err(never)?;
    let ca = ca_of(kubeconfig).map_err(never)?;
    // Before the token is looked at: somebody in between would know none.
    if !pins.is_empty() {
        let pin = tls::pin(&ca).map_err(|error| never(error.into()))?;
        if !pins.iter().any(|known| known.eq_ignore_ascii_case(&pin)) {
            return Err(never(anyhow::anyhow!(
                "the server's CA ({pin}) is not the one of --ca-hash: another cluster, or somebody in between (hint: \
                 compare with `sampan token create --print-join-command` on a server)"
            )));
        }
    }
    let Some(signature) = data.get(&format!("jws-kubeconfig-{id}")) else {
        let unknown = anyhow::anyhow!(
            "the cluster knows no token {id} (hint: it may be over; `sampan token create --print-join-command`)"
        );
        return Err((unknown, SIGNED));
    };
    if !signed(kubeconfig, signature, secret) {
        return Err(never(anyhow::anyhow!(
            "what the server says is not signed with this token (hint: is the token whole, and of this cluster?)"
        )));
    }
    Ok(ca)
}

fn ca_of(kubeconfig: &str) -> Result<String> {
    let config: Value = serde_yaml_ng::from_str(kubeconfig).context("cluster-info is no kubeconfig")?;
    let data = config.pointer("/clusters/0/cluster/certificate-authority-data").and_then(Value::as_str);
    let pem = STANDARD.decode(data.context("cluster-info names no CA")?).context("the CA in cluster-info")?;
    Ok(String::from_utf8(pem)?)
}

/// A JSON web signature (HS256) without what it signs.
fn signed(content: &str, signature: &str, secret: &str) -> bool {
    let Some((header, tag)) = signature.split_once("..") else { return false };
    let algorithm =
        URL_SAFE_NO_PAD.decode(header).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    if algorithm.is_none_or(|header| header["alg"] != "HS256") {
        return false;
    }
    let Ok(tag) = URL_SAFE_NO_PAD.decode(tag) else { return false };
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes(), &tag).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by go-jose in upstream's own test of the same content and token.
    const MADE: &str =
        "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
    const TEXT: &str = "Hello from the other side. I must have called a thousand times.";

    #[test]
    fn what_no_waiting_mends_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let ca = tls::Ca::load_or_create(dir.path(), "ca").unwrap();
        let pin = tls::pin(ca.cert_pem()).unwrap();
        let info = |pem: &str, signatures: &[(&str, &str)]| {
            let config = serde_json::json!({"clusters": [{"cluster": {"certificate-authority-data": STANDARD.encode(pem)}}]});
            let config = config.to_string();
            let mut data = std::collections::BTreeMap::from([("kubeconfig".to_owned(), config.clone())]);
            for (id, secret) in signatures {
                let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
                let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(&config));
                let tag =
                    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
                data.insert(
                    format!("jws-kubeconfig-{id}"),
                    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag)),
                );
            }
            ConfigMap { data: Some(data), ..ConfigMap::default() }
        };
        let good = info(ca.cert_pem(), &[("id", "secret")]);
        assert_eq!(check(&good, "id.secret", std::slice::from_ref(&pin)).unwrap(), ca.cert_pem());
        let left =
            |info: &ConfigMap, token: &str, pin: &str| check(info, token, &[pin.to_owned()]).unwrap_err().1;
        assert_eq!(left(&good, "other.secret", &pin), SIGNED, "it may be signed with in a moment");
        assert_eq!(left(&good, "id.another", &pin), Duration::ZERO);
        assert_eq!(left(&good, "id.secret", "sha256:0"), Duration::ZERO);
        assert_eq!(left(&good, "none", &pin), Duration::ZERO);
        // The CA that was told first, and another behind it.
        let other = tempfile::tempdir().unwrap();
        let other = tls::Ca::load_or_create(other.path(), "other").unwrap();
        let both = info(&format!("{}{}", ca.cert_pem(), other.cert_pem()), &[("id", "secret")]);
        assert_eq!(left(&both, "id.secret", &pin), Duration::ZERO);
        assert!(check(&both, "id.secret", &[]).is_ok(), "who believes everybody gets it as it is");
    }

    #[test]
    fn a_signature_of_others_is_believed_only_with_the_token() {
        assert!(signed(TEXT, MADE, "my voice is my passcode"));
        assert!(!signed(TEXT, MADE, "my voice is your passcode"));
        assert!(!signed("Hello", MADE, "my voice is my passcode"));
        for bad in ["", "..", "a..b", "eyJhbGciOiJub25lIn0.."] {
            assert!(!signed(TEXT, bad, "my voice is my passcode"), "{bad}");
        }
    }
}
