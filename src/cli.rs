//! What can be typed. The only place, with `main`, that reads arguments and the environment, but for variables
//! that an argument names (`--secret`, `--build-arg`).

use std::{
    ffi::{OsStr, OsString},
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod image;
mod rebalance;
mod registry;
mod zones;
pub(crate) use image::{
    Access, Analyze, Build, Compression, Image, Network, ProgressStyle, Pull, Push, Slim,
};
pub(crate) use rebalance::{Aim, Continuous, Rebalance};
pub(crate) use registry::{Registry, RegistryAt, RegistryServe};
pub(crate) use zones::ZoneArgs;

/// A complete container service in one binary.
#[derive(Debug, Parser)]
#[command(name = "sampan", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Where this instance keeps its state; several instances live in several directories.
    #[arg(
        long,
        global = true,
        env = "SAMPAN_DATA_DIR",
        default_value = "/var/lib/sampan",
        value_name = "DIR"
    )]
    pub(crate) data_dir: PathBuf,
    /// Log filter, for example `info` or `warn,sampan_agent=debug`.
    #[arg(long, global = true, env = "SAMPAN_LOG", default_value = "warn", value_name = "FILTER")]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start, or continue, everything: API, controllers, node. Runs until Ctrl-C; pods run on.
    Up(Box<Up>),
    /// Start a control plane alone: API, controllers, scheduler. Several share one etcd.
    Server(Box<Server>),
    /// Make this machine a node of a cluster whose control plane runs elsewhere.
    Agent(Box<Agent>),
    /// Stop the service and its pods; keeps the data.
    Down(Down),
    /// Show what runs and where.
    Status(Output),
    /// Print the kubeconfig of the administrator.
    Kubeconfig,
    /// Run an image in a pod and show its output.
    Run(Run),
    /// Say why a pod is where it is, or nowhere.
    Why(Why),
    /// Build, pull, push, import, examine and remove images.
    #[command(subcommand)]
    Image(Box<Image>),
    /// Serve a registry for images and other artifacts, and manage it.
    #[command(subcommand)]
    Registry(Box<Registry>),
    /// List and renew the certificates of this instance.
    #[command(subcommand)]
    Certs(Certs),
    /// Look after the store: status, compaction, verification, moving it.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Manage how Secrets are encrypted at rest.
    #[command(subcommand)]
    Secrets(Secrets),
    /// Manage tokens that nodes join with.
    #[command(subcommand)]
    Token(Token),
    /// Move pods to where they run better, within bounds: fewer nodes in use, or evenly used ones.
    Rebalance(Rebalance),
    /// Play what the scheduler would do: a trace, a set of manifests or the cluster as it is, under a virtual clock.
    #[command(subcommand)]
    Simulate(Box<Simulate>),
    /// Print the version.
    Version(Output),
    /// Print a shell completion script.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How to print data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// With more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Options of commands that print data.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

/// `sampan why`
#[derive(Clone, Debug, Args)]
pub(crate) struct Why {
    /// What to explain: pod/NAME.
    #[arg(value_name = "pod/NAME")]
    pub(crate) object: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// The KubeSchedulerConfiguration that the scheduler follows. [default: its default profile]
    #[arg(long, value_name = "FILE")]
    pub(crate) scheduler_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `sampan up`
#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) launch: Launch,
    /// Name of this node. [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    #[command(flatten)]
    pub(crate) zones: ZoneArgs,
    /// Port of the registry; 0 picks a free one. Remembered. [default: 5000, or a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) registry_port: Option<u16>,
    #[command(flatten)]
    pub(crate) plane: PlaneArgs,
}

/// `sampan server`
#[derive(Clone, Debug, Args)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) launch: Launch,
    #[command(flatten)]
    pub(crate) plane: PlaneArgs,
}

/// `sampan agent`
#[derive(Clone, Debug, Args)]
pub(crate) struct Agent {
    #[command(flatten)]
    pub(crate) launch: Launch,
    /// Servers of the cluster, https://host:6443; several by commas. Needed the first time.
    #[arg(long, value_name = "URL")]
    pub(crate) join: Vec<String>,
    /// Bootstrap token, ID.SECRET; the hash of the CA may follow it behind an @. Needed the first time. In SAMPAN_TOKEN
    /// or a file, other users of this machine do not see it.
    #[arg(long, value_name = "TOKEN", env = TOKEN, hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File with the token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Believe only a CA whose public key has this hash; may be repeated.
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) ca_hash: Vec<String>,
    /// Believe any CA that is signed with the token. Whoever knows the token can then pretend to be the cluster.
    #[arg(long)]
    pub(crate) unsafe_skip_ca_verification: bool,
    /// Name of this node. [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address under which servers reach this node. [default: that of the default route]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<std::net::Ipv4Addr>,
    /// Label of the node; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) node_label: Vec<(String, String)>,
    /// Port of the kubelet API; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = crate::join::KUBELET_PORT)]
    pub(crate) kubelet_port: u16,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    #[command(flatten)]
    pub(crate) zones: ZoneArgs,
}

/// How a long-running command is started.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Launch {
    /// Return once it is ready; the service runs on in the background.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Write a line to this descriptor once it is ready. Set by `--detach`.
    #[arg(long, hide = true)]
    pub(crate) ready_fd: Option<i32>,
}

/// Where images come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct ImageArgs {
    /// A registry that may be spoken to in plain HTTP (HOST:PORT).
    #[arg(long, value_name = "HOST")]
    pub(crate) insecure_registry: Vec<String>,
    /// Ask MIRROR first for images of REGISTRY.
    #[arg(long, value_name = "REGISTRY=MIRROR", value_parser = parse_pair)]
    pub(crate) registry_mirror: Vec<(String, String)>,
}

/// Where the state is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StoreArgs {
    /// Keep the state on this etcd, which several servers may share: etcd://HOST:2379[,HOST:2379…]/PREFIX, or etcds://
    /// for TLS. Remembered. [default: embedded, in the data directory]
    #[arg(long, value_name = "URL", env = "SAMPAN_STORE")]
    pub(crate) store: Option<String>,
    #[command(flatten)]
    pub(crate) access: EtcdAccess,
}

/// How an etcd is reached.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EtcdAccess {
    /// The CA of the etcd's members.
    #[arg(long, value_name = "FILE")]
    pub(crate) store_ca: Option<PathBuf>,
    /// Our certificate for the etcd.
    #[arg(long, value_name = "FILE", requires = "store_key")]
    pub(crate) store_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "store_cert")]
    pub(crate) store_key: Option<PathBuf>,
    /// Name for etcd's own authentication; the password is in SAMPAN_STORE_PASSWORD.
    #[arg(long, value_name = "NAME")]
    pub(crate) store_user: Option<String>,
}

/// What a control plane takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlaneArgs {
    /// Port of the Kubernetes API; 0 picks a free one. Remembered. [default: 6443]
    #[arg(long, value_name = "PORT")]
    pub(crate) api_port: Option<u16>,
    /// Addresses for the Kubernetes API to listen on, beside loopback and the pods' gateway. With a shared store it
    /// listens on all unless some are given.
    #[arg(long, value_name = "IP")]
    pub(crate) bind: Vec<IpAddr>,
    /// Address under which others reach this server. [default: that of the default route]
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// A further name or address for the certificate of the API; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_san: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// File with the secret that all servers of a cluster have in common. [default: cluster-secret in the data
    /// directory, made when the cluster is]
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster_secret_file: Option<PathBuf>,
    /// Network of the pods, at least a /24. Only when the cluster is made. [default: a free one of 10.42.0.0/16, …]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<sampan_network::Cidr>,
    /// Network of service addresses. Only when the cluster is made. [default: a free one of 10.43.0.0/16, …]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<sampan_network::Cidr>,
    /// Record requests to the Kubernetes API as this audit.k8s.io/v1 Policy says.
    #[arg(long, value_name = "FILE", requires = "audited")]
    pub(crate) audit_policy: Option<PathBuf>,
    /// Where they are recorded, one JSON line each.
    #[arg(long, value_name = "FILE", requires = "audit_policy", group = "audited")]
    pub(crate) audit_log: Option<PathBuf>,
    /// Where they are sent, as EventLists in batches: a kubeconfig.
    #[arg(long, value_name = "FILE", requires = "audit_policy", group = "audited")]
    pub(crate) audit_webhook_config_file: Option<PathBuf>,
    /// Seconds to wait before events that could not be sent are sent again.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) audit_webhook_initial_backoff: u64,
    /// Seconds that an event waits for others to go with it.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) audit_webhook_batch_max_wait: u64,
    /// Megabytes after which a new audit log is begun; 0 for never.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub(crate) audit_log_max_size: u64,
    /// Days that older audit logs are kept; 0 for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub(crate) audit_log_max_age: u64,
    /// Older audit logs that are kept; 0 for all.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub(crate) audit_log_max_backups: usize,
    /// Encrypt at rest as this EncryptionConfiguration says, instead of with keys of our own.
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Place pods as this KubeSchedulerConfiguration says.
    #[arg(long, value_name = "FILE")]
    pub(crate) scheduler_config: Option<PathBuf>,
    /// Believe the token issuers of this AuthenticationConfiguration.
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    pub(crate) authentication_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) oidc: Oidc,
    #[command(flatten)]
    pub(crate) rebalance: Continuous,
    /// Offer to batch pods what others asked for and do not use, up to these parts of a node, and evict them beyond the
    /// others: cpu=65,memory=65,evict-cpu=90,evict-memory=85, of which any may be left out. [default: nothing is offered]
    #[arg(long, value_name = "BOUNDS")]
    pub(crate) overcommit: Option<sampan_controllers::Overcommit>,
}

/// `sampan store …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Show where the state is, how large it is, and how it is.
    Status(Output),
    /// Forget history that nobody needs any more, and give its space back.
    Compact,
    /// Read everything that is stored and check that it is whole.
    Verify(Output),
    /// Make a store of what a damaged one held before its first damage. What came after is lost: for when there is no backup.
    Salvage,
    /// Move the state to an etcd, or back. The service must be stopped; nothing is lost when this is killed.
    Migrate(Migrate),
}

/// `sampan store migrate`
#[derive(Clone, Debug, Args)]
pub(crate) struct Migrate {
    /// Where to: etcd://HOST:2379/PREFIX, or embedded.
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) access: EtcdAccess,
}

/// The password for etcd's own authentication.
pub(crate) fn store_password() -> Option<String> {
    std::env::var("SAMPAN_STORE_PASSWORD").ok()
}

/// Where a token may be, so that the list of processes does not show it.
const TOKEN: &str = "SAMPAN_TOKEN";

/// This command as it was typed, but for staying in the foreground; with what belongs into its environment. A token goes
/// there: a process that runs for months would show it to everybody who lists processes.
pub(crate) fn in_foreground() -> (Vec<OsString>, Option<(&'static str, OsString)>) {
    foreground(std::env::args_os().skip(1))
}

fn foreground(typed: impl Iterator<Item = OsString>) -> (Vec<OsString>, Option<(&'static str, OsString)>) {
    let (mut arguments, mut token, mut typed) = (Vec::new(), None, typed);
    while let Some(argument) = typed.next() {
        if argument == "-d" || argument == "--detach" {
            continue;
        }
        if argument == "--token" {
            token = typed.next();
        } else if let Some(value) = argument.as_bytes().strip_prefix(b"--token=") {
            token = Some(OsStr::from_bytes(value).to_owned());
        } else {
            arguments.push(argument);
        }
    }
    (arguments, token.map(|token| (TOKEN, token)))
}

/// One token issuer, as `kube-apiserver` takes it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Oidc {
    /// Believe ID tokens of this issuer.
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub(crate) oidc_issuer_url: Option<String>,
    /// Audience of the tokens.
    #[arg(long, value_name = "ID")]
    pub(crate) oidc_client_id: Option<String>,
    /// Claim with the user's name.
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub(crate) oidc_username_claim: String,
    /// What is put before it; - for nothing. [default: the issuer and #, unless the claim is email]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) oidc_username_prefix: Option<String>,
    /// Claim with the user's groups.
    #[arg(long, value_name = "CLAIM")]
    pub(crate) oidc_groups_claim: Option<String>,
    /// What is put before each.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub(crate) oidc_groups_prefix: String,
    /// The CA of the issuer. [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    pub(crate) oidc_ca_file: Option<PathBuf>,
    /// A claim that a token must have.
    #[arg(long, value_name = "CLAIM=VALUE", value_parser = parse_pair)]
    pub(crate) oidc_required_claim: Vec<(String, String)>,
}

/// `sampan down`
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Down {
    /// Also delete all data of this instance: objects, images, volumes.
    #[arg(long)]
    pub(crate) purge: bool,
}

/// `sampan run`
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Remove the pod afterwards.
    #[arg(long)]
    pub(crate) rm: bool,
    /// Keep stdin open and pass it on.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the container a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Return once the pod is made.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Name of the pod. [default: made up from the image's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Set an environment variable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) env: Vec<(String, String)>,
    /// Image to run.
    pub(crate) image: String,
    /// Command and arguments instead of the image's.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// `sampan certs …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Certs {
    /// List certificates with their end.
    #[command(visible_alias = "ls")]
    List(Output),
    /// Make new certificates now; what is open stays open.
    Rotate,
}

/// `sampan secrets …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Secrets {
    /// Make a new key and encrypt everything with it; older keys are kept for backups that need them.
    RotateKey,
}

/// `sampan token …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, and print it.
    Create {
        /// The token, ID.SECRET. [default: a random one]
        token: Option<String>,
        /// How long it is good for, for example 30m or 24h; 0 for ever.
        #[arg(long, default_value = "24h", value_name = "DURATION")]
        ttl: String,
        /// What it is for.
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
        /// Further groups of who has it, below system:bootstrappers.
        #[arg(long, value_name = "GROUP")]
        groups: Vec<String>,
        /// Print the command that makes a machine a node with it.
        #[arg(long)]
        print_join_command: bool,
    },
    /// List tokens.
    #[command(visible_alias = "ls")]
    List(Output),
    /// Delete tokens, by ID or whole.
    Delete {
        /// The tokens.
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must have the form NAME=VALUE".to_owned()),
    }
}

/// `sampan simulate`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Simulate {
    /// A trace in the openb format: fill its nodes with its pods in random order.
    Openb(SimulateOpenb),
    /// Nodes and workloads of manifests or of the running cluster, and what if.
    Run(SimulateRun),
}

/// Pictures of a simulation.
#[derive(Clone, Debug, Args)]
pub(crate) struct Plot {
    /// Also draw it into this file (.svg or .png). May be repeated.
    #[arg(long, value_name = "FILE", value_parser = parse_picture)]
    pub(crate) plot: Vec<PathBuf>,
}

fn parse_picture(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|e| e.to_str()) {
        Some("svg" | "png") => Ok(path),
        _ => Err("what kind of picture? (hint: end the name in .svg or .png)".to_owned()),
    }
}

/// `sampan simulate openb`
#[derive(Clone, Debug, Args)]
pub(crate) struct SimulateOpenb {
    /// The nodes: CSV with the columns sn, cpu_milli, memory_mib, gpu, model.
    #[arg(long, value_name = "FILE")]
    pub(crate) nodes: PathBuf,
    /// The pods: CSV with the columns name, cpu_milli, memory_mib, num_gpu, gpu_milli; gpu_spec and times where known.
    #[arg(long, value_name = "FILE")]
    pub(crate) pods: PathBuf,
    /// A profile that ships: default, fragmentation, fgd, random. May be repeated.
    #[arg(long, value_name = "NAME", default_value = "fragmentation")]
    pub(crate) profile: Vec<String>,
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub(crate) first_seed: u64,
    /// Play the trace as it happened instead: pods come and go when they did.
    #[arg(long)]
    pub(crate) by_time: bool,
    /// With --by-time: seconds between samples.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0)]
    pub(crate) every: f64,
    /// With --by-time: also print every sample (JSON and YAML).
    #[arg(long)]
    pub(crate) samples: bool,
    #[command(flatten)]
    pub(crate) plot: Plot,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `sampan simulate run`
#[derive(Clone, Debug, Args)]
pub(crate) struct SimulateRun {
    /// Manifests of nodes and workloads; - for standard input. May be repeated.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// Start from the nodes and pods of the running cluster.
    #[arg(long)]
    pub(crate) from_cluster: bool,
    /// A profile that ships: default, fragmentation, fgd, random. May be repeated, to compare.
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Vec<String>,
    /// Profiles of a KubeSchedulerConfiguration.
    #[arg(long, value_name = "FILE")]
    pub(crate) scheduler_config: Option<PathBuf>,
    /// Decides among equals.
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub(crate) seed: u64,
    /// Seconds between samples; 0 for each event.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub(crate) every: f64,
    /// Stop after so many seconds of the simulation.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) until: Option<f64>,
    /// What if this node, or all nodes with this LABEL=VALUE, were lost? May be repeated.
    #[arg(long, value_name = "NODE|LABEL=VALUE")]
    pub(crate) lose: Vec<String>,
    /// What if N more nodes like NODE joined? May be repeated.
    #[arg(long, value_name = "N:NODE", value_parser = parse_copies)]
    pub(crate) add_nodes: Vec<(u32, String)>,
    /// What if this score weighed otherwise? May be repeated.
    #[arg(long, value_name = "PLUGIN=WEIGHT", value_parser = parse_pair)]
    pub(crate) weight: Vec<(String, String)>,
    /// When nodes are lost and join, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub(crate) at: f64,
    /// Also print every sample (JSON and YAML).
    #[arg(long)]
    pub(crate) samples: bool,
    #[command(flatten)]
    pub(crate) plot: Plot,
    #[command(flatten)]
    pub(crate) output: Output,
}

fn parse_copies(text: &str) -> Result<(u32, String), String> {
    let (count, node) = text.split_once(':').ok_or("expected N:NODE")?;
    let count = count.parse().map_err(|_| format!("{count:?} is not a number"))?;
    if count > 100_000 {
        return Err("at most 100000 nodes".to_owned());
    }
    Ok((count, node.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_token_goes_into_the_environment_of_what_runs_on() {
        for line in
            ["agent --join https://a --token x.y -d", "agent -d --join https://a --token=x.y --detach"]
        {
            let (arguments, environment) = foreground(line.split(' ').map(OsString::from));
            assert_eq!(arguments, ["agent", "--join", "https://a"]);
            assert_eq!(environment, Some((TOKEN, "x.y".into())));
        }
        let (arguments, environment) = foreground(["up", "--detach"].map(OsString::from).into_iter());
        assert_eq!((arguments, environment), (vec!["up".into()], None));
        // Nothing but `agent` takes one.
        let cli = Cli::command();
        let takes = cli.get_subcommands().filter(|c| c.get_arguments().any(|a| a.get_id() == "token"));
        assert_eq!(takes.map(clap::Command::get_name).collect::<Vec<_>>(), ["agent"]);
    }
}
