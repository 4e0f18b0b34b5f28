//! What nodes say of themselves, asked for when somebody wants to know.
//!
//! An answer is good for [`FRESH`]; requests that come while a node is asked wait for the same answer. A node that has
//! failed is not asked again for [`PAUSE`], so that a dead one does not slow down every request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use crate::{core::Core, subresource::node};

/// An answer is as good as new for so long.
const FRESH: Duration = Duration::from_secs(5);
/// A node that has failed is left alone for so long.
const PAUSE: Duration = Duration::from_secs(10);
/// The time that a node has to answer.
const PATIENCE: Duration = Duration::from_secs(6);
/// A longer answer is none: some kilobytes for each of a thousand pods.
const MOST: usize = 16 << 20;
/// Nodes that nobody has asked about for so long are forgotten.
const FORGET: Duration = Duration::from_secs(300);

/// What something uses.
#[derive(Clone, Debug)]
pub(super) struct Used {
    /// RFC 3339.
    pub at: String,
    /// Over which time CPU was measured.
    pub window: Option<Duration>,
    /// None when it has not been measured for long enough.
    pub nanocores: Option<u64>,
    /// The working set.
    pub bytes: u64,
}

/// A container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub name: String,
    pub used: Used,
}

/// What a node said.
pub(super) struct Summary {
    pub node: Option<Used>,
    /// Containers by namespace and name of their pod.
    pub pods: HashMap<(String, String), Vec<Container>>,
}

impl Used {
    fn read(stats: &Value) -> Option<Self> {
        let seconds = stats["cpu"]["windowSeconds"].as_f64().filter(|seconds| seconds.is_finite());
        Some(Self {
            at: stats["cpu"]["time"].as_str()?.to_owned(),
            window: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            nanocores: stats["cpu"]["usageNanoCores"].as_u64(),
            bytes: stats["memory"]["workingSetBytes"].as_u64()?,
        })
    }
}

impl Summary {
    fn read(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let mut pods = HashMap::new();
        for pod in value["pods"].as_array().into_iter().flatten() {
            let reference = |member: &str| pod["podRef"][member].as_str().map(str::to_owned);
            let (Some(namespace), Some(name)) = (reference("namespace"), reference("name")) else { continue };
            let containers = pod["containers"].as_array().into_iter().flatten().filter_map(|container| {
                let name = container["name"].as_str()?.to_owned();
                Some(Container { name, used: Used::read(container)? })
            });
            pods.insert((namespace, name), containers.collect());
        }
        Some(Self { node: Used::read(&value["node"]), pods })
    }
}

/// The last that a node said, or that it said nothing.
type Said = Option<(Instant, Option<Arc<Summary>>)>;

/// One node. It is locked while the node is asked.
#[derive(Default)]
struct Slot(tokio::sync::Mutex<Said>);

/// The nodes that were asked.
#[derive(Default)]
pub(crate) struct Nodes(Mutex<HashMap<String, (Instant, Arc<Slot>)>>);

impl Nodes {
    fn slot(&self, name: &str) -> Arc<Slot> {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((used, slot)) = nodes.get_mut(name) {
            *used = now;
            return slot.clone();
        }
        nodes.retain(|_, (used, _)| now.duration_since(*used) < FORGET);
        let slot = Arc::<Slot>::default();
        nodes.insert(name.to_owned(), (now, slot.clone()));
        slot
    }

    /// What a node says; nothing when it does not answer.
    pub(super) async fn ask(&self, core: &Arc<Core>, name: &str) -> Option<Arc<Summary>> {
        let slot = self.slot(name);
        let mut said = slot.0.lock().await;
        if let Some((at, summary)) = &*said
            && at.elapsed() < if summary.is_some() { FRESH } else { PAUSE }
        {
            return summary.clone();
        }
        let path = "/stats/summary?only_cpu_and_memory=true";
        let answer = tokio::time::timeout(PATIENCE, node::read(core, name, path, MOST)).await;
        let summary = match answer {
            Ok(Ok(bytes)) => Summary::read(&bytes).map(Arc::new),
            Ok(Err(why)) => {
                tracing::debug!(node = name, "metrics: {why}");
                None
            }
            Err(_) => {
                tracing::debug!(node = name, "metrics: no answer in {PATIENCE:?}");
                None
            }
        };
        *said = Some((Instant::now(), summary.clone()));
        summary
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn summaries_are_read_as_far_as_they_make_sense() {
        let stats = |nanocores: Value| {
            json!({
                "cpu": {"time": "2026-01-01T00:00:00Z", "usageNanoCores": nanocores, "windowSeconds": 12.5},
                "memory": {"workingSetBytes": 4096},
            })
        };
        let mut container = stats(json!(7));
        container["name"] = json!("main");
        let text = json!({"node": stats(json!(5)), "pods": [
            {"podRef": {"name": "p", "namespace": "n"}, "containers": [container, {"name": "odd"}]},
            {"podRef": {"name": 3}}, 7,
        ]});
        let summary = Summary::read(text.to_string().as_bytes()).unwrap();
        let node = summary.node.unwrap();
        assert_eq!(
            (node.nanocores, node.bytes, node.window),
            (Some(5), 4096, Some(Duration::from_millis(12_500)))
        );
        let pod = &summary.pods[&("n".to_owned(), "p".to_owned())];
        assert_eq!((pod.len(), pod[0].used.nanocores), (1, Some(7)));
        assert!(Summary::read(b"{").is_none());
        assert!(Summary::read(b"[]").is_some_and(|empty| empty.node.is_none()));
        let bad =
            json!({"node": {"cpu": {"time": "x", "windowSeconds": -1.0}, "memory": {"workingSetBytes": 1}}});
        assert_eq!(Summary::read(bad.to_string().as_bytes()).unwrap().node.unwrap().window, None);
    }
}
