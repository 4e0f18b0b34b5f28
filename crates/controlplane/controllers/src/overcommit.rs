//! Batch pods: nodes offer what was asked for and is not used, and take it back when they get short.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Patch, PatchParams};
use sampan_daemon::clock;
use sampan_planner::overcommit::{self, Bounds, Guest};
use sampan_planner::usage::{self, Amount, Basis, Ledger, Percentile, Reading};
use sampan_planner::{pods, scheduler};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::apis;
use crate::cache::{Caches, on_node};
use crate::error::{Context, Result};
use crate::events::Recorder;
use crate::informer::Key;
use crate::queue::Queue;
use crate::usage::{Look, Usage};
use crate::worker::Reconciler;

/// How the peaks of what is not a batch pod are reckoned.
const PEAK: Basis = Basis::Peak(Percentile::P95);

/// For so long after pods had to leave a node nobody else has to: what is measured still holds their use.
const SETTLE: Duration = Duration::from_secs(30);

/// The controller. Its keys are nodes.
pub(crate) struct Overcommit {
    client: Client,
    caches: Arc<Caches>,
    events: Recorder,
    queue: Queue<Key>,
    /// None: nothing is offered, and offers of before are taken back.
    bounds: Option<Bounds>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    look: Option<Arc<Look>>,
    /// Of what nodes use without their batch pods.
    ledger: Ledger,
    others: BTreeMap<String, usage::NodeUsage>,
    /// When pods had to leave a node last.
    relieved: HashMap<String, Instant>,
}

impl Overcommit {
    pub fn new(
        client: Client,
        caches: Arc<Caches>,
        events: &Recorder,
        bounds: Option<Bounds>,
        usage: &Usage,
    ) -> Arc<Self> {
        let events = events.of("sampan-overcommit");
        let this =
            Arc::new(Self { client, caches, events, queue: Queue::new(), bounds, known: Mutex::default() });
        if this.bounds.is_some() {
            let own = this.clone();
            usage.on(move |look| own.looked(look));
        }
        let own = this.clone();
        this.caches.nodes.on(move |change| {
            // What a node has, and what is said about it, may change between two looks.
            if own.bounds.is_some() || overcommit::offered(change.object()).is_some() {
                own.queue.add(Key::of(&change.object().metadata));
            }
        });
        this
    }

    fn looked(&self, look: &Arc<Look>) {
        let nodes = self.caches.nodes.all();
        let mut readings: HashMap<String, Reading> = HashMap::new();
        for node in &nodes {
            let name = pods::name(&node.metadata);
            let Some(reading) = look.measured.nodes.get(name) else { continue };
            let here = self.caches.pods.indexed(&on_node(name));
            let batch = here.iter().filter(|pod| overcommit::asked(pod).is_some());
            let of_pod = |pod: &Arc<Pod>| look.pods.get(pods::uid(&pod.metadata)).map(|usage| usage.used);
            let guests = batch.filter_map(of_pod).fold(Amount::default(), Amount::plus);
            let used = reading.used.minus(guests).max(Amount::default());
            readings.insert(name.to_owned(), Reading { used, ..*reading });
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.look = Some(look.clone());
        let of = |name: &str| readings.get(name).copied();
        known.others = known.ledger.take(nodes.iter().map(|node| &**node), of, clock::now());
        drop(known);
        nodes.iter().for_each(|node| self.queue.add(Key::of(&node.metadata)));
    }

    /// What everything but batch pods is taken to use of a node: its peak, and what was placed since and asks for more.
    fn others(&self, known: &Known, name: &str, here: &[Arc<Pod>]) -> Option<Amount> {
        let peak = known.others.get(name)?.on(PEAK);
        let look = known.look.as_ref()?;
        let pending = here.iter().filter(|pod| pods::active(pod) && overcommit::asked(pod).is_none());
        let pending = pending.filter_map(|pod| {
            let asked = Amount::from(&scheduler::pod_requests(pod.spec.as_ref()?));
            match look.pods.get(pods::uid(&pod.metadata)) {
                None => Some(asked),
                Some(usage) if usage.young => Some(asked.minus(usage.used).max(Amount::default())),
                Some(_) => None,
            }
        });
        Some(pending.fold(peak, Amount::plus))
    }

    /// What the node is to offer, and which of its batch pods are to leave.
    fn decide(&self, node: &Node) -> (Amount, Vec<(Arc<Pod>, String)>) {
        let name = pods::name(&node.metadata);
        let nothing = (Amount::default(), Vec::new());
        let Some(bounds) = self.bounds.and_then(|bounds| bounds.of_node(node)) else { return nothing };
        let have = usage::allocatable(node);
        let here = self.caches.pods.indexed(&on_node(name));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.relieved.retain(|_, at| at.elapsed() < SETTLE);
        // What is not measured is not promised.
        let Some(others) = self.others(&known, name, &here) else { return nothing };
        let offer = bounds.offer(have, others);
        let Some(look) = known.look.clone() else { return nothing };
        let of_node = look.nodes.get(name).filter(|_| !known.relieved.contains_key(name));
        let Some(of_node) = of_node else { return (offer, Vec::new()) };
        let batch: Vec<&Arc<Pod>> =
            here.iter().filter(|pod| !pods::finished(pod) && overcommit::asked(pod).is_some()).collect();
        let guest = |pod: &&Arc<Pod>| Guest {
            used: look.pods.get(pods::uid(&pod.metadata)).map(|usage| usage.used).unwrap_or_default(),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            started: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(0, |t| t.0.as_second()),
            leaving: pods::terminating(pod),
        };
        let guests: Vec<Guest> = batch.iter().map(guest).collect();
        let gone = overcommit::evict(bounds, have, (of_node.last, of_node.sustained), &guests);
        if gone.is_some() {
            known.relieved.insert(name.to_owned(), Instant::now());
        }
        let leave = gone.into_iter().flat_map(|(gone, why)| {
            let batch = &batch;
            gone.into_iter()
                .filter_map(move |at| Some(((*batch.get(at)?).clone(), why.clone())))
                .collect::<Vec<_>>()
        });
        (offer, leave.collect())
    }

    async fn offer(&self, node: &Node, offer: Amount) -> Result<()> {
        let old = overcommit::offered(node);
        let nobody = self.bounds.is_none();
        let worth_it = match old {
            Some(_) if nobody => true,
            old => overcommit::is_news(old, offer, usage::allocatable(node)),
        };
        if !worth_it {
            return Ok(());
        }
        let amount = |amount: i64| if nobody { Value::Null } else { Value::String(amount.to_string()) };
        let list =
            json!({overcommit::CPU: amount(offer.milli_cpu), overcommit::MEMORY: amount(offer.memory)});
        let patch = Patch::Merge(json!({"status": {"capacity": list, "allocatable": list}}));
        let name = pods::name(&node.metadata);
        let patched =
            apis::cluster::<Node>(&self.client).patch_status(name, &PatchParams::default(), &patch).await;
        let patched = patched.during(|| format!("offering what is not used of node {name}"))?;
        self.caches.nodes.absorb(patched);
        Ok(())
    }

    async fn evict(&self, pod: &Pod, why: &str) -> Result<()> {
        if apis::disrupt(&self.client, pod, "EvictionByOvercommit", why).await? {
            self.events.warning(pod, "Evicted", why.to_owned());
        }
        Ok(())
    }
}

impl Reconciler for Overcommit {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(node) = self.caches.nodes.get(key) else { return Ok(None) };
        let (offer, leave) = self.decide(&node);
        self.offer(&node, offer).await?;
        for (pod, why) in leave {
            self.evict(&pod, &why).await?;
        }
        Ok(None)
    }
}
