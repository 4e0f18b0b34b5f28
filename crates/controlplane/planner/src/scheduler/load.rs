//! What nodes really use, as scores and filters read it (`LoadAware`).
//!
//! A measurement of a node is true of the moment when it was made. What came and went since is added and taken away: a
//! pod whose own use is known counts with that, any other with a part of what it asked for until it has been measured.
//! Nothing of this is kept unless a profile reads it.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::cluster::Cluster;
use super::config::Errors;
use super::nodes::{CPU, MEMORY, Nodes};
use super::pod::PodInfo;
use super::reasons::Hints;
use super::score::TOP;
use super::status::Status;
use crate::usage::{Amount, Basis, NodeUsage, Percentile, PodUsage};

/// Less change than this part of a node is none: 1/200.
const NOTICED: i64 = 200;

/// How a profile reads what is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadAware {
    /// A node where more than so many hundredths of a resource are used takes no pods.
    pub thresholds: (Option<i64>, Option<i64>),
    /// What CPU and memory weigh in the score.
    pub weights: (i64, i64),
    /// A pod that is not measured yet is taken to use so many hundredths of what it asks for.
    pub estimated: Amount,
    /// Which use counts.
    pub basis: Basis,
    /// With it, nodes are filled up to so many hundredths before others are begun; without, the least used is the best.
    pub target: Option<i64>,
}

impl Default for LoadAware {
    fn default() -> Self {
        Self {
            thresholds: (Some(65), Some(95)),
            weights: (1, 1),
            estimated: Amount::new(85, 70),
            basis: Basis::Last,
            target: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Args {
    #[serde(default)]
    usage_thresholds: Option<BTreeMap<String, i64>>,
    #[serde(default)]
    resource_weights: Option<BTreeMap<String, i64>>,
    #[serde(default)]
    estimated_scaling_factors: BTreeMap<String, i64>,
    #[serde(default)]
    usage_percentile: Option<String>,
    #[serde(default)]
    target_utilization: Option<i64>,
}

impl LoadAware {
    /// Reads the arguments of the plugin.
    pub(super) fn parse(errors: &mut Errors, path: &str, args: Value) -> Option<Self> {
        let args: Args = errors.read(path, args)?;
        let mut read = |member: &str, map: &BTreeMap<String, i64>, range: std::ops::RangeInclusive<i64>| {
            for (name, value) in map {
                let path = format!("{path}.{member}.{name}");
                if !matches!(name.as_str(), "cpu" | "memory") {
                    errors.at(&path, "is not measured; hint: there are cpu and memory");
                } else if !range.contains(value) {
                    errors.at(&path, format!("must be between {} and {}", range.start(), range.end()));
                }
            }
            (map.get("cpu").copied(), map.get("memory").copied())
        };
        let mut this = Self::default();
        if let Some(thresholds) = &args.usage_thresholds {
            this.thresholds = read("usageThresholds", thresholds, 1..=100);
        }
        if let Some(weights) = &args.resource_weights {
            let (cpu, memory) = read("resourceWeights", weights, 0..=100);
            this.weights = (cpu.unwrap_or(0), memory.unwrap_or(0));
        }
        let (cpu, memory) = read("estimatedScalingFactors", &args.estimated_scaling_factors, 0..=1000);
        this.estimated =
            Amount::new(cpu.unwrap_or(this.estimated.milli_cpu), memory.unwrap_or(this.estimated.memory));
        if let Some(name) = &args.usage_percentile {
            match Percentile::named(name) {
                Some(percentile) => this.basis = Basis::Peak(percentile),
                None => errors.at(
                    &format!("{path}.usagePercentile"),
                    format!("unknown percentile {name:?}; hint: there are p50, p90, p95 and p99"),
                ),
            }
        }
        if args.target_utilization.is_some_and(|target| !(1..=99).contains(&target)) {
            errors.at(&format!("{path}.targetUtilization"), "must be between 1 and 99");
        }
        this.target = args.target_utilization;
        Some(this)
    }

    /// What a pod that is not measured is taken to use.
    fn estimate(&self, asked: Amount) -> Amount {
        asked.percent(self.estimated)
    }

    /// 0 to 100 for a node of that size on which so much would be used.
    fn score(&self, used: Amount, have: Amount) -> i64 {
        let one = |used: i64, have: i64| {
            let used = used.max(0);
            match self.target {
                _ if have <= 0 || used > have => 0,
                None => ((have - used) as i128 * i128::from(TOP) / i128::from(have)) as i64,
                Some(target) => {
                    let percent = used as f64 * 100.0 / have as f64;
                    let target = target as f64;
                    let score = if percent <= target {
                        (100.0 - target) * percent / target + target
                    } else {
                        target * (100.0 - percent) / (100.0 - target)
                    };
                    score.round() as i64
                }
            }
        };
        let (cpu, memory) = self.weights;
        let sum = cpu * one(used.milli_cpu, have.milli_cpu) + memory * one(used.memory, have.memory);
        sum.checked_div(cpu + memory).unwrap_or(0)
    }
}

/// Of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct NodeLoad {
    usage: Option<NodeUsage>,
    /// What pods use of which that is known, that came, less what those use that left since the measurement.
    moved: Amount,
    /// What pods asked for that are not measured, as far as they do not use it yet.
    pending: Amount,
}

/// What all nodes use.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    nodes: Vec<NodeLoad>,
    pods: HashMap<Box<str>, PodUsage>,
}

impl Load {
    fn at(&mut self, slot: usize) -> &mut NodeLoad {
        if self.nodes.len() <= slot {
            self.nodes.resize(slot + 1, NodeLoad::default());
        }
        &mut self.nodes[slot]
    }

    /// What a pod is taken to use beyond what was measured.
    fn pending(usage: Option<&PodUsage>, asked: Amount) -> Amount {
        match usage {
            None => asked,
            Some(PodUsage { used, young: true }) => asked.minus(*used).max(Amount::default()),
            Some(_) => Amount::default(),
        }
    }

    /// A pod came to a node (`sign` 1), or left it (-1).
    pub fn charge(&mut self, slot: usize, pod: &PodInfo, sign: i64) {
        let usage = self.pods.get(&pod.uid).copied();
        let pending = Self::pending(usage.as_ref(), asked(pod));
        let node = self.at(slot);
        let signed = |amount: Amount| amount.with(amount, |a, _| a * sign);
        node.moved = node.moved.plus(signed(usage.map(|u| u.used).unwrap_or_default()));
        node.pending = node.pending.plus(signed(pending));
    }

    /// Forgets what is known of a slot whose node is another one from now on.
    pub fn forget(&mut self, slot: usize) {
        self.at(slot).usage = None;
    }

    /// What is used of a node; `None` when nobody has measured it.
    fn used(&self, slot: usize, how: &LoadAware) -> Option<Amount> {
        let node = self.nodes.get(slot)?;
        let base = node.usage.as_ref()?.on(how.basis);
        Some(base.plus(node.moved).plus(how.estimate(node.pending)).max(Amount::default()))
    }

    /// What speaks against a node. One that is not measured is judged by requests alone.
    pub fn judge(&self, slot: usize, how: &LoadAware, nodes: &Nodes) -> Status {
        let Some(used) = self.used(slot, how) else { return Status::OK };
        let over = |used: i64, threshold: Option<i64>, have: i64| {
            threshold.is_some_and(|threshold| {
                have > 0 && i128::from(used) * 100 > i128::from(threshold) * i128::from(have)
            })
        };
        if over(used.milli_cpu, how.thresholds.0, nodes.allocatable(CPU, slot)) {
            return Status::HOT_CPU;
        }
        if over(used.memory, how.thresholds.1, nodes.allocatable(MEMORY, slot)) {
            return Status::HOT_MEMORY;
        }
        Status::OK
    }

    /// The score of a node for a pod that asks for so much.
    pub fn score(&self, slot: usize, how: &LoadAware, asked: Amount, nodes: &Nodes) -> i64 {
        let have = Amount::new(nodes.allocatable(CPU, slot), nodes.allocatable(MEMORY, slot));
        let unmeasured = || how.estimate(Amount::new(nodes[slot].nonzero.0, nodes[slot].nonzero.1));
        let used = self.used(slot, how).unwrap_or_else(unmeasured);
        how.score(used.plus(how.estimate(asked)), have)
    }
}

/// What a pod asks for, or a little when it asks for nothing.
fn asked(pod: &PodInfo) -> Amount {
    Amount::new(pod.shape.nonzero.0, pod.shape.nonzero.1)
}

impl Cluster {
    /// Whether something here depends on what is measured.
    pub fn reads_usage(&self) -> bool {
        self.world.load.is_some()
    }

    /// From now on it does.
    pub fn follow_usage(&mut self) {
        self.world.load.get_or_insert_default();
    }

    /// Takes a measurement in: of nodes by name, of pods by uid. What is not in it counts as not measured. Returns what
    /// that may help.
    pub fn observe(
        &mut self,
        nodes: &BTreeMap<String, NodeUsage>,
        pods: HashMap<Box<str>, PodUsage>,
    ) -> Hints {
        let Some(mut load) = self.world.load.take() else { return Hints::none() };
        load.pods = pods;
        let mut changed = Vec::new();
        for slot in 0..self.world.nodes.slots() {
            let mut new = NodeLoad {
                usage: nodes
                    .get(&*self.world.nodes[slot].name)
                    .copied()
                    .filter(|_| self.world.nodes[slot].live),
                ..NodeLoad::default()
            };
            for pod in &self.world.nodes[slot].pods {
                new.pending = new.pending.plus(Load::pending(load.pods.get(&pod.uid), asked(pod)));
            }
            let have = Amount::new(
                self.world.nodes.allocatable(CPU, slot),
                self.world.nodes.allocatable(MEMORY, slot),
            );
            let old = load.at(slot);
            if *old != new && (old.pending != new.pending || is_noticed(old, &new, have)) {
                *old = new;
                changed.push(slot);
            }
        }
        self.world.load = Some(load);
        changed.iter().for_each(|slot| self.world.touch(*slot));
        if changed.is_empty() { Hints::none() } else { Hints::NODE_USAGE }
    }

    /// What a node uses by the last measurement and what came since; `None` when it is not measured.
    pub fn load_of(&self, node: &str) -> Option<Amount> {
        let slot = self.world.nodes.find_live(node)?;
        self.world.load.as_ref()?.used(slot, &LoadAware::default())
    }

    /// What a node has been using for some time; what moved since counts.
    pub fn lasting_load_of(&self, node: &str) -> Option<Amount> {
        let slot = self.world.nodes.find_live(node)?;
        let load = self.world.load.as_ref()?.nodes.get(slot)?;
        Some(load.usage?.sustained?.plus(load.moved))
    }

    /// What a pod uses, once it has settled.
    pub fn use_of(&self, uid: &str) -> Option<Amount> {
        let usage = self.world.load.as_ref()?.pods.get(uid)?;
        (!usage.young).then_some(usage.used)
    }
}

/// Whether two states of a node of that size differ in more than a ripple.
fn is_noticed(old: &NodeLoad, new: &NodeLoad, have: Amount) -> bool {
    let (Some(was), Some(is)) = (old.usage, new.usage) else { return true };
    let far = |a: Amount, b: Amount| {
        let d = a.minus(b);
        d.milli_cpu.abs() * NOTICED > have.milli_cpu || d.memory.abs().saturating_mul(NOTICED) > have.memory
    };
    let peaks = was.peaks.iter().zip(&is.peaks).any(|(a, b)| far(*a, *b));
    let sustained = match (was.sustained, is.sustained) {
        (Some(a), Some(b)) => far(a, b),
        (a, b) => a != b,
    };
    far(was.last.plus(old.moved), is.last.plus(new.moved))
        || peaks
        || sustained
        || was.forecast != is.forecast
}
