//! How fast nodes that do not answer may be emptied: one after the other while only a few are silent, and not at all
//! when so many are that the fault is more likely on our side.

/// Nodes a second that are emptied in a zone that is well.
pub const RATE: f64 = 0.1;
/// The same in a large zone of which many nodes are silent.
pub const REDUCED_RATE: f64 = 0.01;
/// The share of silent nodes from which on a zone is disrupted.
pub const UNHEALTHY: f64 = 0.55;
/// Zones of up to this many nodes are not emptied at all while they are disrupted.
pub const LARGE: usize = 50;

/// How a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// At most a few nodes are silent.
    Normal,
    /// Many are.
    Partial,
    /// All are.
    Full,
}

/// The nodes of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Ready ones.
    pub ready: usize,
    /// All others.
    pub silent: usize,
}

impl Count {
    /// How the zone is.
    #[allow(clippy::cast_precision_loss)]
    pub fn state(self) -> State {
        let all = self.ready + self.silent;
        match self {
            Self { ready: 0, silent: 1.. } => State::Full,
            Self { silent: 3.., .. } if self.silent as f64 / all as f64 >= UNHEALTHY => State::Partial,
            _ => State::Normal,
        }
    }
}

/// Nodes a second that may be emptied in a zone, `None` for none. `all` are the zones of the whole cluster: when nobody
/// answers anywhere, nothing is emptied.
pub fn rate(zone: Count, all: impl IntoIterator<Item = Count>) -> Option<f64> {
    if all.into_iter().all(|zone| zone.state() == State::Full) {
        return None;
    }
    match zone.state() {
        State::Normal | State::Full => Some(RATE),
        State::Partial if zone.ready + zone.silent > LARGE => Some(REDUCED_RATE),
        State::Partial => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(ready: usize, silent: usize) -> Count {
        Count { ready, silent }
    }

    /// The cases of Kubernetes' own tests of its node lifecycle controller.
    #[test]
    fn zones() {
        for (ready, silent, want) in [
            (0, 0, State::Normal),
            (1, 0, State::Normal),
            (0, 1, State::Full),
            (0, 5, State::Full),
            (1, 1, State::Normal),
            (1, 2, State::Normal),
            (1, 3, State::Partial),
            (3, 3, State::Normal),
            (4, 5, State::Partial),
            (45, 55, State::Partial),
            (46, 54, State::Normal),
        ] {
            assert_eq!(count(ready, silent).state(), want, "{ready} ready, {silent} silent");
        }
    }

    #[test]
    fn rates() {
        let well = count(5, 0);
        assert_eq!(rate(count(5, 1), [count(5, 1)]), Some(RATE));
        assert_eq!(rate(count(1, 3), [count(1, 3)]), None, "small and disrupted");
        assert_eq!(rate(count(20, 40), [count(20, 40)]), Some(REDUCED_RATE), "large and disrupted");
        assert_eq!(rate(count(0, 4), [count(0, 4), well]), Some(RATE), "a zone that is lost is emptied");
        assert_eq!(rate(count(0, 4), [count(0, 4), count(0, 1)]), None, "everything is lost: it is us");
        assert_eq!(rate(count(0, 1), [count(0, 1)]), None);
    }
}
