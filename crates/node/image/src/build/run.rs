//! Running a build for one platform: stages side by side, steps from the cache or done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::future::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use sampan_daemon::clock;

use super::cache::{self, NewLayer, Step};
use super::context::Source;
use super::copy::Target;
use super::instruction::PREDEFINED;
use super::parse::{Instruction, Line, trigger};
use super::plan::Plan;
use super::shared::{Imported, Kept};
use super::stage::{Stage, commit};
use super::{BuildEvent, BuildOptions};
use crate::compress::Format;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::lookup::Layered;
use crate::oci::Platform;
use crate::reference::Reference;
use crate::service::{Images, Inner};
use crate::store::lease::Lease;
use crate::store::locked;

/// Changes of how layers are made forget the cache.
const CACHE_FORMAT: u32 = 2;
/// Stages that run at the same time.
const PARALLEL: usize = 4;

/// What all stages share.
pub(super) struct Build {
    pub(super) images: Images,
    pub(super) lease: Arc<Lease>,
    pub(super) options: Arc<BuildOptions>,
    pub(super) plan: Plan,
    pub(super) context: Arc<Source>,
    /// Further trees that `--from` may name.
    pub(super) contexts: BTreeMap<String, Arc<Source>>,
    /// Said before a step's stage when several platforms are built.
    pub(super) prefix: String,
    pub(super) cached: AtomicUsize,
    pub(super) used_args: Mutex<BTreeSet<String>>,
    /// Steps that were done or remembered.
    pub(super) kept: Kept,
    /// Steps that others did.
    pub(super) imported: Imported,
}

/// Stages that are done.
pub(super) type Done = BTreeMap<usize, Arc<Stage>>;

/// Where the build stands.
#[derive(Clone, Copy)]
pub(super) struct Here<'a> {
    pub(super) line: &'a Line,
    /// Number of the step.
    pub(super) number: usize,
    /// Which stage.
    pub(super) at: usize,
    pub(super) done: &'a Done,
}

impl Build {
    /// All stages that are needed; gives the wanted one.
    pub(super) async fn run(&self) -> Result<Arc<Stage>> {
        let mut done = Done::new();
        let mut waiting = self.plan.needed.clone();
        let mut running = FuturesUnordered::new();
        let mut failed = None;
        loop {
            let ready = waiting
                .iter()
                .copied()
                .find(|at| self.plan.parts[*at].needs.iter().all(|other| done.contains_key(other)));
            if let Some(at) = ready
                && failed.is_none()
                && running.len() < PARALLEL
            {
                waiting.remove(&at);
                running.push(self.stage(at, done.clone()).map(move |stage| (at, stage)));
                continue;
            }
            match running.next().await {
                None => break,
                Some((at, Ok(stage))) => drop(done.insert(at, Arc::new(stage))),
                Some((_, Err(error))) => {
                    failed.get_or_insert(error);
                    // The others end before this does: their steps may have mounts.
                    self.options.cancel.cancel();
                }
            }
        }
        match (failed, done.remove(&self.plan.target)) {
            (Some(error), _) => Err(error),
            (None, Some(stage)) => Ok(stage),
            (None, None) => Err(Error::Cancelled { what: "the build".into() }),
        }
    }

    /// Arguments that no instruction asked for.
    pub(super) fn unused(&self) -> Vec<String> {
        let used = locked(&self.used_args);
        let unused = self.options.build_args.iter().filter(|(name, _)| {
            !used.contains(name)
                && !PREDEFINED.contains(&name.as_str())
                && !name.starts_with("BUILDKIT_")
                && name != "SOURCE_DATE_EPOCH"
        });
        unused.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn say(&self, event: BuildEvent) {
        if let Some(events) = &self.options.events {
            events(event);
        }
    }

    pub(super) fn given(&self, name: &str) -> Option<String> {
        given(&self.options, name)
    }

    async fn stage(&self, at: usize, done: Done) -> Result<Stage> {
        let part = &self.plan.parts[at];
        let name = part.name.clone().unwrap_or_else(|| format!("stage-{at}"));
        let name = format!("{}{name}", self.prefix);
        let mut stage = Stage::default();
        for (index, line) in part.lines.iter().enumerate() {
            if self.options.cancel.is_cancelled() {
                return Err(Error::Cancelled { what: "the build".into() });
            }
            let number = part.first + index;
            let here = Here { line, number, at, done: &done };
            let (begun, layers) = (Instant::now(), stage.layers.len());
            self.say(BuildEvent::Step {
                number,
                of: self.plan.steps,
                stage: name.clone(),
                instruction: line.text.clone(),
            });
            let result = if index == 0 {
                self.from(&here, &mut stage).await
            } else {
                self.step(&here, &mut stage).await
            };
            result.map_err(|error| self.explain(line, error))?;
            let made = if index == 0 { &[] } else { &stage.layers[layers..] };
            let bytes = made.iter().map(|layer| layer.size).sum();
            self.say(BuildEvent::Done { number, took: begun.elapsed(), bytes });
        }
        Ok(stage)
    }

    fn explain(&self, line: &Line, error: Error) -> Error {
        match error {
            Error::Cancelled { .. } | Error::Dockerfile { .. } | Error::BuildStep { .. } => error,
            error => Error::BuildStep {
                file: self.plan.file.clone(),
                line: line.number,
                instruction: line.text.chars().take(80).collect(),
                reason: error.to_string(),
            },
        }
    }

    pub(super) fn wrong(&self, line: &Line, reason: impl Into<String>) -> Error {
        self.plan.wrong(line, reason)
    }

    /// Put variables into a word.
    pub(super) fn expand(&self, here: &Here<'_>, stage: &Stage, word: &str) -> Result<String> {
        stage.expand(word, self.plan.escape).map_err(|reason| self.wrong(here.line, reason))
    }

    async fn from(&self, here: &Here<'_>, stage: &mut Stage) -> Result<()> {
        let part = &self.plan.parts[here.at];
        let earlier = self.plan.find(here.at, &part.image).and_then(|other| here.done.get(&other));
        *stage = match earlier {
            Some(earlier) => earlier.continued(),
            None if part.image == "scratch" => Stage::scratch(&part.platform),
            None => self.base(&part.image, &part.platform).await?,
        };
        for text in stage.config.on_build.take().unwrap_or_default() {
            let bad = |reason: String| self.wrong(here.line, format!("ONBUILD {text:?}: {reason}"));
            let line = trigger(&text, self.plan.escape).map_err(bad)?;
            let line = Line { number: here.line.number, ..line };
            // Boxed: a step may be the beginning of a stage again.
            Box::pin(self.step(&Here { line: &line, ..*here }, stage)).await?;
        }
        Ok(())
    }

    /// Files that `from=` names: a stage, a further context, or an image.
    pub(super) async fn source(&self, here: &Here<'_>, from: &str) -> Result<(Arc<Source>, String)> {
        if let Some(stage) = self.plan.find(here.at, from).and_then(|other| here.done.get(&other)) {
            let source = Source::layers(&stage.lowers, &format!("stage {from}"));
            return Ok((Arc::new(source), stage.key.clone()));
        }
        if let Some(context) = self.contexts.get(&from.to_ascii_lowercase()) {
            return Ok((context.clone(), String::new()));
        }
        let stage = self.base(from, &self.plan.parts[here.at].platform).await?;
        Ok((Arc::new(Source::layers(&stage.lowers, &format!("image {from}"))), stage.key))
    }

    /// An image as a stage, pulled when that is allowed.
    async fn base(&self, image: &str, platform: &Platform) -> Result<Stage> {
        let (name, wanted) = (image.to_owned(), platform.clone());
        let (here, other) = self.images.blocking(move |inner| inner.find_platform(&name, &wanted)).await?;
        let pull = self.options.pull.as_ref();
        let digest = match (here, pull) {
            (Some(digest), _) if !self.options.always_pull => digest,
            (_, Some(pull)) => {
                let mut pull = pull.clone();
                pull.platform = Some(platform.clone());
                pull.cancel = self.options.cancel.clone();
                match (self.images.pull(image, pull).await, other) {
                    (Ok(pulled), _) => pulled.digest,
                    (Err(error), Some(other)) => {
                        let reason =
                            format!("here it is for {other}; for {platform} it was not pulled: {error}");
                        return Err(Error::archive(image, reason));
                    }
                    (Err(error), None) => return Err(error),
                }
            }
            (_, None) => {
                if let Some(other) = other {
                    let reason = format!("the image is for {other} here, wanted is {platform}");
                    return Err(Error::archive(image, reason));
                }
                let name = Reference::parse(image)?.to_string();
                return Err(Error::NotPresent { name });
            }
        };
        let lease = self.lease.clone();
        self.images
            .blocking(move |inner| {
                let info = inner.store.info(&digest)?;
                inner.store.protect(&lease, info.content())?;
                Stage::image(&inner, &info)
            })
            .await
    }

    async fn step(&self, here: &Here<'_>, stage: &mut Stage) -> Result<()> {
        match &here.line.instruction {
            Instruction::Copy(copy) => self.copy(here, copy, stage).await,
            Instruction::Run(run) => self.execute(here, run, stage).await,
            Instruction::Workdir(word) => self.workdir(here, word, stage).await,
            instruction => {
                if let Instruction::Arg(args) = instruction {
                    locked(&self.used_args).extend(args.iter().map(|(name, _)| name.clone()));
                }
                let globals = &self.plan.globals;
                let argument = |name: &str| self.given(name).or_else(|| globals.get(name).cloned());
                stage
                    .apply(instruction, self.plan.escape, &argument)
                    .map_err(|reason| self.wrong(here.line, reason))?;
                // Arguments count for the steps that see them, not for themselves.
                if !matches!(instruction, Instruction::Arg(_)) {
                    let state = serde_json::to_string(&stage.config).unwrap_or_default();
                    stage.mix(&state);
                }
                stage.record(&here.line.text, true, None);
                Ok(())
            }
        }
    }

    pub(super) fn created(&self) -> String {
        let epoch = self.options.source_date_epoch.and_then(|epoch| jiff::Timestamp::from_second(epoch).ok());
        clock::rfc3339(epoch.unwrap_or_else(clock::now))
    }

    /// How a step's files become a layer.
    pub(super) fn maker(&self) -> Maker {
        Maker {
            lease: self.lease.clone(),
            format: self.options.compression.format(),
            epoch: self.options.source_date_epoch,
            created: self.created(),
            kept: self.kept.clone(),
        }
    }

    /// Look a step up, and mix it into the stage's key. Gives the key, and what is remembered.
    pub(super) async fn recall(
        &self,
        here: &Here<'_>,
        stage: &mut Stage,
        text: &str,
        alone: bool,
    ) -> Result<(Digest, Option<Step>)> {
        let epoch = self.options.source_date_epoch;
        let text = format!("{CACHE_FORMAT} {:?} {epoch:?} {text}", self.options.compression.format());
        stage.mix(&text);
        // A linked layer is the same whatever it lies on.
        let key = if alone { Digest::of(text.as_bytes()) } else { Digest::of(stage.key.as_bytes()) };
        if self.options.no_cache {
            return Ok((key, None));
        }
        let (lease, cancel) = (self.lease.clone(), self.options.cancel.clone());
        let step =
            self.images.blocking(move |inner| Ok(cache::get(&inner.store, &lease, &key, &cancel))).await?;
        let step = match step {
            None => self.ask_others(&key).await?,
            step => step,
        };
        if let Some(step) = &step {
            locked(&self.kept).insert(key, step.clone());
            self.cached.fetch_add(1, Ordering::Relaxed);
            self.say(BuildEvent::Cached { number: here.number });
        }
        Ok((key, step))
    }

    /// Take a step's result into the stage.
    pub(super) fn take(&self, stage: &mut Stage, text: &str, step: &Step) -> Result<()> {
        if let Some(layer) = &step.layer {
            stage.push(&self.images.inner, layer)?;
        }
        stage.created = Some(step.created.clone());
        stage.record(text, step.layer.is_none(), Some(&step.created));
        Ok(())
    }

    async fn workdir(&self, here: &Here<'_>, word: &str, stage: &mut Stage) -> Result<()> {
        let word = self.expand(here, stage, word)?;
        let path = normal(&stage.workdir().join(word));
        stage.config.working_dir = Some(path.display().to_string());
        stage.mix(&format!("WORKDIR {}", path.display()));
        let exists = {
            let (stack, path) = (Layered::new(&stage.lowers), path.clone());
            self.images.blocking(move |_| stack.lookup(&path, true)).await?
        };
        if exists.is_dir() || path == Path::new("/") {
            stage.record(&here.line.text, true, None);
            return Ok(());
        }
        let (key, step) = self.recall(here, stage, "mkdir", false).await?;
        let step = match step {
            Some(step) => step,
            None => {
                let (maker, lowers) = (self.maker(), stage.lowers.clone());
                self.images
                    .blocking(move |inner| {
                        let upper = maker.lease.scratch_dir("upper")?;
                        let target = Target { upper: &upper, lowers: &lowers, owner: None, chmod: None };
                        let mut stack = vec![upper.clone()];
                        stack.extend_from_slice(&lowers);
                        let stack = Layered::new(&stack);
                        let resolved = stack.lookup(&path, true)?.path;
                        target.directories(&stack, &resolved)?;
                        maker.remember(&inner, &upper, &key)
                    })
                    .await?
            }
        };
        self.take(stage, &here.line.text, &step)
    }
}

/// A build argument; the last of the same name counts.
pub(super) fn given(options: &BuildOptions, name: &str) -> Option<String> {
    options.build_args.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.clone())
}

/// Makes layers of directories.
pub(super) struct Maker {
    pub(super) lease: Arc<Lease>,
    format: Format,
    epoch: Option<i64>,
    created: String,
    kept: Kept,
}

impl Maker {
    /// Commit a step's files and write the cache entry.
    pub(super) fn remember(self, inner: &Inner, upper: &Path, key: &Digest) -> Result<Step> {
        let layer: Option<NewLayer> = commit(inner, &self.lease, upper, self.format, self.epoch)?;
        let step = Step { layer, created: self.created };
        cache::put(&inner.store, key, &step)?;
        locked(&self.kept).insert(*key, step.clone());
        Ok(step)
    }
}

/// `a/./b/../c` without looking at symlinks, absolute.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}
