//! What packing keeps to, on shapes like those of a shared training cluster.
#![allow(clippy::unwrap_used)]

use super::prices::DevicePrices;
use super::*;
use crate::random::Random;

/// Shapes like those of a shared training cluster: many shares, some whole devices, few that need a node.
fn pods() -> Vec<Demand> {
    let shape = |cpu, memory, count, milli| Demand { cpu, memory, count, milli, models: Models::default() };
    let kinds = [
        (30, shape(3_000, 6_000, 1, 810)),
        (30, shape(11_000, 48_000, 1, 1000)),
        (14, shape(8_000, 30_000, 1, 470)),
        (8, shape(12_000, 47_000, 1, 650)),
        (8, shape(4_000, 20_000, 1, 320)),
        (4, shape(4_000, 16_000, 1, 160)),
        (4, shape(32_000, 50_000, 0, 0)),
        (1, shape(64_000, 260_000, 8, 1000)),
    ];
    kinds.iter().flat_map(|(times, kind)| std::iter::repeat_n(kind.clone(), *times)).collect()
}

fn rooms() -> Vec<Room> {
    let big = (0..24).map(|_| Room::new(96_000, 390_000, 0, vec![1000; 8]));
    let small = (0..20).map(|_| Room::new(104_000, 520_000, 1, vec![1000; 2]));
    big.chain(small).collect()
}

/// Fills the nodes until as many devices were asked for as there are; the part of them that was given away.
fn fill(mut packer: Packer, seed: u64) -> f64 {
    let (mut rooms, pods) = (rooms(), pods());
    rooms.iter().for_each(|room| packer.replace(None, Some(room)));
    let capacity: u32 = rooms.iter().map(Room::free).sum();
    let mut random = Random::new(seed);
    let (mut asked, mut given) = (0, 0);
    while asked < capacity {
        let pod = &pods[random.below(pods.len())];
        packer.arrived(pod);
        asked += pod.total();
        let mut best: Option<(usize, Cost)> = None;
        for (at, room) in rooms.iter().enumerate() {
            let Some(cost) = packer.cost(room, pod) else {
                assert!(!room.fits(pod));
                continue;
            };
            if best.is_none_or(|(_, best)| cost.cost < best.cost) {
                best = Some((at, cost));
            }
        }
        let Some((at, cost)) = best else { continue };
        let after = rooms[at].without(pod, cost.device);
        assert_eq!(after.free() + pod.total(), rooms[at].free());
        packer.replace(Some(&rooms[at]), Some(&after));
        rooms[at] = after;
        given += pod.total();
    }
    f64::from(given) / f64::from(capacity)
}

fn mean(make: impl Fn() -> Packer) -> f64 {
    (0..6).map(|seed| fill(make(), seed)).sum::<f64>() / 6.0
}

#[test]
fn prices_waste_less_than_the_gradient() {
    let with = |measure| mean(|| Packer::new(measure, pods().into_iter().collect()));
    let (gradient, prices) = (with(Measure::Gradient), with(Measure::Prices));
    assert!(prices > gradient, "prices {prices}, gradient {gradient}");
}

#[test]
fn a_workload_that_is_not_known_ahead_is_learned() {
    let known = mean(|| Packer::new(Measure::Prices, pods().into_iter().collect()));
    let learned = mean(|| Packer::new(Measure::Prices, Workload::default()));
    assert!(learned > known - 0.02, "known {known}, learned {learned}");
}

#[test]
fn fragments_are_what_the_paper_says() {
    let pod = |cpu, count, milli| Demand { cpu, count, milli, ..Demand::default() };
    let room = Room::new(8_000, 0, 0, vec![1000, 300, 0, 600]);
    let of = |demand| fragments(&room, &[(demand, 1.0)]);
    // Fits: only the devices that are too full are useless.
    assert_eq!(of(pod(1_000, 1, 500)), 300.0);
    assert_eq!(of(pod(1_000, 1, 1000)), 900.0);
    // Does not fit for devices, or for CPU; or needs no device: all that is free is useless.
    assert_eq!(of(pod(1_000, 2, 1000)), 1900.0);
    assert_eq!(of(pod(9_000, 1, 100)), 1900.0);
    assert_eq!(of(pod(1_000, 0, 0)), 1900.0);
    let half = [(pod(1_000, 1, 500), 0.5), (pod(1_000, 0, 0), 0.5)];
    assert_eq!(fragments(&room, &half), 1100.0);
}

#[test]
fn no_filling_of_a_device_is_worth_more_than_a_device() {
    let mut random = Random::new(7);
    for _ in 0..20 {
        let sizes: Vec<u16> = (0..12).map(|_| 10 + 10 * u16::try_from(random.below(98)).unwrap()).collect();
        let shape = |milli: &u16| (Demand { count: 1, milli: *milli, ..Demand::default() }, 1.0 / 12.0);
        let prices = DevicePrices::new(sizes.iter().map(shape).collect());
        // However shares are put onto a device, what is spoilt adds up and is never negative.
        for _ in 0..50 {
            let mut rest = WHOLE;
            let mut spoilt = 0.0;
            while let Some(milli) = Some(sizes[random.below(sizes.len())]).filter(|milli| *milli <= rest) {
                let cost = prices.cost(rest, milli);
                assert!(cost > -1e-6, "{cost} for {milli} of {rest} with {sizes:?}");
                spoilt += cost;
                rest -= milli;
            }
            assert!(spoilt <= 1.0 + 1e-6);
        }
    }
}

#[test]
fn complements_go_together_and_halves_go_by_two() {
    let share = |milli| Demand { cpu: 1, count: 1, milli, ..Demand::default() };
    let pods: Workload = [700, 700, 300, 300, 500, 500].into_iter().map(share).collect();
    let mut packer = Packer::new(Measure::Prices, pods);
    let room = Room::new(1_000_000, 1_000_000, 0, vec![300, 500, 1000]);
    packer.replace(None, Some(&room));
    let device =
        |packer: &mut Packer, milli| packer.cost(&room, &share(milli)).map(|c| room.devices()[c.device]);
    assert_eq!(device(&mut packer, 300), Some(300));
    assert_eq!(device(&mut packer, 500), Some(500));
    assert_eq!(device(&mut packer, 700), Some(1000));
    assert_eq!(packer.cost(&room, &share(1000)).map(|c| c.cost >= 0.0), Some(true));
    assert_eq!(packer.cost(&Room::new(10, 10, 0, vec![]), &share(1)), None);
}

#[test]
fn a_scarce_place_is_kept_for_those_who_need_it() {
    let whole = Demand { cpu: 1_000, memory: 1, count: 8, milli: 1000, models: Models::default() };
    let one = Demand { cpu: 1_000, memory: 1, count: 1, milli: 1000, models: Models::default() };
    let workload: Workload = [whole, one.clone(), one.clone(), one.clone()].into_iter().collect();
    let mut packer = Packer::new(Measure::Prices, workload);
    let empty = Room::new(96_000, 1_000, 0, vec![1000; 8]);
    let used = Room::new(90_000, 900, 0, vec![0, 0, 0, 0, 0, 1000, 1000, 1000]);
    [&empty, &used].into_iter().for_each(|room| packer.replace(None, Some(room)));
    let (on_empty, on_used) = (packer.cost(&empty, &one).unwrap(), packer.cost(&used, &one).unwrap());
    assert!(on_empty.cost > on_used.cost + 0.5, "{on_empty:?} {on_used:?}");
}

#[test]
fn only_the_models_asked_for_will_do() {
    let demand = Demand { count: 1, milli: 100, models: Models(0b10), ..Demand::default() };
    assert!(!Room::new(1, 1, 0, vec![1000]).fits(&demand));
    assert!(Room::new(1, 1, 1, vec![1000]).fits(&demand));
}
