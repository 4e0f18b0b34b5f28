//! Who may lead: the rules of `coordination.k8s.io` leader election, as client-go has them.
//!
//! No wall clock decides. A candidate counts from the moment at which *it* saw the record change, a leader from the
//! moment at which it *sent* what renewed it; both by clocks that nobody can set. So a leader has stopped
//! ([`Terms::renew`]) well before another may begin ([`Terms::lease`]), however far clocks are apart or jump.

use std::time::Duration;

/// The times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long others wait after the last renewal that they saw.
    pub lease: Duration,
    /// How long a leader goes on without having renewed. Shorter than `lease`.
    pub renew: Duration,
    /// Between two tries.
    pub retry: Duration,
}

impl Default for Terms {
    /// Upstream's: 15, 10 and 2 seconds.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), renew: seconds(10), retry: seconds(2) }
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who leads; empty when the last one gave it back.
    pub holder: String,
    /// How long its holder asked others to wait.
    pub duration: Duration,
    /// How often it changed hands.
    pub transitions: i32,
    /// What changes with each renewal.
    pub version: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: make it.
    Create,
    /// Write it as ours; so often it has then changed hands.
    Take {
        /// The count to write.
        transitions: i32,
    },
    /// Somebody leads: look again after this.
    Wait(Duration),
}

/// What one candidate knows. Times are since any fixed moment, by a clock that only goes forward.
#[derive(Clone, Debug)]
pub struct Candidate {
    me: String,
    terms: Terms,
    /// The last record, and when it was first seen.
    seen: Option<(Record, Duration)>,
}

impl Candidate {
    /// A candidate that has seen nothing yet.
    #[must_use]
    pub fn new(me: impl Into<String>, terms: Terms) -> Self {
        Self { me: me.into(), terms, seen: None }
    }

    /// The record was read; what follows.
    pub fn look(&mut self, now: Duration, record: Option<Record>) -> Step {
        let Some(record) = record else {
            self.seen = None;
            return Step::Create;
        };
        let since = match &self.seen {
            Some((known, since)) if *known == record => *since,
            _ => now,
        };
        let step = if record.holder == self.me {
            // A process before this one with the same name; it is gone, for names are not given twice.
            Step::Take { transitions: record.transitions }
        } else if record.holder.is_empty() {
            Step::Take { transitions: record.transitions.saturating_add(1) }
        } else {
            // A holder may ask for longer than we would, never for less: a record of zero seconds fools nobody.
            let patience = record.duration.max(self.terms.lease);
            let left = patience.saturating_sub(now.saturating_sub(since));
            if left.is_zero() {
                Step::Take { transitions: record.transitions.saturating_add(1) }
            } else {
                Step::Wait(left.min(self.terms.retry))
            }
        };
        self.seen = Some((record, since));
        step
    }
}

/// How much longer a leader may act whose last renewal that succeeded was sent at `renewed`.
#[must_use]
pub fn left(terms: &Terms, renewed: Duration, now: Duration) -> Duration {
    terms.renew.saturating_sub(now.saturating_sub(renewed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: &str, version: &str) -> Record {
        Record { holder: holder.into(), duration: at(15), transitions: 3, version: version.into() }
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        let mut me = Candidate::new("me", Terms::default());
        assert_eq!(me.look(at(0), None), Step::Create);
        assert_eq!(me.look(at(1), Some(record("", "7"))), Step::Take { transitions: 4 });
        assert_eq!(me.look(at(1), Some(record("me", "7"))), Step::Take { transitions: 3 });
    }

    #[test]
    fn a_leader_is_waited_for_by_our_own_clock() {
        let mut me = Candidate::new("me", Terms::default());
        // Whatever time it claims: from when we saw it.
        assert_eq!(me.look(at(100), Some(record("other", "1"))), Step::Wait(at(2)));
        assert_eq!(me.look(at(114), Some(record("other", "1"))), Step::Wait(at(1)));
        assert_eq!(me.look(at(114), Some(record("other", "2"))), Step::Wait(at(2)), "it was renewed");
        assert_eq!(me.look(at(128), Some(record("other", "2"))), Step::Wait(at(1)));
        assert_eq!(me.look(at(129), Some(record("other", "2"))), Step::Take { transitions: 4 });
    }

    #[test]
    fn a_longer_lease_is_respected_and_a_shorter_one_is_not() {
        let long = Record { duration: at(60), ..record("other", "1") };
        let mut me = Candidate::new("me", Terms::default());
        me.look(at(0), Some(long.clone()));
        assert_eq!(me.look(at(59), Some(long.clone())), Step::Wait(at(1)));
        assert_eq!(me.look(at(60), Some(long)), Step::Take { transitions: 4 });
        let none = Record { duration: at(0), ..record("other", "1") };
        assert_eq!(me.look(at(61), Some(none)), Step::Wait(at(2)));
    }

    /// Two clocks that never agree, and messages that take their time: never two who act.
    #[test]
    fn a_leader_that_cannot_renew_stops_before_another_begins() {
        let terms = Terms::default();
        for delay in 0..20 {
            for last in [0, 7, 33] {
                let renewed = at(last);
                // The other sees the renewal at the earliest when it was sent.
                let mut other = Candidate::new("other", terms);
                other.look(renewed + at(delay), Some(record("me", "9")));
                let begins = (0..200)
                    .map(|tick| renewed + at(delay) + at(tick))
                    .find(|now| matches!(other.look(*now, Some(record("me", "9"))), Step::Take { .. }))
                    .unwrap();
                assert!(left(&terms, renewed, begins).is_zero());
                assert!(begins >= renewed + terms.renew + at(5), "with room for what is under way");
            }
        }
    }
}
