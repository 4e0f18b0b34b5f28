//! The measure of Fragmentation Gradient Descent.
//!
//! Qizhen Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
//! USENIX ATC 2023, section 3.

use super::shape::{Demand, Room};
use crate::hash::Map;

/// Thousandths of devices on a node that are free but useless to a pod drawn from the usual ones (weights add up to 1).
pub fn fragments(room: &Room, usual: &[(Demand, f64)]) -> f64 {
    let free = f64::from(room.free());
    if free == 0.0 {
        return 0.0;
    }
    let useless = |demand: &Demand| {
        // The paper measures devices and CPU only.
        if demand.count == 0 || !room.fits_but_for_memory(demand) {
            return free;
        }
        room.devices().iter().take_while(|milli| **milli < demand.milli).map(|milli| f64::from(*milli)).sum()
    };
    usual.iter().map(|(demand, weight)| weight * useless(demand)).sum()
}

/// The growth of fragments, as the paper's scheduler ranks it.
#[derive(Debug, Clone)]
pub(super) struct Gradient {
    usual: Vec<(Demand, f64)>,
    known: Map<Room, f64>,
}

impl Gradient {
    pub fn new(usual: &[(Demand, f64)]) -> Self {
        Self { usual: usual.to_vec(), known: Map::default() }
    }

    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// A negative score of 0 to 100. The authors round it, which makes close nodes the same; that matters.
    pub fn cost(&mut self, before: &Room, after: &Room) -> f64 {
        let growth = self.fragments(after) - self.fragments(before);
        -(100.0 / (1.0 + (growth / 1000.0).exp())).floor()
    }

    fn fragments(&mut self, room: &Room) -> f64 {
        if let Some(known) = self.known.get(room) {
            return *known;
        }
        let found = fragments(room, &self.usual);
        self.known.insert(room.clone(), found);
        found
    }
}
