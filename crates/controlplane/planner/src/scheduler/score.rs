//! The scores of resources and images on one node, and how raw scores become comparable: upstream's formulas.

use super::profile::Strategy;

/// The best score.
pub(super) const TOP: i64 = 100;

/// One resource of one node: what would be used with the pod, what is used without it, what there is, its weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    pub with: i64,
    pub without: i64,
    pub have: i64,
    pub weight: i64,
}

/// 0 to 100 by the strategy; resources that the node does not have are left out.
pub(super) fn fit(strategy: &Strategy, uses: impl Iterator<Item = Use>) -> i64 {
    let (mut total, mut weights) = (0, 0);
    for u in uses.filter(|u| u.have != 0) {
        let score = match strategy {
            Strategy::LeastAllocated if u.with > u.have => 0,
            Strategy::LeastAllocated => share(u.have - u.with, u.have),
            Strategy::MostAllocated => share(u.with.min(u.have), u.have),
            Strategy::RequestedToCapacityRatio(shape) => {
                let percent = if u.with > u.have { TOP } else { share(u.with, u.have) };
                let score = broken_line(shape, percent);
                if score <= 0 {
                    continue;
                }
                score
            }
        };
        total += score * u.weight;
        weights += u.weight;
    }
    match strategy {
        _ if weights == 0 => 0,
        Strategy::RequestedToCapacityRatio(_) => (total as f64 / weights as f64).round() as i64,
        _ => total / weights,
    }
}

/// `part` of `whole` as 0 to 100, rounded down. Memory in bytes times 100 fits well into 64 bits below 80 PiB.
fn share(part: i64, whole: i64) -> i64 {
    match part.checked_mul(TOP) {
        Some(scaled) => scaled / whole,
        None => (part as f64 / whole as f64 * TOP as f64) as i64,
    }
}

fn broken_line(shape: &[(i64, i64)], at: i64) -> i64 {
    let scale = TOP / 10;
    let Some(last) = shape.last() else { return 0 };
    let Some(next) = shape.iter().position(|(x, _)| at <= *x) else { return last.1 * scale };
    let (x1, y1) = shape[next];
    if next == 0 {
        return y1 * scale;
    }
    let (x0, y0) = shape[next - 1];
    y0 * scale + (y1 - y0) * scale * (at - x0) / (x1 - x0)
}

/// How much more even the use of resources becomes, 50 to 100.
pub(super) fn balanced(uses: &[Use]) -> i64 {
    if let [a, b] = uses
        && a.have != 0
        && b.have != 0
    {
        // So it is most of the time: the same without looking for which there are.
        let evenness = |one: i64, other: i64| {
            let share = |part: i64, whole: i64| (part as f64 / whole as f64).min(1.0);
            let deviation = (share(one, a.have) - share(other, b.have)).abs() / 2.0;
            ((1.0 - deviation) * TOP as f64) as i64
        };
        return TOP / 2 + (TOP / 2 + evenness(a.with, b.with) - evenness(a.without, b.without)) / 2;
    }
    let evenness = |amount: fn(&Use) -> i64| {
        let fractions = || {
            let there = uses.iter().filter(|u| u.have != 0);
            there.map(move |u| (amount(u) as f64 / u.have as f64).min(1.0))
        };
        let count = fractions().count();
        let deviation = match count {
            0 | 1 => 0.0,
            2 => {
                let mut both = fractions();
                (both.next().unwrap_or(0.0) - both.next().unwrap_or(0.0)).abs() / 2.0
            }
            _ => {
                let mean = fractions().sum::<f64>() / count as f64;
                (fractions().map(|f| (f - mean) * (f - mean)).sum::<f64>() / count as f64).sqrt()
            }
        };
        ((1.0 - deviation) * TOP as f64) as i64
    };
    TOP / 2 + (TOP / 2 + evenness(|u| u.with) - evenness(|u| u.without)) / 2
}

const SMALL_IMAGE: i64 = 23 << 20;
const LARGE_IMAGE: i64 = 1000 << 20;

/// 0 to 100 for the images that a node has already: sizes, each with the share of nodes that have it, so that
/// an image on few nodes does not draw everything there.
pub(super) fn images(held: impl Iterator<Item = (i64, f64)>, containers: usize) -> i64 {
    let most = LARGE_IMAGE * i64::try_from(containers.max(1)).unwrap_or(1);
    let sum: i64 = held.map(|(size, share)| (size as f64 * share) as i64).sum();
    TOP * (sum.clamp(SMALL_IMAGE, most) - SMALL_IMAGE) / (most - SMALL_IMAGE)
}

/// 0 to 100 by the largest; all 0 when that is 0.
pub(super) fn scaled(raw: i64, most: i64) -> i64 {
    if most == 0 { raw } else { raw * TOP / most }
}

/// 100 to 0 by the largest.
pub(super) fn reversed(raw: i64, most: i64) -> i64 {
    TOP - scaled(raw, most)
}

/// 0 for the least, 100 for the most.
pub(super) fn between(raw: i64, least: i64, most: i64) -> i64 {
    let range = most - least;
    if range > 0 { (TOP as f64 * ((raw - least) as f64 / range as f64)) as i64 } else { 0 }
}

/// How crowded one domain is; with more domains a difference of one matters more.
pub(super) fn crowding(pods: i64, max_skew: i64, domains: usize) -> f64 {
    pods as f64 * ((domains + 2) as f64).ln() + (max_skew - 1) as f64
}

/// The less crowded the better; `None` is a node outside of every domain.
pub(super) fn spread(raw: Option<i64>, least: i64, most: i64) -> i64 {
    match raw {
        None => 0,
        Some(_) if most == 0 => TOP,
        Some(raw) => TOP * (most + least - raw) / most,
    }
}
