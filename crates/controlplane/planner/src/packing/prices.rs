//! What a rest of a device is worth.
//!
//! Cutting devices into the shares that are asked for is the cutting-stock problem (Gilmore and Gomory, "A Linear
//! Programming Approach to the Cutting-Stock Problem", Operations Research 9, 1961). The dual of its linear program gives
//! each size of share a price in devices such that no way to fill a device is worth more than one device. A share put
//! where the best filling would have it costs nothing; elsewhere it costs what is spoilt.

use std::collections::BTreeMap;

use microlp::{ComparisonOp, OptimizationDirection, Problem, SolveOutcome};

use super::shape::{Demand, WHOLE};

/// Sizes are rounded up to this many thousandths, so that a table of all rests is small.
const GRAIN: usize = 5;
const SLOTS: usize = WHOLE as usize / GRAIN;
/// Sizes that get a price of their own; the rarest share the price of the next larger one.
const MOST_SIZES: usize = 64;
/// A filling that is worth less than this more than a device is not worth another round.
const TOLERANCE: f64 = 1e-6;
const MOST_ROUNDS: usize = 500;

/// Prices of shares and of rests.
#[derive(Debug, Clone)]
pub(super) struct DevicePrices {
    /// By slots that are free: what the best filling is worth.
    rest: Vec<f64>,
    /// By slots that are asked for.
    share: Vec<f64>,
}

impl DevicePrices {
    pub fn new(shapes: Vec<(Demand, f64)>) -> Self {
        let mut wanted: BTreeMap<usize, f64> = BTreeMap::new();
        for (demand, weight) in shapes.iter().filter(|(demand, _)| demand.is_share() && demand.milli > 0) {
            *wanted.entry(usize::from(demand.milli).div_ceil(GRAIN)).or_default() += weight;
        }
        while wanted.len() > MOST_SIZES {
            merge_rarest(&mut wanted);
        }
        let prices = solve(&wanted);
        let mut share = vec![0.0; SLOTS + 1];
        // A size that nobody asked for so far is worth what the next smaller one is.
        let mut last = 0.0;
        for (slots, price) in share.iter_mut().enumerate() {
            last = prices.get(&slots).copied().unwrap_or(last);
            *price = last;
        }
        share[SLOTS] = 1.0;
        let mut rest = best_fillings(&prices).0;
        rest[SLOTS] = 1.0;
        Self { rest, share }
    }

    /// What is spoilt when a share of `milli` goes where `rest` thousandths are free. Not negative but for rounding.
    pub fn cost(&self, rest: u16, milli: u16) -> f64 {
        let slots = |milli: u16| (usize::from(milli) / GRAIN).min(SLOTS);
        let after = rest.saturating_sub(milli);
        self.rest[slots(rest)] - self.rest[slots(after)] - self.share[usize::from(milli).div_ceil(GRAIN)]
    }
}

fn merge_rarest(wanted: &mut BTreeMap<usize, f64>) {
    let Some(last) = wanted.keys().next_back().copied() else { return };
    let others = wanted.iter().filter(|(slots, _)| **slots != last);
    let Some((rarest, weight)) = others.min_by(|a, b| a.1.total_cmp(b.1)).map(|(s, w)| (*s, *w)) else {
        return;
    };
    wanted.remove(&rarest);
    if let Some((_, next)) = wanted.range_mut(rarest..).next() {
        *next += weight;
    }
}

/// Prices of the sizes: the dual program, with a row for each filling that turns out to be worth too much.
fn solve(wanted: &BTreeMap<usize, f64>) -> BTreeMap<usize, f64> {
    let mut problem = Problem::new(OptimizationDirection::Maximize);
    let sizes: Vec<usize> = wanted.keys().copied().collect();
    let columns: Vec<_> = wanted.values().map(|weight| problem.add_var(*weight, (0.0, 1.0))).collect();
    for (slots, column) in sizes.iter().zip(&columns) {
        let times = f64::from(u32::try_from(SLOTS / slots).unwrap_or(1));
        problem.add_constraint([(*column, times)], ComparisonOp::Le, 1.0);
    }
    let Ok(SolveOutcome::Solution(mut solution)) = problem.solve() else { return BTreeMap::new() };
    let mut prices = BTreeMap::new();
    for _ in 0..MOST_ROUNDS {
        prices =
            sizes.iter().zip(&columns).map(|(slots, column)| (*slots, solution.var_value(*column))).collect();
        let (worth, last) = best_fillings(&prices);
        if worth[SLOTS] <= 1.0 + TOLERANCE {
            break;
        }
        let mut times = vec![0.0; sizes.len()];
        let mut slots = SLOTS;
        while slots > 0 {
            match last[slots] {
                0 => slots -= 1,
                size => {
                    if let Ok(i) = sizes.binary_search(&size) {
                        times[i] += 1.0;
                    }
                    slots -= size;
                }
            }
        }
        let row: Vec<_> = columns.iter().copied().zip(times).filter(|(_, times)| *times > 0.0).collect();
        match solution.add_constraint(row, ComparisonOp::Le, 1.0) {
            Ok(SolveOutcome::Solution(better)) => solution = better,
            _ => break,
        }
    }
    prices
}

/// By free slots: what the best filling is worth, and the last size in it (0 for an idle slot).
fn best_fillings(prices: &BTreeMap<usize, f64>) -> (Vec<f64>, Vec<usize>) {
    let (mut worth, mut last) = (vec![0.0; SLOTS + 1], vec![0; SLOTS + 1]);
    for slots in 1..=SLOTS {
        worth[slots] = worth[slots - 1];
        for (size, price) in prices.range(1..=slots) {
            let with = worth[slots - size] + price;
            if with > worth[slots] + 1e-12 {
                (worth[slots], last[slots]) = (with, *size);
            }
        }
    }
    (worth, last)
}
