//! Building images from Dockerfiles.

mod cache;
mod chmod;
pub(crate) mod context;
pub(crate) mod copy;
mod copying;
mod exec;
mod expand;
mod git;
mod instruction;
pub(crate) mod mounts;
pub(crate) mod output;
mod parse;
mod plan;
mod remote;
mod run;
mod shared;
pub(crate) mod stage;

pub(crate) use cache::Step;
pub use shared::CacheTo;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::compress::Format;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Platform};
use crate::pull::PullOptions;
use crate::reference::Reference;
use crate::service::{ImageSummary, Images};

/// Options of one build.
#[derive(Clone)]
pub struct BuildOptions {
    /// The context directory: the only place that `COPY` and `ADD` read.
    pub context: PathBuf,
    /// The Dockerfile; `<context>/Dockerfile` when absent.
    pub dockerfile: Option<PathBuf>,
    /// Names for the result.
    pub tags: Vec<String>,
    /// Values for `ARG`.
    pub build_args: Vec<(String, String)>,
    /// Stop at this stage (`FROM … AS name`).
    pub target: Option<String>,
    /// More labels.
    pub labels: Vec<(String, String)>,
    /// Run every step again.
    pub no_cache: bool,
    /// Platforms of the result; the store's own when empty. Several make an index.
    pub platforms: Vec<Platform>,
    /// Sockets of SSH agents that `RUN --mount=type=ssh` may ask for, by id; git repositories are fetched with `default`.
    pub ssh: Vec<(String, PathBuf)>,
    /// What `RUN --mount=type=secret` may ask for, by id.
    pub secrets: Vec<(String, SecretSource)>,
    /// Further trees that `--from` may name.
    pub contexts: Vec<(String, PathBuf)>,
    /// Images whose lists of steps are asked when a step is not remembered here.
    pub cache_from: Vec<String>,
    /// Where results of steps are kept for others.
    pub cache_to: Vec<CacheTo>,
    /// Ask the registry for base images even when they are here.
    pub always_pull: bool,
    /// Archives and directories to write beside the store.
    pub outputs: Vec<BuildOutput>,
    /// How layers are compressed.
    pub compression: Compression,
    /// `SOURCE_DATE_EPOCH`: files are never newer, and the image says it was made then; now when absent.
    pub source_date_epoch: Option<i64>,
    /// Network of `RUN` steps.
    pub network: RunNetwork,
    /// Runs `RUN`; a Dockerfile with `RUN` fails with a clear error when there is none.
    pub run: Option<Arc<dyn RunStep>>,
    /// How a base image that is absent is fetched; `None`: base images must be present.
    pub pull: Option<PullOptions>,
    /// Receives events of steps.
    pub events: Option<Arc<dyn Fn(BuildEvent) + Send + Sync>>,
    /// Cancels the build.
    pub cancel: CancellationToken,
}

impl BuildOptions {
    /// Defaults for a context directory.
    pub fn new(context: impl Into<PathBuf>) -> Self {
        Self {
            context: context.into(),
            dockerfile: None,
            tags: Vec::new(),
            build_args: Vec::new(),
            target: None,
            labels: Vec::new(),
            no_cache: false,
            platforms: Vec::new(),
            ssh: Vec::new(),
            secrets: Vec::new(),
            contexts: Vec::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            always_pull: false,
            outputs: Vec::new(),
            compression: Compression::default(),
            source_date_epoch: None,
            network: RunNetwork::default(),
            run: None,
            pull: None,
            events: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// Where a secret's bytes are.
#[derive(Clone)]
pub enum SecretSource {
    /// In a file, read when a step asks for it.
    File(PathBuf),
    /// Here.
    Bytes(Vec<u8>),
}

/// Something to write besides the image in the store.
#[derive(Clone, Debug)]
pub struct BuildOutput {
    /// What.
    pub kind: OutputKind,
    /// The file, or the directory.
    pub dest: PathBuf,
    /// How an archive as a whole is compressed.
    pub compression: Compression,
}

/// What a build may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// An OCI layout as one tar.
    Oci,
    /// What `docker save` writes.
    Docker,
    /// The root file system as a directory; one below it for each platform when there are several.
    Local,
}

/// How layers of a built image are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: the fastest for images that stay on this node.
    None,
    /// gzip: understood everywhere.
    #[default]
    Gzip,
    /// zstd: smaller and faster, OCI only.
    Zstd,
}

impl Compression {
    pub(crate) fn format(self) -> Format {
        match self {
            Compression::None => Format::Plain,
            Compression::Gzip => Format::Gzip,
            Compression::Zstd => Format::Zstd,
        }
    }
}

/// What a finished build gives.
#[derive(Clone, Debug)]
pub struct BuildResult {
    /// The image; its `reference` is the first tag, or the digest when no tag was asked for.
    pub image: ImageSummary,
    /// Digest of the manifest; of the index when several platforms were built.
    pub digest: Digest,
    /// Steps that came from the cache.
    pub cached_steps: usize,
    /// All steps.
    pub steps: usize,
}

/// What happens during a build.
#[derive(Clone, Debug)]
pub enum BuildEvent {
    /// A step begins.
    Step {
        /// 1-based.
        number: usize,
        /// How many there are.
        of: usize,
        /// Its stage, with the platform before it when several are built.
        stage: String,
        /// The instruction, on one line.
        instruction: String,
    },
    /// A step came from the cache.
    Cached {
        /// The step.
        number: usize,
    },
    /// A line that a `RUN` printed.
    Output {
        /// The step.
        number: usize,
        /// Whether it came on stderr.
        stderr: bool,
        /// The line without its end.
        line: String,
    },
    /// A step is done.
    Done {
        /// The step.
        number: usize,
        /// How long it took.
        took: Duration,
        /// Bytes of its layer, zero when it made none.
        bytes: u64,
    },
    /// Something worth knowing, e.g. an unused build argument.
    Warning {
        /// The text.
        message: String,
    },
}

/// Network of a `RUN` step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunNetwork {
    /// Loopback only.
    None,
    /// The host's network.
    #[default]
    Host,
}

/// One `RUN` to execute in a throw-away container.
///
/// Mount the overlay with `redirect_dir=off,metacopy=off`, so that `upper` is a plain layer afterwards.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// overlayfs lower directories, top first; never empty.
    pub lower_dirs: Vec<PathBuf>,
    /// overlayfs upper directory: what the step changes ends here. On the same file system as `work`.
    pub upper: PathBuf,
    /// overlayfs work directory.
    pub work: PathBuf,
    /// An existing empty directory to mount the merged root on.
    pub merged: PathBuf,
    /// The command line.
    pub argv: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute; exists in the root.
    pub cwd: String,
    /// `USER` as written: `name`, `uid`, `name:group`; empty means root.
    pub user: String,
    /// Its network.
    pub network: RunNetwork,
    /// What is mounted, in order.
    pub mounts: Vec<RunMount>,
    /// Cancelled when the build is: kill the container then.
    pub cancel: CancellationToken,
}

/// A mount of a `RUN`.
#[derive(Clone, Debug)]
pub struct RunMount {
    /// Where, absolute; made when missing.
    pub target: PathBuf,
    /// What.
    pub source: RunMountSource,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What a [`RunMount`] shows.
#[derive(Clone)]
pub enum RunMountSource {
    /// A file or directory of this machine.
    Path(PathBuf),
    /// An empty memory file system.
    Tmpfs {
        /// Bytes that it holds at most.
        size: Option<u64>,
    },
    /// A socket that leads to an SSH agent: connections to it are connections to the agent's.
    Agent {
        /// The agent's own socket.
        socket: PathBuf,
        /// Mode of the socket in the container.
        mode: u32,
        /// Its owner and group.
        owner: (u32, u32),
    },
    /// A file that must never be written to a disk.
    Secret {
        /// Its content.
        bytes: Arc<[u8]>,
        /// Its mode.
        mode: u32,
        /// Its owner and group.
        owner: (u32, u32),
    },
}

impl std::fmt::Debug for RunMountSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Tmpfs { size } => write!(f, "Tmpfs({size:?})"),
            Self::Agent { socket, .. } => write!(f, "Agent({})", socket.display()),
            Self::Secret { .. } => f.write_str("Secret"),
        }
    }
}

/// Receives a line of output: whether it came on stderr, and the line without its end.
pub type RunOutput = Arc<dyn Fn(bool, String) + Send + Sync>;

/// Why a step could not be run at all.
pub type RunStepError = Box<dyn std::error::Error + Send + Sync>;

/// Executes `RUN` steps; the caller wires a container runtime to it.
pub trait RunStep: Send + Sync {
    /// Run to the end and give the exit code. Everything that was mounted is unmounted when this returns.
    fn run<'a>(
        &'a self,
        step: RunRequest,
        output: RunOutput,
    ) -> BoxFuture<'a, std::result::Result<i32, RunStepError>>;
}

pub(crate) async fn build(images: &Images, mut options: BuildOptions) -> Result<BuildResult> {
    let tags = options.tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<Vec<_>>>()?;
    if let Some(tag) = tags.iter().find(|tag| tag.digest().is_some()) {
        let reason = "a build is named by tag, not by digest".to_owned();
        return Err(Error::InvalidName { name: tag.to_string(), reason });
    }
    if options.platforms.is_empty() {
        options.platforms.push(images.inner.store.options.platform.clone());
    }
    if options.source_date_epoch.is_none()
        && let Some(text) = run::given(&options, "SOURCE_DATE_EPOCH").filter(|text| !text.is_empty())
    {
        let bad = |_| Error::archive("SOURCE_DATE_EPOCH", format!("{text:?} are no seconds since 1970"));
        options.source_date_epoch = Some(text.parse().map_err(bad)?);
    }
    // A build that is dropped takes its running steps with it.
    let guard = options.cancel.child_token();
    options.cancel = guard.clone();
    let _guard = guard.drop_guard();
    let file = options.dockerfile.clone().unwrap_or_else(|| options.context.join("Dockerfile"));
    let (dir, path, named) = (options.context.clone(), file.clone(), options.contexts.clone());
    let prepared = images.blocking(move |inner| {
        let dockerfile = parse::read(&path)?;
        let open = |dir: &std::path::Path| {
            std::fs::canonicalize(dir).map_err(Error::io("open the build context", dir))
        };
        let source = Arc::new(context::Source::context(&open(&dir)?, &path)?);
        let mut contexts = BTreeMap::new();
        for (name, dir) in &named {
            let source = context::Source::context(&open(dir)?, &dir.join("Dockerfile"))?;
            contexts.insert(name.to_ascii_lowercase(), Arc::new(source));
        }
        Ok((dockerfile, source, contexts, inner.store.lease()?))
    });
    let (dockerfile, context, contexts, lease) = prepared.await?;
    let (lease, options) = (Arc::new(lease), Arc::new(options));
    let kept = shared::Kept::default();
    let mut built = Vec::new();
    let (mut steps, mut cached) = (0, 0);
    for target in &options.platforms {
        let given = plan::Given {
            file: &file,
            build: &images.inner.store.options.platform,
            target,
            args: &|name| run::given(&options, name),
            stage: options.target.as_deref(),
        };
        let plan = plan::Plan::new(&dockerfile, &given)?;
        let several = options.platforms.len() > 1;
        let build = run::Build {
            images: images.clone(),
            lease: lease.clone(),
            options: options.clone(),
            used_args: Mutex::new(plan.used.clone()),
            plan,
            context: context.clone(),
            contexts: contexts.clone(),
            prefix: if several { format!("{target} ") } else { String::new() },
            cached: AtomicUsize::new(0),
            kept: kept.clone(),
            imported: shared::Imported::read(images, &options, target).await,
        };
        let stage = build.run().await?;
        for name in build.unused() {
            build.say(BuildEvent::Warning { message: format!("build argument {name} was not used") });
        }
        steps += build.plan.steps;
        cached += build.cached.load(std::sync::atomic::Ordering::Relaxed);
        built.push(build.finish(&stage).await?);
    }
    let layers: Vec<Descriptor> =
        built.iter().flat_map(|built| built.info.manifest.layers.iter().cloned()).collect();
    let results = output::Results::new(images, &lease, built).await?;
    let image = results.write(images, &tags, &options.outputs).await?;
    // Steps of others that are remembered here from now on count as cached.
    if cached < steps || !options.cache_from.is_empty() {
        images.blocking(|inner| inner.store.bound_cache()).await?;
    }
    // Last, so that a registry that is away does not cost the image.
    for to in &options.cache_to {
        if let CacheTo::Registry { reference, all } = to {
            let only = (!all).then_some(layers.as_slice());
            shared::export(images, &lease, &kept, reference, only, &options).await?;
        }
    }
    let digest = results.index.unwrap_or(image.digest);
    Ok(BuildResult { digest, image, cached_steps: cached, steps })
}
