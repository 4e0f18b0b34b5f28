//! What each node would cost pods of one class.
//!
//! Working that out for a node means looking at all of its pods. So at first there is only a lower bound, of what the
//! node's row says; what is true is found out for those nodes alone that come before the best one by it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::{
    Budgets, Choice, Class, Rank, Reserved, Status, Vain, World, at_least, rank, refusal, victims_on,
};
use crate::scheduler::reasons;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// There is no such node.
    Absent,
    Vain(Vain),
    /// It stands in the order with what it costs, or could at least.
    Stands,
}

/// A node in the order, with the number of the outcome that put it there.
type Standing = Reverse<(Rank, u32, u32)>;

/// The cheapest nodes first.
#[derive(Debug, Clone, Default)]
pub(in crate::scheduler) struct Index {
    /// By node, with a number that grows with each change of it.
    outcomes: Vec<(Outcome, u32)>,
    /// Also of outcomes that are not true any more.
    order: BinaryHeap<Standing>,
    no_victims: usize,
    still: BTreeMap<Status, usize>,
    seen_log: u64,
    seen_spared: u64,
}

/// Those who are not made to leave for nothing.
type Spares<'a> = (&'a Budgets, Option<&'a Reserved>);

impl Index {
    /// Notes what changed.
    pub fn sync(&mut self, class: &Class, world: &World) {
        let mut nodes = Vec::new();
        let follows = !self.outcomes.is_empty()
            && world.log.since(self.seen_log, &mut nodes)
            && world.spared.since(self.seen_spared, &mut nodes);
        let slots = world.nodes.slots();
        if !follows {
            *self = Self::default();
            nodes = (0..u32::try_from(slots).unwrap_or(u32::MAX)).collect();
        }
        self.outcomes.resize(slots, (Outcome::Absent, 0));
        let mut news = Vec::new();
        for node in nodes {
            let (outcome, least) = first_sight(class, world, node as usize);
            let number = self.set(node, outcome);
            news.extend(least.map(|rank| Reverse((rank, node, number))));
        }
        self.order.extend(news);
        if self.order.len() > 2 * slots {
            let outcomes = &self.outcomes;
            self.order.retain(|standing| is_true(outcomes, standing));
        }
        self.seen_log = world.log.end();
        self.seen_spared = world.spared.end();
    }

    /// The number of the new outcome.
    fn set(&mut self, node: u32, outcome: Outcome) -> u32 {
        let (known, number) = &mut self.outcomes[node as usize];
        *number = number.wrapping_add(1);
        let number = *number;
        match std::mem::replace(known, outcome) {
            Outcome::Vain(Vain::NoVictims) => self.no_victims -= 1,
            Outcome::Vain(Vain::StillUnfit(status)) => *self.still.entry(status).or_insert(1) -= 1,
            _ => {}
        }
        match outcome {
            Outcome::Vain(Vain::NoVictims) => self.no_victims += 1,
            Outcome::Vain(Vain::StillUnfit(status)) => *self.still.entry(status).or_insert(0) += 1,
            _ => {}
        }
        number
    }

    /// The cheapest of the nodes that are allowed, with who leaves it; among equals the first.
    pub fn best(
        &mut self,
        class: &Class,
        world: &World,
        spares: Spares<'_>,
        allows: impl Fn(usize) -> bool,
    ) -> Option<Choice> {
        let mut forbidden = Vec::new();
        let mut found = None;
        while let Some(first) = self.order.peek() {
            let Reverse((least, node, _)) = *first;
            if !is_true(&self.outcomes, first) {
                self.order.pop();
                continue;
            }
            if !allows(node as usize) {
                forbidden.extend(self.order.pop());
                continue;
            }
            match victims_on(class, world, spares, node as usize) {
                Ok((victims, violations)) => {
                    let cost = rank(&victims, violations);
                    if cost == least {
                        found = Some((node as usize, victims, violations));
                        break;
                    }
                    let number = self.set(node, Outcome::Stands);
                    if let Some(mut first) = self.order.peek_mut() {
                        *first = Reverse((cost, node, number));
                    }
                }
                Err(vain) => {
                    self.set(node, Outcome::Vain(vain));
                    self.order.pop();
                }
            }
        }
        if found.is_none() {
            // Why not is to be said of every node.
            for Reverse((_, node, _)) in &forbidden {
                if let Err(vain) = victims_on(class, world, spares, *node as usize) {
                    self.set(*node, Outcome::Vain(vain));
                }
            }
        }
        self.order.extend(forbidden);
        found
    }

    /// Why nobody's leaving helps.
    pub fn refusal(&self, class: &Class, world: &World) -> String {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for (status, count) in self.still.iter().filter(|(_, count)| **count > 0) {
            for reason in reasons::of_status(class, world, *status) {
                *reasons.entry(reason.text.into_owned()).or_insert(0) += count;
            }
        }
        let unfit: usize = self.still.values().sum();
        refusal(world, self.no_victims, unfit, reasons)
    }
}

/// Whether it is the last word about the node.
fn is_true(outcomes: &[(Outcome, u32)], Reverse((_, node, number)): &Standing) -> bool {
    outcomes.get(*node as usize).is_some_and(|(_, now)| now == number)
}

/// What a node's row says, and what it costs at least.
fn first_sight(class: &Class, world: &World, node: usize) -> (Outcome, Option<Rank>) {
    if !world.nodes[node].live {
        (Outcome::Absent, None)
    } else if !class.status(node).is_resolvable() {
        (Outcome::Vain(Vain::NotHelpful), None)
    } else if world.nodes[node].crowd.lowest >= class.shape.priority {
        (Outcome::Vain(Vain::NoVictims), None)
    } else {
        (Outcome::Stands, Some(at_least(class, world, node)))
    }
}
