//! The pods that are on nodes, by uid.
//!
//! There are many of them, and each comes and goes in another place of a large table. So an entry is small (its text is
//! the pod's own), what it takes to move it lies in it, and the table is in parts, none of which takes long to grow.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::pod::PodInfo;

const PARTS: usize = 64;
/// Which bits of a hash say the part: those that tables look at neither first nor last.
const SHIFT: u32 = 19;

/// A bound pod: its node, and the pod.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub pod: Arc<PodInfo>,
    pub node: u32,
    hash: u32,
}

impl Bound {
    /// The pod itself is looked at only where it is likely the one.
    fn is(&self, hash: u32, uid: &str) -> bool {
        self.hash == hash && *self.pod.uid == *uid
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct BoundPods {
    parts: Vec<HashTable<Bound>>,
    hasher: RandomState,
    count: usize,
}

impl Default for BoundPods {
    fn default() -> Self {
        Self { parts: vec![HashTable::new(); PARTS], hasher: RandomState::default(), count: 0 }
    }
}

/// Tables read the first and the last bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

fn part(hash: u32) -> usize {
    (hash >> SHIFT) as usize % PARTS
}

impl BoundPods {
    fn hash(&self, uid: &str) -> u32 {
        self.hasher.hash_one(uid) as u32
    }

    /// A pod.
    pub fn get(&self, uid: &str) -> Option<&Bound> {
        let hash = self.hash(uid);
        self.parts[part(hash)].find(spread(hash), |bound| bound.is(hash, uid))
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, uid: &str) -> Option<&mut Bound> {
        let hash = self.hash(uid);
        self.parts[part(hash)].find_mut(spread(hash), |bound| bound.is(hash, uid))
    }

    /// It is asked for soon, or added: what says where it would be is looked at, and nobody waits for that.
    pub fn expect(&self, uid: &str) {
        let hash = self.hash(uid);
        std::hint::black_box(self.parts[part(hash)].find(spread(hash), |bound| bound.hash == hash).is_some());
    }

    /// Whether it is there.
    pub fn contains(&self, uid: &str) -> bool {
        self.get(uid).is_some()
    }

    /// Adds a pod, in the place of one with its uid.
    pub fn insert(&mut self, pod: Arc<PodInfo>, node: u32) {
        let hash = self.hash(&pod.uid);
        let part = &mut self.parts[part(hash)];
        let same = |bound: &Bound| bound.is(hash, &pod.uid);
        match part.entry(spread(hash), same, |bound| spread(bound.hash)) {
            Entry::Occupied(mut there) => *there.get_mut() = Bound { pod, node, hash },
            Entry::Vacant(free) => {
                free.insert(Bound { pod, node, hash });
                self.count += 1;
            }
        }
    }

    /// Takes a pod out.
    pub fn remove(&mut self, uid: &str) -> Option<Bound> {
        let hash = self.hash(uid);
        let there = self.parts[part(hash)].find_entry(spread(hash), |bound| bound.is(hash, uid));
        let (bound, _) = there.ok()?.remove();
        self.count -= 1;
        Some(bound)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// All of them, in no order.
    pub fn values(&self) -> impl Iterator<Item = &Bound> {
        self.parts.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, started: i64) -> Arc<PodInfo> {
        Arc::new(PodInfo { uid: uid.into(), started, ..PodInfo::default() })
    }

    #[test]
    fn each_uid_is_there_once() {
        let mut all = BoundPods::default();
        for number in 0..5000 {
            all.insert(pod(&format!("pod-{number}"), 0), number);
        }
        all.insert(pod("pod-7", 1), 9);
        assert_eq!((all.len(), all.values().count()), (5000, 5000));
        assert_eq!(all.get("pod-7").map(|bound| (bound.node, bound.pod.started)), Some((9, 1)));
        for number in (0..5000).step_by(2) {
            assert_eq!(all.remove(&format!("pod-{number}")).map(|bound| bound.node), Some(number));
        }
        assert!(all.remove("pod-0").is_none() && !all.contains("pod-8") && all.contains("pod-9"));
        assert_eq!(all.len(), 2500);
    }
}
