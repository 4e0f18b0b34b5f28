//! What will happen, in order of time; at one time, in the order in which it was said.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Change;
use crate::reservation::Terms;
use crate::scheduler::PodInfo;

#[derive(Debug)]
pub(super) enum Event {
    /// A pod comes, and how long it will last.
    Arrival(Box<PodInfo>, Option<f64>),
    /// The pod with that uid ends.
    End(Box<str>),
    /// The cluster changes.
    Change(Box<Change>),
    /// Room is to be held.
    Reserve(Box<Terms>),
    /// The reservation with that uid is over.
    Release(Box<str>),
}

struct Entry {
    at: f64,
    order: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Entry>,
    next: u64,
}

impl Agenda {
    pub fn push(&mut self, at: f64, event: Event) {
        self.heap.push(Entry { at, order: self.next, event });
        self.next += 1;
    }

    /// When the next thing happens.
    pub fn next_time(&self) -> Option<f64> {
        self.heap.peek().map(|entry| entry.at)
    }

    pub fn pop(&mut self) -> Option<(f64, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}
