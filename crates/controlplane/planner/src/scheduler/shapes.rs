//! The shapes that pods share, and what is found out about each of them once.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::labelsets::{LabelSet, LabelSetId, LabelSets, TermId, Terms};
use super::pod::Shape;
use crate::hash::{Map, Set};

/// Beyond so many shapes those that no pod has any more are forgotten.
pub(super) const SHAPES: usize = 4096;

/// What bound pods of a shape are counted by.
#[derive(Debug, Clone)]
struct Marks {
    /// Keeps the address its own.
    _shape: Arc<Shape>,
    labels: LabelSetId,
    /// The number may have been given to another set since.
    version: u32,
    terms: Arc<[TermId]>,
}

/// All shapes.
#[derive(Debug, Clone, Default)]
pub(super) struct Shapes {
    all: Set<Arc<Shape>>,
    forget_at: usize,
    /// By the address of one of them.
    marks: Map<usize, Marks>,
}

impl Marks {
    fn of(shape: &Arc<Shape>, sets: &mut LabelSets, terms: &mut Terms) -> Self {
        let labels = sets.number(LabelSet::of(shape));
        Self { _shape: shape.clone(), labels, version: sets.version(labels), terms: terms.numbers(shape) }
    }
}

fn address(shape: &Arc<Shape>) -> usize {
    Arc::as_ptr(shape) as usize
}

impl Shapes {
    /// Makes it the same as any shape before that is equal.
    pub fn share(&mut self, shape: &mut Arc<Shape>) {
        if self.marks.contains_key(&address(shape)) {
            return;
        }
        if let Some(known) = self.all.get(shape) {
            if !Arc::ptr_eq(known, shape) {
                *shape = known.clone();
            }
            return;
        }
        if self.all.len() >= self.forget_at.max(SHAPES) {
            self.marks.clear();
            self.all.retain(|shape| Arc::strong_count(shape) > 1);
            self.forget_at = 2 * self.all.len();
        }
        self.all.insert(shape.clone());
    }

    /// The numbers of the labels and of the terms of a shape out of [`Shapes::share`]. Who asks counts a pod by them at once,
    /// or takes one away.
    pub fn marks(
        &mut self,
        shape: &Arc<Shape>,
        sets: &mut LabelSets,
        terms: &mut Terms,
    ) -> (LabelSetId, &[TermId]) {
        if self.marks.len() >= SHAPES && !self.marks.contains_key(&address(shape)) {
            self.marks.clear();
        }
        let marks = match self.marks.entry(address(shape)) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                if sets.version(known.labels) != known.version {
                    *known = Marks::of(shape, sets, terms);
                }
                known
            }
            Entry::Vacant(free) => free.insert(Marks::of(shape, sets, terms)),
        };
        (marks.labels, &marks.terms)
    }

    /// Forgets the numbers, as when they were given anew.
    pub fn renumber(&mut self) {
        self.marks.clear();
    }
}
