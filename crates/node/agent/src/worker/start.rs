//! Starting one container: image, configuration, creation, start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, VolumeMount};
use sampan_container::{
    ContainerConfig, Device, Exit, LogConfig, Mount, MountSource, PodSandbox, Propagation, Resources, Rootfs,
};
use sampan_daemon::clock;
use sampan_image::RootfsPlan;
use sampan_planner::numa::{CpuSet, Pin};
use tokio_util::sync::CancellationToken;

use super::decide::restarts;
use super::{Busy, Done, Worker, image};
use crate::context::Context;
use crate::events::Subject;
use crate::objects::Snapshot;
use crate::pod::env::{self, Facts};
use crate::pod::record::{ContainerRecord, Run, Termination, Waiting};
use crate::pod::spec::{self, Role};
use crate::pod::{files, security};
use crate::volumes::{self, Ready};

/// Most bytes of a termination message.
const TERMINATION_BYTES: u64 = 4096;
/// Most bytes of log that stand in for one.
const FALLBACK_BYTES: usize = 2048;
/// Most lines of log that stand in for one.
const FALLBACK_LINES: usize = 80;

/// A container that runs.
pub struct Started {
    id: String,
    at: Timestamp,
    image: String,
    image_id: String,
    stop_signal: Option<String>,
    resources: ResourceRequirements,
    cpus: Option<CpuSet>,
}

/// Why a container does not run.
pub enum Failed {
    /// The pod is ending.
    Cancelled,
    /// The image could not be pulled.
    Pull(String),
    /// It cannot be configured or created: waiting reason and message.
    Config(&'static str, String),
    /// Its process could not be started: id, exit code, message.
    Start(String, i32, String),
}

impl Failed {
    /// What went wrong, in a sentence.
    pub fn message(self) -> String {
        match self {
            Failed::Cancelled => "the pod is ending".to_owned(),
            Failed::Pull(message) | Failed::Config(_, message) | Failed::Start(_, _, message) => message,
        }
    }
}

/// Runtime ids that a record knows.
pub fn ids(record: &ContainerRecord) -> Vec<String> {
    let run = match &record.run {
        Run::Running { id, .. } => Some(id.clone()),
        Run::Exited(ended) => Some(ended.id.clone()),
        Run::None | Run::Starting => None,
    };
    let all = run.into_iter().chain(record.last.as_ref().map(|last| last.id.clone()));
    all.filter(|id| !id.is_empty()).collect()
}

/// What a start works with.
struct Job {
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    run: u32,
    old: Vec<String>,
    sandbox: PodSandbox,
    volumes: Arc<BTreeMap<String, Ready>>,
    ip: String,
    events: Subject,
    cancel: CancellationToken,
    /// The CPUs that it runs on, and what is its alone.
    cpus: Option<CpuSet>,
    pin: Pin,
    /// Name and id of the container whose processes it is to see; without an id that one does not run.
    target: Option<(String, Option<String>)>,
}

impl Worker {
    pub(super) fn begin_start(&mut self, role: Role, container: &Container) {
        let (Some(sandbox), Some(references)) = (self.sandbox.clone(), &self.references) else { return };
        let settled = references.settled();
        let pod = self.allocated_pod();
        let given = pod.spec.as_ref().and_then(|spec| spec::container(spec, &container.name));
        let cpus = self.cpus_of(&container.name);
        let pin = self.pin(&container.name).cloned().unwrap_or_default();
        let seen = self.record.containers.entry(container.name.clone()).or_default();
        let ip = self.record.ip.map(|ip| ip.to_string());
        let job = Job {
            ctx: self.ctx.clone(),
            container: given.map_or(container, |(_, given)| given).clone(),
            pod: pod.clone(),
            id: format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()),
            run: seen.runs + 1,
            old: ids(seen),
            sandbox,
            volumes: self.volumes.clone(),
            ip: ip.unwrap_or_else(|| self.ctx.options.node_ip.to_string()),
            events: self.events.container(role, &container.name),
            cancel: self.cancel.clone(),
            cpus,
            pin,
            target: self.target_of(&container.name),
        };
        self.busy.insert(container.name.clone(), Busy::Starting);
        let name = container.name.clone();
        self.ops.push(Box::pin(async move {
            let objects = settled.await;
            Done::Started(name, Box::new(start(job, objects).await))
        }));
    }

    fn target_of(&self, name: &str) -> Option<(String, Option<String>)> {
        let added = self.pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
        let target = added.iter().find(|added| added.name == name)?.target_container_name.clone()?;
        let running = match self.record.containers.get(&target).map(|seen| &seen.run) {
            Some(Run::Running { id, .. }) => Some(id.clone()),
            _ => None,
        };
        Some((target, running))
    }

    pub(super) fn container_started(&mut self, name: &str, result: Result<Started, Failed>, now: Timestamp) {
        self.busy.remove(name);
        let events = self.container_events(name);
        let pod = self.pod.clone();
        let found = pod.spec.as_ref().and_then(|spec| spec::any_container(spec, name));
        let lost = self.sandbox.as_ref().is_none_or(PodSandbox::is_lost);
        let Some(seen) = self.record.containers.get_mut(name) else { return };
        match result {
            // The container is not to blame: it starts again in the next sandbox.
            Err(Failed::Start(..) | Failed::Config("CreateContainerError", _)) if lost => {}
            Ok(started) => {
                self.pull_retries.remove(name);
                if let Run::Exited(ended) = std::mem::take(&mut seen.run) {
                    seen.last = Some(ended);
                }
                seen.runs += 1;
                seen.waiting = None;
                (seen.image, seen.image_id) = (started.image, started.image_id);
                seen.stop_signal = started.stop_signal;
                seen.applied = Some(started.resources);
                seen.cpus = started.cpus;
                seen.resizing = false;
                seen.run = Run::Running { id: started.id.clone(), at: started.at };
                if let Some((role, container)) = found {
                    self.watch_probes(role, &container);
                    self.post_start(&container, &started.id);
                }
                if let Some(exit) = self.early_exits.remove(&started.id) {
                    self.apply_exit(&started.id, exit);
                }
            }
            Err(Failed::Cancelled) => {}
            Err(Failed::Pull(message)) => {
                seen.waiting = Some(Waiting { reason: "ErrImagePull".to_owned(), message: message.clone() });
                self.pull_failed(name, message, now);
            }
            Err(Failed::Config(reason, message)) => {
                if seen.waiting.as_ref().is_none_or(|waiting| waiting.message != message)
                    && matches!(reason, "CreateContainerConfigError" | "CreateContainerError")
                {
                    events.warning("Failed", format!("Error: {message}"));
                }
                seen.waiting = Some(Waiting { reason: reason.to_owned(), message });
                self.retry_config(name, now);
            }
            Err(Failed::Start(id, exit_code, message)) => {
                if let Run::Exited(ended) = std::mem::take(&mut seen.run) {
                    seen.last = Some(ended);
                }
                seen.runs += 1;
                events.warning("Failed", format!("Error: {message}"));
                let policy = pod.spec.as_ref().map_or("Always", spec::restart_policy);
                // Only what is tried again waits; whoever watches for the end must see it.
                let again = found.is_some_and(|(role, _)| restarts(policy, role, exit_code));
                seen.waiting = again
                    .then(|| Waiting { reason: "RunContainerError".to_owned(), message: message.clone() });
                seen.run = Run::Exited(Termination {
                    id,
                    exit_code,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message,
                    started_at: None,
                    finished_at: now,
                });
            }
        }
    }

    /// What a container left as its last words.
    pub(super) fn termination_message(&self, name: &str, exit: &Exit) -> String {
        let spec = self.pod.spec.as_ref();
        let Some((_, container)) = spec.and_then(|spec| spec::any_container(spec, name)) else {
            return exit.message.clone();
        };
        let run = self.record.containers.get(name).map_or(1, |seen| seen.runs);
        let path = termination_path(&self.ctx, &self.pod, name, run);
        let mut text = String::new();
        if let Ok(file) = std::fs::File::open(path) {
            let mut bytes = Vec::new();
            // An unreadable message is as good as none.
            let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, TERMINATION_BYTES), &mut bytes);
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        let fallback = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if text.is_empty() && fallback && exit.code != 0 {
            let log = self.ctx.log_path(&self.pod, name, run);
            text = crate::logs::tail_text(&log, FALLBACK_LINES, FALLBACK_BYTES);
        }
        if text.is_empty() { exit.message.clone() } else { text }
    }
}

fn termination_path(ctx: &Context, pod: &Pod, name: &str, run: u32) -> PathBuf {
    ctx.pod_dir(spec::uid(pod)).join("termination").join(name).join(run.to_string())
}

fn rootfs_dir(ctx: &Context, pod: &Pod, id: &str) -> PathBuf {
    ctx.pod_dir(spec::uid(pod)).join("rootfs").join(id)
}

async fn start(job: Job, objects: Snapshot) -> Result<Started, Failed> {
    let policy = job.container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    let image = (job.container.image.as_deref().unwrap_or_default(), policy);
    let plan = image::ensure(&job.ctx, &job.pod, image, &job.id, &objects, &job.events, &job.cancel).await?;
    if job.cancel.is_cancelled() {
        job.release().await;
        return Err(Failed::Cancelled);
    }
    let created = job.create(&plan, &objects).await;
    if let Err(failed) = created {
        job.release().await;
        return Err(failed);
    }
    job.events.normal("Created", "Container created");
    job.forget_old().await;
    let process = match job.sandbox.start_container(&job.id).await {
        Ok(process) => process,
        Err(sampan_container::Error::Start { exit_code, message }) => {
            return Err(Failed::Start(job.id.clone(), exit_code, message));
        }
        Err(error) => return Err(Failed::Start(job.id.clone(), 128, error.to_string())),
    };
    job.events.normal("Started", "Container started");
    let (image, image_id) = image_names(&plan);
    Ok(Started {
        id: job.id.clone(),
        at: Timestamp::from_nanosecond(process.at.into()).unwrap_or_else(|_| clock::now()),
        image,
        image_id,
        stop_signal: plan.config.stop_signal.clone(),
        resources: job.container.resources.clone().unwrap_or_default(),
        cpus: job.cpus.clone(),
    })
}

/// An image as statuses show it: its name, and its repository with the digest.
fn image_names(plan: &RootfsPlan) -> (String, String) {
    let name = plan.reference.split('@').next().unwrap_or(&plan.reference);
    let repository =
        name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(front, _)| front);
    (name.to_owned(), format!("{repository}@{}", plan.digest))
}

impl Job {
    async fn release(&self) {
        // The hold is also released by the next start of the agent when this fails.
        let _ = self.ctx.options.images.release(&self.id).await;
    }

    /// Forget earlier runs, whose exits are in the record.
    async fn forget_old(&self) {
        for id in &self.old {
            let _ = self.sandbox.remove_container(id).await;
            let _ = self.ctx.options.images.release(id).await;
            let dir = rootfs_dir(&self.ctx, &self.pod, id);
            self.ctx.supervisor.blocking(move || drop(std::fs::remove_dir_all(dir))).await;
        }
    }

    async fn create(&self, plan: &RootfsPlan, objects: &Snapshot) -> Result<(), Failed> {
        let config_error = |error: env::ConfigError| Failed::Config("CreateContainerConfigError", error.0);
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        self.ctx.services.synced().await;
        let services = self.ctx.services.visible(spec::namespace(&self.pod));
        let facts = Facts {
            pod_ip: self.ip.clone(),
            host_ip: self.ctx.options.node_ip.to_string(),
            allocatable: self.ctx.allocatable.clone(),
        };
        let environment =
            env::environment(&self.pod, &self.container, objects, &services, &facts).map_err(config_error)?;
        let mut config = self.base_config(spec, plan, &environment);
        if let Some((name, id)) = &self.target {
            let text = || format!("failed to find the target container: {name} does not run");
            let id = id.clone().ok_or_else(|| Failed::Config("CreateContainerError", text()))?;
            config.pid_of = Some(id);
        }
        let place = spec::display(&self.pod);
        security::apply(spec, &self.container, &plan.config.user, &place, &mut config)
            .map_err(config_error)?;
        if config.args.is_empty() {
            let message =
                "failed to create container: no command specified in the Pod or its image".to_owned();
            return Err(Failed::Config("CreateContainerError", message));
        }
        self.prepare_files(spec, &environment, &mut config).await?;
        let created = self.sandbox.create_container(config).await;
        created.map_err(|error| Failed::Config("CreateContainerError", error.to_string()))
    }

    fn limits(&self) -> Resources {
        let mut limits = security::resources(self.container.resources.as_ref());
        limits.cpuset_cpus = self.cpus.as_ref().map(CpuSet::to_string);
        if !self.pin.cpus.is_empty() {
            limits.cpu_quota = None;
        }
        if !self.pin.zones.is_empty() {
            limits.cpuset_mems = Some(self.pin.zones.iter().copied().collect::<CpuSet>().to_string());
        }
        limits
    }

    fn base_config(
        &self,
        spec: &PodSpec,
        plan: &RootfsPlan,
        environment: &[(String, String)],
    ) -> ContainerConfig {
        let container = &self.container;
        let lookup =
            |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let expand = |list: &Option<Vec<String>>| -> Vec<String> {
            list.iter().flatten().map(|text| env::expand(text, lookup)).collect()
        };
        let (command, args) = (expand(&container.command), expand(&container.args));
        // The pod's command replaces the image's entrypoint and command; its arguments only the command.
        let mut words = if command.is_empty() { plan.config.entrypoint.clone() } else { command.clone() };
        words.extend(if !args.is_empty() || !command.is_empty() { args } else { plan.config.cmd.clone() });
        let mut variables: Vec<String> = Vec::new();
        let extra = self.ctx.options.service_env.iter().filter(|(name, _)| lookup(name).is_none());
        for (name, value) in environment.iter().chain(extra) {
            variables.push(format!("{name}={value}"));
        }
        let named = |entry: &str| entry.split('=').next().map(str::to_owned).unwrap_or_default();
        let own: std::collections::HashSet<String> = variables.iter().map(|entry| named(entry)).collect();
        let mut all: Vec<String> =
            plan.config.env.iter().filter(|entry| !own.contains(&named(entry))).cloned().collect();
        if !own.contains("HOSTNAME") {
            all.push(format!("HOSTNAME={}", files::hostname(&self.pod)));
        }
        all.extend(variables);
        let rootfs = rootfs_dir(&self.ctx, &self.pod, &self.id);
        let (image, image_id) = image_names(plan);
        let labels = [
            ("name", container.name.clone()),
            ("run", self.run.to_string()),
            ("image", image),
            ("image-id", image_id),
        ];
        ContainerConfig {
            id: self.id.clone(),
            rootfs: Rootfs::Overlay {
                lower: plan.lower_dirs.clone(),
                upper: Some(rootfs.join("upper")),
                work: Some(rootfs.join("work")),
                options: Vec::new(),
            },
            args: words,
            env: all,
            working_dir: container.working_dir.clone().unwrap_or_else(|| plan.config.working_dir.clone()),
            oom_score_adj: Some(security::oom_score_adj(spec, container, self.ctx.memory)),
            resources: self.limits(),
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            tty: container.tty == Some(true),
            log: Some(LogConfig::new(self.ctx.log_path(&self.pod, &container.name, self.run))),
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..ContainerConfig::default()
        }
    }

    /// Mounts, and the directories and files that they need.
    async fn prepare_files(
        &self,
        spec: &PodSpec,
        environment: &[(String, String)],
        config: &mut ContainerConfig,
    ) -> Result<(), Failed> {
        let error = |text: String| Failed::Config("CreateContainerConfigError", text);
        let dir = self.ctx.pod_dir(spec::uid(&self.pod));
        let mut sub_paths = Vec::new();
        let mut taken = Vec::new();
        for mount in self.container.volume_mounts.iter().flatten() {
            let ready = self.volumes.get(&mount.name).ok_or_else(|| {
                error(format!("volume \"{}\" of the container is not a volume of the pod", mount.name))
            })?;
            if ready.is_device {
                return Err(error(format!(
                    "volume \"{}\" is a block device (hint: volumeDevices instead of volumeMounts)",
                    mount.name
                )));
            }
            let made = self.mount(mount, ready, environment);
            if let MountSource::Bind { path, sub_path: Some(sub) } = &made.source
                && ready.makes_sub_paths
            {
                sub_paths.push((path.clone(), sub.clone()));
            }
            taken.push(mount.mount_path.trim_end_matches('/').to_owned());
            config.mounts.push(made);
        }
        for device in self.container.volume_devices.iter().flatten() {
            let ready = self.volumes.get(&device.name).filter(|ready| ready.is_device).ok_or_else(|| {
                error(format!(
                    "volume \"{}\" is no block device of the pod (hint: volumeMode: Block)",
                    device.name
                ))
            })?;
            config.devices.push(Device {
                host_path: ready.path.clone(),
                container_path: PathBuf::from(&device.device_path),
                permissions: if ready.read_only { "r" } else { "rwm" }.to_owned(),
            });
        }
        for (file, target) in
            [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
        {
            let wanted = !(file == "hostname" && spec.host_network == Some(true));
            if wanted && !taken.iter().any(|path| path == target) {
                config.mounts.push(bind(&dir.join(file), target));
            }
        }
        let message = termination_path(&self.ctx, &self.pod, &self.container.name, self.run);
        let target = self.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        if !target.is_empty() {
            config.mounts.push(bind(&message, target));
        }
        let rootfs = rootfs_dir(&self.ctx, &self.pod, &self.id);
        let done = self.ctx.supervisor.blocking(move || -> std::io::Result<()> {
            std::fs::create_dir_all(rootfs.join("upper"))?;
            std::fs::create_dir_all(rootfs.join("work"))?;
            if let Some(parent) = message.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&message, b"")?;
            // Any user of the container may leave a last word.
            std::fs::set_permissions(&message, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
            sub_paths.iter().try_for_each(|(path, sub)| volumes::subpath::ensure(path, sub))
        });
        done.await.map_err(|problem| error(format!("failed to prepare container files: {problem}")))
    }

    fn mount(&self, mount: &VolumeMount, ready: &Ready, environment: &[(String, String)]) -> Mount {
        let lookup =
            |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let expanded = mount.sub_path_expr.as_ref().map(|text| env::expand(text, lookup));
        let sub = expanded.or_else(|| mount.sub_path.clone()).filter(|sub| !sub.is_empty());
        Mount {
            destination: PathBuf::from(&mount.mount_path),
            source: MountSource::Bind { path: ready.path.clone(), sub_path: sub.map(PathBuf::from) },
            read_only: ready.read_only || mount.read_only == Some(true),
            recursive_read_only: matches!(mount.recursive_read_only.as_deref(), Some("Enabled")),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        }
    }
}

fn bind(path: &Path, target: &str) -> Mount {
    Mount {
        destination: PathBuf::from(target),
        source: MountSource::Bind { path: path.to_owned(), sub_path: None },
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
    }
}
