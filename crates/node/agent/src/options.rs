//! What the root binary tells the agent, and what can go wrong at its start.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use sampan_container::Runtime;
use sampan_daemon::tls::Identity;
use sampan_image::Images;
use sampan_network::Network;

use crate::zones::ZoneOptions;

/// Options of [`crate::Agent`].
#[derive(Clone)]
pub struct Options {
    /// The API server, as user `system:node:<name>` in group `system:nodes`.
    pub client: kube::Client,
    /// Name of the Node object.
    pub node_name: String,
    /// The node's InternalIP; the kubelet API listens there.
    pub node_ip: Ipv4Addr,
    /// Labels beside the ones every node has.
    pub labels: BTreeMap<String, String>,
    /// Capacity instead of what the machine says.
    pub capacity: Capacity,
    /// How CPUs and memory are given to pods.
    pub zones: ZoneOptions,
    /// This node's part of the pod network, for `spec.podCIDR`.
    pub pod_cidr: Option<String>,
    /// Cluster DNS for pods' resolver files; `None` when there is none.
    pub cluster_dns: Option<Ipv4Addr>,
    /// The cluster's domain, `cluster.local`.
    pub cluster_domain: String,
    /// Content of the resolver file for `dnsPolicy: Default` (usually the host's `/etc/resolv.conf`).
    pub host_resolv_conf: String,
    /// Variables added to every container unless it sets them itself, as `(name, value)`: `KUBERNETES_SERVICE_HOST`
    /// and friends for clusters whose `kubernetes` Service is not visible through the API.
    pub service_env: Vec<(String, String)>,
    /// Pod volumes and files (`<uid>/`) and logs (`logs/`): usually `<data>/pods`. Volumes that claims had made here are
    /// kept beside it, in `volumes`.
    pub pods_dir: PathBuf,
    /// What need not survive a reboot, best on tmpfs: usually `/run/sampan/<id>`.
    pub run_dir: PathBuf,
    /// Runs containers.
    pub runtime: Runtime,
    /// Holds images.
    pub images: Images,
    /// Connects pods and serves Services and DNS.
    pub network: Network,
    /// The kubelet API.
    pub api: ApiOptions,
    /// Shown as `kubeletVersion`.
    pub version: String,
    /// Shown after `sampan://` as `containerRuntimeVersion`.
    pub runtime_version: String,
}

/// How the kubelet API is served.
#[derive(Clone)]
pub struct ApiOptions {
    /// Port on the node's address; 0 takes a free one.
    pub port: u16,
    /// Server certificate, valid for the node's address; it may be replaced at any time.
    pub identity: Arc<Identity>,
    /// PEM of the CA that client certificates must come from.
    pub client_ca: String,
}

/// Capacity overrides.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// Processors, thousandths.
    pub cpu_milli: Option<u64>,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Most pods.
    pub pods: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { cpu_milli: None, memory: None, pods: 250 }
    }
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory cannot be made.
    #[error("cannot create {}: {source} (hint: run as root, and check free space)", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kubelet API cannot listen.
    #[error("kubelet API cannot listen on {address}: {source} (hint: choose another port, or 0 for any)")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Pods cannot be given CPUs and memory in that way.
    #[error("{0}")]
    Zones(String),
    /// The certificates are unusable.
    #[error("kubelet API: {0}")]
    Tls(#[from] sampan_daemon::tls::Error),
    /// Pods of an earlier process cannot be taken over.
    #[error("cannot take over running pods: {0}")]
    Adopt(#[from] sampan_container::Error),
}
