//! Events tell what happens; who tells more than anybody can read is told to wait, so that the store holds the rest too.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use sampan_api::status::Status;

use super::{Operation, Review};
use crate::{call::text, core::Core};

/// Events that a source may write at once.
const BURST: f64 = 2000.0;
/// Events a second that it may go on with.
const RATE: f64 = 200.0;
/// Sources that are told apart; beyond it those that have been quiet longest are forgotten.
const SOURCES: usize = 4096;

/// What each source may still write.
#[derive(Default)]
pub(crate) struct Buckets(Mutex<HashMap<String, (f64, Instant)>>);

impl Buckets {
    /// Takes one from the source's bucket, unless it is empty.
    fn take(&self, source: String, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SOURCES && !buckets.contains_key(&source) {
            let mut ages: Vec<Instant> = buckets.values().map(|(_, at)| *at).collect();
            ages.sort_unstable();
            let median = ages[ages.len() / 2];
            buckets.retain(|_, (_, at)| *at > median);
        }
        let (left, at) = buckets.entry(source).or_insert((BURST, now));
        *left = (*left + now.duration_since(*at).as_secs_f64() * RATE).min(BURST);
        *at = now;
        let enough = *left >= 1.0;
        if enough {
            *left -= 1.0;
        }
        enough
    }
}

/// 429 for a source that writes too many.
pub(crate) fn limit(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    let Some(state) = core.admission.get().filter(|_| {
        matches!(review.operation, Operation::Create | Operation::Update) && review.subresource.is_empty()
    }) else {
        return Ok(());
    };
    let event = &review.object;
    let component = [text(event, "/source/component"), text(event, "/reportingController")];
    let component = component.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    let host = text(event, "/source/host");
    let source = format!("{}\n{component}\n{host}", review.call.user.name);
    if state.events.take(source, Instant::now()) {
        return Ok(());
    }
    let why = format!("limit reached on type Source for key {component}/{host}");
    Err(Status::too_many_requests(why, 1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_one_source_leaves_others_alone() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        let taken = (0..3000).filter(|_| buckets.take("a".to_owned(), now)).count();
        assert_eq!(taken, 2000);
        assert!(buckets.take("b".to_owned(), now));
        assert!(buckets.take("a".to_owned(), now + Duration::from_millis(10)));
        for source in 0..10_000 {
            assert!(buckets.take(source.to_string(), now));
        }
        assert!(buckets.0.lock().unwrap().len() <= SOURCES);
    }
}
