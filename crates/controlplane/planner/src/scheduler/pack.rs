//! Profiles that pack: of the nodes that can take a pod, the one where it spoils least.

use std::sync::Arc;

use super::gpu::{self, Gpus};
use super::intern::Interner;
use super::nodes::{CPU, MEMORY, Nodes};
use super::pod::{PodInfo, Shape};
use super::world::World;
use crate::hash::Map;
use crate::packing::{Cost, Demand, Measure, Models, Packer, Room, WHOLE, Workload};
use crate::random::Random;

/// How a profile packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// By a measure.
    By(Measure),
    /// Anywhere: the baseline that the others are measured against.
    Random,
}

/// Shapes of pods whose demands are remembered.
const MOST_SHAPES: usize = 4096;
/// Models beyond this many are all the same to those that name one.
const LAST_MODEL: u8 = 63;

/// What one profile knows of the nodes.
#[derive(Debug)]
pub(super) struct Pack {
    packing: Packing,
    packer: Packer,
    /// Whether what is usual was told, and need not be learned.
    told: bool,
    rooms: Vec<Option<Room>>,
    seen: Option<u64>,
    models: Interner<str>,
    demands: Map<Arc<Shape>, Demand>,
}

impl Pack {
    pub fn new(packing: Packing) -> Self {
        Self {
            packing,
            packer: Self::packer(packing, Workload::default()),
            told: false,
            rooms: Vec::new(),
            seen: None,
            models: Interner::default(),
            demands: Map::default(),
        }
    }

    fn packer(packing: Packing, workload: Workload) -> Packer {
        let measure = match packing {
            Packing::By(measure) => measure,
            Packing::Random => Measure::Gradient,
        };
        Packer::new(measure, workload)
    }

    /// Tells which pods are usual.
    pub fn expect<'a>(&mut self, pods: impl Iterator<Item = &'a PodInfo>, world: &World) {
        self.refresh(world);
        let workload: Workload = pods.map(|pod| self.demand(&pod.shape, &world.nodes)).collect();
        self.packer = Self::packer(self.packing, workload);
        self.told = true;
        for room in self.rooms.iter().flatten() {
            self.packer.replace(None, Some(room));
        }
    }

    /// How many pods it learned from since it looked at them last.
    #[cfg(test)]
    pub fn news(&self) -> f64 {
        self.packer.news()
    }

    /// Learns from a pod that runs.
    pub fn learn(&mut self, pod: &PodInfo, world: &World) {
        if !self.told && self.packing != Packing::Random {
            let demand = self.demand(&pod.shape, &world.nodes);
            self.packer.arrived(&demand);
        }
    }

    /// The node to take among those that can take the pod, as (slot, score), and its devices. The best score comes
    /// first: it holds only what the pod itself wishes for.
    pub fn choose(
        &mut self,
        able: &[(usize, i64)],
        pod: &PodInfo,
        world: &World,
        seed: u64,
    ) -> Option<(usize, Vec<u8>)> {
        let most = able.iter().map(|(_, score)| *score).max()?;
        let best = able.iter().filter(|(_, score)| *score == most).map(|(slot, _)| *slot);
        if self.packing == Packing::Random {
            let best: Vec<usize> = best.collect();
            let mut random = Random::new(seed);
            let slot = *best.get(random.below(best.len()))?;
            return Some((slot, any_devices(&world.nodes[slot].gpus, pod, &mut random)));
        }
        self.refresh(world);
        let demand = self.demand(&pod.shape, &world.nodes);
        let mut cheapest: Option<(usize, Cost)> = None;
        let mut first = None;
        for slot in best {
            first = first.or(Some(slot));
            let room = self.rooms.get(slot).and_then(Option::as_ref);
            let Some(cost) = room.and_then(|room| self.packer.cost(room, &demand)) else { continue };
            if cheapest.is_none_or(|(_, cheapest)| cost.cost < cheapest.cost - 1e-9) {
                cheapest = Some((slot, cost));
            }
        }
        let gpus = |slot: usize| &world.nodes[slot].gpus;
        // A profile may leave a resource unchecked, and then no room may fit.
        let Some((slot, cost)) = cheapest else {
            let slot = first?;
            return Some((slot, gpus(slot).choose(pod.shape.gpu)));
        };
        let rest = self.rooms[slot].as_ref().and_then(|room| room.devices().get(cost.device).copied());
        let device = gpus(slot).free().iter().position(|free| u16::try_from(*free).ok() == rest);
        match device.and_then(|device| u8::try_from(device).ok()) {
            Some(device) if demand.is_share() => Some((slot, vec![device])),
            _ => Some((slot, gpus(slot).choose(pod.shape.gpu))),
        }
    }

    /// Follows what changed on the nodes.
    fn refresh(&mut self, world: &World) {
        let mut changed = Vec::new();
        if !self.seen.is_some_and(|seen| world.log.since(seen, &mut changed)) {
            changed = (0..u32::try_from(world.nodes.slots()).unwrap_or(0)).collect();
        }
        self.seen = Some(world.log.end());
        self.rooms.resize(world.nodes.slots(), None);
        for slot in changed.into_iter().map(|slot| slot as usize) {
            let room = self.room(slot, &world.nodes);
            if self.rooms[slot] != room {
                self.packer.replace(self.rooms[slot].as_ref(), room.as_ref());
                self.rooms[slot] = room;
            }
        }
    }

    fn room(&mut self, slot: usize, nodes: &Nodes) -> Option<Room> {
        if !nodes[slot].live {
            return None;
        }
        let free = |column: usize| nodes.allocatable(column, slot) - nodes.used(column, slot);
        let devices = nodes[slot].gpus.free().iter().map(|free| u16::try_from(*free).unwrap_or(0)).collect();
        let model = nodes[slot].labels.get(gpu::GPU_MODEL).map_or("", String::as_str);
        let known = self.models.len();
        let model = self.models.intern(model);
        if self.models.len() != known {
            // Which models a pod allows was asked of those known so far.
            self.demands.clear();
        }
        let model = u8::try_from(model).unwrap_or(LAST_MODEL).min(LAST_MODEL);
        Some(Room::new(free(CPU), free(MEMORY) >> 20, model, devices))
    }

    fn demand(&mut self, shape: &Arc<Shape>, nodes: &Nodes) -> Demand {
        if let Some(demand) = self.demands.get(shape) {
            return demand.clone();
        }
        let request = shape.gpu;
        let demand = Demand {
            cpu: shape.requests.milli_cpu,
            // Rounded up: what fits here must fit there.
            memory: (shape.requests.memory + (1 << 20) - 1) >> 20,
            count: request.count,
            milli: if request.is_none() { 0 } else { request.milli.min(WHOLE) },
            models: if request.is_none() { Models::default() } else { self.models_of(shape, nodes) },
        };
        if self.demands.len() >= MOST_SHAPES {
            self.demands.clear();
        }
        self.demands.insert(shape.clone(), demand.clone());
        demand
    }

    /// The models on nodes that the pod allows; any when it allows all of them.
    fn models_of(&self, shape: &Shape, nodes: &Nodes) -> Models {
        if shape.node == Default::default() {
            return Models::default();
        }
        let (mut allowed, mut refused) = (0, 0);
        for slot in nodes.live_nodes().filter(|slot| !nodes[*slot].gpus.free().is_empty()) {
            let labels = &nodes[slot].labels;
            let model = labels.get(gpu::GPU_MODEL).map_or("", String::as_str);
            let model = self.models.get(model).and_then(|m| u8::try_from(m).ok()).unwrap_or(LAST_MODEL);
            let bit = 1_u64 << model.min(LAST_MODEL);
            if shape.node.matches(&nodes[slot].name, labels) { allowed |= bit } else { refused |= bit }
        }
        if refused & !allowed == 0 { Models::default() } else { Models(allowed) }
    }
}

/// Devices at random out of those that have enough.
fn any_devices(gpus: &Gpus, pod: &PodInfo, random: &mut Random) -> Vec<u8> {
    let request = pod.shape.gpu;
    let fits = |(_, free): &(usize, &i32)| **free >= i32::from(request.milli);
    let mut able: Vec<u8> =
        gpus.free().iter().enumerate().filter(fits).filter_map(|(at, _)| u8::try_from(at).ok()).collect();
    let mut taken = Vec::new();
    while taken.len() < usize::from(request.count) && !able.is_empty() {
        taken.push(able.swap_remove(random.below(able.len())));
    }
    taken
}
