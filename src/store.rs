//! Where the state is: in the data directory, or on an etcd that several servers share.

use std::{fs, path::Path, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use sampan_daemon::Supervisor;
use sampan_store::{
    Store,
    embedded::{self, Embedded},
    etcd::{self, Etcd},
};
use serde::{Deserialize, Serialize};

use crate::{cli::StoreArgs, instance::Instance};

/// What `--store` says when the state is in the data directory.
pub(crate) const EMBEDDED: &str = "embedded";
/// The prefix of our keys where the address names none.
const PREFIX: &str = "sampan";

/// Where an etcd is, as `instance.json` remembers it. The password is never written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remote {
    /// `etcd://host:port[,host:port…]/prefix`, or `etcds://` for TLS.
    pub(crate) url: String,
    /// Who signed the members' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate and its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// Name for etcd's own authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
}

impl Remote {
    /// What the arguments say: an etcd, the data directory (`Some(None)`), or nothing.
    pub(crate) fn of(args: &StoreArgs) -> Result<Option<Option<Self>>> {
        let access = &args.access;
        let Some(url) = &args.store else {
            if access.store_ca.is_some() || access.store_cert.is_some() || access.store_user.is_some() {
                bail!("--store-ca, --store-cert and --store-user say nothing without --store etcds://…");
            }
            return Ok(None);
        };
        if url == EMBEDDED {
            return Ok(Some(None));
        }
        let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| path.display().to_string());
        let identity = match (&access.store_cert, &access.store_key) {
            (Some(cert), Some(key)) => Some((absolute(cert)?, absolute(key)?)),
            _ => None,
        };
        let remote = Self {
            url: url.clone(),
            ca: access.store_ca.as_ref().map(absolute).transpose()?,
            identity,
            user: access.store_user.clone(),
        };
        remote.parts()?;
        Ok(Some(Some(remote)))
    }

    /// TLS or not, members, prefix.
    fn parts(&self) -> Result<(bool, Vec<String>, String)> {
        let url = &self.url;
        let bad = |what: &str| {
            anyhow::anyhow!(
                "--store {url}: {what} (hint: etcd://host:2379[,host:2379]/prefix, etcds:// for TLS)"
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("no address"))?;
        let tls = match scheme {
            "etcd" | "http" => self.ca.is_some() || self.identity.is_some(),
            "etcds" | "https" => true,
            _ => return Err(bad("neither embedded nor an etcd")),
        };
        // etcdctl's way of writing several repeats the scheme.
        let rest = rest.replace(",https://", ",").replace(",http://", ",");
        let (hosts, prefix) = rest.split_once('/').unwrap_or((&rest, ""));
        let prefix = prefix.trim_matches('/');
        let mut members = Vec::new();
        for host in hosts.split(',') {
            if host.contains('@') {
                return Err(bad(
                    "a password does not belong here; use --store-user and SAMPAN_STORE_PASSWORD",
                ));
            }
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) if !port.ends_with(']') => {
                    (name, port.parse::<u16>().map_err(|_| bad("a port is a number up to 65535"))?)
                }
                _ => (host, 2379),
            };
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(bad("a member has no name"));
            }
            members.push(format!("{name}:{port}"));
        }
        if prefix.contains(['?', '#', '*']) {
            return Err(bad("the prefix has signs that no prefix has"));
        }
        Ok((tls, members, if prefix.is_empty() { PREFIX } else { prefix }.to_owned()))
    }

    /// As the store wants it, with the files read.
    pub(crate) fn options(&self) -> Result<etcd::Options> {
        let (tls, endpoints, prefix) = self.parts()?;
        let read = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
        let tls = if tls {
            let ca =
                self.ca.as_deref().context("TLS to etcd needs the CA of its members (hint: --store-ca)")?;
            let identity = self.identity.as_ref().map(|(cert, key)| anyhow::Ok((read(cert)?, read(key)?)));
            Some(etcd::Tls { ca: read(ca)?, identity: identity.transpose()? })
        } else {
            None
        };
        let user = match &self.user {
            Some(name) => {
                let password = crate::cli::store_password();
                let password =
                    password.context("--store-user needs its password in SAMPAN_STORE_PASSWORD")?;
                Some((name.clone(), password))
            }
            None => None,
        };
        Ok(etcd::Options { endpoints, prefix, tls, user })
    }
}

/// An open store.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    /// Other servers may use it too.
    pub(crate) shared: bool,
    /// The engine in this process, when there is one.
    pub(crate) embedded: Option<Arc<Embedded>>,
}

/// Opens the store of the instance.
pub(crate) async fn open(instance: &Instance, supervisor: &Supervisor) -> Result<Opened> {
    match &instance.facts.store {
        Some(remote) => {
            let store = Etcd::connect(&remote.options()?).await?;
            Ok(Opened { store: Arc::new(store), shared: true, embedded: None })
        }
        None => {
            if let Some(left) = &instance.facts.leaving {
                tracing::warn!(
                    "{} was not told that the state left it (hint: stop, and end the move with `sampan store migrate --to \
                     embedded`)",
                    left.url
                );
            }
            let options = embedded::Options::new(instance.dir.join("store"));
            let store = Arc::new(supervisor.blocking(move || Embedded::open(options)).await?);
            Ok(Opened { store: store.clone(), shared: false, embedded: Some(store) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> Remote {
        Remote { url: url.into(), ca: None, identity: None, user: None }
    }

    #[test]
    fn addresses_are_read() {
        let of = |url: &str| remote(url).parts().unwrap();
        assert_eq!(of("etcd://a:1/x/y/"), (false, vec!["a:1".to_owned()], "x/y".to_owned()));
        let two = (true, vec!["a:2379".to_owned(), "10.0.0.1:7".to_owned()], "sampan".to_owned());
        assert_eq!(of("etcds://a,10.0.0.1:7"), two);
        assert_eq!(of("https://a,https://10.0.0.1:7/"), two);
        assert_eq!(of("etcd://[::1]:4/p").1, ["[::1]:4"]);
        let with_ca = Remote { ca: Some("/ca".into()), ..remote("etcd://a") };
        assert!(with_ca.parts().unwrap().0, "who names a CA wants TLS");
    }

    #[test]
    fn what_is_wrong_is_said_with_a_hint() {
        for url in ["etcd", "redis://a", "etcd://", "etcd://a:x/p", "etcd://u:p@a/p", "etcd://a/p?x=1"] {
            let error = remote(url).parts().unwrap_err().to_string();
            assert!(error.contains(url) && error.contains("hint"), "{error}");
        }
        let error = remote("etcds://a/p").options().unwrap_err().to_string();
        assert!(error.contains("--store-ca"), "{error}");
    }
}
