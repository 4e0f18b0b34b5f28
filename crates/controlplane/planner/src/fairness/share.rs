//! Shares: what part of everything a queue has, had, and is due.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

use super::amounts::Vector;
use super::{Lane, Tenants, index};
use crate::scheduler::Resources;

/// How a queue stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// The one above it.
    pub parent: Option<String>,
    /// Its weight.
    pub weight: f64,
    /// What its pods on nodes ask for.
    pub used: BTreeMap<String, Quantity>,
    /// How many of its pods wait.
    pub pending: usize,
    /// What they ask for.
    pub wanted: BTreeMap<String, Quantity>,
    /// The largest part that it has of any resource, 0 to 1.
    pub dominant_share: f64,
    /// Which resource that is.
    pub dominant_resource: String,
    /// The part that it is due as things are: weights, guarantees, limits, and what each has use for.
    pub fair_share: f64,
    /// The mean of its dominant share, the older the less it counts.
    pub decayed_usage: f64,
    /// The part that is its guarantee; 0 without one.
    pub guaranteed_share: f64,
    /// Whether pods wait that its guarantee has room for.
    pub starving: bool,
    /// Why it cannot be used: reason and message.
    pub problem: Option<(&'static str, String)>,
    /// Why it is guaranteed less than it says: reason and message.
    pub unbacked: Option<(&'static str, String)>,
    /// Namespaces that another queue has because both select them.
    pub contested: Vec<String>,
}

impl Standing {
    /// In a sentence.
    pub fn words(&self) -> String {
        let percent = |part: f64| format!("{:.1}%", part * 100.0);
        let mut text = format!(
            "tenant queue {:?} has {} of all {}, is due {}, and had {} on average",
            self.name,
            percent(self.dominant_share),
            self.dominant_resource,
            percent(self.fair_share),
            percent(self.decayed_usage)
        );
        if self.guaranteed_share > 0.0 {
            text.push_str(&format!("; {} is guaranteed", percent(self.guaranteed_share)));
        }
        if self.pending > 0 {
            text.push_str(&format!("; {} of its pods wait", self.pending));
        }
        text
    }
}

/// The largest part that amounts are of all there is, and of which.
pub(super) fn dominant(amounts: &Vector, all: &Vector) -> (f64, usize) {
    let parts = amounts.iter().zip(all).enumerate().filter(|(_, (_, all))| **all > 0);
    let parts = parts.map(|(dim, (amount, all))| (*amount as f64 / *all as f64, dim));
    parts.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).unwrap_or((0.0, 0))
}

/// What is remembered after some seconds with one share.
pub(super) fn remembered(history: f64, share: f64, seconds: f64, half_life: f64) -> f64 {
    if half_life <= 0.0 {
        return 0.0;
    }
    let kept = (-seconds / half_life).exp2();
    history * kept + share * (1.0 - kept)
}

/// One who shares.
#[derive(Debug, Clone, Copy)]
struct Part {
    weight: f64,
    least: f64,
    most: f64,
}

/// Divides something by weight; nobody gets less than its least, nor more than its most, as long as there is enough.
fn divide(total: f64, parts: &[Part]) -> Vec<f64> {
    let at = |level: f64| -> Vec<f64> {
        parts.iter().map(|p| (level * p.weight).max(p.least).min(p.most)).collect()
    };
    let (mut low, mut high) = (0.0, 1.0 + parts.iter().map(|p| p.most / p.weight).fold(0.0, f64::max));
    if at(high).iter().sum::<f64>() <= total {
        return at(high);
    }
    // Sixty halvings: as exact as the numbers are.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at(middle).iter().sum::<f64>() > total { high = middle } else { low = middle }
    }
    at(low)
}

impl Tenants {
    /// How all queues stand, by name. What waits in each leaf is given.
    pub fn standings(&self, waiting: impl Fn(Lane) -> (usize, Resources)) -> Vec<Standing> {
        let queues = &self.tree.queues;
        let mut pending = vec![0; queues.len()];
        let mut wanted: Vec<Vector> = queues.iter().map(|q| vec![0; q.used.len()]).collect();
        for at in 0..queues.len() {
            let (count, resources) = waiting(super::lane(at));
            if count == 0 {
                continue;
            }
            let amounts = self.dims.of_resources(&resources);
            for above in self.tree.path(at) {
                pending[above] += count;
                wanted[above].iter_mut().zip(&amounts).for_each(|(sum, amount)| *sum += amount);
            }
        }
        let fair = self.fair_shares(&wanted);
        let standing = |at: usize| {
            let queue = &queues[at];
            let (dominant_share, dim) = self.dominant(&queue.used);
            let guaranteed: Vector = queue.guaranteed.iter().map(|g| g.unwrap_or(0)).collect();
            let contested =
                self.contested.iter().filter(|(_, names)| names.iter().skip(1).any(|n| *n == queue.name));
            Standing {
                name: queue.name.to_string(),
                parent: queue.parent.map(|parent| queues[parent].name.to_string()),
                weight: queue.weight,
                used: self.dims.list(&queue.used),
                pending: pending[at],
                wanted: self.dims.list(&wanted[at]),
                dominant_share,
                dominant_resource: self.dims.name(dim).to_owned(),
                fair_share: fair[at],
                decayed_usage: queue.history,
                guaranteed_share: self.dominant(&guaranteed).0,
                starving: pending[at] > 0 && !self.standing(at).0,
                problem: queue.problem.as_ref().map(|p| (p.reason(), p.to_string())),
                unbacked: queue.unbacked.clone(),
                contested: contested.map(|(namespace, _)| namespace.to_string()).collect(),
            }
        };
        (0..queues.len()).map(standing).collect()
    }

    fn fair_shares(&self, wanted: &[Vector]) -> Vec<f64> {
        let queues = &self.tree.queues;
        let mut fair = vec![0.0; queues.len()];
        let roots = (0..queues.len()).filter(|at| queues[*at].parent.is_none()).collect();
        let mut open: Vec<(f64, Vec<usize>)> = vec![(1.0, roots)];
        while let Some((total, siblings)) = open.pop() {
            let parts: Vec<Part> = siblings.iter().map(|at| self.part(*at, &wanted[*at])).collect();
            for (at, share) in siblings.into_iter().zip(divide(total, &parts)) {
                fair[at] = share;
                if !queues[at].children.is_empty() {
                    open.push((share, queues[at].children.clone()));
                }
            }
        }
        fair
    }

    fn part(&self, at: usize, wanted: &Vector) -> Part {
        let queue = &self.tree.queues[at];
        let demand: Vector = queue.used.iter().zip(wanted).map(|(a, b)| a + b).collect();
        let guaranteed: Vector = queue.guaranteed.iter().map(|g| g.unwrap_or(0)).collect();
        let limits = queue.limit.iter().zip(&self.all).filter_map(|(limit, all)| {
            let limit = (*limit)?;
            (*all > 0).then(|| limit as f64 / *all as f64)
        });
        let guarantee = self.dominant(&guaranteed).0;
        let bound = if queue.borrows { 1.0 } else { guarantee };
        let most = limits.fold(self.dominant(&demand).0, f64::min).min(bound);
        Part { weight: queue.weight, least: guarantee.min(most), most }
    }

    /// The dominant share of a queue.
    pub fn dominant_share(&self, lane: Lane) -> f64 {
        index(lane).and_then(|at| self.tree.queues.get(at)).map_or(0.0, |q| self.dominant(&q.used).0)
    }

    /// The leaves, by name.
    pub fn leaves(&self) -> impl Iterator<Item = (Lane, &str)> {
        let queues = self.tree.queues.iter().enumerate().filter(|(_, q)| q.children.is_empty());
        queues.map(|(at, queue)| (super::lane(at), &*queue.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_is_divided_by_weight_within_what_each_must_and_can_have() {
        let part = |weight, least, most| Part { weight, least, most };
        let close = |got: Vec<f64>, want: &[f64]| {
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?} {want:?}");
        };
        close(divide(1.0, &[part(1.0, 0.0, 1.0), part(3.0, 0.0, 1.0)]), &[0.25, 0.75]);
        close(divide(1.0, &[part(1.0, 0.0, 0.1), part(1.0, 0.0, 1.0)]), &[0.1, 0.9]);
        close(divide(1.0, &[part(1.0, 0.4, 1.0), part(9.0, 0.0, 1.0)]), &[0.4, 0.6]);
        close(divide(1.0, &[part(1.0, 0.0, 0.2), part(1.0, 0.0, 0.3)]), &[0.2, 0.3]);
        close(divide(1.0, &[]), &[]);
    }

    #[test]
    fn half_of_the_past_is_forgotten_in_a_half_life() {
        assert!((remembered(0.8, 0.0, 3600.0, 3600.0) - 0.4).abs() < 1e-12);
        assert!((remembered(0.0, 0.5, 1e9, 3600.0) - 0.5).abs() < 1e-12);
        // In two steps as in one.
        let (one, two) =
            (remembered(0.1, 0.7, 90.0, 60.0), remembered(remembered(0.1, 0.7, 30.0, 60.0), 0.7, 60.0, 60.0));
        assert!((one - two).abs() < 1e-12);
        assert_eq!(remembered(0.8, 0.3, 1.0, 0.0), 0.0);
    }
}
