//! Why a pod goes where it goes, or nowhere: nodes by reason, the node that comes closest, what would change it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::choose::{Judge, Neighbours};
use super::class::Class;
use super::cluster::{Cluster, NodeFilter};
use super::pod::PodInfo;
use super::preempt::Room;
use super::reasons;
use super::status::Status;
use super::world::World;

/// So many names are given for each reason, and so many of the best nodes.
const NAMED: usize = 5;

/// What would change the mind of what else has a say: volumes.
const VOLUMES: &str =
    "see where the pod's volumes can be reached (kubectl get pvc,pv -o wide), or make one there";

/// What would change that room is held for others.
const RESERVED: &str = "wait until it is used or expires, delete the reservation (kubectl get reservations -A), or be one of its owners";

/// Nodes that give the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The reason, in the words of the FailedScheduling event.
    pub reason: String,
    /// How many nodes give it.
    pub count: usize,
    /// Some of them.
    pub nodes: Vec<String>,
    /// What would change it.
    pub remedy: String,
}

/// A resource that a node has too little of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Which.
    pub resource: String,
    /// What the pod asks for.
    pub asked: i64,
    /// What is left there.
    pub free: i64,
    /// What there is altogether.
    pub allocatable: i64,
}

/// A node that could take the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fitting {
    /// Its name.
    pub node: String,
    /// Its score.
    pub score: i64,
}

/// The node that comes closest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Closest {
    /// Its name.
    pub node: String,
    /// What it lacks. CPU is in thousandths of a core.
    pub lacks: Vec<Shortage>,
}

/// The whole answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// How many nodes there are.
    pub nodes: usize,
    /// Those that could take the pod, the best first, with their scores.
    pub fitting: Vec<Fitting>,
    /// How many could.
    pub feasible: usize,
    /// Why the others cannot, the most frequent reason first.
    pub refusals: Vec<Refusal>,
    /// The node that only lacks room, and lacks the least of it.
    pub closest: Option<Closest>,
}

impl Cluster {
    /// Why the pod would go where it would go as things are, or nowhere.
    pub fn explain(&mut self, pod: &PodInfo, filter: Option<NodeFilter<'_>>) -> Explanation {
        let pins = self.pins(pod).map(|pins| pins.nodes);
        let (class, world) = self.class_of(pod);
        let judge = Judge::new(class, &world.nodes);
        let all: Vec<usize> = world.nodes.live_nodes().collect();
        let candidates = pins.clone().unwrap_or_else(|| all.clone());
        let mut refusals: BTreeMap<String, Refusal> = BTreeMap::new();
        let mut able: Vec<usize> = judge.among(&candidates).into_iter().map(|(slot, _)| slot).collect();
        able.retain(|slot| match filter.map_or(Ok(()), |filter| filter(world.nodes.candidate(*slot))) {
            Ok(()) => true,
            Err(why) => {
                note(&mut refusals, why, VOLUMES, &world.nodes[*slot].name);
                false
            }
        });
        let mut fitting = judge.among(&able);
        fitting.sort_by_key(|(slot, score)| (-score, *slot));
        let mut closest: Option<(f64, usize)> = None;
        for slot in all {
            if pins.as_ref().is_some_and(|pins| !pins.contains(&slot)) {
                let reason = "node(s) that the pod does not name".to_owned();
                note(&mut refusals, reason, "the pod names the nodes it may go to", &world.nodes[slot].name);
                continue;
            }
            let reasons: Vec<(String, &str)> = match class.place(slot) {
                None => {
                    let status = class.status(slot);
                    if status.is_fit() {
                        let gap = gap(class, world, slot);
                        if closest.is_none_or(|(least, _)| gap < least) {
                            closest = Some((gap, slot));
                        }
                    }
                    let reasons = reasons::of_status(class, world, status).into_iter();
                    let held = held(class, world, slot).map(|held| (held, RESERVED));
                    held.into_iter()
                        .chain(reasons.map(|r| (r.text.into_owned(), of_status(status))))
                        .collect()
                }
                Some((bucket, _)) => {
                    let against = judge.against(&class.buckets[bucket].key).into_iter();
                    against.map(|n| (reasons::of_neighbours(n).text.into_owned(), of_neighbours(n))).collect()
                }
            };
            for (reason, remedy) in reasons {
                note(&mut refusals, reason, remedy, &world.nodes[slot].name);
            }
        }
        let mut refusals: Vec<Refusal> = refusals.into_values().collect();
        refusals.sort_by(|a, b| (b.count, &a.reason).cmp(&(a.count, &b.reason)));
        let named = |(slot, score): &(usize, i64)| Fitting {
            node: world.nodes[*slot].name.as_ref().to_owned(),
            score: *score,
        };
        Explanation {
            nodes: world.nodes.live_count(),
            feasible: fitting.len(),
            fitting: fitting.iter().take(NAMED).map(named).collect(),
            refusals,
            closest: closest.map(|(_, slot)| Closest {
                node: world.nodes[slot].name.as_ref().to_owned(),
                lacks: shortages(class, world, slot),
            }),
        }
    }
}

/// By which reservations the room is held that the pod would need there.
fn held(class: &Class, world: &World, slot: usize) -> Option<String> {
    let holds = || world.nodes[slot].pods.iter().filter(|pod| pod.holds().is_some());
    if !class.status(slot).is_resolvable() || holds().next().is_none() {
        return None;
    }
    let mut room = Room::new(class, world, slot);
    let mut names: Vec<String> = Vec::new();
    for pod in holds() {
        room.give(world, pod);
        names.extend(pod.holds().map(|seat| format!("{}/{}", seat.namespace, seat.name)));
        if room.status().is_ok() {
            names.sort();
            names.dedup();
            return Some(format!("node(s) whose room is held by reservation {}", names.join(", ")));
        }
    }
    None
}

fn note(refusals: &mut BTreeMap<String, Refusal>, reason: String, remedy: &str, node: &str) {
    let fresh = || Refusal { reason: reason.clone(), count: 0, nodes: Vec::new(), remedy: remedy.to_owned() };
    let refusal = refusals.entry(reason.clone()).or_insert_with(fresh);
    refusal.count += 1;
    if refusal.nodes.len() < NAMED {
        refusal.nodes.push(node.to_owned());
    }
}

fn shortages(class: &Class, world: &World, slot: usize) -> Vec<Shortage> {
    let nodes = &world.nodes;
    let mut shortages = Vec::new();
    for (column, asked) in class.needs() {
        let allocatable = nodes.allocatable(*column, slot);
        let free = allocatable.saturating_sub(nodes.used(*column, slot));
        if *asked > free {
            let resource = nodes.resource_name(*column).to_owned();
            shortages.push(Shortage { resource, asked: *asked, free, allocatable });
        }
    }
    let status = class.status(slot);
    if status.has_too_many_pods() {
        let allocatable = nodes[slot].max_pods;
        let pods = i64::try_from(nodes[slot].pods.len()).unwrap_or(i64::MAX);
        shortages.push(Shortage {
            resource: "pods".to_owned(),
            asked: 1,
            free: allocatable - pods,
            allocatable,
        });
    }
    if status.is_lacking_gpu() {
        let gpu = class.shape.gpu;
        let whole = i64::from(super::gpu::WHOLE);
        let free: i64 = nodes[slot].gpus.free().iter().map(|f| i64::from((*f).max(0))).sum();
        let allocatable = i64::try_from(nodes[slot].gpus.free().len()).unwrap_or(0) * whole;
        let resource = super::gpu::GPU_MILLI.to_owned();
        shortages.push(Shortage { resource, asked: gpu.total().into(), free, allocatable });
    }
    shortages
}

/// How far a node is from having room: the sum of what is missing, each as a part of what is asked for.
fn gap(class: &Class, world: &World, slot: usize) -> f64 {
    let missing = |s: &Shortage| (s.asked - s.free.min(s.asked)) as f64 / s.asked.max(1) as f64;
    let hopeless = |s: &Shortage| if s.asked > s.allocatable { 1000.0 } else { 0.0 };
    shortages(class, world, slot).iter().map(|s| missing(s) + hopeless(s)).sum()
}

fn of_status(status: Status) -> &'static str {
    match status {
        Status::CORDONED => "uncordon the node (kubectl uncordon NODE)",
        Status::UNTOLERATED => {
            "give the pod a toleration, or take the taint off (kubectl taint node NODE KEY-)"
        }
        Status::AFFINITY => "change the pod's nodeSelector or node affinity, or label a node to match it",
        Status::PORTS => "use another hostPort, or wait until the pod that holds it ends",
        Status::HOT_CPU | Status::HOT_MEMORY => {
            "wait until less is used there (kubectl top node), move pods off it, or raise usageThresholds of LoadAware"
        }
        Status::UNALIGNED_CONTAINER | Status::UNALIGNED_POD => {
            "the node would refuse it (TopologyAffinityError): ask for what one of its zones has left (kubectl get noderesourcetopologies NODE -o yaml), or give the node a milder topology manager policy"
        }
        _ => "free room there, ask for less, or add a node",
    }
}

fn of_neighbours(reason: Neighbours) -> &'static str {
    match reason {
        Neighbours::NoDomain => "label the node with the topology key of the spread constraint",
        Neighbours::Skew => "make room in the emptiest domain, or allow a greater maxSkew",
        Neighbours::Affinity => "start a pod there that the affinity speaks of, or relax the affinity",
        Neighbours::AntiAffinity | Neighbours::Unwelcome => {
            "add a node, or move the pod there that is not to be near this one"
        }
    }
}

impl Shortage {
    /// In words: `cpu: asks 2000m, 1500m are free of 4000m`.
    pub fn words(&self) -> String {
        let unit = if self.resource == "cpu" { "m" } else { "" };
        let Self { resource, asked, free, allocatable } = self;
        format!("{resource}: asks {asked}{unit}, {free}{unit} free of {allocatable}{unit}")
    }
}
