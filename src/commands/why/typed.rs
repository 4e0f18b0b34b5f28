//! What a pod's InstanceType has to do with where it is.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use sampan_api::instancetype::{CLASS, NODE_TYPE, NODES, TYPE};
use sampan_planner::instances::InstanceType;
use sampan_planner::scheduler::Cluster;

/// In words, a line each; nothing for a pod that asks for none.
pub(super) async fn words(client: &kube::Client, pod: &Pod, cluster: &Cluster) -> Result<Vec<String>> {
    let (asked, class) = (pod.annotations().get(TYPE), pod.annotations().get(CLASS));
    let got = pod.labels().get(TYPE);
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref()?.get(NODE_TYPE));
    if asked.is_none() && class.is_none() && selector.is_none() && got.is_none() {
        return Ok(Vec::new());
    }
    // Beside an API server that does not know our kinds there are none.
    let types = Api::<InstanceType>::all(client.clone()).list(&ListParams::default()).await;
    let types = types.map(|list| list.items).unwrap_or_default();
    let shape = |name: &str| types.iter().find(|kind| kind.name_any() == name).and_then(|k| k.shape().ok());
    let mut lines = Vec::new();
    if let Some(name) = got {
        let how = if asked == Some(name) { "that it asked for" } else { "that was chosen for it" };
        lines.push(match shape(name) {
            Some(shape) => {
                let (class, size) = (&shape.class, shape.words());
                format!("its size is InstanceType {name} (class {class}: {size}) {how}")
            }
            None => format!("its size is InstanceType {name} {how}, which is there no more"),
        });
        let of_class = shape(name).map(|shape| (count(cluster, CLASS, &shape.class), shape.class));
        let prefers = pod.annotations().get(NODES).is_none_or(|nodes| nodes == "Prefer");
        if let Some((nodes, class)) = of_class.filter(|_| prefers) {
            lines.push(format!("it prefers nodes of class {class}, of which there are {nodes}"));
        }
    }
    if let Some(name) = selector {
        lines.push(match count(cluster, NODE_TYPE, name) {
            0 => format!(
                "only nodes of type {name} will do, and there is none (hint: kubectl label node NODE {NODE_TYPE}={name})"
            ),
            nodes => format!("only nodes of type {name} will do, of which there are {nodes}"),
        });
    }
    Ok(lines)
}

fn count(cluster: &Cluster, label: &str, value: &str) -> usize {
    cluster.nodes().filter(|node| node.labels().get(label).is_some_and(|v| v == value)).count()
}
