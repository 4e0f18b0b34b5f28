//! What a class knows of each node: where it is, and what it contributes to each counter.
//!
//! The words about one node lie side by side, so that looking again at a node that nobody looked at for long waits for
//! one line of memory, which can be asked for ahead.

use super::counter::Part;
use super::status::Status;
use crate::prefetch;

/// The bucket of a node that cannot take the pod.
const REFUSED: u32 = u32::MAX;

/// Where a node is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    /// The score of its own resources or, where it is in no bucket, its status.
    what: u64,
    pub bucket: u32,
    pub position: u32,
}

impl At {
    pub const NOWHERE: Self = Self::refused(Status::GONE);

    pub const fn refused(status: Status) -> Self {
        Self { what: status.bits(), bucket: REFUSED, position: 0 }
    }

    pub const fn placed(score: i64, bucket: u32, position: u32) -> Self {
        Self { what: score.cast_unsigned(), bucket, position }
    }

    pub const fn is_refused(self) -> bool {
        self.bucket == REFUSED
    }

    /// Not looked at, or gone.
    pub const fn is_unknown(self) -> bool {
        self.is_refused() && self.what == Status::GONE.bits()
    }

    pub const fn status(self) -> Status {
        if self.is_refused() { Status::from_bits(self.what) } else { Status::OK }
    }

    pub const fn score(self) -> i64 {
        self.what.cast_signed()
    }
}

/// One word: where the node is, or a part of it in a counter.
#[derive(Debug, Clone, Copy)]
struct Cell {
    value: u64,
    first: u32,
    second: u32,
}

impl From<At> for Cell {
    fn from(at: At) -> Self {
        Self { value: at.what, first: at.bucket, second: at.position }
    }
}

impl From<Part> for Cell {
    fn from(part: Part) -> Self {
        Self { value: part.value.cast_unsigned(), first: part.domain, second: u32::from(part.counted) }
    }
}

/// The words about all nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Cells {
    words: Vec<Cell>,
    /// How many a node has: one, and one for each counter.
    each: usize,
}

impl Cells {
    /// Forgets all nodes; from now on there are so many counters.
    pub fn reset(&mut self, counters: usize) {
        self.words.clear();
        self.each = 1 + counters;
    }

    /// Has words about so many nodes at least.
    pub fn grow(&mut self, nodes: usize) {
        let known = self.words.len() / self.each.max(1);
        if known < nodes {
            if self.each == 1 {
                return self.words.resize(nodes, At::NOWHERE.into());
            }
            self.words.reserve((nodes - known) * self.each);
            for _ in known..nodes {
                self.words.push(At::NOWHERE.into());
                self.words.extend((1..self.each).map(|_| Cell::from(Part::default())));
            }
        }
    }

    /// Where a node is.
    pub fn at(&self, node: usize) -> At {
        let at = |cell: &Cell| At { what: cell.value, bucket: cell.first, position: cell.second };
        self.words.get(node * self.each).map_or(At::NOWHERE, at)
    }

    /// Notes where a node is.
    pub fn set(&mut self, node: usize, at: At) {
        self.words[node * self.each] = at.into();
    }

    /// Notes that a node is elsewhere in its level.
    pub fn reposition(&mut self, node: usize, position: u32) {
        self.words[node * self.each].second = position;
    }

    /// What a node contributes to a counter.
    pub fn part(&self, node: usize, counter: usize) -> Part {
        let Cell { value, first, second } = self.words[node * self.each + 1 + counter];
        Part { value: value.cast_signed(), domain: first, counted: second != 0 }
    }

    /// Notes what a node contributes to a counter.
    pub fn set_part(&mut self, node: usize, counter: usize, part: Part) {
        self.words[node * self.each + 1 + counter] = part.into();
    }

    /// The node is looked at soon.
    pub fn expect(&self, node: usize) {
        if let Some(words) = self.words.get(node * self.each..(node + 1) * self.each) {
            words.first().into_iter().chain(words.last()).for_each(prefetch::soon);
        }
    }
}
