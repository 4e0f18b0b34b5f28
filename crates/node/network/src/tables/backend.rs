//! One port's endpoints, in numbered slots.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddrV4,
};

use super::pair;
use crate::nft::{Batch, Data, rules::machine};

/// Elements to remove from and to put into a map with 8 byte keys.
#[derive(Default)]
pub struct Edit<const D: usize> {
    remove: Vec<[u8; 8]>,
    add: Vec<([u8; 8], [u8; D])>,
}

impl<const D: usize> Edit<D> {
    /// Append to a transaction. Removals come first: a slot is changed by removing and adding it.
    pub fn put(&self, batch: &mut Batch, map: &str) {
        batch.delete_elements(map, self.remove.iter().map(|key| key.as_slice()));
        batch.add_elements(map, self.add.iter().map(|(key, data)| (key.as_slice(), Data::Value(data))));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    endpoint: SocketAddrV4,
    /// Never used twice in a backend, so that a client's memory of an endpoint that is gone leads nowhere.
    id: u32,
}

/// The endpoints behind one port.
pub struct Backend {
    id: u32,
    /// Who it belongs to.
    pub owner: String,
    /// Seconds a client stays with its endpoint; 0 for no affinity.
    pub affinity: u32,
    slots: Vec<Slot>,
    last: u32,
}

impl Backend {
    /// A backend without endpoints.
    pub fn new(id: u32, owner: &str, affinity: u32) -> Self {
        Self { id, owner: owner.to_owned(), affinity, slots: Vec::new(), last: 0 }
    }

    /// How many endpoints.
    pub fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Change to these endpoints and return those that are gone. Who stays keeps its slot, so that the difference is
    /// as small as the change; a hole is filled by a new endpoint, or by the last one.
    pub fn replace(
        &mut self,
        endpoints: &[SocketAddrV4],
        map: &mut Edit<8>,
        slots: &mut Edit<4>,
    ) -> Vec<SocketAddrV4> {
        let before = self.slots.clone();
        let mut wanted: HashSet<SocketAddrV4> = endpoints.iter().copied().collect();
        let mut gone = Vec::new();
        let stay: Vec<bool> = before.iter().map(|slot| wanted.remove(&slot.endpoint)).collect();
        // In the order given, so that the same input makes the same table.
        let mut fresh =
            endpoints.iter().copied().filter(|endpoint| wanted.remove(endpoint)).collect::<Vec<_>>();
        fresh.reverse();
        for (at, slot) in before.iter().enumerate().rev() {
            if stay[at] {
                continue;
            }
            gone.push(slot.endpoint);
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
        self.edit(&before, map, slots);
        gone
    }

    /// Everything, for a new table.
    pub fn all(&self, map: &mut Edit<8>, slots: &mut Edit<4>) {
        self.edit(&[], map, slots);
    }

    fn fresh(&mut self, endpoint: SocketAddrV4) -> Slot {
        self.last += 1;
        Slot { endpoint, id: self.last }
    }

    fn edit(&self, before: &[Slot], map: &mut Edit<8>, slots: &mut Edit<4>) {
        for at in 0..before.len().max(self.slots.len()) {
            let (old, new) = (before.get(at), self.slots.get(at));
            if old == new {
                continue;
            }
            let key = self.key(u32::try_from(at).unwrap_or(u32::MAX));
            if self.affinity > 0 {
                slots.remove.extend(old.map(|_| key));
                slots.add.extend(new.map(|slot| (key, machine(slot.id))));
            } else {
                map.remove.extend(old.map(|_| key));
                map.add.extend(new.map(|slot| (key, target(slot.endpoint))));
            }
        }
        if self.affinity > 0 {
            let old: HashMap<u32, SocketAddrV4> =
                before.iter().map(|slot| (slot.id, slot.endpoint)).collect();
            let new: HashMap<u32, SocketAddrV4> =
                self.slots.iter().map(|slot| (slot.id, slot.endpoint)).collect();
            map.remove.extend(old.keys().filter(|id| !new.contains_key(id)).map(|id| self.key(*id)));
            let added = new.iter().filter(|(id, _)| !old.contains_key(id));
            map.add.extend(added.map(|(id, endpoint)| (self.key(*id), target(*endpoint))));
        }
    }

    fn key(&self, slot: u32) -> [u8; 8] {
        pair(machine(self.id), machine(slot))
    }
}

fn target(endpoint: SocketAddrV4) -> [u8; 8] {
    let mut data = [0; 8];
    data[..4].copy_from_slice(&endpoint.ip().octets());
    data[4..6].copy_from_slice(&endpoint.port().to_be_bytes());
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(hosts: &[u8]) -> Vec<SocketAddrV4> {
        hosts.iter().map(|&host| SocketAddrV4::new([10, 0, 0, host].into(), 80)).collect()
    }

    /// Change and check that edits applied to a model of the kernel's maps give exactly the new state.
    #[test]
    fn edits_are_small_and_lead_to_the_new_state() {
        for affinity in [0, 60] {
            let mut backend = Backend::new(7, "s:x", affinity);
            let mut kernel: HashMap<[u8; 8], [u8; 8]> = HashMap::new();
            let mut kernel_slots: HashMap<[u8; 8], [u8; 4]> = HashMap::new();
            let steps: [(&[u8], usize); 8] = [
                (&[1, 2, 3], 3),
                (&[1, 2, 3], 0),
                (&[1, 3], 3),
                (&[3, 1, 4], 1),
                (&[9, 1, 4], 2),
                (&[], 3),
                (&[5, 5], 1),
                (&[1, 2, 3, 4, 5, 6], 5),
            ];
            for (hosts, most) in steps {
                let (mut map, mut slots) = (Edit::default(), Edit::default());
                backend.replace(&endpoints(hosts), &mut map, &mut slots);
                let edits = map.remove.len() + map.add.len();
                assert!(edits <= most, "{hosts:?}: {edits}");
                for key in &map.remove {
                    assert!(kernel.remove(key).is_some());
                }
                for (key, data) in &map.add {
                    assert!(kernel.insert(*key, *data).is_none());
                }
                for key in &slots.remove {
                    assert!(kernel_slots.remove(key).is_some());
                }
                for (key, data) in &slots.add {
                    assert!(kernel_slots.insert(*key, *data).is_none());
                }
                let mut distinct: Vec<_> = endpoints(hosts).into_iter().map(target).collect();
                distinct.sort_unstable();
                distinct.dedup();
                let mut reached: Vec<_> = (0..backend.count())
                    .map(|at| {
                        let key = backend.key(at);
                        let id = kernel_slots.get(&key).map(|id| backend.key(u32::from_ne_bytes(*id)));
                        kernel[&id.unwrap_or(key)]
                    })
                    .collect();
                reached.sort_unstable();
                assert_eq!(reached, distinct, "every endpoint has one slot");
                assert_eq!(kernel.len(), distinct.len());
            }
        }
    }
}
