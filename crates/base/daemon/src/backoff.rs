//! Exponential back-off with a little jitter, so that many losers do not retry in step.

use std::time::Duration;

use rand::Rng;

/// Delays that double from `initial` to `max`; each is stretched by up to a tenth.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off that starts at `initial` and never waits longer than `max` (plus jitter).
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, next: initial }
    }

    /// The delay before the next try; the one after is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next.min(self.max);
        self.next = (delay * 2).min(self.max);
        delay.mul_f64(rand::rng().random_range(1.0..1.1))
    }

    /// Start over after a success.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

impl Default for Backoff {
    /// 100 ms to 30 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(30))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40));
        for want in [10, 20, 40, 40] {
            let got = backoff.next_delay().as_millis();
            assert!((want..=want + want / 10 + 1).contains(&got), "{got} is not about {want}");
        }
        backoff.reset();
        assert!(backoff.next_delay() < Duration::from_millis(12));
    }
}
