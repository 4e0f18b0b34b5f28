//! The shapes that pods share, and what is found out about each of them once.

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

fn address(shape: &Arc<Shape>) -> usize {
    Arc::as_ptr(shape) as usize
}

impl Shapes {
    /// The same shape as any before it.
    pub fn intern(&mut self, shape: &Arc<Shape>) -> Arc<Shape> {
        if self.marks.contains_key(&address(shape)) {
            return shape.clone();
        }
        if let Some(known) = self.all.get(shape) {
            return known.clone();
        }
        if self.all.len() >= self.forget_at.max(SHAPES) {
            self.marks.clear();
            self.all.retain(|shape| Arc::strong_count(shape) > 1);
            self.forget_at = 2 * self.all.len();
        }
        self.all.insert(shape.clone());
        shape.clone()
    }

    /// The numbers of the labels and of the terms of a shape out of [`Shapes::intern`]. Who asks counts a pod by them at once,
    /// or takes one away.
    pub fn marks(
        &mut self,
        shape: &Arc<Shape>,
        sets: &mut LabelSets,
        terms: &mut Terms,
    ) -> (LabelSetId, Arc<[TermId]>) {
        if let Some(marks) = self.marks.get(&address(shape))
            && sets.version(marks.labels) == marks.version
        {
            return (marks.labels, marks.terms.clone());
        }
        if self.marks.len() >= SHAPES {
            self.marks.clear();
        }
        let labels = sets.number(LabelSet::of(shape));
        let terms = terms.numbers(shape);
        let marks =
            Marks { _shape: shape.clone(), labels, version: sets.version(labels), terms: terms.clone() };
        self.marks.insert(address(shape), marks);
        (labels, terms)
    }

    /// Forgets the numbers, as when they were given anew.
    pub fn renumber(&mut self) {
        self.marks.clear();
    }
}
