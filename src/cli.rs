//! What can be typed. The only place, with `main`, that reads arguments and the environment.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod registry;
pub(crate) use registry::{Registry, RegistryAt, RegistryServe};

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
    /// Stop the service and its pods; keeps the data.
    Down(Down),
    /// Show what runs and where.
    Status(Output),
    /// Print the kubeconfig of the administrator.
    Kubeconfig,
    /// Run an image in a pod and show its output.
    Run(Run),
    /// Build, import, pull, list and remove images.
    #[command(subcommand)]
    Image(Image),
    /// Serve a registry for images and other artifacts, and manage it.
    #[command(subcommand)]
    Registry(Box<Registry>),
    /// List and renew the certificates of this instance.
    #[command(subcommand)]
    Certs(Certs),
    /// Manage how Secrets are encrypted at rest.
    #[command(subcommand)]
    Secrets(Secrets),
    /// Manage tokens that nodes join with.
    #[command(subcommand)]
    Token(Token),
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

/// `sampan up`
#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// Return once the node is ready; the service runs on in the background.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Port of the Kubernetes API; 0 picks a free one. Remembered. [default: 6443]
    #[arg(long, value_name = "PORT")]
    pub(crate) api_port: Option<u16>,
    /// Further addresses for the Kubernetes API to listen on, beside loopback and the pods' gateway.
    #[arg(long, value_name = "IP")]
    pub(crate) bind: Vec<IpAddr>,
    /// Name of this node. [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Network of the pods, at least a /24. Only when the instance is made. [default: a free one of 10.42.0.0/16, …]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<sampan_network::Cidr>,
    /// Network of service addresses. Only when the instance is made. [default: a free one of 10.43.0.0/16, …]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<sampan_network::Cidr>,
    /// A registry that may be spoken to in plain HTTP (HOST:PORT).
    #[arg(long, value_name = "HOST")]
    pub(crate) insecure_registry: Vec<String>,
    /// Ask MIRROR first for images of REGISTRY.
    #[arg(long, value_name = "REGISTRY=MIRROR", value_parser = parse_pair)]
    pub(crate) registry_mirror: Vec<(String, String)>,
    /// Port of the registry; 0 picks a free one. Remembered. [default: 5000, or a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) registry_port: Option<u16>,
    /// Record requests to the Kubernetes API as this audit.k8s.io/v1 Policy says.
    #[arg(long, value_name = "FILE", requires = "audit_log")]
    pub(crate) audit_policy: Option<PathBuf>,
    /// Where they are recorded, one JSON line each.
    #[arg(long, value_name = "FILE", requires = "audit_policy")]
    pub(crate) audit_log: Option<PathBuf>,
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
    /// Believe the token issuers of this AuthenticationConfiguration.
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    pub(crate) authentication_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) oidc: Oidc,
    /// Write a line to this descriptor once the node is ready. Set by `--detach`.
    #[arg(long, hide = true)]
    pub(crate) ready_fd: Option<i32>,
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

/// `sampan image …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Image {
    /// Build an image from a Dockerfile.
    Build(Build),
    /// Import a root file system tar, a docker archive or an OCI layout.
    Import {
        /// The file (or OCI layout directory).
        file: PathBuf,
        /// Name for the image; archives that carry names may go without.
        name: Option<String>,
        /// Default command for an imported root file system.
        #[arg(long, value_name = "ARG", num_args = 1..)]
        cmd: Vec<String>,
    },
    /// Pull an image from its registry.
    Pull(Pull),
    /// List images.
    #[command(visible_alias = "ls")]
    List(Output),
    /// Show one image in full.
    Inspect {
        /// The image.
        image: String,
        #[command(flatten)]
        output: Output,
    },
    /// Give an image a further name.
    Tag {
        /// The image.
        source: String,
        /// The new name.
        target: String,
    },
    /// Write an image to a docker archive (or an OCI layout tar).
    Save {
        /// The image.
        image: String,
        /// The file.
        #[arg(short = 'f', long, value_name = "FILE")]
        file: PathBuf,
        /// As an OCI layout.
        #[arg(long)]
        oci: bool,
    },
    /// Remove images.
    Rm {
        /// The images.
        #[arg(required = true)]
        images: Vec<String>,
        /// Even when a container still uses it.
        #[arg(short, long)]
        force: bool,
    },
    /// Free what no image needs.
    Prune {
        /// The build cache too.
        #[arg(long)]
        cache: bool,
    },
}

/// `sampan image pull`
#[derive(Clone, Debug, Args)]
pub(crate) struct Pull {
    /// The image.
    pub(crate) image: String,
    /// A registry that may be spoken to in plain HTTP (HOST:PORT).
    #[arg(long, value_name = "HOST")]
    pub(crate) insecure_registry: Vec<String>,
    /// User and password for the registry.
    #[arg(long, value_name = "USER:PASSWORD", env = "SAMPAN_REGISTRY_AUTH", hide_env_values = true)]
    pub(crate) auth: Option<String>,
}

/// `sampan image build`
#[derive(Clone, Debug, Args)]
pub(crate) struct Build {
    /// Directory that COPY reads from.
    #[arg(default_value = ".")]
    pub(crate) context: PathBuf,
    /// The Dockerfile. [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Name for the image; may be repeated.
    #[arg(short, long, value_name = "NAME:TAG")]
    pub(crate) tag: Vec<String>,
    /// Value of an ARG.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) build_arg: Vec<(String, String)>,
    /// Build this stage only.
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Do every step anew.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Give RUN no network.
    #[arg(long)]
    pub(crate) no_network: bool,
    /// Timestamp for everything in the image, in seconds since 1970, for reproducible builds.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<i64>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must have the form NAME=VALUE".to_owned()),
    }
}
