//! Taking load off hot nodes: by what is measured, not by what was asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Move, Planning};
use crate::scheduler::{Cluster, PodInfo};
use crate::usage::Amount;

/// So many pods of a node are tried out, those that bring most first.
const TRIED: usize = 16;
/// A target must stay so many hundredths below the threshold.
const MARGIN: f64 = 5.0;

/// How far above the thresholds use is, in hundredths of a node, and of what.
fn heat(used: Amount, have: Amount, hot: (f64, f64)) -> (f64, &'static str) {
    let part = |used: i64, have: i64| if have > 0 { 100.0 * used as f64 / have as f64 } else { 0.0 };
    let cpu = part(used.milli_cpu, have.milli_cpu) - hot.0;
    let memory = part(used.memory, have.memory) - hot.1;
    if cpu >= memory { (cpu, "cpu") } else { (memory, "memory") }
}

fn size(cluster: &Cluster, node: &str) -> Amount {
    cluster.node(node).map(|node| Amount::from(&node.allocatable())).unwrap_or_default()
}

impl Planning<'_> {
    /// How hot a node has been for some time.
    fn lasting_heat(&self, node: &str) -> Option<(f64, &'static str)> {
        let used = self.cluster.lasting_load_of(node)?;
        Some(heat(used, size(self.cluster, node), self.bounds.hot))
    }

    /// Moves pods off nodes of which too much is used, as long as others have room for their load.
    pub(super) fn cool(&mut self) {
        let names: Vec<String> = self.cluster.nodes().map(|node| node.name().to_owned()).collect();
        let mut stuck: BTreeSet<String> = BTreeSet::new();
        while self.plan.moves.len() < self.bounds.moves {
            let hot = names.iter().filter(|name| !stuck.contains(*name));
            let hot = hot.filter_map(|name| Some((self.lasting_heat(name)?, name)));
            let hottest = hot.filter(|((heat, _), _)| *heat > 0.0).max_by(|a, b| a.0.0.total_cmp(&b.0.0));
            let Some(((heat, what), name)) = hottest else { return };
            if !self.take_load_off(name, heat, what) {
                stuck.insert(name.clone());
            }
        }
    }

    fn take_load_off(&mut self, from: &str, heat: f64, what: &'static str) -> bool {
        let there = self.cluster.node(from).map(|node| node.pods().to_vec()).unwrap_or_default();
        let have = size(self.cluster, from);
        let mut candidates: Vec<(f64, f64, Arc<PodInfo>)> = Vec::new();
        for pod in there.iter().filter(|pod| !pod.is_bound_to_its_node()) {
            let Some(price) = self.affordable(pod) else { continue };
            let Some(used) = self.cluster.use_of(pod.uid()) else {
                self.keep(pod, "what it uses is not known yet");
                continue;
            };
            let part = match what {
                "cpu" => used.milli_cpu as f64 / have.milli_cpu.max(1) as f64,
                _ => used.memory as f64 / have.memory.max(1) as f64,
            };
            // More than the heat need not go.
            let gain = (100.0 * part).min(heat + MARGIN);
            if gain / price >= self.bounds.least_gain {
                candidates.push((gain, price, pod.clone()));
            }
        }
        candidates.sort_by(|a, b| (b.0 / b.1).total_cmp(&(a.0 / a.1)).then_with(|| a.2.uid().cmp(b.2.uid())));
        for (gain, price, pod) in candidates.into_iter().take(TRIED) {
            let hot = self.bounds.hot;
            let to = self.cluster.attempt(|cluster| {
                cluster.remove_pod(pod.uid());
                let to = cooler(cluster, &pod, from, hot);
                if let Some(to) = &to {
                    cluster.assume(pod.unbound(), to);
                }
                let moves = to.is_some();
                (to, moves)
            });
            let Some(to) = to else {
                self.keep(&pod, "the scheduler would put it where much is used, too");
                continue;
            };
            let threshold = if what == "cpu" { hot.0 } else { hot.1 };
            let why = format!("{from} uses {:.0} % of its {what}", threshold + heat);
            let step: Move = Self::step(&pod, from, to, gain, price, why);
            self.made(&pod, step);
            return true;
        }
        false
    }
}

/// Where the scheduler would put the pod, if that stays well below the thresholds with it. Among equals it may take
/// any, so all of them must.
fn cooler(cluster: &mut Cluster, pod: &PodInfo, from: &str, hot: (f64, f64)) -> Option<String> {
    let scored = cluster.evaluate(&pod.unbound());
    let most = scored.iter().map(|(_, score)| *score).max()?;
    let mut best: Vec<String> =
        scored.into_iter().filter(|(_, score)| *score == most).map(|(name, _)| name).collect();
    let used = cluster.use_of(pod.uid())?;
    let is_cool = |name: &String| {
        let with = cluster.load_of(name).map(|load| load.plus(used));
        *name != from && with.is_some_and(|with| heat(with, size(cluster, name), hot).0 <= -MARGIN)
    };
    if !best.iter().all(is_cool) {
        return None;
    }
    best.sort();
    best.into_iter().next()
}
