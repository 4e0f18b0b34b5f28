//! The decision: of the buckets of a class, which can take the pod, and which of their nodes is best.

use super::class::{Bucket, Class, FIRST_COUNTER};
use super::cluster::Pins;
use super::counter::{ABSENT, Counter, Role};
use super::nodes::Nodes;
use super::score;
use crate::random::Random;

/// Why a bucket's place among other nodes forbids it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Neighbours {
    /// A hard spread constraint names a label that the node does not have.
    NoDomain,
    /// It would be too many in its domain.
    Skew,
    /// The pods it must be near are not there.
    Affinity,
    /// Pods are there that it must not be near.
    AntiAffinity,
    /// Pods are there that do not want it.
    Unwelcome,
}

impl Neighbours {
    /// Whether the leaving of pods could change it.
    pub fn is_resolvable(self) -> bool {
        !matches!(self, Self::NoDomain | Self::Affinity)
    }
}

/// The raw scores of a bucket.
#[derive(Debug, Clone, Copy, Default)]
struct Raw {
    soft_taints: i64,
    affinity: i64,
    images: i64,
    crowd: Option<i64>,
    preference: i64,
}

/// Between what the raw scores of buckets are that are compared: the least is 0 where it is not said.
#[derive(Debug, Clone, Copy)]
struct Extremes {
    soft_taints: i64,
    affinity: i64,
    crowd: (i64, i64),
    preference: (i64, i64),
}

impl Extremes {
    fn of(raws: &[Raw]) -> Self {
        let most = |f: fn(&Raw) -> i64| raws.iter().map(f).max().unwrap_or(0);
        let crowds = || raws.iter().filter_map(|r| r.crowd);
        Self {
            soft_taints: most(|r| r.soft_taints),
            affinity: most(|r| r.affinity),
            crowd: (crowds().min().unwrap_or(0), crowds().max().unwrap_or(0)),
            preference: (raws.iter().map(|r| r.preference).min().unwrap_or(0), most(|r| r.preference)),
        }
    }
}

/// One of so many.
fn at_random(seed: u64, of: usize) -> usize {
    usize::try_from(Random::new(seed).bits() % of.max(1) as u64).unwrap_or(0)
}

/// What all decisions of a class at one moment share.
pub(super) struct Judge<'a> {
    class: &'a Class,
    nodes: &'a Nodes,
    /// The smallest count for each counter that is a hard constraint.
    smallest: Vec<i64>,
    /// There are no pods yet that the required affinity speaks of, but the pod itself would be one.
    first_of_its_kind: bool,
    itself: Vec<i64>,
}

impl<'a> Judge<'a> {
    pub fn new(class: &'a Class, nodes: &'a Nodes) -> Self {
        let counters = &class.counters;
        let smallest = counters.iter().map(|c| match &c.role {
            Role::HardSpread(constraint) => {
                let enough = i64::try_from(c.domains).unwrap_or(i64::MAX) >= constraint.min_domains;
                if enough { c.smallest() } else { 0 }
            }
            _ => 0,
        });
        let itself = counters.iter().map(|c| match &c.role {
            Role::HardSpread(constraint) => i64::from(constraint.matches_itself(&class.labels)),
            _ => 0,
        });
        let near = counters.iter().filter(|c| matches!(c.role, Role::Affinity));
        let lonely = near.clone().next().is_some() && near.map(|c| c.total).sum::<i64>() == 0;
        Self {
            class,
            nodes,
            smallest: smallest.collect(),
            first_of_its_kind: lonely && class.is_its_own_affinity,
            itself: itself.collect(),
        }
    }

    /// What speaks against the nodes of a bucket, if anything.
    pub fn against(&self, key: &[i64]) -> Option<Neighbours> {
        let places = &key[FIRST_COUNTER..];
        if places.is_empty() {
            return None;
        }
        let counters = self.class.counters.iter().zip(places);
        for (at, (counter, place)) in counters.clone().enumerate() {
            let Role::HardSpread(constraint) = &counter.role else { continue };
            if *place == ABSENT {
                return Some(Neighbours::NoDomain);
            }
            if counter.at(*place) + self.itself[at] - self.smallest[at] > constraint.max_skew {
                return Some(Neighbours::Skew);
            }
        }
        let mut near = true;
        for (counter, place) in counters.clone().filter(|(c, _)| matches!(c.role, Role::Affinity)) {
            if *place == ABSENT {
                return Some(Neighbours::Affinity);
            }
            near &= counter.at(*place) > 0;
        }
        if !near && !self.first_of_its_kind {
            return Some(Neighbours::Affinity);
        }
        let mut unwelcome = false;
        for (counter, place) in counters {
            match counter.role {
                Role::AntiAffinity if counter.at(*place) > 0 => return Some(Neighbours::AntiAffinity),
                Role::Unwelcome => unwelcome |= counter.at(*place) > 0,
                _ => {}
            }
        }
        unwelcome.then_some(Neighbours::Unwelcome)
    }

    fn raw(&self, key: &[i64], domains: &[usize]) -> Raw {
        let mut raw = Raw { soft_taints: key[0], affinity: key[1], ..Raw::default() };
        if let Some(held) = usize::try_from(key[2]).ok().and_then(|at| self.class.held.get(at)) {
            raw.images = self.images(held);
        }
        let mut crowd = 0.0;
        let mut ignored = false;
        for ((counter, place), domains) in self.class.counters.iter().zip(&key[FIRST_COUNTER..]).zip(domains)
        {
            match &counter.role {
                Role::Preference => raw.preference += counter.at(*place),
                Role::SoftSpread(c) if *place != ABSENT => {
                    crowd += score::crowding(counter.at(*place), c.max_skew, *domains);
                }
                Role::SoftSpread(_) => ignored |= counter.needs_keys(),
                _ => {}
            }
        }
        raw.crowd = (!ignored).then(|| crowd.round() as i64);
        raw
    }

    fn images(&self, held: &[(u16, i64)]) -> i64 {
        let all = self.nodes.live_count().max(1) as f64;
        let held = held.iter().map(|(at, size)| {
            let name = &self.class.shape.images[usize::from(*at)];
            let holders = self.nodes.image_holders.get(name).copied().unwrap_or(0);
            (*size, f64::from(holders) / all)
        });
        score::images(held, self.class.shape.images.len())
    }

    /// For each soft constraint, in how many domains the nodes are that can take the pod.
    fn domains(&self, keys: &[(&[i64], u32)]) -> Vec<usize> {
        let skipped = |key: &[i64]| {
            let mut soft = self.class.counters.iter().zip(&key[FIRST_COUNTER..]);
            soft.any(|(c, place)| matches!(c.role, Role::SoftSpread(_)) && *place == ABSENT && c.needs_keys())
        };
        let of = |(at, counter): (usize, &Counter)| match &counter.role {
            Role::SoftSpread(_) if counter.per_node => {
                keys.iter().filter(|(k, _)| !skipped(k)).map(|(_, count)| *count as usize).sum()
            }
            Role::SoftSpread(_) => {
                let there = keys.iter().filter(|(k, _)| !skipped(k));
                let mut places: Vec<i64> = there.map(|(k, _)| k[FIRST_COUNTER + at]).collect();
                places.sort_unstable();
                places.dedup();
                places.len()
            }
            _ => 0,
        };
        self.class.counters.iter().enumerate().map(of).collect()
    }

    /// The score of a bucket among others, without that of the nodes' own resources.
    fn total(&self, raw: &Raw, extremes: &Extremes) -> i64 {
        let weights = &self.class.profile.weights;
        let mut total = weights.taint_toleration * score::reversed(raw.soft_taints, extremes.soft_taints)
            + weights.node_affinity * score::scaled(raw.affinity, extremes.affinity)
            + weights.image_locality * raw.images;
        let has = |role: fn(&Role) -> bool| self.class.counters.iter().any(|c| role(&c.role));
        if has(|r| matches!(r, Role::SoftSpread(_))) {
            let (least, most) = extremes.crowd;
            total += weights.topology_spread * score::spread(raw.crowd, least, most);
        }
        if has(|r| matches!(r, Role::Preference)) {
            let (least, most) = extremes.preference;
            total += weights.inter_pod_affinity * score::between(raw.preference, least, most);
        }
        total
    }

    /// The scores of keys relative to each other.
    fn relative(&self, keys: &[(&[i64], u32)]) -> Vec<i64> {
        let domains = self.domains(keys);
        let raws: Vec<Raw> = keys.iter().map(|(key, _)| self.raw(key, &domains)).collect();
        let extremes = Extremes::of(&raws);
        raws.iter().map(|raw| self.total(raw, &extremes)).collect()
    }

    /// The score of nodes that are alike in everything.
    fn alone(&self, key: (&[i64], u32)) -> i64 {
        let raw = self.raw(key.0, &self.domains(&[key]));
        self.total(&raw, &Extremes::of(&[raw]))
    }

    /// The best node of all, its score, and how many could take the pod. Among equals the seed decides.
    pub fn best(&self, seed: u64) -> Option<(usize, i64, usize)> {
        let buckets = &self.class.buckets;
        let able = |bucket: &&Bucket| bucket.count > 0 && self.against(&bucket.key).is_none();
        let mut feasible = buckets.iter().filter(able);
        let first = feasible.next()?;
        let of = |bucket: &'a Bucket| (&*bucket.key, bucket.count);
        let Some(second) = feasible.next() else {
            // So it is most of the time.
            let (own, level) = first.levels.last_key_value()?;
            let node = level.get(at_random(seed, level.len()))?;
            return Some((*node as usize, self.alone(of(first)) + own, first.count as usize));
        };
        let feasible: Vec<&Bucket> = [first, second].into_iter().chain(feasible).collect();
        let keys: Vec<(&[i64], u32)> = feasible.iter().map(|bucket| of(bucket)).collect();
        let count = keys.iter().map(|(_, count)| *count as usize).sum();
        let mut best: Option<(i64, Vec<&[u32]>)> = None;
        for (bucket, relative) in feasible.iter().zip(self.relative(&keys)) {
            let Some((own, level)) = bucket.levels.last_key_value() else { continue };
            let total = relative + own;
            match &mut best {
                Some((most, ties)) if *most == total => ties.push(level),
                Some((most, _)) if *most > total => {}
                _ => best = Some((total, vec![level])),
            }
        }
        let (total, ties) = best?;
        let mut at = at_random(seed, ties.iter().map(|t| t.len()).sum());
        for level in ties {
            if let Some(node) = level.get(at) {
                return Some((*node as usize, total, count));
            }
            at -= level.len();
        }
        None
    }

    /// The nodes out of a list that can take the pod, with their scores relative to each other.
    pub fn among(&self, nodes: &[usize]) -> Vec<(usize, i64)> {
        let placed = nodes.iter().filter_map(|n| self.class.place(*n).map(|(bucket, own)| (*n, bucket, own)));
        let fitting: Vec<(usize, usize, i64)> = placed
            .filter(|(_, bucket, _)| self.against(&self.class.buckets[*bucket].key).is_none())
            .collect();
        let keys: Vec<(&[i64], u32)> =
            fitting.iter().map(|(_, bucket, _)| (&*self.class.buckets[*bucket].key, 1)).collect();
        let relative = self.relative(&keys);
        fitting.iter().zip(relative).map(|((node, _, own), relative)| (*node, relative + own)).collect()
    }

    /// Whether any node can take the pod, or any of those that it names.
    pub fn fits(&self, pins: Option<&Pins>) -> bool {
        if let Some(pins) = pins {
            return !self.among(&pins.nodes).is_empty();
        }
        self.class.buckets.iter().any(|b| b.count > 0 && self.against(&b.key).is_none())
    }
}

/// Of scored nodes the best, its score, and how many there are. Among equals the seed decides.
pub(super) fn pick(scored: &[(usize, i64)], seed: u64) -> Option<(usize, i64, usize)> {
    let most = scored.iter().map(|(_, score)| *score).max()?;
    let ties: Vec<usize> = scored.iter().filter(|(_, s)| *s == most).map(|(n, _)| *n).collect();
    Some((ties[at_random(seed, ties.len())], most, scored.len()))
}
