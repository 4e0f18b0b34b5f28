//! Gives each node its part of the pods' network (`spec.podCIDR`), unless it came with one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Patch, PatchParams};
use sampan_planner::ipam::{self, Block};
use sampan_planner::pods;
use serde_json::json;

use crate::apis;
use crate::cache::Caches;
use crate::error::{Context, Result};
use crate::events::Recorder;
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// Leading bits of a node's block, as upstream has it by default.
const NODE_PREFIX: u8 = 24;
/// A node for which there is no block is looked at again after this long, or when another goes.
const AGAIN: Duration = Duration::from_secs(300);

/// The controller of nodes' blocks. Its keys are nodes.
pub(crate) struct Ipam {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    cluster: Block,
    /// Given, but not yet seen in the cache.
    given: Mutex<HashMap<String, Block>>,
    queue: Queue<Key>,
}

impl Ipam {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder, cluster: Block) -> Arc<Self> {
        let events = events.of("cidrAllocator");
        let this =
            Arc::new(Self { client, caches, events, cluster, given: Mutex::default(), queue: Queue::new() });
        let own = this.clone();
        this.caches.nodes.on(move |change| own.changed(change));
        this
    }

    fn changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        if let Change::Deleted(_) = change {
            self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(pods::name(&node.metadata));
            // Its block may be what others wait for.
            for other in self.caches.nodes.all() {
                if block_of(&other).is_none() {
                    self.queue.add(Key::of(&other.metadata));
                }
            }
        } else if block_of(node).is_none() {
            self.queue.add(Key::of(&node.metadata));
        }
    }

    /// Chooses a block and remembers it, in one step: no two nodes are given the same.
    fn choose(&self, name: &str) -> Option<Block> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = given.get(name) {
            return Some(*block);
        }
        let nodes = self.caches.nodes.all();
        let mut taken: Vec<Block> = nodes.iter().filter_map(|node| block_of(node)).collect();
        taken.extend(given.values());
        let block = ipam::free(&self.cluster, NODE_PREFIX, &taken)?;
        given.insert(name.to_owned(), block);
        Some(block)
    }
}

fn block_of(node: &Node) -> Option<Block> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()
}

impl Reconciler for Ipam {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(node) = self.caches.nodes.get(key) else { return Ok(None) };
        if block_of(&node).is_some() {
            return Ok(None);
        }
        let Some(block) = self.choose(&key.name) else {
            let note = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.events.warning(&*node, "CIDRNotAvailable", note);
            return Ok(Some(AGAIN));
        };
        let patch = json!({
            // A namesake that came meanwhile is another node.
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": block.to_string(), "podCIDRs": [block.to_string()]},
        });
        let api = apis::cluster::<Node>(&self.client);
        let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        let patched = patched.during(|| format!("giving node {} its block", key.name))?;
        self.caches.nodes.absorb(patched);
        self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
        Ok(None)
    }
}
