//! Who is next, how much a tenant may have, and what it may take back: hierarchical queues of tenants.
//!
//! [`TenantQueue`] objects form a forest. A pod belongs to one of its leaves ([`Tenants::of`]). Three questions are
//! answered here, and nothing is done:
//!
//! - *Who is next?* [`Tenants::compare`]: queues below their guarantee first, then the smallest dominant share with what is
//!   remembered of the past, by weight, from the roots down (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011, for
//!   each level of the tree as in Bhattacharya et al., "Hierarchical Scheduling for Diverse Datacenter Workloads", SoCC 2013).
//! - *May it have that?* [`Tenants::admit`]: limits on the whole path, and guarantees where borrowing is off.
//! - *Who must give it back?* [`Claim`]: whoever is over its guarantee, for whoever stays within its own. What is taken this way is
//!   always more than the loser is guaranteed, and what is given never more than the winner is, so nobody takes it back.
//!
//! Without queues there is no [`Tenants`], and nothing here costs anything.

mod amounts;
mod claim;
mod object;
mod share;
#[cfg(test)]
mod tests;
mod tree;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use crate::scheduler::{PodInfo, Resources};
use crate::selector::Labels;
use amounts::{Dims, Vector};
pub use claim::{Claim, Yield};
pub(crate) use object::seconds;
pub use object::{QueueSpec, QueueStatus, TenantQueue, conditions};
pub use share::Standing;
pub use tree::{Problem, Reclaim};
use tree::{Queue, Tree};

/// The label of pods that names their queue, and of namespaces that names the queue of all their pods.
pub const QUEUE: &str = "sampan.io/queue";
/// Pods that are as important as this are never taken back: `system-cluster-critical` and above.
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;
/// Room kept for who takes back its guarantee is kept against everybody but the system.
pub(crate) const FIRM: i32 = 1_000_000_000;
/// What is remembered changes so slowly that it is looked at no more often, in milliseconds.
const MOMENT: u64 = 250;

/// The number of a queue; 0 is no queue.
pub type Lane = u32;

/// What a pod's queue has to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// It has none: it is scheduled as if there were no queues.
    None,
    /// It belongs to this one.
    Leaf(Lane),
    /// It names one that it may not be in, or there is no such queue.
    Stray,
}

/// All queues and what they have.
#[derive(Debug, Default)]
pub struct Tenants {
    specs: BTreeMap<Box<str>, QueueSpec>,
    namespaces: HashMap<Box<str>, Labels>,
    capacity: Resources,
    dims: Dims,
    all: Vector,
    tree: Tree,
    /// Which queue a namespace belongs to.
    homes: HashMap<Box<str>, Membership>,
    /// Namespaces that several queues want.
    contested: BTreeMap<Box<str>, Vec<Box<str>>>,
    /// Pods that were told to go and are still there.
    doomed: HashSet<Box<str>>,
    /// What queues were remembered to have had when they came or changed last.
    histories: HashMap<Box<str>, f64>,
    /// Queues say something else since everything was built.
    stale: bool,
    generation: u64,
    now: u64,
}

/// Why a pod waits for its queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// The queue that the pod belongs to, or names.
    pub queue: String,
    /// What stands in its way.
    pub because: Because,
}

/// What stands in the way of a pod in its queue. Amounts are as users write them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Because {
    /// There is no such queue.
    Unknown,
    /// The queue does not take pods of that namespace.
    Closed {
        /// The namespace.
        namespace: String,
    },
    /// It has queues below it: pods go to those.
    Inner,
    /// Something is wrong with the queue.
    Broken(String),
    /// A queue on the path has all that it may have.
    Full {
        /// That queue.
        at: String,
        /// Whether the bound is its guarantee, because it may not borrow.
        guarantee: bool,
        /// Of which resource.
        resource: String,
        /// What its pods have.
        used: String,
        /// What they may have.
        bound: String,
        /// What the pod asks for.
        asked: String,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = &self.queue;
        match &self.because {
            Because::Unknown => write!(f, "tenant queue {queue:?} does not exist"),
            Because::Closed { namespace } => {
                write!(f, "tenant queue {queue:?} takes no pods of namespace {namespace:?}")
            }
            Because::Inner => write!(f, "tenant queue {queue:?} has queues below it, and pods go to those"),
            Because::Broken(why) => write!(f, "tenant queue {queue:?} is not ready: {why}"),
            Because::Full { at, guarantee, resource, used, bound, asked } => {
                let what = if *guarantee { "may not borrow beyond its guarantee" } else { "is at its limit" };
                write!(
                    f,
                    "tenant queue {at:?} {what}: {resource} {used} of {bound} used, the pod asks {asked}"
                )
            }
        }
    }
}

impl Wait {
    /// What would change it.
    pub fn remedy(&self) -> String {
        match &self.because {
            Because::Unknown => {
                format!("make a TenantQueue {:?}, or name another in the label {QUEUE}", self.queue)
            }
            Because::Closed { namespace } => format!(
                "let the queue's spec.namespaceSelector select namespace {namespace:?}, or label the namespace {QUEUE}={}",
                self.queue
            ),
            Because::Inner => format!("name one of the queues below {:?} in the label {QUEUE}", self.queue),
            Because::Broken(_) => format!("see kubectl describe tenantqueue {}", self.queue),
            Because::Full { at, guarantee: false, resource, .. } => {
                format!(
                    "wait until pods of queue {at:?} end, ask for less {resource}, or raise its spec.limit"
                )
            }
            Because::Full { at, resource, .. } => format!(
                "wait until pods of queue {at:?} end, ask for less {resource}, let it borrow (spec.borrowing: Allowed) or raise spec.guaranteed"
            ),
        }
    }
}

/// A number that orders as the real number does.
fn order(a: f64, b: f64) -> Ordering {
    a.total_cmp(&b)
}

impl Tenants {
    /// Takes over a queue, or that it is gone; it counts from [`Tenants::settle`] on. The history is that of a queue of which
    /// nothing is known yet. Whether there are queues after that.
    pub fn set(&mut self, name: &str, spec: Option<(QueueSpec, f64)>) -> bool {
        match spec {
            Some((spec, history)) => {
                if self.specs.get(name) != Some(&spec) {
                    self.specs.insert(name.into(), spec);
                    self.histories.entry(name.into()).or_insert(history);
                    self.stale = true;
                }
            }
            None => {
                self.histories.remove(name);
                self.stale |= self.specs.remove(name).is_some();
            }
        }
        !self.specs.is_empty()
    }

    /// Takes over the labels of a namespace. Whether that moves pods.
    pub fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) -> bool {
        let changed = match labels {
            Some(labels) if self.namespaces.get(name) == Some(labels) => false,
            Some(labels) => {
                self.namespaces.insert(name.into(), labels.clone());
                true
            }
            None => self.namespaces.remove(name).is_some(),
        };
        if !changed {
            return false;
        }
        let before = self.homes.get(name).copied();
        let contested = self.contested.remove(name);
        self.settle_home(name);
        // Pods that name their queue themselves are let in by the labels, too.
        let moved = self.homes.get(name).copied() != before || contested.as_ref() != self.contested.get(name);
        let open = self.tree.queues.iter().any(|q| q.selector.is_some());
        if moved || open {
            self.generation += 1;
        }
        moved || open
    }

    /// Takes over what the nodes have.
    pub fn set_capacity(&mut self, capacity: Resources) {
        let names = |r: &Resources| r.extended.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        self.stale |= names(&self.capacity) != names(&capacity);
        self.capacity = capacity;
        if !self.stale {
            self.all = self.dims.of_resources(&self.capacity);
            self.tree.back(&self.all);
        }
    }

    /// Puts into effect what queues say by now. Whether it did: then nothing is counted, and whoever calls counts all pods.
    pub fn settle(&mut self) -> bool {
        if !std::mem::take(&mut self.stale) {
            return false;
        }
        self.dims = Dims::new(&self.specs, &self.capacity);
        self.all = self.dims.of_resources(&self.capacity);
        for queue in &self.tree.queues {
            self.histories.entry(queue.name.clone()).and_modify(|history| *history = queue.history);
        }
        self.tree = Tree::new(&self.specs, &self.dims, &self.histories);
        self.tree.back(&self.all);
        self.homes.clear();
        self.contested.clear();
        let namespaces: Vec<Box<str>> = self.namespaces.keys().cloned().collect();
        namespaces.iter().for_each(|name| self.settle_home(name));
        self.generation += 1;
        true
    }

    /// Decides which queue a namespace belongs to: the one that its label names, else the one whose selector takes it.
    fn settle_home(&mut self, namespace: &str) {
        let Some(labels) = self.namespaces.get(namespace) else {
            self.homes.remove(namespace);
            return;
        };
        let home = match labels.get(QUEUE).map(|name| self.tree.by_name(name)) {
            Some(Some(queue)) => Membership::Leaf(lane(queue)),
            Some(None) => Membership::Stray,
            None => {
                let takes = |q: &&Queue| q.children.is_empty() && q.selects(labels);
                let takers: Vec<&Queue> = self.tree.queues.iter().filter(takes).collect();
                if takers.len() > 1 {
                    let names = takers.iter().map(|q| q.name.clone()).collect();
                    self.contested.insert(namespace.into(), names);
                }
                let first = takers.first().and_then(|q| self.tree.by_name(&q.name));
                first.map_or(Membership::None, |queue| Membership::Leaf(lane(queue)))
            }
        };
        self.homes.insert(namespace.into(), home);
    }

    /// Grows with everything that may move pods from one queue to another, or let them in.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The queue of a pod: the one that its own label names, where its namespace may use that; else its namespace's.
    pub fn of(&self, pod: &PodInfo) -> Membership {
        let home = self.homes.get(pod.namespace()).copied().unwrap_or(Membership::None);
        let Some(name) = pod.labels().get(QUEUE) else { return home };
        match self.tree.by_name(name) {
            Some(queue) if self.may_use(pod.namespace(), queue, home) => Membership::Leaf(lane(queue)),
            _ => Membership::Stray,
        }
    }

    /// Whether pods of a namespace may name the queue: it or one above it is the namespace's, or selects it.
    fn may_use(&self, namespace: &str, queue: usize, home: Membership) -> bool {
        let labels = self.namespaces.get(namespace);
        self.tree.path(queue).any(|at| {
            home == Membership::Leaf(lane(at))
                || labels.is_some_and(|labels| self.tree.queues[at].selects(labels))
        })
    }

    /// The number of a pod's queue; pods that stray are in none, and are not admitted.
    pub fn lane_of(&self, pod: &PodInfo) -> Lane {
        match self.of(pod) {
            Membership::Leaf(lane) => lane,
            _ => 0,
        }
    }

    /// The name of a queue.
    pub fn name(&self, lane: Lane) -> Option<&str> {
        Some(&self.queue(lane)?.name)
    }

    /// The names of a queue and of those above it.
    pub fn path(&self, lane: Lane) -> Vec<String> {
        let path = index(lane).into_iter().flat_map(|at| self.tree.path(at));
        path.map(|at| self.tree.queues[at].name.to_string()).collect()
    }

    /// The number of a queue.
    pub fn lane(&self, name: &str) -> Option<Lane> {
        self.tree.by_name(name).map(lane)
    }

    fn queue(&self, lane: Lane) -> Option<&Queue> {
        self.tree.queues.get(index(lane)?)
    }

    /// Counts a pod that is on a node, or not any more.
    pub fn count(&mut self, pod: &PodInfo, add: bool) {
        let Some(queue) = index(self.lane_of(pod)) else { return };
        let leaves = pod.is_leaving() || self.doomed.contains(pod.uid());
        let sign = if add { 1 } else { -1 };
        let (dims, tree) = (&self.dims, &mut self.tree);
        tree.each_above(queue, |q| {
            dims.add(&mut q.used, pod, sign);
            if leaves {
                dims.add(&mut q.leaving, pod, sign);
            }
        });
    }

    /// Counts room that is kept for a pod, or not any more.
    pub fn promise(&mut self, pod: &PodInfo, add: bool) {
        let Some(queue) = index(self.lane_of(pod)) else { return };
        let (dims, tree) = (&self.dims, &mut self.tree);
        tree.each_above(queue, |q| dims.add(&mut q.promised, pod, if add { 1 } else { -1 }));
    }

    /// The pod was told to go: its queue is taken to have lost it already. Or it was not, after all.
    pub fn doom(&mut self, pod: &PodInfo, goes: bool) {
        let changed = if goes { self.doomed.insert(pod.uid().into()) } else { self.doomed.remove(pod.uid()) };
        if !changed || pod.is_leaving() {
            return;
        }
        let Some(queue) = index(self.lane_of(pod)) else { return };
        let (dims, tree) = (&self.dims, &mut self.tree);
        tree.each_above(queue, |q| dims.add(&mut q.leaving, pod, if goes { 1 } else { -1 }));
    }

    /// Whether a pod was told to go and is not seen to go yet.
    pub fn is_doomed(&self, uid: &str) -> bool {
        self.doomed.contains(uid)
    }

    /// Forgets that a pod was told to go: it is gone.
    pub fn forget(&mut self, uid: &str) {
        self.doomed.remove(uid);
    }

    /// Counts nothing any more; whoever calls counts all pods.
    pub fn clear(&mut self) {
        for queue in &mut self.tree.queues {
            for vector in [&mut queue.used, &mut queue.promised, &mut queue.leaving] {
                vector.fill(0);
            }
        }
    }

    /// Lets time pass, in milliseconds of a clock that never goes back: what is remembered follows what is used.
    pub fn advance(&mut self, now: u64) {
        let passed = now.saturating_sub(self.now);
        if passed < MOMENT {
            return;
        }
        self.now = now;
        for at in 0..self.tree.queues.len() {
            let share = self.dominant(&self.tree.queues[at].used).0;
            let queue = &mut self.tree.queues[at];
            queue.history = share::remembered(queue.history, share, passed as f64 / 1000.0, queue.half_life);
        }
    }

    /// The largest part that an amount is of what there is, and of which resource.
    fn dominant(&self, amounts: &Vector) -> (f64, usize) {
        share::dominant(amounts, &self.all)
    }

    /// How little a queue deserves: below 1 it has not even its guarantee.
    fn standing(&self, at: usize) -> (bool, f64) {
        let queue = &self.tree.queues[at];
        let kept = queue.guaranteed.iter().zip(queue.used.iter().zip(&queue.promised));
        let ratio = kept.filter_map(|(guaranteed, (used, promised))| {
            let guaranteed = guaranteed.filter(|g| *g > 0)?;
            Some((used + promised) as f64 / guaranteed as f64)
        });
        if let Some(most) = ratio.max_by(f64::total_cmp).filter(|ratio| *ratio < 1.0) {
            return (false, most);
        }
        let share = self.dominant(&queue.used).0.max(self.dominant(&queue.promised).0);
        (true, (share + queue.history) / queue.weight)
    }

    /// Which of two queues is served first.
    pub fn compare(&self, a: Lane, b: Lane) -> Ordering {
        let (Some(a), Some(b)) = (index(a), index(b)) else { return a.cmp(&b) };
        let (a, b) = self.tree.fork(a, b);
        let key = |at| self.standing(at);
        let ((borrows_a, value_a), (borrows_b, value_b)) = (key(a), key(b));
        borrows_a.cmp(&borrows_b).then(order(value_a, value_b)).then_with(|| a.cmp(&b))
    }

    /// Whether the pod may have what it asks for, as far as its queue is concerned.
    pub fn admit(&self, pod: &PodInfo) -> Result<(), Box<Wait>> {
        let lane = match self.of(pod) {
            Membership::None => return Ok(()),
            Membership::Leaf(lane) => lane,
            Membership::Stray => return Err(Box::new(self.stray(pod))),
        };
        let Some(leaf) = index(lane) else { return Ok(()) };
        let queue = &self.tree.queues[leaf];
        let wait = |because| Box::new(Wait { queue: queue.name.to_string(), because });
        if let Some(problem) = &queue.problem {
            return Err(wait(Because::Broken(problem.to_string())));
        }
        if !queue.children.is_empty() {
            return Err(wait(Because::Inner));
        }
        for at in self.tree.path(leaf) {
            if let Some(because) = self.full(at, pod) {
                return Err(wait(because));
            }
        }
        Ok(())
    }

    fn full(&self, at: usize, pod: &PodInfo) -> Option<Because> {
        let queue = &self.tree.queues[at];
        let mut found = None;
        self.dims.each(pod, |dim, asked| {
            let used = queue.used[dim] + queue.promised[dim];
            let over = |bound: Option<i64>| bound.filter(|bound| asked > 0 && used + asked > *bound);
            let limit = over(queue.limit[dim]).map(|bound| (bound, false));
            let guarantee =
                || over(queue.guaranteed[dim].filter(|_| !queue.borrows)).map(|bound| (bound, true));
            if let Some((bound, guarantee)) = limit.or_else(guarantee)
                && found.is_none()
            {
                found = Some(Because::Full {
                    at: queue.name.to_string(),
                    guarantee,
                    resource: self.dims.name(dim).to_owned(),
                    used: self.dims.words(dim, used),
                    bound: self.dims.words(dim, bound),
                    asked: self.dims.words(dim, asked),
                });
            }
        });
        found
    }

    fn stray(&self, pod: &PodInfo) -> Wait {
        let named = pod.labels().get(QUEUE).or_else(|| self.namespaces.get(pod.namespace())?.get(QUEUE));
        let queue = named.cloned().unwrap_or_default();
        let because = if self.tree.by_name(&queue).is_some() {
            Because::Closed { namespace: pod.namespace().to_owned() }
        } else {
            Because::Unknown
        };
        Wait { queue, because }
    }
}

fn lane(index: usize) -> Lane {
    Lane::try_from(index + 1).unwrap_or(Lane::MAX)
}

fn index(lane: Lane) -> Option<usize> {
    usize::try_from(lane).ok()?.checked_sub(1)
}
