//! What pods are labelled, and what they say about other pods: interned and counted, since most pods are one of many.

use std::sync::Arc;

use super::interpod::Term;
use super::pod::Shape;
use crate::hash::{Map, Set};
use crate::selector::Labels;

/// The number of a label set.
pub(super) type LabelSetId = u32;
/// The number of a term of pods that are bound.
pub(super) type TermId = u32;

/// What selectors can see of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LabelSet {
    pub namespace: Box<str>,
    pub labels: Arc<Labels>,
    pub owner: Option<Box<str>>,
}

impl LabelSet {
    pub fn of(shape: &Shape) -> Self {
        Self { namespace: shape.namespace.clone(), labels: shape.labels.clone(), owner: shape.owner.clone() }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    set: Arc<LabelSet>,
    pods: u32,
    /// Changes when the number is given to another set, so that whoever remembers something about it notices.
    version: u32,
}

/// The label sets of all bound pods.
#[derive(Debug, Clone, Default)]
pub(super) struct LabelSets {
    ids: Map<Arc<LabelSet>, LabelSetId>,
    entries: Vec<Entry>,
    free: Vec<LabelSetId>,
}

impl LabelSets {
    /// The number of these labels. Who asks counts a pod by it, or takes one away: nothing is kept that no pod has.
    pub fn number(&mut self, set: LabelSet) -> LabelSetId {
        if let Some(id) = self.ids.get(&set) {
            return *id;
        }
        let set = Arc::new(set);
        let id = match self.free.pop() {
            Some(id) => {
                let entry = &mut self.entries[id as usize];
                *entry = Entry { set: set.clone(), pods: 0, version: next(entry.version) };
                id
            }
            None => {
                self.entries.push(Entry { set: set.clone(), pods: 0, version: 1 });
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.ids.insert(set, id);
        id
    }

    /// Counts a pod with these labels.
    pub fn add(&mut self, id: LabelSetId) {
        self.entries[id as usize].pods += 1;
    }

    /// Takes a pod with these labels away.
    pub fn remove(&mut self, id: LabelSetId) {
        let entry = &mut self.entries[id as usize];
        entry.pods -= 1;
        if entry.pods == 0 {
            entry.version = next(entry.version);
            self.ids.remove(&entry.set);
            self.free.push(id);
        }
    }

    /// The label sets that there are.
    pub fn iter(&self) -> impl Iterator<Item = (LabelSetId, &LabelSet)> {
        self.ids.iter().map(|(set, id)| (*id, &**set))
    }

    pub fn get(&self, id: LabelSetId) -> &LabelSet {
        &self.entries[id as usize].set
    }

    pub fn version(&self, id: LabelSetId) -> u32 {
        self.entries[id as usize].version
    }
}

fn next(version: u32) -> u32 {
    version.wrapping_add(1) & 0x3fff_ffff
}

/// What one reader found out about label sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Memo(Vec<u32>);

impl Memo {
    /// Whether the label set satisfies the test, which is made once for each.
    pub fn check(&mut self, sets: &LabelSets, id: LabelSetId, test: impl FnOnce(&LabelSet) -> bool) -> bool {
        let at = id as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let version = sets.version(id);
        if self.0[at] >> 1 != version {
            self.0[at] = version << 1 | u32::from(test(sets.get(id)));
        }
        self.0[at] & 1 == 1
    }
}

/// What a bound pod's term means for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TermKind {
    /// It must be near them: they are drawn to it a little.
    Affinity,
    /// They must not be near it.
    AntiAffinity,
    /// It would like to be near them, or far when the weight is negative.
    Preferred(i64),
}

/// A term of bound pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BoundTerm {
    pub kind: TermKind,
    pub term: Term,
}

/// The terms of all pods that were ever bound, and which labels they read.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    ids: Map<Arc<BoundTerm>, TermId>,
    terms: Vec<Arc<BoundTerm>>,
    pods: Vec<u32>,
    unused: usize,
    read_keys: Set<Box<str>>,
    /// How many terms there are that read the labels of namespaces.
    selecting: usize,
    /// Grows when terms read labels that none read before, when there are the first terms, or when they were renumbered.
    pub epoch: u64,
}

/// What a pod says about other pods, and in which sense.
fn terms_of(shape: &Shape) -> impl Iterator<Item = (TermKind, &Term)> {
    let terms = &shape.terms;
    let required = terms.affinity.iter().map(|t| (TermKind::Affinity, t));
    let against = terms.anti_affinity.iter().map(|t| (TermKind::AntiAffinity, t));
    let preferred = terms.preferred.iter().map(|t| (TermKind::Preferred(t.weight), &t.term));
    required.chain(against).chain(preferred)
}

/// Beyond so many terms that no pod has any more they are forgotten.
const UNUSED: usize = 1024;

impl Terms {
    /// The numbers of the terms of a pod.
    pub fn numbers(&mut self, shape: &Shape) -> Arc<[TermId]> {
        terms_of(shape).map(|(kind, term)| self.number(kind, term)).collect()
    }

    fn number(&mut self, kind: TermKind, term: &Term) -> TermId {
        let term = BoundTerm { kind, term: term.clone() };
        if let Some(id) = self.ids.get(&term) {
            return *id;
        }
        let term = Arc::new(term);
        self.epoch += u64::from(self.terms.is_empty());
        self.selecting += usize::from(term.term.reads_namespaces());
        for key in term.term.selector.keys() {
            if self.read_keys.insert(key.into()) {
                self.epoch += 1;
            }
        }
        let id = u32::try_from(self.terms.len()).unwrap_or(u32::MAX);
        self.terms.push(term.clone());
        self.pods.push(0);
        self.unused += 1;
        self.ids.insert(term, id);
        id
    }

    /// Counts a pod with such a term.
    pub fn add(&mut self, id: TermId) {
        self.pods[id as usize] += 1;
        self.unused -= usize::from(self.pods[id as usize] == 1);
    }

    /// Takes a pod with such a term away.
    pub fn remove(&mut self, id: TermId) {
        self.pods[id as usize] -= 1;
        self.unused += usize::from(self.pods[id as usize] == 0);
    }

    /// When many terms are unused: the new number of each old one. Whoever holds numbers must renumber them.
    pub fn compact(&mut self) -> Option<Vec<TermId>> {
        if self.unused < UNUSED.max(self.terms.len() / 2) {
            return None;
        }
        let old = std::mem::take(&mut self.terms);
        let counts = std::mem::take(&mut self.pods);
        self.ids.clear();
        self.read_keys.clear();
        self.selecting = 0;
        let mut renumbered = vec![u32::MAX; old.len()];
        for (at, (term, pods)) in old.into_iter().zip(counts).enumerate().filter(|(_, (_, pods))| *pods > 0) {
            let id = u32::try_from(self.terms.len()).unwrap_or(u32::MAX);
            renumbered[at] = id;
            self.selecting += usize::from(term.term.reads_namespaces());
            self.read_keys.extend(term.term.selector.keys().map(Into::into));
            self.ids.insert(term.clone(), id);
            self.terms.push(term);
            self.pods.push(pods);
        }
        self.unused = 0;
        self.epoch += 1;
        Some(renumbered)
    }

    /// Whether any term of a bound pod reads that label.
    pub fn reads(&self, key: &str) -> bool {
        self.read_keys.contains(key)
    }

    /// Whether any term of a bound pod depends on the labels of namespaces.
    pub fn reads_namespaces(&self) -> bool {
        self.selecting > 0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms from that number on.
    pub fn since(&self, from: usize) -> impl Iterator<Item = (usize, &BoundTerm)> {
        self.terms.iter().enumerate().skip(from).map(|(at, term)| (at, &**term))
    }
}
