//! Packing pods onto nodes with devices that can be shared, so that as little as possible is left where nothing fits.
//!
//! A [`Packer`] ranks the nodes that could take a pod: the lower the cost, the better. It knows the pods that are
//! usual ([`Workload`]) and follows what is free on each node ([`Packer::replace`]). Two measures ship:
//!
//! - [`Measure::Gradient`]: Fragmentation Gradient Descent (Weng et al., "Beware of Fragmentation", USENIX ATC 2023):
//!   the growth of what is free but useless to the next usual pod.
//! - [`Measure::Prices`]: looks further than the next pod. Its cost has three parts, all in devices:
//!   what a rest of a device is worth by the shadow prices of a cutting-stock program ([`prices`]), what the node would
//!   still take of pods to come ([`future`]), and what places for pods with several devices are worth while they are
//!   scarce ([`scarcity`]).
//!
//! All of it is deterministic: the futures are drawn from the workload with a fixed seed.

mod future;
mod gradient;
mod prices;
mod scarcity;
mod shape;
#[cfg(test)]
mod tests;
mod workload;

pub use gradient::fragments;
pub use shape::{Demand, Models, Room, WHOLE};
pub use workload::Workload;

use future::Futures;
use gradient::Gradient;
use prices::DevicePrices;
use scarcity::Scarcity;

use crate::hash::Map;

/// Ranked states that are remembered; beyond that all are forgotten and found anew.
const MOST_REMEMBERED: usize = 1 << 18;
/// What the expected future of a node weighs against the price of a device's rest.
const FUTURE_WEIGHT: f64 = 0.2;
/// What a lost place for eight devices weighs while such places are scarce.
const SCARCITY_WEIGHT: f64 = 2.0;
/// Costs closer than this are the same, in devices; the first node wins then, which keeps the free ones together.
const STEP: f64 = 0.02;

/// How a cost is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Fragmentation Gradient Descent, with the rounding of its authors.
    Gradient,
    /// Device prices, expected futures and scarce places.
    Prices,
}

/// What putting a pod somewhere costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Lower is better. Only comparable for one pod and one moment.
    pub cost: f64,
    /// For a share: the device, as an index into [`Room::devices`].
    pub device: usize,
}

/// Ranks nodes for pods.
#[derive(Debug, Clone)]
pub struct Packer {
    measure: Measure,
    workload: Workload,
    gradient: Gradient,
    prices: DevicePrices,
    futures: Futures,
    scarcity: Scarcity,
    known: Map<Demand, Map<Room, Cost>>,
    remembered: usize,
}

impl Packer {
    /// A packer for a workload. Nodes are told with [`Packer::replace`].
    pub fn new(measure: Measure, workload: Workload) -> Self {
        let usual = workload.usual();
        Self {
            measure,
            gradient: Gradient::new(&usual),
            prices: DevicePrices::new(workload.shapes()),
            futures: Futures::new(&workload),
            scarcity: Scarcity::new(&workload),
            workload,
            known: Map::default(),
            remembered: 0,
        }
    }

    /// Counts a pod that came, and learns from it: the older the less a pod counts.
    pub fn arrived(&mut self, demand: &Demand) {
        if self.workload.arrived(demand) {
            let rooms = self.scarcity.take_rooms();
            *self = Self::new(self.measure, std::mem::take(&mut self.workload));
            for (room, count) in rooms {
                self.scarcity.count(&room, count);
            }
        }
    }

    /// How many pods came since what is usual was looked at last.
    #[cfg(test)]
    pub fn news(&self) -> f64 {
        self.workload.news()
    }

    /// What is free on a node changed; `None` for a node that was not there, or is not there any more.
    pub fn replace(&mut self, old: Option<&Room>, new: Option<&Room>) {
        old.into_iter().for_each(|room| self.scarcity.count(room, -1));
        new.into_iter().for_each(|room| self.scarcity.count(room, 1));
    }

    /// What it costs to put the pod there; `None` when it does not fit.
    pub fn cost(&mut self, room: &Room, demand: &Demand) -> Option<Cost> {
        let known = self.known.get(demand).and_then(|rooms| rooms.get(room)).copied();
        let cost = match known {
            Some(cost) => cost,
            None => {
                let cost = self.find_cost(room, demand)?;
                self.remember(room, demand, cost);
                cost
            }
        };
        if self.measure == Measure::Gradient {
            return Some(cost);
        }
        let scarce = self.scarcity.cost(room, demand, cost.device);
        Some(Cost { cost: cost.cost + SCARCITY_WEIGHT * scarce, ..cost })
    }

    fn remember(&mut self, room: &Room, demand: &Demand, cost: Cost) {
        if self.remembered >= MOST_REMEMBERED {
            self.known.clear();
            self.gradient.forget();
            self.futures.forget();
            self.remembered = 0;
        }
        self.remembered += 1;
        self.known.entry(demand.clone()).or_default().insert(room.clone(), cost);
    }

    fn find_cost(&mut self, room: &Room, demand: &Demand) -> Option<Cost> {
        if !room.fits(demand) {
            return None;
        }
        let mut best: Option<Cost> = None;
        for device in room.choices(demand) {
            let after = room.without(demand, device);
            let cost = match self.measure {
                Measure::Gradient => self.gradient.cost(room, &after),
                Measure::Prices => {
                    let rest = room.devices().get(device).copied().unwrap_or(0);
                    let price = if demand.is_share() { self.prices.cost(rest, demand.milli) } else { 0.0 };
                    let lost = self.futures.lost(room, &after, demand);
                    ((price + FUTURE_WEIGHT * lost) / STEP).floor() * STEP
                }
            };
            if best.is_none_or(|best| cost < best.cost - 1e-9) {
                best = Some(Cost { cost, device });
            }
        }
        best
    }
}
