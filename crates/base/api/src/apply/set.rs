//! Sets of fields: trees of path elements in which any node may be a member. What an entry of `managedFields` says.

mod element;
mod json;

use std::cmp::Ordering;

pub(crate) use element::same;
pub use element::{Path, PathElement};
pub use json::SetError;
pub(crate) use json::{covers, quote, touches};

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Set {
    /// Sorted by element; each is a member or has members below.
    nodes: Vec<Node>,
}

/// One element of a set, with what lies below it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) element: PathElement,
    pub(crate) member: bool,
    pub(crate) below: Set,
}

impl Node {
    fn keep(self) -> Option<Node> {
        (self.member || !self.below.is_empty()).then_some(self)
    }
}

impl Set {
    /// A set of these paths.
    pub fn of(paths: impl IntoIterator<Item = Path>) -> Set {
        let mut set = Set::default();
        for path in paths {
            set.insert(&path.0);
        }
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many paths are in it.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|n| usize::from(n.member) + n.below.len()).sum()
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Makes a set of nodes in any order, each element once.
    pub(crate) fn from_nodes(mut nodes: Vec<Node>) -> Set {
        if !nodes.is_sorted_by(|a, b| a.element < b.element) {
            nodes.sort_by(|a, b| a.element.cmp(&b.element));
            nodes.dedup_by(|later, kept| {
                let same = later.element == kept.element;
                if same {
                    kept.member |= later.member;
                    kept.below = kept.below.union(&later.below);
                }
                same
            });
        }
        Set { nodes }
    }

    /// Adds a node after all others; its element is the greatest.
    pub(crate) fn push(&mut self, element: PathElement, member: bool, below: Set) {
        self.nodes.push(Node { element, member, below });
    }

    fn find(&self, element: &PathElement) -> Result<usize, usize> {
        self.nodes.binary_search_by(|n| n.element.cmp(element))
    }

    pub(crate) fn get(&self, element: &PathElement) -> Option<&Node> {
        self.find(element).ok().map(|i| &self.nodes[i])
    }

    /// The node of a named field.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        let by_name = |n: &Node| match &n.element {
            PathElement::Field(own) => (**own).cmp(name),
            _ => Ordering::Greater,
        };
        self.nodes.binary_search_by(by_name).ok().map(|i| &self.nodes[i])
    }

    /// Whether the path is a member.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|n| n.member),
            [first, rest @ ..] => self.get(first).is_some_and(|n| n.below.has(rest)),
        }
    }

    /// Adds a path; its parents are not added.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = self.find(first).unwrap_or_else(|at| {
            let node = Node { element: first.clone(), member: false, below: Set::default() };
            self.nodes.insert(at, node);
            at
        });
        match rest {
            [] => self.nodes[at].member = true,
            rest => self.nodes[at].below.insert(rest),
        }
    }

    /// What is in either.
    pub fn union(&self, other: &Set) -> Set {
        if other.is_empty() {
            return self.clone();
        }
        let mut out = Vec::with_capacity(self.nodes.len().max(other.nodes.len()));
        zip(self, other, |mine, theirs| match (mine, theirs) {
            (Some(a), Some(b)) => out.push(Node {
                element: a.element.clone(),
                member: a.member || b.member,
                below: a.below.union(&b.below),
            }),
            (Some(one), None) | (None, Some(one)) => out.push(one.clone()),
            (None, None) => {}
        });
        Set { nodes: out }
    }

    /// What is in both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Vec::new();
        zip(self, other, |mine, theirs| {
            if let (Some(a), Some(b)) = (mine, theirs) {
                let below = a.below.intersection(&b.below);
                out.extend(Node { element: a.element.clone(), member: a.member && b.member, below }.keep());
            }
        });
        Set { nodes: out }
    }

    /// Whether any path is in both.
    pub(crate) fn meets(&self, other: &Set) -> bool {
        let (few, many) = if self.nodes.len() < other.nodes.len() { (self, other) } else { (other, self) };
        few.nodes.iter().any(|node| {
            let other = many.get(&node.element);
            other.is_some_and(|other| (node.member && other.member) || node.below.meets(&other.below))
        })
    }

    /// What is here and not there. A parent there leaves the children here, and a child there the parent here.
    pub fn difference(&self, other: &Set) -> Set {
        if other.is_empty() {
            return self.clone();
        }
        let mut out = Vec::with_capacity(self.nodes.len());
        zip(self, other, |mine, theirs| match (mine, theirs) {
            (Some(a), Some(b)) => {
                let below = a.below.difference(&b.below);
                out.extend(Node { element: a.element.clone(), member: a.member && !b.member, below }.keep());
            }
            (Some(a), None) => out.push(a.clone()),
            _ => {}
        });
        Set { nodes: out }
    }

    /// Like [`Set::difference`], but a parent there takes all children here along.
    pub fn recursive_difference(&self, other: &Set) -> Set {
        let mut out = Vec::with_capacity(self.nodes.len());
        zip(self, other, |mine, theirs| match (mine, theirs) {
            (Some(_), Some(b)) if b.member => {}
            (Some(a), Some(b)) => {
                let below = a.below.recursive_difference(&b.below);
                out.extend(Node { element: a.element.clone(), member: a.member, below }.keep());
            }
            (Some(a), None) => out.push(a.clone()),
            _ => {}
        });
        Set { nodes: out }
    }

    /// The members that have none below.
    pub fn leaves(&self) -> Set {
        let leaf = |n: &Node| Node {
            element: n.element.clone(),
            member: n.member && n.below.is_empty(),
            below: n.below.leaves(),
        };
        Set { nodes: self.nodes.iter().map(leaf).collect() }
    }

    /// Every path, members before what lies below their siblings, as upstream lists them.
    pub fn paths(&self) -> Vec<Path> {
        let (mut at, mut out) = (Vec::new(), Vec::new());
        self.collect(&mut at, &mut out);
        out
    }

    fn collect(&self, at: &mut Vec<PathElement>, out: &mut Vec<Path>) {
        for node in self.nodes.iter().filter(|n| n.member) {
            let mut path = at.clone();
            path.push(node.element.clone());
            out.push(Path(path));
        }
        for node in self.nodes.iter().filter(|n| !n.below.is_empty()) {
            at.push(node.element.clone());
            node.below.collect(at, out);
            at.pop();
        }
    }
}

/// Walks two sets side by side.
fn zip<'a>(mine: &'a Set, theirs: &'a Set, mut f: impl FnMut(Option<&'a Node>, Option<&'a Node>)) {
    let (mut a, mut b) = (mine.nodes.iter().peekable(), theirs.nodes.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => x.element.cmp(&y.element),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        match order {
            Ordering::Less => f(a.next(), None),
            Ordering::Greater => f(None, b.next()),
            Ordering::Equal => f(a.next(), b.next()),
        }
    }
}

#[cfg(test)]
mod tests;
