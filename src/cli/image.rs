//! `sampan image …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Output, parse_pair};

/// `sampan image …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Image {
    /// Build an image from a Dockerfile.
    Build(Box<Build>),
    /// Import a root file system tar, a docker archive or an OCI layout.
    #[command(visible_alias = "load")]
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
    /// Send an image to its registry, with all platforms it was built for.
    Push(Push),
    /// Write images to a docker archive (or an OCI layout tar).
    Save {
        /// The images.
        #[arg(required = true)]
        images: Vec<String>,
        /// The file; - is stdout.
        #[arg(short = 'f', long, visible_short_alias = 'o', value_name = "FILE")]
        file: PathBuf,
        /// As an OCI layout.
        #[arg(long)]
        oci: bool,
        /// How the archive is compressed. [default: as the file's name says, else not at all]
        #[arg(long, value_enum)]
        compression: Option<Compression>,
    },
    /// Say where the bytes of images are, and which of them nobody needs.
    Analyze(Analyze),
    /// Make a smaller image that does the same.
    Slim(Slim),
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
        /// The build cache too, and directories of RUN --mount=type=cache.
        #[arg(long)]
        cache: bool,
    },
}

/// `sampan image pull`
#[derive(Clone, Debug, Args)]
pub(crate) struct Pull {
    /// The image.
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) access: Access,
}

/// `sampan image push`
#[derive(Clone, Debug, Args)]
pub(crate) struct Push {
    /// The image.
    pub(crate) image: String,
    /// Its name at the registry. [default: the same]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
}

/// How registries are reached.
#[derive(Clone, Debug, Args)]
pub(crate) struct Access {
    /// A registry that may be spoken to in plain HTTP (HOST:PORT).
    #[arg(long, value_name = "HOST")]
    pub(crate) insecure_registry: Vec<String>,
    /// User and password for the registry.
    #[arg(long, value_name = "USER:PASSWORD", env = "SAMPAN_REGISTRY_AUTH", hide_env_values = true)]
    pub(crate) auth: Option<String>,
}

/// How archives and layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// Understood everywhere.
    Gzip,
    /// Smaller and faster.
    Zstd,
}

/// `sampan image analyze`
#[derive(Clone, Debug, Args)]
pub(crate) struct Analyze {
    /// The images; several are compared.
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `sampan image slim`
#[derive(Clone, Debug, Args)]
pub(crate) struct Slim {
    /// The image.
    pub(crate) image: String,
    /// Name for the result. [default: the image's, with -slim behind its tag]
    #[arg(short, long, value_name = "NAME:TAG")]
    pub(crate) tag: Option<String>,
    /// A shell command that must succeed in the running container, instead of its HEALTHCHECK.
    #[arg(long, value_name = "CMD")]
    pub(crate) check: Option<String>,
    /// Run the image and keep what it opens, instead of guessing from packages and named paths.
    #[arg(long)]
    pub(crate) trace: bool,
    /// A shell command to run in the container once it is well; may be repeated.
    #[arg(long, value_name = "CMD")]
    pub(crate) exercise: Vec<String>,
    /// Paths to keep, as .dockerignore writes patterns; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(crate) keep: Vec<String>,
    /// A language whose translations and formats stay, besides English and those of LANG and LC_*; may be repeated.
    #[arg(long, value_name = "CODE")]
    pub(crate) language: Vec<String>,
    /// Show what would go, and make nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long a container may take to be well.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
    /// Set by the command itself.
    #[arg(long, hide = true)]
    pub(crate) private_mounts: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `sampan image build`
#[derive(Clone, Debug, Args)]
pub(crate) struct Build {
    /// Directory that COPY reads from; - takes the Dockerfile alone from stdin.
    #[arg(default_value = ".")]
    pub(crate) context: PathBuf,
    /// The Dockerfile; - is stdin. [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Name for the image; may be repeated.
    #[arg(short, long, value_name = "NAME:TAG")]
    pub(crate) tag: Vec<String>,
    /// Value of an ARG; a name alone takes the environment's.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// A further tree that --from may name.
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_pair)]
    pub(crate) build_context: Vec<(String, String)>,
    /// A secret that RUN --mount=type=secret may see: id=NAME,src=FILE or id=NAME,env=VARIABLE.
    #[arg(long, value_name = "SECRET")]
    pub(crate) secret: Vec<String>,
    /// An SSH agent that RUN --mount=type=ssh may ask, and git repositories are fetched with: default, or ID=SOCKET.
    #[arg(long, value_name = "ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,
    /// Build this stage only.
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// A label for the image.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Platforms to build for; several make one image.
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// Do every step anew.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// An image whose layers save steps, built with --cache-to: a name, or type=registry,ref=NAME.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) cache_from: Vec<String>,
    /// Keep what steps made for other machines: type=inline, or type=registry,ref=NAME[,mode=max].
    #[arg(long, value_name = "WHERE")]
    pub(crate) cache_to: Vec<String>,
    /// Ask registries for newer base images.
    #[arg(long)]
    pub(crate) pull: bool,
    /// Network of RUN.
    #[arg(long, value_enum, default_value = "host")]
    pub(crate) network: Network,
    /// Give RUN no network.
    #[arg(long, hide = true)]
    pub(crate) no_network: bool,
    /// Something to write: type=oci|docker,dest=FILE, or type=local,dest=DIR. May be repeated.
    #[arg(short, long, value_name = "OUTPUT")]
    pub(crate) output: Vec<String>,
    /// Send the image to the registries of its names.
    #[arg(long)]
    pub(crate) push: bool,
    /// How layers are compressed.
    #[arg(long, value_enum, default_value = "gzip")]
    pub(crate) compression: Compression,
    /// Write the digest of the image's config there.
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Say nothing but the result.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How progress is shown.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) progress: ProgressStyle,
    /// Timestamp for everything in the image, in seconds since 1970, for reproducible builds.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<i64>,
    #[command(flatten)]
    pub(crate) access: Access,
}

/// Network of build steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Loopback only.
    None,
    /// The host's.
    #[value(alias = "default")]
    Host,
}

/// How a build shows where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// Live on a terminal, lines elsewhere.
    Auto,
    /// Lines.
    Plain,
}
