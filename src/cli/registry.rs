//! `sampan registry …`

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

use super::Output;

/// `sampan registry …`
#[derive(Debug, Subcommand)]
pub(crate) enum Registry {
    /// Run a registry alone. (`sampan up` has one already.)
    Serve(Box<RegistryServe>),
    /// Show what is in it.
    Status(RegistryAt),
    /// Ask the administration: METHOD PATH [JSON], for everything that has no command of its own.
    Api {
        /// GET, POST, PUT, PATCH or DELETE.
        method: String,
        /// Below /api/v1/, for example `projects` or `replications/out/run`.
        path: String,
        /// The body.
        json: Option<String>,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// Make a project.
    ProjectCreate {
        /// The project.
        name: String,
        /// Anybody may pull.
        #[arg(long)]
        public: bool,
        /// Bytes at most; 0 for no limit.
        #[arg(long, default_value_t = 0, value_name = "BYTES")]
        quota: u64,
        /// Images come from this registry when they are asked for.
        #[arg(long, value_name = "URL")]
        proxy: Option<String>,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// List projects.
    Projects(RegistryAt),
    /// Give a user a role in a project.
    Member {
        /// The project.
        project: String,
        /// The user.
        user: String,
        /// guest, developer, maintainer, admin; or none to take it away.
        role: String,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// Make a user, and print the password if none is given.
    UserCreate {
        /// The user.
        name: String,
        /// The password. [default: a random one]
        #[arg(long, value_name = "PASSWORD", env = "SAMPAN_REGISTRY_PASSWORD", hide_env_values = true)]
        password: Option<String>,
        /// May do everything.
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// List users.
    Users(RegistryAt),
    /// Make an account for a machine, and print its secret.
    RobotCreate {
        /// The project.
        project: String,
        /// The robot.
        name: String,
        /// What it may do: pull, push, delete.
        #[arg(long, value_delimiter = ',', default_value = "pull", value_name = "ACTION")]
        actions: Vec<String>,
        /// Seconds that it is good for; 0 for ever.
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        ttl: u64,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// List the robots of a project.
    Robots {
        /// The project.
        project: String,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// Remove what nothing needs, now.
    Gc {
        /// What nothing has needed for so long. [default: as configured]
        #[arg(long, value_name = "SECONDS")]
        grace: Option<u64>,
        /// Cut everything into shared chunks too, whether or not it lies idle.
        #[arg(long)]
        pack: bool,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// Read everything and compare it with its digest.
    Scrub(RegistryAt),
    /// Find projects, repositories and images.
    Search {
        /// A part of a name, tag or label.
        word: String,
        #[command(flatten)]
        at: RegistryAt,
    },
    /// Show who did what.
    Audit {
        /// The newest so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        at: RegistryAt,
    },
}

/// Which registry, and how to print.
#[derive(Clone, Debug, Args)]
pub(crate) struct RegistryAt {
    /// Its directory. [default: that of this instance]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `sampan registry serve`
#[derive(Clone, Debug, Args)]
pub(crate) struct RegistryServe {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Metadata, uploads in progress and, without a bucket, the blobs. [default: registry in the data directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep blobs in this S3-compatible bucket.
    #[arg(long, value_name = "BUCKET")]
    pub(crate) s3: Option<String>,
    /// The S3 service. [default: Amazon's]
    #[arg(long, value_name = "URL", requires = "s3")]
    pub(crate) s3_endpoint: Option<String>,
    /// Put before each key in the bucket.
    #[arg(long, default_value = "", value_name = "PREFIX")]
    pub(crate) s3_prefix: String,
    /// Region of the bucket.
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1", value_name = "REGION")]
    pub(crate) s3_region: String,
    /// Access key of the bucket.
    #[arg(long, env = "AWS_ACCESS_KEY_ID", default_value = "", value_name = "KEY", hide_env_values = true)]
    pub(crate) s3_access_key: String,
    /// Secret key of the bucket.
    #[arg(
        long,
        env = "AWS_SECRET_ACCESS_KEY",
        default_value = "",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub(crate) s3_secret_key: String,
    /// Certificate, PEM. [default: one of an authority of its own, in `tls` below the directory]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Speak plain HTTP: behind a proxy that speaks TLS, or on loopback.
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Ask nobody who they are: for a network where everybody may do everything.
    #[arg(long)]
    pub(crate) open: bool,
    /// How people reach it, when that is not how they ask.
    #[arg(long, value_name = "URL")]
    pub(crate) external_url: Option<String>,
    /// Write manifest pulls into the audit log too.
    #[arg(long)]
    pub(crate) audit_pulls: bool,
    /// Further authorities for upstreams, replication and webhooks, PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Seconds that unreferenced blobs are kept.
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    pub(crate) gc_grace: u64,
    /// Seconds between collections.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) gc_every: u64,
    /// Seconds without a read after which blobs are cut into shared chunks; 0 never.
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    pub(crate) pack_after: u64,
    /// Bytes of whole copies of packed blobs that are read; 0 keeps none.
    #[arg(long, default_value_t = 8 << 30, value_name = "BYTES")]
    pub(crate) hot_bytes: u64,
}
