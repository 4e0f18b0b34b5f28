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
            Ok(info) => check(&info, token, pins).await,
            Err(error) => {
                Err(error).with_context(|| format!("ask {} for the cluster's CA", servers.join(", ")))
            }
        };
        match tried {
            // A server that comes up, or a token that was made a moment ago and is not signed with yet.
            Err(error) if begun.elapsed() < bound && !error.to_string().contains("is not the one") => {
                tracing::debug!("{error:#}");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            other => break other,
        }
    };
    supervisor.cancel();
    outcome
}

async fn check(info: &ConfigMap, token: &str, pins: &[String]) -> Result<String> {
    let (id, secret) = token.split_once('.').context("a token has the form ID.SECRET")?;
    let data = info.data.clone().unwrap_or_default();
    let kubeconfig = data.get("kubeconfig").context("cluster-info says nothing")?;
    let signature = data.get(&format!("jws-kubeconfig-{id}")).with_context(|| {
        format!("the cluster knows no token {id} (hint: it may be over; `sampan token create --print-join-command`)")
    })?;
    let ca = ca_of(kubeconfig)?;
    if !pins.is_empty() {
        let pin = tls::pin(&ca)?;
        if !pins.iter().any(|known| known.eq_ignore_ascii_case(&pin)) {
            bail!(
                "the server's CA ({pin}) is not the one of --ca-hash: another cluster, or somebody in between (hint: \
                 compare with `sampan token create --print-join-command` on a server)"
            );
        }
    }
    if !signed(kubeconfig, signature, secret) {
        bail!(
            "what the server says is not signed with this token (hint: is the token whole, and of this cluster?)"
        );
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
    fn a_signature_of_others_is_believed_only_with_the_token() {
        assert!(signed(TEXT, MADE, "my voice is my passcode"));
        assert!(!signed(TEXT, MADE, "my voice is your passcode"));
        assert!(!signed("Hello", MADE, "my voice is my passcode"));
        for bad in ["", "..", "a..b", "eyJhbGciOiJub25lIn0.."] {
            assert!(!signed(TEXT, bad, "my voice is my passcode"), "{bad}");
        }
    }
}
