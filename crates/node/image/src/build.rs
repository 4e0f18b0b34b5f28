//! Building images from Dockerfiles.

mod cache;
mod context;
mod copy;
mod expand;
mod instruction;
mod parse;
mod run;
mod stage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::progress::ProgressFn;
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
    /// Receives progress of base images' pulls.
    pub progress: Option<ProgressFn>,
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
            compression: Compression::default(),
            source_date_epoch: None,
            network: RunNetwork::default(),
            run: None,
            pull: None,
            events: None,
            progress: None,
            cancel: CancellationToken::new(),
        }
    }
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

/// What a finished build gives.
#[derive(Clone, Debug)]
pub struct BuildResult {
    /// The image; its `reference` is the first tag, or the digest when no tag was asked for.
    pub image: ImageSummary,
    /// Digest of the manifest.
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
    /// Cancelled when the build is: kill the container then.
    pub cancel: CancellationToken,
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
    let file = options.dockerfile.clone().unwrap_or_else(|| options.context.join("Dockerfile"));
    let (context, path) = (options.context.clone(), file.clone());
    let prepared = images.blocking(move |inner| {
        let dockerfile = parse::read(&path)?;
        let context =
            std::fs::canonicalize(&context).map_err(Error::io("open the build context", &context))?;
        let source = context::Source::context(&context, &path)?;
        Ok((dockerfile, source, inner.store.lease()?))
    });
    let (dockerfile, context, lease) = prepared.await?;
    // A build that is dropped takes its running step with it.
    let guard = options.cancel.child_token();
    options.cancel = guard.clone();
    let _guard = guard.drop_guard();
    let build = run::Build {
        images: images.clone(),
        lease: Arc::new(lease),
        options,
        file,
        dockerfile,
        context: Arc::new(context),
        tags,
        number: 0,
        of: 0,
        cached: 0,
        used_args: Default::default(),
    };
    build.run().await
}
