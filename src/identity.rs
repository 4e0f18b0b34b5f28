//! Who is who: the install CA, the identities it issues, and the administrator's kubeconfig.

use std::{fs, net::IpAddr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use sampan_apiserver::SigningKey;
use sampan_daemon::tls::{self, Ca, Issued, Profile, Usage};

use crate::instance::Instance;

/// Days that a leaf certificate is valid; each `up` issues new ones.
const LEAF_DAYS: u32 = 365;

/// Everything that proves who speaks.
pub(crate) struct Identity {
    /// The CA.
    pub(crate) ca: Ca,
    /// The API server's identity.
    pub(crate) api: Issued,
    /// How the API server shows itself to nodes.
    pub(crate) api_to_node: Issued,
    /// The node's serving identity.
    pub(crate) node: Issued,
    /// The administrator.
    pub(crate) admin: Issued,
    /// Signs service account tokens.
    pub(crate) signing_key: Arc<SigningKey>,
}

/// Load or make the CA and the signing key; issue the rest anew.
pub(crate) fn prepare(instance: &Instance, addresses: &[IpAddr], node_ip: IpAddr) -> Result<Identity> {
    let dir = instance.dir.join("tls");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let ca = Ca::load_or_create(&dir, &format!("sampan-{}", instance.facts.id))?;
    let node = &instance.facts.node_name;
    let api_names =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", node.as_str()];
    let mut api_names: Vec<String> = api_names.iter().map(|&name| name.to_owned()).collect();
    api_names.push("kubernetes.default.svc.cluster.local".to_owned());
    Ok(Identity {
        api: ca.issue(&profile("kube-apiserver", &[], Usage::Server, api_names, addresses))?,
        api_to_node: ca.issue(&profile(
            "kube-apiserver-kubelet-client",
            &["system:masters"],
            Usage::Client,
            vec![],
            &[],
        ))?,
        node: ca.issue(&profile(
            &format!("system:node:{node}"),
            &["system:nodes"],
            Usage::Both,
            vec![node.clone(), "localhost".to_owned()],
            &[node_ip],
        ))?,
        admin: ca.issue(&profile("kubernetes-admin", &["system:masters"], Usage::Client, vec![], &[]))?,
        signing_key: Arc::new(signing_key(&dir.join("sa.key"))?),
        ca,
    })
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
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "sampan",
        "clusters": [{"name": "sampan", "cluster": {
            "server": server,
            "certificate-authority-data": encode(identity.ca.cert_pem()),
        }}],
        "users": [{"name": "sampan-admin", "user": {
            "client-certificate-data": encode(&identity.admin.cert_pem),
            "client-key-data": encode(&identity.admin.key_pem),
        }}],
        "contexts": [{"name": "sampan", "context": {"cluster": "sampan", "user": "sampan-admin"}}],
    });
    let text = serde_yaml_ng::to_string(&config)?;
    Ok(tls::write_file(&instance.kubeconfig(), text.as_bytes(), 0o600)?)
}
