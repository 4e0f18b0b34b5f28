//! What the zones (NUMA nodes) of nodes have left, as filters and scores read it (`NodeResourceTopologyMatch`).
//!
//! A node says what is available in its zones, and which pods that is without. What else was placed there since is taken off
//! as the node is likely to give it: by the very rules by which it will. So what is left is always a function of what
//! the node said last and of the pods on it. Nothing of this is kept unless a node says something, and nothing is looked at
//! for pods that no zone matters to.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;

use super::cluster::Cluster;
use super::config::Errors;
use super::gpu::{GPU, GPU_MILLI};
use super::nodes::Nodes;
use super::pod::PodInfo;
use super::reasons::Hints;
use super::resources::{Resources, peak};
use super::score::TOP;
use super::status::Status;
use crate::numa::{self, Hint, Kind, MOST_ZONES, Mask, NodeTopology, Policy, Scope, Verdict};
use crate::quantity;

/// What a pod asks of the zones of its node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ZoneNeed {
    /// Only CPUs and memory of Guaranteed pods come from zones; other resources do for all.
    guaranteed: bool,
    /// What its containers ask for, in the order in which they start.
    containers: Box<[(Kind, Resources)]>,
    /// What all of them ask for at the moment when that is the most.
    total: Resources,
}

impl ZoneNeed {
    /// What a pod asks of zones, if anything.
    pub fn of(spec: &PodSpec, requests: &Resources) -> Option<Arc<Self>> {
        let other = |(name, _): &(Box<str>, i64)| **name != *GPU && **name != *GPU_MILLI;
        let guaranteed = numa::is_guaranteed(spec);
        if !guaranteed && !requests.extended.iter().any(other) {
            return None;
        }
        let asked = numa::containers(spec).map(|(kind, container)| {
            let list = container.resources.as_ref().and_then(|r| r.requests.as_ref().or(r.limits.as_ref()));
            (kind, Resources::new(list))
        });
        let containers: Box<[_]> = asked.collect();
        let total = peak(containers.iter().map(|(kind, asked)| (*kind, Cow::Borrowed(asked))));
        Some(Arc::new(Self { guaranteed, containers, total }))
    }
}

/// How nodes are scored by their zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneScoring {
    /// By what.
    pub strategy: ZoneStrategy,
    /// What resources weigh in it; those that are not named weigh 1.
    pub weights: BTreeMap<String, i64>,
}

/// By what the zones of a node are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneStrategy {
    /// The emptier the better.
    LeastAllocated,
    /// The fuller the better.
    MostAllocated,
    /// The more evenly resources are used the better.
    BalancedAllocation,
    /// The fewer zones a container needs the better.
    LeastNumaNodes,
}

impl Default for ZoneScoring {
    fn default() -> Self {
        Self { strategy: ZoneStrategy::LeastAllocated, weights: BTreeMap::new() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Args {
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(default, rename = "kind")]
    _kind: Option<String>,
    #[serde(default)]
    scoring_strategy: Option<StrategyArgs>,
    /// How another cache than ours is looked after.
    #[serde(default, rename = "cacheResyncPeriodSeconds")]
    _resync: Option<i64>,
    #[serde(default, rename = "discardReservedNodes")]
    _discard: Option<bool>,
    #[serde(default, rename = "cache")]
    _cache: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrategyArgs {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<ResourceArgs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceArgs {
    name: String,
    #[serde(default)]
    weight: Option<i64>,
}

impl ZoneScoring {
    /// Reads the arguments of the plugin.
    pub(super) fn parse(errors: &mut Errors, path: &str, args: Value) -> Option<Self> {
        let args: Args = errors.read(path, args)?;
        let mut this = Self::default();
        let Some(strategy) = args.scoring_strategy else { return Some(this) };
        this.strategy = match strategy.kind.as_deref().unwrap_or("LeastAllocated") {
            "LeastAllocated" => ZoneStrategy::LeastAllocated,
            "MostAllocated" => ZoneStrategy::MostAllocated,
            "BalancedAllocation" => ZoneStrategy::BalancedAllocation,
            "LeastNUMANodes" => ZoneStrategy::LeastNumaNodes,
            other => {
                let hint =
                    "hint: there are LeastAllocated, MostAllocated, BalancedAllocation and LeastNUMANodes";
                errors.at(
                    &format!("{path}.scoringStrategy.type"),
                    format!("unknown strategy {other:?}; {hint}"),
                );
                return None;
            }
        };
        for (at, resource) in strategy.resources.into_iter().enumerate() {
            let weight = resource.weight.unwrap_or(1);
            if !(1..=100).contains(&weight) {
                errors.at(
                    &format!("{path}.scoringStrategy.resources[{at}].weight"),
                    "must be between 1 and 100",
                );
            }
            this.weights.insert(resource.name, weight);
        }
        Some(this)
    }

    fn weight(&self, resource: &str) -> i64 {
        self.weights.get(resource).copied().unwrap_or(1)
    }
}

/// Who of a node gives a resource away by zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// Nobody.
    None,
    /// Whole CPUs.
    Static,
    /// The node does not say.
    Unknown,
}

impl Manager {
    fn of(attribute: Option<&str>) -> Self {
        match attribute.map(str::to_ascii_lowercase).as_deref() {
            None => Self::Unknown,
            Some("none") => Self::None,
            Some(_) => Self::Static,
        }
    }
}

/// A resource by zones.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Amounts {
    name: Box<str>,
    /// By which is known how many zones would do on an empty node.
    size: Vec<i64>,
    available: Vec<i64>,
}

/// What a node said of its zones.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    policy: Policy,
    scope: Scope,
    cpus: Manager,
    memory: Manager,
    zones: usize,
    resources: Vec<Amounts>,
    distances: Vec<Vec<u32>>,
    /// The pods that what is available is without; `None` when the node does not say.
    counted: Option<HashSet<Box<str>>>,
}

impl Said {
    fn of(topology: &NodeTopology) -> Option<Self> {
        let number = |name: &str| name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
        let mut zones: Vec<_> = topology
            .zones
            .iter()
            .filter(|zone| zone.kind == "Node")
            .map(|zone| (number(&zone.name), zone))
            .collect();
        zones.sort_by_key(|(number, zone)| (*number, zone.name.clone()));
        // More of them nobody aligns anything on.
        if zones.is_empty() || zones.len() > MOST_ZONES {
            return None;
        }
        let of_old = topology.topology_policies.first().map_or("", String::as_str);
        let policy = topology.attribute(numa::POLICY).and_then(|policy| policy.parse().ok());
        let scope = topology.attribute(numa::SCOPE).and_then(|scope| scope.parse().ok());
        let mut resources: Vec<Amounts> = Vec::new();
        for (at, (_, zone)) in zones.iter().enumerate() {
            for resource in &zone.resources {
                let known = resources.iter().position(|known| *known.name == *resource.name);
                let row = known.unwrap_or_else(|| {
                    let none = vec![0; zones.len()];
                    let fresh =
                        Amounts { name: resource.name.as_str().into(), size: none.clone(), available: none };
                    resources.push(fresh);
                    resources.len() - 1
                });
                let read = if resource.name == "cpu" { quantity::milli } else { quantity::value };
                let size = if resource.name == "cpu" { &resource.capacity } else { &resource.allocatable };
                resources[row].size[at] = read(&size.0).unwrap_or(0);
                resources[row].available[at] = read(&resource.available.0).unwrap_or(0);
            }
        }
        let cost = |from: &numa::Zone, to: &str| {
            let found = from.costs.iter().find(|cost| cost.name == to);
            found.and_then(|cost| u32::try_from(cost.value).ok()).unwrap_or(255)
        };
        let row = |(_, from): &(_, &numa::Zone)| zones.iter().map(|(_, to)| cost(from, &to.name)).collect();
        let annotations = topology.metadata.annotations.as_ref();
        let counted = annotations.and_then(|all| all.get(numa::PODS));
        Some(Self {
            policy: policy.unwrap_or_else(|| policy_of_old(of_old)),
            scope: scope.unwrap_or(if of_old.ends_with("PodLevel") { Scope::Pod } else { Scope::Container }),
            cpus: Manager::of(topology.attribute(numa::CPU_MANAGER)),
            memory: Manager::of(topology.attribute(numa::MEMORY_MANAGER)),
            zones: zones.len(),
            resources,
            distances: zones.iter().map(row).collect(),
            counted: counted
                .map(|uids| uids.split(',').filter(|uid| !uid.is_empty()).map(Into::into).collect()),
        })
    }

    /// What of these amounts comes from zones, by the place of the resource.
    fn zoned(&self, guaranteed: bool, asked: &Resources) -> Vec<(usize, i64)> {
        let of = |resource: &Amounts| match &*resource.name {
            "cpu" => match self.cpus {
                Manager::Static if asked.milli_cpu % 1000 != 0 => 0,
                Manager::None => 0,
                _ if !guaranteed => 0,
                _ => asked.milli_cpu,
            },
            "memory" if !guaranteed || self.memory == Manager::None => 0,
            "memory" => asked.memory,
            pages if pages.starts_with("hugepages-") && (!guaranteed || self.memory == Manager::None) => 0,
            other => asked.get(other),
        };
        let all = self.resources.iter().enumerate().map(|(at, resource)| (at, of(resource)));
        all.filter(|(_, amount)| *amount > 0).collect()
    }

    fn verdict(&self, asked: &[(usize, i64)], left: &[Vec<i64>]) -> Verdict {
        let hints = |(at, amount): &(usize, i64)| -> Option<Vec<Hint>> {
            Some(numa::hints(&self.resources[*at].size, &left[*at], *amount, Mask::default(), |_| true))
        };
        let lists: Vec<Option<Vec<Hint>>> = asked.iter().map(hints).collect();
        numa::merge(self.policy, self.zones, None, &lists)
    }

    /// Takes what containers would get. False when the node would refuse the pod.
    fn take(&self, need: &ZoneNeed, left: &mut [Vec<i64>]) -> bool {
        let mut admitted = true;
        let mut give = |asked: &Resources, keep: bool| {
            let asked = self.zoned(need.guaranteed, asked);
            let verdict = self.verdict(&asked, left);
            admitted &= verdict.admitted;
            if keep {
                for (resource, amount) in asked {
                    subtract(&mut left[resource], verdict.mask.unwrap_or(Mask::all(self.zones)), amount);
                }
            }
        };
        match self.scope {
            Scope::Pod => give(&need.total, true),
            Scope::Container => {
                need.containers.iter().for_each(|(kind, asked)| give(asked, *kind != Kind::Init));
            }
        }
        admitted
    }

    fn score(&self, need: &ZoneNeed, left: &[Vec<i64>], how: &ZoneScoring) -> i64 {
        if !need.guaranteed {
            return TOP;
        }
        let parts: Vec<&Resources> = match self.scope {
            Scope::Pod => vec![&need.total],
            Scope::Container => need.containers.iter().map(|(_, asked)| asked).collect(),
        };
        let asked = parts.into_iter().map(|asked| self.zoned(true, asked));
        if how.strategy == ZoneStrategy::LeastNumaNodes {
            return self.fewest(asked, left.to_vec());
        }
        if self.policy != Policy::SingleNumaNode {
            return 0;
        }
        let scores: Vec<i64> = asked.map(|asked| self.worst_zone(&asked, left, how)).collect();
        scores.iter().sum::<i64>() / i64::try_from(scores.len().max(1)).unwrap_or(1)
    }

    /// The least score of a zone that has room: which of them the node takes is its own affair.
    fn worst_zone(&self, asked: &[(usize, i64)], left: &[Vec<i64>], how: &ZoneScoring) -> i64 {
        let of_zone = |zone: usize| {
            let uses = asked
                .iter()
                .map(|(at, amount)| (how.weight(&self.resources[*at].name), *amount, left[*at][zone].max(0)));
            zone_score(how.strategy, &uses.collect::<Vec<_>>())
        };
        (0..self.zones).map(of_zone).filter(|score| *score > 0).min().unwrap_or(0)
    }

    /// The fewer zones the better; of equally many better those that are closest.
    fn fewest(&self, parts: impl Iterator<Item = Vec<(usize, i64)>>, mut left: Vec<Vec<i64>>) -> i64 {
        let apart = |mask: Mask| numa::spread(mask, &self.distances);
        let (mut most, mut closest) = (0, true);
        for asked in parts.filter(|asked| !asked.is_empty()) {
            let fits = |mask: &Mask| asked.iter().all(|(at, amount)| mask.sum(&left[*at]) >= *amount);
            let found =
                Mask::every(self.zones).filter(fits).min_by_key(|mask| (mask.count(), apart(*mask), *mask));
            let Some(found) = found else { return 0 };
            let same = Mask::every(self.zones).filter(|mask| mask.count() == found.count());
            closest &= same.map(apart).min() == Some(apart(found));
            most = most.max(found.count());
            for (resource, amount) in asked {
                subtract(&mut left[resource], found, amount);
            }
        }
        let step = TOP / MOST_ZONES as i64;
        match most {
            0 => TOP,
            zones => TOP - zones as i64 * step + if closest { step / 2 } else { 0 },
        }
    }
}

fn policy_of_old(word: &str) -> Policy {
    match word {
        word if word.starts_with("SingleNUMANode") => Policy::SingleNumaNode,
        word if word.starts_with("Restricted") => Policy::Restricted,
        word if word.starts_with("BestEffort") => Policy::BestEffort,
        _ => Policy::None,
    }
}

/// Takes an amount from zones, the first ones first.
fn subtract(left: &mut [i64], mask: Mask, mut amount: i64) {
    for zone in mask.zones().filter(|zone| *zone < left.len()).collect::<Vec<_>>() {
        let part = amount.min(left[zone].max(0));
        left[zone] -= part;
        amount -= part;
    }
    // More than there was: others were promised it, too.
    if let Some(zone) = mask.zones().next().filter(|_| amount > 0)
        && let Some(left) = left.get_mut(zone)
    {
        *left -= amount;
    }
}

/// 0 to 100 for a zone: weight, what is asked for, what is left, of each resource. 0 is for a zone without room.
fn zone_score(strategy: ZoneStrategy, uses: &[(i64, i64, i64)]) -> i64 {
    if uses.is_empty() || uses.iter().any(|(_, asked, left)| asked > left) {
        return 0;
    }
    let percent = |part: i64, whole: i64| (part as f64 / whole as f64 * TOP as f64) as i64;
    let weights: i64 = uses.iter().map(|(weight, ..)| weight).sum();
    let mean = |of: &dyn Fn(i64, i64) -> i64| {
        uses.iter().map(|(weight, asked, left)| weight * of(*asked, *left)).sum::<i64>() / weights.max(1)
    };
    match strategy {
        ZoneStrategy::LeastAllocated => mean(&|asked, left| percent(left - asked, left)),
        ZoneStrategy::MostAllocated => mean(&percent),
        ZoneStrategy::BalancedAllocation | ZoneStrategy::LeastNumaNodes => {
            let parts: Vec<f64> = uses.iter().map(|(_, asked, left)| *asked as f64 / *left as f64).collect();
            let mean = parts.iter().sum::<f64>() / parts.len() as f64;
            let squares: f64 = parts.iter().map(|part| (part - mean) * (part - mean)).sum();
            let variance = squares / (parts.len() as f64 - 1.0).max(1.0);
            ((1.0 - variance) * TOP as f64) as i64
        }
    }
}

/// The zones of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeZones {
    said: Said,
    /// The pods that what is available is without. A node that does not name them has counted all that it had by then.
    counted: HashSet<Box<str>>,
    /// By resource, by zone: what is available less what was placed since.
    left: Vec<Vec<i64>>,
}

impl NodeZones {
    fn recount(&mut self, pods: &[Arc<PodInfo>]) {
        self.left = self.said.resources.iter().map(|resource| resource.available.clone()).collect();
        let mut since: Vec<&Arc<PodInfo>> =
            pods.iter().filter(|pod| pod.shape.zones.is_some() && !self.counted.contains(&pod.uid)).collect();
        since.sort_by(|a, b| a.uid.cmp(&b.uid));
        for need in since.into_iter().filter_map(|pod| pod.shape.zones.as_ref()) {
            self.said.take(need, &mut self.left);
        }
    }
}

/// The zones of all nodes that say something of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Zones {
    nodes: HashMap<Box<str>, NodeZones>,
}

impl Zones {
    /// A pod came to a node, or left it.
    pub fn recount(&mut self, nodes: &Nodes, slot: usize, pod: &PodInfo) {
        if pod.shape.zones.is_none() {
            return;
        }
        if let Some(zones) = self.nodes.get_mut(&*nodes[slot].name) {
            zones.recount(&nodes[slot].pods);
        }
    }

    /// What speaks against a node. One that says nothing takes whatever fits.
    pub fn judge(&self, node: &str, need: &ZoneNeed) -> Status {
        let Some(zones) = self.nodes.get(node) else { return Status::OK };
        if matches!(zones.said.policy, Policy::None | Policy::BestEffort) {
            return Status::OK;
        }
        match zones.said.scope {
            _ if zones.said.take(need, &mut zones.left.clone()) => Status::OK,
            Scope::Pod => Status::UNALIGNED_POD,
            Scope::Container => Status::UNALIGNED_CONTAINER,
        }
    }

    /// 0 to 100 for a node; 0 for one that says nothing.
    pub fn score(&self, node: &str, need: &ZoneNeed, how: &ZoneScoring) -> i64 {
        self.nodes.get(node).map_or(0, |zones| zones.said.score(need, &zones.left, how))
    }
}

impl Cluster {
    /// What a node says of its zones; `None` when it does not any more. Returns what that may help.
    pub fn set_topology(&mut self, node: &str, topology: Option<&NodeTopology>) -> Hints {
        let said = topology.and_then(Said::of);
        if said.is_none() && self.world.zones.is_none() {
            return Hints::none();
        }
        let was_any = self.world.zones.is_some();
        let zones = self.world.zones.get_or_insert_default();
        if zones.nodes.get(node).map(|zones| &zones.said) == said.as_ref() {
            return Hints::none();
        }
        let slot = self.world.nodes.find(node);
        match said {
            Some(said) => {
                let pods = slot.map_or(&[][..], |slot| &self.world.nodes[slot].pods);
                let counted = said.counted.clone();
                let counted = counted.unwrap_or_else(|| pods.iter().map(|pod| pod.uid.clone()).collect());
                let mut new = NodeZones { said, counted, left: Vec::new() };
                new.recount(pods);
                zones.nodes.insert(node.into(), new);
            }
            None => drop(zones.nodes.remove(node)),
        }
        if zones.nodes.is_empty() {
            self.world.zones = None;
        }
        if was_any != self.world.zones.is_some() {
            // Pods that were alike may not be any more, or are again.
            self.classes.clear();
            self.fits.clear();
        }
        if let Some(slot) = slot {
            self.world.touch(slot);
        }
        Hints::NODE_TOPOLOGY
    }

    /// What is left in the zones of a node, by resource.
    #[cfg(test)]
    pub(super) fn left_in_zones(&self, node: &str) -> BTreeMap<String, Vec<i64>> {
        let zones = self.world.zones.as_ref().and_then(|zones| zones.nodes.get(node));
        let all = zones.into_iter().flat_map(|zones| zones.said.resources.iter().zip(&zones.left));
        all.map(|(resource, left)| (resource.name.to_string(), left.clone())).collect()
    }
}
