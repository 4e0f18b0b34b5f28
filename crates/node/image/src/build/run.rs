//! The build itself: stages in order, steps from the cache or done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sampan_daemon::clock;

use super::cache::{self, NewLayer, Step};
use super::context::Source;
use super::copy::{Target, digest};
use super::expand::expand;
use super::instruction::PREDEFINED;
use super::parse::{Copy, Dockerfile, Form, Instruction, Line};
use super::stage::{Stage, commit};
use super::{BuildEvent, BuildOptions, BuildResult, Compression, RunNetwork, RunOutput, RunRequest};
use crate::compress::{Decoder, Format};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layers::unpack::unpack;
use crate::layers::{ingest, lookup::Layered};
use crate::oci::{self, Descriptor, ImageFile, Manifest, RootFs};
use crate::reference::Reference;
use crate::service::{Images, Inner};
use crate::store::info::ImageInfo;
use crate::store::lease::Lease;

/// Changes of how layers are made forget the cache.
const CACHE_FORMAT: u32 = 1;

/// What all steps share.
pub(super) struct Build {
    pub(super) images: Images,
    pub(super) lease: Arc<Lease>,
    pub(super) options: BuildOptions,
    pub(super) file: PathBuf,
    pub(super) dockerfile: Dockerfile,
    pub(super) context: Arc<Source>,
    pub(super) tags: Vec<Reference>,
    pub(super) number: usize,
    pub(super) of: usize,
    pub(super) cached: usize,
    pub(super) used_args: BTreeSet<String>,
}

/// Lines of one stage: its `FROM` and what follows.
struct Part {
    name: Option<String>,
    image: String,
    lines: Vec<Line>,
}

impl Build {
    pub(super) async fn run(mut self) -> Result<BuildResult> {
        let (globals, parts) = self.parts()?;
        let last = self.target(&parts)?;
        let needed = self.needed(&parts, last)?;
        self.of = needed.iter().map(|at| parts[*at].lines.len()).sum();
        let mut stages: BTreeMap<usize, Stage> = BTreeMap::new();
        for at in needed {
            let stage = self.stage(&parts, at, &stages, &globals).await?;
            stages.insert(at, stage);
        }
        for (name, _) in &self.options.build_args {
            if !self.used_args.contains(name) && !PREDEFINED.contains(&name.as_str()) {
                self.say(BuildEvent::Warning { message: format!("build argument {name} was not used") });
            }
        }
        let stage = stages.remove(&last).unwrap_or_default();
        self.finish(stage).await
    }

    fn say(&self, event: BuildEvent) {
        if let Some(events) = &self.options.events {
            events(event);
        }
    }

    fn wrong(&self, line: &Line, reason: impl Into<String>) -> Error {
        Error::Dockerfile { file: self.file.clone(), line: line.number, reason: reason.into() }
    }

    fn given(&self, name: &str) -> Option<String> {
        self.options.build_args.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.clone())
    }

    /// Arguments before the first `FROM`, and the stages.
    fn parts(&mut self) -> Result<(BTreeMap<String, String>, Vec<Part>)> {
        let mut globals = BTreeMap::new();
        let platform = &self.images.inner.store.options.platform;
        for (prefix, full) in [("TARGET", platform), ("BUILD", platform)] {
            globals.insert(format!("{prefix}PLATFORM"), full.to_string());
            globals.insert(format!("{prefix}OS"), full.os.clone());
            globals.insert(format!("{prefix}ARCH"), full.architecture.clone());
        }
        let mut parts: Vec<Part> = Vec::new();
        let escape = self.dockerfile.escape;
        for line in self.dockerfile.lines.clone() {
            match (&line.instruction, parts.last_mut()) {
                (Instruction::From { image, name, platform }, _) => {
                    let put_in = |word: &str| {
                        expand(word, escape, &|name| globals.get(name).cloned())
                            .map_err(|reason| self.wrong(&line, reason))
                    };
                    let image = put_in(image)?;
                    if image.is_empty() {
                        return Err(self.wrong(
                            &line,
                            "FROM is empty after variables were put in (hint: give the ARG a default)",
                        ));
                    }
                    if let Some(platform) = platform {
                        self.check_platform(&line, &put_in(platform)?)?;
                    }
                    parts.push(Part { name: name.clone(), image, lines: vec![line] });
                }
                (_, Some(part)) => part.lines.push(line),
                (Instruction::Arg(args), None) => {
                    for (name, default) in args {
                        let default = default
                            .as_ref()
                            .map(|word| expand(word, escape, &|name| globals.get(name).cloned()))
                            .transpose()
                            .map_err(|reason| self.wrong(&line, reason))?;
                        if let Some(value) = self.given(name).or(default) {
                            globals.insert(name.clone(), value);
                        }
                        self.used_args.insert(name.clone());
                    }
                }
                (_, None) => return Err(self.wrong(&line, "the first instruction must be FROM")),
            }
        }
        Ok((globals, parts))
    }

    fn check_platform(&self, line: &Line, text: &str) -> Result<()> {
        let own = &self.images.inner.store.options.platform;
        match oci::Platform::parse(text) {
            Some(platform) if own.accepts(&platform) => Ok(()),
            Some(platform) => Err(self.wrong(line, format!("cannot build for {platform} on {own}"))),
            None => Err(self.wrong(line, format!("{text:?} is no platform (hint: linux/amd64)"))),
        }
    }

    fn target(&self, parts: &[Part]) -> Result<usize> {
        let Some(target) = &self.options.target else { return Ok(parts.len().saturating_sub(1)) };
        find_stage(parts, parts.len(), target).ok_or_else(|| Error::Dockerfile {
            file: self.file.clone(),
            line: 1,
            reason: format!("there is no stage {target:?}"),
        })
    }

    /// Stages that the target needs, in order.
    fn needed(&self, parts: &[Part], target: usize) -> Result<BTreeSet<usize>> {
        let mut needed = BTreeSet::new();
        let mut todo = vec![target];
        while let Some(at) = todo.pop() {
            if !needed.insert(at) {
                continue;
            }
            todo.extend(find_stage(parts, at, &parts[at].image));
            for line in &parts[at].lines {
                if let Instruction::Copy(Copy { from: Some(from), .. }) = &line.instruction {
                    todo.extend(find_stage(parts, at, from));
                    if find_stage(parts, parts.len(), from).is_some_and(|other| other >= at) {
                        return Err(self.wrong(line, format!("--from={from} names a stage that comes later")));
                    }
                }
            }
        }
        Ok(needed)
    }

    async fn stage(
        &mut self,
        parts: &[Part],
        at: usize,
        done: &BTreeMap<usize, Stage>,
        globals: &BTreeMap<String, String>,
    ) -> Result<Stage> {
        let part = &parts[at];
        let mut stage = Stage::default();
        for (index, line) in part.lines.iter().enumerate() {
            if self.options.cancel.is_cancelled() {
                return Err(Error::Cancelled { what: "the build".into() });
            }
            self.number += 1;
            let (number, of, begun) = (self.number, self.of, Instant::now());
            self.say(BuildEvent::Step { number, of, instruction: line.text.clone() });
            let layers = stage.layers.len();
            let result = if index == 0 {
                self.from(parts, at, done).await.map(|base| stage = base)
            } else {
                self.step(line, &mut stage, (parts, at, done), globals).await
            };
            result.map_err(|error| self.explain(line, error))?;
            let bytes =
                if index == 0 { 0 } else { stage.layers[layers..].iter().map(|layer| layer.size).sum() };
            self.say(BuildEvent::Done { number, took: begun.elapsed(), bytes });
        }
        Ok(stage)
    }

    fn explain(&self, line: &Line, error: Error) -> Error {
        match error {
            Error::Cancelled { .. } | Error::Dockerfile { .. } | Error::BuildStep { .. } => error,
            error => Error::BuildStep {
                file: self.file.clone(),
                line: line.number,
                instruction: line.text.chars().take(80).collect(),
                reason: error.to_string(),
            },
        }
    }

    async fn from(&self, parts: &[Part], at: usize, done: &BTreeMap<usize, Stage>) -> Result<Stage> {
        let image = &parts[at].image;
        if let Some(stage) = find_stage(parts, at, image).and_then(|other| done.get(&other)) {
            return Ok(stage.continued());
        }
        if image == "scratch" {
            return Ok(Stage::scratch());
        }
        self.base(image).await
    }

    /// An image as a stage, pulled when that is allowed.
    async fn base(&self, image: &str) -> Result<Stage> {
        let found = self.images.find(image).await?;
        let found = match (found, &self.options.pull) {
            (Some(found), _) => found,
            (None, Some(pull)) => {
                let mut pull = pull.clone();
                pull.progress = pull.progress.or_else(|| self.options.progress.clone());
                pull.cancel = self.options.cancel.clone();
                self.images.pull(image, pull).await?
            }
            (None, None) => {
                let name = Reference::parse(image)?.to_string();
                return Err(Error::NotPresent { name });
            }
        };
        let lease = self.lease.clone();
        self.images
            .blocking(move |inner| {
                let info = inner.store.info(&found.digest)?;
                inner.store.protect(&lease, info.content())?;
                Stage::image(&inner, &info)
            })
            .await
    }

    async fn step(
        &mut self,
        line: &Line,
        stage: &mut Stage,
        stages: (&[Part], usize, &BTreeMap<usize, Stage>),
        globals: &BTreeMap<String, String>,
    ) -> Result<()> {
        match &line.instruction {
            Instruction::Copy(copy) => self.copy(line, copy, stage, stages).await,
            Instruction::Run { form, network } => self.execute(line, form, network.as_deref(), stage).await,
            Instruction::Workdir(word) => self.workdir(line, word, stage).await,
            instruction => {
                let escape = self.dockerfile.escape;
                if let Instruction::Arg(args) = instruction {
                    self.used_args.extend(args.iter().map(|(name, _)| name.clone()));
                }
                let argument = |name: &str| self.given(name).or_else(|| globals.get(name).cloned());
                stage.apply(instruction, escape, &argument).map_err(|reason| self.wrong(line, reason))?;
                // Arguments count for the steps that see them, not for themselves.
                if !matches!(instruction, Instruction::Arg(_)) {
                    let state = serde_json::to_string(&stage.config).unwrap_or_default();
                    stage.mix(&state);
                }
                stage.record(&line.text, true, None);
                Ok(())
            }
        }
    }

    fn format(&self) -> Format {
        match self.options.compression {
            Compression::None => Format::Plain,
            Compression::Gzip => Format::Gzip,
            Compression::Zstd => Format::Zstd,
        }
    }

    fn created(&self) -> String {
        let epoch = self.options.source_date_epoch.and_then(|epoch| jiff::Timestamp::from_second(epoch).ok());
        clock::rfc3339(epoch.unwrap_or_else(clock::now))
    }

    /// Look a step up, and mix it into the stage's key. Gives the key, and what is remembered.
    async fn recall(&mut self, stage: &mut Stage, text: &str) -> Result<(Digest, Option<Step>)> {
        let epoch = self.options.source_date_epoch;
        stage.mix(&format!("{CACHE_FORMAT} {:?} {epoch:?} {text}", self.format()));
        let key = Digest::of(stage.key.as_bytes());
        if self.options.no_cache {
            return Ok((key, None));
        }
        let (lease, cancel) = (self.lease.clone(), self.options.cancel.clone());
        let step =
            self.images.blocking(move |inner| Ok(cache::get(&inner.store, &lease, &key, &cancel))).await?;
        if step.is_some() {
            self.cached += 1;
            self.say(BuildEvent::Cached { number: self.number });
        }
        Ok((key, step))
    }

    /// Take a step's result into the stage.
    fn take(&self, stage: &mut Stage, text: &str, step: &Step) -> Result<()> {
        if let Some(layer) = &step.layer {
            stage.push(&self.images.inner, layer)?;
        }
        stage.created = Some(step.created.clone());
        stage.record(text, step.layer.is_none(), Some(&step.created));
        Ok(())
    }

    async fn workdir(&mut self, line: &Line, word: &str, stage: &mut Stage) -> Result<()> {
        let word = stage.expand(word, self.dockerfile.escape).map_err(|reason| self.wrong(line, reason))?;
        let path = normal(&stage.workdir().join(word));
        stage.config.working_dir = Some(path.display().to_string());
        stage.mix(&format!("WORKDIR {}", path.display()));
        let exists = {
            let (stack, path) = (Layered::new(&stage.lowers), path.clone());
            self.images.blocking(move |_| stack.lookup(&path, true)).await?
        };
        if exists.is_dir() || path == Path::new("/") {
            stage.record(&line.text, true, None);
            return Ok(());
        }
        let (key, step) = self.recall(stage, "mkdir").await?;
        let step = match step {
            Some(step) => step,
            None => {
                let (lease, lowers, created) = (self.lease.clone(), stage.lowers.clone(), self.created());
                let (format, epoch) = (self.format(), self.options.source_date_epoch);
                self.images
                    .blocking(move |inner| {
                        let upper = lease.scratch_dir("upper")?;
                        let target = Target { upper: &upper, lowers: &lowers, owner: None, chmod: None };
                        let mut stack = vec![upper.clone()];
                        stack.extend_from_slice(&lowers);
                        let stack = Layered::new(&stack);
                        let resolved = stack.lookup(&path, true)?.path;
                        target.directories(&stack, &resolved)?;
                        remember(&inner, &lease, &upper, (format, epoch), &key, created)
                    })
                    .await?
            }
        };
        self.take(stage, &line.text, &step)
    }

    async fn copy(
        &mut self,
        line: &Line,
        copy: &Copy,
        stage: &mut Stage,
        (parts, at, done): (&[Part], usize, &BTreeMap<usize, Stage>),
    ) -> Result<()> {
        let escape = self.dockerfile.escape;
        let put_in = |word: &String| stage.expand(word, escape).map_err(|reason| self.wrong(line, reason));
        let sources: Vec<String> = copy.sources.iter().map(put_in).collect::<Result<_>>()?;
        let to = put_in(&copy.target)?;
        let owner = copy.chown.as_ref().map(put_in).transpose()?;
        if let Some(url) = sources.iter().find(|source| source.contains("://")) {
            return Err(self.wrong(
                line,
                format!("{url:?}: remote sources are not fetched (hint: download it before the build)"),
            ));
        }
        let source = match &copy.from {
            None => self.context.clone(),
            Some(from) => match find_stage(parts, at, from).and_then(|other| done.get(&other)) {
                Some(other) => Arc::new(Source::layers(&other.lowers, &format!("stage {from}"))),
                None => Arc::new(Source::layers(&self.base(from).await?.lowers, &format!("image {from}"))),
            },
        };
        let into = to.ends_with('/') || to.ends_with("/.") || to == ".";
        let to_path = normal(&stage.workdir().join(&to));
        let add = copy.add;
        let chosen = {
            let (source, line, file) = (source.clone(), line.number, self.file.clone());
            self.images.blocking(move |_| {
                let wrong = |reason| Error::Dockerfile { file: file.clone(), line, reason };
                let mut chosen = Vec::new();
                for pattern in &sources {
                    chosen.extend(source.choose(pattern).map_err(wrong)?);
                }
                let digest = digest(&source, &chosen)?;
                Ok((chosen, digest))
            })
        };
        let (chosen, content) = chosen.await?;
        if chosen.len() > 1 && !into {
            return Err(self.wrong(
                line,
                format!("several sources need a directory (hint: write {to:?} with a / at its end)"),
            ));
        }
        let text = format!("COPY {add} {content} {} {into} {owner:?} {:?}", to_path.display(), copy.chmod);
        let (key, step) = self.recall(stage, &text).await?;
        let step = match step {
            Some(step) => step,
            None => {
                let (lease, lowers, created) = (self.lease.clone(), stage.lowers.clone(), self.created());
                let (format, epoch, chmod) = (self.format(), self.options.source_date_epoch, copy.chmod);
                let from_context = copy.from.is_none();
                let cancel = self.options.cancel.clone();
                self.images
                    .blocking(move |inner| {
                        let owner = match owner {
                            Some(text) => Some(owner_of(&text, &lowers)?),
                            None => from_context.then_some((0, 0)),
                        };
                        let upper = lease.scratch_dir("upper")?;
                        let target = Target { upper: &upper, lowers: &lowers, owner, chmod };
                        for item in chosen {
                            match unpack_archive(&inner, &lease, &item, add, &cancel)? {
                                Some(tree) => {
                                    let tree = Source::layers(&[tree], "the archive");
                                    let all = tree
                                        .choose("/")
                                        .map_err(|reason| Error::archive(&item.name, reason))?;
                                    Target { owner: None, chmod: None, ..target }
                                        .copy(&tree, &all, &to_path, true)?;
                                }
                                None => target.copy(&source, &[item], &to_path, into)?,
                            }
                        }
                        remember(&inner, &lease, &upper, (format, epoch), &key, created)
                    })
                    .await?
            }
        };
        self.take(stage, &line.text, &step)
    }

    async fn execute(
        &mut self,
        line: &Line,
        form: &Form,
        network: Option<&str>,
        stage: &mut Stage,
    ) -> Result<()> {
        let Some(run) = self.options.run.clone() else {
            return Err(
                self.wrong(line, "RUN needs a container runtime, and none was given (hint: build on a node)")
            );
        };
        let network = match network {
            Some("none") => RunNetwork::None,
            Some("host") => RunNetwork::Host,
            _ => self.options.network,
        };
        let mut env = stage.config.env.clone().unwrap_or_default();
        let predefined = PREDEFINED.iter().filter_map(|name| Some(((*name).to_owned(), self.given(name)?)));
        let args: Vec<(String, String)> = stage.args.clone().into_iter().collect();
        let key_args = args.clone();
        for (name, value) in predefined.chain(args) {
            if stage.env(&name).is_none() {
                env.push(format!("{name}={value}"));
            }
        }
        if stage.env("PATH").is_none() {
            env.push(oci::DEFAULT_PATH.into());
        }
        let argv = stage.argv(form);
        let (key, step) = self.recall(stage, &format!("RUN {argv:?} {key_args:?} {network:?}")).await?;
        if let Some(step) = step {
            return self.take(stage, &line.text, &step);
        }
        let lease = self.lease.clone();
        let dirs = self.images.blocking(move |_| {
            Ok([lease.scratch_dir("upper")?, lease.scratch_dir("work")?, lease.scratch_dir("merged")?])
        });
        let [upper, work, merged] = dirs.await?;
        let request = RunRequest {
            lower_dirs: stage.mountable(&self.images.inner)?,
            upper: upper.clone(),
            work,
            merged,
            argv,
            env,
            cwd: stage.workdir().display().to_string(),
            user: stage.config.user.clone().unwrap_or_default(),
            network,
            cancel: self.options.cancel.clone(),
        };
        let code = run.run(request, self.output()).await;
        if self.options.cancel.is_cancelled() {
            return Err(Error::Cancelled { what: "the build".into() });
        }
        let failed = |reason: String| Error::BuildStep {
            file: self.file.clone(),
            line: line.number,
            instruction: line.text.chars().take(80).collect(),
            reason,
        };
        match code {
            Ok(0) => {}
            Ok(code) => return Err(failed(format!("the command ended with exit code {code}"))),
            Err(error) => return Err(failed(format!("the command could not be run: {error}"))),
        }
        let (lease, created) = (self.lease.clone(), self.created());
        let (format, epoch) = (self.format(), self.options.source_date_epoch);
        let step = self
            .images
            .blocking(move |inner| remember(&inner, &lease, &upper, (format, epoch), &key, created));
        let step = step.await?;
        self.take(stage, &line.text, &step)
    }

    fn output(&self) -> RunOutput {
        let (events, number) = (self.options.events.clone(), self.number);
        Arc::new(move |stderr, line| {
            if let Some(events) = &events {
                events(BuildEvent::Output { number, stderr, line });
            }
        })
    }

    /// Write config and manifest, make everything durable, name it.
    async fn finish(self, mut stage: Stage) -> Result<BuildResult> {
        for (name, value) in &self.options.labels {
            stage.config.labels.get_or_insert_default().insert(name.clone(), value.clone());
        }
        let platform = self.images.inner.store.options.platform.clone();
        let created = match self.options.source_date_epoch {
            Some(_) => self.created(),
            None => stage.created.clone().unwrap_or_else(|| self.created()),
        };
        let file = ImageFile {
            created: Some(created),
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            config: Some(stage.config),
            rootfs: RootFs { kind: "layers".into(), diff_ids: stage.diff_ids },
            history: Some(stage.history),
        };
        let (layers, snapshots, lease, tags) =
            (stage.layers, stage.snapshots, self.lease.clone(), self.tags.clone());
        let path = self.file.clone();
        let image = self.images.blocking(move |inner| {
            let bad = |error: serde_json::Error| Error::archive(&path, error.to_string());
            let config = serde_json::to_vec(&file).map_err(bad)?;
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(oci::OCI_MANIFEST.into()),
                config: Descriptor::new(oci::OCI_CONFIG, Digest::of(&config), config.len() as u64),
                layers,
            };
            let bytes = serde_json::to_vec(&manifest).map_err(bad)?;
            let info = ImageInfo::new(Digest::of(&bytes), &bytes, &config, inner.store.options.limits.layers)
                .map_err(|reason| Error::archive(&path, reason))?;
            inner.store.protect(&lease, info.content())?;
            inner.store.put_bytes(&config)?;
            inner.store.put_bytes(&bytes)?;
            inner.store.sync_snapshots(&snapshots)?;
            let named = if tags.is_empty() {
                Vec::new()
            } else {
                crate::import::name_image(&inner.store, &info, &tags)?
            };
            Ok(named.into_iter().next().unwrap_or_else(|| info.summary(&info.digest.to_string())))
        });
        let image = image.await?;
        Ok(BuildResult { digest: image.digest, image, cached_steps: self.cached, steps: self.of })
    }
}

/// Commit a step's files and write the cache entry.
fn remember(
    inner: &Inner,
    lease: &Lease,
    upper: &Path,
    (format, epoch): (Format, Option<i64>),
    key: &Digest,
    created: String,
) -> Result<Step> {
    let layer: Option<NewLayer> = commit(inner, lease, upper, format, epoch)?;
    let step = Step { layer, created };
    cache::put(&inner.store, key, &step)?;
    Ok(step)
}

/// A stage by name or number, among those before `before`.
fn find_stage(parts: &[Part], before: usize, name: &str) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let by_name = parts[..before].iter().rposition(|part| part.name.as_deref() == Some(&lower));
    by_name.or_else(|| name.parse().ok().filter(|at| *at < before))
}

/// `a/./b/../c` without looking at symlinks, absolute.
fn normal(path: &Path) -> PathBuf {
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

/// `--chown`: without a group, the group has the user's number.
fn owner_of(text: &str, lowers: &[PathBuf]) -> Result<(u32, u32)> {
    let stack = Layered::new(lowers);
    let read = |path: &str| -> Result<String> {
        let bytes = stack.read_file(path, 1 << 20)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let user = crate::rootfs::resolve(text, &read("/etc/passwd")?, &read("/etc/group")?)
        .map_err(|reason| Error::archive(format!("--chown={text}"), reason))?;
    Ok((user.uid, if text.contains(':') { user.gid } else { user.uid }))
}

/// `ADD` unpacks local archives; `None` when this is none.
fn unpack_archive(
    inner: &Inner,
    lease: &Lease,
    item: &super::context::Chosen,
    add: bool,
    cancel: &tokio_util::sync::CancellationToken,
) -> Result<Option<PathBuf>> {
    let (Some(place), true) = (item.found.places.first(), add) else { return Ok(None) };
    if !item.found.metadata.as_ref().is_some_and(std::fs::Metadata::is_file) {
        return Ok(None);
    }
    let file = std::fs::File::open(place).map_err(Error::io("open", place))?;
    let Ok(mut decoder) = Decoder::new(&file) else { return Ok(None) };
    let mut head = [0; crate::tar::BLOCK];
    if std::io::Read::read_exact(&mut decoder, &mut head).is_err()
        || !crate::tar::reader::looks_like_header(&head)
    {
        return Ok(None);
    }
    std::io::Seek::rewind(&mut &file).map_err(Error::io("read", place))?;
    let decoder = Decoder::new(&file).map_err(Error::io("read", place))?;
    let dir = lease.scratch_dir("archive")?;
    let mut tar = crate::tar::TarReader::new(decoder);
    let unpacked =
        unpack(&mut tar, &dir, &item.name.display().to_string(), &inner.store.options.limits, cancel)?;
    ingest::refuse_dangling(&unpacked, &item.name)?;
    Ok(Some(dir))
}
