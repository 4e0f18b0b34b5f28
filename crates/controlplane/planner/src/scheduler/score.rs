//! Which of the nodes that can take a pod is best: upstream's default plugins with their default weights.

use super::cluster::{Cluster, NodeInfo};
use super::filter::{Filters, tolerated};
use super::pod::{PodInfo, Wishes};

const TOP: i64 = 100;

/// The best node and its score.
pub(super) fn choose<'a>(
    cluster: &Cluster,
    pod: &PodInfo,
    wishes: &Wishes,
    filters: &Filters<'_>,
    nodes: &[&'a NodeInfo],
    seed: u64,
) -> (&'a NodeInfo, i64) {
    let mut totals = vec![0_i64; nodes.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    let each = |f: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|n| f(n)).collect::<Vec<_>>();

    add(1, each(&|n| least_allocated(pod, n)));
    add(1, each(&|n| balanced(pod, n)));
    if nodes.iter().any(|n| n.taints.iter().any(|t| t.effect == "PreferNoSchedule")) {
        add(3, reversed(each(&|n| unwelcome(wishes, n))));
    }
    if wishes.node.has_preferred() {
        add(2, scaled(each(&|n| wishes.node.score(n.name(), n.labels()))));
    }
    if filters.spread.scores() {
        add(2, spread(nodes, filters));
    }
    if filters.inter_pod.has_preferred() {
        add(2, between(each(&|n| filters.inter_pod.score(n.labels()))));
    }
    if nodes.iter().any(|n| !n.images.is_empty()) {
        add(1, images(cluster, wishes, nodes));
    }
    pick(nodes, &totals, seed)
}

fn pick<'a>(nodes: &[&'a NodeInfo], totals: &[i64], seed: u64) -> (&'a NodeInfo, i64) {
    let best = totals.iter().copied().max().unwrap_or(0);
    let ties: Vec<usize> = totals.iter().enumerate().filter(|(_, t)| **t == best).map(|(i, _)| i).collect();
    let count = ties.len().max(1) as u64;
    let index = usize::try_from(mix(seed) % count).unwrap_or(0);
    (nodes[ties.get(index).copied().unwrap_or(0)], best)
}

/// A well mixed number of a seed (splitmix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What would be used of CPU and memory with the pod, each with what there is.
fn with_pod(pod: &PodInfo, node: &NodeInfo) -> [(i64, i64); 2] {
    [
        (node.used_nonzero.0 + pod.nonzero.0, node.allocatable.milli_cpu),
        (node.used_nonzero.1 + pod.nonzero.1, node.allocatable.memory),
    ]
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let part =
        |(used, have): (i64, i64)| if have == 0 || used > have { 0 } else { (have - used) * TOP / have };
    let counted = with_pod(pod, node);
    counted.into_iter().map(part).sum::<i64>() / 2
}

fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let used = [
        (node.used.milli_cpu + pod.requests().milli_cpu, node.allocatable.milli_cpu),
        (node.used.memory + pod.requests().memory, node.allocatable.memory),
    ];
    let [cpu, memory] =
        used.map(|(used, have)| if have == 0 { 1.0 } else { (used as f64 / have as f64).min(1.0) });
    ((1.0 - (cpu - memory).abs() / 2.0) * TOP as f64) as i64
}

/// How many soft taints the pod does not tolerate.
fn unwelcome(wishes: &Wishes, node: &NodeInfo) -> i64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    i64::try_from(soft.filter(|t| !tolerated(&wishes.tolerations, t)).count()).unwrap_or(i64::MAX)
}

/// 0 to 100 by the largest.
fn scaled(mut scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    if most > 0 {
        scores.iter_mut().for_each(|s| *s = *s * TOP / most);
    }
    scores
}

/// 100 to 0 by the largest.
fn reversed(scores: Vec<i64>) -> Vec<i64> {
    scaled(scores).into_iter().map(|s| TOP - s).collect()
}

/// 0 for the least, 100 for the most.
fn between(mut scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    let least = scores.iter().copied().min().unwrap_or(0);
    let range = most - least;
    scores.iter_mut().for_each(|s| *s = if range > 0 { (*s - least) * TOP / range } else { 0 });
    scores
}

/// The less crowded the better; a node outside every domain gets nothing.
fn spread(nodes: &[&NodeInfo], filters: &Filters<'_>) -> Vec<i64> {
    let crowds: Vec<Option<i64>> = nodes.iter().map(|n| filters.spread.crowd(n.labels())).collect();
    let most = crowds.iter().flatten().copied().max().unwrap_or(0);
    let least = crowds.iter().flatten().copied().min().unwrap_or(0);
    let score = |crowd: Option<i64>| match crowd {
        None => 0,
        Some(_) if most == 0 => TOP,
        Some(crowd) => TOP * (most + least - crowd) / most,
    };
    crowds.into_iter().map(score).collect()
}

const SMALL_IMAGE: i64 = 23 << 20;
const LARGE_IMAGE: i64 = 1000 << 20;

/// Nodes that hold the images already; an image that few nodes hold counts less, or they would all be drawn there.
fn images(cluster: &Cluster, wishes: &Wishes, nodes: &[&NodeInfo]) -> Vec<i64> {
    let total = cluster.len().max(1) as f64;
    let wanted: Vec<(&str, f64)> = wishes
        .images
        .iter()
        .map(|image| {
            let holders = cluster.known_nodes().filter(|n| n.images.contains_key(image.as_str())).count();
            (image.as_str(), holders as f64 / total)
        })
        .collect();
    let most = LARGE_IMAGE * i64::try_from(wanted.len().max(1)).unwrap_or(1);
    let score = |node: &&NodeInfo| {
        let held = wanted.iter().filter_map(|(image, share)| Some((node.images.get(*image)?, share)));
        let sum: i64 = held.map(|(size, share)| (*size as f64 * share) as i64).sum();
        TOP * (sum.clamp(SMALL_IMAGE, most) - SMALL_IMAGE) / (most - SMALL_IMAGE)
    };
    nodes.iter().map(score).collect()
}
