//! A pod's sandbox and volumes: made side by side before its containers, removed after them.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod, PodSpec, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use sampan_container::{IpcMode, Network, PidMode, PodSandbox, PodSandboxConfig};
use sampan_daemon::clock;
use sampan_network::{HostPort, Protocol};
use tokio_util::sync::CancellationToken;

use super::{Done, Stage, Worker};
use crate::context::Context;
use crate::events::Subject;
use crate::objects::Snapshot;
use crate::pod::env::Facts;
use crate::pod::record::PodRecord;
use crate::pod::{files, security, spec};
use crate::volumes::{self, Ready, Sources, TokenKey};

/// A sandbox that is ready for containers.
pub struct Made {
    sandbox: PodSandbox,
    ip: Option<Ipv4Addr>,
}

/// Volumes that are ready for containers.
pub struct Volumes {
    ready: BTreeMap<String, Ready>,
    tokens: HashMap<TokenKey, Token>,
}

/// An issued service account token.
#[derive(Clone)]
pub struct Token {
    text: String,
    /// When to replace it.
    renew: Timestamp,
}

impl Worker {
    pub(super) fn decide_sandbox(&mut self, now: Timestamp) {
        if self.sandbox_stage != Stage::Todo {
            return;
        }
        if let Err(at) = self.sandbox_retry.due(now) {
            self.wake_at(at);
            return;
        }
        self.sandbox_stage = Stage::Doing;
        let (ctx, pod, old) = (self.ctx.clone(), self.allocated_pod(), self.sandbox.take());
        let has_cpus = !self.record.zones.cpus.is_empty();
        self.ops.push(Box::pin(async move { Done::Sandbox(make_sandbox(&ctx, &pod, old, has_cpus).await) }));
    }

    pub(super) fn sandbox_made(&mut self, result: Result<Made, String>, now: Timestamp) {
        match result {
            Ok(made) => {
                self.sandbox_stage = Stage::Done;
                self.sandbox_retry = super::Retry::new(Duration::from_secs(30));
                self.sandbox = Some(made.sandbox);
                self.record.ip = made.ip;
                self.record.sandbox_ready = true;
            }
            Err(error) => {
                self.sandbox_stage = Stage::Todo;
                self.sandbox_retry.fail(now);
                self.events
                    .warning("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
            }
        }
    }

    pub(super) fn decide_volumes(&mut self, now: Timestamp) {
        if self.references.is_none() || self.volumes_stale {
            // Held anew, since the spec may refer to other objects now; what is held already keeps its watch.
            let references = self.ctx.objects.hold(&self.pod);
            self.references = Some(references);
        }
        if let Some(renew) = self.tokens.values().map(|token| token.renew).min() {
            if renew <= now {
                self.volumes_stale = true;
            } else {
                self.wake_at(renew);
            }
        }
        let wanted =
            self.volume_stage == Stage::Todo || (self.volume_stage == Stage::Done && self.volumes_stale);
        if !wanted {
            return;
        }
        if let Err(at) = self.volume_retry.due(now) {
            self.wake_at(at);
            return;
        }
        let Some(references) = &self.references else { return };
        let refresh = self.volume_stage == Stage::Done;
        self.volumes_stale = false;
        self.volume_stage = Stage::Doing;
        let (ctx, pod, settled) = (self.ctx.clone(), self.pod.clone(), references.settled());
        let (tokens, old) = (self.tokens.clone(), self.volumes.clone());
        let (events, cancel) = (self.events.clone(), self.cancel.clone());
        let held = image_volumes(&pod).map(|(name, _)| image_hold(&self.record.uid, name)).collect();
        self.record.image_holds = held;
        self.ops.push(Box::pin(async move {
            let made = make_volumes(&ctx, &pod, settled, tokens, (&events, &cancel)).await;
            // Mounted volumes stay usable when they cannot be refreshed.
            Done::Volumes(match made {
                Err(error) if refresh => {
                    tracing::warn!(pod = spec::display(&pod), error, "volumes not refreshed; trying again");
                    let retry = Token { text: String::new(), renew: clock::now() + Duration::from_secs(10) };
                    let tokens = HashMap::from([(TokenKey { audience: "retry".into(), seconds: 0 }, retry)]);
                    Ok(Volumes { ready: BTreeMap::clone(&old), tokens })
                }
                other => other,
            })
        }));
    }

    pub(super) fn volumes_made(&mut self, result: Result<Volumes, String>, now: Timestamp) {
        match result {
            Ok(made) => {
                self.volume_stage = Stage::Done;
                self.volume_retry = super::Retry::new(Duration::from_secs(120));
                self.volumes = Arc::new(made.ready);
                self.tokens = made.tokens;
            }
            Err(error) => {
                self.volume_stage = Stage::Todo;
                self.volume_retry.fail(now);
                self.events.warning("FailedMount", error);
            }
        }
    }

    /// The shim is gone: its containers are dead, the next decision makes a new sandbox.
    pub(super) fn lose_sandbox(&mut self) {
        self.lose_runs();
        self.probes.clear();
        if self.sandbox_stage == Stage::Done {
            self.events.normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        }
        if self.sandbox_stage != Stage::Doing {
            self.sandbox_stage = Stage::Todo;
        }
    }
}

async fn make_sandbox(
    ctx: &Context,
    pod: &Pod,
    old: Option<PodSandbox>,
    has_cpus: bool,
) -> Result<Made, String> {
    let uid = spec::uid(pod);
    if let Some(old) = old.or_else(|| ctx.options.runtime.pod(uid)) {
        old.remove().await.map_err(|error| error.to_string())?;
    }
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut config = sandbox_config(pod, spec);
    if has_cpus {
        // A quota would keep its containers from using all of what is theirs alone.
        config.resources.cpu_quota = None;
    }
    let host = config.network == Network::Host;
    let sandbox = ctx.options.runtime.create_pod(config).await.map_err(|error| error.to_string())?;
    let mut ip = None;
    if !host {
        let attached = ctx.options.network.attach(uid, &sandbox.netns(), &host_ports(spec)).await;
        match attached {
            Ok(attachment) => ip = Some(attachment.ip),
            Err(error) => {
                // The attach error is what matters; a leftover sandbox is replaced by the next try.
                let _ = sandbox.remove().await;
                return Err(error.to_string());
            }
        }
    }
    let dir = ctx.pod_dir(uid);
    let dns = files::ClusterDns {
        address: ctx.options.cluster_dns,
        domain: ctx.options.cluster_domain.clone(),
        host_resolv_conf: ctx.options.host_resolv_conf.clone(),
    };
    let host_file =
        if host { std::fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    let hosts = files::hosts(pod, ip, &dns.domain, &host_file);
    let (resolv, hostname) = (files::resolv_conf(pod, &dns), format!("{}\n", files::hostname(pod)));
    let written = ctx.supervisor.blocking(move || -> std::io::Result<()> {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("hosts"), hosts)?;
        std::fs::write(dir.join("resolv.conf"), resolv)?;
        std::fs::write(dir.join("hostname"), hostname)
    });
    written.await.map_err(|error| format!("cannot write pod files: {error}"))?;
    Ok(Made { sandbox, ip })
}

fn sandbox_config(pod: &Pod, spec: &PodSpec) -> PodSandboxConfig {
    let context = spec.security_context.as_ref();
    let sysctls = context.and_then(|context| context.sysctls.as_ref());
    let labels = [("namespace", spec::namespace(pod)), ("name", spec::name(pod)), ("uid", spec::uid(pod))];
    PodSandboxConfig {
        id: spec::uid(pod).to_owned(),
        hostname: files::hostname(pod),
        network: if spec.host_network == Some(true) { Network::Host } else { Network::Private },
        ipc: if spec.host_ipc == Some(true) { IpcMode::Host } else { IpcMode::Pod },
        pid: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => PidMode::Host,
            (_, Some(true)) => PidMode::Pod,
            _ => PidMode::Container,
        },
        sysctls: sysctls
            .into_iter()
            .flatten()
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
        resources: security::pod_resources(spec),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let ports = spec::containers(spec).flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &Ipv4Addr| !ip.is_unspecified()),
                host_port: u16::try_from(port.host_port?).ok()?,
                port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

/// The volumes that are made of images, by name.
fn image_volumes(pod: &Pod) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

/// The name under which a pod holds the image of a volume: its uid comes first.
fn image_hold(uid: &str, volume: &str) -> String {
    format!("{uid}.{volume}")
}

async fn make_volumes(
    ctx: &Context,
    pod: &Pod,
    settled: impl Future<Output = Snapshot> + Send,
    tokens: HashMap<TokenKey, Token>,
    (events, cancel): (&Subject, &CancellationToken),
) -> Result<Volumes, String> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let claims = volumes::claims::resolve(&ctx.options.client, &ctx.options.node_name, pod);
    let (objects, tokens, claims) = tokio::join!(settled, issue(ctx, pod, spec, tokens), claims);
    let (tokens, claims) = (tokens?, claims.map_err(|error| error.to_string())?);
    let texts = tokens.iter().map(|(key, token)| (key.clone(), token.text.clone())).collect();
    let facts = Facts { allocatable: ctx.allocatable.clone(), ..Default::default() };
    let dir = ctx.pod_dir(spec::uid(pod));
    let mut images = HashMap::new();
    for (name, source) in image_volumes(pod) {
        let at = volumes::volume_dir(&dir, name);
        if ctx.supervisor.blocking(move || volumes::is_mounted(&at)).await.unwrap_or(false) {
            // It shows what it did, whatever its name stands for meanwhile.
            images.insert(name.to_owned(), Vec::new());
            continue;
        }
        let reference = source.reference.as_deref().unwrap_or_default();
        let image = (reference, source.pull_policy.as_deref().unwrap_or("IfNotPresent"));
        let hold = image_hold(spec::uid(pod), name);
        let made = super::image::ensure(ctx, pod, image, &hold, &objects, events, cancel).await;
        let plan = made.map_err(|failed| format!("volume \"{name}\": {}", failed.message()))?;
        images.insert(name.to_owned(), plan.lower_dirs);
    }
    let sources = Sources { objects: &objects, facts: &facts, tokens: &texts, images: &images };
    let plans = volumes::plan(pod, &sources, &claims).map_err(|error| error.to_string())?;
    ctx.host_volumes.hold(spec::uid(pod), &plans);
    let ready = if plans.is_empty() {
        BTreeMap::new()
    } else {
        let made = ctx.supervisor.blocking(move || volumes::make(&dir, plans)).await;
        made.map_err(|error| error.to_string())?
    };
    Ok(Volumes { ready, tokens })
}

async fn issue(
    ctx: &Context,
    pod: &Pod,
    spec: &PodSpec,
    mut known: HashMap<TokenKey, Token>,
) -> Result<HashMap<TokenKey, Token>, String> {
    let wanted = volumes::token_requests(spec);
    let now = clock::now();
    known.retain(|key, token| wanted.contains(key) && token.renew > now);
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    let api: Api<ServiceAccount> = Api::namespaced(ctx.options.client.clone(), spec::namespace(pod));
    for key in wanted {
        if known.contains_key(&key) {
            continue;
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.audience.is_empty()).then(|| vec![key.audience.clone()]),
                expiration_seconds: Some(key.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..Default::default()
        };
        let issued = api
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .map_err(|error| format!("failed to fetch token: {error}"))?;
        let status = issued.status.ok_or("the API server issued no token")?;
        // Replaced after four fifths of its life, and at least once a day.
        let expires = status.expiration_timestamp.map_or(now, |expires| expires.0);
        let life = expires.as_second() - now.as_second();
        let renew = Duration::from_secs(u64::try_from(life * 4 / 5).unwrap_or(0).clamp(60, 24 * 3600));
        known.insert(key, Token { text: status.token.unwrap_or_default(), renew: now + renew });
    }
    Ok(known)
}

/// Remove what a pod has on this node, except its logs.
pub async fn tear_down(
    ctx: Arc<Context>,
    sandbox: Option<PodSandbox>,
    record: PodRecord,
) -> Result<(), String> {
    let uid = record.uid.clone();
    let network = async {
        if let Some(sandbox) = sandbox.or_else(|| ctx.options.runtime.pod(&uid)) {
            sandbox.remove().await.map_err(|error| error.to_string())?;
        }
        ctx.options.network.detach(&uid).await.map_err(|error| error.to_string())
    };
    network.await?;
    for container in record.containers.values() {
        for id in crate::worker::start::ids(container) {
            ctx.options.images.release(&id).await.map_err(|error| error.to_string())?;
        }
    }
    let dir = ctx.pod_dir(&uid);
    ctx.supervisor.blocking(move || volumes::remove(&dir)).await.map_err(|error| error.to_string())?;
    for hold in &record.image_holds {
        ctx.options.images.release(hold).await.map_err(|error| error.to_string())?;
    }
    ctx.host_volumes.release(&uid);
    Ok(())
}
