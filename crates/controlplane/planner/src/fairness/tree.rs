//! The forest of queues: who is below whom, what is guaranteed, what is wrong.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::amounts::{Dims, Vector};
use super::{QueueSpec, object};
use crate::selector::{Labels, Selector};

/// Queues may lie below each other this deep.
const DEEPEST: usize = 16;
/// How long it takes until half of what was used is forgotten, where nothing else is said.
const HALF_LIFE: f64 = 3600.0;

/// What a queue may take back from others when it has less than it is guaranteed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reclaim {
    /// Whatever they have beyond their own guarantees.
    #[default]
    Any,
    /// Only pods with a lower priority.
    LowerPriority,
    /// Nothing: it waits.
    Never,
}

/// Why a queue cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no queue of the name that it gives for its parent.
    UnknownParent(String),
    /// It lies below itself.
    Cycle(Vec<String>),
    /// It lies deeper than can be.
    TooDeep,
    /// Something above it is not ready.
    Parent(String),
    /// A field makes no sense.
    Invalid(String),
}

impl Problem {
    /// In one word, for conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownParent(_) => "UnknownParent",
            Self::Cycle(_) => "Cycle",
            Self::TooDeep => "TooDeep",
            Self::Parent(_) => "ParentNotReady",
            Self::Invalid(_) => "Invalid",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownParent(name) => {
                write!(f, "there is no TenantQueue {name:?}, which spec.parent names")
            }
            Self::Cycle(names) => write!(f, "spec.parent leads round in a circle: {}", names.join(" -> ")),
            Self::TooDeep => write!(f, "it lies below more than {DEEPEST} others"),
            Self::Parent(name) => write!(f, "TenantQueue {name:?} above it is not ready"),
            Self::Invalid(what) => write!(f, "spec.{what}"),
        }
    }
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub name: Box<str>,
    pub parent: Option<usize>,
    pub children: Vec<usize>,
    pub depth: usize,
    pub weight: f64,
    /// As it says, before anything else is known.
    stated: Vec<Option<i64>>,
    /// What there is for it: its own or what those below it have together, cut to what is above it.
    pub guaranteed: Vec<Option<i64>>,
    pub limit: Vec<Option<i64>>,
    pub borrows: bool,
    pub reclaim: Reclaim,
    pub half_life: f64,
    pub selector: Option<Selector>,
    pub problem: Option<Problem>,
    /// Why it is not guaranteed what it says: reason and message.
    pub unbacked: Option<(&'static str, String)>,
    /// On nodes.
    pub used: Vector,
    /// Room is kept for it.
    pub promised: Vector,
    /// Of what is used, what is about to go.
    pub leaving: Vector,
    /// The mean of its dominant share, the older the less it counts.
    pub history: f64,
}

impl Queue {
    pub fn selects(&self, labels: &Labels) -> bool {
        self.problem.is_none() && self.selector.as_ref().is_some_and(|s| s.matches(Some(labels)))
    }

    /// What it has and keeps.
    pub fn settled(&self, dim: usize) -> i64 {
        self.used[dim] - self.leaving[dim]
    }
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    /// By name.
    pub queues: Vec<Queue>,
    names: HashMap<Box<str>, usize>,
}

impl Tree {
    pub fn new(
        specs: &BTreeMap<Box<str>, QueueSpec>,
        dims: &Dims,
        histories: &HashMap<Box<str>, f64>,
    ) -> Self {
        let names: HashMap<Box<str>, usize> =
            specs.keys().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        let mut queues: Vec<Queue> =
            specs.iter().map(|(name, spec)| queue(name, spec, dims, histories.get(name).copied())).collect();
        for (at, spec) in specs.values().enumerate() {
            if let Err(problem) = ancestry(at, spec, specs, &names) {
                queues[at].problem.get_or_insert(problem);
            } else {
                queues[at].parent = spec.parent().and_then(|name| names.get(name).copied());
            }
        }
        for at in 0..queues.len() {
            if let Some(parent) = queues[at].parent {
                queues[parent].children.push(at);
            }
        }
        let mut this = Self { queues, names };
        for at in this.downwards() {
            let Some(parent) = this.queues[at].parent else { continue };
            let above = &this.queues[parent];
            let (depth, broken) = (above.depth + 1, above.problem.is_some().then(|| above.name.to_string()));
            let inherited = above.half_life;
            let queue = &mut this.queues[at];
            queue.depth = depth;
            if queue.half_life.is_nan() {
                queue.half_life = inherited;
            }
            if let Some(name) = broken {
                queue.problem.get_or_insert(Problem::Parent(name));
            }
        }
        this.queues.iter_mut().filter(|q| q.half_life.is_nan()).for_each(|q| q.half_life = HALF_LIFE);
        this
    }

    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The queue and all above it, upwards.
    pub fn path(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(from), |at| self.queues[*at].parent)
    }

    pub fn each_above(&mut self, from: usize, mut f: impl FnMut(&mut Queue)) {
        let mut next = Some(from);
        while let Some(at) = next {
            f(&mut self.queues[at]);
            next = self.queues[at].parent;
        }
    }

    /// Where the paths to two queues part: the one on each side. The same twice when one lies below the other.
    pub fn fork(&self, mut a: usize, mut b: usize) -> (usize, usize) {
        let up = |at: usize| self.queues[at].parent;
        while self.queues[a].depth > self.queues[b].depth {
            a = up(a).unwrap_or(a);
        }
        while self.queues[b].depth > self.queues[a].depth {
            b = up(b).unwrap_or(b);
        }
        while a != b && up(a) != up(b) {
            match (up(a), up(b)) {
                (Some(above_a), Some(above_b)) => (a, b) = (above_a, above_b),
                _ => break,
            }
        }
        (a, b)
    }

    /// All queues, each after the one above it.
    fn downwards(&self) -> Vec<usize> {
        let roots = (0..self.queues.len()).filter(|at| self.queues[*at].parent.is_none());
        let mut all: Vec<usize> = roots.collect();
        let mut at = 0;
        while let Some(queue) = all.get(at).copied() {
            all.extend(&self.queues[queue].children);
            at += 1;
        }
        all
    }

    /// Works out what there is for each queue, of so much. Where those below together are guaranteed more than there is
    /// above, each gets its part of it.
    pub fn back(&mut self, all: &Vector) {
        let order = self.downwards();
        for at in order.iter().rev() {
            let queue = &mut self.queues[*at];
            queue.unbacked = None;
            queue.guaranteed =
                if queue.problem.is_none() { queue.stated.clone() } else { vec![None; all.len()] };
            let sums = self.sums(&self.queues[*at].children.clone(), all.len());
            let queue = &mut self.queues[*at];
            for (dim, sum) in sums.into_iter().enumerate() {
                queue.guaranteed[dim] = queue.guaranteed[dim].or(sum);
                if let (Some(guaranteed), Some(limit)) = (queue.guaranteed[dim], queue.limit[dim])
                    && guaranteed > limit
                {
                    queue.guaranteed[dim] = Some(limit);
                    let what = "spec.guaranteed is more than spec.limit allows: the limit counts";
                    queue.unbacked = Some(("GuaranteeAboveLimit", what.to_owned()));
                }
            }
        }
        let roots: Vec<usize> =
            order.iter().copied().filter(|at| self.queues[*at].parent.is_none()).collect();
        let bounds: Vec<Option<i64>> = all.iter().copied().map(Some).collect();
        self.cut(&roots, &bounds, ("GuaranteeAboveCluster", "the nodes have"));
        for at in order {
            let (children, bounds) = (self.queues[at].children.clone(), self.queues[at].guaranteed.clone());
            let what = format!("TenantQueue {:?} above it is guaranteed", self.queues[at].name);
            self.cut(&children, &bounds, ("GuaranteeAboveParent", &what));
        }
    }

    fn sums(&self, queues: &[usize], dims: usize) -> Vec<Option<i64>> {
        let mut sums: Vec<Option<i64>> = vec![None; dims];
        for at in queues {
            for (sum, guaranteed) in sums.iter_mut().zip(&self.queues[*at].guaranteed) {
                if let Some(guaranteed) = guaranteed {
                    *sum = Some(sum.unwrap_or(0).saturating_add(*guaranteed));
                }
            }
        }
        sums
    }

    fn cut(&mut self, queues: &[usize], bounds: &[Option<i64>], (reason, what): (&'static str, &str)) {
        let sums = self.sums(queues, bounds.len());
        for (dim, (sum, bound)) in sums.iter().zip(bounds).enumerate() {
            let (Some(sum), Some(bound)) = (*sum, *bound) else { continue };
            if sum <= bound {
                continue;
            }
            for at in queues {
                let queue = &mut self.queues[*at];
                let Some(guaranteed) = &mut queue.guaranteed[dim] else { continue };
                *guaranteed = (*guaranteed as f64 * bound as f64 / sum as f64).floor() as i64;
                let text = "together more is guaranteed here than";
                queue
                    .unbacked
                    .get_or_insert_with(|| (reason, format!("{text} {what}: each gets its part of it")));
            }
        }
    }
}

fn queue(name: &str, spec: &QueueSpec, dims: &Dims, history: Option<f64>) -> Queue {
    let mut problem = None;
    let mut wrong = |what: String| {
        problem.get_or_insert(Problem::Invalid(what));
    };
    let mut amounts = |field: &str, list| {
        dims.read(list).unwrap_or_else(|why| {
            wrong(format!("{field}.{why}"));
            vec![None; dims.len()]
        })
    };
    let stated = amounts("guaranteed", spec.guaranteed.as_ref());
    let limit = amounts("limit", spec.limit.as_ref());
    let half_life = match spec.usage_half_life.as_deref().map(|text| (text, object::seconds(text))) {
        None => f64::NAN,
        Some((_, Some(seconds))) => seconds,
        Some((text, None)) => {
            wrong(format!("usageHalfLife: {text:?} is not a duration (hint: 30m, 12h, 7d)"));
            f64::NAN
        }
    };
    let borrows = match spec.borrowing.as_deref() {
        None | Some("Allowed") => true,
        Some("Never") => false,
        Some(other) => {
            wrong(format!("borrowing: {other:?} is neither Allowed nor Never"));
            false
        }
    };
    let reclaim = match spec.reclaim.as_deref() {
        None | Some("Any") => Reclaim::Any,
        Some("LowerPriority") => Reclaim::LowerPriority,
        Some("Never") => Reclaim::Never,
        Some(other) => {
            wrong(format!("reclaim: {other:?} is none of Any, LowerPriority, Never"));
            Reclaim::Never
        }
    };
    Queue {
        name: name.into(),
        parent: None,
        children: Vec::new(),
        depth: 0,
        weight: f64::from(spec.weight.unwrap_or(1).max(1)),
        guaranteed: stated.clone(),
        stated,
        limit,
        borrows,
        reclaim,
        half_life,
        selector: spec.namespace_selector.as_ref().map(|s| Selector::new(Some(s))),
        problem,
        unbacked: None,
        used: vec![0; dims.len()],
        promised: vec![0; dims.len()],
        leaving: vec![0; dims.len()],
        history: history.unwrap_or(0.0),
    }
}

/// Whether the way up from a queue ends.
fn ancestry(
    at: usize,
    spec: &QueueSpec,
    specs: &BTreeMap<Box<str>, QueueSpec>,
    names: &HashMap<Box<str>, usize>,
) -> Result<(), Problem> {
    let Some(parent) = spec.parent() else { return Ok(()) };
    if !names.contains_key(parent) {
        return Err(Problem::UnknownParent(parent.to_owned()));
    }
    let own = specs.keys().nth(at).map(|name| &**name).unwrap_or_default();
    let mut way = vec![own.to_owned()];
    let mut next = Some(parent);
    while let Some(name) = next {
        way.push(name.to_owned());
        if name == own {
            return Err(Problem::Cycle(way));
        }
        if way.len() > DEEPEST + 1 {
            // Round in a circle above it, or simply deep.
            let looped = way.iter().skip(1).any(|name| way.iter().filter(|other| *other == name).count() > 1);
            return Err(if looped { Problem::Parent(parent.to_owned()) } else { Problem::TooDeep });
        }
        next = specs.get(name).and_then(QueueSpec::parent);
    }
    Ok(())
}
