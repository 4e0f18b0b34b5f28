//! Who must give back what it borrowed.

use std::cmp::Reverse;

use super::tree::Reclaim;
use super::{SYSTEM_CRITICAL, Tenants, index};
use crate::scheduler::PodInfo;

/// What a pod that found no room may ask of others.
#[derive(Debug, Clone)]
pub struct Claim {
    priority: i32,
    /// Its queue.
    leaf: Option<usize>,
    reclaim: Reclaim,
    /// Of its queue and those above, how many in a row would stay within their guarantees with it.
    within: Vec<usize>,
}

/// How a pod comes to leave for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Yield {
    /// It is less important.
    Preempted,
    /// Its queue has more than it is guaranteed, and the other's has less.
    Reclaimed,
}

impl Claim {
    /// How important the pod is.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// Whether it takes back what its queue is guaranteed.
    pub fn is_of_right(&self) -> bool {
        !self.within.is_empty() && self.reclaim == Reclaim::Any
    }
}

impl Tenants {
    /// What a pod may ask of others.
    pub fn claim(&self, pod: &PodInfo) -> Claim {
        let leaf = index(self.lane_of(pod));
        let within =
            leaf.into_iter().flat_map(|leaf| self.tree.path(leaf)).take_while(|at| self.is_within(*at, pod));
        Claim {
            priority: pod.priority(),
            leaf,
            reclaim: leaf.map_or(Reclaim::Any, |leaf| self.tree.queues[leaf].reclaim),
            within: within.collect(),
        }
    }

    /// Whether a queue that is guaranteed something of what the pod asks for stays within its guarantee with it.
    fn is_within(&self, at: usize, pod: &PodInfo) -> bool {
        let queue = &self.tree.queues[at];
        let (mut concerned, mut within) = (false, queue.problem.is_none());
        self.dims.each(pod, |dim, asked| {
            if let Some(guaranteed) = queue.guaranteed[dim] {
                concerned |= asked > 0;
                within &= queue.settled(dim) + queue.promised[dim] + asked <= guaranteed;
            }
        });
        concerned && within
    }

    /// Whether a queue has more than it is guaranteed of something that the pod has part of.
    fn is_over(&self, at: usize, pod: &PodInfo) -> bool {
        let queue = &self.tree.queues[at];
        let (mut guaranteed, mut over) = (false, false);
        self.dims.each(pod, |dim, has| {
            if let Some(amount) = queue.guaranteed[dim] {
                guaranteed = true;
                over |= has > 0 && queue.settled(dim) > amount;
            }
        });
        over || !guaranteed
    }

    /// Whether a pod on a node must leave for the claim as things are, and why.
    pub fn yields(&self, claim: &Claim, victim: &PodInfo) -> Option<Yield> {
        let less = victim.priority() < claim.priority;
        if claim.priority >= SYSTEM_CRITICAL {
            // The cluster itself depends on it.
            return less.then_some(Yield::Preempted);
        }
        let (Some(own), Some(other)) = (claim.leaf, index(self.lane_of(victim))) else {
            // Where one of them is in no queue, only importance counts, and what is guaranteed.
            let guarded = index(self.lane_of(victim))
                .is_some_and(|q| self.tree.path(q).any(|at| !self.is_over(at, victim)));
            return (less && !guarded).then_some(Yield::Preempted);
        };
        if own == other {
            return less.then_some(Yield::Preempted);
        }
        if claim.reclaim == Reclaim::Never {
            return None;
        }
        let (mine, its) = self.tree.fork(own, other);
        if mine == its {
            return less.then_some(Yield::Preempted);
        }
        // From its queue up to where the paths meet, each has more than it is guaranteed.
        let mut side =
            self.tree.path(other).take_while(|at| self.tree.queues[*at].depth >= self.tree.queues[its].depth);
        if !side.all(|at| self.is_over(at, victim)) {
            return None;
        }
        if less {
            return Some(Yield::Preempted);
        }
        let right = claim.is_of_right() && claim.within.contains(&mine);
        let stays = victim.priority() >= SYSTEM_CRITICAL || victim.is_bound_to_its_node();
        (right && !stays).then_some(Yield::Reclaimed)
    }

    /// The order in which pods leave: those of the queue that is furthest beyond its due first, then the less important, then
    /// those that started last.
    pub fn deserts(&self, victim: &PodInfo) -> (Reverse<i64>, i32, Reverse<i64>) {
        let excess = index(self.lane_of(victim)).map_or(0.0, |at| {
            let queue = &self.tree.queues[at];
            (self.dominant(&queue.used).0 + queue.history) / queue.weight
        });
        (Reverse((excess * 1e6) as i64), victim.priority(), Reverse(victim.started()))
    }
}
