//! One port's endpoints, in numbered slots.

use std::{collections::HashSet, net::SocketAddrV4};

use crate::nft::{Batch, rules};

/// An endpoint in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where it is.
    pub endpoint: SocketAddrV4,
    /// Never used twice in a backend.
    pub id: u32,
}

/// The endpoints behind one port.
pub struct Backend {
    /// Its number, never used twice.
    pub id: u32,
    /// Who it belongs to.
    pub owner: String,
    /// Seconds a client stays with its endpoint; 0 for no affinity.
    pub affinity: u32,
    /// The endpoints.
    pub slots: Vec<Slot>,
    last: u32,
}

impl Backend {
    /// A backend without endpoints.
    pub fn new(id: u32, owner: &str, affinity: u32) -> Self {
        Self { id, owner: owner.to_owned(), affinity, slots: Vec::new(), last: 0 }
    }

    /// Change to these endpoints and return those that are gone. Who stays keeps its slot, so that the difference is
    /// as small as the change; a hole is filled by a new endpoint, or by the last one.
    pub fn replace(&mut self, endpoints: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
        let mut wanted: HashSet<SocketAddrV4> = endpoints.iter().copied().collect();
        let mut gone = Vec::new();
        let stay: Vec<bool> = self.slots.iter().map(|slot| wanted.remove(&slot.endpoint)).collect();
        // In the order given, so that the same input makes the same table.
        let mut fresh =
            endpoints.iter().copied().filter(|endpoint| wanted.remove(endpoint)).collect::<Vec<_>>();
        fresh.reverse();
        for at in (0..stay.len()).rev().filter(|at| !stay[*at]) {
            gone.push(self.slots[at].endpoint);
            match fresh.pop() {
                Some(endpoint) => self.slots[at] = self.fresh(endpoint),
                // From the back, so whoever moves in here stays.
                None => drop(self.slots.swap_remove(at)),
            }
        }
        while let Some(endpoint) = fresh.pop() {
            let slot = self.fresh(endpoint);
            self.slots.push(slot);
        }
        gone
    }

    fn fresh(&mut self, endpoint: SocketAddrV4) -> Slot {
        self.last += 1;
        Slot { endpoint, id: self.last }
    }

    /// Bring the backend's own chains from the slots it had (none at all when it is `fresh`) to what it has.
    /// Backends without affinity have none.
    pub fn put(&self, batch: &mut Batch, fresh: bool, before: &[Slot]) {
        if self.affinity == 0 || (before == self.slots && !fresh) {
            return;
        }
        for slot in self.slots.iter().filter(|slot| !before.contains(slot)) {
            rules::add_sticky_endpoint(batch, self.id, slot.id, slot.endpoint, self.affinity);
        }
        let ids: Vec<u32> = self.slots.iter().map(|slot| slot.id).collect();
        rules::sticky(batch, self.id, fresh, before.len(), &ids);
        for slot in before.iter().filter(|slot| !self.slots.contains(slot)) {
            rules::remove_sticky_endpoint(batch, self.id, slot.id);
        }
    }

    /// Remove the backend's own chains, made for these slots. The way there is gone by now.
    pub fn remove(&self, batch: &mut Batch, before: &[Slot]) {
        if self.affinity > 0 {
            rules::remove_sticky(batch, self.id);
            for slot in before {
                rules::remove_sticky_endpoint(batch, self.id, slot.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(hosts: &[u8]) -> Vec<SocketAddrV4> {
        hosts.iter().map(|&host| SocketAddrV4::new([10, 0, 0, host].into(), 80)).collect()
    }

    #[test]
    fn who_stays_keeps_its_slot_unless_it_fills_a_hole() {
        let mut backend = Backend::new(7, "s:x", 0);
        let steps: [(&[u8], usize); 8] = [
            (&[1, 2, 3], 3),
            (&[1, 2, 3], 0),
            (&[1, 3], 2),
            (&[3, 1, 4], 1),
            (&[9, 1, 4], 1),
            (&[], 3),
            (&[5, 5], 1),
            (&[1, 2, 3, 4, 5, 6], 5),
        ];
        for (hosts, changes) in steps {
            let before = backend.slots.clone();
            backend.replace(&endpoints(hosts));
            let most = before.len().max(backend.slots.len());
            let changed = (0..most).filter(|at| before.get(*at) != backend.slots.get(*at)).count();
            assert_eq!(changed, changes, "{hosts:?}");
            let mut distinct = endpoints(hosts);
            distinct.sort_unstable();
            distinct.dedup();
            let mut has: Vec<_> = backend.slots.iter().map(|slot| slot.endpoint).collect();
            has.sort_unstable();
            assert_eq!(has, distinct);
        }
    }
}
