//! The pods that are usual: what has come so far, or what is said to come.

use std::collections::HashMap;

use super::shape::Demand;

/// How much of all pods the usual ones must make up (the paper's choice).
const USUAL: f64 = 0.95;
/// Shapes that are kept; the rarest go first.
const MOST_SHAPES: usize = 512;
/// After so many pods what was learned counts half.
const HALF_LIFE: f64 = 16_384.0;
/// What was learned is put to use when that part of the weight is new.
const NEWS: f64 = 0.1;

/// How often which shape of pod comes.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    weights: HashMap<Demand, f64>,
    total: f64,
    news: f64,
}

impl FromIterator<Demand> for Workload {
    /// Takes each pod as equally likely to come.
    fn from_iter<T: IntoIterator<Item = Demand>>(pods: T) -> Self {
        let mut workload = Self::default();
        for demand in pods {
            *workload.weights.entry(demand).or_default() += 1.0;
            workload.total += 1.0;
        }
        workload.trim();
        workload
    }
}

impl Workload {
    /// How many came since everything was looked at last.
    #[cfg(test)]
    pub(super) fn news(&self) -> f64 {
        self.news
    }

    /// Counts one more; says whether enough is new to look at everything again.
    pub(super) fn arrived(&mut self, demand: &Demand) -> bool {
        let keep = 1.0 - 1.0 / HALF_LIFE;
        // One product for all would have to touch each; so the new one weighs more instead, and all are scaled rarely.
        let unit = 1.0 / keep.powf(self.news);
        *self.weights.entry(demand.clone()).or_default() += unit;
        self.total += unit;
        self.news += 1.0;
        let enough = self.news >= (NEWS * self.total).max(64.0);
        if enough {
            let scale = 1.0 / unit;
            self.weights.values_mut().for_each(|weight| *weight *= scale);
            self.total *= scale;
            self.news = 0.0;
            self.trim();
        }
        enough
    }

    fn trim(&mut self) {
        if self.weights.len() > MOST_SHAPES {
            let shapes = self.sorted();
            for (demand, weight) in &shapes[MOST_SHAPES..] {
                self.weights.remove(demand);
                self.total -= weight;
            }
        }
    }

    /// All shapes, the most frequent first.
    fn sorted(&self) -> Vec<(Demand, f64)> {
        let mut shapes: Vec<_> = self.weights.iter().map(|(d, w)| (d.clone(), *w)).collect();
        let key = |d: &Demand| (d.cpu, d.memory, d.count, d.milli, d.models.0);
        shapes.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| key(&a.0).cmp(&key(&b.0))));
        shapes
    }

    /// All shapes and how likely each is.
    pub(super) fn shapes(&self) -> Vec<(Demand, f64)> {
        let mut shapes = self.sorted();
        shapes.iter_mut().for_each(|(_, weight)| *weight /= self.total.max(f64::MIN_POSITIVE));
        shapes
    }

    /// The most frequent shapes that make up most of all pods, and how likely each is among them.
    pub fn usual(&self) -> Vec<(Demand, f64)> {
        let mut usual = Vec::new();
        let mut sum = 0.0;
        for (demand, weight) in self.sorted() {
            if sum >= USUAL * self.total {
                break;
            }
            sum += weight;
            usual.push((demand, weight));
        }
        usual.iter_mut().for_each(|(_, weight)| *weight /= sum);
        usual
    }
}
