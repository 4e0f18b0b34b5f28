//! The rolling update: grow the new within maxSurge, shrink the old within maxUnavailable.

use super::{Set, Work};

impl<'a> Work<'a> {
    pub(super) fn roll(&mut self) {
        self.sync_revision(true);
        if self.grow_new() || self.shrink_old() {
            return;
        }
        if self.complete() {
            self.clean_history();
        }
    }

    /// How large the new ReplicaSet may be now.
    pub(super) fn new_size(&self, current: i32) -> i32 {
        let desired = self.replicas();
        if self.recreates() {
            return desired;
        }
        let room = self.most().saturating_sub(self.total());
        if room <= 0 { current } else { current + room.min(desired - current) }
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = &self.new else { return false };
        let (name, current, desired) = (new.name().to_owned(), new.replicas, self.replicas());
        let size = if current > desired { desired } else { self.new_size(current) };
        if size != current {
            self.resize(&name, size);
        }
        size != current
    }

    fn shrink_old(&mut self) -> bool {
        if self.old.iter().all(|s| s.replicas == 0) {
            return false;
        }
        let min_available = self.replicas() - self.max_unavailable();
        let new_missing = match (&self.new, &self.plan.create) {
            (Some(new), _) => new.replicas - new.available(),
            (None, Some(created)) => super::spec_replicas(created),
            (None, None) => 0,
        };
        let most = self.total().saturating_sub(min_available).saturating_sub(new_missing);
        if most <= 0 {
            return false;
        }
        let unhealthy = self.drop_unhealthy(most);
        let healthy = self.drop_healthy(min_available);
        unhealthy + healthy > 0
    }

    /// Replicas of old ReplicaSets that are not available go first: nobody misses them.
    fn drop_unhealthy(&mut self, most: i32) -> i32 {
        let spare = |s: &Set<'a>| s.replicas - s.available();
        self.take_from_old(most, spare)
    }

    fn drop_healthy(&mut self, min_available: i32) -> i32 {
        let available = self.sum(Set::available);
        self.take_from_old(available - min_available, |s| s.replicas)
    }

    /// Takes up to `budget` replicas from the old ReplicaSets, the oldest first, from each what `spare` says.
    fn take_from_old(&mut self, budget: i32, spare: impl Fn(&Set<'a>) -> i32) -> i32 {
        let mut taken = 0;
        let mut sizes = Vec::new();
        for set in self.old.iter().filter(|s| s.replicas > 0) {
            let part = spare(set).min(set.replicas).min(budget - taken);
            if part > 0 {
                taken += part;
                sizes.push((set.name().to_owned(), set.replicas - part));
            }
        }
        sizes.iter().for_each(|(name, size)| self.resize(name, *size));
        taken
    }
}
