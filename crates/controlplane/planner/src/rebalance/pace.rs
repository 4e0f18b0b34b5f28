//! How fast moves may follow each other.

use std::collections::{BTreeMap, VecDeque};

/// Limits of a rebalancer that works all the time, and what it did of late. Times are seconds since 1970.
#[derive(Debug, Clone)]
pub struct Pace {
    per_minute: usize,
    cool_down: i64,
    made: VecDeque<i64>,
    owners: BTreeMap<String, i64>,
}

impl Pace {
    /// So many moves a minute; pods of one owner no more often than once in so many seconds.
    pub fn new(per_minute: usize, cool_down: i64) -> Self {
        Self { per_minute, cool_down, made: VecDeque::new(), owners: BTreeMap::new() }
    }

    /// How many moves may be made now.
    pub fn allowance(&mut self, now: i64) -> usize {
        while self.made.front().is_some_and(|at| *at <= now - 60) {
            self.made.pop_front();
        }
        self.owners.retain(|_, at| *at > now - self.cool_down);
        self.per_minute.saturating_sub(self.made.len())
    }

    /// Whether a pod of that owner may be moved again.
    pub fn is_rested(&self, owner: &str, now: i64) -> bool {
        self.owners.get(owner).is_none_or(|at| *at <= now - self.cool_down)
    }

    /// A pod of that owner was moved.
    pub fn made(&mut self, owner: &str, now: i64) {
        self.made.push_back(now);
        self.owners.insert(owner.to_owned(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_few_a_minute_and_an_owner_is_left_alone_for_a_while() {
        let mut pace = Pace::new(2, 600);
        assert_eq!(pace.allowance(1000), 2);
        pace.made("web", 1000);
        pace.made("db", 1030);
        assert_eq!(pace.allowance(1059), 0);
        assert_eq!(pace.allowance(1060), 1);
        assert_eq!(pace.allowance(1090), 2);
        assert!(!pace.is_rested("web", 1599) && pace.is_rested("web", 1600) && pace.is_rested("other", 0));
        pace.allowance(5000);
        assert!(pace.owners.is_empty(), "nothing is kept that says nothing");
    }
}
