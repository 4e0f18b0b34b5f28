//! `sampan token …`: tokens that nodes join with, as `kubeadm token` has them.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use sampan_daemon::clock;
use serde::Serialize;
use serde_json::json;

use crate::{cli::Token, instance::Instance, local, terminal};

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
    let client = local::client(&Instance::open(data_dir)?)?;
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    match command {
        Token::Create { token, ttl, description, groups } => {
            let token = token.unwrap_or_else(random);
            let secret = secret(&token, &ttl, &description, groups)?;
            secrets.create(&PostParams::default(), &secret).await?;
            terminal::write(&format!("{token}\n"))?;
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
