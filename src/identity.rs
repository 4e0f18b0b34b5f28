//! Who is who: the install CA, the identities it issues and renews, and the administrator's kubeconfig.

use std::{fs, net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use jiff::Timestamp;
use sampan_apiserver::SigningKey;
use sampan_daemon::{
    Backoff, Policy, Supervisor, clock,
    tls::{self, Ca, Profile, Usage},
};

use crate::instance::Instance;

/// Days that a leaf certificate is valid; each `up` issues new ones, and so does [`keep`] when two thirds are over.
const LEAF_DAYS: u32 = 365;

/// Everything that proves who speaks.
pub(crate) struct Identity {
    /// The CA.
    pub(crate) ca: Arc<Ca>,
    /// The API server's identity.
    pub(crate) api: Arc<tls::Identity>,
    /// How the API server shows itself to nodes.
    pub(crate) api_to_node: Arc<tls::Identity>,
    /// The node's serving identity.
    pub(crate) node: Arc<tls::Identity>,
    /// The administrator.
    pub(crate) admin: Arc<tls::Identity>,
    /// Signs service account tokens.
    pub(crate) signing_key: Arc<SigningKey>,
    /// All certificates, by name, with what is put into them.
    leaves: Vec<(&'static str, Arc<tls::Identity>, Profile)>,
}

/// A certificate, as `sampan certs` shows it.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) serial: String,
    pub(crate) not_before: String,
    pub(crate) not_after: String,
    /// When the next one is made; the CA has none.
    pub(crate) renewal: Option<String>,
}

impl Certificate {
    pub(crate) fn of(name: &str, facts: &tls::Facts, renewed: bool) -> Self {
        Self {
            name: name.to_owned(),
            subject: facts.common_name.clone(),
            serial: facts.serial.clone(),
            not_before: clock::rfc3339(facts.not_before),
            not_after: clock::rfc3339(facts.not_after),
            renewal: renewed.then(|| clock::rfc3339(facts.renewal())),
        }
    }
}

/// The CA and the signing key: loaded, or made where there are none.
pub(crate) fn roots(instance: &Instance) -> Result<(Ca, SigningKey)> {
    let dir = instance.dir.join("tls");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let ca = Ca::load_or_create(&dir, &format!("sampan-{}", instance.facts.id))?;
    Ok((ca, signing_key(&dir.join("sa.key"))?))
}

/// Load or make the CA and the signing key; issue the rest anew.
pub(crate) fn prepare(
    instance: &Instance,
    addresses: &[IpAddr],
    names: &[String],
    node_ip: IpAddr,
) -> Result<Identity> {
    let (ca, signing_key) = roots(instance)?;
    let ca = Arc::new(ca);
    let node = &instance.facts.node_name;
    let api_names =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", node.as_str()];
    let mut api_names: Vec<String> = api_names.iter().map(|&name| name.to_owned()).collect();
    api_names.push("kubernetes.default.svc.cluster.local".to_owned());
    api_names.extend_from_slice(names);
    let mut leaves = Vec::new();
    let mut leaf = |name: &'static str, profile: Profile| -> Result<Arc<tls::Identity>> {
        let identity = tls::Identity::new(ca.issue(&profile)?)?;
        leaves.push((name, identity.clone(), profile));
        Ok(identity)
    };
    let masters = &["system:masters"];
    let to_node = profile("kube-apiserver-kubelet-client", masters, Usage::Client, vec![], &[]);
    let node_names = vec![node.clone(), "localhost".to_owned()];
    let of_node = format!("system:node:{node}");
    Ok(Identity {
        api: leaf("apiserver", profile("kube-apiserver", &[], Usage::Server, api_names, addresses))?,
        api_to_node: leaf("apiserver-kubelet-client", to_node)?,
        node: leaf("node", profile(&of_node, &["system:nodes"], Usage::Both, node_names, &[node_ip]))?,
        admin: leaf("admin", profile("kubernetes-admin", masters, Usage::Client, vec![], &[]))?,
        signing_key: Arc::new(signing_key),
        leaves,
        ca,
    })
}

impl Identity {
    /// All certificates.
    pub(crate) fn list(&self) -> Vec<Certificate> {
        let leaves = self.leaves.iter().map(|(name, leaf, _)| Certificate::of(name, &leaf.facts(), true));
        std::iter::once(Certificate::of("ca", self.ca.facts(), false)).chain(leaves).collect()
    }

    /// Make the next certificate of each that is due, or of all. What is open stays open. Gives their number.
    pub(crate) fn renew(&self, all: bool) -> Result<usize> {
        let now = clock::now();
        let mut made = 0;
        for (name, leaf, profile) in &self.leaves {
            if all || leaf.facts().due(now) {
                leaf.replace(self.ca.issue(profile)?).with_context(|| format!("certificate {name}"))?;
                made += 1;
            }
        }
        Ok(made)
    }

    /// When the next one is due.
    fn next(&self) -> Timestamp {
        self.leaves.iter().map(|(_, leaf, _)| leaf.facts().renewal()).min().unwrap_or(Timestamp::MAX)
    }
}

/// Start the task that renews certificates in time, also when the clock is set; the kubeconfig follows.
pub(crate) fn keep(identity: &Arc<Identity>, instance: &Instance, server: &str, supervisor: &Supervisor) {
    clock::follow(supervisor);
    let (identity, instance, server) = (identity.clone(), instance.clone(), server.to_owned());
    let policy = Policy::Restart(Backoff::new(Duration::from_secs(5), Duration::from_secs(600)));
    supervisor.supervise("certificates", policy, move || {
        let (identity, instance, server) = (identity.clone(), instance.clone(), server.clone());
        async move { renew_in_time(&identity, &instance, &server).await }
    });
}

async fn renew_in_time(identity: &Identity, instance: &Instance, server: &str) -> Result<()> {
    let mut jumps = clock::jumps();
    loop {
        if identity.renew(false)? > 0 {
            write_kubeconfig(instance, identity, server)?;
        }
        tokio::select! {
            () = clock::sleep_until(identity.next()) => {}
            // Set back, the certificates may lie in the future.
            _ = jumps.changed() => {}
        }
    }
}

fn profile(name: &str, groups: &[&str], usage: Usage, dns: Vec<String>, ips: &[IpAddr]) -> Profile {
    Profile {
        common_name: name.to_owned(),
        organizations: groups.iter().map(|&group| group.to_owned()).collect(),
        dns,
        ips: ips.to_vec(),
        usage,
        days: LEAF_DAYS,
    }
}

fn signing_key(path: &Path) -> Result<SigningKey> {
    if !path.exists() {
        tls::write_file(path, SigningKey::generate_pem()?.as_bytes(), 0o600)?;
    }
    let pem = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    SigningKey::from_pem(&pem).with_context(|| format!("{} (hint: restore it from a backup)", path.display()))
}

/// Write the administrator's kubeconfig, and a file of the CA certificate beside it.
pub(crate) fn write_kubeconfig(instance: &Instance, identity: &Identity, server: &str) -> Result<()> {
    let encode = |pem: &str| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        STANDARD.encode(pem)
    };
    let admin = identity.admin.issued();
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "sampan",
        "clusters": [{"name": "sampan", "cluster": {
            "server": server,
            "certificate-authority-data": encode(identity.ca.cert_pem()),
        }}],
        "users": [{"name": "sampan-admin", "user": {
            "client-certificate-data": encode(&admin.cert_pem),
            "client-key-data": encode(&admin.key_pem),
        }}],
        "contexts": [{"name": "sampan", "context": {"cluster": "sampan", "user": "sampan-admin"}}],
    });
    let text = serde_yaml_ng::to_string(&config)?;
    Ok(tls::write_file(&instance.kubeconfig(), text.as_bytes(), 0o600)?)
}

/// What who wants to join is told: the address and the CA, and no user.
pub(crate) fn cluster_info(identity: &Identity, server: &str) -> Result<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(identity.ca.cert_pem()),
        }}],
    });
    Ok(serde_yaml_ng::to_string(&config)?)
}
