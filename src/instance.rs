//! One instance: its data directory, what was decided when it was made, and who runs it.

use std::{
    fs,
    io::{self, Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Uid,
};
use sampan_daemon::tls;
use sampan_network::Cidr;
use serde::{Deserialize, Serialize};

use crate::store::Remote;

/// Layout of the data directory that this build reads and writes.
const FORMAT: u32 = 1;
const DEFAULT_API_PORT: u16 = 6443;
/// How long a killed process may hold on to its lock.
const DYING: Duration = Duration::from_secs(1);

/// What was decided when the instance was made; `instance.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// Layout version of the data directory.
    pub(crate) format: u32,
    /// Eight hex digits that set this instance apart on the machine.
    pub(crate) id: String,
    /// Network of the pods.
    pub(crate) pod_cidr: String,
    /// Network of the services.
    pub(crate) service_cidr: String,
    /// Port of the Kubernetes API.
    pub(crate) api_port: u16,
    /// Name of the node.
    pub(crate) node_name: String,
    /// The etcd that holds the state; without it, the data directory does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<Remote>,
    /// An etcd that the state has left and that does not know it yet: the last step of a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leaving: Option<Remote>,
    /// This node's part of the pods' network, where the cluster gave it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node_cidr: Option<String>,
}

/// What a running instance says of itself; `running.json` in the runtime directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    /// Process that serves.
    pub(crate) pid: i32,
    /// Version that serves.
    pub(crate) version: String,
    /// URL of the Kubernetes API.
    pub(crate) api: String,
    /// When it started, RFC 3339.
    pub(crate) started: String,
    /// What runs: `up`, `server` or `agent`.
    #[serde(default = "up")]
    pub(crate) role: String,
}

fn up() -> String {
    "up".to_owned()
}

/// A data directory that exists.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// The data directory, absolute.
    pub(crate) dir: PathBuf,
    /// What was decided.
    pub(crate) facts: Facts,
}

/// Choices that only matter when an instance is made, or that override what is remembered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    pub(crate) api_port: Option<u16>,
    pub(crate) node_name: Option<String>,
    pub(crate) pod_cidr: Option<Cidr>,
    pub(crate) service_cidr: Option<Cidr>,
    /// An etcd, or (`Some(None)`) the data directory.
    pub(crate) store: Option<Option<Remote>>,
}

/// Held by the process that serves an instance.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<fs::File>);

/// Fail early, and with a hint, where everything later would fail with `EPERM`.
pub(crate) fn require_root() -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("sampan needs root for namespaces, mounts and cgroups (hint: run it with sudo)");
    }
    Ok(())
}

impl Instance {
    /// Open the instance in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let file = dir.join("instance.json");
        let text = fs::read_to_string(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                anyhow::anyhow!("no instance in {} (hint: `sampan up` makes one)", dir.display())
            }
            _ => anyhow::Error::new(error).context(file.display().to_string()),
        })?;
        let raw: serde_json::Value = serde_json::from_str(&text).with_context(|| damaged(&file))?;
        // The version first: a newer layout need not parse as ours.
        match raw["format"].as_u64() {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => bail!(
                "{} has data format {format}, this build reads {FORMAT} (hint: use the newer version that wrote it)",
                dir.display()
            ),
            None => bail!(damaged(&file)),
        }
        let facts = serde_json::from_value(raw).with_context(|| damaged(&file))?;
        Ok(Self { dir: dir.canonicalize()?, facts })
    }

    /// Open the instance, or make it with these choices. Later choices that may change are remembered.
    pub(crate) fn open_or_make(dir: &Path, choices: &Choices) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("create the data directory {}", dir.display()))?;
        let mut instance = if dir.join("instance.json").exists() {
            Self::open(dir)?
        } else {
            Self { dir: dir.canonicalize()?, facts: make_facts(choices)? }
        };
        let facts = &mut instance.facts;
        let fixed = [
            ("--pod-cidr", &choices.pod_cidr, &facts.pod_cidr),
            ("--service-cidr", &choices.service_cidr, &facts.service_cidr),
        ];
        for (flag, wanted, have) in fixed {
            if let Some(wanted) = wanted
                && wanted.to_string() != *have
            {
                bail!("{flag} {wanted}: this instance was made with {have} (hint: use another --data-dir)");
            }
        }
        if let Some(name) = &choices.node_name {
            facts.node_name.clone_from(name);
        }
        if let Some(store) = &choices.store {
            // The data would stay behind.
            let moves = facts.store.as_ref().map(|r| &r.url) != store.as_ref().map(|r| &r.url);
            let used = facts.store.is_some() || instance.dir.join("store").exists();
            if moves && used {
                let (have, want) = (store_name(facts.store.as_ref()), store_name(store.as_ref()));
                bail!(
                    "the state of this instance is in {have}, not in {want} \
                     (hint: `sampan store migrate --to {want}` moves it)"
                );
            }
            facts.store.clone_from(store);
        }
        facts.api_port = match choices.api_port {
            Some(0) => free_port()?,
            Some(port) => port,
            None => facts.api_port,
        };
        instance.save()?;
        Ok(instance)
    }

    /// Says no where this data directory is a server's: an agent would put the CA of its cluster over the server's.
    pub(crate) fn refuse_server(dir: &Path) -> Result<()> {
        let remote = dir.join("instance.json").exists() && Self::open(dir)?.facts.store.is_some();
        let mark = ["tls/ca.key", "store", "cluster-secret"].into_iter().find(|name| dir.join(name).exists());
        if let Some(mark) = mark.or(remote.then_some("instance.json")) {
            bail!(
                "{} is a server's: it holds {mark} (hint: give the agent a --data-dir of its own)",
                dir.display()
            );
        }
        Ok(())
    }

    /// Says no where this data directory is that of a node of another cluster.
    pub(crate) fn refuse_agent(dir: &Path) -> Result<()> {
        let mark = ["cluster.json", "tls/node-client.pem"].into_iter().find(|name| dir.join(name).exists());
        if let Some(mark) = mark {
            bail!(
                "{} is of a node of a cluster that runs elsewhere: it holds {mark} (hint: `sampan agent` goes on with \
                 it; for a server use another --data-dir, or `sampan down --purge` first)",
                dir.display()
            );
        }
        Ok(())
    }

    /// Remember the facts.
    pub(crate) fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.facts)? + "\n";
        Ok(tls::write_file(&self.dir.join("instance.json"), text.as_bytes(), 0o600)?)
    }

    /// Become the one process that serves this instance.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.dir.join("lock");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let mut owner = String::new();
        file.read_to_string(&mut owner)?;
        let begun = Instant::now();
        let mut lock = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                // A process that was just killed holds its locks until the kernel has taken it apart.
                Err((again, _)) if begun.elapsed() < DYING => {
                    file = again;
                    std::thread::sleep(DYING / 20);
                }
                Err(_) => {
                    let (dir, owner) = (self.dir.display(), owner.trim());
                    bail!(
                        "{dir} is served by process {owner} already \
                         (hint: `sampan status`, `sampan down`, or another --data-dir)"
                    );
                }
            }
        };
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Lock(lock))
    }

    /// Sockets, shims and what else ends with the machine's run.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        Path::new("/run/sampan").join(&self.facts.id)
    }

    /// The socket on which the administrator reaches the API without TLS; only root can open it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime_dir().join("api.sock")
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// What the serving process said of itself, if there is one.
    pub(crate) fn running(&self) -> Option<Running> {
        let text = fs::read_to_string(self.runtime_dir().join("running.json")).ok()?;
        let running: Running = serde_json::from_str(&text).ok()?;
        // The lock tells whether it still lives; a stale file after kill -9 does not count.
        let file = fs::File::open(self.dir.join("lock")).ok()?;
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err().then_some(running)
    }

    /// Say who serves.
    pub(crate) fn write_running(&self, running: &Running) -> Result<()> {
        let text = serde_json::to_string_pretty(running)?;
        Ok(tls::write_file(&self.runtime_dir().join("running.json"), text.as_bytes(), 0o600)?)
    }

    pub(crate) fn pod_cidr(&self) -> Result<Cidr> {
        parse_cidr(&self.facts.pod_cidr)
    }

    pub(crate) fn service_cidr(&self) -> Result<Cidr> {
        parse_cidr(&self.facts.service_cidr)
    }
}

pub(crate) fn store_name(store: Option<&Remote>) -> &str {
    store.map_or(crate::store::EMBEDDED, |remote| &remote.url)
}

/// A port that nothing listens on now. The API listens on several addresses, which must share one port.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn damaged(file: &Path) -> String {
    format!("{} does not parse (hint: restore it from a backup)", file.display())
}

fn parse_cidr(text: &str) -> Result<Cidr> {
    text.parse().map_err(|e| anyhow::anyhow!("{text}: {e}"))
}

fn make_facts(choices: &Choices) -> Result<Facts> {
    let pod_cidr =
        pick_cidr("--pod-cidr", choices.pod_cidr, &[42, 44, 46, 48, 52, 56, 142, 144, 146, 148], 24)?;
    let service_cidr =
        pick_cidr("--service-cidr", choices.service_cidr, &[43, 45, 47, 49, 53, 57, 143, 145, 147, 149], 28)?;
    if pod_cidr.overlaps(&service_cidr) {
        bail!("the networks of pods ({pod_cidr}) and services ({service_cidr}) overlap");
    }
    let host = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
    Ok(Facts {
        format: FORMAT,
        id: format!("{:08x}", rand::random::<u32>()),
        pod_cidr: pod_cidr.to_string(),
        service_cidr: service_cidr.to_string(),
        api_port: choices.api_port.unwrap_or(DEFAULT_API_PORT),
        node_name: choices.node_name.clone().unwrap_or(host),
        store: None,
        leaving: None,
        node_cidr: None,
    })
}

/// What was asked for, or the first `10.N.0.0/16` that nothing on this machine uses.
fn pick_cidr(flag: &str, asked: Option<Cidr>, seconds: &[u8], longest: u8) -> Result<Cidr> {
    let candidates: Vec<Cidr> = match asked {
        Some(cidr) if cidr.prefix() > longest => {
            bail!("{flag} {cidr} is too small (hint: a /{longest} or larger)")
        }
        Some(cidr) => vec![cidr],
        None => seconds.iter().filter_map(|n| Cidr::new([10, *n, 0, 0].into(), 16)).collect(),
    };
    sampan_network::free_cidr(&candidates)?.with_context(|| {
        let tried = candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!("{tried} is in use on this machine (hint: choose another with {flag})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            format: FORMAT,
            id: "0a1b2c3d".into(),
            pod_cidr: "10.42.0.0/16".into(),
            service_cidr: "10.43.0.0/16".into(),
            api_port: 6443,
            node_name: "n".into(),
            store: None,
            leaving: None,
            node_cidr: None,
        }
    }

    #[test]
    fn a_newer_data_directory_is_refused_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance { dir: dir.path().to_owned(), facts: Facts { format: 9, ..facts() } };
        instance.save().unwrap();
        let error = Instance::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("format 9") && error.contains("newer version"), "{error}");
    }

    #[test]
    fn only_one_process_serves() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance { dir: dir.path().to_owned(), facts: facts() };
        instance.save().unwrap();
        let lock = instance.lock().unwrap();
        let error = Instance::open(dir.path()).unwrap().lock().unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        instance.lock().unwrap();
    }

    #[test]
    fn servers_and_nodes_keep_out_of_each_others_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        Instance::refuse_server(path).unwrap();
        Instance::refuse_agent(path).unwrap();
        fs::create_dir(path.join("tls")).unwrap();
        for (mark, of_server) in [("tls/ca.key", true), ("store", true), ("cluster.json", false)] {
            fs::write(path.join(mark), "").unwrap();
            let refused =
                if of_server { Instance::refuse_server(path) } else { Instance::refuse_agent(path) };
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(mark) && error.contains("hint"), "{error}");
            fs::remove_file(path.join(mark)).unwrap();
        }
        // Its state is elsewhere, and it has not started yet.
        let store = Remote { url: "etcd://a/p".into(), ca: None, identity: None, user: None };
        Instance { dir: path.to_owned(), facts: Facts { store: Some(store), ..facts() } }.save().unwrap();
        assert!(Instance::refuse_server(path).is_err());
        Instance { dir: path.to_owned(), facts: facts() }.save().unwrap();
        Instance::refuse_server(path).unwrap();
    }

    #[test]
    fn choices_that_cannot_change_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        Instance { dir: dir.path().to_owned(), facts: facts() }.save().unwrap();
        let other = Choices { pod_cidr: "10.9.0.0/16".parse().ok(), ..Choices::default() };
        assert!(Instance::open_or_make(dir.path(), &other).is_err());
        let port = Choices { api_port: Some(7000), ..Choices::default() };
        assert_eq!(Instance::open_or_make(dir.path(), &port).unwrap().facts.api_port, 7000);
        assert_eq!(Instance::open(dir.path()).unwrap().facts.api_port, 7000);
    }
}
