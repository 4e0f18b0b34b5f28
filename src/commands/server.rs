//! `sampan server`: a control plane alone, one of several over one store.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};
use sampan_daemon::Supervisor;

use super::{
    service::{self, Service},
    up,
};
use crate::{
    cli::Server,
    controlplane::{self, ControlPlane, Settings},
    instance::{self, Instance},
    platform,
    store::{self, Opened},
};

struct Plane {
    settings: Settings,
}

struct Running {
    plane: ControlPlane,
    supervisor: Supervisor,
    // Ends last: everything else writes to it.
    store: Opened,
}

pub(crate) fn run(data_dir: &Path, options: Server) -> Result<ExitCode> {
    instance::require_root()?;
    Instance::refuse_agent(data_dir)?;
    let instance = Instance::open_or_make(data_dir, &up::choices(&options.plane, None)?)?;
    if instance.facts.node_cidr.is_some() {
        bail!("{} is of a node (hint: `sampan up`, or another --data-dir)", instance.dir.display());
    }
    service::launch(instance, options.launch, &Plane { settings: up::settings(&options.plane)? })
}

impl Service for Plane {
    type Running = Running;
    const ROLE: &'static str = "server";

    async fn start(&self, instance: &mut Instance, supervisor: Supervisor) -> Result<Running> {
        let opened = store::open(instance, &supervisor).await?;
        let cluster = controlplane::enter(instance, &self.settings, &opened).await?;
        let place = platform::shared_place(instance, &self.settings)?;
        let plane =
            ControlPlane::start(instance, &self.settings, (&opened, cluster), &place, &supervisor).await?;
        Ok(Running { plane, supervisor, store: opened })
    }

    fn api(running: &Running) -> String {
        running.plane.url.clone()
    }

    async fn ready(&self, _: &Instance, _: &Running) -> Result<()> {
        // It serves once it has started.
        Ok(())
    }

    fn screen(&self, instance: &Instance, api: &str) -> String {
        let flag = service::data_dir_flag(instance);
        format!(
            "Sampan {version}, a server\n\n  \
               API         {api}\n  \
               state       {store}\n  \
               kubeconfig  {kubeconfig}\n  \
               secret      {data}/cluster-secret, for further servers\n\n  \
               sampan{flag} token create --print-join-command\n",
            version = env!("CARGO_PKG_VERSION"),
            store = instance::store_name(instance.facts.store.as_ref()),
            kubeconfig = instance.kubeconfig().display(),
            data = instance.dir.display(),
        )
    }

    async fn stop(running: Running) {
        let Running { mut plane, supervisor, store } = running;
        plane.drain().await;
        drop(plane);
        service::end(&supervisor).await;
        // Closing the store waits for the disk.
        supervisor.blocking(move || drop(store)).await;
    }
}
