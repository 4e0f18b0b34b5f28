//! What a cluster looks like at one moment.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::fairness::{MOST_TENANTS, TenantSample, jain};
use super::play::Play;
use crate::packing::{Demand, Room, WHOLE, fragments};
use crate::scheduler::{GPU, NodeView, Resources};

/// The cluster at one moment. Parts are percent of all that the nodes have.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Seconds from the start.
    pub time: f64,
    /// Nodes.
    pub nodes: usize,
    /// Pods that run.
    pub running: usize,
    /// Pods that wait.
    pub waiting: usize,
    /// CPU promised.
    pub cpu_pct: f64,
    /// Memory promised.
    pub memory_pct: f64,
    /// Devices promised; 0 where there are none.
    pub gpu_pct: f64,
    /// Devices that are free but useless to the pods that run here usually.
    pub gpu_frag_pct: f64,
    /// Nodes on which nothing runs.
    pub empty_nodes: usize,
    /// Jain's index of the tenants' dominant shares, 1 for even. A tenant is a queue with pods, whose share counts by its
    /// weight, or, where there are no queues, a namespace with pods.
    pub fairness: f64,
    /// What each of them has, where they are not too many.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, TenantSample>,
}

/// How long pods waited, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Waits(Vec<f64>);

impl Waits {
    pub(super) fn add(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    /// The wait that a part of the pods (0 to 1) did not exceed; 0 when there were none.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(at).copied().unwrap_or(0.0)
    }

    /// The mean; 0 when there were none.
    pub fn mean(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.iter().sum::<f64>() / self.0.len() as f64 }
    }
}

/// What is free on a node, whose devices are of that model.
pub(super) fn room(node: &NodeView<'_>, model: u8) -> Room {
    let (have, used) = (node.allocatable(), node.used());
    let devices = node.gpus().iter().map(|free| u16::try_from(*free).unwrap_or(0)).collect();
    Room::new(have.milli_cpu - used.milli_cpu, (have.memory - used.memory) >> 20, model, devices)
}

impl Play {
    /// Notes what is now.
    pub(super) fn sample(&mut self, time: f64) {
        let (mut have, mut used) = (Resources::default(), Resources::default());
        let (mut devices, mut free, mut rooms) = (0, 0, Vec::new());
        let mut empty = 0;
        for node in self.cluster.nodes() {
            have.add(&node.allocatable());
            used.add(&node.used());
            empty += usize::from(node.pod_count() == 0);
            if !node.gpus().is_empty() {
                let room = room(&node, 0);
                devices += room.devices().len();
                free += u64::from(room.free());
                rooms.push(room);
            }
        }
        let percent = |part: f64, all: f64| if all > 0.0 { 100.0 * part / all } else { 0.0 };
        let all = devices as f64 * f64::from(WHOLE);
        let usual = if rooms.is_empty() { Vec::new() } else { self.usual() };
        let useless: f64 = rooms.iter().map(|room| fragments(room, &usual)).sum();
        let (fairness, tenants) = self.tenants_now(&have);
        self.outcome.samples.push(Sample {
            time,
            nodes: self.cluster.len(),
            running: self.running.len(),
            waiting: self.waiting(),
            cpu_pct: percent(used.milli_cpu as f64, have.milli_cpu as f64),
            memory_pct: percent(used.memory as f64, have.memory as f64),
            gpu_pct: percent(all - free as f64, all),
            gpu_frag_pct: percent(useless, all),
            empty_nodes: empty,
            fairness,
            tenants,
        });
    }

    /// How even it is, and what each tenant has.
    fn tenants_now(&self, have: &Resources) -> (f64, BTreeMap<String, TenantSample>) {
        let standings = self.standings();
        let sample = |share| TenantSample { share, ..TenantSample::default() };
        let (shares, mut tenants): (Vec<f64>, BTreeMap<String, TenantSample>) = if standings.is_empty() {
            let shares = self.dominant_shares(have);
            let named = shares.iter().map(|(name, share)| ((*name).to_owned(), sample(*share)));
            (shares.values().copied().collect(), named.collect())
        } else {
            let above: BTreeSet<&str> = standings.iter().filter_map(|s| s.parent.as_deref()).collect();
            let leaves = || standings.iter().filter(|s| !above.contains(s.name.as_str()));
            let busy = leaves().filter(|s| s.pending > 0 || s.dominant_share > 0.0);
            let named = leaves().map(|s| {
                let sample = TenantSample {
                    share: s.dominant_share,
                    fair_share: s.fair_share,
                    decayed_usage: s.decayed_usage,
                    waiting: s.pending,
                    starving: s.starving,
                };
                (s.name.clone(), sample)
            });
            (busy.map(|s| s.dominant_share / s.weight).collect(), named.collect())
        };
        if tenants.len() > MOST_TENANTS {
            tenants.clear();
        }
        (jain(&shares), tenants)
    }

    /// What usually runs here, and how likely each is.
    fn usual(&self) -> Vec<(Demand, f64)> {
        let mut counts: BTreeMap<(i64, u16, u16), f64> = BTreeMap::new();
        for (pod, _) in self.running.values() {
            let gpu = pod.gpu();
            *counts.entry((pod.requests().milli_cpu, gpu.count, gpu.milli)).or_default() += 1.0;
        }
        let all: f64 = counts.values().sum();
        let demand = |(cpu, count, milli): (i64, u16, u16)| Demand { cpu, count, milli, ..Demand::default() };
        counts.into_iter().map(|(key, count)| (demand(key), count / all)).collect()
    }

    /// For each tenant the largest of its parts of CPU, memory and devices (Ghodsi et al., "Dominant Resource
    /// Fairness", NSDI 2011).
    fn dominant_shares(&self, have: &Resources) -> BTreeMap<&str, f64> {
        let mut used: BTreeMap<&str, [f64; 3]> = self.tenants.iter().map(|t| (&**t, [0.0; 3])).collect();
        for (pod, _) in self.running.values() {
            let mine = used.entry(pod.namespace()).or_default();
            mine[0] += pod.requests().milli_cpu as f64;
            mine[1] += pod.requests().memory as f64;
            mine[2] += f64::from(pod.gpu().total()) / f64::from(WHOLE);
        }
        let all = [have.milli_cpu as f64, have.memory as f64, have.get(GPU) as f64];
        let part = |(used, all): (&f64, &f64)| if *all > 0.0 { used / all } else { 0.0 };
        let most = |mine: [f64; 3]| mine.iter().zip(&all).map(part).fold(0.0, f64::max);
        used.into_iter().map(|(tenant, mine)| (tenant, most(mine))).collect()
    }
}
