//! How long a pod that failed stays before the next takes its place: none the first time, then 1 s, 2 s, ... up to
//! 15 min. A place that refuses pods would otherwise be sent the next at once, for ever.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

const FIRST: i64 = 1;
const LAST: i64 = 15 * 60;

/// Failures by place: a node, or a name. It is bounded by the number of places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    generation: i64,
    places: BTreeMap<String, (Timestamp, i64)>,
}

impl Failures {
    /// The same for this generation of an object: another one starts anew.
    #[must_use]
    pub fn of_generation(self, generation: Option<i64>) -> Self {
        let generation = generation.unwrap_or(0);
        if self.generation == generation { self } else { Self { generation, places: BTreeMap::new() } }
    }

    /// Forgets places.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.places.retain(|place, _| keep(place));
    }

    /// Until when the failed pod of a place stays.
    pub fn wait(&self, place: &str, now: Timestamp) -> Option<Timestamp> {
        let (since, seconds) = self.places.get(place)?;
        since.checked_add(SignedDuration::from_secs(*seconds)).ok().filter(|until| *until > now)
    }

    /// Notes that a failed pod is taken away.
    pub fn note(&mut self, place: &str, now: Timestamp) {
        let long_ago = |since: Timestamp| now.duration_since(since).as_secs() > 2 * LAST;
        let seconds = match self.places.get(place) {
            Some((since, seconds)) if !long_ago(*since) => (seconds * 2).min(LAST),
            _ => FIRST,
        };
        self.places.insert(place.to_owned(), (now, seconds));
    }
}
