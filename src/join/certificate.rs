//! The node's two certificates, both by `certificates.k8s.io`: one to speak to servers, one to serve the kubelet API.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest};
use kube::{Api, api::PostParams};
use sampan_daemon::{
    Backoff, Policy, Supervisor, clock,
    tls::{self, Issued},
};
use serde_json::json;

use super::Servers;
use crate::{identity::Certificate, instance::Instance, wait};

const CLIENT: (&str, &str, &str) =
    ("node-client", "kubernetes.io/kube-apiserver-client-kubelet", "client auth");
const SERVING: (&str, &str, &str) = ("node-serving", "kubernetes.io/kubelet-serving", "server auth");
/// How long a request may wait for its certificate before it is made anew.
const ISSUED: Duration = Duration::from_secs(300);

/// The certificate of an earlier start, when it is still good for this name.
pub(super) fn load(dir: &Path, name: &str) -> Result<Option<Arc<tls::Identity>>> {
    let Some(issued) = read(dir, CLIENT.0)? else { return Ok(None) };
    let identity = tls::Identity::new(issued)?;
    let facts = identity.facts();
    if facts.common_name != format!("system:node:{name}") {
        bail!(
            "{} is of {}, this node is {name} (hint: keep --node-name, or use another --data-dir)",
            dir.display(),
            facts.common_name
        );
    }
    Ok((clock::now() < facts.not_after).then_some(identity))
}

fn read(dir: &Path, name: &str) -> Result<Option<Issued>> {
    let path = dir.join(format!("{name}.pem"));
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    // One file, so that key and certificate always fit each other.
    let split = text.find("-----BEGIN PRIVATE KEY-----").with_context(|| {
        format!("{} is no certificate with its key (hint: delete it and join again)", path.display())
    })?;
    let (cert, key) = text.split_at(split);
    Ok(Some(Issued { cert_pem: cert.to_owned(), key_pem: key.to_owned() }))
}

fn write(dir: &Path, name: &str, issued: &Issued) -> Result<()> {
    let text = format!("{}\n{}", issued.cert_pem.trim_end(), issued.key_pem);
    Ok(tls::write_file(&dir.join(format!("{name}.pem")), text.as_bytes(), 0o600)?)
}

/// The first certificate of a node, asked for with its token.
pub(super) async fn first(
    dir: &Path,
    name: &str,
    client: &kube::Client,
    bound: Duration,
) -> Result<Arc<tls::Identity>> {
    let asking = ask(client, name, CLIENT, &[]);
    let issued = tokio::time::timeout(bound, asking).await.map_err(|_| {
        anyhow::anyhow!(
            "no certificate for node {name} after {} s (hint: are controllers running? see `kubectl get csr`)",
            bound.as_secs()
        )
    })??;
    write(dir, CLIENT.0, &issued)?;
    Ok(tls::Identity::new(issued)?)
}

/// What the kubelet API shows: the certificate of an earlier start, or, until there is one, that of the client, which no
/// server believes.
pub(super) fn serving(instance: &Instance, client: &tls::Identity) -> Result<Arc<tls::Identity>> {
    let issued = read(&instance.dir.join("tls"), SERVING.0)?;
    Ok(tls::Identity::new(issued.unwrap_or_else(|| client.issued()))?)
}

/// Makes a request and waits until it is answered.
async fn ask(
    client: &kube::Client,
    name: &str,
    (kind, signer, usage): (&str, &str, &str),
    names: &[String],
) -> Result<Issued> {
    let (request, key_pem) = tls::ask(&format!("system:node:{name}"), &["system:nodes"], names)?;
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"generateName": format!("{kind}-")},
        "spec": {
            "signerName": signer,
            "request": ByteString(request.into_bytes()),
            "usages": ["digital signature", usage],
        },
    }))?;
    let made = requests.create(&PostParams::default(), &object).await;
    let made = made.with_context(|| format!("ask for the certificate {kind}"))?;
    let name = made.metadata.name.clone().unwrap_or_default();
    let cert_pem = wait::until(&requests, &name, |request| answer(&request)).await?;
    Ok(Issued { cert_pem, key_pem })
}

fn answer(request: &CertificateSigningRequest) -> Result<Option<String>> {
    let status = request.status.clone().unwrap_or_default();
    let name = request.metadata.name.as_deref().unwrap_or_default();
    if let Some(no) =
        status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"))
    {
        bail!(
            "CertificateSigningRequest {name} was {}: {}",
            no.type_,
            no.message.as_deref().unwrap_or_default()
        );
    }
    let certificate = status.certificate.filter(|pem| !pem.0.is_empty());
    Ok(certificate.map(|pem| String::from_utf8(pem.0)).transpose()?)
}

/// Renews both certificates in time, also when the clock is set.
pub(super) struct Keeper {
    pub(super) dir: PathBuf,
    pub(super) name: String,
    pub(super) ip: Ipv4Addr,
    pub(super) client: kube::Client,
    pub(super) identity: Arc<tls::Identity>,
    pub(super) serving: Arc<tls::Identity>,
    pub(super) servers: Arc<Servers>,
    pub(super) renewing: tokio::sync::Mutex<()>,
}

impl Keeper {
    pub(super) fn start(self: &Arc<Self>, supervisor: &Supervisor) {
        let keeper = self.clone();
        let policy = Policy::Restart(Backoff::new(Duration::from_millis(500), Duration::from_secs(300)));
        supervisor.supervise("node-certificates", policy, move || {
            let keeper = keeper.clone();
            async move { keeper.keep().await }
        });
    }

    async fn keep(&self) -> Result<()> {
        let mut jumps = clock::jumps();
        loop {
            self.renew(false).await?;
            let next = self.identity.facts().renewal().min(self.serving.facts().renewal());
            tokio::select! {
                () = clock::sleep_until(next) => {}
                _ = jumps.changed() => {}
            }
        }
    }

    /// Asks for the next certificate of each kind that is due, or of both. What is open stays open. Gives their number.
    pub(super) async fn renew(&self, all: bool) -> Result<usize> {
        let _alone = self.renewing.lock().await;
        let (now, mut made) = (clock::now(), 0);
        if all || self.identity.facts().due(now) {
            let issued = self.asked(CLIENT, &[]).await?;
            write(&self.dir, CLIENT.0, &issued)?;
            self.identity.replace(issued)?;
            // What is open ends by itself; what is new shows the new certificate.
            self.servers.reconnect();
            tracing::info!("the node's client certificate was renewed");
            made += 1;
        }
        if all || self.serving_is_due(now) {
            let issued = self.asked(SERVING, &self.names()).await?;
            write(&self.dir, SERVING.0, &issued)?;
            self.serving.replace(issued)?;
            tracing::info!("the node's serving certificate was renewed");
            made += 1;
        }
        Ok(made)
    }

    /// Both, as `sampan certs list` shows them.
    pub(super) fn list(&self) -> Vec<Certificate> {
        let each = [(CLIENT.0, &self.identity), (SERVING.0, &self.serving)];
        each.into_iter().map(|(name, identity)| Certificate::of(name, &identity.facts(), true)).collect()
    }

    /// Its name and its address; the name alone beside a server, for that address is the server's.
    fn names(&self) -> Vec<String> {
        let ip = self.ip.to_string();
        let shared = self.servers.list().iter().any(|server| {
            server.rsplit_once(':').is_some_and(|(host, _)| host.trim_matches(['[', ']']) == ip)
        });
        if shared { vec![self.name.clone()] } else { vec![self.name.clone(), ip] }
    }

    /// There is none yet, it is of another address, or it is old.
    fn serving_is_due(&self, now: Timestamp) -> bool {
        let (serving, client) = (self.serving.issued().cert_pem, self.identity.issued().cert_pem);
        let names = tls::names(&serving).unwrap_or_default();
        serving == client
            || self.names().iter().any(|name| !names.contains(name))
            || self.serving.facts().due(now)
    }

    async fn asked(&self, what: (&str, &str, &str), names: &[String]) -> Result<Issued> {
        let asking = ask(&self.client, &self.name, what, names);
        tokio::time::timeout(ISSUED, asking)
            .await
            .with_context(|| format!("wait for the certificate {}", what.0))?
    }
}
