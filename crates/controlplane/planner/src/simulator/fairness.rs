//! How evenly something is shared, and what each tenant had of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Sample;
use super::sample::Waits;

/// Samples carry each tenant's share up to so many tenants.
pub(super) const MOST_TENANTS: usize = 256;

/// Jain's index: 1 when all have the same, 1/n when one has everything (Jain, Chiu and Hawe, DEC-TR-301, 1984).
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// What a tenant has at one moment. Shares are parts of all that the nodes have, 0 to 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TenantSample {
    /// Its dominant share.
    pub share: f64,
    /// What it is due, by its queue; 0 where there are no queues.
    pub fair_share: f64,
    /// What it is remembered to have had; 0 where there are no queues.
    pub decayed_usage: f64,
    /// Its pods that wait.
    pub waiting: usize,
    /// Whether they wait though it has less than it is guaranteed.
    pub starving: bool,
}

/// What a tenant had over all the time.
#[derive(Debug, Clone, Default)]
pub struct TenantOutcome {
    /// The mean of its dominant share.
    pub mean_share: f64,
    /// The mean of what it was due.
    pub mean_fair_share: f64,
    /// Its pods that were placed.
    pub placed: usize,
    /// Its pods that had to leave for others.
    pub displaced: usize,
    /// How long those placed had waited.
    pub waits: Waits,
    /// The longest time in a row, in seconds, that its pods waited though it had less than it is guaranteed.
    pub longest_starving: f64,
}

/// Adds what samples tell to what was counted.
pub(super) fn add_up(samples: &[Sample], tenants: &mut BTreeMap<String, TenantOutcome>) {
    let mut since: BTreeMap<&str, f64> = BTreeMap::new();
    let mut time = 0.0;
    // What a sample tells was so until the next one.
    for two in samples.windows(2) {
        let (from, to) = (two[0].time, two[1].time);
        time += to - from;
        for (name, now) in &two[0].tenants {
            let tenant = tenants.entry(name.clone()).or_default();
            tenant.mean_share += now.share * (to - from);
            tenant.mean_fair_share += now.fair_share * (to - from);
            if now.starving {
                let start = *since.entry(name).or_insert(from);
                tenant.longest_starving = tenant.longest_starving.max(to - start);
            } else {
                since.remove(name.as_str());
            }
        }
    }
    if time > 0.0 {
        for tenant in tenants.values_mut() {
            tenant.mean_share /= time;
            tenant.mean_fair_share /= time;
        }
    }
}
