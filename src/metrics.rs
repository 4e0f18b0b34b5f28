//! What nodes and pods use, as the API says it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use sampan_planner::pods;
use sampan_planner::usage::{Measured, NodeUsage, PodUsage};

/// Nodes by name, pods by uid. With one look, what is used now counts as what is always used.
pub(crate) async fn read(
    client: &Client,
    pods: &[Pod],
) -> Result<(BTreeMap<String, NodeUsage>, HashMap<Box<str>, PodUsage>)> {
    let get = async |what: &str| {
        let request = http::Request::get(format!("/apis/metrics.k8s.io/v1beta1/{what}")).body(Vec::new())?;
        client.request_text(request).await.with_context(|| format!("read what {what} use"))
    };
    let measured = Measured::parse(get("nodes").await?.as_bytes(), get("pods").await?.as_bytes())
        .map_err(anyhow::Error::msg)?;
    let nodes = measured.nodes.iter().map(|(name, reading)| (name.clone(), NodeUsage::now(reading.used)));
    let of_pod = |pod: &Pod| Some((pods::uid(&pod.metadata).into(), measured.of_pod(pod)?));
    Ok((nodes.collect(), pods.iter().filter_map(of_pod).collect()))
}
