//! What a controller has done and not yet seen in its cache, so that it is not done twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use sampan_planner::pods;
use tokio::time::Instant;

use crate::informer::{Change, Key};

/// After this long the cache is believed whatever was expected.
const PATIENCE: Duration = Duration::from_secs(300);

/// Creations and deletions under way, per owner.
#[derive(Debug, Default)]
pub(crate) struct Expectations(Mutex<HashMap<Key, Expected>>);

#[derive(Debug)]
struct Expected {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what is about to happen; nothing else may be expected at that time.
    pub fn expect(&self, owner: &Key, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected =
            Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.lock().insert(owner.clone(), expected);
    }

    /// A creation was seen, or did not happen.
    pub fn created(&self, owner: &Key) {
        if let Some(expected) = self.lock().get_mut(owner) {
            expected.creations = expected.creations.saturating_sub(1);
        }
    }

    /// A deletion was seen, or did not happen.
    pub fn deleted(&self, owner: &Key, uid: &str) {
        if let Some(expected) = self.lock().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// Counts what happened to a pod of the owner. One that is on its way out is as good as deleted.
    pub fn observe(&self, owner: &Key, change: &Change<'_, Pod>) {
        let uid = pods::uid(&change.object().metadata);
        match change {
            Change::Added(_) => self.created(owner),
            Change::Deleted(_) => self.deleted(owner, uid),
            Change::Updated { .. } => {}
        }
        if pods::terminating(change.object()) {
            self.deleted(owner, uid);
        }
    }

    /// Whether all that was expected was seen, or waited for long enough.
    pub fn met(&self, owner: &Key) -> bool {
        self.lock()
            .get(owner)
            .is_none_or(|e| (e.creations == 0 && e.deletions.is_empty()) || e.since.elapsed() > PATIENCE)
    }

    /// Forgets an owner that is gone.
    pub fn forget(&self, owner: &Key) {
        self.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_both_and_gives_up_in_the_end() {
        let (expectations, owner) = (Expectations::default(), Key::new("ns", "rs"));
        assert!(expectations.met(&owner));
        expectations.expect(&owner, 2, ["u".to_owned()]);
        expectations.created(&owner);
        expectations.deleted(&owner, "u");
        assert!(!expectations.met(&owner));
        expectations.created(&owner);
        assert!(expectations.met(&owner));
        expectations.expect(&owner, 1, []);
        if let Some(expected) = expectations.lock().get_mut(&owner) {
            expected.since = Instant::now().checked_sub(PATIENCE + Duration::from_secs(1)).unwrap();
        }
        assert!(expectations.met(&owner));
    }
}
