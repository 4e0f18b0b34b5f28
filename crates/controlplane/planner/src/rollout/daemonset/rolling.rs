//! The rolling update of a DaemonSet: old pods go first within maxUnavailable, or new ones come first within
//! maxSurge. It is only asked when every node has what it should have.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Here, Work};
use crate::pods;
use crate::rollout::resolve;

/// The pods of one node by revision; an error when there are more than one of either.
fn by_revision<'a>(work: &Work<'_, 'a>, here: &Here<'a>) -> Result<(Option<&'a Pod>, Option<&'a Pod>), ()> {
    let (mut new, mut old) = (None, None);
    for pod in here.pods.iter().copied().filter(|pod| !pods::terminating(pod)) {
        let slot = if work.is_current(pod) { &mut new } else { &mut old };
        if slot.replace(pod).is_some() {
            return Err(());
        }
    }
    Ok((new, old))
}

fn amount(count: i32) -> usize {
    usize::try_from(count).unwrap_or(0)
}

impl<'a> Work<'_, 'a> {
    fn is_rolling(&self) -> bool {
        let strategy = self.input.set.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    /// How many nodes may have two pods, and how many none.
    pub(super) fn bounds(&self) -> (i32, i32) {
        if !self.is_rolling() {
            return (0, 0);
        }
        let strategy = self.input.set.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let desired = self.plan.status.desired_number_scheduled;
        let none = IntOrString::Int(0);
        let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), desired, true, &none);
        let default = IntOrString::Int(i32::from(surge == 0));
        let missing = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), desired, true, &default);
        if desired > 0 && surge <= 0 && missing <= 0 { (0, 1) } else { (surge.max(0), missing.max(0)) }
    }

    pub(super) fn roll(&mut self) {
        if !self.is_rolling() {
            return;
        }
        match self.bounds() {
            (0, missing) => self.replace(missing),
            (surge, _) => self.surge(surge),
        }
    }

    /// Deletes old pods: those that are not available at once, the others as far as enough are left.
    fn replace(&mut self, most: i32) {
        let mut unavailable = 0;
        let (mut ill, mut candidates) = (Vec::new(), Vec::new());
        for (_, here) in self.counted() {
            match by_revision(self, here) {
                Err(()) | Ok((None, None) | (Some(_), Some(_))) => unavailable += 1,
                Ok((Some(new), None)) => unavailable += i32::from(!self.available(new)),
                Ok((None, Some(old))) if !self.available(old) => {
                    ill.push(old);
                    unavailable += 1;
                }
                Ok((None, Some(old))) => candidates.push(old),
            }
        }
        candidates.truncate(amount(most - unavailable));
        self.plan.delete.extend(ill.into_iter().chain(candidates));
    }

    /// Creates new pods beside old ones. An old one goes once its successor is available; where none may run any
    /// more, once enough others are.
    fn surge(&mut self, most: i32) {
        let (mut surging, mut available) = (0, 0);
        let (mut done, mut leaving) = (Vec::new(), Vec::new());
        let (mut at_once, mut candidates) = (Vec::new(), Vec::new());
        for (node, here) in self.counted() {
            let Ok((new, old)) = by_revision(self, here) else {
                surging += 1;
                continue;
            };
            available += i32::from(old.or(new).is_some_and(|pod| self.available(pod)));
            match (new, old) {
                (_, None) => {}
                (Some(new), Some(old)) if self.available(new) => done.push(old),
                (Some(_), Some(_)) => surging += 1,
                (None, Some(old)) => match (self.available(old), here.run) {
                    (false, false) => done.push(old),
                    (false, true) => at_once.push(node.to_owned()),
                    (true, false) => leaving.push(old),
                    (true, true) => candidates.push(node.to_owned()),
                },
            }
        }
        leaving.truncate(amount(available - self.plan.status.desired_number_scheduled));
        candidates.truncate(amount(most - surging));
        self.plan.delete.extend(done.into_iter().chain(leaving));
        self.plan.create.extend(at_once.into_iter().chain(candidates));
    }
}
