//! `sampan up`: control plane and node in one process.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use sampan_apiserver::{AuditLog, AuditPolicy, AuditWebhook};
use sampan_daemon::Supervisor;

use super::service::{self, Service};
use crate::{
    cli::{PlaneArgs, Up},
    controlplane::{Auditing, Settings},
    instance::{self, Choices, Instance},
    node::NodeSettings,
    platform::{Addresses, Platform},
    scheduler_config,
    store::Remote,
};

struct Whole {
    settings: Settings,
    node: NodeSettings,
    registry_port: Option<u16>,
}

pub(crate) fn run(data_dir: &Path, options: Up) -> Result<ExitCode> {
    instance::require_root()?;
    Instance::refuse_agent(data_dir)?;
    let instance = Instance::open_or_make(data_dir, &choices(&options.plane, options.node_name)?)?;
    let node = NodeSettings::new(options.images, options.zones);
    let settings = settings(&options.plane)?;
    let whole = Whole { settings, node, registry_port: options.registry_port };
    service::launch(instance, options.launch, &whole)
}

/// What the arguments say of the instance.
pub(super) fn choices(options: &PlaneArgs, node_name: Option<String>) -> Result<Choices> {
    Ok(Choices {
        api_port: options.api_port,
        node_name,
        pod_cidr: options.pod_cidr,
        service_cidr: options.service_cidr,
        store: Remote::of(&options.store)?,
    })
}

/// What they say of the control plane.
pub(super) fn settings(options: &PlaneArgs) -> Result<Settings> {
    let secret = options.cluster_secret_file.as_ref();
    let secret = secret.map(|file| std::fs::read_to_string(file).with_context(|| file.display().to_string()));
    Ok(Settings {
        bind: options.bind.clone(),
        advertise: options.advertise_address,
        names: options.tls_san.clone(),
        audit: audit(options)?,
        encryption: options.encryption_provider_config.clone(),
        scheduler: scheduler_config::read(options.scheduler_config.as_deref())?,
        rebalance: super::rebalance::continuous(&options.rebalance),
        overcommit: options.overcommit,
        authentication: crate::issuers::configuration(
            options.authentication_config.as_deref(),
            &options.oidc,
        )?,
        secret: secret.transpose()?,
    })
}

/// What is to be recorded of requests, and where.
fn audit(options: &PlaneArgs) -> Result<Option<Auditing>> {
    let Some(file) = &options.audit_policy else { return Ok(None) };
    let text = std::fs::read(file).with_context(|| file.display().to_string())?;
    let policy = AuditPolicy::parse(&text)
        .map_err(|why| anyhow::anyhow!("{} is no audit policy: {why}", file.display()))?;
    let log = options.audit_log.as_ref().map(|path| AuditLog {
        path: path.clone(),
        max_size: options.audit_log_max_size << 20,
        max_age: Duration::from_secs(options.audit_log_max_age.saturating_mul(24 * 3600)),
        max_backups: options.audit_log_max_backups,
    });
    let webhook = options.audit_webhook_config_file.as_ref().map(|file| audit_webhook(file, options));
    Ok(Some(Auditing { policy, log, webhook: webhook.transpose()? }))
}

/// Who is sent records of requests; files that the kubeconfig names are found from where it lies.
fn audit_webhook(file: &Path, options: &PlaneArgs) -> Result<AuditWebhook> {
    let text = std::fs::read(file).with_context(|| file.display().to_string())?;
    let beside = |path: &str| std::fs::read(file.parent().unwrap_or(Path::new("")).join(path));
    let mut webhook = AuditWebhook::parse(&text, beside)
        .map_err(|why| anyhow::anyhow!("{} names no audit webhook: {why}", file.display()))?;
    webhook.initial_backoff = Duration::from_secs(options.audit_webhook_initial_backoff);
    webhook.max_wait = Duration::from_secs(options.audit_webhook_batch_max_wait);
    Ok(webhook)
}

impl Service for Whole {
    type Running = Platform;
    const ROLE: &'static str = "up";

    async fn start(&self, instance: &mut Instance, supervisor: Supervisor) -> Result<Platform> {
        Platform::start(instance, &self.settings, (&self.node, self.registry_port), supervisor).await
    }

    fn api(running: &Platform) -> String {
        running.api.clone()
    }

    async fn ready(&self, instance: &Instance, running: &Platform) -> Result<()> {
        service::node_ready(&running.client, &instance.facts.node_name).await
    }

    fn screen(&self, instance: &Instance, api: &str) -> String {
        let facts = &instance.facts;
        let dns =
            Addresses::of(instance).map_or_else(|_| String::new(), |addresses| addresses.dns.to_string());
        format!(
            "Sampan {version} on node {node}\n\n  \
               API         {api}\n  \
               kubeconfig  {kubeconfig}\n  \
               data        {data}\n  \
               pods        {pods}\n  \
               services    {services}, DNS at {dns}\n  \
               registry    {registry}\n\n  \
               export KUBECONFIG={kubeconfig}\n  \
               kubectl get pods -A\n  \
               sampan{flag} run --rm -it IMAGE sh\n",
            version = env!("CARGO_PKG_VERSION"),
            node = facts.node_name,
            kubeconfig = instance.kubeconfig().display(),
            data = instance.dir.display(),
            pods = facts.pod_cidr,
            services = facts.service_cidr,
            registry = super::registry::place(&instance.dir),
            flag = service::data_dir_flag(instance),
        )
    }

    async fn stop(running: Platform) {
        running.stop().await;
    }
}
