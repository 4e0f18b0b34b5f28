//! Sets of completion indexes, kept as they are written: `0-3,5,7`.

use std::fmt;

/// An ordered set of indexes, as runs of consecutive ones. Its size is bounded by the number of runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads `0-3,5,7`; what cannot be read is left out, and nothing at or beyond `limit` is taken in.
    pub fn parse(text: &str, limit: i32) -> Self {
        let mut runs = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                let (first, last) = (first.max(0), last.min(limit - 1));
                if first <= last {
                    runs.push((first, last));
                }
            }
        }
        Self::of_runs(runs)
    }

    fn of_runs(mut runs: Vec<(i32, i32)>) -> Self {
        runs.sort_unstable();
        let mut joined: Vec<(i32, i32)> = Vec::with_capacity(runs.len());
        for (first, last) in runs {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// The indexes of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of_runs(self.0.iter().chain(&other.0).copied().collect())
    }

    /// The same with one more.
    pub fn insert(&mut self, index: i32) {
        if !self.has(index) {
            let at = self.0.partition_point(|(first, _)| *first < index);
            self.0.insert(at, (index, index));
            *self = Self::of_runs(std::mem::take(&mut self.0));
        }
    }

    /// Whether the index is one of them.
    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many there are.
    pub fn total(&self) -> i32 {
        let all: i64 = self.0.iter().map(|(first, last)| i64::from(last - first) + 1).sum();
        i32::try_from(all).unwrap_or(i32::MAX)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in both.
    pub fn common(&self, other: &Self) -> i32 {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut count = 0_i64;
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            count += (i64::from(a.1.min(b.1)) - i64::from(a.0.max(b.0)) + 1).max(0);
            if a.1 <= b.1 {
                ours.next()
            } else {
                theirs.next()
            };
        }
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// The first `count` indexes below `limit` that are not of the set.
    pub fn first_missing(&self, count: usize, limit: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut next = 0;
        let end = [(limit, limit)];
        for (first, last) in self.0.iter().chain(&end) {
            let gap = next..(*first).min(limit);
            missing.extend(gap.take(count - missing.len()));
            next = next.max(last.saturating_add(1));
        }
        missing
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(indexes: I) -> Self {
        Self::of_runs(indexes.into_iter().map(|index| (index, index)).collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["", "0", "0-3,5", "1,2,4-6", "7"] {
            assert_eq!(Indexes::parse(text, 10).to_string(), text);
        }
        assert_eq!(Indexes::parse("8-20,x,3", 10).to_string(), "3,8,9");
        assert_eq!(Indexes::parse("3-1,-4,2-2147483647", 2_000_000_000).total(), 1_999_999_998);
        assert_eq!(Indexes::parse("0-2,3,4-6", 10).to_string(), "0-6");
    }

    #[test]
    fn sets_of_runs_against_plain_sets() {
        let mut seed = 7_u32;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for _ in 0..300 {
            let mut plain = [std::collections::BTreeSet::new(), std::collections::BTreeSet::new()];
            let mut ours = [Indexes::default(), Indexes::default()];
            for _ in 0..random(40) {
                let (which, index) = (random(2) as usize, i32::try_from(random(30)).unwrap());
                plain[which].insert(index);
                ours[which].insert(index);
            }
            for (plain, ours) in plain.iter().zip(&ours) {
                assert_eq!(ours.total(), i32::try_from(plain.len()).unwrap());
                assert!((0..30).all(|i| ours.has(i) == plain.contains(&i)));
                assert_eq!(*ours, plain.iter().copied().collect());
                let missing: Vec<i32> = (0..25).filter(|i| !plain.contains(i)).take(6).collect();
                assert_eq!(ours.first_missing(6, 25), missing);
            }
            assert_eq!(ours[0].union(&ours[1]), plain[0].union(&plain[1]).copied().collect());
            let common = plain[0].intersection(&plain[1]).count();
            assert_eq!(ours[0].common(&ours[1]), i32::try_from(common).unwrap());
        }
    }
}
