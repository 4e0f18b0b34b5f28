//! `RUN`: environment, mounts, and what it leaves behind.

use std::path::{Path, PathBuf};

use super::instruction::PREDEFINED;
use super::mounts::{self, Mounted};
use super::parse::{Line, Run};
use super::run::{Build, Here};
use super::stage::Stage;
use super::{BuildEvent, RunMount, RunMountSource, RunNetwork, RunOutput, RunRequest};
use crate::error::{Error, Result};
use crate::layers::lookup::Layered;
use crate::oci::{self, Platform};

/// Where a here-document that is a program stands.
const SCRIPT: &str = "/dev/pipes/script";

impl Build {
    pub(super) async fn execute(&self, here: &Here<'_>, run: &Run, stage: &mut Stage) -> Result<()> {
        let Some(runner) = self.options.run.clone() else {
            let reason = "RUN needs a container runtime, and none was given (hint: build on a node)";
            return Err(self.wrong(here.line, reason));
        };
        let platform = stage.platform.clone().unwrap_or_else(Platform::host);
        can_run(&platform).map_err(|reason| self.wrong(here.line, reason))?;
        let network = match run.network.as_deref() {
            Some("none") => RunNetwork::None,
            Some("host") => RunNetwork::Host,
            _ => self.options.network,
        };
        let argv = match &run.script {
            Some(_) => vec![SCRIPT.to_owned()],
            None => stage.argv(&run.form),
        };
        let (mut env, key_args) = self.environment(stage);
        let mounted = self.mounts(here, run, stage).await?;
        let text =
            format!("RUN {platform} {argv:?} {:?} {key_args:?} {network:?} {:?}", run.script, mounted.key);
        let (key, step) = self.recall(here, stage, &text, false).await?;
        if let Some(step) = step {
            return self.take(stage, &here.line.text, &step);
        }
        let Mounted { mut mounts, env: secrets, _locks, .. } = self.ready(here, mounted).await?;
        env.extend(secrets);
        let lease = self.lease.clone();
        let script = run.script.clone();
        let dirs = self.images.blocking(move |_| {
            let dirs =
                [lease.scratch_dir("upper")?, lease.scratch_dir("work")?, lease.scratch_dir("merged")?];
            let script = script.map(|text| {
                let path = lease.scratch("script");
                std::fs::write(&path, text).map_err(Error::io("write", &path))?;
                super::copying::set_mode(&path, 0o755)?;
                Ok::<_, Error>(path)
            });
            Ok((dirs, script.transpose()?))
        });
        let ([upper, work, merged], script) = dirs.await?;
        if let Some(path) = script {
            let source = RunMountSource::Path(path);
            mounts.push(RunMount { target: SCRIPT.into(), source, read_only: true });
        }
        let mut stubs: Vec<PathBuf> = mounts.iter().map(|mount| mount.target.clone()).collect();
        // Runtimes bring these of their own.
        stubs.extend(["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"].map(PathBuf::from));
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
            mounts,
            cancel: self.options.cancel.clone(),
        };
        let code = runner.run(request, self.output(here.number)).await;
        if self.options.cancel.is_cancelled() {
            return Err(Error::Cancelled { what: "the build".into() });
        }
        self.check(here.line, code)?;
        let (maker, lowers) = (self.maker(), stage.lowers.clone());
        let step = self.images.blocking(move |inner| {
            let stack = Layered::new(&lowers);
            for path in &stubs {
                mounts::remove_stub(&upper, &stack, path)?;
            }
            maker.remember(&inner, &upper, &key)
        });
        let step = step.await?;
        self.take(stage, &here.line.text, &step)
    }

    fn check(&self, line: &Line, code: Result<i32, super::RunStepError>) -> Result<()> {
        let failed = |reason: String| Error::BuildStep {
            file: self.plan.file.clone(),
            line: line.number,
            instruction: line.text.chars().take(80).collect(),
            reason,
        };
        match code {
            Ok(0) => Ok(()),
            Ok(127) => Err(failed(
                "the command ended with exit code 127 (hint: a program was not found in the image)".into(),
            )),
            Ok(code) => Err(failed(format!("the command ended with exit code {code}"))),
            Err(error) => Err(failed(format!("the command could not be run: {error}"))),
        }
    }

    /// What the command sees, and the part of it that the step's key holds: proxies are a matter of the place.
    fn environment(&self, stage: &Stage) -> (Vec<String>, Vec<(String, String)>) {
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
        (env, key_args)
    }

    fn output(&self, number: usize) -> RunOutput {
        let events = self.options.events.clone();
        std::sync::Arc::new(move |stderr, line| {
            if let Some(events) = &events {
                events(BuildEvent::Output { number, stderr, line });
            }
        })
    }
}

/// Whether this machine executes programs of a platform, itself or by an emulator that the kernel knows.
fn can_run(platform: &Platform) -> Result<(), String> {
    let host = Platform::host();
    let own = platform.os == host.os
        && (platform.architecture == host.architecture
            || (host.architecture == "amd64" && platform.architecture == "386")
            || (host.architecture == "arm64" && platform.architecture == "arm"));
    if own {
        return Ok(());
    }
    let interpreter = match platform.architecture.as_str() {
        "amd64" => "x86_64",
        "386" => "i386",
        "arm64" => "aarch64",
        other => other,
    };
    let registered = Path::new("/proc/sys/fs/binfmt_misc").join(format!("qemu-{interpreter}"));
    match std::fs::read_to_string(&registered) {
        Ok(text) if text.starts_with("enabled") => Ok(()),
        _ => Err(format!(
            "RUN of {platform} on {host} needs an emulator, and binfmt_misc has none (hint: install \
             qemu-user-static, or run the step in a stage FROM --platform=$BUILDPLATFORM)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_programs_need_an_emulator() {
        can_run(&Platform::host()).unwrap();
        let error = can_run(&Platform::parse("linux/s390x").unwrap()).unwrap_err();
        assert!(error.contains("binfmt_misc") && error.contains("hint"), "{error}");
    }
}
