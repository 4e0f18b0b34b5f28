//! `sampan token …`: tokens that nodes join with, as `kubeadm token` has them.

use std::{collections::BTreeMap, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Secret},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use sampan_daemon::{clock, tls};
use serde::Serialize;
use serde_json::json;

use crate::{cli::Token, instance::Instance, join, local, terminal, wait};

/// How long the controllers of a new cluster may take to say what machines that join are told.
const MADE: Duration = Duration::from_secs(30);
const PREFIX: &str = "bootstrap-token-";
const DEFAULT_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

#[derive(Serialize)]
struct Shown {
    token: String,
    expires: String,
    usages: String,
    description: String,
    groups: String,
}

pub(crate) async fn run(data_dir: &Path, command: Token) -> Result<ExitCode> {
    let instance = Instance::open(data_dir)?;
    let client = local::client(&instance)?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    match command {
        Token::Create { token, ttl, description, groups, print_join_command } => {
            let token = token.unwrap_or_else(random);
            let secret = secret(&token, &ttl, &description, groups)?;
            secrets.create(&PostParams::default(), &secret).await?;
            if print_join_command {
                terminal::write(&format!("{}\n", join_command(&instance, &client, &token).await?))?;
            } else {
                terminal::write(&format!("{token}\n"))?;
            }
        }
        Token::List(output) => {
            let params = ListParams::default().fields("type=bootstrap.kubernetes.io/token");
            let list: Vec<Shown> = secrets.list(&params).await?.items.iter().map(shown).collect();
            terminal::print(output.output, &list, || text(&list))?;
        }
        Token::Delete { tokens } => {
            for token in tokens {
                let id = token.split('.').next().unwrap_or_default();
                secrets.delete(&format!("{PREFIX}{id}"), &DeleteParams::default()).await?;
                eprintln!("token {id} deleted");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a machine is to run to become a node: every server that lives, the token, the hash of the CA.
async fn join_command(instance: &Instance, client: &kube::Client, token: &str) -> Result<String> {
    let ca = instance.dir.join("tls/ca.crt");
    let ca = std::fs::read_to_string(&ca).with_context(|| ca.display().to_string())?;
    let public: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    // The controllers make it, a moment after a cluster's first start.
    let made = wait::until(&public, "cluster-info", |info| Ok(Some(info)));
    let info = tokio::time::timeout(MADE, made).await.context(
        "no controller has made what machines that join are told (hint: does one run? see `sampan status`)",
    )??;
    let config = info.data.unwrap_or_default().remove("kubeconfig").unwrap_or_default();
    let config: serde_json::Value = serde_yaml_ng::from_str(&config)?;
    let advertised = config.pointer("/clusters/0/cluster/server").and_then(serde_json::Value::as_str);
    let mut servers: Vec<String> = Vec::new();
    if instance.facts.store.is_some() {
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
        let ours = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        for slice in slices.list(&ours).await? {
            servers.extend(join::addresses(&slice).into_iter().map(|server| format!("https://{server}")));
        }
    }
    if servers.is_empty() {
        servers.extend(advertised.map(str::to_owned));
    }
    let (servers, pin) = (servers.join(","), tls::pin(&ca)?);
    Ok(format!("sampan agent --join {servers} --token {token} --ca-hash {pin}"))
}

fn random() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut letters = (0..22).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]));
    let id: String = letters.by_ref().take(6).collect();
    format!("{id}.{}", letters.collect::<String>())
}

fn secret(token: &str, ttl: &str, description: &str, mut groups: Vec<String>) -> Result<Secret> {
    let good = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    let Some((id, secret)) = token.split_once('.').filter(|(id, secret)| good(id, 6) && good(secret, 16))
    else {
        bail!("{token:?} is no token (hint: six and sixteen lower-case letters or digits, joined by a dot)");
    };
    if groups.is_empty() {
        groups.push(DEFAULT_GROUP.to_owned());
    }
    if let Some(other) = groups.iter().find(|group| !group.starts_with("system:bootstrappers:")) {
        bail!("group {other:?} cannot be given by a token (hint: it must begin with system:bootstrappers:)");
    }
    let ttl: SignedDuration = if ttl == "0" {
        SignedDuration::ZERO
    } else {
        ttl.parse().with_context(|| format!("{ttl:?} is no duration (hint: write it like 30m or 24h)"))?
    };
    let mut data = BTreeMap::from([
        ("token-id", id.to_owned()),
        ("token-secret", secret.to_owned()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("usage-bootstrap-signing", "true".to_owned()),
        ("auth-extra-groups", groups.join(",")),
    ]);
    if !description.is_empty() {
        data.insert("description", description.to_owned());
    }
    if !ttl.is_zero() {
        data.insert("expiration", clock::rfc3339(clock::now().checked_add(ttl)?));
    }
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("{PREFIX}{id}"), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }))?)
}

fn shown(secret: &Secret) -> Shown {
    let data = secret.data.clone().unwrap_or_default();
    let field = |name: &str| {
        let value: Option<&ByteString> = data.get(name);
        value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
    };
    let uses = ["authentication", "signing"];
    let uses = uses.into_iter().filter(|usage| field(&format!("usage-bootstrap-{usage}")) == "true");
    let expires = field("expiration");
    Shown {
        token: format!("{}.{}", field("token-id"), field("token-secret")),
        expires: match expires.parse::<Timestamp>() {
            _ if expires.is_empty() => "never".to_owned(),
            Ok(_) => expires,
            Err(_) => "<invalid>".to_owned(),
        },
        usages: uses.collect::<Vec<_>>().join(","),
        description: field("description"),
        groups: field("auth-extra-groups"),
    }
}

fn text(list: &[Shown]) -> String {
    let row = |t: &Shown| {
        let dash = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
        vec![t.token.clone(), t.expires.clone(), dash(&t.usages), dash(&t.description), dash(&t.groups)]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    terminal::table(&["TOKEN", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"], &rows)
}
