//! `sampan status`

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use serde::Serialize;

use crate::{
    cli::Format,
    instance::{Instance, Running},
    local, terminal,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    data_dir: String,
    id: String,
    running: Option<Running>,
    kubeconfig: String,
    nodes: Vec<NodeStatus>,
    pods: Pods,
}

#[derive(Serialize)]
struct NodeStatus {
    name: String,
    ready: bool,
}

#[derive(Default, Serialize)]
struct Pods {
    total: usize,
    running: usize,
    ready: usize,
}

/// Exit code 0 when it runs, 3 when it does not, as service managers have it.
pub(crate) async fn run(data_dir: &Path, format: Format) -> Result<ExitCode> {
    let instance = Instance::open(data_dir)?;
    let running = instance.running();
    let asked = running.as_ref().is_some_and(|running| running.role != "agent");
    let (nodes, pods) = if asked { ask(&instance).await? } else { (Vec::new(), Pods::default()) };
    let code = if running.is_some() { 0 } else { 3 };
    let status = Status {
        data_dir: instance.dir.display().to_string(),
        id: instance.facts.id.clone(),
        running,
        kubeconfig: instance.kubeconfig().display().to_string(),
        nodes,
        pods,
    };
    terminal::print(format, &status, || text(&status))?;
    Ok(ExitCode::from(code))
}

async fn ask(instance: &Instance) -> Result<(Vec<NodeStatus>, Pods)> {
    let client = local::client(instance)?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let nodes = nodes.iter().map(|node| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        NodeStatus {
            name: node.name_any(),
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        }
    });
    let mut count = Pods::default();
    for pod in Api::<Pod>::all(client).list(&ListParams::default()).await? {
        let status = pod.status.unwrap_or_default();
        let ready =
            status.conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True");
        count.total += 1;
        count.running += usize::from(status.phase.as_deref() == Some("Running"));
        count.ready += usize::from(ready);
    }
    Ok((nodes.collect(), count))
}

fn text(status: &Status) -> String {
    let Some(running) = &status.running else {
        return format!("not running; data in {} (hint: `sampan up`)\n", status.data_dir);
    };
    if running.role == "agent" {
        return format!(
            "running     process {}, since {}, a node of the cluster at {}\ndata        {}\n",
            running.pid, running.started, running.api, status.data_dir
        );
    }
    let node = |node: &NodeStatus| format!("{} {}", node.name, if node.ready { "Ready" } else { "NotReady" });
    let rows = [
        ["running".to_owned(), format!("process {}, since {}", running.pid, running.started)],
        ["API".to_owned(), running.api.clone()],
        ["kubeconfig".to_owned(), status.kubeconfig.clone()],
        ["data".to_owned(), status.data_dir.clone()],
        ["nodes".to_owned(), status.nodes.iter().map(node).collect::<Vec<_>>().join(", ")],
        [
            "pods".to_owned(),
            format!("{} of {} running, {} ready", status.pods.running, status.pods.total, status.pods.ready),
        ],
    ];
    rows.iter().map(|[name, value]| format!("{name:<11} {value}\n")).collect()
}
