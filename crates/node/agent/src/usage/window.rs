//! Rates of CPU time from looks at different times.
//!
//! A rate is taken over [`USUAL`] or a little more, where something was looked at that long ago; else over what there
//! is, [`SHORTEST`] at least. What began in between is reckoned from its beginning.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// No rate over less time than this.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
/// Over so much time a rate is taken when that can be.
const USUAL: Duration = Duration::from_secs(10);
/// Looks closer together than this are not all kept.
const APART: Duration = Duration::from_secs(5);
/// Older looks are of no use.
const LONGEST: Duration = Duration::from_secs(120);
/// More looks than this are not kept: they cover [`USUAL`] twice over.
const MOST: usize = 6;

const SECOND: i128 = 1_000_000_000;

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// CPU time of everything at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// By key.
    pub all: HashMap<String, Counter>,
}

/// CPU time used since a beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    /// When it was read, in nanoseconds since the epoch.
    pub at: i64,
    /// Used, in nanoseconds.
    pub used: u64,
    /// When it began, where that is known.
    pub began: Option<i64>,
}

/// How fast CPU time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// In billionths of a processor.
    pub nanocores: u64,
    /// Over which time.
    pub window: Duration,
}

/// The looks that are kept, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    looks: VecDeque<Counters>,
}

impl Window {
    /// Whether there is nothing yet to take a rate from.
    pub fn is_cold(&self, now: i64) -> bool {
        let useful = |look: &Counters| {
            let age = now.saturating_sub(look.at);
            (nanos(SHORTEST)..=nanos(LONGEST)).contains(&age)
        };
        !self.looks.iter().any(useful)
    }

    /// The rates up to a look.
    pub fn rates(&self, now: &Counters) -> HashMap<String, Rate> {
        let rate = |(key, counter): (&String, &Counter)| Some((key.clone(), self.rate(key, *counter)?));
        now.all.iter().filter_map(rate).collect()
    }

    fn rate(&self, key: &str, now: Counter) -> Option<Rate> {
        let age = |then: &Counter| now.at.saturating_sub(then.at);
        let known = || {
            let all = self.looks.iter().filter_map(|look| look.all.get(key));
            all.filter(|then| (nanos(SHORTEST)..=nanos(LONGEST)).contains(&age(then)))
        };
        let usual = known().rev().find(|then| age(then) >= nanos(USUAL));
        let began = now.began.map(|at| Counter { at, used: 0, began: None });
        let began = began.filter(|then| (nanos(SHORTEST)..=nanos(LONGEST)).contains(&age(then)));
        let then = usual.or(began.as_ref()).or_else(|| known().next())?;
        let window = age(then);
        let used = i128::from(now.used.saturating_sub(then.used));
        let nanocores = u64::try_from(used * SECOND / i128::from(window.max(1))).unwrap_or(u64::MAX);
        Some(Rate { nanocores, window: Duration::from_nanos(u64::try_from(window).unwrap_or(0)) })
    }

    /// Keeps a look, if it is worth it, and forgets those that are not any more.
    pub fn keep(&mut self, now: &Counters) {
        // A clock that was set back makes the past worthless.
        self.looks.retain(|look| (0..=nanos(LONGEST)).contains(&now.at.saturating_sub(look.at)));
        let apart = self.looks.back().is_none_or(|last| now.at.saturating_sub(last.at) >= nanos(APART));
        if apart {
            if self.looks.len() >= MOST {
                self.looks.pop_front();
            }
            self.looks.push_back(now.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn look(second: i64, used: u64, began: Option<i64>) -> Counters {
        let counter = Counter { at: second * S, used, began: began.map(|began| began * S) };
        Counters { at: second * S, all: HashMap::from([("c".to_owned(), counter)]) }
    }

    fn of(window: &Window, now: &Counters) -> Option<(u64, u64)> {
        window.rates(now).get("c").map(|rate| (rate.nanocores, rate.window.as_secs()))
    }

    #[test]
    fn rates_need_two_looks_and_prefer_ten_seconds() {
        let mut window = Window::default();
        assert!(window.is_cold(1000 * S));
        let first = look(1000, 0, None);
        assert_eq!(of(&window, &first), None);
        window.keep(&first);
        assert!(window.is_cold(1000 * S), "no time has passed");
        // Half a processor.
        let second = look(1002, 1_000_000_000, None);
        assert_eq!(of(&window, &second), Some((500_000_000, 2)));
        window.keep(&second);
        for (at, used, want) in [
            (1006, 3_000_000_000, (500_000_000, 6)),
            (1011, 3_000_000_000, (272_727_272, 11)),
            // Idle since 1006: the look of that second is eleven back.
            (1017, 3_000_000_000, (0, 11)),
        ] {
            let now = look(at, used, None);
            assert_eq!(of(&window, &now), Some(want), "{at}");
            window.keep(&now);
        }
    }

    #[test]
    fn what_began_in_between_is_reckoned_from_its_beginning() {
        let mut window = Window::default();
        window.keep(&Counters { at: 1000 * S, all: HashMap::new() });
        assert_eq!(of(&window, &look(1010, 500_000_000, Some(1009))), Some((500_000_000, 1)));
        assert_eq!(of(&window, &look(1009, 1, Some(1009))), None, "it has only just begun");
        // One that runs for long and was never looked at says nothing.
        assert_eq!(of(&window, &look(1010, 1, Some(10))), None);
    }

    #[test]
    fn a_pause_and_a_clock_that_is_set_back_begin_anew() {
        let mut window = Window::default();
        window.keep(&look(1000, 0, None));
        assert!(!window.is_cold(1001 * S) && window.is_cold(1121 * S));
        assert_eq!(of(&window, &look(1121, 5, None)), None);
        window.keep(&look(900, 7, None));
        assert_eq!(of(&window, &look(910, 7, None)), Some((0, 10)));
        // A counter that went back is of something else: nothing was used.
        assert_eq!(of(&window, &look(911, 3, None)), Some((0, 11)));
    }

    #[test]
    fn looks_are_bounded() {
        let mut window = Window::default();
        for second in 0..1000 {
            window.keep(&look(second, 0, None));
        }
        assert!(window.looks.len() <= MOST);
        assert_eq!(of(&window, &look(1000, 0, None)).map(|rate| rate.1 < 20), Some(true));
    }
}
