//! Places for pods that need several whole devices of one node.
//!
//! There may be few of them, and any small pod can spoil one. While there are plenty of them for what is to come, a
//! place costs nothing; the fewer are left, the dearer it is.

use std::collections::HashMap;

use super::shape::{Demand, Room};
use super::workload::Workload;

/// Places are scarce below this many for each that will be needed, ...
const MARGIN: f64 = 3.0;
/// ... and these more, because so few pods are no statistics.
const SPARE: f64 = 4.0;
/// Shapes that are looked after.
const MOST: usize = 64;

/// The places of each shape.
#[derive(Debug, Clone)]
pub(super) struct Scarcity {
    shapes: Vec<Shape>,
    rooms: HashMap<Room, i64>,
    free: i64,
}

#[derive(Debug, Clone)]
struct Shape {
    demand: Demand,
    /// Its part of all devices that are asked for.
    part: f64,
    places: i64,
}

impl Scarcity {
    pub fn new(workload: &Workload) -> Self {
        let shapes = workload.shapes();
        let devices = |(demand, weight): &(Demand, f64)| f64::from(demand.total()) * weight;
        let all: f64 = shapes.iter().map(devices).sum();
        let several = shapes.iter().filter(|(demand, _)| demand.count > 1);
        let shape = |s: &(Demand, f64)| Shape { demand: s.0.clone(), part: devices(s) / all, places: 0 };
        let mut shapes: Vec<_> = several.map(shape).collect();
        shapes.sort_by(|a, b| b.part.total_cmp(&a.part));
        shapes.truncate(MOST);
        Self { shapes, rooms: HashMap::new(), free: 0 }
    }

    /// So many nodes more (or less) have that room.
    pub fn count(&mut self, room: &Room, nodes: i64) {
        if room.devices().is_empty() {
            return;
        }
        self.free += nodes * i64::from(room.free());
        for shape in &mut self.shapes {
            shape.places += nodes * i64::from(room.places(&shape.demand));
        }
        let entry = self.rooms.entry(room.clone()).or_default();
        *entry += nodes;
        if *entry == 0 {
            self.rooms.remove(room);
        }
    }

    /// All rooms and how many nodes have each; leaves nothing behind.
    pub fn take_rooms(&mut self) -> HashMap<Room, i64> {
        std::mem::take(&mut self.rooms)
    }

    /// How many eights of devices, times how scarce they are, are lost as places.
    pub fn cost(&self, room: &Room, demand: &Demand, device: usize) -> f64 {
        let mut after = None;
        let mut cost = 0.0;
        for shape in &self.shapes {
            if shape.demand == *demand {
                continue;
            }
            let price = self.price(shape);
            if price == 0.0 {
                continue;
            }
            let before = room.places(&shape.demand);
            if before > 0 {
                let after = after.get_or_insert_with(|| room.without(demand, device));
                let lost = before.saturating_sub(after.places(&shape.demand));
                cost += price * f64::from(lost) * f64::from(shape.demand.count) / 8.0;
            }
        }
        cost
    }

    fn price(&self, shape: &Shape) -> f64 {
        let needed = self.free as f64 * shape.part / f64::from(shape.demand.total());
        ((MARGIN * needed + SPARE - shape.places as f64) / (0.5 * needed + 1.0)).clamp(0.0, 1.0)
    }
}
