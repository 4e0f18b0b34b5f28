//! What a node would still take of the pods to come.

use super::shape::{Demand, Room};
use super::workload::Workload;
use crate::hash::Map;
use crate::random::Random;

/// Futures that are looked into.
const FUTURES: usize = 16;
/// Pods of each.
const PODS: usize = 60;
const SEED: u64 = 99;

/// Some futures, the same for every node, so that nodes are compared and not luck.
#[derive(Debug, Clone)]
pub(super) struct Futures {
    futures: Vec<Vec<Demand>>,
    known: Map<Room, f64>,
}

impl Futures {
    pub fn new(workload: &Workload) -> Self {
        let shapes = workload.shapes();
        let mut random = Random::new(SEED);
        let mut draw = || {
            let mut at = random.unit();
            let drawn = shapes.iter().find(|(_, weight)| {
                at -= weight;
                at < 0.0
            });
            drawn.or(shapes.last()).map(|(demand, _)| demand.clone())
        };
        let futures = (0..FUTURES).map(|_| (0..PODS).filter_map(|_| draw()).collect()).collect();
        Self { futures, known: Map::default() }
    }

    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// How many devices less the node will ever give, with the pod on it than without.
    pub fn lost(&mut self, before: &Room, after: &Room, demand: &Demand) -> f64 {
        self.taken(before) - self.taken(after) - f64::from(demand.total()) / 1000.0
    }

    /// Devices that the node would still give away: the mean over the futures, each pod taken where it fits tightest.
    fn taken(&mut self, room: &Room) -> f64 {
        if let Some(known) = self.known.get(room) {
            return *known;
        }
        let mut taken = 0;
        for future in &self.futures {
            let mut room = room.clone();
            taken += future.iter().filter(|pod| room.take_best(pod)).map(Demand::total).sum::<u32>();
        }
        let mean = f64::from(taken) / 1000.0 / self.futures.len().max(1) as f64;
        self.known.insert(room.clone(), mean);
        mean
    }
}
