//! A builder for tests: `RUN` is a chroot in an overlay.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use sampan_image::{
    BuildEvent, BuildOptions, BuildResult, RunMountSource, RunNetwork, RunOutput, RunRequest, RunStep,
    RunStepError,
};

use crate::support::Fixture;

/// Runs a step with nothing but mount and chroot.
pub struct Chroot;

impl RunStep for Chroot {
    fn run<'a>(&'a self, step: RunRequest, output: RunOutput) -> BoxFuture<'a, Result<i32, RunStepError>> {
        Box::pin(async move {
            let lower =
                step.lower_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":");
            let mut mounts = String::new();
            let secrets = tempfile::tempdir()?;
            for (at, mount) in step.mounts.iter().enumerate() {
                let target = format!("{}{}", step.merged.display(), mount.target.display());
                let secret = secrets.path().join(at.to_string());
                let source = match &mount.source {
                    RunMountSource::Path(path) | RunMountSource::Agent { socket: path, .. } => path.clone(),
                    RunMountSource::Tmpfs { .. } => {
                        mounts += &format!("mkdir -p {target}; mount -t tmpfs none {target};");
                        continue;
                    }
                    RunMountSource::Secret { bytes, mode, .. } => {
                        fs::write(&secret, bytes)?;
                        fs::set_permissions(&secret, fs::Permissions::from_mode(*mode))?;
                        secret
                    }
                };
                let make = if source.is_dir() { "mkdir -p" } else { "touch" };
                let parent = Path::new(&target).parent().unwrap().display().to_string();
                mounts += &format!(
                    "mkdir -p {parent}; {make} {target}; mount --bind {} {target};",
                    source.display()
                );
                if mount.read_only {
                    mounts += &format!("mount -o remount,bind,ro {target};");
                }
            }
            let mount = format!(
                "mount -t overlay overlay -o lowerdir={lower},upperdir={},workdir={},redirect_dir=off,metacopy=off {m}; {mounts} m={m}; shift; cd / && exec env -i \"$@\"",
                step.upper.display(),
                step.work.display(),
                m = step.merged.display()
            );
            let inner = format!("cd '{}' && exec \"$@\"", step.cwd);
            let mut command = Command::new("unshare");
            if step.network == RunNetwork::None {
                command.arg("--net");
            }
            command.args(["--mount", "--propagation", "private", "sh", "-ec", &mount, "sh", "x"]);
            command.args(&step.env);
            command.args([
                "/usr/sbin/chroot",
                step.merged.to_str().unwrap(),
                "/bin/busybox",
                "sh",
                "-c",
                &inner,
                "sh",
            ]);
            command.args(&step.argv);
            let done = tokio::task::spawn_blocking(move || command.output()).await??;
            for line in String::from_utf8_lossy(&done.stdout).lines() {
                output(false, line.to_owned());
            }
            for line in String::from_utf8_lossy(&done.stderr).lines() {
                output(true, line.to_owned());
            }
            Ok(done.status.code().unwrap_or(-1))
        })
    }
}

pub struct Built {
    pub result: sampan_image::Result<BuildResult>,
    pub events: Vec<BuildEvent>,
}

impl Built {
    pub fn error(&self) -> String {
        self.result.as_ref().unwrap_err().to_string()
    }

    pub fn output(&self) -> String {
        let lines = self.events.iter().filter_map(|event| match event {
            BuildEvent::Output { line, .. } => Some(line.clone()),
            _ => None,
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

pub async fn build(fixture: &Fixture, dockerfile: &str, change: impl FnOnce(&mut BuildOptions)) -> Built {
    let context = fixture.path("context");
    fs::create_dir_all(&context).unwrap();
    if !context.join("busybox").exists() {
        fs::copy("/bin/busybox", context.join("busybox")).unwrap();
    }
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let to = events.clone();
    let mut options = BuildOptions::new(&context);
    options.run = Some(Arc::new(Chroot));
    options.tags = vec!["out:1".into()];
    options.events = Some(Arc::new(move |event| to.lock().unwrap().push(event)));
    change(&mut options);
    let result = fixture.images.build(options).await;
    let events = events.lock().unwrap().clone();
    Built { result, events }
}

pub const BASE: &str = "FROM scratch AS base\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n\
    RUN /bin/busybox --install /bin && echo 'root:x:0:0:root:/root:/bin/sh' > /passwd\nSHELL [\"/bin/sh\", \"-c\"]\n";
