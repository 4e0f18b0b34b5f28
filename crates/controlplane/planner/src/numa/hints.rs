//! On which zones a resource could come, and on which all of them agree: the semantics of a kubelet's topology manager
//! (KEP-693).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Most zones that pods are aligned on, as with a kubelet: there are two to that power of sets to look at.
pub const MOST_ZONES: usize = 8;

/// A set of zones, by their places in a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mask(u8);

impl Mask {
    /// All of so many zones.
    #[must_use]
    pub fn all(zones: usize) -> Self {
        Self(if zones >= MOST_ZONES { u8::MAX } else { (1 << zones) - 1 })
    }

    /// How many zones there are in it.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether a zone is in it.
    #[must_use]
    pub fn has(self, zone: usize) -> bool {
        zone < MOST_ZONES && self.0 & (1 << zone) != 0
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether everything in the other is in this one.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The zones in it.
    pub fn zones(self) -> impl Iterator<Item = usize> {
        (0..MOST_ZONES).filter(move |zone| self.has(*zone))
    }

    /// Every set of so many zones that is not empty.
    pub fn every(zones: usize) -> impl Iterator<Item = Self> {
        (1..=Self::all(zones).0).map(Self)
    }

    /// What its zones have together.
    #[must_use]
    pub fn sum(self, amounts: &[i64]) -> i64 {
        self.zones().filter_map(|zone| amounts.get(zone)).fold(0, |sum, amount| sum.saturating_add(*amount))
    }
}

impl FromIterator<usize> for Mask {
    fn from_iter<I: IntoIterator<Item = usize>>(zones: I) -> Self {
        Self(zones.into_iter().filter(|zone| *zone < MOST_ZONES).fold(0, |mask, zone| mask | 1 << zone))
    }
}

/// What happens when resources do not agree on zones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody is asked.
    #[default]
    None,
    /// The best that can be had is taken.
    BestEffort,
    /// The pod is refused unless it gets what is best on an empty machine.
    Restricted,
    /// The pod is refused unless everything comes from one zone.
    SingleNumaNode,
}

/// What is aligned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each container by itself.
    #[default]
    Container,
    /// All containers of a pod on the same zones.
    Pod,
}

impl Policy {
    /// As flags and attributes name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::BestEffort => "best-effort",
            Self::Restricted => "restricted",
            Self::SingleNumaNode => "single-numa-node",
        }
    }
}

impl Scope {
    /// As flags and attributes name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::None, Self::BestEffort, Self::Restricted, Self::SingleNumaNode];
        let found = all.into_iter().find(|policy| policy.as_str() == text);
        let hint = "hint: none, best-effort, restricted or single-numa-node";
        found.ok_or_else(|| format!("{text:?} is no policy of the topology manager ({hint})"))
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Container, Self::Pod].into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no scope of the topology manager (hint: container or pod)"))
    }
}

/// A set of zones from which a resource could come; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// The zones.
    pub mask: Option<Mask>,
    /// Whether no smaller set would do on an empty machine.
    pub preferred: bool,
}

/// On which zones a pod or container is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The zones; `None` is any.
    pub mask: Option<Mask>,
    /// Whether it is what is best on an empty machine.
    pub preferred: bool,
    /// Whether the policy lets it run.
    pub admitted: bool,
}

/// From which sets of zones so much of a resource could come: by what zones have altogether, and what is free of that.
/// Only sets are looked at that have all of `held`, of which something is held already, and that `allowed` allows.
#[must_use]
pub fn hints(
    capacity: &[i64],
    free: &[i64],
    asked: i64,
    held: Mask,
    allowed: impl Fn(Mask) -> bool,
) -> Vec<Hint> {
    let zones = capacity.len();
    let sizes = Mask::every(zones).filter(|mask| mask.sum(capacity) >= asked).map(Mask::count);
    let least = sizes.min().unwrap_or(zones);
    let possible = Mask::every(zones)
        .filter(|mask| mask.covers(held) && allowed(*mask) && mask.sum(free) >= asked)
        .map(|mask| Hint { mask: Some(mask), preferred: mask.count() == least });
    possible.collect()
}

/// The zones on which all resources agree, and whether the policy is content with that. A resource without a list does not
/// mind; one with an empty list cannot be had. With `distances`, of equally large sets the closest is taken.
///
/// Every combination of hints counts, as with a kubelet, but those that come to the same are looked at once.
#[must_use]
pub fn merge(
    policy: Policy,
    zones: usize,
    distances: Option<&[Vec<u32>]>,
    resources: &[Option<Vec<Hint>>],
) -> Verdict {
    if policy == Policy::None {
        return Verdict { mask: None, preferred: true, admitted: true };
    }
    let all = Mask::all(zones);
    let lists: Vec<Vec<Hint>> = resources.iter().map(|hints| listed(policy, hints.as_deref())).collect();
    // The intersection so far, whether all were preferred and the same, and which that one is.
    let mut states = BTreeSet::from([(all, true, None::<Mask>)]);
    for hints in &lists {
        let combine = |(mask, preferred, first): (Mask, bool, Option<Mask>)| {
            hints.iter().map(move |hint| {
                let same = hint.mask.is_none() || first.is_none() || hint.mask == first;
                let preferred = preferred && hint.preferred && same;
                let first = first.or(hint.mask).filter(|_| preferred);
                (mask.and(hint.mask.unwrap_or(all)), preferred, first)
            })
        };
        states = states.into_iter().flat_map(combine).collect();
    }
    let smallest = |hints: &Vec<Hint>| hints.iter().filter_map(|hint| Some(hint.mask?.count())).min();
    let best = lists.iter().filter_map(smallest).max().unwrap_or(0);
    let rank = |mask: Mask, preferred: bool| {
        let apart = distances.map_or(0, |distances| spread(mask, distances));
        let count = mask.count();
        let (group, size) = match count.cmp(&best) {
            _ if preferred => (0, count),
            std::cmp::Ordering::Equal => (1, 0),
            std::cmp::Ordering::Less => (2, MOST_ZONES - count),
            std::cmp::Ordering::Greater => (3, count),
        };
        (group, size, apart, mask)
    };
    let common = states.into_iter().filter(|(mask, ..)| mask.count() > 0);
    let chosen = common.map(|(mask, preferred, _)| (rank(mask, preferred), preferred)).min();
    let (mask, preferred) = chosen.map_or((all, false), |((.., mask), preferred)| (mask, preferred));
    let anywhere = policy == Policy::SingleNumaNode && mask == all;
    Verdict {
        mask: (!anywhere).then_some(mask),
        preferred,
        admitted: preferred || policy == Policy::BestEffort,
    }
}

/// The hints of one resource that the policy looks at.
fn listed(policy: Policy, hints: Option<&[Hint]>) -> Vec<Hint> {
    let mut hints = match hints {
        None => vec![Hint { mask: None, preferred: true }],
        Some([]) => vec![Hint { mask: None, preferred: false }],
        Some(hints) => hints.to_vec(),
    };
    if policy == Policy::SingleNumaNode {
        hints.retain(|hint| hint.preferred && hint.mask.is_none_or(|mask| mask.count() == 1));
    }
    hints
}

/// How far the zones of a set are apart, altogether. What is not known is far.
pub(crate) fn spread(mask: Mask, distances: &[Vec<u32>]) -> u64 {
    let distance =
        |a: usize, b: usize| distances.get(a).and_then(|row| row.get(b)).map_or(255, |d| u64::from(*d));
    mask.zones().flat_map(|a| mask.zones().map(move |b| distance(a, b))).sum()
}
