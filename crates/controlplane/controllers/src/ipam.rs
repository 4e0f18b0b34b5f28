//! Gives each node its part of the pods' network (`spec.podCIDR`), unless it came with one.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Patch, PatchParams};
use sampan_planner::ipam::{Block, Pool};
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
    state: Mutex<State>,
    queue: Queue<Key>,
}

/// What is taken, kept up to date node by node: looking at all of them for each new one would not do for thousands.
struct State {
    pool: Pool,
    /// The block of each node; one that was just given is here before the cache knows of it.
    blocks: HashMap<String, Block>,
    /// Nodes for which there was none.
    waiting: HashSet<String>,
}

impl State {
    fn set(&mut self, name: &str, block: Option<Block>) {
        if self.blocks.get(name) == block.as_ref() {
            return;
        }
        let old = match block {
            Some(block) => {
                self.pool.take(&block);
                self.blocks.insert(name.to_owned(), block)
            }
            None => self.blocks.remove(name),
        };
        if let Some(old) = old {
            self.pool.release(&old);
        }
    }
}

impl Ipam {
    pub fn new(client: Client, caches: Arc<Caches>, events: &Recorder, cluster: Block) -> Arc<Self> {
        let events = events.of("cidrAllocator");
        let pool = Pool::new(cluster, NODE_PREFIX);
        let state = Mutex::new(State { pool, blocks: HashMap::new(), waiting: HashSet::new() });
        let this = Arc::new(Self { client, caches, events, state, queue: Queue::new() });
        let own = this.clone();
        this.caches.nodes.on(move |change| own.changed(change));
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, change: &Change<'_, Node>) {
        let node = change.object();
        let name = pods::name(&node.metadata);
        if let Change::Deleted(_) = change {
            let mut state = self.state();
            state.waiting.remove(name);
            state.set(name, None);
            // Its block may be what others wait for.
            for other in std::mem::take(&mut state.waiting) {
                self.queue.add(Key::new("", &other));
            }
            return;
        }
        match block_of(node) {
            Some(block) => self.state().set(name, Some(block)),
            None => self.queue.add(Key::of(&node.metadata)),
        }
    }

    /// Chooses a block and remembers it, in one step: no two nodes are given the same.
    fn choose(&self, key: &Key) -> Option<Block> {
        let mut state = self.state();
        if let Some(block) = state.blocks.get(&key.name) {
            return Some(*block);
        }
        // One that is gone would keep its block for ever.
        self.caches.nodes.get(key)?;
        let block = state.pool.free();
        match block {
            Some(_) => state.set(&key.name, block),
            None => drop(state.waiting.insert(key.name.clone())),
        }
        block
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
        let Some(block) = self.choose(key) else {
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
        Ok(None)
    }
}
