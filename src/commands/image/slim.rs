//! `sampan image slim`: decide, show, make, try, and only then name.

use std::{os::unix::process::CommandExt, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use sampan_image::{Images, Reference, RootfsPlan, SlimOptions, SlimPlan, health};
use tokio_util::sync::CancellationToken;

use super::open;
use crate::{
    cli::{Format, Slim},
    platform::trial::Trials,
    terminal,
};

/// How long a container without a health check is looked at.
const LOOK: Duration = Duration::from_secs(5);

pub(super) async fn run(data_dir: &Path, options: Slim) -> Result<ExitCode> {
    if options.trace && !options.private_mounts {
        return in_private_mounts();
    }
    let images = open(data_dir, &[])?;
    let name = target(&options)?;
    let holder = format!("slim-{:08x}", rand::random::<u32>());
    let slim = Slimming { images, data_dir, holder, options, cancel: CancellationToken::new() };
    let result = {
        let work = slim.run(&name);
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => result,
            ended = terminal::interrupted() => {
                ended?;
                // A trial's pod would outlive this process, and an image that is being made would stay.
                slim.cancel.cancel();
                work.await.map_err(|_| interrupted())
            }
        }
    };
    slim.images.release(&slim.holder).await?;
    result.map(|()| ExitCode::SUCCESS)
}

/// The watched overlay must be seen by the runtime's helper and by nobody else: begin again in a mount namespace.
fn in_private_mounts() -> Result<ExitCode> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--private-mounts");
    let private = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
    };
    // SAFETY: nothing is forked: this runs in this thread, whose namespaces the new program has.
    unsafe { command.pre_exec(private) };
    // In place of this process, so that signals reach who works.
    Err(command.exec()).context("begin again in a mount namespace")
}

/// The name that the result gets.
fn target(options: &Slim) -> Result<String> {
    if let Some(tag) = &options.tag {
        return Ok(Reference::parse(tag)?.to_string());
    }
    let name = Reference::parse(&options.image)?;
    if name.digest().is_some() {
        bail!("an image by digest needs a name for the result (hint: -t NAME:TAG)");
    }
    Ok(format!("{}:{}-slim", name.name(), name.tag().unwrap_or("latest")))
}

struct Slimming<'a> {
    images: Images,
    data_dir: &'a Path,
    /// Holds the images that are tried.
    holder: String,
    options: Slim,
    /// Ends it at the next point where nothing is half done, and a trial at once.
    cancel: CancellationToken,
}

fn interrupted() -> anyhow::Error {
    anyhow::anyhow!("interrupted; the image stays as it is")
}

impl Slimming<'_> {
    fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(interrupted()) } else { Ok(()) }
    }

    async fn run(&self, name: &str) -> Result<()> {
        let original = self.images.rootfs(&self.options.image, &self.holder).await?;
        let check = match &self.options.check {
            Some(command) => Some(shell(command)),
            None => health(&original.config),
        };
        let trials = Trials::new(self.data_dir)?;
        let tried = !self.options.dry_run || self.options.trace;
        let (mut ended, mut seen) = (None, None);
        if tried {
            eprintln!("trying {}", self.options.image);
            let outcome = self.try_out(&trials, &original, check.as_deref(), self.options.trace).await;
            let (code, opened) = outcome.with_context(|| {
                format!("{} itself does not pass (hint: --check CMD, --timeout SECONDS)", self.options.image)
            })?;
            ended = code;
            seen = self.options.trace.then(|| opened.into_iter().collect());
        }
        let plan = self.images.slim_plan(SlimOptions {
            image: self.options.image.clone(),
            keep: self.options.keep.clone(),
            commands: check
                .iter()
                .cloned()
                .chain(self.options.exercise.iter().map(|text| shell(text)))
                .collect(),
            seen,
            languages: self.options.language.clone(),
        });
        let plan = plan.await?;
        self.go_on()?;
        self.show(&plan)?;
        if self.options.dry_run {
            return Ok(());
        }
        let trial_name = format!("sampan.local/{}:trial", self.holder);
        let (files, before, bytes) = (plan.removed.len(), plan.compressed, plan.bytes);
        let kept = plan.kept_bytes;
        let made = self.images.slim(plan, &trial_name).await?;
        let passed = self.check(&trials, &trial_name, check.as_deref(), ended).await;
        let passed = passed.with_context(|| {
            let hint = "(hint: --keep GLOB, or --trace)";
            format!("the slim image does not work; {} stays as it is {hint}", self.options.image)
        });
        let named = match passed {
            Ok(()) => self.images.tag(&trial_name, name).await.map(drop).map_err(Into::into),
            Err(error) => Err(error),
        };
        self.images.release(&self.holder).await?;
        self.images.remove(&trial_name, true).await?;
        named?;
        eprintln!(
            "{files} files removed; {} instead of {} in files ({} %), {} instead of {} stored",
            terminal::bytes(kept),
            terminal::bytes(bytes),
            kept * 100 / bytes.max(1),
            terminal::bytes(made.size),
            terminal::bytes(before)
        );
        if self.options.output.output == Format::Text || self.options.output.output == Format::Wide {
            terminal::write(&format!("{name}\n"))?;
        }
        Ok(())
    }

    async fn check(
        &self,
        trials: &Trials,
        name: &str,
        check: Option<&[String]>,
        before: Option<i32>,
    ) -> Result<()> {
        eprintln!("trying the slim image");
        let plan = self.images.rootfs(name, &self.holder).await?;
        let (ended, _) = self.try_out(trials, &plan, check, false).await?;
        if ended != before {
            let say = |code: Option<i32>| {
                code.map_or("runs on".to_owned(), |code| format!("ends with code {code}"))
            };
            bail!("it {}, where the original {}", say(ended), say(before));
        }
        Ok(())
    }

    /// Run an image until it is well, and exercise it.
    async fn try_out(
        &self,
        trials: &Trials,
        plan: &RootfsPlan,
        check: Option<&[String]>,
        watch: bool,
    ) -> Result<(Option<i32>, std::collections::BTreeSet<std::path::PathBuf>)> {
        self.go_on()?;
        let mut trial = trials.start(plan, watch).await?;
        let outcome = async {
            let ended = match check {
                Some(check) => {
                    trial.well(check, Duration::from_secs(self.options.timeout)).await?;
                    None
                }
                None => trial.settled(LOOK).await?,
            };
            for text in &self.options.exercise {
                let (code, said) = trial.exec(&shell(text)).await?;
                if code != 0 {
                    bail!("{text:?} ended with exit code {code}: {}{}", said.trim(), trial.log());
                }
            }
            Ok(ended)
        };
        let outcome = tokio::select! {
            outcome = outcome => outcome,
            () = self.cancel.cancelled() => Err(interrupted()),
        };
        let seen = trial.stop().await?;
        Ok((outcome?, seen))
    }

    /// What goes is always shown.
    fn show(&self, plan: &SlimPlan) -> Result<()> {
        let bytes = terminal::bytes;
        let causes = plan
            .causes
            .iter()
            .map(|(cause, removed)| vec![cause.to_string(), removed.files.to_string(), bytes(removed.bytes)]);
        let shown = if self.options.output.output == Format::Wide { usize::MAX } else { 15 };
        let dirs = plan.directories.iter().take(shown).map(|dir| {
            let what = if dir.whole { "all" } else { "" };
            vec![
                dir.path.display().to_string(),
                dir.removed.files.to_string(),
                bytes(dir.removed.bytes),
                what.to_owned(),
            ]
        });
        let stays = plan
            .remaining
            .iter()
            .take(shown)
            .map(|what| vec![what.of.clone(), what.files.to_string(), bytes(what.bytes)]);
        let parts = plan.trimmed.iter().take(shown).map(|file| {
            vec![file.path.display().to_string(), bytes(file.bytes), bytes(file.kept), file.cause.to_string()]
        });
        let parts: Vec<Vec<String>> = parts.collect();
        let parts = match parts.is_empty() {
            true => String::new(),
            false => terminal::table(&["PART OF", "BYTES", "STAY", ""], &parts) + "\n",
        };
        let text = format!(
            "{}: {} in {} layers; {} in {} files stay\n\n{}\n{}\n{parts}{}",
            plan.image,
            bytes(plan.bytes),
            plan.layers,
            bytes(plan.kept_bytes),
            plan.kept_files,
            terminal::table(&["GOES", "FILES", "BYTES"], &causes.collect::<Vec<_>>()),
            terminal::table(&["FROM", "FILES", "BYTES", ""], &dirs.collect::<Vec<_>>()),
            terminal::table(&["STAYS", "FILES", "BYTES"], &stays.collect::<Vec<_>>()),
        );
        match self.options.output.output {
            format @ (Format::Json | Format::Yaml) => terminal::print(format, plan, String::new),
            Format::Wide => {
                let files = plan.removed.iter();
                let files = files
                    .map(|file| format!("{}  {} ({})\n", file.path.display(), bytes(file.bytes), file.cause));
                eprint!("{text}\n{}", files.collect::<String>());
                Ok(())
            }
            Format::Text => {
                eprintln!("{text}");
                Ok(())
            }
        }
    }
}

fn shell(command: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".into(), command.to_owned()]
}
