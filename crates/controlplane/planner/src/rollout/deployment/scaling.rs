//! Sizes of ReplicaSets when the Deployment itself is resized: in proportion, while a rollout is under way.

use std::cmp::Reverse;

use super::revision::{DESIRED, MAX};
use super::{Notice, Set, Work};
use crate::pods;

impl<'a> Work<'a> {
    /// Sets the size of one ReplicaSet and notes on it what the Deployment wanted at that time.
    pub(super) fn resize(&mut self, name: &str, size: i32) {
        let (desired, most) = (self.replicas(), self.most());
        let Some(set) = self.all_mut().find(|s| s.name() == name) else { return };
        let before = std::mem::replace(&mut set.replicas, size);
        set.annotate(DESIRED, &desired.to_string());
        set.annotate(MAX, &most.to_string());
        if before != size {
            let way = if size > before { "up" } else { "down" };
            let text = format!("Scaled {way} replica set {name} from {before} to {size}");
            self.plan.notices.push(Notice::normal("ScalingReplicaSet", text));
        }
    }

    /// Whether the Deployment was resized since its ReplicaSets were last looked at.
    pub(super) fn is_scaling_event(&self) -> bool {
        let noted = |s: &Set<'_>| s.annotation(DESIRED).and_then(|d| d.parse::<i32>().ok());
        self.all().filter(|s| s.replicas > 0).filter_map(noted).any(|desired| desired != self.replicas())
    }

    /// Resizes: the only active ReplicaSet gets all; a finished rollout takes the old ones down; in the middle of
    /// a rollout each gets its share.
    pub(super) fn scale(&mut self) {
        let active: Vec<&str> = self.all().filter(|s| s.replicas > 0).map(Set::name).collect();
        let only = match active.as_slice() {
            [] => self.new.as_ref().or(self.old.last()).map(|s| s.name().to_owned()),
            [only] => Some((*only).to_owned()),
            _ => None,
        };
        if let Some(only) = only {
            let size = self.all().find(|s| s.name() == only).map(|s| s.replicas);
            if size != Some(self.replicas()) {
                self.resize(&only, self.replicas());
            }
        } else if active.is_empty() {
            // There is no ReplicaSet yet.
        } else if self.saturated() {
            let old: Vec<String> =
                self.old.iter().filter(|s| s.replicas > 0).map(|s| s.name().to_owned()).collect();
            old.iter().for_each(|name| self.resize(name, 0));
        } else if !self.recreates() {
            self.scale_in_proportion();
        }
    }

    /// Whether the new ReplicaSet has all that the Deployment wants, available.
    fn saturated(&self) -> bool {
        let desired = self.replicas();
        self.new.as_ref().is_some_and(|new| {
            let noted = new.annotation(DESIRED).and_then(|d| d.parse().ok());
            noted == Some(desired) && new.replicas == desired && new.available() == desired
        })
    }

    fn scale_in_proportion(&mut self) {
        let desired = self.replicas();
        let allowed = if desired > 0 { self.most() } else { 0 };
        let mut active: Vec<&Set<'a>> = self.all().filter(|s| s.replicas > 0).collect();
        let to_add = allowed.saturating_sub(active.iter().map(|s| s.replicas).fold(0, i32::saturating_add));
        // The largest first; among equals the newer grows first and the older shrinks first.
        if to_add > 0 {
            active.sort_by_key(|s| (Reverse(s.replicas), Reverse(pods::created(&s.object.metadata))));
        } else {
            active.sort_by_key(|s| (Reverse(s.replicas), pods::created(&s.object.metadata)));
        }
        let mut added = 0;
        let mut sizes: Vec<(String, i32)> = Vec::with_capacity(active.len());
        for set in active {
            let share = if to_add == 0 { 0 } else { self.share(set, to_add, added) };
            added += share;
            sizes.push((set.name().to_owned(), set.replicas + share));
        }
        if let Some((_, first)) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        sizes.iter().for_each(|(name, size)| self.resize(name, *size));
    }

    /// The part of `to_add` that falls to one ReplicaSet by its size, within what is left.
    fn share(&self, set: &Set<'_>, to_add: i32, added: i32) -> i32 {
        let left = to_add - added;
        if left == 0 {
            return 0;
        }
        let fraction = self.fraction(set);
        if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
    }

    fn fraction(&self, set: &Set<'_>) -> i32 {
        if self.replicas() == 0 {
            return -set.replicas;
        }
        let noted = set.annotation(MAX).and_then(|m| m.parse::<i32>().ok()).filter(|m| *m > 0);
        let before = noted.unwrap_or_else(|| {
            self.deployment.status.as_ref().and_then(|s| s.replicas).filter(|r| *r > 0).unwrap_or(1)
        });
        let most = f64::from(self.most());
        (f64::from(set.replicas) * most / f64::from(before)).round() as i32 - set.replicas
    }
}
